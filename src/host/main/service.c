/*
 * What a service manager hands over and is told, by systemd's protocols: listening sockets from descriptor 3 on (sd_listen_fds(3)), and a datagram when the daemon
 * serves (sd_notify(3)). Main thread, before the loop runs.
 */
#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/cleanup.h"
#include "base/fd.h"
#include "base/str.h"
#include "host/main/main_int.h"

#define FIRST_FD     3
#define MAX_FDS      16
#define READONLY_END "-ro"

/* How many sockets were handed to this very process. */
static unsigned handed_over(void)
{
	const char *pid = getenv("LISTEN_PID");
	const char *fds = getenv("LISTEN_FDS");
	uint64_t value;
	uint32_t count;

	if (!pid || !fds || parse_u64(pid, &value) < 0 || value != (uint64_t)getpid() ||
	    parse_u32_range(fds, 1, MAX_FDS, &count) < 0)
		return 0;
	return count;
}

/* A socket's path says whether it is a read-only one. */
static int take_socket(struct rpc_server *server, int fd, struct error *err)
{
	struct sockaddr_un addr = {0};
	socklen_t len = sizeof(addr) - 1;
	size_t n;
	int r;

	if (getsockname(fd, (struct sockaddr *)&addr, &len) < 0 || addr.sun_family != AF_UNIX)
		return error_set(
			err, -EINVAL,
			"descriptor %d, handed over by the service manager, is no Unix socket", fd);
	r = fd_set_cloexec(fd, true);
	if (r < 0)
		return error_set_errno(err, r, "cannot keep descriptor %d", fd);
	n = strnlen(addr.sun_path, sizeof(addr.sun_path) - 1);
	return rpc_server_listen(server, fd, n >= 3 && str_eq(addr.sun_path + n - 3, READONLY_END),
				 err);
}

int service_sockets(struct rpc_server *server, struct error *err)
{
	unsigned count = handed_over();

	for (unsigned i = 0; i < count; i++) {
		int r = take_socket(server, FIRST_FD + (int)i, err);

		if (r < 0)
			return r;
	}
	/* Not for the machines that are started from here. */
	unsetenv("LISTEN_PID");
	unsetenv("LISTEN_FDS");
	unsetenv("LISTEN_FDNAMES");
	return (int)count;
}

void service_ready(void)
{
	static const char ready[] = "READY=1";
	const char *path = getenv("NOTIFY_SOCKET");
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	_cleanup_close_ int fd = -1;
	size_t len = path ? strlen(path) : 0;

	if (len == 0 || len >= sizeof(addr.sun_path) || (path[0] != '/' && path[0] != '@'))
		return;
	memcpy(addr.sun_path, path, len);
	/* An abstract address. */
	if (path[0] == '@')
		addr.sun_path[0] = '\0';
	fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd >= 0)
		sendto(fd, ready, sizeof(ready) - 1, MSG_NOSIGNAL, (struct sockaddr *)&addr,
		       (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len));
	unsetenv("NOTIFY_SOCKET");
}
