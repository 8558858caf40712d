/*
 * A virtio balloon: configuration space, life, state (VIRTIO 1.2, section 5.5). The queues are in virtio_balloon_queues.c.
 *
 * Queues and the polling timer on the device's loop; target and statistics from any thread under dev.lock. The target
 * survives resets: the next driver finds it.
 */
#include "vm/devices/virtio_balloon.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/endian.h"
#include "vm/devices/virtio_balloon_int.h"

#define BALLOON_DEVICE_ID  5
#define BALLOON_CLASS_CODE 0x00FF00 /* no class fits */
#define BALLOON_QUEUES     4

/* struct virtio_balloon_config, section 5.5.4. */
struct balloon_config_space {
	le32 num_pages;
	le32 actual;
	le32 free_page_hint_cmd_id; /* a feature that is not offered */
	le32 poison_val;
};

enum balloon_role {
	ROLE_INFLATE,
	ROLE_DEFLATE,
	ROLE_STATS,
	ROLE_REPORTING,
	ROLE_NONE,
};

static struct virtio_balloon *balloon_of(struct virtio *vdev)
{
	return container_of(vdev, struct virtio_balloon, vdev);
}

static struct virtio_balloon *balloon_of_device(struct device *dev)
{
	return container_of(dev, struct virtio_balloon, vdev.pci.dev);
}

/* Queues are numbered without those of features that were not negotiated: so do drivers. */
static enum balloon_role balloon_role(const struct virtio_balloon *bal, unsigned index)
{
	bool stats = virtio_has(&bal->vdev, BALLOON_F_STATS_VQ);
	bool reporting = virtio_has(&bal->vdev, BALLOON_F_REPORTING);

	if (index < 2)
		return index == 0 ? ROLE_INFLATE : ROLE_DEFLATE;
	if (index == 2 && stats)
		return ROLE_STATS;
	return reporting && index == (stats ? 3u : 2u) ? ROLE_REPORTING : ROLE_NONE;
}

static void balloon_kick(struct virtio *vdev, unsigned index)
{
	struct virtio_balloon *bal = balloon_of(vdev);
	struct virtio_queue *queue = &vdev->queues[index];

	switch (balloon_role(bal, index)) {
	case ROLE_INFLATE:
		balloon_inflate(bal, queue);
		break;
	case ROLE_DEFLATE:
		balloon_deflate(bal, queue);
		break;
	case ROLE_STATS:
		balloon_stats_take(bal, queue);
		break;
	case ROLE_REPORTING:
		balloon_report(bal, queue);
		break;
	case ROLE_NONE:
		break;
	}
}

/* --- configuration space --- */

static void balloon_config_read(struct virtio *vdev, unsigned offset, void *buf, unsigned size)
{
	struct virtio_balloon *bal = balloon_of(vdev);
	struct balloon_config_space space = {
		.num_pages = le32_of(bal->num_pages),
		.actual = le32_of(bal->actual),
		.poison_val = le32_of(bal->poison),
	};

	memcpy(buf, (const uint8_t *)&space + offset, size);
}

static void balloon_set_actual(struct virtio_balloon *bal, uint32_t pages)
{
	struct bus_host *host = bal->vdev.pci.dev.env.host;

	if (bal->actual == pages)
		return;
	bal->actual = pages;
	host->ops->request(host, MACHINE_BALLOON_CHANGED);
}

static void balloon_config_write(struct virtio *vdev, unsigned offset, const void *buf,
				 unsigned size)
{
	struct virtio_balloon *bal = balloon_of(vdev);
	struct balloon_config_space space;

	balloon_config_read(vdev, 0, &space, sizeof(space));
	memcpy((uint8_t *)&space + offset, buf, size);
	bal->poison = le32_get(space.poison_val);
	balloon_set_actual(bal, le32_get(space.actual));
}

/* --- statistics --- */

static void balloon_poll_arm(struct loop_msg *msg)
{
	struct virtio_balloon *bal = container_of(msg, struct virtio_balloon, poll_msg);
	unsigned seconds;

	pthread_mutex_lock(&bal->vdev.pci.dev.lock);
	seconds = bal->poll_seconds;
	pthread_mutex_unlock(&bal->vdev.pci.dev.lock);
	loop_timer_disarm(&bal->poll_timer);
	if (seconds != 0)
		loop_timer_arm(&bal->poll_timer, clock_monotonic_ns() + seconds * NSEC_PER_SEC);
}

static void balloon_poll(struct loop_timer *timer)
{
	struct virtio_balloon *bal = container_of(timer, struct virtio_balloon, poll_timer);

	if (virtio_active(&bal->vdev) && virtio_has(&bal->vdev, BALLOON_F_STATS_VQ))
		balloon_stats_ask(bal, &bal->vdev.queues[2]);
	balloon_poll_arm(&bal->poll_msg);
}

void virtio_balloon_set_polling(struct device *dev, unsigned seconds)
{
	struct virtio_balloon *bal = balloon_of_device(dev);

	LOCK_GUARD(&dev->lock);
	bal->poll_seconds = seconds;
	loop_post(dev->env.loop, &bal->poll_msg);
}

/* --- target --- */

void virtio_balloon_set_target(struct device *dev, uint64_t bytes)
{
	struct virtio_balloon *bal = balloon_of_device(dev);
	uint64_t ram = gmem_ram_bytes(dev->env.mem);
	uint64_t pages = bytes < ram ? (ram - bytes) / BALLOON_PAGE_BYTES : 0;

	LOCK_GUARD(&dev->lock);
	pages = MIN(pages, (uint64_t)UINT32_MAX);
	if (bal->num_pages == pages)
		return;
	bal->num_pages = (uint32_t)pages;
	virtio_config_changed_locked(&bal->vdev);
}

static uint64_t without_pages(uint64_t ram, uint32_t pages)
{
	uint64_t held = (uint64_t)pages * BALLOON_PAGE_BYTES;

	return held < ram ? ram - held : 0; /* the driver may say what it likes */
}

void virtio_balloon_get(struct device *dev, struct virtio_balloon_info *ret)
{
	struct virtio_balloon *bal = balloon_of_device(dev);
	uint64_t ram = gmem_ram_bytes(dev->env.mem);

	LOCK_GUARD(&dev->lock);
	*ret = (struct virtio_balloon_info){
		.ready = virtio_active(&bal->vdev),
		.actual_bytes = without_pages(ram, bal->actual),
		.target_bytes = without_pages(ram, bal->num_pages),
		.stats_time_ns = bal->stats_time_ns,
	};
	memcpy(ret->stats, bal->stats, sizeof(ret->stats));
}

/* --- life --- */

/* What it held is the guest's again, once that has been reset. */
static void balloon_deactivate(struct virtio *vdev)
{
	struct virtio_balloon *bal = balloon_of(vdev);

	bal->poison = 0;
	balloon_set_actual(bal, 0);
	balloon_stats_forget(bal);
	virtio_deactivated(vdev);
}

static void balloon_leave_loop(void *opaque)
{
	struct virtio_balloon *bal = opaque;

	loop_unpost(bal->vdev.pci.dev.env.loop, &bal->poll_msg);
	loop_timer_disarm(&bal->poll_timer);
}

static void balloon_free(struct device *dev)
{
	struct virtio_balloon *bal = balloon_of_device(dev);

	loop_call(dev->env.loop, balloon_leave_loop, bal);
	virtio_fini(&bal->vdev);
	free(bal);
}

static const struct state_field balloon_fields[] = {
	STATE_STRUCT(struct virtio_balloon, vdev, &virtio_state_table),
	STATE_UINT(struct virtio_balloon, num_pages),
	STATE_UINT(struct virtio_balloon, actual),
	STATE_UINT(struct virtio_balloon, poison),
};
static const struct state_table balloon_state = {.name = "virtio-balloon",
						 .version = 1,
						 STATE_FIELDS(balloon_fields)};

static const struct virtio_ops balloon_ops = {
	.dev =
		{
			.type = "virtio-balloon",
			.state = &balloon_state,
			.reset = virtio_device_reset,
			.pause = virtio_device_pause,
			.resume = virtio_device_resume,
			.free = balloon_free,
		},
	.device_id = BALLOON_DEVICE_ID,
	.class_code = BALLOON_CLASS_CODE,
	.config_read = balloon_config_read,
	.config_write = balloon_config_write,
	.deactivate = balloon_deactivate,
	.kick = balloon_kick,
};

int virtio_balloon_new(const struct device_env *env, const struct virtio_balloon_config *config,
		       struct device **ret, struct error *err)
{
	uint64_t features = BIT(BALLOON_F_STATS_VQ);
	struct virtio_balloon *bal = calloc(1, sizeof(*bal));
	int r;

	if (!bal)
		return error_set(err, -ENOMEM, "Out of memory for %s", config->id);
	if (config->deflate_on_oom)
		features |= BIT(BALLOON_F_DEFLATE_ON_OOM);
	if (config->free_page_reporting)
		features |= BIT(BALLOON_F_REPORTING) | BIT(BALLOON_F_PAGE_POISON);
	bal->poll_msg.fn = balloon_poll_arm;
	loop_timer_init(env->loop, &bal->poll_timer, balloon_poll);
	balloon_stats_forget(bal);
	r = virtio_init(&bal->vdev, &balloon_ops, config->id, env, features, BALLOON_QUEUES,
			BALLOON_QUEUE_SIZE, sizeof(struct balloon_config_space), err);
	if (r >= 0)
		r = virtio_start(&bal->vdev, config->slot, err);
	if (r < 0) {
		virtio_fini(&bal->vdev);
		free(bal);
		return r;
	}
	*ret = &bal->vdev.pci.dev;
	return 0;
}
