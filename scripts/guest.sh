# shellcheck shell=bash
# guest.sh - makes the guest that scripts/vm runs. Sourced after engine.sh:
#
#   guest_open           sets GUEST to the directory of a guest, made if the cache has none
#
# A guest is Debian's kernel with OpenZFS, whose modules are compiled here from Debian's zfs-dkms.
# GUEST/vmlinux is the kernel, GUEST/initrd what it starts with: busybox and the modules it needs
# to reach this machine's files. GUEST/root is laid over those: all modules that may be wanted,
# and OpenZFS's commands and libraries of the same version.
#
# Packages are unpacked, not installed; those the compilation needs are. The cache is
# $STRATA_CACHE, else $XDG_CACHE_HOME/strata, else ~/.cache/strata. In it a guest is called
# vm/KERNEL+zfs-VERSION+RECIPE. The newest of this recipe is used, without a look at the network;
# delete it to get a newer kernel.

# Both kernel and OpenZFS come from one suite, whatever this machine runs.
GUEST_SUITE=bookworm

# What the kernel needs to reach this machine's files and to answer, in that order.
GUEST_BOOT_MODULES='virtio_pci virtio_console virtio_rng 9pnet_virtio 9p overlay'

# What else may be wanted; the kernel loads them on demand. Modules they need come along.
GUEST_MODULES='zfs virtio_blk loop fuse ext4 xfs btrfs quota_v2 crc32c_generic crc32c_intel'

# guest_cache prints the directory of all guests.
guest_cache() {
    printf '%s/vm\n' "${STRATA_CACHE:-${XDG_CACHE_HOME:-${HOME:?}/.cache}/strata}"
}

# guest_recipe SCRIPT prints what becomes part of a guest's name: a hash of this file without its
# comments.
guest_recipe() {
    grep -v '^ *#' "$1" | sha256sum | cut -c1-12
}

# guest_open sets GUEST. Of several scripts at once one makes the guest, the others wait for it.
guest_open() {
    local cache recipe
    cache=$(guest_cache)
    recipe=$(guest_recipe "${BASH_SOURCE[0]}")
    mkdir -p "$cache"
    exec {GUEST_LOCK}>"$cache/lock"
    flock "$GUEST_LOCK"
    if ! guest_find "$cache" "$recipe"; then
        rm -rf "$cache"/new.* # of scripts that were killed
        guest_make "$cache" "$recipe"
        guest_find "$cache" "$recipe"
    fi
    exec {GUEST_LOCK}>&-
}

# guest_find CACHE RECIPE sets GUEST to the newest guest of that recipe.
guest_find() {
    local found
    found=$(printf '%s\n' "$1"/*+"$2" | sort --version-sort | tail -n 1)
    [ -d "$found" ] || return 1
    # shellcheck disable=SC2034 # for the caller
    GUEST=$found
}

# guest_make CACHE RECIPE adds a guest to the cache.
guest_make() {
    local child status=0
    # perl is for configure, which needs more of it than what is always installed.
    engine_install ca-certificates=/etc/ssl/certs/ca-certificates.crt gcc-12=/usr/bin/gcc-12 \
        libc6-dev=/usr/include/stdio.h make=/usr/bin/make perl=/usr/bin/prove \
        kmod=/sbin/depmod xz-utils=/usr/bin/xz libelf1=/usr/lib/x86_64-linux-gnu/libelf.so.1 >&2
    # A process group of its own, all of which a signal to this script ends.
    set -m
    guest_make_apart "$@" >&2 &
    child=$!
    set +m
    # Once: whoever is impatient must not leave half of it.
    # shellcheck disable=SC2064 # the child of now
    trap "trap '' INT TERM HUP; kill -TERM -- -$child" INT TERM HUP
    wait "$child" || status=$?
    wait "$child" || true
    trap - INT TERM HUP
    [ "$status" -eq 0 ] || exit "$status"
}

# guest_make_apart CACHE RECIPE does so in a temporary directory of the cache.
guest_make_apart() {
    local work kernel version
    work=$(mktemp -d "$1/new.XXXXXX")
    # shellcheck disable=SC2064 # the directory of now
    trap "rm -rf '$work'" EXIT
    trap 'exit 143' TERM
    chmod 755 "$work"
    guest_fetch "$work"
    kernel=$(basename "$work"/tree/boot/vmlinuz-*)
    kernel=${kernel#vmlinuz-}
    version=$(basename "$work"/tree/usr/src/zfs-*)
    guest_compile "$work" "$kernel" "$version"
    guest_collect "$work" "$kernel"
    guest_pack "$work" "$kernel"
    mv -T "$work/guest" "$1/$kernel+$version+$2"
}

# guest_fetch WORK downloads the packages and unpacks them: OpenZFS's commands in WORK/tools, all
# else in WORK/tree.
guest_fetch() {
    local work=$1 kernel common deb
    guest_apt "$work/apt"
    export APT_CONFIG=$work/apt/apt.conf
    engine_say "fetching the guest's kernel and OpenZFS"
    apt-get update -q >/dev/null
    # The package of no version depends on the newest one.
    kernel=$(apt-cache depends linux-image-amd64 | awk '$1 == "Depends:" && /linux-image-/ { print $2; exit }')
    kernel=${kernel#linux-image-}
    common=linux-headers-${kernel%-amd64}-common
    mkdir -p "$work/tree" "$work/tools" "$work/debs"
    (cd "$work/debs" && apt-get download -q "linux-image-$kernel" "linux-headers-$kernel" "$common" \
        "linux-kbuild-${kernel%%.0-*}" zfs-dkms >/dev/null)
    for deb in "$work"/debs/*.deb; do
        dpkg -x "$deb" "$work/tree"
    done
    rm "$work"/debs/*
    (cd "$work/debs" && apt-get download -q zfsutils-linux libzfs4linux libzpool5linux libnvpair3linux libuutil3linux \
        >/dev/null)
    for deb in "$work"/debs/*.deb; do
        dpkg -x "$deb" "$work/tools"
    done
}

# guest_apt DIR makes an apt with nothing installed, the machine's own mirrors and the suite of the
# guest, with contrib, where OpenZFS is.
guest_apt() {
    local dir=$1 site label
    mkdir -p "$dir/sources" "$dir/state/lists/partial" "$dir/cache/archives/partial"
    : >"$dir/state/status"
    while read -r site label; do
        case $label in
        Debian) guest_source "$site" "$GUEST_SUITE" "$GUEST_SUITE-updates" ;;
        Debian-Security) guest_source "$site" "$GUEST_SUITE-security" ;;
        esac
    done < <(guest_mirrors) >"$dir/sources/guest.sources"
    [ -s "$dir/sources/guest.sources" ] || engine_die "apt has no source of Debian's main archive"
    cat >"$dir/apt.conf" <<-CONF
	Dir::Etc::sourcelist "/dev/null";
	Dir::Etc::sourceparts "$dir/sources";
	Dir::State "$dir/state";
	Dir::State::status "$dir/state/status";
	Dir::Cache "$dir/cache";
	APT::Sandbox::User "root";
	CONF
}

# guest_mirrors prints site and label of the machine's sources of Debian's main archive, once each.
guest_mirrors() {
    # shellcheck disable=SC2016 # apt expands it
    local format='$(COMPONENT) $(SITE) $(LABEL)'
    # Labels are known once the lists have been fetched.
    apt-get indextargets --format "$format" | grep -q '^main .* Debian$' || apt-get update -q >/dev/null
    apt-get indextargets --format "$format" | awk '$1 == "main" { print $2, $3 }' | sort -u
}

# guest_source SITE SUITES... prints a source for apt.
guest_source() {
    printf 'Types: deb\nURIs: %s\nSuites: %s\nComponents: main contrib\nSigned-By: %s\n\n' "$1" "${*:2}" \
        /usr/share/keyrings/debian-archive-keyring.gpg
}

# guest_compile WORK KERNEL ZFS compiles OpenZFS for that kernel.
guest_compile() {
    local tree=$1/tree source=$1/tree/usr/src/$3
    engine_say "compiling $3 for $2, which takes minutes"
    # The headers know each other by the path that they would be installed at.
    sed -i "s,/usr/src,$tree/usr/src,g" "$tree/usr/src/linux-headers-$2/Makefile"
    if ! guest_make_modules "$source" "$tree/usr/src/linux-headers-$2" >"$1/log" 2>&1; then
        tail -n 30 "$1/log"
        engine_die "cannot compile $3, see above"
    fi
    mkdir "$tree/lib/modules/$2/extra"
    # One level down are the modules, two levels down what configure tried.
    cp "$source"/module/*/*.ko "$tree/lib/modules/$2/extra/"
    depmod -b "$tree" "$2"
}

# guest_make_modules SOURCE HEADERS runs what the packages would have dkms run.
guest_make_modules() {
    # Without debug information, which nobody looks at.
    local flags=KCFLAGS=-g0
    (cd "$1" && env CC=gcc-12 "$flags" ./configure --with-config=kernel --with-linux="${2%-amd64}-common" --with-linux-obj="$2") &&
        make -C "$1" -s -j"$(nproc)" "$flags"
}

# guest_modules WORK KERNEL NAME... prints the files of these modules and of those they need, each
# after what it needs.
guest_modules() {
    local work=$1 kernel=$2 name
    shift 2
    for name in "$@"; do
        modprobe -d "$work/tree" -S "$kernel" --show-depends "$name"
    done | awk '$1 == "insmod" && !seen[$2]++ { print $2 }'
}

# guest_collect WORK KERNEL makes what is laid over the machine's root.
guest_collect() {
    local work=$1 kernel=$2 usr=$1/guest/root/usr modules place
    modules=$usr/lib/modules/$2
    mkdir -p "$modules" "$work/guest/root/etc/zfs" "$usr/share"
    # shellcheck disable=SC2046,SC2086 # names of modules, without blanks
    cp $(guest_modules "$1" "$2" $GUEST_BOOT_MODULES $GUEST_MODULES) \
        "$work/tree/lib/modules/$kernel"/modules.{builtin,builtin.modinfo,order} "$modules/"
    # This also drops signatures, which would be verified at each boot.
    strip --strip-debug "$modules"/*.ko
    ln -s usr/lib "$work/guest/root/lib" # where depmod looks
    depmod -b "$work/guest/root" "$kernel"
    rm "$work/guest/root/lib"
    # The packages know of no merged /usr, which the machine has.
    for place in bin sbin lib; do
        mkdir -p "$work/tools/$place" "$work/tools/usr/$place" "$usr/$place"
        cp -a "$work/tools/$place/." "$work/tools/usr/$place/." "$usr/$place/"
    done
    cp -a "$work/tools/usr/share/zfs" "$usr/share/"
    cp "$work/log" "$work/guest/log"
}

# guest_pack WORK KERNEL makes kernel and initrd.
guest_pack() {
    local work=$1 image=$1/tree/boot/vmlinuz-$2 initrd=$1/initrd offset path number=10
    mkdir -p "$initrd/bin" "$initrd/modules"
    # Unpacked: qemu loads that as well, and the guest would take seconds to unpack it.
    offset=$(LC_ALL=C grep -obUaP '\xFD7zXZ\x00' "$image" | head -n 1 | cut -d: -f1)
    xz -dc --single-stream < <(tail -c "+$((offset + 1))" "$image") >"$work/guest/vmlinux"
    cp -L /bin/busybox "$initrd/bin/busybox"
    # shellcheck disable=SC2086
    for path in $(guest_modules "$work" "$2" $GUEST_BOOT_MODULES); do
        cp "$work/guest/root/usr/lib/modules/$2/${path##*/}" "$initrd/modules/$((number++))-${path##*/}"
    done
    (cd "$initrd" && find . | busybox cpio -o -H newc 2>/dev/null) >"$work/guest/initrd"
}
