/*
 * One connection: bytes in, bytes out, and how much of either it may have waiting. Loop's thread.
 *
 * A client that sends calls faster than they are answered, or does not read its answers, is not read from until it has caught up; one that
 * leaves more unread than the limit is dropped.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/clock.h"
#include "base/log.h"
#include "host/rpc/server_int.h"

#define FRAMES_A_TURN  32 /* then others have theirs */
#define STALL_OUT      (1 * MIB)
#define ROOM_OUT       (256 * KIB)
#define FRAME_UNOPENED (64u * 1024)
#define FRAME_READONLY (256u * 1024)
#define SCRATCH_FIRST  (64 * KIB)
#define SCRATCH_KEEP   (256 * KIB)
#define TOTAL_INPUT    (512 * MIB) /* of all clients together, for frames that are not complete */
#define ALWAYS_ALLOWED (64 * KIB)

enum { KEEPALIVE_PING = 1, KEEPALIVE_PONG = 2 };

static void client_update_events(struct rpc_client *client)
{
	if (client->broken)
		return;
	loop_fd_mod(&client->fd,
		    (client->stalled ? 0 : LOOP_READ) | (client->out_head ? LOOP_WRITE : 0));
}

static bool client_should_stall(const struct rpc_client *client)
{
	return client->n_calls >= client->server->limits.max_calls ||
	       client->out_bytes > STALL_OUT || rpc_streams_full(client);
}

void rpc_client_drop(struct rpc_client *client, const char *why)
{
	if (client->broken)
		return;
	if (why)
		log_warning("client of pid %d, uid %u: %s: disconnected", (int)client->peer.pid,
			    client->peer.uid, why);
	client->broken = true;
	loop_fd_del(&client->fd);
	loop_post(client->server->loop, &client->server->reap);
}

void rpc_client_free(struct rpc_client *client)
{
	struct rpc_server *server = client->server;

	loop_fd_del(&client->fd);
	close(client->fd.fd);
	rpc_streams_gone(client);
	rpc_events_gone(client);
	for (struct rpc_call *call = client->calls; call; call = call->next)
		call->client = NULL;
	while (client->out_head) {
		struct rpc_out *out = client->out_head;

		client->out_head = out->next;
		free(out);
	}
	server->in_bytes -= client->in.room;
	rpc_reader_fini(&client->in);
	*client->at = client->next;
	if (client->next)
		client->next->at = client->at;
	server->n_clients--;
	free(client);
}

/* --- output --- */

static void client_flush(struct rpc_client *client)
{
	while (client->out_head) {
		struct rpc_out *out = client->out_head;
		ssize_t n = send(client->fd.fd, out->data + out->sent, out->len - out->sent,
				 MSG_NOSIGNAL | MSG_DONTWAIT);

		if (n < 0) {
			if (errno != EAGAIN && errno != EINTR)
				rpc_client_drop(client, NULL);
			return;
		}
		out->sent += (size_t)n;
		client->out_bytes -= (size_t)n;
		if (out->sent < out->len)
			return;
		client->out_head = out->next;
		if (!client->out_head)
			client->out_tail = &client->out_head;
		free(out);
	}
}

/* Sends at once what the socket takes, and queues the rest. */
static int client_put(struct rpc_client *client, const uint8_t *frame, size_t len)
{
	struct rpc_out *out;
	ssize_t n = 0;

	if (client->broken)
		return -EPIPE;
	if (!client->out_head) {
		n = send(client->fd.fd, frame, len, MSG_NOSIGNAL | MSG_DONTWAIT);
		if (n < 0 && errno != EAGAIN && errno != EINTR) {
			rpc_client_drop(client, NULL);
			return -EPIPE;
		}
		n = MAX(n, (ssize_t)0);
		if ((size_t)n == len)
			return 0;
	}
	if (client->out_bytes + len > client->server->limits.max_output) {
		rpc_client_drop(client, "it does not read what it is sent");
		return -EPIPE;
	}
	out = malloc(sizeof(*out) + len - (size_t)n);
	if (!out) {
		/* Part of a frame may be gone already: there is no way on. */
		rpc_client_drop(client, "no memory for what it is sent");
		return -EPIPE;
	}
	*out = (struct rpc_out){.len = len - (size_t)n};
	memcpy(out->data, frame + n, out->len);
	*client->out_tail = out;
	client->out_tail = &out->next;
	client->out_bytes += out->len;
	client_update_events(client);
	return 0;
}

static int scratch_grow(struct rpc_server *server, size_t room)
{
	uint8_t *buf = realloc(server->scratch, room);

	if (!buf)
		return -ENOMEM;
	server->scratch = buf;
	server->scratch_room = room;
	return 0;
}

static void scratch_shrink(struct rpc_server *server)
{
	if (server->scratch_room <= SCRATCH_KEEP)
		return;
	free(server->scratch);
	server->scratch = NULL;
	server->scratch_room = 0;
}

/* Encodes behind room for the frame's head; the scratch grows until it fits. */
static int scratch_encode(struct rpc_server *server, xdrproc_t codec, void *value, size_t *ret_len)
{
	if (!server->scratch && scratch_grow(server, SCRATCH_FIRST) < 0)
		return -ENOMEM;
	for (;;) {
		size_t room = server->scratch_room - RPC_FRAME_MIN;
		bool good;
		XDR xdr;

		xdrmem_create(&xdr, (char *)server->scratch + RPC_FRAME_MIN, (u_int)room,
			      XDR_ENCODE);
		good = !value || codec(&xdr, value);
		*ret_len = xdr_getpos(&xdr);
		xdr_destroy(&xdr);
		if (good)
			return 0;
		if (server->scratch_room >= RPC_FRAME_MAX)
			return -EMSGSIZE;
		if (scratch_grow(server, MIN(server->scratch_room * 4, (size_t)RPC_FRAME_MAX)) < 0)
			return -ENOMEM;
	}
}

int rpc_client_send(struct rpc_client *client, const struct rpc_header *header, xdrproc_t codec,
		    void *value)
{
	struct rpc_server *server = client->server;
	size_t len = 0;
	int r = scratch_encode(server, codec, value, &len);

	if (r == 0) {
		rpc_frame_put(server->scratch, header, len);
		r = client_put(client, server->scratch, RPC_FRAME_MIN + len);
	}
	scratch_shrink(server);
	return r;
}

int rpc_client_send_bytes(struct rpc_client *client, const struct rpc_header *header,
			  const void *data, size_t len)
{
	struct rpc_server *server = client->server;
	int r;

	if (server->scratch_room < RPC_FRAME_MIN + len) {
		r = scratch_grow(server, MAX(RPC_FRAME_MIN + len, (size_t)SCRATCH_FIRST));
		if (r < 0)
			return r;
	}
	rpc_frame_put(server->scratch, header, len);
	if (len > 0)
		memcpy(server->scratch + RPC_FRAME_MIN, data, len);
	r = client_put(client, server->scratch, RPC_FRAME_MIN + len);
	scratch_shrink(server);
	return r;
}

bool rpc_client_has_room(const struct rpc_client *client)
{
	return !client->broken && client->out_bytes < ROOM_OUT;
}

/* --- input --- */

static void client_keepalive(struct rpc_client *client, const struct rpc_header *header)
{
	struct rpc_header pong = {
		.program = RPC_PROGRAM_KEEPALIVE,
		.version = RPC_VERSION,
		.procedure = KEEPALIVE_PONG,
		.type = RPC_MESSAGE,
	};

	if (header->type == RPC_MESSAGE && header->procedure == KEEPALIVE_PING)
		rpc_client_send_bytes(client, &pong, NULL, 0);
}

void rpc_client_ping(struct rpc_client *client)
{
	struct rpc_header ping = {
		.program = RPC_PROGRAM_KEEPALIVE,
		.version = RPC_VERSION,
		.procedure = KEEPALIVE_PING,
		.type = RPC_MESSAGE,
	};

	rpc_client_send_bytes(client, &ping, NULL, 0);
}

static void client_frame(struct rpc_client *client)
{
	struct rpc_header header;
	const uint8_t *payload;
	size_t len;

	rpc_reader_frame(&client->in, &header, &payload, &len);
	if (header.program == RPC_PROGRAM_KEEPALIVE)
		client_keepalive(client, &header);
	else if (header.type == RPC_CALL && header.status == RPC_OK)
		rpc_dispatch(client, &header, payload, len);
	else if (header.type == RPC_STREAM)
		rpc_stream_packet(client, &header, payload, len);
	else
		rpc_client_drop(client, "a message that no client sends");
}

static size_t client_max_frame(const struct rpc_client *client)
{
	if (!client->opened)
		return FRAME_UNOPENED;
	return client->readonly ? FRAME_READONLY : RPC_FRAME_MAX;
}

/* Reads what there is of one frame: 1 when it is complete, 0 when nothing more is there now, -errno. */
static int client_read_frame(struct rpc_client *client)
{
	struct rpc_server *server = client->server;
	size_t room = client->in.room;
	size_t len;
	void *at;
	ssize_t n;
	int r = rpc_reader_space(&client->in, client_max_frame(client), &at, &len);

	server->in_bytes += client->in.room - room;
	if (r < 0)
		return r;
	if (server->in_bytes > TOTAL_INPUT && client->in.room > ALWAYS_ALLOWED)
		return -ENOBUFS;
	n = recv(client->fd.fd, at, len, MSG_DONTWAIT);
	if (n == 0)
		return -ECONNRESET;
	if (n < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -errno;
	client->heard_ns = clock_monotonic_ns();
	client->pings = 0;
	return rpc_reader_took(&client->in, (size_t)n) ? 1 : 0;
}

static const char *read_failure(int r)
{
	if (r == -EPROTO)
		return "a message of impossible length";
	if (r == -ENOMEM || r == -ENOBUFS)
		return "no memory for its message";
	return NULL;
}

static void client_read(struct rpc_client *client)
{
	for (int frames = 0; frames < FRAMES_A_TURN && !client->broken && !client->stalled;) {
		size_t had = client->in.have;
		size_t room;
		int r = client_read_frame(client);

		if (r < 0) {
			rpc_client_drop(client, read_failure(r));
			return;
		}
		if (r == 0 && client->in.have == had)
			return;
		if (r == 0)
			continue;
		frames++;
		client_frame(client);
		room = client->in.room;
		rpc_reader_next(&client->in);
		client->server->in_bytes -= room - client->in.room;
		client->stalled = client_should_stall(client);
	}
}

void rpc_client_wake(struct rpc_client *client)
{
	if (client->broken)
		return;
	client->stalled = client_should_stall(client);
	client_update_events(client);
}

static void client_ready(struct loop_fd *src, unsigned events)
{
	struct rpc_client *client = container_of(src, struct rpc_client, fd);

	if (events & LOOP_WRITE) {
		client_flush(client);
		if (rpc_client_has_room(client))
			rpc_streams_wake(client);
		rpc_client_wake(client);
	}
	if ((events & LOOP_READ) && !client->broken)
		client_read(client);
	else if ((events & LOOP_HANGUP) && !client->broken)
		rpc_client_drop(client, NULL);
	client_update_events(client);
}

int rpc_server_accept(struct rpc_server *server, int fd, bool readonly)
{
	struct rpc_client *client = calloc(1, sizeof(*client));
	socklen_t len = sizeof(client->peer);
	int r;

	if (!client) {
		close(fd);
		return -ENOMEM;
	}
	client->server = server;
	client->readonly = readonly;
	client->out_tail = &client->out_head;
	client->accepted_ns = clock_monotonic_ns();
	client->heard_ns = client->accepted_ns;
	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &client->peer, &len) < 0)
		client->peer = (struct ucred){.uid = (uid_t)-1, .gid = (gid_t)-1};
	r = loop_fd_add(server->loop, &client->fd, fd, LOOP_READ, client_ready);
	if (r < 0) {
		close(fd);
		free(client);
		return r;
	}
	client->next = server->clients;
	if (client->next)
		client->next->at = &client->next;
	client->at = &server->clients;
	server->clients = client;
	server->n_clients++;
	rpc_server_tick_on(server);
	return 0;
}
