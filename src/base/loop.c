#include "base/loop.h"

#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/fd.h"
#include "base/str.h"

#define LOOP_BATCH 32

struct loop {
	int epoll_fd;
	struct loop_fd wake; /* an eventfd: messages wait, or quit was asked */
	atomic_bool quit;
	_Atomic(pthread_t) runner; /* valid while running is set */
	atomic_bool running;

	pthread_mutex_t lock;
	struct loop_msg *msg_head; /* [lock] */
	struct loop_msg **msg_tail;

	struct loop_timer *timers; /* [loop] sorted by deadline */

	/* [loop] The batch being dispatched: a source deleted meanwhile is wiped out of it. */
	struct epoll_event batch[LOOP_BATCH];
	int batch_at;
	int batch_n;
};

static void loop_wake_ready(struct loop_fd *src, unsigned events)
{
	(void)events;
	eventfd_clear(src->fd);
}

int loop_new(struct loop **ret)
{
	struct loop *loop = calloc(1, sizeof(*loop));
	int fd;

	if (!loop)
		return -ENOMEM;
	pthread_mutex_init(&loop->lock, NULL);
	loop->msg_tail = &loop->msg_head;
	loop->wake.fd = -1;
	loop->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	fd = loop->epoll_fd < 0 ? -errno : eventfd_new();
	if (fd >= 0) {
		int r = loop_fd_add(loop, &loop->wake, fd, LOOP_READ, loop_wake_ready);

		if (r >= 0) {
			*ret = loop;
			return 0;
		}
		close(fd);
		loop->wake.fd = -1;
		fd = r;
	}
	loop_free(loop);
	return fd;
}

void loop_free(struct loop *loop)
{
	if (!loop)
		return;
	if (loop->wake.fd >= 0)
		close(loop->wake.fd);
	if (loop->epoll_fd >= 0)
		close(loop->epoll_fd);
	pthread_mutex_destroy(&loop->lock);
	free(loop);
}

bool loop_is_mine(const struct loop *loop)
{
	return !atomic_load(&loop->running) ||
	       pthread_equal(atomic_load(&loop->runner), pthread_self());
}

/* --- descriptors --- */

static uint32_t loop_epoll_events(unsigned events)
{
	return ((events & LOOP_READ) ? (uint32_t)EPOLLIN : 0) |
	       ((events & LOOP_WRITE) ? (uint32_t)EPOLLOUT : 0);
}

int loop_fd_add(struct loop *loop, struct loop_fd *src, int fd, unsigned events,
		void (*ready)(struct loop_fd *src, unsigned events))
{
	struct epoll_event ev = {.events = loop_epoll_events(events), .data.ptr = src};

	src->ready = ready;
	src->fd = fd;
	src->events = events;
	src->loop = NULL;
	if (epoll_ctl(loop->epoll_fd, EPOLL_CTL_ADD, fd, &ev) < 0)
		return -errno;
	src->loop = loop;
	return 0;
}

int loop_fd_mod(struct loop_fd *src, unsigned events)
{
	struct epoll_event ev = {.events = loop_epoll_events(events), .data.ptr = src};

	if (src->events == events)
		return 0;
	if (epoll_ctl(src->loop->epoll_fd, EPOLL_CTL_MOD, src->fd, &ev) < 0)
		return -errno;
	src->events = events;
	return 0;
}

void loop_fd_del(struct loop_fd *src)
{
	struct loop *loop = src->loop;

	if (!loop)
		return;
	epoll_ctl(loop->epoll_fd, EPOLL_CTL_DEL, src->fd, NULL);
	for (int i = loop->batch_at; i < loop->batch_n; i++) {
		if (loop->batch[i].data.ptr == src)
			loop->batch[i].data.ptr = NULL;
	}
	src->loop = NULL;
}

/* --- timers --- */

void loop_timer_init(struct loop *loop, struct loop_timer *timer,
		     void (*fire)(struct loop_timer *timer))
{
	*timer = (struct loop_timer){.fire = fire, .loop = loop};
}

bool loop_timer_armed(const struct loop_timer *timer)
{
	return timer->deadline_ns != 0;
}

void loop_timer_disarm(struct loop_timer *timer)
{
	struct loop_timer **at;

	if (!loop_timer_armed(timer))
		return;
	for (at = &timer->loop->timers; *at; at = &(*at)->next) {
		if (*at == timer) {
			*at = timer->next;
			break;
		}
	}
	timer->deadline_ns = 0;
	timer->next = NULL;
}

void loop_timer_arm(struct loop_timer *timer, uint64_t deadline_ns)
{
	struct loop_timer **at;

	loop_timer_disarm(timer);
	timer->deadline_ns = MAX(deadline_ns, (uint64_t)1);
	at = &timer->loop->timers;
	while (*at && (*at)->deadline_ns <= timer->deadline_ns)
		at = &(*at)->next;
	timer->next = *at;
	*at = timer;
}

static void loop_fire_timers(struct loop *loop)
{
	uint64_t now;

	if (!loop->timers)
		return;
	now = clock_monotonic_ns();
	while (loop->timers && loop->timers->deadline_ns <= now) {
		struct loop_timer *timer = loop->timers;

		loop_timer_disarm(timer);
		timer->fire(timer);
	}
}

/* The wait until the first timer, in ms rounded up, at most timeout_ms (-1: no bound). */
static int loop_wait_ms(const struct loop *loop, int timeout_ms)
{
	uint64_t now;
	uint64_t ms;

	if (!loop->timers)
		return timeout_ms;
	now = clock_monotonic_ns();
	if (loop->timers->deadline_ns <= now)
		return 0;
	ms = (loop->timers->deadline_ns - now + NSEC_PER_MSEC - 1) / NSEC_PER_MSEC;
	ms = MIN(ms, (uint64_t)60 * 1000);
	return timeout_ms < 0 ? (int)ms : MIN((int)ms, timeout_ms);
}

/* --- messages --- */

void loop_post(struct loop *loop, struct loop_msg *msg)
{
	bool wake = false;

	pthread_mutex_lock(&loop->lock);
	if (!msg->queued) {
		msg->queued = true;
		msg->next = NULL;
		*loop->msg_tail = msg;
		loop->msg_tail = &msg->next;
		wake = true;
	}
	pthread_mutex_unlock(&loop->lock);
	if (wake)
		eventfd_signal(loop->wake.fd);
}

void loop_unpost(struct loop *loop, struct loop_msg *msg)
{
	LOCK_GUARD(&loop->lock);
	if (!msg->queued)
		return;
	for (struct loop_msg **at = &loop->msg_head; *at; at = &(*at)->next) {
		if (*at != msg)
			continue;
		*at = msg->next;
		if (!msg->next)
			loop->msg_tail = at;
		break;
	}
	msg->queued = false;
}

static struct loop_msg *loop_take_msg(struct loop *loop)
{
	struct loop_msg *msg;

	LOCK_GUARD(&loop->lock);
	msg = loop->msg_head;
	if (msg) {
		loop->msg_head = msg->next;
		if (!loop->msg_head)
			loop->msg_tail = &loop->msg_head;
		msg->queued = false;
	}
	return msg;
}

static void loop_run_msgs(struct loop *loop)
{
	struct loop_msg *msg;

	/* Bounded, so that messages that post themselves again cannot starve the descriptors. */
	for (int i = 0; i < LOOP_BATCH; i++) {
		msg = loop_take_msg(loop);
		if (!msg)
			return;
		msg->fn(msg);
	}
	eventfd_signal(loop->wake.fd);
}

struct loop_call_msg {
	struct loop_msg msg;
	void (*fn)(void *opaque);
	void *opaque;
	pthread_mutex_t lock;
	pthread_cond_t done_cond;
	bool done;
};

static void loop_call_run(struct loop_msg *msg)
{
	struct loop_call_msg *call = container_of(msg, struct loop_call_msg, msg);

	call->fn(call->opaque);
	LOCK_GUARD(&call->lock);
	call->done = true;
	pthread_cond_signal(&call->done_cond);
}

void loop_call(struct loop *loop, void (*fn)(void *opaque), void *opaque)
{
	struct loop_call_msg call = {
		.msg.fn = loop_call_run,
		.fn = fn,
		.opaque = opaque,
		.lock = PTHREAD_MUTEX_INITIALIZER,
		.done_cond = PTHREAD_COND_INITIALIZER,
	};

	if (loop_is_mine(loop)) {
		fn(opaque);
		return;
	}
	loop_post(loop, &call.msg);
	pthread_mutex_lock(&call.lock);
	while (!call.done)
		pthread_cond_wait(&call.done_cond, &call.lock);
	pthread_mutex_unlock(&call.lock);
	pthread_mutex_destroy(&call.lock);
	pthread_cond_destroy(&call.done_cond);
}

/* --- running --- */

void loop_run_once(struct loop *loop, int timeout_ms)
{
	int n;

	n = epoll_wait(loop->epoll_fd, loop->batch, LOOP_BATCH, loop_wait_ms(loop, timeout_ms));
	loop->batch_n = MAX(n, 0);
	for (loop->batch_at = 0; loop->batch_at < loop->batch_n;) {
		struct epoll_event *ev = &loop->batch[loop->batch_at++];
		struct loop_fd *src = ev->data.ptr;

		if (!src)
			continue;
		src->ready(src, ((ev->events & EPOLLIN) ? LOOP_READ : 0) |
					((ev->events & EPOLLOUT) ? LOOP_WRITE : 0) |
					((ev->events & (EPOLLHUP | EPOLLERR)) ? LOOP_HANGUP : 0));
	}
	loop->batch_at = 0;
	loop->batch_n = 0;
	loop_fire_timers(loop);
	loop_run_msgs(loop);
}

void loop_run(struct loop *loop)
{
	atomic_store(&loop->runner, pthread_self());
	atomic_store(&loop->running, true);
	while (!atomic_load(&loop->quit))
		loop_run_once(loop, -1);
	atomic_store(&loop->quit, false);
	atomic_store(&loop->running, false);
}

void loop_quit(struct loop *loop)
{
	atomic_store(&loop->quit, true);
	eventfd_signal(loop->wake.fd);
}

/* --- threads --- */

struct loop_thread {
	struct loop *loop;
	pthread_t thread;
	struct loop_msg started; /* its run shows that the loop is this thread's from now on */
	sem_t started_sem;
};

static void loop_thread_started(struct loop_msg *msg)
{
	sem_post(&container_of(msg, struct loop_thread, started)->started_sem);
}

static void *loop_thread_main(void *opaque)
{
	struct loop_thread *thread = opaque;

	loop_run(thread->loop);
	return NULL;
}

int loop_thread_start(const char *name, struct loop_thread **ret)
{
	struct loop_thread *thread = calloc(1, sizeof(*thread));
	sigset_t all;
	sigset_t old;
	char short_name[16];
	int r;

	if (!thread)
		return -ENOMEM;
	r = loop_new(&thread->loop);
	if (r < 0) {
		free(thread);
		return r;
	}
	sem_init(&thread->started_sem, 0, 0);
	thread->started.fn = loop_thread_started;
	loop_post(thread->loop, &thread->started);
	/* Signals are the main thread's business. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	r = -pthread_create(&thread->thread, NULL, loop_thread_main, thread);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (r < 0) {
		loop_free(thread->loop);
		free(thread);
		return r;
	}
	str_copy(short_name, sizeof(short_name), name);
	pthread_setname_np(thread->thread, short_name);
	while (sem_wait(&thread->started_sem) < 0 && errno == EINTR)
		;
	*ret = thread;
	return 0;
}

struct loop *loop_thread_loop(struct loop_thread *thread)
{
	return thread->loop;
}

void loop_thread_stop(struct loop_thread *thread)
{
	if (!thread)
		return;
	loop_quit(thread->loop);
	pthread_join(thread->thread, NULL);
	loop_free(thread->loop);
	free(thread);
}
