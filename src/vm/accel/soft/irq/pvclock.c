/*
 * The paravirtual clock that Linux and BSD guests know as kvmclock, and the CPUID leaves that announce it. (Linux:
 * Documentation/virt/kvm/x86/msr.rst and cpuid.rst.)
 *
 * A guest names a structure in its memory; in it stand a moment of its time stamp counter, the machine time then, and the scale
 * between the two. One base serves all vCPUs, so the flag that says "consistent across vCPUs" is true. The wall clock is written once,
 * when asked for.
 *
 * vCPU's thread, or the main thread while vCPUs are stopped.
 */
#include <string.h>

#include "base/clock.h"
#include "base/endian.h"
#include "vm/accel/soft/irq/irq_int.h"

#define MSR_WALL_OLD  0x11u
#define MSR_CLOCK_OLD 0x12u
#define MSR_WALL      0x4B564D00u
#define MSR_CLOCK     0x4B564D01u

#define CLOCK_ENABLED 1u

#define FEATURE_CLOCK        (1u << 0)  /* registers 0x11, 0x12 */
#define FEATURE_NO_IO_DELAY  (1u << 1)  /* port 0x80 needs no delay */
#define FEATURE_CLOCK2       (1u << 3)  /* registers 0x4b564d00, 01 */
#define FEATURE_CLOCK_STABLE (1u << 24) /* the flag below may be believed */

#define LEAF_SIGNATURE 0x40000000u
#define LEAF_FEATURES  0x40000001u
#define LEAF_FREQUENCY 0x40000010u
#define APIC_BUS_KHZ   1000000u /* the local APIC's timer counts nanoseconds */

#define FLAG_STABLE  1u
#define FLAG_STOPPED 2u /* the guest was stopped: its watchdogs forgive the gap */

/* In guest memory. The version is odd while it is being written. */
struct pv_clock {
	le32 version, pad;
	le64 tsc;       /* of this vCPU */
	le64 system_ns; /* then */
	le32 mul;
	int8_t shift;
	uint8_t flags;
	uint8_t pad2[2];
};
_Static_assert(sizeof(struct pv_clock) == 32, "as guests know it");

struct pv_wall {
	le32 version, sec, nsec;
};

void pvclock_update(struct soft_cpu *cpu, bool stopped)
{
	struct soft_lapic *l = cpu->lapic;
	const struct soft_irq *irq = cpu->soft->irq;
	gpa_t gpa = l->clock_msr & ~(uint64_t)CLOCK_ENABLED;
	struct pv_clock clock = {0};
	le32 version;

	if (!(l->clock_msr & CLOCK_ENABLED))
		return;
	version = le32_of(l->clock_version + 1);
	soft_write_phys(cpu, gpa, &version, sizeof(version));
	clock.version = version;
	clock.tsc = le64_of(irq->base_tsc + cpu->tsc_offset);
	clock.system_ns = le64_of(irq->base_ns);
	clock.mul = le32_of(irq->clock_mul);
	clock.shift = irq->clock_shift;
	clock.flags = FLAG_STABLE | (stopped ? FLAG_STOPPED : 0);
	soft_write_phys(cpu, gpa, &clock, sizeof(clock));
	l->clock_version += 2;
	version = le32_of(l->clock_version);
	soft_write_phys(cpu, gpa, &version, sizeof(version));
}

/* The wall clock at machine time 0. */
static void wall_write(struct soft_cpu *cpu)
{
	gpa_t gpa = cpu->lapic->wall_msr;
	uint64_t start = clock_realtime_ns() - clock_now(cpu->soft->irq);
	struct pv_wall wall = {.version = le32_of(1)};

	soft_write_phys(cpu, gpa, &wall.version, sizeof(wall.version));
	wall.sec = le32_of((uint32_t)(start / NSEC_PER_SEC));
	wall.nsec = le32_of((uint32_t)(start % NSEC_PER_SEC));
	soft_write_phys(cpu, gpa, &wall, sizeof(wall));
	wall.version = le32_of(2);
	soft_write_phys(cpu, gpa, &wall.version, sizeof(wall.version));
}

bool pvclock_rdmsr(struct soft_cpu *cpu, uint32_t index, uint64_t *ret)
{
	switch (index) {
	case MSR_WALL_OLD:
	case MSR_WALL:
		*ret = cpu->lapic->wall_msr;
		return true;
	case MSR_CLOCK_OLD:
	case MSR_CLOCK:
		*ret = cpu->lapic->clock_msr;
		return true;
	default:
		return false;
	}
}

bool pvclock_wrmsr(struct soft_cpu *cpu, uint32_t index, uint64_t value)
{
	switch (index) {
	case MSR_WALL_OLD:
	case MSR_WALL:
		cpu->lapic->wall_msr = value & ~3ULL;
		/* A state that is being restored has the guest's structure in its memory already. */
		if (!cpu->soft->irq->frozen)
			wall_write(cpu);
		return true;
	case MSR_CLOCK_OLD:
	case MSR_CLOCK:
		cpu->lapic->clock_msr = value;
		if (!cpu->soft->irq->frozen)
			pvclock_update(cpu, false);
		return true;
	default:
		return false;
	}
}

void irq_cpuid(struct soft_cpu *cpu, uint32_t leaf, uint32_t ret[4])
{
	static const char signature[12] = "KVMKVMKVM";

	memset(ret, 0, 4 * sizeof(ret[0]));
	switch (leaf) {
	case LEAF_SIGNATURE:
		ret[0] = LEAF_FREQUENCY;
		memcpy(&ret[1], signature, sizeof(signature));
		break;
	case LEAF_FEATURES:
		ret[0] =
			FEATURE_CLOCK | FEATURE_NO_IO_DELAY | FEATURE_CLOCK2 | FEATURE_CLOCK_STABLE;
		break;
	case LEAF_FREQUENCY:
		ret[0] = (uint32_t)cpu->soft->tsc_khz;
		ret[1] = APIC_BUS_KHZ;
		break;
	default:
		break;
	}
}
