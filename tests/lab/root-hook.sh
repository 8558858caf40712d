# SPDX-License-Identifier: GPL-2.0-or-later
# What turns a Debian root into the lab host's file system image: sourced by the build with $1 = the root's folder.

set -eu
for v in "$1"/lib/modules/*; do
	for d in sound drivers/gpu drivers/media drivers/staging drivers/infiniband drivers/iio drivers/net/wireless \
		drivers/net/can drivers/hwmon drivers/isdn drivers/comedi drivers/usb net/wireless net/mac80211 net/bluetooth \
		drivers/bluetooth drivers/mtd drivers/power drivers/platform; do
		rm -rf "$v/kernel/$d"
	done
	chroot "$1" depmod "${v##*/}"
done
echo lab >"$1/etc/hostname"
printf '127.0.0.1 localhost lab\n::1 localhost\n' >"$1/etc/hosts"
mkdir -p "$1/run" "$1/tmp" "$1/var/tmp" "$1/dev/shm"
rm -rf "$1"/var/lib/apt/lists/* "$1"/var/cache/apt/*
