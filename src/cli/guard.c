/*
 * Keeps a terminal usable. vireo-vmm puts the terminal into raw mode and restores it itself, but not when it is killed with SIGKILL or
 * runs out of memory: so its parent remembers the settings (termios(3), and the descriptors' flags, which both share) and puts them back.
 *
 * Child and parent are one process group: what the terminal itself sends (SIGINT, SIGHUP, SIGWINCH) reaches both without our help. Only what
 * a process sent to us is passed on. When we die first, the child gets SIGTERM.
 */
#include "cli/cli.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/cleanup.h"

static const int forwarded[] = {SIGTERM, SIGHUP, SIGINT, SIGQUIT, SIGUSR1, SIGUSR2, SIGWINCH};

struct settings {
	struct termios terminal;
	int flags[3]; /* of stdin, stdout and stderr; -1: not open */
};

static void settings_take(int terminal, struct settings *ret)
{
	if (tcgetattr(terminal, &ret->terminal) < 0)
		ret->terminal = (struct termios){0};
	for (int fd = 0; fd < 3; fd++)
		ret->flags[fd] = fcntl(fd, F_GETFL);
}

static void settings_restore(int terminal, const struct settings *s)
{
	/* We may be in the background by now; a stop would help nobody. */
	signal(SIGTTOU, SIG_IGN);
	if (s->terminal.c_cflag)
		tcsetattr(terminal, TCSANOW, &s->terminal);
	signal(SIGTTOU, SIG_DFL);
	for (int fd = 0; fd < 3; fd++)
		if (s->flags[fd] >= 0)
			fcntl(fd, F_SETFL, s->flags[fd]);
}

/* In the child; the exec's errno goes into `report`, which closes itself when it succeeds. */
static void become(const char *path, char *const *argv, const sigset_t *mask, pid_t parent,
		   int report)
{
	int code;

	prctl(PR_SET_PDEATHSIG, SIGTERM);
	if (getppid() != parent)
		_exit(CLI_FAILED);
	sigprocmask(SIG_SETMASK, mask, NULL);
	execv(path, argv);
	code = errno;
	if (write(report, &code, sizeof(code)) < 0)
		_exit(CLI_FAILED);
	_exit(CLI_FAILED);
}

static bool is_forwarded(int sig)
{
	for (size_t i = 0; i < ARRAY_SIZE(forwarded); i++)
		if (forwarded[i] == sig)
			return true;
	return false;
}

/* Until the child has ended: its wait status. */
static int wait_for(pid_t child, const sigset_t *watched)
{
	int status;

	for (;;) {
		siginfo_t info;
		int sig;

		if (waitpid(child, &status, WNOHANG) == child)
			return status;
		sig = sigwaitinfo(watched, &info);
		/* SI_KERNEL is the terminal's doing. */
		if (sig > 0 && is_forwarded(sig) && info.si_code != SI_KERNEL)
			kill(child, sig);
	}
}

int cli_run_guarded(int terminal, const char *path, char *const *argv)
{
	struct settings settings = {0};
	sigset_t watched, before;
	int report[2];
	pid_t self = getpid();
	int code = 0;
	int status = 0;
	pid_t child;

	if (pipe2(report, O_CLOEXEC) < 0)
		return -errno;
	settings_take(terminal, &settings);
	sigemptyset(&watched);
	sigaddset(&watched, SIGCHLD);
	for (size_t i = 0; i < ARRAY_SIZE(forwarded); i++)
		sigaddset(&watched, forwarded[i]);
	sigprocmask(SIG_BLOCK, &watched, &before);
	/* Whoever started us may have chosen not to hear of children. */
	signal(SIGCHLD, SIG_DFL);
	child = fork();
	if (child == 0)
		become(path, argv, &before, self, report[1]);
	if (child < 0)
		code = errno;
	close(report[1]);
	if (child > 0) {
		if (read(report[0], &code, sizeof(code)) != sizeof(code))
			code = 0;
		status = wait_for(child, &watched);
		settings_restore(terminal, &settings);
	}
	close(report[0]);
	sigprocmask(SIG_SETMASK, &before, NULL);
	if (code)
		return -code;
	return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}
