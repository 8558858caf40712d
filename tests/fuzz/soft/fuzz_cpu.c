/*
 * System instructions, far transfers and event delivery with descriptor tables, gates, TSSs and page tables that the input has written over, in
 * every mode. Guest memory is a block of its own: whatever the tables say, nothing outside it may be touched. Also: what has no
 * exception raised has left a state that makes sense.
 */
#include <setjmp.h>
#include <stdlib.h>
#include <string.h>

#include "unit/accel/soft/sys_machine.h"
#include "vm/accel/soft/cpu/access.h"
#include "vm/accel/soft/cpu/cpu_int.h"

#define RAM_BYTES 0x20000u

struct input {
	const uint8_t *at;
	size_t left;
};

static uint64_t take(struct input *in, unsigned n)
{
	uint64_t v = 0;

	if (n > in->left)
		n = (unsigned)in->left;
	memcpy(&v, in->at, n);
	in->at += n;
	in->left -= n;
	return v;
}

/* Numbers that are often interesting, or any. */
static uint64_t number(struct input *in)
{
	static const uint64_t some[] = {
		0,       1,       8,          0xFFFF,         0x10000,
		0x1FFFF, 0x20000, 0x7FFFFFFF, 0xFFFFFFFF,     0x1000,
		0x3000,  0xFFF,   0xFFFFFFFD, 0x7FFFFFFFFFFF, 0xFFFF800000000000,
		~0ULL};
	unsigned which = (unsigned)take(in, 1);

	return which < 16 ? some[which] : which < 128 ? take(in, 2) : take(in, 8);
}

static void page_tables_32(struct sys_machine *m)
{
	for (unsigned i = 0; i < 32; i++)
		sys_put32(m, 0x11000 + 4 * i, i << 12 | 7);
	sys_put32(m, 0x10000, 0x11007);
	m->cpu->cr3 = 0x10000;
	m->cpu->cr4 = CR4_PSE;
	m->cpu->cr0 |= CR0_PG | CR0_WP;
}

static void page_tables_pae(struct sys_machine *m)
{
	sys_put64(m, 0x10000, 0x11001);
	sys_put64(m, 0x11000, 0x12007);
	for (unsigned i = 0; i < 32; i++)
		sys_put64(m, 0x12000 + 8 * i, i << 12 | 7);
	m->cpu->cr3 = 0x10000;
	m->cpu->cr4 = CR4_PAE;
	m->cpu->cr0 |= CR0_PG | CR0_WP;
	mmu_load_pdptrs(m->cpu, 0x10000);
}

static void set_mode(struct sys_machine *m, unsigned mode, unsigned cpl)
{
	struct soft_cpu *cpu = m->cpu;

	cpu_reset(cpu);
	if (mode == 0)
		return;
	if (mode >= 4)
		sys_long(m, cpl);
	else
		sys_protected(m, cpl);
	if (mode == 2)
		page_tables_32(m);
	else if (mode == 3)
		page_tables_pae(m);
	if (mode == 5) /* compatibility mode */
		cpu->seg[SEG_CS].attr = (uint16_t)((cpu->seg[SEG_CS].attr & ~ATTR_L) | ATTR_DB);
	if (mode == 6 || mode == 1) {
		sys_put64(m, SYS_GDT + SYS_FREE, 0x0005EC0200086789);
		cpu->ldtr = (struct soft_seg){.base = 0x5000, .limit = 0xFF, .attr = 0x82};
	}
	if (mode == 7) { /* virtual-8086 */
		sys_protected(m, 3);
		cpu->rflags |= RF_VM;
		for (unsigned i = 0; i < INSN_N_SEGS; i++)
			cpu->seg[i] = (struct soft_seg){.base = 0x1000u * i,
							.selector = (uint16_t)(0x100 * i),
							.limit = 0xFFFF,
							.attr = 0xF3};
	}
	cpu_mode_changed(cpu);
}

/* Gates and TSS so that a transfer gets somewhere when the input lets it. */
static void fill_tables(struct sys_machine *m)
{
	bool is64 = (m->cpu->efer & EFER_LMA) != 0;

	for (unsigned v = 0; v < (is64 ? 128u : 256u); v++)
		sys_gate(m, v, is64 ? SYS_CODE64 : SYS_CODE32, 0x100 + v, 14 + v % 2, v % 4,
			 is64 ? v % 8 : 0);
	for (unsigned i = 0; i < 0x68; i += 8)
		sys_put64(m, SYS_TSS + i, 0x0000001000009000ULL);
	sys_put64(m, SYS_GDT + 0xF0, sys_descriptor(0x4000, 0x67, 0x89));
	sys_put64(m, SYS_GDT + 0xF8, 0xF0ULL << 16 | 0xE5ULL << 40);
}

/* 0F 00 to 0F 09, 20 to 23, 30 to 35, A0 to A2, AE, B2, B4, B5, C7, 38 82; far transfers; segment loads. */
static void run_insn(struct sys_machine *m, struct input *in)
{
	static const uint8_t first[] = {0x06, 0x07, 0x0E, 0x16, 0x17, 0x1E, 0x1F, 0x8C,
					0x8E, 0x9A, 0xC4, 0xC5, 0xCA, 0xCB, 0xCC, 0xCD,
					0xCE, 0xCF, 0xEA, 0xF1, 0xFF, 0xF4, 0x63};
	uint8_t bytes[15];
	unsigned n = 0, which = (unsigned)take(in, 1);

	if (which & 0x80)
		bytes[n++] = (uint8_t)take(in, 1); /* a prefix, perhaps */
	which &= 0x7F;
	if (which < sizeof(first)) {
		bytes[n++] = first[which];
	} else {
		bytes[n++] = 0x0F;
		bytes[n++] = (uint8_t)take(in, 1);
	}
	while (n < sizeof(bytes))
		bytes[n++] = (uint8_t)take(in, 1);
	sys_execute(m, bytes, sizeof(bytes));
}

static void run_memory(struct sys_machine *m, struct input *in)
{
	struct soft_cpu *cpu = m->cpu;
	uint64_t at = number(in), value = number(in);
	unsigned what = (unsigned)take(in, 1), size = 1 + what % 8;
	uint8_t block[64] = {0};
	gpa_t gpa;

	if (!(cpu->efer & EFER_LMA))
		at &= 0xFFFFFFFF;
	else
		at = (uint64_t)((int64_t)(at << 16) >> 16);
	if (setjmp(cpu->unwind) != 0)
		return;
	switch (what / 8 % 8) {
	case 0:
		mem_read_inline(cpu, at, size);
		break;
	case 1:
		mem_write_inline(cpu, at, size, value);
		break;
	case 2:
		mem_read_block(cpu, at, block, (unsigned)value % 64 + 1);
		break;
	case 3:
		mem_write_block(cpu, at, block, (unsigned)value % 64 + 1);
		break;
	case 4: {
		uint8_t *p = mem_host_rw(cpu, at, size);

		if (p)
			memset(p, 0x5A, size);
		break;
	}
	case 5:
		mem_fetch(cpu, at, block, 15, &gpa);
		break;
	case 6:
		cpu_check_io(cpu, (uint16_t)value, 1u << what % 3);
		break;
	default:
		seg_linear(cpu, (enum insn_seg)(what % INSN_N_SEGS), value, size, what & 1);
	}
}

static void check(const struct soft_cpu *cpu)
{
	if (cpu->cpl > 3 || cpu->mode > INSN_MODE_64 || !(cpu->rflags & RF_ONE) ||
	    (cpu->rflags & RF_STATUS) || (cpu->mode == INSN_MODE_64 && !(cpu->efer & EFER_LMA)) ||
	    ((cpu->efer & EFER_LMA) && !(cpu->cr0 & CR0_PG)) ||
	    ((cpu->cr0 & CR0_PG) && !(cpu->cr0 & CR0_PE)) || cpu->tlbs->current >= TLB_SPACES)
		abort();
}

static void step(struct sys_machine *m, struct input *in)
{
	struct soft_cpu *cpu = m->cpu;
	unsigned what = (unsigned)take(in, 1);

	switch (what % 8) {
	case 0:
	case 1:
	case 2:
		run_insn(m, in);
		break;
	case 3:
		cpu->fault = (struct soft_fault){.vector = (uint8_t)(take(in, 1) % 32),
						 .has_error = what & 8,
						 .error = (uint32_t)take(in, 2)};
		if (!cpu_deliver_fault(cpu))
			cpu_init_signal(cpu);
		break;
	case 4:
		if (!cpu_deliver_interrupt(cpu, (uint8_t)take(in, 1)))
			cpu_init_signal(cpu);
		break;
	case 5:
		sys_put64(m, take(in, 3) % (RAM_BYTES - 7), number(in));
		tlb_flush_all(cpu);
		break;
	case 6:
		cpu->gpr[what / 8 % 16] = number(in);
		break;
	default:
		run_memory(m, in);
	}
	check(cpu);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct sys_machine *machine; /* made once: its TLBs are large */
	struct input in = {data, size};
	struct sys_machine *m;
	unsigned mode;

	if (!machine) {
		machine = sys_machine_new();
		free(machine->ram);
		machine->ram = malloc(RAM_BYTES);
		machine->soft.regions[0].mem.hva = machine->ram;
		machine->soft.regions[0].mem.size = RAM_BYTES;
	}
	m = machine;
	memset(m->ram, 0, RAM_BYTES);
	memset(m->pages, 0, RAM_BYTES / 4096);
	mode = (unsigned)take(&in, 1);
	set_mode(m, mode % 8, mode & 0x80 ? 3 : 0);
	fill_tables(m);
	for (unsigned i = mode >> 3 & 3; i > 0; i--) {
		uint64_t at = take(&in, 3) % (RAM_BYTES - 64);

		for (unsigned k = 0; k < 8; k++)
			sys_put64(m, at + 8 * k, take(&in, 8));
	}
	for (unsigned i = 0; i < 200 && in.left > 0; i++)
		step(m, &in);
	return 0;
}
