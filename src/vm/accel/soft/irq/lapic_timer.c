/*
 * The local APIC's timer: one-shot and periodic, which count machine time at 1 GHz, and deadlines of the guest's time stamp counter.
 * (SDM volume 3, section 11.5.4.)
 *
 * The vCPU decides what is due: whenever it looks at its requests, and when its sleep ends. While it runs, the timer thread wakes it
 * (events.c): for that it reads wake_ns. All else is the vCPU's own.
 */
#include "base/bits.h"
#include "vm/accel/soft/irq/irq_int.h"

#define MODE_ONE_SHOT 0u
#define MODE_PERIODIC 1u
#define MODE_DEADLINE 2u

static unsigned mode_of(uint32_t lvt)
{
	return lvt >> 17 & 3;
}

/* Divide configuration 0, 1, .. 7 is by 2, 4, .. 128, 1. */
static unsigned divide_shift(const struct soft_lapic *l)
{
	uint32_t v = lapic_get(l, LAPIC_TDCR);

	return (((v & 3) | (v >> 1 & 4)) + 1) & 7;
}

uint64_t lapic_timer_next(const struct soft_cpu *cpu)
{
	const struct soft_lapic *l = cpu->lapic;
	const struct soft_irq *irq = cpu->soft->irq;
	uint64_t at;

	if (l->due_ns)
		return l->due_ns;
	if (!l->deadline)
		return TIME_NEVER;
	at = l->deadline - cpu->tsc_offset; /* of the host's counter */
	/* Behind us, or so far off that it is the same as never. */
	if ((int64_t)(at - irq->base_tsc) < 0)
		return irq->base_ns;
	return at - irq->base_tsc > 1ULL << 62 ? TIME_NEVER : clock_of_tsc(irq, at) + 1;
}

static void publish(struct soft_cpu *cpu)
{
	uint64_t next = lapic_timer_next(cpu);

	if (atomic_load_explicit(&cpu->lapic->wake_ns, memory_order_relaxed) == next)
		return;
	atomic_store(&cpu->lapic->wake_ns, next);
	if (next != TIME_NEVER)
		events_arm(cpu->soft->irq, next);
}

void lapic_timer_stop(struct soft_cpu *cpu)
{
	cpu->lapic->deadline = 0;
	cpu->lapic->due_ns = 0;
	cpu->lapic->period_ns = 0;
	atomic_store(&cpu->lapic->wake_ns, TIME_NEVER);
}

void lapic_timer_poll(struct soft_cpu *cpu)
{
	struct soft_lapic *l = cpu->lapic;
	bool due = false;

	if (l->deadline) {
		due = clock_guest_tsc(cpu) >= l->deadline;
		if (due)
			l->deadline = 0;
	} else if (l->due_ns) {
		uint64_t now = clock_now(cpu->soft->irq);

		due = now >= l->due_ns;
		if (due && mode_of(lapic_get(l, LAPIC_LVTT)) == MODE_PERIODIC && l->period_ns)
			l->due_ns += ((now - l->due_ns) / l->period_ns + 1) * l->period_ns;
		else if (due)
			l->due_ns = 0;
	} else {
		return;
	}
	if (due)
		lapic_local(cpu, LAPIC_LVTT);
	publish(cpu);
}

uint32_t lapic_timer_count(const struct soft_cpu *cpu)
{
	const struct soft_lapic *l = cpu->lapic;
	uint64_t now = clock_now(cpu->soft->irq), left;

	if (!l->due_ns)
		return 0;
	if (now < l->due_ns) {
		left = l->due_ns - now;
	} else {
		/* Not looked at yet. */
		if (mode_of(lapic_get(l, LAPIC_LVTT)) != MODE_PERIODIC || !l->period_ns)
			return 0;
		left = l->period_ns - (now - l->due_ns) % l->period_ns;
	}
	return (uint32_t)((left + (1u << divide_shift(l)) - 1) >> divide_shift(l));
}

void lapic_timer_start(struct soft_cpu *cpu, uint32_t count)
{
	struct soft_lapic *l = cpu->lapic;

	if (mode_of(lapic_get(l, LAPIC_LVTT)) == MODE_DEADLINE)
		return;
	lapic_set(l, LAPIC_TMICT, count);
	l->period_ns = (uint64_t)count << divide_shift(l);
	l->due_ns = count ? clock_now(cpu->soft->irq) + l->period_ns : 0;
	publish(cpu);
}

void lapic_timer_resume(struct soft_cpu *cpu, uint32_t left)
{
	struct soft_lapic *l = cpu->lapic;

	if (left == 0 || mode_of(lapic_get(l, LAPIC_LVTT)) == MODE_DEADLINE)
		return;
	l->period_ns = (uint64_t)lapic_get(l, LAPIC_TMICT) << divide_shift(l);
	l->due_ns = clock_now(cpu->soft->irq) + ((uint64_t)left << divide_shift(l));
	publish(cpu);
}

void lapic_timer_divide(struct soft_cpu *cpu, uint32_t value)
{
	struct soft_lapic *l = cpu->lapic;
	uint64_t left = lapic_timer_count(cpu);

	lapic_set(l, LAPIC_TDCR, value);
	l->period_ns = (uint64_t)lapic_get(l, LAPIC_TMICT) << divide_shift(l);
	if (l->due_ns)
		l->due_ns = clock_now(cpu->soft->irq) + (left << divide_shift(l));
	publish(cpu);
}

void lapic_timer_mode(struct soft_cpu *cpu, uint32_t lvt)
{
	unsigned old = mode_of(lapic_get(cpu->lapic, LAPIC_LVTT)), now = mode_of(lvt);

	/* What is due by now was so in the old mode: a one-shot that has run out does not begin again as a periodic one. */
	if (old != now)
		lapic_timer_poll(cpu);
	if (old == now || (old != MODE_DEADLINE && now != MODE_DEADLINE))
		return;
	/* Into or out of deadlines: what was armed is gone. */
	lapic_timer_stop(cpu);
	lapic_set(cpu->lapic, LAPIC_TMICT, 0);
}

void lapic_timer_deadline(struct soft_cpu *cpu, uint64_t value)
{
	struct soft_lapic *l = cpu->lapic;

	if (!lapic_on(l) || mode_of(lapic_get(l, LAPIC_LVTT)) != MODE_DEADLINE)
		return;
	l->deadline = value;
	if (value && clock_guest_tsc(cpu) >= value)
		soft_request(cpu, REQ_INTERRUPT);
	else
		publish(cpu);
}

uint64_t lapic_timer_get_deadline(const struct soft_cpu *cpu)
{
	return cpu->lapic->deadline;
}
