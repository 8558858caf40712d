/*
 * The port at which a guest's kernel says that it panicked.
 */
#pragma once

#include "vm/bus/device.h"

struct pvpanic_config {
	const char *id;
};

int pvpanic_new(const struct device_env *env, const struct pvpanic_config *config,
		struct device **ret, struct error *err);
