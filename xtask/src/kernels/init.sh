#!/bin/busybox sh
# shellcheck shell=dash
# The first process of a guest of `cargo xtask kernels`: it runs the steps that /fairlead/steps lists, and says
# on the console how they went, on lines that begin with `@@`. The last one is `@@ done`.
#
# A line of /fairlead/steps is `NAME SECONDS COMMAND…`. /fairlead/modules lists what to load first, and
# /fairlead/environment holds assignments for all steps.

export PATH=/usr/sbin:/usr/bin:/sbin:/bin:/busybox HOME=/root TERM=dumb

/bin/busybox mkdir -p /proc /sys /dev /run /tmp /root /busybox /var /etc
/bin/busybox --install -s /busybox

mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/shm /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /run
# The tree is where it is on the machine that built it, and may be beneath /tmp: nothing may hide it.
[ -n "$(ls -A /tmp)" ] || mount -t tmpfs tmpfs /tmp
mount -t bpf bpf /sys/fs/bpf
mount -t cgroup2 cgroup2 /sys/fs/cgroup
# Namespaces that are made later are seen everywhere, as on a machine with systemd.
mount --make-rshared /
[ -e /var/run ] || ln -s /run /var/run
[ -e /etc/mtab ] || ln -s /proc/self/mounts /etc/mtab

# The kernel's own words would tear ours apart; a panic is told all the same.
dmesg -n 1

# What the kernel asks for by itself: kinds of links, protocols, algorithms.
which modprobe > /proc/sys/kernel/modprobe

uptime() {
	cut -d ' ' -f 1 /proc/uptime
}

# On a line of its own, whatever stands before it.
say() {
	printf '\n@@ %s\n' "$*"
}

while read -r module; do
	modprobe -q "$module" || say "lacks $module"
done < /fairlead/modules

ip link set lo up
hostname guest

# shellcheck source=/dev/null
. /fairlead/environment

say "booted $(uname -r) $(uname -m) $(nproc) $(uptime)"

while read -r name seconds command; do
	say "begin $name"
	before=$(uptime)
	{
		timeout -s KILL "$seconds" sh -c "$command" < /dev/null 2>&1
		echo $? > /run/code
	} | awk '{ print "@@ | " $0; fflush() }'
	code=$(cat /run/code)
	say "end $name $code $(echo "$before $(uptime)" | awk '{ print $2 - $1 }')"
	if [ "$code" -ne 0 ]; then
		dmesg -r | grep '^<[0-4]>' | tail -n 20 | awk '{ print "@@ k " $0 }'
	fi
done < /fairlead/steps

say 'done'
poweroff -f
