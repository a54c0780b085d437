#!/bin/busybox sh
# First process of the lab: file systems, modules, then the agent. When the agent ends, the lab does.
# Nothing is mounted on /tmp or /run: a caller's files may come from there. The root is memory anyway.
b=/bin/busybox
$b mkdir -p /bin /proc /sys /dev /tmp /run /out /etc /root /mnt /usr/bin
$b mount -t proc proc /proc
$b mount -t sysfs sys /sys
$b mount -t devtmpfs dev /dev
$b mkdir -p /dev/pts /dev/shm
$b mount -t devpts devpts /dev/pts
$b mount -t tmpfs tmpfs /dev/shm
$b mount -t debugfs debugfs /sys/kernel/debug
[ -e /dev/fd ] || $b ln -s /proc/self/fd /dev/fd
$b --install -s /bin
while read -r module; do
    $b insmod /lab/modules/$module || echo "lab: insmod $module failed"
done < /lab/modules/list
$b ip link set lo up
if [ -e /lab/network ]; then
    $b ip addr add 10.0.2.15/24 dev eth0
    $b ip link set eth0 up
    $b ip route add default via 10.0.2.2
fi
echo root:x:0:0:root:/root:/bin/sh > /etc/passwd
echo nobody:x:65534:65534:nobody:/:/bin/sh >> /etc/passwd
echo root:x:0: > /etc/group
export PATH=/usr/bin:/usr/sbin:/bin:/sbin HOME=/root TERM=dumb KILN_LAB=inside
cd /root
/lab/agent
$b sync
$b poweroff -f
