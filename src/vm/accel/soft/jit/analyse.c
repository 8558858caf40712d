/*
 * Before a block is translated: which instructions it has, which flags matter where, and which accesses to the stack one check can cover.
 */
#include "vm/accel/soft/jit/trans.h"

#include <string.h>

#define PEEK_INSNS 8

/* Flags that each condition code reads, by pairs. */
static const uint8_t cond_reads[8] = {
	INSN_OF, INSN_CF, INSN_ZF,           INSN_CF | INSN_ZF,
	INSN_SF, INSN_PF, INSN_SF | INSN_OF, INSN_ZF | INSN_SF | INSN_OF,
};

static bool constant_count(const struct insn *insn)
{
	unsigned last = insn->n_operands - 1u;

	return insn->n_operands >= 2 && insn->operand[last].kind == OPND_IMM &&
	       (insn->imm & (insn->opsize == 8 ? 63 : 31)) != 0;
}

/* Flags read, and flags written for certain. */
static void flag_use(const struct insn *insn, enum trans_how how, uint8_t *ret_reads,
		     uint8_t *ret_writes)
{
	unsigned reads = insn->form->flags_read & INSN_STATUS;
	unsigned writes = insn->form->flags_written & INSN_STATUS;

	switch (insn->op) {
	case OP_JCC:
	case OP_SET:
	case OP_CMOV:
		reads = cond_reads[insn->cond >> 1];
		break;
	case OP_SHL:
	case OP_SHR:
	case OP_SAR:
	case OP_SHLD:
	case OP_SHRD:
		/* A count that is not 0 writes them all. 16-bit and byte operands: counts above the width are left to be careful about. */
		if (constant_count(insn) && insn->opsize >= 4)
			reads = 0;
		break;
	default:
		break;
	}
	if (how == HOW_EXEC || how == HOW_PUSHF) /* C sees them all */
		reads = INSN_STATUS;
	*ret_reads = (uint8_t)reads;
	*ret_writes = (uint8_t)(writes & ~(how == HOW_EXEC ? 0u : reads & writes));
	/* Read and written (INC leaves CF alone: not in written; a shift by CL: both) is written perhaps; but ADC, SBB and their kin read
	 * and always write. */
	switch (insn->op) {
	case OP_ADC:
	case OP_SBB:
	case OP_ADCX:
	case OP_ADOX:
	case OP_CMC:
		*ret_writes = (uint8_t)writes;
		break;
	default:
		break;
	}
}

static enum trans_how how_of(const struct trans *t, const struct insn *insn)
{
	enum trans_how how = trans_how_integer(t, insn);

	return how == HOW_EXEC ? trans_how_vector(t, insn) : how;
}

unsigned trans_live_at(const struct trans *t, unsigned off)
{
	unsigned live = 0, written = 0;
	uint8_t reads, writes;
	struct insn insn;

	for (unsigned n = 0; n < PEEK_INSNS && written != INSN_STATUS && off < 4096; n++) {
		enum trans_how how;

		if (insn_decode(t->bytes + off, 4096 - off, t->mode, true, t->features, &insn) !=
		    INSN_OK)
			break;
		how = how_of(t, &insn);
		flag_use(&insn, how, &reads, &writes);
		live |= reads & ~written;
		written |= writes;
		if (how >= HOW_JCC || how == HOW_EXEC)
			break;
		off += insn.length;
	}
	return (live | ~written) & INSN_STATUS;
}

/* What leaves mode and mapping alone, or changes them as jit_on_exec() sees by itself, does not end a block. */
bool trans_ends(const struct insn *insn)
{
	switch (insn->op) {
	case OP_STAC:
	case OP_CLAC:
	case OP_POPF:
		return false;
	default:
		return (insn->form->attrs & (FORM_END | FORM_BRANCH)) != 0;
	}
}

static bool ends_block(enum trans_how how, const struct insn *insn)
{
	if (how >= HOW_JCC)
		return how != HOW_JCC && how != HOW_JRCXZ && how != HOW_LOOP;
	return how == HOW_EXEC && trans_ends(insn);
}

static bool decode(struct trans *t, unsigned off)
{
	t->n = 0;
	t->falls_out = true;
	t->at[0] = (uint16_t)off;
	while (t->n < BLOCK_MAX_INSNS && off < 4096) {
		struct insn *insn = &t->in[t->n];
		size_t left = 4096 - off;

		if (insn_decode(t->bytes + off, left < INSN_MAX_BYTES ? left : INSN_MAX_BYTES,
				t->mode, true, t->features, insn) != INSN_OK)
			break; /* it crosses the page, or is none: C looks at it when it is reached */
		t->how[t->n] = how_of(t, insn);
		flag_use(insn, t->how[t->n], &t->reads[t->n], &t->writes[t->n]);
		off += insn->length;
		t->at[++t->n] = (uint16_t)off;
		if (ends_block(t->how[t->n - 1], insn)) {
			t->falls_out = false;
			break;
		}
	}
	return t->n != 0;
}

static int64_t branch_target(const struct trans *t, unsigned i)
{
	return (int64_t)t->at[i + 1] + (int64_t)t->in[i].imm;
}

static unsigned branch_live(struct trans *t, unsigned i)
{
	int64_t target = branch_target(t, i);

	if (target < 0 || target >= 4096 || t->jit->lockstep)
		return INSN_STATUS;
	return trans_live_at(t, (unsigned)target);
}

static void liveness(struct trans *t)
{
	unsigned live = INSN_STATUS;

	if (t->falls_out && t->at[t->n] < 4096 && !t->jit->lockstep)
		live = trans_live_at(t, t->at[t->n]);
	t->live[t->n] = (uint8_t)live;
	/* Interrupts are held back for one instruction after STI: nobody looks before the next one is done, but for the block's end. */
	if (t->n != 0 && t->how[t->n - 1] == HOW_STI)
		t->how[t->n - 1] = HOW_EXEC;
	for (unsigned i = t->n; i-- > 0;) {
		switch (t->how[i]) {
		case HOW_JMP:
		case HOW_CALL:
			live = t->target_live[i] = (uint8_t)branch_live(t, i);
			break;
		case HOW_JCC:
		case HOW_JRCXZ:
		case HOW_LOOP:
			t->target_live[i] = (uint8_t)branch_live(t, i);
			live |= t->target_live[i];
			break;
		default:
			break;
		}
		/* What follows a last instruction is what its exit says; branches write nothing. */
		live = (live & ~t->writes[i]) | t->reads[i];
		t->live[i] = (uint8_t)(live & INSN_STATUS);
	}
}

static bool stack_operand(const struct insn *insn)
{
	return insn->base == GUEST_RSP && insn->index == INSN_REG_NONE && insn->addrsize == 8 &&
	       insn->seg != SEG_FS && insn->seg != SEG_GS && insn->disp >= -STACK_SPAN_MAX &&
	       insn->disp <= 4096;
}

static const struct insn_operand *memory_operand(const struct insn *insn)
{
	for (unsigned n = 0; n < insn->n_operands; n++)
		if (insn->operand[n].kind == OPND_MEM)
			return &insn->operand[n];
	return NULL;
}

static bool writes_rsp(const struct insn *insn)
{
	for (unsigned n = 0; n < insn->n_operands; n++)
		if (insn->operand[n].kind == OPND_GPR && insn->operand[n].reg == GUEST_RSP &&
		    (insn->operand[n].access & INSN_WRITE) != 0)
			return true;
	return false;
}

static void use_operand(const struct insn *insn, struct stack_use *use)
{
	const struct insn_operand *mem = memory_operand(insn);

	if (mem == NULL || !stack_operand(insn) || mem->size == 0)
		return;
	use->accesses = true;
	use->lo = (int32_t)insn->disp;
	use->hi = use->lo + mem->size;
}

static struct stack_use stack_use(const struct trans *t, unsigned i)
{
	const struct insn *insn = &t->in[i];
	struct stack_use use = {.known = true};
	int32_t size = insn->opsize;

	switch (t->how[i]) {
	case HOW_EXEC:
	case HOW_LEAVE:
		use.known = false;
		break;
	case HOW_PUSH:
	case HOW_PUSHF:
	case HOW_CALL:
		/* A push from memory has two accesses: only the push itself is in the window. */
		use = (struct stack_use){true, true, -size, -size, 0};
		break;
	case HOW_CALL_IND:
		use = (struct stack_use){true, true, -8, -8, 0};
		break;
	case HOW_POP:
		use = (struct stack_use){!writes_rsp(insn), true, size, 0, size};
		break;
	case HOW_RET:
		use = (struct stack_use){true, true, 8, 0, 8};
		break;
	case HOW_LEA:
		if (writes_rsp(insn)) {
			use.known = stack_operand(insn) && insn->opsize == 8;
			use.move = use.known ? (int32_t)insn->disp : 0;
		}
		break;
	case HOW_COPY:
		if (writes_rsp(insn)) {
			use.known = (insn->op == OP_ADD || insn->op == OP_SUB) &&
				    insn->opsize == 8 && insn->operand[1].kind == OPND_IMM &&
				    !insn->lock && (int64_t)insn->imm >= -4096 &&
				    (int64_t)insn->imm <= 4096;
			use.move = !use.known           ? 0
				   : insn->op == OP_ADD ? (int32_t)insn->imm
							: -(int32_t)insn->imm;
			break;
		}
		use_operand(insn, &use);
		break;
	case HOW_VEC:
		use.known = !writes_rsp(insn);
		if ((insn->form->attrs & FORM_ALIGN) == 0)
			use_operand(insn, &use);
		break;
	case HOW_CMPXCHG:
	case HOW_DIV:
		use.known = !writes_rsp(insn);
		use_operand(insn, &use);
		break;
	default:
		use.known = !writes_rsp(insn);
		break;
	}
	return use;
}

/* Gives the accesses around rsp to regions: runs in which rsp moves by constants and all stays near. */
static void regions(struct trans *t)
{
	unsigned region = 0;
	int32_t moved = 0;
	bool open = false;

	memset(t->region, 0, sizeof(t->region));
	if ((t->key & (KEY_32 | KEY_NOSTACK)) != 0)
		return;
	for (unsigned i = 0; i < t->n; i++) {
		struct stack_use use = stack_use(t, i);
		int32_t lo = moved + use.lo, hi = moved + use.hi;

		if (use.accesses) {
			int32_t all_lo =
				open && t->region_lo[region] < lo ? t->region_lo[region] : lo;
			int32_t all_hi =
				open && t->region_hi[region] > hi ? t->region_hi[region] : hi;

			if (!open || all_hi - all_lo > STACK_SPAN_MAX) {
				moved = 0;
				all_lo = use.lo;
				all_hi = use.hi;
				t->region_first[++region] = (uint8_t)i;
				open = true;
			}
			t->region_lo[region] = all_lo;
			t->region_hi[region] = all_hi;
			t->region[i] = (uint8_t)region;
		}
		moved += use.move;
		if (!use.known)
			open = false;
	}
}

bool trans_analyse(struct trans *t, unsigned off)
{
	if (!decode(t, off))
		return false;
	liveness(t);
	regions(t);
	return true;
}
