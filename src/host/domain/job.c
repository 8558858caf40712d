/* Jobs: one at a time for a machine, in order. Who waits too long, or comes when too many wait, is told so. */
#include "host/domain/domain_int.h"

#include <errno.h>
#include <stdlib.h>

#include "base/bits.h"
#include "base/clock.h"

void domain_done_tell(struct domain_done *done, struct domain *dom, int r, const struct error *err)
{
	if (done)
		done->fn(done, dom, r, err);
}

static void job_free(struct domain_job *job)
{
	loop_timer_disarm(&job->wait);
	loop_timer_disarm(&job->timer);
	spec_xml_free(job->xml);
	free(job->text);
	free(job->name);
	domain_unref(job->dom);
	free(job);
}

static bool job_unlink(struct domain_job *job)
{
	struct domain *dom = job->dom;

	for (struct domain_job **at = &dom->jobs; *at; at = &(*at)->next) {
		if (*at != job)
			continue;
		*at = job->next;
		if (!*at)
			dom->jobs_tail = at;
		dom->n_jobs--;
		return true;
	}
	return false;
}

static void job_waited(struct loop_timer *timer)
{
	struct domain_job *job = container_of(timer, struct domain_job, wait);
	struct error err = ERROR_INIT;

	error_set(&err, -ETIMEDOUT, "cannot acquire state change lock of domain '%s' (held by %s)",
		  job->dom->name, job->dom->jobs->what);
	job_unlink(job);
	domain_done_tell(job->done, job->dom, -ETIMEDOUT, &err);
	job_free(job);
}

struct domain_job *domain_job_new(struct domain *dom, const char *what,
				  void (*start)(struct domain_job *job), struct domain_done *done)
{
	struct domain_job *job = calloc(1, sizeof(*job));
	struct error err = ERROR_INIT;

	if (!job) {
		error_set(&err, -ENOMEM, "no memory for a job");
		domain_done_tell(done, NULL, -ENOMEM, &err);
		return NULL;
	}
	job->dom = domain_ref(dom);
	job->what = what;
	job->start = start;
	job->done = done;
	loop_timer_init(dom->set->loop, &job->wait, job_waited);
	loop_timer_init(dom->set->loop, &job->timer, NULL);
	return job;
}

void domain_job_submit(struct domain_job *job)
{
	struct domain *dom = job->dom;
	struct error err = ERROR_INIT;

	if (dom->n_jobs >= DOMAIN_MAX_JOBS) {
		error_set(
			&err, -ETIMEDOUT,
			"cannot acquire state change lock of domain '%s' (%u operations wait for %s)",
			dom->name, dom->n_jobs, dom->jobs->what);
		domain_done_tell(job->done, dom, -ETIMEDOUT, &err);
		job_free(job);
		return;
	}
	*dom->jobs_tail = job;
	dom->jobs_tail = &job->next;
	dom->n_jobs++;
	if (dom->jobs == job)
		job->start(job);
	else
		loop_timer_arm(&job->wait, clock_monotonic_ns() + DOMAIN_JOB_WAIT_NS);
}

void domain_job_end(struct domain_job *job, int r, const struct error *err)
{
	struct domain *dom = domain_ref(job->dom);
	struct domain_job *next;

	job_unlink(job);
	next = dom->jobs;
	domain_done_tell(job->done, dom, r, err);
	job_free(job);
	if (next && dom->jobs == next && !dom->set->ending) {
		loop_timer_disarm(&next->wait);
		next->start(next);
	}
	domain_unref(dom);
}

static void job_work_run(struct work *work)
{
	struct domain_job *job = container_of(work, struct domain_job, work);

	job->r = job->run(job, &job->err);
}

static void job_work_done(struct work *work)
{
	struct domain_job *job = container_of(work, struct domain_job, work);

	if (job->r < 0)
		domain_job_end(job, job->r, &job->err);
	else
		job->finish(job);
}

void domain_job_work(struct domain_job *job)
{
	job->work.run = job_work_run;
	job->work.done = job_work_done;
	work_submit(job->dom->set->pool, &job->work);
}

static void job_replied(struct qmp_client_reply *reply, int r, const json_t *ret,
			const struct error *err)
{
	domain_job_end(container_of(reply, struct domain_job, reply), r, err);
}

void domain_job_qmp(struct domain_job *job, const char *command)
{
	struct domain_vmm *vmm = job->dom->vmm;
	struct error err = ERROR_INIT;

	if (!vmm || !vmm->qmp) {
		error_set(&err, -EBADFD, "domain is not running");
		domain_job_end(job, -EBADFD, &err);
		return;
	}
	job->reply.fn = job_replied;
	qmp_client_execute(vmm->qmp, command, NULL, &job->reply);
}

void domain_jobs_cancel(struct domain *dom)
{
	struct error err = ERROR_INIT;

	error_set(&err, -ECANCELED, "the daemon ends");
	while (dom->jobs) {
		struct domain_job *job = dom->jobs;

		job_unlink(job);
		domain_done_tell(job->done, dom, -ECANCELED, &err);
		job_free(job);
	}
}
