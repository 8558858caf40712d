/*
 * For test guests (kvm-unit-tests and the like, which know them from QEMU's pc-testdev): a register to read and write, and
 * ports that drive the interrupt controllers' inputs. Off unless asked for.
 */
#pragma once

#include "vm/bus/device.h"

struct test_ports_config {
	const char *id;
};

/* A 32-bit register that gives back what was written, in accesses of any width at any of its bytes. */
#define TEST_PORTS_REGISTER       0xE0u
#define TEST_PORTS_REGISTER_BYTES 4u
/* Takes a page's address that the guest wants mapped afresh. Nothing here remembers a mapping, so it does nothing. */
#define TEST_PORTS_FLUSH       0xE4u
#define TEST_PORTS_FLUSH_BYTES 4u
/* One port for each input: a byte other than zero raises it, zero lowers it. */
#define TEST_PORTS_IRQ   0x2000u
#define TEST_PORTS_LINES 24u

/* Memory that is none: each access is the device's, as those that an emulator has to do by itself are. */
#define TEST_PORTS_MEMORY       0xFF000000u
#define TEST_PORTS_MEMORY_BYTES 0x10000u

int test_ports_new(const struct device_env *env, const struct test_ports_config *config,
		   struct device **ret, struct error *err);
