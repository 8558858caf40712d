/*
 * The local APIC's registers, as memory (xAPIC) and as model-specific registers (x2APIC), and IA32_APIC_BASE. (SDM volume 3, chapter 11.)
 *
 * On the vCPU's thread, but for what the header says. No CMCI entry and no directed EOI: the version register says so.
 */
#include <string.h>

#include "base/endian.h"
#include "vm/accel/soft/irq/irq_int.h"

#define VERSION 0x00050014u /* six entries in the local vector table, integrated */

#define MSR_X2APIC_FIRST 0x800u
#define X2_ESR           0x828u
#define X2_ICR           0x830u
#define X2_SELF          0x83Fu

#define APIC_BASE_KNOWN (APIC_BASE_BSP | APIC_BASE_X2 | APIC_BASE_ENABLE)

void lapic_reset(struct soft_cpu *cpu, bool power_on)
{
	struct soft_lapic *l = cpu->lapic;
	bool boot = cpu->base.index == 0;

	lapic_timer_stop(cpu);
	if (power_on)
		atomic_store(&l->base, 0xFEE00000u | APIC_BASE_ENABLE | (boot ? APIC_BASE_BSP : 0));
	for (size_t i = 0; i < X86_LAPIC_BYTES / 16; i++)
		atomic_store(&l->reg[i], 0);
	lapic_set(l, LAPIC_ID, lapic_x2(l) ? l->id : l->id << 24);
	lapic_set(l, LAPIC_VERSION, VERSION);
	if (lapic_x2(l))
		lapic_set(l, LAPIC_LDR, (l->id >> 4) << 16 | 1u << (l->id & 15));
	else
		lapic_set(l, LAPIC_DFR, UINT32_MAX);
	lapic_set(l, LAPIC_SVR, 0xFF);
	for (uint32_t lvt = LAPIC_LVTT; lvt <= LAPIC_LVTERR; lvt += 0x10)
		lapic_set(l, lvt, LVT_MASKED);
	/* As firmware leaves it: the 8259As' line reaches the boot processor. */
	if (boot && power_on)
		lapic_set(l, LAPIC_LVT0, APIC_EXTINT << 8);
	atomic_store(&l->errors, 0);
}

/* --- registers by offset --- */

/* A register that can be read at this offset? */
static bool readable(uint32_t offset)
{
	switch (offset) {
	case LAPIC_ID:
	case LAPIC_VERSION:
	case LAPIC_TPR:
	case LAPIC_PPR:
	case LAPIC_LDR:
	case LAPIC_SVR:
	case LAPIC_ESR:
	case LAPIC_ICR:
	case LAPIC_LVTT:
	case LAPIC_LVTTHM:
	case LAPIC_LVTPC:
	case LAPIC_LVT0:
	case LAPIC_LVT1:
	case LAPIC_LVTERR:
	case LAPIC_TMICT:
	case LAPIC_TMCCT:
	case LAPIC_TDCR:
		return true;
	default:
		return offset >= LAPIC_ISR && offset < LAPIC_ESR;
	}
}

/* Those that only the memory form has. */
static bool readable_in_memory(uint32_t offset)
{
	return readable(offset) || offset == LAPIC_APR || offset == LAPIC_RRD ||
	       offset == LAPIC_DFR || offset == LAPIC_ICR2 || offset == LAPIC_EOI;
}

static uint32_t reg_read(struct soft_cpu *cpu, uint32_t offset)
{
	switch (offset) {
	case LAPIC_PPR:
		lapic_update_ppr(cpu);
		break;
	case LAPIC_TMCCT:
		return lapic_timer_count(cpu);
	case LAPIC_EOI:
		return 0;
	default:
		break;
	}
	return lapic_get(cpu->lapic, offset);
}

static void write_svr(struct soft_cpu *cpu, uint32_t value)
{
	struct soft_lapic *l = cpu->lapic;

	lapic_set(l, LAPIC_SVR, value & (0xFFu | SVR_ENABLED | 1u << 9 | SVR_NO_EOI));
	if (value & SVR_ENABLED)
		return;
	for (uint32_t lvt = LAPIC_LVTT; lvt <= LAPIC_LVTERR; lvt += 0x10)
		lapic_set(l, lvt, lapic_get(l, lvt) | LVT_MASKED);
}

static void write_lvt(struct soft_cpu *cpu, uint32_t offset, uint32_t value)
{
	static const uint32_t writable[] = {
		0x700FF, /* timer: mode, mask, vector */
		0x107FF, /* thermal */
		0x107FF, /* performance counters */
		0x1A7FF, /* LINT0: mask, trigger mode, polarity, delivery mode, vector */
		0x1A7FF, /* LINT1 */
		0x100FF, /* error */
	};
	struct soft_lapic *l = cpu->lapic;

	value &= writable[(offset - LAPIC_LVTT) >> 4];
	if (!(lapic_get(l, LAPIC_SVR) & SVR_ENABLED))
		value |= LVT_MASKED;
	if (offset == LAPIC_LVTT)
		lapic_timer_mode(cpu, value);
	lapic_set(l, offset, value);
	/* The 8259As may have waited for this. */
	if (offset == LAPIC_LVT0)
		soft_request(cpu, REQ_INTERRUPT);
}

/* What both forms write alike; false: there is no such register to write. */
static bool reg_write(struct soft_cpu *cpu, uint32_t offset, uint32_t value)
{
	struct soft_lapic *l = cpu->lapic;

	switch (offset) {
	case LAPIC_TPR:
		lapic_set_tpr(cpu, (uint8_t)value);
		return true;
	case LAPIC_EOI:
		lapic_eoi(cpu);
		return true;
	case LAPIC_SVR:
		write_svr(cpu, value);
		return true;
	case LAPIC_ESR:
		lapic_set(l, LAPIC_ESR, atomic_exchange(&l->errors, 0));
		return true;
	case LAPIC_LVTT:
	case LAPIC_LVTTHM:
	case LAPIC_LVTPC:
	case LAPIC_LVT0:
	case LAPIC_LVT1:
	case LAPIC_LVTERR:
		write_lvt(cpu, offset, value);
		return true;
	case LAPIC_TMICT:
		lapic_timer_start(cpu, value);
		return true;
	case LAPIC_TDCR:
		lapic_timer_divide(cpu, value & 0xB);
		return true;
	default:
		return false;
	}
}

/* --- as memory --- */

void lapic_read(struct soft_cpu *cpu, uint32_t offset, void *data, unsigned size)
{
	uint32_t at = offset & 15, value = 0;

	if (!readable_in_memory(offset & ~15u))
		lapic_error(cpu, 1u << 7);
	else if (at < 4)
		value = reg_read(cpu, offset & ~15u) >> 8 * at;
	le_store(data, size, value);
}

void lapic_write(struct soft_cpu *cpu, uint32_t offset, const void *data, unsigned size)
{
	struct soft_lapic *l = cpu->lapic;
	uint32_t value = (uint32_t)le_load(data, size);

	/* Registers are written as a whole. */
	if (size < 4 || (offset & 15) != 0)
		return;
	switch (offset) {
	case LAPIC_LDR:
		lapic_set(l, LAPIC_LDR, value & 0xFF000000u);
		break;
	case LAPIC_DFR:
		lapic_set(l, LAPIC_DFR, value | 0x0FFFFFFFu);
		break;
	case LAPIC_ICR2:
		lapic_set(l, LAPIC_ICR2, value & 0xFF000000u);
		break;
	case LAPIC_ICR:
		/* Delivered at once: never pending. */
		value &= ~(1u << 12);
		lapic_set(l, LAPIC_ICR, value);
		lapic_command(cpu, value, lapic_get(l, LAPIC_ICR2) >> 24);
		break;
	case LAPIC_ID: /* read-only, as on newer processors; others are no error either */
	case LAPIC_VERSION:
		break;
	default:
		if (!reg_write(cpu, offset, value))
			lapic_error(cpu, 1u << 7);
	}
}

/* --- as model-specific registers --- */

bool lapic_rdmsr(struct soft_cpu *cpu, uint32_t index, uint64_t *ret)
{
	struct soft_lapic *l = cpu->lapic;
	uint32_t offset = (index - MSR_X2APIC_FIRST) << 4;

	if (!lapic_on(l) || !lapic_x2(l) || !readable(offset))
		return false;
	*ret = reg_read(cpu, offset);
	if (index == X2_ICR)
		*ret |= (uint64_t)lapic_get(l, LAPIC_ICR2) << 32;
	return true;
}

static bool write_icr(struct soft_cpu *cpu, uint64_t value)
{
	struct soft_lapic *l = cpu->lapic;

	/* Bits 13, 17:16 and 31:20 are reserved. Bit 12 is ignored. */
	if (value & 0xFFF32000u)
		return false;
	lapic_set(l, LAPIC_ICR2, (uint32_t)(value >> 32));
	lapic_set(l, LAPIC_ICR, (uint32_t)value & ~(1u << 12));
	lapic_command(cpu, (uint32_t)value, (uint32_t)(value >> 32));
	return true;
}

/* Which bits may be set in a register? */
static uint32_t x2_writable(uint32_t offset)
{
	switch (offset) {
	case LAPIC_TPR:
		return 0xFF;
	case LAPIC_EOI:
	case LAPIC_ESR:
		return 0;
	case LAPIC_SVR:
		return 0xFFu | SVR_ENABLED;
	case LAPIC_LVTT:
		return 0x710FF;
	case LAPIC_LVTTHM:
	case LAPIC_LVTPC:
		return 0x117FF;
	case LAPIC_LVT0:
	case LAPIC_LVT1:
		return 0x1F7FF;
	case LAPIC_LVTERR:
		return 0x110FF;
	case LAPIC_TDCR:
		return 0xB;
	default:
		return UINT32_MAX;
	}
}

bool lapic_wrmsr(struct soft_cpu *cpu, uint32_t index, uint64_t value)
{
	struct soft_lapic *l = cpu->lapic;
	uint32_t offset = (index - MSR_X2APIC_FIRST) << 4;

	if (!lapic_on(l) || !lapic_x2(l))
		return false;
	if (index == X2_ICR)
		return write_icr(cpu, value);
	if (index == X2_SELF) {
		if (value > 0xFF)
			return false;
		lapic_command(cpu, (uint32_t)value | APIC_SELF << 18, 0);
		return true;
	}
	if (value & ~(uint64_t)x2_writable(offset))
		return false;
	return reg_write(cpu, offset, (uint32_t)value);
}

/* What an address of a page may have set. */
static uint64_t address_bits(struct soft_cpu *cpu)
{
	uint32_t sizes[4];

	cpuid_read(cpu, 0x80000008, 0, sizes);
	return ((1ULL << (sizes[0] & 63)) - 1) & ~0xFFFULL;
}

bool lapic_set_base(struct soft_cpu *cpu, uint64_t value)
{
	uint64_t address = address_bits(cpu);
	struct soft_lapic *l = cpu->lapic;
	uint64_t old = atomic_load(&l->base);
	bool on = value & APIC_BASE_ENABLE, x2 = value & APIC_BASE_X2;
	bool was_on = old & APIC_BASE_ENABLE, was_x2 = old & APIC_BASE_X2;

	if (value & ~(address | APIC_BASE_KNOWN))
		return false;
	/* x2APIC without the APIC, back from x2APIC to xAPIC, and from off straight to x2APIC (figure 11-27). */
	if ((x2 && !on) || (was_x2 && on && !x2) || (!was_on && x2))
		return false;
	atomic_store(&l->base, value);
	if (x2 && !was_x2) {
		lapic_set(l, LAPIC_ID, l->id);
		lapic_set(l, LAPIC_LDR, (l->id >> 4) << 16 | 1u << (l->id & 15));
		lapic_set(l, LAPIC_ICR2, 0);
	} else if (was_on != on) {
		/* Off and on again is a reset, but for who it is. */
		lapic_reset(cpu, false);
	}
	return true;
}

uint8_t lapic_get_tpr(struct soft_cpu *cpu)
{
	return (uint8_t)lapic_get(cpu->lapic, LAPIC_TPR);
}

void lapic_set_tpr(struct soft_cpu *cpu, uint8_t tpr)
{
	lapic_set(cpu->lapic, LAPIC_TPR, tpr);
	lapic_update_ppr(cpu);
	if (lapic_pending(cpu))
		soft_request(cpu, REQ_INTERRUPT);
}

uint32_t lapic_id(const struct soft_cpu *cpu)
{
	return cpu->lapic->id;
}
