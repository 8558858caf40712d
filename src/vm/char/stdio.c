/*
 * stdin and stdout as a character backend. On a terminal: raw mode with an escape key (terminal.h, escape.h).
 *
 * Neither descriptor may block the loop, and their open file descriptions are shared with the shell and whatever else
 * runs on this terminal, so O_NONBLOCK is not set on them: terminals and pipes are opened a second time through
 * /proc/self/fd, sockets are written with MSG_DONTWAIT, files never block. Only where the second opening is refused (a
 * terminal of another user, after su) the flag is set, and taken back on every way out.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/cleanup.h"
#include "base/fd.h"
#include "vm/char/escape.h"
#include "vm/char/stream.h"
#include "vm/char/terminal.h"

struct chardev_stdio {
	struct stream stream;
	struct chardev_stdio_config config;
	struct escape escape;
	bool tty_in, tty_out; /* [const after open] */
	bool guarded;
	int in_fd, out_fd;     /* owned */
	struct loop_fd notify; /* size changed, or continued */
	struct loop_msg size_msg;
};

static struct chardev_stdio *stdio_of(struct stream *s)
{
	return container_of(s, struct chardev_stdio, stream);
}

/* --- the escape key --- */

static void stdio_help(struct chardev_stdio *io)
{
	char key[16];
	char text[512];

	escape_key_name(io->escape.key, key, sizeof(key));
	snprintf(text, sizeof(text),
		 "\r\nAfter %s:\r\nx  ends the machine\r\n%sh  shows this\r\n%s  sends %s\r\n", key,
		 io->config.help ? io->config.help : "", key, key);
	stream_write(&io->stream.chr, (const uint8_t *)text, strlen(text));
}

static void stdio_command(void *opaque, char key)
{
	struct chardev_stdio *io = opaque;

	if (key == 'h' || key == '?')
		stdio_help(io);
	else if (io->config.command)
		io->config.command(io->config.opaque, key);
}

static size_t stdio_filter(struct stream *s, uint8_t *data, size_t len)
{
	return escape_filter(&stdio_of(s)->escape, data, len);
}

/* --- the terminal --- */

static bool stdio_may_read(struct stream *s)
{
	struct chardev_stdio *io = stdio_of(s);

	/* A job in the background that reads its terminal is stopped, and the machine with it. */
	return !io->tty_in || terminal_is_foreground(io->in_fd);
}

static void stdio_hangup(struct stream *s)
{
	/* No more input, or a reader that left: the other direction goes on, and the machine too. */
	(void)s;
}

static const struct stream_hooks stdio_hooks = {
	.hangup = stdio_hangup,
	.filter = stdio_filter,
	.may_read = stdio_may_read,
};

static void stdio_tell_size(struct chardev_stdio *io)
{
	const struct chardev_events *ev = &io->stream.chr.events;
	uint16_t columns;
	uint16_t rows;

	if (io->tty_out && ev->resized && terminal_size(io->out_fd, &columns, &rows))
		ev->resized(ev->opaque, columns, rows);
}

static void stdio_size_msg(struct loop_msg *msg)
{
	stdio_tell_size(container_of(msg, struct chardev_stdio, size_msg));
}

static void stdio_notified(struct loop_fd *src, unsigned events)
{
	struct chardev_stdio *io = container_of(src, struct chardev_stdio, notify);

	(void)events;
	eventfd_clear(src->fd);
	stdio_tell_size(io);
	stream_pump_input(&io->stream);
}

static void stdio_attached(struct chardev *chr)
{
	struct stream *s = container_of(chr, struct stream, chr);

	loop_post(s->loop, &stdio_of(s)->size_msg);
}

/* --- life --- */

static void stdio_free(struct chardev *chr)
{
	struct stream *s = container_of(chr, struct stream, chr);
	struct chardev_stdio *io = stdio_of(s);

	stream_fini(s);
	if (io->guarded)
		terminal_guard_stop();
	if (s->loop)
		loop_unpost(s->loop, &io->size_msg);
	loop_fd_del(&io->notify);
	if (io->notify.fd >= 0)
		close(io->notify.fd);
	if (io->in_fd >= 0)
		close(io->in_fd);
	if (io->out_fd >= 0)
		close(io->out_fd);
	free(io);
}

static const struct chardev_ops stdio_ops = {
	.type = "stdio",
	.write = stream_write,
	.accept_input = stream_accept_input,
	.attached = stdio_attached,
	.free = stdio_free,
};

/* A descriptor of our own for fd, which does not block where that can be had. */
static int stdio_private(int fd, int access)
{
	char path[32];
	struct stat st;
	int copy;

	if (fstat(fd, &st) < 0)
		return -errno;
	if (S_ISCHR(st.st_mode) || S_ISFIFO(st.st_mode)) {
		snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
		copy = open(path, access | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
		if (copy >= 0)
			return copy;
		terminal_share_nonblock(fd);
	}
	copy = fcntl(fd, F_DUPFD_CLOEXEC, 3);
	return copy < 0 ? -errno : copy;
}

static int stdio_setup(struct chardev_stdio *io, struct loop *loop)
{
	int notify_fd = eventfd_new();
	int r;

	if (notify_fd < 0)
		return notify_fd;
	r = loop_fd_add(loop, &io->notify, notify_fd, LOOP_READ, stdio_notified);
	if (r < 0)
		return r;
	r = terminal_guard_start(notify_fd);
	if (r < 0)
		return r;
	io->guarded = true;
	signal(SIGPIPE,
	       SIG_IGN); /* of this program, for good: a reader that leaves is an error code */
	io->in_fd = stdio_private(STDIN_FILENO, O_RDONLY);
	io->out_fd = stdio_private(STDOUT_FILENO, O_WRONLY);
	if (io->out_fd < 0)
		return io->out_fd;
	io->tty_in = io->in_fd >= 0 && isatty(io->in_fd);
	io->tty_out = isatty(io->out_fd);
	if (!io->tty_in)
		return 0;
	io->stream.greedy = true;
	io->escape =
		(struct escape){.key = io->config.escape, .command = stdio_command, .opaque = io};
	return terminal_set_raw(io->in_fd);
}

int chardev_stdio_open(struct loop *loop, const struct chardev_stdio_config *config,
		       struct chardev **ret, struct error *err)
{
	struct chardev_stdio *io = calloc(1, sizeof(*io));
	int r;

	if (!io)
		return error_set(err, -ENOMEM, "Out of memory for the terminal");
	io->config = *config;
	io->stream.chr.ops = &stdio_ops;
	io->notify.fd = -1;
	io->in_fd = -1;
	io->out_fd = -1;
	io->size_msg.fn = stdio_size_msg;
	r = stream_init(&io->stream, loop, &stdio_hooks);
	if (r >= 0)
		r = stdio_setup(io, loop);
	if (r < 0) {
		stdio_free(&io->stream.chr);
		if (r == -EBUSY)
			return error_set(err, r,
					 "Standard input and output are used by another character "
					 "device; give one of them a pty, a socket or a file");
		return error_set_errno(err, r, "Cannot set up standard input and output");
	}
	/* A closed stdin is a machine without input. */
	stream_start(&io->stream, io->in_fd, io->out_fd);
	*ret = &io->stream.chr;
	return 0;
}
