/*
 * A virtio device, for those who write one: feature bits, configuration, queues. The transport (virtio_pci.c) calls the
 * operations; the device calls back with virtio_*(). (VIRTIO 1.2, sections 2 and 4.1.)
 *
 * Life: virtio_init, queues added, virtio_start (puts it on the PCI bus). The driver then sets it up; `activate` tells
 * that DRIVER_OK was set; `kick` arrives on the queue's loop. A driver's reset calls `deactivate`, which may finish
 * later: the status register reads non-zero until virtio_deactivated() is called.
 *
 * Locks: dev.lock for registers, each vq's lock for its ring, then isr_lock, in this order; PCI interrupt locks come after. Queue handlers take the vq's
 * lock only.
 */
#pragma once

#include <stdatomic.h>

#include "vm/bus/pci.h"
#include "vm/virtio/vq.h"

#define VIRTIO_MAX_QUEUES 257

/* Device status, section 2.1. */
#define VIRTIO_STATUS_ACKNOWLEDGE 1
#define VIRTIO_STATUS_DRIVER      2
#define VIRTIO_STATUS_DRIVER_OK   4
#define VIRTIO_STATUS_FEATURES_OK 8
#define VIRTIO_STATUS_NEEDS_RESET 64
#define VIRTIO_STATUS_FAILED      128

/* Feature bits of every device, section 6. */
#define VIRTIO_F_INDIRECT_DESC     28
#define VIRTIO_F_EVENT_IDX         29
#define VIRTIO_F_VERSION_1         32
#define VIRTIO_F_ACCESS_PLATFORM   33
#define VIRTIO_F_RING_PACKED       34
#define VIRTIO_F_IN_ORDER          35
#define VIRTIO_F_NOTIFICATION_DATA 38
#define VIRTIO_F_RING_RESET        40

struct virtio;

struct virtio_ops {
	struct device_ops
		dev; /* reset, pause, resume and free are virtio_device_*() or call them */
	uint16_t
		device_id; /* section 5: 1 net, 2 block, 3 console, 4 entropy, 5 balloon, 19 vsock */
	uint32_t class_code; /* PCI */
	/* Device configuration space; size bytes at offset, inside config_bytes. dev.lock held. */
	void (*config_read)(struct virtio *vdev, unsigned offset, void *buf, unsigned size);
	void (*config_write)(struct virtio *vdev, unsigned offset, const void *buf, unsigned size);
	/* The driver accepted vdev->features (FEATURES_OK); return false to refuse them. Also when a state is loaded, before
	 * what stands after the struct virtio in the device's table. Optional. dev.lock held. */
	bool (*features_set)(struct virtio *vdev);
	/* DRIVER_OK; enabled queues may be used. dev.lock held. Also by resume, after a state load of a running device. */
	void (*activate)(struct virtio *vdev);
	/* Status was written 0 (or the machine resets): stop using queues. Call virtio_deactivated() when nothing is in flight
	 * any more: at once, or later from the device's loop. Also called when the device was not active. Queues give no
	 * requests any more, and take back those in flight. Optional: without it the device is deactivated at once.
	 * dev.lock held. */
	void (*deactivate)(struct virtio *vdev);
	/* The driver kicked queue `index`. On the queue's loop, no lock held. A handler that takes and gives back a request
	 * under one hold of the vq's lock needs no deactivate; one that keeps requests does. */
	void (*kick)(struct virtio *vdev, unsigned index);
	/* Optional; a device that has it offers RING_RESET. The driver resets one queue: stop using it, and call
	 * virtio_queue_reset_done() when nothing of it is in flight, at once or later. dev.lock held. */
	void (*queue_reset)(struct virtio *vdev, unsigned index);
	/* Optional: the driver enabled a queue after DRIVER_OK, that is, after it had reset it. dev.lock held. */
	void (*queue_enable)(struct virtio *vdev, unsigned index);
};

struct virtio_queue {
	struct vq vq;
	struct virtio *vdev;
	unsigned index;
	struct loop *loop;       /* where kicks arrive */
	struct loop_fd kick_src; /* its eventfd, which doorbells and register writes signal */
	int kick_fd;
	bool resetting;         /* [lock] queue_reset is under way */
	bool doorbell_wanted;   /* [lock] it was enabled once */
	bool doorbell;          /* [lock] the machine signals the eventfd itself, for writes to */
	uint64_t doorbell_addr; /* [lock] this address */
};

struct virtio {
	struct pci_device pci; /* first: a virtio device is a PCI device is a device */
	const struct virtio_ops *ops;
	uint64_t offered;      /* [const after start] feature bits the device has */
	uint64_t features;     /* [lock] accepted by the driver */
	uint8_t status;        /* [lock] */
	bool resetting;        /* [lock] deactivate is under way */
	atomic_bool paused;    /* written under lock; kicks are dropped, resume makes new ones */
	atomic_bool live;      /* written under lock; what virtio_active() says */
	bool reactivate;       /* [lock] loaded in mid-life: resume calls activate */
	uint32_t config_bytes; /* of device configuration space */
	uint32_t max_queues;   /* [const] */
	uint32_t n_queues;     /* the same, for the state table */
	struct virtio_queue *queues;
	/* Transport registers, [lock]. */
	uint32_t device_feature_select, driver_feature_select;
	uint64_t driver_features; /* as being written; `features` once FEATURES_OK */
	uint16_t queue_select, config_vector;
	uint8_t config_generation;
	uint64_t notify_base; /* [lock] address of the doorbells while they are decoded, else 0 */
	unsigned access_cap;  /* [const] the PCI configuration access capability */
	pthread_mutex_t isr_lock; /* for the next and the line that follows from it */
	uint8_t isr;
};

/* instance: zeroed, allocated by the caller, whose first member is struct virtio. n_queues queues of queue_size each, all on
 * env->loop (virtio_queue_set_loop changes that before start). features: the device's own bits; the transport adds
 * VERSION_1, RING_PACKED, INDIRECT_DESC, EVENT_IDX (and RING_RESET, see queue_reset). -ENOMEM and the like only; then
 * nothing is left to undo. */
int virtio_init(struct virtio *vdev, const struct virtio_ops *ops, const char *id,
		const struct device_env *env, uint64_t features, unsigned n_queues,
		uint16_t queue_size, uint32_t config_bytes, struct error *err);
void virtio_queue_set_loop(struct virtio *vdev, unsigned index, struct loop *loop);
/* On the PCI bus at slot (< 0: next free). */
int virtio_start(struct virtio *vdev, int slot, struct error *err);
/* Off the bus, queues freed. The device is paused, or was never started. Harmless on a zeroed instance. */
void virtio_fini(struct virtio *vdev);

/* For struct device_ops. A device with in-flight work wraps pause to drain after it: no request is taken any more then.
 * Reset is of a paused device, so its deactivate has nothing to wait for and calls virtio_deactivated() at once. */
void virtio_device_reset(struct device *dev);
void virtio_device_pause(struct device *dev); /* no kick is delivered after it returns */
void virtio_device_resume(
	struct device *dev); /* activates after a state load; kicks every enabled queue */
extern const struct state_table
	virtio_state_table; /* embed as STATE_STRUCT(type, vdev, &virtio_state_table) */

static inline bool virtio_has(const struct virtio *vdev, unsigned feature)
{
	return vdev->features >> feature & 1;
}
/* DRIVER_OK, not resetting, not broken. */
bool virtio_active(const struct virtio *vdev);

/* Interrupts the driver for a queue when it wants that. vq lock held. */
void virtio_signal(struct virtio *vdev, struct virtio_queue *queue);
/* Configuration changed. No vq lock held; takes dev.lock. */
void virtio_config_changed(struct virtio *vdev);
/* As above for callers that hold dev.lock. */
void virtio_config_changed_locked(struct virtio *vdev);
/* The driver broke the protocol: DEVICE_NEEDS_RESET, logged once, queues stop. Any thread, no dev.lock or vq lock held. */
void virtio_break(struct virtio *vdev, const char *why);
/* deactivate has come to its end. dev.lock held. */
void virtio_deactivated(struct virtio *vdev);
/* queue_reset has come to its end. dev.lock held. */
void virtio_queue_reset_done(struct virtio *vdev, unsigned index);
/* Has queue `index` come round again on its loop, as if the driver had kicked it: for handlers that stop at a bound. */
void virtio_queue_rekick(struct virtio *vdev, unsigned index);

/* --- iovec helpers for requests --- */

size_t iov_to_buf(const struct iovec *iov, unsigned n, size_t offset, void *buf, size_t len);
size_t iov_from_buf(const struct iovec *iov, unsigned n, size_t offset, const void *buf,
		    size_t len);
/* Drops `bytes` from the front in place; *iov and *n move. Returns the bytes dropped. */
size_t iov_skip(struct iovec **iov, unsigned *n, size_t bytes);
