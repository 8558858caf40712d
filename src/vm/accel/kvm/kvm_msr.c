/*
 * Model-specific registers: which ones a guest reaches at all, and what firmware would have set in them.
 *
 * The filter denies by default. Allowed is what processors of the last fifteen years have architecturally, what kernels
 * read without asking CPUID because every real machine answers (AMD configuration registers, machine check banks, RAPL
 * units), and KVM's own. Not allowed, though KVM implements them: performance counters (PMC, PEBS, AMD IBS and PerfMon),
 * VMX and SVM control, processor trace, Hyper-V and Xen interfaces. CPUID shows none of these. A denied access is #GP, as
 * on a processor without the register. The x2APIC's registers (0x800 to 0x8FF) are beyond any filter.
 * (SDM volume 4, chapter 2; APM volume 2, appendix A.)
 */
#include <string.h>

#include "base/bits.h"
#include "vm/accel/kvm/kvm_int.h"

#define MSR_IA32_MISC_ENABLE    0x1A0u
#define MISC_ENABLE_FAST_STRING BIT(0)
#define MISC_ENABLE_NO_BTS      BIT(11)
#define MISC_ENABLE_NO_PEBS     BIT(12)
#define MSR_MTRR_DEF_TYPE       0x2FFu
#define MTRR_DEF_ENABLE         BIT(11)
#define MTRR_WRITE_BACK         6u

struct msr_span {
	uint32_t first, last;
};

static const struct msr_span allowed[] = {
	{0x00000000, 0x00000001}, /* P5 machine check */
	{0x00000010, 0x00000012}, /* TSC; KVM's clock by its first numbers */
	{0x00000017, 0x00000017}, /* PLATFORM_ID */
	{0x0000001B, 0x0000001B}, /* APIC_BASE */
	{0x0000002A, 0x0000002A}, /* EBL_CR_POWERON */
	{0x00000033, 0x00000034}, /* TEST_CTRL, SMI_COUNT */
	{0x0000003A, 0x0000003B}, /* FEATURE_CONTROL, TSC_ADJUST */
	{0x00000048, 0x00000049}, /* SPEC_CTRL, PRED_CMD */
	{0x00000079, 0x00000079}, /* BIOS_UPDT_TRIG */
	{0x0000008B, 0x0000008B}, /* BIOS_SIGN_ID */
	{0x000000CD, 0x000000CF}, /* FSB_FREQ, PLATFORM_INFO, CORE_CAPABILITIES */
	{0x000000E1, 0x000000E1}, /* UMWAIT_CONTROL */
	{0x000000FE, 0x000000FE}, /* MTRRCAP */
	{0x0000010A, 0x0000010B}, /* ARCH_CAPABILITIES, FLUSH_CMD */
	{0x00000119, 0x00000119}, /* BBL_CR_CTL */
	{0x0000011E, 0x0000011E}, /* BBL_CR_CTL3 */
	{0x00000122, 0x00000122}, /* TSX_CTRL */
	{0x00000140, 0x00000140}, /* MISC_FEATURES_ENABLES */
	{0x00000174, 0x00000176}, /* SYSENTER */
	{0x00000179, 0x0000017B}, /* machine check, global */
	{0x00000198, 0x00000199}, /* PERF_STATUS, PERF_CTL */
	{0x000001A0, 0x000001A0}, /* MISC_ENABLE */
	{0x000001C4, 0x000001C5}, /* XFD, XFD_ERR */
	{0x000001D9, 0x000001D9}, /* DEBUGCTL */
	{0x000001DB, 0x000001DE}, /* last branch and exception */
	{0x000001FC, 0x000001FC}, /* POWER_CTL */
	{0x00000200, 0x0000021F}, /* variable MTRRs */
	{0x00000250, 0x0000026F}, /* fixed MTRRs */
	{0x00000277, 0x00000277}, /* PAT */
	{0x00000280, 0x0000029F}, /* machine check, CTL2 */
	{0x000002FF, 0x000002FF}, /* MTRR_DEF_TYPE */
	{0x00000345, 0x00000345}, /* PERF_CAPABILITIES: reads as nothing */
	{0x00000400, 0x0000047F}, /* machine check banks */
	{0x00000606, 0x00000606}, /* RAPL_POWER_UNIT and the energy counters: zero */
	{0x00000611, 0x00000611}, {0x00000619, 0x00000619}, {0x00000639, 0x00000639},
	{0x00000641, 0x00000641}, {0x000006A0, 0x000006A8}, /* CET */
	{0x000006E0, 0x000006E1},                           /* TSC_DEADLINE, PKRS */
	{0x00000D90, 0x00000D90},                           /* BNDCFGS */
	{0x00000DA0, 0x00000DA0},                           /* XSS */
	{0x4B564D00, 0x4B564DFF},                           /* KVM's own */
	{0xC0000080, 0xC0000084},                           /* EFER, STAR, LSTAR, CSTAR, FMASK */
	{0xC0000100, 0xC0000103},                           /* FS, GS, kernel GS base, TSC_AUX */
	{0xC0010010, 0xC0010010},                           /* SYSCFG */
	{0xC0010015, 0xC0010015},                           /* HWCR */
	{0xC001001F, 0xC0010020},                           /* NB_CFG, PATCH_LOADER */
	{0xC0010055, 0xC0010055},                           /* INT_PENDING */
	{0xC0010058, 0xC0010058},                           /* MMIO_CFG_BASE */
	{0xC0010112, 0xC0010113},                           /* TSEG */
	{0xC001011F, 0xC001011F},                           /* VIRT_SPEC_CTRL */
	{0xC0010131, 0xC0010131},                           /* SEV_STATUS */
	{0xC0010140, 0xC0010141},                           /* OSVW */
	{0xC0011000, 0xC001102F},                           /* configuration of core and caches */
};

bool kvm_msr_allowed(uint32_t index)
{
	for (size_t i = 0; i < ARRAY_SIZE(allowed); i++)
		if (index >= allowed[i].first && index <= allowed[i].last)
			return true;
	return false;
}

/* The four windows of the numbers above; KVM takes a bitmap for each. */
#define WINDOW_MSRS 0x1200u
static const uint32_t windows[] = {0x00000000, 0x4B564D00, 0xC0000000, 0xC0010000};

static void window_fill(uint32_t base, uint8_t *bitmap)
{
	for (size_t i = 0; i < ARRAY_SIZE(allowed); i++) {
		if (allowed[i].first < base || allowed[i].last - base >= WINDOW_MSRS)
			continue;
		for (uint32_t bit = allowed[i].first - base; bit <= allowed[i].last - base; bit++)
			bitmap[bit / 8] |= (uint8_t)(1u << (bit % 8));
	}
}

int kvm_msr_filter(struct kvm *kvm)
{
	uint8_t bitmaps[ARRAY_SIZE(windows)][WINDOW_MSRS / 8];
	struct kvm_msr_filter filter = {.flags = KVM_MSR_FILTER_DEFAULT_DENY};

	memset(bitmaps, 0, sizeof(bitmaps));
	for (size_t i = 0; i < ARRAY_SIZE(windows); i++) {
		window_fill(windows[i], bitmaps[i]);
		filter.ranges[i] = (struct kvm_msr_filter_range){
			.flags = KVM_MSR_FILTER_READ | KVM_MSR_FILTER_WRITE,
			.nmsrs = WINDOW_MSRS,
			.base = windows[i],
			.bitmap = bitmaps[i],
		};
	}
	return kvm_ioctl(kvm->vm_fd, KVM_X86_SET_MSR_FILTER, &filter);
}

struct one_msr {
	struct kvm_msrs head;
	struct kvm_msr_entry entry;
};

int kvm_msr_read(const struct kvm_vcpu *vcpu, uint32_t index, uint64_t *ret)
{
	struct one_msr msr = {.head.nmsrs = 1, .entry.index = index};
	int r = kvm_ioctl(vcpu->fd, KVM_GET_MSRS, &msr);

	if (r != 1)
		return r < 0 ? r : -EINVAL;
	*ret = msr.entry.data;
	return 0;
}

int kvm_msr_write(const struct kvm_vcpu *vcpu, uint32_t index, uint64_t value)
{
	struct one_msr msr = {.head.nmsrs = 1, .entry = {.index = index, .data = value}};
	int r = kvm_ioctl(vcpu->fd, KVM_SET_MSRS, &msr);

	return r == 1 ? 0 : r < 0 ? r : -EINVAL;
}

/* A kernel that is started without firmware expects these: without fast strings Linux drops its best memcpy, with the MTRRs
 * off it doubts that memory may be cached. */
int kvm_msr_init(struct kvm_vcpu *vcpu)
{
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry entries[2];
	} msrs = {
		.head.nmsrs = 2,
		.entries = {{.index = MSR_MTRR_DEF_TYPE, .data = MTRR_DEF_ENABLE | MTRR_WRITE_BACK},
			    {.index = MSR_IA32_MISC_ENABLE,
			     .data = MISC_ENABLE_FAST_STRING | MISC_ENABLE_NO_BTS |
				     MISC_ENABLE_NO_PEBS}},
	};
	int r = kvm_ioctl(vcpu->fd, KVM_SET_MSRS, &msrs);

	/* AMD has no MISC_ENABLE; a kernel may refuse it there. */
	return r < 1 ? (r < 0 ? r : -EINVAL) : 0;
}
