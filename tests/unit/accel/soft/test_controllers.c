/* The 8259As, the I/O APIC, the 8254; messages, eventfds and doorbells. */
#include "rig.h"

#include <errno.h>
#include <sched.h>

#include "base/fd.h"

static void pic_setup(struct rig *r, uint8_t icw4)
{
	static const uint16_t ports[] = {0x20, 0xA0};

	for (unsigned i = 0; i < 2; i++) {
		rig_out(r, ports[i], 0x11);
		rig_out(r, ports[i] + 1, (uint8_t)(0x20 + 8 * i));
		rig_out(r, ports[i] + 1, i ? 2 : 4);
		rig_out(r, ports[i] + 1, icw4);
		rig_out(r, ports[i] + 1, 0);
	}
}

static void pulse(struct rig *r, unsigned gsi)
{
	soft_irq_line(r->accel, gsi, true);
	soft_irq_line(r->accel, gsi, false);
}

static void pics_have_priorities(void **state)
{
	struct rig r;

	rig_init(&r, 1);
	pic_setup(&r, 1);
	pulse(&r, 5);
	pulse(&r, 3);
	pulse(&r, 12);
	assert_int_equal(rig_in(&r, 0x20), 0x2C);
	assert_true(rig_requests(r.cpu[0]) & REQ_INTERRUPT);
	/* Of input 2, where the second chip's eight hang, then 3, then 5. */
	assert_int_equal(rig_take(r.cpu[0]), 0x2C);
	assert_int_equal(rig_take(r.cpu[0]), -1);
	rig_out(&r, 0xA0, 0x0B);
	assert_int_equal(rig_in(&r, 0xA0), 1u << 4); /* in service */
	rig_out(&r, 0xA0, 0x20);
	rig_out(&r, 0x20, 0x20);
	assert_int_equal(rig_take(r.cpu[0]), 0x23);
	assert_int_equal(rig_take(r.cpu[0]), -1);
	rig_out(&r, 0x20, 0x60 | 3); /* specific end */
	/* Masked, then not. */
	rig_out(&r, 0x21, 0x20);
	assert_int_equal(rig_take(r.cpu[0]), -1);
	assert_int_equal(rig_in(&r, 0x21), 0x20);
	rig_out(&r, 0x21, 0);
	assert_int_equal(rig_take(r.cpu[0]), 0x25);
	/* In special mask mode the one in service, masked, holds nobody back. */
	pulse(&r, 6);
	assert_int_equal(rig_take(r.cpu[0]), -1);
	rig_out(&r, 0x21, 0x20);
	rig_out(&r, 0x20, 0x68);
	assert_int_equal(rig_take(r.cpu[0]), 0x26);
	rig_out(&r, 0x20, 0x48);
	rig_out(&r, 0x20, 0x66);
	rig_out(&r, 0x20, 0x65);
	rig_out(&r, 0x21, 0);
	/* Rotation: after 5 had its turn, 6 is first. */
	rig_out(&r, 0x20, 0xC0 | 5);
	pulse(&r, 1);
	pulse(&r, 6);
	assert_int_equal(rig_take(r.cpu[0]), 0x26);
	rig_out(&r, 0x20, 0xA0); /* end, and rotate */
	assert_int_equal(rig_take(r.cpu[0]), 0x21);
	rig_fini(&r);
}

static void pics_know_levels_polls_and_automatic_ends(void **state)
{
	struct rig r;

	rig_init(&r, 1);
	pic_setup(&r, 1);
	rig_out(&r, 0x4D0, 0xFF);
	rig_out(&r, 0x4D1, 0xFF);
	assert_int_equal(rig_in(&r, 0x4D0), 0xF8);
	assert_int_equal(rig_in(&r, 0x4D1), 0xDE);
	soft_irq_line(r.accel, 10, true);
	for (unsigned i = 0; i < 2; i++) {
		assert_int_equal(rig_take(r.cpu[0]), 0x2A);
		rig_out(&r, 0xA0, 0x20);
		rig_out(&r, 0x20, 0x20); /* still up: again */
	}
	soft_irq_line(r.accel, 10, false);
	assert_int_equal(rig_take(r.cpu[0]), -1);
	/* A level that goes away is nobody's interrupt. */
	soft_irq_line(r.accel, 5, true);
	soft_irq_line(r.accel, 5, false);
	assert_int_equal(rig_take(r.cpu[0]), -1);
	/* Polling. */
	pulse(&r, 1);
	rig_out(&r, 0x20, 0x0C);
	assert_int_equal(rig_in(&r, 0x20), 0x81);
	assert_int_equal(rig_take(r.cpu[0]), -1);
	rig_out(&r, 0x20, 0x20);
	rig_out(&r, 0x20, 0x0C);
	assert_int_equal(rig_in(&r, 0x20) & 0x80, 0);
	pic_setup(&r, 3);
	pulse(&r, 1);
	assert_int_equal(rig_take(r.cpu[0]), 0x21);
	pulse(&r, 1); /* no end was needed */
	assert_int_equal(rig_take(r.cpu[0]), 0x21);
	/* Nobody listens to LINT0: nobody takes it. */
	rig_enable(&r);
	rig_lapic_write(r.cpu[0], LAPIC_LVT0, LVT_MASKED | APIC_EXTINT << 8);
	pulse(&r, 1);
	assert_int_equal(rig_take(r.cpu[0]), -1);
	rig_requests(r.cpu[0]);
	rig_lapic_write(r.cpu[0], LAPIC_LVT0, APIC_EXTINT << 8);
	assert_true(rig_requests(r.cpu[0]) & REQ_INTERRUPT);
	assert_int_equal(rig_take(r.cpu[0]), 0x21);
	rig_fini(&r);
}

#define PIN_LEVEL  (1u << 15)
#define PIN_MASKED (1u << 16)
#define REMOTE_IRR (1u << 14)

static void ioapic_edges_and_levels(void **state)
{
	struct rig r;

	rig_init(&r, 2);
	rig_enable(&r);
	rig_out(&r, 0x21, 0xFF);
	assert_int_equal(rig_ioapic_read(&r, 1), 0x170011);
	rig_ioapic_write(&r, 0, 0x0F000000);
	assert_int_equal(rig_ioapic_read(&r, 0), 0x0F000000);
	assert_int_equal(rig_ioapic_read(&r, 0x10 + 46), PIN_MASKED);
	/* An edge; a second while it is up is none. */
	rig_pin(&r, 5, 1, 0x45);
	soft_irq_line(r.accel, 5, true);
	soft_irq_line(r.accel, 5, true);
	assert_int_equal(rig_take(r.cpu[1]), 0x45);
	rig_lapic_write(r.cpu[1], LAPIC_EOI, 0);
	assert_int_equal(rig_take(r.cpu[1]), -1);
	soft_irq_line(r.accel, 5, false);
	/* One under the mask is lost. */
	rig_pin(&r, 5, 1, 0x45 | PIN_MASKED);
	pulse(&r, 5);
	rig_pin(&r, 5, 1, 0x45);
	assert_int_equal(rig_take(r.cpu[1]), -1);
	/* A level: again after its end, until it is down. */
	rig_pin(&r, 9, 0, 0x59 | PIN_LEVEL | PIN_MASKED);
	soft_irq_line(r.accel, 9, true);
	assert_int_equal(rig_take(r.cpu[0]), -1);
	rig_pin(&r, 9, 0, 0x59 | PIN_LEVEL);
	for (unsigned i = 0; i < 3; i++) {
		assert_int_equal(rig_take(r.cpu[0]), 0x59);
		assert_int_equal(rig_ioapic_read(&r, 0x10 + 18), 0x59 | PIN_LEVEL | REMOTE_IRR);
		assert_int_equal(rig_take(r.cpu[0]), -1);
		rig_lapic_write(r.cpu[0], LAPIC_EOI, 0);
	}
	soft_irq_line(r.accel, 9, false);
	assert_int_equal(rig_take(r.cpu[0]), 0x59);
	rig_lapic_write(r.cpu[0], LAPIC_EOI, 0);
	assert_int_equal(rig_take(r.cpu[0]), -1);
	assert_int_equal(rig_ioapic_read(&r, 0x10 + 18), 0x59 | PIN_LEVEL);
	/* Made an edge for a moment: ended. */
	soft_irq_line(r.accel, 9, true);
	rig_pin(&r, 9, 0, 0x59 | PIN_MASKED);
	rig_pin(&r, 9, 0, 0x59 | PIN_LEVEL | PIN_MASKED);
	assert_int_equal(rig_ioapic_read(&r, 0x10 + 18), 0x59 | PIN_LEVEL | PIN_MASKED);
	/* Line 0 is pin 2, line 2 none. */
	rig_pin(&r, 2, 1, 0x62);
	pulse(&r, 0);
	assert_int_equal(rig_take(r.cpu[1]), 0x62);
	rig_lapic_write(r.cpu[1], LAPIC_EOI, 0);
	pulse(&r, 2);
	assert_int_equal(rig_take(r.cpu[1]), -1);
	/* An NMI by a pin. */
	rig_requests(r.cpu[1]);
	rig_pin(&r, 7, 1, 4u << 8);
	pulse(&r, 7);
	assert_int_equal(rig_requests(r.cpu[1]), REQ_NMI);
	/* Registers that are not there. */
	assert_int_equal(rig_ioapic_read(&r, 0x40), UINT32_MAX);
	rig_ioapic_write(&r, 0xFF, 0);
	rig_fini(&r);
}

static void mode_set(struct rig *r, unsigned counter, unsigned mode, uint16_t count)
{
	rig_out(r, 0x43, (uint8_t)(counter << 6 | 0x30 | mode << 1));
	rig_out(r, (uint16_t)(0x40 + counter), (uint8_t)count);
	rig_out(r, (uint16_t)(0x40 + counter), (uint8_t)(count >> 8));
}

static unsigned pit_read16(struct rig *r, uint16_t port)
{
	unsigned low = rig_in(r, port);

	return low | (unsigned)rig_in(r, port) << 8;
}

static unsigned pit_count(struct rig *r, unsigned counter)
{
	rig_out(r, 0x43, (uint8_t)(counter << 6));
	return pit_read16(r, (uint16_t)(0x40 + counter));
}

/* So many ticks after the start, and more each time: whole ticks between two moments are whole. */
static void pit_at(struct rig *r, uint64_t ticks)
{
	r->steps++;
	rig_time(r, 1000000000 + ticks * 1000000000 / 1193182 + 2 * r->steps);
}

static void the_8254_counts(void **state)
{
	struct rig r;

	rig_init(&r, 1);
	pit_at(&r, 0);
	mode_set(&r, 0, 2, 1000);
	mode_set(&r, 1, 3, 1000);
	rig_out(&r, 0x61, 1);
	mode_set(&r, 2, 0, 1000);
	pit_at(&r, 10);
	assert_int_equal(pit_count(&r, 0), 990);
	assert_int_equal(pit_count(&r, 1), 980);
	assert_int_equal(pit_count(&r, 2), 990);
	assert_int_equal(rig_in(&r, 0x61) & 0x21, 0x01);
	pit_at(&r, 1001);
	assert_int_equal(pit_count(&r, 0), 999);
	assert_int_equal(pit_count(&r, 2), 0xFFFF);
	assert_int_equal(rig_in(&r, 0x61) & 0x21, 0x21);
	/* What is latched stays, even when it is latched again. */
	rig_out(&r, 0x43, 0);
	pit_at(&r, 1020);
	rig_out(&r, 0x43, 0);
	assert_int_equal(pit_read16(&r, 0x40), 999);
	assert_int_equal(pit_count(&r, 0), 980);
	/* Read-back: status, then count, of counters 0 and 1. */
	rig_out(&r, 0x43, 0xC6);
	assert_int_equal(rig_in(&r, 0x40), 0x80 | 0x30 | 2 << 1);
	assert_int_equal(pit_read16(&r, 0x40), 980);
	assert_int_equal(rig_in(&r, 0x41), 0x80 | 0x30 | 3 << 1);
	assert_int_equal(pit_read16(&r, 0x41), 960);
	/* The gate holds counter 2, and lets it go on. */
	mode_set(&r, 2, 0, 5000);
	pit_at(&r, 1120);
	rig_out(&r, 0x61, 0);
	pit_at(&r, 3000);
	assert_int_equal(pit_count(&r, 2), 4900);
	rig_out(&r, 0x61, 1);
	pit_at(&r, 3100);
	assert_int_equal(pit_count(&r, 2), 4800);
	/* Decimal. */
	rig_out(&r, 0x43, 0xB1);
	rig_out(&r, 0x42, 0x00);
	rig_out(&r, 0x42, 0x20);
	pit_at(&r, 3101);
	assert_int_equal(pit_count(&r, 2), 0x1999);
	/* One byte, low, then high. */
	rig_out(&r, 0x43, 0x94);
	rig_out(&r, 0x42, 100);
	pit_at(&r, 3111);
	assert_int_equal(rig_in(&r, 0x42), 90);
	assert_int_equal(rig_in(&r, 0x42), 90);
	rig_out(&r, 0x43, 0xA4);
	rig_out(&r, 0x42, 1);
	assert_int_equal(rig_in(&r, 0x42), 1);
	rig_fini(&r);
}

static void counter_0_interrupts(void **state)
{
	struct rig r;

	rig_init(&r, 1);
	pic_setup(&r, 1);
	mode_set(&r, 0, 2, 1193); /* 1 ms, for as long as it takes */
	for (unsigned i = 0; i < 3; i++) {
		while (rig_take(r.cpu[0]) != 0x20)
			sched_yield();
		rig_out(&r, 0x20, 0x20);
	}
	mode_set(&r, 0, 0, 1193); /* once */
	while (rig_take(r.cpu[0]) != 0x20)
		sched_yield();
	rig_out(&r, 0x20, 0x20);
	pthread_mutex_lock(&r.irq->lock);
	assert_int_equal(r.irq->pit.next_ns, TIME_NEVER);
	pthread_mutex_unlock(&r.irq->lock);
	rig_fini(&r);
}

static void controllers_survive_a_move(void **state)
{
	struct x86_machine_state one, two;
	struct error err = ERROR_INIT;
	struct rig a, b;

	rig_init(&a, 1);
	rig_init(&b, 1);
	pic_setup(&a, 1);
	rig_enable(&a);
	rig_pin(&a, 9, 0, 0x59 | PIN_LEVEL);
	soft_irq_line(a.accel, 9, true);
	pulse(&a, 4);
	pit_at(&a, 0);
	mode_set(&a, 0, 2, 1000);
	rig_out(&a, 0x61, 1);
	mode_set(&a, 2, 0, 5000);
	pit_at(&a, 10);
	rig_out(&a, 0x61, 0);
	rig_out(&a, 0x43, 0x80); /* latched */
	rig_out(&a, 0x20, 0x0B);
	pit_at(&a, 77);
	assert_int_equal(soft_machine_get_state(a.accel, &one, &err), 0);
	assert_int_equal(soft_machine_set_state(b.accel, &one, &err), 0);
	assert_int_equal(soft_machine_get_state(b.accel, &two, &err), 0);
	assert_memory_equal(&one, &two, sizeof(one));
	assert_int_equal(pit_read16(&b, 0x42), 4990);
	assert_int_equal(pit_count(&b, 2), 4990);
	assert_int_equal(pit_count(&b, 0), 923);
	one.ioapic.base = 0xD0000000;
	assert_int_equal(soft_machine_set_state(b.accel, &one, &err), -EINVAL);
	rig_fini(&a);
	rig_fini(&b);
}

static void messages_are_decoded(void **state)
{
	struct rig r;

	rig_init(&r, 4);
	rig_enable(&r);
	assert_int_equal(soft_msi(r.accel, RIG_LAPIC | 2u << 12, 0x40), 0);
	assert_int_equal(rig_take(r.cpu[2]), 0x40);
	for (unsigned i = 0; i < 4; i++)
		rig_lapic_write(r.cpu[i], LAPIC_LDR, 1u << (24 + i));
	assert_int_equal(soft_msi(r.accel, RIG_LAPIC | 9u << 12 | 4, 0x51), 0);
	assert_int_equal(rig_take(r.cpu[0]), 0x51);
	assert_int_equal(rig_take(r.cpu[3]), 0x51);
	rig_requests(r.cpu[1]);
	assert_int_equal(soft_msi(r.accel, RIG_LAPIC | 1u << 12, 0x400), 0);
	assert_int_equal(rig_requests(r.cpu[1]), REQ_NMI);
	assert_int_equal(soft_msi(r.accel, 0x12340000, 0x40), -EINVAL);
	assert_int_equal(soft_msi(r.accel, 0x55FEE00000, 0x40), -EINVAL);
	assert_int_equal(soft_msi(r.accel, RIG_LAPIC | 77u << 12, 0x40), 0); /* nobody */
	rig_fini(&r);
}

static void eventfds_send_messages(void **state)
{
	int fd = eventfd_new(), route;
	struct rig r;

	rig_init(&r, 1);
	rig_enable(&r);
	route = soft_irqfd_attach(r.accel, fd, RIG_LAPIC, 0x40);
	assert_int_equal(route, 0);
	eventfd_signal(fd);
	while (rig_take(r.cpu[0]) != 0x40)
		sched_yield();
	assert_int_equal(soft_irqfd_update(r.accel, route, RIG_LAPIC, 0x60), 0);
	eventfd_signal(fd);
	while (rig_take(r.cpu[0]) != 0x60)
		sched_yield();
	assert_int_equal(soft_irqfd_attach(r.accel, fd, 1ULL << 32 | RIG_LAPIC, 0x40), -EINVAL);
	assert_int_equal(soft_irqfd_attach(r.accel, -1, RIG_LAPIC, 0x40), -EINVAL);
	assert_int_equal(soft_irqfd_detach(r.accel, route), 0);
	eventfd_signal(fd);
	assert_true(eventfd_clear(fd));
	assert_int_equal(soft_irqfd_detach(r.accel, route), -EINVAL);
	rig_fini(&r);
	close(fd);
}

static void doorbells_ring(void **state)
{
	int any = eventfd_new(), wide = eventfd_new(), seven = eventfd_new();
	const struct accel_doorbell bells[] = {
		{.addr = 0xD0000000, .size = 0, .fd = any},
		{.addr = 0xD0001000, .size = 4, .fd = wide},
		{.addr = 0xD0001000, .size = 2, .match = true, .value = 7, .fd = seven},
		{.is_pio = true, .addr = 0x700, .size = 1, .fd = wide},
	};
	uint8_t data[8] = {7};
	struct rig r;

	rig_init(&r, 1);
	for (size_t i = 0; i < ARRAY_SIZE(bells); i++)
		assert_int_equal(soft_doorbell_add(r.accel, &bells[i]), 0);
	assert_int_equal(soft_doorbell_add(r.accel, &bells[1]), -EEXIST);
	soft_mmio(r.cpu[0], 0xD0000000, true, data, 1);
	assert_true(eventfd_clear(any));
	soft_mmio(r.cpu[0], 0xD0001000, true, data, 4);
	assert_true(eventfd_clear(wide));
	soft_mmio(r.cpu[0], 0xD0001000, true, data, 2);
	assert_true(eventfd_clear(seven));
	rig_out(&r, 0x700, 1);
	assert_true(eventfd_clear(wide));
	assert_int_equal(r.accesses, 0);
	/* Another width, another value, another place, a read: the machine's. */
	soft_mmio(r.cpu[0], 0xD0001000, true, data, 8);
	data[0] = 8;
	soft_mmio(r.cpu[0], 0xD0001000, true, data, 2);
	soft_mmio(r.cpu[0], 0xD0000001, true, data, 1);
	soft_mmio(r.cpu[0], 0xD0000000, false, data, 1);
	assert_int_equal(r.accesses, 4);
	for (size_t i = 0; i < ARRAY_SIZE(bells); i++)
		assert_int_equal(soft_doorbell_del(r.accel, &bells[i]), 0);
	assert_int_equal(soft_doorbell_del(r.accel, &bells[0]), -ENOENT);
	soft_mmio(r.cpu[0], 0xD0000000, true, data, 1);
	assert_int_equal(r.accesses, 5);
	rig_fini(&r);
	close(any);
	close(wide);
	close(seven);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(pics_have_priorities),
		cmocka_unit_test(pics_know_levels_polls_and_automatic_ends),
		cmocka_unit_test(ioapic_edges_and_levels),
		cmocka_unit_test(the_8254_counts),
		cmocka_unit_test(counter_0_interrupts),
		cmocka_unit_test(controllers_survive_a_move),
		cmocka_unit_test(messages_are_decoded),
		cmocka_unit_test(eventfds_send_messages),
		cmocka_unit_test(doorbells_ring),
	};

	return cmocka_run_group_tests_name("soft-controllers", tests, NULL, NULL);
}
