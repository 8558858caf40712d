/*
 * The guest's clocks across a stop. Three of them: each vCPU's time stamp counter, the paravirtual clock, and the deadline
 * timer, which compares with the first. All run on in KVM while no vCPU does.
 *
 * Freezing notes where they stand. Thawing writes the first two back and arms the third again, so that the guest goes on as
 * if no time had passed. What is exact: the counters of all vCPUs keep their differences to the cycle, because one delta
 * is added to all offsets; neither clock ever goes back, because each was read after the last instruction of the guest; both
 * are ahead of the last instruction by the time between it and the reading, and between writing and the first instruction
 * (microseconds each). A deadline that the host's timer reached while the guest stood still is armed anew, and fires when
 * the guest's counter gets there.
 *
 * Not frozen: a local APIC timer in one-shot or periodic mode, and the 8254, run on in KVM; the guest sees at most one
 * tick early.
 */
#include "base/bits.h"
#include "vm/accel/kvm/kvm_int.h"

#define MSR_TSC          0x10u
#define MSR_TSC_DEADLINE 0x6E0u

static int tsc_offset_get(const struct kvm_vcpu *vcpu, uint64_t *ret)
{
	struct kvm_device_attr attr = {
		.group = KVM_VCPU_TSC_CTRL,
		.attr = KVM_VCPU_TSC_OFFSET,
		.addr = (uintptr_t)ret,
	};

	return kvm_ioctl(vcpu->fd, KVM_GET_DEVICE_ATTR, &attr);
}

static int tsc_offset_set(const struct kvm_vcpu *vcpu, uint64_t offset)
{
	struct kvm_device_attr attr = {
		.group = KVM_VCPU_TSC_CTRL,
		.attr = KVM_VCPU_TSC_OFFSET,
		.addr = (uintptr_t)&offset,
	};

	return kvm_ioctl(vcpu->fd, KVM_SET_DEVICE_ATTR, &attr);
}

int kvm_vcpu_clock(const struct kvm_vcpu *vcpu, uint64_t *ret_tsc, uint64_t *ret_deadline)
{
	int r = kvm_msr_read(vcpu, MSR_TSC, ret_tsc);

	*ret_deadline = 0;
	if (r == 0 && vcpu->kvm->caps.tsc_deadline)
		r = kvm_msr_read(vcpu, MSR_TSC_DEADLINE, ret_deadline);
	return r;
}

/* All counters at one moment: that of vCPU 0 is read, the others follow from the offsets. */
static int tsc_freeze(struct kvm *kvm)
{
	const struct kvm_vcpu *first = kvm->vcpus[0];
	uint64_t offset0 = 0, offset = 0;
	int r = 0;

	for (unsigned i = 0; r == 0 && first && i < kvm->accel.config.n_vcpus; i++) {
		struct kvm_vcpu *vcpu = kvm->vcpus[i];

		if (!vcpu)
			continue;
		r = kvm_vcpu_clock(vcpu, &vcpu->tsc, &vcpu->tsc_deadline);
		if (r < 0 || !kvm->caps.tsc_offset)
			continue;
		r = tsc_offset_get(vcpu, i == 0 ? &offset0 : &offset);
		if (i > 0)
			vcpu->tsc = first->tsc + (offset - offset0);
	}
	return r;
}

int kvm_clock_freeze(struct kvm *kvm, struct error *err)
{
	struct kvm_clock_data clock = {0};
	int r;

	if (kvm->frozen)
		return 0;
	r = kvm_ioctl(kvm->vm_fd, KVM_GET_CLOCK, &clock);
	if (r == 0)
		r = tsc_freeze(kvm);
	if (r < 0)
		return error_set_errno(err, r, "KVM does not give the guest's time");
	kvm->clock_ns = clock.clock;
	kvm->frozen = true;
	return 0;
}

int kvm_paused(struct accel *accel)
{
	return kvm_clock_freeze(kvm_of(accel), NULL);
}

/* With offsets: what vCPU 0 needs is read off its counter now; the others keep their distance to it. */
static int tsc_thaw_offsets(struct kvm *kvm)
{
	struct kvm_vcpu *first = kvm->vcpus[0];
	uint64_t offset = 0, now = 0;
	int r;

	if (!first)
		return 0;
	r = tsc_offset_get(first, &offset);
	if (r == 0)
		r = kvm_msr_read(first, MSR_TSC, &now);
	if (r < 0)
		return r;
	offset += first->tsc - now;
	for (unsigned i = 0; r == 0 && i < kvm->accel.config.n_vcpus; i++)
		if (kvm->vcpus[i])
			r = tsc_offset_set(kvm->vcpus[i],
					   offset + (kvm->vcpus[i]->tsc - first->tsc));
	return r;
}

/* Without: KVM takes equal values written within a second for an attempt to synchronize, and makes the offsets equal. */
static int tsc_thaw_values(struct kvm *kvm)
{
	const struct kvm_vcpu *first = kvm->vcpus[0];
	int r = 0;

	for (unsigned i = 0; r == 0 && first && i < kvm->accel.config.n_vcpus; i++)
		if (kvm->vcpus[i])
			r = kvm_msr_write(kvm->vcpus[i], MSR_TSC, first->tsc);
	return r;
}

int kvm_resume(struct accel *accel)
{
	struct kvm *kvm = kvm_of(accel);
	struct kvm_clock_data clock = {.clock = kvm->clock_ns};
	int r;

	if (!kvm->frozen)
		return 0;
	r = kvm_pit_forget_ticks(kvm);
	if (r == 0)
		r = kvm->caps.tsc_offset ? tsc_thaw_offsets(kvm) : tsc_thaw_values(kvm);
	if (r == 0)
		r = kvm_ioctl(kvm->vm_fd, KVM_SET_CLOCK, &clock);
	for (unsigned i = 0; r == 0 && i < accel->config.n_vcpus; i++) {
		struct kvm_vcpu *vcpu = kvm->vcpus[i];

		if (!vcpu)
			continue;
		if (vcpu->tsc_deadline)
			r = kvm_msr_write(vcpu, MSR_TSC_DEADLINE, vcpu->tsc_deadline);
		/* The guest's lockup detectors forgive one gap. EINVAL: it has no such clock. */
		if (kvm->caps.kvmclock_ctrl)
			kvm_ioctl_value(vcpu->fd, KVM_KVMCLOCK_CTRL, 0);
	}
	if (r == 0)
		kvm->frozen = false;
	return r;
}
