#include "rig.h"

static void rig_access(void *opaque, void *data, unsigned size, bool is_write)
{
	struct rig *r = opaque;

	atomic_fetch_add(&r->accesses, 1);
	if (!is_write)
		memset(data, 0xFF, size);
}

static void rig_pio(void *opaque, unsigned vcpu, uint16_t port, bool is_write, void *data,
		    unsigned size)
{
	rig_access(opaque, data, size, is_write);
}

static void rig_mmio(void *opaque, unsigned vcpu, gpa_t addr, bool is_write, void *data,
		     unsigned size)
{
	rig_access(opaque, data, size, is_write);
}

void rig_open(struct rig *r, unsigned n, bool interpret)
{
	const struct gmem_config mem = {.ram_bytes = 4 * MIB};
	struct accel_config config = {
		.kind = ACCEL_SOFT,
		.n_vcpus = n,
		.sockets = 1,
		.cores = n,
		.threads = 1,
		.interpret = interpret,
		.handlers = {.pio = rig_pio, .mmio = rig_mmio, .opaque = r},
	};
	const struct gmem_region *regions;
	struct error err = ERROR_INIT;

	memset(r, 0, sizeof(*r));
	r->n = n;
	if (soft_accel_ops.open(&config, &r->accel, &err) < 0)
		fail_msg("%s", err.text);
	r->soft = soft_of(r->accel);
	r->irq = r->soft->irq;
	assert_int_equal(gmem_new(&mem, &r->mem, &err), 0);
	gmem_regions(r->mem, &regions);
	assert_int_equal(soft_map(r->accel, regions, &err), 0);
	for (unsigned i = 0; i < n; i++) {
		struct accel_vcpu *vcpu;

		if (soft_accel_ops.vcpu_new(r->accel, i, &vcpu, &err) < 0)
			fail_msg("%s", err.text);
		r->cpu[i] = soft_cpu_of(vcpu);
	}
}

void rig_init(struct rig *r, unsigned n)
{
	rig_open(r, n, false);
}

void rig_fini(struct rig *r)
{
	for (unsigned i = 0; i < r->n; i++)
		soft_accel_ops.vcpu_free(&r->cpu[i]->base);
	soft_accel_ops.close(r->accel);
	gmem_free(r->mem);
}

void rig_time(struct rig *r, uint64_t ns)
{
	clock_freeze(r->soft);
	pthread_mutex_lock(&r->irq->lock);
	r->irq->frozen_ns = ns;
	pthread_mutex_unlock(&r->irq->lock);
}

uint32_t rig_mmio_read(struct soft_cpu *cpu, gpa_t gpa)
{
	uint8_t data[4];

	soft_mmio(cpu, gpa, false, data, 4);
	return (uint32_t)le_load(data, 4);
}

void rig_mmio_write(struct soft_cpu *cpu, gpa_t gpa, uint32_t value)
{
	uint8_t data[4];

	le_store(data, 4, value);
	soft_mmio(cpu, gpa, true, data, 4);
}

uint8_t rig_in(struct rig *r, uint16_t port)
{
	uint8_t value;

	soft_pio(r->cpu[0], port, false, &value, 1);
	return value;
}

void rig_out(struct rig *r, uint16_t port, uint8_t value)
{
	soft_pio(r->cpu[0], port, true, &value, 1);
}

uint32_t rig_lapic_read(struct soft_cpu *cpu, uint32_t offset)
{
	return rig_mmio_read(cpu, RIG_LAPIC + offset);
}

void rig_lapic_write(struct soft_cpu *cpu, uint32_t offset, uint32_t value)
{
	rig_mmio_write(cpu, RIG_LAPIC + offset, value);
}

uint32_t rig_ioapic_read(struct rig *r, unsigned index)
{
	rig_mmio_write(r->cpu[0], IOAPIC_BASE, index);
	return rig_mmio_read(r->cpu[0], IOAPIC_BASE + 0x10);
}

void rig_ioapic_write(struct rig *r, unsigned index, uint32_t value)
{
	rig_mmio_write(r->cpu[0], IOAPIC_BASE, index);
	rig_mmio_write(r->cpu[0], IOAPIC_BASE + 0x10, value);
}

void rig_pin(struct rig *r, unsigned pin, uint8_t dest, uint32_t low)
{
	rig_ioapic_write(r, 0x11 + 2 * pin, (uint32_t)dest << 24);
	rig_ioapic_write(r, 0x10 + 2 * pin, low);
}

void rig_enable(struct rig *r)
{
	for (unsigned i = 0; i < r->n; i++)
		rig_lapic_write(r->cpu[i], LAPIC_SVR, 0x1FF);
}

int rig_take(struct soft_cpu *cpu)
{
	return lapic_pending(cpu) ? lapic_take(cpu) : -1;
}

unsigned rig_requests(struct soft_cpu *cpu)
{
	return atomic_exchange(&cpu->request, 0);
}
