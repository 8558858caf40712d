/*
 * A machine's life: run, stop, continue, reset, end. The order is always the same: vCPUs stop first, then the clock, then
 * devices; on the way back devices, clock, vCPUs. Requests of devices arrive here as messages.
 */
#include "vm/main/machine.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "base/log.h"

static void machine_freeze(struct machine *m)
{
	int r;

	vcpus_stop(m->vcpus);
	r = accel_paused(m->accel);
	if (r < 0)
		log_warning("machine '%s': its clocks cannot be stopped: %s", m->spec->name,
			    strerror(-r));
	for (size_t i = 0; i < m->n_devices; i++)
		device_pause(m->devices[i]);
	m->frozen = true;
}

static void machine_thaw(struct machine *m)
{
	int r;

	for (size_t i = 0; i < m->n_devices; i++)
		device_resume(m->devices[i]);
	r = accel_resume(m->accel);
	if (r < 0)
		log_warning("machine '%s': its clocks do not go on where they stood: %s",
			    m->spec->name, strerror(-r));
	m->frozen = false;
	vcpus_run(m->vcpus);
}

void machine_start(struct machine *m)
{
	m->started = true;
	m->running = true;
	vcpus_run(m->vcpus);
}

void machine_stop(struct machine *m)
{
	if (!m->running)
		return;
	machine_freeze(m);
	m->running = false;
	qmp_event(m->qmp, "STOP", NULL);
}

void machine_cont(struct machine *m)
{
	if (m->running || m->ending)
		return;
	if (!m->started) {
		machine_start(m);
	} else {
		m->running = true;
		machine_thaw(m);
	}
	qmp_event(m->qmp, "RESUME", NULL);
}

static void machine_reset_by(struct machine *m, bool by_guest, const char *reason)
{
	struct error err = ERROR_INIT;
	bool was_running = m->running;

	if (m->spec->no_reboot) {
		machine_end(m, m->panicked ? MACHINE_EXIT_PANICKED : MACHINE_EXIT_OK, by_guest,
			    reason);
		return;
	}
	if (was_running)
		machine_freeze(m);
	for (size_t i = 0; i < m->n_devices; i++)
		device_reset(m->devices[i]);
	pci_bus_reset(m->pci);
	if (accel_reset(m->accel, &err) < 0 || machine_load_firmware(m, &err) < 0) {
		log_error("cannot reset the machine: %s", err.text);
		machine_end(m, MACHINE_EXIT_FAILED, false, "host-error");
		return;
	}
	m->panicked = false;
	qmp_event(m->qmp, "RESET", json_pack("{s:b,s:s}", "guest", by_guest, "reason", reason));
	if (was_running)
		machine_thaw(m);
}

void machine_reset(struct machine *m)
{
	if (!m->ending)
		machine_reset_by(m, false, "host-qmp-system-reset");
}

void machine_end(struct machine *m, int status, bool by_guest, const char *reason)
{
	if (m->ending)
		return;
	if (m->running) {
		machine_freeze(m);
		m->running = false;
	}
	m->ending = true;
	m->exit_status = status;
	qmp_event(m->qmp, "SHUTDOWN", json_pack("{s:b,s:s}", "guest", by_guest, "reason", reason));
	loop_quit(m->loop);
}

static void machine_guest_panicked(struct machine *m)
{
	log_warning("machine '%s': the guest's kernel panicked", m->spec->name);
	m->panicked = true;
	qmp_event(m->qmp, "GUEST_PANICKED", json_pack("{s:s}", "action", "shutdown"));
	machine_end(m, MACHINE_EXIT_PANICKED, true, "guest-panic");
}

static void machine_balloon_changed(struct machine *m)
{
	uint64_t bytes;

	if (m->qmp && m->qmp_target.balloon_get(m, &bytes, NULL) >= 0)
		qmp_event(m->qmp, "BALLOON_CHANGE",
			  json_pack("{s:I}", "actual", (json_int_t)bytes));
}

/* Main loop: what devices and vCPUs asked for since the last time. */
static void machine_requested(void *opaque, unsigned requests)
{
	struct machine *m = opaque;
	int status = atomic_load(&m->glue.exit_status);

	if (m->ending)
		return;
	if (status >= 0)
		machine_end(m, status, true, "guest-shutdown");
	if (requests & 1u << MACHINE_BALLOON_CHANGED)
		machine_balloon_changed(m);
	if (requests & 1u << MACHINE_GUEST_CRASHLOADED)
		qmp_event(m->qmp, "GUEST_CRASHLOADED", json_pack("{s:s}", "action", "run"));
	if (requests & 1u << MACHINE_GUEST_PANICKED)
		machine_guest_panicked(m);
	if (requests & 1u << MACHINE_POWEROFF)
		machine_end(m, MACHINE_EXIT_OK, true, "guest-shutdown");
	if (!m->ending && (requests & 1u << MACHINE_RESET))
		machine_reset_by(m, true, "guest-reset");
}

void machine_life_init(struct machine *m)
{
	m->signals.fd = -1;
	m->kernel_fd = -1;
	m->initrd_fd = -1;
	host_glue_init(&m->glue, m->loop, machine_requested, m);
}

static void machine_signalled(struct loop_fd *src, unsigned events)
{
	struct machine *m = container_of(src, struct machine, signals);
	struct signalfd_siginfo info;

	if (read(src->fd, &info, sizeof(info)) != sizeof(info))
		return;
	log_info("machine '%s': ended by signal %u (%s)", m->spec->name, info.ssi_signo,
		 strsignal((int)info.ssi_signo));
	machine_end(m, 128 + (int)info.ssi_signo, false, "host-signal");
}

int machine_watch_signals(struct machine *m, struct error *err)
{
	sigset_t set;
	int fd;

	signal(SIGPIPE, SIG_IGN);
	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGHUP);
	sigprocmask(SIG_BLOCK, &set, NULL);
	fd = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
	if (fd < 0 || loop_fd_add(m->loop, &m->signals, fd, LOOP_READ, machine_signalled) < 0)
		return error_set_errno(err, -errno, "cannot watch signals");
	return 0;
}
