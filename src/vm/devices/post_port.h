/*
 * Port 0x80, where firmware shows its progress and kernels write to pass a microsecond: swallowed as cheaply as the
 * machine can.
 */
#pragma once

#include "vm/bus/device.h"

struct post_port_config {
	const char *id;
};

int post_port_new(const struct device_env *env, const struct post_port_config *config,
		  struct device **ret, struct error *err);
