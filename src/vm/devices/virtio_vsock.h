/*
 * A virtio socket device: streams between the guest and the host's AF_VSOCK, moved by the kernel's vhost-vsock. (VIRTIO
 * 1.2, section 5.10.)
 *
 * Threads: made and freed on the main thread; belongs to env->loop.
 */
#pragma once

#include "vm/bus/device.h"

#define VIRTIO_VSOCK_MIN_CID 3
#define VIRTIO_VSOCK_MAX_CID 0xfffffffeU

struct virtio_vsock_config {
	const char *id;
	uint32_t cid; /* the guest's address, VIRTIO_VSOCK_MIN_CID to _MAX_CID */
	int slot;     /* on the PCI bus; -1: next free */
};

/* -EOPNOTSUPP when the host has no vhost-vsock, -EADDRINUSE when another machine has the address. */
int virtio_vsock_new(const struct device_env *env, const struct virtio_vsock_config *config,
		     struct device **ret, struct error *err);
