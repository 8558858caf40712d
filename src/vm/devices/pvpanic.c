/*
 * pvpanic on an ISA port (specified with QEMU, docs/specs/pvpanic): one byte; a read gives the events that are known, a
 * write reports some. What follows is the machine's business. Has no state. vCPU threads, without a lock.
 */
#include "vm/devices/pvpanic.h"

#include <errno.h>
#include <stdlib.h>

#include "base/bits.h"
#include "vm/bus/platform.h"

#define PVPANIC_PANICKED    0x01u
#define PVPANIC_CRASHLOADED 0x02u /* a crash kernel will look at it; the machine must go on */

struct pvpanic {
	struct device dev;
	struct bus_region region;
};

static uint64_t pvpanic_read(void *opaque, uint64_t offset, unsigned size)
{
	(void)opaque;
	(void)offset;
	(void)size;
	return PVPANIC_PANICKED | PVPANIC_CRASHLOADED;
}

static void pvpanic_write(void *opaque, uint64_t offset, unsigned size, uint64_t value)
{
	struct pvpanic *pv = opaque;
	struct bus_host *host = pv->dev.env.host;

	(void)offset;
	(void)size;
	if (value & PVPANIC_PANICKED)
		host->ops->request(host, MACHINE_GUEST_PANICKED);
	else if (value & PVPANIC_CRASHLOADED)
		host->ops->request(host, MACHINE_GUEST_CRASHLOADED);
}

static const struct bus_ops pvpanic_bus_ops = {.read = pvpanic_read, .write = pvpanic_write};

static void pvpanic_free(struct device *dev)
{
	struct pvpanic *pv = container_of(dev, struct pvpanic, dev);

	bus_unmap(dev->env.bus, &pv->region);
	device_fini(dev);
	free(pv);
}

static const struct device_ops pvpanic_ops = {
	.type = "pvpanic",
	.free = pvpanic_free,
};

int pvpanic_new(const struct device_env *env, const struct pvpanic_config *config,
		struct device **ret, struct error *err)
{
	struct pvpanic *pv = calloc(1, sizeof(*pv));
	int r;

	if (!pv)
		return error_set(err, -ENOMEM, "Out of memory for %s", config->id);
	device_init(&pv->dev, &pvpanic_ops, config->id, env);
	pv->region = (struct bus_region){
		.name = pv->dev.id,
		.ops = &pvpanic_bus_ops,
		.opaque = pv,
		.space = BUS_PIO,
		.base = PLATFORM_PVPANIC_PORT,
		.size = 1,
	};
	r = bus_map(env->bus, &pv->region);
	if (r < 0) {
		pvpanic_free(&pv->dev);
		return error_set_errno(err, r, "Cannot place %s at port 0x%x", config->id,
				       PLATFORM_PVPANIC_PORT);
	}
	*ret = &pv->dev;
	return 0;
}
