/*
 * How vCPUs and others reach each other: request bits, and two ways to have every vCPU out of the way.
 *
 * A vCPU is inside while it executes guest code. It is outside when it sleeps, is in a device's handler, or waits here for another; it
 * looks at REQ_FLUSH and at `exclusive` before it is inside again. Both sides first say what they want, then look at the other
 * (sequentially consistent), so one of them always sees the other. Whoever waits is outside, so two that wait for each other both go on.
 *
 * Any thread where it says so; the rest on the vCPU's own.
 */
#include "base/cleanup.h"
#include "vm/accel/soft/irq/irq_int.h"

#define SPINS 2000 /* looks before sleeping: some microseconds, longer than an instruction takes */

/* Somebody may wait for this vCPU to have left, or to have served a request. */
static void sync_progress(struct soft_irq *irq)
{
	if (atomic_load(&irq->sync_waiters) == 0)
		return;
	atomic_fetch_add(&irq->sync_seq, 1);
	futex_wake(&irq->sync_seq, INT_MAX);
}

static void serve_flush(struct soft_cpu *cpu)
{
	if (!(atomic_load(&cpu->request) & REQ_FLUSH))
		return;
	/* Cleared first: what is asked for from here on needs another flush. */
	atomic_fetch_and(&cpu->request, ~REQ_FLUSH);
	tlb_flush_all(cpu);
}

void soft_enter(struct soft_cpu *cpu)
{
	struct soft_irq *irq = cpu->soft->irq;

	for (;;) {
		atomic_store(&cpu->inside, true);
		if (atomic_load(&irq->exclusive) == 0 || cpu->lapic->exclusive)
			break;
		soft_leave(cpu);
		futex_wait_until(&irq->exclusive, 1, NULL);
	}
	serve_flush(cpu);
}

void soft_leave(struct soft_cpu *cpu)
{
	atomic_store(&cpu->inside, false);
	sync_progress(cpu->soft->irq);
}

static bool is_away(struct soft_cpu *cpu, unsigned request)
{
	return !atomic_load(&cpu->inside) || (atomic_load(&cpu->request) & request) == 0;
}

/* Waits until the vCPU is outside, or has served all of `request` (0: until it is outside). */
static void wait_away(struct soft_irq *irq, struct soft_cpu *cpu, unsigned request)
{
	unsigned bits = request ? request : UINT_MAX;

	for (unsigned i = 0; i < SPINS; i++) {
		if (request ? is_away(cpu, bits) : !atomic_load(&cpu->inside))
			return;
		spin_pause();
	}
	atomic_fetch_add(&irq->sync_waiters, 1);
	for (;;) {
		uint32_t seq = atomic_load(&irq->sync_seq);
		struct timespec soon;

		if (request ? is_away(cpu, bits) : !atomic_load(&cpu->inside))
			break;
		/* A request that was served inside is not announced by its server: look again before long. */
		clock_gettime(CLOCK_MONOTONIC, &soon);
		soon.tv_nsec += 100000;
		if (soon.tv_nsec >= 1000000000) {
			soon.tv_nsec -= 1000000000;
			soon.tv_sec++;
		}
		futex_wait_until(&irq->sync_seq, seq, &soon);
	}
	atomic_fetch_sub(&irq->sync_waiters, 1);
}

void soft_request(struct soft_cpu *cpu, unsigned request)
{
	atomic_fetch_or(&cpu->request, request);
	if (atomic_load(&cpu->lapic->resting))
		futex_wake(&cpu->request, 1);
}

void soft_sync_others(struct soft *soft, struct soft_cpu *cpu, unsigned request)
{
	unsigned n = soft->accel.config.n_vcpus;
	bool leave = cpu && !cpu->lapic->exclusive && atomic_load(&cpu->inside);

	if (n == 1 && cpu)
		return;
	for (unsigned i = 0; i < n; i++)
		if (soft->cpus[i] && soft->cpus[i] != cpu)
			atomic_fetch_or(&soft->cpus[i]->request, request);
	if (leave)
		soft_leave(cpu);
	for (unsigned i = 0; i < n; i++)
		if (soft->cpus[i] && soft->cpus[i] != cpu)
			wait_away(soft->irq, soft->cpus[i], request);
	if (leave)
		soft_enter(cpu);
}

void soft_exclusive_begin(struct soft_cpu *cpu)
{
	struct soft *soft = cpu->soft;
	struct soft_irq *irq = soft->irq;
	unsigned n = soft->accel.config.n_vcpus;

	if (n == 1)
		return;
	soft_leave(cpu);
	pthread_mutex_lock(&irq->exclusive_lock);
	atomic_store(&irq->exclusive, 1);
	for (unsigned i = 0; i < n; i++)
		if (soft->cpus[i] && soft->cpus[i] != cpu)
			atomic_fetch_or(&soft->cpus[i]->request, REQ_SELF);
	for (unsigned i = 0; i < n; i++)
		if (soft->cpus[i] && soft->cpus[i] != cpu)
			wait_away(irq, soft->cpus[i], 0);
	cpu->lapic->exclusive = true;
	soft_enter(cpu);
}

void soft_exclusive_end(struct soft_cpu *cpu)
{
	struct soft_irq *irq = cpu->soft->irq;

	if (!cpu->lapic->exclusive)
		return;
	cpu->lapic->exclusive = false;
	atomic_store(&irq->exclusive, 0);
	futex_wake(&irq->exclusive, INT_MAX);
	pthread_mutex_unlock(&irq->exclusive_lock);
}

void soft_unwinding(struct soft_cpu *cpu)
{
	soft_exclusive_end(cpu);
}
