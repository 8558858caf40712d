/*
 * A virtqueue, split or packed (VIRTIO 1.2, sections 2.7 and 2.8). Together with virtio_pci.c this is the only code that
 * touches a ring. The driver is hostile and rewrites rings while they are read: every value is copied once and checked.
 *
 * Threads: a queue is worked on by one loop under its lock; registers of vCPU threads change it under the same lock.
 */
#pragma once

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "base/state.h"
#include "vm/mem/gmem.h"

#define VQ_MAX_SIZE 1024 /* entries */
#define VQ_MAX_SEGS 1024 /* descriptors in one request, indirect ones included */

#define VQ_NO_VECTOR 0xffff /* no MSI-X vector */

/* Why a queue is held; the transport's business. vq_reset() ends the first and the last. */
#define VQ_HELD_RESET  1 /* the driver resets the device or this queue */
#define VQ_HELD_PAUSED 2
#define VQ_HELD_MASTER 4 /* the function may not use memory: bus mastering is off */
#define VQ_HELD_BROKEN 8 /* another queue, or the device, was misused */

struct vq {
	pthread_mutex_t lock;
	struct gmem *mem; /* [const] */

	/* [lock] As the driver programmed it. */
	uint16_t max_size; /* what the device offers, a power of two for split rings */
	uint16_t size;
	bool enabled;
	uint64_t desc, avail, used; /* packed: descriptor ring, driver area, device area */
	uint16_t msix_vector;       /* 0xffff: none */

	/* [lock] Negotiated. */
	bool packed, event_idx, indirect;

	/* [lock] Progress. */
	uint16_t next_avail, next_used; /* packed: index in bits 14:0, wrap counter in bit 15 */
	uint16_t signalled_used;        /* next_used when the driver was last interrupted */
	bool signalled_valid;
	bool notify_off; /* the device asked the driver not to kick */
	uint8_t held; /* VQ_HELD_*: nothing is taken while any is set; what is in flight may be given back */
	bool broken; /* the driver broke the protocol; nothing is taken any more until reset */
	const char *broken_why; /* a constant string; set with broken */

	/* [lock] Requests taken and not yet given back. */
	uint32_t in_flight;

	uint16_t avail_seen;  /* [lock] split: the driver's index when it was last read */
	uint16_t batch_slots; /* [lock] packed: ring slots of the requests delayed so far */
	uint16_t batch_flags; /* [lock] packed: flags that make the first of them visible */

	/* Host addresses of the rings, found when the queue is enabled; NULL while it is not. */
	void *desc_hva, *avail_hva, *used_hva;
};

/* One request: what the driver made readable, then what it made writable. Filled by vq_pop; the iovecs point into
 * guest memory. `iov` is the caller's storage and must stay until vq_push. */
struct vq_req {
	struct iovec *iov; /* [n_out readable][n_in writable] */
	uint32_t max_iov;  /* capacity of iov; a longer chain breaks the queue */
	uint32_t n_out, n_in;
	uint64_t out_bytes, in_bytes; /* sums, at most 4 GiB each */
	uint16_t id;                  /* split: head index; packed: buffer id */
	uint16_t n_descs;             /* ring slots used (packed) */
};

extern const struct state_table vq_state_table;

void vq_init(struct vq *vq, struct gmem *mem, uint16_t max_size);
void vq_fini(struct vq *vq);
void vq_reset(struct vq *vq); /* lock held */

/* Everything below with vq->lock held.
 *
 * A handler of kicks: take the lock, vq_kicks_off(), vq_pop() until there is none (or a bound), vq_push() what is done,
 * virtio_signal() once, and go round again when vq_kicks_on() says so. */

/* Checks addresses, alignment and size, maps the rings and starts at their beginning. -EINVAL and broken when they are not
 * in RAM. */
int vq_enable(struct vq *vq);

/* Takes the next request. 1: taken; 0: none, or the queue is off, held or broken already; -EINVAL: the driver broke the
 * rules just now and vq->broken is set: call virtio_break() with broken_why, without the lock. */
int vq_pop(struct vq *vq, struct vq_req *req);
/* Takes back the last vq_pop of a request on which nothing has been done (split and packed). */
void vq_unpop(struct vq *vq, const struct vq_req *req);
/* Gives a request back; the first `written` bytes of its writable part were filled. They are marked dirty here, through
 * req->iov, so the writable iovecs must be as vq_pop left them: a device that trims them works on a copy. */
void vq_push(struct vq *vq, const struct vq_req *req, uint32_t written);
/* As vq_push for several requests that become visible together (mergeable receive buffers): all but the last with
 * vq_push_delayed, then vq_push_flush. n: how many were delayed. */
void vq_push_delayed(struct vq *vq, const struct vq_req *req, uint32_t written, unsigned n);
void vq_push_flush(struct vq *vq, unsigned n);
/* Does the driver want an interrupt for what was pushed since the last call? Call once after a batch. */
bool vq_should_signal(struct vq *vq);
/* Kicks on or off. vq_kicks_on() returns true when requests arrived meanwhile: go round again. */
bool vq_kicks_on(struct vq *vq);
void vq_kicks_off(struct vq *vq);
/* Is there a request to take? Does not break the queue. */
bool vq_pending(struct vq *vq);
