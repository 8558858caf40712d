/*
 * Page walks: every combination of what an entry can say, in every format, for every kind of access, against the rules of SDM volume 3,
 * sections 4.6.1 and 4.7 written down once more; and memory accesses that cross, miss or are watched.
 */
#include "unit/test.h"

#include "sys_machine.h"
#include "vm/accel/soft/cpu/access.h"
#include "vm/accel/soft/cpu/cpu_int.h"

#define ROOT   0x10000u
#define TABLE1 0x11000u
#define TABLE2 0x12000u
#define TABLE3 0x13000u
#define LINEAR 0x00403000u /* its page, or the large page around it, is what the matrix is about */
#define TARGET 0x00200000u /* physical, 2 MiB aligned; for 4 MiB pages it is 0 */

enum format { F_32_4K, F_32_4M, F_PAE_4K, F_PAE_2M, F_LONG_4K, F_LONG_2M, F_LONG_1G, N_FORMATS };

struct bits {
	bool p_up, w_up, u_up, x_up; /* in the entry above the leaf */
	bool p, w, u, x, reserved;   /* in the leaf */
};

static bool is_pae(enum format f)
{
	return f >= F_PAE_4K;
}

static bool is_large(enum format f)
{
	return f == F_32_4M || f == F_PAE_2M || f == F_LONG_2M || f == F_LONG_1G;
}

static bool has_upper(enum format f)
{
	return f != F_32_4M && f != F_PAE_2M;
}

static uint64_t entry(uint64_t to, bool p, bool w, bool u, bool x, bool pae)
{
	return to | p | (uint64_t)w << 1 | (uint64_t)u << 2 |
	       (pae && !x ? 0x8000000000000000ULL : 0);
}

static uint64_t reserved_bit(enum format f)
{
	switch (f) {
	case F_32_4M:
		return 1u << 21;
	case F_PAE_2M:
	case F_LONG_2M:
		return 1u << 13;
	case F_LONG_1G:
		return 1u << 14;
	case F_PAE_4K:
		return 1ULL << 62;
	default:
		return 1ULL
		       << 51; /* no processor has 52 address bits and 64 KiB pages of them here */
	}
}

/* Where the leaf is; the tables of a format are written. */
static gpa_t build(struct sys_machine *m, enum format f, const struct bits *b)
{
	uint64_t leaf_to = f == F_32_4M || f == F_LONG_1G ? 0 : TARGET;
	uint64_t leaf, upper;
	bool pae = is_pae(f);

	memset(m->ram + ROOT, 0, 0x4000);
	leaf = entry(leaf_to, b->p, b->w, b->u, b->x, pae) | (is_large(f) ? 0x80 : 0) |
	       (b->reserved ? reserved_bit(f) : 0);
	upper = entry(0, b->p_up, b->w_up, b->u_up, b->x_up, pae);
	switch (f) {
	case F_32_4K:
		sys_put32(m, ROOT + 4, (uint32_t)upper | TABLE1);
		sys_put32(m, TABLE1 + 3 * 4, (uint32_t)leaf);
		return TABLE1 + 3 * 4;
	case F_32_4M:
		sys_put32(m, ROOT + 4, (uint32_t)leaf);
		return ROOT + 4;
	case F_PAE_4K:
		sys_put64(m, ROOT, TABLE1 | 1);
		sys_put64(m, TABLE1 + 2 * 8, upper | TABLE2);
		sys_put64(m, TABLE2 + 3 * 8, leaf);
		return TABLE2 + 3 * 8;
	case F_PAE_2M:
		sys_put64(m, ROOT, TABLE1 | 1);
		sys_put64(m, TABLE1 + 2 * 8, leaf);
		return TABLE1 + 2 * 8;
	case F_LONG_4K:
		sys_put64(m, ROOT, TABLE1 | 7);
		sys_put64(m, TABLE1, TABLE2 | 7);
		sys_put64(m, TABLE2 + 2 * 8, upper | TABLE3);
		sys_put64(m, TABLE3 + 3 * 8, leaf);
		return TABLE3 + 3 * 8;
	case F_LONG_2M:
		sys_put64(m, ROOT, TABLE1 | 7);
		sys_put64(m, TABLE1, upper | TABLE2);
		sys_put64(m, TABLE2 + 2 * 8, leaf);
		return TABLE2 + 2 * 8;
	default:
		sys_put64(m, ROOT, upper | TABLE1);
		sys_put64(m, TABLE1, leaf);
		return TABLE1;
	}
}

static void set_mode(struct soft_cpu *cpu, enum format f, bool wp, bool smep, bool smap, bool ac,
		     bool user)
{
	cpu->cr0 = CR0_PE | CR0_ET | CR0_PG | (wp ? CR0_WP : 0);
	cpu->cr4 =
		CR4_PSE | (is_pae(f) ? CR4_PAE : 0) | (smep ? CR4_SMEP : 0) | (smap ? CR4_SMAP : 0);
	cpu->efer = is_pae(f) ? EFER_NXE | (f >= F_LONG_4K ? EFER_LME | EFER_LMA : 0) : 0;
	cpu->cr3 = ROOT;
	if (f == F_PAE_4K || f == F_PAE_2M)
		assert_true(mmu_load_pdptrs(cpu, ROOT));
	cpu->rflags = RF_ONE | (ac ? RF_AC : 0);
	cpu->seg[SEG_SS].attr = user ? 0xC0F3 : 0xC093;
	tlb_flush_all(cpu);
	cpu_mode_changed(cpu);
}

/* The rules. Returns -1 for allowed, or the error code. */
static int expected(enum format f, const struct bits *b, enum mmu_want want, bool user, bool wp,
		    bool smep, bool smap, bool ac)
{
	bool upper = has_upper(f), pae = is_pae(f);
	bool page_user = b->u && (!upper || b->u_up), page_write = b->w && (!upper || b->w_up);
	bool page_exec = !pae || (b->x && (!upper || b->x_up));
	int code = (want == MMU_WRITE ? 2 : 0) | (user ? 4 : 0) |
		   (want == MMU_EXEC && (pae || smep) ? 16 : 0);

	if ((upper && !b->p_up) || !b->p)
		return code;
	if (b->reserved)
		return code | 1 | 8;
	if (user && !page_user)
		return code | 1;
	if (want == MMU_EXEC)
		return !page_exec || (!user && page_user && smep) ? code | 1 : -1;
	if (!user && page_user && smap && !ac)
		return code | 1;
	if (want == MMU_WRITE && !page_write && (user || wp))
		return code | 1;
	return -1;
}

static void check_one(struct sys_machine *m, enum format f, unsigned how, unsigned mode)
{
	struct soft_cpu *cpu = m->cpu;
	struct bits b = {how & 1,  how & 2,  how & 4,   how & 8,  how & 16,
			 how & 32, how & 64, how & 128, how & 256};
	bool wp = mode & 1, smep = mode & 2, smap = mode & 4, ac = mode & 8, user = mode & 16;
	enum mmu_want want = (enum mmu_want)(mode / 32);
	enum mem_kind kind = user ? MEM_USER : smap && ac ? MEM_KERNEL_AC : MEM_KERNEL;
	gpa_t leaf = build(m, f, &b);
	uint64_t before;
	int expect = expected(f, &b, want, user, wp, smep, smap, ac);
	struct mmu_page page;
	uint32_t error = ~0u;
	bool good;

	set_mode(cpu, f, wp, smep, smap, ac, user);
	before = sys_get64(m, leaf);
	good = mmu_walk(cpu, LINEAR, want, kind, &page, &error);
	assert_int_equal(good, expect == -1);
	if (!good) {
		assert_int_equal((int)error, expect);
		assert_int_equal(sys_get64(m, leaf), before);
		return;
	}
	assert_int_equal(page.gpa, f == F_32_4M     ? (LINEAR & 0x3FFFFF)
				   : f == F_LONG_1G ? LINEAR
				   : is_large(f)    ? TARGET | (LINEAR & 0x1FFFFF)
						    : TARGET);
	assert_int_equal(sys_get64(m, leaf) & ~before, 0x20 | (want == MMU_WRITE ? 0x40 : 0));
}

static void test_matrix(void **state)
{
	struct sys_machine *m = sys_machine_new();

	(void)state;
	for (unsigned f = 0; f < N_FORMATS; f++) {
		for (unsigned how = 0; how < 512; how++) {
			if (f == F_32_4K && (how & 256)) /* nothing is reserved there */
				continue;
			for (unsigned mode = 0; mode < 96; mode++)
				check_one(m, (enum format)f, how, mode);
		}
	}
	sys_machine_free(m);
}

/* NX is a reserved bit while EFER.NXE is clear; in a PDPTE other bits are, at the load. */
static void test_reserved(void **state)
{
	struct sys_machine *m = sys_machine_new();
	struct bits all = {true, true, true, true, true, true, true, false, false};
	struct mmu_page page;
	uint32_t error;

	(void)state;
	build(m, F_LONG_4K, &all);
	set_mode(m->cpu, F_LONG_4K, true, false, false, false, false);
	m->cpu->efer &= ~(uint64_t)EFER_NXE;
	assert_false(mmu_walk(m->cpu, LINEAR, MMU_READ, MEM_KERNEL, &page, &error));
	assert_int_equal(error, PF_P | PF_R);
	sys_put64(m, ROOT, TABLE1 | 3);
	assert_false(mmu_load_pdptrs(m->cpu, ROOT));
	sys_put64(m, ROOT, TABLE1 | 0x200 | 1);
	assert_true(mmu_load_pdptrs(m->cpu, ROOT));
	/* PSE-36: bits 39:32 of the address in 20:13. */
	set_mode(m->cpu, F_32_4M, true, false, false, false, false);
	sys_put32(m, ROOT + 4, 0x83 | 1u << 13);
	assert_true(mmu_walk(m->cpu, LINEAR, MMU_READ, MEM_KERNEL, &page, &error));
	assert_int_equal(page.gpa, 0x100000000ULL | (LINEAR & 0x3FFFFF));
	sys_machine_free(m);
}

/* An access that crosses into a page that is not there changes nothing in the first. */
static void test_crossing(void **state)
{
	struct sys_machine *m = sys_machine_new();
	struct soft_cpu *cpu = m->cpu;

	(void)state;
	sys_long(m, 0);
	sys_put64(m, 0x11000, 0x12007);
	sys_put64(m, 0x12000 + 8 * 8, 0x13007); /* 16 MiB: page tables */
	sys_put64(m, 0x13000, 0x20007);
	tlb_flush_all(cpu);
	assert_int_equal(SYS_RAISED(m, mem_write(cpu, 0x1000FFC, 8, ~0ULL)), VEC_PF);
	assert_int_equal(cpu->fault.address, 0x1001000);
	assert_int_equal(cpu->fault.error, PF_W);
	assert_int_equal(sys_get32(m, 0x20FFC), 0);
	sys_put64(m, 0x13008, 0x300007); /* the next page is elsewhere */
	assert_int_equal(SYS_RAISED(m, mem_write(cpu, 0x1000FFD, 8, 0x8877665544332211)), -1);
	assert_int_equal(sys_get32(m, 0x20FFC), 0x33221100);
	assert_int_equal(sys_get64(m, 0x300000), 0x8877665544);
	assert_int_equal(mem_read(cpu, 0x1000FFD, 8), 0x8877665544332211);
	assert_null(mem_host_rw(cpu, 0x1000FFD, 8));
	assert_non_null(mem_host_rw(cpu, 0x1000FF8, 8));
	/* Where there is no RAM: aligned pieces. */
	sys_put64(m, 0x13010, 0x10000007);
	mem_write(cpu, 0x1002001, 8, 0x8877665544332211);
	assert_int_equal(m->n_mmio, 4);
	assert_int_equal(m->mmio[0].gpa, 0x10000001);
	assert_int_equal(m->mmio[0].size, 1);
	assert_int_equal(m->mmio[1].size, 2);
	assert_int_equal(m->mmio[2].gpa, 0x10000004);
	assert_int_equal(m->mmio[2].size, 4);
	assert_int_equal(m->mmio[2].value, 0x77665544);
	assert_int_equal(m->mmio[3].value, 0x88);
	assert_null(mem_host_r(cpu, 0x1002008, 8));
	assert_null(tlb_fill(cpu, 0x1002008, false));
	sys_machine_free(m);
}

/* Pages with code and pages that are tracked keep the write tag away until somebody knows. */
static void test_pages(void **state)
{
	struct sys_machine *m = sys_machine_new();
	struct soft_cpu *cpu = m->cpu;
	_Atomic uint8_t *flags = m->soft.regions[0].pages;

	(void)state;
	sys_long(m, 0);
	flags[0x20] = PAGE_CODE;
	mem_write_inline(cpu, 0x20010, 4, 1);
	mem_write_inline(cpu, 0x20014, 4, 1);
	assert_int_equal(m->n_code_writes, 2);
	assert_int_equal(m->code_written_at, 0x20014);
	assert_null(tlb_fill(cpu, 0x20010, true));
	assert_null(mem_host_rw(cpu, 0x20010, 4));
	assert_non_null(tlb_fill(cpu, 0x20010, false));
	assert_non_null(tlb_fill(cpu, 0x21010, true));
	assert_int_equal(flags[0x21], 0);
	m->soft.tracking = true;
	tlb_flush_all(cpu);
	assert_non_null(tlb_fill(cpu, 0x21010, false));
	assert_int_equal(flags[0x21], 0);
	assert_int_not_equal(cpu->tlb[tlb_index(0x21010)].write, 0x21000);
	mem_write_inline(cpu, 0x21010, 4, 1);
	assert_int_equal(flags[0x21], PAGE_DIRTY);
	assert_int_equal(cpu->tlb[tlb_index(0x21010)].write, 0x21000);
	/* ROM: reads are direct, writes go outside. */
	m->soft.regions[0].mem.readonly = true;
	tlb_flush_all(cpu);
	mem_write_inline(cpu, 0x22010, 4, 0x1234);
	assert_int_equal(sys_get32(m, 0x22010), 0);
	assert_int_equal(m->n_mmio, 1);
	assert_int_equal(mem_read_inline(cpu, 0x22010, 4), 0);
	assert_int_equal(m->n_mmio, 1);
	sys_machine_free(m);
}

/* Alignment checks and breakpoints on data see accesses that hit the TLB, too. */
static void test_checks(void **state)
{
	struct sys_machine *m = sys_machine_new();
	struct soft_cpu *cpu = m->cpu;

	(void)state;
	sys_long(m, 3);
	assert_int_equal(SYS_RAISED(m, mem_read_inline(cpu, 0x20002, 4)), -1);
	cpu->cr0 |= CR0_AM;
	cpu_set_rflags(cpu, RF_ONE | RF_AC);
	assert_int_equal(SYS_RAISED(m, mem_read_inline(cpu, 0x20002, 4)), VEC_AC);
	assert_int_equal(SYS_RAISED(m, mem_read_inline(cpu, 0x20002, 2)), -1);
	assert_int_equal(SYS_RAISED(m, mem_host_rw(cpu, 0x20004, 8)), VEC_AC);
	cpu_set_rflags(cpu, RF_ONE);
	cpu->dr[1] = 0x20004;
	cpu->dr7 = 0x400 | 4 | 1u << 20 | 3u << 22; /* writes of 4 bytes */
	cpu_mode_changed(cpu);
	assert_int_equal(cpu->debug & DEBUG_BREAK, DEBUG_BREAK);
	cpu_debug_before(cpu);
	mem_read_inline(cpu, 0x20004, 4);
	assert_int_equal(SYS_RAISED(m, cpu_debug_after(cpu)), -1);
	cpu_debug_before(cpu);
	mem_write_inline(cpu, 0x20000, 4, 1);
	assert_int_equal(SYS_RAISED(m, cpu_debug_after(cpu)), -1);
	cpu_debug_before(cpu);
	mem_write_inline(cpu, 0x20001, 4, 1);
	assert_int_equal(SYS_RAISED(m, cpu_debug_after(cpu)), VEC_DB);
	assert_int_equal(cpu->fault.address, 2);
	sys_machine_free(m);
}

static void test_fetch(void **state)
{
	struct sys_machine *m = sys_machine_new();
	struct soft_cpu *cpu = m->cpu;
	uint8_t buf[15];
	gpa_t gpa;

	(void)state;
	sys_long(m, 0);
	sys_put64(m, 0x11000, 0x12007);
	sys_put64(m, 0x12000 + 8 * 8, 0x13007);
	sys_put64(m, 0x13000, 0x20007);
	tlb_flush_all(cpu);
	m->ram[0x20FFF] = 0x90;
	assert_int_equal(mem_fetch(cpu, 0x1000FFF, buf, 15, &gpa), 1);
	assert_int_equal(gpa, 0x20FFF);
	assert_int_equal(buf[0], 0x90);
	sys_put64(m, 0x13008, 0x8000000000300007ULL); /* no code there */
	assert_int_equal(mem_fetch(cpu, 0x1000FFF, buf, 15, &gpa), 1);
	sys_put64(m, 0x13008, 0x300007);
	m->ram[0x300000] = 0x55;
	assert_int_equal(mem_fetch(cpu, 0x1000FFF, buf, 15, &gpa), 15);
	assert_int_equal(buf[1], 0x55);
	assert_int_equal(SYS_RAISED(m, mem_fetch(cpu, 0x1002000, buf, 15, &gpa)), VEC_PF);
	assert_int_equal(cpu->fault.error, PF_I);
	assert_ptr_equal(mem_code_page(cpu, 0x1001234, &gpa), m->ram + 0x300000);
	assert_int_equal(gpa, 0x300000);
	sys_machine_free(m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_matrix),   cmocka_unit_test(test_reserved),
		cmocka_unit_test(test_crossing), cmocka_unit_test(test_pages),
		cmocka_unit_test(test_checks),   cmocka_unit_test(test_fetch),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
