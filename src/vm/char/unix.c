/*
 * A character backend behind a listening Unix socket. One client at a time; the next one waits in the socket's backlog
 * until this one leaves. On the loop.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/fd.h"
#include "base/str.h"
#include "vm/char/stream.h"

struct chardev_unix {
	struct stream stream;
	struct loop_fd listener;
	bool listening; /* in the loop: no client */
	int listen_fd;  /* owned */
	int in_fd,
		out_fd; /* owned: the client's connection, twice; epoll wants a number a direction */
	struct loop_msg state_msg;
};

static void unix_accept(struct loop_fd *src, unsigned events);

static struct chardev_unix *unix_of(struct stream *s)
{
	return container_of(s, struct chardev_unix, stream);
}

static void unix_tell(struct chardev_unix *ux)
{
	const struct chardev_events *ev = &ux->stream.chr.events;

	if (ev->opened)
		ev->opened(ev->opaque, ux->in_fd >= 0);
}

static void unix_state_msg(struct loop_msg *msg)
{
	unix_tell(container_of(msg, struct chardev_unix, state_msg));
}

static void unix_listen_on(struct chardev_unix *ux)
{
	ux->listening = loop_fd_add(ux->stream.loop, &ux->listener, ux->listen_fd, LOOP_READ,
				    unix_accept) >= 0;
}

static void unix_close_client(struct chardev_unix *ux)
{
	if (ux->in_fd < 0)
		return;
	stream_stop(&ux->stream);
	close(ux->in_fd);
	close(ux->out_fd);
	ux->in_fd = -1;
	ux->out_fd = -1;
}

static void unix_hangup(struct stream *s)
{
	struct chardev_unix *ux = unix_of(s);

	if (ux->in_fd < 0)
		return;
	unix_close_client(ux);
	unix_tell(ux);
	unix_listen_on(ux);
}

static const struct stream_hooks unix_hooks = {.hangup = unix_hangup};

static void unix_accept(struct loop_fd *src, unsigned events)
{
	struct chardev_unix *ux = container_of(src, struct chardev_unix, listener);
	int fd = accept4(src->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	int copy;

	(void)events;
	if (fd < 0)
		return;
	copy = fcntl(fd, F_DUPFD_CLOEXEC, 3);
	if (copy < 0) {
		close(fd);
		return;
	}
	ux->in_fd = fd;
	ux->out_fd = copy;
	loop_fd_del(&ux->listener);
	ux->listening = false;
	stream_start(&ux->stream, fd, copy);
	unix_tell(ux);
}

static void unix_attached(struct chardev *chr)
{
	struct stream *s = container_of(chr, struct stream, chr);

	loop_post(s->loop, &unix_of(s)->state_msg);
}

static void unix_free(struct chardev *chr)
{
	struct stream *s = container_of(chr, struct stream, chr);
	struct chardev_unix *ux = unix_of(s);

	stream_fini(s);
	if (ux->in_fd >= 0) {
		close(ux->in_fd);
		close(ux->out_fd);
	}
	if (s->loop)
		loop_unpost(s->loop, &ux->state_msg);
	if (ux->listening)
		loop_fd_del(&ux->listener);
	if (ux->listen_fd >= 0) {
		close(ux->listen_fd);
		unlink(chr->path);
	}
	free(ux);
}

static const struct chardev_ops unix_ops = {
	.type = "unix",
	.write = stream_write,
	.accept_input = stream_accept_input,
	.attached = unix_attached,
	.free = unix_free,
};

int chardev_unix_open(struct loop *loop, const char *path, struct chardev **ret, struct error *err)
{
	struct chardev_unix *ux = calloc(1, sizeof(*ux));
	int r;

	if (!ux)
		return error_set(err, -ENOMEM, "Out of memory for the character socket %s", path);
	ux->stream.chr.ops = &unix_ops;
	ux->in_fd = -1;
	ux->out_fd = -1;
	ux->state_msg.fn = unix_state_msg;
	str_copy(ux->stream.chr.path, sizeof(ux->stream.chr.path), path);
	ux->listen_fd = unix_listen(path);
	r = ux->listen_fd < 0 ? ux->listen_fd : fd_set_nonblock(ux->listen_fd, true);
	if (r >= 0)
		r = stream_init(&ux->stream, loop, &unix_hooks);
	if (r < 0) {
		unix_free(&ux->stream.chr);
		if (r == -EADDRINUSE)
			return error_set(err, r, "The socket %s is in use by another program",
					 path);
		if (r == -EEXIST)
			return error_set(err, r,
					 "%s exists and is no socket: remove it or choose "
					 "another path",
					 path);
		return error_set_errno(err, r, "Cannot listen on the character socket %s", path);
	}
	unix_listen_on(ux);
	*ret = &ux->stream.chr;
	return 0;
}
