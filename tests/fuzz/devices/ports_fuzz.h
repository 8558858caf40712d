/*
 * What the targets of port devices share: accesses spelled by the input, and what a host does to any device.
 */
#pragma once

#include "device/ports.h"

#include "base/bits.h"
#include "base/log.h"
#include "vm/state/state.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define OP_BYTES 6
#define MAX_OPS  2000

/* op: port (by the caller), bits 0-1 size, bit 2 read; four bytes of value. */
static inline void fuzz_port(struct ports *ports, uint16_t port, const uint8_t *op)
{
	unsigned size = 1u << (op[1] % 3);

	if (op[1] & 4)
		port_in(ports, port, size);
	else
		port_out(ports, port, size, le_load(op + 2, size));
}

/* Stop and go, reset, a hostile saved state: the device must stay usable. */
static inline void fuzz_host(struct ports *ports, struct device *dev, const uint8_t *op)
{
	uint64_t seed = le_load(op + 2, 4);

	switch (op[1] % 5) {
	case 0:
		device_pause(dev);
		device_resume(dev);
		break;
	case 1:
		device_pause(dev);
		device_reset(dev);
		device_resume(dev);
		break;
	case 2:
		device_pause(dev);
		if (dev->ops->state)
			state_fill(dev->ops->state, dev, &seed);
		if (dev->ops->state && dev->ops->state->post_load &&
		    dev->ops->state->post_load(dev, NULL) < 0)
			device_reset(dev);
		device_resume(dev);
		break;
	default:
		loop_run_once(ports->env.loop, 0);
		break;
	}
}
