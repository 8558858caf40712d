/*
 * Frames over a stream socket: framing, reassembly, backpressure (see stream_int.h).
 *
 * Receive reads a frame straight into the guest's buffers together with the length of the next one: one system call a
 * frame. Only a frame that has not arrived whole goes through a buffer of ours.
 *
 * Send gives the socket a frame with its length in one call, and only when the socket has room for all of it. passt
 * before September 2023 waits for the rest of a frame that it has read in part, takes what comes first for all of it, and
 * loses the framing when it was not; a partial send must therefore not happen, and is handled nevertheless.
 *
 * No checksum is computed here: the peer terminates TCP and UDP itself and the memory between us does not err.
 */
#include "vm/net/stream_int.h"

#include <errno.h>
#include <limits.h>
#include <linux/sockios.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/fd.h"
#include "base/log.h"

#define STREAM_SNDBUF_BYTES                                                                        \
	(1 << 20) /* asked for; net.core.wmem_max may give less, 208 KiB as a rule */
/* The socket accounts whole pages and its own bookkeeping for what it holds: never more than this for one frame. */
#define STREAM_FRAME_COST(bytes) ((bytes) + (bytes) / 4 + 8192)

#define VNET_HDR_F_DATA_VALID 2 /* VIRTIO 1.2, 5.1.6 */

static struct net_stream *net_stream_of(struct net_backend *net)
{
	return container_of(net, struct net_stream, net);
}

static void net_stream_watch(struct net_stream *stream)
{
	if (!stream->dead)
		loop_fd_mod(&stream->src, (stream->want_receive ? LOOP_READ : 0) |
						  (stream->want_send ? LOOP_WRITE : 0));
}

static void net_stream_tell_dead(struct loop_msg *msg)
{
	struct net_stream *stream = container_of(msg, struct net_stream, tell_dead);
	struct net_events *events = &stream->net.events;

	if (events->link)
		events->link(events->opaque, false);
}

void net_stream_kill(struct net_stream *stream)
{
	if (stream->dead)
		return;
	stream->dead = true;
	loop_fd_del(&stream->src);
	loop_post(stream->loop, &stream->tell_dead);
}

/* --- receive --- */

/* Reads what is there, without waiting. 0: nothing; negative: the link has ended. */
static ssize_t net_stream_read(struct net_stream *stream, struct iovec *iov, size_t n)
{
	struct msghdr msg = {.msg_iov = iov, .msg_iovlen = n};
	ssize_t r;

	do {
		r = recvmsg(stream->src.fd, &msg, MSG_DONTWAIT);
	} while (r < 0 && errno == EINTR);
	if (r > 0)
		return r;
	if (r < 0 && errno == EAGAIN)
		return 0;
	net_stream_kill(stream);
	return -EPIPE;
}

/* Completes and checks the length of the next frame: 1, or 0 when it is not all there, or negative. */
static int net_stream_read_length(struct net_stream *stream)
{
	uint32_t len;

	if (stream->rx_len_have < sizeof(stream->rx_len)) {
		struct iovec iov = {stream->rx_len.bytes + stream->rx_len_have,
				    sizeof(stream->rx_len) - stream->rx_len_have};
		ssize_t r = net_stream_read(stream, &iov, 1);

		if (r <= 0)
			return (int)r;
		stream->rx_len_have += (unsigned)r;
		if (stream->rx_len_have < sizeof(stream->rx_len))
			return 0;
	}
	len = be32_get(stream->rx_len.value);
	if (len >= NET_MIN_FRAME_BYTES && len <= NET_STREAM_MAX_FRAME)
		return 1;
	log_error("network: the user-mode peer announced a frame of %u bytes; its link is down",
		  len);
	net_stream_kill(stream);
	return -EPROTO;
}

/* Copies between a flat buffer and iovecs behind the header; returns the bytes copied. */
static size_t net_stream_copy(const struct iovec *iov, unsigned n, uint8_t *flat, size_t len,
			      bool to_iov)
{
	size_t skip = NET_HDR_BYTES;
	size_t done = 0;

	for (unsigned i = 0; i < n && done < len; i++) {
		size_t off = MIN(skip, iov[i].iov_len);
		size_t part = MIN(iov[i].iov_len - off, len - done);

		skip -= off;
		if (part == 0)
			continue;
		if (to_iov)
			memcpy((uint8_t *)iov[i].iov_base + off, flat + done, part);
		else
			memcpy(flat + done, (uint8_t *)iov[i].iov_base + off, part);
		done += part;
	}
	return done;
}

static void net_stream_write_header(const struct net_stream *stream, const struct iovec *iov,
				    unsigned n)
{
	uint8_t hdr[NET_HDR_BYTES] = {stream->data_valid ? VNET_HDR_F_DATA_VALID : 0};
	size_t done = 0;

	hdr[10] = 1; /* num_buffers; a device that uses several writes it again */
	for (unsigned i = 0; i < n && done < sizeof(hdr); i++) {
		size_t part = MIN(iov[i].iov_len, sizeof(hdr) - done);

		if (part)
			memcpy(iov[i].iov_base, hdr + done, part);
		done += part;
	}
}

/* Lays the caller's buffers behind the header, `want` bytes at most, and room for the next length out in stream->iov.
 * Returns how many bytes of the frame fit; *ret_n is the number of iovecs. */
static size_t net_stream_layout(struct net_stream *stream, const struct iovec *iov, unsigned n,
				size_t want, size_t *ret_n)
{
	size_t skip = NET_HDR_BYTES;
	size_t fit = 0;
	size_t used = 0;

	for (unsigned i = 0; i < n && fit < want && used < IOV_MAX - 1; i++) {
		size_t off = MIN(skip, iov[i].iov_len);
		size_t part = MIN(iov[i].iov_len - off, want - fit);

		skip -= off;
		if (part == 0)
			continue;
		stream->iov[used++] = (struct iovec){(uint8_t *)iov[i].iov_base + off, part};
		fit += part;
	}
	*ret_n = used;
	return fit;
}

/* The rest of a frame whose beginning is in rx_part. 1 when it is whole. */
static int net_stream_gather(struct net_stream *stream, uint32_t len)
{
	struct iovec iov[2] = {
		{stream->rx_part + stream->rx_part_have, len - stream->rx_part_have},
		{stream->rx_len.bytes, sizeof(stream->rx_len)},
	};
	ssize_t r = net_stream_read(stream, iov, 2);

	if (r <= 0)
		return (int)r;
	if ((size_t)r < iov[0].iov_len) {
		stream->rx_part_have += (uint32_t)r;
		return 0;
	}
	stream->rx_len_have = (unsigned)((size_t)r - iov[0].iov_len);
	stream->rx_part_have = 0;
	return 1;
}

ssize_t net_stream_receive(struct net_backend *net, unsigned queue, const struct iovec *iov,
			   unsigned n)
{
	struct net_stream *stream = net_stream_of(net);
	uint32_t len;
	size_t fit;
	size_t n_iov;
	ssize_t r;

	if (stream->dead)
		return -EAGAIN;
	r = net_stream_read_length(stream);
	if (r <= 0)
		return -EAGAIN;
	len = be32_get(stream->rx_len.value);
	fit = net_stream_layout(stream, iov, n, len, &n_iov);
	if (stream->rx_part_have || fit < len) {
		r = net_stream_gather(stream, len);
		if (r <= 0)
			return -EAGAIN;
		if (fit < len)
			return -EMSGSIZE;
		net_stream_copy(iov, n, stream->rx_part, len, true);
	} else {
		stream->iov[n_iov] = (struct iovec){stream->rx_len.bytes, sizeof(stream->rx_len)};
		r = net_stream_read(stream, stream->iov, n_iov + 1);
		if (r <= 0)
			return -EAGAIN;
		if ((size_t)r < len) {
			net_stream_copy(iov, n, stream->rx_part, (size_t)r, false);
			stream->rx_part_have = (uint32_t)r;
			return -EAGAIN;
		}
		stream->rx_len_have = (unsigned)((size_t)r - len);
	}
	net_stream_write_header(stream, iov, n);
	return (ssize_t)(len + NET_HDR_BYTES);
}

void net_stream_want_receive(struct net_backend *net, unsigned queue, bool on)
{
	struct net_stream *stream = net_stream_of(net);

	stream->want_receive = on;
	net_stream_watch(stream);
}

/* --- send --- */

/* Is there room for `cost` bytes in the socket? Room grows behind our back only, so that one question to the kernel
 * serves many frames. */
static bool net_stream_has_room(struct net_stream *stream, size_t cost)
{
	int queued = 0;

	if (stream->tx_room >= cost) {
		stream->tx_room -= cost;
		return true;
	}
	if (ioctl(stream->src.fd, SIOCOUTQ, &queued) < 0)
		return true;
	stream->tx_room = (size_t)queued < stream->tx_limit ? stream->tx_limit - (size_t)queued : 0;
	/* An empty socket takes any frame, whatever its limit. */
	if (stream->tx_room < cost && queued != 0)
		return false;
	stream->tx_room -= MIN(cost, stream->tx_room);
	return true;
}

static ssize_t net_stream_write(struct net_stream *stream, struct iovec *iov, size_t n)
{
	struct msghdr msg = {.msg_iov = iov, .msg_iovlen = n};
	ssize_t r;

	do {
		r = sendmsg(stream->src.fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL);
	} while (r < 0 && errno == EINTR);
	if (r >= 0)
		return r;
	if (errno == EAGAIN || errno == ENOBUFS || errno == ENOMEM)
		return 0;
	net_stream_kill(stream);
	return -EPIPE;
}

static int net_stream_wait_writable(struct net_stream *stream)
{
	stream->want_send = true;
	net_stream_watch(stream);
	return -EAGAIN;
}

/* Keeps what the socket did not take of header and frame. */
static void net_stream_keep_tail(struct net_stream *stream, const struct iovec *iov, size_t n,
				 size_t taken)
{
	stream->tx_part_at = 0;
	stream->tx_part_end = 0;
	for (size_t i = 0; i < n; i++) {
		size_t off = MIN(taken, iov[i].iov_len);
		size_t part = iov[i].iov_len - off;

		taken -= off;
		memcpy(stream->tx_part + stream->tx_part_end, (uint8_t *)iov[i].iov_base + off,
		       part);
		stream->tx_part_end += (uint32_t)part;
	}
	net_stream_wait_writable(stream);
}

int net_stream_send(struct net_backend *net, unsigned queue, const struct iovec *iov, unsigned n)
{
	struct net_stream *stream = net_stream_of(net);
	size_t skip = NET_HDR_BYTES;
	size_t len = 0;
	size_t used = 1;
	be32 len_be;
	ssize_t r;

	if (stream->dead)
		return -EPIPE;
	if (stream->tx_part_end)
		return -EAGAIN;
	for (unsigned i = 0; i < n; i++) {
		size_t off = MIN(skip, iov[i].iov_len);
		size_t part = iov[i].iov_len - off;

		skip -= off;
		if (part == 0)
			continue;
		if (used == IOV_MAX || part > NET_STREAM_MAX_FRAME - len)
			return -EMSGSIZE;
		stream->iov[used++] = (struct iovec){(uint8_t *)iov[i].iov_base + off, part};
		len += part;
	}
	if (len < NET_MIN_FRAME_BYTES)
		return -EINVAL;
	if (!net_stream_has_room(stream, STREAM_FRAME_COST(len)))
		return net_stream_wait_writable(stream);
	len_be = be32_of((uint32_t)len);
	stream->iov[0] = (struct iovec){&len_be, sizeof(len_be)};
	r = net_stream_write(stream, stream->iov, used);
	if (r == 0)
		return net_stream_wait_writable(stream);
	if (r < 0)
		return (int)r;
	if ((size_t)r < len + sizeof(len_be))
		net_stream_keep_tail(stream, stream->iov, used, (size_t)r);
	return 0;
}

static void net_stream_flush(struct net_stream *stream)
{
	struct net_events *events = &stream->net.events;

	if (stream->tx_part_end) {
		struct iovec iov = {stream->tx_part + stream->tx_part_at,
				    stream->tx_part_end - stream->tx_part_at};
		ssize_t r = net_stream_write(stream, &iov, 1);

		if (r < 0)
			return;
		stream->tx_part_at += (uint32_t)r;
		if (stream->tx_part_at < stream->tx_part_end)
			return;
		stream->tx_part_end = 0;
	}
	stream->want_send = false;
	net_stream_watch(stream);
	if (events->writable)
		events->writable(events->opaque, 0);
}

/* --- life --- */

static void net_stream_ready(struct loop_fd *src, unsigned ready)
{
	struct net_stream *stream = container_of(src, struct net_stream, src);
	struct net_events *events = &stream->net.events;

	if (ready & LOOP_WRITE)
		net_stream_flush(stream);
	if ((ready & LOOP_READ) && !stream->dead && stream->want_receive && events->readable)
		events->readable(events->opaque, 0);
	/* What had arrived before was read above as far as the guest had buffers. */
	else if ((ready & LOOP_HANGUP) && !stream->dead)
		net_stream_kill(stream);
}

int net_stream_set_offloads(struct net_backend *net, unsigned offloads, unsigned hdr_bytes)
{
	if (hdr_bytes != NET_HDR_BYTES)
		return -EINVAL;
	net_stream_of(net)->data_valid = offloads & NET_OFFLOAD_CSUM;
	return 0;
}

int net_stream_vhost_fd(struct net_backend *net, unsigned queue)
{
	return -ENOTSUP;
}

int net_stream_init(struct net_stream *stream, struct loop *loop, int fd,
		    const struct net_backend_ops *ops)
{
	int bytes = STREAM_SNDBUF_BYTES;
	socklen_t size = sizeof(bytes);
	int r;

	*stream = (struct net_stream){.src.fd = fd, .loop = loop};
	stream->tell_dead.fn = net_stream_tell_dead;
	stream->net.ops = ops;
	stream->net.n_queues = 1;
	/* Large frames are welcome and nobody looks at checksums at the other end; what it sends is checksummed. */
	stream->net.offloads =
		NET_OFFLOAD_CSUM | NET_OFFLOAD_TSO4 | NET_OFFLOAD_TSO6 | NET_OFFLOAD_ECN;
	stream->net.rx_offloads = NET_OFFLOAD_CSUM;
	stream->rx_part = malloc(NET_STREAM_MAX_FRAME);
	stream->tx_part = malloc(NET_STREAM_MAX_FRAME + sizeof(be32));
	stream->iov = malloc(IOV_MAX * sizeof(*stream->iov));
	if (!stream->rx_part || !stream->tx_part || !stream->iov)
		return -ENOMEM;
	setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof(bytes));
	if (getsockopt(fd, SOL_SOCKET, SO_SNDBUF, &bytes, &size) < 0)
		return -errno;
	stream->tx_limit = (size_t)bytes;
	r = fd_set_nonblock(fd, true);
	if (r < 0)
		return r;
	return loop_fd_add(loop, &stream->src, fd, 0, net_stream_ready);
}

void net_stream_fini(struct net_stream *stream)
{
	loop_fd_del(&stream->src);
	loop_unpost(stream->loop, &stream->tell_dead);
	if (stream->src.fd >= 0)
		close(stream->src.fd);
	stream->src.fd = -1;
	free(stream->rx_part);
	free(stream->tx_part);
	free(stream->iov);
}

static void net_stream_free(struct net_backend *net)
{
	struct net_stream *stream = net_stream_of(net);

	net_stream_fini(stream);
	free(stream);
}

static const struct net_backend_ops net_stream_ops = {
	.type = "stream",
	.send = net_stream_send,
	.receive = net_stream_receive,
	.want_receive = net_stream_want_receive,
	.set_offloads = net_stream_set_offloads,
	.vhost_fd = net_stream_vhost_fd,
	.free = net_stream_free,
};

int net_stream_open(struct loop *loop, int fd, struct net_backend **ret)
{
	struct net_stream *stream = malloc(sizeof(*stream));
	int r;

	if (!stream) {
		close(fd);
		return -ENOMEM;
	}
	r = net_stream_init(stream, loop, fd, &net_stream_ops);
	if (r < 0) {
		net_stream_free(&stream->net);
		return r;
	}
	*ret = &stream->net;
	return 0;
}
