/* Inside of src/host/rpc: the server, as its own files and client.c see it. */
#pragma once

#include "host/rpc/rpc_int.h"

struct rpc_listener {
	struct rpc_listener *next;
	struct rpc_server *server;
	struct loop_fd fd;
	bool readonly;
};

struct rpc_server {
	struct loop *loop;
	const struct rpc_host *host;
	struct rpc_limits limits;
	struct rpc_listener *listeners;
	struct rpc_client *clients;
	unsigned n_clients;
	struct loop_timer tick; /* each second while there are clients */
	struct loop_msg
		reap; /* frees those that are broken, when nothing of them is on the stack */
	struct domain_listener events;
	struct storage_listener pool_events;
	struct work_pool *movers; /* threads that carry files' bytes to and from streams */
	struct mover *mover_list; /* what they do, and what they have done but the loop not seen */
	int next_callback;
	int spare_fd; /* given up for a moment to turn a client away when there are no descriptors */
	uint8_t *scratch; /* where messages are encoded */
	size_t scratch_room;
	size_t in_bytes; /* of all clients' readers */
};

void rpc_client_free(struct rpc_client *client);
void rpc_client_ping(struct rpc_client *client);
void rpc_server_tick_on(struct rpc_server *server);
/* stream.c: frees what the pool, which has ended, will not say the end of. */
void rpc_movers_forget(struct rpc_server *server);
