/*
 * Any bytes as code, in real, 32-bit and 64-bit mode, on two machines: one decodes each instruction afresh, the other keeps blocks of decoded
 * code. Both must be alike after each instruction, however the code writes over itself; and nothing outside of guest memory may be
 * touched, whatever it does.
 */
#include <setjmp.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "vm/accel/soft/interp/code.h"
#include "vm/accel/soft/irq/irq_int.h"

#define RAM_BYTES 0x24000u
#define CODE      0x8000u
#define TABLES    0x20000u
#define N_STEPS   48

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct machine {
	struct accel *accel;
	struct gmem *mem;
	struct soft_cpu *cpu;
	uint8_t *ram;
};

static void check(bool holds)
{
	if (!holds)
		abort();
}

/* Nothing answers. */
static void no_pio(void *opaque, unsigned vcpu, uint16_t port, bool is_write, void *data,
		   unsigned size)
{
	if (!is_write)
		memset(data, 0xff, size);
}

static void no_mmio(void *opaque, unsigned vcpu, gpa_t addr, bool is_write, void *data,
		    unsigned size)
{
	if (!is_write)
		memset(data, 0xff, size);
}

static void machine_new(struct machine *m)
{
	const struct gmem_config mem = {.ram_bytes = RAM_BYTES};
	const struct accel_config config = {
		.kind = ACCEL_SOFT,
		.n_vcpus = 1,
		.sockets = 1,
		.cores = 1,
		.threads = 1,
		.interpret = true,
		.handlers = {.pio = no_pio, .mmio = no_mmio},
	};
	const struct gmem_region *regions;
	struct accel_vcpu *vcpu = NULL;
	struct error err = ERROR_INIT;

	check(accel_open(&config, &m->accel, &err) == 0 && gmem_new(&mem, &m->mem, &err) == 0);
	gmem_regions(m->mem, &regions);
	check(accel_map(m->accel, regions, &err) == 0 &&
	      accel_vcpu_new(m->accel, 0, &vcpu, &err) == 0);
	m->cpu = soft_cpu_of(vcpu);
	m->ram = gmem_ptr(m->mem, 0, RAM_BYTES);
}

/* The input's code, and registers that point into it. */
static void machine_set(struct machine *m, unsigned mode, const uint8_t *code, size_t size)
{
	const struct x86_boot_regs regs = {
		.mode = mode == 0   ? X86_BOOT_REAL
			: mode == 1 ? X86_BOOT_PROTECTED32
				    : X86_BOOT_LONG64,
		.rip = CODE,
		.rsp = CODE + 0x800,
		.cr3 = TABLES,
		.cs_selector = 8,
		.ds_selector = 16,
		.tss_selector = 24,
	};
	const uint64_t entry[3] = {(TABLES + 0x1000) | 7, (TABLES + 0x2000) | 7, 0x87};
	struct error err = ERROR_INIT;

	memset(m->ram, 0, RAM_BYTES);
	for (unsigned i = 0; i < 3; i++)
		memcpy(m->ram + TABLES + 0x1000 * i, &entry[i], 8);
	memcpy(m->ram + CODE, code, size);
	memcpy(m->ram, code, MIN(size, 0x100));
	code_written(m->cpu->soft, NULL, 0, RAM_BYTES);
	cpu_reset(m->cpu);
	check(accel_vcpu_set_boot(&m->cpu->base, &regs, &err) == 0);
	for (unsigned i = 0; i < 16; i++)
		if (i != 4)
			m->cpu->gpr[i] = CODE + 8 * i;
	/* What it shows depends on time. */
	atomic_store(&m->cpu->lapic->base, 0);
}

/* What may not give the same twice, or needs a run loop. */
static bool is_out_of_bounds(const struct insn *insn)
{
	switch (insn->op) {
	case OP_IN:
	case OP_INS:
	case OP_RDTSC:
	case OP_RDTSCP:
	case OP_RDPMC:
	case OP_RDMSR:
	case OP_WRMSR:
	case OP_RDRAND:
	case OP_RDSEED:
	case OP_HLT:
		return true;
	default:
		return false;
	}
}

/* A look ahead: is the next instruction one of those? A string is one element or none: how many are done before a request ends it is
 * up to where they are. */
static bool ends_here(struct soft_cpu *cpu, struct soft_cpu *other)
{
	uint64_t linear = cpu->mode == INSN_MODE_64
				  ? cpu->rip
				  : (cpu->seg[SEG_CS].base + cpu->rip) & 0xffffffff;
	uint8_t bytes[INSN_MAX_BYTES];
	struct insn insn;
	unsigned n;
	gpa_t gpa;

	if (setjmp(cpu->unwind) != 0)
		return false;
	n = mem_fetch(cpu, linear, bytes, sizeof(bytes), &gpa);
	if (insn_decode(bytes, n, cpu->mode, cpu->vex_ok, cpu->features, &insn) != INSN_OK)
		return false;
	if (insn.form->attrs & FORM_REP && insn.rep)
		cpu->gpr[1] = other->gpr[1] = cpu->gpr[1] & 1;
	return is_out_of_bounds(&insn);
}

/* One instruction, afresh. False: a triple fault. */
static bool step_afresh(struct soft_cpu *cpu)
{
	atomic_store(&cpu->request, REQ_SELF);
	if (setjmp(cpu->unwind) == 0) {
		cpu->shadow = false;
		interp_step(cpu);
		return true;
	}
	return cpu_deliver_fault(cpu);
}

/* One instruction of a block: a request ends it. */
static bool step_block(struct soft_cpu *cpu)
{
	atomic_store(&cpu->request, REQ_SELF);
	return interp_run(cpu);
}

static void compare(const struct soft_cpu *a, const struct soft_cpu *b)
{
	check(memcmp(a->gpr, b->gpr, sizeof(a->gpr)) == 0);
	check(a->rip == b->rip && a->status == b->status && a->rflags == b->rflags);
	check(a->mode == b->mode && a->cpl == b->cpl && a->cr0 == b->cr0 && a->cr2 == b->cr2 &&
	      a->cr3 == b->cr3 && a->cr4 == b->cr4 && a->efer == b->efer);
	check(memcmp(a->seg, b->seg, sizeof(a->seg)) == 0);
	check(memcmp(a->fpu, b->fpu, sizeof(a->fpu)) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct machine one, other;

	if (size < 2)
		return 0;
	if (!one.accel) {
		machine_new(&one);
		machine_new(&other);
	}
	size = MIN(size - 1, 0x800);
	machine_set(&one, data[0] % 3, data + 1, size);
	machine_set(&other, data[0] % 3, data + 1, size);
	for (unsigned i = 0; i < N_STEPS && !ends_here(one.cpu, other.cpu); i++) {
		bool alive = step_afresh(one.cpu);

		check(step_block(other.cpu) == alive);
		if (!alive)
			break;
		compare(one.cpu, other.cpu);
	}
	/* But for the page tables: the look ahead has set an accessed bit. */
	check(memcmp(one.ram, other.ram, TABLES) == 0);
	return 0;
}
