/*
 * A 16550A serial port on I/O ports. Create it on the loop that its character backend belongs to.
 */
#pragma once

#include "vm/bus/device.h"
#include "vm/char/chardev.h"

struct uart16550_config {
	const char *id;
	uint16_t port; /* the first of eight */
	unsigned gsi;
	struct chardev *chr; /* outlives the device, which attaches itself to it */
};

int uart16550_new(const struct device_env *env, const struct uart16550_config *config,
		  struct device **ret, struct error *err);
