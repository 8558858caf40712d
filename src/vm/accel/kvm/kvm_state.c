/*
 * A vCPU's state as a whole: the order in which KVM wants its parts, and reset to what it was before the first instruction.
 *
 * Reading begins with MP_STATE, which may deliver a pending INIT or SIPI and so change everything else. Writing ends with
 * the events, because setting registers drops pending exceptions; the local APIC comes after the control registers (which
 * hold its base) and before the model-specific ones; the clocks are set for all vCPUs together (kvm_clock.c).
 */
#include <stdlib.h>
#include <string.h>

#include "vm/accel/kvm/kvm_int.h"

struct kvm_power_on {
	struct x86_vcpu_state vcpu;
	struct x86_machine_state machine;
};

_Static_assert(X86_LAPIC_BYTES == sizeof(struct kvm_lapic_state), "the same registers");

static const uint8_t mp_states[X86_MP_STATES] = {
	[X86_MP_RUNNABLE] = KVM_MP_STATE_RUNNABLE,
	[X86_MP_WAIT_INIT] = KVM_MP_STATE_UNINITIALIZED,
	[X86_MP_WAIT_SIPI] = KVM_MP_STATE_INIT_RECEIVED,
	[X86_MP_GOT_SIPI] = KVM_MP_STATE_SIPI_RECEIVED,
	[X86_MP_HALTED] = KVM_MP_STATE_HALTED,
};

static int mp_get(struct kvm_vcpu *vcpu, struct x86_vcpu_state *ret, struct error *err)
{
	struct kvm_mp_state mp = {0};
	int r = kvm_ioctl(vcpu->fd, KVM_GET_MP_STATE, &mp);

	if (r < 0)
		return error_set_errno(err, r, "KVM_GET_MP_STATE");
	for (uint32_t i = 0; i < X86_MP_STATES; i++) {
		if (mp_states[i] == mp.mp_state) {
			ret->mp_state = i;
			return 0;
		}
	}
	return error_set(err, -EINVAL, "KVM reports vCPU %u in state %u", vcpu->base.index,
			 mp.mp_state);
}

static int mp_set(struct kvm_vcpu *vcpu, const struct x86_vcpu_state *state, struct error *err)
{
	struct kvm_mp_state mp;
	int r;

	if (state->mp_state >= X86_MP_STATES)
		return error_set(err, -EINVAL, "vCPU %u: unknown state %u", vcpu->base.index,
				 state->mp_state);
	mp.mp_state = mp_states[state->mp_state];
	r = kvm_ioctl(vcpu->fd, KVM_SET_MP_STATE, &mp);
	return r < 0 ? error_set_errno(err, r, "KVM_SET_MP_STATE") : 0;
}

static int lapic_set(struct kvm_vcpu *vcpu, const struct x86_vcpu_state *state, struct error *err)
{
	int r = kvm_ioctl(vcpu->fd, KVM_SET_LAPIC, state->lapic);

	return r < 0 ? error_set_errno(err, r, "KVM refuses the local APIC of vCPU %u",
				       vcpu->base.index)
		     : 0;
}

static int parts_get(struct kvm_vcpu *vcpu, struct x86_vcpu_state *ret, struct error *err)
{
	int r = mp_get(vcpu, ret, err);

	if (r == 0)
		r = kvm_regs_get(vcpu, ret, err);
	if (r == 0)
		r = kvm_fpu_get(vcpu, ret, err);
	if (r == 0)
		r = kvm_msrs_get(vcpu, ret, err);
	if (r == 0) {
		r = kvm_ioctl(vcpu->fd, KVM_GET_LAPIC, ret->lapic);
		if (r < 0)
			error_set_errno(err, r, "KVM_GET_LAPIC");
	}
	if (r == 0)
		r = kvm_events_get(vcpu, ret, err);
	return r;
}

static int parts_set(struct kvm_vcpu *vcpu, const struct x86_vcpu_state *state, struct error *err)
{
	int r = mp_set(vcpu, state, err);

	if (r == 0)
		r = kvm_regs_set(vcpu, state, err);
	if (r == 0)
		r = kvm_fpu_set(vcpu, state, err);
	if (r == 0)
		r = lapic_set(vcpu, state, err);
	if (r == 0)
		r = kvm_msrs_set(vcpu, state, err);
	if (r == 0)
		r = kvm_events_set(vcpu, state, err);
	return r;
}

int kvm_vcpu_get_state(struct accel_vcpu *base, struct x86_vcpu_state *ret, struct error *err)
{
	struct kvm_vcpu *vcpu = kvm_vcpu_of(base);
	int r;

	memset(ret, 0, sizeof(*ret));
	r = parts_get(vcpu, ret, err);
	if (r < 0)
		return r;
	memcpy(ret->features, vcpu->kvm->features, sizeof(ret->features));
	ret->tsc_khz = vcpu->kvm->tsc_khz;
	if (vcpu->kvm->frozen) {
		ret->tsc = vcpu->tsc;
		ret->tsc_deadline = vcpu->tsc_deadline;
		return 0;
	}
	r = kvm_vcpu_clock(vcpu, &ret->tsc, &ret->tsc_deadline);
	return r < 0 ? error_set_errno(err, r, "KVM does not give the time of vCPU %u",
				       vcpu->base.index)
		     : 0;
}

/* The guest counts at the rate it was started with: scale, or refuse when the difference is more than NTP would hide. */
static int tsc_rate_set(struct kvm_vcpu *vcpu, uint32_t khz, struct error *err)
{
	uint32_t own = vcpu->kvm->tsc_khz;
	uint64_t off = khz > own ? khz - own : own - khz;
	int r;

	if (khz == 0 || own == 0 || off * 1000000 <= (uint64_t)own * 250)
		return 0;
	if (!vcpu->kvm->caps.tsc_scaling)
		return error_set(err, -EINVAL,
				 "the guest's time stamp counter runs at %u kHz, this host's at "
				 "%u, and this processor cannot scale it",
				 khz, own);
	r = kvm_ioctl_value(vcpu->fd, KVM_SET_TSC_KHZ, khz);
	return r < 0 ? error_set_errno(err, r, "KVM cannot run the time stamp counter at %u kHz",
				       khz)
		     : 0;
}

int kvm_vcpu_set_state(struct accel_vcpu *base, const struct x86_vcpu_state *state,
		       struct error *err)
{
	struct kvm_vcpu *vcpu = kvm_vcpu_of(base);
	int r = x86_features_check(state->features, vcpu->kvm->features, err);

	if (r == 0)
		r = kvm_clock_freeze(vcpu->kvm, err);
	if (r == 0)
		r = tsc_rate_set(vcpu, state->tsc_khz, err);
	if (r == 0)
		r = parts_set(vcpu, state, err);
	if (r < 0)
		return r;
	vcpu->tsc = state->tsc;
	vcpu->tsc_deadline = state->tsc_deadline;
	return 0;
}

int kvm_power_on_note(struct kvm_vcpu *vcpu, struct error *err)
{
	struct kvm_power_on *p = calloc(1, sizeof(*p));
	int r;

	if (!p)
		return error_set_errno(err, -ENOMEM, "vCPU %u", vcpu->base.index);
	vcpu->kvm->power_on = p;
	r = parts_get(vcpu, &p->vcpu, err);
	return r < 0 ? r : kvm_machine_get_state(&vcpu->kvm->accel, &p->machine, err);
}

/* What differs between the boot processor's power-on state and another's: who is who, and where the 8259As' line goes. */
static void power_on_adapt(struct x86_vcpu_state *state, const struct kvm_vcpu *vcpu)
{
	const uint64_t boot_processor = 1u << 8; /* in APIC_BASE */
	bool boot = vcpu->base.index == 0;
	uint32_t id = vcpu->apic_id << 24; /* register 0x20, first format */
	uint32_t lint0 = boot ? 7u << 8 /* ExtINT */ : 1u << 16 /* masked */; /* register 0x350 */

	memcpy(&state->lapic[0x20], &id, sizeof(id));
	memcpy(&state->lapic[0x350], &lint0, sizeof(lint0));
	state->apic_base =
		boot ? state->apic_base | boot_processor : state->apic_base & ~boot_processor;
	state->mp_state = boot ? X86_MP_RUNNABLE : X86_MP_WAIT_INIT;
}

int kvm_reset(struct accel *accel, struct error *err)
{
	struct kvm *kvm = kvm_of(accel);
	bool was_frozen = kvm->frozen;
	uint64_t clock_ns;
	int r = kvm_clock_freeze(kvm, err);

	if (r < 0)
		return r;
	/* The paravirtual clock counts from the machine's start, through resets. */
	clock_ns = kvm->clock_ns;
	r = kvm_machine_set_state(accel, &kvm->power_on->machine, err);
	kvm->clock_ns = clock_ns;
	for (unsigned i = 0; r == 0 && i < accel->config.n_vcpus; i++) {
		struct kvm_vcpu *vcpu = kvm->vcpus[i];

		if (!vcpu)
			continue;
		power_on_adapt(&kvm->power_on->vcpu, vcpu);
		r = parts_set(vcpu, &kvm->power_on->vcpu, err);
		vcpu->tsc = 0;
		vcpu->tsc_deadline = 0;
	}
	if (r == 0 && !was_frozen)
		r = kvm_resume(accel);
	return r;
}
