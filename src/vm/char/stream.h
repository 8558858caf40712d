/*
 * What the backends with descriptors share: a bounded output buffer that is written out on the loop, and input that is
 * read as fast as the device takes it. Private to vm/char.
 *
 * Output. Any thread appends; the loop writes. A byte after a quiet moment goes out at once, a stream of single bytes (a
 * serial port's boot log) is gathered for STREAM_GATHER_NS, so that the writer pays a lock and a copy for each byte and
 * almost never a system call.
 *
 * Input. A descriptor that nobody may read from now is taken out of the loop altogether: epoll reports a hang-up whether
 * asked or not, and would spin.
 */
#pragma once

#include <pthread.h>
#include <stdatomic.h>

#include "base/clock.h"
#include "vm/char/chardev.h"

#define STREAM_BUFFER_BYTES 65536u /* a power of two */
#define STREAM_GATHER_NS    (2 * NSEC_PER_MSEC)
#define STREAM_GATHER_BYTES 4096u /* as much is written out without waiting */
#define STREAM_INPUT_BYTES  1024u

struct stream;

struct stream_hooks {
	/* The descriptor reported its end or an error, while open; on the loop, not for output to a full disk. */
	void (*hangup)(struct stream *s);
	/* Optional: bytes as read, filtered in place; returns how many remain. */
	size_t (*filter)(struct stream *s, uint8_t *data, size_t len);
	/* Optional: may it be read now? (A terminal in the background may not.) stream_pump_input() goes on. */
	bool (*may_read)(struct stream *s);
};

struct stream {
	struct chardev chr;
	struct loop *loop;
	const struct stream_hooks *hooks;
	bool greedy; /* [const] reads even while the device takes nothing, and drops: a terminal's escape key must work */

	int in_fd, out_fd; /* [loop] borrowed from the backend; -1: none */
	bool out_socket;   /* [loop] */
	bool in_watched, in_unpollable, out_watched; /* [loop] */
	struct loop_fd in_src, out_src;
	struct loop_msg flush_msg, input_msg;
	struct loop_timer flush_timer;
	uint64_t flushed_ns; /* [loop] when output was last written */

	uint8_t in[STREAM_INPUT_BYTES]; /* [loop] */
	size_t in_at, in_len;
	atomic_bool in_waiting; /* accept_input has something to do */

	pthread_mutex_t lock; /* a leaf; no call is made under it */
	uint8_t *out;         /* [lock] a ring; its used part belongs to the loop */
	uint32_t out_head, out_used;
	bool open;          /* somebody reads; otherwise output is dropped */
	bool flush_planned; /* the loop knows that there is output */
	bool refused;       /* a write was cut short, `writable` is owed */
	uint64_t dropped;   /* bytes that nobody read */
};

/* chr.ops must be set by the caller to a table with the three operations below. */
int stream_init(struct stream *s, struct loop *loop, const struct stream_hooks *hooks);
/* Writes out what is left, waiting a second at most, and leaves the loop. Does not close the descriptors. */
void stream_fini(struct stream *s);

/* Descriptors to use from now on, -1 for a direction without; different numbers. Loop's thread. */
void stream_start(struct stream *s, int in_fd, int out_fd);
/* Forgets them and drops what was not written; before they are closed. Loop's thread. */
void stream_stop(struct stream *s);
/* Goes on reading after may_read said no. Loop's thread. */
void stream_pump_input(struct stream *s);

size_t stream_write(struct chardev *chr, const uint8_t *data, size_t len);
void stream_accept_input(struct chardev *chr);
