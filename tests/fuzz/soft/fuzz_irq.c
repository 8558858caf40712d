/*
 * The software CPU's interrupt controllers, timers and clock as a guest of two vCPUs reaches them: memory, ports, model-specific registers;
 * lines and messages from devices in between; what can be delivered is taken; now and then all of it moves to another machine.
 */
#include "unit/accel/soft/rig.h"

static struct rig rigs[2];
static struct x86_vcpu_state state;
static const uint8_t *at, *end;

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

static uint64_t take(unsigned size)
{
	uint64_t v = 0;

	for (unsigned i = 0; i < size && at < end; i++)
		v |= (uint64_t)*at++ << 8 * i;
	return v;
}

static void move(struct rig *from, struct rig *to)
{
	struct x86_machine_state machine;
	struct error err = ERROR_INIT;

	soft_paused(from->accel);
	soft_machine_get_state(from->accel, &machine, &err);
	if (soft_machine_set_state(to->accel, &machine, &err) < 0)
		abort();
	for (unsigned i = 0; i < from->n; i++) {
		soft_vcpu_get_state(&from->cpu[i]->base, &state, &err);
		if (soft_vcpu_set_state(&to->cpu[i]->base, &state, &err) < 0)
			abort();
	}
	soft_resume(from->accel);
	soft_resume(to->accel);
}

static void take_due(struct soft_cpu *cpu)
{
	lapic_timer_poll(cpu);
	rig_take(cpu);
}

static void step(struct rig *r)
{
	static const uint32_t msrs[] = {0x10, 0x1B, 0x3B, 0x6E0, 0x12, 0x4B564D00, 0x4B564D01};
	static const uint8_t ports[] = {0x20, 0x21, 0xA0, 0xA1, 0x40, 0x41, 0x42, 0x43, 0x61};
	uint8_t what = (uint8_t)take(1), data[8] = {0};
	struct soft_cpu *cpu = r->cpu[what >> 3 & 1];
	unsigned size = 1u << (what >> 5 & 3), kind = what & 7;
	bool write = what & 0x10;
	uint64_t where = take(2), value = write ? take(8) : 0;

	le_store(data, 8, value);
	if (kind < 2)
		soft_mmio(cpu, (kind ? IOAPIC_BASE : RIG_LAPIC) + (where & 0xFFF), write, data,
			  size);
	else if (kind == 2)
		soft_pio(cpu,
			 where & 0x8000 ? 0x4D0 | (where & 1) : ports[where % ARRAY_SIZE(ports)],
			 write, data, MIN(size, 4u));
	else if (kind == 5)
		soft_irq_line(r->accel, (unsigned)where % X86_N_GSIS, write);
	else if (kind == 6)
		soft_msi(r->accel, RIG_LAPIC | (value & 0xFFFFF), (uint32_t)where);
	else if (kind == 7)
		take_due(cpu);
	else if (write)
		irq_wrmsr(cpu, kind == 3 ? msrs[where % ARRAY_SIZE(msrs)] : 0x800 + where % 256,
			  value);
	else
		irq_rdmsr(cpu, kind == 3 ? msrs[where % ARRAY_SIZE(msrs)] : 0x800 + where % 256,
			  &value);
}

/* What of a reset is slow, memory and registers, is left out. */
static void begin(struct rig *r)
{
	if (!r->accel)
		rig_init(r, 2);
	soft_irq_reset(r->soft);
	for (unsigned i = 0; i < r->n; i++) {
		lapic_reset(r->cpu[i], true);
		r->cpu[i]->lapic->clock_msr = 0;
		rig_requests(r->cpu[i]);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
	at = bytes;
	end = bytes + n;
	begin(&rigs[0]);
	begin(&rigs[1]);
	rig_enable(&rigs[0]);
	while (at < end)
		step(&rigs[0]);
	if (n % 16 == 0)
		move(&rigs[0], &rigs[1]);
	return 0;
}
