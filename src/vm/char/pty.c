/*
 * A character backend that is a new pseudo-terminal; users open the other end by its path. On the loop.
 *
 * While nobody has the other end open, the master reports a hang-up again and again, so it is then out of the loop, and an
 * inotify watch on the other end's node tells when somebody opens it.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/inotify.h>
#include <termios.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/cleanup.h"
#include "vm/char/stream.h"

struct chardev_pty {
	struct stream stream;
	int in_fd, out_fd;    /* owned: the master, twice; epoll wants a number a direction */
	bool open;            /* [loop] somebody has the other end */
	struct loop_fd watch; /* inotify */
	struct loop_msg state_msg;
};

static struct chardev_pty *pty_of(struct stream *s)
{
	return container_of(s, struct chardev_pty, stream);
}

static void pty_tell(struct chardev_pty *pty)
{
	const struct chardev_events *ev = &pty->stream.chr.events;

	if (ev->opened)
		ev->opened(ev->opaque, pty->open);
}

static void pty_check(struct chardev_pty *pty)
{
	struct pollfd pfd = {.fd = pty->in_fd, .events = POLLIN};
	bool open = poll(&pfd, 1, 0) >= 0 && !(pfd.revents & POLLHUP);

	if (open == pty->open)
		return;
	pty->open = open;
	if (open)
		stream_start(&pty->stream, pty->in_fd, pty->out_fd);
	else
		stream_stop(&pty->stream);
	pty_tell(pty);
}

static void pty_state_msg(struct loop_msg *msg)
{
	struct chardev_pty *pty = container_of(msg, struct chardev_pty, state_msg);

	pty_tell(pty);
}

static void pty_hangup(struct stream *s)
{
	struct chardev_pty *pty = pty_of(s);

	if (!pty->open)
		return;
	pty->open = false;
	stream_stop(s);
	pty_tell(pty);
	pty_check(pty); /* somebody may have come in meanwhile */
}

static const struct stream_hooks pty_hooks = {.hangup = pty_hangup};

static void pty_watch_ready(struct loop_fd *src, unsigned events)
{
	struct chardev_pty *pty = container_of(src, struct chardev_pty, watch);
	char buf[512] __attribute__((aligned(8)));

	(void)events;
	while (read(src->fd, buf, sizeof(buf)) > 0)
		;
	if (!pty->open)
		pty_check(pty);
}

static void pty_attached(struct chardev *chr)
{
	struct stream *s = container_of(chr, struct stream, chr);

	loop_post(s->loop, &pty_of(s)->state_msg);
}

static void pty_free(struct chardev *chr)
{
	struct stream *s = container_of(chr, struct stream, chr);
	struct chardev_pty *pty = pty_of(s);

	stream_fini(s);
	if (s->loop)
		loop_unpost(s->loop, &pty->state_msg);
	loop_fd_del(&pty->watch);
	if (pty->watch.fd >= 0)
		close(pty->watch.fd);
	if (pty->in_fd >= 0)
		close(pty->in_fd);
	if (pty->out_fd >= 0)
		close(pty->out_fd);
	free(pty);
}

static const struct chardev_ops pty_ops = {
	.type = "pty",
	.write = stream_write,
	.accept_input = stream_accept_input,
	.attached = pty_attached,
	.free = pty_free,
};

/* Raw from the start: whatever opens it may set other modes. The close leaves the master in its hung-up state. */
static int pty_make_raw(const char *path)
{
	_cleanup_close_ int fd = open(path, O_RDWR | O_NOCTTY | O_CLOEXEC);
	struct termios tio;

	if (fd < 0 || tcgetattr(fd, &tio) < 0)
		return -errno;
	cfmakeraw(&tio);
	return tcsetattr(fd, TCSANOW, &tio) < 0 ? -errno : 0;
}

static int pty_setup(struct chardev_pty *pty, struct loop *loop)
{
	char *path = pty->stream.chr.path;
	int fd;
	int r;

	pty->in_fd = open("/dev/ptmx", O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
	if (pty->in_fd < 0 || grantpt(pty->in_fd) < 0 || unlockpt(pty->in_fd) < 0)
		return -errno;
	r = ptsname_r(pty->in_fd, path, sizeof(pty->stream.chr.path));
	if (r != 0)
		return -r;
	r = pty_make_raw(path);
	if (r < 0)
		return r;
	pty->out_fd = fcntl(pty->in_fd, F_DUPFD_CLOEXEC, 3);
	fd = pty->out_fd < 0 ? -1 : inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
	if (fd < 0)
		return -errno;
	pty->watch.fd = fd;
	if (inotify_add_watch(fd, path, IN_OPEN) < 0)
		return -errno;
	return loop_fd_add(loop, &pty->watch, fd, LOOP_READ, pty_watch_ready);
}

int chardev_pty_open(struct loop *loop, struct chardev **ret, struct error *err)
{
	struct chardev_pty *pty = calloc(1, sizeof(*pty));
	int r;

	if (!pty)
		return error_set(err, -ENOMEM, "Out of memory for a pseudo-terminal");
	pty->stream.chr.ops = &pty_ops;
	pty->in_fd = -1;
	pty->out_fd = -1;
	pty->watch.fd = -1;
	pty->state_msg.fn = pty_state_msg;
	r = stream_init(&pty->stream, loop, &pty_hooks);
	if (r >= 0)
		r = pty_setup(pty, loop);
	if (r < 0) {
		pty_free(&pty->stream.chr);
		return error_set_errno(err, r,
				       "Cannot create a pseudo-terminal (is /dev/pts mounted?)");
	}
	*ret = &pty->stream.chr;
	return 0;
}
