/*
 * Guest memory by linear address: the slow half of access.h. Crosses pages with both checked before anything is written, splits accesses to
 * what is not RAM into aligned pieces, tells who has decoded code in a page that it is written, keeps dirty marks, and looks at each
 * access while alignment checks or breakpoints on data are on. (SDM volume 3, sections 4.10, 8.1.1, 17.2.)
 */
#include "base/bits.h"
#include "vm/accel/soft/cpu/access.h"
#include "vm/accel/soft/cpu/cpu_int.h"
#include "vm/accel/soft/interp/code.h"

/* Where a page's bytes are. */
struct place {
	uint8_t *host; /* of the byte asked for; NULL: not RAM, or a write to ROM */
	gpa_t gpa;     /* of the byte asked for */
	struct soft_region *region;
	size_t page;
};

uint8_t *soft_ram(struct soft *soft, gpa_t gpa, struct soft_region **ret_region, size_t *ret_page)
{
	for (unsigned i = 0; i < soft->n_regions; i++) {
		struct soft_region *r = &soft->regions[i];
		uint64_t at = gpa - r->mem.gpa;

		/* A page that is only in part there is no RAM. */
		if (at >= (r->mem.size & ~(uint64_t)PAGE_OFFSET))
			continue;
		if (ret_region)
			*ret_region = r;
		if (ret_page)
			*ret_page = at >> 12;
		return r->mem.hva + at;
	}
	return NULL;
}

static uint8_t page_flags(const struct soft_region *region, size_t page)
{
	return atomic_load_explicit(&region->pages[page], memory_order_relaxed);
}

static void page_dirtied(struct soft_cpu *cpu, struct soft_region *region, size_t page)
{
	if (atomic_load_explicit(&cpu->soft->tracking, memory_order_relaxed) &&
	    !(page_flags(region, page) & PAGE_DIRTY))
		atomic_fetch_or_explicit(&region->pages[page], PAGE_DIRTY, memory_order_relaxed);
}

void mem_written(struct soft_cpu *cpu, struct soft_region *region, size_t page, gpa_t gpa,
		 unsigned size)
{
	page_dirtied(cpu, region, page);
	if (page_flags(region, page) & PAGE_CODE)
		code_written(cpu->soft, cpu, gpa, size);
}

/* An address that paging cannot have: only descriptor tables and stacks that are badly placed lead here. */
static void check_canonical(struct soft_cpu *cpu, uint64_t linear)
{
	if (cpu_long(cpu) && !is_canonical(linear))
		cpu_raise_error(cpu, VEC_GP, 0);
}

/* Translates, enters the page into the kind's array, and finds it. Raises #PF. */
static struct place page_find(struct soft_cpu *cpu, uint64_t linear, enum mmu_want want,
			      enum mem_kind kind)
{
	struct mmu_page page;
	struct place at = {.host = NULL};
	uint32_t error;
	bool can_write;

	check_canonical(cpu, linear);
	if (!mmu_walk(cpu, linear, want, kind, &page, &error))
		cpu_raise_page_fault(cpu, linear, error);
	at.gpa = page.gpa;
	at.host = soft_ram(cpu->soft, page.gpa, &at.region, &at.page);
	if (!at.host)
		return at;
	if (want == MMU_WRITE && !at.region->mem.readonly)
		page_dirtied(cpu, at.region, at.page);
	can_write = !at.region->mem.readonly && !(page_flags(at.region, at.page) & PAGE_CODE) &&
		    (!atomic_load_explicit(&cpu->soft->tracking, memory_order_relaxed) ||
		     (page_flags(at.region, at.page) & PAGE_DIRTY));
	tlb_enter(cpu, linear, kind, &page, at.host - (linear & PAGE_OFFSET), can_write);
	if (want == MMU_WRITE && at.region->mem.readonly)
		at.host = NULL;
	return at;
}

/* As page_find(), by way of the array. */
static struct place page_lookup(struct soft_cpu *cpu, uint64_t linear, enum mmu_want want,
				enum mem_kind kind)
{
	struct tlb_array *a = tlb_array(cpu, kind);
	unsigned i = tlb_index(linear);
	const struct tlb_entry *e = &a->entry[i];
	uint64_t tag = linear & ~(uint64_t)PAGE_OFFSET;

	if ((want == MMU_READ ? e->read : want == MMU_WRITE ? e->write : e->exec) == tag)
		return (struct place){
			.host = (uint8_t *)(uintptr_t)(linear + e->addend),
			.gpa = a->page[i] | (linear & PAGE_OFFSET),
		};
	return page_find(cpu, linear, want, kind);
}

/* The address after the last byte of linear's page, as this mode wraps. */
static uint64_t page_next(const struct soft_cpu *cpu, uint64_t linear)
{
	uint64_t next = (linear | PAGE_OFFSET) + 1;

	return cpu_is64(cpu) ? next : next & 0xFFFFFFFF;
}

static unsigned mmio_piece(gpa_t gpa, unsigned size)
{
	unsigned piece = 8;

	while (piece > size || (gpa & (piece - 1)))
		piece /= 2;
	return piece;
}

static void mmio_access(struct soft_cpu *cpu, gpa_t gpa, bool write, uint8_t *data, unsigned size)
{
	while (size > 0) {
		unsigned piece = mmio_piece(gpa, size);

		soft_mmio(cpu, gpa, write, data, piece);
		gpa += piece;
		data += piece;
		size -= piece;
	}
}

/* Within a page. */
static uint64_t place_read(struct soft_cpu *cpu, const struct place *at, unsigned size)
{
	uint64_t v = 0;

	if (at->host)
		return ram_load(at->host, size);
	mmio_access(cpu, at->gpa, false, (uint8_t *)&v, size);
	return v;
}

static void place_write(struct soft_cpu *cpu, const struct place *at, unsigned size, uint64_t v)
{
	if (!at->host) {
		mmio_access(cpu, at->gpa, true, (uint8_t *)&v, size);
		return;
	}
	ram_store(at->host, size, v);
	if (at->region)
		mem_written(cpu, at->region, at->page, at->gpa, size);
}

uint64_t mem_read_as(struct soft_cpu *cpu, uint64_t linear, unsigned size, enum mem_kind kind)
{
	struct place a = page_lookup(cpu, linear, MMU_READ, kind), b;
	unsigned first = PAGE_BYTES - (linear & PAGE_OFFSET);
	uint64_t low;

	if (size <= first)
		return place_read(cpu, &a, size);
	b = page_lookup(cpu, page_next(cpu, linear), MMU_READ, kind);
	low = place_read(cpu, &a, first);
	return low | place_read(cpu, &b, size - first) << (8 * first);
}

void mem_write_as(struct soft_cpu *cpu, uint64_t linear, unsigned size, uint64_t value,
		  enum mem_kind kind)
{
	struct place a = page_lookup(cpu, linear, MMU_WRITE, kind), b;
	unsigned first = PAGE_BYTES - (linear & PAGE_OFFSET);

	if (size <= first) {
		place_write(cpu, &a, size, value);
		return;
	}
	b = page_lookup(cpu, page_next(cpu, linear), MMU_WRITE, kind);
	place_write(cpu, &a, first, value);
	place_write(cpu, &b, size - first, value >> (8 * first));
}

void mem_probe_as(struct soft_cpu *cpu, uint64_t linear, unsigned size, bool write,
		  enum mem_kind kind)
{
	enum mmu_want want = write ? MMU_WRITE : MMU_READ;
	unsigned first = PAGE_BYTES - (linear & PAGE_OFFSET);

	page_lookup(cpu, linear, want, kind);
	while (size > first) {
		size -= first;
		linear = page_next(cpu, linear);
		first = PAGE_BYTES;
		page_lookup(cpu, linear, want, kind);
	}
}

/* What has to be looked at with every access, while it has: cpu->tlb is empty then. */
static void access_check(struct soft_cpu *cpu, uint64_t linear, unsigned size, bool write)
{
	uint8_t checks = cpu->tlbs->checks;

	/* Sizes that are no power of two belong to instructions that ask for less alignment, or none. */
	if ((checks & CHECK_ALIGN) && is_power_of_two(size) && size <= 8 && (linear & (size - 1)))
		cpu_raise_error(cpu, VEC_AC, 0);
	if (checks & CHECK_WATCH)
		debug_watch(cpu, linear, size, write);
}

uint64_t mem_read(struct soft_cpu *cpu, uint64_t linear, unsigned size)
{
	uint64_t v;

	if (!cpu->tlbs->checks)
		return mem_read_as(cpu, linear, size, (enum mem_kind)cpu->tlbs->kind);
	mem_probe_as(cpu, linear, size, false, (enum mem_kind)cpu->tlbs->kind);
	v = mem_read_as(cpu, linear, size, (enum mem_kind)cpu->tlbs->kind);
	access_check(cpu, linear, size, false);
	return v;
}

void mem_write(struct soft_cpu *cpu, uint64_t linear, unsigned size, uint64_t value)
{
	if (cpu->tlbs->checks) {
		mem_probe_as(cpu, linear, size, true, (enum mem_kind)cpu->tlbs->kind);
		access_check(cpu, linear, size, true);
	}
	mem_write_as(cpu, linear, size, value, (enum mem_kind)cpu->tlbs->kind);
}

void mem_probe(struct soft_cpu *cpu, uint64_t linear, unsigned size, bool write)
{
	mem_probe_as(cpu, linear, size, write, (enum mem_kind)cpu->tlbs->kind);
	if (cpu->tlbs->checks & CHECK_ALIGN)
		access_check(cpu, linear, size, write);
}

uint64_t mem_read_system(struct soft_cpu *cpu, uint64_t linear, unsigned size)
{
	return mem_read_as(cpu, linear, size, MEM_KERNEL);
}

void mem_write_system(struct soft_cpu *cpu, uint64_t linear, unsigned size, uint64_t value)
{
	mem_write_as(cpu, linear, size, value, MEM_KERNEL);
}

/* How much of a block is copied at once: within a page. */
static unsigned block_piece(uint64_t linear, unsigned size)
{
	unsigned room = PAGE_BYTES - (unsigned)(linear & PAGE_OFFSET);

	room = MIN(room, 8u);
	return MIN(size, room);
}

void mem_read_block(struct soft_cpu *cpu, uint64_t linear, void *buf, unsigned size)
{
	uint8_t *out = buf;
	enum mem_kind kind = (enum mem_kind)cpu->tlbs->kind;

	mem_probe_as(cpu, linear, size, false, kind);
	if (cpu->tlbs->checks)
		access_check(cpu, linear, size, false);
	while (size > 0) {
		unsigned n = block_piece(linear, size);
		uint64_t v = mem_read_as(cpu, linear, n, kind);

		memcpy(out, &v, n);
		out += n;
		size -= n;
		linear = (linear & PAGE_OFFSET) + n == PAGE_BYTES ? page_next(cpu, linear)
								  : linear + n;
	}
}

void mem_write_block(struct soft_cpu *cpu, uint64_t linear, const void *buf, unsigned size)
{
	const uint8_t *in = buf;
	enum mem_kind kind = (enum mem_kind)cpu->tlbs->kind;

	mem_probe_as(cpu, linear, size, true, kind);
	if (cpu->tlbs->checks)
		access_check(cpu, linear, size, true);
	while (size > 0) {
		unsigned n = block_piece(linear, size);
		uint64_t v = 0;

		memcpy(&v, in, n);
		mem_write_as(cpu, linear, n, v, kind);
		in += n;
		size -= n;
		linear = (linear & PAGE_OFFSET) + n == PAGE_BYTES ? page_next(cpu, linear)
								  : linear + n;
	}
}

void *mem_host_rw(struct soft_cpu *cpu, uint64_t linear, unsigned size)
{
	enum mem_kind kind = (enum mem_kind)cpu->tlbs->kind;
	struct place at = page_lookup(cpu, linear, MMU_WRITE, kind);

	if (size > PAGE_BYTES - (linear & PAGE_OFFSET)) {
		mem_probe_as(cpu, linear, size, true, kind);
		return NULL;
	}
	if (cpu->tlbs->checks)
		access_check(cpu, linear, size, true);
	/* A page with code: mem_write() tells about the write. */
	if (at.host && at.region && (page_flags(at.region, at.page) & PAGE_CODE))
		return NULL;
	return at.host;
}

const void *mem_host_r(struct soft_cpu *cpu, uint64_t linear, unsigned size)
{
	enum mem_kind kind = (enum mem_kind)cpu->tlbs->kind;
	struct place at = page_lookup(cpu, linear, MMU_READ, kind);

	if (size > PAGE_BYTES - (linear & PAGE_OFFSET)) {
		mem_probe_as(cpu, linear, size, false, kind);
		return NULL;
	}
	if (cpu->tlbs->checks)
		access_check(cpu, linear, size, false);
	return at.host;
}

struct tlb_entry *tlb_fill(struct soft_cpu *cpu, uint64_t linear, bool write)
{
	struct tlb_entry *e = &cpu->tlb[tlb_index(linear)];
	uint64_t tag = linear & ~(uint64_t)PAGE_OFFSET;

	if ((write ? e->write : e->read) == tag)
		return e;
	page_lookup(cpu, linear, write ? MMU_WRITE : MMU_READ, (enum mem_kind)cpu->tlbs->kind);
	return (write ? e->write : e->read) == tag ? e : NULL;
}

/* AC does not matter to fetches: they take the array that data accesses use, where others look for the tag. */
static enum mem_kind fetch_kind(const struct soft_cpu *cpu)
{
	return (enum mem_kind)cpu->tlbs->kind;
}

const uint8_t *mem_code_page(struct soft_cpu *cpu, uint64_t linear, gpa_t *ret_page)
{
	struct place at = page_lookup(cpu, linear, MMU_EXEC, fetch_kind(cpu));
	unsigned offset = (unsigned)(linear & PAGE_OFFSET);

	*ret_page = at.gpa - offset;
	return at.host ? at.host - offset : NULL;
}

static void fetch_piece(struct soft_cpu *cpu, const struct place *at, uint8_t *buf, unsigned n)
{
	if (!at->host) {
		mmio_access(cpu, at->gpa, false, buf, n);
		return;
	}
	for (unsigned i = 0; i < n; i++)
		buf[i] = (uint8_t)ram_load(at->host + i, 1);
}

/* May the page be executed? Its accessed bits are set if so. */
static bool fetch_allowed(struct soft_cpu *cpu, uint64_t linear)
{
	struct mmu_page page;
	uint32_t error;

	if (cpu_long(cpu) && !is_canonical(linear))
		return false;
	return mmu_walk(cpu, linear, MMU_EXEC, fetch_kind(cpu), &page, &error);
}

unsigned mem_fetch(struct soft_cpu *cpu, uint64_t linear, uint8_t *buf, unsigned n, gpa_t *ret_gpa)
{
	struct place at = page_lookup(cpu, linear, MMU_EXEC, fetch_kind(cpu));
	unsigned first = MIN(n, PAGE_BYTES - (unsigned)(linear & PAGE_OFFSET));
	uint64_t next = page_next(cpu, linear);

	*ret_gpa = at.gpa;
	fetch_piece(cpu, &at, buf, first);
	if (first == n || !fetch_allowed(cpu, next))
		return first;
	at = page_lookup(cpu, next, MMU_EXEC, fetch_kind(cpu));
	fetch_piece(cpu, &at, buf + first, n - first);
	return n;
}
