/*
 * Time: the host's time stamp counter, its rate, machine time, and what happens to them across a stop.
 *
 * Nothing is read but the counter: machine time is the counter scaled by the two numbers that the paravirtual clock gives to guests,
 * so that the guest's arithmetic and ours agree to the nanosecond and time never goes back. Stopping notes the counters; going on moves
 * offsets and the base, so that the guest sees no gap. Every timer here is a moment of machine time or of a guest's counter, and so stands
 * still as well.
 *
 * The host's counter is taken to be invariant and the same on all processors, as it is on every x86-64 processor of the last fifteen years.
 */
#include <cpuid.h>

#include "base/bits.h"
#include "base/clock.h"
#include "vm/accel/soft/irq/irq_int.h"

#define CALIBRATE_NS                                                                               \
	(2 * NSEC_PER_MSEC) /* between two readings that are good to about 20 ns: 20 ppm */

uint64_t host_tsc(void)
{
	return __builtin_ia32_rdtsc();
}

/* --- the rate --- */

/* What a hypervisor tells its guests (VMware's leaf, which KVM machines have too). */
static uint64_t khz_from_hypervisor(void)
{
	unsigned a, b, c, d;

	if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & 1u << 31))
		return 0;
	__cpuid(0x40000000, a, b, c, d);
	if (a < 0x40000010 || a > 0x400000FF)
		return 0;
	__cpuid(0x40000010, a, b, c, d);
	return a;
}

/* Crystal times ratio; a crystal that is not told is not guessed. */
static uint64_t khz_from_leaf_15(void)
{
	unsigned a, b, c, d;

	if (!__get_cpuid_count(0x15, 0, &a, &b, &c, &d) || a == 0 || b == 0 || c == 0)
		return 0;
	return (uint64_t)c * b / a / 1000;
}

/* Both clocks at one moment: the reading with the fewest cycles around it. */
static void read_both(uint64_t *ret_tsc, uint64_t *ret_ns)
{
	uint64_t best = UINT64_MAX;

	for (unsigned i = 0; i < 8; i++) {
		uint64_t before = host_tsc();
		uint64_t ns = clock_read_ns(CLOCK_MONOTONIC_RAW);
		uint64_t after = host_tsc();

		if (after - before >= best)
			continue;
		best = after - before;
		*ret_tsc = before + best / 2;
		*ret_ns = ns;
	}
}

/* The factor of the paravirtual clock: ns = (ticks shifted) * mul / 2^32, with mul at least 2^31. */
static void clock_scale(struct soft_irq *irq, uint64_t khz)
{
	uint64_t hz = khz * 1000, base = NSEC_PER_SEC;
	int8_t shift = 0;

	while (hz > base * 2) {
		hz >>= 1;
		shift--;
	}
	while (hz <= base) {
		hz <<= 1;
		shift++;
	}
	irq->clock_mul = (uint32_t)((base << 32) / hz);
	irq->clock_shift = shift;
}

void clock_begin(struct soft *soft)
{
	struct soft_irq *irq = soft->irq;

	soft->tsc_khz = khz_from_hypervisor();
	if (soft->tsc_khz == 0)
		soft->tsc_khz = khz_from_leaf_15();
	read_both(&irq->calibrate_tsc, &irq->calibrate_ns);
	irq->base_tsc = host_tsc();
	if (soft->tsc_khz)
		clock_scale(irq, soft->tsc_khz);
}

void clock_set_rate(struct soft *soft, uint64_t khz)
{
	soft->tsc_khz = khz;
	clock_scale(soft->irq, khz);
}

void clock_finish(struct soft *soft)
{
	struct soft_irq *irq = soft->irq;
	uint64_t tsc = 0, ns = 0;

	if (soft->tsc_khz)
		return;
	do
		read_both(&tsc, &ns);
	while (ns - irq->calibrate_ns < CALIBRATE_NS);
	soft->tsc_khz = (uint64_t)((unsigned __int128)(tsc - irq->calibrate_tsc) * 1000000 /
				   (ns - irq->calibrate_ns));
	clock_scale(irq, soft->tsc_khz);
}

/* --- machine time --- */

uint64_t clock_of_tsc(const struct soft_irq *irq, uint64_t tsc)
{
	uint64_t delta = tsc - irq->base_tsc;

	if (irq->clock_shift < 0)
		delta >>= -irq->clock_shift;
	else
		delta <<= irq->clock_shift;
	return irq->base_ns + (uint64_t)((unsigned __int128)delta * irq->clock_mul >> 32);
}

uint64_t clock_now(const struct soft_irq *irq)
{
	uint64_t tsc;

	if (irq->frozen)
		return irq->frozen_ns;
	tsc = host_tsc();
	/* Counters of two processors may differ by some cycles. */
	return (int64_t)(tsc - irq->base_tsc) < 0 ? irq->base_ns : clock_of_tsc(irq, tsc);
}

uint64_t clock_guest_tsc(const struct soft_cpu *cpu)
{
	if (cpu->soft->irq->frozen)
		return cpu->lapic->frozen_tsc;
	return host_tsc() + cpu->tsc_offset;
}

/* --- across a stop --- */

void clock_freeze(struct soft *soft)
{
	struct soft_irq *irq = soft->irq;
	uint64_t tsc;

	if (irq->frozen)
		return;
	pthread_mutex_lock(&irq->lock);
	tsc = host_tsc();
	for (unsigned i = 0; i < soft->accel.config.n_vcpus; i++)
		if (soft->cpus[i])
			soft->cpus[i]->lapic->frozen_tsc = tsc + soft->cpus[i]->tsc_offset;
	irq->frozen_ns = clock_of_tsc(irq, tsc);
	irq->frozen = true;
	pthread_mutex_unlock(&irq->lock);
}

int soft_paused(struct accel *accel)
{
	clock_freeze(soft_of(accel));
	return 0;
}

int soft_resume(struct accel *accel)
{
	struct soft *soft = soft_of(accel);
	struct soft_irq *irq = soft->irq;
	uint64_t tsc;

	if (!irq->frozen)
		return 0;
	pthread_mutex_lock(&irq->lock);
	tsc = host_tsc();
	irq->base_tsc = tsc;
	irq->base_ns = irq->frozen_ns;
	irq->frozen = false;
	for (unsigned i = 0; i < accel->config.n_vcpus; i++)
		if (soft->cpus[i])
			soft->cpus[i]->tsc_offset = soft->cpus[i]->lapic->frozen_tsc - tsc;
	pthread_mutex_unlock(&irq->lock);
	for (unsigned i = 0; i < accel->config.n_vcpus; i++)
		if (soft->cpus[i])
			pvclock_update(soft->cpus[i], true);
	events_rearm(irq);
	return 0;
}
