/*
 * Leaving an instruction: cpu->fault is filled and the run loop's setjmp() returns. (SDM volume 3, chapter 6.)
 */
#include "vm/accel/soft/cpu/cpu_int.h"

_Noreturn static void unwind(struct soft_cpu *cpu, struct soft_fault fault)
{
	cpu->fault = fault;
	soft_unwinding(cpu);
	longjmp(cpu->unwind, SOFT_UNWIND_FAULT);
}

_Noreturn void cpu_raise(struct soft_cpu *cpu, enum cpu_vector vector)
{
	unwind(cpu, (struct soft_fault){.vector = (uint8_t)vector});
}

_Noreturn void cpu_raise_error(struct soft_cpu *cpu, enum cpu_vector vector, uint32_t error)
{
	unwind(cpu,
	       (struct soft_fault){.vector = (uint8_t)vector, .has_error = true, .error = error});
}

_Noreturn void cpu_raise_page_fault(struct soft_cpu *cpu, uint64_t linear, uint32_t error)
{
	unwind(cpu, (struct soft_fault){.vector = VEC_PF,
					.has_error = true,
					.error = error,
					.address = linear});
}

_Noreturn void cpu_raise_debug(struct soft_cpu *cpu, uint32_t dr6_bits)
{
	unwind(cpu, (struct soft_fault){.vector = VEC_DB, .address = dr6_bits});
}

_Noreturn void raise_selector(struct soft_cpu *cpu, enum cpu_vector vector, uint16_t selector)
{
	cpu_raise_error(cpu, vector, (selector & 0xFFFCu) | (cpu->tlbs->external ? 1 : 0));
}

_Noreturn void cpu_stop(struct soft_cpu *cpu)
{
	soft_unwinding(cpu);
	longjmp(cpu->unwind, SOFT_UNWIND_STOP);
}
