/*
 * The keyboard controller of a PC, with no keyboard and no mouse: it answers at once, so that no operating system waits
 * for it, and resets the machine.
 */
#pragma once

#include "vm/bus/device.h"

struct i8042_config {
	const char *id;
};

int i8042_new(const struct device_env *env, const struct i8042_config *config, struct device **ret,
	      struct error *err);
