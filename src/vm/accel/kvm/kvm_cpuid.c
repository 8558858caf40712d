/*
 * CPUID: what this host's KVM can do, less what is not virtualized here (nested virtualization, performance counters,
 * SGX, processor trace), plus the guest's own topology and clock rates.
 * (SDM volume 2, CPUID; APM volume 3, appendix E; Documentation/virt/kvm/x86/cpuid.rst.)
 *
 * Runs while vCPUs are created, on one thread: the table is the machine's, and a vCPU's identifiers are written into it just
 * before that vCPU gets it.
 */
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "vm/accel/kvm/kvm_int.h"

#define LEAF_KVM       0x40000000u
#define LEAF_KVM_FEAT  0x40000001u
#define LEAF_FREQUENCY 0x40000010u /* TSC and APIC rates in kHz, as VMware began it */
#define APIC_BUS_KHZ   1000000u    /* KVM's APIC timers count nanoseconds */
#define XCR0_AMX_TILES (BIT(17) | BIT(18))

static struct kvm_cpuid_entry2 *cpuid_find(struct kvm_cpuid2 *table, uint32_t leaf, uint32_t index)
{
	for (uint32_t i = 0; i < table->nent; i++)
		if (table->entries[i].function == leaf && table->entries[i].index == index)
			return &table->entries[i];
	return NULL;
}

static uint32_t cpuid_max(struct kvm_cpuid2 *table, uint32_t base)
{
	struct kvm_cpuid_entry2 *e = cpuid_find(table, base, 0);

	return e ? e->eax : 0;
}

static struct kvm_cpuid_entry2 *cpuid_add(struct kvm_cpuid2 *table, uint32_t leaf, uint32_t index,
					  uint32_t flags)
{
	struct kvm_cpuid_entry2 *e;

	if (table->nent == KVM_MAX_CPUID)
		return NULL;
	e = &table->entries[table->nent++];
	*e = (struct kvm_cpuid_entry2){.function = leaf, .index = index, .flags = flags};
	return e;
}

static void cpuid_remove(struct kvm_cpuid2 *table, uint32_t leaf)
{
	uint32_t kept = 0;

	for (uint32_t i = 0; i < table->nent; i++)
		if (table->entries[i].function != leaf)
			table->entries[kept++] = table->entries[i];
	table->nent = kept;
}

/* Clears bits where the leaf is there at all. */
static void cpuid_clear(struct kvm_cpuid2 *table, uint32_t leaf, uint32_t index, uint32_t eax,
			uint32_t ebx, uint32_t ecx, uint32_t edx)
{
	struct kvm_cpuid_entry2 *e = cpuid_find(table, leaf, index);

	if (!e)
		return;
	e->eax &= ~eax;
	e->ebx &= ~ebx;
	e->ecx &= ~ecx;
	e->edx &= ~edx;
}

static bool cpuid_is_amd(struct kvm_cpuid2 *table)
{
	struct kvm_cpuid_entry2 *e = cpuid_find(table, 0, 0);

	/* "AuthenticAMD", "HygonGenuine" */
	return e && (e->ebx == 0x68747541 || e->ebx == 0x6f677948);
}

int kvm_cpuid_load(struct kvm *kvm, struct error *err)
{
	struct kvm_cpuid2 *table =
		calloc(1, sizeof(*table) + KVM_MAX_CPUID * sizeof(table->entries[0]));
	struct kvm_cpuid_entry2 *sizes;

	if (!table)
		return error_set_errno(err, -ENOMEM, "CPUID");
	kvm->cpuid = table;
	/* Some kernels want to fill less than they are offered, others (E2BIG) more. */
	for (uint32_t n = 100;;) {
		int r;

		table->nent = n;
		r = kvm_ioctl(kvm->kvm_fd, KVM_GET_SUPPORTED_CPUID, table);
		if (r == 0)
			break;
		if (r != -E2BIG || n == KVM_MAX_CPUID)
			return error_set_errno(err, r, "KVM_GET_SUPPORTED_CPUID");
		n = MIN(n * 2, KVM_MAX_CPUID);
	}
	sizes = cpuid_find(table, 0x80000008, 0);
	kvm->phys_bits = sizes && (sizes->eax & 0xff) ? (uint8_t)(sizes->eax & 0xff) : 36;
	return 0;
}

/* What KVM could do but this machine does not give. */
static void cpuid_mask(struct kvm *kvm)
{
	static const uint32_t gone[] = {
		0xA,        /* performance monitoring */
		0x12,       /* SGX */
		0x14,       /* processor trace */
		0x1C,       /* last branch records */
		0x23,       /* performance monitoring, extended */
		0x8000000A, /* SVM */
		0x8000001B, /* instruction-based sampling */
		0x8000001F, /* memory encryption */
		0x80000022, /* performance monitoring, AMD */
	};
	struct kvm_cpuid2 *table = kvm->cpuid;
	struct kvm_cpuid_entry2 *xsave = cpuid_find(table, 0xD, 0);

	/* DTES64, MONITOR, VMX, SMX, PDCM */
	cpuid_clear(table, 1, 0, 0, 0, BIT(2) | BIT(3) | BIT(5) | BIT(6) | BIT(15), 0);
	/* SGX, resource control, processor trace; SGX launch control; last branch records */
	cpuid_clear(table, 7, 0, 0, BIT(2) | BIT(12) | BIT(15) | BIT(25), BIT(30), BIT(19));
	/* SVM, IBS, performance counters of core, north bridge and cache */
	cpuid_clear(table, 0x80000001, 0, 0, 0, BIT(2) | BIT(10) | BIT(23) | BIT(24) | BIT(28), 0);
	/* KVM shows AMX even to a process that did not ask for its large state. */
	if (!xsave || (xsave->eax & XCR0_AMX_TILES) != XCR0_AMX_TILES) {
		cpuid_clear(table, 7, 0, 0, 0, 0, BIT(22) | BIT(24) | BIT(25));
		cpuid_clear(table, 7, 1, BIT(21), 0, 0, 0);
		cpuid_clear(table, 0xD, 1, BIT(4), 0, 0, 0);
		cpuid_remove(table, 0x1D);
		cpuid_remove(table, 0x1E);
	}
	for (size_t i = 0; i < ARRAY_SIZE(gone); i++)
		cpuid_remove(table, gone[i]);
}

/* Cache sharing: who shares a cache is a matter of its level. Leaf 4 (Intel) and 0x8000001D (AMD) look alike. */
static void cpuid_caches(struct kvm *kvm, uint32_t leaf, bool core_count)
{
	const struct accel_config *c = &kvm->accel.config;
	uint32_t thread_ids = 1u << x86_id_bits(c->threads);
	uint32_t package_ids = thread_ids << x86_id_bits(c->cores);

	for (uint32_t i = 0; i < kvm->cpuid->nent; i++) {
		struct kvm_cpuid_entry2 *e = &kvm->cpuid->entries[i];
		uint32_t level = e->eax >> 5 & 7;
		uint32_t shared = level >= 3 ? package_ids : thread_ids;
		uint32_t cores = core_count ? package_ids / thread_ids - 1 : 0;

		if (e->function != leaf || (e->eax & 0x1f) == 0)
			continue;
		e->eax &= 0x3fffu;
		e->eax |= (shared - 1) << 14 | MIN(cores, 63u) << 26;
	}
}

/* Leaves 0xB and 0x1F: a level for threads, one for cores, and the end. The identifier is each vCPU's own. */
static int cpuid_levels(struct kvm *kvm, uint32_t leaf)
{
	const struct accel_config *c = &kvm->accel.config;
	const uint32_t shift[] = {x86_id_bits(c->threads),
				  x86_id_bits(c->threads) + x86_id_bits(c->cores), 0};
	const uint32_t count[] = {c->threads, c->threads * c->cores, 0};
	const uint32_t type[] = {1, 2, 0}; /* SMT, core, none */

	cpuid_remove(kvm->cpuid, leaf);
	for (uint32_t i = 0; i < 3; i++) {
		struct kvm_cpuid_entry2 *e =
			cpuid_add(kvm->cpuid, leaf, i, KVM_CPUID_FLAG_SIGNIFCANT_INDEX);

		if (!e)
			return -E2BIG;
		e->eax = shift[i];
		e->ebx = count[i];
		e->ecx = i | type[i] << 8;
	}
	return 0;
}

static int cpuid_topology(struct kvm *kvm, bool amd)
{
	const struct accel_config *c = &kvm->accel.config;
	uint32_t bits = x86_id_bits(c->threads) + x86_id_bits(c->cores);
	uint32_t max = cpuid_max(kvm->cpuid, 0);
	struct kvm_cpuid_entry2 *e;
	int r = 0;

	cpuid_caches(kvm, 4, true);
	cpuid_caches(kvm, 0x8000001D, false);
	e = cpuid_find(kvm->cpuid, 0x80000008, 0);
	if (e && amd)
		e->ecx = (c->cores * c->threads - 1) | bits << 12;
	e = cpuid_find(kvm->cpuid, 0x80000001, 0);
	if (e && amd && c->cores * c->threads > 1)
		e->ecx |= BIT(1); /* CmpLegacy: the package has more than one core */
	/* AMD's newest leaf describes the host's dies; without it kernels use those below. */
	cpuid_remove(kvm->cpuid, 0x80000026);
	if (max >= 0xB)
		r = cpuid_levels(kvm, 0xB);
	if (r == 0 && max >= 0x1F)
		r = cpuid_levels(kvm, 0x1F);
	return r;
}

/* The rates that kernels otherwise measure, badly, against emulated timers. */
static int cpuid_clocks(struct kvm *kvm, bool amd)
{
	struct kvm_cpuid_entry2 *e = cpuid_find(kvm->cpuid, LEAF_KVM, 0);

	if (kvm->tsc_khz == 0)
		return 0;
	if (e && e->eax < LEAF_FREQUENCY) {
		e->eax = LEAF_FREQUENCY;
		e = cpuid_add(kvm->cpuid, LEAF_FREQUENCY, 0, 0);
		if (!e)
			return -E2BIG;
		e->eax = kvm->tsc_khz;
		e->ebx = APIC_BUS_KHZ;
	}
	if (amd)
		return 0;
	/* TSC rate = crystal * ebx / eax. Kernels take the crystal for the APIC timer's clock as well. */
	e = cpuid_find(kvm->cpuid, 0x15, 0);
	if (e) {
		e->eax = APIC_BUS_KHZ;
		e->ebx = kvm->tsc_khz;
		e->ecx = APIC_BUS_KHZ * 1000u;
	}
	e = cpuid_find(kvm->cpuid, 0x16, 0);
	if (e) {
		e->eax = kvm->tsc_khz / 1000;
		e->ebx = kvm->tsc_khz / 1000;
		e->ecx = 100; /* MHz of the reference clock */
	}
	return 0;
}

/* What the guest is shown, in the words of x86_feature_words. */
static void cpuid_note_features(struct kvm *kvm)
{
	for (unsigned i = 0; i < X86_N_FEATURES; i++) {
		const struct x86_feature_word *w = &x86_feature_words[i];
		struct kvm_cpuid_entry2 *e = cpuid_find(kvm->cpuid, w->leaf, w->subleaf);

		if (!e)
			continue;
		kvm->features[i] = (w->reg == X86_EAX   ? e->eax
				    : w->reg == X86_EBX ? e->ebx
				    : w->reg == X86_ECX ? e->ecx
							: e->edx) &
				   ~w->ignore;
	}
}

int kvm_cpuid_finish(struct kvm *kvm, struct kvm_vcpu *vcpu)
{
	const struct accel_config *c = &kvm->accel.config;
	bool amd = cpuid_is_amd(kvm->cpuid);
	struct kvm_cpuid_entry2 *e;
	int r = kvm_ioctl_value(vcpu->fd, KVM_GET_TSC_KHZ, 0);

	kvm->tsc_khz = r > 0 ? (uint32_t)r : 0;
	cpuid_mask(kvm);
	e = cpuid_find(kvm->cpuid, 1, 0);
	if (!e)
		return -ENOSYS;
	e->ecx |= BIT(31) | BIT(21); /* a hypervisor is present; x2APIC */
	if (kvm->caps.tsc_deadline)
		e->ecx |= BIT(24); /* KVM never reports it, but has it */
	e->edx &= ~(uint32_t)BIT(28);
	if (c->cores * c->threads > 1)
		e->edx |= BIT(28); /* HTT: leaf 1 EBX counts logical processors */
	e = cpuid_find(kvm->cpuid, LEAF_KVM_FEAT, 0);
	if (e)
		e->eax |= BIT(7) /* spin locks wake halted vCPUs */;
	r = cpuid_topology(kvm, amd);
	if (r == 0)
		r = cpuid_clocks(kvm, amd);
	cpuid_note_features(kvm);
	return r;
}

/* The identifiers of one vCPU. */
static void cpuid_identify(struct kvm_vcpu *vcpu)
{
	const struct accel_config *c = &vcpu->kvm->accel.config;
	uint32_t package_ids = 1u << (x86_id_bits(c->threads) + x86_id_bits(c->cores));
	uint32_t id = vcpu->apic_id;

	for (uint32_t i = 0; i < vcpu->kvm->cpuid->nent; i++) {
		struct kvm_cpuid_entry2 *e = &vcpu->kvm->cpuid->entries[i];

		switch (e->function) {
		case 1:
			e->ebx = (e->ebx & 0xffffu) | MIN(package_ids, 255u) << 16 | id << 24;
			break;
		case 0xB:
		case 0x1F:
			e->edx = id;
			break;
		case 0x8000001E: /* extended identifier; core and threads; node */
			e->eax = id;
			e->ebx = (vcpu->base.index / c->threads % c->cores) | (c->threads - 1) << 8;
			e->ecx = 0;
			break;
		}
	}
}

int kvm_cpuid_set(struct kvm_vcpu *vcpu, struct error *err)
{
	int r;

	cpuid_identify(vcpu);
	r = kvm_ioctl(vcpu->fd, KVM_SET_CPUID2, vcpu->kvm->cpuid);
	if (r < 0)
		return error_set_errno(err, r, "KVM refuses the CPUID table of vCPU %u",
				       vcpu->base.index);
	return 0;
}
