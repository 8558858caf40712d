/*
 * Reset control register at port 0xCF9 (as in Intel's ICH: bit 1 SYS_RST, bit 2 RST_CPU, bit 3 FULL_RST; the reset happens
 * when bit 2 goes from 0 to 1) and system control port A at 0x92 (bit 0 resets the processor, bit 1 is A20).
 *
 * Every kind of reset is the same one here: the whole machine. The A20 gate is remembered and has no effect.
 * vCPU threads, under dev.lock.
 */
#include "vm/devices/reset_ports.h"

#include <errno.h>
#include <stdlib.h>

#include "base/cleanup.h"
#include "vm/bus/platform.h"

#define RST_CPU  0x04u
#define RST_MASK 0x0Eu

#define PORT_A_RESET 0x01u
#define PORT_A_A20   0x02u

struct reset_ports {
	struct device dev;
	struct bus_region control, port_a;
	uint8_t control_value, port_a_value; /* [lock] */
};

static void request_reset(struct reset_ports *rp)
{
	rp->dev.env.host->ops->request(rp->dev.env.host, MACHINE_RESET);
}

/* Both registers are one byte at the start of a region of one byte. */
static uint64_t control_read(void *opaque, uint64_t offset, unsigned size)
{
	(void)offset;
	(void)size;
	return ((struct reset_ports *)opaque)->control_value;
}

static void control_write(void *opaque, uint64_t offset, unsigned size, uint64_t value)
{
	struct reset_ports *rp = opaque;
	bool rising = (value & RST_CPU) && !(rp->control_value & RST_CPU);

	(void)offset;
	(void)size;
	rp->control_value = (uint8_t)value & RST_MASK;
	if (rising)
		request_reset(rp);
}

static uint64_t port_a_read(void *opaque, uint64_t offset, unsigned size)
{
	(void)offset;
	(void)size;
	return ((struct reset_ports *)opaque)->port_a_value;
}

static void port_a_write(void *opaque, uint64_t offset, unsigned size, uint64_t value)
{
	struct reset_ports *rp = opaque;
	bool rising = (value & PORT_A_RESET) && !(rp->port_a_value & PORT_A_RESET);

	(void)offset;
	(void)size;
	rp->port_a_value = (uint8_t)value & (PORT_A_RESET | PORT_A_A20);
	if (rising)
		request_reset(rp);
}

static const struct bus_ops control_ops = {.read = control_read, .write = control_write};
static const struct bus_ops port_a_ops = {.read = port_a_read, .write = port_a_write};

static void reset_ports_reset(struct device *dev)
{
	struct reset_ports *rp = container_of(dev, struct reset_ports, dev);

	LOCK_GUARD(&dev->lock);
	rp->control_value = 0;
	rp->port_a_value = PORT_A_A20;
}

static void reset_ports_free(struct device *dev)
{
	struct reset_ports *rp = container_of(dev, struct reset_ports, dev);

	bus_unmap(dev->env.bus, &rp->control);
	bus_unmap(dev->env.bus, &rp->port_a);
	device_fini(dev);
	free(rp);
}

static const struct state_field reset_ports_fields[] = {
	STATE_UINT_MAX(struct reset_ports, control_value, RST_MASK),
	STATE_UINT_MAX(struct reset_ports, port_a_value, PORT_A_RESET | PORT_A_A20),
};
static const struct state_table reset_ports_state = {.name = "reset-ports",
						     .version = 1,
						     STATE_FIELDS(reset_ports_fields)};

static const struct device_ops reset_ports_ops = {
	.type = "reset-ports",
	.state = &reset_ports_state,
	.reset = reset_ports_reset,
	.free = reset_ports_free,
};

int reset_ports_new(const struct device_env *env, const struct reset_ports_config *config,
		    struct device **ret, struct error *err)
{
	struct reset_ports *rp = calloc(1, sizeof(*rp));
	int r;

	if (!rp)
		return error_set(err, -ENOMEM, "Out of memory for %s", config->id);
	device_init(&rp->dev, &reset_ports_ops, config->id, env);
	rp->control = (struct bus_region){
		.name = "reset-control",
		.ops = &control_ops,
		.opaque = rp,
		.lock = &rp->dev.lock,
		.space = BUS_PIO,
		.base = PLATFORM_RESET_PORT,
		.size = 1,
	};
	rp->port_a = (struct bus_region){
		.name = "system-control-a",
		.ops = &port_a_ops,
		.opaque = rp,
		.lock = &rp->dev.lock,
		.space = BUS_PIO,
		.base = PLATFORM_FAST_A20_PORT,
		.size = 1,
	};
	reset_ports_reset(&rp->dev);
	r = bus_map(env->bus, &rp->control);
	if (r >= 0)
		r = bus_map(env->bus, &rp->port_a);
	if (r < 0) {
		reset_ports_free(&rp->dev);
		return error_set_errno(err, r, "Cannot place the reset ports %s", config->id);
	}
	*ret = &rp->dev;
	return 0;
}
