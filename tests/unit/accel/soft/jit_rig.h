/*
 * A software machine in long mode for tests of the translator: code at one physical place and two linear ones, data pages of every kind
 * (also read-only, not present, and not RAM), handlers for all exceptions that halt. The same state can be run by the interpreter and by the
 * translator, and what comes out compared.
 */
#pragma once

#include "rig.h"

#include "vm/accel/soft/jit/jit_int.h"

#define JR_CODE       0x10000u /* 8 pages, linear = physical */
#define JR_CODE_PAGES 8u
#define JR_ALIAS      0x600000u /* the same pages */
#define JR_DATA       0x20000u  /* 16 pages */
#define JR_DATA_PAGES 16u
#define JR_READ_ONLY  0x2c000u /* of them */
#define JR_ABSENT     0x2d000u
#define JR_DEVICE     0x2e000u /* leads to no RAM */
#define JR_STACK      0x32000u /* of exception handlers; grows down */
#define JR_RAM        0x32000u /* all that is mapped, one to one */
#define JR_HANDLERS   0x4000u  /* 256 handlers of 16 bytes: HLT */

struct jr {
	struct rig rig;
	struct soft *soft;
	struct soft_cpu *cpu;
	uint8_t *ram;
	bool own_jit;
	unsigned cpl;
	bool false_addresses; /* wanted by the test */
};

/* What an instruction can change. */
struct jr_state {
	uint64_t gpr[16], rip;
	uint32_t rflags;
	uint16_t status;
	uint8_t fpu[1024];
	uint64_t cr2;
	uint8_t ram[JR_RAM];
};

void jr_init(struct jr *r, unsigned n_vcpus);
void jr_fini(struct jr *r);
/* Puts a vCPU into long mode at a privilege level. */
void jr_long(struct jr *r, struct soft_cpu *cpu, unsigned cpl);
void jr_set_code(struct jr *r, unsigned off, const void *bytes, size_t n);
void jr_load(struct jr *r, const struct jr_state *state);
void jr_save(struct jr *r, struct jr_state *ret);
/* Runs until a HLT; false when it takes too many rounds. */
bool jr_interpret(struct jr *r);
bool jr_translate(struct jr *r);

uint64_t jr_random(void);
void jr_seed(uint64_t seed);
static inline unsigned jr_pick(unsigned n)
{
	return (unsigned)(jr_random() >> 20) % n;
}
