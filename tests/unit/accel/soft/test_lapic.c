/* The local APIC: priorities, messages between processors, the timer, x2APIC. */
#include "rig.h"

#include <sched.h>

#define LVT_PERIODIC (1u << 17)
#define LVT_DEADLINE (2u << 17)

static void higher_priorities_go_first(void **state)
{
	struct rig r;

	rig_init(&r, 1);
	rig_enable(&r);
	lapic_post(r.cpu[0], 0x41, false);
	lapic_post(r.cpu[0], 0x52, false);
	lapic_post(r.cpu[0], 0x5F, false);
	assert_int_equal(rig_requests(r.cpu[0]) & REQ_INTERRUPT, REQ_INTERRUPT);
	assert_int_equal(rig_take(r.cpu[0]), 0x5F);
	assert_int_equal(rig_lapic_read(r.cpu[0], LAPIC_PPR), 0x50);
	/* The same class waits for the end of the one in service, a higher one does not. */
	assert_int_equal(rig_take(r.cpu[0]), -1);
	lapic_post(r.cpu[0], 0x60, false);
	assert_int_equal(rig_take(r.cpu[0]), 0x60);
	assert_int_equal(rig_lapic_read(r.cpu[0], LAPIC_ISR + 0x20), 1u << 31);
	assert_int_equal(rig_lapic_read(r.cpu[0], LAPIC_ISR + 0x30), 1);
	rig_lapic_write(r.cpu[0], LAPIC_EOI, 0);
	assert_int_equal(rig_take(r.cpu[0]), -1);
	rig_requests(r.cpu[0]);
	rig_lapic_write(r.cpu[0], LAPIC_EOI, 0);
	assert_int_equal(rig_requests(r.cpu[0]) & REQ_INTERRUPT, REQ_INTERRUPT);
	assert_int_equal(rig_take(r.cpu[0]), 0x52);
	rig_lapic_write(r.cpu[0], LAPIC_EOI, 0);
	/* The task's priority holds its class and those below back. */
	rig_lapic_write(r.cpu[0], LAPIC_TPR, 0x40);
	assert_int_equal(rig_take(r.cpu[0]), -1);
	rig_lapic_write(r.cpu[0], LAPIC_TPR, 0x3F);
	assert_int_equal(rig_take(r.cpu[0]), 0x41);
	rig_lapic_write(r.cpu[0], LAPIC_EOI, 0);
	rig_lapic_write(r.cpu[0], LAPIC_EOI, 0); /* nothing is in service */
	assert_int_equal(rig_lapic_read(r.cpu[0], LAPIC_PPR), 0x3F);
	rig_fini(&r);
}

/* Who of four has vector v waiting, as a mask; takes it back. */
static unsigned who(struct rig *r, uint8_t vector)
{
	unsigned mask = 0;

	for (unsigned i = 0; i < r->n; i++) {
		if (rig_take(r->cpu[i]) != vector)
			continue;
		mask |= 1u << i;
		rig_lapic_write(r->cpu[i], LAPIC_EOI, 0);
	}
	return mask;
}

static void send(struct soft_cpu *cpu, uint32_t dest, uint32_t command)
{
	rig_lapic_write(cpu, LAPIC_ICR2, dest << 24);
	rig_lapic_write(cpu, LAPIC_ICR, command);
}

static void messages_reach_whom_they_name(void **state)
{
	struct rig r;

	rig_init(&r, 4);
	rig_enable(&r);
	send(r.cpu[0], 2, 0x40);
	assert_int_equal(who(&r, 0x40), 1u << 2);
	send(r.cpu[1], 0xFF, 0x41);
	assert_int_equal(who(&r, 0x41), 0xF);
	send(r.cpu[1], 0, 0x42 | 1u << 18); /* itself */
	assert_int_equal(who(&r, 0x42), 2);
	send(r.cpu[1], 0, 0x43 | 2u << 18); /* all */
	assert_int_equal(who(&r, 0x43), 0xF);
	send(r.cpu[1], 0, 0x44 | 3u << 18); /* all others */
	assert_int_equal(who(&r, 0x44), 0xD);
	/* Logical, flat: one bit for each. */
	for (unsigned i = 0; i < 4; i++)
		rig_lapic_write(r.cpu[i], LAPIC_LDR, 1u << (24 + i));
	send(r.cpu[0], 0xA, 0x45 | 1u << 11);
	assert_int_equal(who(&r, 0x45), 0xA);
	/* Clusters of two. */
	for (unsigned i = 0; i < 4; i++) {
		rig_lapic_write(r.cpu[i], LAPIC_DFR, 0x0FFFFFFF);
		rig_lapic_write(r.cpu[i], LAPIC_LDR, (i / 2 << 4 | 1u << i % 2) << 24);
	}
	send(r.cpu[0], 0x13, 0x46 | 1u << 11);
	assert_int_equal(who(&r, 0x46), 0xC);
	send(r.cpu[0], 0xF2, 0x47 | 1u << 11);
	assert_int_equal(who(&r, 0x47), 0xA);
	/* Lowest priority: one, and not always the same. */
	{
		unsigned first, second;

		send(r.cpu[0], 0xFF, 0x48 | 1u << 8);
		first = who(&r, 0x48);
		send(r.cpu[0], 0xFF, 0x48 | 1u << 8);
		second = who(&r, 0x48);
		assert_int_equal(__builtin_popcount(first), 1);
		assert_int_equal(__builtin_popcount(second), 1);
		assert_int_not_equal(first, second);
	}
	rig_fini(&r);
}

static void init_sipi_and_nmi_are_requests(void **state)
{
	struct rig r;

	rig_init(&r, 2);
	rig_enable(&r);
	rig_requests(r.cpu[1]);
	send(r.cpu[0], 1, 0x4500);
	assert_int_equal(rig_requests(r.cpu[1]), REQ_INIT);
	send(r.cpu[0], 1, 0x8500); /* level de-assert */
	assert_int_equal(rig_requests(r.cpu[1]), 0);
	send(r.cpu[0], 1, 0x4699);
	assert_int_equal(rig_requests(r.cpu[1]), REQ_SIPI);
	assert_int_equal(atomic_load(&r.cpu[1]->sipi_vector), 0x99);
	for (unsigned i = 0; i < 3; i++)
		send(r.cpu[0], 1, 0x4400);
	assert_int_equal(rig_requests(r.cpu[1]), REQ_NMI);
	assert_int_equal(atomic_load(&r.cpu[1]->nmi_pending), 2);
	rig_fini(&r);
}

static void an_apic_that_is_off_takes_nothing(void **state)
{
	struct rig r;

	rig_init(&r, 2);
	send(r.cpu[0], 1, 0x40);
	assert_false(lapic_pending(r.cpu[1]));
	rig_enable(&r);
	rig_lapic_write(r.cpu[1], LAPIC_LVTT, 0x50);
	assert_int_equal(rig_lapic_read(r.cpu[1], LAPIC_LVTT), 0x50);
	/* Off by software: entries are masked, and stay so. */
	rig_lapic_write(r.cpu[1], LAPIC_SVR, 0xFF);
	assert_int_equal(rig_lapic_read(r.cpu[1], LAPIC_LVTT), 0x50 | LVT_MASKED);
	rig_lapic_write(r.cpu[1], LAPIC_LVTT, 0x51);
	assert_int_equal(rig_lapic_read(r.cpu[1], LAPIC_LVTT), 0x51 | LVT_MASKED);
	rig_lapic_write(r.cpu[1], LAPIC_SVR, 0x1FF);
	/* Off by its base: not even memory is there. */
	assert_true(irq_wrmsr(r.cpu[1], 0x1B, RIG_LAPIC));
	r.accesses = 0;
	assert_int_equal(rig_lapic_read(r.cpu[1], LAPIC_ID), UINT32_MAX);
	assert_int_equal(r.accesses, 1);
	send(r.cpu[0], 1, 0x4500);
	assert_int_equal(rig_requests(r.cpu[1]) & REQ_INIT, 0);
	rig_fini(&r);
}

static void errors_are_told(void **state)
{
	struct rig r;

	rig_init(&r, 2);
	rig_enable(&r);
	rig_lapic_write(r.cpu[0], LAPIC_LVTERR, 0xEE);
	send(r.cpu[0], 1, 0x05);
	assert_int_equal(rig_take(r.cpu[0]), 0xEE);
	rig_lapic_write(r.cpu[0], LAPIC_EOI, 0);
	assert_int_equal(rig_lapic_read(r.cpu[0], LAPIC_ESR), 0); /* until it is written */
	rig_lapic_write(r.cpu[0], LAPIC_ESR, 0);
	assert_int_equal(rig_lapic_read(r.cpu[0], LAPIC_ESR), 1u << 5);
	rig_lapic_read(r.cpu[0], 0x10);
	rig_lapic_write(r.cpu[0], LAPIC_ESR, 0);
	assert_int_equal(rig_lapic_read(r.cpu[0], LAPIC_ESR), 1u << 7);
	/* A message with a bad vector is an error of who gets it. */
	soft_msi(r.accel, RIG_LAPIC | 1u << 12, 0x03);
	rig_lapic_write(r.cpu[1], LAPIC_ESR, 0);
	assert_int_equal(rig_lapic_read(r.cpu[1], LAPIC_ESR), 1u << 6);
	/* An error vector that is an error itself does not go round for ever. */
	rig_lapic_write(r.cpu[1], LAPIC_LVTERR, 0x02);
	soft_msi(r.accel, RIG_LAPIC | 1u << 12, 0x03);
	rig_fini(&r);
}

static void the_base_changes_as_the_figure_says(void **state)
{
	const uint64_t base = RIG_LAPIC, on = APIC_BASE_ENABLE, x2 = APIC_BASE_X2;
	const uint64_t bsp = APIC_BASE_BSP;
	uint64_t value;
	struct rig r;

	rig_init(&r, 2);
	rig_enable(&r);
	assert_true(irq_rdmsr(r.cpu[0], 0x1B, &value));
	assert_int_equal(value, base | on | bsp);
	assert_true(irq_rdmsr(r.cpu[1], 0x1B, &value));
	assert_int_equal(value, base | on);
	assert_false(irq_wrmsr(r.cpu[0], 0x1B, base | x2 | bsp));
	assert_false(irq_wrmsr(r.cpu[0], 0x1B, base | on | bsp | 1));
	assert_false(irq_wrmsr(r.cpu[0], 0x1B, 1ULL << 60 | base | on | bsp));
	assert_false(irq_rdmsr(r.cpu[0], 0x802, &value)); /* not in x2APIC mode */
	assert_true(irq_wrmsr(r.cpu[0], 0x1B, base | on | x2 | bsp));
	assert_true(irq_rdmsr(r.cpu[0], 0x802, &value));
	assert_int_equal(value, 0);
	assert_false(irq_wrmsr(r.cpu[0], 0x1B, base | on | bsp)); /* no way back */
	assert_true(irq_wrmsr(r.cpu[0], 0x1B, base | bsp));
	assert_false(irq_wrmsr(r.cpu[0], 0x1B, base | on | x2 | bsp)); /* not in one step */
	assert_true(irq_wrmsr(r.cpu[0], 0x1B, base | on | bsp));
	assert_int_equal(rig_lapic_read(r.cpu[0], LAPIC_SVR), 0xFF);
	rig_fini(&r);
}

static void x2apic_has_registers_of_its_own(void **state)
{
	uint64_t value;
	struct rig r;

	rig_init(&r, 4);
	rig_enable(&r);
	for (unsigned i = 0; i < 4; i++)
		assert_true(irq_wrmsr(r.cpu[i], 0x1B, RIG_LAPIC | APIC_BASE_ENABLE | APIC_BASE_X2));
	assert_true(irq_rdmsr(r.cpu[3], 0x80D, &value));
	assert_int_equal(value, 1u << 3);
	assert_false(irq_wrmsr(r.cpu[3], 0x80D, 1));
	assert_false(irq_rdmsr(r.cpu[3], 0x80E, &value)); /* DFR */
	assert_false(irq_rdmsr(r.cpu[3], 0x80B, &value)); /* EOI is written */
	assert_false(irq_wrmsr(r.cpu[3], 0x80B, 1));
	assert_false(irq_rdmsr(r.cpu[3], 0x831, &value)); /* ICR is one register */
	assert_false(irq_wrmsr(r.cpu[3], 0x808, 0x100));
	assert_false(irq_rdmsr(r.cpu[3], 0x8FF, &value));
	/* Physical, to one; logical, to two; itself. */
	assert_true(irq_wrmsr(r.cpu[0], 0x830, 2ULL << 32 | 0x40));
	assert_int_equal(rig_take(r.cpu[2]), 0x40);
	assert_true(irq_wrmsr(r.cpu[2], 0x80B, 0));
	assert_true(irq_wrmsr(r.cpu[0], 0x830, 0xAULL << 32 | 1u << 11 | 0x41));
	for (unsigned i = 0; i < 4; i++)
		assert_int_equal(rig_take(r.cpu[i]), i & 1 ? 0x41 : -1);
	assert_true(irq_wrmsr(r.cpu[0], 0x83F, 0x42));
	assert_int_equal(rig_take(r.cpu[0]), 0x42);
	assert_false(irq_wrmsr(r.cpu[0], 0x83F, 0x142));
	assert_true(irq_rdmsr(r.cpu[0], 0x830, &value));
	assert_int_equal(value, 0xAULL << 32 | 1u << 11 | 0x41);
	/* Everybody, by all ones. */
	assert_true(irq_wrmsr(r.cpu[0], 0x830, 0xFFFFFFFFULL << 32 | 0x52));
	for (unsigned i = 0; i < 4; i++)
		assert_int_equal(rig_take(r.cpu[i]), 0x52);
	rig_fini(&r);
}

static void the_timer_counts(void **state)
{
	struct soft_cpu *cpu;
	struct rig r;

	rig_init(&r, 1);
	rig_enable(&r);
	cpu = r.cpu[0];
	rig_time(&r, 1000000);
	rig_lapic_write(cpu, LAPIC_TDCR, 0xB); /* by 1 */
	rig_lapic_write(cpu, LAPIC_LVTT, 0x50);
	rig_lapic_write(cpu, LAPIC_TMICT, 1000);
	assert_int_equal(rig_lapic_read(cpu, LAPIC_TMCCT), 1000);
	rig_time(&r, 1000400);
	assert_int_equal(rig_lapic_read(cpu, LAPIC_TMCCT), 600);
	lapic_timer_poll(cpu);
	assert_int_equal(rig_take(cpu), -1);
	/* By 4 from here: a fourth is left to count. */
	rig_lapic_write(cpu, LAPIC_TDCR, 1);
	assert_int_equal(rig_lapic_read(cpu, LAPIC_TMCCT), 600);
	rig_time(&r, 1000800);
	assert_int_equal(rig_lapic_read(cpu, LAPIC_TMCCT), 500);
	rig_time(&r, 1000400 + 2400);
	lapic_timer_poll(cpu);
	assert_int_equal(rig_take(cpu), 0x50);
	rig_lapic_write(cpu, LAPIC_EOI, 0);
	rig_time(&r, 2000000);
	lapic_timer_poll(cpu);
	assert_int_equal(rig_take(cpu), -1); /* once */
	assert_int_equal(lapic_timer_next(cpu), TIME_NEVER);

	rig_lapic_write(cpu, LAPIC_LVTT, 0x51 | LVT_PERIODIC);
	rig_lapic_write(cpu, LAPIC_TMICT, 250); /* 1 us */
	for (unsigned i = 1; i <= 3; i++) {
		rig_time(&r, 2000000 + i * 1000);
		lapic_timer_poll(cpu);
		assert_int_equal(rig_take(cpu), 0x51);
		rig_lapic_write(cpu, LAPIC_EOI, 0);
	}
	/* What was missed is one interrupt, and the phase stays. */
	rig_time(&r, 2000000 + 7300);
	lapic_timer_poll(cpu);
	assert_int_equal(rig_take(cpu), 0x51);
	assert_int_equal(lapic_timer_next(cpu), 2000000 + 8000);
	assert_int_equal(rig_lapic_read(cpu, LAPIC_TMCCT), 175);
	rig_lapic_write(cpu, LAPIC_TMICT, 0);
	assert_int_equal(lapic_timer_next(cpu), TIME_NEVER);
	rig_fini(&r);
}

static void deadlines_are_the_counter_s(void **state)
{
	uint64_t value, now;
	struct rig r;

	rig_init(&r, 1);
	rig_enable(&r);
	/* Not in this mode: ignored. */
	assert_true(irq_wrmsr(r.cpu[0], 0x6E0, 1));
	assert_true(irq_rdmsr(r.cpu[0], 0x6E0, &value));
	assert_int_equal(value, 0);
	rig_lapic_write(r.cpu[0], LAPIC_LVTT, 0x52 | LVT_DEADLINE);
	irq_rdmsr(r.cpu[0], 0x10, &now);
	irq_wrmsr(r.cpu[0], 0x6E0, now + r.soft->tsc_khz * 3600000); /* an hour */
	lapic_timer_poll(r.cpu[0]);
	assert_int_equal(rig_take(r.cpu[0]), -1);
	assert_int_not_equal(lapic_timer_next(r.cpu[0]), TIME_NEVER);
	/* The counter jumps over it. */
	irq_wrmsr(r.cpu[0], 0x10, now + r.soft->tsc_khz * 3600001);
	lapic_timer_poll(r.cpu[0]);
	assert_int_equal(rig_take(r.cpu[0]), 0x52);
	assert_true(irq_rdmsr(r.cpu[0], 0x6E0, &value));
	assert_int_equal(value, 0);
	assert_true(irq_rdmsr(r.cpu[0], 0x3B, &value));
	assert_true(value > r.soft->tsc_khz * 3590000);
	/* ADJUST back: so is the counter. */
	irq_wrmsr(r.cpu[0], 0x3B, 0);
	irq_rdmsr(r.cpu[0], 0x10, &value);
	assert_true(value - now < r.soft->tsc_khz * 60000);
	/* One in the past is due at once; the farthest there can be is never. */
	rig_lapic_write(r.cpu[0], LAPIC_EOI, 0);
	irq_wrmsr(r.cpu[0], 0x6E0, 1);
	assert_true(rig_requests(r.cpu[0]) & REQ_INTERRUPT);
	lapic_timer_poll(r.cpu[0]);
	assert_int_equal(rig_take(r.cpu[0]), 0x52);
	irq_wrmsr(r.cpu[0], 0x6E0, UINT64_MAX);
	lapic_timer_poll(r.cpu[0]);
	assert_int_equal(rig_take(r.cpu[0]), -1);
	rig_fini(&r);
}

/* A vCPU that runs is told by the timer thread. */
static void the_timer_thread_asks_the_vcpu(void **state)
{
	uint64_t now;
	struct rig r;

	rig_init(&r, 2);
	rig_enable(&r);
	for (unsigned i = 0; i < 2; i++) {
		rig_lapic_write(r.cpu[i], LAPIC_LVTT, 0x52 | LVT_DEADLINE);
		rig_requests(r.cpu[i]);
	}
	/* The later one first, so that the thread must be told again. */
	irq_rdmsr(r.cpu[1], 0x10, &now);
	irq_wrmsr(r.cpu[1], 0x6E0, now + r.soft->tsc_khz * 20);
	irq_wrmsr(r.cpu[0], 0x6E0, now + r.soft->tsc_khz * 2);
	for (unsigned i = 0; i < 2; i++) {
		while (rig_take(r.cpu[i]) != 0x52) {
			while (!(rig_requests(r.cpu[i]) & REQ_INTERRUPT))
				sched_yield();
			lapic_timer_poll(r.cpu[i]);
		}
	}
	rig_fini(&r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(higher_priorities_go_first),
		cmocka_unit_test(messages_reach_whom_they_name),
		cmocka_unit_test(init_sipi_and_nmi_are_requests),
		cmocka_unit_test(an_apic_that_is_off_takes_nothing),
		cmocka_unit_test(errors_are_told),
		cmocka_unit_test(the_base_changes_as_the_figure_says),
		cmocka_unit_test(x2apic_has_registers_of_its_own),
		cmocka_unit_test(the_timer_counts),
		cmocka_unit_test(deadlines_are_the_counter_s),
		cmocka_unit_test(the_timer_thread_asks_the_vcpu),
	};

	return cmocka_run_group_tests_name("soft-lapic", tests, NULL, NULL);
}
