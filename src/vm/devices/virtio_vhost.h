/*
 * A virtio queue in the kernel's hands: what devices that use vhost have in common. Everything runs on the queue's loop.
 *
 * While a ring is started the guest's kicks go to the kernel and its interrupts come from there; the queue's fields in
 * struct vq stand still, and tell the truth again when the ring was stopped.
 */
#pragma once

#include "vm/net/vhost.h"
#include "vm/virtio/virtio.h"

struct virtio_vhost_ring {
	struct virtio *vdev;
	struct virtio_queue *queue;
	struct vhost *vhost;
	unsigned index; /* of the ring in `vhost` */
	struct loop_fd
		call_src; /* our own eventfd, for interrupts that we relay; fd -1 before init */
	bool started;
};

/* ring: any contents; fini is harmless after a failure, and on one with call_src.fd at -1. */
int virtio_vhost_ring_init(struct virtio_vhost_ring *ring, struct virtio *vdev, unsigned queue,
			   struct vhost *vhost, unsigned index);
void virtio_vhost_ring_fini(struct virtio_vhost_ring *ring);

int virtio_vhost_ring_start(struct virtio_vhost_ring *ring);
/* Harmless when it was not started. The device has made the kernel stand still before, where there is a call for that. */
void virtio_vhost_ring_stop(struct virtio_vhost_ring *ring);

/* Shows the guest's memory to the kernel. */
int virtio_vhost_set_mem(struct vhost *vhost, const struct gmem *mem);
/* Takes out of what the device offers what its rings cannot do in the kernel. -EOPNOTSUPP when VIRTIO 1 is among that. */
int virtio_vhost_limit(struct virtio *vdev, const struct vhost *vhost, uint64_t device_features,
		       struct error *err);
