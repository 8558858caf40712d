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
#include "base/cleanup.h"
#include "base/fd.h"
#include "host/rpc/server_int.h"
#include "host/system/work.h"

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
	struct mover *mover; /* of a file's stream, while its thread is at it */
	bool upload;         /* to a file */
	bool deaf;           /* nothing more is read from its device */
	bool finishing; /* the client has ended an upload: it is answered when all is on the disk */
};

/* A thread that carries bytes between a file and the other end of the stream's socket. It may outlive the stream. */
struct mover {
	struct work work;
	struct rpc_stream *stream; /* [loop] NULL: it has gone */
	struct mover *next, **at;  /* [loop] of the server's */
	int file_fd, sock_fd;      /* owned */
	uint64_t offset, length;
	bool upload;
	int r; /* [worker], then [loop] */
};

static void stream_ready(struct loop_fd *src, unsigned events);

/* Out of the loop while nothing is wanted: a hang-up would be reported again and again. */
static void stream_events(struct rpc_stream *stream)
{
	unsigned want = (!stream->deaf && rpc_client_has_room(stream->client) ? LOOP_READ : 0) |
			(stream->pending_len > 0 ? LOOP_WRITE : 0);
	int fd = stream->fd.fd;

	if (stream->ended)
		return;
	if (!want)
		loop_fd_del(&stream->fd);
	else if (stream->fd.loop)
		loop_fd_mod(&stream->fd, want);
	else
		loop_fd_add(stream->client->server->loop, &stream->fd, fd, want, stream_ready);
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
	if (stream->mover)
		stream->mover->stream = NULL;
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

/* Nothing more comes from the device. Of a file, its thread has the last word. */
static void stream_hangup(struct rpc_stream *stream)
{
	stream->deaf = true;
	if (!stream->mover)
		stream_end(stream);
}

/* Nothing more goes to the device. */
static void stream_refused(struct rpc_stream *stream)
{
	if (stream->mover)
		stream_close_device(stream);
	else
		stream_end(stream);
}

static void stream_write(struct rpc_stream *stream)
{
	while (stream->pending_len > 0) {
		ssize_t n = write(stream->fd.fd, stream->pending + stream->pending_at,
				  stream->pending_len);

		if (n < 0) {
			if (errno != EAGAIN && errno != EINTR)
				stream_refused(stream);
			return;
		}
		stream->pending_at += (size_t)n;
		stream->pending_len -= (size_t)n;
	}
	free(stream->pending);
	stream->pending = NULL;
	stream->pending_at = 0;
	if (stream->finishing)
		shutdown(stream->fd.fd, SHUT_WR);
}

static void stream_read(struct rpc_stream *stream)
{
	uint8_t buf[READ_CHUNK];
	ssize_t n = read(stream->fd.fd, buf, sizeof(buf));

	if (n > 0)
		stream_send(stream, RPC_CONTINUE, buf, (size_t)n);
	else if (n == 0 || (errno != EAGAIN && errno != EINTR))
		stream_hangup(stream);
}

static void stream_ready(struct loop_fd *src, unsigned events)
{
	struct rpc_stream *stream = container_of(src, struct rpc_stream, fd);

	if (events & LOOP_WRITE) {
		stream_write(stream);
		rpc_client_wake(stream->client);
	}
	if (!stream->ended && !stream->deaf && (events & (LOOP_READ | LOOP_HANGUP)) &&
	    rpc_client_has_room(stream->client))
		stream_read(stream);
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
	if (header->status == RPC_OK && stream->mover && stream->upload) {
		stream->finishing = true;
		stream_write(stream);
		return;
	}
	/* An abort is answered, too: its client waits. */
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
			if (!owner || stream->owner != owner || stream->ended)
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

/* --- files --- */

#define MOVE_CHUNK (256 * KIB)

static int move_up(struct mover *mover, uint8_t *buf)
{
	uint64_t at = mover->offset;
	uint64_t left = mover->length ? mover->length : UINT64_MAX;
	ssize_t n;
	int r;

	while ((n = read(mover->sock_fd, buf, MOVE_CHUNK)) > 0) {
		if ((uint64_t)n > left)
			return -EFBIG;
		r = fd_pwrite_full(mover->file_fd, buf, (size_t)n, (off_t)at);
		if (r < 0)
			return r;
		at += (uint64_t)n;
		left -= (uint64_t)n;
	}
	if (n < 0)
		return -errno;
	return fsync(mover->file_fd) < 0 ? -errno : 0;
}

static int move_down(struct mover *mover, uint8_t *buf)
{
	uint64_t at = mover->offset;
	uint64_t left = mover->length ? mover->length : UINT64_MAX;

	while (left > 0) {
		ssize_t n = fd_pread_full(mover->file_fd, buf, MIN(left, (uint64_t)MOVE_CHUNK),
					  (off_t)at);

		if (n <= 0)
			return (int)n;
		for (ssize_t done = 0; done < n;) {
			ssize_t sent =
				send(mover->sock_fd, buf + done, (size_t)(n - done), MSG_NOSIGNAL);

			if (sent < 0)
				return -errno;
			done += sent;
		}
		at += (uint64_t)n;
		left -= (uint64_t)n;
	}
	return 0;
}

static void mover_run(struct work *work)
{
	struct mover *mover = container_of(work, struct mover, work);
	uint8_t *buf = malloc(MOVE_CHUNK);

	mover->r = !buf ? -ENOMEM : mover->upload ? move_up(mover, buf) : move_down(mover, buf);
	free(buf);
	cleanup_close(&mover->sock_fd);
	cleanup_close(&mover->file_fd);
	mover->sock_fd = mover->file_fd = -1;
}

static void mover_free(struct mover *mover)
{
	*mover->at = mover->next;
	if (mover->next)
		mover->next->at = mover->at;
	cleanup_close(&mover->sock_fd);
	cleanup_close(&mover->file_fd);
	free(mover);
}

void rpc_movers_forget(struct rpc_server *server)
{
	while (server->mover_list) {
		loop_unpost(server->loop, &server->mover_list->work.msg);
		mover_free(server->mover_list);
	}
}

static void mover_done(struct work *work)
{
	struct mover *mover = container_of(work, struct mover, work);
	struct rpc_stream *stream = mover->stream;
	struct error err = ERROR_INIT;

	if (stream) {
		stream->mover = NULL;
		if (mover->r < 0) {
			error_set_errno(&err, mover->r, "cannot %s the volume",
					mover->upload ? "write" : "read");
			stream_abort(stream, &err);
		} else if (stream->finishing) {
			stream_send(stream, RPC_OK, NULL, 0);
			stream_free(stream);
		} else if (stream->deaf) {
			stream_end(stream);
		}
	}
	mover_free(mover);
}

int rpc_stream_open_file(struct rpc_call *call, int fd, uint64_t offset, uint64_t length,
			 bool upload, struct error *err)
{
	struct rpc_server *server = call->client->server;
	struct mover *mover = calloc(1, sizeof(*mover));
	int pair[2];
	int r;

	if (!mover || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0) {
		free(mover);
		close(fd);
		return error_set(err, -ENOMEM, "no memory for a stream");
	}
	fd_set_nonblock(pair[0], true);
	r = rpc_stream_open(call, pair[0], NULL, false, err);
	if (r < 0) {
		close(pair[1]);
		close(fd);
		free(mover);
		return r;
	}
	*mover = (struct mover){
		.work = {.run = mover_run, .done = mover_done},
		.stream = call->client->streams,
		.file_fd = fd,
		.sock_fd = pair[1],
		.offset = offset,
		.length = length,
		.upload = upload,
		.next = server->mover_list,
		.at = &server->mover_list,
	};
	if (mover->next)
		mover->next->at = &mover->next;
	server->mover_list = mover;
	call->client->streams->mover = mover;
	call->client->streams->upload = upload;
	work_submit(server->movers, &mover->work);
	return 0;
}
