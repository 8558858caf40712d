/*
 * The state machine: from defined to running to ended, and what follows an end (restart, forgetting a transient machine). Events are told in the order
 * in which states change.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/str.h"
#include "host/domain/domain_int.h"

#define QUIT_WITHIN_NS (5 * NSEC_PER_SEC)
#define TAIL_BYTES     400

/* Details of events, libvirt's numbers. */
enum { STARTED_BOOTED = 0 };
enum { STOPPED_SHUTDOWN = 0, STOPPED_DESTROYED = 1, STOPPED_CRASHED = 2, STOPPED_FAILED = 5 };
enum { SHUTDOWN_FINISHED = 0, CRASHED_PANICKED = 0 };

void domain_log_tail(const struct domain *dom, char *buf, size_t size)
{
	_cleanup_free_ char *path = NULL;
	_cleanup_close_ int fd = -1;
	off_t end, from = dom->vmm ? dom->vmm->log_from : 0;
	ssize_t n;

	buf[0] = '\0';
	if (asprintf(&path, "%s/log/%s.log", dom->set->config.dirs.state, dom->name) < 0) {
		path = NULL;
		return;
	}
	fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	end = fd < 0 ? -1 : lseek(fd, 0, SEEK_END);
	if (end <= from)
		return;
	from = MAX(from, end - (off_t)size + 1);
	n = fd_pread_full(fd, buf, size - 1, from);
	n = MAX(n, (ssize_t)0);
	while (n > 0 && (buf[n - 1] == '\n' || buf[n - 1] == '\r'))
		n--;
	buf[n] = '\0';
	for (char *at = buf; *at; at++)
		if ((unsigned char)*at < ' ')
			*at = *at == '\n' ? ';' : ' ';
}

/* --- start --- */

static int make_live(struct domain *dom, const struct spec_xml *xml, struct error *err)
{
	struct spec_xml *live = NULL;
	int r = spec_xml_parse(xml->text, strlen(xml->text), dom->set->config.emulator, &live, err);

	if (r < 0)
		return r;
	spec_xml_free(dom->live);
	dom->live = live;
	return 0;
}

/* Nothing of a run is left but its process's record, which the caller frees last: jobs that wait for its answers are ended by that. */
static struct domain_vmm *drop_live(struct domain *dom)
{
	struct domain_vmm *vmm = steal_ptr(&dom->vmm);

	domain_status_remove(dom);
	dom->pid = 0;
	dom->id = -1;
	dom->updated = false;
	spec_xml_free(dom->live);
	dom->live = NULL;
	free(steal_ptr(&dom->live_text));
	free(steal_ptr(&dom->serial_tty));
	free(steal_ptr(&dom->console_tty));
	return vmm;
}

static int begin(struct domain_job *job, struct error *err)
{
	struct domain *dom = job->dom;
	const struct spec_xml *xml = job->xml ? job->xml : dom->def;
	int r;

	if (domain_active(dom))
		return error_set(err, -EBADFD, "domain is already running");
	if (dom->gone)
		return error_set(err, -EBADFD, "domain '%s' was undefined meanwhile", dom->name);
	r = make_live(dom, xml, err);
	if (r < 0)
		return r;
	dom->id = job->id >= 0 ? job->id : dom->set->next_id++;
	r = domain_vmm_start(job, err);
	if (r < 0)
		domain_vmm_free(drop_live(dom));
	return r;
}

static void start_start(struct domain_job *job)
{
	struct error err = ERROR_INIT;
	int r = begin(job, &err);

	if (r >= 0) {
		/* Named, and counted as running, from now on; its state says so when it is. */
		job->dom->state = DOMAIN_SHUTOFF;
		return;
	}
	domain_job_end(job, r, &err);
}

void domain_start(struct domain *dom, bool paused, struct domain_done *done)
{
	struct domain_job *job = domain_job_new(dom, "start", start_start, done);

	if (!job)
		return;
	job->flag = paused;
	job->id = -1;
	domain_job_submit(job);
}

/* After an end that the machine or its definition wants followed by a start. quiet: it is the same run to those who watch. */
static void start_again(struct domain *dom, int id, bool quiet)
{
	struct domain_job *job = domain_job_new(dom, "restart", start_start, NULL);

	if (!job)
		return;
	job->id = id;
	job->quiet = quiet;
	domain_job_submit(job);
}

void domain_is_up(struct domain *dom, bool paused)
{
	struct domain_vmm *vmm = dom->vmm;
	struct domain_job *job = steal_ptr(&vmm->starting);
	const struct spec_xml_live live = {dom->id, dom->serial_tty, dom->console_tty};
	struct error err = ERROR_INIT;
	bool was_off = dom->state == DOMAIN_SHUTOFF || dom->state == DOMAIN_CRASHED;

	free(steal_ptr(&dom->live_text));
	if (spec_xml_live_text(dom->live, &live, &dom->live_text, &err) < 0)
		log_warning("domain '%s': its XML as it runs cannot be made: %s", dom->name,
			    err.text);
	dom->state = paused ? DOMAIN_PAUSED : DOMAIN_RUNNING;
	if (was_off)
		dom->reason = paused ? DOMAIN_PAUSED_USER : DOMAIN_RUNNING_BOOTED;
	dom->listed = true;
	if (!job)
		return;
	if (domain_status_write(dom, &err) < 0)
		log_warning("domain '%s' will not be found again by a restarted daemon: %s",
			    dom->name, err.text);
	if (!job->quiet) {
		domain_emit(dom, DOMAIN_STARTED, STARTED_BOOTED);
		if (paused)
			domain_emit(dom, DOMAIN_SUSPENDED, 0);
	}
	domain_job_end(job, 0, NULL);
}

/* --- the end --- */

/* Why it ended, as libvirt has it. */
struct ending {
	enum domain_state state;
	int reason, event, detail;
};

static struct ending ending_of(const struct domain_vmm *vmm, int status)
{
	static const struct ending destroyed = {DOMAIN_SHUTOFF, DOMAIN_SHUTOFF_DESTROYED,
						DOMAIN_STOPPED, STOPPED_DESTROYED};
	static const struct ending shutdown = {DOMAIN_SHUTOFF, DOMAIN_SHUTOFF_SHUTDOWN,
					       DOMAIN_STOPPED, STOPPED_SHUTDOWN};
	static const struct ending crashed = {DOMAIN_SHUTOFF, DOMAIN_SHUTOFF_CRASHED,
					      DOMAIN_STOPPED, STOPPED_CRASHED};
	static const struct ending failed = {DOMAIN_SHUTOFF, DOMAIN_SHUTOFF_FAILED, DOMAIN_STOPPED,
					     STOPPED_FAILED};

	if (vmm->asked_to_end)
		return destroyed;
	if (vmm->panicked)
		return crashed;
	if (vmm->by_guest || (status != -1 && WIFEXITED(status) && WEXITSTATUS(status) == 0))
		return shutdown;
	return failed;
}

static void start_has_failed(struct domain_job *job)
{
	struct error err = ERROR_INIT;
	char tail[TAIL_BYTES];

	domain_log_tail(job->dom, tail, sizeof(tail));
	error_set(&err, -ECHILD, "domain '%s' did not start: %s", job->dom->name,
		  *tail ? tail : "vireo-vmm ended without a word");
	domain_vmm_free(drop_live(job->dom));
	if (job->dom->listed && job->quiet)
		domain_emit(job->dom, DOMAIN_STOPPED, STOPPED_FAILED);
	domain_job_end(job, -ECHILD, &err);
}

/* What the definition wants after this end. */
static bool wants_restart(const struct domain *dom, const struct ending *ending)
{
	if (dom->set->ending)
		return false;
	switch (ending->reason) {
	case DOMAIN_SHUTOFF_SHUTDOWN:
		return dom->live->on_poweroff == SPEC_XML_RESTART;
	case DOMAIN_SHUTOFF_CRASHED:
		return dom->live->on_crash == SPEC_XML_RESTART;
	default:
		return false;
	}
}

static void told_ended(struct domain *dom, const struct ending *ending, bool panicked)
{
	dom->state = ending->state;
	dom->reason = ending->reason;
	if (panicked)
		domain_emit(dom, DOMAIN_CRASHED_EVENT, CRASHED_PANICKED);
	if (ending->reason == DOMAIN_SHUTOFF_SHUTDOWN)
		domain_emit(dom, DOMAIN_SHUTDOWN_EVENT, SHUTDOWN_FINISHED);
	domain_emit(dom, ending->event, ending->detail);
}

void domain_has_ended(struct domain *dom, int status)
{
	struct domain_vmm *vmm = dom->vmm;
	struct domain_job *starting = steal_ptr(&vmm->starting), *waiting = steal_ptr(&vmm->ending);
	struct ending ending = ending_of(vmm, status);
	bool reboot = vmm->reboot && ending.reason == DOMAIN_SHUTOFF_SHUTDOWN,
	     panicked = vmm->panicked;
	int id = dom->id;
	bool again;

	if (starting) {
		start_has_failed(starting);
		return;
	}
	domain_ref(dom);
	again = reboot || wants_restart(dom, &ending);
	if (ending.reason == DOMAIN_SHUTOFF_FAILED) {
		char tail[TAIL_BYTES];

		domain_log_tail(dom, tail, sizeof(tail));
		log_warning("domain '%s' ended unexpectedly: %s", dom->name,
			    *tail ? tail : "without a word");
	}
	vmm = drop_live(dom);
	if (reboot) {
		dom->state = DOMAIN_SHUTOFF;
		domain_emit_reboot(dom);
	} else {
		told_ended(dom, &ending, panicked);
	}
	if (again)
		start_again(dom, reboot ? id : -1, reboot);
	else if (!dom->persistent)
		domain_forget(dom);
	domain_vmm_free(vmm);
	if (waiting)
		domain_job_end(waiting, 0, NULL);
	domain_unref(dom);
}

/* --- create: a transient machine --- */

struct create_done {
	struct domain_done done;
	struct domain_done *caller;
};

static void create_told(struct domain_done *done, struct domain *dom, int r,
			const struct error *err)
{
	struct create_done *own = container_of(done, struct create_done, done);

	if (r < 0 && dom && !dom->persistent && !domain_active(dom))
		domain_forget(dom);
	domain_done_tell(own->caller, dom, r, err);
	free(own);
}

static int create_submit(struct domain_set *set, struct spec_xml *xml, bool paused,
			 struct domain_done *done, struct error *err)
{
	struct domain *dom = NULL;
	struct create_done *own;
	struct domain_job *job;
	int r = domain_find_place(set, xml, &dom, err);

	if (r >= 0 && dom && domain_active(dom))
		r = error_set(err, -EBADFD, "domain '%s' is already active", dom->name);
	if (r < 0)
		return r;
	own = calloc(1, sizeof(*own));
	if (!own)
		return error_set(err, -ENOMEM, "no memory for a job");
	own->done.fn = create_told;
	own->caller = done;
	if (!dom) {
		r = domain_new(set, xml, &dom, err);
		if (r < 0) {
			free(own);
			return r;
		}
		/* For reads; what runs is a copy. */
		r = spec_xml_parse(xml->text, strlen(xml->text), set->config.emulator, &dom->def,
				   err);
		if (r < 0) {
			domain_forget(dom);
			free(own);
			return r;
		}
	}
	job = domain_job_new(dom, "create", start_start, &own->done);
	if (!job)
		return 1;
	job->xml = xml;
	job->flag = paused;
	job->id = -1;
	domain_job_submit(job);
	return 0;
}

void domain_create(struct domain_set *set, const char *text, bool paused, struct domain_done *done)
{
	struct error err = ERROR_INIT;
	struct spec_xml *xml = NULL;
	int r = spec_xml_parse(text, strlen(text), set->config.emulator, &xml, &err);

	if (r >= 0)
		r = create_submit(set, xml, paused, done, &err);
	if (r != 0)
		spec_xml_free(xml);
	if (r < 0)
		domain_done_tell(done, NULL, r, &err);
}

/* --- destroy --- */

static void quit_replied(struct qmp_client_reply *reply, int r, const json_t *ret,
			 const struct error *err)
{
	/* The process's end says more. */
}

static void destroy_late(struct loop_timer *timer)
{
	struct domain_job *job = container_of(timer, struct domain_job, timer);
	struct domain_vmm *vmm = job->dom->vmm;
	struct error err = ERROR_INIT;

	if (!job->flag) {
		syscall(SYS_pidfd_send_signal, vmm->exited.fd, SIGKILL, NULL, 0);
		return;
	}
	vmm->ending = NULL;
	vmm->asked_to_end = false;
	error_set(&err, -ETIMEDOUT, "domain '%s' did not end when it was asked to", job->dom->name);
	domain_job_end(job, -ETIMEDOUT, &err);
}

static void not_running(struct domain_job *job)
{
	struct error err = ERROR_INIT;

	error_set(&err, -EBADFD, "domain is not running");
	domain_job_end(job, -EBADFD, &err);
}

static void destroy_start(struct domain_job *job)
{
	struct domain_vmm *vmm = job->dom->vmm;

	if (!vmm) {
		not_running(job);
		return;
	}
	vmm->ending = job;
	vmm->asked_to_end = true;
	job->timer.fire = destroy_late;
	loop_timer_arm(&job->timer, clock_monotonic_ns() + QUIT_WITHIN_NS);
	if (vmm->qmp) {
		vmm->quit.fn = quit_replied;
		qmp_client_execute(vmm->qmp, "quit", NULL, &vmm->quit);
	} else if (!job->flag) {
		syscall(SYS_pidfd_send_signal, vmm->exited.fd, SIGKILL, NULL, 0);
	}
}

void domain_destroy(struct domain *dom, bool graceful, struct domain_done *done)
{
	struct domain_job *job = domain_job_new(dom, "destroy", destroy_start, done);

	if (!job)
		return;
	job->flag = graceful;
	domain_job_submit(job);
}

/* --- one command each --- */

static void suspend_start(struct domain_job *job)
{
	if (job->dom->state == DOMAIN_PAUSED)
		domain_job_end(job, 0, NULL);
	else
		domain_job_qmp(job, "stop");
}

static void resume_start(struct domain_job *job)
{
	struct error err = ERROR_INIT;

	if (job->dom->vmm && job->dom->state == DOMAIN_RUNNING) {
		error_set(&err, -EBADFD, "domain is already running");
		domain_job_end(job, -EBADFD, &err);
		return;
	}
	domain_job_qmp(job, "cont");
}

static void shutdown_start(struct domain_job *job)
{
	if (job->dom->vmm)
		job->dom->vmm->reboot = job->flag;
	domain_job_qmp(job, "system_powerdown");
}

static void reset_start(struct domain_job *job)
{
	domain_job_qmp(job, "system_reset");
}

static void nmi_start(struct domain_job *job)
{
	domain_job_qmp(job, "inject-nmi");
}

static void submit_simple(struct domain *dom, const char *what,
			  void (*start)(struct domain_job *job), bool flag,
			  struct domain_done *done)
{
	struct domain_job *job = domain_job_new(dom, what, start, done);

	if (!job)
		return;
	job->flag = flag;
	domain_job_submit(job);
}

void domain_suspend(struct domain *dom, struct domain_done *done)
{
	submit_simple(dom, "suspend", suspend_start, false, done);
}

void domain_resume(struct domain *dom, struct domain_done *done)
{
	submit_simple(dom, "resume", resume_start, false, done);
}

void domain_shutdown(struct domain *dom, struct domain_done *done)
{
	submit_simple(dom, "shut down", shutdown_start, false, done);
}

void domain_reboot(struct domain *dom, struct domain_done *done)
{
	submit_simple(dom, "reboot", shutdown_start, true, done);
}

void domain_reset(struct domain *dom, struct domain_done *done)
{
	submit_simple(dom, "reset", reset_start, false, done);
}

void domain_nmi(struct domain *dom, struct domain_done *done)
{
	submit_simple(dom, "inject an NMI into", nmi_start, false, done);
}

/* --- autostart --- */

static void autostart_told(struct domain_done *done, struct domain *dom, int r,
			   const struct error *err)
{
	if (r < 0)
		log_warning("autostart of domain '%s' failed: %s", dom ? dom->name : "?",
			    err->text);
	free(done);
}

void domain_set_autostart(struct domain_set *set)
{
	struct domain *next;

	for (struct domain *dom = domain_first(set); dom; dom = next) {
		struct domain_done *done;

		next = domain_next(dom);
		if (!dom->autostart || domain_active(dom))
			continue;
		done = malloc(sizeof(*done));
		if (!done)
			return;
		done->fn = autostart_told;
		domain_start(dom, false, done);
	}
}
