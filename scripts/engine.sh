# shellcheck shell=bash
# engine.sh - a private Docker engine for the other scripts. Sourced, never run:
#
#   set -euo pipefail
#   cd "$(dirname "$0")/.."
#   . scripts/engine.sh
#   if ! engine_isolated; then
#       engine_install docker.io=/usr/sbin/dockerd
#       engine_isolate "$@"            runs the script again inside, waits, cleans up
#       exit
#   fi
#   dir=$ENGINE_SCRATCH/engine
#   engine_start "$dir" --storage-driver vfs
#   engine_docker "$dir" info
#   engine_stop "$dir"
#
# Inside, the script is the first process of its own pid namespace and has a mount table of its
# own: whatever it leaves running or mounted ends with it, however it ends. /tmp, /var/tmp,
# /run/docker, /run/containerd, /etc/docker and, unless ENGINE_LIB=keep, /var/lib are its own and
# empty there, as on a fresh machine.
#
# An engine is known by its directory alone: DIR/data is its data root, DIR/exec its exec root,
# DIR/docker.sock its socket, DIR/dockerd.pid its pid, DIR/dockerd.log its log, DIR/containerd its
# containerd. It has no network, reads no configuration of the machine and shares no process with
# the machine's own engine.

# Debian's own binaries, by path: the names may lead to something else in PATH.
ENGINE_DOCKERD=${ENGINE_DOCKERD:-/usr/sbin/dockerd}
ENGINE_CONTAINERD=${ENGINE_CONTAINERD:-/usr/bin/containerd}
ENGINE_DOCKER=${ENGINE_DOCKER:-/usr/bin/docker}

# engine_say TEXT... prints one line of progress.
engine_say() {
    printf '==> %s\n' "$*"
}

# engine_die TEXT... ends the script with a message.
engine_die() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
    exit 1
}

# engine_usage prints the comment at the top of the calling script.
engine_usage() {
    awk 'NR == 1 { next } /^#/ { sub(/^# ?/, ""); print; next } { exit }' "$0"
}

# engine_help ARGS... prints the usage and ends the script if that is what the arguments ask for.
engine_help() {
    case ${1:-} in
    -h | --help)
        engine_usage
        exit 0
        ;;
    esac
}

# engine_misuse TEXT... tells how the calling script is used, and ends it.
engine_misuse() {
    printf '%s: %s\n\n' "${0##*/}" "$*" >&2
    engine_usage >&2
    exit 2
}

# engine_need_root ends the script unless it runs as root.
engine_need_root() {
    [ "$(id -u)" -eq 0 ] || engine_die "needs root (mounts, and a Docker engine of its own)"
}

# engine_install PACKAGE=FILE... installs each Debian package whose FILE is missing.
engine_install() {
    local pair missing=()
    for pair in "$@"; do
        [ -e "${pair#*=}" ] || missing+=("${pair%%=*}")
    done
    [ ${#missing[@]} -eq 0 ] && return 0
    engine_need_root
    command -v apt-get >/dev/null || engine_die "missing, and no apt-get to install them: ${missing[*]}"
    engine_say "installing ${missing[*]}"
    apt-get update -q >/dev/null
    DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=600 install -q -y --no-install-recommends "${missing[@]}" </dev/null >/dev/null
}

# engine_isolated tells whether the script runs inside.
engine_isolated() {
    # Process 1 that was told so; a script that one inside calls is not.
    [ $$ -eq 1 ] && [ -n "${ENGINE_SCRATCH:-}" ]
}

# engine_isolate ARGS... runs the calling script again, inside, with ARGS. ENGINE_SCRATCH is a
# directory for it that is deleted when it has ended; then its exit status is returned. SIGINT and
# SIGTERM end it as well.
engine_isolate() {
    local child status=0
    engine_need_root
    ENGINE_SCRATCH=$(mktemp -d /var/tmp/strata-script.XXXXXX)
    export ENGINE_SCRATCH
    # Slave: what the machine unmounts goes away inside as well, if its mounts are shared, as under
    # systemd. unshare blocks SIGTERM, and so does process 1 of a namespace; but when unshare is
    # killed, so are process 1 and with it all inside.
    # shellcheck disable=SC2016 # expanded inside
    unshare --mount --propagation slave --pid --fork --kill-child --mount-proc \
        bash -euc '. scripts/engine.sh; engine_enter; unset ENGINE_LIB; exec "$0" "$@"' "$0" "$@" &
    child=$!
    # shellcheck disable=SC2064 # the child of now
    trap "kill -KILL $child 2>/dev/null || true" INT TERM HUP
    wait "$child" || status=$?
    trap '' INT TERM HUP # whoever is impatient must not leave half of it
    engine_discard "$ENGINE_SCRATCH"
    trap - INT TERM HUP
    return "$status"
}

# engine_enter makes the mount table of a script inside. It is shared within itself, which plugin
# mounts need, and separate from the machine's.
engine_enter() {
    local place
    # Places where dockerd looks whatever its arguments say.
    for place in /run/docker /run/containerd /etc/docker; do
        mkdir -p "$place"
        mount -t tmpfs -o mode=0755 engine "$place"
    done
    [ "${ENGINE_LIB:-}" = keep ] || mount -t tmpfs -o mode=0755 engine /var/lib
    for place in /tmp /var/tmp; do
        engine_release "$place"
        engine_replace "$place" 1777
    done
    mount --make-rshared /
}

# engine_release DIR unmounts, here only, what others have mounted below DIR: a mount table that
# outlives theirs would keep their disks busy.
engine_release() {
    local mountpoint
    while read -r mountpoint; do
        mountpoint=$(printf '%b' "$mountpoint") # blanks are escaped
        case $PWD/ in
        "$mountpoint"/*) ;;
        *) umount --lazy "$mountpoint" 2>/dev/null || true ;; # may have gone with the one above
        esac
    done < <(awk -v dir="$1/" 'index($5, dir) == 1 { print $5 }' /proc/self/mountinfo | tac)
}

# engine_replace DIR MODE mounts an empty directory, from the scratch directory, over DIR. The
# scratch directory and the source tree keep their paths even if they lie below.
engine_replace() {
    local own=$ENGINE_SCRATCH/root$1 keep
    mkdir -p "$own"
    chmod "$2" "$own"
    for keep in "$ENGINE_SCRATCH" "$PWD"; do
        case $keep in
        "$1"/*)
            mkdir -p "$own${keep#"$1"}"
            mount --bind "$keep" "$own${keep#"$1"}"
            ;;
        esac
    done
    mount --rbind "$own" "$1"
}

# engine_discard DIR deletes a scratch directory and its control groups. Their users are dead, or
# killed and still dying.
engine_discard() {
    local deadline=$((SECONDS + 20))
    until engine_discarded "$1"; do
        [ "$SECONDS" -lt "$deadline" ] || engine_die "cannot delete all of $1 and its control groups"
        sleep 0.2
    done
}

# engine_discarded DIR tries to delete them once.
engine_discarded() {
    local group
    # With cgroup v1 there is a tree a controller, with v2 a single one.
    for group in /sys/fs/cgroup/"${1##*/}" /sys/fs/cgroup/*/"${1##*/}"; do
        [ ! -d "$group" ] || find "$group" -depth -type d -exec rmdir {} + 2>/dev/null || return 1
    done
    rm -rf --one-file-system "$1" 2>/dev/null
}

# engine_start DIR DOCKERD-ARGS... starts an engine, or one that was stopped again.
engine_start() {
    local dir=$1
    shift
    mkdir -p "$dir/exec" "$dir/containerd"
    engine_start_containerd "$dir"
    printf '{}\n' >"$dir/daemon.json"
    PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    DOCKERD_DEPRECATED_GRAPHDRIVER_PLUGINS=1 \
        "$ENGINE_DOCKERD" \
        --config-file "$dir/daemon.json" \
        --data-root "$dir/data" --exec-root "$dir/exec" \
        --pidfile "$dir/dockerd.pid" --host "unix://$dir/docker.sock" \
        --containerd "$dir/containerd/containerd.sock" \
        --bridge=none --iptables=false --ip6tables=false \
        --exec-opt native.cgroupdriver=cgroupfs --cgroup-parent "/${ENGINE_SCRATCH##*/}" \
        "$@" </dev/null >>"$dir/dockerd.log" 2>&1 &
    engine_await "$dir" "$!"
}

# engine_start_containerd DIR starts the engine's containerd unless it runs.
engine_start_containerd() {
    local dir=$1 try
    if engine_alive "$dir/containerd.pid"; then
        return 0
    fi
    cat >"$dir/containerd.toml" <<-TOML
	version = 2
	root = "$dir/containerd/root"
	state = "$dir/containerd/state"
	disabled_plugins = ["io.containerd.grpc.v1.cri"]
	[grpc]
	  address = "$dir/containerd/containerd.sock"
	TOML
    PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
        "$ENGINE_CONTAINERD" --config "$dir/containerd.toml" </dev/null >>"$dir/containerd.log" 2>&1 &
    echo "$!" >"$dir/containerd.pid"
    for try in $(seq 100); do
        [ -S "$dir/containerd/containerd.sock" ] && return 0
        engine_alive "$dir/containerd.pid" || break
        sleep 0.1
    done
    tail -n 20 "$dir/containerd.log" >&2
    engine_die "containerd does not answer after try $try, see above"
}

# engine_await DIR PID waits until the dockerd with that pid answers.
engine_await() {
    local dir=$1 pid=$2 deadline=$((SECONDS + 90))
    while [ "$SECONDS" -lt "$deadline" ]; do
        if ! kill -0 "$pid" 2>/dev/null; then
            break
        fi
        if engine_docker "$dir" version >/dev/null 2>&1; then
            return 0
        fi
        sleep 0.2
    done
    grep -vF '[core]' "$dir/dockerd.log" | tail -n 30 >&2
    engine_die "dockerd does not answer, its last words are above"
}

# engine_docker DIR ARGS... is the docker client, talking to that engine.
engine_docker() {
    local dir=$1
    shift
    mkdir -p "$dir/client"
    DOCKER_BUILDKIT=${DOCKER_BUILDKIT:-0} "$ENGINE_DOCKER" --config "$dir/client" --host "unix://$dir/docker.sock" "$@"
}

# engine_alive PIDFILE tells whether the process in that file runs.
engine_alive() {
    [ -s "$1" ] && kill -0 "$(cat "$1")" 2>/dev/null
}

# engine_end PIDFILE SECONDS ends the process in that file: asks, waits, then kills.
engine_end() {
    local pid deadline=$((SECONDS + $2))
    engine_alive "$1" || return 0
    pid=$(cat "$1")
    kill -TERM "$pid" 2>/dev/null || return 0
    while kill -0 "$pid" 2>/dev/null; do
        if [ "$SECONDS" -ge "$deadline" ]; then
            kill -KILL "$pid" 2>/dev/null || return 0
        fi
        sleep 0.1
    done
}

# engine_stop DIR stops the engine in the orderly way, and its containerd.
engine_stop() {
    engine_end "$1/dockerd.pid" 40
    engine_end "$1/containerd.pid" 15
}
