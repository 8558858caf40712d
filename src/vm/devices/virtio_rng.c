/*
 * A virtio entropy device (VIRTIO 1.2, section 5.4): the one queue takes buffers and gives them back filled from
 * getrandom(2), on the device's loop. A kick is bounded, so that a guest that asks without end does not keep the loop
 * from others.
 *
 * It keeps no request beyond a hold of the queue's lock: there is nothing to wait for when it is paused or reset.
 */
#include "vm/devices/virtio_rng.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/random.h>

#include "base/bits.h"
#include "base/cleanup.h"
#include "vm/virtio/virtio.h"

#define RNG_DEVICE_ID  4
#define RNG_CLASS      0x00ff00 /* no class of its own */
#define RNG_QUEUE_SIZE 64
#define RNG_MAX_SEGS   16
#define RNG_MAX_BYTES  (64 * KIB) /* in a kick, with */
#define RNG_REQ_COST   64         /* for each request */

struct virtio_rng {
	struct virtio vdev; /* first */
};

/* Fills at most `limit` bytes of the request; returns how many. Zero is what the driver gets when the kernel has none. */
static uint32_t rng_fill(const struct vq_req *req, uint64_t limit)
{
	const struct iovec *in = req->iov + req->n_out;
	uint32_t done = 0;

	for (unsigned i = 0; i < req->n_in && done < limit; i++) {
		size_t want = MIN(in[i].iov_len, limit - done);
		ssize_t n = getrandom(in[i].iov_base, want, GRND_NONBLOCK);

		if (n > 0)
			done += (uint32_t)n;
		if (n < (ssize_t)want)
			break;
	}
	return done;
}

static void rng_kick(struct virtio *vdev, unsigned index)
{
	struct virtio_queue *queue = &vdev->queues[index];
	struct vq *vq = &queue->vq;
	struct iovec iov[RNG_MAX_SEGS];
	struct vq_req req = {.iov = iov, .max_iov = RNG_MAX_SEGS};
	uint64_t left = RNG_MAX_BYTES;
	const char *why = NULL;
	int r = 0;

	pthread_mutex_lock(&vq->lock);
	do {
		vq_kicks_off(vq);
		while (left > 0 && (r = vq_pop(vq, &req)) > 0) {
			uint32_t written = rng_fill(&req, left);

			/* An empty request costs something, too. */
			left -= MIN(left, (uint64_t)written + RNG_REQ_COST);
			vq_push(vq, &req, written);
		}
	} while (r == 0 && left > 0 && vq_kicks_on(vq));
	virtio_signal(vdev, queue);
	if (r < 0)
		why = vq->broken_why;
	pthread_mutex_unlock(&vq->lock);
	if (why)
		virtio_break(vdev, why);
	else if (left == 0)
		virtio_queue_rekick(vdev, index);
}

static void rng_queue_reset(struct virtio *vdev, unsigned index)
{
	virtio_queue_reset_done(vdev, index);
}

static void rng_free(struct device *dev)
{
	struct virtio_rng *rng = container_of(dev, struct virtio_rng, vdev.pci.dev);

	virtio_fini(&rng->vdev);
	free(rng);
}

static const struct state_field rng_fields[] = {
	STATE_STRUCT(struct virtio_rng, vdev, &virtio_state_table),
};

static const struct state_table rng_state = {
	.name = "virtio-rng",
	.version = 1,
	STATE_FIELDS(rng_fields),
};

static const struct virtio_ops rng_ops = {
	.dev = {.type = "virtio-rng",
		.state = &rng_state,
		.reset = virtio_device_reset,
		.pause = virtio_device_pause,
		.resume = virtio_device_resume,
		.free = rng_free},
	.device_id = RNG_DEVICE_ID,
	.class_code = RNG_CLASS,
	.kick = rng_kick,
	.queue_reset = rng_queue_reset,
};

int virtio_rng_new(const struct device_env *env, const char *id, int slot, struct device **ret,
		   struct error *err)
{
	struct virtio_rng *rng = calloc(1, sizeof(*rng));
	int r;

	if (!rng)
		return error_set_errno(err, -ENOMEM, "%s", id);
	r = virtio_init(&rng->vdev, &rng_ops, id, env, 0, 1, RNG_QUEUE_SIZE, 0, err);
	if (r < 0) {
		free(rng);
		return r;
	}
	r = virtio_start(&rng->vdev, slot, err);
	if (r < 0) {
		rng_free(&rng->vdev.pci.dev);
		return r;
	}
	*ret = &rng->vdev.pci.dev;
	return 0;
}
