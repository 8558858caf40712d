/* What changes machines: each starts a job and is answered when that is done. And the console's stream. Loop's thread. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "base/bits.h"
#include "base/str.h"
#include "host/rpc/procs_int.h"

/* Flags, by libvirt's numbers. */
enum {
	START_PAUSED = 1,
	START_AUTODESTROY = 2,
	START_BYPASS_CACHE = 4,
	START_FORCE_BOOT = 8,
	START_VALIDATE = 16
};
enum { DEFINE_VALIDATE = 1 };
enum { DESTROY_GRACEFUL = 1 };
enum { SHUTDOWN_DEFAULT = 0, SHUTDOWN_ACPI = 1 };
enum { MONITOR_HMP = 1 };
enum { CONSOLE_FORCE = 1, CONSOLE_SAFE = 2 };
/* Of undefine: what each would remove besides; there is none of it. */
enum { UNDEFINE_KNOWN = 0x1 | 0x2 | 0x4 | 0x8 | 0x10 | 0x20 | 0x40 };

/* For procedures that answer with the machine: filled in when the job is done. */
static void done_with_dom(struct domain_done *done, struct domain *dom, int r,
			  const struct error *err)
{
	struct rpc_call *call = container_of(done, struct rpc_call, done);
	struct error mine = ERROR_INIT;

	if (r >= 0) {
		r = rpc_put_dom(call->ret, dom, &mine);
		err = &mine;
	}
	rpc_call_finish(call, r, err);
}

static struct domain_done *later(struct rpc_call *call)
{
	rpc_call_later(call);
	return &call->done;
}

static struct domain_done *later_with_dom(struct rpc_call *call)
{
	call->done.fn = done_with_dom;
	return &call->done;
}

static struct domain_set *domains_of(const struct rpc_call *call)
{
	return call->client->server->host->domains;
}

/* --- definitions --- */

int rpc_domain_define(struct rpc_call *call, void *args, void *ret, struct error *err)
{
	domain_define(domains_of(call), ((const w_str *)args)->text, later_with_dom(call));
	return RPC_LATER;
}

int rpc_domain_define_flags(struct rpc_call *call, void *args, void *ret, struct error *err)
{
	const w_str_flags *a = args;

	/* Every definition is validated. */
	if (rpc_check_flags(call, a->flags, DEFINE_VALIDATE, err) < 0)
		return err->code;
	domain_define(domains_of(call), a->text, later_with_dom(call));
	return RPC_LATER;
}

int rpc_domain_undefine(struct rpc_call *call, void *args, void *ret, struct error *err)
{
	struct domain *dom = rpc_call_domain(call, args, err);

	if (!dom)
		return err->code;
	domain_undefine(dom, later(call));
	return RPC_LATER;
}

int rpc_domain_undefine_flags(struct rpc_call *call, void *args, void *ret, struct error *err)
{
	const w_dom_flags *a = args;

	if (rpc_check_flags(call, a->flags, UNDEFINE_KNOWN, err) < 0)
		return err->code;
	return rpc_domain_undefine(call, args, ret, err);
}

int rpc_domain_rename(struct rpc_call *call, void *args, void *ret, struct error *err)
{
	const w_dom_opt_str_flags *a = args;
	struct domain *dom = rpc_call_domain(call, &a->dom, err);

	if (!dom || rpc_check_flags(call, a->flags, 0, err) < 0)
		return err->code;
	if (!a->text)
		return error_set(err, -EINVAL, "a machine needs a name");
	domain_rename(dom, *a->text, later(call));
	return RPC_LATER;
}

int rpc_domain_set_autostart(struct rpc_call *call, void *args, void *ret, struct error *err)
{
	const w_dom_int *a = args;
	struct domain *dom = rpc_call_domain(call, &a->dom, err);

	if (!dom)
		return err->code;
	domain_set_autostart_of(dom, a->value != 0, later(call));
	return RPC_LATER;
}

int rpc_domain_set_metadata(struct rpc_call *call, void *args, void *ret, struct error *err)
{
	const w_metadata_set *a = args;
	struct domain *dom = rpc_call_domain(call, &a->dom, err);
	const char *uri = a->uri ? *a->uri : NULL, *key = a->key ? *a->key : NULL;

	if (!dom || rpc_check_flags(call, a->flags, 3, err) < 0)
		return err->code;
	if (a->type < SPEC_XML_DESCRIPTION || a->type > SPEC_XML_ELEMENT ||
	    (a->type == SPEC_XML_ELEMENT) != (uri != NULL))
		return error_set(err, -EINVAL,
				 "metadata is title, description, or an element with its uri");
	if (a->type == SPEC_XML_ELEMENT && a->metadata && !key)
		return error_set(err, -EINVAL,
				 "an element of metadata needs a key, the prefix of its uri");
	domain_set_metadata(dom, a->type, a->metadata ? *a->metadata : NULL, key, uri, later(call));
	return RPC_LATER;
}

/* --- start and end --- */

static int check_start_flags(struct rpc_call *call, unsigned flags, struct error *err)
{
	if (flags & START_AUTODESTROY)
		return error_set(err, -EOPNOTSUPP,
				 "machines that end with their client are not supported yet");
	return rpc_check_flags(call, flags,
			       START_PAUSED | START_BYPASS_CACHE | START_FORCE_BOOT |
				       START_VALIDATE,
			       err);
}

int rpc_domain_create_xml(struct rpc_call *call, void *args, void *ret, struct error *err)
{
	const w_str_flags *a = args;

	if (check_start_flags(call, a->flags, err) < 0)
		return err->code;
	domain_create(domains_of(call), a->text, a->flags & START_PAUSED, later_with_dom(call));
	return RPC_LATER;
}

int rpc_domain_create(struct rpc_call *call, void *args, void *ret, struct error *err)
{
	struct domain *dom = rpc_call_domain(call, args, err);

	if (!dom)
		return err->code;
	domain_start(dom, false, later(call));
	return RPC_LATER;
}

int rpc_domain_create_flags(struct rpc_call *call, void *args, void *ret, struct error *err)
{
	const w_dom_flags *a = args;
	struct domain *dom = rpc_call_domain(call, &a->dom, err);

	if (!dom || check_start_flags(call, a->flags, err) < 0)
		return err->code;
	domain_start(dom, a->flags & START_PAUSED, later_with_dom(call));
	return RPC_LATER;
}

int rpc_domain_destroy(struct rpc_call *call, void *args, void *ret, struct error *err)
{
	struct domain *dom = rpc_call_running(call, args, err);

	if (!dom)
		return err->code;
	domain_destroy(dom, false, later(call));
	return RPC_LATER;
}

int rpc_domain_destroy_flags(struct rpc_call *call, void *args, void *ret, struct error *err)
{
	const w_dom_flags *a = args;
	struct domain *dom = rpc_call_running(call, &a->dom, err);

	if (!dom || rpc_check_flags(call, a->flags, DESTROY_GRACEFUL, err) < 0)
		return err->code;
	domain_destroy(dom, a->flags & DESTROY_GRACEFUL, later(call));
	return RPC_LATER;
}

typedef void simple_job(struct domain *dom, struct domain_done *done);

static int start_simple(struct rpc_call *call, void *args, simple_job *job, struct error *err)
{
	struct domain *dom = rpc_call_running(call, args, err);

	if (!dom)
		return err->code;
	job(dom, later(call));
	return RPC_LATER;
}

int rpc_domain_shutdown(struct rpc_call *call, void *args, void *ret, struct error *err)
{
	return start_simple(call, args, domain_shutdown, err);
}

static int check_power_flags(struct rpc_call *call, unsigned flags, struct error *err)
{
	if (flags != SHUTDOWN_DEFAULT && !(flags & SHUTDOWN_ACPI))
		return error_set(err, -EOPNOTSUPP,
				 "a guest is asked by its ACPI power button only");
	return 0;
}

int rpc_domain_shutdown_flags(struct rpc_call *call, void *args, void *ret, struct error *err)
{
	if (check_power_flags(call, ((const w_dom_flags *)args)->flags, err) < 0)
		return err->code;
	return start_simple(call, args, domain_shutdown, err);
}

int rpc_domain_reboot(struct rpc_call *call, void *args, void *ret, struct error *err)
{
	if (check_power_flags(call, ((const w_dom_flags *)args)->flags, err) < 0)
		return err->code;
	return start_simple(call, args, domain_reboot, err);
}

int rpc_domain_reset(struct rpc_call *call, void *args, void *ret, struct error *err)
{
	if (rpc_check_flags(call, ((const w_dom_flags *)args)->flags, 0, err) < 0)
		return err->code;
	return start_simple(call, args, domain_reset, err);
}

int rpc_domain_suspend(struct rpc_call *call, void *args, void *ret, struct error *err)
{
	return start_simple(call, args, domain_suspend, err);
}

int rpc_domain_resume(struct rpc_call *call, void *args, void *ret, struct error *err)
{
	return start_simple(call, args, domain_resume, err);
}

int rpc_domain_inject_nmi(struct rpc_call *call, void *args, void *ret, struct error *err)
{
	if (rpc_check_flags(call, ((const w_dom_flags *)args)->flags, 0, err) < 0)
		return err->code;
	return start_simple(call, args, domain_nmi, err);
}

/* --- the console --- */

int rpc_domain_open_console(struct rpc_call *call, void *args, void *ret, struct error *err)
{
	const w_dom_opt_str_flags *a = args;
	struct domain *dom = rpc_call_running(call, &a->dom, err);
	const char *name = a->text ? *a->text : "serial0";
	const char *tty;
	int fd;

	if (!dom || rpc_check_flags(call, a->flags, CONSOLE_FORCE | CONSOLE_SAFE, err) < 0)
		return err->code;
	if (!str_eq(name, "serial0") && !str_eq(name, "console1"))
		return error_set(err, -ECANCELED, "cannot find console device '%.60s'", name);
	tty = str_eq(name, "console1") || !dom->serial_tty ? dom->console_tty : dom->serial_tty;
	if (!tty)
		return error_set(err, -ECANCELED, "domain '%s' has no console that is a pty",
				 dom->name);
	fd = open(tty, O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
	if (fd < 0)
		return error_set_errno(err, -errno, "cannot open the console '%s'", tty);
	return rpc_stream_open(call, fd, dom, a->flags & CONSOLE_FORCE, err);
}

/* --- the program qemu --- */

static void done_with_text(struct domain_done *done, struct domain *dom, int r,
			   const struct error *err)
{
	struct rpc_call *call = container_of(done, struct rpc_call, done);

	((w_str *)call->ret)->text = done->text;
	rpc_call_finish(call, r, err);
}

int rpc_domain_monitor_command(struct rpc_call *call, void *args, void *ret, struct error *err)
{
	const w_monitor_command *a = args;
	struct domain *dom = rpc_call_running(call, &a->dom, err);

	if (!dom)
		return err->code;
	if (a->flags & MONITOR_HMP)
		return error_set(err, -EOPNOTSUPP,
				 "machines understand QMP only: give the command as JSON");
	if (rpc_check_flags(call, a->flags, 0, err) < 0)
		return err->code;
	call->done.fn = done_with_text;
	domain_monitor(dom, a->command, &call->done);
	return RPC_LATER;
}
