/*
 * Interrupts from devices: lines to the two kinds of controllers, and messages to local APICs. (SDM volume 3, section 11.11; x86.h for what
 * is connected where.)
 *
 * Any thread.
 */
#include <errno.h>
#include <stdlib.h>

#include "base/bits.h"
#include "base/cleanup.h"
#include "vm/accel/soft/irq/irq_int.h"

#define MSI_BASE      0xFEE00000u
#define MSI_BASE_MASK 0xFFF00000u

#define GSI_TIMER 0u
#define PIN_TIMER 2u

void irq_line_locked(struct soft_irq *irq, unsigned gsi, bool level)
{
	if (gsi < 16)
		pic_line(irq, gsi, level);
	/* Pin 2 is the timer's; line 2 is the cascade and reaches no pin. */
	if (gsi != PIN_TIMER)
		ioapic_line(irq, gsi == GSI_TIMER ? PIN_TIMER : gsi, level);
}

int soft_irq_line(struct accel *accel, unsigned gsi, bool level)
{
	struct soft_irq *irq = soft_of(accel)->irq;

	LOCK_GUARD(&irq->lock);
	irq_line_locked(irq, gsi, level);
	return 0;
}

int soft_msi(struct accel *accel, uint64_t addr, uint32_t data)
{
	/* The upper half of the address carries destination bits 31:8; its low byte must be zero. */
	const struct apic_message m = {
		.dest = ((uint32_t)addr >> 12 & 0xFF) | ((uint32_t)(addr >> 32) & 0xFFFFFF00u),
		.logical = addr & BIT(2),
		.level = data & BIT(15),
		.vector = (uint8_t)data,
		.mode = data >> 8 & 7,
	};

	if (((uint32_t)addr & MSI_BASE_MASK) != MSI_BASE || (addr >> 32 & 0xFF) != 0)
		return -EINVAL;
	/* That nobody takes it is the guest's business. */
	apic_send(soft_of(accel), NULL, &m);
	return 0;
}

void soft_irq_reset(struct soft *soft)
{
	struct soft_irq *irq = soft->irq;

	LOCK_GUARD(&irq->lock);
	pic_reset(irq);
	ioapic_reset(irq);
	pit_reset(irq);
}

int soft_irq_open(struct soft *soft, struct error *err)
{
	struct soft_irq *irq = calloc(1, sizeof(*irq));

	if (!irq)
		return error_set_errno(err, -ENOMEM, "interrupt controllers");
	soft->irq = irq;
	irq->soft = soft;
	irq->epoll = irq->timerfd = irq->quitfd = -1;
	irq->armed_ns = TIME_NEVER;
	pthread_mutex_init(&irq->exclusive_lock, NULL);
	pthread_mutex_init(&irq->lock, NULL);
	pthread_mutex_init(&irq->timer_lock, NULL);
	pthread_mutex_init(&irq->bell_lock, NULL);
	clock_begin(soft);
	soft_irq_reset(soft);
	return events_start(irq, err);
}

void soft_irq_close(struct soft *soft)
{
	struct soft_irq *irq = soft->irq;

	if (!irq)
		return;
	events_stop(irq);
	pthread_mutex_destroy(&irq->exclusive_lock);
	pthread_mutex_destroy(&irq->lock);
	pthread_mutex_destroy(&irq->timer_lock);
	pthread_mutex_destroy(&irq->bell_lock);
	free(irq->routes);
	free(irq->bells);
	free(irq);
}
