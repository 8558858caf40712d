/*
 * Following the script, on the vCPU's thread.
 */
#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>

#include "base/bits.h"
#include "base/cleanup.h"
#include "base/endian.h"
#include "base/fd.h"
#include "vm/accel/null/null_int.h"

void null_vcpu_kick(struct accel_vcpu *base)
{
	struct null_vcpu *vcpu = (struct null_vcpu *)base;
	int saved = errno;

	atomic_store(&vcpu->kicked, true);
	eventfd_signal(vcpu->wake);
	errno = saved;
}

static void pio(struct null_vcpu *vcpu, uint16_t port, bool is_write, uint8_t *data, unsigned size)
{
	const struct accel_handlers *h = &vcpu->null->accel.config.handlers;

	if (is_write && null_ring(vcpu->null, true, port, size, le_load(data, size)))
		return;
	h->pio(h->opaque, vcpu->base.index, port, is_write, data, size);
}

/* Where a store or load finds RAM: as a processor would, without asking anybody. */
static uint8_t *ram_find(struct null *null, uint64_t addr, bool is_write, unsigned size)
{
	for (size_t i = 0; i < NULL_MAX_REGIONS; i++) {
		struct null_region *r = &null->regions[i];
		uint64_t off = addr - r->region.gpa;

		if (!range_inside(off, size, r->region.size) || (is_write && r->region.readonly))
			continue;
		if (is_write) {
			LOCK_GUARD(&null->lock);
			for (uint64_t p = off >> 12; r->dirty && p <= (off + size - 1) >> 12; p++)
				r->dirty[p / 64] |= BIT(p % 64);
		}
		return r->region.hva + off;
	}
	return NULL;
}

static void mmio(struct null_vcpu *vcpu, uint64_t addr, bool is_write, uint8_t *data, unsigned size)
{
	const struct accel_handlers *h = &vcpu->null->accel.config.handlers;
	uint8_t *ram = ram_find(vcpu->null, addr, is_write, size);

	if (ram) {
		if (is_write)
			memcpy(ram, data, size);
		else
			memcpy(data, ram, size);
		return;
	}
	if (is_write && null_ring(vcpu->null, false, addr, size, le_load(data, size)))
		return;
	h->mmio(h->opaque, vcpu->base.index, addr, is_write, data, size);
}

/* Returns false when the value read is not the one that the line expects. */
static bool access_line(struct null_vcpu *vcpu, const struct null_line *line)
{
	bool is_write = line->op == NULL_OUT || line->op == NULL_WRITE;
	bool is_pio = line->op == NULL_OUT || line->op == NULL_IN;
	unsigned size = (unsigned)line->args[1];
	uint64_t mask = size == 8 ? UINT64_MAX : BIT(8 * size) - 1, got;
	uint8_t data[8];

	le_store(data, 8, is_write ? line->args[2] : 0);
	if (is_pio)
		pio(vcpu, (uint16_t)line->args[0], is_write, data, size);
	else
		mmio(vcpu, line->args[0], is_write, data, size);
	if (is_write || line->n_args < 3)
		return true;
	got = le_load(data, size);
	if (got == (line->args[2] & mask))
		return true;
	snprintf(vcpu->base.error, sizeof(vcpu->base.error),
		 "vCPU %u: script line %u: 0x%" PRIx64 " read as 0x%" PRIx64
		 ", expected 0x%" PRIx64,
		 vcpu->base.index, line->number, line->args[0], got, line->args[2] & mask);
	return false;
}

static bool wait_over(struct null *null, const struct null_line *line)
{
	LOCK_GUARD(&null->lock);
	if (line->op == NULL_WAIT_IRQ)
		return null->lines[line->args[0]] == (line->args[1] != 0);
	if (line->op != NULL_WAIT_MSI)
		return false; /* a wait for kicks alone */
	for (size_t i = 0; i < null->n_recorded; i++) {
		const struct null_interrupt *irq = &null->recorded[i];

		if (!irq->is_msi || null->taken[i] ||
		    (line->n_args > 0 && irq->data != (uint32_t)line->args[0]))
			continue;
		null->taken[i] = true;
		return true;
	}
	return false;
}

/* Blocks until the wait is over (true) or the vCPU is kicked (false). */
static bool wait_line(struct null_vcpu *vcpu, const struct null_line *line)
{
	struct null *null = vcpu->null;

	for (;;) {
		struct pollfd fds[1 + NULL_MAX_ROUTES] = {{.fd = vcpu->wake, .events = POLLIN}};

		eventfd_clear(vcpu->wake);
		if (atomic_exchange(&vcpu->kicked, false))
			return false;
		null_drain(null);
		if (wait_over(null, line))
			return true;
		pthread_mutex_lock(&null->lock);
		for (size_t i = 0; i < NULL_MAX_ROUTES; i++)
			fds[1 + i] = (struct pollfd){.fd = null->routes[i].fd, .events = POLLIN};
		pthread_mutex_unlock(&null->lock);
		poll(fds, ARRAY_SIZE(fds), -1);
	}
}

/* One line; returns whether to go on with the next, else *ret is why not. */
static bool step(struct null_vcpu *vcpu, enum accel_exit *ret)
{
	static const struct null_line end = {.op = NULL_HALT, .vcpu = -1};
	const struct null_script *script = &vcpu->null->script;
	const struct null_line *line = vcpu->at < script->n_lines ? &script->lines[vcpu->at] : &end;

	/* A wait looks for kicks itself, so that one that came just before ends it. */
	*ret = ACCEL_EXIT_KICKED;
	if (line->op != NULL_WAIT_IRQ && line->op != NULL_WAIT_MSI && line->op != NULL_WAIT_KICK &&
	    line->op != NULL_IDLE && atomic_exchange(&vcpu->kicked, false))
		return false;
	vcpu->at++;
	if (line->vcpu >= 0 && (unsigned)line->vcpu != vcpu->base.index)
		return true;
	switch (line->op) {
	case NULL_OUT:
	case NULL_IN:
	case NULL_WRITE:
	case NULL_READ:
		*ret = ACCEL_EXIT_ERROR;
		return access_line(vcpu, line);
	case NULL_MSI:
		null_msi(&vcpu->null->accel, line->args[0], (uint32_t)line->args[1]);
		return true;
	case NULL_WAIT_IRQ:
	case NULL_WAIT_MSI:
	case NULL_IDLE:
		if (wait_line(vcpu, line))
			return true;
		vcpu->at--; /* the wait goes on in the next run */
		return false;
	case NULL_WAIT_KICK:
		wait_line(vcpu, line);
		return false;
	case NULL_AGAIN:
		vcpu->at = 0;
		return true;
	case NULL_RESET:
		*ret = ACCEL_EXIT_RESET;
		return false;
	case NULL_HALT:
		vcpu->at--;
		*ret = ACCEL_EXIT_HALT;
		return false;
	case NULL_FAIL:
		snprintf(vcpu->base.error, sizeof(vcpu->base.error),
			 "vCPU %u: script line %u fails", vcpu->base.index, line->number);
		*ret = ACCEL_EXIT_ERROR;
		return false;
	}
	return false;
}

enum accel_exit null_vcpu_run(struct accel_vcpu *base)
{
	struct null_vcpu *vcpu = (struct null_vcpu *)base;
	enum accel_exit exit;

	while (step(vcpu, &exit))
		;
	return exit;
}
