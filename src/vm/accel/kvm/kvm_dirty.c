/*
 * Dirty pages by vCPU writes, from KVM's per-slot bitmap. What this process writes for the guest is not in it; that is
 * vm/mem's bitmap. Called by one thread (the one that migrates); vCPUs may run.
 */
#include <stdlib.h>

#include "base/bits.h"
#include "vm/accel/kvm/kvm_int.h"

/* Flags are the only thing of a slot that may change in place. */
static int kvm_log_all(struct kvm *kvm, bool on)
{
	int failed = 0;

	kvm->logging = on;
	for (unsigned id = 0; id < (unsigned)kvm->caps.slots; id++) {
		const struct gmem_region *region = &kvm->slots[id].region;
		int r;

		if (region->size == 0 || region->readonly)
			continue;
		r = kvm_slot_set(kvm, id, region, true);
		if (r < 0)
			failed = r;
	}
	return failed;
}

static int kvm_log_alloc(struct kvm *kvm)
{
	for (unsigned id = 0; id < (unsigned)kvm->caps.slots; id++) {
		struct kvm_slot *slot = &kvm->slots[id];

		if (slot->region.size == 0 || slot->region.readonly || slot->log)
			continue;
		slot->log = calloc((slot->region.size / 4096 + 63) / 64, sizeof(uint64_t));
		if (!slot->log)
			return -ENOMEM;
	}
	return 0;
}

int kvm_dirty_start(struct accel *accel)
{
	struct kvm *kvm = kvm_of(accel);
	int r = kvm_log_alloc(kvm);

	if (r < 0)
		return r;
	/* Fetching then does not protect pages again that nobody wrote: clearing is a second, selective step. */
	if (kvm->caps.manual_protect && !kvm->manual_protect)
		kvm->manual_protect = kvm_enable_cap(kvm->vm_fd, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2,
						     KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE) == 0;
	r = kvm_log_all(kvm, true);
	if (r < 0)
		kvm_log_all(kvm, false);
	return r;
}

int kvm_dirty_stop(struct accel *accel)
{
	return kvm_log_all(kvm_of(accel), false);
}

/* Clears runs of words that hold a bit; KVM wants the first page and the count to be multiples of 64, the end aside. */
static int kvm_dirty_clear(const struct kvm *kvm, unsigned id, uint64_t pages)
{
	uint64_t *log = kvm->slots[id].log;
	uint64_t words = (pages + 63) / 64;

	for (uint64_t w = 0; w < words;) {
		uint64_t end = w;
		struct kvm_clear_dirty_log clear = {.slot = id};
		int r;

		while (end < words && log[end] != 0)
			end++;
		if (end == w) {
			w++;
			continue;
		}
		clear.first_page = w * 64;
		clear.num_pages = (uint32_t)(MIN(end * 64, pages) - w * 64);
		clear.dirty_bitmap = &log[w];
		r = kvm_ioctl(kvm->vm_fd, KVM_CLEAR_DIRTY_LOG, &clear);
		if (r < 0)
			return r;
		w = end;
	}
	return 0;
}

int kvm_dirty_fetch(struct accel *accel, const struct gmem_region *region, uint64_t *bitmap)
{
	struct kvm *kvm = kvm_of(accel);
	uint64_t pages = region->size / 4096;
	int id = kvm_slot_find(kvm, region), r;
	struct kvm_dirty_log get = {0};

	if (region->readonly)
		return 0;
	if (id < 0 || !kvm->slots[id].log || !kvm->logging)
		return -ENOENT;
	get.slot = (uint32_t)id;
	get.dirty_bitmap = kvm->slots[id].log;
	r = kvm_ioctl(kvm->vm_fd, KVM_GET_DIRTY_LOG, &get);
	if (r == 0 && kvm->manual_protect)
		r = kvm_dirty_clear(kvm, (unsigned)id, pages);
	if (r < 0)
		return r;
	for (uint64_t w = 0; w < (pages + 63) / 64; w++)
		bitmap[w] |= kvm->slots[id].log[w];
	return 0;
}
