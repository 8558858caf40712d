/*
 * Who executes guest instructions. The same calls for KVM, the software CPU and the scripted null accelerator; a device
 * never sees this header, it sees vm/bus/host.h, which vm/main implements with these calls.
 *
 * Life: accel_open, accel_map for each memory region, accel_vcpu_new for each vCPU (from any one thread), then
 * accel_vcpu_run on each vCPU's own thread. Interrupts can be sent once vCPU 0 exists. All functions return 0 or a negative
 * errno unless they say otherwise.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "vm/mem/gmem.h"

struct accel;
struct accel_vcpu;

enum accel_kind {
	ACCEL_AUTO, /* KVM when it is there and fast, else the software CPU */
	ACCEL_KVM,
	ACCEL_SOFT,
	ACCEL_NULL,
};

/* What a vCPU asks of the outside while it runs; called on the vCPU's thread without locks held. `data` holds the value
 * little-endian; for a read the callee fills all of it (all ones where nothing answers). */
struct accel_handlers {
	/* One element of 1, 2 or 4 bytes; string instructions call once for each element. */
	void (*pio)(void *opaque, unsigned vcpu, uint16_t port, bool is_write, void *data,
		    unsigned size);
	/* 1 to 8 bytes. */
	void (*mmio)(void *opaque, unsigned vcpu, gpa_t addr, bool is_write, void *data,
		     unsigned size);
	void *opaque;
};

#define ACCEL_MAX_VCPUS 255

struct accel_config {
	enum accel_kind kind;
	unsigned n_vcpus; /* 1 to 255 */
	/* CPU topology as the guest sees it; sockets * cores * threads == n_vcpus. */
	unsigned sockets, cores, threads;
	struct accel_handlers handlers;
	bool interpret; /* ACCEL_SOFT: no translation, whatever the host allows */
	const char
		*null_script; /* for ACCEL_NULL: see accel/null/null.h; NULL: vCPUs halt at once */
};

/* ACCEL_AUTO decides here, and logs it when KVM is passed over. err says which device is missing, or which group grants it, and what
 * to do. */
int accel_open(const struct accel_config *config, struct accel **ret, struct error *err);
void accel_close(struct accel *accel); /* after every vCPU has been freed; NULL is fine */
enum accel_kind accel_kind_of(const struct accel *accel);
const char *accel_name(const struct accel *accel); /* "kvm", "soft", "null" */

/* Is /dev/kvm there, usable by us, and does it run guest kernels at speed? Returns 0, or -ENOENT, -EACCES, or -ENOSYS when
 * it interprets them (a short calibrated probe); the error has one sentence for the user in each case. */
int accel_probe_kvm(struct error *err);

/* --- memory --- */

/* Makes a region of guest memory visible at region->gpa; the region must outlive the accelerator. */
int accel_map(struct accel *accel, const struct gmem_region *region, struct error *err);
int accel_unmap(struct accel *accel, const struct gmem_region *region);
/* Does it notice by itself when others than vCPUs write guest memory? The software CPU does not: accel_written() is called after each such
 * write (gmem_watch()), and nobody may write behind this process's back, as vhost does. Any thread. */
bool accel_sees_writes(const struct accel *accel);
void accel_written(struct accel *accel, gpa_t gpa, uint64_t len);
/* Dirty pages by vCPU writes. fetch: as gmem_dirty_fetch(), bits OR-ed in and cleared at the source. */
int accel_dirty_start(struct accel *accel);
int accel_dirty_stop(struct accel *accel);
int accel_dirty_fetch(struct accel *accel, const struct gmem_region *region, uint64_t *bitmap);

/* --- vCPUs --- */

int accel_vcpu_new(struct accel *accel, unsigned index, struct accel_vcpu **ret, struct error *err);
void accel_vcpu_free(struct accel_vcpu *vcpu); /* its thread has left accel_vcpu_run() */

/* Sets what a boot protocol wants in the boot processor; the other processors wait for INIT/SIPI. See accel/x86.h. */
struct x86_boot_regs;
int accel_vcpu_set_boot(struct accel_vcpu *vcpu, const struct x86_boot_regs *regs,
			struct error *err);

enum accel_exit {
	ACCEL_EXIT_KICKED, /* somebody called accel_vcpu_kick() */
	ACCEL_EXIT_RESET,  /* triple fault, or a reset that the accelerator handles itself */
	ACCEL_EXIT_HALT,   /* this vCPU will never run again (null: the script ended) */
	ACCEL_EXIT_ERROR,  /* the host refused; accel_vcpu_error() has the text */
};
/* Runs guest code on the calling thread, which must be the same one each time, until one of the above. */
enum accel_exit accel_vcpu_run(struct accel_vcpu *vcpu);
/* Any thread, async-signal-safe. The run in progress, or else the next one, returns ACCEL_EXIT_KICKED: never lost. */
void accel_vcpu_kick(struct accel_vcpu *vcpu);
/* Completes a port or memory access in flight, so that the state read next is exact; on the vCPU's thread, stopped. */
int accel_vcpu_settle(struct accel_vcpu *vcpu);
const char *accel_vcpu_error(const struct accel_vcpu *vcpu);
/* Any thread. A message of delivery mode NMI to the vCPU's APIC: LINT1 need not be set up. */
int accel_vcpu_nmi(struct accel_vcpu *vcpu);

/* --- interrupts: any thread --- */

/* A level-triggered or edge input of the interrupt controllers (GSI 0 to 23, I/O APIC pins and the legacy PIC). */
int accel_irq_line(struct accel *accel, unsigned gsi, bool level);
int accel_msi(struct accel *accel, uint64_t addr, uint32_t data);
/* An eventfd whose signal sends an MSI. attach returns a route id (>= 0). */
int accel_irqfd_attach(struct accel *accel, int fd, uint64_t addr, uint32_t data);
int accel_irqfd_update(struct accel *accel, int route, uint64_t addr, uint32_t data);
int accel_irqfd_detach(struct accel *accel, int route);

/* --- doorbells: a guest write of the given width (0: any) at addr signals the eventfd without leaving the kernel.
 * Any thread. -EOPNOTSUPP, -ENOSPC: the write comes to the handler as usual --- */

struct accel_doorbell {
	bool is_pio;
	uint64_t addr;
	unsigned size; /* 0, 1, 2, 4 or 8 bytes */
	bool match;    /* only when the value equals `value` */
	uint64_t value;
	int fd;
};
int accel_doorbell_add(struct accel *accel, const struct accel_doorbell *bell);
int accel_doorbell_del(struct accel *accel, const struct accel_doorbell *bell);

/* --- stop, save, restore: every vCPU is outside accel_vcpu_run() and settled ---
 *
 * To save: accel_paused(), then the get functions. To restore, into this or a new accelerator: the set functions in any
 * order, then accel_resume(): clocks are set there, last and together. */

struct x86_vcpu_state;    /* accel/x86.h */
struct x86_machine_state; /* accel/x86.h: PIC, I/O APIC, PIT, clock */
int accel_vcpu_get_state(struct accel_vcpu *vcpu, struct x86_vcpu_state *ret, struct error *err);
int accel_vcpu_set_state(struct accel_vcpu *vcpu, const struct x86_vcpu_state *state,
			 struct error *err);
int accel_machine_get_state(struct accel *accel, struct x86_machine_state *ret, struct error *err);
int accel_machine_set_state(struct accel *accel, const struct x86_machine_state *state,
			    struct error *err);
/* Right after a stop: notes where the guest's clocks (time stamp counters, paravirtual clock, deadline timers) stand.
 * Calling it again before accel_resume() changes nothing. */
int accel_paused(struct accel *accel);
/* Right before the vCPUs run again: the clocks go on from there, and the guest's watchdog is told. Without an
 * accel_paused() or a set function before it, does nothing. */
int accel_resume(struct accel *accel);
/* Machine reset: interrupt controllers and every vCPU as after power-on; boot registers are set again by the caller. */
int accel_reset(struct accel *accel, struct error *err);
