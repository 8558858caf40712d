/*
 * Page walks: no paging, 32-bit (PSE, PSE-36), PAE, 4-level (4 KiB, 2 MiB, 1 GiB). Accessed and dirty bits are set in guest memory by
 * compare and exchange, and only when the access is allowed. (SDM volume 3, chapter 4; APM volume 2, chapter 5.)
 *
 * Memory types (PAT, PCD, PWT, MTRRs) have no effect. 5-level paging and protection keys do not exist. A table that is not in RAM
 * reads as all ones.
 */
#include "base/bits.h"
#include "vm/accel/soft/cpu/cpu_int.h"

#define PTE_P  BIT(0)
#define PTE_W  BIT(1)
#define PTE_U  BIT(2)
#define PTE_A  BIT(5)
#define PTE_D  BIT(6)
#define PTE_PS BIT(7)
#define PTE_G  BIT(8)
#define PTE_NX BIT(63)

#define ADDRESS_BITS 0x000FFFFFFFFFF000ULL

/* The entries that a walk has used, root first: where accessed and dirty bits go. */
struct walk {
	unsigned n;
	gpa_t at[4];
	uint64_t value[4];
	unsigned size;          /* bytes of an entry */
	struct tlb_table table; /* of the last level; tag 0: there was none */
};

enum walk_result { WALK_OK, WALK_ABSENT, WALK_RESERVED };

static uint64_t entry_read(struct soft_cpu *cpu, gpa_t gpa, unsigned size)
{
	const uint8_t *p = soft_ram(cpu->soft, gpa, NULL, NULL);

	if (!p)
		return ~0ULL >> (64 - 8 * size);
	if (size == 4)
		return __atomic_load_n((const uint32_t *)p, __ATOMIC_RELAXED);
	return __atomic_load_n((const uint64_t *)p, __ATOMIC_RELAXED);
}

/* False: somebody else has changed the entry meanwhile. */
static bool entry_set(struct soft_cpu *cpu, gpa_t gpa, unsigned size, uint64_t old, uint64_t bits)
{
	struct soft_region *region = NULL;
	size_t page = 0;
	uint8_t *p = soft_ram(cpu->soft, gpa, &region, &page);
	bool done;

	if (!p || region->mem.readonly)
		return true;
	if (size == 4) {
		uint32_t expected = (uint32_t)old;

		done = __atomic_compare_exchange_n((uint32_t *)p, &expected, (uint32_t)(old | bits),
						   false, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED);
	} else {
		done = __atomic_compare_exchange_n((uint64_t *)p, &old, old | bits, false,
						   __ATOMIC_SEQ_CST, __ATOMIC_RELAXED);
	}
	if (done)
		mem_written(cpu, region, page, gpa, size);
	return done;
}

static bool walk_mark(struct soft_cpu *cpu, const struct walk *w, bool write)
{
	for (unsigned i = 0; i < w->n; i++) {
		uint64_t bits = PTE_A | (write && i == w->n - 1 ? PTE_D : 0);

		if ((w->value[i] & bits) != bits &&
		    !entry_set(cpu, w->at[i], w->size, w->value[i], bits))
			return false;
	}
	return true;
}

/* The table of the last level, when a walk has been there: the levels above need no look. */
static const uint8_t *table_known(struct soft_cpu *cpu, uint64_t linear, struct walk *w,
				  struct mmu_page *page)
{
	const struct tlb_table *t = tlb_table(cpu, linear);

	if (t->tag != (linear >> 21) + 1)
		return NULL;
	w->table.tag = 0;
	page->user = t->user;
	page->writable = t->writable;
	page->nx = t->nx;
	w->at[0] = t->table + (linear >> 12 & 511) * 8;
	return t->host + (linear >> 12 & 511) * 8;
}

static void table_note(struct soft_cpu *cpu, uint64_t linear, gpa_t table, struct walk *w,
		       const struct mmu_page *page)
{
	w->table = (struct tlb_table){
		.tag = (linear >> 21) + 1,
		.host = soft_ram(cpu->soft, table, NULL, NULL),
		.table = table,
		.user = page->user,
		.writable = page->writable,
		.nx = page->nx,
	};
	if (!w->table.host)
		w->table.tag = 0;
}

static void leaf_take(struct mmu_page *page, uint64_t entry)
{
	page->global = (entry & PTE_G) != 0;
	page->dirty = (entry & PTE_D) != 0;
}

/* Bits that have to be zero in an entry of a level (1: page table) of PAE and 4-level tables. */
static uint64_t reserved_at(const struct soft_cpu *cpu, unsigned level, uint64_t entry)
{
	uint64_t bits = cpu->tlbs->reserved_bits;

	if (!(cpu->efer & EFER_NXE))
		bits |= PTE_NX;
	if (!cpu_long(cpu))
		bits |= 0x7FF0000000000000ULL; /* 62:52 */
	if (level == 4)
		bits |= PTE_PS;
	else if (level > 1 && (entry & PTE_PS))
		bits |= level == 3 ? 0x3FFFE000ULL : 0x1FE000ULL;
	return bits;
}

/* PAE and 4-level tables from the given level down. */
static enum walk_result walk_wide(struct soft_cpu *cpu, uint64_t linear, gpa_t table,
				  unsigned level, struct walk *w, struct mmu_page *page)
{
	const uint8_t *known = table_known(cpu, linear, w, page);

	w->size = 8;
	if (known)
		level = 1;
	for (;; level--) {
		unsigned shift = 12 + 9 * (level - 1);
		gpa_t at = known ? w->at[0] : table + (linear >> shift & 511) * 8;
		uint64_t entry = known ? __atomic_load_n((const uint64_t *)(const void *)known,
							 __ATOMIC_RELAXED)
				       : entry_read(cpu, at, 8);

		if (!(entry & PTE_P))
			return WALK_ABSENT;
		if (entry & reserved_at(cpu, level, entry))
			return WALK_RESERVED;
		if (level == 1 && !known)
			table_note(cpu, linear, table, w, page);
		w->at[w->n] = at;
		w->value[w->n++] = entry;
		page->user &= (entry & PTE_U) != 0;
		page->writable &= (entry & PTE_W) != 0;
		page->nx |= (entry & PTE_NX) != 0;
		table = entry & ADDRESS_BITS;
		if (level == 1 || (entry & PTE_PS)) {
			uint64_t within = BIT(shift) - 1;

			page->gpa = (table & ~within) | (linear & within);
			page->large = level > 1;
			leaf_take(page, entry);
			return WALK_OK;
		}
	}
}

/* PSE-36 has address bits 39:32 in bits 20:13 of the entry. */
static enum walk_result walk_4m(const struct soft_cpu *cpu, uint64_t linear, uint64_t entry,
				struct mmu_page *page)
{
	gpa_t base = (entry & 0xFFC00000) | (entry >> 13 & 0xff) << 32;

	if ((entry & BIT(21)) || (base & cpu->tlbs->reserved_bits))
		return WALK_RESERVED;
	page->gpa = base | (linear & 0x3FFFFF);
	page->large = true;
	leaf_take(page, entry);
	return WALK_OK;
}

static enum walk_result walk_32(struct soft_cpu *cpu, uint64_t linear, struct walk *w,
				struct mmu_page *page)
{
	gpa_t table = cpu->cr3 & 0xFFFFF000;

	w->size = 4;
	for (unsigned level = 2;; level--) {
		gpa_t at = table + (linear >> (level == 2 ? 22 : 12) & 1023) * 4;
		uint64_t entry = entry_read(cpu, at, 4);

		if (!(entry & PTE_P))
			return WALK_ABSENT;
		w->at[w->n] = at;
		w->value[w->n++] = entry;
		page->user &= (entry & PTE_U) != 0;
		page->writable &= (entry & PTE_W) != 0;
		if (level == 2 && (entry & PTE_PS) && (cpu->cr4 & CR4_PSE))
			return walk_4m(cpu, linear, entry, page);
		table = entry & 0xFFFFF000;
		if (level == 1) {
			page->gpa = table | (linear & PAGE_OFFSET);
			leaf_take(page, entry);
			return WALK_OK;
		}
	}
}

static enum walk_result walk_tables(struct soft_cpu *cpu, uint64_t linear, struct walk *w,
				    struct mmu_page *page)
{
	*page = (struct mmu_page){.user = true, .writable = true};
	w->n = 0;
	w->table.tag = 0;
	if (cpu_long(cpu))
		return walk_wide(cpu, linear, cpu->cr3 & ADDRESS_BITS, 4, w, page);
	if (cpu->cr4 & CR4_PAE) {
		uint64_t entry = cpu->pdptr[linear >> 30 & 3];

		if (!(entry & PTE_P))
			return WALK_ABSENT;
		return walk_wide(cpu, linear, entry & ADDRESS_BITS, 2, w, page);
	}
	return walk_32(cpu, linear, w, page);
}

bool mmu_allows(const struct soft_cpu *cpu, const struct mmu_page *page, enum mmu_want want,
		enum mem_kind kind)
{
	if (!cpu->paging)
		return true;
	if (want == MMU_EXEC)
		return !page->nx &&
		       (kind == MEM_USER ? page->user : !(page->user && (cpu->cr4 & CR4_SMEP)));
	if (kind == MEM_USER)
		return page->user && (want == MMU_READ || page->writable);
	if (kind == MEM_KERNEL && page->user && (cpu->cr4 & CR4_SMAP))
		return false;
	return want == MMU_READ || page->writable || !(cpu->cr0 & CR0_WP);
}

static uint32_t error_code(const struct soft_cpu *cpu, enum walk_result result, enum mmu_want want,
			   enum mem_kind kind)
{
	bool nx = (cpu->efer & EFER_NXE) && (cpu->cr4 & CR4_PAE);
	uint32_t error = 0;

	if (result != WALK_ABSENT)
		error |= PF_P;
	if (result == WALK_RESERVED)
		error |= PF_R;
	if (want == MMU_WRITE)
		error |= PF_W;
	if (kind == MEM_USER)
		error |= PF_U;
	if (want == MMU_EXEC && (nx || (cpu->cr4 & CR4_SMEP)))
		error |= PF_I;
	return error;
}

bool mmu_walk(struct soft_cpu *cpu, uint64_t linear, enum mmu_want want, enum mem_kind kind,
	      struct mmu_page *ret, uint32_t *ret_error)
{
	if (!cpu->paging) {
		*ret = (struct mmu_page){.gpa = linear,
					 .user = true,
					 .writable = true,
					 .dirty = true};
		return true;
	}
	for (;;) {
		struct walk w;
		enum walk_result result = walk_tables(cpu, linear, &w, ret);

		if (result != WALK_OK || !mmu_allows(cpu, ret, want, kind)) {
			*ret_error = error_code(cpu, result, want, kind);
			return false;
		}
		if (!walk_mark(cpu, &w, want == MMU_WRITE))
			continue;
		if (w.table.tag)
			*tlb_table(cpu, linear) = w.table;
		ret->dirty |= want == MMU_WRITE;
		ret->global &= (cpu->cr4 & CR4_PGE) != 0;
		return true;
	}
}

bool mmu_load_pdptrs(struct soft_cpu *cpu, uint64_t cr3)
{
	uint64_t entries[4];
	gpa_t table = cr3 & 0xFFFFFFE0;
	/* 2:1, 8:5 and what is above the physical address */
	uint64_t reserved = cpu->tlbs->reserved_bits | 0xFFF00000000001E6ULL;

	for (unsigned i = 0; i < 4; i++) {
		entries[i] = entry_read(cpu, table + i * 8, 8);
		if ((entries[i] & PTE_P) && (entries[i] & reserved))
			return false;
	}
	for (unsigned i = 0; i < 4; i++)
		cpu->pdptr[i] = entries[i];
	return true;
}
