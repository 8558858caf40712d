#!/bin/busybox sh
# shellcheck shell=dash
# SPDX-License-Identifier: GPL-2.0-or-later
# Process 1 of the lab host: mounts what a host has, loads the drivers that tests need, starts the agent, and
# collects orphans. What is loaded here is part of the snapshot and costs a run nothing.

export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 TERM=dumb
mkdir -p /dev/pts /dev/shm /dev/hugepages
mount -t devpts -o ptmxmode=666,gid=5,mode=620 devpts /dev/pts
mount -t tmpfs -o mode=1777 shm /dev/shm
mount -t hugetlbfs hugetlbfs /dev/hugepages
mount -t tmpfs -o mode=755 run /run
mount -t tmpfs -o mode=1777 tmp /tmp
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t securityfs securityfs /sys/kernel/security
mount -t debugfs debugfs /sys/kernel/debug
mount -t tracefs tracefs /sys/kernel/tracing
mount -t bpf bpf /sys/fs/bpf
ln -sf /proc/self/fd /dev/fd
ln -sf /proc/self/fd/0 /dev/stdin
ln -sf /proc/self/fd/1 /dev/stdout
ln -sf /proc/self/fd/2 /dev/stderr
hostname lab
ip link set lo up
echo 1 >/proc/sys/net/ipv4/ip_forward
mkdir -p /run/lock /var/run

# One by one: a module that is missing must not keep the others out.
for m in kvm-amd virtio_net vhost_net vhost_vsock vhost_scsi vsock_loopback tun macvtap bridge 8021q veth nf_tables \
	nft_chain_nat nft_masq nft_ct nft_compat vfio-pci vfio_iommu_type1 dm-crypt loop nbd zram ext4; do
	modprobe "$m" || echo "rc: $m does not load"
done
chmod 666 /dev/kvm /dev/vhost-net /dev/vhost-vsock /dev/net/tun

python3 -I /lab/agent.py &
wait # for the agent; orphans of the command are collected on the way
echo "rc: the agent has ended"
busybox poweroff -f
