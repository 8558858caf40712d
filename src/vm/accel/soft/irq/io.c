/*
 * Where a vCPU's accesses outside of memory go: the controllers that belong to the accelerator, doorbells, and then the machine.
 *
 * The vCPU's thread. In the machine's handlers it counts as outside: they may take locks, and take their time.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "base/cleanup.h"
#include "base/endian.h"
#include "base/fd.h"
#include "vm/accel/soft/irq/irq_int.h"

#define MAX_BELLS 4096u

/* --- doorbells --- */

static int bell_order(const struct accel_doorbell *bell, bool is_pio, uint64_t addr)
{
	if (bell->is_pio != is_pio)
		return bell->is_pio ? 1 : -1;
	return bell->addr < addr ? -1 : bell->addr > addr;
}

/* The first bell that is not before the address. */
static unsigned bell_find(const struct soft_irq *irq, bool is_pio, uint64_t addr)
{
	unsigned low = 0, high = irq->n_bells;

	while (low < high) {
		unsigned middle = (low + high) / 2;

		if (bell_order(&irq->bells[middle], is_pio, addr) < 0)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

static bool bell_equal(const struct accel_doorbell *a, const struct accel_doorbell *b)
{
	return a->size == b->size && a->match == b->match && (!a->match || a->value == b->value);
}

static atomic_uint *bell_count(struct soft_irq *irq, bool is_pio)
{
	return is_pio ? &irq->n_pio_bells : &irq->n_mmio_bells;
}

int soft_doorbell_add(struct accel *accel, const struct accel_doorbell *bell)
{
	struct soft_irq *irq = soft_of(accel)->irq;
	unsigned at, i;

	LOCK_GUARD(&irq->bell_lock);
	at = bell_find(irq, bell->is_pio, bell->addr);
	for (i = at; i < irq->n_bells && !bell_order(&irq->bells[i], bell->is_pio, bell->addr); i++)
		if (bell_equal(&irq->bells[i], bell))
			return -EEXIST;
	if (irq->n_bells == irq->bell_room) {
		unsigned room = MAX(irq->bell_room * 2, 16u);
		struct accel_doorbell *bells;

		if (room > MAX_BELLS)
			return -ENOSPC;
		bells = realloc(irq->bells, room * sizeof(*bells));
		if (!bells)
			return -ENOMEM;
		irq->bells = bells;
		irq->bell_room = room;
	}
	memmove(&irq->bells[at + 1], &irq->bells[at], (irq->n_bells - at) * sizeof(irq->bells[0]));
	irq->bells[at] = *bell;
	irq->n_bells++;
	atomic_fetch_add(bell_count(irq, bell->is_pio), 1);
	return 0;
}

int soft_doorbell_del(struct accel *accel, const struct accel_doorbell *bell)
{
	struct soft_irq *irq = soft_of(accel)->irq;

	LOCK_GUARD(&irq->bell_lock);
	for (unsigned i = bell_find(irq, bell->is_pio, bell->addr);
	     i < irq->n_bells && !bell_order(&irq->bells[i], bell->is_pio, bell->addr); i++) {
		if (!bell_equal(&irq->bells[i], bell) || irq->bells[i].fd != bell->fd)
			continue;
		irq->n_bells--;
		memmove(&irq->bells[i], &irq->bells[i + 1],
			(irq->n_bells - i) * sizeof(irq->bells[0]));
		atomic_fetch_sub(bell_count(irq, bell->is_pio), 1);
		return 0;
	}
	return -ENOENT;
}

/* Signals the doorbell that a write matches; false when there is none. */
static bool ring(struct soft_irq *irq, bool is_pio, uint64_t addr, unsigned size, uint64_t value)
{
	if (atomic_load_explicit(bell_count(irq, is_pio), memory_order_relaxed) == 0)
		return false;
	LOCK_GUARD(&irq->bell_lock);
	for (unsigned i = bell_find(irq, is_pio, addr);
	     i < irq->n_bells && !bell_order(&irq->bells[i], is_pio, addr); i++) {
		const struct accel_doorbell *b = &irq->bells[i];

		if ((b->size != 0 && b->size != size) || (b->match && b->value != value))
			continue;
		eventfd_signal(b->fd);
		return true;
	}
	return false;
}

/* --- accesses --- */

/* Also when it is alone: the others stay stopped. False when it was outside already. */
static bool step_outside(struct soft_cpu *cpu)
{
	if (!atomic_load_explicit(&cpu->inside, memory_order_relaxed))
		return false;
	soft_leave(cpu);
	return true;
}

static bool local_apic(struct soft_cpu *cpu, gpa_t gpa, bool is_write, void *data, unsigned size)
{
	uint64_t base = atomic_load_explicit(&cpu->lapic->base, memory_order_relaxed);
	uint32_t offset = gpa & 0xFFF;

	if (gpa >> 12 != (base & ~(APIC_BASE_BSP | APIC_BASE_X2 | APIC_BASE_ENABLE)) >> 12 ||
	    (base & (APIC_BASE_ENABLE | APIC_BASE_X2)) != APIC_BASE_ENABLE)
		return false;
	if (offset + size > X86_LAPIC_BYTES) {
		if (!is_write)
			memset(data, 0, size);
	} else if (is_write) {
		lapic_write(cpu, offset, data, size);
	} else {
		lapic_read(cpu, offset, data, size);
	}
	return true;
}

static bool io_apic(struct soft_irq *irq, gpa_t gpa, bool is_write, void *data, unsigned size)
{
	uint32_t offset = (uint32_t)(gpa - IOAPIC_BASE);

	if (gpa < IOAPIC_BASE || gpa - IOAPIC_BASE >= IOAPIC_BYTES)
		return false;
	LOCK_GUARD(&irq->lock);
	/* Registers are at multiples of 16 bytes; a byte of the window can be read, not written. */
	if (!is_write)
		le_store(data, size, ioapic_read(irq, offset & ~15u) >> 8 * (offset & 3));
	else if ((offset & 15) == 0)
		ioapic_write(irq, offset, (uint32_t)le_load(data, size));
	return true;
}

void soft_mmio(struct soft_cpu *cpu, gpa_t gpa, bool is_write, void *data, unsigned size)
{
	const struct accel_handlers *h = &cpu->soft->accel.config.handlers;
	struct soft_irq *irq = cpu->soft->irq;
	bool outside;

	if (local_apic(cpu, gpa, is_write, data, size) || io_apic(irq, gpa, is_write, data, size))
		return;
	if (is_write && ring(irq, false, gpa, size, le_load(data, size)))
		return;
	outside = step_outside(cpu);
	h->mmio(h->opaque, cpu->base.index, gpa, is_write, data, size);
	if (outside)
		soft_enter(cpu);
}

/* The controllers' registers are bytes; wider accesses are several. */
static bool controllers(struct soft_irq *irq, uint16_t port, bool is_write, uint8_t *data,
			unsigned size)
{
	if (!pic_claims(port) && !pit_claims(port))
		return false;
	LOCK_GUARD(&irq->lock);
	for (unsigned i = 0; i < size; i++) {
		uint16_t at = (uint16_t)(port + i);

		if (pic_claims(at) && is_write)
			pic_write(irq, at, data[i]);
		else if (pic_claims(at))
			data[i] = pic_read(irq, at);
		else if (pit_claims(at) && is_write)
			pit_write(irq, at, data[i]);
		else if (!is_write)
			data[i] = pit_claims(at) ? pit_read(irq, at) : 0xFF;
	}
	return true;
}

void soft_pio(struct soft_cpu *cpu, uint16_t port, bool is_write, void *data, unsigned size)
{
	const struct accel_handlers *h = &cpu->soft->accel.config.handlers;
	struct soft_irq *irq = cpu->soft->irq;
	bool outside;

	if (controllers(irq, port, is_write, data, size))
		return;
	if (is_write && ring(irq, true, port, size, le_load(data, size)))
		return;
	outside = step_outside(cpu);
	h->pio(h->opaque, cpu->base.index, port, is_write, data, size);
	if (outside)
		soft_enter(cpu);
}
