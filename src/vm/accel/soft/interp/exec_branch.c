/*
 * Near control transfers: JMP, CALL, RET, Jcc, LOOP, JCXZ; INT and its kin; UD; BOUND. (Intel SDM volume 2.) A target is checked before anything is
 * written: canonical in 64-bit mode, inside the code segment elsewhere.
 */
#include "vm/accel/soft/interp/interp_int.h"

/* Where a branch of the operand's size leads, or #GP(0). */
INLINE uint64_t checked_target(struct soft_cpu *cpu, unsigned opsize, uint64_t target)
{
	if (opsize == 8) {
		if (__builtin_expect((target + (1ULL << 47)) >> 48 != 0, 0))
			cpu_raise_error(cpu, VEC_GP, 0);
		return target;
	}
	target &= size_mask(opsize);
	if (__builtin_expect(target > cpu->seg[SEG_CS].limit, 0))
		cpu_raise_error(cpu, VEC_GP, 0);
	return target;
}

INLINE uint64_t relative_target(struct soft_cpu *cpu, const struct insn *insn, unsigned opsize)
{
	return checked_target(cpu, opsize, cpu->next_rip + insn->imm);
}

static void jmp(struct soft_cpu *cpu, const struct insn *insn)
{
	cpu->next_rip = relative_target(cpu, insn, insn->opsize);
}

static void jmp_8(struct soft_cpu *cpu, const struct insn *insn)
{
	cpu->next_rip = relative_target(cpu, insn, 8);
}

/* One function for each condition: the test is a constant one. */
#define JCC(cond)                                                                                  \
	static void jcc_##cond(struct soft_cpu *cpu, const struct insn *insn)                      \
	{                                                                                          \
		if (condition(cpu, cond))                                                          \
			cpu->next_rip = relative_target(cpu, insn, 8);                             \
	}
JCC(0)
JCC(1)
JCC(2)
JCC(3)
JCC(4)
JCC(5)
JCC(6)
JCC(7)
JCC(8)
JCC(9)
JCC(10)
JCC(11)
JCC(12)
JCC(13)
JCC(14)
JCC(15)

static void jcc(struct soft_cpu *cpu, const struct insn *insn)
{
	if (condition(cpu, insn->cond))
		cpu->next_rip = relative_target(cpu, insn, insn->opsize);
}

static void loop(struct soft_cpu *cpu, const struct insn *insn)
{
	unsigned size = insn->addrsize;
	uint64_t count = (cpu->gpr[1] - 1) & size_mask(size);
	bool taken = count != 0;

	if (insn->op == OP_LOOPE)
		taken = taken && (cpu->status & ST_ZF);
	else if (insn->op == OP_LOOPNE)
		taken = taken && !(cpu->status & ST_ZF);
	if (taken)
		cpu->next_rip = relative_target(cpu, insn, insn->opsize);
	gpr_put(cpu, 1, size, count);
}

static void jcxz(struct soft_cpu *cpu, const struct insn *insn)
{
	if ((cpu->gpr[1] & size_mask(insn->addrsize)) == 0)
		cpu->next_rip = relative_target(cpu, insn, insn->opsize);
}

static void call(struct soft_cpu *cpu, const struct insn *insn)
{
	uint64_t target = relative_target(cpu, insn, insn->opsize);

	push_value(cpu, insn->opsize, cpu->next_rip & size_mask(insn->opsize));
	cpu->next_rip = target;
}

static void call_8(struct soft_cpu *cpu, const struct insn *insn)
{
	uint64_t target = relative_target(cpu, insn, 8), sp = cpu->gpr[4] - 8;

	mem_write_inline(cpu, seg_linear_inline(cpu, SEG_SS, sp, 8, true), 8, cpu->next_rip);
	cpu->gpr[4] = sp;
	cpu->next_rip = target;
}

static void jmp_indirect(struct soft_cpu *cpu, const struct insn *insn)
{
	cpu->next_rip = checked_target(cpu, insn->opsize,
				       rm_get(cpu, insn, &insn->operand[0], insn->opsize));
}

static void call_indirect(struct soft_cpu *cpu, const struct insn *insn)
{
	uint64_t target = checked_target(cpu, insn->opsize,
					 rm_get(cpu, insn, &insn->operand[0], insn->opsize));

	push_value(cpu, insn->opsize, cpu->next_rip & size_mask(insn->opsize));
	cpu->next_rip = target;
}

static void ret(struct soft_cpu *cpu, const struct insn *insn)
{
	unsigned size = insn->opsize;
	uint64_t target = checked_target(cpu, size, peek_value(cpu, size, 0));

	/* RET imm16 releases that many bytes of parameters. */
	stack_set(cpu, stack_wrap(cpu, cpu->gpr[4] + size + (insn->n_operands ? insn->imm : 0)));
	cpu->next_rip = target;
}

static void ret_8(struct soft_cpu *cpu, const struct insn *insn)
{
	uint64_t sp = cpu->gpr[4];

	(void)insn;
	cpu->next_rip = checked_target(
		cpu, 8, mem_read_inline(cpu, seg_linear_inline(cpu, SEG_SS, sp, 8, false), 8));
	cpu->gpr[4] = sp + 8;
}

/* --- interrupts by software --- */

static void int_n(struct soft_cpu *cpu, const struct insn *insn)
{
	if ((cpu->rflags & RF_VM) && iopl(cpu) < 3)
		cpu_raise_error(cpu, VEC_GP, 0);
	cpu_software_interrupt(cpu, (uint8_t)insn->imm, true);
}

static void int3(struct soft_cpu *cpu, const struct insn *insn)
{
	(void)insn;
	cpu_software_interrupt(cpu, VEC_BP, false);
}

static void int1(struct soft_cpu *cpu, const struct insn *insn)
{
	(void)insn;
	cpu_software_interrupt(cpu, VEC_DB, false);
}

static void into(struct soft_cpu *cpu, const struct insn *insn)
{
	(void)insn;
	if (cpu->status & ST_OF)
		cpu_software_interrupt(cpu, VEC_OF, false);
}

static void bound(struct soft_cpu *cpu, const struct insn *insn)
{
	unsigned size = insn->opsize, shift = 64 - 8 * size;
	int64_t index = (int64_t)(cpu->gpr[insn->operand[0].reg] << shift) >> shift, low, high;
	uint64_t offset = offset_inline(cpu, insn);

	low = (int64_t)mem_read(cpu, seg_linear(cpu, insn->seg, offset, size, false), size);
	offset = (offset + size) & size_mask(insn->addrsize);
	high = (int64_t)mem_read(cpu, seg_linear(cpu, insn->seg, offset, size, false), size);
	low = (int64_t)((uint64_t)low << shift) >> shift;
	high = (int64_t)((uint64_t)high << shift) >> shift;
	if (index < low || index > high)
		cpu_raise(cpu, VEC_BR);
}

_Noreturn static void undefined(struct soft_cpu *cpu, const struct insn *insn)
{
	(void)insn;
	cpu_raise(cpu, VEC_UD);
}

exec_fn bind_branch(const struct insn *insn)
{
	static const exec_fn conditional[16] = {jcc_0,  jcc_1,  jcc_2,  jcc_3, jcc_4,  jcc_5,
						jcc_6,  jcc_7,  jcc_8,  jcc_9, jcc_10, jcc_11,
						jcc_12, jcc_13, jcc_14, jcc_15};

	switch (insn->op) {
	case OP_JCC:
		return insn->opsize == 8 ? conditional[insn->cond] : jcc;
	case OP_JMP:
		return insn->opsize == 8 ? jmp_8 : jmp;
	case OP_CALL:
		return insn->opsize == 8 ? call_8 : call;
	case OP_RET:
		return insn->opsize == 8 && !insn->n_operands ? ret_8 : ret;
	case OP_JMP_IND:
		return jmp_indirect;
	case OP_CALL_IND:
		return call_indirect;
	case OP_LOOP:
	case OP_LOOPE:
	case OP_LOOPNE:
		return loop;
	case OP_JCXZ:
		return jcxz;
	case OP_INT:
		return int_n;
	case OP_INT3:
		return int3;
	case OP_INT1:
		return int1;
	case OP_INTO:
		return into;
	case OP_BOUND:
		return bound;
	case OP_UD0:
	case OP_UD1:
	case OP_UD2:
		return undefined;
	default:
		return NULL;
	}
}
