/*
 * Registers of a vCPU between the processor and x86.h: general, segments, control, debug, the XSAVE area, model-specific ones.
 *
 * What comes in is hostile until it is checked: bits that the processor shown to the guest does not have are refused with the register's name.
 * vCPUs are stopped.
 */
#include <errno.h>
#include <inttypes.h>
#include <setjmp.h>
#include <string.h>

#include "base/bits.h"
#include "vm/accel/soft/irq/irq_int.h"

#define XSAVE_HEADER 512
#define XSAVE_BYTES  832 /* legacy region, header, upper halves of ymm */

#define CR0_KNOWN                                                                                  \
	(CR0_PE | CR0_MP | CR0_EM | CR0_TS | CR0_ET | CR0_NE | CR0_WP | CR0_AM | CR0_NW | CR0_CD | \
	 CR0_PG)
#define CR4_ALWAYS                                                                                 \
	(CR4_VME | CR4_PVI | CR4_TSD | CR4_DE | CR4_PSE | CR4_PAE | CR4_MCE | CR4_PGE | CR4_PCE |  \
	 CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_UMIP | CR4_FSGSBASE | CR4_PCIDE | CR4_OSXSAVE |         \
	 CR4_SMEP | CR4_SMAP)
#define EFER_FFXSR (1u << 14)
#define EFER_KNOWN (EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE | EFER_FFXSR)

/* What is saved. TSC and its deadline, EFER and APIC_BASE travel by themselves. */
static const struct {
	uint32_t first, count;
} saved[] = {
	{0x3B, 1},                               /* TSC_ADJUST */
	{0x174, 3},                              /* SYSENTER */
	{0x1A0, 1},                              /* MISC_ENABLE */
	{0x1D9, 1},                              /* DEBUGCTL */
	{0x200, 16},                             /* variable memory type ranges */
	{0x250, 1},                              /* fixed ones */
	{0x258, 2},      {0x268, 8}, {0x277, 1}, /* PAT */
	{0x2FF, 1},                              /* default memory type */
	{0xDA0, 1},                              /* XSS */
	{0x4B564D00, 2},                         /* the paravirtual clock */
	{0xC0000081, 4},                         /* STAR, LSTAR, CSTAR, FMASK */
	{0xC0000102, 2},                         /* kernel GS base, TSC_AUX */
};

static struct x86_segment segment_from(const struct soft_seg *s)
{
	return (struct x86_segment){
		.base = s->base,
		.limit = s->limit,
		.selector = s->selector,
		.type = s->attr & 15,
		.s = s->attr >> 4 & 1,
		.dpl = ATTR_DPL(s->attr),
		.present = s->attr >> 7 & 1,
		.avl = s->attr >> 12 & 1,
		.l = s->attr >> 13 & 1,
		.db = s->attr >> 14 & 1,
		.g = s->attr >> 15 & 1,
		.unusable = !(s->attr & ATTR_P),
	};
}

static struct soft_seg segment_to(const struct x86_segment *s)
{
	struct soft_seg ret = {
		.base = s->base,
		.limit = s->limit,
		.selector = s->selector,
		.attr = (uint16_t)((s->type & 15) | s->s << 4 | (s->dpl & 3) << 5 |
				   s->present << 7 | s->avl << 12 | s->l << 13 | s->db << 14 |
				   s->g << 15),
	};

	if (s->unusable)
		ret.attr &= (uint16_t)~ATTR_P;
	return ret;
}

static void msrs_get(struct soft_cpu *cpu, struct x86_vcpu_state *ret)
{
	for (size_t i = 0; i < ARRAY_SIZE(saved); i++) {
		for (uint32_t j = 0; j < saved[i].count; j++) {
			struct x86_msr *msr = &ret->msrs[ret->n_msrs];

			msr->index = saved[i].first + j;
			if (irq_rdmsr(cpu, msr->index, &msr->value) ||
			    cpu_rdmsr(cpu, msr->index, &msr->value))
				ret->n_msrs++;
		}
	}
}

static bool msr_set(struct soft_cpu *cpu, uint32_t index, uint64_t value)
{
	uint64_t now;

	/* Writing this one would move the counter, which is set by itself. */
	if (index == 0x3B) {
		cpu->lapic->tsc_adjust = value;
		return true;
	}
	if (irq_wrmsr(cpu, index, value) || cpu_wrmsr(cpu, index, value))
		return true;
	/* One that it will not write is fine where it has this value anyway. */
	return cpu_rdmsr(cpu, index, &now) && now == value;
}

static int msrs_set(struct soft_cpu *cpu, const struct x86_vcpu_state *s, struct error *err)
{
	if (s->n_msrs > X86_MAX_MSRS)
		return error_set(err, -EINVAL, "a vCPU's state with %u registers", s->n_msrs);
	for (uint32_t i = 0; i < s->n_msrs; i++)
		if (!msr_set(cpu, s->msrs[i].index, s->msrs[i].value))
			return error_set(
				err, -EINVAL,
				"the software CPU refuses 0x%llx in register 0x%x of vCPU %u",
				(unsigned long long)s->msrs[i].value, s->msrs[i].index,
				cpu->base.index);
	return 0;
}

void soft_regs_get(struct soft_cpu *cpu, struct x86_vcpu_state *ret)
{
	struct x86_segment *const segments[] = {
		[SEG_ES] = &ret->es, [SEG_CS] = &ret->cs, [SEG_SS] = &ret->ss,
		[SEG_DS] = &ret->ds, [SEG_FS] = &ret->fs, [SEG_GS] = &ret->gs,
	};
	uint64_t header[8] = {cpu->xcr0 | 3};

	memcpy(ret->gpr, cpu->gpr, sizeof(ret->gpr));
	ret->rip = cpu->rip;
	ret->rflags = cpu_get_rflags(cpu);
	for (size_t i = 0; i < ARRAY_SIZE(segments); i++)
		*segments[i] = segment_from(&cpu->seg[i]);
	ret->tr = segment_from(&cpu->tr);
	ret->ldt = segment_from(&cpu->ldtr);
	ret->gdt = cpu->gdt;
	ret->idt = cpu->idt;
	ret->cr0 = cpu->cr0;
	ret->cr2 = cpu->cr2;
	ret->cr3 = cpu->cr3;
	ret->cr4 = cpu->cr4;
	ret->cr8 = lapic_get_tpr(cpu) >> 4;
	ret->efer = cpu->efer;
	ret->pdptrs_valid = cpu->paging && (cpu->cr4 & CR4_PAE) && !(cpu->efer & EFER_LMA);
	memcpy(ret->pdptrs, cpu->pdptr, sizeof(ret->pdptrs));
	memcpy(ret->dr, cpu->dr, sizeof(ret->dr));
	ret->dr6 = cpu->dr6;
	ret->dr7 = cpu->dr7;
	ret->xcr0 = cpu->xcr0;
	ret->xsave_bytes = XSAVE_BYTES;
	memcpy(ret->xsave, cpu->fpu, XSAVE_BYTES);
	memcpy(&ret->xsave[XSAVE_HEADER], header, sizeof(header));
	msrs_get(cpu, ret);
}

static int control_check(const struct soft_cpu *cpu, const struct x86_vcpu_state *s,
			 struct error *err)
{
	const struct {
		const char *name;
		uint64_t value, known;
	} registers[] = {
		{"CR0", s->cr0, CR0_KNOWN},
		{"CR4", s->cr4, CR4_ALWAYS},
		{"EFER", s->efer, EFER_KNOWN},
		{"XCR0", s->xcr0, 7},
	};

	for (size_t i = 0; i < ARRAY_SIZE(registers); i++)
		if (registers[i].value & ~registers[i].known)
			return error_set(err, -EINVAL,
					 "vCPU %u: the software CPU has no such bits in %s: "
					 "0x%" PRIx64,
					 cpu->base.index, registers[i].name, registers[i].value);
	if (s->xsave_bytes < 576)
		return error_set(err, -EINVAL, "vCPU %u: an XSAVE area of %u bytes",
				 cpu->base.index, s->xsave_bytes);
	return 0;
}

/* The header says which parts are there; the others are as after reset. */
static void fpu_set(struct soft_cpu *cpu, const struct x86_vcpu_state *s)
{
	uint64_t there;

	memcpy(&there, &s->xsave[XSAVE_HEADER], sizeof(there));
	vec_cpu_reset(cpu);
	if (there & 1) {
		memcpy(cpu->fpu, s->xsave, 24);
		memcpy(cpu->fpu + 32, s->xsave + 32, 128);
	}
	/* MXCSR stands with SSE or AVX. */
	if (there & 6)
		memcpy(cpu->fpu + 24, s->xsave + 24, 8);
	if (there & 2)
		memcpy(cpu->fpu + 160, s->xsave + 160, 256);
	if ((there & 4) && s->xsave_bytes >= XSAVE_BYTES)
		memcpy(cpu->fpu + 576, s->xsave + 576, 256);
}

int soft_regs_set(struct soft_cpu *cpu, const struct x86_vcpu_state *s, struct error *err)
{
	const struct x86_segment *const segments[] = {
		[SEG_ES] = &s->es, [SEG_CS] = &s->cs, [SEG_SS] = &s->ss,
		[SEG_DS] = &s->ds, [SEG_FS] = &s->fs, [SEG_GS] = &s->gs,
	};
	uint32_t mxcsr;
	int r = control_check(cpu, s, err);

	if (r < 0)
		return r;
	memcpy(&mxcsr, &s->xsave[24], sizeof(mxcsr));
	if (mxcsr & ~0xFFFFu)
		return error_set(err, -EINVAL, "vCPU %u: MXCSR is 0x%x", cpu->base.index, mxcsr);
	memcpy(cpu->gpr, s->gpr, sizeof(cpu->gpr));
	cpu->rip = cpu->next_rip = s->rip;
	for (size_t i = 0; i < ARRAY_SIZE(segments); i++)
		cpu->seg[i] = segment_to(segments[i]);
	cpu->tr = segment_to(&s->tr);
	cpu->ldtr = segment_to(&s->ldt);
	cpu->gdt = s->gdt;
	cpu->idt = s->idt;
	cpu->cr0 = s->cr0 | CR0_ET;
	cpu->cr2 = s->cr2;
	cpu->cr3 = s->cr3;
	cpu->cr4 = s->cr4;
	cpu->efer = s->efer;
	memcpy(cpu->pdptr, s->pdptrs, sizeof(cpu->pdptr));
	memcpy(cpu->dr, s->dr, sizeof(cpu->dr));
	cpu->dr6 = s->dr6;
	cpu->dr7 = s->dr7;
	cpu_set_rflags(cpu, s->rflags);
	/* The privilege level is that of the stack. */
	cpu->cpl = !(s->cr0 & CR0_PE)    ? 0
		   : (s->rflags & RF_VM) ? 3
					 : ATTR_DPL(cpu->seg[SEG_SS].attr);
	fpu_set(cpu, s);
	cpu->xcr0 = s->xcr0 | 1;
	r = msrs_set(cpu, s, err);
	cpu_mode_changed(cpu);
	tlb_flush_all(cpu);
	return r;
}
