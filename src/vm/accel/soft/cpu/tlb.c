/*
 * The TLB arrays of a vCPU: for each of a few address spaces (PCIDs) one array for each kind of rights; cpu->tlb is the one in
 * use. (SDM volume 3, section 4.10.) Its own thread only; others ask with REQ_FLUSH.
 *
 * Large pages are entered 4 KiB at a time; dropping one page drops every such piece within 1 GiB of it, which is more than needed and seldom.
 * Translated code's look-ups by linear address follow each flush.
 */
#include <string.h>

#include "vm/accel/soft/cpu/cpu_int.h"

static void entry_clear(struct tlb_entry *e)
{
	*e = (struct tlb_entry){.read = TLB_NEVER, .write = TLB_NEVER, .exec = TLB_NEVER};
}

static void bit_put(uint64_t *words, unsigned i, bool value)
{
	uint64_t bit = 1ULL << (i % 64);

	if (value)
		words[i / 64] |= bit;
	else
		words[i / 64] &= ~bit;
}

static bool bit_get(const uint64_t *words, unsigned i)
{
	return (words[i / 64] >> (i % 64) & 1) != 0;
}

/* When it is first used: most guests use one address space, or a few. */
static void space_make(struct tlb_space *space)
{
	if (space->ready)
		return;
	for (unsigned k = 0; k < MEM_N_KINDS; k++)
		for (unsigned i = 0; i < TLB_SIZE; i++)
			entry_clear(&space->kind[k].entry[i]);
	space->ready = true;
}

void tlb_init(struct soft_tlbs *tlbs)
{
	for (unsigned i = 0; i < TLB_SIZE; i++)
		entry_clear(&tlbs->never[i]);
	space_make(&tlbs->space[0]);
	tlbs->space[0].valid = true;
}

void tlb_enter(struct soft_cpu *cpu, uint64_t linear, enum mem_kind kind,
	       const struct mmu_page *page, const uint8_t *host, bool can_write)
{
	struct tlb_array *a = tlb_array(cpu, kind);
	uint64_t tag = linear & ~(uint64_t)PAGE_OFFSET;
	unsigned i = tlb_index(linear);
	struct tlb_entry *e = &a->entry[i];

	entry_clear(e);
	if (mmu_allows(cpu, page, MMU_READ, kind))
		e->read = tag;
	if (can_write && page->dirty && mmu_allows(cpu, page, MMU_WRITE, kind))
		e->write = tag;
	if (mmu_allows(cpu, page, MMU_EXEC, kind))
		e->exec = tag;
	e->addend = (uintptr_t)host - (uintptr_t)tag;
	a->page[i] = page->gpa & ~(gpa_t)PAGE_OFFSET;
	bit_put(a->used, i, true);
	bit_put(a->global, i, page->global);
	bit_put(a->large, i, page->large);
}

static void array_drop(struct tlb_array *a, unsigned i)
{
	entry_clear(&a->entry[i]);
	bit_put(a->used, i, false);
}

static void array_flush(struct tlb_array *a, bool global)
{
	for (unsigned w = 0; w < TLB_WORDS; w++) {
		uint64_t gone = a->used[w] & (global ? ~0ULL : ~a->global[w]);

		a->used[w] &= ~gone;
		for (; gone; gone &= gone - 1)
			entry_clear(&a->entry[w * 64 + (unsigned)__builtin_ctzll(gone)]);
	}
}

static void space_flush(struct tlb_space *space, bool global)
{
	for (unsigned k = 0; k < MEM_N_KINDS; k++)
		array_flush(&space->kind[k], global);
	memset(space->table, 0, sizeof(space->table));
}

/* The page address of an entry in use: at least one of its tags has it. */
static uint64_t entry_page(const struct tlb_entry *e)
{
	if (e->read != TLB_NEVER)
		return e->read;
	return e->exec != TLB_NEVER ? e->exec : e->write;
}

static void array_flush_page(struct tlb_array *a, uint64_t linear, bool global)
{
	unsigned at = tlb_index(linear);

	if (bit_get(a->used, at) && (global || !bit_get(a->global, at)) &&
	    (entry_page(&a->entry[at]) ^ linear) < PAGE_BYTES)
		array_drop(a, at);
	for (unsigned w = 0; w < TLB_WORDS; w++) {
		uint64_t large = a->used[w] & a->large[w] & (global ? ~0ULL : ~a->global[w]);

		for (; large; large &= large - 1) {
			unsigned i = w * 64 + (unsigned)__builtin_ctzll(large);

			if ((entry_page(&a->entry[i]) ^ linear) >> 30 == 0)
				array_drop(a, i);
		}
	}
}

static void space_flush_page(struct tlb_space *space, uint64_t linear, bool global)
{
	for (unsigned k = 0; k < MEM_N_KINDS; k++)
		array_flush_page(&space->kind[k], linear, global);
	memset(space->table, 0, sizeof(space->table));
}

static void flush_translated(struct soft_cpu *cpu)
{
	if (cpu->jit)
		jit_flush(cpu);
}

static void flush_translated_space(struct soft_cpu *cpu, unsigned space)
{
	if (cpu->jit)
		jit_flush_space(cpu, space);
}

void tlb_flush_spaces(struct soft_cpu *cpu, bool global)
{
	for (unsigned s = 0; s < TLB_SPACES; s++)
		if (cpu->tlbs->space[s].valid)
			space_flush(&cpu->tlbs->space[s], global);
	if (global)
		flush_translated(cpu);
	else
		for (unsigned s = 0; s < TLB_SPACES; s++)
			flush_translated_space(cpu, s);
}

void tlb_flush_all(struct soft_cpu *cpu)
{
	tlb_flush_spaces(cpu, true);
}

void tlb_flush_local(struct soft_cpu *cpu)
{
	space_flush(&cpu->tlbs->space[cpu->tlbs->current], false);
	flush_translated_space(cpu, cpu->tlbs->current);
}

/* INVLPG: global entries whatever the PCID, others of this one. */
void tlb_flush_page(struct soft_cpu *cpu, uint64_t linear)
{
	for (unsigned s = 0; s < TLB_SPACES; s++)
		if (cpu->tlbs->space[s].valid)
			space_flush_page(&cpu->tlbs->space[s], linear, true);
	if (cpu->jit)
		jit_flush_page(cpu, linear);
}

static void array_protect(struct tlb_array *a, gpa_t page)
{
	for (unsigned w = 0; w < TLB_WORDS; w++)
		for (uint64_t used = a->used[w]; used; used &= used - 1) {
			unsigned i = w * 64 + (unsigned)__builtin_ctzll(used);

			if (a->page[i] == page)
				a->entry[i].write = TLB_NEVER;
		}
}

void tlb_protect(struct soft_cpu *cpu, gpa_t page)
{
	for (unsigned s = 0; s < TLB_SPACES; s++)
		for (unsigned k = 0; cpu->tlbs->space[s].valid && k < MEM_N_KINDS; k++)
			array_protect(&cpu->tlbs->space[s].kind[k], page);
}

static struct tlb_space *space_find(struct soft_cpu *cpu, uint16_t pcid)
{
	for (unsigned s = 0; s < TLB_SPACES; s++)
		if (cpu->tlbs->space[s].valid && cpu->tlbs->space[s].pcid == pcid)
			return &cpu->tlbs->space[s];
	return NULL;
}

void tlb_flush_pcid(struct soft_cpu *cpu, uint16_t pcid)
{
	struct tlb_space *space = space_find(cpu, pcid);

	if (!space)
		return;
	space_flush(space, false);
	flush_translated_space(cpu, (unsigned)(space - cpu->tlbs->space));
}

void tlb_flush_pcid_page(struct soft_cpu *cpu, uint16_t pcid, uint64_t linear)
{
	struct tlb_space *space = space_find(cpu, pcid);

	if (!space)
		return;
	space_flush_page(space, linear, false);
	flush_translated_space(cpu, (unsigned)(space - cpu->tlbs->space));
}

void tlb_switch(struct soft_cpu *cpu, uint16_t pcid, bool keep)
{
	struct soft_tlbs *t = cpu->tlbs;
	struct tlb_space *space = space_find(cpu, pcid);

	if (!space) {
		space = &t->space[0];
		for (unsigned s = 1; s < TLB_SPACES && space->valid; s++)
			if (!t->space[s].valid || t->space[s].last_use < space->last_use)
				space = &t->space[s];
		/* Global entries of the space that is given up would be right, but are not needed. */
		space_flush(space, true);
		space_make(space);
		space->valid = true;
		space->pcid = pcid;
		flush_translated_space(cpu, (unsigned)(space - t->space));
	} else if (!keep) {
		space_flush(space, false);
		flush_translated_space(cpu, (unsigned)(space - t->space));
	}
	space->last_use = ++t->clock;
	t->current = (unsigned)(space - t->space);
	cpu_mode_changed(cpu);
	if (cpu->jit)
		jit_switch_space(cpu, t->current);
}
