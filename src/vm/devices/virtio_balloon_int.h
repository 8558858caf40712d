/*
 * Shared by the two files of the virtio balloon. Private.
 */
#pragma once

#include "vm/devices/virtio_balloon.h"
#include "vm/virtio/virtio.h"

#define BALLOON_QUEUE_SIZE 128
#define BALLOON_PAGE_BYTES 4096u /* whatever the guest's and the host's pages are; section 5.5.6 */
/* Requests taken in one go, before others on the loop get their turn. */
#define BALLOON_BATCH 16

/* Feature bits, section 5.5.3. */
#define BALLOON_F_STATS_VQ       1
#define BALLOON_F_DEFLATE_ON_OOM 2
#define BALLOON_F_PAGE_POISON    4
#define BALLOON_F_REPORTING      5

struct virtio_balloon {
	struct virtio vdev;
	struct loop_timer poll_timer;
	struct loop_msg poll_msg; /* arms it */

	/* [dev.lock] */
	uint32_t num_pages; /* the target, as configuration space shows it */
	uint32_t actual;    /* as the driver wrote it */
	uint32_t poison;    /* what free pages of the guest contain */
	unsigned poll_seconds;
	uint64_t stats[VIRTIO_BALLOON_STATS];
	uint64_t stats_time_ns;
};

/* The queues' work. On the loop, no lock held; each takes BALLOON_BATCH requests at most. */
void balloon_inflate(struct virtio_balloon *bal, struct virtio_queue *queue);
void balloon_deflate(struct virtio_balloon *bal, struct virtio_queue *queue);
void balloon_report(struct virtio_balloon *bal, struct virtio_queue *queue);
void balloon_stats_take(struct virtio_balloon *bal, struct virtio_queue *queue);
/* Gives the statistics buffer back, which asks for new ones. */
void balloon_stats_ask(struct virtio_balloon *bal, struct virtio_queue *queue);
/* No statistics are known. dev.lock held. */
void balloon_stats_forget(struct virtio_balloon *bal);
