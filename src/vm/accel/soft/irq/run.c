/*
 * A vCPU's loop, on its thread: looks at what was asked of it, delivers what is due, and executes guest code until something is asked
 * again. (SDM volume 3, sections 6.9 and 9.4.)
 *
 * In this order: INIT, SIPI, NMI, interrupts. RFLAGS.IF and the shadow of STI and MOV SS hold the last two back: when one of them
 * is pending in a shadow, one instruction is executed by itself, and then it is delivered.
 *
 * A kick is a request bit, which stays until the run has ended with ACCEL_EXIT_KICKED: setting it and, when the vCPU sleeps,
 * waking it are all that a kick does, so it may come from a signal handler and cannot be lost.
 */
#include <sys/prctl.h>

#include "base/bits.h"
#include "base/clock.h"
#include "vm/accel/soft/irq/irq_int.h"

#define SPIN_MAX_NS (50 * NSEC_PER_USEC)
#define SPIN_MIN_NS (5 * NSEC_PER_USEC)

void soft_vcpu_kick(struct accel_vcpu *vcpu)
{
	soft_request(soft_cpu_of(vcpu), REQ_KICK);
}

/* Every access is complete when the instruction is. */
int soft_vcpu_settle(struct accel_vcpu *vcpu)
{
	return 0;
}

void soft_post_nmi(struct soft_cpu *cpu)
{
	unsigned n = atomic_load(&cpu->nmi_pending);

	/* One about to be taken and one behind it are all that a processor remembers. */
	while (n < 2 && !atomic_compare_exchange_weak(&cpu->nmi_pending, &n, n + 1))
		;
	soft_request(cpu, REQ_NMI);
}

int soft_vcpu_nmi(struct accel_vcpu *vcpu)
{
	soft_post_nmi(soft_cpu_of(vcpu));
	return 0;
}

void soft_halt(struct soft_cpu *cpu)
{
	cpu->mp_state = X86_MP_HALTED;
	cpu->shadow = false;
	atomic_fetch_or_explicit(&cpu->request, REQ_SELF, memory_order_relaxed);
}

static bool nmi_ready(struct soft_cpu *cpu)
{
	return !cpu->nmi_blocked && atomic_load(&cpu->nmi_pending) > 0;
}

static bool interrupt_ready(struct soft_cpu *cpu)
{
	return (cpu->rflags & RF_IF) && lapic_pending(cpu);
}

static void take_init(struct soft_cpu *cpu)
{
	bool boot = atomic_load(&cpu->lapic->base) & APIC_BASE_BSP;

	cpu_init_signal(cpu);
	lapic_reset(cpu, false);
	cpu->shadow = false;
	cpu->nmi_blocked = false;
	atomic_store(&cpu->nmi_pending, 0);
	cpu->mp_state = boot ? X86_MP_RUNNABLE : X86_MP_WAIT_SIPI;
}

static void take_sipi(struct soft_cpu *cpu)
{
	uint16_t selector = (uint16_t)(atomic_load(&cpu->sipi_vector) << 8);

	if (cpu->mp_state != X86_MP_WAIT_SIPI)
		return;
	cpu->seg[SEG_CS].selector = selector;
	cpu->seg[SEG_CS].base = (uint64_t)selector << 4;
	cpu->rip = cpu->next_rip = 0;
	cpu->mp_state = X86_MP_RUNNABLE;
	cpu_mode_changed(cpu);
}

/* Takes what others asked for. Outside. Returns whether it was to leave. */
static bool serve(struct soft_cpu *cpu)
{
	unsigned request = atomic_fetch_and(&cpu->request, REQ_KICK);

	if (request & REQ_FLUSH)
		tlb_flush_all(cpu);
	if (request & REQ_INIT)
		take_init(cpu);
	if (request & REQ_SIPI)
		take_sipi(cpu);
	lapic_timer_poll(cpu);
	if (!(request & REQ_KICK))
		return false;
	atomic_fetch_and(&cpu->request, ~REQ_KICK);
	return true;
}

static void run_one(struct soft_cpu *cpu)
{
	cpu->shadow = false;
	interp_step(cpu);
}

/* Runs what may raise; false on a triple fault. */
static bool guarded(struct soft_cpu *cpu, void (*fn)(struct soft_cpu *cpu))
{
	int how = setjmp(cpu->unwind);

	if (how == 0) {
		fn(cpu);
		return true;
	}
	return how != SOFT_UNWIND_FAULT || cpu_deliver_fault(cpu);
}

/* What a stop or a restored state left between being raised and being delivered. A software interrupt is not here: its
 * instruction is executed again. */
static bool deliver_left_over(struct soft_cpu *cpu)
{
	struct x86_events e = cpu->events;

	if (!e.exception_injected && !e.exception_pending && !e.interrupt_injected &&
	    !e.nmi_injected)
		return true;
	cpu->events = (struct x86_events){0};
	if (e.exception_injected || e.exception_pending) {
		cpu->fault = (struct soft_fault){
			.vector = e.exception_vector,
			.has_error = e.exception_has_error,
			.error = e.exception_error,
			.address = e.exception_has_payload        ? e.exception_payload
				   : e.exception_vector == VEC_PF ? cpu->cr2
								  : 0,
		};
		return cpu_deliver_fault(cpu);
	}
	if (e.nmi_injected)
		return cpu_deliver_nmi(cpu);
	return e.interrupt_soft || cpu_deliver_interrupt(cpu, e.interrupt_vector);
}

/* While one is being handled another is remembered, and no more. */
static void limit_nmis(struct soft_cpu *cpu)
{
	unsigned n = atomic_load(&cpu->nmi_pending);

	while (cpu->nmi_blocked && n > 1 && !atomic_compare_exchange_weak(&cpu->nmi_pending, &n, 1))
		;
}

/* Delivers everything that can be now. Inside. False on a triple fault. */
static bool deliver(struct soft_cpu *cpu)
{
	if (!deliver_left_over(cpu))
		return false;
	for (;;) {
		bool nmi = nmi_ready(cpu);
		int vector;

		if (!nmi && !interrupt_ready(cpu)) {
			limit_nmis(cpu);
			cpu->waiting = atomic_load(&cpu->nmi_pending) > 0 || lapic_pending(cpu);
			return true;
		}
		if (cpu->shadow) {
			if (!guarded(cpu, run_one))
				return false;
			/* It may have halted, or changed everything else. */
			atomic_fetch_or(&cpu->request, REQ_SELF);
			return true;
		}
		if (nmi) {
			atomic_fetch_sub(&cpu->nmi_pending, 1);
			if (!cpu_deliver_nmi(cpu))
				return false;
			continue;
		}
		vector = lapic_take(cpu);
		if (vector >= 0 && !cpu_deliver_interrupt(cpu, (uint8_t)vector))
			return false;
	}
}

/* --- rest --- */

static bool look_until(struct soft_cpu *cpu, uint64_t until_ns)
{
	do {
		for (unsigned i = 0; i < 20; i++) {
			if (atomic_load_explicit(&cpu->request, memory_order_relaxed) != 0)
				return true;
			spin_pause();
		}
	} while (clock_monotonic_ns() < until_ns);
	return false;
}

static struct timespec timespec_of(uint64_t ns)
{
	return (struct timespec){.tv_sec = (time_t)(ns / NSEC_PER_SEC),
				 .tv_nsec = (long)(ns % NSEC_PER_SEC)};
}

/* Sleeps until something is asked for, or the timer is due. */
static void sleep_until(struct soft_cpu *cpu, uint64_t until_ns)
{
	struct timespec deadline = timespec_of(until_ns);

	atomic_store(&cpu->lapic->resting, true);
	if (atomic_load(&cpu->request) == 0)
		futex_wait_until(&cpu->request, 0, until_ns == TIME_NEVER ? NULL : &deadline);
	atomic_store(&cpu->lapic->resting, false);
}

/* A short look first: another vCPU often answers within microseconds. It is shortened as long as that does not happen. */
static void rest(struct soft_cpu *cpu)
{
	struct soft_lapic *l = cpu->lapic;
	uint64_t due = lapic_timer_next(cpu), wake = TIME_NEVER, now, slept;

	if (cpu->mp_state != X86_MP_HALTED) {
		sleep_until(cpu, TIME_NEVER);
		return;
	}
	now = clock_monotonic_ns();
	if (due != TIME_NEVER) {
		uint64_t machine = clock_now(cpu->soft->irq);

		wake = now + (due > machine ? due - machine : 0);
	}
	if (l->spin_ns > 0 && look_until(cpu, MIN(now + l->spin_ns, wake)))
		return;
	slept = clock_monotonic_ns();
	sleep_until(cpu, wake);
	slept = clock_monotonic_ns() - slept;
	if (slept < SPIN_MAX_NS)
		l->spin_ns =
			l->spin_ns < SPIN_MIN_NS ? SPIN_MIN_NS : MIN(l->spin_ns * 2, SPIN_MAX_NS);
	else
		l->spin_ns /= 2;
}

/* --- the loop --- */

/* Is it to execute code now? */
static bool runnable(struct soft_cpu *cpu)
{
	if (cpu->mp_state == X86_MP_HALTED && (nmi_ready(cpu) || interrupt_ready(cpu)))
		cpu->mp_state = X86_MP_RUNNABLE;
	return cpu->mp_state == X86_MP_RUNNABLE;
}

static bool execute(struct soft_cpu *cpu)
{
	/* What was delivered may have asked for another look. */
	if (atomic_load_explicit(&cpu->request, memory_order_relaxed) != 0)
		return true;
	return cpu->soft->jit ? jit_run(cpu) : interp_run(cpu);
}

/* One round; false when the run ends, for *ret. */
static bool soft_round(struct soft_cpu *cpu, enum accel_exit *ret)
{
	bool ok;

	if (serve(cpu)) {
		*ret = ACCEL_EXIT_KICKED;
		return false;
	}
	if (cpu->events.triple_fault) {
		cpu->events.triple_fault = false;
		*ret = ACCEL_EXIT_RESET;
		return false;
	}
	if (!runnable(cpu)) {
		rest(cpu);
		return true;
	}
	soft_enter(cpu);
	ok = deliver(cpu) && execute(cpu);
	soft_leave(cpu);
	*ret = ACCEL_EXIT_RESET;
	return ok;
}

enum accel_exit soft_vcpu_run(struct accel_vcpu *vcpu)
{
	struct soft_cpu *cpu = soft_cpu_of(vcpu);
	enum accel_exit exit;

	if (!cpu->lapic->thread_ready) {
		/* A timer that fires 50 us late, the default, is late for a guest. */
		prctl(PR_SET_TIMERSLACK, 1UL);
		cpu->lapic->thread_ready = true;
	}
	while (soft_round(cpu, &exit))
		;
	return exit;
}
