/*
 * The address maps. Each is a table, a sorted array that vCPU threads search without a lock: each change makes its sequence
 * number odd for a moment, and a search that overlapped one is done again. So a guest that moves its BARs costs
 * the others a retry, and dispatch writes no shared cache line.
 *
 * What a search needs (base, end, owner) is copied out of the entry; the rest of a region is constant while its owner
 * lives, and owners outlive vCPUs.
 */
#include "vm/bus/bus.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "base/bits.h"
#include "base/cleanup.h"
#include "base/endian.h"

#define BUS_MAX_REGIONS 512
/* A search that was disturbed this often waits for the writer instead. */
#define BUS_MAX_RETRIES 64

#define BUS_PIO_LAST 0xFFFFULL

struct bus_entry {
	_Atomic uint64_t base;
	_Atomic uint64_t last;
	_Atomic(struct bus_region *) region;
};

struct bus_table {
	atomic_uint seq; /* odd: being changed */
	atomic_uint n;
	struct bus_entry entries[BUS_MAX_REGIONS]; /* sorted, disjoint */
};

/* The spaces of enum bus_space, then the port regions that answer whole dwords only. */
enum {
	BUS_TABLE_DWORD = BUS_PIO + 1,
	BUS_TABLES,
};

struct bus {
	pthread_mutex_t lock; /* writers; a leaf */
	struct bus_table tables[BUS_TABLES];
};

struct bus_hit {
	struct bus_region *region;
	uint64_t base;
	uint64_t last;
};

int bus_new(struct bus **ret)
{
	struct bus *bus = calloc(1, sizeof(*bus));

	if (!bus)
		return -ENOMEM;
	pthread_mutex_init(&bus->lock, NULL);
	*ret = bus;
	return 0;
}

void bus_free(struct bus *bus)
{
	if (!bus)
		return;
	pthread_mutex_destroy(&bus->lock);
	free(bus);
}

/* --- changes --- */

static struct bus_table *bus_table_of(struct bus *bus, const struct bus_region *region)
{
	return &bus->tables[region->dword_only ? BUS_TABLE_DWORD : (int)region->space];
}

static void bus_entry_copy(struct bus_entry *dst, const struct bus_entry *src)
{
	/* Release, so that none of it is seen before the odd sequence number. */
	atomic_store_explicit(&dst->base, atomic_load(&src->base), memory_order_release);
	atomic_store_explicit(&dst->last, atomic_load(&src->last), memory_order_release);
	atomic_store_explicit(&dst->region, atomic_load(&src->region), memory_order_release);
}

static void bus_change_begin(struct bus_table *table)
{
	atomic_fetch_add(&table->seq, 1);
}

static void bus_change_end(struct bus_table *table)
{
	atomic_fetch_add(&table->seq, 1);
}

/* The index of the first entry that ends at or after addr. */
static unsigned bus_search_locked(const struct bus_table *table, uint64_t addr)
{
	unsigned lo = 0;
	unsigned hi = atomic_load(&table->n);

	while (lo < hi) {
		unsigned mid = (lo + hi) / 2;

		if (atomic_load(&table->entries[mid].last) < addr)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

static bool bus_region_valid(const struct bus_region *region)
{
	if (region->mapped || region->size == 0 || region->base + (region->size - 1) < region->base)
		return false;
	if (region->space == BUS_PIO && region->base + (region->size - 1) > BUS_PIO_LAST)
		return false;
	return !region->dword_only || (region->space == BUS_PIO && region->size == 4);
}

int bus_map(struct bus *bus, struct bus_region *region)
{
	struct bus_table *table = bus_table_of(bus, region);
	struct bus_entry fresh;
	unsigned at;
	unsigned n;

	LOCK_GUARD(&bus->lock);
	if (!bus_region_valid(region))
		return -EINVAL;
	atomic_init(&fresh.base, region->base);
	atomic_init(&fresh.last, region->base + (region->size - 1));
	atomic_init(&fresh.region, region);
	n = atomic_load(&table->n);
	at = bus_search_locked(table, region->base);
	if (at < n && atomic_load(&table->entries[at].base) <= atomic_load(&fresh.last))
		return -EEXIST;
	if (n == BUS_MAX_REGIONS)
		return -ENOSPC;
	bus_change_begin(table);
	for (unsigned i = n; i > at; i--)
		bus_entry_copy(&table->entries[i], &table->entries[i - 1]);
	bus_entry_copy(&table->entries[at], &fresh);
	atomic_store(&table->n, n + 1);
	bus_change_end(table);
	region->mapped = true;
	return 0;
}

void bus_unmap(struct bus *bus, struct bus_region *region)
{
	struct bus_table *table = bus_table_of(bus, region);
	unsigned n;

	LOCK_GUARD(&bus->lock);
	if (!region->mapped)
		return;
	n = atomic_load(&table->n);
	bus_change_begin(table);
	for (unsigned i = bus_search_locked(table, region->base); i + 1 < n; i++)
		bus_entry_copy(&table->entries[i], &table->entries[i + 1]);
	atomic_store(&table->n, n - 1);
	bus_change_end(table);
	region->mapped = false;
}

/* --- dispatch --- */

/* One search; false when a change disturbed it. */
static bool bus_find_once(const struct bus_table *table, uint64_t addr, struct bus_hit *ret)
{
	unsigned seq = atomic_load_explicit(&table->seq, memory_order_acquire);
	unsigned lo = 0;
	unsigned hi = atomic_load_explicit(&table->n, memory_order_acquire);

	ret->region = NULL;
	while (lo < hi) {
		unsigned mid = (lo + hi) / 2;
		const struct bus_entry *entry = &table->entries[mid];
		uint64_t base = atomic_load_explicit(&entry->base, memory_order_acquire);
		uint64_t last = atomic_load_explicit(&entry->last, memory_order_acquire);

		if (last < addr) {
			lo = mid + 1;
		} else if (base > addr) {
			hi = mid;
		} else {
			ret->base = base;
			ret->last = last;
			ret->region = atomic_load_explicit(&entry->region, memory_order_acquire);
			break;
		}
	}
	/* The acquire loads above keep this one behind them. */
	return !(seq & 1) && atomic_load_explicit(&table->seq, memory_order_relaxed) == seq;
}

static bool bus_find(struct bus *bus, struct bus_table *table, uint64_t addr, struct bus_hit *ret)
{
	for (unsigned i = 0; i < BUS_MAX_RETRIES; i++) {
		if (bus_find_once(table, addr, ret))
			return ret->region != NULL;
	}
	LOCK_GUARD(&bus->lock);
	return bus_find_once(table, addr, ret) && ret->region != NULL;
}

static void bus_call(const struct bus_hit *hit, uint64_t addr, bool is_write, void *data,
		     unsigned size)
{
	const struct bus_region *region = hit->region;
	uint64_t offset = addr - hit->base;

	if (region->lock)
		pthread_mutex_lock(region->lock);
	if (!is_write)
		le_store(data, size, region->ops->read(region->opaque, offset, size));
	else
		region->ops->write(region->opaque, offset, size, le_load(data, size));
	if (region->lock)
		pthread_mutex_unlock(region->lock);
}

static void bus_access_bytes(struct bus *bus, struct bus_table *table, uint64_t addr, bool is_write,
			     uint8_t *data, unsigned size)
{
	struct bus_hit hit;

	for (unsigned i = 0; i < size; i++) {
		if (bus_find(bus, table, addr + i, &hit))
			bus_call(&hit, addr + i, is_write, data + i, 1);
		else if (!is_write)
			data[i] = 0xff;
	}
}

void bus_access(struct bus *bus, enum bus_space space, uint64_t addr, bool is_write, void *data,
		unsigned size)
{
	struct bus_table *table = &bus->tables[space];
	struct bus_hit hit;

	if (size == 4 && space == BUS_PIO &&
	    bus_find(bus, &bus->tables[BUS_TABLE_DWORD], addr, &hit) && addr == hit.base) {
		bus_call(&hit, addr, is_write, data, size);
		return;
	}
	if (is_power_of_two(size) && size <= 8 && bus_find(bus, table, addr, &hit) &&
	    size - 1 <= hit.last - addr)
		bus_call(&hit, addr, is_write, data, size);
	else
		bus_access_bytes(bus, table, addr, is_write, data, size);
}
