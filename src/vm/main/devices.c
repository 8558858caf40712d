/*
 * From the spec to devices: opens backends, fills each device's config struct, and lists what was made in the order of
 * creation. The order is part of the machine: PCI slots follow it.
 */
#include "vm/main/devices_int.h"

#include <errno.h>
#include <sys/random.h>

#include "base/bits.h"
#include "base/log.h"
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
#include "vm/devices/virtio_console.h"
#include "vm/devices/vmgenid.h"
#include "vm/firmware/layout.h"

int devices_add(struct machine *m, int r, struct device *const *dev)
{
	if (r < 0)
		return r;
	m->devices[m->n_devices++] = *dev;
	return 0;
}

/* --- character devices --- */

static void escape_command(void *opaque, char key)
{
	struct machine *m = opaque;

	switch (key) {
	case 'x':
		machine_end(m, MACHINE_EXIT_OK, false, "host-ui");
		break;
	case 'p':
		machine_powerdown(m);
		break;
	case 'r':
		machine_reset(m);
		break;
	default:
		break;
	}
}

static int open_chardev(struct machine *m, const struct spec_char *spec, struct chardev **ret,
			struct error *err)
{
	const struct chardev_stdio_config stdio = {.escape = m->spec->escape_key,
						   .command = escape_command,
						   .opaque = m};

	switch (spec->kind) {
	case SPEC_CHAR_STDIO:
		return chardev_stdio_open(m->loop, &stdio, ret, err);
	case SPEC_CHAR_PTY:
		return chardev_pty_open(m->loop, ret, err);
	case SPEC_CHAR_UNIX:
		return chardev_unix_open(m->loop, spec->path, ret, err);
	case SPEC_CHAR_FILE:
		return chardev_file_open(m->loop, spec->path, ret, err);
	case SPEC_CHAR_NONE:
		break;
	}
	return chardev_null_open(ret);
}

static void announce_pty(const struct machine *m, const char *what, const struct spec_char *spec,
			 const struct chardev *chr)
{
	if (spec->kind == SPEC_CHAR_PTY)
		log_info("machine '%s': %s is at %s", m->spec->name, what, chr->path);
}

static int add_serial(struct machine *m, struct error *err)
{
	struct uart16550_config config = {.id = "serial0",
					  .port = PLATFORM_UART_PORT,
					  .gsi = PLATFORM_UART_GSI};
	struct device *dev = NULL;
	int r = open_chardev(m, &m->spec->serial, &m->serial, err);

	if (r < 0)
		return r;
	announce_pty(m, "the serial line", &m->spec->serial, m->serial);
	config.chr = m->serial;
	return devices_add(m, uart16550_new(&m->env, &config, &dev, err), &dev);
}

static int add_console(struct machine *m, struct error *err)
{
	struct virtio_console_port_config port = {0};
	const struct virtio_console_config config = {.id = "console0",
						     .slot = -1,
						     .ports = &port,
						     .n_ports = 1};
	struct device *dev = NULL;
	int r;

	if (m->spec->console.kind == SPEC_CHAR_NONE)
		return 0;
	r = open_chardev(m, &m->spec->console, &m->console, err);
	if (r < 0)
		return r;
	announce_pty(m, "the console", &m->spec->console, m->console);
	port.chr = m->console;
	return devices_add(m, virtio_console_new(&m->env, &config, &dev, err), &dev);
}

/* --- the fixed devices of a PC --- */

static int add_platform(struct machine *m, struct error *err)
{
	const uint64_t ram = m->spec->memory.size_bytes;
	const uint64_t ram_low = MIN(ram, (uint64_t)GMEM_HOLE_START);
	const struct rtc_cmos_config rtc = {
		.id = "rtc0",
		.ram_below_4g_bytes = ram_low,
		.ram_above_4g_bytes = ram - ram_low,
	};
	const struct i8042_config i8042 = {.id = "i8042"};
	const struct reset_ports_config reset = {.id = "reset0"};
	const struct acpi_pm_config pm = {.id = "pm0"};
	struct device *dev = NULL;
	int r;

	r = devices_add(m, acpi_pm_new(&m->env, &pm, &dev, err), &dev);
	if (r < 0)
		return r;
	m->pm = dev;
	r = devices_add(m, reset_ports_new(&m->env, &reset, &dev, err), &dev);
	if (r >= 0)
		r = devices_add(m, rtc_cmos_new(&m->env, &rtc, &dev, err), &dev);
	if (r >= 0)
		r = devices_add(m, i8042_new(&m->env, &i8042, &dev, err), &dev);
	return r;
}

static void generation_changed(void *opaque)
{
	acpi_pm_raise_gpe(((struct machine *)opaque)->pm, PLATFORM_GPE_VMGENID);
}

static int add_extras(struct machine *m, struct error *err)
{
	const struct spec *spec = m->spec;
	const struct pvpanic_config pvpanic = {.id = "pvpanic0"};
	const struct debug_exit_config debug_exit = {.id = "debug-exit0",
						     .port = (uint16_t)spec->debug_exit_port};
	const struct post_port_config post = {.id = "post0"};
	const struct test_ports_config test_ports = {.id = "test-ports0"};
	struct vmgenid_config vmgenid = {
		.id = "vmgenid0",
		.gpa = FW_VMGENID_BASE,
		.notify = generation_changed,
		.opaque = m,
	};
	struct device *dev = NULL;
	int r = devices_add(m, post_port_new(&m->env, &post, &dev, err), &dev);

	if (r >= 0 && spec->pvpanic)
		r = devices_add(m, pvpanic_new(&m->env, &pvpanic, &dev, err), &dev);
	if (r >= 0 && spec->vmgenid) {
		m->vmgenid_gpa = vmgenid.gpa;
		if (getrandom(vmgenid.guid, sizeof(vmgenid.guid), 0) != sizeof(vmgenid.guid))
			return error_set_errno(err, -errno, "cannot draw a generation identifier");
		r = devices_add(m, vmgenid_new(&m->env, &vmgenid, &dev, err), &dev);
	}
	if (r >= 0 && spec->debug_exit_port != 0)
		r = devices_add(m, debug_exit_new(&m->env, &debug_exit, &dev, err), &dev);
	if (r >= 0 && spec->test_ports)
		r = devices_add(m, test_ports_new(&m->env, &test_ports, &dev, err), &dev);
	return r;
}

int machine_add_devices(struct machine *m, struct error *err)
{
	int r = add_platform(m, err);

	if (r >= 0)
		r = add_extras(m, err);
	for (size_t i = 0; r >= 0 && i < m->spec->n_disks; i++)
		r = devices_add_disk(m, i, err);
	for (size_t i = 0; r >= 0 && i < m->spec->n_nets; i++)
		r = devices_add_net(m, i, err);
	if (r >= 0)
		r = devices_add_small(m, err);
	/* Last: from here on the terminal may be raw. */
	if (r >= 0)
		r = add_serial(m, err);
	if (r >= 0)
		r = add_console(m, err);
	return r;
}

void machine_free_backends(struct machine *m)
{
	chardev_free(m->console);
	chardev_free(m->serial);
	for (size_t i = 0; i < m->spec->n_nets; i++) {
		loop_thread_stop(m->nets[i].io);
	}
	for (size_t i = 0; i < m->spec->n_disks; i++) {
		image_close(m->disks[i].image);
		loop_thread_stop(m->disks[i].io);
	}
}
