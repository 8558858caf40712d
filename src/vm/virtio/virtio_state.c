/*
 * The state of a virtio device and what follows from it after a load. A stream is hostile: it can describe a driver that
 * broke the protocol, but nothing that a driver could not have brought about.
 *
 * The device itself is activated by resume, when its own fields have been loaded, too.
 */
#include <errno.h>

#include "base/bits.h"
#include "base/cleanup.h"
#include "vm/virtio/virtio_int.h"

static bool virtio_vector_valid(const struct virtio *vdev, uint16_t vector)
{
	return vector == VIRTIO_NO_VECTOR || vector < vdev->pci.max_vectors;
}

static int virtio_validate_queue(struct virtio *vdev, const struct virtio_queue *queue,
				 struct error *err)
{
	const struct vq *vq = &queue->vq;
	bool ok = virtio_vector_valid(vdev, vq->msix_vector);

	if (vq->enabled)
		ok = ok && (vdev->status & VIRTIO_STATUS_FEATURES_OK) &&
		     vq->packed == virtio_has(vdev, VIRTIO_F_RING_PACKED) &&
		     vq->event_idx == virtio_has(vdev, VIRTIO_F_EVENT_IDX) &&
		     vq->indirect == virtio_has(vdev, VIRTIO_F_INDIRECT_DESC);
	if (ok)
		return 0;
	return error_set(err, -EINVAL, "%s: the saved state of queue %u contradicts itself",
			 vdev->pci.dev.id, queue->index);
}

/* FEATURES_OK comes with VERSION_1, and before DRIVER_OK unless that was what broke the device. */
static bool virtio_status_consistent(const struct virtio *vdev)
{
	if (vdev->status & VIRTIO_STATUS_FEATURES_OK)
		return virtio_has(vdev, VIRTIO_F_VERSION_1);
	return vdev->features == 0 && (!(vdev->status & VIRTIO_STATUS_DRIVER_OK) ||
				       (vdev->status & VIRTIO_STATUS_NEEDS_RESET));
}

static int virtio_validate(struct virtio *vdev, struct error *err)
{
	const char *id = vdev->pci.dev.id;
	bool features_ok = vdev->status & VIRTIO_STATUS_FEATURES_OK;

	if (vdev->n_queues != vdev->max_queues)
		return error_set(err, -EINVAL, "%s: the saved device has %u queues, this one %u",
				 id, vdev->n_queues, vdev->max_queues);
	if (vdev->features & ~vdev->offered)
		return error_set(err, -ENOTSUP,
				 "%s: the saved device has features that this one lacks (%#llx): "
				 "start it with the same options",
				 id, (unsigned long long)(vdev->features & ~vdev->offered));
	if (!virtio_status_consistent(vdev) || !virtio_vector_valid(vdev, vdev->config_vector))
		return error_set(err, -EINVAL, "%s: the saved state contradicts itself", id);
	for (unsigned i = 0; i < vdev->max_queues; i++) {
		int r = virtio_validate_queue(vdev, &vdev->queues[i], err);

		if (r < 0)
			return r;
	}
	if (features_ok && vdev->ops->features_set && !vdev->ops->features_set(vdev))
		return error_set(err, -ENOTSUP, "%s: it refuses the features of the saved device",
				 id);
	return 0;
}

static int virtio_post_load(void *obj, struct error *err)
{
	struct virtio *vdev = obj;
	int r;

	LOCK_GUARD(&vdev->pci.dev.lock);
	r = virtio_validate(vdev, err);
	if (r < 0)
		return r;
	virtio_hold(vdev, VQ_HELD_BROKEN, vdev->status & VIRTIO_STATUS_NEEDS_RESET);
	for (unsigned i = 0; i < vdev->max_queues; i++) {
		vdev->queues[i].doorbell_wanted |= vdev->queues[i].vq.enabled;
		/* Nothing is in flight here, whatever was there. */
		virtio_queue_reset_done(vdev, i);
	}
	virtio_deactivated(vdev);
	virtio_pci_doorbells(vdev);
	virtio_live_update(vdev);
	vdev->reactivate = virtio_active(vdev);
	return 0;
}

static const struct state_field virtio_queue_fields[] = {
	STATE_STRUCT(struct virtio_queue, vq, &vq_state_table),
	STATE_UINT(struct virtio_queue, resetting),
};

static const struct state_table virtio_queue_state_table = {
	.name = "virtio-queue",
	.version = 1,
	STATE_FIELDS(virtio_queue_fields),
};

static const struct state_field virtio_fields[] = {
	STATE_STRUCT(struct virtio, pci, &pci_device_state_table),
	STATE_UINT(struct virtio, features),
	STATE_UINT(struct virtio, status),
	STATE_UINT(struct virtio, resetting),
	STATE_UINT(struct virtio, device_feature_select),
	STATE_UINT(struct virtio, driver_feature_select),
	STATE_UINT(struct virtio, driver_features),
	STATE_UINT(struct virtio, queue_select),
	STATE_UINT(struct virtio, config_vector),
	STATE_UINT(struct virtio, config_generation),
	STATE_UINT_MAX(struct virtio, isr, VIRTIO_ISR_QUEUE | VIRTIO_ISR_CONFIG),
	STATE_PTR_STRUCTS(struct virtio, queues, n_queues, VIRTIO_MAX_QUEUES,
			  &virtio_queue_state_table),
};

const struct state_table virtio_state_table = {
	.name = "virtio",
	.version = 1,
	STATE_FIELDS(virtio_fields),
	.post_load = virtio_post_load,
};
