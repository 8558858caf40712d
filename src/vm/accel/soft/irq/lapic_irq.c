/*
 * The local APIC's interrupts: requests, priorities, service, and messages between APICs. (SDM volume 3, sections 11.6 to 11.8.)
 *
 * Anybody sets bits of the request and trigger-mode registers, atomically; service and priorities are the vCPU's own.
 */
#include "vm/accel/soft/irq/irq_int.h"

#define ERROR_SEND_VECTOR    (1u << 5)
#define ERROR_RECEIVE_VECTOR (1u << 6)

/* The highest bit of a 256-bit register, or -1. */
static int highest(const struct soft_lapic *l, uint32_t offset)
{
	for (int i = 7; i >= 0; i--) {
		uint32_t word = atomic_load_explicit(&l->reg[(offset >> 4) + (uint32_t)i],
						     memory_order_relaxed);

		if (word)
			return i * 32 + 31 - __builtin_clz(word);
	}
	return -1;
}

static _Atomic uint32_t *word_of(struct soft_lapic *l, uint32_t offset, uint8_t vector)
{
	return &l->reg[(offset >> 4) + vector / 32u];
}

static uint32_t ppr_of(const struct soft_lapic *l)
{
	uint32_t tpr = lapic_get(l, LAPIC_TPR) & 0xFF;
	int service = highest(l, LAPIC_ISR);
	uint32_t class = service < 0 ? 0 : (uint32_t)service & 0xF0;

	return (tpr & 0xF0) >= class ? tpr : class;
}

void lapic_update_ppr(struct soft_cpu *cpu)
{
	lapic_set(cpu->lapic, LAPIC_PPR, ppr_of(cpu->lapic));
}

bool lapic_takes_pic(const struct soft_lapic *l)
{
	uint32_t lint0 = lapic_get(l, LAPIC_LVT0);

	/* Without an APIC the line is the processor's own pin, and only the boot processor's is connected. */
	if (!lapic_on(l))
		return atomic_load_explicit(&l->base, memory_order_relaxed) & APIC_BASE_BSP;
	return !(lint0 & LVT_MASKED) && (lint0 >> 8 & 7) == APIC_EXTINT;
}

bool lapic_pending(struct soft_cpu *cpu)
{
	struct soft_lapic *l = cpu->lapic;
	int vector;

	if (atomic_load_explicit(&cpu->soft->irq->pic_intr, memory_order_acquire) &&
	    lapic_takes_pic(l))
		return true;
	if (!lapic_on(l))
		return false;
	vector = highest(l, LAPIC_IRR);
	return vector >= 0 && ((uint32_t)vector & 0xF0) > (ppr_of(l) & 0xF0);
}

int lapic_take(struct soft_cpu *cpu)
{
	struct soft_lapic *l = cpu->lapic;
	struct soft_irq *irq = cpu->soft->irq;
	int vector;

	if (atomic_load_explicit(&irq->pic_intr, memory_order_acquire) && lapic_takes_pic(l)) {
		uint8_t from_pic;

		pthread_mutex_lock(&irq->lock);
		from_pic = pic_take(irq);
		pthread_mutex_unlock(&irq->lock);
		return from_pic;
	}
	vector = lapic_on(l) ? highest(l, LAPIC_IRR) : -1;
	if (vector < 0 || ((uint32_t)vector & 0xF0) <= (ppr_of(l) & 0xF0))
		return -1;
	atomic_fetch_and(word_of(l, LAPIC_IRR, (uint8_t)vector), ~(1u << (vector & 31)));
	atomic_fetch_or(word_of(l, LAPIC_ISR, (uint8_t)vector), 1u << (vector & 31));
	lapic_update_ppr(cpu);
	return vector;
}

void lapic_eoi(struct soft_cpu *cpu)
{
	struct soft_lapic *l = cpu->lapic;
	struct soft_irq *irq = cpu->soft->irq;
	int vector = highest(l, LAPIC_ISR);
	uint32_t bit;

	if (vector < 0)
		return;
	bit = 1u << (vector & 31);
	atomic_fetch_and(word_of(l, LAPIC_ISR, (uint8_t)vector), ~bit);
	lapic_update_ppr(cpu);
	if ((atomic_load(word_of(l, LAPIC_TMR, (uint8_t)vector)) & bit) &&
	    !(lapic_get(l, LAPIC_SVR) & SVR_NO_EOI)) {
		pthread_mutex_lock(&irq->lock);
		ioapic_eoi(irq, (uint8_t)vector);
		pthread_mutex_unlock(&irq->lock);
	}
	if (lapic_pending(cpu))
		soft_request(cpu, REQ_INTERRUPT);
}

void lapic_post(struct soft_cpu *cpu, uint8_t vector, bool level)
{
	struct soft_lapic *l = cpu->lapic;
	uint32_t bit = 1u << (vector & 31);

	if (level)
		atomic_fetch_or(word_of(l, LAPIC_TMR, vector), bit);
	else
		atomic_fetch_and(word_of(l, LAPIC_TMR, vector), ~bit);
	/* One that waits already has been announced. */
	if (!(atomic_fetch_or(word_of(l, LAPIC_IRR, vector), bit) & bit))
		soft_request(cpu, REQ_INTERRUPT);
}

void lapic_error(struct soft_cpu *cpu, uint32_t bits)
{
	/* An error in the error's own vector ends here: its bit is set by then. */
	if ((atomic_fetch_or(&cpu->lapic->errors, bits) & bits) != bits)
		lapic_local(cpu, LAPIC_LVTERR);
}

/* A message that has arrived; false when this APIC does not take it. */
static bool receive(struct soft_cpu *cpu, uint8_t mode, uint8_t vector, bool level)
{
	switch (mode) {
	case APIC_FIXED:
	case APIC_LOWEST:
		if (!(lapic_get(cpu->lapic, LAPIC_SVR) & SVR_ENABLED))
			return false;
		if (vector < 16) {
			lapic_error(cpu, ERROR_RECEIVE_VECTOR);
			return false;
		}
		lapic_post(cpu, vector, level);
		return true;
	case APIC_NMI:
		soft_post_nmi(cpu);
		return true;
	case APIC_INIT:
		soft_request(cpu, REQ_INIT);
		return true;
	case APIC_SIPI:
		atomic_store(&cpu->sipi_vector, vector);
		soft_request(cpu, REQ_SIPI);
		return true;
	default: /* there is no SMM, and no second 8259A pair */
		return false;
	}
}

bool lapic_local(struct soft_cpu *cpu, uint32_t lvt)
{
	uint32_t entry = lapic_get(cpu->lapic, lvt);
	/* Timer and error have no delivery mode. */
	uint8_t mode = lvt == LAPIC_LVTT || lvt == LAPIC_LVTERR ? APIC_FIXED : entry >> 8 & 7;

	if ((entry & LVT_MASKED) || !lapic_on(cpu->lapic))
		return false;
	return receive(cpu, mode, (uint8_t)entry, false);
}

static bool matches_logical(const struct soft_lapic *l, uint32_t dest)
{
	uint32_t ldr = lapic_get(l, LAPIC_LDR);

	if (lapic_x2(l))
		return dest >> 16 == ldr >> 16 && (dest & ldr & 0xFFFF) != 0;
	ldr >>= 24;
	if (lapic_get(l, LAPIC_DFR) >> 28 == 0xF) /* flat */
		return (dest & ldr & 0xFF) != 0;
	/* Cluster 15 is all of them. */
	return ((dest >> 4 & 15) == ldr >> 4 || (dest >> 4 & 15) == 15) && (dest & ldr & 15) != 0;
}

static bool matches(const struct soft_lapic *l, const struct apic_message *m)
{
	if (m->dest == UINT32_MAX)
		return true;
	if (m->logical)
		return matches_logical(l, m->dest);
	/* No identifier is 255: messages with eight bits of destination mean everybody by it. */
	return m->dest == l->id || m->dest == 0xFF;
}

static bool is_target(struct soft_cpu *cpu, const struct soft_cpu *sender,
		      const struct apic_message *m)
{
	if (!cpu || !lapic_on(cpu->lapic))
		return false;
	switch (m->shorthand) {
	case APIC_SELF:
		return cpu == sender;
	case APIC_ALL:
		return true;
	case APIC_OTHERS:
		return cpu != sender;
	default:
		return matches(cpu->lapic, m);
	}
}

/* One of those named: they take turns. */
static bool send_lowest(struct soft *soft, struct soft_cpu *sender, const struct apic_message *m)
{
	unsigned n = soft->accel.config.n_vcpus;
	unsigned last = atomic_load_explicit(&soft->irq->last_lowest, memory_order_relaxed);

	for (unsigned i = 1; i <= n; i++) {
		unsigned at = (last + i) % n;
		struct soft_cpu *cpu = soft->cpus[at];

		if (!is_target(cpu, sender, m) || !receive(cpu, m->mode, m->vector, m->level))
			continue;
		atomic_store_explicit(&soft->irq->last_lowest, at, memory_order_relaxed);
		return true;
	}
	return false;
}

bool apic_send(struct soft *soft, struct soft_cpu *sender, const struct apic_message *m)
{
	bool taken = false;

	if (m->mode == APIC_LOWEST)
		return send_lowest(soft, sender, m);
	for (unsigned i = 0; i < soft->accel.config.n_vcpus; i++) {
		struct soft_cpu *cpu = soft->cpus[i];

		if (is_target(cpu, sender, m))
			taken |= receive(cpu, m->mode, m->vector, m->level);
	}
	return taken;
}

void lapic_command(struct soft_cpu *cpu, uint32_t command, uint32_t dest)
{
	struct apic_message m = {
		.dest = dest,
		.logical = command >> 11 & 1,
		.level = command >> 15 & 1,
		.vector = (uint8_t)command,
		.mode = command >> 8 & 7,
		.shorthand = command >> 18 & 3,
	};

	/* INIT level de-assert: of no effect for decades. */
	if (m.mode == APIC_INIT && m.level && !(command >> 14 & 1))
		return;
	if ((m.mode == APIC_FIXED || m.mode == APIC_LOWEST) && m.vector < 16) {
		lapic_error(cpu, ERROR_SEND_VECTOR);
		return;
	}
	/* An interrupt from processor to processor is an edge, whatever the bit says. */
	m.level = false;
	apic_send(cpu->soft, cpu, &m);
}
