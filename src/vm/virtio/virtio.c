/*
 * A virtio device's life: features, status, reset, queues, interrupts (VIRTIO 1.2, sections 2.1 to 2.5 and 3). The
 * registers that show it are in virtio_pci.c.
 *
 * Registers run on vCPU threads under dev.lock. Kicks run on each queue's loop. A reset may last longer than the register
 * write that asks for it: `resetting` stands until the device has said that nothing is in flight.
 */
#include "vm/virtio/virtio.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/cleanup.h"
#include "base/fd.h"
#include "vm/virtio/virtio_int.h"

#define VIRTIO_STATUS_BY_DRIVER                                                                    \
	(VIRTIO_STATUS_ACKNOWLEDGE | VIRTIO_STATUS_DRIVER | VIRTIO_STATUS_DRIVER_OK |              \
	 VIRTIO_STATUS_FEATURES_OK | VIRTIO_STATUS_FAILED)

static struct device *virtio_dev(struct virtio *vdev)
{
	return &vdev->pci.dev;
}

static struct virtio *virtio_of(struct device *dev)
{
	return container_of(dev, struct virtio, pci.dev);
}

/* --- life --- */

static int virtio_queues_init(struct virtio *vdev, const struct device_env *env, unsigned n,
			      uint16_t size)
{
	vdev->queues = calloc(n, sizeof(*vdev->queues));
	if (!vdev->queues)
		return -ENOMEM;
	for (unsigned i = 0; i < n; i++) {
		struct virtio_queue *queue = &vdev->queues[i];

		queue->vdev = vdev;
		queue->index = i;
		queue->loop = env->loop;
		vq_init(&queue->vq, env->mem, size);
		queue->vq.held = VQ_HELD_MASTER;
		vdev->max_queues = i + 1;
		queue->kick_fd = eventfd_new();
		if (queue->kick_fd < 0)
			return queue->kick_fd;
	}
	vdev->n_queues = vdev->max_queues;
	return 0;
}

int virtio_init(struct virtio *vdev, const struct virtio_ops *ops, const char *id,
		const struct device_env *env, uint64_t features, unsigned n_queues,
		uint16_t queue_size, uint32_t config_bytes, struct error *err)
{
	int r;

	if (n_queues == 0 || n_queues > VIRTIO_MAX_QUEUES)
		return error_set(err, -EINVAL, "%s: %u queues are more than the %d there can be",
				 id, n_queues, VIRTIO_MAX_QUEUES);
	vdev->ops = ops;
	vdev->config_bytes = config_bytes;
	vdev->config_vector = VIRTIO_NO_VECTOR;
	vdev->offered = features | BIT(VIRTIO_F_VERSION_1) | BIT(VIRTIO_F_RING_PACKED) |
			BIT(VIRTIO_F_INDIRECT_DESC) | BIT(VIRTIO_F_EVENT_IDX);
	if (ops->queue_reset)
		vdev->offered |= BIT(VIRTIO_F_RING_RESET);
	pthread_mutex_init(&vdev->isr_lock, NULL);
	r = virtio_queues_init(vdev, env, n_queues, queue_size);
	if (r >= 0)
		r = virtio_pci_init(vdev, id, env);
	if (r < 0) {
		virtio_fini(vdev);
		return error_set_errno(err, r, "%s: cannot create its queues", id);
	}
	return 0;
}

void virtio_queue_set_loop(struct virtio *vdev, unsigned index, struct loop *loop)
{
	vdev->queues[index].loop = loop;
}

static void virtio_queue_ready(struct loop_fd *src, unsigned events)
{
	struct virtio_queue *queue = container_of(src, struct virtio_queue, kick_src);
	struct virtio *vdev = queue->vdev;

	eventfd_clear(queue->kick_fd);
	if (virtio_active(vdev) && !atomic_load(&vdev->paused))
		vdev->ops->kick(vdev, queue->index);
}

struct virtio_attach {
	struct virtio_queue *queue;
	int result;
};

static void virtio_queue_attach(void *opaque)
{
	struct virtio_attach *attach = opaque;
	struct virtio_queue *queue = attach->queue;

	attach->result = loop_fd_add(queue->loop, &queue->kick_src, queue->kick_fd, LOOP_READ,
				     virtio_queue_ready);
}

static void virtio_queue_detach(void *opaque)
{
	struct virtio_queue *queue = opaque;

	loop_fd_del(&queue->kick_src);
}

int virtio_start(struct virtio *vdev, int slot, struct error *err)
{
	for (unsigned i = 0; i < vdev->max_queues; i++) {
		struct virtio_attach attach = {.queue = &vdev->queues[i]};

		loop_call(attach.queue->loop, virtio_queue_attach, &attach);
		if (attach.result < 0)
			return error_set_errno(err, attach.result, "%s: cannot wait for kicks",
					       virtio_dev(vdev)->id);
	}
	return pci_device_add(&vdev->pci, slot, err);
}

void virtio_fini(struct virtio *vdev)
{
	if (!vdev->ops)
		return;
	/* Takes the doorbells away, too. */
	pci_device_fini(&vdev->pci);
	for (unsigned i = 0; i < vdev->max_queues; i++) {
		struct virtio_queue *queue = &vdev->queues[i];

		if (queue->kick_src.loop)
			loop_call(queue->loop, virtio_queue_detach, queue);
		if (queue->kick_fd >= 0)
			close(queue->kick_fd);
		vq_fini(&queue->vq);
	}
	free(vdev->queues);
	vdev->queues = NULL;
	pthread_mutex_destroy(&vdev->isr_lock);
	vdev->ops = NULL;
}

/* --- interrupts --- */

void virtio_interrupt(struct virtio *vdev, uint16_t vector, uint8_t isr_bit)
{
	bool msix = pci_msix_enabled(&vdev->pci);

	/* The queue bit is for INTx alone (section 4.1.4.5.1). */
	if (!msix || isr_bit == VIRTIO_ISR_CONFIG) {
		LOCK_GUARD(&vdev->isr_lock);
		vdev->isr |= isr_bit;
		pci_intx_set(&vdev->pci, true);
	}
	if (msix)
		pci_msix_notify(&vdev->pci, vector);
}

uint8_t virtio_isr_take(struct virtio *vdev)
{
	uint8_t isr;

	LOCK_GUARD(&vdev->isr_lock);
	isr = vdev->isr;
	vdev->isr = 0;
	pci_intx_set(&vdev->pci, false);
	return isr;
}

void virtio_signal(struct virtio *vdev, struct virtio_queue *queue)
{
	if (vq_should_signal(&queue->vq))
		virtio_interrupt(vdev, queue->vq.msix_vector, VIRTIO_ISR_QUEUE);
}

void virtio_config_changed_locked(struct virtio *vdev)
{
	vdev->config_generation++;
	if (vdev->status & VIRTIO_STATUS_DRIVER_OK)
		virtio_interrupt(vdev, vdev->config_vector, VIRTIO_ISR_CONFIG);
}

void virtio_config_changed(struct virtio *vdev)
{
	LOCK_GUARD(&virtio_dev(vdev)->lock);
	virtio_config_changed_locked(vdev);
}

/* --- status and features --- */

bool virtio_active(const struct virtio *vdev)
{
	return atomic_load(&vdev->live);
}

void virtio_live_update(struct virtio *vdev)
{
	atomic_store(&vdev->live, (vdev->status & VIRTIO_STATUS_DRIVER_OK) && !vdev->resetting &&
					  !(vdev->status & VIRTIO_STATUS_NEEDS_RESET));
}

void virtio_hold(struct virtio *vdev, uint8_t reason, bool on)
{
	for (unsigned i = 0; i < vdev->max_queues; i++) {
		struct vq *vq = &vdev->queues[i].vq;

		LOCK_GUARD(&vq->lock);
		vq->held = (uint8_t)(on ? vq->held | reason : vq->held & ~reason);
	}
}

void virtio_break_locked(struct virtio *vdev, const char *why)
{
	if ((vdev->status & VIRTIO_STATUS_NEEDS_RESET) || vdev->resetting)
		return;
	log_guest(&virtio_dev(vdev)->log_budget,
		  "%s: its driver broke the protocol (%s); it stands still until it is reset",
		  virtio_dev(vdev)->id, why);
	vdev->status |= VIRTIO_STATUS_NEEDS_RESET;
	virtio_live_update(vdev);
	virtio_hold(vdev, VQ_HELD_BROKEN, true);
	virtio_config_changed_locked(vdev);
}

void virtio_break(struct virtio *vdev, const char *why)
{
	LOCK_GUARD(&virtio_dev(vdev)->lock);
	virtio_break_locked(vdev, why);
}

/* What the driver wrote becomes what counts, or FEATURES_OK is refused (section 3.1.1, steps 5 and 6). */
static bool virtio_features_accept(struct virtio *vdev)
{
	if ((vdev->driver_features & ~vdev->offered) ||
	    !(vdev->driver_features >> VIRTIO_F_VERSION_1 & 1))
		return false;
	vdev->features = vdev->driver_features;
	if (vdev->ops->features_set && !vdev->ops->features_set(vdev)) {
		vdev->features = 0;
		return false;
	}
	return true;
}

/* Section 3.2: the driver asked for a reset by writing 0. */
static void virtio_reset_begin(struct virtio *vdev)
{
	vdev->resetting = true;
	virtio_live_update(vdev);
	virtio_hold(vdev, VQ_HELD_RESET, true);
	if (vdev->ops->deactivate)
		vdev->ops->deactivate(vdev);
	else
		virtio_deactivated(vdev);
}

void virtio_deactivated(struct virtio *vdev)
{
	if (!vdev->resetting)
		return;
	for (unsigned i = 0; i < vdev->max_queues; i++) {
		struct virtio_queue *queue = &vdev->queues[i];

		LOCK_GUARD(&queue->vq.lock);
		vq_reset(&queue->vq);
		queue->resetting = false;
	}
	vdev->features = 0;
	vdev->driver_features = 0;
	vdev->status = 0;
	vdev->device_feature_select = 0;
	vdev->driver_feature_select = 0;
	vdev->queue_select = 0;
	vdev->config_vector = VIRTIO_NO_VECTOR;
	virtio_isr_take(vdev);
	vdev->resetting = false;
	vdev->reactivate = false;
	virtio_live_update(vdev);
}

uint8_t virtio_status_read(const struct virtio *vdev)
{
	/* Non-zero while the reset lasts. */
	if (vdev->resetting && !vdev->status)
		return VIRTIO_STATUS_ACKNOWLEDGE;
	return vdev->status;
}

void virtio_status_write(struct virtio *vdev, uint8_t value)
{
	uint8_t fresh = value & VIRTIO_STATUS_BY_DRIVER & (uint8_t)~vdev->status;

	if (vdev->resetting)
		return;
	if (value == 0) {
		virtio_reset_begin(vdev);
		return;
	}
	if ((fresh & VIRTIO_STATUS_FEATURES_OK) && !virtio_features_accept(vdev))
		fresh &= (uint8_t)~VIRTIO_STATUS_FEATURES_OK;
	vdev->status |= fresh;
	if (!(fresh & VIRTIO_STATUS_DRIVER_OK))
		return;
	if (!(vdev->status & VIRTIO_STATUS_FEATURES_OK)) {
		virtio_break_locked(vdev, "DRIVER_OK without FEATURES_OK");
		return;
	}
	virtio_live_update(vdev);
	if (virtio_active(vdev) && vdev->ops->activate)
		vdev->ops->activate(vdev);
}

/* --- queues --- */

void virtio_queue_enable(struct virtio *vdev, struct virtio_queue *queue)
{
	bool late = vdev->status & VIRTIO_STATUS_DRIVER_OK;
	struct vq *vq = &queue->vq;
	const char *why = NULL;

	if (!(vdev->status & VIRTIO_STATUS_FEATURES_OK) || queue->resetting ||
	    (late && !virtio_has(vdev, VIRTIO_F_RING_RESET)))
		return;
	pthread_mutex_lock(&vq->lock);
	if (!vq->enabled && !vq->broken) {
		vq->packed = virtio_has(vdev, VIRTIO_F_RING_PACKED);
		vq->event_idx = virtio_has(vdev, VIRTIO_F_EVENT_IDX);
		vq->indirect = virtio_has(vdev, VIRTIO_F_INDIRECT_DESC);
		if (vq_enable(vq) < 0)
			why = vq->broken_why;
	} else {
		late = false;
	}
	pthread_mutex_unlock(&vq->lock);
	if (why) {
		virtio_break_locked(vdev, why);
		return;
	}
	queue->doorbell_wanted = true;
	virtio_pci_doorbells(vdev);
	if (late && vdev->ops->queue_enable)
		vdev->ops->queue_enable(vdev, queue->index);
}

/* Section 2.6.1. */
void virtio_queue_reset(struct virtio *vdev, struct virtio_queue *queue)
{
	struct vq *vq = &queue->vq;
	bool enabled;

	if (!virtio_has(vdev, VIRTIO_F_RING_RESET) || queue->resetting)
		return;
	pthread_mutex_lock(&vq->lock);
	enabled = vq->enabled;
	if (enabled)
		vq->held |= VQ_HELD_RESET;
	pthread_mutex_unlock(&vq->lock);
	if (!enabled)
		return;
	queue->resetting = true;
	if (vdev->status & VIRTIO_STATUS_DRIVER_OK)
		vdev->ops->queue_reset(vdev, queue->index);
	else
		virtio_queue_reset_done(vdev, queue->index);
}

void virtio_queue_reset_done(struct virtio *vdev, unsigned index)
{
	struct virtio_queue *queue = &vdev->queues[index];

	if (!queue->resetting || vdev->resetting)
		return;
	LOCK_GUARD(&queue->vq.lock);
	vq_reset(&queue->vq);
	if (vdev->status & VIRTIO_STATUS_NEEDS_RESET)
		queue->vq.held |= VQ_HELD_BROKEN;
	queue->resetting = false;
}

void virtio_queue_rekick(struct virtio *vdev, unsigned index)
{
	eventfd_signal(vdev->queues[index].kick_fd);
}

/* --- what vm/main asks --- */

void virtio_device_reset(struct device *dev)
{
	struct virtio *vdev = virtio_of(dev);

	pthread_mutex_lock(&dev->lock);
	if (!vdev->resetting)
		virtio_reset_begin(vdev);
	virtio_deactivated(vdev);
	vdev->config_generation = 0;
	pthread_mutex_unlock(&dev->lock);
	pci_device_reset(&vdev->pci);
}

static void virtio_barrier(void *opaque)
{
}

void virtio_device_pause(struct device *dev)
{
	struct virtio *vdev = virtio_of(dev);
	struct loop *last = NULL;

	pthread_mutex_lock(&dev->lock);
	atomic_store(&vdev->paused, true);
	virtio_hold(vdev, VQ_HELD_PAUSED, true);
	pthread_mutex_unlock(&dev->lock);
	/* A kick that was under way has ended when its loop has run something else. */
	for (unsigned i = 0; i < vdev->max_queues; i++) {
		if (vdev->queues[i].loop != last)
			loop_call(vdev->queues[i].loop, virtio_barrier, NULL);
		last = vdev->queues[i].loop;
	}
}

void virtio_device_resume(struct device *dev)
{
	struct virtio *vdev = virtio_of(dev);

	LOCK_GUARD(&dev->lock);
	atomic_store(&vdev->paused, false);
	virtio_hold(vdev, VQ_HELD_PAUSED, false);
	if (vdev->reactivate && virtio_active(vdev) && vdev->ops->activate)
		vdev->ops->activate(vdev);
	vdev->reactivate = false;
	for (unsigned i = 0; virtio_active(vdev) && i < vdev->max_queues; i++)
		virtio_queue_rekick(vdev, i);
}
