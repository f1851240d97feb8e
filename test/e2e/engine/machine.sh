# Run by sh as a child of the init of a new mount and PID namespace, with the machine's directory,
# what is to be laid over /usr and the file system of /var/lib's image, both perhaps empty. With
# zfs that image is a pool, named like the directory; with root it is an ext4 file system that is the machine's root. The fourth argument is empty if there is to be no containerd. The
# fifth is empty, or the script that goes on where systemd is to be the init, in the cgroup that the last names; then the
# first process runs this.
set -eu
dir=$1 usr=$2 fs=$3 containerd=$4 systemd=$5 cgroup=$6
mount --make-rprivate /
if [ "$fs" = root ]; then
    # The host's other directories are bound into an ext4 file system, which becomes the root.
    mkdir "$dir/root"
    mount -o loop "$dir/lib.img" "$dir/root"
    for path in /*; do
        case $path in
        /lost+found) continue ;;
        /etc) cp -a /etc "$dir/root" ;;
        /proc | /run | /var) mkdir "$dir/root$path" ;;
        *)
            if [ -d "$path" ] && ! [ -L "$path" ]; then
                mkdir "$dir/root$path"
                mount --rbind "$path" "$dir/root$path"
            else
                cp -a "$path" "$dir/root$path"
            fi
            ;;
        esac
    done
    mkdir -p "$dir/root/var/lib" "$dir/root/var/tmp" "$dir/root/old"
    ln -s ../run "$dir/root/var/run"
    mount --bind /var/tmp "$dir/root/var/tmp"
    cd "$dir/root"
    pivot_root . old
    mount -t proc proc /proc # umount reads it
    umount -l /old
    cd /
else
    mount -t proc proc /proc
fi
upper=$dir
if [ "$(stat --file-system --format=%T "$dir")" = overlayfs ]; then
    # Where the root is an overlay, as in the guest of scripts/vm, it cannot take what another one writes.
    upper=$dir/memory
    mkdir "$upper"
    mount -t tmpfs memory "$upper"
    cp -a "$dir/etc" "$dir/etcwork" "$upper"
fi
if [ "$fs" = root ]; then
    cp -a "$dir/etc" /
else
    mount -t overlay -o "lowerdir=/etc,upperdir=$upper/etc,workdir=$upper/etcwork" etc /etc
    mount --bind "$dir/run" /run
fi
case $fs in
root) ;;
'') mount --bind "$dir/lib" /var/lib ;;
zfs)
    zpool create -o cachefile=none -m legacy "${dir##*/}" "$dir/lib.img"
    mount -t zfs "${dir##*/}" /var/lib
    ;;
*-quota) mount -o loop,prjquota "$dir/lib.img" /var/lib ;;
*) mount -o loop "$dir/lib.img" /var/lib ;;
esac
[ -z "$usr" ] || mount -t overlay -o "lowerdir=$usr:/usr" usr /usr
mount --make-rshared /
if [ -n "$systemd" ]; then
    hierarchy=/sys/fs/cgroup
    [ -e "$hierarchy/cgroup.procs" ] || hierarchy=$hierarchy/unified # beside version 1
    mkdir -p "$hierarchy$cgroup"
    echo $$ >"$hierarchy$cgroup/cgroup.procs"
    exec unshare --cgroup sh -c "$systemd" machine "$dir"
fi
# As Debian has it: a service of its own. One that dockerd starts itself is killed and started again
# whenever it does not answer within half a second, three times in a row; a busy machine is that slow.
if [ -n "$containerd" ]; then
    cat >/etc/containerd-machine.toml <<'EOC'
version = 2
disabled_plugins = ["io.containerd.grpc.v1.cri"]
EOC
    cat "$dir/containerd.toml" >>/etc/containerd-machine.toml
    containerd --config /etc/containerd-machine.toml --log-level warn >"$dir/containerd.log" 2>&1 &
    tries=0
    while ! [ -S /run/containerd/containerd.sock ]; do
        tries=$((tries + 1))
        if [ $tries -gt 600 ] || ! kill -0 $!; then
            cat "$dir/containerd.log" >&2
            exit 1
        fi
        sleep 0.05
    done
fi
echo ready
# The end of standard input is the end of the machine.
read -r _ || :
