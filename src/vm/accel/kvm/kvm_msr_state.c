/*
 * Model-specific registers as part of a vCPU's state: those that KVM names for saving and a guest can reach, and those
 * that older kernels do not name though they hold them (memory types, machine check banks).
 *
 * Not here: the time stamp counter and its deadline, which kvm_clock.c sets last; EFER and APIC_BASE, which travel with the
 * control registers; KVM's clock under its first two numbers, which are other names for later ones.
 */
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "vm/accel/kvm/kvm_int.h"

#define MSR_MCG_CAP 0x179u /* bits 7:0: number of machine check banks */
#define MC_BANK     0x400u /* CTL, STATUS, ADDR, MISC of bank 0 */
#define MC_CTL2     0x280u

struct msr_batch {
	struct kvm_msrs head;
	struct kvm_msr_entry entries[X86_MAX_MSRS];
};

static void list_add(struct kvm_msr_list *list, uint32_t index)
{
	static const uint32_t elsewhere[] = {0x10, 0x11, 0x12, 0x1B, 0x6E0, 0xC0000080};

	if (!kvm_msr_allowed(index) || list->nmsrs == X86_MAX_MSRS)
		return;
	for (size_t i = 0; i < ARRAY_SIZE(elsewhere); i++)
		if (index == elsewhere[i])
			return;
	for (uint32_t i = 0; i < list->nmsrs; i++)
		if (list->indices[i] == index)
			return;
	list->indices[list->nmsrs++] = index;
}

static void list_add_span(struct kvm_msr_list *list, uint32_t first, uint32_t count)
{
	for (uint32_t i = 0; i < count; i++)
		list_add(list, first + i);
}

/* The kernel's list, as long as it is. NULL: out of memory, or refused. */
static struct kvm_msr_list *list_ask(const struct kvm *kvm)
{
	struct kvm_msr_list *list = NULL;

	for (uint32_t room = 256; room <= 16384; room *= 4) {
		int r;

		free(list);
		list = calloc(1, sizeof(*list) + room * sizeof(list->indices[0]));
		if (!list)
			return NULL;
		list->nmsrs = room;
		r = kvm_ioctl(kvm->kvm_fd, KVM_GET_MSR_INDEX_LIST, list);
		if (r == 0)
			return list;
		if (r != -E2BIG)
			break;
	}
	free(list);
	return NULL;
}

static int list_make(struct kvm_vcpu *vcpu)
{
	struct kvm *kvm = vcpu->kvm;
	struct kvm_msr_list *named = list_ask(kvm), *list;
	uint64_t banks = 0;

	if (!named)
		return -ENOMEM;
	list = calloc(1, sizeof(*list) + X86_MAX_MSRS * sizeof(list->indices[0]));
	if (!list) {
		free(named);
		return -ENOMEM;
	}
	for (uint32_t i = 0; i < named->nmsrs; i++)
		list_add(list, named->indices[i]);
	free(named);
	list_add_span(list, 0x200, 16); /* variable memory type ranges */
	list_add(list, 0x250);
	list_add_span(list, 0x258, 2);
	list_add_span(list, 0x268, 8);
	list_add(list, 0x2FF);
	if (kvm_msr_read(vcpu, MSR_MCG_CAP, &banks) == 0) {
		banks = MIN(banks & 0xff, 32u);
		list_add_span(list, MC_BANK, (uint32_t)banks * 4);
		list_add_span(list, MC_CTL2, (uint32_t)banks);
	}
	kvm->msr_list = list;
	return 0;
}

int kvm_msrs_get(struct kvm_vcpu *vcpu, struct x86_vcpu_state *ret, struct error *err)
{
	struct kvm *kvm = vcpu->kvm;
	struct msr_batch batch;
	struct kvm_msr_list *list;
	uint32_t done = 0;
	int r = kvm->msr_list ? 0 : list_make(vcpu);

	list = kvm->msr_list;
	if (r < 0 || !list)
		return error_set_errno(err, r, "KVM_GET_MSR_INDEX_LIST");
	while (done < list->nmsrs) {
		uint32_t n = list->nmsrs - done;

		memset(&batch.head, 0, sizeof(batch.head));
		batch.head.nmsrs = n;
		for (uint32_t i = 0; i < n; i++)
			batch.entries[i] = (struct kvm_msr_entry){.index = list->indices[done + i]};
		r = kvm_ioctl(vcpu->fd, KVM_GET_MSRS, &batch);
		if (r < 0)
			return error_set_errno(err, r, "KVM_GET_MSRS");
		for (uint32_t i = 0; i < (uint32_t)r; i++)
			ret->msrs[done + i] = (struct x86_msr){.index = batch.entries[i].index,
							       .value = batch.entries[i].data};
		done += (uint32_t)r;
		/* It stopped at one that this guest does not have: never ask again. */
		if ((uint32_t)r < n) {
			list->nmsrs--;
			memmove(&list->indices[done], &list->indices[done + 1],
				(list->nmsrs - done) * sizeof(list->indices[0]));
		}
	}
	ret->n_msrs = done;
	return 0;
}

int kvm_msrs_set(struct kvm_vcpu *vcpu, const struct x86_vcpu_state *state, struct error *err)
{
	struct msr_batch batch;
	uint32_t done = 0;

	if (state->n_msrs > X86_MAX_MSRS)
		return error_set(err, -EINVAL, "a vCPU's state with %u registers", state->n_msrs);
	while (done < state->n_msrs) {
		uint32_t n = state->n_msrs - done;
		uint64_t now;
		int r;

		memset(&batch.head, 0, sizeof(batch.head));
		batch.head.nmsrs = n;
		for (uint32_t i = 0; i < n; i++)
			batch.entries[i] =
				(struct kvm_msr_entry){.index = state->msrs[done + i].index,
						       .data = state->msrs[done + i].value};
		r = kvm_ioctl(vcpu->fd, KVM_SET_MSRS, &batch);
		if (r < 0)
			return error_set_errno(err, r, "KVM_SET_MSRS");
		done += (uint32_t)r;
		if (done == state->n_msrs)
			break;
		/* It stopped at one that it will not write. That is fine where it has this value anyway. */
		if (kvm_msr_read(vcpu, state->msrs[done].index, &now) < 0 ||
		    now != state->msrs[done].value)
			return error_set(
				err, -EINVAL,
				"this host's KVM refuses 0x%llx in register 0x%x of vCPU %u",
				(unsigned long long)state->msrs[done].value,
				state->msrs[done].index, vcpu->base.index);
		done++;
	}
	return 0;
}
