/*
 * A machine for tests of cpu/: one vCPU and some RAM, without the other parts of the software CPU, which are played here. Memory
 * accesses that are not RAM are written down.
 */
#pragma once

#include "vm/accel/soft/soft.h"

#define SYS_RAM_BYTES (4u << 20)
#define SYS_MAX_MMIO  16

struct sys_mmio {
	gpa_t gpa;
	bool is_write;
	unsigned size;
	uint64_t value;
};

struct sys_machine {
	struct soft soft;
	struct soft_cpu *cpu;
	uint8_t *ram; /* at guest-physical 0 */
	void *pages;
	unsigned n_mmio, n_code_writes;
	struct sys_mmio mmio[SYS_MAX_MMIO];
	gpa_t code_written_at;
	bool halted;
};

struct sys_machine *sys_machine_new(void);
void sys_machine_free(struct sys_machine *m);

static inline void sys_put64(struct sys_machine *m, gpa_t at, uint64_t v)
{
	__builtin_memcpy(m->ram + at, &v, 8);
}

static inline void sys_put32(struct sys_machine *m, gpa_t at, uint32_t v)
{
	__builtin_memcpy(m->ram + at, &v, 4);
}

static inline uint64_t sys_get64(struct sys_machine *m, gpa_t at)
{
	uint64_t v;

	__builtin_memcpy(&v, m->ram + at, 8);
	return v;
}

static inline uint32_t sys_get32(struct sys_machine *m, gpa_t at)
{
	return (uint32_t)sys_get64(m, at);
}

/* A vector that a statement raised, or -1. */
#define SYS_RAISED(m, statement)                                                                   \
	(setjmp((m)->cpu->unwind) == 0 ? ({                                                        \
		statement;                                                                         \
		-1;                                                                                \
	})                                                                                         \
				       : (m)->cpu->fault.vector)

/* Executes one instruction from its bytes, as the loop does: the vector raised, -1, or -2 when it is no instruction of cpu/. */
int sys_execute(struct sys_machine *m, const uint8_t *bytes, size_t n);

/* Protected mode with flat segments at a privilege level, GDT at SYS_GDT (see sys_machine.c), paging off. */
#define SYS_GDT 0x1000u
#define SYS_IDT 0x2000u
#define SYS_TSS 0x3000u
enum { /* selectors of that GDT */
       SYS_CODE32 = 0x08,
       SYS_DATA32 = 0x10,
       SYS_USER_CODE32 = 0x18 | 3,
       SYS_USER_DATA32 = 0x20 | 3,
       SYS_CODE64 = 0x28,
       SYS_USER_CODE64 = 0x30 | 3,
       SYS_TSS_SEL = 0x38, /* 16 bytes */
       SYS_CODE16 = 0x48,
       SYS_FREE = 0x50, /* for the test's own, up to 0xF8 */
};
void sys_protected(struct sys_machine *m, unsigned cpl);
/* Long mode, identity-mapped by a 1 GiB page for everybody, tables at 0x10000. */
void sys_long(struct sys_machine *m, unsigned cpl);
/* An interrupt gate; type 14 or 15 (6, 7). */
void sys_gate(struct sys_machine *m, unsigned vector, uint16_t selector, uint64_t offset,
	      unsigned type, unsigned dpl, unsigned ist);
uint64_t sys_descriptor(uint32_t base, uint32_t limit, unsigned attr);
