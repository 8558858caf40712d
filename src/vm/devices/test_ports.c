/*
 * Ports for test guests, see test_ports.h. Reads of the other ports give zeroes. vCPU threads, under dev.lock.
 */
#include "vm/devices/test_ports.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "vm/devices/line.h"

struct test_ports {
	struct device dev;
	struct bus_region value_region, flush_region, irq_region, memory_region;
	uint8_t value[TEST_PORTS_REGISTER_BYTES]; /* [lock] */
	bool levels[TEST_PORTS_LINES];            /* [lock] */
	uint8_t memory[TEST_PORTS_MEMORY_BYTES];  /* [lock] */
};

/* An access that starts inside may end outside: what is outside reads as zero and is not written. */
static uint64_t value_read(void *opaque, uint64_t offset, unsigned size)
{
	const struct test_ports *tp = opaque;
	uint64_t value = 0;

	for (unsigned i = 0; i < size && offset + i < TEST_PORTS_REGISTER_BYTES; i++)
		value |= (uint64_t)tp->value[offset + i] << (8 * i);
	return value;
}

static void value_write(void *opaque, uint64_t offset, unsigned size, uint64_t value)
{
	struct test_ports *tp = opaque;

	for (unsigned i = 0; i < size && offset + i < TEST_PORTS_REGISTER_BYTES; i++)
		tp->value[offset + i] = (uint8_t)(value >> (8 * i));
}

static uint64_t nothing_read(void *opaque, uint64_t offset, unsigned size)
{
	(void)opaque;
	(void)offset;
	(void)size;
	return 0;
}

static void nothing_write(void *opaque, uint64_t offset, unsigned size, uint64_t value)
{
	(void)opaque;
	(void)offset;
	(void)size;
	(void)value;
}

static uint64_t memory_read(void *opaque, uint64_t offset, unsigned size)
{
	const struct test_ports *tp = opaque;
	uint64_t value = 0;

	for (unsigned i = 0; i < size && offset + i < TEST_PORTS_MEMORY_BYTES; i++)
		value |= (uint64_t)tp->memory[offset + i] << (8 * i);
	return value;
}

static void memory_write(void *opaque, uint64_t offset, unsigned size, uint64_t value)
{
	struct test_ports *tp = opaque;

	for (unsigned i = 0; i < size && offset + i < TEST_PORTS_MEMORY_BYTES; i++)
		tp->memory[offset + i] = (uint8_t)(value >> (8 * i));
}

static void drive_line(struct test_ports *tp, unsigned gsi, bool level)
{
	struct line line = {.gsi = gsi, .level = tp->levels[gsi]};

	line_set(&line, &tp->dev, level);
	tp->levels[gsi] = level;
}

static void irq_write(void *opaque, uint64_t offset, unsigned size, uint64_t value)
{
	(void)size;
	drive_line(opaque, (unsigned)offset, (value & 0xFF) != 0);
}

static const struct bus_ops value_ops = {.read = value_read, .write = value_write};
static const struct bus_ops flush_ops = {.read = nothing_read, .write = nothing_write};
static const struct bus_ops memory_ops = {.read = memory_read, .write = memory_write};
static const struct bus_ops irq_ops = {.read = nothing_read, .write = irq_write};

static void test_ports_reset(struct device *dev)
{
	struct test_ports *tp = container_of(dev, struct test_ports, dev);

	for (unsigned i = 0; i < TEST_PORTS_REGISTER_BYTES; i++)
		tp->value[i] = 0;
	memset(tp->memory, 0, sizeof(tp->memory));
	for (unsigned gsi = 0; gsi < TEST_PORTS_LINES; gsi++)
		drive_line(tp, gsi, false);
}

/* The interrupt controllers may have been reset or loaded meanwhile. */
static void test_ports_resume(struct device *dev)
{
	struct test_ports *tp = container_of(dev, struct test_ports, dev);

	for (unsigned gsi = 0; gsi < TEST_PORTS_LINES; gsi++) {
		struct line line = {.gsi = gsi};

		if (tp->levels[gsi])
			line_assert(&line, dev, true);
	}
}

static void test_ports_free(struct device *dev)
{
	struct test_ports *tp = container_of(dev, struct test_ports, dev);

	bus_unmap(dev->env.bus, &tp->value_region);
	bus_unmap(dev->env.bus, &tp->flush_region);
	bus_unmap(dev->env.bus, &tp->irq_region);
	bus_unmap(dev->env.bus, &tp->memory_region);
	device_fini(dev);
	free(tp);
}

static const struct state_field test_ports_fields[] = {
	STATE_BYTES(struct test_ports, value),
	STATE_UINTS(struct test_ports, levels),
	STATE_BYTES(struct test_ports, memory),
};
static const struct state_table test_ports_state = {.name = "test-ports",
						    .version = 2,
						    STATE_FIELDS(test_ports_fields)};

static const struct device_ops test_ports_ops = {
	.type = "test-ports",
	.state = &test_ports_state,
	.reset = test_ports_reset,
	.resume = test_ports_resume,
	.free = test_ports_free,
};

static struct bus_region region_of(struct test_ports *tp, const struct bus_ops *ops, uint32_t base,
				   unsigned bytes)
{
	return (struct bus_region){
		.name = tp->dev.id,
		.ops = ops,
		.opaque = tp,
		.lock = &tp->dev.lock,
		.space = BUS_PIO,
		.base = base,
		.size = bytes,
	};
}

int test_ports_new(const struct device_env *env, const struct test_ports_config *config,
		   struct device **ret, struct error *err)
{
	struct test_ports *tp = calloc(1, sizeof(*tp));
	int r;

	if (!tp)
		return error_set(err, -ENOMEM, "Out of memory for %s", config->id);
	device_init(&tp->dev, &test_ports_ops, config->id, env);
	tp->value_region =
		region_of(tp, &value_ops, TEST_PORTS_REGISTER, TEST_PORTS_REGISTER_BYTES);
	tp->flush_region = region_of(tp, &flush_ops, TEST_PORTS_FLUSH, TEST_PORTS_FLUSH_BYTES);
	tp->irq_region = region_of(tp, &irq_ops, TEST_PORTS_IRQ, TEST_PORTS_LINES);
	tp->memory_region = region_of(tp, &memory_ops, TEST_PORTS_MEMORY, TEST_PORTS_MEMORY_BYTES);
	tp->memory_region.space = BUS_MMIO;
	r = bus_map(env->bus, &tp->value_region);
	if (r >= 0)
		r = bus_map(env->bus, &tp->flush_region);
	if (r >= 0)
		r = bus_map(env->bus, &tp->irq_region);
	if (r >= 0)
		r = bus_map(env->bus, &tp->memory_region);
	if (r < 0) {
		test_ports_free(&tp->dev);
		return error_set_errno(err, r, "Cannot place %s at ports 0x%x and 0x%x and at 0x%x",
				       config->id, TEST_PORTS_REGISTER, TEST_PORTS_IRQ,
				       TEST_PORTS_MEMORY);
	}
	*ret = &tp->dev;
	return 0;
}
