/*
 * Calls that a guest makes to the hypervisor CPUID names, with VMCALL or VMMCALL: number in rax, arguments in rbx, rcx, rdx and rsi, result in
 * rax. (Linux: Documentation/virt/kvm/x86/hypercalls.rst.) One is known, interrupts for many processors at once; it is not shown in CPUID,
 * since x2APIC does as well. vCPU's thread.
 */
#include "vm/accel/soft/irq/irq_int.h"

#define CALL_SEND_IPI  10u
#define RESULT_UNKNOWN (-1000LL)
#define RESULT_DENIED  (-1LL)

#define ICR_VECTOR_AND_MODE 0x7FFu

/* bitmap: one bit for each APIC identifier from `first` on. Returns how many took it. */
static uint64_t send_ipi(struct soft_cpu *cpu, const uint64_t bitmap[2], uint32_t first,
			 uint32_t command)
{
	uint64_t taken = 0;
	struct apic_message m = {
		.vector = (uint8_t)command,
		.mode = (command & ICR_VECTOR_AND_MODE) >> 8,
	};

	if (m.mode != APIC_FIXED && m.mode != APIC_NMI)
		return (uint64_t)RESULT_UNKNOWN;
	for (unsigned i = 0; i < 128; i++) {
		/* Identifiers end before all ones, which is everybody. */
		if (!(bitmap[i / 64] >> (i % 64) & 1) || first >= UINT32_MAX - i)
			continue;
		m.dest = first + i;
		taken += apic_send(cpu->soft, cpu, &m);
	}
	return taken;
}

uint64_t irq_hypercall(struct soft_cpu *cpu, uint64_t call, const uint64_t arg[4])
{
	if (cpu->cpl != 0)
		return (uint64_t)RESULT_DENIED;
	if (call == CALL_SEND_IPI)
		return send_ipi(cpu, arg, (uint32_t)arg[2], (uint32_t)arg[3]);
	return (uint64_t)RESULT_UNKNOWN;
}
