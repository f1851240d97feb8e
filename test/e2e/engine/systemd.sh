# Run by sh as the first process of a machine, after machine.sh and in a cgroup namespace, with the machine's directory.
# It becomes systemd, which finds what a container has (systemd.io/CONTAINER_INTERFACE): /sys and /proc/sys that cannot be
# written, so that nothing of the host's kernel is set, a /dev of its own, and a whole tree of cgroups of version 2.
set -eu
[ $$ -eq 1 ] # it halts process 1 in the end
dir=$1
exec 3<&0 # what runs in the background has another standard input
mount --bind "$dir/bin" /usr/local/bin
mount -t cgroup2 cgroup /sys/fs/cgroup
mount -o remount,bind,ro /sys
mount --bind /proc/sys /proc/sys
mount -o remount,bind,ro /proc/sys
mount -t tmpfs -o mode=0755,nosuid dev /dev
for node in null:3 zero:5 full:7 random:8 urandom:9; do
    mknod -m 666 "/dev/${node%:*}" c 1 "${node#*:}"
done
mknod -m 666 /dev/tty c 5 0
ln -s pts/ptmx /dev/ptmx
# What has no unit does not run: of the host's there are those that every boot goes through, and the services that are
# tested. Nothing is generated from /etc/fstab, and what is enabled on the host is not here.
units=/lib/systemd/system
mkdir -p "$dir/units/sysinit.target.wants"
for unit in sysinit.target basic.target multi-user.target sockets.target local-fs.target network.target slices.target \
    paths.target timers.target shutdown.target umount.target final.target halt.target systemd-halt.service \
    systemd-journald.service systemd-journald.socket containerd.service docker.service docker.socket; do
    cp "$units/$unit" "$dir/units"
done
ln -sf ../systemd-journald.service "$dir/units/sysinit.target.wants"
mount -t tmpfs generators "$units-generators"
mount --bind "$dir/units" "$units"
mount --bind "$dir/systemd" /etc/systemd
cat >/etc/systemd/system.conf <<'EOC'
[Manager]
DefaultTimeoutStopSec=4s
EOC
cat >/etc/systemd/journald.conf <<'EOC'
[Journal]
Storage=volatile
Audit=no
EOC
# Without one this would be the first boot, at which systemd enables what Debian says.
echo 73747261746173747261746173747261 >/etc/machine-id
(
    tries=0
    until state=$(systemctl is-system-running 2>&1) || [ "$state" = degraded ]; do
        tries=$((tries + 1))
        [ $tries -le 600 ] || break
        sleep 0.1
    done
    case $state in
    running | degraded) echo ready ;;
    *) echo "systemd does not come up: $state" ;;
    esac
    # The end of standard input is the end of the machine.
    read -r _ || :
    kill -s RTMIN+3 1
) <&3 &
export container=strata
exec /lib/systemd/systemd --unit=multi-user.target </dev/null >/dev/null 3<&-
