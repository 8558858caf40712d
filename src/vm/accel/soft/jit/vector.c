/*
 * x87, MMX, SSE and AVX instructions in translated code: the host executes them as they are, on registers that have the same numbers; general
 * registers are renamed and memory is checked as for integer instructions. Only where the block's key says that they may (KEY_VEC: they are
 * enabled and every exception is masked, so that none can reach the host); elsewhere C executes them.
 */
#include "vm/accel/soft/jit/trans.h"

static bool copyable(const struct insn *insn)
{
	switch (insn->op) {
	case OP_VEC:
		return (insn->form->attrs & FORM_NATIVE) != 0 &&
		       insn->form->feature != FEATURE_SSE4A;
	case OP_X87:
	case OP_FNSTCW:
	case OP_FNSTSW:
	case OP_STMXCSR:
	case OP_EMMS:
	case OP_VZEROUPPER:
	case OP_VZEROALL:
	case OP_PCMPESTRI:
	case OP_PCMPESTRM:
	case OP_PCMPISTRI:
	case OP_PCMPISTRM:
	case OP_VMASKMOV_LOAD:
	case OP_VMASKMOV_STORE:
		return true;
	default:
		return false;
	}
}

enum trans_how trans_how_vector(const struct trans *t, const struct insn *insn)
{
	unsigned displaced = 0;

	/* Nothing is unmasked that could wait. */
	if ((t->key & KEY_VEC) != 0 && insn->op == OP_FWAIT)
		return HOW_NOP;
	if ((t->key & KEY_VEC) == 0 || !copyable(insn))
		return HOW_EXEC;
	if ((insn->form->attrs & FORM_AVX) != 0 && (t->key & KEY_AVX) == 0)
		return HOW_EXEC;
	/* Outside 64-bit mode these leave registers 8 to 15 alone. */
	if ((t->key & KEY_32) != 0 && (insn->op == OP_VZEROUPPER || insn->op == OP_VZEROALL))
		return HOW_EXEC;
	for (unsigned n = 0; n < insn->n_operands; n++) {
		const struct insn_operand *op = &insn->operand[n];

		switch (op->kind) {
		case OPND_MEM:
			if (op->size == 0 || !trans_memory_ok(t, insn))
				return HOW_EXEC;
			break;
		case OPND_GPR_HIGH:
			return HOW_EXEC;
		case OPND_GPR:
			displaced += jit_host_of[op->reg] == H_NONE;
			break;
		default:
			break;
		}
	}
	return displaced <= 1 ? HOW_VEC : HOW_EXEC;
}

static bool has_imm8(const struct insn *insn)
{
	if (insn->map == 3)
		return true;
	if (insn->map != 1)
		return false;
	return (insn->opcode >= 0x70 && insn->opcode <= 0x73) || insn->opcode == 0xc2 ||
	       (insn->opcode >= 0xc4 && insn->opcode <= 0xc6);
}

/* Before a block's first one: the guest's state is in the host's registers, or is fetched. */
static void need_fpu(struct trans *t)
{
	struct tail *tail;

	if (t->fpu_live)
		return;
	trans_flags_clobber(t);
	emit_alu_ri(t->e, ALU_CMP, 1, rm_gs(SLOT_OFF(SLOT_FPU_LIVE)), 0);
	tail = trans_tail(t, TAIL_FPU, emit_jcc(t->e, CC_E, NULL));
	if (tail != NULL)
		tail->back = emit_here(t->e);
	t->fpu_live = true;
}

static unsigned number_of(const struct insn_operand *op, unsigned general)
{
	return op->kind == OPND_GPR ? general : op->reg;
}

void trans_vector(struct trans *t, const struct insn *insn)
{
	struct emit_enc enc = {
		.vex = insn->encoding == ENC_VEX,
		.w = insn->rex_w,
		.l = insn->vex_l != 0,
		.pp = insn->pp,
		.map = insn->map,
		.opcode = insn->opcode,
		.imm_bytes = has_imm8(insn),
		.imm = insn->imm & 0xff,
	};
	struct emit_rm rm = rm_reg(insn->modrm & 7);
	unsigned reg = (insn->modrm >> 3) & 7, general = S3;
	const struct insn_operand *gpr = NULL;

	need_fpu(t);
	for (unsigned n = 0; n < insn->n_operands; n++) {
		const struct insn_operand *op = &insn->operand[n];

		if (op->kind == OPND_MEM)
			rm = trans_memory(t, insn, op->size, (op->access & INSN_WRITE) != 0,
					  (insn->form->attrs & FORM_ALIGN) != 0 && op->size > 1);
		if (op->kind == OPND_GPR && op->field != FIELD_NONE)
			gpr = op;
	}
	trans_flags_before(t);
	if (gpr != NULL)
		general = trans_reg_in(t, gpr->reg, S3);
	for (unsigned n = 0; n < insn->n_operands; n++) {
		const struct insn_operand *op = &insn->operand[n];

		if (op->kind == OPND_MEM)
			continue;
		if (op->field == FIELD_REG)
			reg = number_of(op, general);
		else if (op->field == FIELD_RM)
			rm = rm_reg(number_of(op, general));
		else if (op->field == FIELD_VVVV)
			enc.vvvv = (uint8_t)number_of(op, general);
	}
	if (insn->has_modrm) {
		emit_insn(t->e, &enc, reg, rm);
	} else if (enc.vex) { /* VZEROUPPER, VZEROALL */
		emit_u8(t->e, 0xc5);
		emit_u8(t->e, enc.l ? 0xfc : 0xf8);
		emit_u8(t->e, enc.opcode);
	} else { /* EMMS */
		emit_u8(t->e, 0x0f);
		emit_u8(t->e, enc.opcode);
	}
	if (gpr != NULL && (gpr->access & INSN_WRITE) != 0)
		trans_reg_out(t, gpr->reg, general);
}
