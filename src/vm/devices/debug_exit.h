/*
 * For test guests: a port that ends the program with a status of the guest's choice. Off unless asked for.
 */
#pragma once

#include "vm/bus/device.h"

struct debug_exit_config {
	const char *id;
	uint16_t port; /* the first of DEBUG_EXIT_PORTS */
};
#define DEBUG_EXIT_PORTS 4

int debug_exit_new(const struct device_env *env, const struct debug_exit_config *config,
		   struct device **ret, struct error *err);
