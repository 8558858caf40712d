/*
 * Breakpoints and single steps: DR0 to DR7, RFLAGS.TF and RF; and the I/O permission bitmap, since breakpoints on ports are met in the
 * same place. (SDM volume 3, chapter 17; volume 1, section 18.5.) Nothing of this costs anything while DR7 arms nothing and TF is clear.
 */
#include "vm/accel/soft/cpu/cpu_int.h"

enum break_kind { BREAK_CODE, BREAK_WRITE, BREAK_IO, BREAK_ACCESS };

static bool break_armed(const struct soft_cpu *cpu, unsigned i)
{
	return (cpu->dr7 >> (2 * i) & 3) != 0;
}

static enum break_kind break_kind(const struct soft_cpu *cpu, unsigned i)
{
	return (enum break_kind)(cpu->dr7 >> (16 + 4 * i) & 3);
}

static unsigned break_size(const struct soft_cpu *cpu, unsigned i)
{
	static const uint8_t sizes[] = {1, 2, 8, 4};

	return sizes[cpu->dr7 >> (18 + 4 * i) & 3];
}

static bool break_overlaps(const struct soft_cpu *cpu, unsigned i, uint64_t at, unsigned size)
{
	unsigned n = break_size(cpu, i);
	uint64_t first = cpu->dr[i] & ~(uint64_t)(n - 1);

	return at <= first + n - 1 && first <= at + size - 1;
}

void debug_changed(struct soft_cpu *cpu)
{
	uint8_t debug = cpu->debug & DEBUG_HIT;
	bool watch = false;

	if (cpu->rflags & RF_TF)
		debug |= DEBUG_STEP;
	if (cpu->dr7 & 0xFF) {
		debug |= DEBUG_BREAK;
		for (unsigned i = 0; i < 4; i++)
			watch |= break_armed(cpu, i) && (break_kind(cpu, i) & 1);
	}
	if (watch)
		cpu->tlbs->checks |= CHECK_WATCH;
	else
		cpu->tlbs->checks &= (uint8_t)~CHECK_WATCH;
	cpu->debug = debug;
	if (debug)
		atomic_fetch_or_explicit(&cpu->request, REQ_SELF, memory_order_relaxed);
}

static void break_met(struct soft_cpu *cpu, unsigned i)
{
	cpu->tlbs->hit |= 1u << i;
	cpu->debug |= DEBUG_HIT;
	atomic_fetch_or_explicit(&cpu->request, REQ_SELF, memory_order_relaxed);
}

void debug_watch(struct soft_cpu *cpu, uint64_t linear, unsigned size, bool write)
{
	for (unsigned i = 0; i < 4; i++) {
		enum break_kind kind = break_kind(cpu, i);

		if (break_armed(cpu, i) &&
		    (kind == BREAK_ACCESS || (write && kind == BREAK_WRITE)) &&
		    break_overlaps(cpu, i, linear, size))
			break_met(cpu, i);
	}
}

void debug_step_now(struct soft_cpu *cpu)
{
	if (!(cpu->rflags & RF_TF))
		return;
	cpu->tlbs->hit |= DR6_BS;
	cpu->debug |= DEBUG_HIT;
	atomic_fetch_or_explicit(&cpu->request, REQ_SELF, memory_order_relaxed);
}

static void debug_io(struct soft_cpu *cpu, uint16_t port, unsigned size)
{
	for (unsigned i = 0; i < 4; i++)
		if (break_armed(cpu, i) && break_kind(cpu, i) == BREAK_IO &&
		    break_overlaps(cpu, i, port, size))
			break_met(cpu, i);
}

void cpu_debug_before(struct soft_cpu *cpu)
{
	struct soft_tlbs *t = cpu->tlbs;
	uint64_t linear = cpu->rip;
	uint32_t bits = t->hit;

	t->hit = 0;
	cpu->debug &= (uint8_t)~DEBUG_HIT;
	/* Met outside of single steps: a task switch to a task with its T bit set. */
	if (bits)
		cpu_raise_debug(cpu, bits);
	t->step_armed = (cpu->rflags & RF_TF) != 0;
	t->keep_rf = false;
	if (!(cpu->debug & DEBUG_BREAK) || (cpu->rflags & RF_RF))
		return;
	if (!cpu_is64(cpu))
		linear = (cpu->seg[SEG_CS].base + linear) & 0xFFFFFFFF;
	for (unsigned i = 0; i < 4; i++)
		if (break_armed(cpu, i) && break_kind(cpu, i) == BREAK_CODE && cpu->dr[i] == linear)
			bits |= 1u << i;
	if (bits)
		cpu_raise_debug(cpu, bits);
}

void cpu_debug_after(struct soft_cpu *cpu)
{
	struct soft_tlbs *t = cpu->tlbs;
	uint32_t bits = t->hit | t->held;

	if (!t->keep_rf)
		cpu->rflags &= ~RF_RF;
	if (t->step_armed)
		bits |= DR6_BS;
	t->step_armed = false;
	t->hit = 0;
	t->held = 0;
	cpu->debug &= (uint8_t)~DEBUG_HIT;
	if (t->db_held) {
		/* After MOV SS: data breakpoints come after the next instruction, this single step not at all. */
		t->db_held = false;
		t->held = bits & 0xF;
		return;
	}
	if (!bits)
		return;
	/* A trap after HLT ends its rest. */
	if (cpu->mp_state == X86_MP_HALTED)
		cpu->mp_state = X86_MP_RUNNABLE;
	cpu_raise_debug(cpu, bits);
}

/* Does the TSS's bitmap allow all of the ports? (SDM volume 1, section 18.5.2.) */
static bool bitmap_allows(struct soft_cpu *cpu, uint16_t port, unsigned size)
{
	uint32_t at, bits;

	if (!(cpu->tr.attr & ATTR_P) || !(cpu->tr.attr & 8) || cpu->tr.limit < 0x67)
		return false;
	at = (uint32_t)mem_read_system(cpu, cpu->tr.base + 0x66, 2) + port / 8u;
	if (at + 1 > cpu->tr.limit)
		return false;
	bits = (uint32_t)mem_read_system(cpu, cpu->tr.base + at, 2) >> (port % 8);
	return (bits & ((1u << size) - 1)) == 0;
}

void cpu_check_io(struct soft_cpu *cpu, uint16_t port, unsigned size)
{
	if ((cpu->cr0 & CR0_PE) && (cpu_v86(cpu) || cpu->cpl > cpu_iopl(cpu)) &&
	    !bitmap_allows(cpu, port, size))
		cpu_raise_error(cpu, VEC_GP, 0);
	if ((cpu->debug & DEBUG_BREAK) && (cpu->cr4 & CR4_DE))
		debug_io(cpu, port, size);
}

/* MOV to and from debug registers: DR4 and DR5 are other names for 6 and 7, or nothing. */
static unsigned debug_register(struct soft_cpu *cpu, unsigned number)
{
	if (number > 7)
		cpu_raise(cpu, VEC_UD);
	if (number == 4 || number == 5) {
		if (cpu->cr4 & CR4_DE)
			cpu_raise(cpu, VEC_UD);
		number += 2;
	}
	if (cpu->dr7 & DR7_GD)
		cpu_raise_debug(cpu, DR6_BD);
	return number;
}

uint64_t debug_read(struct soft_cpu *cpu, unsigned number)
{
	number = debug_register(cpu, number);
	return number < 4 ? cpu->dr[number] : number == 6 ? cpu->dr6 : cpu->dr7;
}

void debug_write(struct soft_cpu *cpu, unsigned number, uint64_t value)
{
	number = debug_register(cpu, number);
	if (number >= 6 && value >> 32)
		cpu_raise_error(cpu, VEC_GP, 0);
	if (number < 4)
		cpu->dr[number] = value;
	else if (number == 6)
		cpu->dr6 = (value & (0xF | DR6_BD | DR6_BS | DR6_BT)) | DR6_FIXED;
	else
		cpu->dr7 = (value & 0xFFFF23FF) | DR7_FIXED;
	cpu_mode_changed(cpu);
}
