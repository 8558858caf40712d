/*
 * The daemon's clients: sockets, frames, procedures, events, streams. Speaks libvirt's protocol to whoever connects; what the
 * procedures act upon is handed in as struct rpc_host.
 *
 * Thread: one loop, all of it. A call that takes longer than a moment is finished later (RPC_LATER); nothing here waits.
 */
#pragma once

#include <stdbool.h>
#include <stdio.h>

#include "base/error.h"
#include "base/loop.h"
#include "host/domain/domain.h"

struct audit_log;   /* base/audit.h */
struct caps;        /* host/system/caps.h */
struct storage_set; /* host/storage/storage.h */

/* What the procedures act upon; borrowed, outlives the server. */
struct rpc_host {
	struct domain_set *domains;
	struct storage_set *storage;
	struct caps *caps;
	struct audit_log *audit; /* NULL: none is kept */
	const char *uri;         /* what a client is told it is connected to: "qemu:///system" */
};

struct rpc_limits {
	unsigned max_clients; /* connections, those that have not opened included */
	unsigned max_calls;   /* of one client, answered later and not yet answered */
	size_t max_output;    /* bytes that a client may leave unread before it is dropped */
};
#define RPC_LIMITS_DEFAULT                                                                         \
	{                                                                                          \
		.max_clients = 5000, .max_calls = 32, .max_output = 64u << 20                      \
	}

struct rpc_server;

int rpc_server_new(struct loop *loop, const struct rpc_host *host, const struct rpc_limits *limits,
		   struct rpc_server **ret, struct error *err);
/* Serves a listening socket, whose descriptor it takes over; called before the loop runs. */
int rpc_server_listen(struct rpc_server *server, int fd, bool readonly, struct error *err);
/* Serves an accepted connection, whose descriptor it takes over, failing or not. */
int rpc_server_accept(struct rpc_server *server, int fd, bool readonly);
unsigned rpc_server_n_clients(const struct rpc_server *server);
/* Disconnects everybody; calls that are not finished are forgotten. */
void rpc_server_free(struct rpc_server *server);

/* Every procedure of the protocol as a table in Markdown, for docs/. */

void rpc_print_procedures(FILE *out);
