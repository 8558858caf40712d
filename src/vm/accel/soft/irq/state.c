/*
 * State of a vCPU and of the machine's controllers as a whole, and reset. Setting something freezes the clocks: accel_resume() lets
 * them go on together, from what was set.
 *
 * The main thread, while vCPUs are stopped; the controllers' lock is taken for the timer thread's sake.
 */
#include <errno.h>
#include <string.h>

#include "base/bits.h"
#include "base/cleanup.h"
#include "base/endian.h"
#include "vm/accel/soft/interp/code.h"
#include "vm/accel/soft/irq/irq_int.h"

static void features_of(struct soft_cpu *cpu, uint32_t ret[X86_N_FEATURES])
{
	for (unsigned i = 0; i < X86_N_FEATURES; i++) {
		const struct x86_feature_word *w = &x86_feature_words[i];
		uint32_t regs[4];

		cpuid_read(cpu, w->leaf, w->subleaf, regs);
		ret[i] = regs[w->reg] & ~w->ignore;
	}
}

/* --- the local APIC as a page of registers --- */

static void lapic_save(struct soft_cpu *cpu, uint8_t ret[X86_LAPIC_BYTES])
{
	memset(ret, 0, X86_LAPIC_BYTES);
	lapic_update_ppr(cpu);
	lapic_set(cpu->lapic, LAPIC_TMCCT, lapic_timer_count(cpu));
	for (uint32_t offset = 0; offset < X86_LAPIC_BYTES; offset += 16)
		le_store(&ret[offset], 4, lapic_get(cpu->lapic, offset));
}

static void lapic_load(struct soft_cpu *cpu, const uint8_t page[X86_LAPIC_BYTES])
{
	struct soft_lapic *l = cpu->lapic;

	lapic_timer_stop(cpu);
	for (uint32_t offset = 0; offset < X86_LAPIC_BYTES; offset += 16) {
		/* Who it is and what it can do are not taken from outside. */
		if (offset != LAPIC_ID && offset != LAPIC_VERSION)
			lapic_set(l, offset, (uint32_t)le_load(&page[offset], 4));
	}
	lapic_set(l, LAPIC_ID, lapic_x2(l) ? l->id : l->id << 24);
	if (lapic_x2(l))
		lapic_set(l, LAPIC_LDR, (l->id >> 4) << 16 | 1u << (l->id & 15));
	/* The timer goes on with what is left of its count. */
	lapic_timer_resume(cpu, lapic_get(l, LAPIC_TMCCT));
}

/* --- a vCPU --- */

static void events_get(struct soft_cpu *cpu, struct x86_events *ret)
{
	*ret = cpu->events;
	ret->interrupt_shadow = cpu->shadow;
	ret->nmi_masked = cpu->nmi_blocked;
	ret->nmi_pending = (uint8_t)atomic_load(&cpu->nmi_pending);
	ret->sipi_vector = (uint8_t)atomic_load(&cpu->sipi_vector);
	ret->sipi_valid = atomic_load(&cpu->request) & REQ_SIPI;
}

static void events_set(struct soft_cpu *cpu, const struct x86_events *e)
{
	cpu->events = *e;
	cpu->shadow = e->interrupt_shadow != 0;
	cpu->nmi_blocked = e->nmi_masked;
	cpu->events.interrupt_shadow = 0;
	cpu->events.nmi_masked = false;
	cpu->events.nmi_pending = 0;
	cpu->events.sipi_valid = false;
	cpu->events.sipi_vector = 0;
	atomic_store(&cpu->nmi_pending, MIN(e->nmi_pending, 2u));
	atomic_store(&cpu->sipi_vector, e->sipi_vector);
	if (e->sipi_valid)
		atomic_fetch_or(&cpu->request, REQ_SIPI);
}

int soft_vcpu_get_state(struct accel_vcpu *vcpu, struct x86_vcpu_state *ret, struct error *err)
{
	struct soft_cpu *cpu = soft_cpu_of(vcpu);

	memset(ret, 0, sizeof(*ret));
	soft_regs_get(cpu, ret);
	ret->apic_base = atomic_load(&cpu->lapic->base);
	lapic_save(cpu, ret->lapic);
	ret->mp_state = cpu->mp_state;
	/* An INIT that came while it was stopped has not been taken yet. */
	if (atomic_load(&cpu->request) & REQ_INIT)
		ret->mp_state = X86_MP_WAIT_SIPI;
	events_get(cpu, &ret->events);
	features_of(cpu, ret->features);
	ret->tsc_khz = (uint32_t)cpu->soft->tsc_khz;
	ret->tsc = clock_guest_tsc(cpu);
	ret->tsc_deadline = lapic_timer_get_deadline(cpu);
	return 0;
}

/* More than NTP would hide cannot be made up for: the guest reads the host's counter. */
static int rate_check(const struct soft_cpu *cpu, uint32_t khz, struct error *err)
{
	uint64_t own = cpu->soft->tsc_khz, off = khz > own ? khz - own : own - khz;

	if (khz == 0 || off * 1000000 <= own * 250)
		return 0;
	return error_set(
		err, -EINVAL,
		"the guest's time stamp counter runs at %u kHz, this host's at %llu, and the "
		"software CPU does not scale it",
		khz, (unsigned long long)own);
}

int soft_vcpu_set_state(struct accel_vcpu *vcpu, const struct x86_vcpu_state *state,
			struct error *err)
{
	struct soft_cpu *cpu = soft_cpu_of(vcpu);
	uint32_t features[X86_N_FEATURES];
	int r;

	features_of(cpu, features);
	r = x86_features_check(state->features, features, err);
	if (r == 0)
		r = rate_check(cpu, state->tsc_khz, err);
	if (r < 0)
		return r;
	if (state->mp_state >= X86_MP_STATES)
		return error_set(err, -EINVAL, "vCPU %u: unknown state %u", vcpu->index,
				 state->mp_state);
	clock_freeze(cpu->soft);
	if (state->tsc_khz)
		clock_set_rate(cpu->soft, state->tsc_khz);
	r = soft_regs_set(cpu, state, err);
	if (r < 0)
		return r;
	atomic_store(&cpu->lapic->base, state->apic_base);
	lapic_load(cpu, state->lapic);
	atomic_store(&cpu->request, 0);
	events_set(cpu, &state->events);
	cpu->mp_state = state->mp_state == X86_MP_GOT_SIPI ? X86_MP_WAIT_SIPI : state->mp_state;
	cpu->lapic->frozen_tsc = state->tsc;
	cpu->lapic->deadline = state->tsc_deadline;
	interp_forget(cpu);
	return 0;
}

/* --- the machine --- */

int soft_machine_get_state(struct accel *accel, struct x86_machine_state *ret, struct error *err)
{
	struct soft_irq *irq = soft_of(accel)->irq;

	memset(ret, 0, sizeof(*ret));
	LOCK_GUARD(&irq->lock);
	memcpy(ret->pic, irq->pic, sizeof(ret->pic));
	ret->ioapic = irq->ioapic;
	pit_get_state(irq, ret);
	ret->kvmclock_ns = clock_now(irq);
	return 0;
}

int soft_machine_set_state(struct accel *accel, const struct x86_machine_state *state,
			   struct error *err)
{
	struct soft_irq *irq = soft_of(accel)->irq;

	if (state->ioapic.base != IOAPIC_BASE)
		return error_set(err, -EINVAL, "an I/O APIC at 0x%llx",
				 (unsigned long long)state->ioapic.base);
	clock_freeze(soft_of(accel));
	LOCK_GUARD(&irq->lock);
	memcpy(irq->pic, state->pic, sizeof(irq->pic));
	for (unsigned i = 0; i < 2; i++) {
		irq->pic[i].priority_add &= 7;
		irq->pic[i].init_state &= 3;
	}
	irq->ioapic = state->ioapic;
	irq->ioapic.irr &= (1u << X86_IOAPIC_PINS) - 1;
	irq->frozen_ns = state->kvmclock_ns;
	pit_set_state(irq, state);
	pic_update(irq);
	return 0;
}

int soft_reset(struct accel *accel, struct error *err)
{
	struct soft *soft = soft_of(accel);
	bool was_frozen = soft->irq->frozen;

	/* Machine time counts from the start, through resets; the counters begin again. */
	clock_freeze(soft);
	for (unsigned i = 0; i < accel->config.n_vcpus; i++) {
		struct soft_cpu *cpu = soft->cpus[i];

		if (!cpu)
			continue;
		soft_power_on(cpu);
		cpu->lapic->tsc_adjust = 0;
		cpu->lapic->clock_msr = 0;
		cpu->lapic->wall_msr = 0;
		cpu->lapic->frozen_tsc = 0;
		interp_forget(cpu);
		tlb_flush_all(cpu);
	}
	/* Memory is loaded anew: nothing made of its old contents is left. */
	for (unsigned i = 0; i < soft->n_regions; i++)
		code_written(soft, NULL, soft->regions[i].mem.gpa, soft->regions[i].mem.size);
	soft_irq_reset(soft);
	return was_frozen ? 0 : soft_resume(accel);
}
