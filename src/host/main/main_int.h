/* Inside of src/host/main: options and sockets of the daemon. Main thread. */
#pragma once

#include <stdbool.h>

#include "base/error.h"
#include "host/rpc/rpc.h"

struct options {
	char *runtime_dir, *state_dir, *config_dir; /* heap; filled in by options_finish() */
	char *socket_dir;
	char *vmm;
	bool session; /* a user's own daemon, not the system's */
	bool offer_null;
	bool help, version, print_procedures;
};

/* -EINVAL: an option is not known or lacks its value. */
int options_parse(struct options *options, int argc, char **argv, struct error *err);
/* Fills in the folders that were not given and finds vireo-vmm. */
int options_finish(struct options *options, struct error *err);
void options_fini(struct options *options);

/* Opens the sockets in the socket folder, each under both of its names, and gives them to the server. -EADDRINUSE: somebody else serves one, and what to do. */
int sockets_open(const struct options *options, struct rpc_server *server, struct error *err);
void sockets_remove(const struct options *options);
/* One daemon for a runtime folder: a descriptor that holds the lock, or -EWOULDBLOCK. */
int sockets_lock(const struct options *options, struct error *err);

/* Sockets that the service manager has opened: how many there were (0: none, open them), or -errno. */
int service_sockets(struct rpc_server *server, struct error *err);
/* Tells the service manager, if there is one, that clients are served. */
void service_ready(void);
