#include "device/ports.h"

#include "vm/devices/i8042.h"

#define DATA    0x60
#define COMMAND 0x64

static int setup(void **state)
{
	*state = ports_new();
	return 0;
}

static struct device *controller(struct ports *ports)
{
	struct i8042_config config = {.id = "i8042"};
	struct device *dev;

	assert_int_equal(i8042_new(&ports->env, &config, &dev, NULL), 0);
	return dev;
}

/* A driver's request: every command that has an answer must have it at once. */
static uint8_t ask(struct ports *ports, uint8_t command)
{
	outb(ports, COMMAND, command);
	assert_int_equal(inb(ports, COMMAND) & 0x03, 0x01);
	return inb(ports, DATA);
}

static void a_driver_finds_a_controller(void **state)
{
	struct ports *ports = *state;
	struct device *dev = controller(ports);

	assert_int_equal(inb(ports, COMMAND) & 0x01, 0);
	assert_int_equal(ask(ports, 0xAA), 0x55);
	assert_int_equal(inb(ports, COMMAND) & 0x04, 0x04);
	assert_int_equal(ask(ports, 0xAB), 0x00);
	outb(ports, COMMAND, 0x60);
	outb(ports, DATA, 0x65);
	assert_int_equal(ask(ports, 0x20), 0x65);
	outb(ports, COMMAND, 0xA8);
	assert_int_equal(ask(ports, 0x20), 0x45);
	/* No auxiliary port: the loop test's answer lacks the bit, the port's test fails. */
	outb(ports, COMMAND, 0xD3);
	outb(ports, DATA, 0x5A);
	assert_int_equal(inb(ports, COMMAND) & 0x21, 0x01);
	inb(ports, DATA);
	assert_int_equal(ask(ports, 0xA9), 0x01);
	device_free(dev);
	ports_free(ports);
}

static void the_absent_keyboard_times_out_at_once(void **state)
{
	struct ports *ports = *state;
	struct device *dev = controller(ports);

	outb(ports, COMMAND, 0x60);
	outb(ports, DATA, 0x45); /* interrupts on */
	outb(ports, DATA, 0xF2); /* identify */
	assert_int_equal(inb(ports, COMMAND) & 0x41, 0x41);
	assert_true(ports->level[1]);
	assert_int_equal(inb(ports, DATA), 0xFE);
	assert_false(ports->level[1]);
	assert_int_equal(inb(ports, COMMAND) & 0x41, 0);
	device_free(dev);
	ports_free(ports);
}

static void it_resets_the_machine(void **state)
{
	struct ports *ports = *state;
	struct device *dev = controller(ports);

	outb(ports, COMMAND, 0xFF); /* pulses nothing */
	assert_int_equal(ports->requests[MACHINE_RESET], 0);
	outb(ports, COMMAND, 0xFE);
	assert_int_equal(ports->requests[MACHINE_RESET], 1);
	assert_int_equal(ask(ports, 0xD0) & 0x03, 0x03);
	outb(ports, COMMAND, 0xD1);
	outb(ports, DATA, 0xDF); /* A20 on: no reset */
	assert_int_equal(ports->requests[MACHINE_RESET], 1);
	outb(ports, COMMAND, 0xD1);
	outb(ports, DATA, 0xDC);
	assert_int_equal(ports->requests[MACHINE_RESET], 2);
	device_free(dev);
	ports_free(ports);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(a_driver_finds_a_controller, setup),
		cmocka_unit_test_setup(the_absent_keyboard_times_out_at_once, setup),
		cmocka_unit_test_setup(it_resets_the_machine, setup),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
