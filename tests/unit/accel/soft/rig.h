/*
 * A software machine for tests of its controllers: vCPUs that nobody runs, and a clock that the test moves.
 */
#pragma once

#include "unit/test.h"

#include "base/bits.h"
#include "base/endian.h"
#include "vm/accel/soft/irq/irq_int.h"

#define RIG_VCPUS 4
#define RIG_LAPIC 0xFEE00000u

struct rig {
	struct accel *accel;
	struct soft *soft;
	struct soft_irq *irq;
	struct soft_cpu *cpu[RIG_VCPUS];
	struct gmem *mem;
	unsigned n;
	atomic_uint accesses; /* that reached the machine */
	unsigned steps;       /* the test's own */
};

void rig_init(struct rig *r, unsigned n_vcpus);
void rig_open(struct rig *r, unsigned n_vcpus, bool interpret);
void rig_fini(struct rig *r);
/* Stops machine time, and moves it. */
void rig_time(struct rig *r, uint64_t ns);

uint32_t rig_mmio_read(struct soft_cpu *cpu, gpa_t gpa);
void rig_mmio_write(struct soft_cpu *cpu, gpa_t gpa, uint32_t value);
uint8_t rig_in(struct rig *r, uint16_t port);
void rig_out(struct rig *r, uint16_t port, uint8_t value);
uint32_t rig_lapic_read(struct soft_cpu *cpu, uint32_t offset);
void rig_lapic_write(struct soft_cpu *cpu, uint32_t offset, uint32_t value);
uint32_t rig_ioapic_read(struct rig *r, unsigned index);
void rig_ioapic_write(struct rig *r, unsigned index, uint32_t value);
/* Pin's entry, low half last. */
void rig_pin(struct rig *r, unsigned pin, uint8_t dest, uint32_t low);
/* Turns the local APICs on, spurious vector 0xff. */
void rig_enable(struct rig *r);
/* What a processor with interrupts on would do: the vector taken, or -1. */
int rig_take(struct soft_cpu *cpu);
/* Its requests, taken. */
unsigned rig_requests(struct soft_cpu *cpu);
