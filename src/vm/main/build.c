/*
 * Putting a machine together, phase by phase, and taking it apart. Each phase leaves the machine in a state that
 * machine_teardown() takes, so that a failure needs no clean-up of its own.
 */
#include "vm/main/machine.h"

#include <cpuid.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/cleanup.h"
#include "base/fd.h"
#include "base/log.h"
#include "vm/accel/x86.h"
#include "vm/firmware/acpi.h"
#include "vm/firmware/kernel.h"
#include "vm/firmware/smbios.h"

/* The window for 64-bit BARs: at most this much, at the top of what the guest can address. */
#define WINDOW64_BYTES (64 * GIB)

static enum accel_kind accel_kind_from(enum spec_accel accel)
{
	static const enum accel_kind kinds[] = {
		[SPEC_ACCEL_AUTO] = ACCEL_AUTO,
		[SPEC_ACCEL_KVM] = ACCEL_KVM,
		[SPEC_ACCEL_SOFT] = ACCEL_SOFT,
		[SPEC_ACCEL_NULL] = ACCEL_NULL,
	};

	return kinds[accel];
}

/* Guest-physical address bits, as CPUID leaf 0x80000008 gives them to host and guest alike. */
static unsigned physical_address_bits(void)
{
	unsigned eax;
	unsigned ebx;
	unsigned ecx;
	unsigned edx;

	if (!__get_cpuid(0x80000008, &eax, &ebx, &ecx, &edx))
		return 36;
	return eax & 0xff;
}

/* --- phases --- */

static int build_memory(struct machine *m, struct error *err)
{
	const struct spec_memory *spec = &m->spec->memory;
	struct gmem_config config = {
		.ram_bytes = spec->size_bytes,
		.hugepage_bytes = spec->hugepages ? spec->hugepage_bytes : 0,
		.mergeable = spec->mergeable,
		.prealloc = spec->prealloc,
		.path = spec->path,
	};
	uint64_t limit = 1ULL << MIN(physical_address_bits(), 52u);
	uint64_t above;

	if (spec->size_bytes > limit / 2)
		return error_set(err, -ERANGE,
				 "memory of %llu GiB is more than half of what this CPU can "
				 "address (%llu GiB); give less",
				 (unsigned long long)(spec->size_bytes / GIB),
				 (unsigned long long)(limit / GIB));
	if (gmem_new(&config, &m->mem, err) < 0)
		return err->code;
	above = align_up(MAX((uint64_t)gmem_end(m->mem), GMEM_HOLE_END), GIB);
	m->window64_end = limit;
	m->window64_base = limit - above > WINDOW64_BYTES ? limit - WINDOW64_BYTES : above;
	return 0;
}

#define SCRIPT_MAX_BYTES MIB

/* The script of a null accelerator; *ret is the caller's, NULL when the spec names none. */
static int read_script(const char *path, char **ret, struct error *err)
{
	ssize_t n;

	*ret = NULL;
	if (!path)
		return 0;

	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);

	if (fd < 0)
		return error_set_errno(err, -errno, "cannot open the script '%s'", path);

	_cleanup_free_ char *text = calloc(1, SCRIPT_MAX_BYTES + 1);

	if (!text)
		return error_set(err, -ENOMEM, "no memory for the script '%s'", path);
	n = fd_read_full(fd, text, SCRIPT_MAX_BYTES + 1);
	if (n < 0 || n > (ssize_t)SCRIPT_MAX_BYTES)
		return error_set(err, -EFBIG,
				 "the script '%s' cannot be read, or is larger than 1 MiB", path);
	*ret = steal_ptr(&text);
	return 0;
}

static void memory_written(void *opaque, gpa_t gpa, uint64_t len)
{
	accel_written(opaque, gpa, len);
}

static int build_accel(struct machine *m, struct error *err)
{
	const struct spec_cpu *cpu = &m->spec->cpu;
	struct accel_config config = {
		.kind = accel_kind_from(m->spec->accel),
		.n_vcpus = cpu->count,
		.sockets = cpu->sockets,
		.cores = cpu->cores,
		.threads = cpu->threads,
		.handlers = host_glue_handlers(&m->glue),
		.interpret = m->spec->engine == SPEC_ENGINE_INTERPRETER,
	};
	const struct gmem_region *regions;
	_cleanup_free_ char *text = NULL;
	size_t n;
	int r = read_script(m->spec->null_script, &text, err);

	config.null_script = text;
	if (r >= 0)
		r = accel_open(&config, &m->accel, err);
	if (r < 0)
		return r;
	m->glue.accel = m->accel;
	n = gmem_regions(m->mem, &regions);
	for (size_t i = 0; i < n; i++) {
		r = accel_map(m->accel, &regions[i], err);
		if (r < 0)
			return r;
	}
	if (!accel_sees_writes(m->accel))
		gmem_watch(m->mem, memory_written, m->accel);
	return 0;
}

static int build_buses(struct machine *m, struct error *err)
{
	int r = bus_new(&m->bus);

	if (r < 0)
		return error_set_errno(err, r, "cannot make the bus");
	m->glue.bus = m->bus;
	m->env = (struct device_env){.mem = m->mem,
				     .bus = m->bus,
				     .host = &m->glue.host,
				     .loop = m->loop};
	r = pci_bus_new(&m->env, &m->pci);
	if (r < 0)
		return error_set_errno(err, r, "cannot make the PCI bus");
	m->env.pci = m->pci;
	pci_bus_set_window64(m->pci, m->window64_base, m->window64_end);
	return 0;
}

static void vcpu_reset(void *opaque, unsigned index)
{
	host_glue_request(&((struct machine *)opaque)->glue, MACHINE_RESET);
}

static void vcpu_failed(void *opaque, unsigned index, const char *why)
{
	struct machine *m = opaque;

	log_error("machine '%s': vCPU %u: %s", m->spec->name, index, why);
	m->glue.host.ops->exit_with(&m->glue.host, MACHINE_EXIT_FAILED);
}

static int build_vcpus(struct machine *m, struct error *err)
{
	const struct vcpus_events events = {.reset = vcpu_reset,
					    .failed = vcpu_failed,
					    .opaque = m};

	return vcpus_new(m->accel, m->spec->cpu.count, &events, &m->vcpus, err);
}

int machine_load_firmware(struct machine *m, struct error *err)
{
	const struct spec *spec = m->spec;
	const struct firmware_acpi_config acpi = {
		.n_vcpus = spec->cpu.count,
		.pci_window64_base = m->window64_base,
		.pci_window64_end = m->window64_end,
		.vmgenid_gpa = m->vmgenid_gpa,
		.uart = true,
		.rtc = true,
		.i8042 =
			false, /* there to reset the machine; looking for a keyboard costs a guest time */
		.pvpanic = spec->pvpanic,
	};
	struct firmware_smbios_config smbios = {
		.name = spec->name,
		.n_sockets = spec->cpu.sockets,
		.cores_per_socket = spec->cpu.cores,
		.threads_per_core = spec->cpu.threads,
	};
	struct firmware_kernel_config kernel = {
		.kernel_path = spec->boot.kernel,
		.kernel_fd = m->kernel_fd,
		.initrd_path = spec->boot.initrd,
		.initrd_fd = m->initrd_fd,
		.cmdline = spec->boot.cmdline,
	};
	struct x86_boot_regs regs = {0};
	int r;

	memcpy(smbios.uuid, spec->uuid, sizeof(smbios.uuid));
	/* A scripted processor needs no kernel. */
	if (!spec->boot.kernel)
		return 0;
	r = pci_bus_assign(m->pci, err);
	if (r >= 0)
		r = firmware_build_smbios(m->mem, &smbios, err);
	if (r >= 0)
		r = firmware_build_acpi(m->mem, &acpi, &kernel.rsdp, err);
	if (r >= 0)
		r = firmware_load_kernel(m->mem, &kernel, &regs, err);
	if (r >= 0)
		r = accel_vcpu_set_boot(vcpus_get(m->vcpus, 0), &regs, err);
	return r;
}

/* Kept open: a reset loads what the machine started with, whatever has become of the name. */
static int open_boot_file(const char *path, const char *what, int *ret_fd, struct error *err)
{
	if (!path)
		return 0;
	*ret_fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
	return *ret_fd < 0 ? error_set_errno(err, -errno, "cannot open %s '%s'", what, path) : 0;
}

static int build_boot_files(struct machine *m, struct error *err)
{
	int r = open_boot_file(m->spec->boot.kernel, "the kernel", &m->kernel_fd, err);

	return r < 0 ? r : open_boot_file(m->spec->boot.initrd, "the initrd", &m->initrd_fd, err);
}

int machine_build(struct machine *m, const struct spec *spec, struct loop *loop, struct error *err)
{
	int (*const phases[])(struct machine * m, struct error * err) = {
		build_boot_files,    build_memory, build_accel,           build_buses,
		machine_add_devices, build_vcpus,  machine_load_firmware, machine_wait_nets,
	};

	for (size_t i = 0; i < ARRAY_SIZE(phases); i++) {
		int r = phases[i](m, err);

		if (r < 0)
			return r;
	}
	return 0;
}

void machine_teardown(struct machine *m)
{
	/* After loop_run() everything is frozen; before the first run, or after a failed build, nothing moves either,
	 * but devices may still hold requests of their backends. */
	if (m->vcpus && m->running)
		vcpus_stop(m->vcpus);
	if (!m->frozen) {
		for (size_t i = 0; i < m->n_devices; i++)
			device_pause(m->devices[i]);
	}
	qmp_free(m->qmp);
	vcpus_free(m->vcpus);
	while (m->n_devices > 0)
		device_free(m->devices[--m->n_devices]);
	machine_free_backends(m);
	pci_bus_free(m->pci);
	bus_free(m->bus);
	accel_close(m->accel);
	gmem_free(m->mem);
	loop_fd_del(&m->signals);
	if (m->signals.fd >= 0)
		close(m->signals.fd);
	if (m->kernel_fd >= 0)
		close(m->kernel_fd);
	if (m->initrd_fd >= 0)
		close(m->initrd_fd);
}
