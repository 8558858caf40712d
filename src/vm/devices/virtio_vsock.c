/*
 * A virtio socket device (VIRTIO 1.2, section 5.10). The kernel's vhost-vsock has the receive and transmit queues; the
 * event queue is ours, and says one thing only: after a state load the connections are gone (section 5.10.6.7).
 *
 * Registers are accessed on vCPU threads and only note what is wanted; the device's loop acts on it in vsock_sync().
 */
#include "vm/devices/virtio_vsock.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "base/cleanup.h"
#include "base/endian.h"
#include "vm/devices/virtio_vhost.h"

#define VIRTIO_ID_VSOCK      19
#define PCI_CLASS_OTHER_COMM 0x078000

/* Section 5.10.2; the kernel has the first two. */
#define VSOCK_QUEUES     3
#define VSOCK_VHOST      2
#define VSOCK_EVENTQ     2
#define VSOCK_QUEUE_SIZE 256

#define VSOCK_F_SEQPACKET           1
#define VSOCK_EVENT_TRANSPORT_RESET 0

struct virtio_vsock {
	struct virtio vdev; /* first */
	struct vhost *vhost;
	struct virtio_vhost_ring rings[VSOCK_VHOST];
	struct loop_msg sync;
	uint64_t cid; /* [const] */
	bool running; /* [loop] the kernel serves the rings */
	bool loaded;  /* [loop] the guest has not been told yet that its connections are gone */
	uint8_t has_connections; /* guest-visible: it was running when it was saved */
};

static struct virtio_vsock *vsock_of(struct virtio *vdev)
{
	return container_of(vdev, struct virtio_vsock, vdev);
}

static void vsock_config_read(struct virtio *vdev, unsigned offset, void *buf, unsigned size)
{
	le64 cid = le64_of(vsock_of(vdev)->cid);

	memcpy(buf, (uint8_t *)&cid + offset, size);
}

static void vsock_config_write(struct virtio *vdev, unsigned offset, const void *buf, unsigned size)
{
	/* Nothing in it can be written. */
}

/* --- the event queue --- */

/* Tells the guest, when it has given a buffer for it, that its connections are gone. */
static void vsock_tell_reset(struct virtio_vsock *vsock)
{
	struct virtio_queue *queue = &vsock->vdev.queues[VSOCK_EVENTQ];
	struct iovec iov[16];
	struct vq_req req = {.iov = iov, .max_iov = ARRAY_SIZE(iov)};
	le32 event = le32_of(VSOCK_EVENT_TRANSPORT_RESET);
	const char *why = NULL;
	int r;

	pthread_mutex_lock(&queue->vq.lock);
	r = vq_pop(&queue->vq, &req);
	if (r < 0)
		why = queue->vq.broken_why;
	if (r > 0) {
		vq_push(&queue->vq, &req,
			(uint32_t)iov_from_buf(iov + req.n_out, req.n_in, 0, &event,
					       sizeof(event)));
		virtio_signal(&vsock->vdev, queue);
		vsock->loaded = false;
	} else if (r == 0 && vq_kicks_on(&queue->vq)) {
		virtio_queue_rekick(&vsock->vdev, VSOCK_EVENTQ);
	}
	pthread_mutex_unlock(&queue->vq.lock);
	if (why)
		virtio_break(&vsock->vdev, why);
}

static void vsock_kick(struct virtio *vdev, unsigned index)
{
	struct virtio_vsock *vsock = vsock_of(vdev);

	/* The guest gives buffers for events once, at its start; we take one when there is something to say. */
	if (index == VSOCK_EVENTQ && vsock->running && vsock->loaded)
		vsock_tell_reset(vsock);
}

/* --- running --- */

static void vsock_stop(struct virtio_vsock *vsock)
{
	if (!vsock->running)
		return;
	vhost_vsock_run(vsock->vhost, false);
	for (unsigned i = 0; i < VSOCK_VHOST; i++)
		virtio_vhost_ring_stop(&vsock->rings[i]);
	vsock->running = false;
}

static void vsock_start(struct virtio_vsock *vsock)
{
	struct device *dev = &vsock->vdev.pci.dev;
	int r = vhost_set_features(vsock->vhost, vsock->vdev.features);

	vsock->running = true;
	vsock->has_connections = true;
	for (unsigned i = 0; i < VSOCK_VHOST && r >= 0; i++)
		r = virtio_vhost_ring_start(&vsock->rings[i]);
	if (r >= 0)
		r = vhost_vsock_run(vsock->vhost, true);
	if (r < 0) {
		vsock_stop(vsock);
		log_guest(&dev->log_budget, "%s: vhost does not take the queues: %s", dev->id,
			  strerror(-r));
		return;
	}
	if (vsock->loaded)
		vsock_tell_reset(vsock);
}

/* The driver's or the machine's reset: the device is stopped, dev.lock held. */
static void vsock_forget(struct virtio_vsock *vsock)
{
	vsock->loaded = false;
	vsock->has_connections = false;
	virtio_deactivated(&vsock->vdev);
}

static void vsock_sync(struct loop_msg *msg)
{
	struct virtio_vsock *vsock = container_of(msg, struct virtio_vsock, sync);
	struct virtio *vdev = &vsock->vdev;
	bool active = virtio_active(vdev) && !atomic_load(&vdev->paused);

	if (!active)
		vsock_stop(vsock);
	else if (!vsock->running)
		vsock_start(vsock);
	LOCK_GUARD(&vdev->pci.dev.lock);
	if (vdev->resetting && !vsock->running)
		vsock_forget(vsock);
}

static void vsock_activate(struct virtio *vdev)
{
	loop_post(vdev->pci.dev.env.loop, &vsock_of(vdev)->sync);
}

static void vsock_deactivate(struct virtio *vdev)
{
	if (atomic_load(&vdev->paused))
		vsock_forget(vsock_of(vdev));
	else
		loop_post(vdev->pci.dev.env.loop, &vsock_of(vdev)->sync);
}

/* --- what vm/main asks --- */

static struct virtio_vsock *vsock_of_dev(struct device *dev)
{
	return container_of(dev, struct virtio_vsock, vdev.pci.dev);
}

static void vsock_stop_call(void *opaque)
{
	vsock_stop(opaque);
}

static void vsock_pause(struct device *dev)
{
	struct virtio_vsock *vsock = vsock_of_dev(dev);

	virtio_device_pause(dev);
	loop_call(dev->env.loop, vsock_stop_call, vsock);
	/* A reset that was under way ends here, not after we have returned. */
	LOCK_GUARD(&dev->lock);
	if (vsock->vdev.resetting)
		vsock_forget(vsock);
}

static void vsock_resume(struct device *dev)
{
	virtio_device_resume(dev);
	loop_post(dev->env.loop, &vsock_of_dev(dev)->sync);
}

static void vsock_end_call(void *opaque)
{
	struct virtio_vsock *vsock = opaque;

	vsock_stop(vsock);
	loop_unpost(vsock->vdev.pci.dev.env.loop, &vsock->sync);
	for (unsigned i = 0; i < VSOCK_VHOST; i++)
		virtio_vhost_ring_fini(&vsock->rings[i]);
	vhost_close(vsock->vhost);
	vsock->vhost = NULL;
}

static void vsock_free(struct device *dev)
{
	struct virtio_vsock *vsock = vsock_of_dev(dev);

	loop_call(dev->env.loop, vsock_end_call, vsock);
	virtio_fini(&vsock->vdev);
	free(vsock);
}

static int vsock_post_load(void *obj, struct error *err)
{
	struct virtio_vsock *vsock = obj;

	/* The kernel's connections did not come along. */
	vsock->loaded = vsock->has_connections;
	return 0;
}

static const struct state_field vsock_fields[] = {
	STATE_STRUCT(struct virtio_vsock, vdev, &virtio_state_table),
	STATE_UINT_MAX(struct virtio_vsock, has_connections, 1),
};

static const struct state_table vsock_state = {
	.name = "virtio-vsock",
	.version = 1,
	STATE_FIELDS(vsock_fields),
	.post_load = vsock_post_load,
};

static const struct virtio_ops vsock_ops = {
	.dev =
		{
			.type = "virtio-vsock",
			.state = &vsock_state,
			.reset = virtio_device_reset,
			.pause = vsock_pause,
			.resume = vsock_resume,
			.free = vsock_free,
		},
	.device_id = VIRTIO_ID_VSOCK,
	.class_code = PCI_CLASS_OTHER_COMM,
	.config_read = vsock_config_read,
	.config_write = vsock_config_write,
	.activate = vsock_activate,
	.deactivate = vsock_deactivate,
	.kick = vsock_kick,
};

/* --- new --- */

static int vsock_open(struct virtio_vsock *vsock, const char *id, struct error *err)
{
	int r = vhost_vsock_open(id, &vsock->vhost, err);

	if (r < 0)
		return r;
	r = vhost_vsock_set_cid(vsock->vhost, vsock->cid);
	if (r == -EADDRINUSE)
		return error_set(
			err, r,
			"%s: another machine on this host has the vsock address %u; choose "
			"another",
			id, (unsigned)vsock->cid);
	return r < 0 ? error_set_errno(err, r, "%s: vsock address %u", id, (unsigned)vsock->cid)
		     : 0;
}

/* Everything but the first allocation; what is done is undone by the caller. */
static int vsock_build(struct virtio_vsock *vsock, const struct device_env *env,
		       const struct virtio_vsock_config *config, struct error *err)
{
	int r = vsock_open(vsock, config->id, err);

	if (r < 0)
		return r;
	r = virtio_init(&vsock->vdev, &vsock_ops, config->id, env, BIT(VSOCK_F_SEQPACKET),
			VSOCK_QUEUES, VSOCK_QUEUE_SIZE, sizeof(le64), err);
	if (r < 0)
		return r;
	r = virtio_vhost_limit(&vsock->vdev, vsock->vhost, BIT(VSOCK_F_SEQPACKET), err);
	if (r < 0)
		return r;
	r = virtio_vhost_set_mem(vsock->vhost, env->mem);
	for (unsigned i = 0; i < VSOCK_VHOST && r >= 0; i++)
		r = virtio_vhost_ring_init(&vsock->rings[i], &vsock->vdev, i, vsock->vhost, i);
	if (r < 0)
		return error_set_errno(err, r, "%s: vhost cannot be set up", config->id);
	return virtio_start(&vsock->vdev, config->slot, err);
}

int virtio_vsock_new(const struct device_env *env, const struct virtio_vsock_config *config,
		     struct device **ret, struct error *err)
{
	struct virtio_vsock *vsock;
	int r;

	if (config->cid < VIRTIO_VSOCK_MIN_CID || config->cid > VIRTIO_VSOCK_MAX_CID)
		return error_set(err, -EINVAL, "%s: a vsock address is %d to %u, not %u",
				 config->id, VIRTIO_VSOCK_MIN_CID, VIRTIO_VSOCK_MAX_CID,
				 config->cid);
	vsock = calloc(1, sizeof(*vsock));
	if (!vsock)
		return error_set(err, -ENOMEM, "%s: out of memory", config->id);
	vsock->cid = config->cid;
	vsock->sync.fn = vsock_sync;
	vsock->rings[0].call_src.fd = vsock->rings[1].call_src.fd = -1;
	r = vsock_build(vsock, env, config, err);
	if (r < 0) {
		for (unsigned i = 0; i < VSOCK_VHOST; i++)
			virtio_vhost_ring_fini(&vsock->rings[i]);
		virtio_fini(&vsock->vdev);
		vhost_close(vsock->vhost);
		free(vsock);
		return r;
	}
	*ret = &vsock->vdev.pci.dev;
	return 0;
}
