/*
 * Receive: from the backend straight into the guest's buffers (VIRTIO 1.2, sections 5.1.6.3 and 5.1.6.4).
 *
 * A backend cannot tell how long the next frame is, so buffers for the longest are taken from the queue in advance and
 * kept from frame to frame. When the guest has given fewer, what does not fit goes to a spill buffer and is copied as soon
 * as it gives more: no frame is lost for want of buffers that are on their way.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "vm/devices/virtio_net_int.h"

#define RX_SIGNAL_EVERY 16 /* frames: the guest starts on a batch before it is whole */

#define HDR_NUM_BUFFERS 10 /* offset in struct virtio_net_hdr, section 5.1.6 */

#define ETH_TYPE      12
#define ETH_TYPE_VLAN 0x8100

int net_rx_init(struct net_rx *rx)
{
	rx->iov = calloc(NET_RX_IOVS, sizeof(*rx->iov));
	rx->spill = malloc(NET_RX_ROOM);
	return rx->iov && rx->spill ? 0 : -ENOMEM;
}

void net_rx_fini(struct net_rx *rx)
{
	free(rx->iov);
	free(rx->spill);
}

static struct vq_req *net_rx_at(struct net_rx *rx, unsigned i)
{
	return &rx->reqs[(rx->first + i) % NET_RX_SLOTS];
}

/* --- buffers --- */

/* Moves the live iovecs to the front, so that the longest request fits behind them. */
static void net_rx_compact(struct net_rx *rx)
{
	unsigned live = rx->iov_end - rx->iov_first;

	if (rx->iov_end + VQ_MAX_SEGS < NET_RX_IOVS)
		return;
	memmove(rx->iov, rx->iov + rx->iov_first, live * sizeof(*rx->iov));
	for (unsigned i = 0; i < rx->count; i++)
		net_rx_at(rx, i)->iov -= rx->iov_first;
	rx->iov_first = 0;
	rx->iov_end = live;
}

/* Takes buffers until there is room for `want` bytes. 1 when there is some room, 0 when there is none at all, -EINVAL when
 * the driver broke the rules. rx->full tells that we can hold no more of them. */
static int net_rx_refill(struct net_rx *rx, struct vq *vq, uint64_t want)
{
	rx->full = rx->count == NET_RX_SLOTS;
	while (rx->bytes < want && !rx->full) {
		struct vq_req *req = net_rx_at(rx, rx->count);
		int r;

		net_rx_compact(rx);
		req->iov = rx->iov + rx->iov_end;
		req->max_iov = VQ_MAX_SEGS - 1;
		r = vq_pop(vq, req);
		if (r < 0)
			return r;
		if (r == 0)
			break;
		if (req->n_out) {
			vq->broken = true;
			vq->broken_why = "a readable receive buffer";
			return -EINVAL;
		}
		/* One read takes VQ_MAX_SEGS iovecs, the spill among them. */
		if (rx->iov_end - rx->iov_first + req->n_in >= VQ_MAX_SEGS) {
			vq_unpop(vq, req);
			rx->full = true;
			break;
		}
		rx->count++;
		rx->iov_end += req->n_in;
		rx->bytes += req->in_bytes;
		rx->full = rx->count == NET_RX_SLOTS;
	}
	return rx->count > 0;
}

/* Forgets the first k buffers, which have been pushed. */
static void net_rx_drop(struct net_rx *rx, unsigned k)
{
	for (unsigned i = 0; i < k; i++) {
		struct vq_req *req = net_rx_at(rx, 0);

		rx->iov_first += req->n_in;
		rx->bytes -= req->in_bytes;
		rx->first = (rx->first + 1) % NET_RX_SLOTS;
		rx->count--;
	}
	if (rx->count == 0)
		rx->iov_first = rx->iov_end = 0;
}

void net_rx_stop(struct virtio_net *net, unsigned pair)
{
	struct net_rx *rx = &net->pairs[pair].rx;
	struct vq *vq = net_rxq(net, pair);

	net->backend->ops->want_receive(net->backend, pair, false);
	pthread_mutex_lock(&vq->lock);
	while (rx->count)
		vq_unpop(vq, net_rx_at(rx, --rx->count));
	pthread_mutex_unlock(&vq->lock);
	rx->first = 0;
	rx->iov_first = rx->iov_end = 0;
	rx->bytes = 0;
	rx->frame_bytes = 0;
}

/* --- filter (section 5.1.6.5) --- */

static bool net_rx_in_table(const struct virtio_net *net, const uint8_t *mac, unsigned from,
			    unsigned to)
{
	for (unsigned i = from; i < to; i++) {
		if (memcmp(net->mac_table[i], mac, 6) == 0)
			return true;
	}
	return false;
}

static bool net_rx_vlan_wanted(const struct virtio_net *net, const uint8_t *frame, size_t len)
{
	unsigned vlan;

	if (!virtio_has(&net->vdev, NET_F_CTRL_VLAN) || len < 16 ||
	    (frame[ETH_TYPE] << 8 | frame[ETH_TYPE + 1]) != ETH_TYPE_VLAN)
		return true;
	vlan = (frame[14] << 8 | frame[15]) & (NET_VLANS - 1);
	return net->vlans[vlan / 8] >> (vlan % 8) & 1;
}

bool net_rx_wanted(const struct virtio_net *net, const uint8_t *frame, size_t len)
{
	static const uint8_t broadcast[6] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};

	if (len < NET_MIN_FRAME_BYTES)
		return false;
	if (!net_rx_vlan_wanted(net, frame, len))
		return false;
	if (net->promisc)
		return true;
	if (memcmp(frame, broadcast, 6) == 0)
		return !net->nobcast;
	if (frame[0] & 1)
		return !net->nomulti &&
		       (net->allmulti || net->multi_overflow ||
			net_rx_in_table(net, frame, net->n_uni, net->n_uni + net->n_multi));
	return !net->nouni &&
	       (net->alluni || net->uni_overflow || memcmp(frame, net->mac, 6) == 0 ||
		net_rx_in_table(net, frame, 0, net->n_uni));
}

/* --- frames --- */

/* Gives a frame, which is in the buffers, to the guest. */
static void net_rx_deliver(struct virtio_net *net, struct net_rx *rx, struct vq *vq, size_t bytes)
{
	size_t left = bytes;
	unsigned k = 0;
	le16 num;

	while (left) {
		struct vq_req *req = net_rx_at(rx, k);
		size_t part = MIN(left, (size_t)req->in_bytes);

		left -= part;
		k++;
	}
	num = le16_of((uint16_t)k);
	iov_from_buf(rx->iov + rx->iov_first, rx->iov_end - rx->iov_first, HDR_NUM_BUFFERS, &num,
		     sizeof(num));
	left = bytes;
	for (unsigned i = 0; i < k; i++) {
		struct vq_req *req = net_rx_at(rx, i);
		size_t part = MIN(left, (size_t)req->in_bytes);

		vq_push_delayed(vq, req, (uint32_t)part, i);
		left -= part;
	}
	vq_push_flush(vq, k);
	net_rx_drop(rx, k);
	net->stats.rx_frames++;
	net->stats.rx_bytes += bytes - NET_HDR_BYTES;
}

/* The rest of a frame that waits for buffers. 1: delivered or given up; -ENOBUFS: it waits on. */
static int net_rx_resume(struct virtio_net *net, struct net_rx *rx, struct vq *vq)
{
	size_t bytes = rx->frame_bytes;
	int r = net_rx_refill(rx, vq, bytes);

	if (r < 0)
		return r;
	if (rx->bytes < bytes) {
		if (!rx->full)
			return -ENOBUFS;
		rx->frame_bytes = 0;
		net->stats.rx_dropped++;
		return 1;
	}
	iov_from_buf(rx->iov + rx->iov_first, rx->iov_end - rx->iov_first, rx->covered, rx->spill,
		     bytes - rx->covered);
	rx->frame_bytes = 0;
	net_rx_deliver(net, rx, vq, bytes);
	return 1;
}

/* One read of the backend into what buffers there are; with the spill behind them any frame fits. */
static ssize_t net_rx_read(struct virtio_net *net, struct net_rx *rx, unsigned pair)
{
	struct net_backend *backend = net->backend;
	unsigned n = rx->iov_end - rx->iov_first;

	rx->iov[rx->iov_end] = (struct iovec){rx->spill, NET_RX_ROOM};
	return backend->ops->receive(backend, pair, rx->iov + rx->iov_first, n + 1);
}

/* Is this frame, whose beginning is in the buffers or the spill, for the guest? */
static bool net_rx_filter(const struct virtio_net *net, const struct net_rx *rx, size_t bytes)
{
	uint8_t head[16];
	size_t len = iov_to_buf(rx->iov + rx->iov_first, rx->iov_end - rx->iov_first + 1,
				NET_HDR_BYTES, head, MIN(sizeof(head), bytes - NET_HDR_BYTES));

	return net_rx_wanted(net, head, len);
}

/* Moves one frame. 1: moved or dropped; 0: the backend has none; -ENOBUFS: the guest has no buffers; -EINVAL: it broke the
 * rules. */
static int net_rx_step(struct virtio_net *net, unsigned pair)
{
	struct net_rx *rx = &net->pairs[pair].rx;
	struct vq *vq = net_rxq(net, pair);
	bool mergeable = virtio_has(&net->vdev, NET_F_MRG_RXBUF);
	ssize_t n;
	int r;

	if (rx->frame_bytes)
		return net_rx_resume(net, rx, vq);
	r = net_rx_refill(rx, vq, mergeable ? NET_RX_ROOM : 1);
	if (r <= 0)
		return r < 0 ? r : -ENOBUFS;
	n = net_rx_read(net, rx, pair);
	if (n == -EAGAIN)
		return 0;
	if (n < NET_HDR_BYTES + NET_MIN_FRAME_BYTES) {
		net->stats.rx_dropped++;
		return 1;
	}
	if (!net_rx_filter(net, rx, (size_t)n)) {
		net->stats.rx_filtered++;
		return 1;
	}
	if ((uint64_t)n <= rx->bytes) {
		net_rx_deliver(net, rx, vq, (size_t)n);
		return 1;
	}
	if (!mergeable) {
		net->stats.rx_dropped++;
		return 1;
	}
	rx->frame_bytes = (size_t)n;
	rx->covered = rx->bytes;
	return 1;
}

/* As many frames as a batch allows. Returns how it ended, as net_rx_step(). */
static int net_rx_batch(struct virtio_net *net, unsigned pair)
{
	struct virtio_queue *queue = &net->vdev.queues[2 * pair];
	struct vq *vq = &queue->vq;
	uint64_t signalled = net->stats.rx_frames;
	int r = 1;

	vq_kicks_off(vq);
	for (unsigned i = 0; i < NET_BATCH && r > 0; i++) {
		r = net_rx_step(net, pair);
		if (r == -ENOBUFS && vq_kicks_on(vq)) {
			vq_kicks_off(vq);
			r = 1;
		}
		if (net->stats.rx_frames - signalled >= RX_SIGNAL_EVERY) {
			virtio_signal(&net->vdev, queue);
			signalled = net->stats.rx_frames;
		}
	}
	if (net->stats.rx_frames != signalled)
		virtio_signal(&net->vdev, queue);
	return r;
}

void net_rx_run(struct virtio_net *net, unsigned pair)
{
	struct vq *vq = net_rxq(net, pair);
	const char *why = NULL;
	bool want;
	int r;

	if (!net->running || pair >= net->active_pairs || net->pairs[pair].vhost)
		return;
	if (!atomic_load(&net->link_up)) {
		net->backend->ops->want_receive(net->backend, pair, false);
		return;
	}
	pthread_mutex_lock(&vq->lock);
	r = net_rx_batch(net, pair);
	if (r == -EINVAL)
		why = vq->broken_why;
	pthread_mutex_unlock(&vq->lock);
	/* Without buffers a kick brings us here again. */
	want = r >= 0;
	net->backend->ops->want_receive(net->backend, pair, want);
	if (why)
		virtio_break(&net->vdev, why);
}
