/*
 * The null backend: frames in memory, for tests and for machines whose network leads nowhere. It can play a backend with
 * any offloads and a full queue; it checks nothing of what it carries.
 *
 * Runs on the loop that it was opened with.
 */
#include "vm/net/null.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"

struct null_frame {
	struct null_frame *next;
	size_t len;
	uint8_t data[];
};

struct null_fifo {
	struct null_frame *head;
	struct null_frame **tail;
	size_t n;
};

struct null_queue {
	struct null_fifo to_guest, from_guest;
	bool want;
};

struct net_null {
	struct net_backend net;
	struct loop *loop;
	struct loop_msg wake;
	bool record, blocked, unblocked;
	unsigned offloads, n_queues;
	struct null_queue queues[NET_MAX_QUEUES];
};

static struct net_null *net_null_of(struct net_backend *net)
{
	return container_of(net, struct net_null, net);
}

static void fifo_init(struct null_fifo *fifo)
{
	*fifo = (struct null_fifo){0};
	fifo->tail = &fifo->head;
}

/* A new frame of `len` bytes at the end, to be filled by the caller; NULL when there is no room. */
static struct null_frame *fifo_add(struct null_fifo *fifo, size_t len)
{
	struct null_frame *frame;

	if (fifo->n >= NET_NULL_MAX_FRAMES)
		return NULL;
	frame = malloc(sizeof(*frame) + len);
	if (!frame)
		return NULL;
	frame->len = len;
	frame->next = NULL;
	*fifo->tail = frame;
	fifo->tail = &frame->next;
	fifo->n++;
	return frame;
}

static void fifo_drop(struct null_fifo *fifo)
{
	struct null_frame *frame = fifo->head;

	fifo->head = frame->next;
	if (!fifo->head)
		fifo->tail = &fifo->head;
	fifo->n--;
	free(frame);
}

/* Tells the device, in a round of the loop of its own, as a descriptor would. */
static void net_null_wake(struct loop_msg *msg)
{
	struct net_null *null = container_of(msg, struct net_null, wake);
	struct net_events *events = &null->net.events;
	bool writable = null->unblocked;

	null->unblocked = false;
	for (unsigned q = 0; q < null->net.n_queues; q++) {
		if (writable && events->writable)
			events->writable(events->opaque, q);
		if (null->queues[q].want && null->queues[q].to_guest.n && events->readable)
			events->readable(events->opaque, q);
		if (null->queues[q].want && null->queues[q].to_guest.n)
			loop_post(null->loop, &null->wake);
	}
}

static int net_null_send(struct net_backend *net, unsigned queue, const struct iovec *iov,
			 unsigned n)
{
	struct net_null *null = net_null_of(net);
	struct null_frame *frame;
	size_t len = 0;
	size_t at = 0;

	if (null->blocked)
		return -EAGAIN;
	if (!null->record)
		return 0;
	for (unsigned i = 0; i < n; i++)
		len += iov[i].iov_len;
	if (len > NET_HDR_BYTES + NET_MAX_FRAME_BYTES)
		return -EMSGSIZE;
	frame = fifo_add(&null->queues[queue].from_guest, len);
	if (!frame)
		return -ENOBUFS;
	for (unsigned i = 0; i < n; i++) {
		memcpy(frame->data + at, iov[i].iov_base, iov[i].iov_len);
		at += iov[i].iov_len;
	}
	return 0;
}

static ssize_t net_null_receive(struct net_backend *net, unsigned queue, const struct iovec *iov,
				unsigned n)
{
	struct null_fifo *fifo = &net_null_of(net)->queues[queue].to_guest;
	struct null_frame *frame = fifo->head;
	size_t at = 0;
	ssize_t r;

	if (!frame)
		return -EAGAIN;
	for (unsigned i = 0; i < n && at < frame->len; i++) {
		size_t part = MIN(iov[i].iov_len, frame->len - at);

		memcpy(iov[i].iov_base, frame->data + at, part);
		at += part;
	}
	r = at == frame->len ? (ssize_t)at : -EMSGSIZE;
	fifo_drop(fifo);
	return r;
}

static void net_null_want_receive(struct net_backend *net, unsigned queue, bool on)
{
	struct net_null *null = net_null_of(net);

	null->queues[queue].want = on;
	if (on && null->queues[queue].to_guest.n)
		loop_post(null->loop, &null->wake);
}

static int net_null_set_offloads(struct net_backend *net, unsigned offloads, unsigned hdr_bytes)
{
	if (hdr_bytes != NET_HDR_BYTES)
		return -EINVAL;
	net_null_of(net)->offloads = offloads;
	return 0;
}

static int net_null_set_queues(struct net_backend *net, unsigned queues)
{
	net_null_of(net)->n_queues = queues;
	return 0;
}

static int net_null_vhost_fd(struct net_backend *net, unsigned queue)
{
	return -ENOTSUP;
}

static void net_null_free(struct net_backend *net)
{
	struct net_null *null = net_null_of(net);

	loop_unpost(null->loop, &null->wake);
	for (unsigned q = 0; q < NET_MAX_QUEUES; q++) {
		while (null->queues[q].to_guest.head)
			fifo_drop(&null->queues[q].to_guest);
		while (null->queues[q].from_guest.head)
			fifo_drop(&null->queues[q].from_guest);
	}
	free(null);
}

static const struct net_backend_ops net_null_ops = {
	.type = "null",
	.send = net_null_send,
	.receive = net_null_receive,
	.want_receive = net_null_want_receive,
	.set_offloads = net_null_set_offloads,
	.vhost_fd = net_null_vhost_fd,
	.set_queues = net_null_set_queues,
	.free = net_null_free,
};

int net_null_open_with(struct loop *loop, unsigned n_queues, unsigned offloads,
		       unsigned rx_offloads, struct net_backend **ret)
{
	struct net_null *null;

	if (n_queues == 0 || n_queues > NET_MAX_QUEUES)
		return -EINVAL;
	null = calloc(1, sizeof(*null));
	if (!null)
		return -ENOMEM;
	null->net.ops = &net_null_ops;
	null->net.n_queues = n_queues;
	null->net.offloads = offloads;
	null->net.rx_offloads = rx_offloads;
	null->loop = loop;
	null->wake.fn = net_null_wake;
	for (unsigned q = 0; q < NET_MAX_QUEUES; q++) {
		fifo_init(&null->queues[q].to_guest);
		fifo_init(&null->queues[q].from_guest);
	}
	*ret = &null->net;
	return 0;
}

int net_null_open(struct loop *loop, struct net_backend **ret)
{
	return net_null_open_with(loop, 1, 0, 0, ret);
}

/* --- the test's side --- */

int net_null_push(struct net_backend *net, unsigned queue, const void *frame, size_t len)
{
	struct net_null *null = net_null_of(net);
	struct null_frame *copy;

	if (len > NET_HDR_BYTES + NET_MAX_FRAME_BYTES)
		return -EMSGSIZE;
	copy = fifo_add(&null->queues[queue].to_guest, len);
	if (!copy)
		return -ENOBUFS;
	memcpy(copy->data, frame, len);
	loop_post(null->loop, &null->wake);
	return 0;
}

ssize_t net_null_pop(struct net_backend *net, unsigned queue, void *buf, size_t size)
{
	struct null_fifo *fifo = &net_null_of(net)->queues[queue].from_guest;
	ssize_t len;

	if (!fifo->head)
		return -EAGAIN;
	len = (ssize_t)fifo->head->len;
	memcpy(buf, fifo->head->data, MIN(size, fifo->head->len));
	fifo_drop(fifo);
	return len;
}

size_t net_null_waiting(const struct net_backend *net, unsigned queue)
{
	const struct net_null *null = (const struct net_null *)net; /* its first member */

	return null->queues[queue].to_guest.n;
}

void net_null_record(struct net_backend *net, bool on)
{
	net_null_of(net)->record = on;
}

void net_null_block(struct net_backend *net, bool blocked)
{
	struct net_null *null = net_null_of(net);

	if (null->blocked && !blocked) {
		null->unblocked = true;
		loop_post(null->loop, &null->wake);
	}
	null->blocked = blocked;
}

void net_null_set_link(struct net_backend *net, bool up)
{
	if (net->events.link)
		net->events.link(net->events.opaque, up);
}

unsigned net_null_offloads(const struct net_backend *net)
{
	return ((const struct net_null *)net)->offloads;
}

unsigned net_null_queues(const struct net_backend *net)
{
	return ((const struct net_null *)net)->n_queues;
}
