/*
 * Runs a case on the software side: stepped, with a fault caught as it unwinds; or as guests are run, by interpreter or translator, with a fault
 * delivered through the guest's own descriptor table to a handler that stops the machine. There the end of the code is a UD2.
 */
#include <setjmp.h>
#include <string.h>

#include "softdiff/guest_int.h"
#include "vm/accel/accel.h"

#define MAX_STEPS 100000 /* iterations of string instructions, and more */

/* Vectors that push an error code. */
#define WITH_ERROR (1u << 8 | 1u << 10 | 1u << 11 | 1u << 12 | 1u << 13 | 1u << 14 | 1u << 17)

/* Whether rip is that of one of the case's instructions. */
static bool goes_on(const struct diff_case *c, uint64_t rip)
{
	for (unsigned i = 0; i < c->n; i++)
		if (rip == c->before.rip + c->offset[i])
			return true;
	return false;
}

/* Steps until the case has been left or has faulted. A repeated string instruction takes several steps. */
static void step(const struct diff_case *c, struct diff_outcome *ret)
{
	struct soft_cpu *cpu = guest_cpu();
	/* Kept over a longjmp. */
	volatile unsigned left = MAX_STEPS;

	if (setjmp(cpu->unwind) == SOFT_UNWIND_FAULT) {
		ret->vector = cpu->fault.vector;
		ret->error = cpu->fault.has_error ? cpu->fault.error : 0;
		ret->address = cpu->fault.vector == VEC_PF ? cpu->fault.address : 0;
		return;
	}
	while (left-- && goes_on(c, cpu->rip))
		interp_step(cpu);
}

/* Takes the interrupted state from the handler's frame. */
static void take_frame(unsigned vector, struct diff_outcome *ret)
{
	struct soft_cpu *cpu = guest_cpu();
	const uint8_t *at = guest_host(cpu->gpr[4]);
	uint64_t frame[5];

	ret->vector = (int)vector;
	if (WITH_ERROR >> vector & 1) {
		memcpy(&ret->error, at, 4);
		at += 8;
	}
	memcpy(frame, at, sizeof(frame));
	cpu->rip = frame[0];
	cpu_set_rflags(cpu, frame[2]);
	cpu->gpr[4] = frame[3];
	if (vector == VEC_PF)
		ret->address = cpu->cr2;
}

static void run(const struct diff_case *c, struct diff_outcome *ret)
{
	struct soft_cpu *cpu = guest_cpu();
	uint64_t end = c->before.rip + c->offset[c->n];
	enum accel_exit exit = accel_vcpu_run(&cpu->base);
	const uint8_t *handler = cpu->cpl == 0 ? guest_host(cpu->rip - 2) : NULL;

	if (exit != ACCEL_EXIT_KICKED || !handler || handler[0] != 0xe6) {
		ret->vector = 1000 + (int)exit; /* like nothing that happens natively */
		return;
	}
	take_frame(handler[1], ret);
	if (ret->vector == VEC_UD && cpu->rip == end)
		ret->vector = -1;
}

void guest_run(const struct diff_case *c, enum engine engine, struct diff_outcome *ret)
{
	guest_put_state(c, engine);
	ret->vector = -1;
	ret->error = 0;
	ret->address = 0;
	if (engine == ENGINE_STEP)
		step(c, ret);
	else
		run(c, ret);
	guest_take_state(c, ret);
}
