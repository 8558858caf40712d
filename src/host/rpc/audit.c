/* Who asked for what, and how it ended: a record for every call that changes something, and for each that was denied. Loop's thread. */
#include "base/audit.h"

#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/cleanup.h"
#include "base/fd.h"
#include "base/log.h"
#include "host/rpc/server_int.h"

/* The caller's program by its pid: a hint, since the process may have changed since. */
static void program_of(pid_t pid, char *buf, size_t size)
{
	char path[40];
	_cleanup_close_ int fd = -1;
	ssize_t n;

	snprintf(path, sizeof(path), "/proc/%d/comm", (int)pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	n = fd < 0 ? 0 : fd_read_full(fd, buf, size - 1);
	if (n < 0)
		n = 0;
	buf[n] = '\0';
	buf[strcspn(buf, "\n")] = '\0';
	/* What is no UTF-8 has no JSON. */
	for (char *at = buf; *at; at++)
		if ((unsigned char)*at < ' ' || (unsigned char)*at > '~')
			*at = '?';
}

static void add(struct rpc_server *server, const struct ucred *peer, const char *call,
		const char *on, const char *result, const char *why)
{
	struct error err = ERROR_INIT;
	char program[32], when[32];
	uint64_t ns = clock_realtime_ns();

	if (!server->host->audit)
		return;
	program_of(peer->pid, program, sizeof(program));
	snprintf(when, sizeof(when), "%llu.%06llu", (unsigned long long)(ns / NSEC_PER_SEC),
		 (unsigned long long)(ns % NSEC_PER_SEC / NSEC_PER_USEC));
	if (audit_add(server->host->audit,
		      json_pack("{s:s,s:I,s:I,s:s,s:s,s:s*,s:s,s:s*}", "time", when, "uid",
				(json_int_t)peer->uid, "pid", (json_int_t)peer->pid, "program",
				program, "call", call, "on", on, "result", result, "error", why),
		      &err) < 0)
		log_error("%s was not recorded: %s", call, err.text);
}

/* The machine or pool; of a call that made one, what it made. */
static const char *object_of(const struct rpc_call *call, int r)
{
	if (call->domain)
		return call->domain->name;
	if (call->pool)
		return call->pool->def->name;
	if (r >= 0 && call->proc->ret == (xdrproc_t)xdr_w_dom_arg)
		return ((const w_dom_arg *)call->ret)->dom.name;
	if (r >= 0 && call->proc->ret == (xdrproc_t)xdr_w_pool_arg)
		return ((const w_pool_arg *)call->ret)->pool.name;
	return NULL;
}

void rpc_audit(const struct rpc_call *call, int r, const struct error *err)
{
	if (call->proc->readonly)
		return;
	add(call->server, &call->peer, call->proc->name, object_of(call, r),
	    r >= 0 ? "done" : "failed", r >= 0 ? NULL : err->text);
}

void rpc_audit_denied(const struct rpc_client *client, const struct rpc_proc *proc)
{
	add(client->server, &client->peer, proc->name, NULL, "denied", NULL);
}
