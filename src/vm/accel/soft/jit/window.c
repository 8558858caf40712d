/*
 * Two small caches of a vCPU that translated code looks into: the stack window, and the jump caches. [the vCPU's thread, while no
 * translated code of it runs]
 */
#include "vm/accel/soft/jit/jit_int.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "vm/accel/soft/cpu/cpu_int.h"

_Static_assert(JIT_SPACES == TLB_SPACES, "a jump cache for each address space");

void jit_window_drop(struct soft_cpu *cpu)
{
	for (unsigned n = 0; n < 8; n++)
		cpu->scratch[SLOT_STACK_LIMIT + n] = 0;
}

bool jit_window_check(struct soft_cpu *cpu)
{
	uint64_t page = cpu->scratch[SLOT_STACK_PAGE];
	const struct tlb_entry *entry = &cpu->tlb[tlb_index(page)];

	if (cpu->scratch[SLOT_STACK_LIMIT] == 0)
		return false;
	if (entry->read == page && entry->write == page &&
	    entry->addend == cpu->scratch[SLOT_STACK_ADDEND])
		return true;
	jit_window_drop(cpu);
	return false;
}

static void put(struct soft_cpu *cpu, uint64_t page, uint64_t addend)
{
	cpu->scratch[SLOT_STACK_PAGE] = page;
	cpu->scratch[SLOT_STACK_ADDEND] = addend;
	for (unsigned n = 0; n < 8; n++)
		cpu->scratch[SLOT_STACK_LIMIT + n] = 4096 - STACK_SPAN_STEP * (n + 1) + 1;
}

bool jit_window_set(struct soft_cpu *cpu, uint64_t linear, unsigned span)
{
	uint64_t page = linear & ~4095ULL;
	const struct tlb_entry *entry = &cpu->tlb[tlb_index(page)];

	if ((linear & 4095) + span > 4096 || entry->read != page || entry->write != page)
		return false;
	put(cpu, page, entry->addend);
	return true;
}

/* System calls and interrupts change stacks, and come back. */
static void swap_window(struct soft_cpu *cpu, unsigned from, unsigned to)
{
	struct soft_jit_cpu *j = cpu->jit;

	j->window[from].page =
		cpu->scratch[SLOT_STACK_LIMIT] != 0 ? cpu->scratch[SLOT_STACK_PAGE] : 1;
	j->window[from].addend = cpu->scratch[SLOT_STACK_ADDEND];
	if ((j->window[to].page & 1) != 0)
		jit_window_drop(cpu);
	else
		put(cpu, j->window[to].page, j->window[to].addend);
	jit_window_check(cpu);
}

static void empty(struct soft_cpu *cpu, struct jit_jumps *jumps)
{
	struct jit_jump none = {.code = cpu->soft->jit->stubs.dead};
	unsigned n_used = sizeof(jumps->used) / sizeof(jumps->used[0]);

	if (jumps->n_used > n_used) {
		for (unsigned n = 0; n < JUMP_CACHE_SIZE; n++)
			jumps->entry[n] = none;
	} else {
		for (unsigned n = 0; n < jumps->n_used; n++)
			jumps->entry[jumps->used[n]] = none;
	}
	jumps->n_used = 0;
	jumps->local = false;
}

int jit_jumps_select(struct soft_cpu *cpu, unsigned key)
{
	struct soft_jit_cpu *j = cpu->jit;
	unsigned space = (key & KEY_USER) != 0 ? j->space : 0;
	struct jit_jumps **jumps = &j->jumps[key % KEY_MODES][space % JIT_SPACES];

	if (*jumps == NULL) {
		*jumps = malloc(sizeof(**jumps));
		if (*jumps == NULL)
			return -ENOMEM;
		(*jumps)->n_used = UINT32_MAX;
		empty(cpu, *jumps);
	}
	if (((key ^ j->key) & KEY_USER) != 0)
		swap_window(cpu, j->key & KEY_USER, key & KEY_USER);
	j->key = key;
	j->current = *jumps;
	cpu->jump_cache = (*jumps)->entry;
	return 0;
}

static unsigned filter_bit(uint64_t linear)
{
	return (unsigned)(linear >> 12) & 511;
}

/* Is the page of code that runs now one that flushes of an address space leave alone? */
static bool is_global(struct soft_cpu *cpu, uint64_t linear)
{
	const struct tlb_array *array = tlb_array(cpu, cpu->cpl == 3 ? MEM_USER : MEM_KERNEL);
	unsigned index = tlb_index(linear);

	return array->entry[index].exec == (linear & ~4095ULL) &&
	       (array->global[index / 64] >> index % 64 & 1) != 0;
}

void jit_jumps_add(struct soft_cpu *cpu, uint64_t linear, const uint8_t *resumed)
{
	struct jit_jumps *jumps = cpu->jit->current;
	unsigned index = jit_jump_index(linear), bit = filter_bit(linear);

	if (jumps->entry[index].code == cpu->soft->jit->stubs.dead) {
		if (jumps->n_used < sizeof(jumps->used) / sizeof(jumps->used[0]))
			jumps->used[jumps->n_used] = (uint16_t)index;
		jumps->n_used++;
	}
	jumps->local = jumps->local || !is_global(cpu, linear);
	jumps->entry[index] = (struct jit_jump){.linear = linear, .code = resumed - JIT_RESUMED_AT};
	cpu->jit->code_pages[bit / 64] |= 1ULL << bit % 64;
}

void jit_flush(struct soft_cpu *cpu)
{
	struct soft_jit_cpu *j = cpu->jit;

	if (j == NULL)
		return;
	j->flushes++;
	jit_window_drop(cpu);
	for (unsigned key = 0; key < KEY_MODES; key++)
		for (unsigned space = 0; space < JIT_SPACES; space++)
			if (j->jumps[key][space] != NULL)
				empty(cpu, j->jumps[key][space]);
	memset(j->code_pages, 0, sizeof(j->code_pages));
}

void jit_flush_space(struct soft_cpu *cpu, unsigned space)
{
	struct soft_jit_cpu *j = cpu->jit;

	j->flushes++;
	for (unsigned key = 0; key < KEY_MODES; key++) {
		struct jit_jumps *jumps = j->jumps[key][(key & KEY_USER) != 0 ? space : 0];

		if (jumps != NULL && ((key & KEY_USER) != 0 || jumps->local))
			empty(cpu, jumps);
	}
}

void jit_switch_space(struct soft_cpu *cpu, unsigned space)
{
	struct soft_jit_cpu *j = cpu->jit;

	if (space == j->space)
		return;
	j->flushes++;
	j->space = space;
	j->current = NULL;
	for (unsigned key = 0; key < KEY_MODES; key++)
		if ((key & KEY_USER) == 0 && j->jumps[key][0] != NULL && j->jumps[key][0]->local)
			empty(cpu, j->jumps[key][0]);
}

void jit_flush_page(struct soft_cpu *cpu, uint64_t linear)
{
	struct soft_jit_cpu *j = cpu->jit;
	unsigned bit = filter_bit(linear);

	if (j == NULL)
		return;
	if ((j->code_pages[bit / 64] >> bit % 64 & 1) != 0) {
		jit_flush(cpu);
		return;
	}
	/* Code that runs may rely on the window, or on what it is about to look up. */
	j->flushes++;
	if (cpu->scratch[SLOT_STACK_PAGE] == (linear & ~4095ULL))
		jit_window_drop(cpu);
}
