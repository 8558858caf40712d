/*
 * Dirty tracking of writes that this process does for the guest: one bit a 4 KiB page, set by any thread.
 *
 * A writer stores its data, then looks at `tracking`. A tracker sets `tracking`, then reads the data. On x86 both could
 * miss each other through the writer's store buffer; instead of a fence in every write, gmem_dirty_start() makes every
 * thread of the process pass one with membarrier(2).
 */
#include <errno.h>
#include <linux/membarrier.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/bits.h"
#include "vm/mem/gmem_int.h"

static uint64_t gmem_words(const struct gmem_region *region)
{
	return ((region->size >> GMEM_PAGE_SHIFT) + 63) / 64;
}

void gmem_watch(struct gmem *mem, void (*written)(void *opaque, gpa_t gpa, uint64_t len),
		void *opaque)
{
	mem->written = written;
	mem->written_opaque = opaque;
}

void gmem_mark_dirty(struct gmem *mem, gpa_t gpa, uint64_t len)
{
	if (len == 0)
		return;
	if (mem->written)
		mem->written(mem->written_opaque, gpa, len);
	if (!atomic_load_explicit(&mem->tracking, memory_order_acquire))
		return;
	for (size_t i = 0; i < mem->n_regions; i++) {
		const struct gmem_region *r = &mem->regions[i];
		uint64_t first, last, off = gpa - r->gpa;

		if (off >= r->size) {
			/* The range may still reach in from below. */
			if (gpa > r->gpa || r->gpa - gpa >= len)
				continue;
			first = 0;
			last = MIN(len - (r->gpa - gpa), r->size) - 1;
		} else {
			first = off;
			last = off + MIN(len, r->size - off) - 1;
		}
		first >>= GMEM_PAGE_SHIFT;
		last >>= GMEM_PAGE_SHIFT;
		for (uint64_t page = first; page <= last; page++) {
			_Atomic(uint64_t) *word = &mem->dirty[i][page / 64];

			/* The data must be visible before the bit; a bit that is set already was set before this data, so
			 * the write is needed all the same. */
			atomic_fetch_or_explicit(word, BIT(page % 64), memory_order_release);
		}
	}
}

/* Every thread of this process has executed a full barrier when this returns. */
static int gmem_barrier(void)
{
	if (syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0, 0) == 0 &&
	    syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0) == 0)
		return 0;
	return syscall(SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) == 0 ? 0 : -errno;
}

int gmem_dirty_start(struct gmem *mem)
{
	int r;

	for (size_t i = 0; i < mem->n_regions; i++) {
		uint64_t n = gmem_words(&mem->regions[i]);

		if (!mem->dirty[i]) {
			mem->dirty[i] = calloc(n, sizeof(*mem->dirty[i]));
			if (!mem->dirty[i])
				return -ENOMEM;
			continue;
		}
		for (uint64_t w = 0; w < n; w++)
			atomic_store_explicit(&mem->dirty[i][w], 0, memory_order_relaxed);
	}
	atomic_store(&mem->tracking, true);
	r = gmem_barrier();
	if (r < 0)
		atomic_store(&mem->tracking, false);
	return r;
}

void gmem_dirty_stop(struct gmem *mem)
{
	/* The bitmaps stay: a writer may be between its test and its store. */
	atomic_store(&mem->tracking, false);
}

void gmem_dirty_fetch(struct gmem *mem, size_t index, uint64_t *bitmap)
{
	_Atomic(uint64_t) *dirty;
	uint64_t n;

	if (index >= mem->n_regions || !mem->dirty[index])
		return;
	dirty = mem->dirty[index];
	n = gmem_words(&mem->regions[index]);
	for (uint64_t w = 0; w < n; w++) {
		if (atomic_load_explicit(&dirty[w], memory_order_relaxed) == 0)
			continue;
		bitmap[w] |= atomic_exchange_explicit(&dirty[w], 0, memory_order_acq_rel);
	}
}
