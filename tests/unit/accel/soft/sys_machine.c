#include "sys_machine.h"

#include <stdlib.h>
#include <string.h>

#include "vm/accel/soft/cpu/cpu_int.h"
#include "vm/accel/soft/interp/code.h"

static struct sys_machine *machine_of(struct soft *soft)
{
	return (struct sys_machine *)((char *)soft - offsetof(struct sys_machine, soft));
}

/* --- the parts that are played --- */

void soft_mmio(struct soft_cpu *cpu, gpa_t gpa, bool is_write, void *data, unsigned size)
{
	struct sys_machine *m = machine_of(cpu->soft);
	struct sys_mmio *e = &m->mmio[m->n_mmio % SYS_MAX_MMIO];

	*e = (struct sys_mmio){.gpa = gpa, .is_write = is_write, .size = size};
	if (is_write)
		memcpy(&e->value, data, size);
	else
		memset(data, (int)(0xA0 + m->n_mmio % 16), size);
	m->n_mmio++;
}

void code_written(struct soft *soft, struct soft_cpu *cpu, gpa_t gpa, uint64_t len)
{
	(void)cpu;
	(void)len;
	machine_of(soft)->n_code_writes++;
	machine_of(soft)->code_written_at = gpa;
}

uint64_t insn_offset(const struct soft_cpu *cpu, const struct insn *insn)
{
	uint64_t at = (uint64_t)insn->disp;

	if (insn->base < 16)
		at += cpu->gpr[insn->base];
	else if (insn->base == INSN_REG_RIP)
		at += cpu->next_rip;
	if (insn->index < 16)
		at += cpu->gpr[insn->index] * insn->scale;
	return insn->addrsize == 8 ? at : at & ((1ULL << (8 * insn->addrsize)) - 1);
}

bool irq_rdmsr(struct soft_cpu *cpu, uint32_t index, uint64_t *ret)
{
	(void)cpu;
	*ret = index;
	return true;
}

bool irq_wrmsr(struct soft_cpu *cpu, uint32_t index, uint64_t value)
{
	(void)cpu;
	(void)index;
	(void)value;
	return true;
}

void irq_cpuid(struct soft_cpu *cpu, uint32_t leaf, uint32_t ret[4])
{
	(void)cpu;
	ret[0] = leaf;
	ret[1] = ret[2] = ret[3] = 0;
}

uint64_t irq_hypercall(struct soft_cpu *cpu, uint64_t call, const uint64_t arg[4])
{
	(void)cpu;
	return call + arg[0];
}

uint8_t lapic_get_tpr(struct soft_cpu *cpu)
{
	(void)cpu;
	return 0x50;
}

void lapic_set_tpr(struct soft_cpu *cpu, uint8_t tpr)
{
	(void)cpu;
	(void)tpr;
}

void soft_halt(struct soft_cpu *cpu)
{
	machine_of(cpu->soft)->halted = true;
}

void soft_unwinding(struct soft_cpu *cpu)
{
	(void)cpu;
}

void jit_flush(struct soft_cpu *cpu)
{
	(void)cpu;
}

void jit_flush_page(struct soft_cpu *cpu, uint64_t linear)
{
	(void)cpu;
	(void)linear;
}

void jit_flush_space(struct soft_cpu *cpu, unsigned space)
{
	(void)cpu;
	(void)space;
}

void jit_switch_space(struct soft_cpu *cpu, unsigned space)
{
	(void)cpu;
	(void)space;
}

void vec_cpu_reset(struct soft_cpu *cpu)
{
	(void)cpu;
}

/* --- life --- */

struct sys_machine *sys_machine_new(void)
{
	struct sys_machine *m = calloc(1, sizeof(*m));
	struct error err = ERROR_INIT;

	m->ram = aligned_alloc(4096, SYS_RAM_BYTES);
	memset(m->ram, 0, SYS_RAM_BYTES);
	m->soft.n_regions = 1;
	m->soft.regions[0].mem = (struct gmem_region){.size = SYS_RAM_BYTES, .hva = m->ram};
	m->pages = calloc(SYS_RAM_BYTES / 4096, 1);
	m->soft.regions[0].pages = m->pages;
	m->soft.accel.config =
		(struct accel_config){.n_vcpus = 1, .sockets = 1, .cores = 1, .threads = 1};
	if (cpuid_init(&m->soft, &err) < 0)
		abort();
	m->cpu = aligned_alloc(64, (sizeof(*m->cpu) + 63) / 64 * 64);
	memset(m->cpu, 0, sizeof(*m->cpu));
	m->cpu->soft = &m->soft;
	m->cpu->base.accel = &m->soft.accel;
	m->soft.cpus[0] = m->cpu;
	if (cpu_init(m->cpu) < 0)
		abort();
	cpu_reset(m->cpu);
	return m;
}

void sys_machine_free(struct sys_machine *m)
{
	cpu_fini(m->cpu);
	cpuid_fini(&m->soft);
	free(m->cpu);
	free(m->pages);
	free(m->ram);
	free(m);
}

int sys_execute(struct sys_machine *m, const uint8_t *bytes, size_t n)
{
	struct soft_cpu *cpu = m->cpu;
	/* Not a local variable: it is read after a longjmp(). */
	struct insn *insn = calloc(1, sizeof(*insn));
	enum insn_status status =
		insn_decode(bytes, n, (enum insn_mode)cpu->mode, cpu->vex_ok, cpu->features, insn);
	exec_fn fn = status == INSN_OK ? exec_bind_sys(insn) : NULL;
	int r = -2;

	if (fn) {
		cpu->next_rip = cpu->rip + insn->length;
		r = SYS_RAISED(m, fn(cpu, insn));
		if (r == -1)
			cpu->rip = cpu->next_rip;
	}
	free(insn);
	return r;
}

/* --- modes --- */

uint64_t sys_descriptor(uint32_t base, uint32_t limit, unsigned attr)
{
	return (limit & 0xFFFF) | (uint64_t)(base & 0xFFFFFF) << 16 |
	       (uint64_t)(attr & 0xF0FF) << 40 | (uint64_t)(limit >> 16 & 15) << 48 |
	       (uint64_t)(base >> 24) << 56;
}

static struct soft_seg loaded(struct sys_machine *m, uint16_t selector)
{
	struct desc d = {.selector = selector, .raw = sys_get64(m, SYS_GDT + (selector & 0xFFF8u))};

	return desc_seg(&d);
}

void sys_protected(struct sys_machine *m, unsigned cpl)
{
	struct soft_cpu *cpu = m->cpu;
	const uint16_t data = cpl ? SYS_USER_DATA32 : SYS_DATA32;

	sys_put64(m, SYS_GDT + 0x08, sys_descriptor(0, 0xFFFFF, 0xC09B));
	sys_put64(m, SYS_GDT + 0x10, sys_descriptor(0, 0xFFFFF, 0xC093));
	sys_put64(m, SYS_GDT + 0x18, sys_descriptor(0, 0xFFFFF, 0xC0FB));
	sys_put64(m, SYS_GDT + 0x20, sys_descriptor(0, 0xFFFFF, 0xC0F3));
	sys_put64(m, SYS_GDT + 0x28, sys_descriptor(0, 0xFFFFF, 0xA09B));
	sys_put64(m, SYS_GDT + 0x30, sys_descriptor(0, 0xFFFFF, 0xA0FB));
	sys_put64(m, SYS_GDT + 0x38, sys_descriptor(SYS_TSS, 0x67, 0x8B));
	sys_put64(m, SYS_GDT + 0x40, 0);
	sys_put64(m, SYS_GDT + 0x48, sys_descriptor(0, 0xFFFF, 0x9B));
	cpu->gdt = (struct x86_table){.base = SYS_GDT, .limit = 0xFF};
	cpu->idt = (struct x86_table){.base = SYS_IDT, .limit = 0x7FF};
	cpu->cr0 = CR0_PE | CR0_ET | CR0_NE;
	cpu->cr4 = 0;
	cpu->efer = 0;
	cpu->rflags = RF_ONE;
	for (unsigned i = 0; i < INSN_N_SEGS; i++)
		cpu->seg[i] = loaded(m, data);
	cpu->seg[SEG_CS] = loaded(m, cpl ? SYS_USER_CODE32 : SYS_CODE32);
	cpu->tr = loaded(m, SYS_TSS_SEL);
	cpu->ldtr = (struct soft_seg){0};
	cpu->gpr[4] = 0x8000;
	cpu->rip = cpu->next_rip = 0x100000;
	tlb_flush_all(cpu);
	cpu_mode_changed(cpu);
}

void sys_long(struct sys_machine *m, unsigned cpl)
{
	struct soft_cpu *cpu = m->cpu;

	sys_protected(m, cpl);
	sys_put64(m, 0x10000, 0x11007);
	sys_put64(m, 0x11000, 0x00087); /* 1 GiB */
	cpu->cr3 = 0x10000;
	cpu->cr4 = CR4_PAE;
	cpu->efer = EFER_LME | EFER_LMA | EFER_NXE | EFER_SCE;
	cpu->cr0 |= CR0_PG | CR0_WP;
	cpu->seg[SEG_CS] = loaded(m, cpl ? SYS_USER_CODE64 : SYS_CODE64);
	cpu->idt.limit = 0xFFF;
	tlb_flush_all(cpu);
	cpu_mode_changed(cpu);
}

void sys_gate(struct sys_machine *m, unsigned vector, uint16_t selector, uint64_t offset,
	      unsigned type, unsigned dpl, unsigned ist)
{
	uint64_t low = (offset & 0xFFFF) | (uint64_t)selector << 16 | (uint64_t)ist << 32 |
		       (uint64_t)(0x80 | dpl << 5 | type) << 40 | (offset >> 16 & 0xFFFF) << 48;

	if (m->cpu->efer & EFER_LMA) {
		sys_put64(m, SYS_IDT + vector * 16, low);
		sys_put64(m, SYS_IDT + vector * 16 + 8, offset >> 32);
	} else {
		sys_put64(m, SYS_IDT + vector * 8, low);
	}
}
