/*
 * SMBIOS 3.0 tables (DMTF DSP0134): who made the machine, its UUID and name, its processors and memory. They lie at
 * 0xF0000, where operating systems search for the entry point.
 *
 * Run before the vCPUs, and again on every machine reset.
 */
#pragma once

#include "base/error.h"
#include "vm/mem/gmem.h"

struct firmware_smbios_config {
	const char *name;   /* of the machine; NULL: none */
	uint8_t uuid[16];   /* as printed: most significant byte first; all zero: not set */
	unsigned n_sockets; /* 1 to 255 */
	unsigned cores_per_socket;
	unsigned threads_per_core;
};

/* -EINVAL, or -ENOSPC when the tables do not fit their area. */
int firmware_build_smbios(struct gmem *mem, const struct firmware_smbios_config *config,
			  struct error *err);
