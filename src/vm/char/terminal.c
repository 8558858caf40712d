#include "vm/char/terminal.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/fd.h"
#include "base/log.h"

#define MAX_SHARED 2

static const int fatal_signals[] = {SIGHUP, SIGINT,  SIGQUIT, SIGILL, SIGTRAP, SIGABRT, SIGBUS,
				    SIGFPE, SIGSEGV, SIGTERM, SIGSYS, SIGXCPU, SIGXFSZ};
static const int job_signals[] = {SIGTSTP, SIGCONT, SIGWINCH};

static struct {
	atomic_bool guarded;
	bool at_exit; /* the exit hook stands, for ever */
	atomic_int notify_fd;
	atomic_int tty_fd; /* -1: not raw. Written last, read first: the two below are then valid */
	struct termios original, raw;
	atomic_int n_shared; /* written last as well */
	int shared_fd[MAX_SHARED];
	int shared_flags[MAX_SHARED];
	struct sigaction old_fatal[ARRAY_SIZE(fatal_signals)];
	struct sigaction old_job[ARRAY_SIZE(job_signals)];
} term = {.notify_fd = -1, .tty_fd = -1};

/* --- async-signal-safe from here --- */

bool terminal_is_foreground(int fd)
{
	pid_t group = tcgetpgrp(fd);

	return group < 0 || group == getpgrp();
}

/* A background job must leave the terminal alone: whoever is in front has set it up for itself. */
static void terminal_restore(void)
{
	int fd = atomic_load(&term.tty_fd);
	int n = atomic_load(&term.n_shared);

	if (fd >= 0 && terminal_is_foreground(fd))
		tcsetattr(fd, TCSANOW, &term.original);
	for (int i = 0; i < n; i++)
		fcntl(term.shared_fd[i], F_SETFL, term.shared_flags[i]);
}

static void terminal_reenter(void)
{
	int fd = atomic_load(&term.tty_fd);
	int n = atomic_load(&term.n_shared);

	if (fd >= 0 && terminal_is_foreground(fd))
		tcsetattr(fd, TCSANOW, &term.raw);
	for (int i = 0; i < n; i++)
		fcntl(term.shared_fd[i], F_SETFL, term.shared_flags[i] | O_NONBLOCK);
}

static void on_fatal(int sig, siginfo_t *info, void *context)
{
	bool fault = sig == SIGSEGV || sig == SIGBUS || sig == SIGFPE || sig == SIGILL;
	int saved_errno = errno;

	(void)context;
	terminal_restore();
	for (size_t i = 0; i < ARRAY_SIZE(fatal_signals); i++) {
		if (fatal_signals[i] == sig)
			sigaction(sig, &term.old_fatal[i], NULL);
	}
	/* A faulting instruction runs again on return and faults with all its particulars; everything else is sent again
	 * and arrives on return. */
	if (!fault || info->si_code <= 0)
		raise(sig);
	errno = saved_errno;
}

static void on_stop(int sig)
{
	struct sigaction dfl = {.sa_handler = SIG_DFL};
	struct sigaction mine;
	int saved_errno = errno;
	sigset_t set;

	terminal_restore();
	sigaction(sig, &dfl, &mine);
	sigemptyset(&set);
	sigaddset(&set, sig);
	raise(sig);
	pthread_sigmask(SIG_UNBLOCK, &set, NULL); /* stops here, until SIGCONT */
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	sigaction(sig, &mine, NULL);
	errno = saved_errno;
}

static void on_notice(int sig)
{
	int fd = atomic_load(&term.notify_fd);
	int saved_errno = errno;

	if (sig == SIGCONT)
		terminal_reenter();
	if (fd >= 0)
		eventfd_signal(fd);
	errno = saved_errno;
}

/* --- ordinary code again --- */

static void on_exit_hook(void)
{
	if (atomic_load(&term.guarded))
		terminal_restore();
}

static void install(int sig, const struct sigaction *action, struct sigaction *ret_old)
{
	if (sigaction(sig, NULL, ret_old) < 0)
		return;
	if (!(ret_old->sa_flags & SA_SIGINFO) && ret_old->sa_handler == SIG_IGN)
		return;
	sigaction(sig, action, NULL);
}

int terminal_guard_start(int notify_fd)
{
	struct sigaction fatal = {.sa_sigaction = on_fatal,
				  .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART};
	struct sigaction notice = {.sa_handler = on_notice, .sa_flags = SA_ONSTACK | SA_RESTART};
	struct sigaction stop = {.sa_handler = on_stop, .sa_flags = SA_ONSTACK | SA_RESTART};

	if (atomic_exchange(&term.guarded, true))
		return -EBUSY;
	if (!term.at_exit && atexit(on_exit_hook) != 0) {
		atomic_store(&term.guarded, false);
		return -ENOMEM;
	}
	term.at_exit = true;
	atomic_store(&term.notify_fd, notify_fd);
	for (size_t i = 0; i < ARRAY_SIZE(fatal_signals); i++)
		install(fatal_signals[i], &fatal, &term.old_fatal[i]);
	for (size_t i = 0; i < ARRAY_SIZE(job_signals); i++)
		install(job_signals[i], job_signals[i] == SIGTSTP ? &stop : &notice,
			&term.old_job[i]);
	return 0;
}

void terminal_guard_stop(void)
{
	if (!atomic_load(&term.guarded))
		return;
	terminal_restore();
	if (atomic_exchange(&term.tty_fd, -1) >= 0)
		log_set_eol("\n");
	atomic_store(&term.n_shared, 0);
	for (size_t i = 0; i < ARRAY_SIZE(fatal_signals); i++)
		sigaction(fatal_signals[i], &term.old_fatal[i], NULL);
	for (size_t i = 0; i < ARRAY_SIZE(job_signals); i++)
		sigaction(job_signals[i], &term.old_job[i], NULL);
	atomic_store(&term.notify_fd, -1);
	atomic_store(&term.guarded, false);
}

int terminal_set_raw(int fd)
{
	if (tcgetattr(fd, &term.original) < 0)
		return -errno;
	term.raw = term.original;
	cfmakeraw(&term.raw);
	term.raw.c_cc[VMIN] = 1;
	term.raw.c_cc[VTIME] = 0;
	atomic_store(&term.tty_fd, fd);
	/* In the background this waits for the foreground, as any job that wants the terminal does. */
	if (tcsetattr(fd, TCSANOW, &term.raw) < 0) {
		int r = -errno;

		atomic_store(&term.tty_fd, -1);
		return r;
	}
	log_set_eol("\r\n");
	return 0;
}

int terminal_share_nonblock(int fd)
{
	int n = atomic_load(&term.n_shared);
	int flags = fcntl(fd, F_GETFL);

	if (n == MAX_SHARED)
		return -ENOSPC;
	if (flags < 0)
		return -errno;
	if (flags & O_NONBLOCK)
		return 0;
	term.shared_fd[n] = fd;
	term.shared_flags[n] = flags;
	atomic_store(&term.n_shared, n + 1);
	return fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0 ? -errno : 0;
}

bool terminal_size(int fd, uint16_t *ret_columns, uint16_t *ret_rows)
{
	struct winsize ws;

	if (ioctl(fd, TIOCGWINSZ, &ws) < 0 || ws.ws_col == 0 || ws.ws_row == 0)
		return false;
	*ret_columns = ws.ws_col;
	*ret_rows = ws.ws_row;
	return true;
}
