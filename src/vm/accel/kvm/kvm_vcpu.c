/*
 * A vCPU: its descriptor, the run area it shares with the kernel, CPUID and the registers that firmware would have set.
 */
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "vm/accel/kvm/kvm_int.h"

static int kvm_vcpu_open(struct kvm_vcpu *vcpu, struct error *err)
{
	struct kvm *kvm = vcpu->kvm;
	void *run;
	int r;

	vcpu->fd = kvm_ioctl_value(kvm->vm_fd, KVM_CREATE_VCPU, vcpu->apic_id);
	if (vcpu->fd < 0)
		return error_set_errno(err, vcpu->fd, "KVM cannot create vCPU %u",
				       vcpu->base.index);
	run = mmap(NULL, kvm->run_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu->fd, 0);
	if (run == MAP_FAILED)
		return error_set_errno(err, -errno, "cannot map the run area of vCPU %u",
				       vcpu->base.index);
	vcpu->run = run;
	if (vcpu->base.index == 0) {
		r = kvm_cpuid_finish(kvm, vcpu);
		if (r < 0)
			return error_set_errno(err, r, "CPUID");
	}
	r = kvm_cpuid_set(vcpu, err);
	if (r < 0)
		return r;
	r = kvm_msr_init(vcpu);
	if (r < 0)
		return error_set_errno(err, r, "KVM refuses the first registers of vCPU %u",
				       vcpu->base.index);
	return vcpu->base.index == 0 ? kvm_power_on_note(vcpu, err) : 0;
}

int kvm_vcpu_new(struct accel *accel, unsigned index, struct accel_vcpu **ret, struct error *err)
{
	struct kvm *kvm = kvm_of(accel);
	struct kvm_vcpu *vcpu;
	int r;

	if (kvm->vcpus[index])
		return error_set(err, -EEXIST, "vCPU %u exists", index);
	/* Topology and clock rate are read off vCPU 0. */
	if (index != 0 && !kvm->vcpus[0])
		return error_set(err, -EINVAL, "vCPU 0 is created first");
	vcpu = calloc(1, sizeof(*vcpu));
	if (!vcpu)
		return error_set_errno(err, -ENOMEM, "vCPU %u", index);
	vcpu->base.accel = accel;
	vcpu->base.index = index;
	vcpu->kvm = kvm;
	vcpu->fd = -1;
	vcpu->apic_id = x86_apic_id(index, accel->config.cores, accel->config.threads);
	/* The controllers stand before the first vCPU, and after memory: each is put on KVM's bus by starting an unhurried
	 * grace period, behind which a memory slot would wait for several milliseconds. */
	r = index == 0 ? kvm_irq_open(kvm, err) : 0;
	if (r == 0)
		r = kvm_vcpu_open(vcpu, err);
	if (r < 0) {
		kvm_vcpu_free(&vcpu->base);
		return r;
	}
	kvm->vcpus[index] = vcpu;
	*ret = &vcpu->base;
	return 0;
}

void kvm_vcpu_free(struct accel_vcpu *base)
{
	struct kvm_vcpu *vcpu = kvm_vcpu_of(base);

	if (vcpu->kvm->vcpus[base->index] == vcpu)
		vcpu->kvm->vcpus[base->index] = NULL;
	if (vcpu->run)
		munmap(vcpu->run, vcpu->kvm->run_bytes);
	if (vcpu->fd >= 0)
		close(vcpu->fd);
	free(vcpu);
}
