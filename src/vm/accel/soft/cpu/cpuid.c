/*
 * CPUID as the guest sees it: what the host has, of that what is implemented here, and the guest's own topology and clocks. (SDM volume 2,
 * CPUID; AMD APM volume 3, appendix E.)
 *
 * The host is asked once, when the machine is made: where the host is itself a guest, each CPUID costs an exit.
 */
#include <cpuid.h>
#include <errno.h>
#include <stdlib.h>

#include "base/bits.h"
#include "vm/accel/soft/cpu/cpu_int.h"

#define MAX_LEAVES 96
#define XCR0_AVX   4u

struct cpuid_leaf {
	uint32_t leaf, subleaf;
	bool indexed; /* subleaf counts */
	uint32_t reg[4];
};

struct cpuid_table {
	unsigned n;
	struct cpuid_leaf leaves[MAX_LEAVES];
	uint32_t max_basic, max_extended;
	bool amd;
};

/* What may be shown of a word of feature bits when the host has it, and what is shown anyway, since it is done here without the
 * host's help. */
struct feature_word {
	uint32_t leaf, subleaf;
	enum x86_register reg;
	uint32_t host, always;
};

static const struct feature_word words[] = {
	/* SSE3 PCLMUL SSSE3 FMA CX16 PCID SSE4.1 SSE4.2 MOVBE POPCNT AES XSAVE AVX F16C RDRAND; x2APIC TSC_DEADLINE hypervisor */
	{1, 0, X86_ECX,
	 BIT(0) | BIT(1) | BIT(9) | BIT(12) | BIT(13) | BIT(17) | BIT(19) | BIT(20) | BIT(22) |
		 BIT(23) | BIT(25) | BIT(26) | BIT(28) | BIT(29) | BIT(30),
	 BIT(21) | BIT(24) | BIT(31)},
	/* CMOV CLFSH MMX FXSR SSE SSE2; FPU DE PSE TSC MSR PAE MCE CX8 APIC SEP MTRR PGE MCA PAT PSE36 */
	{1, 0, X86_EDX, BIT(15) | BIT(19) | BIT(23) | BIT(24) | BIT(25) | BIT(26),
	 BIT(0) | BIT(2) | BIT(3) | BIT(4) | BIT(5) | BIT(6) | BIT(7) | BIT(8) | BIT(9) | BIT(11) |
		 BIT(12) | BIT(13) | BIT(14) | BIT(16) | BIT(17)},
	/* FSGSBASE BMI1 AVX2 FDP_EXCPTN_ONLY BMI2 ERMS INVPCID ZERO_FCS_FDS RDSEED ADX CLFLUSHOPT CLWB SHA; TSC_ADJUST SMEP SMAP */
	{7, 0, X86_EBX,
	 BIT(0) | BIT(3) | BIT(5) | BIT(6) | BIT(8) | BIT(9) | BIT(10) | BIT(13) | BIT(18) |
		 BIT(19) | BIT(23) | BIT(24) | BIT(29),
	 BIT(1) | BIT(7) | BIT(20)},
	{7, 0, X86_ECX, BIT(22) /* RDPID */, BIT(2) /* UMIP */},
	{7, 0, X86_EDX, BIT(4) /* FSRM */ | BIT(14) /* SERIALIZE */,
	 BIT(29) /* ARCH_CAPABILITIES */},
	{7, 1, X86_EAX, 0, 0},
	{0xD, 1, X86_EAX, BIT(0) | BIT(1) | BIT(2) /* XSAVEOPT XSAVEC XGETBV1 */, 0},
	/* LAHF, LZCNT, PREFETCHW, topology extensions */
	{0x80000001, 0, X86_ECX, BIT(0) | BIT(5) | BIT(8) | BIT(22), 0},
	/* MMXEXT and copies of leaf 1 (AMD), 1 GiB pages, RDTSCP; SYSCALL NX LM */
	{0x80000001, 0, X86_EDX, 0x0183F3FFu | BIT(22) | BIT(26) | BIT(27),
	 BIT(11) | BIT(20) | BIT(29)},
	{0x80000007, 0, X86_EDX, BIT(8) /* the counter's rate is constant */, 0},
	{0x80000008, 0, X86_EBX, 0, 0},
};

/* Which bits of those words are known to the decoder. */
struct feature_bit {
	uint8_t feature; /* enum cpu_feature */
	uint8_t bit;
	uint8_t word; /* index in words[] */
};

enum { W_1C, W_1D, W_7B, W_7C, W_7D, W_7A, W_XSAVE, W_EXT_C, W_EXT_D };

static const struct feature_bit bits[] = {
	{FEATURE_SSE3, 0, W_1C},         {FEATURE_SSSE3, 9, W_1C},
	{FEATURE_SSE4_1, 19, W_1C},      {FEATURE_SSE4_2, 20, W_1C},
	{FEATURE_SSE4A, 6, W_EXT_C},     {FEATURE_AVX, 28, W_1C},
	{FEATURE_F16C, 29, W_1C},        {FEATURE_FMA, 12, W_1C},
	{FEATURE_AVX2, 5, W_7B},         {FEATURE_BMI1, 3, W_7B},
	{FEATURE_BMI2, 8, W_7B},         {FEATURE_LZCNT, 5, W_EXT_C},
	{FEATURE_POPCNT, 23, W_1C},      {FEATURE_MOVBE, 22, W_1C},
	{FEATURE_ADX, 19, W_7B},         {FEATURE_AES, 25, W_1C},
	{FEATURE_PCLMUL, 1, W_1C},       {FEATURE_SHA, 29, W_7B},
	{FEATURE_GFNI, 8, W_7C},         {FEATURE_VAES, 9, W_7C},
	{FEATURE_VPCLMUL, 10, W_7C},     {FEATURE_RDRAND, 30, W_1C},
	{FEATURE_RDSEED, 18, W_7B},      {FEATURE_CX16, 13, W_1C},
	{FEATURE_CMPXCHG8B, 8, W_1D},    {FEATURE_LAHF64, 0, W_EXT_C},
	{FEATURE_XSAVE, 26, W_1C},       {FEATURE_XSAVEOPT, 0, W_XSAVE},
	{FEATURE_XSAVEC, 1, W_XSAVE},    {FEATURE_XGETBV1, 2, W_XSAVE},
	{FEATURE_FSGSBASE, 0, W_7B},     {FEATURE_INVPCID, 10, W_7B},
	{FEATURE_SMAP, 20, W_7B},        {FEATURE_RDTSCP, 27, W_EXT_D},
	{FEATURE_RDPID, 22, W_7C},       {FEATURE_CLFLUSHOPT, 23, W_7B},
	{FEATURE_CLWB, 24, W_7B},        {FEATURE_SYSCALL, 11, W_EXT_D},
	{FEATURE_PREFETCHW, 8, W_EXT_C}, {FEATURE_UMIP, 2, W_7C},
	{FEATURE_SERIALIZE, 14, W_7D},
};

static struct cpuid_leaf *leaf_find(struct cpuid_table *t, uint32_t leaf, uint32_t subleaf)
{
	for (unsigned i = 0; i < t->n; i++) {
		struct cpuid_leaf *l = &t->leaves[i];

		if (l->leaf == leaf && (!l->indexed || l->subleaf == subleaf))
			return l;
	}
	return NULL;
}

static struct cpuid_leaf *leaf_add(struct cpuid_table *t, uint32_t leaf, uint32_t subleaf,
				   bool indexed)
{
	struct cpuid_leaf *l = &t->leaves[t->n++];

	*l = (struct cpuid_leaf){.leaf = leaf, .subleaf = subleaf, .indexed = indexed};
	return l;
}

static struct cpuid_leaf *leaf_copy(struct cpuid_table *t, uint32_t leaf, uint32_t subleaf,
				    bool indexed)
{
	struct cpuid_leaf *l = leaf_add(t, leaf, subleaf, indexed);

	__cpuid_count(leaf, subleaf, l->reg[0], l->reg[1], l->reg[2], l->reg[3]);
	return l;
}

/* Leaf 4 or 0x8000001D: caches, and who shares them. */
static void copy_caches(struct cpuid_table *t, const struct accel_config *c, uint32_t leaf)
{
	uint32_t threads = 1u << x86_id_bits(c->threads);
	uint32_t package = threads << x86_id_bits(c->cores);

	for (uint32_t i = 0; i < 8; i++) {
		struct cpuid_leaf *l = leaf_copy(t, leaf, i, true);
		uint32_t shared = (l->reg[0] >> 5 & 7) >= 3 ? package : threads;
		uint32_t cores = leaf == 4 ? MIN(package / threads - 1, 63u) : 0;

		if ((l->reg[0] & 0x1F) == 0)
			break;
		l->reg[0] = (l->reg[0] & 0x3FFF) | (shared - 1) << 14 | cores << 26;
	}
}

/* Leaves 0xB and 0x1F. */
static void add_levels(struct cpuid_table *t, const struct accel_config *c, uint32_t leaf)
{
	const uint32_t shift[] = {x86_id_bits(c->threads),
				  x86_id_bits(c->threads) + x86_id_bits(c->cores), 0};
	const uint32_t count[] = {c->threads, c->threads * c->cores, 0};
	const uint32_t type[] = {1, 2, 0}; /* thread, core, end */

	for (uint32_t i = 0; i < 3; i++) {
		struct cpuid_leaf *l = leaf_add(t, leaf, i, true);

		l->reg[0] = shift[i];
		l->reg[1] = count[i];
		l->reg[2] = i | type[i] << 8;
	}
}

static void mask_words(struct cpuid_table *t)
{
	for (size_t i = 0; i < ARRAY_SIZE(words); i++) {
		const struct feature_word *w = &words[i];
		struct cpuid_leaf *l = leaf_find(t, w->leaf, w->subleaf);

		if (l)
			l->reg[w->reg] = (l->reg[w->reg] & w->host) | w->always;
	}
}

static void add_basic(struct cpuid_table *t, const struct accel_config *c)
{
	uint32_t package = 1u << (x86_id_bits(c->threads) + x86_id_bits(c->cores));
	struct cpuid_leaf *l = leaf_copy(t, 0, 0, false);

	/* "AuthenticAMD", "HygonGenuine" */
	t->amd = l->reg[1] == 0x68747541 || l->reg[1] == 0x6F677948;
	t->max_basic = MIN(l->reg[0], t->amd ? 0x10u : 0x1Fu);
	t->max_basic = MAX(t->max_basic, 0xDu);
	l->reg[0] = t->max_basic;
	l = leaf_copy(t, 1, 0, false);
	l->reg[1] = 8u << 8 /* 64-byte lines */ | MIN(package, 255u) << 16;
	if (!t->amd) {
		leaf_copy(t, 2, 0, false);
		copy_caches(t, c, 4);
	}
	l = leaf_add(t, 6, 0, false);
	l->reg[0] = BIT(2); /* the APIC timer always runs */
	l = leaf_copy(t, 7, 0, true);
	l->reg[0] = 0; /* no further subleaves */
	add_levels(t, c, 0xB);
	if (t->max_basic >= 0x1F)
		add_levels(t, c, 0x1F);
	leaf_copy(t, 0xD, 1, true)->reg[1] = 0;
	l = leaf_find(t, 0xD, 1);
	l->reg[2] = l->reg[3] = 0;
}

static void add_extended(struct cpuid_table *t, const struct accel_config *c)
{
	uint32_t together = c->cores * c->threads;
	struct cpuid_leaf *l = leaf_copy(t, 0x80000000, 0, false);

	t->max_extended = MIN(l->reg[0], t->amd ? 0x80000021u : 0x80000008u);
	l->reg[0] = t->max_extended;
	leaf_copy(t, 0x80000001, 0, false);
	for (uint32_t leaf = 0x80000002; leaf <= 0x80000006; leaf++)
		leaf_copy(t, leaf, 0, false);
	l = leaf_copy(t, 0x80000007, 0, false);
	l->reg[0] = l->reg[1] = l->reg[2] = 0;
	l = leaf_copy(t, 0x80000008, 0, false);
	/* Linear addresses have 48 bits here, physical ones what the host has. */
	l->reg[0] = MIN(l->reg[0] & 0xFF, 52u);
	l->reg[0] = MAX(l->reg[0], 36u) | 48u << 8;
	l->reg[2] = l->reg[3] = 0;
	if (!t->amd)
		return;
	l->reg[2] = (together - 1) | (x86_id_bits(c->threads) + x86_id_bits(c->cores)) << 12;
	if (t->max_extended >= 0x80000019)
		leaf_copy(t, 0x80000019, 0, false);
	if (t->max_extended >= 0x8000001E) {
		copy_caches(t, c, 0x8000001D);
		leaf_add(t, 0x8000001E, 0, false);
	}
	if (t->max_extended >= 0x80000021) {
		l = leaf_copy(t, 0x80000021, 0, false);
		/* LFENCE serialises; a null selector clears the base */
		l->reg[0] = (l->reg[0] & BIT(2)) | BIT(6);
		l->reg[1] = l->reg[2] = l->reg[3] = 0;
	}
}

static cpu_features_t features_of(struct cpuid_table *t)
{
	cpu_features_t f = FEATURE_BIT(FEATURE_ALWAYS);

	for (size_t i = 0; i < ARRAY_SIZE(bits); i++) {
		const struct feature_word *w = &words[bits[i].word];
		const struct cpuid_leaf *l = leaf_find(t, w->leaf, w->subleaf);

		if (l && (l->reg[w->reg] >> bits[i].bit & 1))
			f |= FEATURE_BIT(bits[i].feature);
	}
	return f;
}

/* A feature without what it stands on is not shown either. */
static void mask_dependents(struct cpuid_table *t)
{
	struct cpuid_leaf *one = leaf_find(t, 1, 0), *seven = leaf_find(t, 7, 0);

	if (!(one->reg[X86_ECX] & BIT(26)))
		one->reg[X86_ECX] &= ~(uint32_t)BIT(28); /* AVX wants XSAVE */
	if (!(one->reg[X86_ECX] & BIT(28))) {
		one->reg[X86_ECX] &= ~(uint32_t)(BIT(12) | BIT(29));
		seven->reg[X86_EBX] &= ~(uint32_t)BIT(5);
	}
}

int cpuid_init(struct soft *soft, struct error *err)
{
	const struct accel_config *c = &soft->accel.config;
	struct cpuid_table *t = calloc(1, sizeof(*t));
	struct cpuid_leaf *l;

	if (!t)
		return error_set_errno(err, -ENOMEM, "the software CPU's CPUID");
	add_basic(t, c);
	add_extended(t, c);
	mask_words(t);
	mask_dependents(t);
	if (c->cores * c->threads > 1) {
		leaf_find(t, 1, 0)->reg[X86_EDX] |= BIT(28); /* HTT: leaf 1 EBX counts */
		l = leaf_find(t, 0x80000001, 0);
		if (t->amd)
			l->reg[X86_ECX] |= BIT(1); /* CmpLegacy */
	}
	soft->cpuid = t;
	soft->features = features_of(t);
	return 0;
}

void cpuid_fini(struct soft *soft)
{
	free(soft->cpuid);
	soft->cpuid = NULL;
}

bool cpu_is_amd(const struct soft_cpu *cpu)
{
	return cpu->soft->cpuid->amd;
}

/* Bytes of the standard XSAVE area for a set of states. */
static uint32_t xsave_bytes(uint64_t xcr0)
{
	return xcr0 & XCR0_AVX ? 832 : 576;
}

static void read_xsave(struct soft_cpu *cpu, uint32_t subleaf, uint32_t ret[4])
{
	bool avx = (cpu->features & FEATURE_BIT(FEATURE_AVX)) != 0;

	if (!(cpu->features & FEATURE_BIT(FEATURE_XSAVE))) {
		ret[0] = 0;
		return;
	}
	if (subleaf == 0) {
		ret[0] = avx ? 7 : 3;
		ret[1] = xsave_bytes(cpu->xcr0);
		ret[2] = avx ? 832 : 576;
	} else if (subleaf == 1) {
		ret[1] = xsave_bytes(cpu->xcr0);
	} else if (subleaf == 2 && avx) {
		ret[0] = 256;
		ret[1] = 576;
	}
}

/* TSC rate = crystal * ebx / eax; the crystal is the APIC timer's clock, 1 GHz. (Intel only.) */
static void read_clocks(const struct soft_cpu *cpu, uint32_t leaf, uint32_t ret[4])
{
	uint32_t khz = (uint32_t)cpu->soft->tsc_khz;

	if (cpu_is_amd(cpu) || khz == 0)
		return;
	if (leaf == 0x15) {
		ret[0] = 1000000;
		ret[1] = khz;
		ret[2] = 1000000000;
	} else {
		ret[0] = ret[1] = khz / 1000;
		ret[2] = 100;
	}
}

#define MSR_APIC_BASE    0x1Bu
#define APIC_BASE_ENABLE BIT(11)
#define FEATURE_EDX_APIC BIT(9)

/* A local APIC that is switched off is not there. */
static uint32_t apic_hidden(struct soft_cpu *cpu)
{
	uint64_t base;

	return irq_rdmsr(cpu, MSR_APIC_BASE, &base) && !(base & APIC_BASE_ENABLE) ? FEATURE_EDX_APIC
										  : 0;
}

/* What differs from vCPU to vCPU, and from moment to moment. */
static void read_own(struct soft_cpu *cpu, uint32_t leaf, uint32_t subleaf, uint32_t ret[4])
{
	const struct accel_config *c = &cpu->soft->accel.config;
	uint32_t id = x86_apic_id(cpu->base.index, c->cores, c->threads);

	switch (leaf) {
	case 1:
		ret[1] |= id << 24;
		if (cpu->cr4 & CR4_OSXSAVE)
			ret[2] |= BIT(27);
		ret[3] &= ~apic_hidden(cpu);
		break;
	case 0x80000001:
		ret[3] &= ~apic_hidden(cpu);
		break;
	case 0xB:
	case 0x1F:
		ret[3] = id;
		break;
	case 0xD:
		read_xsave(cpu, subleaf, ret);
		break;
	case 0x15:
	case 0x16:
		read_clocks(cpu, leaf, ret);
		break;
	case 0x8000001E: /* extended identifier; core and threads; node */
		ret[0] = id;
		ret[1] = (cpu->base.index / c->threads % c->cores) | (c->threads - 1) << 8;
		break;
	}
}

void cpuid_read(struct soft_cpu *cpu, uint32_t leaf, uint32_t subleaf, uint32_t ret[4])
{
	struct cpuid_table *t = cpu->soft->cpuid;
	const struct cpuid_leaf *l;

	if (leaf >= 0x40000000 && leaf <= 0x400000FF) {
		irq_cpuid(cpu, leaf, ret);
		return;
	}
	ret[0] = ret[1] = ret[2] = ret[3] = 0;
	/* Beyond the last leaf Intel answers with the last basic one, AMD with nothing. */
	if (leaf < 0x80000000 ? leaf > t->max_basic : leaf > t->max_extended) {
		if (t->amd)
			return;
		leaf = t->max_basic;
	}
	l = leaf_find(t, leaf, subleaf);
	if (l)
		for (unsigned i = 0; i < 4; i++)
			ret[i] = l->reg[i];
	if (l || leaf == 0xD || leaf == 0x15 || leaf == 0x16 || leaf == 0xB || leaf == 0x1F)
		read_own(cpu, leaf, subleaf, ret);
}
