/*
 * The kernel's own virtio data paths, vhost-net and vhost-vsock: it works on the guest's rings itself, woken by the guest's
 * kicks and interrupting by an eventfd. (Linux, include/uapi/linux/vhost.h, which only vhost.c includes.)
 *
 * Whoever uses this has set up a device's queues: it hands them over with vhost_ring_start() and takes them back with
 * vhost_ring_stop(), which tells how far the kernel has come. Calls come from one thread at a time and may wait for the
 * kernel's worker.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

struct vhost;

/* Guest memory as the kernel shall see it: guest-physical address, bytes, and where it is mapped here. */
struct vhost_mem {
	uint64_t gpa, size;
	void *hva;
};

/* A split virtqueue. Addresses are this process's. */
struct vhost_ring {
	uint16_t size;
	uint16_t base; /* the next available index to take */
	const void *desc, *avail;
	void *used;
	uint64_t used_gpa;    /* for the dirty log */
	int kick_fd, call_fd; /* eventfds; the caller's */
};

/* Opens /dev/vhost-net, or /dev/vhost-vsock. -EOPNOTSUPP with what to do about it when the host has none; `who` is named
 * in messages. */
int vhost_net_open(const char *who, struct vhost **ret, struct error *err);
int vhost_vsock_open(const char *who, struct vhost **ret, struct error *err);
void vhost_close(struct vhost *vhost); /* stops what runs; NULL is fine */

/* Virtio feature bits that the kernel can do. */
uint64_t vhost_features(const struct vhost *vhost);
/* What was negotiated; bits that are no business of the kernel's are masked out here. Before rings are started. */
int vhost_set_features(struct vhost *vhost, uint64_t features);
int vhost_set_mem(struct vhost *vhost, const struct vhost_mem *mem, size_t n);

int vhost_ring_start(struct vhost *vhost, unsigned index, const struct vhost_ring *ring);
/* The kernel is done with the ring: everything that it had taken has been given back. *ret_base: see vhost_ring. */
int vhost_ring_stop(struct vhost *vhost, unsigned index, uint16_t *ret_base);

/* The tap that queue `index` (0 receives, 1 transmits) moves frames of; -1: none, the queue stands still. */
int vhost_net_attach(struct vhost *vhost, unsigned index, int tap_fd);

/* The guest's address on the vsock. -EADDRINUSE when another machine has it. */
int vhost_vsock_set_cid(struct vhost *vhost, uint64_t cid);
/* On: the rings were started. Off: the kernel has let go of them. */
int vhost_vsock_run(struct vhost *vhost, bool on);

/* Dirty tracking of what the kernel writes: one bit a 4 KiB page of guest-physical address space, in `bitmap`, which covers
 * `bytes` * 8 pages and stays until the log is off. The kernel sets bits atomically and never clears any; the caller fetches
 * with atomic exchanges. Effective for started rings at once. NULL: off. -EOPNOTSUPP when this kernel cannot. */
int vhost_set_log(struct vhost *vhost, uint64_t *bitmap, size_t bytes);
