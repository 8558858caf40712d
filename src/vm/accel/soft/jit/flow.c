/*
 * How a block is entered and left. Jumps inside a page are links: they lead to C at first, which finds the target and makes them lead there.
 * All others look the target's linear address up in the vCPU's jump cache.
 */
#include "vm/accel/soft/jit/trans.h"

#define JUMP_SHIFT 4
_Static_assert(sizeof(struct jit_jump) == 1u << JUMP_SHIFT, "index of the jump cache");

/* `and r9, -4096` is seven bytes at a multiple of 16: the cache overwrites the first five by a jump when the block dies. */
void trans_entries(struct trans *t)
{
	struct emit *e = t->e;
	struct emit_enc and = {.w = true, .opcode = 0x81, .imm_bytes = 4, .imm = 0xfffff000};
	struct jit_block *block = t->block;

	emit_align(e, 16);
	block->indirect = emit_here(e);
	block->indirect_rw = e->p;
	emit_insn(e, &and, ALU_AND, rm_reg(S1));
	emit_store(e, 8, rm_gs(SLOT_OFF(SLOT_CODE_PAGE)), S1);
	block->resumed = emit_here(e);
	t->too_much |= block->resumed != block->indirect + JIT_RESUMED_AT;
	emit_alu_ri(e, ALU_CMP, 4, rm_gs(CPU_OFF(request)), 0);
	trans_tail(t, TAIL_POLL, emit_jcc(e, CC_NE, NULL));
	t->addend_in_s1 = false;
	t->flags = FLAGS_SAVED;
	if (t->live[0] != 0) {
		trans_flags_need(t);
	} else {
		block->polled = block->resumed;
	}
	t->flags = FLAGS_HOST;
	block->entry = emit_here(e);
}

/* Goes to the linear address in S1. Flags: t->flags, or dead. */
static void jump_to_s1(struct trans *t, bool is_call, bool is_ret, unsigned ret_bytes)
{
	struct emit *e = t->e;
	struct emit_enc jmp = {.opcode = 0xff};
	struct jit_site *site = trans_site(t);
	uint8_t *miss;

	trans_flags_save(t);
	emit_mov_rr(e, 4, S2, S1);
	emit_shr(e, 4, S2, 12);
	emit_alu_rm(e, ALU_XOR, 4, S2, rm_reg(S1));
	emit_alu_ri(e, ALU_AND, 4, rm_reg(S2), JUMP_CACHE_SIZE - 1);
	emit_shl(e, 4, S2, JUMP_SHIFT);
	emit_alu_rm(e, ALU_ADD, 8, S2, rm_gs(CPU_OFF(jump_cache)));
	emit_alu_rm(e, ALU_CMP, 8, S1, rm_mem(S2, offsetof(struct jit_jump, linear)));
	miss = emit_jcc(e, CC_NE, NULL);
	emit_insn(e, &jmp, 4, rm_mem(S2, offsetof(struct jit_jump, code)));
	emit_patch_here(e, miss);
	emit_mov_ri(e, S3, (uintptr_t)site);
	emit_jmp(e, t->jit->stubs.jump);
	if (site != NULL) {
		site->is_call = is_call;
		site->is_ret = is_ret;
		site->ret_bytes = (uint16_t)ret_bytes;
	}
}

/* S1 = the linear address of an offset from this page. */
static void linear_of(struct trans *t, unsigned reg, int64_t off)
{
	emit_load(t->e, 8, reg, rm_gs(SLOT_OFF(SLOT_CODE_PAGE)));
	if (off != 0 || (t->key & KEY_32) != 0)
		emit_lea(t->e, (t->key & KEY_32) != 0 ? 4 : 8, reg, rm_mem(reg, (int32_t)off));
}

static struct jit_link *new_link(struct trans *t, unsigned off)
{
	struct jit_link *link = trans_alloc(t, sizeof(*link));

	if (link == NULL)
		return NULL;
	link->from = t->block;
	link->off = (uint16_t)off;
	link->polled = off <= t->at[t->i];
	return link;
}

static void link_tail(struct trans *t, unsigned off, uint8_t *jump)
{
	struct jit_link *link = new_link(t, off);
	struct tail *tail = trans_tail(t, TAIL_LINK, jump);

	if (link == NULL || tail == NULL)
		return;
	link->disp = jump;
	tail->link = link;
}

void trans_goto(struct trans *t, int64_t off, unsigned live)
{
	if (off >= 0 && off < 4096) {
		if (live != 0)
			trans_flags_need(t);
		link_tail(t, (unsigned)off, emit_jmp_aligned(t->e, NULL));
		return;
	}
	linear_of(t, S1, off);
	jump_to_s1(t, false, false, 0);
}

static void call_pushes(struct trans *t)
{
	unsigned size = t->mode == INSN_MODE_64 ? 8 : 4;
	struct emit_rm rm = trans_stack(t, -(int32_t)size, size, true);

	linear_of(t, S3, t->at[t->i + 1]);
	emit_store(t->e, size, rm, S3);
	emit_lea(t->e, size, H_R15, rm_mem(H_R15, -(int32_t)size));
}

/* S3 = the operand of an indirect branch. */
static void indirect_target(struct trans *t, const struct insn *insn)
{
	const struct insn_operand *op = &insn->operand[0];
	unsigned size = t->mode == INSN_MODE_64 ? 8 : 4;

	if (op->kind == OPND_MEM) {
		unsigned region = t->region[t->i];

		t->region[t->i] = 0; /* which is the call's push */
		emit_load(t->e, size, S3, trans_memory(t, insn, size, false, false));
		t->region[t->i] = (uint8_t)region;
	} else if (jit_host_of[op->reg] != H_NONE) {
		emit_mov_rr(t->e, size, S3, jit_host_of[op->reg]);
	} else {
		emit_load(t->e, size, S3, rm_gs(GPR_OFF(op->reg)));
	}
}

static void call_indirect(struct trans *t, const struct insn *insn)
{
	/* Saving flags takes S3: first. */
	trans_flags_clobber(t);
	indirect_target(t, insn);
	emit_store(t->e, 8, rm_gs(SLOT_OFF(SLOT_VALUE)), S3);
	call_pushes(t);
	emit_load(t->e, 8, S1, rm_gs(SLOT_OFF(SLOT_VALUE)));
	jump_to_s1(t, true, false, 0);
}

static void ret(struct trans *t, const struct insn *insn)
{
	unsigned size = t->mode == INSN_MODE_64 ? 8 : 4;
	unsigned extra = insn->n_operands != 0 ? (unsigned)insn->imm & 0xffff : 0;
	struct emit_rm rm = trans_stack(t, 0, size, false);

	emit_load(t->e, size, S1, rm);
	t->addend_in_s1 = false;
	emit_lea(t->e, size, H_R15, rm_mem(H_R15, (int32_t)(size + extra)));
	jump_to_s1(t, false, true, size + extra);
}

/* A conditional jump's displacement, `jump`, is to lead to a place in this page or (out of line) another one. */
static void conditional_target(struct trans *t, int64_t off, uint8_t *jump)
{
	struct tail *tail;

	if (off >= 0 && off < 4096) {
		link_tail(t, (unsigned)off, jump);
		return;
	}
	tail = trans_tail(t, TAIL_FAR, jump);
	if (tail == NULL)
		return;
	tail->off = off;
	tail->flags = t->flags;
}

static int64_t branch_target(const struct trans *t, const struct insn *insn)
{
	return (int64_t)t->at[t->i + 1] + (int64_t)insn->imm;
}

static void conditional(struct trans *t, const struct insn *insn)
{
	trans_flags_need(t);
	conditional_target(t, branch_target(t, insn), emit_jcc_aligned(t->e, insn->cond, NULL));
}

/* JRCXZ and LOOP have only short displacements: they jump around a jump, or to it. */
static void on_rcx(struct trans *t, const struct insn *insn, enum trans_how how)
{
	struct emit *e = t->e;
	bool is_64 = t->mode == INSN_MODE_64;
	uint8_t *from, *jump;

	if (t->target_live[t->i] != 0)
		trans_flags_need(t);
	if (how == HOW_LOOP)
		emit_lea(e, is_64 ? 8 : 4, H_RCX, rm_mem(H_RCX, -1));
	if (!is_64)
		emit_u8(e, 0x67);
	emit_u8(e, 0xe3);
	emit_u8(e, how == HOW_JRCXZ ? 2 : 0);
	if (how == HOW_JRCXZ) {
		emit_u8(e, 0xeb);
		emit_u8(e, 0);
	}
	from = e->p;
	jump = emit_jmp_aligned(e, NULL);
	if (!e->full)
		from[-1] = (uint8_t)(e->p - from);
	conditional_target(t, branch_target(t, insn), jump);
}

void trans_flow(struct trans *t, const struct insn *insn, enum trans_how how)
{
	switch (how) {
	case HOW_JCC:
		conditional(t, insn);
		break;
	case HOW_JRCXZ:
	case HOW_LOOP:
		on_rcx(t, insn, how);
		break;
	case HOW_CALL:
		call_pushes(t);
		trans_goto(t, branch_target(t, insn), t->target_live[t->i]);
		break;
	case HOW_JMP:
		trans_goto(t, branch_target(t, insn), t->target_live[t->i]);
		break;
	case HOW_CALL_IND:
		call_indirect(t, insn);
		break;
	case HOW_JMP_IND:
		trans_flags_clobber(t);
		indirect_target(t, insn);
		emit_mov_rr(t->e, 8, S1, S3);
		jump_to_s1(t, false, false, 0);
		break;
	case HOW_RET:
		ret(t, insn);
		break;
	default:
		break;
	}
}

void trans_exec(struct trans *t, const struct insn *insn)
{
	struct jit_site *site = trans_site(t);
	struct insn *copy = trans_alloc(t, sizeof(*copy));

	trans_flags_save(t);
	if (site == NULL || copy == NULL)
		return;
	*copy = *insn;
	copy->exec = exec_bind(copy);
	site->insn = copy;
	site->end = trans_ends(insn);
	emit_mov_ri(t->e, S3, (uintptr_t)site);
	emit_jmp(t->e, t->jit->stubs.exec);
	site->resume = emit_here(t->e);
	t->flags = FLAGS_HOST | FLAGS_SAVED;
	t->addend_in_s1 = false;
}

static void tail_memory(struct trans *t, const struct tail *tail)
{
	if (tail->ea.base != S1 || tail->ea.index != H_NONE || tail->ea.disp != 0)
		emit_lea(t->e, 8, S1, tail->ea);
	emit_mov_ri(t->e, S3, (uintptr_t)tail->site);
	emit_jmp(t->e, t->jit->stubs.memory);
}

static void tail_link(struct trans *t, struct jit_link *link)
{
	link->unlinked = emit_here(t->e);
	emit_mov_ri(t->e, S3, (uintptr_t)link);
	emit_jmp(t->e, t->jit->stubs.link);
}

void trans_tails(struct trans *t)
{
	struct emit *e = t->e;

	for (unsigned n = 0; n < t->n_tails && !e->full && !t->no_memory; n++) {
		const struct tail *tail = &t->tails[n];

		t->sites_here = 0;
		emit_patch_here(e, tail->jump);
		switch (tail->kind) {
		case TAIL_MEMORY:
		case TAIL_WINDOW:
			tail_memory(t, tail);
			break;
		case TAIL_LINK:
			tail_link(t, tail->link);
			break;
		case TAIL_POLL:
			emit_mov_ri(e, S3, t->at[0]);
			emit_jmp(e, t->jit->stubs.poll);
			break;
		case TAIL_EXEC:
			emit_mov_ri(e, S3, (uintptr_t)tail->site);
			emit_jmp(e, t->jit->stubs.exec);
			break;
		case TAIL_FPU:
			emit_u8(e, 0xe8);
			emit_u32(e, (uint32_t)(t->jit->stubs.fpu_load - (emit_here(e) + 4)));
			emit_jmp(e, tail->back);
			break;
		case TAIL_FAR:
			t->flags = tail->flags;
			t->i = tail->i;
			linear_of(t, S1, tail->off);
			jump_to_s1(t, false, false, 0);
			break;
		}
	}
	if (t->block->polled == NULL && !e->full) { /* flags matter at its start */
		t->block->polled = emit_here(e);
		t->flags = FLAGS_HOST;
		trans_flags_save(t);
		emit_jmp(e, t->block->resumed);
	}
}
