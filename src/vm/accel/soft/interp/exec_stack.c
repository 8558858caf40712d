/*
 * PUSH, POP, PUSHA, POPA, PUSHF, POPF, ENTER, LEAVE. (Intel SDM volume 2; volume 1, chapter 6.) Segment registers are pushed here and
 * popped by cpu/. Nothing changes before the last access that may fault.
 */
#include "vm/accel/soft/interp/interp_int.h"

/* Bits that PUSHF never shows. */
#define HIDDEN_FLAGS (RF_VM | RF_RF)

static void push_r(struct soft_cpu *cpu, const struct insn *insn)
{
	push_value(cpu, insn->opsize, reg_get(cpu, &insn->operand[0], insn->opsize));
}

static void push_r_8(struct soft_cpu *cpu, const struct insn *insn)
{
	uint64_t value = cpu->gpr[insn->operand[0].reg], sp = cpu->gpr[4] - 8;

	mem_write_inline(cpu, seg_linear_inline(cpu, SEG_SS, sp, 8, true), 8, value);
	cpu->gpr[4] = sp;
}

static void push_any(struct soft_cpu *cpu, const struct insn *insn)
{
	push_value(cpu, insn->opsize, source_get(cpu, insn, &insn->operand[0], insn->opsize));
}

/* 32 bits: some processors write only the selector's 16 bits, and so does this one. */
static void push_seg(struct soft_cpu *cpu, const struct insn *insn)
{
	uint16_t selector = cpu->seg[insn->operand[0].reg].selector;
	uint64_t sp = stack_wrap(cpu, cpu->gpr[4] - insn->opsize);
	unsigned size = insn->opsize == 8 ? 8 : 2;

	mem_write_inline(cpu, seg_linear_inline(cpu, SEG_SS, sp, size, true), size, selector);
	stack_set(cpu, sp);
}

static void pop_r(struct soft_cpu *cpu, const struct insn *insn)
{
	unsigned size = insn->opsize;
	uint64_t value = peek_value(cpu, size, 0);

	/* POP to the stack pointer: the value wins. */
	stack_set(cpu, stack_wrap(cpu, cpu->gpr[4] + size));
	reg_put(cpu, &insn->operand[0], size, value);
}

static void pop_r_8(struct soft_cpu *cpu, const struct insn *insn)
{
	uint64_t sp = cpu->gpr[4];
	uint64_t value = mem_read_inline(cpu, seg_linear_inline(cpu, SEG_SS, sp, 8, false), 8);

	cpu->gpr[4] = sp + 8;
	cpu->gpr[insn->operand[0].reg] = value;
}

/* An address that is computed with the stack pointer sees it after the pop. */
static void pop_m(struct soft_cpu *cpu, const struct insn *insn)
{
	unsigned size = insn->opsize;
	uint64_t value = peek_value(cpu, size, 0), old = cpu->gpr[4], sp, linear;

	sp = stack_wrap(cpu, old + size);
	stack_set(cpu, sp);
	linear = offset_inline(cpu, insn);
	cpu->gpr[4] = old;
	linear = seg_linear_inline(cpu, (enum insn_seg)insn->seg, linear, size, true);
	mem_write_inline(cpu, linear, size, value);
	stack_set(cpu, sp);
}

static void pusha(struct soft_cpu *cpu, const struct insn *insn)
{
	unsigned size = insn->opsize;
	uint64_t sp = cpu->gpr[4];

	/* Every slot is made sure of before the first is written. */
	for (unsigned i = 0; i < 8; i++) {
		uint64_t at = stack_wrap(cpu, sp - (i + 1) * size);

		mem_probe(cpu, seg_linear(cpu, SEG_SS, at, size, true), size, true);
	}
	for (unsigned i = 0; i < 8; i++) {
		uint64_t at = stack_wrap(cpu, sp - (i + 1) * size);

		mem_write(cpu, seg_linear(cpu, SEG_SS, at, size, true), size,
			  cpu->gpr[i] & size_mask(size));
	}
	stack_set(cpu, stack_wrap(cpu, sp - 8 * size));
}

static void popa(struct soft_cpu *cpu, const struct insn *insn)
{
	unsigned size = insn->opsize;
	uint64_t value[8];

	for (unsigned i = 0; i < 8; i++)
		value[7 - i] = peek_value(cpu, size, i * size);
	stack_set(cpu, stack_wrap(cpu, cpu->gpr[4] + 8 * size));
	for (unsigned i = 0; i < 8; i++)
		if (i != 4)
			gpr_put(cpu, i, size, value[i]);
}

/* --- flags --- */

/* Virtual-8086 mode leaves flags to its monitor unless IOPL is 3. (VME is not shown to guests.) */
static void check_v86(struct soft_cpu *cpu)
{
	if ((cpu->rflags & RF_VM) && iopl(cpu) < 3)
		cpu_raise_error(cpu, VEC_GP, 0);
}

static void pushf(struct soft_cpu *cpu, const struct insn *insn)
{
	check_v86(cpu);
	push_value(cpu, insn->opsize,
		   cpu_get_rflags(cpu) & ~(uint64_t)HIDDEN_FLAGS & size_mask(insn->opsize));
}

static void popf(struct soft_cpu *cpu, const struct insn *insn)
{
	unsigned size = insn->opsize;
	uint64_t change = RF_STATUS | RF_TF | RF_DF | RF_NT | RF_AC | RF_ID;
	uint64_t old = cpu_get_rflags(cpu), value;

	check_v86(cpu);
	value = peek_value(cpu, size, 0);
	stack_set(cpu, stack_wrap(cpu, cpu->gpr[4] + size));
	if (cpu->cpl == 0)
		change |= RF_IOPL;
	if (cpu->cpl <= iopl(cpu))
		change |= RF_IF;
	change &= size_mask(size);
	/* RF is cleared by every POPF, as by nearly every instruction. */
	cpu_set_rflags(cpu, (old & ~change & ~(uint64_t)RF_RF) | (value & change));
	if (cpu->waiting && (cpu->rflags & RF_IF))
		look_again(cpu);
}

/* --- frames --- */

/* Frame pointers are copied one after the other, as they may overlap where they go; what a fault leaves written is below the stack pointer. */
static void enter(struct soft_cpu *cpu, const struct insn *insn)
{
	unsigned size = insn->opsize, width = stack_width(cpu), level = insn->imm2 & 31;
	uint64_t sp = stack_wrap(cpu, cpu->gpr[4] - size), frame = sp, bp = cpu->gpr[5];

	mem_write(cpu, seg_linear(cpu, SEG_SS, sp, size, true), size, bp & size_mask(size));
	/* Those of the enclosing levels, and of this one. */
	for (unsigned i = 1; i <= level; i++) {
		uint64_t from = (bp - i * size) & size_mask(width), value = frame;

		if (i < level)
			value = mem_read(cpu, seg_linear(cpu, SEG_SS, from, size, false), size);
		sp = stack_wrap(cpu, sp - size);
		mem_write(cpu, seg_linear(cpu, SEG_SS, sp, size, true), size,
			  value & size_mask(size));
	}
	sp = stack_wrap(cpu, sp - insn->imm);
	/* The new top has to be there as well. */
	mem_probe(cpu, seg_linear(cpu, SEG_SS, sp, size, true), size, true);
	gpr_put(cpu, 5, size, frame);
	stack_set(cpu, sp);
}

static void leave(struct soft_cpu *cpu, const struct insn *insn)
{
	unsigned size = insn->opsize;
	uint64_t sp = stack_wrap(cpu, cpu->gpr[5]), value;

	value = mem_read_inline(cpu, seg_linear_inline(cpu, SEG_SS, sp, size, false), size);
	stack_set(cpu, stack_wrap(cpu, sp + size));
	gpr_put(cpu, 5, size, value);
}

exec_fn bind_stack(const struct insn *insn)
{
	bool is_register = insn->n_operands == 1 && insn->operand[0].kind == OPND_GPR;
	bool plain = insn->mode == INSN_MODE_64 && insn->opsize == 8;

	switch (insn->op) {
	case OP_PUSH:
		if (is_register)
			return plain ? push_r_8 : push_r;
		return push_any;
	case OP_POP:
		if (is_register)
			return plain ? pop_r_8 : pop_r;
		return pop_m;
	case OP_PUSH_SEG:
		return push_seg;
	case OP_PUSHA:
		return pusha;
	case OP_POPA:
		return popa;
	case OP_PUSHF:
		return pushf;
	case OP_POPF:
		return popf;
	case OP_ENTER:
		return enter;
	case OP_LEAVE:
		return leave;
	default:
		return NULL;
	}
}
