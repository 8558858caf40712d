#include "device/ports.h"

#include "vm/devices/reset_ports.h"

static void reset_control_wants_a_rising_bit(void **state)
{
	struct ports *ports = ports_new();
	struct reset_ports_config config = {.id = "reset"};
	struct device *dev;

	(void)state;
	assert_int_equal(reset_ports_new(&ports->env, &config, &dev, NULL), 0);
	outb(ports, 0xCF9, 0x02);
	assert_int_equal(ports->requests[MACHINE_RESET], 0);
	outb(ports, 0xCF9, 0x06);
	assert_int_equal(ports->requests[MACHINE_RESET], 1);
	outb(ports, 0xCF9, 0x0E);
	assert_int_equal(ports->requests[MACHINE_RESET], 1);
	assert_int_equal(inb(ports, 0xCF9), 0x0E);
	device_reset(dev);
	assert_int_equal(inb(ports, 0xCF9), 0);
	outb(ports, 0xCF9, 0x06); /* as the FADT says it */
	assert_int_equal(ports->requests[MACHINE_RESET], 2);
	/* The mechanism-1 address register at 0xCF8 is somebody else's. */
	port_out(ports, 0xCF8, 4, 0xFFFFFFFF);
	device_free(dev);
	ports_free(ports);
}

static void port_92_resets_and_keeps_a20(void **state)
{
	struct ports *ports = ports_new();
	struct reset_ports_config config = {.id = "reset"};
	struct device *dev;

	(void)state;
	assert_int_equal(reset_ports_new(&ports->env, &config, &dev, NULL), 0);
	assert_int_equal(inb(ports, 0x92), 0x02);
	outb(ports, 0x92, 0x00);
	assert_int_equal(inb(ports, 0x92), 0x00);
	outb(ports, 0x92, 0x03);
	assert_int_equal(ports->requests[MACHINE_RESET], 1);
	device_free(dev);
	ports_free(ports);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(reset_control_wants_a_rising_bit),
		cmocka_unit_test(port_92_resets_and_keeps_a20),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
