/*
 * The life of a passt process: its options, its start, its words, its end (see passt_int.h).
 *
 * Addresses. passt copies the host's by default and refuses to start where no route leads out. Ours are fixed, so that a
 * guest finds the host at the same place everywhere, also on a host with nothing but a loopback: for IPv4 the loopback
 * serves as the template interface. IPv6 is passed on when the host has a default route for it.
 *
 * Known of passt 2023-03-09 (Debian 12): it resets a connection in which, for 24 s, data went from the guest only; one byte of
 * an answer prevents that. `ping` needs the host's net.ipv4.ping_group_range to have the user that it runs as.
 */
#include "vm/net/passt_int.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/cleanup.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/str.h"
#include "vm/net/net.h"

#define PASST_OWN_MAC        "52:55:0a:00:02:02" /* locally administered, the gateway's address in it */
#define PASST_CHILD_SOCKET   3
#define PASST_MAX_ARGS       (24 + 2 * PASST_MAX_FORWARDS)
#define PASST_END_TIMEOUT_MS 2000

/* --- port forwards --- */

/* Cuts `*text` at the next `sep` outside of brackets; returns the part before, or NULL when there is none. */
static char *passt_cut(char **text, char sep)
{
	char *start = *text;
	char *at = start;

	if (*at == '[')
		at += strcspn(at, "]");
	at += strcspn(at, (char[2]){sep, '\0'});
	if (*at == '\0')
		return NULL;
	*at = '\0';
	*text = at + 1;
	return start;
}

/* "", "192.0.2.1" or "[2001:db8::1]"; brackets are removed in place. */
static bool passt_address_ok(char **addr)
{
	unsigned char bin[16];
	size_t len = strlen(*addr);

	if (len == 0)
		return true;
	if ((*addr)[0] == '[' && (*addr)[len - 1] == ']') {
		(*addr)[len - 1] = '\0';
		(*addr)++;
		return inet_pton(AF_INET6, *addr, bin) == 1;
	}
	return inet_pton(AF_INET, *addr, bin) == 1;
}

int passt_forward_parse(const char *text, struct passt_forward *ret, struct error *err)
{
	static const char usage[] = "write tcp:ADDRESS:PORT-:GUESTPORT, or udp, for example "
				    "hostfwd=tcp:127.0.0.1:2222-:22";
	struct passt_forward fwd = {0};
	char buf[128];
	char *at = buf;
	char *proto;
	char *addr;
	char *port;
	char *guest;
	uint32_t host_port;
	uint32_t guest_port;

	if (!str_copy(buf, sizeof(buf), text))
		return error_set(err, -EINVAL, "hostfwd=%.40s... is too long: %s", text, usage);
	proto = passt_cut(&at, ':');
	addr = proto ? passt_cut(&at, ':') : NULL;
	port = addr ? passt_cut(&at, '-') : NULL;
	guest = port ? passt_cut(&at, ':') : NULL;
	if (!guest)
		return error_set(err, -EINVAL, "hostfwd=%s cannot be understood: %s", text, usage);
	if (!str_eq(proto, "tcp") && !str_eq(proto, "udp"))
		return error_set(err, -EINVAL, "hostfwd=%s: the protocol is tcp or udp", text);
	fwd.udp = str_eq(proto, "udp");
	if (!passt_address_ok(&addr))
		return error_set(err, -EINVAL,
				 "hostfwd=%s: \"%s\" is no address; IPv6 stands in brackets", text,
				 addr);
	if (!str_eq(guest, "") && !str_eq(guest, NET_USER_GUEST_ADDR))
		return error_set(err, -EINVAL,
				 "hostfwd=%s: the guest's address is %s; leave it empty", text,
				 NET_USER_GUEST_ADDR);
	if (parse_u32_range(port, 1, 65535, &host_port) < 0 ||
	    parse_u32_range(at, 1, 65535, &guest_port) < 0)
		return error_set(err, -EINVAL, "hostfwd=%s: ports are numbers from 1 to 65535",
				 text);
	snprintf(fwd.spec, sizeof(fwd.spec), "%s%s%u:%u", addr, *addr ? "/" : "", host_port,
		 guest_port);
	*ret = fwd;
	return 0;
}

/* --- start --- */

/* The interface of the host's IPv6 default route. /proc/net/ipv6_route: destination, its prefix length, source, its
 * prefix length, next hop, metric, references, uses, flags, device (Linux, net/ipv6/route.c). */
static bool passt_ipv6_interface(char ret[IF_NAMESIZE])
{
	static const char any[] = "00000000000000000000000000000000 00 ";
	char line[256];

	_cleanup_fclose_ FILE *f = fopen("/proc/net/ipv6_route", "re");

	if (!f)
		return false;
	while (fgets(line, sizeof(line), f)) {
		char *name;

		line[strcspn(line, "\n")] = '\0';
		name = strrchr(line, ' ');
		if (!str_starts(line, any) || !name || str_eq(name + 1, "lo"))
			continue;
		return str_copy(ret, IF_NAMESIZE, name + 1);
	}
	return false;
}

struct passt_args {
	const char *v[PASST_MAX_ARGS];
	size_t n;
};

static void passt_arg(struct passt_args *args, const char *arg)
{
	if (args->n < ARRAY_SIZE(args->v) - 1)
		args->v[args->n++] = arg;
}

static void passt_arg2(struct passt_args *args, const char *option, const char *value)
{
	passt_arg(args, option);
	passt_arg(args, value);
}

/* ifname: of the IPv6 default route, or "". */
static void passt_build_args(struct passt_args *args, const char *program, const char *ifname,
			     const struct passt_forward *forwards, size_t n_forwards)
{
	bool any_tcp = false;
	bool any_udp = false;

	passt_arg(args, program);
	passt_arg(args, "--foreground");
	passt_arg(args, "--quiet");
	passt_arg2(args, "--fd", "3");
	passt_arg2(args, "--address", NET_USER_GUEST_ADDR);
	passt_arg2(args, "--netmask", NET_USER_PREFIX);
	passt_arg2(args, "--gateway", NET_USER_GATEWAY_ADDR);
	passt_arg2(args, "--mac-addr", PASST_OWN_MAC);
	if (*ifname) {
		passt_arg2(args, "--interface", ifname);
	} else {
		passt_arg(args, "--ipv4-only");
		passt_arg2(args, "--interface", "lo");
	}
	for (size_t i = 0; i < n_forwards; i++) {
		passt_arg2(args, forwards[i].udp ? "--udp-ports" : "--tcp-ports", forwards[i].spec);
		any_tcp |= !forwards[i].udp;
		any_udp |= forwards[i].udp;
	}
	if (!any_tcp)
		passt_arg2(args, "--tcp-ports", "none");
	/* Otherwise it forwards UDP for each TCP port. */
	if (!any_udp)
		passt_arg2(args, "--udp-ports", "none");
}

/* The child, between fork and exec. exec_fd tells the parent why exec failed; it vanishes when it does not. */
static void __attribute__((noreturn))
passt_child(const struct passt_args *args, pid_t parent, int fd, int text_fd, int exec_fd)
{
	sigset_t none;
	int code;
	int null_fd;

	/* Also covers a parent that is killed; the socket's end is for the rest (root's passt changes user and loses
	 * this). */
	prctl(PR_SET_PDEATHSIG, SIGTERM);
	if (getppid() != parent)
		_exit(1);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	signal(SIGPIPE, SIG_DFL);
	null_fd = open("/dev/null", O_RDWR);
	/* First out of the way of 0 to 3, then in place. */
	fd = fcntl(fd, F_DUPFD_CLOEXEC, 10);
	text_fd = fcntl(text_fd, F_DUPFD_CLOEXEC, 10);
	exec_fd = fcntl(exec_fd, F_DUPFD_CLOEXEC, 10);
	if (null_fd >= 0 && dup2(null_fd, 0) >= 0 && dup2(text_fd, 1) >= 0 &&
	    dup2(text_fd, 2) >= 0 && dup2(fd, PASST_CHILD_SOCKET) >= 0) {
		if (null_fd > PASST_CHILD_SOCKET)
			close(null_fd);
		execvp(args->v[0], (char *const *)(uintptr_t)args->v);
	}
	code = errno;
	if (write(exec_fd, &code, sizeof(code)) < 0)
		_exit(126);
	_exit(127);
}

int passt_start(struct passt *passt, struct loop *loop, const char *program, int fd,
		const struct passt_forward *forwards, size_t n_forwards, struct error *err)
{
	struct passt_args args = {0};
	char ifname[IF_NAMESIZE] = "";
	int text[2];
	int exec[2];
	int code = 0;
	pid_t parent = getpid();
	ssize_t n;

	*passt = (struct passt){.loop = loop, .pid = -1, .exit_src.fd = -1, .text_src.fd = -1};
	if (!program)
		program = "passt";
	passt_ipv6_interface(ifname);
	passt_build_args(&args, program, ifname, forwards, n_forwards);
	if (pipe2(text, O_CLOEXEC) < 0)
		return error_set_errno(err, -errno, "user-mode network: no pipe to %s", program);
	passt->text_src.fd = text[0];

	_cleanup_close_ int text_child = text[1];

	if (pipe2(exec, O_CLOEXEC) < 0)
		return error_set_errno(err, -errno, "user-mode network: no pipe to %s", program);

	_cleanup_close_ int exec_ours = exec[0];
	_cleanup_close_ int exec_child = exec[1];

	fd_set_nonblock(passt->text_src.fd, true);
	passt->pid = fork();
	if (passt->pid < 0)
		return error_set_errno(err, -errno, "user-mode network: %s cannot be started",
				       program);
	if (passt->pid == 0)
		passt_child(&args, parent, fd, text_child, exec_child);
	close(steal_fd(&exec_child));
	passt->exit_src.fd = (int)syscall(SYS_pidfd_open, passt->pid, 0);
	if (passt->exit_src.fd < 0)
		return error_set_errno(err, -errno, "user-mode network: %s cannot be watched",
				       program);
	n = fd_read_full(exec_ours, &code, sizeof(code));
	if (n == 0)
		return 0;
	if (n == sizeof(code) && code == ENOENT)
		return error_set(err, -ENOENT,
				 "user-mode network: the program \"%s\" was not found; install the "
				 "package passt, or use a tap",
				 program);
	return error_set_errno(err, n == sizeof(code) ? -code : -EIO,
			       "user-mode network: %s cannot be run", program);
}

/* --- its words --- */

/* What is no reason for anything: it cannot reach a system logger, it leaves root. */
static bool passt_line_is_noise(const char *line)
{
	return *line == '\0' || str_starts(line, "Failed to send ") ||
	       str_starts(line, "Don't run as root");
}

/* Reads what there is; returns false at the end. The buffer keeps the last part. */
static bool passt_read_text(struct passt *passt)
{
	char part[512];
	ssize_t n;

	while ((n = read(passt->text_src.fd, part, sizeof(part))) > 0) {
		size_t keep = MIN(passt->text_len, sizeof(passt->text) - 1 - (size_t)n);

		memmove(passt->text, passt->text + passt->text_len - keep, keep);
		memcpy(passt->text + keep, part, (size_t)n);
		passt->text_len = keep + (size_t)n;
		passt->text[passt->text_len] = '\0';
	}
	return n < 0 && (errno == EAGAIN || errno == EINTR);
}

/* The lines that matter, on one line. */
static void passt_words(const struct passt *passt, char *ret, size_t size)
{
	char text[sizeof(passt->text)];
	char *save = NULL;
	size_t at = 0;

	memcpy(text, passt->text, sizeof(text));
	*ret = '\0';
	for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		if (passt_line_is_noise(line) || at >= size)
			continue;
		at += (size_t)snprintf(ret + at, size - at, "%s%s", at ? "; " : "", line);
	}
}

static void passt_text_ready(struct loop_fd *src, unsigned events)
{
	struct passt *passt = container_of(src, struct passt, text_src);
	char words[256];

	if (!passt_read_text(passt))
		loop_fd_del(src);
	passt_words(passt, words, sizeof(words));
	/* It speaks about what the guest does, too: nothing that a log should take at a higher level. */
	if (*words)
		log_debug("passt: %s", words);
	passt->text_len = 0;
	passt->text[0] = '\0';
}

/* --- its end --- */

static void passt_reap(struct passt *passt, int *ret_status)
{
	int status = 0;

	if (passt->pid > 0) {
		while (waitpid(passt->pid, &status, 0) < 0 && errno == EINTR)
			;
		passt->pid = -1;
	}
	*ret_status = status;
}

static void passt_status_words(int status, char *ret, size_t size)
{
	if (WIFSIGNALED(status))
		snprintf(ret, size, "was ended by signal %d", WTERMSIG(status));
	else
		snprintf(ret, size, "ended with status %d", WEXITSTATUS(status));
}

static void passt_exit_ready(struct loop_fd *src, unsigned events)
{
	struct passt *passt = container_of(src, struct passt, exit_src);
	char how[64];
	int status;

	loop_fd_del(src);
	passt_reap(passt, &status);
	passt_status_words(status, how, sizeof(how));
	if (!passt->quiet)
		log_error("network: passt %s; the guest's link is down", how);
	if (passt->ended)
		passt->ended(passt);
}

int passt_watch(struct passt *passt)
{
	int r = loop_fd_add(passt->loop, &passt->text_src, passt->text_src.fd, LOOP_READ,
			    passt_text_ready);

	if (r < 0)
		return r;
	passt->text_len = 0;
	passt->text[0] = '\0';
	return loop_fd_add(passt->loop, &passt->exit_src, passt->exit_src.fd, LOOP_READ,
			   passt_exit_ready);
}

/* Waits until the child has ended; false when it has not. */
static bool passt_wait_end(struct passt *passt, int timeout_ms)
{
	struct pollfd p = {.fd = passt->exit_src.fd, .events = POLLIN};

	if (passt->exit_src.fd < 0)
		return false;
	return poll(&p, 1, timeout_ms) == 1;
}

int passt_explain(struct passt *passt, struct error *err)
{
	char words[320];
	char how[64] = "did not answer";
	int status;

	if (passt_wait_end(passt, PASST_END_TIMEOUT_MS)) {
		passt_reap(passt, &status);
		passt_status_words(status, how, sizeof(how));
	}
	passt_read_text(passt);
	passt_words(passt, words, sizeof(words));
	return error_set(err, -EIO, "user-mode network: passt %s%s%s", how, *words ? ": " : "",
			 words);
}

void passt_stop(struct passt *passt)
{
	int status;

	passt->quiet = true;
	loop_fd_del(&passt->exit_src);
	loop_fd_del(&passt->text_src);
	if (passt->pid > 0) {
		if (!passt_wait_end(passt, PASST_END_TIMEOUT_MS))
			kill(passt->pid, SIGKILL);
		passt_reap(passt, &status);
	}
	if (passt->exit_src.fd >= 0)
		close(passt->exit_src.fd);
	if (passt->text_src.fd >= 0)
		close(passt->text_src.fd);
	passt->exit_src.fd = -1;
	passt->text_src.fd = -1;
}
