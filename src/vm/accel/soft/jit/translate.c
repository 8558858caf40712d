/*
 * Translates a block: entries, then one instruction after the other, then what is out of line.
 */
#include "vm/accel/soft/jit/trans.h"

#include <string.h>

void *trans_alloc(struct trans *t, size_t bytes)
{
	void *p = arena_alloc(&t->jit->arena[t->jit->half], bytes);

	if (p == NULL)
		t->no_memory = true;
	return p;
}

/* Does code after instruction t->i (or after its own first check) rely on a window check that was done? */
static bool relies_on_window(const struct trans *t)
{
	for (unsigned j = t->i; j < t->n; j++) {
		unsigned region = t->region[j];

		if (region != 0 && (t->region_first[region] < t->i ||
				    (t->region_first[region] == t->i && j > t->i)))
			return true;
	}
	return false;
}

struct jit_site *trans_site(struct trans *t)
{
	struct jit_site *site = trans_alloc(t, sizeof(*site));

	if (site == NULL)
		return NULL;
	site->block = t->block;
	site->off = t->at[t->i];
	site->next_off = t->at[t->i + 1];
	site->in_window = relies_on_window(t);
	memcpy(site->bytes, t->bytes + site->off, t->in[t->i].length);
	if (t->sites_here < sizeof(t->site_here) / sizeof(t->site_here[0]))
		t->site_here[t->sites_here++] = site;
	else
		t->too_much = true;
	return site;
}

struct tail *trans_tail(struct trans *t, enum tail_kind kind, uint8_t *jump)
{
	struct tail *tail = &t->tails[t->n_tails];

	if (t->n_tails == MAX_TAILS) {
		t->too_much = true;
		return NULL;
	}
	t->n_tails++;
	*tail = (struct tail){.kind = kind, .jump = jump, .i = t->i};
	return tail;
}

unsigned trans_reg_in(struct trans *t, unsigned reg, unsigned scratch)
{
	if (jit_host_of[reg] != H_NONE)
		return jit_host_of[reg];
	emit_load(t->e, 8, scratch, rm_gs(GPR_OFF(reg)));
	if (scratch == S1)
		t->addend_in_s1 = false;
	return scratch;
}

void trans_reg_out(struct trans *t, unsigned reg, unsigned host)
{
	if (jit_host_of[reg] == H_NONE)
		emit_store(t->e, 8, rm_gs(GPR_OFF(reg)), host);
}

/* C that went on for the instruction comes back behind it. */
static void set_resume(struct trans *t)
{
	for (unsigned n = 0; n < t->sites_here; n++)
		if (t->site_here[n]->resume == NULL)
			t->site_here[n]->resume = emit_here(t->e);
}

static void instruction(struct trans *t)
{
	const struct insn *insn = &t->in[t->i];
	enum trans_how how = t->how[t->i];

	t->sites_here = 0;
	switch (how) {
	case HOW_EXEC:
		trans_exec(t, insn);
		t->jit->n_fallbacks++;
		return;
	case HOW_VEC:
		trans_vector(t, insn);
		break;
	case HOW_NOP:
		if (insn->op == OP_PAUSE) {
			emit_u8(t->e, 0xf3);
			emit_u8(t->e, 0x90);
		}
		return;
	case HOW_JCC:
	case HOW_JMP:
	case HOW_CALL:
	case HOW_JMP_IND:
	case HOW_CALL_IND:
	case HOW_RET:
	case HOW_JRCXZ:
	case HOW_LOOP:
		trans_flow(t, insn, how);
		return;
	default:
		trans_integer(t, insn, how);
		break;
	}
	trans_flags_after(t);
	set_resume(t);
}

static void body(struct trans *t)
{
	for (t->i = 0; t->i < t->n && !t->e->full && !t->no_memory; t->i++)
		instruction(t);
	t->sites_here = 0;
	t->i = t->n - 1; /* for what belongs to no instruction */
	if (t->falls_out)
		trans_goto(t, t->at[t->n], t->live[t->n]);
}

static void link_known(struct trans *t)
{
	for (unsigned n = 0; n < t->n_tails; n++) {
		struct jit_link *link = t->tails[n].link;
		struct jit_block *to;

		if (t->tails[n].kind != TAIL_LINK)
			continue;
		to = jit_cache_find(t->jit, t->block->page->gpa, link->off, t->key);
		if (to != NULL && to->n_insns != 0)
			jit_cache_link(t->jit, link, to);
	}
}

struct jit_block *jit_translate(struct soft_jit *jit, struct soft_cpu *cpu, struct jit_page *page,
				const uint8_t *bytes, unsigned off, unsigned key)
{
	struct trans *t = jit->trans;
	struct emit *e = &jit->emit;
	uint8_t *start = e->p;
	struct jit_block *block = arena_alloc(&jit->arena[jit->half], sizeof(*block));

	jit->is_full = block == NULL || (size_t)(e->end - e->p) < TRANS_MAX_BYTES;
	if (jit->is_full)
		return NULL;
	t->jit = jit;
	t->e = e;
	t->block = block;
	t->bytes = bytes;
	t->key = key;
	t->mode = (key & KEY_32) != 0 ? INSN_MODE_32 : INSN_MODE_64;
	t->features = cpu->features;
	t->no_memory = t->too_much = false;
	t->n_tails = t->i = t->sites_here = 0;
	t->fpu_live = false;
	block->page = page;
	block->off = (uint16_t)off;
	block->key = (uint8_t)key;
	if (trans_analyse(t, off)) {
		trans_entries(t);
		body(t);
		trans_tails(t);
		if (e->full || t->no_memory || t->too_much) {
			e->p = start;
			e->full = false;
		}
		jit->is_full = t->no_memory;
		if (jit->is_full)
			return NULL;
		/* A block that is too much for the tables here, which none is known to be, has no instructions: they are executed one by one. */
		if (e->p != start) {
			block->n_insns = (uint16_t)t->n;
			block->bytes = (uint16_t)(t->at[t->n] - off);
			block->pure = memchr(t->how, HOW_EXEC, t->n) == NULL;
		}
	}
	jit_cache_add(jit, block);
	if (block->n_insns != 0 && !jit->lockstep)
		link_known(t);
	jit->n_blocks++;
	jit->n_insns += block->n_insns;
	return block;
}
