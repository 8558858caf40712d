/*
 * Guest memory: what is behind guest-physical addresses. RAM is a memfd or a file, mapped shared into this process, so
 * that it can be snapshotted, forked and attached by peers. Regions never overlap and are sorted by address.
 *
 * The guest writes here at any moment: copy once, validate, then use. Every write that this process does on the
 * guest's behalf goes through gmem_write() or is followed by gmem_mark_dirty(), so that migration sees it.
 *
 * Threads: the map is constant while vCPUs run. Access and dirty marking: any thread.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "base/error.h"

typedef uint64_t gpa_t; /* guest-physical address */

struct gmem;

/* RAM below 4 GiB ends here at most; what is above continues at 4 GiB. */
#define GMEM_HOLE_START 0xC0000000ULL
#define GMEM_HOLE_END   0x100000000ULL

struct gmem_config {
	uint64_t ram_bytes;      /* a multiple of 4 KiB (of the huge page when asked for) */
	uint64_t hugepage_bytes; /* 0: normal pages; 2 MiB or 1 GiB: hugetlb */
	bool mergeable;          /* KSM may merge pages */
	bool prealloc;           /* touch every page before start, in parallel */
	bool dump;               /* include RAM in core dumps */
	const char
		*path; /* back it by this file (created, sized) instead of a memfd; NULL: memfd */
};

struct gmem_region {
	gpa_t gpa;
	uint64_t size; /* bytes */
	uint8_t *hva;  /* where this process sees it */
	int fd;        /* owned by the gmem */
	uint64_t fd_offset;
	bool readonly; /* for the guest (ROM) */
};

/* Lays out RAM around the hole. err says which resource is short and what to do. */
int gmem_new(const struct gmem_config *config, struct gmem **ret, struct error *err);
void gmem_free(struct gmem *mem);

/* Adds ROM or RAM of `size` bytes at gpa, backed by a new memfd; before vCPUs run. -EEXIST when it overlaps. */
int gmem_add(struct gmem *mem, gpa_t gpa, uint64_t size, bool readonly, const char *name,
	     struct error *err);

size_t gmem_regions(const struct gmem *mem, const struct gmem_region **ret);
uint64_t gmem_ram_bytes(const struct gmem *mem);
/* One past the highest RAM address. */
gpa_t gmem_end(const struct gmem *mem);

/* The host address of [gpa, gpa + len) when all of it is in one writable (for _ro: any) region, else NULL. len > 0.
 * Valid for the life of the gmem. */
void *gmem_ptr(const struct gmem *mem, gpa_t gpa, uint64_t len);
const void *gmem_ptr_ro(const struct gmem *mem, gpa_t gpa, uint64_t len);

/* Copies; the range may span adjacent regions. -EFAULT when any byte is outside (nothing is copied then). */
int gmem_read(const struct gmem *mem, gpa_t gpa, void *buf, size_t len);
int gmem_write(struct gmem *mem, gpa_t gpa, const void *buf, size_t len);

/* Gives the host its pages back; the guest reads zeroes afterwards. Whole pages inside [gpa, gpa + len) only. */
int gmem_discard(struct gmem *mem, gpa_t gpa, uint64_t len);

/* Calls `written` after each write that this process does for the guest (gmem_write(), gmem_mark_dirty(), gmem_discard()): for an
 * accelerator that keeps something made of guest memory. On the writer's thread, with whatever locks it holds. Before vCPUs and devices run;
 * NULL: nobody. */
void gmem_watch(struct gmem *mem, void (*written)(void *opaque, gpa_t gpa, uint64_t len),
		void *opaque);

/* All of [gpa, gpa + len) is about to be written: lets the host back what it can of it by huge pages, as good as for free.
 * Before vCPUs run. Merely advice. */
void gmem_expect_write(struct gmem *mem, gpa_t gpa, uint64_t len);

/* --- dirty tracking of this process's own writes (one bit a 4 KiB page; vCPU writes are the accelerator's) --- */

void gmem_mark_dirty(struct gmem *mem, gpa_t gpa, uint64_t len);
int gmem_dirty_start(struct gmem *mem);
void gmem_dirty_stop(struct gmem *mem);
/* Moves the bits of region `index` into bitmap (one bit a page, little-endian 64-bit words; OR-ed in) and clears them. */
void gmem_dirty_fetch(struct gmem *mem, size_t index, uint64_t *bitmap);
