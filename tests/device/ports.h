/*
 * What a device behind ports needs around it: a bus, a loop, and a machine that writes down what it is asked for.
 */
#pragma once

#include "unit/test.h"

#include <errno.h>

#include "base/clock.h"
#include "base/endian.h"
#include "vm/bus/device.h"

#define PORTS_GSIS 24

struct ports {
	struct bus_host host; /* first */
	struct device_env env;
	bool level[PORTS_GSIS];
	unsigned edges[PORTS_GSIS]; /* changes from low to high */
	unsigned requests[8];       /* of each enum machine_request */
	bool refuse_doorbells;
	unsigned doorbells; /* that are there */
	int exit_status;    /* -1: not asked for */
};

static inline void ports_irq_line(struct bus_host *host, unsigned gsi, bool level)
{
	struct ports *ports = (struct ports *)host;

	assert_true(gsi < PORTS_GSIS);
	if (level && !ports->level[gsi])
		ports->edges[gsi]++;
	ports->level[gsi] = level;
}

static inline void ports_request(struct bus_host *host, int request)
{
	((struct ports *)host)->requests[request]++;
}

static inline void ports_exit_with(struct bus_host *host, int status)
{
	((struct ports *)host)->exit_status = status;
}

static inline int ports_doorbell_add(struct bus_host *host, enum bus_space space, uint64_t addr,
				     unsigned size, int fd)
{
	struct ports *ports = (struct ports *)host;

	if (ports->refuse_doorbells)
		return -ENOSYS;
	ports->doorbells++;
	return 0;
}

static inline void ports_doorbell_del(struct bus_host *host, enum bus_space space, uint64_t addr,
				      unsigned size, int fd)
{
	((struct ports *)host)->doorbells--;
}

static const struct bus_host_ops ports_ops = {
	.irq_line = ports_irq_line,
	.doorbell_add = ports_doorbell_add,
	.doorbell_del = ports_doorbell_del,
	.request = ports_request,
	.exit_with = ports_exit_with,
};

static inline struct ports *ports_new(void)
{
	struct ports *ports = calloc(1, sizeof(*ports));

	assert_non_null(ports);
	ports->host.ops = &ports_ops;
	ports->env.host = &ports->host;
	ports->exit_status = -1;
	assert_int_equal(bus_new(&ports->env.bus), 0);
	assert_int_equal(loop_new(&ports->env.loop), 0);
	return ports;
}

static inline void ports_free(struct ports *ports)
{
	bus_free(ports->env.bus);
	loop_free(ports->env.loop);
	free(ports);
}

static inline void port_out(struct ports *ports, uint16_t port, unsigned size, uint64_t value)
{
	uint8_t data[8];

	le_store(data, size, value);
	bus_access(ports->env.bus, BUS_PIO, port, true, data, size);
}

static inline uint64_t port_in(struct ports *ports, uint16_t port, unsigned size)
{
	uint8_t data[8];

	bus_access(ports->env.bus, BUS_PIO, port, false, data, size);
	return le_load(data, size);
}

static inline void outb(struct ports *ports, uint16_t port, uint8_t value)
{
	port_out(ports, port, 1, value);
}

static inline uint8_t inb(struct ports *ports, uint16_t port)
{
	return (uint8_t)port_in(ports, port, 1);
}

/* Runs the loop until *what, for ten seconds at most. */
static inline bool ports_wait(struct ports *ports, const bool *what)
{
	uint64_t deadline = clock_monotonic_ns() + 10 * NSEC_PER_SEC;

	while (!*what && clock_monotonic_ns() < deadline)
		loop_run_once(ports->env.loop, 100);
	return *what;
}
