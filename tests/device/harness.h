/*
 * A machine without a CPU: guest memory, bus, PCI bus and a loop, around a host that records what it is asked for. Tests
 * make a device on harness.env and drive it by register accesses, or with the driver's half of virtio in driver.h.
 *
 *	struct harness *h = harness_new();
 *	virtio_rng_new(&h->env, "rng0", -1, &dev, NULL);
 *	...
 *	device_free(dev);
 *	harness_free(h);
 *
 * The test's thread is the vCPU and runs h->loop; a device may have loops on other threads, too. Failures are cmocka
 * assertions.
 */
#pragma once

#include "unit/test.h"

#include <pthread.h>

#include "base/loop.h"
#include "vm/bus/bus.h"
#include "vm/bus/pci.h"
#include "vm/mem/gmem.h"

#define HARNESS_RAM       (32ULL << 20) /* bytes, from address 0 */
#define HARNESS_GSIS      24
#define HARNESS_VECTORS   64 /* MSI-X vectors of a slot that are told apart */
#define HARNESS_DOORBELLS 512
#define HARNESS_ROUTES    64
#define HARNESS_WAIT_SECS 20 /* for something that must happen; then the test fails */

struct harness_doorbell {
	uint64_t addr;
	int fd; /* -1: free */
};

struct harness_route {
	struct harness *h;
	struct loop_fd src;
	uint64_t addr;
	uint32_t data;
	bool used;
};

struct harness {
	struct bus_host host; /* first */
	struct device_env env;
	bool refuse_doorbells; /* as a machine whose accelerator has none: set before the device decodes */
	bool refuse_irqfds;
	bool intx; /* drivers that start from now on use INTx instead of MSI-X */

	/* [lock] What the host was asked. */
	pthread_mutex_t lock;
	bool line[HARNESS_GSIS];
	unsigned line_rises[HARNESS_GSIS];
	unsigned msis[PCI_SLOTS]
		     [HARNESS_VECTORS]; /* by the message that harness_msi_data() makes */
	unsigned msis_unknown;          /* any other message */
	unsigned requests[8];           /* by enum machine_request */
	int exit_status;                /* -1: not asked */
	struct harness_doorbell doorbells[HARNESS_DOORBELLS];
	struct harness_route routes[HARNESS_ROUTES]; /* the test's thread alone */
	struct loop_msg wake;                        /* an interrupt ends a wait for one */

	/* The test's thread. */
	gpa_t next_free;
	unsigned outstanding; /* requests of all drivers */
	uint64_t *dirty;      /* pages that the device dirtied, one bit each */
};

struct harness *harness_new(void);
/* After the devices have been freed. */
void harness_free(struct harness *h);

/* --- guest memory --- */

/* Page-aligned, zeroed at the start, never given back. */
gpa_t harness_alloc(struct harness *h, size_t bytes);
/* The host's address of [gpa, gpa + len), which must be RAM. */
void *harness_ptr(struct harness *h, gpa_t gpa, size_t len);
/* Were all pages of the range marked dirty since harness_dirty_forget()? */
bool harness_dirty(struct harness *h, gpa_t gpa, size_t len);
void harness_dirty_forget(struct harness *h, gpa_t gpa, size_t len);

/* --- what a vCPU does --- */

/* Memory; writes to a doorbell signal its eventfd and go no further, as in the kernel. size: 1, 2, 4 or 8. */
uint64_t harness_in(struct harness *h, uint64_t addr, unsigned size);
void harness_out(struct harness *h, uint64_t addr, unsigned size, uint64_t value);
uint32_t harness_pio_in(struct harness *h, uint16_t port, unsigned size);
void harness_pio_out(struct harness *h, uint16_t port, unsigned size, uint32_t value);
/* Configuration space of function 0 in a slot. */
uint32_t harness_config_in(struct harness *h, unsigned slot, unsigned offset, unsigned size);
void harness_config_out(struct harness *h, unsigned slot, unsigned offset, unsigned size,
			uint32_t value);

/* The message that a test should put in MSI-X vector `vector` of `slot`, and its address. */
#define HARNESS_MSI_ADDR 0xfee00000ULL
static inline uint32_t harness_msi_data(unsigned slot, unsigned vector)
{
	return 0x1000000u | slot << 8 | vector;
}
/* How often it was sent since the last call. */
unsigned harness_msi_take(struct harness *h, unsigned slot, unsigned vector);

/* --- time passes --- */

/* Rounds of the loop, until what is ready now has been handled. */
void harness_run(struct harness *h);
/* Runs the loop until cond(opaque) holds; fails the test when it does not within HARNESS_WAIT_SECS. */
void harness_wait(struct harness *h, bool (*cond)(void *opaque), void *opaque);
