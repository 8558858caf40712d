/* Devices behind ports. */
#include "state/devices.h"

#include "vm/bus/platform.h"
#include "vm/devices/acpi_pm.h"
#include "vm/devices/debug_exit.h"
#include "vm/devices/i8042.h"
#include "vm/devices/post_port.h"
#include "vm/devices/pvpanic.h"
#include "vm/devices/reset_ports.h"
#include "vm/devices/rtc_cmos.h"
#include "vm/devices/test_ports.h"
#include "vm/devices/uart16550.h"
#include "vm/devices/vmgenid.h"

static uint8_t in(struct rig *rig, unsigned port)
{
	return (uint8_t)harness_pio_in(rig->h, (uint16_t)port, 1);
}

static void out(struct rig *rig, unsigned port, uint8_t value)
{
	harness_pio_out(rig->h, (uint16_t)port, 1, value);
}

/* --- ACPI power management: the power button was pressed, nobody has looked yet --- */

#define PM1_STS    PLATFORM_PM1A_EVT_PORT
#define PM1_EN     (PLATFORM_PM1A_EVT_PORT + 2)
#define PM1_PWRBTN 0x100

static void acpi_pm_make(struct rig *rig)
{
	const struct acpi_pm_config config = {.id = "pm"};

	assert_int_equal(acpi_pm_new(&rig->h->env, &config, &rig->dev, NULL), 0);
}

static void acpi_pm_drive(struct rig *rig)
{
	harness_pio_out(rig->h, PM1_EN, 2, PM1_PWRBTN);
	out(rig, PLATFORM_GPE0_PORT + PLATFORM_GPE0_BYTES / 2, 1);
	acpi_pm_power_button(rig->dev);
	assert_true(rig->h->line[PLATFORM_SCI_GSI]);
}

static void acpi_pm_go_on(struct rig *rig)
{
	assert_true(rig->h->line[PLATFORM_SCI_GSI]);
	assert_true(harness_pio_in(rig->h, PM1_STS, 2) & PM1_PWRBTN);
	harness_pio_out(rig->h, PM1_STS, 2, PM1_PWRBTN);
	assert_false(rig->h->line[PLATFORM_SCI_GSI]);
	acpi_pm_raise_gpe(rig->dev, 0);
	assert_true(rig->h->line[PLATFORM_SCI_GSI]);
}

/* --- keyboard controller: a command waits for its byte --- */

static void i8042_make(struct rig *rig)
{
	const struct i8042_config config = {.id = "kbd"};

	assert_int_equal(i8042_new(&rig->h->env, &config, &rig->dev, NULL), 0);
}

static void i8042_drive(struct rig *rig)
{
	out(rig, PLATFORM_I8042_COMMAND_PORT, 0x60);
}

static void i8042_go_on(struct rig *rig)
{
	out(rig, PLATFORM_I8042_DATA_PORT, 0x65);
	out(rig, PLATFORM_I8042_COMMAND_PORT, 0x20);
	assert_int_equal(in(rig, PLATFORM_I8042_DATA_PORT), 0x65);
}

/* --- reset ports: values stay --- */

static void reset_make(struct rig *rig)
{
	const struct reset_ports_config config = {.id = "reset"};

	assert_int_equal(reset_ports_new(&rig->h->env, &config, &rig->dev, NULL), 0);
}

static void reset_drive(struct rig *rig)
{
	out(rig, PLATFORM_RESET_PORT, 0x02);
	out(rig, PLATFORM_FAST_A20_PORT, 0x00);
}

static void reset_go_on(struct rig *rig)
{
	assert_int_equal(in(rig, PLATFORM_RESET_PORT), 0x02);
	assert_int_equal(in(rig, PLATFORM_FAST_A20_PORT) & 0x02, 0);
	assert_int_equal(rig->h->requests[MACHINE_RESET], 0);
}

/* --- real-time clock: an index is selected, memory was written --- */

static void rtc_make(struct rig *rig)
{
	const struct rtc_cmos_config config = {.id = "rtc", .ram_below_4g_bytes = HARNESS_RAM};

	assert_int_equal(rtc_cmos_new(&rig->h->env, &config, &rig->dev, NULL), 0);
}

static void rtc_drive(struct rig *rig)
{
	out(rig, PLATFORM_RTC_PORT, 0x0B);
	out(rig, PLATFORM_RTC_PORT + 1, 0x26); /* 24 hours, binary, alarm */
	out(rig, PLATFORM_RTC_PORT, 0x05);
	out(rig, PLATFORM_RTC_PORT + 1, 23);
	out(rig, PLATFORM_RTC_PORT, 0x44);
	out(rig, PLATFORM_RTC_PORT + 1, 0xA5);
}

static void rtc_go_on(struct rig *rig)
{
	assert_int_equal(in(rig, PLATFORM_RTC_PORT + 1), 0xA5);
	out(rig, PLATFORM_RTC_PORT, 0x05);
	assert_int_equal(in(rig, PLATFORM_RTC_PORT + 1), 23);
	out(rig, PLATFORM_RTC_PORT, 0x0B);
	assert_int_equal(in(rig, PLATFORM_RTC_PORT + 1) & 0x26, 0x26);
}

/* --- serial port: bytes wait in both directions --- */

#define UART PLATFORM_UART_PORT

static void uart_make(struct rig *rig)
{
	struct uart16550_config config = {.id = "serial0", .port = UART, .gsi = PLATFORM_UART_GSI};

	if (!rig->chr)
		assert_int_equal(chardev_memory_open(&rig->chr), 0);
	config.chr = rig->chr;
	assert_int_equal(uart16550_new(&rig->h->env, &config, &rig->dev, NULL), 0);
}

static void uart_drive(struct rig *rig)
{
	static uint8_t full[1 << 16];

	while (chardev_write(rig->chr, full, sizeof(full)) > 0) /* nobody takes what is sent */
		;
	out(rig, UART + 3, 0x83);
	out(rig, UART, 1);
	out(rig, UART + 3, 0x03);
	out(rig, UART + 2, 0x01);
	out(rig, UART + 1, 0x01);
	out(rig, UART + 7, 0x5A);
	chardev_memory_inject(rig->chr, (const uint8_t *)"abc", 3);
	assert_int_equal(in(rig, UART), 'a');
	out(rig, UART, 'x');
	out(rig, UART, 'y');
	assert_true(rig->h->line[PLATFORM_UART_GSI]);
}

static void uart_go_on(struct rig *rig)
{
	static uint8_t sent[1 << 16];

	assert_true(rig->h->line[PLATFORM_UART_GSI]);
	assert_int_equal(in(rig, UART + 7), 0x5A);
	assert_int_equal(in(rig, UART), 'b');
	assert_int_equal(in(rig, UART), 'c');
	assert_int_equal(in(rig, UART + 5) & 1, 0);
	assert_false(rig->h->line[PLATFORM_UART_GSI]);
	chardev_memory_take(rig->chr, sent, sizeof(sent));
	harness_run(rig->h);
	assert_int_equal(chardev_memory_take(rig->chr, sent, sizeof(sent)), 2);
	assert_memory_equal(sent, "xy", 2);
}

/* --- generation identifier --- */

static const uint8_t first_guid[VMGENID_BYTES] = {1};
static const uint8_t second_guid[VMGENID_BYTES] = {2, 3};

static void vmgenid_make(struct rig *rig)
{
	struct vmgenid_config config = {.id = "gen", .gpa = 0x8000};

	memcpy(config.guid, first_guid, sizeof(config.guid));
	assert_int_equal(vmgenid_new(&rig->h->env, &config, &rig->dev, NULL), 0);
}

static void vmgenid_drive(struct rig *rig)
{
	assert_int_equal(vmgenid_set(rig->dev, second_guid), 0);
}

static void vmgenid_go_on(struct rig *rig)
{
	uint8_t guid[VMGENID_BYTES];

	vmgenid_get(rig->dev, guid);
	assert_memory_equal(guid, second_guid, sizeof(guid));
}

/* --- without state --- */

static void pvpanic_make(struct rig *rig)
{
	const struct pvpanic_config config = {.id = "pvpanic"};

	assert_int_equal(pvpanic_new(&rig->h->env, &config, &rig->dev, NULL), 0);
}

static void post_make(struct rig *rig)
{
	const struct post_port_config config = {.id = "post"};

	rig->h->refuse_doorbells = true; /* the harness has none for ports */
	assert_int_equal(post_port_new(&rig->h->env, &config, &rig->dev, NULL), 0);
}

static void debug_exit_make(struct rig *rig)
{
	const struct debug_exit_config config = {.id = "exit", .port = 0xF4};

	assert_int_equal(debug_exit_new(&rig->h->env, &config, &rig->dev, NULL), 0);
}

/* --- test ports: the register's bytes, and a line that is high --- */

static void test_make(struct rig *rig)
{
	const struct test_ports_config config = {.id = "test"};

	assert_int_equal(test_ports_new(&rig->h->env, &config, &rig->dev, NULL), 0);
}

static void test_drive(struct rig *rig)
{
	out(rig, TEST_PORTS_REGISTER + 3, 0xA5);
	out(rig, TEST_PORTS_IRQ + 14, 1);
}

static void test_go_on(struct rig *rig)
{
	assert_int_equal(in(rig, TEST_PORTS_REGISTER + 3), 0xA5);
	out(rig, TEST_PORTS_IRQ + 14, 0);
}

const struct device_entry port_entries[] = {
	{"acpi-pm", false, acpi_pm_make, acpi_pm_drive, acpi_pm_go_on},
	{"debug-exit", true, debug_exit_make, NULL, NULL},
	{"i8042", false, i8042_make, i8042_drive, i8042_go_on},
	{"post-port", true, post_make, NULL, NULL},
	{"pvpanic", true, pvpanic_make, NULL, NULL},
	{"reset-ports", false, reset_make, reset_drive, reset_go_on},
	{"rtc-cmos", false, rtc_make, rtc_drive, rtc_go_on},
	{"test-ports", false, test_make, test_drive, test_go_on},
	{"uart16550", false, uart_make, uart_drive, uart_go_on},
	{"vmgenid", false, vmgenid_make, vmgenid_drive, vmgenid_go_on, true},
};
const size_t n_port_entries = ARRAY_SIZE(port_entries);
