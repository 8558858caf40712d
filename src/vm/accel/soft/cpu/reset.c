/*
 * The state of a vCPU after power-on and after INIT (SDM volume 3, table 10-1), and the memory behind its TLBs.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "vm/accel/soft/cpu/cpu_int.h"

#define PAT_POWER_ON         0x0007040600070406ULL
#define MISC_ENABLE_POWER_ON (BIT(0) /* fast strings */ | BIT(11) | BIT(12) /* no BTS, no PEBS */)

int cpu_init(struct soft_cpu *cpu)
{
	uint32_t sizes[4];

	cpu->tlbs = calloc(1, sizeof(*cpu->tlbs));
	if (!cpu->tlbs)
		return -ENOMEM;
	tlb_init(cpu->tlbs);
	cpu->tlb = cpu->tlbs->never;
	cpu->features = cpu->soft->features;
	cpuid_read(cpu, 0x80000008, 0, sizes);
	cpu->tlbs->reserved_bits = 0x000FFFFFFFFFF000ULL & ~(BIT(sizes[0] & 0xFF) - 1);
	return 0;
}

void cpu_fini(struct soft_cpu *cpu)
{
	free(cpu->tlbs);
	cpu->tlbs = NULL;
	cpu->tlb = NULL;
}

static void reset_segments(struct soft_cpu *cpu)
{
	for (unsigned i = 0; i < INSN_N_SEGS; i++)
		cpu->seg[i] = (struct soft_seg){.limit = 0xFFFF, .attr = 0x93};
	cpu->seg[SEG_CS] = (struct soft_seg){.selector = 0xF000,
					     .base = 0xFFFF0000,
					     .limit = 0xFFFF,
					     .attr = 0x9B};
	cpu->ldtr = (struct soft_seg){.limit = 0xFFFF, .attr = 0x82};
	cpu->tr = (struct soft_seg){.limit = 0xFFFF, .attr = 0x8B};
	cpu->gdt = cpu->idt = (struct x86_table){.limit = 0xFFFF};
}

void cpu_init_signal(struct soft_cpu *cpu)
{
	uint32_t signature[4];
	uint64_t cache = cpu->cr0 & (CR0_CD | CR0_NW);

	cpuid_read(cpu, 1, 0, signature);
	memset(cpu->gpr, 0, sizeof(cpu->gpr));
	cpu->gpr[2] = signature[0];
	cpu->rip = cpu->next_rip = 0xFFF0;
	cpu->status = (uint16_t)(RF_ONE << 8);
	cpu->rflags = RF_ONE;
	reset_segments(cpu);
	cpu->cr0 = cache | CR0_ET;
	cpu->cr2 = cpu->cr3 = cpu->cr4 = 0;
	cpu->efer = 0;
	memset(cpu->dr, 0, sizeof(cpu->dr));
	cpu->dr6 = DR6_FIXED;
	cpu->dr7 = DR7_FIXED;
	cpu->shadow = false;
	cpu->nmi_blocked = false;
	cpu->debug = 0;
	cpu->tlbs->hit = cpu->tlbs->held = 0;
	cpu->tlbs->step_armed = cpu->tlbs->db_held = cpu->tlbs->keep_rf = false;
	cpu->tlbs->external = false;
	memset(&cpu->events, 0, sizeof(cpu->events));
	tlb_switch(cpu, 0, false);
	tlb_flush_all(cpu);
	cpu_mode_changed(cpu);
}

void cpu_reset(struct soft_cpu *cpu)
{
	cpu->cr0 = CR0_CD | CR0_NW;
	cpu->star = cpu->lstar = cpu->cstar = cpu->sfmask = cpu->kernel_gs_base = 0;
	cpu->sysenter_cs = cpu->sysenter_esp = cpu->sysenter_eip = cpu->tsc_aux = 0;
	cpu->pat = PAT_POWER_ON;
	cpu->misc_enable = MISC_ENABLE_POWER_ON;
	cpu->xss = cpu->debugctl = 0;
	/* Firmware would have made all memory write-back; kernels complain when nobody has. */
	cpu->mtrr_def = BIT(11) | 6;
	memset(cpu->mtrr_fixed, 0, sizeof(cpu->mtrr_fixed));
	memset(cpu->mtrr_base, 0, sizeof(cpu->mtrr_base));
	memset(cpu->mtrr_mask, 0, sizeof(cpu->mtrr_mask));
	memset(cpu->pdptr, 0, sizeof(cpu->pdptr));
	cpu->xcr0 = 1;
	cpu_init_signal(cpu);
	vec_cpu_reset(cpu);
}
