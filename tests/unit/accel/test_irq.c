/* Interrupts into the guest: lines, messages, eventfds, NMI; two processors; doorbells out of it. */
#include "guest.h"

#include <errno.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/fd.h"

#define MSI_ADDR 0xFEE00000u

static void start_irqs(struct guest *g)
{
	guest_init(g, 1);
	GUEST_LOAD(g, X86_BOOT_LONG64, long_irqs);
	guest_start(g);
	guest_wait(g, 0x60, 1);
}

static void messages_and_lines_arrive(void **state)
{
	struct guest g;

	(void)state;
	start_irqs(&g);
	for (unsigned i = 1; i <= 3; i++) {
		assert_int_equal(accel_msi(g.accel, MSI_ADDR, 0x40), 0);
		guest_wait(&g, 0x50, i);
		assert_int_equal(accel_irq_line(g.accel, 5, true), 0);
		assert_int_equal(accel_irq_line(g.accel, 5, false), 0);
		guest_wait(&g, 0x52, i);
		assert_int_equal(accel_vcpu_nmi(g.vcpus[0]), 0);
		guest_wait(&g, 0x58, i);
	}
	assert_int_equal(accel_irq_line(g.accel, 24, true), -EINVAL);
	guest_stop(&g);
	guest_fini(&g);
}

static void an_eventfd_sends_its_message(void **state)
{
	struct guest g;
	int fd = eventfd_new(), other = eventfd_new(), route, second;

	(void)state;
	start_irqs(&g);
	route = accel_irqfd_attach(g.accel, fd, MSI_ADDR, 0x40);
	assert_true(route >= 0);
	second = accel_irqfd_attach(g.accel, other, MSI_ADDR, 0x41);
	assert_true(second >= 0 && second != route);
	eventfd_signal(fd);
	guest_wait(&g, 0x50, 1);
	eventfd_signal(other);
	guest_wait(&g, 0x51, 1);
	/* The pins still work after the table has been replaced. */
	accel_irq_line(g.accel, 5, true);
	accel_irq_line(g.accel, 5, false);
	guest_wait(&g, 0x52, 1);

	assert_int_equal(accel_irqfd_update(g.accel, route, MSI_ADDR, 0x41), 0);
	eventfd_signal(fd);
	guest_wait(&g, 0x51, 2);
	assert_int_equal(accel_irqfd_detach(g.accel, route), 0);
	assert_int_equal(accel_irqfd_detach(g.accel, route), -EINVAL);
	assert_int_equal(accel_irqfd_update(g.accel, route, MSI_ADDR, 0x41), -EINVAL);
	eventfd_signal(fd);
	assert_true(eventfd_clear(fd)); /* nobody takes it any more */
	eventfd_signal(other);
	guest_wait(&g, 0x51, 3);
	assert_int_equal(g.written[0x50], 1);
	guest_stop(&g);
	guest_fini(&g);
	close(fd);
	close(other);
}

static void routes_are_limited_and_reused(void **state)
{
	struct guest g;
	int fds[100], routes[100];

	(void)state;
	guest_init(&g, 1);
	for (unsigned i = 0; i < ARRAY_SIZE(fds); i++) {
		fds[i] = eventfd_new();
		routes[i] = accel_irqfd_attach(g.accel, fds[i], MSI_ADDR, 0x40 + i % 64);
		assert_int_equal(routes[i], i);
	}
	assert_int_equal(accel_irqfd_detach(g.accel, routes[7]), 0);
	assert_int_equal(accel_irqfd_attach(g.accel, fds[7], MSI_ADDR, 0x50), 7);
	assert_int_equal(accel_irqfd_attach(g.accel, -1, MSI_ADDR, 0x50), -EINVAL);
	/* An address that no APIC can have must not spoil the table for the others. */
	accel_irqfd_update(g.accel, 3, 0x55FEE00000ULL, 0x40);
	assert_int_equal(accel_irqfd_update(g.accel, 4, MSI_ADDR, 0x77), 0);
	for (unsigned i = 0; i < ARRAY_SIZE(fds); i++)
		close(fds[i]);
	guest_fini(&g);
}

static void the_timer_ticks_at_pin_2(void **state)
{
	struct guest g;

	(void)state;
	guest_init(&g, 1);
	GUEST_LOAD(&g, X86_BOOT_LONG64, long_timer);
	guest_start(&g);
	guest_wait(&g, 0x53, 3);
	guest_stop(&g);
	/* The performance counter is not there: general protection. */
	assert_int_equal(g.written[0x59], 1);
	guest_fini(&g);
}

static void two_processors_share_memory(void **state)
{
	extern const uint8_t payload_real_second[], payload_real_second_end[];
	struct guest g;

	(void)state;
	guest_init(&g, 2);
	GUEST_LOAD(&g, X86_BOOT_LONG64, long_smp);
	assert_int_equal(gmem_write(g.mem, 0x7000, payload_real_second,
				    (size_t)(payload_real_second_end - payload_real_second)),
			 0);
	guest_start(&g);
	guest_wait(&g, PORT_DONE, 1);
	guest_stop(&g);
	assert_int_equal(g.written[0x56], 1);
	for (size_t i = 0; i < g.n_log; i++)
		if (g.log[i].addr == 0x54)
			assert_int_equal(g.log[i].value, 40000);
		else if (g.log[i].addr == 0x56)
			assert_int_equal(g.log[i].vcpu, 1);
	guest_fini(&g);
}

/* Of real_ports: a byte to 0x50, words and double words to 0x1234, a byte to 0x51. */
static void doorbells_take_writes_from_the_handler(void **state)
{
	struct guest g;
	int any = eventfd_new(), byte = eventfd_new(), value = eventfd_new(), no = eventfd_new();
	const struct accel_doorbell bells[] = {
		{.is_pio = true, .addr = 0x50, .size = 1, .fd = byte},
		{.is_pio = true,
		 .addr = 0x1234,
		 .size = 2,
		 .match = true,
		 .value = 0x3322,
		 .fd = value},
		{.is_pio = true, .addr = 0x51, .size = 1, .match = true, .value = 0x12, .fd = no},
		{.is_pio = true, .addr = 0x52, .size = 4, .fd = no},
		{.is_pio = true, .addr = 0x53, .size = 0, .fd = any},
	};

	(void)state;
	guest_init(&g, 1);
	for (size_t i = 0; i < ARRAY_SIZE(bells); i++)
		assert_int_equal(accel_doorbell_add(g.accel, &bells[i]), 0);
	GUEST_LOAD(&g, X86_BOOT_REAL, real_ports);
	guest_run_done(&g);
	assert_true(eventfd_clear(byte));
	assert_true(eventfd_clear(value));
	assert_true(eventfd_clear(any));
	assert_false(eventfd_clear(no));
	guest_expect(&g, 0, true, true, 0x1234, 4, 0x77665544);
	guest_expect(&g, 1, true, false, 0x1234, 1, 0x11);
	guest_expect(&g, 2, true, true, 0x51, 1, 0x11);
	guest_expect(&g, 3, true, false, 0x1234, 2, 0x2211);
	guest_expect(&g, 4, true, true, 0x52, 2, 0x2211);
	for (size_t i = 0; i < ARRAY_SIZE(bells); i++)
		assert_int_equal(accel_doorbell_del(g.accel, &bells[i]), 0);
	assert_true(accel_doorbell_del(g.accel, &bells[0]) < 0);
	guest_fini(&g);
	close(any);
	close(byte);
	close(value);
	close(no);
}

static void memory_doorbells_ring(void **state)
{
	struct guest g;
	int any = eventfd_new(), quad = eventfd_new();
	const struct accel_doorbell bells[] = {
		{.addr = 0xD0000000, .size = 0, .fd = any},
		{.addr = 0xD0000008,
		 .size = 8,
		 .match = true,
		 .value = 0xffeeddccbbaa9988ULL,
		 .fd = quad},
	};
	const struct accel_doorbell bad[] = {
		{.addr = 0xD0000000, .size = 3, .fd = any},
		{.addr = 0xD0000000, .size = 0, .match = true, .fd = any},
		{.is_pio = true, .addr = 0x10000, .size = 1, .fd = any},
		{.is_pio = true, .addr = 0x100, .size = 8, .fd = any},
		{.addr = UINT64_MAX, .size = 8, .fd = any},
	};

	(void)state;
	guest_init(&g, 1);
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		assert_int_equal(accel_doorbell_add(g.accel, &bad[i]), -EINVAL);
	for (size_t i = 0; i < ARRAY_SIZE(bells); i++)
		assert_int_equal(accel_doorbell_add(g.accel, &bells[i]), 0);
	GUEST_LOAD(&g, X86_BOOT_LONG64, long_mmio);
	guest_run_done(&g);
	assert_true(eventfd_clear(any));
	assert_true(eventfd_clear(quad));
	guest_expect(&g, 0, false, true, 0xD0000002, 2, 0x3322);
	guest_expect(&g, 1, false, true, 0xD0000004, 4, 0x77665544);
	guest_expect(&g, 2, false, false, 0xD0000010, 1, 0x11);
	guest_fini(&g);
	close(any);
	close(quad);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(messages_and_lines_arrive),
		cmocka_unit_test(an_eventfd_sends_its_message),
		cmocka_unit_test(routes_are_limited_and_reused),
		cmocka_unit_test(the_timer_ticks_at_pin_2),
		cmocka_unit_test(two_processors_share_memory),
		cmocka_unit_test(doorbells_take_writes_from_the_handler),
		cmocka_unit_test(memory_doorbells_ring),
	};

	return GUEST_MAIN(argc, argv, "accel-irq", tests);
}
