/*
 * An event loop on epoll: descriptors, timers, and calls from other threads. One thread runs a loop;
 * everything but loop_post(), loop_call() and loop_quit() belongs to that thread (or happens before it runs).
 *
 * A callback may add and remove any source, itself included. Memory of a source belongs to its user and must
 * stay until loop_*_del() has returned.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct loop;

int loop_new(struct loop **ret);
void loop_free(struct loop *loop);

/* Runs until loop_quit(). */
void loop_run(struct loop *loop);
/* One round: waits at most timeout_ms (-1: for ever, 0: polls). For tests and for draining. */
void loop_run_once(struct loop *loop, int timeout_ms);
/* Any thread. */
void loop_quit(struct loop *loop);
/* Is the caller the thread that runs this loop (or is no thread running it yet)? */
bool loop_is_mine(const struct loop *loop);

/* --- descriptors --- */

#define LOOP_READ   1u
#define LOOP_WRITE  2u
#define LOOP_HANGUP 4u /* reported always, asked for never */

struct loop_fd {
	void (*ready)(struct loop_fd *src, unsigned events);
	int fd; /* [const after add] */
	/* private */
	struct loop *loop;
	unsigned events;
};

/* events: LOOP_READ | LOOP_WRITE, or 0 to add it dormant. Level-triggered. Returns 0 or a negative errno. */
int loop_fd_add(struct loop *loop, struct loop_fd *src, int fd, unsigned events,
		void (*ready)(struct loop_fd *src, unsigned events));
int loop_fd_mod(struct loop_fd *src, unsigned events);
/* Harmless on a source that was never added. Does not close the descriptor. */
void loop_fd_del(struct loop_fd *src);

/* --- timers --- */

struct loop_timer {
	void (*fire)(struct loop_timer *timer);
	/* private */
	struct loop *loop;
	uint64_t deadline_ns;
	struct loop_timer *next;
};

void loop_timer_init(struct loop *loop, struct loop_timer *timer,
		     void (*fire)(struct loop_timer *timer));
/* One shot at an absolute CLOCK_MONOTONIC time; re-arming moves it. */
void loop_timer_arm(struct loop_timer *timer, uint64_t deadline_ns);
void loop_timer_disarm(struct loop_timer *timer);
bool loop_timer_armed(const struct loop_timer *timer);

/* --- calls from other threads --- */

/* A message: embed it, fill fn, post it from any thread. It runs once on the loop's thread; while it is queued a
 * second post of the same message does nothing. The message's memory must outlive its run. */
struct loop_msg {
	void (*fn)(struct loop_msg *msg);
	/* private */
	struct loop_msg *next;
	bool queued;
};

void loop_post(struct loop *loop, struct loop_msg *msg);
/* Takes a message back: afterwards it will not run (unless posted again). Loop's thread only. */
void loop_unpost(struct loop *loop, struct loop_msg *msg);

/* Runs fn(opaque) on the loop's thread and waits for it; directly when the caller is that thread. Never call it
 * while holding a lock that a callback of the loop takes. */
void loop_call(struct loop *loop, void (*fn)(void *opaque), void *opaque);

/* --- a thread with a loop of its own --- */

/* Starts a thread called `name` (15 characters at most) that runs a new loop. loop_thread_stop() ends and frees both. */
struct loop_thread;
int loop_thread_start(const char *name, struct loop_thread **ret);
struct loop *loop_thread_loop(struct loop_thread *thread);
void loop_thread_stop(struct loop_thread *thread);
