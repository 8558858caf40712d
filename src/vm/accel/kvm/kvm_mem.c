/*
 * Memory slots: guest memory as KVM sees it. A region takes one slot; slots are added before the vCPUs run.
 */
#include <inttypes.h>
#include <stdlib.h>

#include "base/bits.h"
#include "vm/accel/kvm/kvm_int.h"

int kvm_slot_set(const struct kvm *kvm, unsigned id, const struct gmem_region *region, bool present)
{
	struct kvm_userspace_memory_region slot = {
		.slot = id,
		.guest_phys_addr = region->gpa,
		.memory_size = present ? region->size : 0,
		.userspace_addr = (uintptr_t)region->hva,
	};

	if (region->readonly)
		slot.flags |= KVM_MEM_READONLY;
	else if (kvm->logging)
		slot.flags |= KVM_MEM_LOG_DIRTY_PAGES;
	return kvm_ioctl(kvm->vm_fd, KVM_SET_USER_MEMORY_REGION, &slot);
}

static int kvm_check_region(const struct kvm *kvm, const struct gmem_region *region,
			    struct error *err)
{
	uint64_t end = region->gpa + region->size;

	if (region->readonly && !kvm->caps.readonly_memory)
		return error_set(err, -ENOSYS,
				 "this host's KVM lacks KVM_CAP_READONLY_MEM, which firmware in "
				 "read-only memory needs");
	if (end < region->gpa || (kvm->phys_bits < 64 && end > BIT(kvm->phys_bits)))
		return error_set(err, -EINVAL,
				 "guest memory ends at 0x%" PRIx64
				 ", but this host's guests address %u bits only: use less memory",
				 end, kvm->phys_bits);
	if (region->gpa < X86_RESERVED_END && end > X86_RESERVED_START)
		return error_set(err, -EINVAL,
				 "guest memory at 0x%" PRIx64 " overlaps addresses that KVM uses",
				 region->gpa);
	return 0;
}

int kvm_map(struct accel *accel, const struct gmem_region *region, struct error *err)
{
	struct kvm *kvm = kvm_of(accel);
	unsigned id = 0;
	int r;

	r = kvm_check_region(kvm, region, err);
	if (r < 0)
		return r;
	while (id < (unsigned)kvm->caps.slots && kvm->slots[id].region.size != 0)
		id++;
	if (id == (unsigned)kvm->caps.slots)
		return error_set(err, -ENOSPC, "KVM takes at most %d memory regions",
				 kvm->caps.slots);
	r = kvm_slot_set(kvm, id, region, true);
	if (r < 0)
		return error_set_errno(err, r,
				       "KVM refuses %" PRIu64 " MiB of memory at 0x%" PRIx64,
				       region->size >> 20, region->gpa);
	kvm->slots[id].region = *region;
	return 0;
}

int kvm_slot_find(const struct kvm *kvm, const struct gmem_region *region)
{
	for (int id = 0; id < kvm->caps.slots; id++)
		if (kvm->slots[id].region.size != 0 && kvm->slots[id].region.gpa == region->gpa)
			return id;
	return -ENOENT;
}

int kvm_unmap(struct accel *accel, const struct gmem_region *region)
{
	struct kvm *kvm = kvm_of(accel);
	int id = kvm_slot_find(kvm, region), r;

	if (id < 0)
		return id;
	r = kvm_slot_set(kvm, (unsigned)id, &kvm->slots[id].region, false);
	if (r < 0)
		return r;
	free(kvm->slots[id].log);
	kvm->slots[id] = (struct kvm_slot){0};
	return 0;
}

void kvm_mem_free(struct kvm *kvm)
{
	for (unsigned id = 0; id < KVM_MAX_SLOTS; id++)
		free(kvm->slots[id].log);
}
