/*
 * A virtio block device: its configuration space, its life and its state. (VIRTIO 1.2, section 5.2.) The queues are in
 * virtio_blk_req.c.
 *
 * The state is that of an idle device: pause ends every request first, so none is ever saved. Capacity, serial and limits
 * are configuration of the machine, not state.
 */
#include "vm/devices/virtio_blk.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "base/cleanup.h"
#include "base/str.h"
#include "vm/devices/virtio_blk_int.h"

#define BLK_DEVICE_ID  2
#define BLK_CLASS_CODE 0x018000 /* mass storage controller, other */
#define BLK_SIZE_MAX   (4u << 20)

/* struct virtio_blk_config, section 5.2.4. */
struct blk_config_space {
	le64 capacity; /* sectors of 512 bytes */
	le32 size_max, seg_max;
	struct {
		le16 cylinders;
		uint8_t heads, sectors;
	} geometry;
	le32 blk_size;
	struct {
		uint8_t physical_block_exp, alignment_offset;
		le16 min_io_size;
		le32 opt_io_size;
	} topology;
	uint8_t writeback;
	uint8_t unused0;
	le16 num_queues;
	le32 max_discard_sectors, max_discard_seg, discard_sector_alignment;
	le32 max_write_zeroes_sectors, max_write_zeroes_seg;
	uint8_t write_zeroes_may_unmap;
	uint8_t unused1[3];
};
_Static_assert(sizeof(struct blk_config_space) == 60, "section 5.2.4");
_Static_assert(offsetof(struct blk_config_space, writeback) == 32, "section 5.2.4");

static struct virtio_blk *blk_of(struct virtio *vdev)
{
	return container_of(vdev, struct virtio_blk, vdev);
}

static struct virtio_blk *blk_of_device(struct device *dev)
{
	return blk_of(container_of(container_of(dev, struct pci_device, dev), struct virtio, pci));
}

/* --- configuration space --- */

static uint8_t log2_of(uint32_t v)
{
	return (uint8_t)(31 - __builtin_clz(v));
}

static struct blk_config_space config_fill(const struct virtio_blk *blk)
{
	const struct image_info *info = &blk->info;
	uint32_t per_block = info->physical_block / info->logical_block;
	struct blk_config_space c = {
		.capacity = le64_of(info->size_bytes / BLK_SECTOR_BYTES),
		.size_max = le32_of(BLK_SIZE_MAX),
		.seg_max = le32_of(blk->vdev.queues[0].vq.max_size - 2u),
		.blk_size = le32_of(info->logical_block),
		.topology.physical_block_exp = log2_of(per_block),
		.topology.min_io_size = le16_of((uint16_t)per_block),
		.writeback = blk->wce,
		.num_queues = le16_of((uint16_t)blk->n_queues),
	};

	if (info->can_discard) {
		c.max_discard_sectors = le32_of(BLK_MAX_DISCARD_SECTORS);
		c.max_discard_seg = le32_of(1);
		c.discard_sector_alignment = le32_of(info->discard_granularity / BLK_SECTOR_BYTES);
		c.write_zeroes_may_unmap = 1;
	}
	if (info->can_write_zeroes) {
		c.max_write_zeroes_sectors = le32_of(BLK_MAX_ZEROES_SECTORS);
		c.max_write_zeroes_seg = le32_of(1);
	}
	return c;
}

static void blk_config_read(struct virtio *vdev, unsigned offset, void *buf, unsigned size)
{
	struct blk_config_space c = config_fill(blk_of(vdev));

	memcpy(buf, (const uint8_t *)&c + offset, size);
}

/* Without a cache that the driver knows of, each write must be stable when it completes (section 5.2.6.2). */
static void update_stable(struct virtio_blk *blk)
{
	const struct virtio *vdev = &blk->vdev;
	bool cached =
		virtio_has(vdev, BLK_F_FLUSH) && (!virtio_has(vdev, BLK_F_CONFIG_WCE) || blk->wce);

	atomic_store(&blk->stable, !cached);
}

static void blk_config_write(struct virtio *vdev, unsigned offset, const void *buf, unsigned size)
{
	struct virtio_blk *blk = blk_of(vdev);
	const unsigned at = offsetof(struct blk_config_space, writeback);

	/* The only field that a driver may write. */
	if (!virtio_has(vdev, BLK_F_CONFIG_WCE) || offset > at || at - offset >= size)
		return;
	blk->wce = ((const uint8_t *)buf)[at - offset] & 1;
	update_stable(blk);
}

static uint8_t initial_wce(const struct virtio_blk *blk)
{
	return blk->info.cache != IMAGE_CACHE_WRITETHROUGH;
}

/* --- the driver --- */

/* A driver begins: what an earlier one wrote is gone. */
static bool blk_features_set(struct virtio *vdev)
{
	struct virtio_blk *blk = blk_of(vdev);

	blk->wce = initial_wce(blk);
	update_stable(blk);
	return true;
}

static void blk_activate(struct virtio *vdev)
{
	update_stable(blk_of(vdev));
}

static void blk_kick(struct virtio *vdev, unsigned index)
{
	blk_queue_run(&blk_of(vdev)->queues[index]);
}

static void reset_done_locked(struct virtio_blk *blk)
{
	blk->wce = initial_wce(blk);
	virtio_deactivated(&blk->vdev);
}

static void blk_deactivate(struct virtio *vdev)
{
	struct virtio_blk *blk = blk_of(vdev);

	if (blk->paused) {
		reset_done_locked(blk);
		return;
	}
	blk->n_stopping = blk->n_queues;
	for (unsigned i = 0; i < blk->n_queues; i++)
		blk_queue_stop(&blk->queues[i], BLK_STOP_DEVICE);
}

static void blk_queue_reset(struct virtio *vdev, unsigned index)
{
	struct virtio_blk *blk = blk_of(vdev);

	if (blk->paused)
		virtio_queue_reset_done(vdev, index);
	else
		blk_queue_stop(&blk->queues[index], BLK_STOP_QUEUE);
}

void blk_queue_stopped(struct blk_queue *q, unsigned reasons)
{
	struct virtio_blk *blk = q->blk;

	LOCK_GUARD(&blk->vdev.pci.dev.lock);
	if (reasons & BLK_STOP_QUEUE)
		virtio_queue_reset_done(&blk->vdev, q->vqueue->index);
	if ((reasons & BLK_STOP_DEVICE) && --blk->n_stopping == 0)
		reset_done_locked(blk);
}

/* --- life --- */

static void blk_reset(struct device *dev)
{
	struct virtio_blk *blk = blk_of_device(dev);

	virtio_device_reset(dev);
	blk->wce = initial_wce(blk);
}

static void drain_on_loop(void *opaque)
{
	blk_queue_drain(opaque);
}

static void blk_pause(struct device *dev)
{
	struct virtio_blk *blk = blk_of_device(dev);

	virtio_device_pause(dev);
	for (unsigned i = 0; i < blk->n_queues; i++)
		loop_call(blk->queues[i].loop, drain_on_loop, &blk->queues[i]);
	blk->paused = true;
}

static void blk_resume(struct device *dev)
{
	blk_of_device(dev)->paused = false;
	virtio_device_resume(dev);
}

static void blk_free(struct device *dev)
{
	struct virtio_blk *blk = blk_of_device(dev);

	for (unsigned i = 0; blk->queues && i < blk->n_queues; i++)
		blk_queue_close(&blk->queues[i]);
	free(blk->queues);
	virtio_fini(&blk->vdev);
	free(blk);
}

/* --- state --- */

static int blk_post_load(void *obj, struct error *err)
{
	(void)err;
	update_stable(obj);
	return 0;
}

static const struct state_field blk_fields[] = {
	STATE_STRUCT(struct virtio_blk, vdev, &virtio_state_table),
	STATE_UINT_MAX(struct virtio_blk, wce, 1),
};

static const struct state_table blk_state = {
	.name = "virtio-blk",
	.version = 1,
	STATE_FIELDS(blk_fields),
	.post_load = blk_post_load,
};

static const struct virtio_ops blk_ops = {
	.dev =
		{
			.type = "virtio-blk",
			.state = &blk_state,
			.reset = blk_reset,
			.pause = blk_pause,
			.resume = blk_resume,
			.free = blk_free,
		},
	.device_id = BLK_DEVICE_ID,
	.class_code = BLK_CLASS_CODE,
	.config_read = blk_config_read,
	.config_write = blk_config_write,
	.features_set = blk_features_set,
	.activate = blk_activate,
	.deactivate = blk_deactivate,
	.kick = blk_kick,
	.queue_reset = blk_queue_reset,
};

/* --- making one --- */

static int config_check(const struct virtio_blk_config *config, struct error *err)
{
	if (config->serial && strlen(config->serial) > VIRTIO_BLK_SERIAL_BYTES)
		return error_set(err, -EINVAL, "disk %s: serial '%s' is longer than %u characters",
				 config->id, config->serial, VIRTIO_BLK_SERIAL_BYTES);
	if (config->queues < 1 || config->queues > VIRTIO_BLK_MAX_QUEUES)
		return error_set(err, -EINVAL, "disk %s: %u queues, where 1 to %u are possible",
				 config->id, config->queues, VIRTIO_BLK_MAX_QUEUES);
	if (config->queue_size < 4 || config->queue_size > VQ_MAX_SIZE ||
	    !is_power_of_two(config->queue_size))
		return error_set(err, -EINVAL,
				 "disk %s: a queue size of %u is no power of two from 4 to %u",
				 config->id, config->queue_size, VQ_MAX_SIZE);
	return 0;
}

static uint64_t features_of(const struct virtio_blk *blk)
{
	uint64_t f = BIT(BLK_F_SIZE_MAX) | BIT(BLK_F_SEG_MAX) | BIT(BLK_F_BLK_SIZE) |
		     BIT(BLK_F_FLUSH) | BIT(BLK_F_TOPOLOGY) | BIT(BLK_F_CONFIG_WCE);

	if (blk->info.readonly)
		f |= BIT(BLK_F_RO);
	if (blk->n_queues > 1)
		f |= BIT(BLK_F_MQ);
	if (blk->info.can_discard)
		f |= BIT(BLK_F_DISCARD);
	if (blk->info.can_write_zeroes)
		f |= BIT(BLK_F_WRITE_ZEROES);
	return f;
}

static int blk_build(struct virtio_blk *blk, const struct virtio_blk_config *config,
		     struct error *err)
{
	int r;

	blk->queues = calloc(blk->n_queues, sizeof(*blk->queues));
	if (!blk->queues)
		return error_set(err, -ENOMEM, "no memory for %u queues", blk->n_queues);
	for (unsigned i = 0; i < blk->n_queues; i++) {
		if (config->n_loops > 0)
			virtio_queue_set_loop(&blk->vdev, i, config->loops[i % config->n_loops]);
		r = blk_queue_open(blk, i, err);
		if (r < 0)
			return r;
	}
	return virtio_start(&blk->vdev, config->slot, err);
}

int virtio_blk_new(const struct device_env *env, const struct virtio_blk_config *config,
		   struct device **ret, struct error *err)
{
	struct virtio_blk *blk;
	int r = config_check(config, err);

	if (r < 0)
		return r;
	blk = calloc(1, sizeof(*blk));
	if (!blk)
		return error_set(err, -ENOMEM, "disk %s: no memory", config->id);
	blk->image = config->image;
	image_get_info(blk->image, &blk->info);
	blk->wce = initial_wce(blk);
	blk->n_queues = config->queues;
	if (config->serial)
		str_copy(blk->serial, sizeof(blk->serial), config->serial);
	r = virtio_init(&blk->vdev, &blk_ops, config->id, env, features_of(blk), config->queues,
			config->queue_size, sizeof(struct blk_config_space), err);
	if (r < 0) {
		free(blk);
		return r;
	}
	r = blk_build(blk, config, err);
	if (r < 0) {
		blk_free(&blk->vdev.pci.dev);
		return err ? error_prefix(err, "disk %s", config->id) : r;
	}
	*ret = &blk->vdev.pci.dev;
	return 0;
}

void virtio_blk_query(struct device *dev, struct virtio_blk_info *ret)
{
	struct virtio_blk *blk = blk_of_device(dev);

	*ret = (struct virtio_blk_info){
		.id = dev->id,
		.serial = blk->serial,
		.image = blk->info,
		.write_cache = !atomic_load(&blk->stable),
		.queues = blk->n_queues,
		.queue_size = blk->vdev.queues[0].vq.max_size,
	};
	for (unsigned i = 0; i < blk->n_queues; i++) {
		const struct blk_stats *s = &blk->queues[i].stats;

		ret->reads += atomic_load(&s->reads);
		ret->writes += atomic_load(&s->writes);
		ret->flushes += atomic_load(&s->flushes);
		ret->discards += atomic_load(&s->discards);
		ret->errors += atomic_load(&s->errors);
		ret->read_bytes += atomic_load(&s->read_bytes);
		ret->written_bytes += atomic_load(&s->written_bytes);
	}
}
