/*
 * Port and memory dispatch: which region answers an address. Regions of one space never overlap. vCPU threads look up and
 * call; the map changes when a guest moves a BAR.
 */
#pragma once

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "vm/bus/host.h"

struct bus;

struct bus_ops {
	/* offset: from the region's base; size: 1, 2, 4 or 8 and offset + size is inside the region. Alignment is not
	 * promised. Called with the region's lock held. */
	uint64_t (*read)(void *opaque, uint64_t offset, unsigned size);
	void (*write)(void *opaque, uint64_t offset, unsigned size, uint64_t value);
};

/* Embedded in its owner; constant while mapped. */
struct bus_region {
	const char *name;
	const struct bus_ops *ops;
	void *opaque;
	pthread_mutex_t *lock; /* taken around ops; NULL: ops lock for themselves */
	enum bus_space space;
	uint64_t base;
	uint64_t size; /* bytes */
	/* Port space, 4 bytes: answers 4-byte accesses at its base and nothing else, and may lie over other regions. For
	 * 0xCF8, whose bytes belong to the reset register at 0xCF9. */
	bool dword_only;
	bool mapped; /* [bus] */
};

int bus_new(struct bus **ret);
void bus_free(struct bus *bus);

/* -EEXIST when it overlaps another region, -ENOSPC when the map is full, -EINVAL when it is empty, already mapped, or
 * leaves its space. Any thread, with or without the region's lock. */
int bus_map(struct bus *bus, struct bus_region *region);
/* Harmless when not mapped. An access that was looked up before may still arrive just after; owners outlive vCPUs. */
void bus_unmap(struct bus *bus, struct bus_region *region);

/* One access of 1 to 8 bytes. Data is little-endian. Where no region answers, reads give all ones and writes vanish;
 * an access that crosses a region's end is split into bytes. Sizes that are no power of two are split too. */
void bus_access(struct bus *bus, enum bus_space space, uint64_t addr, bool is_write, void *data,
		unsigned size);
