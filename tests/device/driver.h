/*
 * The driver's half of virtio, for tests of devices: finds the registers through PCI capabilities, negotiates, keeps split
 * or packed rings in guest memory and talks to the device only as a guest can. (VIRTIO 1.2, sections 2.7, 2.8, 3, 4.1.)
 *
 *	struct driver d;
 *
 *	driver_start(&d, h, slot, DRIVER_ALL);          // every feature offered, every queue, DRIVER_OK
 *	len = driver_request(&d, 0, out, sizeof(out), in, sizeof(in));   // one request, there and back
 *	driver_stop(&d);
 *
 * Or by steps: driver_probe, driver_negotiate, driver_queue_setup, driver_ok; then driver_add, driver_kick,
 * driver_wait. Each used buffer is checked: the device marked dirty what it says it wrote.
 */
#pragma once

#include "device/harness.h"
#include "vm/virtio/virtio.h"

#define DRIVER_MAX_QUEUES VIRTIO_MAX_QUEUES
#define DRIVER_MAX_BUFS   16
#define DRIVER_ALL        UINT64_MAX
#define DRIVER_SPLIT      (UINT64_MAX & ~(1ULL << VIRTIO_F_RING_PACKED))

struct driver;

/* One piece of a request. Readable pieces come first. */
struct driver_buf {
	gpa_t gpa;
	uint32_t len;
	bool writable; /* by the device */
};

struct driver_req {
	bool busy;      /* the id is taken; split: or the descriptor */
	uint16_t slots; /* ring entries it takes; 0: no request */
	unsigned n;
	struct driver_buf bufs[DRIVER_MAX_BUFS];
};

struct driver_queue {
	struct driver *d;
	unsigned index;
	uint16_t size;
	bool packed, event_idx;
	bool indirect; /* send requests by indirect tables: the test's choice after set-up */
	bool quiet;    /* no interrupts wanted: see driver_quiet */
	gpa_t desc, avail, used; /* the three areas */
	uint64_t doorbell;       /* address of its notify register */
	unsigned free_slots;
	uint16_t next_slot,
		next_used; /* split: free-running; packed: position with wrap counter in bit 15 */
	uint16_t kicked;   /* next_slot at the last kick */
	struct driver_req *reqs; /* by id */
	gpa_t tables;            /* an indirect table for each id */
};

struct driver {
	struct harness *h;
	unsigned slot;
	bool intx;                            /* no MSI-X: as harness.intx was */
	uint64_t features;                    /* negotiated */
	uint64_t common, isr, config, notify; /* addresses of the register blocks, 0: absent */
	uint32_t config_bytes;
	uint32_t notify_step;
	uint64_t msix_table;
	unsigned n_queues; /* that the device has */
	struct driver_queue *queues;
};

/* --- set-up --- */

/* Gives BARs their addresses (all functions of the machine), finds the registers, turns on decoding, mastering and
 * MSI-X with every vector unmasked: queue i has vector i + 1, configuration changes vector 0. */
void driver_probe(struct driver *d, struct harness *h, unsigned slot);
uint64_t driver_offered(struct driver *d);
/* Reset, ACKNOWLEDGE, DRIVER, features (`wanted` of what is offered, and VERSION_1), FEATURES_OK. */
void driver_negotiate(struct driver *d, uint64_t wanted);
/* Rings of `size` entries (0: as many as the device offers), vector, enabled. */
struct driver_queue *driver_queue_setup(struct driver *d, unsigned index, uint16_t size);
void driver_ok(struct driver *d);
/* All of the above, for all queues. */
void driver_start(struct driver *d, struct harness *h, unsigned slot, uint64_t wanted);
/* Writes 0 to the status register and waits until it reads 0; requests out are forgotten. */
void driver_reset(struct driver *d);
/* Reset, and the driver's own memory freed. */
void driver_stop(struct driver *d);
/* Forgets the requests and starts the rings anew, without the device: after the machine was reset. */
void driver_forget(struct driver *d);

uint8_t driver_status(struct driver *d);
void driver_set_status(struct driver *d, uint8_t status);
/* Registers of the common block. */
uint64_t driver_common_in(struct driver *d, unsigned offset, unsigned size);
void driver_common_out(struct driver *d, unsigned offset, unsigned size, uint64_t value);
/* Device configuration, by byte accesses; within one generation. */
void driver_config_read(struct driver *d, unsigned offset, void *buf, unsigned len);
void driver_config_write(struct driver *d, unsigned offset, const void *buf, unsigned len);

/* --- requests --- */

/* Makes a request available; no kick. Returns its id, which driver_used gives back. Fails the test when the ring is full. */
unsigned driver_add(struct driver_queue *q, const struct driver_buf *bufs, unsigned n);
/* Can a request of n pieces be added? */
bool driver_has_room(const struct driver_queue *q, unsigned n);
/* Kicks when the device wants it for what was added since the last kick; returns whether. */
bool driver_kick(struct driver_queue *q);
/* Kicks in any case. */
void driver_kick_now(struct driver_queue *q);
/* Takes one used request if there is one. ret_len: bytes written by the device; either may be NULL. */
bool driver_used(struct driver_queue *q, unsigned *ret_id, uint32_t *ret_len);
/* Runs the loop until there is one; returns the length. */
uint32_t driver_wait(struct driver_queue *q, unsigned *ret_id);
/* Interrupts of the queue (config: of configuration changes) since the last call; with INTx: whether the line was high, which
 * reading ISR ends. */
unsigned driver_interrupts(struct driver_queue *q);
unsigned driver_config_interrupts(struct driver *d);
/* Asks the device for no interrupts, or for all again. */
void driver_quiet(struct driver_queue *q, bool quiet);

/* One request, complete: out_len bytes that the device reads, then in_len bytes that it writes (either may be 0); added, kicked,
 * waited for. Copies what the device wrote to `in`; returns the length that it told. */
uint32_t driver_request(struct driver *d, unsigned queue, const void *out, uint32_t out_len,
			void *in, uint32_t in_len);
