/*
 * Integer instructions in translated code.
 */
#include "vm/accel/soft/jit/trans.h"

static const struct insn_operand *operand_of_kind(const struct insn *insn,
						  enum insn_operand_kind kind)
{
	for (unsigned n = 0; n < insn->n_operands; n++)
		if (insn->operand[n].kind == kind)
			return &insn->operand[n];
	return NULL;
}

/* ah, ch, dh and bh can only be named where no REX prefix is needed. */
static bool high_bytes_ok(const struct insn *insn)
{
	if (operand_of_kind(insn, OPND_GPR_HIGH) == NULL)
		return true;
	if (insn->rex_w)
		return false;
	for (unsigned n = 0; n < insn->n_operands; n++) {
		const struct insn_operand *op = &insn->operand[n];

		if (op->kind == OPND_MEM ||
		    (op->kind == OPND_GPR && jit_host_of[op->reg] >= (op->size == 1 ? 4 : 8)))
			return false;
	}
	return true;
}

static enum trans_how how_native(const struct trans *t, const struct insn *insn)
{
	const struct insn_operand *mem = operand_of_kind(insn, OPND_MEM);

	if (!high_bytes_ok(insn))
		return HOW_EXEC;
	if (mem != NULL && (mem->size == 0 || !trans_memory_ok(t, insn)))
		return HOW_EXEC;
	if ((insn->form->attrs & (FORM_SSE | FORM_AVX | FORM_MMX | FORM_X87)) != 0)
		return HOW_EXEC;
	/* In 32-bit mode an encoding may mean something else here; these are as they are. */
	return HOW_COPY;
}

static enum trans_how how_stack(const struct trans *t, const struct insn *insn, enum trans_how how)
{
	unsigned natural = t->mode == INSN_MODE_64 ? 8 : 4;
	const struct insn_operand *op = &insn->operand[0];

	if (insn->opsize != natural)
		return HOW_EXEC;
	if (how == HOW_POP && op->kind != OPND_GPR)
		return HOW_EXEC;
	if (how == HOW_PUSH && op->kind == OPND_MEM && !trans_memory_ok(t, insn))
		return HOW_EXEC;
	return how;
}

static enum trans_how how_branch(const struct trans *t, const struct insn *insn, enum trans_how how)
{
	unsigned natural = t->mode == INSN_MODE_64 ? 8 : 4;
	const struct insn_operand *op = &insn->operand[0];

	/* Near branches with a 16-bit operand size truncate rip. */
	if (t->mode == INSN_MODE_32 && insn->opsize == 2)
		return HOW_EXEC;
	if ((how == HOW_JRCXZ || how == HOW_LOOP) && insn->addrsize != natural)
		return HOW_EXEC;
	if (how == HOW_CALL_IND || how == HOW_JMP_IND) {
		if (op->kind == OPND_GPR)
			return op->reg == GUEST_RSP ? HOW_EXEC : how;
		return trans_memory_ok(t, insn) ? how : HOW_EXEC;
	}
	return how;
}

enum trans_how trans_how_integer(const struct trans *t, const struct insn *insn)
{
	switch (insn->op) {
	case OP_NOP:
	case OP_PAUSE:
		return HOW_NOP;
	case OP_LEA:
		return trans_memory_ok(t, insn) ? HOW_LEA : HOW_EXEC;
	case OP_PUSH:
		return how_stack(t, insn, HOW_PUSH);
	case OP_POP:
		return how_stack(t, insn, HOW_POP);
	case OP_LEAVE:
		return t->mode == INSN_MODE_64 && insn->opsize == 8 ? HOW_LEAVE : HOW_EXEC;
	case OP_JCC:
		return how_branch(t, insn, HOW_JCC);
	case OP_JMP:
		return how_branch(t, insn, HOW_JMP);
	case OP_CALL:
		return how_branch(t, insn, HOW_CALL);
	case OP_JMP_IND:
		return how_branch(t, insn, HOW_JMP_IND);
	case OP_CALL_IND:
		return how_branch(t, insn, HOW_CALL_IND);
	case OP_RET:
		return how_branch(t, insn, HOW_RET);
	case OP_JCXZ:
		return how_branch(t, insn, HOW_JRCXZ);
	case OP_LOOP:
		return how_branch(t, insn, HOW_LOOP);
	case OP_MULX:
		/* Both halves into one register: the upper one stays. */
		if (insn->operand[0].reg == insn->operand[1].reg)
			return HOW_EXEC;
		return how_native(t, insn);
	case OP_MUL:
	case OP_IMUL1:
		return how_native(t, insn);
	case OP_DIV:
	case OP_IDIV:
		return insn->opsize >= 4 && how_native(t, insn) == HOW_COPY ? HOW_DIV : HOW_EXEC;
	case OP_CMPXCHG:
	case OP_CMPXCHG8B:
	case OP_CMPXCHG16B:
		return how_native(t, insn) == HOW_COPY ? HOW_CMPXCHG : HOW_EXEC;
	case OP_BT:
	case OP_BTS:
	case OP_BTR:
	case OP_BTC:
		if (insn->operand[1].kind != OPND_IMM && insn->operand[0].kind == OPND_MEM)
			return HOW_EXEC;
		return how_native(t, insn);
	case OP_BSWAP: /* of 16 bits: undefined */
		return insn->opsize == 2 ? HOW_EXEC : HOW_COPY;
	case OP_PUSHF:
		return t->mode == INSN_MODE_64 && insn->opsize == 8 ? HOW_PUSHF : HOW_EXEC;
	case OP_CLI:
		return (t->key & KEY_USER) == 0 ? HOW_CLI : HOW_EXEC;
	case OP_STI:
		return (t->key & KEY_USER) == 0 ? HOW_STI : HOW_EXEC;
	case OP_SWAPGS:
		return (t->key & KEY_USER) == 0 ? HOW_SWAPGS : HOW_EXEC;
	case OP_MOV_FROM_SEG:
		return insn->operand[0].kind == OPND_GPR && insn->operand[0].size >= 4
			       ? HOW_FROM_SEG
			       : HOW_EXEC;
	case OP_RDTSCP:
	case OP_RDTSC:
		return t->jit->lockstep ? HOW_EXEC : HOW_RDTSC;
	default:
		break;
	}
	return (insn->form->attrs & FORM_NATIVE) != 0 ? how_native(t, insn) : HOW_EXEC;
}

/* Bytes of the immediate in the encoding. */
static unsigned imm_bytes(const struct insn *insn)
{
	unsigned wide = insn->opsize == 2 ? 2 : 4, digit = (insn->modrm >> 3) & 7;

	if (insn->map == 3)
		return 1;
	if (insn->map != 0)
		return insn->map == 1 && (insn->opcode == 0xba || insn->opcode == 0xa4 ||
					  insn->opcode == 0xac)
			       ? 1
			       : 0;
	switch (insn->opcode) {
	case 0x80:
	case 0x82:
	case 0x83:
	case 0xc0:
	case 0xc1:
	case 0x6b:
	case 0xc6:
	case 0xa8:
		return 1;
	case 0x81:
	case 0x69:
	case 0xc7:
	case 0xa9:
		return wide;
	case 0xf6:
		return digit <= 1 ? 1 : 0;
	case 0xf7:
		return digit <= 1 ? wide : 0;
	default:
		if (insn->opcode < 0x40 && (insn->opcode & 6) == 4)
			return insn->opcode & 1 ? wide : 1;
		return 0;
	}
}

static struct emit_enc encoding(const struct insn *insn)
{
	return (struct emit_enc){
		.vex = insn->encoding == ENC_VEX,
		.lock = insn->lock,
		.opsize = insn->opsize == 2,
		.w = insn->rex_w,
		.l = insn->vex_l != 0,
		.pp = insn->pp,
		.map = insn->map,
		.opcode = insn->opcode == 0x82 && insn->map == 0 ? 0x80 : insn->opcode,
		.imm_bytes = (uint8_t)imm_bytes(insn),
		.imm = insn->imm,
	};
}

/* Operands of a copied instruction: where each stands in the host. */
struct copied {
	const struct insn_operand *reg, *rm, *vvvv;
	unsigned host_reg, host_vvvv;
	struct emit_rm host_rm;
	unsigned n_scratch; /* used so far */
	uint8_t scratch[3];
};

static unsigned take_register(struct trans *t, struct copied *c, const struct insn_operand *op)
{
	unsigned host;

	if (op->kind == OPND_GPR_HIGH)
		return op->reg + 4u;
	host = jit_host_of[op->reg];
	if (host != H_NONE)
		return host;
	host = c->scratch[c->n_scratch++];
	if (host == S1)
		t->addend_in_s1 = false;
	if ((op->access & INSN_READ) != 0 || op->size < 4)
		emit_load(t->e, 8, host, rm_gs(GPR_OFF(op->reg)));
	return host;
}

static void give_register(struct trans *t, const struct insn_operand *op, unsigned host)
{
	if (op != NULL && op->kind == OPND_GPR && (op->access & INSN_WRITE) != 0 &&
	    jit_host_of[op->reg] == H_NONE)
		emit_store(t->e, 8, rm_gs(GPR_OFF(op->reg)), host);
}

static unsigned displaced(const struct insn *insn)
{
	unsigned n = 0;

	for (unsigned i = 0; i < insn->n_operands; i++)
		n += insn->operand[i].kind == OPND_GPR &&
		     jit_host_of[insn->operand[i].reg] == H_NONE;
	return n;
}

static void copy_memory(struct trans *t, const struct insn *insn, struct copied *c)
{
	bool write = (c->rm->access & INSN_WRITE) != 0 || insn->op == OP_CMPXCHG;

	c->host_rm = trans_memory(t, insn, c->rm->size, write, insn->op == OP_CMPXCHG16B);
	c->scratch[0] = S3;
	c->scratch[1] = S1;
	if (displaced(insn) > 1) {
		emit_lea(t->e, 8, S2, c->host_rm);
		c->host_rm = rm_mem(S2, 0);
	}
}

/* Forms that name a register in the opcode are encoded as others. */
static bool copy_opcode_form(struct trans *t, const struct insn *insn, struct emit_enc *enc,
			     struct copied *c, const struct insn_operand *op)
{
	unsigned host = take_register(t, c, op);

	switch (insn->op) {
	case OP_MOV:
		if (op->size >= 4) {
			emit_mov_ri(t->e, host, op->size == 8 ? insn->imm : (uint32_t)insn->imm);
			give_register(t, op, host);
			return true;
		}
		enc->opcode = op->size == 1 ? 0xc6 : 0xc7;
		enc->imm_bytes = op->size;
		break;
	case OP_XCHG:
		enc->opcode = 0x87;
		c->host_reg = H_RAX;
		break;
	case OP_INC:
		enc->opcode = 0xff;
		break;
	case OP_DEC:
		enc->opcode = 0xff;
		c->host_reg = 1;
		break;
	case OP_BSWAP:
		if (enc->w || host >= 8)
			emit_u8(t->e, 0x40 | (enc->w ? 8 : 0) | (host >= 8 ? 1 : 0));
		emit_u8(t->e, 0x0f);
		emit_u8(t->e, 0xc8 | (host & 7));
		give_register(t, op, host);
		return true;
	default:
		break;
	}
	if (op->kind == OPND_GPR && op->size == 1)
		enc->byte_rm = true;
	trans_flags_before(t);
	emit_insn(t->e, enc, c->host_reg, rm_reg(host));
	give_register(t, op, host);
	return true;
}

static void copy_without_modrm(struct trans *t, const struct insn *insn, const struct emit_enc *enc)
{
	if (enc->opsize)
		emit_u8(t->e, 0x66);
	if (enc->w)
		emit_u8(t->e, 0x48);
	if (enc->map != 0)
		emit_u8(t->e, 0x0f);
	emit_u8(t->e, enc->opcode);
	emit_bytes(t->e, &insn->imm, enc->imm_bytes);
}

void trans_copy(struct trans *t, const struct insn *insn)
{
	struct emit_enc enc = encoding(insn);
	struct copied c = {.scratch = {S3, S2, S1}};
	const struct insn_operand *opcode = NULL;

	c.host_reg = (insn->modrm >> 3) & 7;
	for (unsigned n = 0; n < insn->n_operands; n++) {
		const struct insn_operand *op = &insn->operand[n];

		if (op->kind == OPND_MEM || op->field == FIELD_RM)
			c.rm = op;
		else if (op->field == FIELD_REG)
			c.reg = op;
		else if (op->field == FIELD_VVVV)
			c.vvvv = op;
		else if (op->field == FIELD_OPCODE)
			opcode = op;
	}
	if (opcode != NULL) {
		c.host_reg = 0;
		copy_opcode_form(t, insn, &enc, &c, opcode);
		return;
	}
	if (!insn->has_modrm) {
		trans_flags_before(t);
		copy_without_modrm(t, insn, &enc);
		return;
	}
	if (c.rm != NULL && c.rm->kind == OPND_MEM)
		copy_memory(t, insn, &c);
	trans_flags_before(t); /* S3 is still free */
	if (c.rm != NULL && c.rm->kind != OPND_MEM) {
		c.host_rm = rm_reg(take_register(t, &c, c.rm));
		enc.byte_rm = c.rm->kind == OPND_GPR && c.rm->size == 1;
	} else if (c.rm == NULL) {
		c.host_rm = rm_reg(insn->modrm & 7); /* LFENCE and its kin */
	}
	if (c.reg != NULL) {
		c.host_reg = take_register(t, &c, c.reg);
		enc.byte_reg = c.reg->kind == OPND_GPR && c.reg->size == 1;
	}
	if (c.vvvv != NULL) {
		c.host_vvvv = take_register(t, &c, c.vvvv);
		enc.vvvv = (uint8_t)c.host_vvvv;
	}
	emit_insn(t->e, &enc, c.host_reg, c.host_rm);
	give_register(t, c.reg, c.host_reg);
	if (c.rm != NULL && c.host_rm.is_reg)
		give_register(t, c.rm, c.host_rm.reg);
	give_register(t, c.vvvv, c.host_vvvv);
}

static void lea(struct trans *t, const struct insn *insn)
{
	const struct insn_operand *dst = &insn->operand[0];
	unsigned ea_size, host = jit_host_of[dst->reg];
	struct emit_rm ea = trans_address(t, insn, false, &ea_size);

	if (host == H_NONE) {
		host = S3;
		if (dst->size < 4)
			emit_load(t->e, 8, S3, rm_gs(GPR_OFF(dst->reg)));
	}
	if (ea_size == 4 && dst->size == 8) /* zero-extended */
		emit_lea(t->e, 4, host, ea);
	else
		emit_lea(t->e, dst->size, host, ea);
	trans_reg_out(t, dst->reg, host);
}

static void push(struct trans *t, const struct insn *insn)
{
	const struct insn_operand *op = &insn->operand[0];
	unsigned size = insn->opsize, host;
	struct emit_rm rm;

	if (op->kind == OPND_MEM) {
		unsigned region = t->region[t->i];

		t->region[t->i] = 0; /* which is the push's */
		emit_load(t->e, size, S3, trans_memory(t, insn, size, false, false));
		t->region[t->i] = (uint8_t)region;
		/* The stack's check may go to C and come back. */
		emit_store(t->e, 8, rm_gs(SLOT_OFF(SLOT_VALUE)), S3);
		rm = trans_stack(t, -(int32_t)size, size, true);
		emit_load(t->e, 8, S3, rm_gs(SLOT_OFF(SLOT_VALUE)));
		emit_store(t->e, size, rm, S3);
	} else {
		rm = trans_stack(t, -(int32_t)size, size, true);
		if (op->kind == OPND_IMM) {
			emit_store_imm(t->e, size, rm, (int32_t)insn->imm);
		} else {
			host = trans_reg_in(t, op->reg, S3);
			emit_store(t->e, size, rm, host);
		}
	}
	emit_lea(t->e, size, H_R15, rm_mem(H_R15, -(int32_t)size));
}

static void pop(struct trans *t, const struct insn *insn)
{
	unsigned reg = insn->operand[0].reg, size = insn->opsize, host = jit_host_of[reg];
	struct emit_rm rm = trans_stack(t, 0, size, false);

	if (host == H_NONE)
		host = S3;
	emit_load(t->e, size, host, rm);
	trans_reg_out(t, reg, host);
	if (reg != GUEST_RSP)
		emit_lea(t->e, size, H_R15, rm_mem(H_R15, (int32_t)size));
}

/* PUSHFQ outside virtual-8086 mode: what is in cpu->status, and the other flags without RF. */
static void pushf(struct trans *t)
{
	struct emit *e = t->e;
	struct emit_rm rm;

	trans_flags_save(t);
	trans_flags_clobber(t);
	emit_load(e, 1, S3, rm_gs(CPU_OFF(status)));
	emit_shl(e, 4, S3, 11);
	emit_load(e, 1, S2, rm_gs(CPU_OFF(status) + 1));
	emit_alu_rm(e, ALU_OR, 4, S3, rm_reg(S2));
	emit_alu_rm(e, ALU_OR, 4, S3, rm_gs(CPU_OFF(rflags)));
	emit_alu_ri(e, ALU_AND, 4, rm_reg(S3), (int32_t) ~(RF_RF | RF_VM));
	emit_store(e, 8, rm_gs(SLOT_OFF(SLOT_VALUE)), S3);
	rm = trans_stack(t, -8, 8, true);
	emit_load(e, 8, S3, rm_gs(SLOT_OFF(SLOT_VALUE)));
	emit_store(e, 8, rm, S3);
	emit_lea(e, 8, H_R15, rm_mem(H_R15, -8));
}

static void swapgs(struct trans *t)
{
	emit_load(t->e, 8, S2, rm_gs(CPU_OFF(seg[SEG_GS].base)));
	emit_load(t->e, 8, S3, rm_gs(CPU_OFF(kernel_gs_base)));
	emit_store(t->e, 8, rm_gs(CPU_OFF(seg[SEG_GS].base)), S3);
	emit_store(t->e, 8, rm_gs(CPU_OFF(kernel_gs_base)), S2);
}

static void from_segment(struct trans *t, const struct insn *insn)
{
	unsigned reg = insn->operand[0].reg, host = jit_host_of[reg];

	if (host == H_NONE)
		host = S3;
	emit_load(t->e, 2, host,
		  rm_gs(CPU_OFF(seg) + insn->operand[1].reg * sizeof(struct soft_seg) +
			offsetof(struct soft_seg, selector)));
	trans_reg_out(t, reg, host);
}

static void leave(struct trans *t)
{
	struct emit_rm rm;

	trans_flags_clobber(t);
	rm = trans_check(t, rm_mem(H_RBP, 0), 8, false);
	emit_load(t->e, 8, S3, rm);
	emit_lea(t->e, 8, H_R15, rm_mem(H_RBP, 8));
	emit_mov_rr(t->e, 8, H_RBP, S3);
}

static void to_exec(struct trans *t, uint8_t *jump)
{
	struct jit_site *site = trans_site(t);
	struct tail *tail = trans_tail(t, TAIL_EXEC, jump);

	if (site != NULL && tail != NULL)
		tail->site = site;
}

/* What would raise #DE, and the rare quotients that are not known to fit, are left to C. The divisor is read once: memory may change. */
static void divide(struct trans *t, const struct insn *insn)
{
	struct emit *e = t->e;
	const struct insn_operand *op = &insn->operand[0];
	unsigned size = insn->opsize;
	struct emit_enc enc = {.w = size == 8, .opcode = 0xf7};

	if (op->kind == OPND_MEM) {
		emit_load(e, size, S3, trans_memory(t, insn, size, false, false));
	} else {
		trans_flags_clobber(t);
		if (jit_host_of[op->reg] != H_NONE)
			emit_mov_rr(e, size, S3, jit_host_of[op->reg]);
		else
			emit_load(e, size, S3, rm_gs(GPR_OFF(op->reg)));
	}
	if (insn->op == OP_DIV) {
		emit_alu_rm(e, ALU_CMP, size, H_RDX, rm_reg(S3));
		to_exec(t, emit_jcc(e, CC_AE, NULL));
		emit_insn(e, &enc, 6, rm_reg(S3));
		return;
	}
	emit_mov_rr(e, size, S2, H_RAX);
	emit_sar(e, size, S2, size * 8 - 1);
	emit_alu_rm(e, ALU_CMP, size, S2, rm_reg(H_RDX));
	to_exec(t, emit_jcc(e, CC_NE, NULL));
	emit_lea(e, size, S2, rm_mem(S3, 1));
	emit_alu_ri(e, ALU_CMP, size, rm_reg(S2), 1);
	to_exec(t, emit_jcc(e, CC_BE, NULL));
	emit_insn(e, &enc, 7, rm_reg(S3));
}

static void cli(struct trans *t)
{
	trans_flags_clobber(t);
	emit_alu_ri(t->e, ALU_AND, 4, rm_gs(CPU_OFF(rflags)), (int32_t)~RF_IF);
}

/* When an interrupt waits for it, C does it. */
static void sti(struct trans *t)
{
	trans_flags_clobber(t);
	emit_alu_ri(t->e, ALU_CMP, 1, rm_gs(CPU_OFF(waiting)), 0);
	to_exec(t, emit_jcc(t->e, CC_NE, NULL));
	emit_alu_ri(t->e, ALU_OR, 4, rm_gs(CPU_OFF(rflags)), RF_IF);
}

static void rdtsc(struct trans *t, bool with_aux)
{
	struct emit *e = t->e;

	trans_flags_clobber(t);
	if ((t->key & KEY_USER) != 0) {
		struct emit_enc test = {.opcode = 0xf6, .imm_bytes = 1, .imm = CR4_TSD};

		emit_insn(e, &test, 0, rm_gs(CPU_OFF(cr4)));
		to_exec(t, emit_jcc(e, CC_NE, NULL));
	}
	emit_u8(e, 0x0f);
	emit_u8(e, 0x31);
	emit_shl(e, 8, H_RDX, 32);
	emit_alu_rm(e, ALU_OR, 8, H_RDX, rm_reg(H_RAX));
	emit_alu_rm(e, ALU_ADD, 8, H_RDX, rm_gs(CPU_OFF(tsc_offset)));
	emit_mov_rr(e, 4, H_RAX, H_RDX);
	emit_shr(e, 8, H_RDX, 32);
	if (with_aux)
		emit_load(e, 4, H_RCX, rm_gs(CPU_OFF(tsc_aux)));
}

void trans_integer(struct trans *t, const struct insn *insn, enum trans_how how)
{
	switch (how) {
	case HOW_COPY:
	case HOW_CMPXCHG:
		trans_copy(t, insn);
		break;
	case HOW_LEA:
		lea(t, insn);
		break;
	case HOW_PUSH:
		push(t, insn);
		break;
	case HOW_POP:
		pop(t, insn);
		break;
	case HOW_LEAVE:
		leave(t);
		break;
	case HOW_DIV:
		divide(t, insn);
		break;
	case HOW_RDTSC:
		rdtsc(t, insn->op == OP_RDTSCP);
		break;
	case HOW_PUSHF:
		pushf(t);
		break;
	case HOW_CLI:
		cli(t);
		break;
	case HOW_STI:
		sti(t);
		break;
	case HOW_SWAPGS:
		swapgs(t);
		break;
	case HOW_FROM_SEG:
		from_segment(t, insn);
		break;
	default:
		break;
	}
}
