/* Private to vm/mem: the layout of struct gmem and the backing of a region. */
#pragma once

#include <stdatomic.h>

#include "vm/mem/gmem.h"

#define GMEM_PAGE        4096ULL
#define GMEM_PAGE_SHIFT  12
#define GMEM_MAX_REGIONS 16

/* How a region's bytes are held by the host. */
struct gmem_backing {
	uint8_t *hva;        /* first usable byte, aligned to 2 MiB (or the huge page) */
	int fd;              /* -1: anonymous (mergeable) */
	uint64_t page_bytes; /* what gmem_discard() can give back */
	void *reserved;      /* the whole reservation, guard pages included */
	uint64_t reserved_bytes;
	bool owned; /* reservation and fd end with this region */
};

struct gmem {
	struct gmem_region regions[GMEM_MAX_REGIONS]; /* sorted by gpa [const after start] */
	struct gmem_backing backing[GMEM_MAX_REGIONS];
	size_t n_regions;
	uint64_t ram_bytes;
	bool dump;
	/* [const after start] */
	void (*written)(void *opaque, gpa_t gpa, uint64_t len);
	void *written_opaque;
	atomic_bool tracking;
	/* One bit a page; allocated by the first gmem_dirty_start(), kept until gmem_free(). */
	_Atomic(uint64_t) *dirty[GMEM_MAX_REGIONS];
};

/* Obtains config->ram_bytes, mapped and guarded. name: what /proc shows. */
int gmem_back_open(const struct gmem_config *config, const char *name, struct gmem_backing *ret,
		   struct error *err);
void gmem_back_close(struct gmem_backing *backing);
/* off and len count from the start of the region and are multiples of page_bytes. */
int gmem_back_discard(const struct gmem_region *region, const struct gmem_backing *backing,
		      uint64_t off, uint64_t len);
/* Touches every page of [hva, hva + len) for writing, with several threads. */
int gmem_back_populate(uint8_t *hva, uint64_t len, uint64_t page_bytes, struct error *err);
/* Makes huge pages of what [hva, hva + len) covers whole 2 MiB of, where the kernel can; its zeroes are allocated by that. */
void gmem_back_collapse(uint8_t *hva, uint64_t len);
