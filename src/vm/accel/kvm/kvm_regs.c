/*
 * Registers of a vCPU other than model-specific ones, between KVM's structures and those of x86.h. Each pair of functions
 * moves one group; kvm_state.c knows the order.
 */
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "vm/accel/kvm/kvm_int.h"

#define KVM_SREGS2_PDPTRS KVM_SREGS2_FLAGS_PDPTRS_VALID

static struct x86_segment segment_from(const struct kvm_segment *k)
{
	return (struct x86_segment){
		.base = k->base,
		.limit = k->limit,
		.selector = k->selector,
		.type = k->type & 15,
		.dpl = k->dpl & 3,
		.present = k->present,
		.db = k->db,
		.s = k->s,
		.l = k->l,
		.g = k->g,
		.avl = k->avl,
		.unusable = k->unusable,
	};
}

static struct kvm_segment segment_to(const struct x86_segment *s)
{
	return (struct kvm_segment){
		.base = s->base,
		.limit = s->limit,
		.selector = s->selector,
		.type = s->type,
		.dpl = s->dpl,
		.present = s->present,
		.db = s->db,
		.s = s->s,
		.l = s->l,
		.g = s->g,
		.avl = s->avl,
		.unusable = s->unusable,
	};
}

static int general_get(struct kvm_vcpu *vcpu, struct x86_vcpu_state *ret)
{
	struct kvm_regs k = {0};
	int r = kvm_ioctl(vcpu->fd, KVM_GET_REGS, &k);

	if (r < 0)
		return r;
	memcpy(ret->gpr,
	       (uint64_t[16]){k.rax, k.rcx, k.rdx, k.rbx, k.rsp, k.rbp, k.rsi, k.rdi, k.r8, k.r9,
			      k.r10, k.r11, k.r12, k.r13, k.r14, k.r15},
	       sizeof(ret->gpr));
	ret->rip = k.rip;
	ret->rflags = k.rflags;
	return 0;
}

static int general_set(struct kvm_vcpu *vcpu, const struct x86_vcpu_state *s)
{
	const uint64_t *g = s->gpr;
	struct kvm_regs k = {
		.rax = g[0],
		.rcx = g[1],
		.rdx = g[2],
		.rbx = g[3],
		.rsp = g[4],
		.rbp = g[5],
		.rsi = g[6],
		.rdi = g[7],
		.r8 = g[8],
		.r9 = g[9],
		.r10 = g[10],
		.r11 = g[11],
		.r12 = g[12],
		.r13 = g[13],
		.r14 = g[14],
		.r15 = g[15],
		.rip = s->rip,
		.rflags = s->rflags,
	};

	return kvm_ioctl(vcpu->fd, KVM_SET_REGS, &k);
}

/* struct kvm_sregs and kvm_sregs2 begin alike; the second ends with the PDPTRs instead of an interrupt bitmap that the
 * events carry anyway. */
static int system_get(struct kvm_vcpu *vcpu, struct x86_vcpu_state *ret)
{
	struct kvm_sregs2 k = {0};
	struct kvm_sregs old = {0};
	int r;

	if (vcpu->kvm->caps.sregs2) {
		r = kvm_ioctl(vcpu->fd, KVM_GET_SREGS2, &k);
	} else {
		r = kvm_ioctl(vcpu->fd, KVM_GET_SREGS, &old);
		memcpy(&k, &old, offsetof(struct kvm_sregs2, flags));
	}
	if (r < 0)
		return r;
	ret->cs = segment_from(&k.cs);
	ret->ds = segment_from(&k.ds);
	ret->es = segment_from(&k.es);
	ret->fs = segment_from(&k.fs);
	ret->gs = segment_from(&k.gs);
	ret->ss = segment_from(&k.ss);
	ret->tr = segment_from(&k.tr);
	ret->ldt = segment_from(&k.ldt);
	ret->gdt = (struct x86_table){.base = k.gdt.base, .limit = k.gdt.limit};
	ret->idt = (struct x86_table){.base = k.idt.base, .limit = k.idt.limit};
	ret->cr0 = k.cr0;
	ret->cr2 = k.cr2;
	ret->cr3 = k.cr3;
	ret->cr4 = k.cr4;
	ret->cr8 = k.cr8;
	ret->efer = k.efer;
	ret->apic_base = k.apic_base;
	ret->pdptrs_valid = k.flags & KVM_SREGS2_PDPTRS;
	memcpy(ret->pdptrs, k.pdptrs, sizeof(ret->pdptrs));
	return 0;
}

static int system_set(struct kvm_vcpu *vcpu, const struct x86_vcpu_state *s)
{
	struct kvm_sregs old = {0};
	struct kvm_sregs2 k = {
		.cs = segment_to(&s->cs),
		.ds = segment_to(&s->ds),
		.es = segment_to(&s->es),
		.fs = segment_to(&s->fs),
		.gs = segment_to(&s->gs),
		.ss = segment_to(&s->ss),
		.tr = segment_to(&s->tr),
		.ldt = segment_to(&s->ldt),
		.gdt = {.base = s->gdt.base, .limit = s->gdt.limit},
		.idt = {.base = s->idt.base, .limit = s->idt.limit},
		.cr0 = s->cr0,
		.cr2 = s->cr2,
		.cr3 = s->cr3,
		.cr4 = s->cr4,
		.cr8 = s->cr8,
		.efer = s->efer,
		.apic_base = s->apic_base,
		.flags = s->pdptrs_valid ? KVM_SREGS2_PDPTRS : 0,
	};

	if (vcpu->kvm->caps.sregs2) {
		memcpy(k.pdptrs, s->pdptrs, sizeof(k.pdptrs));
		return kvm_ioctl(vcpu->fd, KVM_SET_SREGS2, &k);
	}
	memcpy(&old, &k, offsetof(struct kvm_sregs, interrupt_bitmap));
	return kvm_ioctl(vcpu->fd, KVM_SET_SREGS, &old);
}

int kvm_regs_get(struct kvm_vcpu *vcpu, struct x86_vcpu_state *ret, struct error *err)
{
	int r = general_get(vcpu, ret);

	if (r == 0)
		r = system_get(vcpu, ret);
	return r < 0 ? error_set_errno(err, r, "KVM does not give the registers of vCPU %u",
				       vcpu->base.index)
		     : 0;
}

int kvm_regs_set(struct kvm_vcpu *vcpu, const struct x86_vcpu_state *state, struct error *err)
{
	int r = general_set(vcpu, state);

	if (r == 0)
		r = system_set(vcpu, state);
	return r < 0 ? error_set_errno(err, r, "KVM refuses the registers of vCPU %u",
				       vcpu->base.index)
		     : 0;
}

/* Debug registers, extended control register, the XSAVE area. */
int kvm_fpu_get(struct kvm_vcpu *vcpu, struct x86_vcpu_state *ret, struct error *err)
{
	int size = vcpu->kvm->caps.xsave_bytes, r;
	struct kvm_debugregs debug = {0};
	struct kvm_xcrs xcrs = {0};

	if (size > X86_XSAVE_BYTES)
		return error_set(err, -E2BIG, "this host's XSAVE area has %d bytes", size);
	r = kvm_ioctl(vcpu->fd, KVM_GET_DEBUGREGS, &debug);
	if (r == 0)
		r = kvm_ioctl(vcpu->fd, KVM_GET_XCRS, &xcrs);
	if (r == 0)
		r = kvm_ioctl(vcpu->fd,
			      size > (int)sizeof(struct kvm_xsave) ? KVM_GET_XSAVE2 : KVM_GET_XSAVE,
			      ret->xsave);
	if (r < 0)
		return error_set_errno(err, r, "KVM does not give the vector registers of vCPU %u",
				       vcpu->base.index);
	memcpy(ret->dr, debug.db, sizeof(ret->dr));
	ret->dr6 = debug.dr6;
	ret->dr7 = debug.dr7;
	ret->xcr0 = 1;
	for (uint32_t i = 0; i < MIN(xcrs.nr_xcrs, (uint32_t)KVM_MAX_XCRS); i++)
		if (xcrs.xcrs[i].xcr == 0)
			ret->xcr0 = xcrs.xcrs[i].value;
	ret->xsave_bytes = (uint32_t)size;
	return 0;
}

int kvm_fpu_set(struct kvm_vcpu *vcpu, const struct x86_vcpu_state *state, struct error *err)
{
	struct kvm_debugregs debug = {.dr6 = state->dr6, .dr7 = state->dr7};
	struct kvm_xcrs xcrs = {.nr_xcrs = 1, .xcrs = {{.xcr = 0, .value = state->xcr0}}};
	uint32_t size = (uint32_t)vcpu->kvm->caps.xsave_bytes;
	_Alignas(64) uint8_t xsave[X86_XSAVE_BYTES];
	int r;

	memset(xsave, 0, sizeof(xsave));
	memcpy(xsave, state->xsave, MIN(state->xsave_bytes, (uint32_t)X86_XSAVE_BYTES));
	for (uint32_t i = size; i < X86_XSAVE_BYTES; i++)
		if (xsave[i])
			return error_set(err, -EINVAL,
					 "the guest's vector registers do not fit this host's "
					 "XSAVE area of %u bytes",
					 size);
	memcpy(debug.db, state->dr, sizeof(debug.db));
	/* XCR0 first: it says which parts of the area count. */
	r = kvm_ioctl(vcpu->fd, KVM_SET_XCRS, &xcrs);
	if (r == 0)
		r = kvm_ioctl(vcpu->fd, KVM_SET_XSAVE, xsave);
	if (r == 0)
		r = kvm_ioctl(vcpu->fd, KVM_SET_DEBUGREGS, &debug);
	return r < 0 ? error_set_errno(err, r, "KVM refuses the vector registers of vCPU %u",
				       vcpu->base.index)
		     : 0;
}

int kvm_events_get(struct kvm_vcpu *vcpu, struct x86_vcpu_state *ret, struct error *err)
{
	struct kvm_vcpu_events k = {0};
	int r = kvm_ioctl(vcpu->fd, KVM_GET_VCPU_EVENTS, &k);

	if (r < 0)
		return error_set_errno(err, r, "KVM does not give the events of vCPU %u",
				       vcpu->base.index);
	ret->events = (struct x86_events){
		.exception_injected = k.exception.injected,
		.exception_pending = (k.flags & KVM_VCPUEVENT_VALID_PAYLOAD) && k.exception.pending,
		.exception_has_error = k.exception.has_error_code,
		.exception_has_payload =
			(k.flags & KVM_VCPUEVENT_VALID_PAYLOAD) && k.exception_has_payload,
		.exception_vector = k.exception.nr & 31,
		.exception_error = k.exception.error_code,
		.exception_payload = k.exception_payload,
		.interrupt_injected = k.interrupt.injected,
		.interrupt_soft = k.interrupt.soft,
		.interrupt_vector = k.interrupt.nr,
		.interrupt_shadow = k.interrupt.shadow,
		.nmi_injected = k.nmi.injected,
		.nmi_pending = k.nmi.pending,
		.nmi_masked = k.nmi.masked,
		.sipi_valid = k.flags & KVM_VCPUEVENT_VALID_SIPI_VECTOR,
		.sipi_vector = (uint8_t)k.sipi_vector,
		.smm = k.smi.smm,
		.smm_pending = k.smi.pending,
		.smm_in_nmi = k.smi.smm_inside_nmi,
		.smm_latched_init = k.smi.latched_init,
		.triple_fault =
			(k.flags & KVM_VCPUEVENT_VALID_TRIPLE_FAULT) && k.triple_fault.pending,
	};
	return 0;
}

int kvm_events_set(struct kvm_vcpu *vcpu, const struct x86_vcpu_state *state, struct error *err)
{
	const struct kvm_caps *caps = &vcpu->kvm->caps;
	const struct x86_events *e = &state->events;
	struct kvm_vcpu_events k = {
		.exception = {.injected = e->exception_injected,
			      .pending = e->exception_pending,
			      .nr = e->exception_vector,
			      .has_error_code = e->exception_has_error,
			      .error_code = e->exception_error},
		.exception_has_payload = e->exception_has_payload,
		.exception_payload = e->exception_payload,
		.interrupt = {.injected = e->interrupt_injected,
			      .nr = e->interrupt_vector,
			      .soft = e->interrupt_soft,
			      .shadow = e->interrupt_shadow},
		.nmi = {.injected = e->nmi_injected,
			.pending = e->nmi_pending,
			.masked = e->nmi_masked},
		.sipi_vector = e->sipi_vector,
		.smi = {.smm = e->smm,
			.pending = e->smm_pending,
			.smm_inside_nmi = e->smm_in_nmi,
			.latched_init = e->smm_latched_init},
		.triple_fault = {.pending = e->triple_fault},
		.flags = KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SHADOW,
	};
	int r;

	if (e->sipi_valid)
		k.flags |= KVM_VCPUEVENT_VALID_SIPI_VECTOR;
	if (caps->smm)
		k.flags |= KVM_VCPUEVENT_VALID_SMM;
	if (caps->exception_payload)
		k.flags |= KVM_VCPUEVENT_VALID_PAYLOAD;
	if (caps->triple_fault_event)
		k.flags |= KVM_VCPUEVENT_VALID_TRIPLE_FAULT;
	r = kvm_ioctl(vcpu->fd, KVM_SET_VCPU_EVENTS, &k);
	return r < 0 ? error_set_errno(err, r, "KVM refuses the events of vCPU %u",
				       vcpu->base.index)
		     : 0;
}
