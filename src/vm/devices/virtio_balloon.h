/*
 * A virtio balloon: takes memory from the guest and gives it back, hears of pages that the guest has free, and asks for
 * statistics. (VIRTIO 1.2, section 5.5.)
 */
#pragma once

#include "vm/bus/device.h"

struct virtio_balloon_config {
	const char *id;
	int slot;            /* on the PCI bus; < 0: the next free */
	bool deflate_on_oom; /* the guest may take pages back by itself rather than kill a process */
	bool free_page_reporting;
};

int virtio_balloon_new(const struct device_env *env, const struct virtio_balloon_config *config,
		       struct device **ret, struct error *err);

/* Tags of section 5.5.6.4, and how many are known. */
enum virtio_balloon_stat {
	VIRTIO_BALLOON_STAT_SWAP_IN,
	VIRTIO_BALLOON_STAT_SWAP_OUT,
	VIRTIO_BALLOON_STAT_MAJOR_FAULTS,
	VIRTIO_BALLOON_STAT_MINOR_FAULTS,
	VIRTIO_BALLOON_STAT_FREE_BYTES,
	VIRTIO_BALLOON_STAT_TOTAL_BYTES,
	VIRTIO_BALLOON_STAT_AVAILABLE_BYTES,
	VIRTIO_BALLOON_STAT_DISK_CACHE_BYTES,
	VIRTIO_BALLOON_STAT_HUGETLB_ALLOCATIONS,
	VIRTIO_BALLOON_STAT_HUGETLB_FAILURES,
	VIRTIO_BALLOON_STATS,
};

struct virtio_balloon_info {
	bool ready;            /* a driver runs it */
	uint64_t actual_bytes; /* the guest's memory without what the balloon holds */
	uint64_t target_bytes; /* what it shall become */
	uint64_t stats[VIRTIO_BALLOON_STATS]; /* UINT64_MAX: not told */
	uint64_t stats_time_ns;               /* CLOCK_REALTIME at which they arrived; 0: never */
};

/* How much memory the guest shall have; more than there is counts as all. Any thread. MACHINE_BALLOON_CHANGED follows when
 * the driver has moved. */
void virtio_balloon_set_target(struct device *dev, uint64_t bytes);
void virtio_balloon_get(struct device *dev, struct virtio_balloon_info *ret);
/* Asks the driver for statistics every so many seconds; 0: not. Any thread. */
void virtio_balloon_set_polling(struct device *dev, unsigned seconds);
