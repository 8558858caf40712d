#include "vm/char/stream.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/cleanup.h"

#define STREAM_LINGER_MS 1000

static void stream_in_ready(struct loop_fd *src, unsigned events);
static void stream_out_ready(struct loop_fd *src, unsigned events);

/* --- output --- */

size_t stream_write(struct chardev *chr, const uint8_t *data, size_t len)
{
	struct stream *s = container_of(chr, struct stream, chr);
	bool post = false;
	uint32_t n;
	uint32_t at;
	uint32_t first;

	pthread_mutex_lock(&s->lock);
	if (!s->open) {
		s->dropped += len;
		pthread_mutex_unlock(&s->lock);
		return len;
	}
	n = (uint32_t)MIN(len, (size_t)(STREAM_BUFFER_BYTES - s->out_used));
	at = (s->out_head + s->out_used) % STREAM_BUFFER_BYTES;
	first = MIN(n, STREAM_BUFFER_BYTES - at);
	memcpy(s->out + at, data, first);
	memcpy(s->out, data + first, n - first);
	s->out_used += n;
	s->refused |= n < len;
	if (n > 0 && (!s->flush_planned || (s->out_used >= STREAM_GATHER_BYTES &&
					    s->out_used - n < STREAM_GATHER_BYTES))) {
		s->flush_planned = true;
		post = true;
	}
	pthread_mutex_unlock(&s->lock);
	if (post)
		loop_post(s->loop, &s->flush_msg);
	return n;
}

/* Writes once from the ring, which is not empty; returns the bytes written, or a negative errno. */
static ssize_t stream_write_out(struct stream *s, uint32_t *ret_tried)
{
	struct iovec iov[2];
	struct msghdr msg = {.msg_iov = iov, .msg_iovlen = 2};
	uint32_t used;
	uint32_t first;
	ssize_t r;

	pthread_mutex_lock(&s->lock);
	used = s->out_used;
	first = MIN(used, STREAM_BUFFER_BYTES - s->out_head);
	iov[0] = (struct iovec){s->out + s->out_head, first};
	iov[1] = (struct iovec){s->out, used - first};
	pthread_mutex_unlock(&s->lock);
	*ret_tried = used;
	if (used == 0)
		return 0;
	/* The used part is this thread's alone: writers only append behind it. */
	do {
		r = s->out_socket ? sendmsg(s->out_fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL)
				  : writev(s->out_fd, iov, 2);
	} while (r < 0 && errno == EINTR);
	return r < 0 ? -errno : r;
}

/* Takes n bytes off the ring (all: UINT32_MAX) and tells the device when it waits for room. Returns what is left. */
static uint32_t stream_consume(struct stream *s, uint32_t n, bool dropped)
{
	const struct chardev_events *ev = &s->chr.events;
	uint32_t left;
	bool tell;

	pthread_mutex_lock(&s->lock);
	n = MIN(n, s->out_used);
	if (dropped)
		s->dropped += n;
	s->out_head = (s->out_head + n) % STREAM_BUFFER_BYTES;
	s->out_used -= n;
	left = s->out_used;
	if (left == 0) {
		s->out_head = 0; /* keeps the touched part of the buffer small */
		s->flush_planned = false;
	}
	tell = n > 0 && s->refused;
	if (tell)
		s->refused = false;
	pthread_mutex_unlock(&s->lock);
	if (tell && ev->writable)
		ev->writable(ev->opaque);
	return left;
}

static void stream_watch_out(struct stream *s, bool on)
{
	if (on == s->out_watched)
		return;
	s->out_watched = on;
	if (!on)
		loop_fd_del(&s->out_src);
	else if (loop_fd_add(s->loop, &s->out_src, s->out_fd, LOOP_WRITE, stream_out_ready) < 0)
		s->out_watched = false;
}

/* The other end is gone, or the disk is full: nobody will read what is there. */
static void stream_out_failed(struct stream *s, int code)
{
	bool full = code == -ENOSPC || code == -EDQUOT || code == -EFBIG;

	pthread_mutex_lock(&s->lock);
	s->open = full; /* a disk may have room later */
	pthread_mutex_unlock(&s->lock);
	stream_watch_out(s, false);
	stream_consume(s, UINT32_MAX, true);
	if (!full)
		s->hooks->hangup(s);
}

/* One write: a guest that prints without end must not keep the loop here. */
static void stream_flush(struct stream *s)
{
	uint32_t tried;
	ssize_t r;

	if (s->out_fd < 0)
		return;
	r = stream_write_out(s, &tried);
	if (r < 0 && r != -EAGAIN) {
		stream_out_failed(s, (int)r);
		return;
	}
	s->flushed_ns = clock_monotonic_ns();
	r = MAX(r, (ssize_t)0);
	/* Before `writable` is called: it may write again. */
	stream_watch_out(s, r < tried);
	if (stream_consume(s, (uint32_t)r, false) > 0 && !s->out_watched)
		loop_timer_arm(&s->flush_timer, s->flushed_ns + STREAM_GATHER_NS);
}

static void stream_out_ready(struct loop_fd *src, unsigned events)
{
	struct stream *s = container_of(src, struct stream, out_src);

	(void)events;
	stream_flush(s);
}

static void stream_flush_timer(struct loop_timer *timer)
{
	struct stream *s = container_of(timer, struct stream, flush_timer);

	if (!s->out_watched)
		stream_flush(s);
}

static void stream_flush_msg(struct loop_msg *msg)
{
	struct stream *s = container_of(msg, struct stream, flush_msg);
	uint64_t due = s->flushed_ns + STREAM_GATHER_NS;
	uint32_t used;

	if (s->out_watched)
		return;
	pthread_mutex_lock(&s->lock);
	used = s->out_used;
	pthread_mutex_unlock(&s->lock);
	if (used < STREAM_GATHER_BYTES && clock_monotonic_ns() < due) {
		loop_timer_arm(&s->flush_timer, due);
		return;
	}
	loop_timer_disarm(&s->flush_timer);
	stream_flush(s);
}

/* --- input --- */

static void stream_deliver(struct stream *s)
{
	const struct chardev_events *ev = &s->chr.events;

	/* First announced, then looked at: an accept_input that comes in between is not lost. */
	atomic_store(&s->in_waiting, true);
	while (s->in_at < s->in_len) {
		size_t room = ev->can_receive ? ev->can_receive(ev->opaque) : 0;
		size_t n = MIN(room, s->in_len - s->in_at);

		if (n == 0)
			return;
		s->in_at += n;
		ev->receive(ev->opaque, s->in + s->in_at - n, n);
	}
	s->in_at = 0;
	s->in_len = 0;
}

static void stream_watch_in(struct stream *s, bool on)
{
	int r;

	if (on && s->in_unpollable) {
		loop_post(s->loop, &s->input_msg);
		return;
	}
	if (on == s->in_watched)
		return;
	s->in_watched = on;
	if (!on) {
		loop_fd_del(&s->in_src);
		return;
	}
	r = loop_fd_add(s->loop, &s->in_src, s->in_fd, LOOP_READ, stream_in_ready);
	if (r < 0)
		s->in_watched = false;
	if (r == -EPERM) {
		/* A file or /dev/null: epoll refuses it because it is always ready. */
		s->in_unpollable = true;
		loop_post(s->loop, &s->input_msg);
	}
}

void stream_pump_input(struct stream *s)
{
	const struct chardev_events *ev = &s->chr.events;
	bool room;

	stream_deliver(s);
	if (s->in_fd < 0)
		return;
	room = s->in_len == 0 && ev->can_receive && ev->can_receive(ev->opaque) > 0;
	if (room)
		atomic_store(&s->in_waiting, false);
	stream_watch_in(s, (room || s->greedy) && (!s->hooks->may_read || s->hooks->may_read(s)));
}

static void stream_in_end(struct stream *s)
{
	stream_watch_in(s, false);
	s->in_fd = -1;
	s->in_unpollable = false;
	s->hooks->hangup(s);
}

/* Reads once. What does not fit was typed at a guest that takes nothing, and only its escape keys matter. */
static void stream_read(struct stream *s)
{
	uint8_t buf[STREAM_INPUT_BYTES];
	size_t len;
	ssize_t r;

	do {
		r = s->greedy ? read(s->in_fd, buf, 64) : read(s->in_fd, buf, sizeof(buf));
	} while (r < 0 && errno == EINTR);
	if (r < 0 && errno == EAGAIN)
		return;
	if (r <= 0) {
		stream_in_end(s);
		return;
	}
	len = (size_t)r;
	if (s->hooks->filter)
		len = s->hooks->filter(s, buf, len);
	if (s->in_at > 0) {
		memmove(s->in, s->in + s->in_at, s->in_len - s->in_at);
		s->in_len -= s->in_at;
		s->in_at = 0;
	}
	len = MIN(len, sizeof(s->in) - s->in_len);
	memcpy(s->in + s->in_len, buf, len);
	s->in_len += len;
}

static void stream_in_ready(struct loop_fd *src, unsigned events)
{
	struct stream *s = container_of(src, struct stream, in_src);

	(void)events;
	if (!s->hooks->may_read || s->hooks->may_read(s))
		stream_read(s);
	stream_pump_input(s);
}

static void stream_input_msg(struct loop_msg *msg)
{
	struct stream *s = container_of(msg, struct stream, input_msg);

	stream_deliver(s);
	if (s->in_unpollable && s->in_fd >= 0 && s->in_len == 0 && s->chr.events.can_receive &&
	    s->chr.events.can_receive(s->chr.events.opaque) > 0)
		stream_read(s);
	stream_pump_input(s);
}

void stream_accept_input(struct chardev *chr)
{
	struct stream *s = container_of(chr, struct stream, chr);

	if (atomic_load(&s->in_waiting))
		loop_post(s->loop, &s->input_msg);
}

/* --- life --- */

int stream_init(struct stream *s, struct loop *loop, const struct stream_hooks *hooks)
{
	s->out = malloc(STREAM_BUFFER_BYTES);
	if (!s->out)
		return -ENOMEM;
	s->loop = loop;
	s->hooks = hooks;
	s->in_fd = -1;
	s->out_fd = -1;
	s->flush_msg.fn = stream_flush_msg;
	s->input_msg.fn = stream_input_msg;
	loop_timer_init(loop, &s->flush_timer, stream_flush_timer);
	atomic_store(&s->in_waiting, true);
	pthread_mutex_init(&s->lock, NULL);
	return 0;
}

void stream_start(struct stream *s, int in_fd, int out_fd)
{
	struct stat st;

	s->in_fd = in_fd;
	s->out_fd = out_fd;
	s->out_socket = out_fd >= 0 && fstat(out_fd, &st) == 0 && S_ISSOCK(st.st_mode);
	s->in_at = 0;
	s->in_len = 0;
	pthread_mutex_lock(&s->lock);
	s->open = out_fd >= 0;
	pthread_mutex_unlock(&s->lock);
	loop_post(s->loop, &s->input_msg);
}

void stream_stop(struct stream *s)
{
	pthread_mutex_lock(&s->lock);
	s->open = false;
	pthread_mutex_unlock(&s->lock);
	stream_watch_out(s, false);
	stream_consume(s, UINT32_MAX, true);
	stream_watch_in(s, false);
	s->in_unpollable = false;
	s->in_fd = -1;
	s->out_fd = -1;
}

static bool stream_has_output(struct stream *s)
{
	LOCK_GUARD(&s->lock);
	return s->open && s->out_used > 0;
}

void stream_fini(struct stream *s)
{
	uint64_t deadline = clock_monotonic_ns() + STREAM_LINGER_MS * NSEC_PER_MSEC;

	if (!s->out)
		return;
	s->chr.events = (struct chardev_events){0};
	while (s->out_fd >= 0 && stream_has_output(s) && clock_monotonic_ns() < deadline) {
		struct pollfd pfd = {.fd = s->out_fd, .events = POLLOUT};

		if (poll(&pfd, 1, STREAM_LINGER_MS / 10) > 0)
			stream_flush(s);
	}
	stream_stop(s);
	loop_timer_disarm(&s->flush_timer);
	loop_unpost(s->loop, &s->flush_msg);
	loop_unpost(s->loop, &s->input_msg);
	pthread_mutex_destroy(&s->lock);
	free(s->out);
	s->out = NULL;
}
