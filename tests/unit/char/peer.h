/*
 * The device's side of a character backend: counts what is told, keeps what arrives.
 */
#pragma once

#include "unit/test.h"

#include "base/bits.h"
#include "base/clock.h"
#include "vm/char/chardev.h"

struct peer {
	struct chardev *chr;
	size_t room; /* what can_receive says; receiving uses it up */
	uint8_t in[4096];
	size_t in_len;
	bool open;
	unsigned opened, closed, writable;
	uint16_t columns, rows;
};

static inline void peer_receive(void *opaque, const uint8_t *data, size_t len)
{
	struct peer *peer = opaque;

	if (len > peer->room || peer->in_len + len > sizeof(peer->in))
		abort();
	memcpy(peer->in + peer->in_len, data, len);
	peer->in_len += len;
	peer->room -= len;
}

static inline size_t peer_can_receive(void *opaque)
{
	return ((struct peer *)opaque)->room;
}

static inline void peer_opened(void *opaque, bool open)
{
	struct peer *peer = opaque;

	peer->open = open;
	peer->opened += open;
	peer->closed += !open;
}

static inline void peer_resized(void *opaque, uint16_t columns, uint16_t rows)
{
	((struct peer *)opaque)->columns = columns;
	((struct peer *)opaque)->rows = rows;
}

static inline void peer_writable(void *opaque)
{
	((struct peer *)opaque)->writable++;
}

static inline void peer_attach(struct peer *peer, struct chardev *chr, size_t room)
{
	struct chardev_events events = {
		.receive = peer_receive,
		.can_receive = peer_can_receive,
		.opened = peer_opened,
		.resized = peer_resized,
		.writable = peer_writable,
		.opaque = peer,
	};

	peer->chr = chr;
	peer->room = room;
	chardev_attach(chr, &events);
}

static inline void peer_give_room(struct peer *peer, size_t room)
{
	peer->room = room;
	chardev_accept_input(peer->chr);
}

static inline size_t peer_write(struct peer *peer, const char *text)
{
	return chardev_write(peer->chr, (const uint8_t *)text, strlen(text));
}

/* Runs the loop until the condition holds, for ten seconds at most; its value. */
#define RUN_UNTIL(loop, condition)                                                                 \
	({                                                                                         \
		uint64_t _end = clock_monotonic_ns() + 10 * NSEC_PER_SEC;                          \
		bool _holds;                                                                       \
		while (!(_holds = (condition)) && clock_monotonic_ns() < _end)                     \
			loop_run_once((loop), 100);                                                \
		_holds;                                                                            \
	})

/* How often the loop goes round in 30 ms in which nothing should happen: a few times, or thousands when it spins. */
struct rounds {
	struct loop_timer timer;
	bool over;
};
static inline void rounds_over(struct loop_timer *timer)
{
	container_of(timer, struct rounds, timer)->over = true;
}
static inline unsigned idle_rounds(struct loop *loop)
{
	struct rounds rounds = {.over = false};
	unsigned n = 0;

	loop_timer_init(loop, &rounds.timer, rounds_over);
	loop_timer_arm(&rounds.timer, clock_monotonic_ns() + 30 * NSEC_PER_MSEC);
	for (; !rounds.over; n++)
		loop_run_once(loop, -1);
	return n;
}
#define IDLE_MAX 20
