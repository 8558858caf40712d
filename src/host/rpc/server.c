/* Listening sockets, the list of clients, and what happens to them by the clock: those that never open, and keepalive. Loop's thread. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/clock.h"
#include "base/log.h"
#include "host/rpc/server_int.h"
#include "host/system/work.h"

#define OPEN_WITHIN_NS    (30 * NSEC_PER_SEC)
#define KEEPALIVE_IDLE_NS (5 * NSEC_PER_SEC)
#define KEEPALIVE_COUNT   5
#define MOVERS            8
#define BACKLOG           512

static void server_reap(struct loop_msg *msg)
{
	struct rpc_server *server = container_of(msg, struct rpc_server, reap);
	struct rpc_client *next;

	for (struct rpc_client *client = server->clients; client; client = next) {
		next = client->next;
		if (client->broken)
			rpc_client_free(client);
	}
}

static void client_tick(struct rpc_client *client, uint64_t now)
{
	if (client->broken)
		return;
	if (!client->opened) {
		if (now - client->accepted_ns > OPEN_WITHIN_NS)
			rpc_client_drop(client, "it did not open its connection in time");
		return;
	}
	if (!client->keepalive ||
	    now - MAX(client->heard_ns, client->pinged_ns) < KEEPALIVE_IDLE_NS)
		return;
	if (client->pings >= KEEPALIVE_COUNT) {
		rpc_client_drop(client, "no sign of life");
		return;
	}
	client->pings++;
	client->pinged_ns = now;
	rpc_client_ping(client);
}

static void server_tick(struct loop_timer *timer)
{
	struct rpc_server *server = container_of(timer, struct rpc_server, tick);
	uint64_t now = clock_monotonic_ns();

	for (struct rpc_client *client = server->clients; client; client = client->next)
		client_tick(client, now);
	if (server->clients)
		loop_timer_arm(&server->tick, now + NSEC_PER_SEC);
}

void rpc_server_tick_on(struct rpc_server *server)
{
	if (!loop_timer_armed(&server->tick))
		loop_timer_arm(&server->tick, clock_monotonic_ns() + NSEC_PER_SEC);
}

/* No descriptor is left for a client: it is turned away, so that the listener does not report it for ever. */
static void turn_away(struct rpc_server *server, int listener)
{
	int fd;

	if (server->spare_fd >= 0)
		close(server->spare_fd);
	fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	if (fd >= 0)
		close(fd);
	server->spare_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
	log_warning("too many open files: a client was turned away");
}

static void listener_ready(struct loop_fd *src, unsigned events)
{
	struct rpc_listener *listener = container_of(src, struct rpc_listener, fd);
	struct rpc_server *server = listener->server;
	int fd = accept4(src->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

	if (fd < 0) {
		if (errno == EMFILE || errno == ENFILE)
			turn_away(server, src->fd);
		return;
	}
	if (server->n_clients >= server->limits.max_clients) {
		log_warning("%u clients are connected, which is the limit: one was turned away",
			    server->n_clients);
		close(fd);
		return;
	}
	rpc_server_accept(server, fd, listener->readonly);
}

int rpc_server_listen(struct rpc_server *server, int fd, bool readonly, struct error *err)
{
	struct rpc_listener *listener = calloc(1, sizeof(*listener));
	int r;

	if (!listener)
		return error_set(err, -ENOMEM, "no memory for a socket");
	listener->server = server;
	listener->readonly = readonly;
	r = fcntl(fd, F_SETFL, O_NONBLOCK) < 0 || listen(fd, BACKLOG) < 0 ? -errno : 0;
	if (r >= 0)
		r = loop_fd_add(server->loop, &listener->fd, fd, LOOP_READ, listener_ready);
	if (r < 0) {
		free(listener);
		return error_set_errno(err, r, "cannot listen on a socket");
	}
	listener->next = server->listeners;
	server->listeners = listener;
	return 0;
}

int rpc_server_new(struct loop *loop, const struct rpc_host *host, const struct rpc_limits *limits,
		   struct rpc_server **ret, struct error *err)
{
	struct rpc_server *server = calloc(1, sizeof(*server));

	if (!server)
		return error_set(err, -ENOMEM, "no memory for the server");
	server->loop = loop;
	server->host = host;
	server->limits = *limits;
	server->reap.fn = server_reap;
	server->spare_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
	loop_timer_init(loop, &server->tick, server_tick);
	if (work_pool_new(loop, MOVERS, &server->movers) < 0) {
		rpc_server_free(server);
		return error_set(err, -ENOMEM, "no memory for the server");
	}
	rpc_events_init(server);
	*ret = server;
	return 0;
}

unsigned rpc_server_n_clients(const struct rpc_server *server)
{
	return server->n_clients;
}

void rpc_server_free(struct rpc_server *server)
{
	if (!server)
		return;
	if (server->movers)
		rpc_events_fini(server);
	loop_timer_disarm(&server->tick);
	loop_unpost(server->loop, &server->reap);
	while (server->clients)
		rpc_client_free(server->clients);
	while (server->listeners) {
		struct rpc_listener *listener = server->listeners;

		server->listeners = listener->next;
		loop_fd_del(&listener->fd);
		close(listener->fd.fd);
		free(listener);
	}
	/* Their other ends are closed: they come to an end. */
	work_pool_free(server->movers);
	rpc_movers_forget(server);
	if (server->spare_fd >= 0)
		close(server->spare_fd);
	free(server->scratch);
	free(server);
}
