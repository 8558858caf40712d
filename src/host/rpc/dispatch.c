/*
 * From a call's frame to its procedure and back: version, procedure, rights, arguments, result. Loop's thread.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "host/rpc/rpc_int.h"

bool_t xdr_w_none(XDR *xdrs, w_none *value)
{
	return TRUE;
}

static void reply_error(struct rpc_client *client, const struct rpc_header *call,
			const struct error *err, int what, int code)
{
	struct rpc_header header = *call;
	w_error wire;

	header.type = call->type == RPC_STREAM ? RPC_STREAM : RPC_REPLY;
	header.status = RPC_ERROR;
	rpc_error_fill(&wire, err, what, code);
	rpc_client_send(client, &header, (xdrproc_t)xdr_w_error, &wire);
	xdr_free((xdrproc_t)xdr_w_error, (char *)&wire);
}

static void reply_ok(struct rpc_call *call)
{
	struct rpc_header header = call->header;
	struct error err = ERROR_INIT;
	int r;

	header.type = RPC_REPLY;
	header.status = RPC_OK;
	r = rpc_client_send(call->client, &header, call->proc->ret, call->ret);
	if (r == 0 || r == -EPIPE)
		return;
	error_set(&err, r == -ENOMEM ? -ENOMEM : -EPROTO, "the answer to %s does not fit a message",
		  call->proc->name);
	reply_error(call->client, &call->header, &err, RPC_OBJECT_NONE, 0);
}

void rpc_call_free(struct rpc_call *call)
{
	if (!call)
		return;
	if (call->args) {
		xdr_free(call->proc->args, call->args);
		free(call->args);
	}
	if (call->ret) {
		xdr_free(call->proc->ret, call->ret);
		free(call->ret);
	}
	domain_unref(call->domain);
	storage_unref(call->pool);
	free(call);
}

static void call_answer(struct rpc_call *call, int r, const struct error *err)
{
	rpc_audit(call, r, err);
	if (!call->client)
		return;
	if (r >= 0)
		reply_ok(call);
	else
		reply_error(call->client, &call->header, err, call->what, call->code);
}

void rpc_call_finish(struct rpc_call *call, int r, const struct error *err)
{
	struct rpc_client *client = call->client;

	if (client) {
		for (struct rpc_call **at = &client->calls; *at; at = &(*at)->next) {
			if (*at == call) {
				*at = call->next;
				client->n_calls--;
				break;
			}
		}
	}
	call_answer(call, r, err);
	rpc_call_free(call);
	if (client)
		rpc_client_wake(client);
}

static void call_done(struct domain_done *done, struct domain *dom, int r, const struct error *err)
{
	rpc_call_finish(container_of(done, struct rpc_call, done), r, err);
}

void rpc_call_later(struct rpc_call *call)
{
	call->done.fn = call_done;
}

static const struct rpc_proc *find_proc(const struct rpc_header *header, struct error *err)
{
	const struct rpc_program *program = NULL;
	const struct rpc_program *const programs[] = {&rpc_program_remote, &rpc_program_qemu};

	for (size_t i = 0; i < ARRAY_SIZE(programs); i++)
		if (programs[i]->number == header->program)
			program = programs[i];
	if (!program) {
		error_set(err, -EPROTO, "unknown program 0x%08x", header->program);
		return NULL;
	}
	if (header->version != RPC_VERSION) {
		error_set(err, -EPROTO, "program %s has version %d, not %u", program->name,
			  RPC_VERSION, header->version);
		return NULL;
	}
	if (header->procedure < program->first ||
	    header->procedure >= program->first + program->count) {
		error_set(err, -EPROTO, "unknown procedure: %d", header->procedure);
		return NULL;
	}
	return &program->procs[header->procedure - program->first];
}

/* May this client call it now? *ret_code is libvirt's, where errno says too little. */
static int check_rights(const struct rpc_client *client, const struct rpc_proc *proc, int *ret_code,
			struct error *err)
{
	if (!client->opened && !proc->early) {
		*ret_code = RPC_ERR_AUTH;
		return error_set(err, -EACCES,
				 "authentication required: a connection begins with "
				 "CONNECT_OPEN, and this is %s",
				 proc->name);
	}
	if (client->readonly && !proc->readonly)
		return error_set(err, -EACCES, "read only access prevents %s", proc->name);
	if (!proc->run)
		return error_set(err, -ENOSYS, "%s%s%s", proc->name, proc->why ? ": " : "",
				 proc->why ? proc->why : "");
	return 0;
}

static int decode_args(struct rpc_call *call, const uint8_t *payload, size_t len, struct error *err)
{
	XDR xdr;
	bool_t good;

	call->args = calloc(1, call->proc->args_size);
	call->ret = calloc(1, call->proc->ret_size);
	if (!call->args || !call->ret)
		return error_set(err, -ENOMEM, "no memory for a call");
	/* Decoding does not write to its buffer. */
	xdrmem_create(&xdr, (char *)(uintptr_t)payload, (u_int)len, XDR_DECODE);
	good = call->proc->args(&xdr, call->args) && xdr_getpos(&xdr) == len;
	xdr_destroy(&xdr);
	return good ? 0
		    : error_set(err, -EPROTO, "the arguments of %s are malformed",
				call->proc->name);
}

static void run_call(struct rpc_call *call)
{
	struct rpc_client *client = call->client;
	struct error err = ERROR_INIT;
	int r;

	/* In the list before it runs: a job may be done before the handler returns. */
	call->next = client->calls;
	client->calls = call;
	client->n_calls++;
	r = call->proc->run(call, call->args, call->ret, &err);
	if (r != RPC_LATER)
		rpc_call_finish(call, r, &err);
}

void rpc_dispatch(struct rpc_client *client, const struct rpc_header *header,
		  const uint8_t *payload, size_t len)
{
	struct error err = ERROR_INIT;
	int code = 0;
	const struct rpc_proc *proc = find_proc(header, &err);
	struct rpc_call *call;
	int r;

	if (!proc || check_rights(client, proc, &code, &err) < 0) {
		if (proc && err.code == -EACCES && client->opened)
			rpc_audit_denied(client, proc);
		reply_error(client, header, &err, RPC_OBJECT_NONE, code);
		return;
	}
	call = calloc(1, sizeof(*call));
	if (!call) {
		error_set(&err, -ENOMEM, "no memory for a call");
		reply_error(client, header, &err, RPC_OBJECT_NONE, 0);
		return;
	}
	call->client = client;
	call->server = client->server;
	call->peer = client->peer;
	call->proc = proc;
	call->header = *header;
	r = decode_args(call, payload, len, &err);
	if (r < 0) {
		call_answer(call, r, &err);
		rpc_call_free(call);
		return;
	}
	run_call(call);
}
