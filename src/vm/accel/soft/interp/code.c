/*
 * Pages with code: a mark for each page in its region, and a generation for each page in a table that several pages far apart share; a
 * shared entry only makes somebody decode again. (SDM volume 3, section 11.6: self-modifying code.)
 *
 * The mark is two bits. PAGE_CODE keeps write tags from being made; PAGE_WATCHED says that those made before are gone. A reader takes the
 * generation first and looks at the bits then; a writer takes the bits away and changes the generation under a lock, under which a reader
 * also sets PAGE_WATCHED, unless the generation is another by then.
 */
#include "vm/accel/soft/interp/code.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

#define N_GENERATIONS (1u << 16)

struct soft_code {
	pthread_mutex_t
		lock; /* held for a few instructions only: never while others are waited for */
	_Atomic uint32_t generation[N_GENERATIONS];
};

int code_init(struct soft *soft, struct error *err)
{
	soft->code = calloc(1, sizeof(*soft->code));
	if (!soft->code)
		return error_set(err, -ENOMEM, "no memory for the generations of code pages");
	pthread_mutex_init(&soft->code->lock, NULL);
	return 0;
}

void code_fini(struct soft *soft)
{
	if (!soft->code)
		return;
	pthread_mutex_destroy(&soft->code->lock);
	free(soft->code);
	soft->code = NULL;
}

const _Atomic uint32_t *code_generation_ref(struct soft *soft, gpa_t page)
{
	return &soft->code->generation[page >> 12 & (N_GENERATIONS - 1)];
}

uint32_t code_generation(struct soft *soft, gpa_t page)
{
	return atomic_load_explicit(code_generation_ref(soft, page), memory_order_acquire);
}

uint32_t code_watch(struct soft_cpu *cpu, gpa_t page)
{
	struct soft_code *code = cpu->soft->code;
	uint32_t generation = code_generation(cpu->soft, page);
	struct soft_region *region;
	size_t index;

	if (!soft_ram(cpu->soft, page, &region, &index) ||
	    (atomic_load(&region->pages[index]) & PAGE_WATCHED))
		return generation;
	atomic_fetch_or(&region->pages[index], PAGE_CODE);
	tlb_protect(cpu, page);
	soft_sync_others(cpu->soft, cpu, REQ_FLUSH);
	pthread_mutex_lock(&code->lock);
	if (code_generation(cpu->soft, page) == generation)
		atomic_fetch_or(&region->pages[index], PAGE_WATCHED);
	pthread_mutex_unlock(&code->lock);
	return generation;
}

/* Whether there was code. */
static bool page_written(struct soft *soft, struct soft_region *region, size_t index)
{
	gpa_t page = region->mem.gpa + ((gpa_t)index << 12);

	if (!(atomic_load_explicit(&region->pages[index], memory_order_relaxed) & PAGE_CODE))
		return false;
	pthread_mutex_lock(&soft->code->lock);
	atomic_fetch_and(&region->pages[index], (uint8_t) ~(PAGE_CODE | PAGE_WATCHED));
	atomic_fetch_add(&soft->code->generation[page >> 12 & (N_GENERATIONS - 1)], 1);
	pthread_mutex_unlock(&soft->code->lock);
	if (soft->on_code_written)
		soft->on_code_written(soft, page);
	return true;
}

void code_written(struct soft *soft, struct soft_cpu *cpu, gpa_t gpa, uint64_t len)
{
	bool any = false;

	for (uint64_t at = 0; at < len;) {
		struct soft_region *region;
		uint64_t offset = (gpa + at) & 4095, rest;
		size_t index;

		if (!soft_ram(soft, gpa + at, &region, &index)) {
			at += 4096 - offset;
			continue;
		}
		for (rest = len - at; rest > 0 && index < region->mem.size >> 12; index++) {
			uint64_t n = rest < 4096 - offset ? rest : 4096 - offset;

			any |= page_written(soft, region, index);
			rest -= n;
			at += n;
			offset = 0;
		}
	}
	/* The writer's own next instruction may be one of those. */
	if (any && cpu)
		atomic_fetch_or_explicit(&cpu->request, REQ_SELF, memory_order_relaxed);
}
