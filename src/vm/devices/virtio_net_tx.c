/*
 * Transmit: from the guest's buffers to the backend (VIRTIO 1.2, section 5.1.6.2). A request is taken, sent and given back
 * in one go; when the backend is full it goes back to the queue and waits there.
 */
#include <errno.h>

#include "base/bits.h"
#include "vm/devices/virtio_net_int.h"

/* Hands one request to the backend. 1: done with it; 0: the backend is full. */
static int net_tx_send(struct virtio_net *net, unsigned pair, const struct vq_req *req)
{
	struct net_backend *backend = net->backend;
	int r = -ENETDOWN;

	if (req->out_bytes < NET_HDR_BYTES + NET_MIN_FRAME_BYTES ||
	    req->out_bytes > NET_HDR_BYTES + NET_MAX_FRAME_BYTES)
		r = -EINVAL;
	else if (atomic_load(&net->link_up) && pair < net->active_pairs)
		r = backend->ops->send(backend, pair, req->iov, req->n_out);
	if (r == -EAGAIN)
		return 0;
	if (r == 0) {
		net->stats.tx_frames++;
		net->stats.tx_bytes += req->out_bytes - NET_HDR_BYTES;
	} else {
		net->stats.tx_dropped++;
	}
	return 1;
}

/* 1: there may be more; 0: none left, or the backend is full; -EINVAL: the driver broke the rules. */
static int net_tx_batch(struct virtio_net *net, unsigned pair, bool *ret_pushed)
{
	struct vq *vq = net_txq(net, pair);

	for (unsigned i = 0; i < NET_BATCH; i++) {
		struct vq_req req = {.iov = net->iov, .max_iov = VQ_MAX_SEGS};
		int r = vq_pop(vq, &req);

		if (r <= 0)
			return r;
		if (!net_tx_send(net, pair, &req)) {
			vq_unpop(vq, &req);
			net->pairs[pair].tx_full = true;
			net->stats.tx_waits++;
			return 0;
		}
		vq_push(vq, &req, 0);
		*ret_pushed = true;
	}
	return 1;
}

void net_tx_run(struct virtio_net *net, unsigned pair)
{
	struct virtio_queue *queue = &net->vdev.queues[2 * pair + 1];
	struct vq *vq = &queue->vq;
	const char *why = NULL;
	bool again = false;
	bool pushed = false;
	int r;

	if (!net->running || net->pairs[pair].tx_full || net->pairs[pair].vhost)
		return;
	pthread_mutex_lock(&vq->lock);
	vq_kicks_off(vq);
	r = net_tx_batch(net, pair, &pushed);
	if (pushed)
		virtio_signal(&net->vdev, queue);
	if (r == -EINVAL)
		why = vq->broken_why;
	else if (r > 0)
		again = true;
	else if (!net->pairs[pair].tx_full)
		again = vq_kicks_on(vq);
	pthread_mutex_unlock(&vq->lock);
	if (why)
		virtio_break(&net->vdev, why);
	/* Others on this loop have their turn in between. */
	if (again)
		virtio_queue_rekick(&net->vdev, queue->index);
}
