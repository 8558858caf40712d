/*
 * The process of one machine: started, connected to, listened to, reaped. It is its own session and outlives the daemon; a pidfd tells when it has
 * ended, whoever its parent is.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
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

#define CONNECT_WITHIN_NS  (30 * NSEC_PER_SEC)
#define CONNECT_FIRST_NS   (500 * NSEC_PER_USEC)
#define CONNECT_SLOWEST_NS (50 * NSEC_PER_MSEC)
#define MAX_VCPU_THREADS   SPEC_MAX_VCPUS

uint64_t domain_process_start(pid_t pid)
{
	char path[32], text[1024];
	_cleanup_close_ int fd = -1;
	ssize_t n;
	char *at;

	snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	n = fd < 0 ? -1 : fd_read_full(fd, text, sizeof(text) - 1);
	if (n <= 0)
		return 0;
	text[n] = '\0';
	/* The second field is a name in parentheses, with anything in it: fields count from behind it (proc(5)). */
	at = strrchr(text, ')');
	for (int field = 2; at && field < 22; field++)
		at = strchr(at + 1, ' ');
	return at ? strtoull(at + 1, NULL, 10) : 0;
}

void domain_vmm_free(struct domain_vmm *vmm)
{
	if (!vmm)
		return;
	loop_timer_disarm(&vmm->timer);
	loop_fd_del(&vmm->exited);
	if (vmm->exited.fd >= 0)
		close(vmm->exited.fd);
	qmp_client_free(vmm->qmp);
	free(vmm->qmp_path);
	free(vmm->threads);
	free(vmm);
}

/* --- the end --- */

static void vmm_exited(struct loop_fd *src, unsigned events)
{
	struct domain_vmm *vmm = container_of(src, struct domain_vmm, exited);
	int status = -1;

	loop_fd_del(src);
	if (vmm->child && waitpid(vmm->dom->pid, &status, 0) < 0)
		status = -1;
	domain_has_ended(vmm->dom, status);
}

/* A machine without its control socket cannot be ruled: it is ended. */
static void vmm_give_up(struct domain_vmm *vmm, const char *why)
{
	log_warning("domain '%s': %s: its process %d is killed", vmm->dom->name, why,
		    (int)vmm->dom->pid);
	syscall(SYS_pidfd_send_signal, vmm->exited.fd, SIGKILL, NULL, 0);
}

static void vmm_qmp_closed(void *opaque)
{
	struct domain_vmm *vmm = opaque;
	struct qmp_client *qmp = vmm->qmp;

	vmm->qmp = NULL;
	qmp_client_free(qmp);
	/* The usual end: the process follows in a moment. */
	vmm->deadline_ns = clock_monotonic_ns() + 5 * NSEC_PER_SEC;
	loop_timer_arm(&vmm->timer, vmm->deadline_ns);
}

/* --- what it tells --- */

static void tell_shutdown(struct domain_vmm *vmm, const json_t *data)
{
	const char *reason = json_string_value(json_object_get(data, "reason"));

	vmm->by_guest = json_is_true(json_object_get(data, "guest"));
	if (reason && str_eq(reason, "guest-panic"))
		vmm->panicked = true;
}

static void vmm_event(void *opaque, const char *name, const json_t *data)
{
	struct domain_vmm *vmm = opaque;
	struct domain *dom = vmm->dom;

	if (str_eq(name, "SHUTDOWN"))
		tell_shutdown(vmm, data);
	else if (str_eq(name, "GUEST_PANICKED"))
		vmm->panicked = true;
	else if (!vmm->ready)
		return; /* the start tells of itself when it is done */
	else if (str_eq(name, "STOP") && dom->state == DOMAIN_RUNNING) {
		dom->state = DOMAIN_PAUSED;
		dom->reason = DOMAIN_PAUSED_USER;
		domain_emit(dom, DOMAIN_SUSPENDED, 0);
	} else if (str_eq(name, "RESUME") && dom->state == DOMAIN_PAUSED) {
		dom->state = DOMAIN_RUNNING;
		dom->reason = DOMAIN_RUNNING_UNPAUSED;
		domain_emit(dom, DOMAIN_RESUMED, 0);
	} else if (str_eq(name, "RESET") && json_is_true(json_object_get(data, "guest"))) {
		domain_emit_reboot(dom);
	}
}

/* --- getting to know it --- */

static void vmm_ready(struct domain_vmm *vmm, bool paused)
{
	vmm->ready = true;
	loop_timer_disarm(&vmm->timer);
	domain_is_up(vmm->dom, paused);
}

static void start_failed(struct domain_vmm *vmm, const struct error *err)
{
	/* The process's end, which follows, ends the job that waits. */
	vmm_give_up(vmm, err->text);
}

static void got_cont(struct qmp_client_reply *reply, int r, const json_t *ret,
		     const struct error *err)
{
	struct domain_vmm *vmm = container_of(reply, struct domain_vmm, cont);

	if (r == -ECANCELED)
		return;
	if (r < 0)
		start_failed(vmm, err);
	else
		vmm_ready(vmm, false);
}

static void got_status(struct qmp_client_reply *reply, int r, const json_t *ret,
		       const struct error *err)
{
	struct domain_vmm *vmm = container_of(reply, struct domain_vmm, status);
	const char *status = json_string_value(json_object_get(ret, "status"));

	if (r == -ECANCELED)
		return;
	if (r < 0 || !status) {
		start_failed(vmm, err);
		return;
	}
	/* What was started here waits for its cont; what is found may be in any state. */
	if (vmm->starting && !vmm->paused_start) {
		vmm->cont.fn = got_cont;
		qmp_client_execute(vmm->qmp, "cont", NULL, &vmm->cont);
	} else {
		vmm_ready(vmm, !str_eq(status, "running"));
	}
}

static void got_cpus(struct qmp_client_reply *reply, int r, const json_t *ret,
		     const struct error *err)
{
	struct domain_vmm *vmm = container_of(reply, struct domain_vmm, cpus);
	size_t n = MIN(json_array_size(ret), (size_t)MAX_VCPU_THREADS);

	if (r < 0 || n == 0)
		return;
	free(vmm->threads);
	vmm->threads = calloc(n, sizeof(*vmm->threads));
	vmm->n_threads = vmm->threads ? (unsigned)n : 0;
	for (unsigned i = 0; i < vmm->n_threads; i++)
		vmm->threads[i] = (int)json_integer_value(
			json_object_get(json_array_get(ret, i), "thread-id"));
}

/* "pty:/dev/pts/3" */
static void got_chars(struct qmp_client_reply *reply, int r, const json_t *ret,
		      const struct error *err)
{
	struct domain_vmm *vmm = container_of(reply, struct domain_vmm, chars);
	struct domain *dom = vmm->dom;

	for (size_t i = 0; r >= 0 && i < json_array_size(ret); i++) {
		const json_t *chr = json_array_get(ret, i);
		const char *label = json_string_value(json_object_get(chr, "label"));
		const char *file = json_string_value(json_object_get(chr, "filename"));
		char **tty = label && str_eq(label, "serial0")    ? &dom->serial_tty
			     : label && str_eq(label, "console0") ? &dom->console_tty
								  : NULL;

		if (!tty || !file || !str_starts(file, "pty:/dev/pts/"))
			continue;
		free(*tty);
		*tty = strdup(file + strlen("pty:"));
	}
}

static int vmm_connect(struct domain_vmm *vmm)
{
	const struct qmp_client_hooks hooks = {vmm_event, vmm_qmp_closed, vmm};
	int r = qmp_client_new(vmm->dom->set->loop, vmm->qmp_path, &hooks, &vmm->qmp);

	if (r < 0)
		return r;
	vmm->chars.fn = got_chars;
	vmm->cpus.fn = got_cpus;
	vmm->status.fn = got_status;
	qmp_client_execute(vmm->qmp, "query-chardev", NULL, &vmm->chars);
	qmp_client_execute(vmm->qmp, "query-cpus-fast", NULL, &vmm->cpus);
	qmp_client_execute(vmm->qmp, "query-status", NULL, &vmm->status);
	return 0;
}

static void vmm_timer(struct loop_timer *timer)
{
	struct domain_vmm *vmm = container_of(timer, struct domain_vmm, timer);
	uint64_t now = clock_monotonic_ns();

	if (vmm->ready || vmm->qmp) {
		vmm_give_up(vmm, vmm->qmp ? "it does not answer" : "its control socket was closed");
		return;
	}
	if (vmm_connect(vmm) == 0) {
		loop_timer_arm(&vmm->timer, vmm->deadline_ns);
		return;
	}
	if (now > vmm->deadline_ns) {
		vmm_give_up(vmm, "nobody answers on its control socket");
		return;
	}
	vmm->wait_ns = MIN(vmm->wait_ns * 2, (uint64_t)CONNECT_SLOWEST_NS);
	loop_timer_arm(&vmm->timer, now + vmm->wait_ns);
}

static int vmm_new(struct domain *dom, struct domain_vmm **ret, struct error *err)
{
	struct domain_vmm *vmm = calloc(1, sizeof(*vmm));
	char uuid[UUID_TEXT_BYTES];

	if (!vmm)
		return error_set(err, -ENOMEM, "no memory for a machine");
	uuid_format(dom->uuid, uuid);
	vmm->dom = dom;
	vmm->exited.fd = -1;
	loop_timer_init(dom->set->loop, &vmm->timer, vmm_timer);
	vmm->wait_ns = CONNECT_FIRST_NS;
	vmm->deadline_ns = clock_monotonic_ns() + CONNECT_WITHIN_NS;
	if (asprintf(&vmm->qmp_path, "%s/%s.qmp", dom->set->runtime.path, uuid) < 0) {
		vmm->qmp_path = NULL;
		domain_vmm_free(vmm);
		return error_set(err, -ENOMEM, "no memory for a path");
	}
	*ret = vmm;
	return 0;
}

/* Watches the process, and begins to connect. */
static int vmm_watch(struct domain_vmm *vmm, pid_t pid, struct error *err)
{
	int fd = (int)syscall(SYS_pidfd_open, pid, 0);
	int r = fd < 0 ? -errno
		       : loop_fd_add(vmm->dom->set->loop, &vmm->exited, fd, LOOP_READ, vmm_exited);

	if (r < 0) {
		if (fd >= 0)
			close(fd);
		vmm->exited.fd = -1;
		return error_set_errno(err, r, "cannot watch the process of domain '%s'",
				       vmm->dom->name);
	}
	loop_timer_arm(&vmm->timer, clock_monotonic_ns() + vmm->wait_ns);
	return 0;
}

int domain_vmm_adopt(struct domain *dom, pid_t pid, uint64_t start_ticks, struct error *err)
{
	struct domain_vmm *vmm = NULL;
	int r = vmm_new(dom, &vmm, err);

	if (r < 0)
		return r;
	vmm->start_ticks = start_ticks;
	r = vmm_watch(vmm, pid, err);
	/* Held by the pidfd now: is it still the process that was meant? */
	if (r >= 0 && domain_process_start(pid) != start_ticks)
		r = error_set(err, -ESRCH, "its process has ended");
	if (r < 0) {
		domain_vmm_free(vmm);
		return r;
	}
	dom->pid = pid;
	dom->vmm = vmm;
	return 0;
}

/* --- starting --- */

/* The machine's description for vireo-vmm, as a file that it reads. */
static int write_config(struct domain *dom, const char *name, const char *qmp_path,
			struct error *err)
{
	struct spec *spec = &dom->live->spec;
	_cleanup_free_ char *json = NULL;

	free(spec->qmp_socket);
	spec->qmp_socket = strdup(qmp_path);
	spec->start_paused = true;
	json = spec->qmp_socket ? spec_to_json(spec) : NULL;
	if (!json)
		return error_set(err, -ENOMEM, "no memory for the description of domain '%s'",
				 dom->name);
	return store_write(&dom->set->runtime, name, json, strlen(json), err);
}

static int open_log(struct domain *dom, long *ret_from, struct error *err)
{
	_cleanup_free_ char *folder = NULL, *path = NULL;
	int fd, r;

	if (asprintf(&folder, "%s/log", dom->set->config.dirs.state) < 0)
		folder = NULL;
	if (!folder || asprintf(&path, "%s/%s.log", folder, dom->name) < 0)
		path = NULL;
	if (!path)
		return error_set(err, -ENOMEM, "no memory for a path");
	r = store_make_folder(folder, 0700, err);
	if (r < 0)
		return r;
	fd = open(path, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0)
		return error_set_errno(err, -errno, "cannot open the log '%s'", path);
	*ret_from = (long)lseek(fd, 0, SEEK_END);
	return fd;
}

static int spawn(const struct domain *dom, const char *config, int log_fd, pid_t *ret)
{
	char program[] = "vireo-vmm", option[] = "--config";
	char *argv[] = {program, option, (char *)(uintptr_t)config, NULL};
	posix_spawn_file_actions_t actions;
	posix_spawnattr_t attr;
	sigset_t none, all;
	int r;

	sigemptyset(&none);
	sigfillset(&all);
	posix_spawn_file_actions_init(&actions);
	posix_spawnattr_init(&attr);
	posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
	posix_spawn_file_actions_adddup2(&actions, log_fd, STDOUT_FILENO);
	posix_spawn_file_actions_adddup2(&actions, log_fd, STDERR_FILENO);
	posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSID | POSIX_SPAWN_SETSIGMASK |
						POSIX_SPAWN_SETSIGDEF);
	posix_spawnattr_setsigmask(&attr, &none);
	posix_spawnattr_setsigdefault(&attr, &all);
	r = posix_spawn(ret, dom->set->config.vmm, &actions, &attr, argv, environ);
	posix_spawnattr_destroy(&attr);
	posix_spawn_file_actions_destroy(&actions);
	return -r;
}

static int vmm_launch(struct domain_vmm *vmm, struct error *err)
{
	struct domain *dom = vmm->dom;
	char uuid[UUID_TEXT_BYTES], name[UUID_TEXT_BYTES + 16];
	_cleanup_free_ char *path = NULL;
	int r;

	uuid_format(dom->uuid, uuid);
	snprintf(name, sizeof(name), "%s.config", uuid);
	r = write_config(dom, name, vmm->qmp_path, err);
	if (r < 0)
		return r;
	if (asprintf(&path, "%s/%s", dom->set->runtime.path, name) < 0) {
		path = NULL;
		return error_set(err, -ENOMEM, "no memory for a path");
	}

	_cleanup_close_ int log_fd = open_log(dom, &vmm->log_from, err);

	if (log_fd < 0)
		return log_fd;
	unlink(vmm->qmp_path);
	r = spawn(dom, path, log_fd, &dom->pid);
	if (r < 0)
		return error_set_errno(err, r, "cannot start '%s'", dom->set->config.vmm);
	vmm->child = true;
	vmm->start_ticks = domain_process_start(dom->pid);
	return 0;
}

int domain_vmm_start(struct domain_job *job, struct error *err)
{
	struct domain *dom = job->dom;
	struct domain_vmm *vmm = NULL;
	int r = vmm_new(dom, &vmm, err);

	if (r >= 0)
		r = vmm_launch(vmm, err);
	if (r < 0) {
		domain_vmm_free(vmm);
		return r;
	}
	r = vmm_watch(vmm, dom->pid, err);
	if (r < 0) {
		kill(dom->pid, SIGKILL);
		waitpid(dom->pid, NULL, 0);
		domain_vmm_free(vmm);
		return r;
	}
	vmm->starting = job;
	vmm->paused_start = job->flag;
	dom->vmm = vmm;
	return 0;
}
