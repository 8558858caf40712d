/* The debug exit, port 0x80, and the ports for test guests. */
#include "device/ports.h"

#include "vm/devices/debug_exit.h"
#include "vm/devices/post_port.h"
#include "vm/devices/test_ports.h"

static void the_status_is_odd(void **state)
{
	struct ports *ports = ports_new();
	struct debug_exit_config config = {.id = "exit", .port = 0xF4};
	struct device *dev;

	(void)state;
	assert_int_equal(debug_exit_new(&ports->env, &config, &dev, NULL), 0);
	assert_int_equal(port_in(ports, 0xF4, 4), 0);
	assert_int_equal(ports->exit_status, -1);
	port_out(ports, 0xF4, 4, 0x10);
	assert_int_equal(ports->exit_status, 0x21);
	outb(ports, 0xF4, 0);
	assert_int_equal(ports->exit_status, 1);
	port_out(ports, 0xF4, 4, 0xFFFFFFFF);
	assert_int_equal(ports->exit_status, 0xFF);
	device_free(dev);
	/* Past the end of port space. */
	config.port = 0xFFFE;
	assert_true(debug_exit_new(&ports->env, &config, &dev, NULL) < 0);
	ports_free(ports);
}

static void port_80_asks_for_a_doorbell(void **state)
{
	struct ports *ports = ports_new();
	struct post_port_config config = {.id = "post"};
	struct device *dev;

	(void)state;
	for (unsigned refuse = 0; refuse < 2; refuse++) {
		ports->refuse_doorbells = refuse;
		assert_int_equal(post_port_new(&ports->env, &config, &dev, NULL), 0);
		assert_int_equal(ports->doorbells, !refuse);
		outb(ports, 0x80, 0x55);
		assert_int_equal(inb(ports, 0x80), 0xFF);
		device_free(dev);
		assert_int_equal(ports->doorbells, 0);
	}
	ports_free(ports);
}

static void test_ports_remember_and_raise_lines(void **state)
{
	struct ports *ports = ports_new();
	const struct test_ports_config config = {.id = "test"};
	struct device *dev;

	(void)state;
	assert_int_equal(test_ports_new(&ports->env, &config, &dev, NULL), 0);
	port_out(ports, 0xE0, 4, 0x12345678);
	assert_int_equal(port_in(ports, 0xE0, 4), 0x12345678);
	assert_int_equal(port_in(ports, 0xE1, 2), 0x3456);
	outb(ports, 0xE3, 0xAA);
	assert_int_equal(port_in(ports, 0xE0, 4), 0xAA345678);
	/* At the end only what is inside counts, and the port after it is another. */
	port_out(ports, 0xE3, 4, 0xFFFFFF11);
	assert_int_equal(port_in(ports, 0xE0, 4), 0x11345678);
	port_out(ports, 0xE4, 4, 0x1000);

	outb(ports, 0x2000 + 14, 1);
	outb(ports, 0x2000 + 14, 1);
	assert_true(ports->level[14]);
	assert_int_equal(ports->edges[14], 1);
	outb(ports, 0x2000 + 14, 0);
	assert_false(ports->level[14]);
	outb(ports, 0x2000 + 23, 1);
	device_reset(dev);
	assert_false(ports->level[23]);
	assert_int_equal(port_in(ports, 0xE0, 4), 0);
	device_free(dev);
	ports_free(ports);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_status_is_odd),
		cmocka_unit_test(port_80_asks_for_a_doorbell),
		cmocka_unit_test(test_ports_remember_and_raise_lines),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
