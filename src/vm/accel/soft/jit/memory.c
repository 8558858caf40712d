/*
 * Guest memory from translated code: every access goes through a check of the software TLB that is emitted before it, and reaches nothing but
 * the page that the check proved. Two kinds:
 *
 * - The TLB proper: the entry of the address's page must have the tag of the page of the access's last byte; so an access that crosses into
 *   the next page misses (as one to an unaligned address does where alignment matters: the low bits stay in the comparison).
 * - The stack window: a page that rsp was in, whose entry has been found to allow reading and writing. A run of instructions that only move
 *   rsp by constants is checked once, for all that it accesses; the others need no check.
 *
 * A miss goes to C (jit_on_memory) with the linear address in S1; it fills the TLB and the check is done again, or executes the
 * instruction, or raises an exception.
 */
#include "vm/accel/soft/jit/trans.h"

#include <stddef.h>

#define ENTRY_SHIFT 5 /* sizeof(struct tlb_entry) is 32 */
_Static_assert(sizeof(struct tlb_entry) == 1u << ENTRY_SHIFT, "index of the TLB");

bool trans_memory_ok(const struct trans *t, const struct insn *insn)
{
	if (insn->addrsize == 2)
		return false;
	if (insn->base == INSN_REG_RIP)
		return insn->addrsize == 8 && insn->index == INSN_REG_NONE;
	/* Through CS, nothing can be written. */
	if ((t->key & KEY_32) != 0)
		return insn->seg != SEG_FS && insn->seg != SEG_GS && insn->seg != SEG_CS;
	return insn->disp >= INT32_MIN && insn->disp <= INT32_MAX;
}

static unsigned load_reg(struct trans *t, unsigned reg, unsigned scratch)
{
	if (reg == INSN_REG_NONE)
		return H_NONE;
	if (jit_host_of[reg] != H_NONE)
		return jit_host_of[reg];
	emit_load(t->e, 8, scratch, rm_gs(GPR_OFF(reg)));
	if (scratch == S1)
		t->addend_in_s1 = false;
	return scratch;
}

struct emit_rm trans_address(struct trans *t, const struct insn *insn, bool with_segment,
			     unsigned *ret_size)
{
	struct emit_rm ea;
	unsigned index, base;
	bool segment = with_segment && (insn->seg == SEG_FS || insn->seg == SEG_GS) &&
		       (t->key & KEY_32) == 0;

	*ret_size = 8;
	if (insn->base == INSN_REG_RIP) {
		emit_load(t->e, 8, S1, rm_gs(SLOT_OFF(SLOT_CODE_PAGE)));
		t->addend_in_s1 = false;
		/* The displacement is relative to the next instruction, whose place in the page is added. */
		if (insn->disp > INT32_MAX - 4096) {
			emit_lea(t->e, 8, S1, rm_mem(S1, t->at[t->i + 1]));
			ea = rm_mem(S1, (int32_t)insn->disp);
		} else {
			ea = rm_mem(S1, (int32_t)insn->disp + t->at[t->i + 1]);
		}
	} else {
		base = load_reg(t, insn->base, S1);
		index = load_reg(t, insn->index, base == S1 ? S2 : S1);
		ea = rm_index(base, index, insn->index == INSN_REG_NONE ? 1 : insn->scale,
			      (int32_t)insn->disp);
		/* S2 is about to be used for something else. */
		if (index == S2) {
			emit_lea(t->e, 8, S1, ea);
			ea = rm_mem(S1, 0);
		}
	}
	if (insn->addrsize == 4) {
		if (!with_segment) {
			*ret_size = 4;
			return ea;
		}
		emit_lea(t->e, 4, S1, ea);
		t->addend_in_s1 = false;
		ea = rm_mem(S1, 0);
	}
	if (segment) {
		if (ea.base != S1 || ea.index != H_NONE || ea.disp != 0)
			emit_lea(t->e, 8, S1, ea);
		t->addend_in_s1 = false;
		emit_alu_rm(t->e, ALU_ADD, 8, S1, rm_gs(CPU_OFF(seg[insn->seg].base)));
		ea = rm_mem(S1, 0);
	}
	return ea;
}

static void memory_tail(struct trans *t, uint8_t *jump, const uint8_t *retry, struct emit_rm ea,
			unsigned size, bool write, bool aligned)
{
	struct jit_site *site = trans_site(t);
	struct tail *tail = trans_tail(t, TAIL_MEMORY, jump);

	if (site == NULL || tail == NULL)
		return;
	site->retry = retry;
	site->size = (uint8_t)size;
	site->write = write;
	site->aligned = aligned;
	site->masked = t->in[t->i].op == OP_VMASKMOV_LOAD || t->in[t->i].op == OP_VMASKMOV_STORE;
	tail->site = site;
	tail->ea = ea;
}

/* ea: linear, S2 and S3 are free. Returns how the host reaches it: S2 holds the addend. */
static struct emit_rm check(struct trans *t, struct emit_rm ea, const uint8_t *retry, unsigned size,
			    bool write, bool aligned)
{
	struct emit *e = t->e;
	struct emit_rm last = ea;
	uint8_t *miss;

	emit_lea(e, 4, S2, ea);
	emit_shr(e, 4, S2, 12 - ENTRY_SHIFT);
	if (!aligned && size > 1 && ea.disp <= INT32_MAX - 64) {
		last.disp += (int32_t)size - 1;
		emit_lea(e, 8, S3, last);
	} else {
		emit_lea(e, 8, S3, ea);
		if (!aligned && size > 1)
			emit_alu_ri(e, ALU_ADD, 8, rm_reg(S3), (int32_t)size - 1);
	}
	emit_alu_ri(e, ALU_AND, 4, rm_reg(S2), (TLB_SIZE - 1) << ENTRY_SHIFT);
	emit_alu_ri(e, ALU_AND, 8, rm_reg(S3), -4096 | (aligned ? (int32_t)size - 1 : 0));
	emit_alu_rm(e, ALU_ADD, 8, S2, rm_gs(CPU_OFF(tlb)));
	emit_alu_rm(e, ALU_CMP, 8, S3,
		    rm_mem(S2, write ? (int32_t)offsetof(struct tlb_entry, write)
				     : (int32_t)offsetof(struct tlb_entry, read)));
	miss = emit_jcc(e, CC_NE, NULL);
	memory_tail(t, miss, retry, ea, size, write, aligned);
	emit_load(e, 8, S2, rm_mem(S2, offsetof(struct tlb_entry, addend)));
	if (ea.index == H_NONE && ea.base != H_NONE)
		return rm_index(ea.base, S2, 1, ea.disp);
	if (ea.base == H_NONE) /* index times scale, or a constant */
		return ea.index == H_NONE ? rm_mem(S2, ea.disp)
					  : rm_index(S2, ea.index, ea.scale, ea.disp);
	emit_lea(e, 8, S2, rm_index(S2, ea.base, 1, ea.disp));
	return rm_index(S2, ea.index, ea.scale, 0);
}

struct emit_rm trans_check(struct trans *t, struct emit_rm ea, unsigned size, bool write)
{
	return check(t, ea, emit_here(t->e), size, write, false);
}

/* The window's check, before the first access of instruction t->i's region. */
static void window_check(struct trans *t, unsigned region, int32_t disp, bool write)
{
	struct emit *e = t->e;
	int32_t lo = t->region_lo[region], hi = t->region_hi[region];
	unsigned class = (unsigned)(hi - lo - 1) / STACK_SPAN_STEP;
	const uint8_t *retry;
	struct jit_site *site;
	struct tail *tail;

	trans_flags_clobber(t);
	retry = emit_here(e);
	emit_lea(e, 8, S1, rm_mem(H_R15, lo));
	emit_alu_rm(e, ALU_SUB, 8, S1, rm_gs(SLOT_OFF(SLOT_STACK_PAGE)));
	emit_alu_rm(e, ALU_CMP, 8, S1, rm_gs(SLOT_OFF(SLOT_STACK_LIMIT + class)));
	site = trans_site(t);
	tail = trans_tail(t, TAIL_WINDOW, emit_jcc(e, CC_AE, NULL));
	t->addend_in_s1 = false;
	if (site == NULL || tail == NULL)
		return;
	site->retry = retry;
	site->window = true;
	site->size = (uint8_t) class;
	site->disp = disp;
	site->write = write;
	tail->site = site;
	tail->ea = rm_mem(H_R15, lo);
}

struct emit_rm trans_stack(struct trans *t, int32_t disp, unsigned size, bool write)
{
	unsigned region = t->region[t->i];

	if (region == 0) {
		trans_flags_clobber(t);
		return check(t, rm_mem(H_R15, disp), emit_here(t->e), size, write, false);
	}
	if (t->region_first[region] == t->i)
		window_check(t, region, disp, write);
	if (!t->addend_in_s1)
		emit_load(t->e, 8, S1, rm_gs(SLOT_OFF(SLOT_STACK_ADDEND)));
	t->addend_in_s1 = true;
	return rm_index(H_R15, S1, 1, disp);
}

struct emit_rm trans_memory(struct trans *t, const struct insn *insn, unsigned size, bool write,
			    bool aligned)
{
	struct emit_rm ea;
	const uint8_t *retry;
	unsigned ea_size;

	if (t->region[t->i] != 0)
		return trans_stack(t, (int32_t)insn->disp, size, write);
	trans_flags_clobber(t);
	retry = emit_here(t->e);
	ea = trans_address(t, insn, true, &ea_size);
	return check(t, ea, retry, size, write, aligned);
}
