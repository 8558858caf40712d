/*
 * Flags one at a time (CLC .. STD, LAHF, SAHF, SALC), interrupts on and off, HLT, IN and OUT, fences, cache lines, random numbers. (Intel SDM
 * volume 2.)
 */
#include "vm/accel/soft/interp/interp_int.h"

static void carry_flag(struct soft_cpu *cpu, const struct insn *insn)
{
	switch (insn->op) {
	case OP_CLC:
		cpu->status &= (uint16_t)~ST_CF;
		break;
	case OP_STC:
		cpu->status |= ST_CF;
		break;
	default:
		cpu->status ^= ST_CF;
	}
}

static void direction_flag(struct soft_cpu *cpu, const struct insn *insn)
{
	if (insn->op == OP_STD)
		cpu->rflags |= RF_DF;
	else
		cpu->rflags &= ~RF_DF;
}

static void lahf(struct soft_cpu *cpu, const struct insn *insn)
{
	uint64_t ah = (cpu->status >> 8 & 0xd5) | RF_ONE;

	(void)insn;
	cpu->gpr[0] = (cpu->gpr[0] & ~0xff00ULL) | ah << 8;
}

static void sahf(struct soft_cpu *cpu, const struct insn *insn)
{
	(void)insn;
	cpu->status = (uint16_t)((cpu->status & ST_OF) | (cpu->gpr[0] & 0xd500));
}

static void salc(struct soft_cpu *cpu, const struct insn *insn)
{
	(void)insn;
	gpr_put(cpu, 0, 1, cpu->status & ST_CF ? 0xff : 0);
}

/* --- interrupts --- */

static void check_interrupt_flag(struct soft_cpu *cpu)
{
	if (cpu->cpl > iopl(cpu))
		cpu_raise_error(cpu, VEC_GP, 0);
}

static void cli(struct soft_cpu *cpu, const struct insn *insn)
{
	(void)insn;
	check_interrupt_flag(cpu);
	cpu->rflags &= ~RF_IF;
}

static void sti(struct soft_cpu *cpu, const struct insn *insn)
{
	(void)insn;
	check_interrupt_flag(cpu);
	if (cpu->rflags & RF_IF)
		return;
	cpu->rflags |= RF_IF;
	cpu->shadow = true;
	if (cpu->waiting)
		look_again(cpu);
}

static void hlt(struct soft_cpu *cpu, const struct insn *insn)
{
	(void)insn;
	if (cpu->cpl != 0)
		cpu_raise_error(cpu, VEC_GP, 0);
	soft_halt(cpu);
}

/* --- ports --- */

static uint16_t port_of(const struct soft_cpu *cpu, const struct insn *insn, unsigned operand)
{
	return (uint16_t)(insn->operand[operand].kind == OPND_IMM ? insn->imm : cpu->gpr[2]);
}

static void in(struct soft_cpu *cpu, const struct insn *insn)
{
	unsigned size = insn->operand[0].size;
	uint16_t port = port_of(cpu, insn, 1);
	uint64_t value = 0;

	cpu_check_io(cpu, port, size);
	soft_pio(cpu, port, false, &value, size);
	gpr_put(cpu, 0, size, value);
}

static void out(struct soft_cpu *cpu, const struct insn *insn)
{
	unsigned size = insn->operand[1].size;
	uint16_t port = port_of(cpu, insn, 0);
	uint64_t value = cpu->gpr[0] & size_mask(size);

	cpu_check_io(cpu, port, size);
	soft_pio(cpu, port, true, &value, size);
}

/* --- memory order --- */

static void fence(struct soft_cpu *cpu, const struct insn *insn)
{
	(void)cpu;
	switch (insn->op) {
	case OP_LFENCE:
		__asm__ volatile("lfence" : : : "memory");
		break;
	case OP_SFENCE:
		__asm__ volatile("sfence" : : : "memory");
		break;
	default:
		__asm__ volatile("mfence" : : : "memory");
	}
}

/* CLFLUSH and its kin may fault as a load does; caches are the host's. */
static void cache_line(struct soft_cpu *cpu, const struct insn *insn)
{
	mem_probe(cpu, linear_inline(cpu, insn, 1, false), 1, false);
}

static void nothing(struct soft_cpu *cpu, const struct insn *insn)
{
	(void)cpu;
	(void)insn;
}

/* --- random numbers: the host's --- */

static void random_number(struct soft_cpu *cpu, const struct insn *insn)
{
	unsigned size = insn->operand[0].size;
	uint64_t value;
	bool ok;

	if (insn->op == OP_RDRAND)
		__asm__ volatile("rdrand %0\n\tsetc %1" : "=r"(value), "=q"(ok) : : "cc");
	else
		__asm__ volatile("rdseed %0\n\tsetc %1" : "=r"(value), "=q"(ok) : : "cc");
	gpr_put(cpu, insn->operand[0].reg, size, ok ? value : 0);
	cpu->status = ok ? ST_CF : 0;
}

exec_fn bind_misc(const struct insn *insn)
{
	switch (insn->op) {
	case OP_CLC:
	case OP_STC:
	case OP_CMC:
		return carry_flag;
	case OP_CLD:
	case OP_STD:
		return direction_flag;
	case OP_LAHF:
		return lahf;
	case OP_SAHF:
		return sahf;
	case OP_SALC:
		return salc;
	case OP_CLI:
		return cli;
	case OP_STI:
		return sti;
	case OP_HLT:
		return hlt;
	case OP_IN:
		return in;
	case OP_OUT:
		return out;
	case OP_LFENCE:
	case OP_MFENCE:
	case OP_SFENCE:
		return fence;
	case OP_CLFLUSH:
	case OP_CLFLUSHOPT:
	case OP_CLWB:
		return cache_line;
	case OP_SERIALIZE:
		return nothing;
	case OP_RDRAND:
	case OP_RDSEED:
		return random_number;
	default:
		return NULL;
	}
}
