/*
 * The I/O APIC: 24 pins, each with an entry that says which interrupt it is. (Intel 82093AA data sheet; version 0x11, so that guests end
 * level-triggered interrupts by the local APICs' broadcast.)
 *
 * `level` of a line means asserted, whatever the entry's polarity says: the bit is kept and not looked at. An edge that arrives while its
 * pin is masked is lost, as in the chip.
 *
 * Any thread; the machine's interrupt lock is held.
 */
#include "base/bits.h"
#include "vm/accel/soft/irq/irq_int.h"

#define REG_SELECT 0x00u
#define REG_WINDOW 0x10u

#define INDEX_ID       0x00u
#define INDEX_VERSION  0x01u
#define INDEX_ARB      0x02u
#define INDEX_REDIRECT 0x10u

#define VERSION (0x11u | (X86_IOAPIC_PINS - 1) << 16)

/* Entries. */
#define ENTRY_PENDING    BIT(12) /* delivery status: never, messages do not wait here */
#define ENTRY_REMOTE_IRR BIT(14)
#define ENTRY_LEVEL      BIT(15)
#define ENTRY_MASKED     BIT(16)
#define ENTRY_READ_ONLY  (ENTRY_PENDING | ENTRY_REMOTE_IRR)

void ioapic_reset(struct soft_irq *irq)
{
	uint32_t irr = irq->ioapic.irr; /* lines are their devices' */

	irq->ioapic = (struct x86_ioapic){.base = IOAPIC_BASE, .irr = irr};
	for (unsigned i = 0; i < X86_IOAPIC_PINS; i++)
		irq->ioapic.redirect[i] = ENTRY_MASKED;
}

/* Sends the interrupt of a pin, unless it is masked or its last one has not been ended. */
static void service(struct soft_irq *irq, unsigned pin)
{
	uint64_t *entry = &irq->ioapic.redirect[pin];
	struct apic_message m = {
		.dest = (uint32_t)(*entry >> 56),
		.logical = *entry >> 11 & 1,
		.level = *entry & ENTRY_LEVEL,
		.vector = (uint8_t)*entry,
		.mode = *entry >> 8 & 7,
	};

	if (*entry & ENTRY_MASKED)
		return;
	if (m.level && (*entry & ENTRY_REMOTE_IRR))
		return;
	/* Only these two are ended by an EOI. */
	if (m.mode != APIC_FIXED && m.mode != APIC_LOWEST)
		m.level = false;
	if (apic_send(irq->soft, NULL, &m) && m.level)
		*entry |= ENTRY_REMOTE_IRR;
}

void ioapic_line(struct soft_irq *irq, unsigned pin, bool level)
{
	uint32_t bit = 1u << pin, old = irq->ioapic.irr;

	irq->ioapic.irr = level ? old | bit : old & ~bit;
	if (level && (!(old & bit) || (irq->ioapic.redirect[pin] & ENTRY_LEVEL)))
		service(irq, pin);
}

void ioapic_eoi(struct soft_irq *irq, uint8_t vector)
{
	for (unsigned pin = 0; pin < X86_IOAPIC_PINS; pin++) {
		uint64_t *entry = &irq->ioapic.redirect[pin];

		if ((uint8_t)*entry != vector || !(*entry & ENTRY_LEVEL))
			continue;
		*entry &= ~ENTRY_REMOTE_IRR;
		if (irq->ioapic.irr & 1u << pin)
			service(irq, pin);
	}
}

uint32_t ioapic_read(struct soft_irq *irq, uint32_t offset)
{
	const struct x86_ioapic *io = &irq->ioapic;
	uint32_t index = io->select & 0xFF, pin = (index - INDEX_REDIRECT) / 2;

	if (offset == REG_SELECT)
		return io->select;
	if (offset != REG_WINDOW)
		return 0;
	switch (index) {
	case INDEX_ID:
	case INDEX_ARB:
		return (io->id & 15) << 24;
	case INDEX_VERSION:
		return VERSION;
	default:
		if (index < INDEX_REDIRECT || pin >= X86_IOAPIC_PINS)
			return UINT32_MAX;
		return (uint32_t)(io->redirect[pin] >> (index & 1 ? 32 : 0));
	}
}

static void write_entry(struct soft_irq *irq, unsigned pin, bool high, uint32_t value)
{
	uint64_t *entry = &irq->ioapic.redirect[pin];

	if (high) {
		*entry = (uint32_t)*entry | (uint64_t)value << 32;
	} else {
		*entry = (*entry & (0xFFFFFFFF00000000ULL | ENTRY_READ_ONLY)) |
			 (value & 0x1FFFFu & ~ENTRY_READ_ONLY);
		/* Kernels end an interrupt on chips without an EOI register by making its pin edge-triggered for a moment. */
		if (!(*entry & ENTRY_LEVEL))
			*entry &= ~ENTRY_REMOTE_IRR;
	}
	if ((*entry & ENTRY_LEVEL) && (irq->ioapic.irr & 1u << pin))
		service(irq, pin);
}

void ioapic_write(struct soft_irq *irq, uint32_t offset, uint32_t value)
{
	struct x86_ioapic *io = &irq->ioapic;
	uint32_t index = io->select & 0xFF, pin = (index - INDEX_REDIRECT) / 2;

	if (offset == REG_SELECT)
		io->select = value & 0xFF;
	else if (offset == REG_WINDOW && index == INDEX_ID)
		io->id = value >> 24 & 15;
	else if (offset == REG_WINDOW && index >= INDEX_REDIRECT && pin < X86_IOAPIC_PINS)
		write_entry(irq, pin, index & 1, value);
}
