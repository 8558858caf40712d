/*
 * Model-specific registers: those with a meaning here, and those that kernels read or write on every machine of their vendor and that
 * mean nothing in this one. All others are #GP and counted. (SDM volume 4, chapter 2; AMD APM volume 2, appendix A.)
 *
 * The time stamp counter, the local APIC's and the paravirtual ones are irq/'s.
 */
#include "base/bits.h"
#include "vm/accel/soft/cpu/cpu_int.h"

enum {
	MSR_UCODE_LOAD = 0x79,
	MSR_UCODE_REV = 0x8B,
	MSR_MTRR_CAP = 0xFE,
	MSR_ARCH_CAPABILITIES = 0x10A,
	MSR_SYSENTER_CS = 0x174,
	MSR_SYSENTER_ESP,
	MSR_SYSENTER_EIP,
	MSR_MISC_ENABLE = 0x1A0,
	MSR_DEBUGCTL = 0x1D9,
	MSR_MTRR_VARIABLE = 0x200,
	MSR_MTRR_FIXED_64K = 0x250,
	MSR_MTRR_FIXED_16K = 0x258,
	MSR_MTRR_FIXED_4K = 0x268,
	MSR_PAT = 0x277,
	MSR_MTRR_DEFAULT = 0x2FF,
};

#define MSR_EFER           0xC0000080u
#define MSR_STAR           0xC0000081u
#define MSR_LSTAR          0xC0000082u
#define MSR_CSTAR          0xC0000083u
#define MSR_SFMASK         0xC0000084u
#define MSR_FS_BASE        0xC0000100u
#define MSR_GS_BASE        0xC0000101u
#define MSR_KERNEL_GS_BASE 0xC0000102u
#define MSR_TSC_AUX        0xC0000103u

#define N_VARIABLE 8
#define MTRR_CAP   (N_VARIABLE | BIT(8) /* fixed */ | BIT(10) /* write combining */)

/* RDCL_NO, SKIP_L1DFL_VMENTRY, SSB_NO, MDS_NO, IF_PSCHANGE_MC_NO, TAA_NO, SBDR_SSDP_NO, FBSDP_NO, PSDP_NO, BHI_NO, GDS_NO, RFDS_NO:
 * the guest's kernel memory is no more within reach of its processes' speculation than any memory of this process. */
#define ARCH_CAPABILITIES                                                                          \
	(BIT(0) | BIT(3) | BIT(4) | BIT(5) | BIT(6) | BIT(8) | BIT(13) | BIT(14) | BIT(15) |       \
	 BIT(20) | BIT(26) | BIT(27))

/* Registers that read as a constant; writes of that value, or any, do nothing. */
struct msr_constant {
	uint32_t first, last;
	uint64_t value;
	enum { BOTH, INTEL, AMD } vendor;
	bool writable;
};

static const struct msr_constant constants[] = {
	{0x00, 0x01, 0, BOTH, true},    /* P5 machine check */
	{0x17, 0x17, 0, INTEL, false},  /* PLATFORM_ID */
	{0x2A, 0x2A, 0, INTEL, true},   /* EBL_CR_POWERON */
	{0x34, 0x34, 0, INTEL, false},  /* SMI_COUNT */
	{0x3A, 0x3A, 1, INTEL, false},  /* FEATURE_CONTROL: locked */
	{0xCD, 0xCE, 0, INTEL, false},  /* FSB_FREQ, PLATFORM_INFO */
	{0x119, 0x119, 0, INTEL, true}, /* BBL_CR_CTL */
	{0x11E, 0x11E, 0, INTEL, true}, /* BBL_CR_CTL3 */
	{0x140, 0x140, 0, INTEL, true}, /* MISC_FEATURES_ENABLES */
	{0x179, 0x17A, 0, BOTH, true},  /* MCG_CAP: no banks; MCG_STATUS */
	{0x198, 0x199, 0, BOTH, true},  /* PERF_STATUS, PERF_CTL */
	{0x1DB, 0x1DE, 0, BOTH, false}, /* last branch and exception */
	{0x1FC, 0x1FC, 0, INTEL, true}, /* POWER_CTL */
	{0x606, 0x606, 0, BOTH, false}, /* RAPL units and counters */
	{0x611, 0x611, 0, BOTH, false}, /* package */
	{0x619, 0x619, 0, BOTH, false}, /* DRAM */
	{0x639, 0x639, 0, BOTH, false}, /* cores */
	{0x641, 0x641, 0, BOTH, false}, /* graphics */
	{0xC0010000, 0xC0010007, 0, AMD,
	 true}, /* the four counters that every AMD processor has: do not count */
	{0xC0010010, 0xC0010010, 0, AMD, true},       /* SYSCFG */
	{0xC0010015, 0xC0010015, BIT(24), AMD, true}, /* HWCR: TscFreqSel */
	{0xC001001F, 0xC0010020, 0, AMD, true},       /* NB_CFG, PATCH_LOADER */
	{0xC0010055, 0xC0010055, 0, AMD, true},       /* INT_PENDING */
	{0xC0010058, 0xC0010058, 0, AMD, true},       /* MMIO_CFG_BASE */
	{0xC0010112, 0xC0010113, 0, AMD, true},       /* TSEG */
	{0xC0010131, 0xC0010131, 0, AMD, false},      /* SEV_STATUS */
	{0xC0010140, 0xC0010141, 0, AMD, true},       /* OSVW */
	{0xC0011000, 0xC0011028, 0, AMD, true},       /* configuration of core and caches */
	{0xC0011029, 0xC0011029, BIT(1), AMD, true},  /* DE_CFG: LFENCE serialises */
	{0xC001102A, 0xC001102F, 0, AMD, true},
};

static const struct msr_constant *constant_find(const struct soft_cpu *cpu, uint32_t index)
{
	for (size_t i = 0; i < ARRAY_SIZE(constants); i++) {
		const struct msr_constant *c = &constants[i];

		if (index >= c->first && index <= c->last &&
		    (c->vendor == BOTH || (c->vendor == AMD) == cpu_is_amd(cpu)))
			return c;
	}
	return NULL;
}

static bool is_irq_msr(uint32_t index)
{
	switch (index) {
	case 0x10: /* TSC */
	case 0x11: /* paravirtual clock, by its first numbers */
	case 0x12:
	case 0x1B:  /* APIC_BASE */
	case 0x3B:  /* TSC_ADJUST */
	case 0x6E0: /* TSC_DEADLINE */
		return true;
	default:
		return (index >= 0x800 && index <= 0x8FF) ||
		       (index >= 0x4B564D00 && index <= 0x4B564DFF);
	}
}

/* Registers that are 64 bits of the vCPU and hold an address: written values must be canonical. */
static uint64_t *address_register(struct soft_cpu *cpu, uint32_t index)
{
	switch (index) {
	case MSR_SYSENTER_ESP:
		return &cpu->sysenter_esp;
	case MSR_SYSENTER_EIP:
		return &cpu->sysenter_eip;
	case MSR_LSTAR:
		return &cpu->lstar;
	case MSR_CSTAR:
		return &cpu->cstar;
	case MSR_FS_BASE:
		return &cpu->seg[SEG_FS].base;
	case MSR_GS_BASE:
		return &cpu->seg[SEG_GS].base;
	case MSR_KERNEL_GS_BASE:
		return &cpu->kernel_gs_base;
	default:
		return NULL;
	}
}

/* --- memory types: stored, without effect --- */

static bool memory_type_valid(uint8_t type, bool pat)
{
	return type <= 1 || (type >= 4 && type <= 6) || (pat && type == 7);
}

static bool memory_types_valid(uint64_t value, bool pat)
{
	for (unsigned i = 0; i < 8; i++)
		if (!memory_type_valid((uint8_t)(value >> (8 * i)), pat))
			return false;
	return true;
}

static uint64_t *fixed_mtrr(struct soft_cpu *cpu, uint32_t index)
{
	if (index == MSR_MTRR_FIXED_64K)
		return &cpu->mtrr_fixed[0];
	if (index == MSR_MTRR_FIXED_16K || index == MSR_MTRR_FIXED_16K + 1)
		return &cpu->mtrr_fixed[1 + index - MSR_MTRR_FIXED_16K];
	if (index >= MSR_MTRR_FIXED_4K && index < MSR_MTRR_FIXED_4K + 8)
		return &cpu->mtrr_fixed[3 + index - MSR_MTRR_FIXED_4K];
	return NULL;
}

static uint64_t *variable_mtrr(struct soft_cpu *cpu, uint32_t index)
{
	uint32_t i = index - MSR_MTRR_VARIABLE;

	if (i >= 2 * N_VARIABLE)
		return NULL;
	return i % 2 ? &cpu->mtrr_mask[i / 2] : &cpu->mtrr_base[i / 2];
}

static bool variable_valid(const struct soft_cpu *cpu, uint32_t index, uint64_t value)
{
	uint64_t beyond = cpu->tlbs->reserved_bits | 0xFFF0000000000000ULL;

	if (index % 2)
		return (value & (beyond | 0x7FF)) == 0;
	return (value & (beyond | 0xF00)) == 0 && memory_type_valid((uint8_t)value, false);
}

static bool memory_write(struct soft_cpu *cpu, uint32_t index, uint64_t value, bool *ret_known)
{
	uint64_t *fixed = fixed_mtrr(cpu, index), *variable = variable_mtrr(cpu, index);

	*ret_known = true;
	if (fixed) {
		if (!memory_types_valid(value, false))
			return false;
		*fixed = value;
	} else if (variable) {
		if (!variable_valid(cpu, index, value))
			return false;
		*variable = value;
	} else if (index == MSR_PAT) {
		if (!memory_types_valid(value, true))
			return false;
		cpu->pat = value;
	} else if (index == MSR_MTRR_DEFAULT) {
		if ((value & ~0xCFFULL) || !memory_type_valid((uint8_t)value, false))
			return false;
		cpu->mtrr_def = value;
	} else {
		*ret_known = false;
	}
	return *ret_known;
}

static bool memory_read(struct soft_cpu *cpu, uint32_t index, uint64_t *ret)
{
	uint64_t *fixed = fixed_mtrr(cpu, index), *variable = variable_mtrr(cpu, index);

	if (fixed)
		*ret = *fixed;
	else if (variable)
		*ret = *variable;
	else if (index == MSR_PAT)
		*ret = cpu->pat;
	else if (index == MSR_MTRR_DEFAULT)
		*ret = cpu->mtrr_def;
	else if (index == MSR_MTRR_CAP)
		*ret = MTRR_CAP;
	else
		return false;
	return true;
}

/* --- all of them --- */

bool cpu_rdmsr(struct soft_cpu *cpu, uint32_t index, uint64_t *ret)
{
	const uint64_t *address = address_register(cpu, index);
	const struct msr_constant *c;

	if (is_irq_msr(index))
		return irq_rdmsr(cpu, index, ret);
	if (address) {
		*ret = *address;
		return true;
	}
	if (memory_read(cpu, index, ret))
		return true;
	switch (index) {
	case MSR_UCODE_REV:
		*ret = cpu_is_amd(cpu) ? 0x01000065 : 1ULL << 32;
		return true;
	case MSR_ARCH_CAPABILITIES:
		*ret = ARCH_CAPABILITIES;
		return true;
	case MSR_SYSENTER_CS:
		*ret = cpu->sysenter_cs;
		return true;
	case MSR_MISC_ENABLE:
		*ret = cpu->misc_enable;
		return true;
	case MSR_DEBUGCTL:
		*ret = cpu->debugctl;
		return true;
	case MSR_EFER:
		*ret = cpu->efer;
		return true;
	case MSR_STAR:
		*ret = cpu->star;
		return true;
	case MSR_SFMASK:
		*ret = cpu->sfmask;
		return true;
	case MSR_TSC_AUX:
		*ret = cpu->tsc_aux;
		return true;
	}
	c = constant_find(cpu, index);
	if (c)
		*ret = c->value;
	else
		cpu->tlbs->msr_count++;
	return c != NULL;
}

bool cpu_wrmsr(struct soft_cpu *cpu, uint32_t index, uint64_t value)
{
	uint64_t *address = address_register(cpu, index);
	const struct msr_constant *c;
	bool known, good;

	if (is_irq_msr(index))
		return irq_wrmsr(cpu, index, value);
	if (address) {
		if (is_canonical(value))
			*address = value;
		return is_canonical(value);
	}
	good = memory_write(cpu, index, value, &known);
	if (known)
		return good;
	switch (index) {
	case MSR_UCODE_LOAD:
	case MSR_UCODE_REV:
		return true;
	case MSR_SYSENTER_CS:
		cpu->sysenter_cs = value & 0xFFFFFFFF;
		return true;
	case MSR_MISC_ENABLE:
		cpu->misc_enable = value;
		return true;
	case MSR_DEBUGCTL:
		/* Last branches are not recorded, single steps of branches not made. */
		if (value & ~3ULL)
			return false;
		cpu->debugctl = value;
		return true;
	case MSR_EFER:
		return cpu_set_efer(cpu, value);
	case MSR_STAR:
		cpu->star = value;
		return true;
	case MSR_SFMASK:
		cpu->sfmask = value & 0xFFFFFFFF;
		return true;
	case MSR_TSC_AUX:
		if (value >> 32)
			return false;
		cpu->tsc_aux = value;
		return true;
	}
	c = constant_find(cpu, index);
	if (!c)
		cpu->tlbs->msr_count++;
	return c && c->writable;
}
