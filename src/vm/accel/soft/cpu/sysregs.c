/*
 * Control registers, EFER, RFLAGS and what follows from them: modes, privilege, which TLB array is in use. (SDM volume 3, sections 2.5, 4.1,
 * 10.8.5 of today's numbering; AMD APM volume 2, chapters 3 and 14.)
 */
#include "base/bits.h"
#include "vm/accel/soft/cpu/cpu_int.h"

#define CR0_KNOWN                                                                                  \
	(CR0_PE | CR0_MP | CR0_EM | CR0_TS | CR0_ET | CR0_NE | CR0_WP | CR0_AM | CR0_NW | CR0_CD | \
	 CR0_PG)

_Noreturn static void refuse(struct soft_cpu *cpu)
{
	cpu_raise_error(cpu, VEC_GP, 0);
}

void cpu_mode_changed(struct soft_cpu *cpu)
{
	struct soft_tlbs *t = cpu->tlbs;
	bool protected = (cpu->cr0 & CR0_PE) != 0, v86 = protected && (cpu->rflags & RF_VM);
	uint16_t cs = cpu->seg[SEG_CS].attr;

	cpu->paging = (cpu->cr0 & CR0_PG) != 0;
	cpu->vex_ok = protected && !v86;
	cpu->cpl = (uint8_t)(v86 ? 3 : protected ? ATTR_DPL(cpu->seg[SEG_SS].attr) : 0);
	if ((cpu->efer & EFER_LMA) && (cs & ATTR_L))
		cpu->mode = INSN_MODE_64;
	else
		cpu->mode = !v86 && (cs & ATTR_DB) ? INSN_MODE_32 : INSN_MODE_16;
	t->kind = (uint8_t)cpu_kind_for(cpu, cpu->cpl);
	if ((cpu->cr0 & CR0_AM) && (cpu->rflags & RF_AC) && cpu->cpl == 3)
		t->checks |= CHECK_ALIGN;
	else
		t->checks &= (uint8_t)~CHECK_ALIGN;
	debug_changed(cpu);
	cpu->tlb = t->checks ? t->never : t->space[t->current].kind[t->kind].entry;
	if (cpu->interpreting)
		atomic_fetch_or_explicit(&cpu->request, REQ_SELF, memory_order_relaxed);
}

/* Paging with PDPTRs in registers: PAE without long mode. */
static bool pae_paging(uint64_t cr0, uint64_t cr4, uint64_t efer)
{
	return (cr0 & CR0_PG) && (cr4 & CR4_PAE) && !(efer & EFER_LME);
}

void cpu_set_cr0(struct soft_cpu *cpu, uint64_t value)
{
	uint64_t old = cpu->cr0, changed;
	bool long_code = (cpu->efer & EFER_LMA) && (cpu->seg[SEG_CS].attr & ATTR_L);

	if (value >> 32)
		refuse(cpu);
	value = (value & CR0_KNOWN) | CR0_ET;
	changed = value ^ old;
	if (((value & CR0_PG) && !(value & CR0_PE)) || ((value & CR0_NW) && !(value & CR0_CD)))
		refuse(cpu);
	if ((changed & CR0_PG) && (value & CR0_PG) && (cpu->efer & EFER_LME) &&
	    (!(cpu->cr4 & CR4_PAE) || (cpu->seg[SEG_CS].attr & ATTR_L)))
		refuse(cpu);
	if (!(value & CR0_PG) && ((cpu->cr4 & CR4_PCIDE) || long_code))
		refuse(cpu);
	if ((changed & (CR0_PG | CR0_CD | CR0_NW)) && pae_paging(value, cpu->cr4, cpu->efer) &&
	    !mmu_load_pdptrs(cpu, cpu->cr3))
		refuse(cpu);
	cpu->cr0 = value;
	if (cpu->efer & EFER_LME)
		cpu->efer = value & CR0_PG ? cpu->efer | EFER_LMA : cpu->efer & ~(uint64_t)EFER_LMA;
	cpu_mode_changed(cpu);
	if (changed & (CR0_PG | CR0_WP | CR0_PE))
		tlb_flush_all(cpu);
}

void cpu_set_cr3(struct soft_cpu *cpu, uint64_t value)
{
	bool pcid = (cpu->cr4 & CR4_PCIDE) != 0, keep = pcid && (value & BIT(63));

	if (pcid)
		value &= ~BIT(63);
	if (cpu_long(cpu)) {
		if (value & (cpu->tlbs->reserved_bits | 0xFFF0000000000000ULL))
			refuse(cpu);
	} else {
		value &= 0xFFFFFFFF;
		if (pae_paging(cpu->cr0, cpu->cr4, cpu->efer) && !mmu_load_pdptrs(cpu, value))
			refuse(cpu);
	}
	cpu->cr3 = value;
	tlb_switch(cpu, pcid ? (uint16_t)(value & 0xFFF) : 0, keep);
}

static uint64_t cr4_known(struct soft_cpu *cpu)
{
	uint64_t known = CR4_TSD | CR4_DE | CR4_PSE | CR4_PAE | CR4_MCE | CR4_PGE | CR4_PCE |
			 CR4_OSFXSR | CR4_OSXMMEXCPT;
	uint32_t leaf1[4], leaf7[4];

	cpuid_read(cpu, 1, 0, leaf1);
	cpuid_read(cpu, 7, 0, leaf7);
	if (leaf1[2] & BIT(17))
		known |= CR4_PCIDE;
	if (leaf7[1] & BIT(7))
		known |= CR4_SMEP;
	if (cpu->features & FEATURE_BIT(FEATURE_SMAP))
		known |= CR4_SMAP;
	if (cpu->features & FEATURE_BIT(FEATURE_UMIP))
		known |= CR4_UMIP;
	if (cpu->features & FEATURE_BIT(FEATURE_FSGSBASE))
		known |= CR4_FSGSBASE;
	if (cpu->features & FEATURE_BIT(FEATURE_XSAVE))
		known |= CR4_OSXSAVE;
	return known;
}

void cpu_set_cr4(struct soft_cpu *cpu, uint64_t value)
{
	uint64_t changed = value ^ cpu->cr4;

	if (value & ~cr4_known(cpu))
		refuse(cpu);
	if (cpu_long(cpu) && !(value & CR4_PAE))
		refuse(cpu);
	if ((changed & value & CR4_PCIDE) && (!cpu_long(cpu) || (cpu->cr3 & 0xFFF)))
		refuse(cpu);
	if ((changed & (CR4_PAE | CR4_PGE | CR4_PSE | CR4_SMEP)) &&
	    pae_paging(cpu->cr0, value, cpu->efer) && !mmu_load_pdptrs(cpu, cpu->cr3))
		refuse(cpu);
	cpu->cr4 = value;
	if (changed & (CR4_PAE | CR4_PGE | CR4_PSE | CR4_SMEP | CR4_SMAP | CR4_PCIDE))
		tlb_flush_all(cpu);
	if (changed & CR4_PCIDE)
		tlb_switch(cpu, value & CR4_PCIDE ? (uint16_t)(cpu->cr3 & 0xFFF) : 0, false);
	cpu_mode_changed(cpu);
}

void cpu_set_cr8(struct soft_cpu *cpu, uint64_t value)
{
	if (value > 15)
		refuse(cpu);
	lapic_set_tpr(cpu, (uint8_t)(value << 4));
}

uint64_t cpu_get_cr8(struct soft_cpu *cpu)
{
	return lapic_get_tpr(cpu) >> 4;
}

bool cpu_set_efer(struct soft_cpu *cpu, uint64_t value)
{
	uint64_t changed = value ^ cpu->efer;

	if (value & ~(uint64_t)(EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE))
		return false;
	if ((changed & EFER_LME) && cpu->paging)
		return false;
	cpu->efer = (value & ~(uint64_t)EFER_LMA) | (cpu->efer & EFER_LMA);
	if (changed & EFER_NXE)
		tlb_flush_all(cpu);
	return true;
}

uint64_t cpu_get_rflags(const struct soft_cpu *cpu)
{
	return cpu->rflags | (cpu->status >> 8 & (RF_CF | RF_PF | RF_AF | RF_ZF | RF_SF)) |
	       (cpu->status & ST_OF ? RF_OF : 0);
}

void cpu_set_rflags(struct soft_cpu *cpu, uint64_t value)
{
	uint32_t others = (uint32_t)value & (RF_TF | RF_IF | RF_DF | RF_IOPL | RF_NT | RF_RF |
					     RF_VM | RF_AC | RF_VIF | RF_VIP | RF_ID);
	uint32_t changed = (others | RF_ONE) ^ cpu->rflags;

	cpu->status = (uint16_t)(((value & (RF_CF | RF_PF | RF_AF | RF_ZF | RF_SF)) | RF_ONE) << 8 |
				 (value & RF_OF ? ST_OF : 0));
	cpu->rflags = others | RF_ONE;
	if (changed & (RF_TF | RF_AC | RF_VM))
		cpu_mode_changed(cpu);
	/* The last thing an IRET does, too. */
	if (cpu->waiting)
		atomic_fetch_or_explicit(&cpu->request, REQ_SELF, memory_order_relaxed);
}
