/* Inside of src/host/rpc: clients, calls, the procedure tables, events and streams. */
#pragma once

#include <rpc/rpc.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/socket.h>

#include "host/rpc/frame.h"
#include "host/rpc/rpc.h"
#include "host/rpc/wire.h"
#include "host/storage/storage.h"

/* --- procedures --- */

/* What a handler returns besides 0 and a negative errno: rpc_call_finish() will be called. */
#define RPC_LATER 1

struct rpc_call;

struct rpc_proc {
	int number;
	const char *name;
	/* Done when run is set; refused for good when why is; otherwise not yet. */
	const char *why;
	bool readonly; /* a read-only client may call it */
	bool early;    /* before CONNECT_OPEN */
	bool stream;   /* the call opens a stream */
	xdrproc_t args, ret;
	size_t args_size, ret_size;
	/* args and ret are zeroed or decoded structs; ret is freed with its codec, so what it points to is heap. */
	int (*run)(struct rpc_call *call, void *args, void *ret, struct error *err);
};

struct rpc_program {
	uint32_t number;
	const char *name;
	const struct rpc_proc *procs; /* by number, without gaps, from first */
	int first, count;
};

extern const struct rpc_program rpc_program_remote, rpc_program_qemu;

/* Where there are no arguments or no result. */
typedef struct {
	char none;
} w_none;
bool_t xdr_w_none(XDR *xdrs, w_none *value);

/* --- calls --- */

struct rpc_client;
struct rpc_server;

struct rpc_call {
	struct rpc_client *client; /* NULL: it has gone */
	struct rpc_server *server;
	struct ucred peer;     /* who called */
	struct rpc_call *next; /* in the client's list */
	const struct rpc_proc *proc;
	struct rpc_header header;
	void *args, *ret;
	struct domain_done done; /* for handlers that start a job on a machine */
	struct storage_done storage_done;
	struct domain *domain;     /* a reference, or NULL */
	struct storage_pool *pool; /* likewise */
	int what;                  /* for errors: what could not be found, enum rpc_object */
	int code; /* libvirt's error code, when the handler knows it better than errno; 0: by errno */
};

enum rpc_object {
	RPC_OBJECT_NONE,
	RPC_OBJECT_DOMAIN,
	RPC_OBJECT_NETWORK,
	RPC_OBJECT_POOL,
	RPC_OBJECT_VOLUME,
	RPC_OBJECT_NODE_DEVICE,
	RPC_OBJECT_SECRET,
	RPC_OBJECT_NWFILTER,
	RPC_OBJECT_INTERFACE,
};

/* A frame with a call has come; answers it now or later. */
void rpc_dispatch(struct rpc_client *client, const struct rpc_header *header,
		  const uint8_t *payload, size_t len);
/* The answer to a call that returned RPC_LATER; frees the call. r < 0: err says why. */
void rpc_call_finish(struct rpc_call *call, int r, const struct error *err);
void rpc_call_free(struct rpc_call *call);
/* A call that a job on a machine finishes: fills call->done. */
void rpc_call_later(struct rpc_call *call);

/* --- the record (audit.c) --- */

/* A call that changes something has ended so. */
void rpc_audit(const struct rpc_call *call, int r, const struct error *err);
/* A client wanted what it may not. */
void rpc_audit_denied(const struct rpc_client *client, const struct rpc_proc *proc);

/* --- errors (errors.c) --- */

/* libvirt's codes that clients depend on (virterror.h's numbers). */
enum rpc_error_code {
	RPC_ERR_INTERNAL = 1,
	RPC_ERR_NO_MEMORY = 2,
	RPC_ERR_NO_SUPPORT = 3,
	RPC_ERR_INVALID_ARG = 8,
	RPC_ERR_OPERATION_FAILED = 9,
	RPC_ERR_XML = 27,
	RPC_ERR_OPERATION_DENIED = 29,
	RPC_ERR_SYSTEM = 38,
	RPC_ERR_RPC = 39,
	RPC_ERR_NO_DOMAIN = 42,
	RPC_ERR_NO_NETWORK = 43,
	RPC_ERR_AUTH = 45,
	RPC_ERR_NO_POOL = 49,
	RPC_ERR_NO_VOLUME = 50,
	RPC_ERR_NO_NODE_DEVICE = 53,
	RPC_ERR_OPERATION_INVALID = 55,
	RPC_ERR_NO_INTERFACE = 57,
	RPC_ERR_NO_NWFILTER = 62,
	RPC_ERR_NO_SECRET = 66,
	RPC_ERR_CONFIG_UNSUPPORTED = 67,
	RPC_ERR_TIMEOUT = 68,
	RPC_ERR_NO_METADATA = 80,
	RPC_ERR_OPERATION_UNSUPPORTED = 84,
};

/* Fills *ret (to be freed by xdr_w_error): libvirt's code for err->code and what was missing, its part of the daemon, and
 * the text as libvirt's clients show it. code: 0, or the code to use. */
void rpc_error_fill(w_error *ret, const struct error *err, int what, int code);

/* --- clients (client.c) --- */

struct rpc_out {
	struct rpc_out *next;
	size_t len, sent;
	uint8_t data[];
};

struct rpc_callback;
struct rpc_stream;

struct rpc_client {
	struct rpc_server *server;
	struct rpc_client *next, **at; /* in the server's list */
	struct loop_fd fd;             /* its descriptor is owned */
	bool readonly;
	bool opened;    /* CONNECT_OPEN was answered */
	bool keepalive; /* it asked for the feature */
	bool broken;    /* to be freed as soon as nothing of it is on the stack */
	bool stalled;   /* not read from: it has too much unanswered or unread */
	struct ucred peer;
	struct rpc_reader in;
	struct rpc_out *out_head, **out_tail;
	size_t out_bytes;
	struct rpc_call *calls; /* to be finished later */
	unsigned n_calls;
	struct rpc_stream *streams;
	struct rpc_callback *callbacks;
	unsigned n_callbacks;
	uint64_t accepted_ns, heard_ns, pinged_ns;
	unsigned pings; /* unanswered */
};

/* Encodes and queues a message; value may be NULL. -EMSGSIZE: it does not fit a frame; -ENOMEM; -EPIPE: the client is being dropped. */
int rpc_client_send(struct rpc_client *client, const struct rpc_header *header, xdrproc_t codec,
		    void *value);
/* The same with bytes as payload. */
int rpc_client_send_bytes(struct rpc_client *client, const struct rpc_header *header,
			  const void *data, size_t len);
/* May it be given more that nobody waits for (stream data)? */
bool rpc_client_has_room(const struct rpc_client *client);
void rpc_client_drop(struct rpc_client *client, const char *why);
/* Reads on, if it was stalled and need not be any more. */
void rpc_client_wake(struct rpc_client *client);

/* --- events (events.c) --- */

int rpc_event_register(struct rpc_client *client, uint32_t family, int event,
		       const uint8_t *only_uuid, int *ret_callback, struct error *err);
int rpc_event_deregister(struct rpc_client *client, uint32_t family, int callback,
			 struct error *err);
void rpc_events_gone(struct rpc_client *client);
void rpc_events_init(struct rpc_server *server);
void rpc_events_fini(struct rpc_server *server);

enum rpc_event_family {
	RPC_EVENTS_DOMAIN,
	RPC_EVENTS_NETWORK,
	RPC_EVENTS_POOL,
	RPC_EVENTS_NODE_DEVICE,
	RPC_EVENTS_SECRET,
};

/* --- streams (stream.c) --- */

/* A packet of a stream. */
void rpc_stream_packet(struct rpc_client *client, const struct rpc_header *header,
		       const uint8_t *data, size_t len);
/* Opens a stream on `fd` (a terminal or socket, taken over), for the call that is being answered. `owner` with the same value is one
 * user at a time: force replaces who is there, otherwise -EBUSY. */
int rpc_stream_open(struct rpc_call *call, int fd, const struct domain *owner, bool force,
		    struct error *err);
/* The same for a file's bytes from offset on, length of them (0: all there are, or come). The file is read or written on a thread of its own. */
int rpc_stream_open_file(struct rpc_call *call, int fd, uint64_t offset, uint64_t length,
			 bool upload, struct error *err);
/* Reads on from what it stands for: the client has room again. */
void rpc_streams_wake(struct rpc_client *client);
/* Has a stream of the client more queued towards its device than it should? Then the client is not read from. */
bool rpc_streams_full(const struct rpc_client *client);
void rpc_streams_gone(struct rpc_client *client);

/* --- handlers, by subject --- */

typedef int rpc_handler(struct rpc_call *call, void *args, void *ret, struct error *err);
