/*
 * Streams: bytes both ways beside the calls, with the serial of the call that opened them. Here: a terminal or socket of a machine (its
 * console). Loop's thread.
 *
 * Packets: CONTINUE carries data, an empty one from the server is the end of its data; OK from the client ends the stream and is answered
 * with OK; ERROR from either side aborts.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/bits.h"
#include "host/rpc/server_int.h"

#define PENDING_FULL (256 * KIB) /* towards the device; above it the client is not read from */
#define PENDING_MAX  (RPC_FRAME_MAX + PENDING_FULL)
#define READ_CHUNK   (16 * KIB)

struct rpc_stream {
	struct rpc_stream *next;
	struct rpc_client *client;
	struct rpc_header header;   /* of the call that opened it */
	const struct domain *owner; /* never followed, only compared */
	struct loop_fd fd;          /* its descriptor is owned */
	bool ended;                 /* the device's side is over; the client has been told */
	uint8_t *pending;
	size_t pending_at, pending_len;
};

static void stream_events(struct rpc_stream *stream)
{
	if (stream->ended)
		return;
	loop_fd_mod(&stream->fd, (rpc_client_has_room(stream->client) ? LOOP_READ : 0) |
					 (stream->pending_len > 0 ? LOOP_WRITE : 0));
}

static void stream_send(struct rpc_stream *stream, enum rpc_status status, const void *data,
			size_t len)
{
	struct rpc_header header = stream->header;

	header.type = RPC_STREAM;
	header.status = status;
	rpc_client_send_bytes(stream->client, &header, data, len);
}

static void stream_close_device(struct rpc_stream *stream)
{
	if (stream->ended)
		return;
	stream->ended = true;
	loop_fd_del(&stream->fd);
	close(stream->fd.fd);
	free(stream->pending);
	stream->pending = NULL;
	stream->pending_len = 0;
}

static void stream_free(struct rpc_stream *stream)
{
	for (struct rpc_stream **at = &stream->client->streams; *at; at = &(*at)->next) {
		if (*at == stream) {
			*at = stream->next;
			break;
		}
	}
	stream_close_device(stream);
	free(stream);
}

static void stream_abort(struct rpc_stream *stream, const struct error *err)
{
	struct rpc_header header = stream->header;
	w_error wire;

	header.type = RPC_STREAM;
	header.status = RPC_ERROR;
	rpc_error_fill(&wire, err, RPC_OBJECT_NONE, 0);
	rpc_client_send(stream->client, &header, (xdrproc_t)xdr_w_error, &wire);
	xdr_free((xdrproc_t)xdr_w_error, (char *)&wire);
	stream_free(stream);
}

/* The device has no more: the client is told once, and ends the stream itself. */
static void stream_end(struct rpc_stream *stream)
{
	stream_close_device(stream);
	stream_send(stream, RPC_CONTINUE, NULL, 0);
}

static void stream_write(struct rpc_stream *stream)
{
	while (stream->pending_len > 0) {
		ssize_t n = write(stream->fd.fd, stream->pending + stream->pending_at,
				  stream->pending_len);

		if (n < 0) {
			if (errno != EAGAIN && errno != EINTR)
				stream_end(stream);
			return;
		}
		stream->pending_at += (size_t)n;
		stream->pending_len -= (size_t)n;
	}
	free(stream->pending);
	stream->pending = NULL;
	stream->pending_at = 0;
}

static void stream_read(struct rpc_stream *stream)
{
	uint8_t buf[READ_CHUNK];
	ssize_t n = read(stream->fd.fd, buf, sizeof(buf));

	if (n > 0)
		stream_send(stream, RPC_CONTINUE, buf, (size_t)n);
	else if (n == 0 || (errno != EAGAIN && errno != EINTR))
		stream_end(stream);
}

static void stream_ready(struct loop_fd *src, unsigned events)
{
	struct rpc_stream *stream = container_of(src, struct rpc_stream, fd);

	if (events & LOOP_WRITE) {
		stream_write(stream);
		rpc_client_wake(stream->client);
	}
	if (!stream->ended && (events & LOOP_READ) && rpc_client_has_room(stream->client))
		stream_read(stream);
	else if (!stream->ended && (events & LOOP_HANGUP) && !(events & LOOP_READ))
		stream_end(stream);
	stream_events(stream);
}

static struct rpc_stream *stream_find(struct rpc_client *client, const struct rpc_header *header)
{
	for (struct rpc_stream *stream = client->streams; stream; stream = stream->next)
		if (stream->header.serial == header->serial &&
		    stream->header.procedure == header->procedure)
			return stream;
	return NULL;
}

static int stream_queue(struct rpc_stream *stream, const uint8_t *data, size_t len)
{
	uint8_t *all;

	if (stream->ended)
		return 0; /* sent before the client heard of the end */
	if (stream->pending_len + len > PENDING_MAX)
		return -ENOBUFS;
	all = malloc(stream->pending_len + len);
	if (!all)
		return -ENOMEM;
	if (stream->pending_len > 0)
		memcpy(all, stream->pending + stream->pending_at, stream->pending_len);
	memcpy(all + stream->pending_len, data, len);
	free(stream->pending);
	stream->pending = all;
	stream->pending_at = 0;
	stream->pending_len += len;
	stream_write(stream);
	return 0;
}

void rpc_stream_packet(struct rpc_client *client, const struct rpc_header *header,
		       const uint8_t *data, size_t len)
{
	struct rpc_stream *stream = stream_find(client, header);

	/* One that was aborted here may still be spoken to by a client that does not know. */
	if (!stream)
		return;
	if (header->status == RPC_CONTINUE) {
		if (len > 0 && stream_queue(stream, data, len) < 0)
			rpc_client_drop(client, "no memory for its stream");
		else
			stream_events(stream);
		return;
	}
	if (header->status == RPC_OK)
		stream_send(stream, RPC_OK, NULL, 0);
	stream_free(stream);
}

/* Who has it now makes room, or is in the way. */
static int owner_check(struct rpc_server *server, const struct domain *owner, bool force,
		       struct error *err)
{
	struct error why = ERROR_INIT;

	for (struct rpc_client *client = server->clients; client; client = client->next) {
		for (struct rpc_stream *stream = client->streams; stream; stream = stream->next) {
			if (stream->owner != owner || stream->ended)
				continue;
			if (!force)
				return error_set(err, -ECANCELED,
						 "Active console session exists for this domain");
			error_set(&why, -ECANCELED, "another client took over the console");
			stream_abort(stream, &why);
			return 0;
		}
	}
	return 0;
}

int rpc_stream_open(struct rpc_call *call, int fd, const struct domain *owner, bool force,
		    struct error *err)
{
	struct rpc_client *client = call->client;
	struct rpc_stream *stream = NULL;
	int r = owner_check(client->server, owner, force, err);

	if (r >= 0 && stream_find(client, &call->header))
		r = error_set(err, -EPROTO, "a stream with the serial %u is open",
			      call->header.serial);
	if (r >= 0) {
		stream = calloc(1, sizeof(*stream));
		r = stream ? loop_fd_add(client->server->loop, &stream->fd, fd, LOOP_READ,
					 stream_ready)
			   : -ENOMEM;
		if (r < 0)
			error_set_errno(err, r, "cannot open a stream");
	}
	if (r < 0) {
		free(stream);
		close(fd);
		return r;
	}
	stream->client = client;
	stream->header = call->header;
	stream->owner = owner;
	stream->next = client->streams;
	client->streams = stream;
	return 0;
}

void rpc_streams_wake(struct rpc_client *client)
{
	for (struct rpc_stream *stream = client->streams; stream; stream = stream->next)
		stream_events(stream);
}

bool rpc_streams_full(const struct rpc_client *client)
{
	for (const struct rpc_stream *stream = client->streams; stream; stream = stream->next)
		if (stream->pending_len > PENDING_FULL)
			return true;
	return false;
}

void rpc_streams_gone(struct rpc_client *client)
{
	while (client->streams)
		stream_free(client->streams);
}
