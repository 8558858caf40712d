/*
 * State tables of x86.h: what of a vCPU and of the interrupt controllers is saved, and what a loaded one must satisfy
 * before an accelerator sees it. Values of registers are not judged here: KVM or the software CPU refuses what is impossible.
 */
#include "vm/accel/x86.h"

#include <errno.h>

#define STATE_BOOL(type, member) STATE_UINT_MAX(type, member, 1)

static const struct state_field segment_fields[] = {
	STATE_UINT(struct x86_segment, base),       STATE_UINT(struct x86_segment, limit),
	STATE_UINT(struct x86_segment, selector),   STATE_UINT_MAX(struct x86_segment, type, 15),
	STATE_UINT_MAX(struct x86_segment, dpl, 3), STATE_BOOL(struct x86_segment, present),
	STATE_BOOL(struct x86_segment, db),         STATE_BOOL(struct x86_segment, s),
	STATE_BOOL(struct x86_segment, l),          STATE_BOOL(struct x86_segment, g),
	STATE_BOOL(struct x86_segment, avl),        STATE_BOOL(struct x86_segment, unusable),
};

static const struct state_table segment_table = {
	.name = "x86-segment",
	.version = 1,
	STATE_FIELDS(segment_fields),
};

static const struct state_field table_fields[] = {
	STATE_UINT(struct x86_table, base),
	STATE_UINT(struct x86_table, limit),
};

static const struct state_table table_table = {
	.name = "x86-table",
	.version = 1,
	STATE_FIELDS(table_fields),
};

static const struct state_field events_fields[] = {
	STATE_BOOL(struct x86_events, exception_injected),
	STATE_BOOL(struct x86_events, exception_pending),
	STATE_BOOL(struct x86_events, exception_has_error),
	STATE_BOOL(struct x86_events, exception_has_payload),
	STATE_UINT_MAX(struct x86_events, exception_vector, 31),
	STATE_UINT(struct x86_events, exception_error),
	STATE_UINT(struct x86_events, exception_payload),
	STATE_BOOL(struct x86_events, interrupt_injected),
	STATE_BOOL(struct x86_events, interrupt_soft),
	STATE_UINT(struct x86_events, interrupt_vector),
	STATE_UINT(struct x86_events, interrupt_shadow),
	STATE_BOOL(struct x86_events, nmi_injected),
	STATE_UINT(struct x86_events, nmi_pending),
	STATE_BOOL(struct x86_events, nmi_masked),
	STATE_BOOL(struct x86_events, sipi_valid),
	STATE_UINT(struct x86_events, sipi_vector),
	STATE_BOOL(struct x86_events, smm),
	STATE_BOOL(struct x86_events, smm_pending),
	STATE_BOOL(struct x86_events, smm_in_nmi),
	STATE_BOOL(struct x86_events, smm_latched_init),
	STATE_BOOL(struct x86_events, triple_fault),
};

static const struct state_table events_table = {
	.name = "x86-events",
	.version = 1,
	STATE_FIELDS(events_fields),
};

static const struct state_field msr_fields[] = {
	STATE_UINT(struct x86_msr, index),
	STATE_UINT(struct x86_msr, value),
};

static const struct state_table msr_table = {
	.name = "x86-msr",
	.version = 1,
	STATE_FIELDS(msr_fields),
};

/* (SDM volume 2, CPUID; APM volume 3, appendix E.) */
const struct x86_feature_word x86_feature_words[X86_N_FEATURES] = {
	{1, 0, X86_ECX, 1u << 27 /* OSXSAVE */ | 1u << 3 /* MONITOR: follows MISC_ENABLE */},
	{1, 0, X86_EDX, 1u << 28 /* HTT: topology */ | 1u << 9 /* APIC: follows APIC_BASE */},
	{7, 0, X86_EBX, 0},
	{7, 0, X86_ECX, 1u << 4 /* OSPKE */},
	{7, 0, X86_EDX, 0},
	{7, 1, X86_EAX, 0},
	{0xD, 0, X86_EAX, 0}, /* XCR0 */
	{0xD, 1, X86_EAX, 0},
	{0x80000001, 0, X86_ECX, 1u << 1 /* CmpLegacy: topology */},
	{0x80000001, 0, X86_EDX, 1u << 9},
	{0x80000008, 0, X86_EBX, 0},
	{0x40000001, 0, X86_EAX, 0}, /* KVM */
};

int x86_features_check(const uint32_t wanted[X86_N_FEATURES], const uint32_t has[X86_N_FEATURES],
		       struct error *err)
{
	static const char *const regs[] = {"EAX", "EBX", "ECX", "EDX"};

	for (unsigned i = 0; i < X86_N_FEATURES; i++) {
		const struct x86_feature_word *w = &x86_feature_words[i];
		uint32_t missing = wanted[i] & ~has[i] & ~w->ignore;

		if (missing)
			return error_set(err, -EINVAL,
					 "the guest was shown a processor feature that this host "
					 "lacks: CPUID leaf 0x%x, %s bit %d",
					 w->leaf, regs[w->reg], __builtin_ctz(missing));
	}
	return 0;
}

static int vcpu_post_load(void *obj, struct error *err)
{
	const struct x86_vcpu_state *s = obj;

	/* The legacy region and the header are always there (SDM volume 1, section 13.4). */
	if (s->xsave_bytes < 576 || s->xsave_bytes % 4 != 0)
		return error_set(err, -EINVAL, "vCPU state: an XSAVE area of %u bytes",
				 s->xsave_bytes);
	return 0;
}

static const struct state_field vcpu_fields[] = {
	STATE_UINTS(struct x86_vcpu_state, gpr),
	STATE_UINT(struct x86_vcpu_state, rip),
	STATE_UINT(struct x86_vcpu_state, rflags),
	STATE_STRUCT(struct x86_vcpu_state, cs, &segment_table),
	STATE_STRUCT(struct x86_vcpu_state, ds, &segment_table),
	STATE_STRUCT(struct x86_vcpu_state, es, &segment_table),
	STATE_STRUCT(struct x86_vcpu_state, fs, &segment_table),
	STATE_STRUCT(struct x86_vcpu_state, gs, &segment_table),
	STATE_STRUCT(struct x86_vcpu_state, ss, &segment_table),
	STATE_STRUCT(struct x86_vcpu_state, tr, &segment_table),
	STATE_STRUCT(struct x86_vcpu_state, ldt, &segment_table),
	STATE_STRUCT(struct x86_vcpu_state, gdt, &table_table),
	STATE_STRUCT(struct x86_vcpu_state, idt, &table_table),
	STATE_UINT(struct x86_vcpu_state, cr0),
	STATE_UINT(struct x86_vcpu_state, cr2),
	STATE_UINT(struct x86_vcpu_state, cr3),
	STATE_UINT(struct x86_vcpu_state, cr4),
	STATE_UINT(struct x86_vcpu_state, cr8),
	STATE_UINT(struct x86_vcpu_state, efer),
	STATE_UINT(struct x86_vcpu_state, apic_base),
	STATE_BOOL(struct x86_vcpu_state, pdptrs_valid),
	STATE_UINTS(struct x86_vcpu_state, pdptrs),
	STATE_UINTS(struct x86_vcpu_state, dr),
	STATE_UINT(struct x86_vcpu_state, dr6),
	STATE_UINT(struct x86_vcpu_state, dr7),
	STATE_UINT(struct x86_vcpu_state, xcr0),
	STATE_VBYTES(struct x86_vcpu_state, xsave, xsave_bytes),
	STATE_BYTES(struct x86_vcpu_state, lapic),
	STATE_UINT_MAX(struct x86_vcpu_state, mp_state, X86_MP_STATES - 1),
	STATE_STRUCT(struct x86_vcpu_state, events, &events_table),
	STATE_VSTRUCTS(struct x86_vcpu_state, msrs, n_msrs, &msr_table),
	STATE_UINTS(struct x86_vcpu_state, features),
	STATE_UINT(struct x86_vcpu_state, tsc_khz),
	STATE_UINT(struct x86_vcpu_state, tsc),
	STATE_UINT(struct x86_vcpu_state, tsc_deadline),
};

const struct state_table x86_vcpu_state_table = {
	.name = "x86-vcpu",
	.version = 1,
	STATE_FIELDS(vcpu_fields),
	.post_load = vcpu_post_load,
};

static const struct state_field pic_fields[] = {
	STATE_UINT(struct x86_pic, last_irr),
	STATE_UINT(struct x86_pic, irr),
	STATE_UINT(struct x86_pic, imr),
	STATE_UINT(struct x86_pic, isr),
	STATE_UINT(struct x86_pic, priority_add),
	STATE_UINT(struct x86_pic, irq_base),
	STATE_UINT(struct x86_pic, read_reg_select),
	STATE_UINT(struct x86_pic, poll),
	STATE_UINT(struct x86_pic, special_mask),
	STATE_UINT(struct x86_pic, init_state),
	STATE_UINT(struct x86_pic, auto_eoi),
	STATE_UINT(struct x86_pic, rotate_on_auto_eoi),
	STATE_UINT(struct x86_pic, special_fully_nested),
	STATE_UINT(struct x86_pic, init4),
	STATE_UINT(struct x86_pic, elcr),
	STATE_UINT(struct x86_pic, elcr_mask),
};

static const struct state_table pic_table = {
	.name = "i8259",
	.version = 1,
	STATE_FIELDS(pic_fields),
};

static const struct state_field ioapic_fields[] = {
	STATE_UINT(struct x86_ioapic, base),      STATE_UINT(struct x86_ioapic, select),
	STATE_UINT(struct x86_ioapic, id),        STATE_UINT(struct x86_ioapic, irr),
	STATE_UINTS(struct x86_ioapic, redirect),
};

static const struct state_table ioapic_table = {
	.name = "ioapic",
	.version = 1,
	STATE_FIELDS(ioapic_fields),
};

static const struct state_field pit_fields[] = {
	STATE_UINT_MAX(struct x86_pit_channel, count, 65536),
	STATE_UINT(struct x86_pit_channel, latched_count),
	STATE_UINT(struct x86_pit_channel, count_latched),
	STATE_UINT(struct x86_pit_channel, status_latched),
	STATE_UINT(struct x86_pit_channel, status),
	STATE_UINT(struct x86_pit_channel, read_state),
	STATE_UINT(struct x86_pit_channel, write_state),
	STATE_UINT(struct x86_pit_channel, write_latch),
	STATE_UINT(struct x86_pit_channel, rw_mode),
	STATE_UINT(struct x86_pit_channel, mode),
	STATE_UINT(struct x86_pit_channel, bcd),
	STATE_UINT(struct x86_pit_channel, gate),
	STATE_UINT(struct x86_pit_channel, age_ns),
};

static const struct state_table pit_table = {
	.name = "i8254-channel",
	.version = 1,
	STATE_FIELDS(pit_fields),
};

#define STATE_STRUCTS(type, member, sub)                                                           \
	{                                                                                          \
		.name = #member, .kind = STATE_KIND_STRUCT, .offset = offsetof(type, member),      \
		.size = sizeof(((type *)0)->member[0]),                                            \
		.max_count = ARRAY_SIZE(((type *)0)->member), .count_offset = STATE_NO_COUNT,      \
		.table = (sub)                                                                     \
	}

static const struct state_field machine_fields[] = {
	STATE_STRUCTS(struct x86_machine_state, pic, &pic_table),
	STATE_STRUCT(struct x86_machine_state, ioapic, &ioapic_table),
	STATE_STRUCTS(struct x86_machine_state, pit, &pit_table),
	STATE_BOOL(struct x86_machine_state, pit_disabled),
	STATE_BOOL(struct x86_machine_state, speaker_on),
	STATE_UINT(struct x86_machine_state, kvmclock_ns),
};

const struct state_table x86_machine_state_table = {
	.name = "x86-machine",
	.version = 1,
	STATE_FIELDS(machine_fields),
};
