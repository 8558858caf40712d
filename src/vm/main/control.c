/* The machine as QMP sees it. */
#include "vm/main/machine.h"

#include <errno.h>
#include <string.h>

#include "vm/devices/acpi_pm.h"
#include "vm/devices/virtio_balloon.h"

static enum qmp_run_state control_run_state(void *opaque)
{
	const struct machine *m = opaque;

	if (m->panicked)
		return QMP_GUEST_PANICKED;
	if (m->ending)
		return QMP_SHUTDOWN;
	if (!m->started)
		return QMP_PRELAUNCH;
	return m->running ? QMP_RUNNING : QMP_PAUSED;
}

static int control_stop(void *opaque, struct error *err)
{
	machine_stop(opaque);
	return 0;
}

static int control_cont(void *opaque, struct error *err)
{
	struct machine *m = opaque;

	if (m->ending)
		return error_set(err, -EINVAL, "machine '%s' has ended", m->spec->name);
	machine_cont(m);
	return 0;
}

static int control_reset(void *opaque, struct error *err)
{
	machine_reset(opaque);
	return 0;
}

static int control_powerdown(void *opaque, struct error *err)
{
	machine_powerdown(opaque);
	return 0;
}

void machine_powerdown(struct machine *m)
{
	acpi_pm_power_button(m->pm);
	qmp_event(m->qmp, "POWERDOWN", NULL);
}

static int control_nmi(void *opaque, struct error *err)
{
	struct machine *m = opaque;
	int r = 0;

	for (unsigned i = 0; i < m->spec->cpu.count && r >= 0; i++)
		r = accel_vcpu_nmi(vcpus_get(m->vcpus, i));
	return r < 0 ? error_set_errno(err, r, "cannot send an NMI") : 0;
}

static void control_quit(void *opaque)
{
	machine_end(opaque, MACHINE_EXIT_OK, false, "host-qmp-quit");
}

static unsigned control_n_cpus(void *opaque)
{
	return ((const struct machine *)opaque)->spec->cpu.count;
}

static void control_cpu(void *opaque, unsigned index, struct qmp_cpu *ret)
{
	struct machine *m = opaque;
	const struct spec_cpu *cpu = &m->spec->cpu;

	ret->thread_id = vcpus_thread_id(m->vcpus, index);
	ret->thread = index % cpu->threads;
	ret->core = index / cpu->threads % cpu->cores;
	ret->socket = index / (cpu->threads * cpu->cores);
}

static unsigned control_n_blocks(void *opaque)
{
	return (unsigned)((const struct machine *)opaque)->spec->n_disks;
}

static void control_block(void *opaque, unsigned index, struct qmp_block *ret)
{
	const struct machine *m = opaque;
	const struct machine_disk *disk = &m->disks[index];
	struct image_info info;

	image_get_info(disk->image, &info);
	*ret = (struct qmp_block){
		.device = disk->spec->id,
		.file = disk->spec->path ? disk->spec->path : "",
		.format = info.format,
		.engine = info.engine,
		.size_bytes = info.size_bytes,
		.readonly = info.readonly,
		.writeback = disk->spec->cache != SPEC_CACHE_WRITETHROUGH,
		.direct = disk->spec->cache == SPEC_CACHE_NONE,
		.no_flush = disk->spec->cache == SPEC_CACHE_UNSAFE,
	};
}

static unsigned control_n_chars(void *opaque)
{
	const struct machine *m = opaque;

	return (m->serial != NULL) + (m->console != NULL);
}

static void control_char(void *opaque, unsigned index, struct qmp_char *ret)
{
	const struct machine *m = opaque;
	bool serial = index == 0 && m->serial;
	const struct chardev *chr = serial ? m->serial : m->console;

	*ret = (struct qmp_char){
		.label = serial ? "serial0" : "console0",
		.type = chr->ops->type,
		.path = chr->path,
	};
}

static int no_balloon(const struct machine *m, struct error *err)
{
	return error_set(err, -ENODEV,
			 "machine '%s' has no balloon that its guest drives (see --balloon)",
			 m->spec->name);
}

static int control_balloon_get(void *opaque, uint64_t *ret_bytes, struct error *err)
{
	struct machine *m = opaque;
	struct virtio_balloon_info info;

	if (!m->balloon)
		return no_balloon(m, err);
	virtio_balloon_get(m->balloon, &info);
	if (!info.ready)
		return no_balloon(m, err);
	*ret_bytes = info.actual_bytes;
	return 0;
}

static int control_balloon_set(void *opaque, uint64_t bytes, struct error *err)
{
	struct machine *m = opaque;

	if (!m->balloon)
		return no_balloon(m, err);
	if (bytes == 0)
		return error_set(err, -EINVAL, "a guest cannot be left without memory");
	virtio_balloon_set_target(m->balloon, bytes);
	return 0;
}

int machine_open_qmp(struct machine *m, struct error *err)
{
	m->qmp_target = (struct qmp_target){
		.name = m->spec->name,
		.accel = accel_name(m->accel),
		.opaque = m,
		.run_state = control_run_state,
		.stop = control_stop,
		.cont = control_cont,
		.reset = control_reset,
		.powerdown = control_powerdown,
		.nmi = control_nmi,
		.quit = control_quit,
		.n_cpus = control_n_cpus,
		.cpu = control_cpu,
		.n_blocks = control_n_blocks,
		.block = control_block,
		.n_chars = control_n_chars,
		.chr = control_char,
		.balloon_get = control_balloon_get,
		.balloon_set = control_balloon_set,
	};
	memcpy(m->qmp_target.uuid, m->spec->uuid, sizeof(m->qmp_target.uuid));
	if (!m->spec->qmp_socket)
		return 0;
	return qmp_new(m->loop, m->spec->qmp_socket, &m->qmp_target, &m->qmp, err);
}
