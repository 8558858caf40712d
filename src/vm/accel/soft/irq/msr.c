/*
 * Model-specific registers that belong to interrupts and time. (SDM volume 3, sections 11.12 and 18.17; volume 4.)
 *
 * The counter of a vCPU is the host's plus an offset. Writing it, or IA32_TSC_ADJUST, moves the offset.
 */
#include "vm/accel/soft/irq/irq_int.h"

#define MSR_TSC          0x10u
#define MSR_APIC_BASE    0x1Bu
#define MSR_TSC_ADJUST   0x3Bu
#define MSR_TSC_DEADLINE 0x6E0u
#define MSR_X2APIC_FIRST 0x800u
#define MSR_X2APIC_LAST  0x8FFu

bool irq_rdmsr(struct soft_cpu *cpu, uint32_t index, uint64_t *ret)
{
	struct soft_lapic *l = cpu->lapic;

	switch (index) {
	case MSR_TSC:
		*ret = clock_guest_tsc(cpu);
		return true;
	case MSR_APIC_BASE:
		*ret = atomic_load(&l->base);
		return true;
	case MSR_TSC_ADJUST:
		*ret = l->tsc_adjust;
		return true;
	case MSR_TSC_DEADLINE:
		*ret = lapic_timer_get_deadline(cpu);
		return true;
	default:
		if (index >= MSR_X2APIC_FIRST && index <= MSR_X2APIC_LAST)
			return index < MSR_X2APIC_FIRST + X86_LAPIC_BYTES / 16 &&
			       lapic_rdmsr(cpu, index, ret);
		return pvclock_rdmsr(cpu, index, ret);
	}
}

/* A deadline stays where it is on the counter, which has moved. */
static void tsc_move(struct soft_cpu *cpu, uint64_t delta)
{
	cpu->tsc_offset += delta;
	cpu->lapic->tsc_adjust += delta;
	lapic_timer_poll(cpu);
	pvclock_update(cpu, false);
}

bool irq_wrmsr(struct soft_cpu *cpu, uint32_t index, uint64_t value)
{
	struct soft_lapic *l = cpu->lapic;

	switch (index) {
	case MSR_TSC:
		tsc_move(cpu, value - clock_guest_tsc(cpu));
		return true;
	case MSR_APIC_BASE:
		return lapic_set_base(cpu, value);
	case MSR_TSC_ADJUST:
		tsc_move(cpu, value - l->tsc_adjust);
		return true;
	case MSR_TSC_DEADLINE:
		lapic_timer_deadline(cpu, value);
		return true;
	default:
		if (index >= MSR_X2APIC_FIRST && index <= MSR_X2APIC_LAST)
			return index < MSR_X2APIC_FIRST + X86_LAPIC_BYTES / 16 &&
			       lapic_wrmsr(cpu, index, value);
		return pvclock_wrmsr(cpu, index, value);
	}
}
