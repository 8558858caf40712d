/*
 * Frames over a connected stream socket, each behind its length as a 32-bit big-endian number: what passt speaks with
 * virtual machines. Private to vm/net; user.c puts a child process at the other end, tests a socket pair.
 *
 * Runs on one loop. The peer is not trusted to keep to the framing: a length outside of
 * NET_MIN_FRAME_BYTES..NET_STREAM_MAX_FRAME ends the link.
 */
#pragma once

#include "base/endian.h"
#include "vm/net/net.h"

/* passt resets the connection over a larger one, or, when it is old, drops it. */
#define NET_STREAM_MAX_FRAME 65535

struct net_stream {
	struct net_backend net;
	struct loop *loop;
	struct loop_msg tell_dead;
	struct loop_fd src; /* the socket; fd is -1 when there is none */
	bool dead; /* the peer is gone or broke the framing; nothing is sent or received any more */
	bool want_receive, want_send;
	bool data_valid; /* tell the guest that checksums need no check */

	/* Receive: the length of the next frame, which is read along with the frame before it. */
	union {
		be32 value;
		uint8_t bytes[4];
	} rx_len;
	unsigned rx_len_have; /* bytes of rx_len read */
	/* A frame that came in pieces gathers here. */
	uint8_t *rx_part; /* NET_STREAM_MAX_FRAME bytes */
	uint32_t rx_part_have;

	/* Send: the tail of a frame that the socket took only a part of. */
	uint8_t *tx_part;
	uint32_t tx_part_at, tx_part_end;
	size_t tx_limit; /* bytes that may be queued in the socket before we stop: see net_stream_has_room() */
	size_t tx_room; /* at least so many of them are free */

	struct iovec *iov; /* IOV_MAX, scratch of one call */
};

/* Takes the socket over (also closes it on failure). `ops` has the type and free operations of whoever embeds the
 * stream; the others are filled from net_stream_*. */
int net_stream_init(struct net_stream *stream, struct loop *loop, int fd,
		    const struct net_backend_ops *ops);
void net_stream_fini(struct net_stream *stream);
/* Ends the link as if the peer had gone. */
void net_stream_kill(struct net_stream *stream);

int net_stream_send(struct net_backend *net, unsigned queue, const struct iovec *iov, unsigned n);
ssize_t net_stream_receive(struct net_backend *net, unsigned queue, const struct iovec *iov,
			   unsigned n);
void net_stream_want_receive(struct net_backend *net, unsigned queue, bool on);
int net_stream_set_offloads(struct net_backend *net, unsigned offloads, unsigned hdr_bytes);
int net_stream_vhost_fd(struct net_backend *net, unsigned queue);

/* A backend that is nothing but a stream over `fd`; for tests. */
int net_stream_open(struct loop *loop, int fd, struct net_backend **ret);
