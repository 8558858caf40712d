#include "device/ports.h"

#include "vm/devices/pvpanic.h"

static void events_become_requests(void **state)
{
	struct ports *ports = ports_new();
	struct pvpanic_config config = {.id = "pvpanic"};
	struct device *dev;

	(void)state;
	assert_int_equal(pvpanic_new(&ports->env, &config, &dev, NULL), 0);
	assert_int_equal(inb(ports, 0x505), 0x03);
	outb(ports, 0x505, 0xFC); /* nothing known */
	assert_int_equal(ports->requests[MACHINE_GUEST_PANICKED], 0);
	outb(ports, 0x505, 0x02);
	assert_int_equal(ports->requests[MACHINE_GUEST_CRASHLOADED], 1);
	assert_int_equal(ports->requests[MACHINE_GUEST_PANICKED], 0);
	outb(ports, 0x505, 0x01);
	assert_int_equal(ports->requests[MACHINE_GUEST_PANICKED], 1);
	device_free(dev);
	assert_int_equal(inb(ports, 0x505), 0xFF);
	ports_free(ports);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(events_become_requests),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
