/*
 * A write of V ends the program with status (V << 1) | 1, as kvm-unit-tests and other test kernels know it from QEMU's
 * isa-debug-exit. Reads give zeroes. Has no state. vCPU threads, without a lock.
 */
#include "vm/devices/debug_exit.h"

#include <errno.h>
#include <stdlib.h>

#include "base/bits.h"

struct debug_exit {
	struct device dev;
	struct bus_region region;
};

static uint64_t debug_exit_read(void *opaque, uint64_t offset, unsigned size)
{
	(void)opaque;
	(void)offset;
	(void)size;
	return 0;
}

static void debug_exit_write(void *opaque, uint64_t offset, unsigned size, uint64_t value)
{
	struct debug_exit *de = opaque;
	struct bus_host *host = de->dev.env.host;

	(void)offset;
	(void)size;
	/* A process's status has eight bits. */
	host->ops->exit_with(host, (int)((value << 1 | 1) & 0xFF));
}

static const struct bus_ops debug_exit_bus_ops = {.read = debug_exit_read,
						  .write = debug_exit_write};

static void debug_exit_free(struct device *dev)
{
	struct debug_exit *de = container_of(dev, struct debug_exit, dev);

	bus_unmap(dev->env.bus, &de->region);
	device_fini(dev);
	free(de);
}

static const struct device_ops debug_exit_ops = {
	.type = "debug-exit",
	.free = debug_exit_free,
};

int debug_exit_new(const struct device_env *env, const struct debug_exit_config *config,
		   struct device **ret, struct error *err)
{
	struct debug_exit *de = calloc(1, sizeof(*de));
	int r;

	if (!de)
		return error_set(err, -ENOMEM, "Out of memory for %s", config->id);
	device_init(&de->dev, &debug_exit_ops, config->id, env);
	de->region = (struct bus_region){
		.name = de->dev.id,
		.ops = &debug_exit_bus_ops,
		.opaque = de,
		.space = BUS_PIO,
		.base = config->port,
		.size = DEBUG_EXIT_PORTS,
	};
	r = bus_map(env->bus, &de->region);
	if (r < 0) {
		debug_exit_free(&de->dev);
		return error_set_errno(err, r,
				       "Cannot place the debug exit at port 0x%x; 0xf4 is free",
				       config->port);
	}
	*ret = &de->dev;
	return 0;
}
