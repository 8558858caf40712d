/*
 * A virtio block device over a disk image. (VIRTIO 1.2, section 5.2.)
 *
 * Threads: made and freed on the main thread. Each queue belongs to one I/O loop and has an image channel of its own there.
 */
#pragma once

#include "image/image.h"
#include "vm/bus/device.h"

#define VIRTIO_BLK_MAX_QUEUES   64
#define VIRTIO_BLK_SERIAL_BYTES 20

struct virtio_blk_config {
	const char *id;
	struct image *image; /* borrowed: closed by its owner after the device is freed */
	const char *serial;  /* at most VIRTIO_BLK_SERIAL_BYTES characters; NULL: none */
	unsigned queues;     /* 1 to VIRTIO_BLK_MAX_QUEUES */
	uint16_t queue_size; /* a power of two, 4 to VQ_MAX_SIZE */
	/* Queue i runs on loops[i % n_loops]; n_loops 0: all on env->loop. Copied. The loops run already, or will be run by
	 * the calling thread, and outlive the device. */
	struct loop *const *loops;
	unsigned n_loops;
	int slot; /* on the PCI bus; -1: next free */
};

/* Puts the device on env->pci. */
int virtio_blk_new(const struct device_env *env, const struct virtio_blk_config *config,
		   struct device **ret, struct error *err);

struct virtio_blk_info {
	const char *id;
	const char *serial; /* "" when none */
	struct image_info image;
	bool write_cache; /* the guest may rely on flushes; false: every write is stable when it completes */
	unsigned queues;
	uint16_t queue_size;
	/* Since start; read, written: completed without error. */
	uint64_t reads, writes, flushes, discards, errors;
	uint64_t read_bytes, written_bytes;
};
/* Any thread. dev: made by virtio_blk_new(). */
void virtio_blk_query(struct device *dev, struct virtio_blk_info *ret);
