#!/bin/busybox sh
# The first process of a guest (/init). It sets the system up, runs /etc/pybpfload/command, and tells
# the host about it through virtio ports (see machine.py for the other end):
#
#   stdout, stderr   what the command writes there, then the contents of /etc/pybpfload/end
#   events           what is written to the pipe $PYBPFLOAD_VM_EVENTS, then the same
#   results          a tar archive of /tmp/results (nothing if it is empty), then the same
#   status           a line "ready", and when all is over a line with the command's exit status
#
# It never ends the machine: the host does that when it has read everything.
# A terminating signal to the command gives its status as in any shell: 128 + signal.

# Of busybox first, before there are links to its programs.
box=/bin/busybox
$box mount -t proc proc /proc
$box mount -t sysfs sysfs /sys
$box mount -t devtmpfs devtmpfs /dev
$box --install -s /usr/bin 2>/dev/null

export PATH=/usr/local/bin:/usr/sbin:/usr/bin HOME=/root LANG=C.UTF-8 TERM=dumb
mkdir -p /dev/pts /dev/shm /dev/virtio-ports
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs /run
mount -t bpf bpf /sys/fs/bpf
mount -t tracefs tracefs /sys/kernel/tracing
mount -t debugfs debugfs /sys/kernel/debug
mount -t securityfs securityfs /sys/kernel/security
mount -t cgroup2 cgroup2 /sys/fs/cgroup
ln -s /proc/self/fd /dev/fd
ln -s /proc/self/fd/0 /dev/stdin
ln -s /proc/self/fd/1 /dev/stdout
ln -s /proc/self/fd/2 /dev/stderr
hostname -F /etc/hostname
ip link set lo up

echo /usr/bin/modprobe >/proc/sys/kernel/modprobe
while read -r module; do
    insmod "$module" || echo "pybpfload: $module does not load"
done </etc/pybpfload/modules

# Ports come up a moment after their driver. No udev is here to name them.
for try in $(seq 200); do
    for port in /sys/class/virtio-ports/*; do
        read -r name <"$port/name" && ln -sf "../${port##*/}" "/dev/virtio-ports/$name"
    done 2>/dev/null
    [ -c /dev/virtio-ports/status ] && [ -c /dev/virtio-ports/results ] && break
    sleep 0.02
done
exec 9>/dev/virtio-ports/status
echo ready >&9

# A port can be opened by one process only, so the command writes to pipes that are copied to the
# ports: /dev/stdout can then be opened again, and processes left behind do no harm.
mkdir -p /run/pybpfload /tmp/results
for name in stdout stderr events; do
    mkfifo "/run/pybpfload/$name"
    cat "/run/pybpfload/$name" >"/dev/virtio-ports/$name" 9>&- &
done
exec 7>/run/pybpfload/stdout 8>/run/pybpfload/stderr 6>/run/pybpfload/events

export PYBPFLOAD_VM_EVENTS=/run/pybpfload/events
setsid sh /etc/pybpfload/command </dev/null >&7 2>&8 6>&- 7>&- 8>&- 9>&-
status=$?

cat /etc/pybpfload/end >&7
cat /etc/pybpfload/end >&8
cat /etc/pybpfload/end >&6
{
    [ -z "$(ls -A /tmp/results)" ] || tar -c -C /tmp/results .
    cat /etc/pybpfload/end
} >/dev/virtio-ports/results
echo "$status" >&9
while :; do sleep 1000; done
