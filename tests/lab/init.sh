#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# The init of the lab host's initial RAM disk: a read-only image below, a RAM disk above, then rc.sh as process 1.

/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
while read -r module; do
	insmod "/m/$module"
done </m/order
mkdir -p /lower /upper /new
mount -t erofs -o ro /dev/vda /lower || exec sh
mount -t tmpfs -o size=80% upper /upper
mkdir -p /upper/upper /upper/work
mount -t overlay -o lowerdir=/lower,upperdir=/upper/upper,workdir=/upper/work overlay /new
mkdir -p /new/lab
cp /lab/rc.sh /lab/agent.py /new/lab/
for d in proc sys dev; do mount --move /$d /new/$d; done
exec switch_root /new /lab/rc.sh
