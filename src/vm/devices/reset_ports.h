/*
 * The ports by which a PC is reset without its keyboard controller: 0xCF9 (the FADT's reset register) and 0x92.
 */
#pragma once

#include "vm/bus/device.h"

struct reset_ports_config {
	const char *id;
};

int reset_ports_new(const struct device_env *env, const struct reset_ports_config *config,
		    struct device **ret, struct error *err);
