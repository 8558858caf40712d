# SPDX-License-Identifier: GPL-2.0-or-later
# What turns a bare Debian root into the disk "root-small": sourced by the build with $1 = the root's folder.
# Root has no password and is logged in on ttyS0 and hvc0; every Ethernet card asks for an address.

set -eu
echo vireo-guest >"$1/etc/hostname"
printf '127.0.0.1 localhost vireo-guest\n::1 localhost\n' >"$1/etc/hosts"
echo '/dev/vda / ext4 rw,relatime 0 1' >"$1/etc/fstab"
: >"$1/etc/machine-id"
chroot "$1" passwd -q -d root

mkdir -p "$1/etc/systemd/network"
cat >"$1/etc/systemd/network/80-dhcp.network" <<'X'
[Match]
Type=ether

[Network]
DHCP=yes

[DHCPv4]
ClientIdentifier=mac
X
chroot "$1" systemctl --quiet enable systemd-networkd systemd-resolved
# The boot is not held up by a guest that has no network.
chroot "$1" systemctl --quiet disable systemd-networkd-wait-online
ln -sf /run/systemd/resolve/resolv.conf "$1/etc/resolv.conf"

mkdir -p "$1/etc/systemd/system/serial-getty@.service.d"
cat >"$1/etc/systemd/system/serial-getty@.service.d/autologin.conf" <<'X'
[Service]
ExecStart=
ExecStart=-/sbin/agetty --autologin root --keep-baud 115200 %I linux
X
# By udev, not by a fixed wish: a console that is absent would hold up the boot for 90 seconds.
cat >"$1/etc/udev/rules.d/90-console.rules" <<'X'
SUBSYSTEM=="tty", KERNEL=="hvc0|ttyS0", ENV{SYSTEMD_WANTS}+="serial-getty@%k.service"
X
# Work that a machine which lives for seconds does not need.
chroot "$1" systemctl --quiet mask apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer \
	e2scrub_all.timer fstrim.timer systemd-tmpfiles-clean.timer
# What apt used to make this disk is no part of it.
rm -rf "$1"/var/lib/apt/lists/* "$1"/var/cache/apt/* "$1"/var/cache/debconf/*-old "$1"/usr/lib/udev/hwdb.d
