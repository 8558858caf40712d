/*
 * The vCPU threads of a machine: one each, parked until vcpus_run(). Stop and run are exact: after vcpus_stop() no guest
 * instruction is executed and every port or memory access that had begun is complete.
 *
 * Threads: everything is called on the main thread, but vcpus_hold_current().
 */
#pragma once

#include "base/error.h"
#include "vm/accel/accel.h"

struct vcpus;

/* Called on vCPU threads; the vCPU then waits for the next vcpus_run(). */
struct vcpus_events {
	void (*reset)(void *opaque, unsigned index);
	void (*failed)(void *opaque, unsigned index, const char *why);
	void *opaque;
};

int vcpus_new(struct accel *accel, unsigned n, const struct vcpus_events *events,
	      struct vcpus **ret, struct error *err);
/* Ends the threads and frees the vCPUs. */
void vcpus_free(struct vcpus *vcpus);

void vcpus_run(struct vcpus *vcpus);
void vcpus_stop(struct vcpus *vcpus);

struct accel_vcpu *vcpus_get(struct vcpus *vcpus, unsigned index);
/* The kernel's id of its thread. */
int vcpus_thread_id(const struct vcpus *vcpus, unsigned index);

/* From inside a device access: this vCPU executes nothing more until the machine has been stopped and run again. So the
 * instruction after a reset or power-off write is never reached. No effect on other threads. */
void vcpus_hold_current(void);
