/*
 * Guest memory as the software CPU sees it: the mapped regions, a byte of marks for each of their pages, and which pages vCPUs wrote.
 *
 * Tracking needs no protection of memory: the write tag of a page enters a TLB only together with its PAGE_DIRTY mark, so taking marks
 * and then dropping all TLBs makes the next write set the mark again. A page whose mark was taken is reported in the same breath, and
 * its data is read after that: a store by an old tag is in it.
 *
 * Maps are changed by the main thread while no vCPU runs; marks are atomic.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "vm/accel/soft/interp/code.h"
#include "vm/accel/soft/irq/irq_int.h"

#define PAGE_SHIFT 12
#define PAGE_BYTES 4096ULL

static size_t n_pages(const struct gmem_region *region)
{
	return region->size >> PAGE_SHIFT;
}

static struct soft_region *region_find(struct soft *soft, const struct gmem_region *region)
{
	for (unsigned i = 0; i < soft->n_regions; i++)
		if (soft->regions[i].mem.gpa == region->gpa)
			return &soft->regions[i];
	return NULL;
}

/* All vCPUs look memory up again. */
static void forget_addresses(struct soft *soft)
{
	soft_sync_others(soft, NULL, REQ_FLUSH);
}

int soft_map(struct accel *accel, const struct gmem_region *region, struct error *err)
{
	struct soft *soft = soft_of(accel);
	uint64_t end = region->gpa + region->size;
	_Atomic uint8_t *pages;
	unsigned at = 0;

	if (end < region->gpa || end > BIT(52))
		return error_set(err, -EINVAL,
				 "guest memory ends at 0x%" PRIx64
				 ", but guests address 52 bits only: use less memory",
				 end);
	if (region->gpa < X86_RESERVED_END && end > X86_RESERVED_START)
		return error_set(err, -EINVAL,
				 "guest memory at 0x%" PRIx64
				 " overlaps addresses that the accelerator keeps",
				 region->gpa);
	if (soft->n_regions == SOFT_MAX_REGIONS)
		return error_set(err, -ENOSPC, "the software CPU takes at most %d memory regions",
				 SOFT_MAX_REGIONS);
	pages = calloc(n_pages(region), sizeof(*pages));
	if (!pages)
		return error_set_errno(err, -ENOMEM, "marks of %zu pages", n_pages(region));
	while (at < soft->n_regions && soft->regions[at].mem.gpa < region->gpa)
		at++;
	memmove(&soft->regions[at + 1], &soft->regions[at],
		(soft->n_regions - at) * sizeof(soft->regions[0]));
	soft->regions[at] = (struct soft_region){.mem = *region, .pages = pages};
	soft->n_regions++;
	forget_addresses(soft);
	return 0;
}

int soft_unmap(struct accel *accel, const struct gmem_region *region)
{
	struct soft *soft = soft_of(accel);
	struct soft_region *r = region_find(soft, region);
	size_t at;

	if (!r)
		return -ENOENT;
	/* Code in it is no more. */
	code_written(soft, NULL, r->mem.gpa, r->mem.size);
	free(r->pages);
	at = (size_t)(r - soft->regions);
	soft->n_regions--;
	memmove(r, r + 1, (soft->n_regions - at) * sizeof(*r));
	forget_addresses(soft);
	return 0;
}

void soft_mem_free(struct soft *soft)
{
	for (unsigned i = 0; i < soft->n_regions; i++)
		free(soft->regions[i].pages);
	soft->n_regions = 0;
}

int soft_dirty_start(struct accel *accel)
{
	struct soft *soft = soft_of(accel);

	for (unsigned i = 0; i < soft->n_regions; i++)
		for (size_t p = 0; p < n_pages(&soft->regions[i].mem); p++)
			atomic_fetch_and_explicit(&soft->regions[i].pages[p], (uint8_t)~PAGE_DIRTY,
						  memory_order_relaxed);
	atomic_store(&soft->tracking, true);
	forget_addresses(soft);
	return 0;
}

int soft_dirty_stop(struct accel *accel)
{
	/* Marks stay until the next start; write tags are handed out freely again. */
	atomic_store(&soft_of(accel)->tracking, false);
	return 0;
}

int soft_dirty_fetch(struct accel *accel, const struct gmem_region *region, uint64_t *bitmap)
{
	struct soft *soft = soft_of(accel);
	struct soft_region *r = region_find(soft, region);
	bool any = false;

	if (region->readonly)
		return 0;
	if (!r || !atomic_load(&soft->tracking))
		return -ENOENT;
	for (size_t p = 0; p < n_pages(&r->mem); p++) {
		_Atomic uint8_t *mark = &r->pages[p];

		if (!(atomic_load_explicit(mark, memory_order_relaxed) & PAGE_DIRTY))
			continue;
		atomic_fetch_and(mark, (uint8_t)~PAGE_DIRTY);
		bitmap[p / 64] |= BIT(p % 64);
		any = true;
	}
	if (any)
		forget_addresses(soft);
	return 0;
}

void soft_write_phys(struct soft_cpu *cpu, gpa_t gpa, const void *buf, size_t len)
{
	const uint8_t *from = buf;

	while (len > 0) {
		size_t part = MIN(len, PAGE_BYTES - (gpa & (PAGE_BYTES - 1))), page;
		struct soft_region *region;
		uint8_t *p = soft_ram(cpu->soft, gpa, &region, &page);

		if (p && !region->mem.readonly) {
			memcpy(p, from, part);
			if (atomic_load(&cpu->soft->tracking))
				atomic_fetch_or(&region->pages[page], PAGE_DIRTY);
			code_written(cpu->soft, cpu, gpa, part);
		}
		gpa += part;
		from += part;
		len -= part;
	}
}

void soft_written(struct accel *accel, gpa_t gpa, uint64_t len)
{
	code_written(soft_of(accel), NULL, gpa, len);
}
