# Run by sh as a child of the init of a new mount and PID namespace, with the machine's directory,
# what is to be laid over /usr and the file system of /var/lib's image, both perhaps empty.
set -eu
dir=$1 usr=$2 fs=$3
mount --make-rprivate /
mount -t proc proc /proc
mount -t overlay -o "lowerdir=/etc,upperdir=$dir/etc,workdir=$dir/etcwork" etc /etc
mount --bind "$dir/run" /run
if [ -n "$fs" ]; then
    mount -o loop "$dir/lib.img" /var/lib
else
    mount --bind "$dir/lib" /var/lib
fi
[ -z "$usr" ] || mount -t overlay -o "lowerdir=$usr:/usr" usr /usr
mount --make-rshared /
# As Debian has it: a service of its own. One that dockerd starts itself is killed and started again
# whenever it does not answer within half a second, three times in a row; a busy machine is that slow.
cat >/etc/containerd-machine.toml <<'EOC'
version = 2
disabled_plugins = ["io.containerd.grpc.v1.cri"]
EOC
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
echo ready
# The end of standard input is the end of the machine.
read -r _ || :
