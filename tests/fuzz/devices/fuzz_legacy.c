/*
 * The small devices behind ports, together on one bus: keyboard controller, reset ports, ACPI registers, pvpanic, debug
 * exit, port 0x80.
 */
#include "devices/ports_fuzz.h"

#include "vm/bus/platform.h"
#include "vm/devices/acpi_pm.h"
#include "vm/devices/debug_exit.h"
#include "vm/devices/i8042.h"
#include "vm/devices/post_port.h"
#include "vm/devices/pvpanic.h"
#include "vm/devices/reset_ports.h"
#include "vm/devices/test_ports.h"

enum { KBD, RESET, PM, PANIC, EXIT, POST, TEST, DEVICES };

static bool create(struct ports *ports, struct device **ret)
{
	const struct device_env *env = &ports->env;

	return i8042_new(env, &(struct i8042_config){.id = "kbd"}, &ret[KBD], NULL) == 0 &&
	       reset_ports_new(env, &(struct reset_ports_config){.id = "reset"}, &ret[RESET],
			       NULL) == 0 &&
	       acpi_pm_new(env, &(struct acpi_pm_config){.id = "pm"}, &ret[PM], NULL) == 0 &&
	       pvpanic_new(env, &(struct pvpanic_config){.id = "panic"}, &ret[PANIC], NULL) == 0 &&
	       debug_exit_new(env, &(struct debug_exit_config){.id = "exit", .port = 0xF4},
			      &ret[EXIT], NULL) == 0 &&
	       post_port_new(env, &(struct post_port_config){.id = "post"}, &ret[POST], NULL) ==
		       0 &&
	       test_ports_new(env, &(struct test_ports_config){.id = "test"}, &ret[TEST], NULL) ==
		       0;
}

static void step(struct ports *ports, struct device **devices, const uint8_t *op)
{
	static const uint16_t ports_of_interest[] = {0x60, 0x64,  0x80,  0x92,
						     0xF4, 0xF7,  0x505, PLATFORM_RESET_PORT,
						     0xE3, 0x2017};
	unsigned what = op[0] & 0x3F;

	if (what < 10)
		fuzz_port(ports, ports_of_interest[what], op);
	else if (what < 0x38)
		fuzz_port(ports, (uint16_t)(PLATFORM_PM_BASE + what - 10), op);
	else if (what == 0x38)
		acpi_pm_power_button(devices[PM]);
	else if (what == 0x39)
		acpi_pm_raise_gpe(devices[PM], op[1] % 64);
	else
		fuzz_host(ports, devices[op[2] % DEVICES], op);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct ports *ports = ports_new();
	struct device *devices[DEVICES] = {NULL};

	log_init("fuzz", LOG_ERROR);
	if (create(ports, devices)) {
		for (size_t at = 0; at + OP_BYTES <= size && at < MAX_OPS * OP_BYTES;
		     at += OP_BYTES)
			step(ports, devices, data + at);
	}
	for (unsigned i = 0; i < DEVICES; i++)
		device_free(devices[i]);
	ports_free(ports);
	return 0;
}
