#!/bin/sh
# shellcheck disable=SC3043 # busybox sh has local
# SPDX-License-Identifier: GPL-2.0-or-later
# The init of a test guest's initial RAM disk. The kernel command line says what it does:
#   vireo.cmd=BASE64   run this shell script, print "VIREO-EXIT:<status>", power off (vireo.reboot=1: reboot)
#   root=DEVICE        mount DEVICE and go on with its init (init=PATH, rw, rootfstype=TYPE, rootflags=OPTIONS)
#   neither            an interactive shell on the console; the machine powers off when it ends

/bin/busybox --install -s /bin
export PATH=/bin HOME=/root
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts && mount -t devpts devpts /dev/pts
while read -r module; do
	insmod "/m/$module" || echo "init: $module does not load"
done </m/order

# A console driver may have come with the modules: only now is /dev/console what the command line says.
exec </dev/console >/dev/console 2>&1

option() { # name [default]
	local word value="${2-}"
	# shellcheck disable=SC2013 # words are wanted
	for word in $(cat /proc/cmdline); do
		case $word in "$1"=*) value=${word#*=} ;; esac
	done
	echo "$value"
}

finish() {
	sync
	[ "$(option vireo.reboot)" = 1 ] && reboot -f
	poweroff -f
	reboot -f # reached where there is no way to power off
}

script=$(option vireo.cmd)
root=$(option root)
if [ -n "$script" ]; then
	ip link set lo up
	echo "$script" | base64 -d >/tmp/cmd
	sh /tmp/cmd
	echo "VIREO-EXIT:$?"
	finish
elif [ -n "$root" ]; then
	tries=100
	while [ ! -b "$root" ] && [ $tries -gt 0 ]; do # devices may still be probing
		usleep 50000
		tries=$((tries - 1))
	done
	mode=ro
	grep -qw rw /proc/cmdline && mode=rw
	flags=$(option rootflags)
	mkdir -p /new
	if mount -o "$mode${flags:+,$flags}" -t "$(option rootfstype ext4)" "$root" /new; then
		init=$(option init /sbin/init) # while /proc is here
		umount /dev/pts
		for d in proc sys dev; do mount --move /$d /new/$d; done
		exec switch_root /new "$init"
	fi
	echo "init: cannot mount $root; a shell instead"
fi
setsid cttyhack sh
finish
