/*
 * A device: a constant table of operations and state, and what every instance has.
 *
 * Threads. A device belongs to one loop (`loop`), on which its timers, descriptors and completions run. Its registers
 * are accessed on vCPU threads: the bus takes `lock` around each access, and the device takes it in its own callbacks
 * before it touches what registers show. It is a leaf below bus and routing locks are not taken inside it except
 * through struct bus_host; nothing sleeps under it. docs/locking.md has the order.
 */
#pragma once

#include <pthread.h>

#include "base/error.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/state.h"
#include "vm/bus/bus.h"
#include "vm/bus/host.h"
#include "vm/mem/gmem.h"

struct device;

struct device_ops {
	const char *type; /* as spec and QMP name it: "virtio-blk" */
	/* Guest-visible state, offsets from the start of the instance struct (whose first member is struct device). */
	const struct state_table *state;
	/* Puts guest-visible state to power-on. All vCPUs are stopped, the device is paused. */
	void (*reset)(struct device *dev);
	/* After it returns nothing is in flight, guest memory is not touched and no interrupt is raised until resume.
	 * Called on the main thread with vCPUs stopped; may wait for I/O. NULL: nothing to do. */
	void (*pause)(struct device *dev);
	void (*resume)(struct device *dev);
	/* Paused. Unmaps itself, closes what it owns, frees the instance. */
	void (*free)(struct device *dev);
};

/* What a device is built from; outlives it. */
struct device_env {
	struct gmem *mem;
	struct bus *bus;
	struct bus_host *host;
	struct pci_bus *pci; /* NULL where a test needs none */
	struct loop *loop;   /* the loop that the device will belong to */
};

struct device {
	const struct device_ops *ops;
	char id[64]; /* unique in the machine: "disk0" */
	struct device_env env;
	pthread_mutex_t lock;
	struct log_guest log_budget; /* for log_guest() */
};

/* Fills the common part (the instance is zeroed by its allocator). */
void device_init(struct device *dev, const struct device_ops *ops, const char *id,
		 const struct device_env *env);
/* Destroys the common part; the last thing that ops->free does before free(). */
void device_fini(struct device *dev);

/* Dispatch; NULL operations are fine. */
void device_reset(struct device *dev);
void device_pause(struct device *dev);
void device_resume(struct device *dev);
void device_free(struct device *dev);
