/* struct bus_host on an accelerator: what devices ask for becomes accelerator calls, or requests to the main loop. */
#pragma once

#include <stdatomic.h>

#include "base/loop.h"
#include "vm/accel/accel.h"
#include "vm/bus/bus.h"
#include "vm/bus/host.h"

struct host_glue {
	struct bus_host host; /* what devices get */
	struct accel *accel;
	struct bus *bus;
	struct loop *loop;
	/* Requests of devices, a bit each (enum machine_request), handed to the main loop. */
	atomic_uint requests;
	atomic_int exit_status; /* -1, or what debug-exit asked for */
	struct loop_msg msg;
	void (*requested)(void *opaque, unsigned requests); /* main loop */
	void *opaque;
};

void host_glue_init(struct host_glue *glue, struct loop *loop,
		    void (*requested)(void *opaque, unsigned requests), void *opaque);
/* Accelerator handlers that dispatch to glue->bus. */
struct accel_handlers host_glue_handlers(struct host_glue *glue);
/* From vCPU threads too: as if a device had asked. */
void host_glue_request(struct host_glue *glue, enum machine_request request);
