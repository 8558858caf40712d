/*
 * How a vCPU starts: at power-on, and where a boot protocol wants the boot processor. (SDM volume 3, sections 3.4.5 and 9.1; Linux x86
 * boot protocol; PVH.)
 */
#include <string.h>

#include "vm/accel/soft/irq/irq_int.h"

#define TYPE_DATA 3  /* read and write, accessed */
#define TYPE_CODE 11 /* execute and read, accessed */
#define TYPE_TSS  11 /* busy; 32-bit and 64-bit alike */

#define MTRR_DEF_ENABLE_WB      0x806 /* enabled, fixed ranges off, write-back */
#define MISC_ENABLE_FAST_STRING 0x1
#define MISC_ENABLE_NO_BTS_PEBS 0x1800

static struct soft_seg flat(uint16_t selector, uint16_t type)
{
	return (struct soft_seg){
		.limit = 0xFFFFFFFF,
		.selector = selector,
		.attr = (uint16_t)(type | ATTR_S | ATTR_P | ATTR_DB | ATTR_G),
	};
}

static struct soft_seg real(uint16_t selector, uint16_t type)
{
	return (struct soft_seg){
		.base = (uint64_t)selector << 4,
		.limit = 0xFFFF,
		.selector = selector,
		.attr = (uint16_t)(type | ATTR_S | ATTR_P),
	};
}

static void data_segments(struct soft_cpu *cpu, const struct soft_seg *seg)
{
	for (unsigned i = 0; i < INSN_N_SEGS; i++)
		if (i != SEG_CS)
			cpu->seg[i] = *seg;
}

static void set_real(struct soft_cpu *cpu, const struct x86_boot_regs *regs)
{
	const struct soft_seg data = real(0, TYPE_DATA);

	data_segments(cpu, &data);
	cpu->seg[SEG_CS] = real(regs->real_cs, TYPE_CODE);
	cpu->cr0 = CR0_ET;
}

static void set_protected(struct soft_cpu *cpu, const struct x86_boot_regs *regs)
{
	const struct soft_seg data = flat(regs->ds_selector, TYPE_DATA);

	data_segments(cpu, &data);
	cpu->seg[SEG_CS] = flat(regs->cs_selector, TYPE_CODE);
	cpu->tr = (struct soft_seg){.selector = regs->tss_selector,
				    .limit = 0x67,
				    .attr = TYPE_TSS | ATTR_P};
	cpu->gdt = (struct x86_table){.base = regs->gdt_base, .limit = regs->gdt_limit};
	cpu->idt.limit = 0;
	cpu->cr0 = CR0_PE | CR0_ET;
	if (regs->mode != X86_BOOT_LONG64)
		return;
	cpu->seg[SEG_CS].attr &= (uint16_t)~ATTR_DB;
	cpu->seg[SEG_CS].attr |= ATTR_L;
	cpu->cr0 |= CR0_NE | CR0_WP | CR0_PG;
	cpu->cr3 = regs->cr3;
	cpu->cr4 = CR4_PAE;
	cpu->efer = EFER_LME | EFER_LMA;
}

int soft_vcpu_set_boot(struct accel_vcpu *vcpu, const struct x86_boot_regs *regs, struct error *err)
{
	struct soft_cpu *cpu = soft_cpu_of(vcpu);
	const uint64_t general[8] = {regs->rax, regs->rcx, regs->rdx, regs->rbx,
				     regs->rsp, regs->rbp, regs->rsi, regs->rdi};

	memset(cpu->gpr, 0, sizeof(cpu->gpr));
	memcpy(cpu->gpr, general, sizeof(general));
	cpu->cr4 = 0;
	cpu->efer = 0;
	if (regs->mode == X86_BOOT_REAL)
		set_real(cpu, regs);
	else
		set_protected(cpu, regs);
	cpu->cpl = 0;
	cpu_set_rflags(cpu, RF_ONE);
	cpu->rip = cpu->next_rip = regs->rip;
	cpu->shadow = false;
	cpu->mp_state = X86_MP_RUNNABLE;
	cpu_mode_changed(cpu);
	tlb_flush_all(cpu);
	return 0;
}

void soft_power_on(struct soft_cpu *cpu)
{
	cpu_reset(cpu);
	/* A kernel that is started without firmware expects these: without fast strings Linux drops its best memcpy, with the MTRRs off it
	 * doubts that memory may be cached. */
	cpu->mtrr_def = MTRR_DEF_ENABLE_WB;
	cpu->misc_enable |= MISC_ENABLE_FAST_STRING | MISC_ENABLE_NO_BTS_PEBS;
	lapic_reset(cpu, true);
	cpu->events = (struct x86_events){0};
	cpu->shadow = false;
	cpu->nmi_blocked = false;
	atomic_store(&cpu->nmi_pending, 0);
	atomic_store(&cpu->sipi_vector, 0);
	atomic_store(&cpu->request, 0);
	cpu->mp_state = cpu->base.index == 0 ? X86_MP_RUNNABLE : X86_MP_WAIT_INIT;
	cpu_mode_changed(cpu);
}
