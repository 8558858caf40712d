/*
 * What is dropped from the TLB, and when: CR3, CR4, PCIDs, INVLPG, INVPCID, large and global pages; which array is in use.
 */
#include "unit/test.h"

#include "sys_machine.h"
#include "vm/accel/soft/cpu/access.h"
#include "vm/accel/soft/cpu/cpu_int.h"

#define PAGE 0x1000000ULL /* linear, by the page table at 0x13000 */

/* Long mode, 16 MiB up by page tables; entry `i` maps page i to physical 0x100000 + 4096 * which. */
static void map(struct sys_machine *m, unsigned i, unsigned which, uint64_t bits)
{
	sys_put64(m, 0x13000 + 8ULL * i, (0x100000 + 4096ULL * which) | bits);
}

static struct sys_machine *machine(void)
{
	struct sys_machine *m = sys_machine_new();

	sys_long(m, 0);
	sys_put64(m, 0x11000, 0x12007);
	sys_put64(m, 0x12000, 0x00087); /* 2 MiB: 0 */
	sys_put64(m, 0x12000 + 8 * 8, 0x13007);
	sys_put64(m, 0x12000 + 9 * 8, 0x200087); /* a large page */
	for (unsigned which = 0; which < 8; which++)
		sys_put64(m, 0x100000 + 4096ULL * which, which + 1);
	m->cpu->cr4 |= CR4_PGE;
	tlb_flush_all(m->cpu);
	return m;
}

static uint64_t look(struct sys_machine *m, unsigned i)
{
	return mem_read_inline(m->cpu, PAGE + 4096ULL * i, 8);
}

static bool cached(struct sys_machine *m, uint64_t linear)
{
	return m->cpu->tlb[tlb_index(linear)].read == (linear & ~4095ULL);
}

static void test_cr3(void **state)
{
	struct sys_machine *m = machine();
	struct soft_cpu *cpu = m->cpu;

	(void)state;
	map(m, 0, 0, 7);
	map(m, 1, 1, 0x107); /* global */
	assert_int_equal(look(m, 0), 1);
	assert_int_equal(look(m, 1), 2);
	map(m, 0, 2, 7);
	map(m, 1, 3, 0x107);
	cpu_set_cr3(cpu, cpu->cr3);
	assert_int_equal(look(m, 0), 3);
	assert_true(cached(m, PAGE + 4096)); /* that is what global pages are for */
	assert_int_equal(look(m, 1), 2);
	cpu_set_cr4(cpu, cpu->cr4 & ~(uint64_t)CR4_PGE);
	assert_int_equal(look(m, 1), 4);
	/* Without PGE the bit means nothing. */
	map(m, 1, 0, 0x107);
	cpu_set_cr3(cpu, cpu->cr3);
	assert_int_equal(look(m, 1), 1);
	sys_machine_free(m);
}

static void test_invlpg(void **state)
{
	struct sys_machine *m = machine();
	const uint8_t invlpg[] = {0x0F, 0x01, 0x38}; /* [rax] */

	(void)state;
	map(m, 0, 0, 0x107);
	map(m, 1, 1, 7);
	look(m, 0);
	look(m, 1);
	map(m, 0, 2, 0x107);
	m->cpu->gpr[0] = PAGE + 0x123;
	assert_int_equal(sys_execute(m, invlpg, sizeof(invlpg)), -1);
	assert_int_equal(look(m, 0), 3);
	assert_true(cached(m, PAGE + 4096));
	/* One address of a large page stands for all of it. */
	mem_read_inline(m->cpu, PAGE + 0x200000, 8);
	mem_read_inline(m->cpu, PAGE + 0x2FF000, 8);
	m->cpu->gpr[0] = PAGE + 0x280000;
	assert_int_equal(sys_execute(m, invlpg, sizeof(invlpg)), -1);
	assert_false(cached(m, PAGE + 0x200000));
	assert_false(cached(m, PAGE + 0x2FF000));
	assert_true(cached(m, PAGE + 4096));
	m->cpu->gpr[0] = 1ULL << 63; /* not canonical: nothing */
	assert_int_equal(sys_execute(m, invlpg, sizeof(invlpg)), -1);
	sys_machine_free(m);
}

/* Walks begin at page tables that they have come to before: not once the tables above say otherwise and the guest has said so. */
static void test_tables(void **state)
{
	struct sys_machine *m = machine();
	struct soft_cpu *cpu = m->cpu;

	(void)state;
	map(m, 0, 0, 7);
	map(m, 1, 1, 7);
	map(m, 2, 2, 7);
	assert_int_equal(look(m, 0), 1);
	/* Another page table, in which these pages are others; told by INVLPG of a third one. */
	sys_put64(m, 0x14000, 0x105007);
	sys_put64(m, 0x14008, 0x106007);
	sys_put64(m, 0x12000 + 8 * 8, 0x14007);
	tlb_flush_page(cpu, PAGE + 2 * 4096);
	assert_int_equal(look(m, 1), 7);
	/* The rights of the upper level are those of its entry now; by CR3. */
	sys_put64(m, 0x12000 + 8 * 8, 0x14005);
	cpu_set_cr3(cpu, cpu->cr3);
	cpu->cr0 |= CR0_WP;
	assert_int_equal(SYS_RAISED(m, mem_write(cpu, PAGE, 1, 1)), VEC_PF);
	assert_int_equal(cpu->fault.error, PF_P | PF_W);
	assert_int_equal(look(m, 0), 6);
	assert_int_equal(SYS_RAISED(m, mem_write(cpu, PAGE, 1, 1)), VEC_PF);
	/* And a table that a walk has been to says what is new in it at once where nothing was cached. */
	sys_put64(m, 0x14018, 0x107005);
	assert_int_equal(look(m, 3), 8);
	assert_int_equal(sys_get64(m, 0x14018), 0x107025);
	sys_machine_free(m);
}

static int invpcid(struct sys_machine *m, uint64_t type, uint64_t pcid, uint64_t address)
{
	const uint8_t code[] = {0x66, 0x0F, 0x38, 0x82, 0x03}; /* rax, [rbx] */

	sys_put64(m, 0x5000, pcid);
	sys_put64(m, 0x5008, address);
	m->cpu->gpr[0] = type;
	m->cpu->gpr[3] = 0x5000;
	return sys_execute(m, code, sizeof(code));
}

static void test_pcid(void **state)
{
	struct sys_machine *m = machine();
	struct soft_cpu *cpu = m->cpu;
	const uint64_t keep = 1ULL << 63;

	(void)state;
	assert_int_equal(SYS_RAISED(m, cpu_set_cr3(cpu, cpu->cr3 | keep)), VEC_GP);
	cpu_set_cr4(cpu, cpu->cr4 | CR4_PCIDE);
	map(m, 0, 0, 7);
	map(m, 1, 0, 0x107);
	cpu_set_cr3(cpu, 0x10001);
	look(m, 0);
	look(m, 1);
	cpu_set_cr3(cpu, 0x10002);
	assert_int_equal(cpu->cr3, 0x10002);
	look(m, 0);
	cpu_set_cr3(cpu, 0x10001 | keep);
	assert_int_equal(cpu->cr3, 0x10001);
	assert_true(cached(m, PAGE));
	map(m, 0, 1, 7);
	cpu_set_cr3(cpu, 0x10001); /* only this one is flushed, and not its global pages */
	assert_int_equal(look(m, 0), 2);
	assert_true(cached(m, PAGE + 4096));
	cpu_set_cr3(cpu, 0x10002 | keep);
	assert_true(cached(m, PAGE));
	/* INVLPG: a global page goes from every PCID. */
	cpu_set_cr3(cpu, 0x10002 | keep);
	tlb_flush_page(cpu, PAGE + 4096);
	cpu_set_cr3(cpu, 0x10001 | keep);
	assert_false(cached(m, PAGE + 4096));
	/* More PCIDs than there are arrays: the oldest is given up, nothing stale is seen. */
	for (unsigned pcid = 3; pcid < 30; pcid++) {
		cpu_set_cr3(cpu, 0x10000 | pcid | keep);
		map(m, 0, pcid % 8, 7);
		assert_false(cached(m, PAGE));
		assert_int_equal(look(m, 0), pcid % 8 + 1);
	}
	assert_int_equal(SYS_RAISED(m, cpu_set_cr0(cpu, CR0_PE)), VEC_GP);
	sys_machine_free(m);
}

static void test_invpcid(void **state)
{
	struct sys_machine *m = machine();
	struct soft_cpu *cpu = m->cpu;
	const uint64_t keep = 1ULL << 63;

	(void)state;
	if (!(cpu->features & FEATURE_BIT(FEATURE_INVPCID))) {
		sys_machine_free(m);
		skip();
	}
	assert_int_equal(invpcid(m, 0, 1, PAGE), VEC_GP); /* no PCIDs yet */
	cpu_set_cr4(cpu, cpu->cr4 | CR4_PCIDE);
	map(m, 0, 0, 7);
	map(m, 1, 0, 7);
	map(m, 2, 0, 0x107);
	cpu_set_cr3(cpu, 0x10001);
	for (unsigned i = 0; i < 3; i++)
		look(m, i);
	cpu_set_cr3(cpu, 0x10002);
	for (unsigned i = 0; i < 3; i++)
		look(m, i);
	assert_int_equal(invpcid(m, 0, 1, PAGE), -1);
	assert_true(cached(m, PAGE));
	cpu_set_cr3(cpu, 0x10001 | keep);
	assert_false(cached(m, PAGE));
	assert_true(cached(m, PAGE + 4096));
	assert_int_equal(invpcid(m, 1, 1, 0), -1);
	assert_false(cached(m, PAGE + 4096));
	assert_true(cached(m, PAGE + 2 * 4096));
	assert_int_equal(invpcid(m, 3, 0, 0), -1);
	assert_true(cached(m, PAGE + 2 * 4096));
	cpu_set_cr3(cpu, 0x10002 | keep);
	assert_false(cached(m, PAGE));
	assert_true(cached(m, PAGE + 2 * 4096));
	assert_int_equal(invpcid(m, 2, 0, 0), -1);
	assert_false(cached(m, PAGE + 2 * 4096));
	assert_int_equal(invpcid(m, 4, 0, 0), VEC_GP);
	assert_int_equal(invpcid(m, 1, 0x1000, 0), VEC_GP);
	assert_int_equal(invpcid(m, 0, 1, 1ULL << 60), VEC_GP);
	sys_machine_free(m);
}

/* User, kernel and kernel with AC see different arrays; a write tag needs the dirty bit. */
static void test_kinds(void **state)
{
	struct sys_machine *m = machine();
	struct soft_cpu *cpu = m->cpu;

	(void)state;
	cpu_set_cr4(cpu, cpu->cr4 | CR4_SMAP | CR4_SMEP);
	map(m, 0, 0, 7);
	map(m, 1, 1, 3);
	assert_int_equal(SYS_RAISED(m, look(m, 0)), VEC_PF);
	assert_int_equal(cpu->fault.error, PF_P);
	cpu_set_rflags(cpu, RF_ONE | RF_AC);
	assert_int_equal(SYS_RAISED(m, look(m, 0)), -1);
	assert_int_equal(cpu->tlb[tlb_index(PAGE)].write, TLB_NEVER);
	assert_int_equal(cpu->tlb[tlb_index(PAGE)].exec, TLB_NEVER);
	assert_int_equal(sys_get64(m, 0x13000) & 0x60, 0x20);
	mem_write_inline(cpu, PAGE, 1, 1);
	assert_int_equal(cpu->tlb[tlb_index(PAGE)].write, PAGE);
	assert_int_equal(sys_get64(m, 0x13000) & 0x60, 0x60);
	/* What the processor reads for itself has no use for AC. */
	assert_int_equal(SYS_RAISED(m, mem_read_system(cpu, PAGE, 8)), VEC_PF);
	cpu_set_rflags(cpu, RF_ONE);
	assert_int_equal(SYS_RAISED(m, look(m, 0)), VEC_PF);
	cpu->seg[SEG_SS].attr |= 3 << 5;
	cpu_mode_changed(cpu);
	assert_int_equal(cpu->cpl, 3);
	assert_int_equal(SYS_RAISED(m, look(m, 0)), -1);
	assert_int_equal(SYS_RAISED(m, look(m, 1)), VEC_PF);
	assert_int_equal(cpu->fault.error, PF_P | PF_U);
	assert_int_equal(SYS_RAISED(m, mem_read_system(cpu, PAGE + 4096, 8)), -1);
	sys_machine_free(m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_cr3),    cmocka_unit_test(test_invlpg),
		cmocka_unit_test(test_pcid),   cmocka_unit_test(test_invpcid),
		cmocka_unit_test(test_tables), cmocka_unit_test(test_kinds),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
