/*
 * The machine's own thread: waits for the earliest timer of all vCPUs and of the 8254, and for eventfds that send messages.
 *
 * A vCPU's timer only makes it post REQ_INTERRUPT: what is due, the vCPU decides (lapic_timer.c). Its wake_ns is taken back when that is done,
 * and the vCPU sets it again. armed_ns never is later than any moment somebody waits for: who waits stores the moment and then
 * looks at armed_ns; the thread says TIME_NEVER there and then looks at all the moments.
 */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/timerfd.h>

#include "base/bits.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/fd.h"
#include "vm/accel/soft/irq/irq_int.h"

#define MAX_ROUTES 4096u
#define N_EVENTS   32

/* What an event's number says; routes from the first one up. */
#define EVENT_QUIT  0u
#define EVENT_TIMER 1u
#define EVENT_ROUTE 2u

/* --- timers --- */

void events_arm(struct soft_irq *irq, uint64_t ns)
{
	struct itimerspec in = {0};
	uint64_t now, left;

	if (ns >= atomic_load(&irq->armed_ns))
		return;
	LOCK_GUARD(&irq->timer_lock);
	if (ns >= atomic_load(&irq->armed_ns))
		return;
	atomic_store(&irq->armed_ns, ns);
	now = clock_now(irq);
	left = ns > now ? ns - now : 1;
	in.it_value.tv_sec = (time_t)(left / NSEC_PER_SEC);
	in.it_value.tv_nsec = (long)(left % NSEC_PER_SEC);
	timerfd_settime(irq->timerfd, 0, &in, NULL);
}

static void timers_due(struct soft_irq *irq)
{
	struct soft *soft = irq->soft;
	uint64_t now, next;

	atomic_store(&irq->armed_ns, TIME_NEVER);
	LOCK_GUARD(&irq->lock);
	/* Stopped: everything is looked at again when time goes on. */
	if (irq->frozen)
		return;
	now = clock_now(irq);
	next = pit_poll(irq, now);
	for (unsigned i = 0; i < soft->accel.config.n_vcpus; i++) {
		struct soft_cpu *cpu = soft->cpus[i];
		uint64_t wake;

		if (!cpu)
			continue;
		wake = atomic_load(&cpu->lapic->wake_ns);
		if (wake > now)
			next = MIN(next, wake);
		else if (atomic_compare_exchange_strong(&cpu->lapic->wake_ns, &wake, TIME_NEVER))
			soft_request(cpu, REQ_INTERRUPT);
		else
			next = MIN(next, wake);
	}
	if (next != TIME_NEVER)
		events_arm(irq, next);
}

void events_rearm(struct soft_irq *irq)
{
	for (unsigned i = 0; i < irq->soft->accel.config.n_vcpus; i++)
		if (irq->soft->cpus[i])
			soft_request(irq->soft->cpus[i], REQ_INTERRUPT);
	timers_due(irq);
}

/* --- eventfds --- */

static void route_signalled(struct soft_irq *irq, unsigned i)
{
	LOCK_GUARD(&irq->lock);
	if (i < irq->n_routes && irq->routes[i].fd >= 0 && eventfd_clear(irq->routes[i].fd))
		soft_msi(&irq->soft->accel, irq->routes[i].addr, irq->routes[i].data);
}

static bool msi_valid(uint64_t addr)
{
	return (addr >> 32 & 0xFF) == 0;
}

int soft_irqfd_attach(struct accel *accel, int fd, uint64_t addr, uint32_t data)
{
	struct soft_irq *irq = soft_of(accel)->irq;
	struct epoll_event event = {.events = EPOLLIN};
	unsigned i = 0;

	if (fd < 0 || !msi_valid(addr))
		return -EINVAL;
	LOCK_GUARD(&irq->lock);
	while (i < irq->n_routes && irq->routes[i].fd >= 0)
		i++;
	if (i == MAX_ROUTES)
		return -ENOSPC;
	if (i == irq->n_routes) {
		struct soft_route *routes = realloc(irq->routes, (i + 1) * sizeof(*routes));

		if (!routes)
			return -ENOMEM;
		irq->routes = routes;
		irq->n_routes++;
	}
	irq->routes[i] = (struct soft_route){.addr = addr, .data = data, .fd = fd};
	event.data.u32 = EVENT_ROUTE + i;
	if (epoll_ctl(irq->epoll, EPOLL_CTL_ADD, fd, &event) < 0) {
		irq->routes[i].fd = -1;
		return -errno;
	}
	return (int)i;
}

static bool route_known(const struct soft_irq *irq, int route)
{
	return route >= 0 && (unsigned)route < irq->n_routes && irq->routes[route].fd >= 0;
}

int soft_irqfd_update(struct accel *accel, int route, uint64_t addr, uint32_t data)
{
	struct soft_irq *irq = soft_of(accel)->irq;

	LOCK_GUARD(&irq->lock);
	if (!route_known(irq, route) || !msi_valid(addr))
		return -EINVAL;
	irq->routes[route].addr = addr;
	irq->routes[route].data = data;
	return 0;
}

int soft_irqfd_detach(struct accel *accel, int route)
{
	struct soft_irq *irq = soft_of(accel)->irq;

	LOCK_GUARD(&irq->lock);
	if (!route_known(irq, route))
		return -EINVAL;
	epoll_ctl(irq->epoll, EPOLL_CTL_DEL, irq->routes[route].fd, NULL);
	irq->routes[route].fd = -1;
	return 0;
}

/* --- the thread --- */

static void *events_main(void *opaque)
{
	struct soft_irq *irq = opaque;
	struct epoll_event events[N_EVENTS];

	pthread_setname_np(pthread_self(), "soft-events");
	prctl(PR_SET_TIMERSLACK, 1UL);
	for (;;) {
		int n = epoll_wait(irq->epoll, events, N_EVENTS, -1);

		for (int i = 0; i < n; i++) {
			uint32_t what = events[i].data.u32;
			uint64_t expirations;

			if (what == EVENT_QUIT)
				return NULL;
			if (what >= EVENT_ROUTE)
				route_signalled(irq, what - EVENT_ROUTE);
			else if (read(irq->timerfd, &expirations, sizeof(expirations)) > 0)
				timers_due(irq);
		}
	}
}

static int watch(struct soft_irq *irq, int fd, uint32_t what)
{
	struct epoll_event event = {.events = EPOLLIN, .data.u32 = what};

	return epoll_ctl(irq->epoll, EPOLL_CTL_ADD, fd, &event) < 0 ? -errno : 0;
}

int events_start(struct soft_irq *irq, struct error *err)
{
	sigset_t all, old;
	int r;

	irq->epoll = epoll_create1(EPOLL_CLOEXEC);
	irq->timerfd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	irq->quitfd = eventfd_new();
	r = irq->epoll < 0 || irq->timerfd < 0 || irq->quitfd < 0 ? -errno : 0;
	if (r == 0)
		r = watch(irq, irq->quitfd, EVENT_QUIT);
	if (r == 0)
		r = watch(irq, irq->timerfd, EVENT_TIMER);
	if (r == 0) {
		/* Signals are for other threads. */
		sigfillset(&all);
		pthread_sigmask(SIG_SETMASK, &all, &old);
		r = -pthread_create(&irq->thread, NULL, events_main, irq);
		pthread_sigmask(SIG_SETMASK, &old, NULL);
	}
	if (r < 0)
		return error_set_errno(err, r, "cannot start the thread for timers");
	irq->thread_started = true;
	return 0;
}

void events_stop(struct soft_irq *irq)
{
	if (irq->thread_started) {
		eventfd_signal(irq->quitfd);
		pthread_join(irq->thread, NULL);
	}
	cleanup_close(&irq->epoll);
	cleanup_close(&irq->timerfd);
	cleanup_close(&irq->quitfd);
}
