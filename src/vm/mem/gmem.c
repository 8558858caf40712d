/*
 * The map of guest memory, lookups and copies. How RAM is obtained from the host is in gmem_back.c, dirty tracking in
 * gmem_dirty.c.
 *
 * Regions are few (RAM below and above the hole, a ROM or two) and sorted; a lookup is two or three steps of a
 * branch-free binary search, and touches one cache line a step. Nothing here allocates after gmem_add().
 */
#include "vm/mem/gmem.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/bits.h"
#include "base/cleanup.h"
#include "vm/mem/gmem_int.h"

/* The region that holds gpa, or NULL. */
static const struct gmem_region *gmem_find(const struct gmem *mem, gpa_t gpa)
{
	const struct gmem_region *r = mem->regions;
	size_t n = mem->n_regions;

	if (n == 0)
		return NULL;
	while (n > 1) {
		size_t half = n / 2;

		r = r[half].gpa <= gpa ? r + half : r;
		n -= half;
	}
	/* Below the region the difference wraps and is never less than its size. */
	return gpa - r->gpa < r->size ? r : NULL;
}

void *gmem_ptr(const struct gmem *mem, gpa_t gpa, uint64_t len)
{
	const struct gmem_region *r = gmem_find(mem, gpa);

	if (!r || r->readonly || len > r->size - (gpa - r->gpa))
		return NULL;
	return r->hva + (gpa - r->gpa);
}

const void *gmem_ptr_ro(const struct gmem *mem, gpa_t gpa, uint64_t len)
{
	const struct gmem_region *r = gmem_find(mem, gpa);

	if (!r || len > r->size - (gpa - r->gpa))
		return NULL;
	return r->hva + (gpa - r->gpa);
}

/* Is [gpa, gpa + len) covered without a gap, by writable regions alone when asked? */
static bool gmem_covers(const struct gmem *mem, gpa_t gpa, uint64_t len, bool write)
{
	while (len > 0) {
		const struct gmem_region *r = gmem_find(mem, gpa);
		uint64_t part;

		if (!r || (write && r->readonly))
			return false;
		part = MIN(len, r->size - (gpa - r->gpa));
		gpa += part;
		len -= part;
	}
	return true;
}

/* Slow path of a copy: the range touches more than one region. */
static int gmem_copy_across(const struct gmem *mem, gpa_t gpa, uint8_t *buf, size_t len, bool write)
{
	if (!gmem_covers(mem, gpa, len, write))
		return -EFAULT;
	while (len > 0) {
		const struct gmem_region *r = gmem_find(mem, gpa);
		uint64_t off = gpa - r->gpa;
		size_t part = MIN(len, r->size - off);

		if (write)
			memcpy(r->hva + off, buf, part);
		else
			memcpy(buf, r->hva + off, part);
		gpa += part;
		buf += part;
		len -= part;
	}
	return 0;
}

int gmem_read(const struct gmem *mem, gpa_t gpa, void *buf, size_t len)
{
	const void *p = gmem_ptr_ro(mem, gpa, len);

	if (!p)
		return gmem_copy_across(mem, gpa, buf, len, false);
	memcpy(buf, p, len);
	return 0;
}

int gmem_write(struct gmem *mem, gpa_t gpa, const void *buf, size_t len)
{
	void *p = gmem_ptr(mem, gpa, len);
	int r;

	if (p) {
		memcpy(p, buf, len);
	} else {
		union {
			const void *in;
			void *out;
		} u = {.in = buf}; /* gmem_copy_across() only reads it */

		r = gmem_copy_across(mem, gpa, u.out, len, true);
		if (r < 0)
			return r;
	}
	gmem_mark_dirty(mem, gpa, len);
	return 0;
}

void gmem_expect_write(struct gmem *mem, gpa_t gpa, uint64_t len)
{
	const struct gmem_region *r = gmem_find(mem, gpa);
	const struct gmem_backing *b = r ? &mem->backing[r - mem->regions] : NULL;

	/* Mergeable memory has no descriptor, and KSM wants small pages. */
	if (b && b->fd >= 0 && b->page_bytes == GMEM_PAGE)
		gmem_back_collapse(r->hva + (gpa - r->gpa), MIN(len, r->size - (gpa - r->gpa)));
}

int gmem_discard(struct gmem *mem, gpa_t gpa, uint64_t len)
{
	uint64_t page, end;

	if (len == 0)
		return 0;
	if (gpa + len < gpa || !gmem_covers(mem, gpa, len, true))
		return -EFAULT;
	end = gpa + len;
	while (gpa < end) {
		size_t i = (size_t)(gmem_find(mem, gpa) - mem->regions);
		const struct gmem_region *r = &mem->regions[i];
		uint64_t from, to;
		int err;

		page = mem->backing[i].page_bytes;
		from = align_up(gpa - r->gpa, page);
		to = align_down(MIN(end - r->gpa, r->size), page);
		if (from < to) {
			err = gmem_back_discard(r, &mem->backing[i], from, to - from);
			if (err < 0)
				return err;
			gmem_mark_dirty(mem, r->gpa + from, to - from);
		}
		gpa = r->gpa + r->size;
	}
	return 0;
}

size_t gmem_regions(const struct gmem *mem, const struct gmem_region **ret)
{
	*ret = mem->regions;
	return mem->n_regions;
}

uint64_t gmem_ram_bytes(const struct gmem *mem)
{
	return mem->ram_bytes;
}

gpa_t gmem_end(const struct gmem *mem)
{
	gpa_t end = 0;

	for (size_t i = 0; i < mem->n_regions; i++)
		if (!mem->regions[i].readonly)
			end = mem->regions[i].gpa + mem->regions[i].size;
	return end;
}

/* Where a region at [gpa, gpa + size) goes, or -EEXIST. */
static int gmem_slot(const struct gmem *mem, gpa_t gpa, uint64_t size, size_t *ret)
{
	size_t i = 0;

	while (i < mem->n_regions && mem->regions[i].gpa < gpa)
		i++;
	if (i > 0 && mem->regions[i - 1].gpa + mem->regions[i - 1].size > gpa)
		return -EEXIST;
	if (i < mem->n_regions && gpa + size > mem->regions[i].gpa)
		return -EEXIST;
	*ret = i;
	return 0;
}

static void gmem_insert(struct gmem *mem, size_t at, const struct gmem_region *region,
			const struct gmem_backing *backing)
{
	size_t tail = mem->n_regions - at;

	memmove(&mem->regions[at + 1], &mem->regions[at], tail * sizeof(mem->regions[0]));
	memmove(&mem->backing[at + 1], &mem->backing[at], tail * sizeof(mem->backing[0]));
	mem->regions[at] = *region;
	mem->backing[at] = *backing;
	mem->n_regions++;
}

int gmem_add(struct gmem *mem, gpa_t gpa, uint64_t size, bool readonly, const char *name,
	     struct error *err)
{
	struct gmem_config config = {.ram_bytes = size, .dump = mem->dump};
	struct gmem_region region = {.gpa = gpa, .size = size, .readonly = readonly, .fd = -1};
	struct gmem_backing backing;
	size_t at;
	int r;

	if (size == 0 || ((gpa | size) & (GMEM_PAGE - 1)) != 0 || gpa + size < gpa)
		return error_set(err, -EINVAL,
				 "memory '%s': address 0x%llx and size 0x%llx must be whole pages",
				 name, (unsigned long long)gpa, (unsigned long long)size);
	if (mem->n_regions == GMEM_MAX_REGIONS)
		return error_set(err, -ENOSPC, "memory '%s': a machine has at most %d regions",
				 name, GMEM_MAX_REGIONS);
	r = gmem_slot(mem, gpa, size, &at);
	if (r < 0)
		return error_set(err, r, "memory '%s' at 0x%llx overlaps other guest memory", name,
				 (unsigned long long)gpa);
	r = gmem_back_open(&config, name, &backing, err);
	if (r < 0)
		return r;
	region.hva = backing.hva;
	region.fd = backing.fd;
	gmem_insert(mem, at, &region, &backing);
	return 0;
}

static int gmem_check(const struct gmem_config *config, struct error *err)
{
	uint64_t page = config->hugepage_bytes ? config->hugepage_bytes : GMEM_PAGE;

	if (config->hugepage_bytes != 0 && config->hugepage_bytes != 2 * MIB &&
	    config->hugepage_bytes != GIB)
		return error_set(err, -EINVAL, "huge pages are of 2 MiB or 1 GiB, not %llu bytes",
				 (unsigned long long)config->hugepage_bytes);
	if (config->ram_bytes == 0 || (config->ram_bytes & (page - 1)) != 0)
		return error_set(
			err, -EINVAL,
			"memory size of %llu bytes is not a multiple of the page size, %llu",
			(unsigned long long)config->ram_bytes, (unsigned long long)page);
	/* What no x86-64 host can map; the accelerator knows the guest's own, smaller limit. */
	if (config->ram_bytes >= BIT(46))
		return error_set(err, -EINVAL, "memory size of %llu bytes exceeds 64 TiB",
				 (unsigned long long)config->ram_bytes);
	if (config->mergeable && (config->hugepage_bytes || config->path))
		return error_set(err, -EINVAL,
				 "mergeable memory cannot be backed by %s: the host merges "
				 "anonymous 4 KiB pages only",
				 config->path ? "a file" : "huge pages");
	return 0;
}

int gmem_new(const struct gmem_config *config, struct gmem **ret, struct error *err)
{
	uint64_t low = MIN(config->ram_bytes, (uint64_t)GMEM_HOLE_START);
	struct gmem_region region = {.size = low};
	struct gmem_backing backing;
	struct gmem *mem;
	int r;

	r = gmem_check(config, err);
	if (r < 0)
		return r;
	mem = calloc(1, sizeof(*mem));
	if (!mem)
		return error_set_errno(err, -ENOMEM, "guest memory");
	mem->ram_bytes = config->ram_bytes;
	mem->dump = config->dump;
	r = gmem_back_open(config, "ram", &backing, err);
	if (r < 0) {
		free(mem);
		return r;
	}
	region.hva = backing.hva;
	region.fd = backing.fd;
	gmem_insert(mem, 0, &region, &backing);
	if (config->ram_bytes > low) {
		/* The same file and mapping go on; the first region owns both. */
		backing.owned = false;
		region = (struct gmem_region){.gpa = GMEM_HOLE_END,
					      .size = config->ram_bytes - low,
					      .hva = backing.hva + low,
					      .fd = backing.fd,
					      .fd_offset = low};
		gmem_insert(mem, 1, &region, &backing);
	}
	*ret = mem;
	return 0;
}

void gmem_free(struct gmem *mem)
{
	if (!mem)
		return;
	for (size_t i = 0; i < mem->n_regions; i++) {
		gmem_back_close(&mem->backing[i]);
		free(mem->dirty[i]);
	}
	free(mem);
}
