/*
 * Doorbells: a guest write that signals an eventfd inside the kernel (ioeventfd). Removal must repeat every field of
 * the addition.
 */
#include "vm/accel/kvm/kvm_int.h"

static int kvm_doorbell(const struct kvm *kvm, const struct accel_doorbell *bell, bool add)
{
	struct kvm_ioeventfd io = {
		.addr = bell->addr,
		.len = bell->size,
		.fd = bell->fd,
		.datamatch = bell->match ? bell->value : 0,
	};

	/* Without this capability a length of 0 means nothing; the caller then gets the write as an exit. */
	if (bell->size == 0 && !kvm->caps.any_length_doorbell)
		return -EOPNOTSUPP;
	if (bell->is_pio)
		io.flags |= KVM_IOEVENTFD_FLAG_PIO;
	if (bell->match)
		io.flags |= KVM_IOEVENTFD_FLAG_DATAMATCH;
	if (!add)
		io.flags |= KVM_IOEVENTFD_FLAG_DEASSIGN;
	return kvm_ioctl(kvm->vm_fd, KVM_IOEVENTFD, &io);
}

int kvm_doorbell_add(struct accel *accel, const struct accel_doorbell *bell)
{
	return kvm_doorbell(kvm_of(accel), bell, true);
}

int kvm_doorbell_del(struct accel *accel, const struct accel_doorbell *bell)
{
	return kvm_doorbell(kvm_of(accel), bell, false);
}
