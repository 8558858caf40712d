/*
 * State of the machine's own controllers: the two 8259As, the I/O APIC, the 8254, the paravirtual clock.
 */
#include <string.h>

#include "base/bits.h"
#include "base/clock.h"
#include "vm/accel/kvm/kvm_int.h"

static struct x86_pic pic_from(const struct kvm_pic_state *k)
{
	return (struct x86_pic){
		.last_irr = k->last_irr,
		.irr = k->irr,
		.imr = k->imr,
		.isr = k->isr,
		.priority_add = k->priority_add,
		.irq_base = k->irq_base,
		.read_reg_select = k->read_reg_select,
		.poll = k->poll,
		.special_mask = k->special_mask,
		.init_state = k->init_state,
		.auto_eoi = k->auto_eoi,
		.rotate_on_auto_eoi = k->rotate_on_auto_eoi,
		.special_fully_nested = k->special_fully_nested_mode,
		.init4 = k->init4,
		.elcr = k->elcr,
		.elcr_mask = k->elcr_mask,
	};
}

static struct kvm_pic_state pic_to(const struct x86_pic *p)
{
	return (struct kvm_pic_state){
		.last_irr = p->last_irr,
		.irr = p->irr,
		.imr = p->imr,
		.isr = p->isr,
		.priority_add = p->priority_add,
		.irq_base = p->irq_base,
		.read_reg_select = p->read_reg_select,
		.poll = p->poll,
		.special_mask = p->special_mask,
		.init_state = p->init_state,
		.auto_eoi = p->auto_eoi,
		.rotate_on_auto_eoi = p->rotate_on_auto_eoi,
		.special_fully_nested_mode = p->special_fully_nested,
		.init4 = p->init4,
		.elcr = p->elcr,
		.elcr_mask = p->elcr_mask,
	};
}

static int pics_get(const struct kvm *kvm, struct x86_machine_state *ret)
{
	for (uint32_t i = 0; i < 2; i++) {
		struct kvm_irqchip chip = {.chip_id = i}; /* KVM_IRQCHIP_PIC_MASTER, _SLAVE */
		int r = kvm_ioctl(kvm->vm_fd, KVM_GET_IRQCHIP, &chip);

		if (r < 0)
			return r;
		ret->pic[i] = pic_from(&chip.chip.pic);
	}
	return 0;
}

static int pics_set(const struct kvm *kvm, const struct x86_machine_state *state)
{
	for (uint32_t i = 0; i < 2; i++) {
		struct kvm_irqchip chip = {.chip_id = i};
		int r;

		chip.chip.pic = pic_to(&state->pic[i]);
		r = kvm_ioctl(kvm->vm_fd, KVM_SET_IRQCHIP, &chip);
		if (r < 0)
			return r;
	}
	return 0;
}

static int ioapic_get(const struct kvm *kvm, struct x86_ioapic *ret)
{
	struct kvm_irqchip chip = {.chip_id = KVM_IRQCHIP_IOAPIC};
	const struct kvm_ioapic_state *k = &chip.chip.ioapic;
	int r = kvm_ioctl(kvm->vm_fd, KVM_GET_IRQCHIP, &chip);

	if (r < 0)
		return r;
	*ret = (struct x86_ioapic){.base = k->base_address,
				   .select = k->ioregsel,
				   .id = k->id,
				   .irr = k->irr};
	for (size_t i = 0; i < X86_IOAPIC_PINS; i++)
		ret->redirect[i] = k->redirtbl[i].bits;
	return 0;
}

static int ioapic_set(const struct kvm *kvm, const struct x86_ioapic *s)
{
	struct kvm_irqchip chip = {.chip_id = KVM_IRQCHIP_IOAPIC};
	struct kvm_ioapic_state *k = &chip.chip.ioapic;

	k->base_address = s->base;
	k->ioregsel = s->select;
	k->id = s->id;
	k->irr = s->irr;
	for (size_t i = 0; i < X86_IOAPIC_PINS; i++)
		k->redirtbl[i].bits = s->redirect[i];
	return kvm_ioctl(kvm->vm_fd, KVM_SET_IRQCHIP, &chip);
}

static int pit_get(const struct kvm *kvm, struct x86_machine_state *ret)
{
	struct kvm_pit_state2 pit = {0};
	uint64_t now = clock_monotonic_ns();
	int r = kvm_ioctl(kvm->vm_fd, KVM_GET_PIT2, &pit);

	if (r < 0)
		return r;
	for (size_t i = 0; i < ARRAY_SIZE(ret->pit); i++) {
		const struct kvm_pit_channel_state *k = &pit.channels[i];
		uint64_t loaded = (uint64_t)k->count_load_time; /* host's monotonic clock */

		ret->pit[i] = (struct x86_pit_channel){
			.count = k->count,
			.latched_count = k->latched_count,
			.count_latched = k->count_latched,
			.status_latched = k->status_latched,
			.status = k->status,
			.read_state = k->read_state,
			.write_state = k->write_state,
			.write_latch = k->write_latch,
			.rw_mode = k->rw_mode,
			.mode = k->mode,
			.bcd = k->bcd,
			.gate = k->gate,
			.age_ns = now > loaded ? now - loaded : 0,
		};
	}
	ret->pit_disabled = pit.flags & KVM_PIT_FLAGS_HPET_LEGACY;
	ret->speaker_on = pit.flags & KVM_PIT_FLAGS_SPEAKER_DATA_ON;
	return 0;
}

/* KVM starts every channel's count anew: its age is lost. */
static int pit_set(const struct kvm *kvm, const struct x86_machine_state *state)
{
	struct kvm_pit_state2 pit = {0};

	for (size_t i = 0; i < ARRAY_SIZE(state->pit); i++) {
		const struct x86_pit_channel *c = &state->pit[i];

		pit.channels[i] = (struct kvm_pit_channel_state){
			.count = c->count,
			.latched_count = c->latched_count,
			.count_latched = c->count_latched,
			.status_latched = c->status_latched,
			.status = c->status,
			.read_state = c->read_state,
			.write_state = c->write_state,
			.write_latch = c->write_latch,
			.rw_mode = c->rw_mode,
			.mode = c->mode,
			.bcd = c->bcd,
			.gate = c->gate,
		};
	}
	if (state->pit_disabled)
		pit.flags |= KVM_PIT_FLAGS_HPET_LEGACY;
	if (state->speaker_on)
		pit.flags |= KVM_PIT_FLAGS_SPEAKER_DATA_ON;
	return kvm_ioctl(kvm->vm_fd, KVM_SET_PIT2, &pit);
}

int kvm_pit_forget_ticks(struct kvm *kvm)
{
	struct kvm_pit_state2 pit = {0};
	int r = kvm_ioctl(kvm->vm_fd, KVM_GET_PIT2, &pit);

	return r < 0 ? r : kvm_ioctl(kvm->vm_fd, KVM_SET_PIT2, &pit);
}

int kvm_machine_get_state(struct accel *accel, struct x86_machine_state *ret, struct error *err)
{
	struct kvm *kvm = kvm_of(accel);
	struct kvm_clock_data clock = {.clock = kvm->clock_ns};
	int r;

	memset(ret, 0, sizeof(*ret));
	r = pics_get(kvm, ret);
	if (r == 0)
		r = ioapic_get(kvm, &ret->ioapic);
	if (r == 0)
		r = pit_get(kvm, ret);
	if (r == 0 && !kvm->frozen)
		r = kvm_ioctl(kvm->vm_fd, KVM_GET_CLOCK, &clock);
	if (r < 0)
		return error_set_errno(err, r, "KVM does not give the interrupt controllers");
	ret->kvmclock_ns = clock.clock;
	return 0;
}

int kvm_machine_set_state(struct accel *accel, const struct x86_machine_state *state,
			  struct error *err)
{
	struct kvm *kvm = kvm_of(accel);
	int r = kvm_clock_freeze(kvm, err);

	if (r < 0)
		return r;
	r = pics_set(kvm, state);
	if (r == 0)
		r = ioapic_set(kvm, &state->ioapic);
	if (r == 0)
		r = pit_set(kvm, state);
	if (r < 0)
		return error_set_errno(err, r, "KVM refuses the interrupt controllers");
	kvm->clock_ns = state->kvmclock_ns;
	return 0;
}
