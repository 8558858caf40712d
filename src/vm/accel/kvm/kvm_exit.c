/*
 * What KVM_RUN came back with, on the vCPU's thread. The run area is shared with the kernel alone, not with the guest.
 */
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/bits.h"
#include "vm/accel/kvm/kvm_int.h"

static bool exit_fail(struct kvm_vcpu *vcpu, enum accel_exit *ret, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

/* Sets the vCPU's text, with where the guest was. */
static bool exit_fail(struct kvm_vcpu *vcpu, enum accel_exit *ret, const char *fmt, ...)
{
	char *text = vcpu->base.error;
	size_t size = sizeof(vcpu->base.error), used;
	struct kvm_regs regs = {0};
	va_list ap;

	snprintf(text, size, "vCPU %u: ", vcpu->base.index);
	used = strlen(text);
	va_start(ap, fmt);
	vsnprintf(text + used, size - used, fmt, ap);
	va_end(ap);
	used = strlen(text);
	if (kvm_ioctl(vcpu->fd, KVM_GET_REGS, &regs) == 0)
		snprintf(text + used, size - used, " (rip 0x%llx)", regs.rip);
	*ret = ACCEL_EXIT_ERROR;
	return false;
}

static bool exit_io(struct kvm_vcpu *vcpu, enum accel_exit *ret)
{
	const struct accel_handlers *h = &vcpu->kvm->accel.config.handlers;
	const struct kvm_run *run = vcpu->run;
	bool is_write = run->io.direction == KVM_EXIT_IO_OUT;
	unsigned size = run->io.size, count = run->io.count;
	uint16_t port = run->io.port;
	uint8_t *data = (uint8_t *)vcpu->run + run->io.data_offset;

	if ((size != 1 && size != 2 && size != 4) ||
	    !range_inside(run->io.data_offset, (uint64_t)size * count, vcpu->kvm->run_bytes))
		return exit_fail(vcpu, ret, "KVM reports a port access of %u times %u bytes", count,
				 size);
	for (unsigned i = 0; i < count; i++, data += size)
		h->pio(h->opaque, vcpu->base.index, port, is_write, data, size);
	return true;
}

static bool exit_mmio(struct kvm_vcpu *vcpu, enum accel_exit *ret)
{
	const struct accel_handlers *h = &vcpu->kvm->accel.config.handlers;
	struct kvm_run *run = vcpu->run;

	if (run->mmio.len < 1 || run->mmio.len > sizeof(run->mmio.data))
		return exit_fail(vcpu, ret, "KVM reports a memory access of %u bytes",
				 run->mmio.len);
	h->mmio(h->opaque, vcpu->base.index, run->mmio.phys_addr, run->mmio.is_write,
		run->mmio.data, run->mmio.len);
	return true;
}

static bool exit_internal(struct kvm_vcpu *vcpu, enum accel_exit *ret)
{
	static const char *const names[] = {
		[KVM_INTERNAL_ERROR_EMULATION] = "an instruction that KVM cannot emulate",
		[KVM_INTERNAL_ERROR_SIMUL_EX] = "exceptions that KVM cannot combine",
		[KVM_INTERNAL_ERROR_DELIVERY_EV] = "an exit while an event was being delivered",
		[KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON] = "an exit that KVM does not know",
	};
	const struct kvm_run *run = vcpu->run;
	unsigned sub = run->internal.suberror;
	const char *name = sub < ARRAY_SIZE(names) && names[sub] ? names[sub] : "an internal error";
	char data[128] = "";

	if (sub == KVM_INTERNAL_ERROR_EMULATION && run->emulation_failure.ndata >= 3 &&
	    (run->emulation_failure.flags & KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES)) {
		char bytes[3 * sizeof(run->emulation_failure.insn_bytes) + 1] = "";
		unsigned n = MIN((size_t)run->emulation_failure.insn_size,
				 sizeof(run->emulation_failure.insn_bytes));

		for (unsigned i = 0; i < n; i++)
			snprintf(&bytes[(size_t)i * 3], 4, " %02x",
				 run->emulation_failure.insn_bytes[i]);
		return exit_fail(vcpu, ret, "%s:%s", name, bytes);
	}
	for (unsigned i = 0; i < MIN(run->internal.ndata, 4u); i++) {
		size_t used = strlen(data);

		snprintf(data + used, sizeof(data) - used, " 0x%llx", run->internal.data[i]);
	}
	return exit_fail(vcpu, ret, "%s (KVM internal error %u)%s", name, sub, data);
}

static bool exit_system_event(struct kvm_vcpu *vcpu, enum accel_exit *ret)
{
	unsigned type = vcpu->run->system_event.type;

	if (type != KVM_SYSTEM_EVENT_RESET)
		return exit_fail(vcpu, ret, "KVM reports system event %u", type);
	*ret = ACCEL_EXIT_RESET;
	return false;
}

bool kvm_exit_handle(struct kvm_vcpu *vcpu, enum accel_exit *ret)
{
	const struct kvm_run *run = vcpu->run;

	switch (run->exit_reason) {
	case KVM_EXIT_IO:
		return exit_io(vcpu, ret);
	case KVM_EXIT_MMIO:
		return exit_mmio(vcpu, ret);
	case KVM_EXIT_INTR:
	case KVM_EXIT_IRQ_WINDOW_OPEN:
	case KVM_EXIT_SET_TPR:
		return true;
	case KVM_EXIT_SHUTDOWN: /* triple fault */
		*ret = ACCEL_EXIT_RESET;
		return false;
	case KVM_EXIT_SYSTEM_EVENT:
		return exit_system_event(vcpu, ret);
	case KVM_EXIT_INTERNAL_ERROR:
		return exit_internal(vcpu, ret);
	case KVM_EXIT_FAIL_ENTRY:
		return exit_fail(vcpu, ret,
				 "the processor refuses the guest's state, reason 0x%llx on CPU %u",
				 run->fail_entry.hardware_entry_failure_reason,
				 run->fail_entry.cpu);
	case KVM_EXIT_UNKNOWN:
		return exit_fail(vcpu, ret, "the processor left the guest for reason 0x%llx",
				 run->hw.hardware_exit_reason);
	default:
		return exit_fail(vcpu, ret, "KVM exit %u, which nothing asked for",
				 run->exit_reason);
	}
}
