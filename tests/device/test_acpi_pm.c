#include "device/ports.h"

#include "vm/bus/platform.h"
#include "vm/devices/acpi_pm.h"

#define EVT PLATFORM_PM1A_EVT_PORT
#define CNT PLATFORM_PM1A_CNT_PORT
#define TMR PLATFORM_PM_TMR_PORT
#define GPE PLATFORM_GPE0_PORT
#define SCI PLATFORM_SCI_GSI

struct fixture {
	struct ports *ports;
	struct device *pm;
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	struct acpi_pm_config config = {.id = "pm"};

	f->ports = ports_new();
	assert_int_equal(acpi_pm_new(&f->ports->env, &config, &f->pm, NULL), 0);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	device_free(f->pm);
	ports_free(f->ports);
	free(f);
	return 0;
}

static void sleep_five_powers_off(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(port_in(f->ports, CNT, 2), 0x0001); /* SCI_EN */
	port_out(f->ports, CNT, 2, 0x2000);                  /* S0 with SLP_EN: nothing */
	port_out(f->ports, CNT, 2, PLATFORM_SLP_TYP_S5 << 10);
	assert_int_equal(f->ports->requests[MACHINE_POWEROFF], 0);
	port_out(f->ports, CNT, 2, PLATFORM_SLP_TYP_S5 << 10 | 0x2000);
	assert_int_equal(f->ports->requests[MACHINE_POWEROFF], 1);
	assert_int_equal(port_in(f->ports, CNT, 2), 0x0001 | PLATFORM_SLP_TYP_S5 << 10);
	/* The same by the high byte alone. */
	outb(f->ports, CNT + 1, (PLATFORM_SLP_TYP_S5 << 10 | 0x2000) >> 8);
	assert_int_equal(f->ports->requests[MACHINE_POWEROFF], 2);
}

static void power_button_raises_sci_until_acknowledged(void **state)
{
	struct fixture *f = *state;

	acpi_pm_power_button(f->pm);
	assert_false(f->ports->level[SCI]);
	assert_int_equal(port_in(f->ports, EVT, 2), 0x0100);
	port_out(f->ports, EVT + 2, 2, 0x0100);
	assert_true(f->ports->level[SCI]);
	port_out(f->ports, EVT, 2, 0xFEFF); /* other bits */
	assert_true(f->ports->level[SCI]);
	port_out(f->ports, EVT, 2, 0x0100);
	assert_false(f->ports->level[SCI]);
	assert_int_equal(port_in(f->ports, EVT, 4), 0x01000000);
}

static void a_press_while_paused_is_not_lost(void **state)
{
	struct fixture *f = *state;

	port_out(f->ports, EVT + 2, 2, 0x0100);
	device_pause(f->pm);
	acpi_pm_power_button(f->pm);
	assert_false(f->ports->level[SCI]);
	device_resume(f->pm);
	assert_true(f->ports->level[SCI]);
}

static void general_purpose_events(void **state)
{
	struct fixture *f = *state;

	outb(f->ports, GPE + 8, 0x01);
	assert_int_equal(inb(f->ports, GPE + 8), 0x01);
	acpi_pm_raise_gpe(f->pm, PLATFORM_GPE_VMGENID);
	acpi_pm_raise_gpe(f->pm, 9);
	assert_true(f->ports->level[SCI]);
	assert_int_equal(port_in(f->ports, GPE, 2), 0x0201);
	outb(f->ports, GPE, 0x01);
	assert_false(f->ports->level[SCI]);
	port_out(f->ports, GPE + 8, 8, UINT64_MAX);
	assert_true(f->ports->level[SCI]);
	device_pause(f->pm);
	device_reset(f->pm);
	assert_false(f->ports->level[SCI]);
	assert_int_equal(port_in(f->ports, GPE, 8), 0);
}

static void the_timer_stands_still_while_paused(void **state)
{
	struct fixture *f = *state;
	uint32_t a = (uint32_t)port_in(f->ports, TMR, 4);
	uint32_t b;
	uint64_t resumed;

	while ((b = (uint32_t)port_in(f->ports, TMR, 4)) == a)
		;
	assert_true(b - a < 0x80000000u); /* forwards */
	device_pause(f->pm);
	resumed = clock_monotonic_ns() + 20 * NSEC_PER_MSEC;
	while (clock_monotonic_ns() < resumed)
		;
	resumed = clock_monotonic_ns();
	device_resume(f->pm);
	a = (uint32_t)port_in(f->ports, TMR, 4);
	/* No more ticks than the time since just before the resume, though 20 ms went by. */
	assert_true(a - b <= (clock_monotonic_ns() - resumed) * 3579545 / NSEC_PER_SEC + 3579);
}

int main(void)
{
#define CASE(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
	const struct CMUnitTest tests[] = {
		CASE(sleep_five_powers_off),
		CASE(power_button_raises_sci_until_acknowledged),
		CASE(a_press_while_paused_is_not_lost),
		CASE(general_purpose_events),
		CASE(the_timer_stands_still_while_paused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
