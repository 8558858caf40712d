/*
 * Opening: /dev/kvm, the capabilities that a machine needs, the VM and what must be set before anything else is in it.
 *
 * The interrupt controllers (8259A pair, I/O APIC, local APICs) and the 8254 are the kernel's: an interrupt reaches
 * the guest without a thread of ours being woken, level-triggered lines are resampled where they end, and an irqfd reaches
 * any of them. The split mode, which keeps only the local APICs there, trades a smaller kernel surface for an exit on
 * every EOI of a level interrupt, and would want controllers of our own now.
 */
#include <fcntl.h>
#include <grp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/cleanup.h"
#include "vm/accel/kvm/kvm_int.h"

#define KVM_DEVICE "/dev/kvm"

static int kvm_device_denied(int code, struct error *err)
{
	struct stat st;
	struct group *group;

	if (stat(KVM_DEVICE, &st) < 0)
		return error_set_errno(err, code, "cannot open " KVM_DEVICE);
	group = (st.st_mode & S_IRGRP) && (st.st_mode & S_IWGRP) ? getgrgid(st.st_gid) : NULL;
	if (!group || st.st_gid == 0)
		return error_set(
			err, code,
			"no permission to open " KVM_DEVICE
			": only its owner may use it; as root, give it to a group you are in");
	return error_set(err, code,
			 "no permission to open " KVM_DEVICE
			 ": add yourself to group '%s' (usermod -aG %s USER) and log in again",
			 group->gr_name, group->gr_name);
}

int kvm_device_open(struct error *err)
{
	int fd = open(KVM_DEVICE, O_RDWR | O_CLOEXEC);
	int code = -errno, version;

	if (fd < 0) {
		if (code == -EACCES || code == -EPERM)
			return kvm_device_denied(-EACCES, err);
		if (code == -ENOENT || code == -ENODEV || code == -ENXIO)
			return error_set(err, -ENOENT,
					 KVM_DEVICE " is not there: enable virtualization in the "
						    "firmware setup and load the kvm-intel or "
						    "kvm-amd module");
		return error_set_errno(err, code, "cannot open " KVM_DEVICE);
	}
	version = kvm_ioctl_value(fd, KVM_GET_API_VERSION, 0);
	if (version != KVM_API_VERSION) {
		close(fd);
		return error_set(err, -ENOSYS, KVM_DEVICE " speaks version %d, not %d", version,
				 KVM_API_VERSION);
	}
	return fd;
}

int kvm_enable_cap(int fd, uint32_t cap, uint64_t arg0)
{
	struct kvm_enable_cap enable = {.cap = cap, .args = {arg0}};

	return kvm_ioctl(fd, KVM_ENABLE_CAP, &enable);
}

static int kvm_has(const struct kvm *kvm, unsigned long cap)
{
	int r = kvm_ioctl_value(kvm->vm_fd, KVM_CHECK_EXTENSION, cap);

	return r > 0 ? r : 0;
}

/* What every kernel since 4.11 has; asked all the same, because nested and paravirtual hosts leave things out. */
static int kvm_require(const struct kvm *kvm, struct error *err)
{
	static const struct {
		unsigned cap;
		const char *name;
	} need[] = {
		{KVM_CAP_IRQCHIP, "IRQCHIP"},
		{KVM_CAP_PIT2, "PIT2"},
		{KVM_CAP_USER_MEMORY, "USER_MEMORY"},
		{KVM_CAP_EXT_CPUID, "EXT_CPUID"},
		{KVM_CAP_MP_STATE, "MP_STATE"},
		{KVM_CAP_VCPU_EVENTS, "VCPU_EVENTS"},
		{KVM_CAP_XSAVE, "XSAVE"},
		{KVM_CAP_SIGNAL_MSI, "SIGNAL_MSI"},
		{KVM_CAP_IRQ_ROUTING, "IRQ_ROUTING"},
		{KVM_CAP_IRQFD, "IRQFD"},
		{KVM_CAP_IOEVENTFD, "IOEVENTFD"},
		{KVM_CAP_IMMEDIATE_EXIT, "IMMEDIATE_EXIT"},
		{KVM_CAP_ADJUST_CLOCK, "ADJUST_CLOCK"},
	};

	for (size_t i = 0; i < ARRAY_SIZE(need); i++)
		if (!kvm_has(kvm, need[i].cap))
			return error_set(err, -ENOSYS,
					 "this host's KVM lacks KVM_CAP_%s, which a machine needs",
					 need[i].name);
	if ((unsigned)kvm_has(kvm, KVM_CAP_MAX_VCPUS) < kvm->accel.config.n_vcpus)
		return error_set(err, -EINVAL, "this host's KVM runs at most %d vCPUs, not %u",
				 kvm_has(kvm, KVM_CAP_MAX_VCPUS), kvm->accel.config.n_vcpus);
	return 0;
}

static void kvm_read_caps(struct kvm *kvm)
{
	struct kvm_caps *caps = &kvm->caps;

	caps->any_length_doorbell = kvm_has(kvm, KVM_CAP_IOEVENTFD_ANY_LENGTH);
	caps->readonly_memory = kvm_has(kvm, KVM_CAP_READONLY_MEM);
	caps->msr_filter = kvm_has(kvm, KVM_CAP_X86_MSR_FILTER);
	caps->x2apic_32bit = kvm_has(kvm, KVM_CAP_X2APIC_API);
	caps->tsc_deadline = kvm_has(kvm, KVM_CAP_TSC_DEADLINE_TIMER);
	caps->tsc_offset = kvm_has(kvm, KVM_CAP_VCPU_ATTRIBUTES);
	caps->triple_fault_event = kvm_has(kvm, KVM_CAP_X86_TRIPLE_FAULT_EVENT);
	caps->exception_payload = kvm_has(kvm, KVM_CAP_EXCEPTION_PAYLOAD);
	caps->sregs2 = kvm_has(kvm, KVM_CAP_SREGS2);
	caps->manual_protect = kvm_has(kvm, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2) &
			       KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE;
	caps->kvmclock_ctrl = kvm_has(kvm, KVM_CAP_KVMCLOCK_CTRL);
	caps->pmu_disable = kvm_has(kvm, KVM_CAP_PMU_CAPABILITY) & KVM_PMU_CAP_DISABLE;
	caps->smm = kvm_has(kvm, KVM_CAP_X86_SMM);
	caps->tsc_scaling = kvm_has(kvm, KVM_CAP_TSC_CONTROL);
	caps->xsave_bytes = MAX(kvm_has(kvm, KVM_CAP_XSAVE2), (int)sizeof(struct kvm_xsave));
	caps->routes = MIN(kvm_has(kvm, KVM_CAP_IRQ_ROUTING), KVM_MAX_ROUTES);
	caps->slots = kvm_has(kvm, KVM_CAP_NR_MEMSLOTS);
	if (caps->slots <= 0 || caps->slots > KVM_MAX_SLOTS)
		caps->slots = KVM_MAX_SLOTS;
}

/* Settings that only take effect before the first vCPU exists. */
static int kvm_configure(struct kvm *kvm, struct error *err)
{
	uint64_t identity = X86_RESERVED_START;
	int r;

	/* First: KVM waits here for a grace period, a short one only when there was none just before. */
	if (kvm->caps.msr_filter) {
		r = kvm_msr_filter(kvm);
		if (r < 0)
			return error_set_errno(err, r,
					       "KVM refuses the filter of model-specific "
					       "registers");
	}
	r = kvm_ioctl(kvm->vm_fd, KVM_SET_IDENTITY_MAP_ADDR, &identity);
	if (r == 0)
		r = kvm_ioctl_value(kvm->vm_fd, KVM_SET_TSS_ADDR, X86_RESERVED_START + 0x1000);
	if (r < 0)
		return error_set_errno(err, r, "KVM refuses the addresses it keeps for itself");
	if (kvm->caps.triple_fault_event)
		kvm_enable_cap(kvm->vm_fd, KVM_CAP_X86_TRIPLE_FAULT_EVENT, 1);
	if (kvm->caps.exception_payload)
		kvm_enable_cap(kvm->vm_fd, KVM_CAP_EXCEPTION_PAYLOAD, 1);
	/* Performance counters are not part of a vCPU's state; a guest does not get them. */
	if (kvm->caps.pmu_disable)
		kvm_enable_cap(kvm->vm_fd, KVM_CAP_PMU_CAPABILITY, KVM_PMU_CAP_DISABLE);
	if (kvm->caps.x2apic_32bit &&
	    kvm_enable_cap(kvm->vm_fd, KVM_CAP_X2APIC_API,
			   KVM_X2APIC_API_USE_32BIT_IDS | KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK) <
		    0)
		kvm->caps.x2apic_32bit = false;
	return 0;
}

static void kvm_close(struct accel *accel)
{
	struct kvm *kvm = kvm_of(accel);

	kvm_irq_close(kvm);
	kvm_mem_free(kvm);
	free(kvm->cpuid);
	free(kvm->msr_list);
	free(kvm->power_on);
	if (kvm->vm_fd >= 0)
		close(kvm->vm_fd);
	if (kvm->kvm_fd >= 0)
		close(kvm->kvm_fd);
	free(kvm);
}

static int kvm_open_parts(struct kvm *kvm, struct error *err)
{
	int r;

	kvm->kvm_fd = kvm_device_open(err);
	if (kvm->kvm_fd < 0)
		return kvm->kvm_fd;
	kvm->vm_fd = kvm_ioctl_value(kvm->kvm_fd, KVM_CREATE_VM, 0);
	if (kvm->vm_fd < 0)
		return error_set_errno(err, kvm->vm_fd, "KVM cannot create a machine");
	r = kvm_require(kvm, err);
	if (r < 0)
		return r;
	kvm_read_caps(kvm);
	r = kvm_ioctl_value(kvm->kvm_fd, KVM_GET_VCPU_MMAP_SIZE, 0);
	if (r < (int)sizeof(struct kvm_run))
		return error_set(err, -ENOSYS, "KVM: the run area has %d bytes", r);
	kvm->run_bytes = (size_t)r;
	r = kvm_configure(kvm, err);
	return r < 0 ? r : kvm_cpuid_load(kvm, err);
}

static int kvm_open(const struct accel_config *config, struct accel **ret, struct error *err)
{
	struct kvm *kvm;
	int r = kvm_kick_init();

	if (r < 0)
		return error_set_errno(err, r, "cannot install a signal handler");
	kvm = calloc(1, sizeof(*kvm));
	if (!kvm)
		return error_set_errno(err, -ENOMEM, "KVM");
	kvm->accel.ops = &kvm_accel_ops;
	kvm->accel.config = *config;
	kvm->kvm_fd = kvm->vm_fd = -1;
	pthread_mutex_init(&kvm->route_lock, NULL);
	r = kvm_open_parts(kvm, err);
	if (r < 0) {
		kvm_close(&kvm->accel);
		return r;
	}
	*ret = &kvm->accel;
	return 0;
}

const struct accel_ops kvm_accel_ops = {
	.kind = ACCEL_KVM,
	.name = "kvm",
	.open = kvm_open,
	.close = kvm_close,
	.map = kvm_map,
	.unmap = kvm_unmap,
	.dirty_start = kvm_dirty_start,
	.dirty_stop = kvm_dirty_stop,
	.dirty_fetch = kvm_dirty_fetch,
	.vcpu_new = kvm_vcpu_new,
	.vcpu_free = kvm_vcpu_free,
	.vcpu_set_boot = kvm_vcpu_set_boot,
	.vcpu_run = kvm_vcpu_run,
	.vcpu_kick = kvm_vcpu_kick,
	.vcpu_settle = kvm_vcpu_settle,
	.vcpu_nmi = kvm_vcpu_nmi,
	.irq_line = kvm_irq_line,
	.msi = kvm_msi,
	.irqfd_attach = kvm_irqfd_attach,
	.irqfd_update = kvm_irqfd_update,
	.irqfd_detach = kvm_irqfd_detach,
	.doorbell_add = kvm_doorbell_add,
	.doorbell_del = kvm_doorbell_del,
	.vcpu_get_state = kvm_vcpu_get_state,
	.vcpu_set_state = kvm_vcpu_set_state,
	.machine_get_state = kvm_machine_get_state,
	.machine_set_state = kvm_machine_set_state,
	.paused = kvm_paused,
	.resume = kvm_resume,
	.reset = kvm_reset,
};
