/*
 * Between virtio_blk.c (the device: configuration, life, state) and virtio_blk_req.c (its queues and requests).
 */
#pragma once

#include <stdatomic.h>

#include "base/endian.h"
#include "vm/devices/virtio_blk.h"
#include "vm/virtio/virtio.h"

#define BLK_SECTOR_BYTES 512u
#define BLK_SMALL_IOV    10u /* header, eight pieces of data, status */

/* Feature bits, section 5.2.3. */
enum blk_feature {
	BLK_F_SIZE_MAX = 1,
	BLK_F_SEG_MAX = 2,
	BLK_F_RO = 5,
	BLK_F_BLK_SIZE = 6,
	BLK_F_FLUSH = 9,
	BLK_F_TOPOLOGY = 10,
	BLK_F_CONFIG_WCE = 11,
	BLK_F_MQ = 12,
	BLK_F_DISCARD = 13,
	BLK_F_WRITE_ZEROES = 14,
};

/* Longest range of one command, in sectors. Zeroes may have to be written one by one. */
#define BLK_MAX_DISCARD_SECTORS (1u << 21)
#define BLK_MAX_ZEROES_SECTORS  (1u << 17)

/* Why a queue is to become idle. */
#define BLK_STOP_DEVICE 1u /* the driver resets the device */
#define BLK_STOP_QUEUE  2u /* or this queue alone */

struct blk_queue;

struct blk_req {
	struct vq_req vr;
	struct image_req io;
	struct blk_queue *queue;
	struct blk_req *next;
	uint8_t *status;     /* in guest memory: the last writable byte */
	struct iovec *cut;   /* the writable element that was shortened by it */
	struct iovec *large; /* borrowed from the queue when small is too small */
	struct iovec small[BLK_SMALL_IOV];
};

struct blk_stats {
	/* [atomic] One writer, the queue's loop. */
	atomic_uint_fast64_t reads, writes, flushes, discards, errors, read_bytes, written_bytes;
};

/* All [loop] but where it says otherwise. */
struct blk_queue {
	struct virtio_blk *blk;      /* [const] */
	struct virtio_queue *vqueue; /* [const] */
	struct loop *loop;           /* [const] */
	struct image_channel *ch;    /* [const] */
	unsigned max_iov;            /* [const] of a request */

	/* Requests and large iovecs, in memory that costs nothing until it is first used. */
	void *arena;
	size_t arena_bytes;
	struct blk_req *reqs, *free_req;
	unsigned n_reqs, n_fresh; /* how many there are, how many were ever used */
	struct iovec *iovs;
	struct iovec *free_iov; /* linked through the first element's iov_base */
	unsigned n_fresh_iovs;
	struct iovec *scratch; /* where the next request is popped to */

	struct blk_req *ended, **ended_tail; /* not yet given back to the driver */
	unsigned in_flight;                  /* taken and not given back */
	bool starved;                        /* requests wait in the ring for a free struct */
	struct loop_msg stop_msg;
	atomic_uint stopping; /* [atomic] BLK_STOP_*: what waits for an idle queue */
	struct blk_stats stats;
};

struct virtio_blk {
	struct virtio vdev; /* first: it is a virtio device */
	struct image *image;
	struct image_info info;                   /* [const] */
	char serial[VIRTIO_BLK_SERIAL_BYTES + 1]; /* [const] */
	uint8_t wce;                              /* [lock] configuration field writeback */
	bool paused;                              /* [main] */
	atomic_bool stable;  /* [atomic] every write is made stable before it completes */
	unsigned n_stopping; /* [lock] queues that a reset still waits for */
	unsigned n_queues;   /* [const] */
	struct blk_queue *queues;
};

/* Main thread. The channel is opened here. */
int blk_queue_open(struct virtio_blk *blk, unsigned index, struct error *err);
void blk_queue_close(struct blk_queue *q); /* idle; harmless when it was never opened */
/* On the queue's loop: takes what the driver offers. */
void blk_queue_run(struct blk_queue *q);
/* On the queue's loop: returns with nothing in flight. */
void blk_queue_drain(struct blk_queue *q);
/* Calls blk_queue_stopped() with this reason on the queue's loop, once nothing is in flight. Any thread. */
void blk_queue_stop(struct blk_queue *q, unsigned reason);
/* virtio_blk.c. No lock held. */
void blk_queue_stopped(struct blk_queue *q, unsigned reasons);
