/* A QMP command of a client's own, passed to a machine and its answer back. Loop's thread. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "base/cleanup.h"
#include "host/domain/domain_int.h"

#define MAX_COMMAND (256 * KIB) /* what a machine takes */

static void monitor_replied(struct qmp_client_reply *reply, int r, const json_t *ret,
			    const struct error *err)
{
	struct domain_job *job = container_of(reply, struct domain_job, reply);
	struct error mine = ERROR_INIT;
	_cleanup_json_ json_t *answer = NULL;

	if (r < 0 && !ret) {
		domain_job_end(job, r, err);
		return;
	}
	/* Borrowed, and only read: what is packed takes a reference of its own. */
	answer = json_pack("{s:O,s:s}", r < 0 ? "error" : "return", (json_t *)(uintptr_t)ret, "id",
			   "vireod");
	job->done->text = answer ? json_dumps(answer, JSON_COMPACT) : NULL;
	if (job->done->text)
		domain_job_end(job, 0, &mine);
	else
		domain_job_end(job, error_set(&mine, -ENOMEM, "no memory for the answer"), &mine);
}

static int parse_command(const char *text, json_t **ret, struct error *err)
{
	int r;

	if (strlen(text) > MAX_COMMAND)
		return error_set(err, -EINVAL, "a command has %llu bytes at most", MAX_COMMAND);
	r = json_parse(text, strlen(text), "the command", ret, err);
	if (r < 0)
		return error_set(err, -EINVAL, "the command is no JSON: give {\"execute\": ...}");
	if (!json_is_string(json_object_get(*ret, "execute")))
		return error_set(err, -EINVAL,
				 "the command has no member 'execute' that is a string");
	return 0;
}

static void monitor_start(struct domain_job *job)
{
	struct domain_vmm *vmm = job->dom->vmm;
	_cleanup_json_ json_t *command = NULL;
	struct error err = ERROR_INIT;
	int r = 0;

	if (!vmm || !vmm->qmp)
		r = error_set(&err, -EBADFD, "domain is not running");
	else if (!job->text)
		r = error_set(&err, -ENOMEM, "no memory for a command");
	else
		r = parse_command(job->text, &command, &err);
	if (r < 0) {
		domain_job_end(job, r, &err);
		return;
	}
	job->reply.fn = monitor_replied;
	qmp_client_execute(vmm->qmp, json_string_value(json_object_get(command, "execute")),
			   json_incref(json_object_get(command, "arguments")), &job->reply);
}

void domain_monitor(struct domain *dom, const char *command, struct domain_done *done)
{
	struct domain_job *job = domain_job_new(dom, "pass a command to", monitor_start, done);

	if (!job)
		return;
	job->text = strdup(command);
	domain_job_submit(job);
}
