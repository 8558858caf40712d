/*
 * A client of one machine's QMP socket (QEMU Machine Protocol specification): commands with their answers, events. The machine is trusted less than the
 * daemon: lines are bounded, and what is not understood ends the connection. Loop's thread.
 */
#pragma once

#include "base/error.h"
#include "base/json.h"
#include "base/loop.h"

struct qmp_client;

struct qmp_client_hooks {
	void (*event)(void *opaque, const char *name, const json_t *data);
	/* The connection has ended; the client is to be freed, here or later. */
	void (*closed)(void *opaque);
	void *opaque;
};

/* One command's answer; memory is the caller's until fn was called. */
struct qmp_client_reply {
	/* r < 0: err says why; ret is then QMP's error object, or NULL. ret is borrowed. */
	void (*fn)(struct qmp_client_reply *reply, int r, const json_t *ret,
		   const struct error *err);
	struct qmp_client_reply *next; /* private */
};

/* Connects and begins the protocol; commands may follow at once. -ENOENT, -ECONNREFUSED: nobody listens (yet). */
int qmp_client_new(struct loop *loop, const char *path, const struct qmp_client_hooks *hooks,
		   struct qmp_client **ret);
/* Answers that are outstanding are told -ECANCELED. */
void qmp_client_free(struct qmp_client *client);

/* Takes over args (NULL: none). Every reply is called once, in the order of the commands. */
void qmp_client_execute(struct qmp_client *client, const char *command, json_t *args,
			struct qmp_client_reply *reply);
