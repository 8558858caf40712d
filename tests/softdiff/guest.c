/*
 * The software side: a machine with one vCPU in user mode, page tables that show the window and the code at the native addresses, and what the kernel of
 * such a machine needs to catch faults: descriptor tables, a task state segment, a handler for each vector.
 */
#include <string.h>

#include "softdiff/diff.h"
#include "vm/accel/accel.h"
#include "softdiff/guest_int.h"
#include "vm/accel/soft/interp/code.h"
#include "vm/mem/gmem.h"

#define RAM_BYTES (4u << 20)
#define LINEAR    0x20000000ULL /* 2 MiB from here are mapped by one page table */
#define PHYSICAL  0x100000ULL   /* to here, as far as there is something */

#define PML4 0x1000u
#define PDPT 0x2000u
#define PD   0x3000u
#define PT   0x4000u

#define KERNEL_PDPT     0x6000u
#define KERNEL_PD       0x7000u
#define KERNEL_PT       0x8000u
#define KERNEL_PHYSICAL 0x10000u

#define PTE_P  1u
#define PTE_RW 2u
#define PTE_US 4u
#define PTE_AD 0x60u
#define PTE_NX (1ULL << 63)

static struct gmem *memory;
static struct accel *accel;
static struct soft_cpu *cpu;
static uint8_t *ram;

static void put_entry(unsigned table, unsigned index, uint64_t value)
{
	memcpy(ram + table + 8 * (size_t)index, &value, 8);
}

static void map_page(uint64_t linear, uint64_t rights)
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
		map_page(WINDOW + at, PTE_RW | PTE_NX);
	map_page(READ_ONLY, PTE_NX);
	for (unsigned at = 0; at < CODE_SIZE + PAGE; at += PAGE)
		map_page(CODE + at, 0);
	memset(ram + (CODE - LINEAR + PHYSICAL), 0xcc, CODE_SIZE + PAGE);
}

/* Pages for the kernel alone, in its half of addresses. */
#define KERNEL   0xffff800000000000ULL
#define IDT      KERNEL
#define GDT      (KERNEL + PAGE)
#define TSS      (KERNEL + 2 * PAGE)
#define HANDLERS (KERNEL + 3 * PAGE)
#define STACK    (KERNEL + 4 * PAGE)

#define KERNEL_CS 0x10
#define N_VECTORS 32

static void put_gate(unsigned vector, unsigned dpl)
{
	uint64_t handler = HANDLERS + 16 * (uint64_t)vector;
	uint64_t gate[2] = {(handler & 0xffff) | KERNEL_CS << 16 | (0x8e00ULL | dpl << 13) << 32 |
				    (handler >> 16 & 0xffff) << 48,
			    handler >> 32};

	memcpy(guest_host(IDT + 16 * (uint64_t)vector), gate, 16);
	/* out vector, al: the machine stops there. */
	memcpy(guest_host(handler), (uint8_t[]){0xe6, (uint8_t)vector, 0xeb, 0xfe}, 4);
}

static void make_kernel(void)
{
	uint64_t code = 0x00af9b000000ffff, stack = STACK + PAGE;
	unsigned all = PTE_P | PTE_RW | PTE_AD;

	put_entry(PML4, 256, KERNEL_PDPT | all);
	put_entry(KERNEL_PDPT, 0, KERNEL_PD | all);
	put_entry(KERNEL_PD, 0, KERNEL_PT | all);
	for (unsigned i = 0; i < 5; i++)
		put_entry(KERNEL_PT, i, (KERNEL_PHYSICAL + i * PAGE) | all);
	for (unsigned i = 0; i < N_VECTORS; i++)
		put_gate(i, i == VEC_BP ? 3 : 0);
	memcpy(guest_host(GDT + KERNEL_CS), &code, 8);
	memcpy(guest_host(TSS + 4), &stack, 8);
	cpu->idt = (struct x86_table){IDT, 16 * N_VECTORS - 1};
	cpu->gdt = (struct x86_table){GDT, KERNEL_CS + 7};
	cpu->tr = (struct soft_seg){TSS, 0x67, 0x20, 0x8b};
}

static void on_port(void *opaque, unsigned vcpu, uint16_t port, bool is_write, void *data,
		    unsigned size)
{
	soft_request(cpu, REQ_KICK);
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

static int open_machine(enum engine engine, struct error *err)
{
	struct gmem_config config = {.ram_bytes = RAM_BYTES};
	struct accel_config accel_config = {.kind = ACCEL_SOFT,
					    .n_vcpus = 1,
					    .sockets = 1,
					    .cores = 1,
					    .threads = 1,
					    .handlers.pio = on_port,
					    .interpret = engine != ENGINE_TRANSLATE};
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

int guest_init(enum engine engine)
{
	struct error err = ERROR_INIT;
	int r = open_machine(engine, &err);

	if (r < 0) {
		fprintf(stderr, "softdiff: %s\n", err.text);
		return r;
	}
	make_tables();
	make_kernel();
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

uint8_t *guest_host(uint64_t linear)
{
	return ram +
	       (linear >= KERNEL ? linear - KERNEL + KERNEL_PHYSICAL : linear - LINEAR + PHYSICAL);
}

void guest_poke(uint64_t linear, const void *from, size_t n)
{
	memcpy(guest_host(linear), from, n);
}

const uint8_t *guest_window(void)
{
	return guest_host(WINDOW);
}

void guest_put_state(const struct diff_case *c, enum engine engine)
{
	const struct diff_state *s = &c->before;
	uint8_t *at = guest_host(s->rip);

	set_mode(c->mode);
	memcpy(at, c->code, c->offset[c->n]);
	/* UD2 ends it, where code is run and not stepped. */
	memcpy(at + c->offset[c->n], (uint8_t[]){0x0f, 0x0b}, 2);
	if (engine != ENGINE_STEP)
		code_written(cpu->soft, cpu, (gpa_t)(at - ram), c->offset[c->n] + 2);
	memcpy(cpu->gpr, s->gpr, sizeof(cpu->gpr));
	cpu->rip = s->rip;
	cpu_set_rflags(cpu, s->rflags);
	memcpy(cpu->fpu, s->fpu, FPU_AREA);
	cpu->seg[SEG_GS].base = s->gs_base;
}

void guest_take_state(const struct diff_case *c, struct diff_outcome *ret)
{
	memcpy(ret->state.gpr, cpu->gpr, sizeof(cpu->gpr));
	ret->state.rip = cpu->rip;
	ret->state.rflags = cpu_get_rflags(cpu);
	memcpy(ret->state.fpu, cpu->fpu, FPU_AREA);
	ret->state.gs_base = cpu->seg[SEG_GS].base;
	memset(guest_host(c->before.rip), 0xcc, c->offset[c->n] + 2);
}

struct soft_cpu *guest_cpu(void)
{
	return cpu;
}
