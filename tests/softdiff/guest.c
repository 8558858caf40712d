/*
 * The software side: one vCPU in user mode, with page tables that show the window and the code at the native addresses, stepped instruction by
 * instruction.
 */
#include <setjmp.h>
#include <string.h>

#include "softdiff/diff.h"
#include "vm/accel/accel.h"
#include "vm/accel/soft/interp/code.h"
#include "vm/accel/soft/soft.h"
#include "vm/mem/gmem.h"

#define RAM_BYTES (4u << 20)
#define LINEAR    0x20000000ULL /* 2 MiB from here are mapped by one page table */
#define PHYSICAL  0x100000ULL   /* to here, as far as there is something */

#define MAX_STEPS 100000 /* iterations of string instructions, and more */

#define PML4 0x1000u
#define PDPT 0x2000u
#define PD   0x3000u
#define PT   0x4000u

#define PTE_P  1u
#define PTE_RW 2u
#define PTE_US 4u
#define PTE_AD 0x60u

static struct gmem *memory;
static struct accel *accel;
static struct soft_cpu *cpu;
static uint8_t *ram;

static void put_entry(unsigned table, unsigned index, uint64_t value)
{
	memcpy(ram + table + 8 * (size_t)index, &value, 8);
}

static void map_page(uint64_t linear, unsigned rights)
{
	put_entry(PT, (unsigned)(linear >> 12) & 511,
		  (linear - LINEAR + PHYSICAL) | rights | PTE_P | PTE_US | PTE_AD);
}

static void make_tables(void)
{
	unsigned all = PTE_P | PTE_RW | PTE_US | PTE_AD;

	put_entry(PML4, 0, PDPT | all);
	put_entry(PDPT, LINEAR >> 30 & 511, PD | all);
	put_entry(PD, LINEAR >> 21 & 511, PT | all);
	for (unsigned at = 0; at < WINDOW_SIZE; at += PAGE)
		map_page(WINDOW + at, PTE_RW);
	map_page(READ_ONLY, 0);
	for (unsigned at = 0; at < CODE_SIZE + PAGE; at += PAGE)
		map_page(CODE + at, 0);
	memset(ram + (CODE - LINEAR + PHYSICAL), 0xcc, CODE_SIZE + PAGE);
}

static void set_mode(enum insn_mode mode)
{
	static const struct soft_seg flat = {0, UINT32_MAX, 0x2b, 0xc0f3};
	uint16_t code = mode == INSN_MODE_64 ? 0xa0fb : 0xc0fb;

	if (cpu->seg[SEG_CS].attr == code)
		return;
	for (unsigned i = 0; i < INSN_N_SEGS; i++)
		cpu->seg[i] = flat;
	cpu->seg[SEG_CS].selector = mode == INSN_MODE_64 ? 0x33 : 0x23;
	cpu->seg[SEG_CS].attr = code;
	cpu->cpl = 3;
	cpu_mode_changed(cpu);
}

static int open_machine(struct error *err)
{
	struct gmem_config config = {.ram_bytes = RAM_BYTES};
	struct accel_config accel_config = {
		.kind = ACCEL_SOFT, .n_vcpus = 1, .sockets = 1, .cores = 1, .threads = 1};
	const struct gmem_region *regions;
	struct accel_vcpu *vcpu;
	int r = gmem_new(&config, &memory, err);

	if (r >= 0)
		r = accel_open(&accel_config, &accel, err);
	if (r >= 0) {
		gmem_regions(memory, &regions);
		ram = regions[0].hva;
		r = accel_map(accel, &regions[0], err);
	}
	if (r >= 0)
		r = accel_vcpu_new(accel, 0, &vcpu, err);
	if (r >= 0)
		cpu = soft_cpu_of(vcpu);
	return r;
}

int guest_init(void)
{
	struct error err = ERROR_INIT;
	int r = open_machine(&err);

	if (r < 0) {
		fprintf(stderr, "softdiff: %s\n", err.text);
		return r;
	}
	make_tables();
	cpu->cr0 = CR0_PE | CR0_MP | CR0_ET | CR0_NE | CR0_WP | CR0_AM | CR0_PG;
	cpu->cr3 = PML4;
	cpu->cr4 = CR4_PAE | CR4_PGE | CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_UMIP | CR4_FSGSBASE |
		   CR4_OSXSAVE;
	cpu->efer = EFER_LME | EFER_LMA | EFER_SCE | EFER_NXE;
	cpu->xcr0 = 7;
	set_mode(INSN_MODE_64);
	return 0;
}

cpu_features_t guest_features(void)
{
	return cpu->features;
}

static uint8_t *host_of(uint64_t linear)
{
	return ram + (linear - LINEAR + PHYSICAL);
}

void guest_poke(uint64_t linear, const void *from, size_t n)
{
	memcpy(host_of(linear), from, n);
}

const uint8_t *guest_window(void)
{
	return host_of(WINDOW);
}

static void put_state(const struct diff_state *s)
{
	memcpy(cpu->gpr, s->gpr, sizeof(cpu->gpr));
	cpu->rip = s->rip;
	cpu_set_rflags(cpu, s->rflags);
	memcpy(cpu->fpu, s->fpu, FPU_AREA);
	cpu->seg[SEG_GS].base = s->gs_base;
}

/* Whether rip is that of one of the case's instructions. */
static bool goes_on(const struct diff_case *c)
{
	for (unsigned i = 0; i < c->n; i++)
		if (cpu->rip == c->before.rip + c->offset[i])
			return true;
	return false;
}

/* Steps until the case has been left or has faulted. A repeated string instruction takes several steps. */
static void step(const struct diff_case *c, struct diff_outcome *ret)
{
	/* Kept over a longjmp. */
	volatile unsigned left = MAX_STEPS;

	if (setjmp(cpu->unwind) == SOFT_UNWIND_FAULT) {
		ret->vector = cpu->fault.vector;
		ret->error = cpu->fault.has_error ? cpu->fault.error : 0;
		ret->address = cpu->fault.vector == VEC_PF ? cpu->fault.address : 0;
		return;
	}
	while (left-- && goes_on(c))
		interp_step(cpu);
}

void guest_run(const struct diff_case *c, struct diff_outcome *ret)
{
	uint8_t *at = host_of(c->before.rip);

	set_mode(c->mode);
	memcpy(at, c->code, c->offset[c->n]);
	put_state(&c->before);
	ret->vector = -1;
	ret->error = 0;
	ret->address = 0;
	step(c, ret);
	memcpy(ret->state.gpr, cpu->gpr, sizeof(cpu->gpr));
	ret->state.rip = cpu->rip;
	ret->state.rflags = cpu_get_rflags(cpu);
	memcpy(ret->state.fpu, cpu->fpu, FPU_AREA);
	ret->state.gs_base = cpu->seg[SEG_GS].base;
	memset(at, 0xcc, c->offset[c->n]);
}
