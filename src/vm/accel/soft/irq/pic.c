/*
 * The two 8259As of a PC: the second's output is input 2 of the first. (Intel 8259A data sheet; the edge/level registers as in
 * the 82371AB's.)
 *
 * The state is x86.h's, so that KVM can take it over: write states of initialisation, priority_add (the input of highest
 * priority), read_reg_select (0: IRR, 1: ISR). Any thread; the machine's interrupt lock is held.
 */
#include "vm/accel/soft/irq/irq_int.h"

#define CASCADE  2u
#define SPURIOUS 7u

#define PORT_MASTER 0x20u
#define PORT_SLAVE  0xA0u
#define PORT_ELCR   0x4D0u

#define NONE 8u /* no input */

void pic_reset(struct soft_irq *irq)
{
	for (unsigned i = 0; i < 2; i++) {
		struct x86_pic *p = &irq->pic[i];
		uint8_t lines = p->last_irr; /* are their devices' */

		*p = (struct x86_pic){
			.last_irr = lines,
			/* The timer, the keyboard, the cascade, the clock and the coprocessor are edges for ever. */
			.elcr_mask = i == 0 ? 0xF8 : 0xDE,
		};
	}
	pic_update(irq);
}

/* How far `input` stands behind the one of highest priority; NONE for none in the set. */
static unsigned priority_of(const struct x86_pic *p, uint8_t set)
{
	unsigned priority = 0;

	if (set == 0)
		return NONE;
	while (!(set & 1u << ((priority + p->priority_add) & 7)))
		priority++;
	return priority;
}

/* The input that this chip asks service for, or NONE. */
static unsigned wanted(const struct soft_irq *irq, const struct x86_pic *p)
{
	uint8_t service = p->isr;
	unsigned asks = priority_of(p, p->irr & (uint8_t)~p->imr);

	/* In special mask mode a masked input does not hold others back; a fully nested first chip listens to its second again. */
	if (p->special_mask)
		service &= (uint8_t)~p->imr;
	if (p->special_fully_nested && p == &irq->pic[0])
		service &= (uint8_t) ~(1u << CASCADE);
	if (asks >= priority_of(p, service))
		return NONE;
	return (asks + p->priority_add) & 7;
}

static void set_input(struct x86_pic *p, unsigned input, bool level)
{
	uint8_t bit = (uint8_t)(1u << input);

	if (p->elcr & bit) {
		p->irr = level ? p->irr | bit : p->irr & (uint8_t)~bit;
		p->last_irr = level ? p->last_irr | bit : p->last_irr & (uint8_t)~bit;
	} else if (level) {
		if (!(p->last_irr & bit))
			p->irr |= bit;
		p->last_irr |= bit;
	} else {
		p->last_irr &= (uint8_t)~bit;
	}
}

void pic_update(struct soft_irq *irq)
{
	struct soft *soft = irq->soft;
	bool slave = wanted(irq, &irq->pic[1]) != NONE, was;

	/* A pulse, so that the next request of the second chip is an edge again. */
	if (slave)
		set_input(&irq->pic[0], CASCADE, true);
	else
		irq->pic[0].irr &= (uint8_t) ~(1u << CASCADE);
	set_input(&irq->pic[0], CASCADE, false);
	was = atomic_exchange(&irq->pic_intr, wanted(irq, &irq->pic[0]) != NONE);
	if (was || !atomic_load(&irq->pic_intr))
		return;
	for (unsigned i = 0; i < soft->accel.config.n_vcpus; i++)
		if (soft->cpus[i] && lapic_takes_pic(soft->cpus[i]->lapic))
			soft_request(soft->cpus[i], REQ_INTERRUPT);
}

void pic_line(struct soft_irq *irq, unsigned input, bool level)
{
	set_input(&irq->pic[input / 8], input % 8, level);
	pic_update(irq);
}

/* The processor's acknowledgement. */
static void acknowledge(struct x86_pic *p, unsigned input)
{
	uint8_t bit = (uint8_t)(1u << input);

	if (!p->auto_eoi)
		p->isr |= bit;
	else if (p->rotate_on_auto_eoi)
		p->priority_add = (input + 1) & 7;
	if (!(p->elcr & bit))
		p->irr &= (uint8_t)~bit;
}

uint8_t pic_take(struct soft_irq *irq)
{
	struct x86_pic *master = &irq->pic[0], *slave = &irq->pic[1];
	unsigned input = wanted(irq, master), second;
	uint8_t vector;

	/* A request that has gone away meanwhile is answered by input 7, without service. */
	if (input == NONE) {
		vector = (uint8_t)(master->irq_base + SPURIOUS);
	} else if (input == CASCADE) {
		acknowledge(master, CASCADE);
		second = wanted(irq, slave);
		if (second == NONE)
			second = SPURIOUS;
		else
			acknowledge(slave, second);
		vector = (uint8_t)(slave->irq_base + second);
	} else {
		acknowledge(master, input);
		vector = (uint8_t)(master->irq_base + input);
	}
	pic_update(irq);
	return vector;
}

/* --- ports --- */

bool pic_claims(uint16_t port)
{
	return (port & ~1u) == PORT_MASTER || (port & ~1u) == PORT_SLAVE ||
	       (port & ~1u) == PORT_ELCR;
}

/* Initialisation command word 1. */
static void write_icw1(struct x86_pic *p, uint8_t value)
{
	uint8_t elcr = p->elcr, elcr_mask = p->elcr_mask, lines = p->last_irr;
	uint8_t kept = p->irr & elcr; /* a level that is still there */

	*p = (struct x86_pic){
		.elcr = elcr,
		.elcr_mask = elcr_mask,
		.last_irr = lines & elcr,
		.irr = kept,
		.init_state = 1,
		.init4 = value & 1,
		.irq_base = p->irq_base,
	};
}

/* Operation command word 2: end of interrupt, rotation. */
static void write_ocw2(struct x86_pic *p, uint8_t value)
{
	unsigned command = value >> 5, input = value & 7, priority;

	switch (command) {
	case 0: /* rotate on automatic EOI: off, on */
	case 4:
		p->rotate_on_auto_eoi = command >> 2;
		break;
	case 1: /* non-specific EOI; 5: and rotate */
	case 5:
		priority = priority_of(p, p->isr);
		if (priority == NONE)
			break;
		input = (priority + p->priority_add) & 7;
		p->isr &= (uint8_t) ~(1u << input);
		if (command == 5)
			p->priority_add = (input + 1) & 7;
		break;
	case 3: /* specific EOI; 7: and rotate */
	case 7:
		p->isr &= (uint8_t) ~(1u << input);
		if (command == 7)
			p->priority_add = (input + 1) & 7;
		break;
	case 6: /* set priority */
		p->priority_add = (input + 1) & 7;
		break;
	default:
		break;
	}
}

static void write_command(struct x86_pic *p, uint8_t value)
{
	if (value & 0x10) {
		write_icw1(p, value);
	} else if (value & 0x08) { /* operation command word 3 */
		if (value & 0x04)
			p->poll = 1;
		if (value & 0x02)
			p->read_reg_select = value & 1;
		if (value & 0x40)
			p->special_mask = value >> 5 & 1;
	} else {
		write_ocw2(p, value);
	}
}

static void write_data(struct x86_pic *p, uint8_t value)
{
	switch (p->init_state) {
	case 0:
		p->imr = value;
		break;
	case 1:
		p->irq_base = value & 0xF8;
		p->init_state = 2;
		break;
	case 2: /* who hangs where is fixed */
		p->init_state = p->init4 ? 3 : 0;
		break;
	default:
		p->special_fully_nested = value >> 4 & 1;
		p->auto_eoi = value >> 1 & 1;
		p->init_state = 0;
		break;
	}
}

static uint8_t poll_read(struct soft_irq *irq, struct x86_pic *p)
{
	unsigned input = wanted(irq, p);

	p->poll = 0;
	if (input == NONE)
		return SPURIOUS;
	acknowledge(p, input);
	if (p == &irq->pic[1])
		irq->pic[0].irr &= (uint8_t) ~(1u << CASCADE);
	pic_update(irq);
	return (uint8_t)(0x80 | input);
}

uint8_t pic_read(struct soft_irq *irq, uint16_t port)
{
	struct x86_pic *p;

	if ((port & ~1u) == PORT_ELCR)
		return irq->pic[port & 1].elcr;
	p = &irq->pic[(port & ~1u) == PORT_SLAVE];
	if (p->poll)
		return poll_read(irq, p);
	if (port & 1)
		return p->imr;
	return p->read_reg_select ? p->isr : p->irr;
}

void pic_write(struct soft_irq *irq, uint16_t port, uint8_t value)
{
	struct x86_pic *p;

	if ((port & ~1u) == PORT_ELCR) {
		irq->pic[port & 1].elcr = value & irq->pic[port & 1].elcr_mask;
		return;
	}
	p = &irq->pic[(port & ~1u) == PORT_SLAVE];
	if (port & 1)
		write_data(p, value);
	else
		write_command(p, value);
	pic_update(irq);
}
