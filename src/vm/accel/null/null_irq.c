/*
 * The recorder of interrupts, and doorbells. Any thread; one lock for all of it.
 */
#include <errno.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/bits.h"
#include "base/fd.h"
#include "vm/accel/null/null_int.h"

static void record_locked(struct null *null, const struct null_interrupt *interrupt)
{
	if (null->n_recorded < NULL_MAX_RECORDED) {
		null->taken[null->n_recorded] = false;
		null->recorded[null->n_recorded++] = *interrupt;
	}
}

void null_wake_all(struct null *null)
{
	for (unsigned i = 0; i < null->accel.config.n_vcpus; i++)
		if (null->vcpus[i])
			eventfd_signal(null->vcpus[i]->wake);
}

void null_record(struct null *null, const struct null_interrupt *interrupt)
{
	LOCK_GUARD(&null->lock);
	record_locked(null, interrupt);
	null_wake_all(null);
}

void null_drain(struct null *null)
{
	LOCK_GUARD(&null->lock);
	for (unsigned i = 0; i < NULL_MAX_ROUTES; i++) {
		const struct null_route *route = &null->routes[i];

		if (route->fd >= 0 && eventfd_clear(route->fd)) {
			record_locked(null, &(struct null_interrupt){.is_msi = true,
								     .addr = route->addr,
								     .data = route->data});
			null_wake_all(null);
		}
	}
}

int null_irq_line(struct accel *accel, unsigned gsi, bool level)
{
	struct null *null = null_of(accel);

	LOCK_GUARD(&null->lock);
	if (null->lines[gsi] == level)
		return 0;
	null->lines[gsi] = level;
	record_locked(null, &(struct null_interrupt){.gsi = gsi, .level = level});
	null_wake_all(null);
	return 0;
}

int null_msi(struct accel *accel, uint64_t addr, uint32_t data)
{
	null_record(null_of(accel),
		    &(struct null_interrupt){.is_msi = true, .addr = addr, .data = data});
	return 0;
}

int null_irqfd_attach(struct accel *accel, int fd, uint64_t addr, uint32_t data)
{
	struct null *null = null_of(accel);

	if (fd < 0)
		return -EINVAL;
	LOCK_GUARD(&null->lock);
	for (int i = 0; i < NULL_MAX_ROUTES; i++) {
		if (null->routes[i].fd >= 0)
			continue;
		null->routes[i] = (struct null_route){.addr = addr, .data = data, .fd = fd};
		null_wake_all(null); /* a vCPU that waits must wait for this one too */
		return i;
	}
	return -ENOSPC;
}

static struct null_route *route_find_locked(struct null *null, int route)
{
	if (route < 0 || route >= NULL_MAX_ROUTES || null->routes[route].fd < 0)
		return NULL;
	return &null->routes[route];
}

int null_irqfd_update(struct accel *accel, int route, uint64_t addr, uint32_t data)
{
	struct null *null = null_of(accel);
	struct null_route *r;

	LOCK_GUARD(&null->lock);
	r = route_find_locked(null, route);
	if (!r)
		return -EINVAL;
	r->addr = addr;
	r->data = data;
	return 0;
}

int null_irqfd_detach(struct accel *accel, int route)
{
	struct null *null = null_of(accel);
	struct null_route *r;

	LOCK_GUARD(&null->lock);
	r = route_find_locked(null, route);
	if (!r)
		return -EINVAL;
	r->fd = -1;
	null_wake_all(null);
	return 0;
}

static bool bells_equal(const struct accel_doorbell *a, const struct accel_doorbell *b)
{
	return a->is_pio == b->is_pio && a->addr == b->addr && a->size == b->size &&
	       a->match == b->match && (!a->match || a->value == b->value);
}

int null_doorbell_add(struct accel *accel, const struct accel_doorbell *bell)
{
	struct null *null = null_of(accel);
	struct accel_doorbell *free_bell = NULL;

	if (bell->fd < 0)
		return -EINVAL;
	LOCK_GUARD(&null->lock);
	for (size_t i = 0; i < NULL_MAX_DOORBELLS; i++) {
		if (null->bells[i].fd < 0)
			free_bell = &null->bells[i];
		else if (bells_equal(&null->bells[i], bell))
			return -EEXIST;
	}
	if (!free_bell)
		return -ENOSPC;
	*free_bell = *bell;
	return 0;
}

int null_doorbell_del(struct accel *accel, const struct accel_doorbell *bell)
{
	struct null *null = null_of(accel);

	LOCK_GUARD(&null->lock);
	for (size_t i = 0; i < NULL_MAX_DOORBELLS; i++) {
		struct accel_doorbell *b = &null->bells[i];

		if (b->fd == bell->fd && bells_equal(b, bell)) {
			b->fd = -1;
			return 0;
		}
	}
	return -ENOENT;
}

bool null_ring(struct null *null, bool is_pio, uint64_t addr, unsigned size, uint64_t value)
{
	bool rung = false;

	LOCK_GUARD(&null->lock);
	for (size_t i = 0; i < NULL_MAX_DOORBELLS; i++) {
		const struct accel_doorbell *b = &null->bells[i];

		if (b->fd < 0 || b->is_pio != is_pio || b->addr != addr ||
		    (b->size && b->size != size) || (b->match && b->value != value))
			continue;
		eventfd_signal(b->fd);
		rung = true;
	}
	return rung;
}

size_t null_recorded(struct accel *accel, struct null_interrupt *buf, size_t max)
{
	struct null *null = null_of(accel);

	null_drain(null);
	LOCK_GUARD(&null->lock);
	memcpy(buf, null->recorded, MIN(max, null->n_recorded) * sizeof(*buf));
	return null->n_recorded;
}

void null_forget(struct accel *accel)
{
	struct null *null = null_of(accel);

	null_drain(null);
	LOCK_GUARD(&null->lock);
	null->n_recorded = 0;
}
