/*
 * Instructions that load segment registers or leave by way of a descriptor: MOV, POP, LDS and its kin, far JMP, CALL, RET, INT, IRET. (SDM
 * volume 2.)
 */
#include "vm/accel/soft/cpu/cpu_int.h"

/* What a load of SS means for the next instruction boundary: nothing comes between it and the instruction after. */
static void after_ss(struct soft_cpu *cpu)
{
	cpu->shadow = true;
	cpu->tlbs->db_held = true;
}

static void exec_mov_to_seg(struct soft_cpu *cpu, const struct insn *insn)
{
	enum insn_seg seg = (enum insn_seg)insn->operand[0].reg;

	seg_load(cpu, seg, (uint16_t)operand_read(cpu, insn, 1, 2));
	if (seg == SEG_SS) {
		cpu_mode_changed(cpu);
		after_ss(cpu);
	}
}

static void exec_mov_from_seg(struct soft_cpu *cpu, const struct insn *insn)
{
	uint16_t selector = cpu->seg[insn->operand[1].reg].selector;
	bool memory = insn->operand[0].kind == OPND_MEM;

	operand_write(cpu, insn, 0, memory ? 2 : insn->opsize, selector);
}

/* The size that a push or pop of a segment register moves the stack pointer by. */
static unsigned stack_size(const struct insn *insn)
{
	if (insn->mode == INSN_MODE_64)
		return insn->opsize_prefix && !insn->rex_w ? 2 : 8;
	return insn->opsize;
}

static void exec_push_seg(struct soft_cpu *cpu, const struct insn *insn)
{
	struct stack s;
	unsigned size = stack_size(insn);

	stack_current(cpu, &s);
	s.error = 0;
	stack_push(&s, size, cpu->seg[insn->operand[0].reg].selector);
	stack_commit_sp(&s);
}

static void exec_pop_seg(struct soft_cpu *cpu, const struct insn *insn)
{
	enum insn_seg seg = (enum insn_seg)insn->operand[0].reg;
	struct stack s;
	uint16_t selector;

	stack_current(cpu, &s);
	selector = (uint16_t)stack_pop(&s, stack_size(insn));
	/* A fault of the load leaves RSP alone; the width of a new SS does not count yet. */
	seg_load(cpu, seg, selector);
	stack_commit_sp(&s);
	if (seg == SEG_SS) {
		cpu_mode_changed(cpu);
		after_ss(cpu);
	}
}

/* A far pointer in memory: offset first. */
static uint64_t far_pointer(struct soft_cpu *cpu, const struct insn *insn, uint16_t *ret_selector)
{
	unsigned size = insn->opsize;
	uint64_t at =
		seg_linear(cpu, (enum insn_seg)insn->seg, insn_offset(cpu, insn), size + 2, false);

	*ret_selector = (uint16_t)mem_read(cpu, at + size, 2);
	return mem_read(cpu, at, size);
}

static void exec_load_far(struct soft_cpu *cpu, const struct insn *insn)
{
	uint16_t selector;
	uint64_t offset = far_pointer(cpu, insn, &selector);
	enum insn_seg seg = SEG_ES;

	switch (insn->op) {
	case OP_LDS:
		seg = SEG_DS;
		break;
	case OP_LSS:
		seg = SEG_SS;
		break;
	case OP_LFS:
		seg = SEG_FS;
		break;
	case OP_LGS:
		seg = SEG_GS;
		break;
	}
	seg_load(cpu, seg, selector);
	operand_write(cpu, insn, 0, insn->opsize, offset);
	if (seg == SEG_SS)
		cpu_mode_changed(cpu);
}

static uint64_t far_operand(struct soft_cpu *cpu, const struct insn *insn, uint16_t *ret_selector)
{
	if (insn->operand[0].kind == OPND_MEM)
		return far_pointer(cpu, insn, ret_selector);
	*ret_selector = (uint16_t)insn->imm2;
	return insn->imm;
}

static void exec_jmp_far(struct soft_cpu *cpu, const struct insn *insn)
{
	uint16_t selector;
	uint64_t offset = far_operand(cpu, insn, &selector);

	cpu->tlbs->external = false;
	far_jump(cpu, selector, offset, insn->opsize);
}

static void exec_call_far(struct soft_cpu *cpu, const struct insn *insn)
{
	uint16_t selector;
	uint64_t offset = far_operand(cpu, insn, &selector);

	cpu->tlbs->external = false;
	far_call(cpu, selector, offset, insn->opsize);
}

static void exec_ret_far(struct soft_cpu *cpu, const struct insn *insn)
{
	far_return(cpu, insn->opsize,
		   insn->n_operands && insn->operand[0].kind == OPND_IMM ? (uint16_t)insn->imm : 0);
}

static void exec_iret(struct soft_cpu *cpu, const struct insn *insn)
{
	interrupt_return(cpu, insn->opsize);
}

static void exec_int(struct soft_cpu *cpu, const struct insn *insn)
{
	cpu_software_interrupt(cpu, (uint8_t)insn->imm, true);
}

static void exec_int3(struct soft_cpu *cpu, const struct insn *insn)
{
	(void)insn;
	cpu_software_interrupt(cpu, VEC_BP, false);
}

static void exec_into(struct soft_cpu *cpu, const struct insn *insn)
{
	(void)insn;
	if (cpu->status & ST_OF)
		cpu_software_interrupt(cpu, VEC_OF, false);
}

static void exec_int1(struct soft_cpu *cpu, const struct insn *insn)
{
	(void)insn;
	cpu_software_interrupt(cpu, VEC_DB, false);
}

exec_fn bind_transfers(const struct insn *insn)
{
	switch (insn->op) {
	case OP_MOV_TO_SEG:
		return exec_mov_to_seg;
	case OP_MOV_FROM_SEG:
		return exec_mov_from_seg;
	case OP_PUSH_SEG:
		return exec_push_seg;
	case OP_POP_SEG:
		return exec_pop_seg;
	case OP_LDS:
	case OP_LES:
	case OP_LFS:
	case OP_LGS:
	case OP_LSS:
		return exec_load_far;
	case OP_JMP_FAR:
		return exec_jmp_far;
	case OP_CALL_FAR:
		return exec_call_far;
	case OP_RET_FAR:
		return exec_ret_far;
	case OP_IRET:
		return exec_iret;
	case OP_INT:
		return exec_int;
	case OP_INT3:
		return exec_int3;
	case OP_INTO:
		return exec_into;
	case OP_INT1:
		return exec_int1;
	default:
		return NULL;
	}
}
