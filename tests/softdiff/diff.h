/*
 * The differential tester of the software CPU: random instructions in random states run on the host's processor and on the
 * software CPU, and everything that an instruction can change is compared.
 *
 * Both see the same linear addresses: an unmapped page, two pages to write, a read-only page, an unmapped page; and pages of code. A case is one
 * or a few instructions; natively a jump behind them leads back. One thread; state in this process that the functions share is their own.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "vm/accel/soft/isa/insn.h"

#define PAGE        4096u
#define WINDOW      0x20001000ULL /* two pages to write */
#define WINDOW_SIZE (2 * PAGE)
#define READ_ONLY   (WINDOW + WINDOW_SIZE) /* one page */
#define CODE        0x20100000ULL
#define CODE_SIZE   (16 * PAGE)

#define MAX_INSNS 8
#define MAX_CODE  (MAX_INSNS * INSN_MAX_BYTES)
#define EXIT_MAX  16 /* bytes of the jump behind the code */

#define FPU_AREA 832

/* RFLAGS bits that a case may set. */
#define FLAGS_STATUS 0x8d5u
#define FLAGS_DF     0x400u
#define FLAGS_ALWAYS 0x202u

/* Who executes on the software side. */
enum engine {
	ENGINE_STEP, /* the interpreter, an instruction at a time */
	ENGINE_INTERPRET,
	ENGINE_TRANSLATE,
	N_ENGINES
};

struct diff_state {
	_Alignas(64) uint8_t fpu[1024]; /* standard XSAVE format */
	uint64_t gpr[16];
	uint64_t rip, rflags, gs_base;
};

struct diff_outcome {
	struct diff_state state;
	int vector; /* -1: none */
	uint32_t error;
	uint64_t address; /* of a page fault */
};

struct diff_case {
	struct diff_state before;
	uint8_t code[MAX_CODE];
	struct insn insn[MAX_INSNS];
	unsigned offset[MAX_INSNS + 1]; /* where each begins; then the length */
	unsigned n;
	enum insn_mode mode;
};

/* --- random.c --- */
struct rng {
	uint64_t s;
};
uint64_t rng_next(struct rng *r);
unsigned rng_below(struct rng *r, unsigned n);
bool rng_chance(struct rng *r, unsigned percent);
uint64_t rng_value(struct rng *r); /* an interesting one */
void rng_fill(struct rng *r, uint8_t *to,
	      size_t n); /* interesting vector elements; whole 16 bytes */
void rng_state(struct rng *r, struct diff_state *state); /* all but rip */

/* --- generate.c --- */
int gen_init(void);
/* Why a form is not tested here; NULL: it is. */
const char *gen_excluded(const struct insn_form *form);
/* One instruction of this form, and registers changed so that it finds its operands. at: linear address of its first byte. false: no luck. */
bool gen_insn(struct rng *r, unsigned form, enum insn_mode mode, cpu_features_t features,
	      uint64_t at, struct diff_state *state, uint8_t *code, struct insn *ret);

/* --- fix.c: registers and memory so that an instruction's operands are where something is --- */
void fix_operands(struct rng *r, struct insn *insn, uint8_t *code, unsigned modrm_at, uint64_t at,
		  struct diff_state *state);

/* --- kept.c --- */
unsigned kept_count(void);
/* Makes a case of a kept encoding, in the state that c->before is. false: it is none in this mode, or with these features. */
bool kept_case(struct rng *r, unsigned index, enum insn_mode mode, cpu_features_t features,
	       struct diff_case *c);

/* --- native.c --- */
/* Sanitizers map memory of their own where cases expect none: under them the software side runs alone. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define NATIVE 0
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define NATIVE 0
#endif
#endif
#ifndef NATIVE
#define NATIVE 1
#endif
int native_init(void);
/* Both sides' memory as the native side sees it; the guest's pages follow it with guest_poke(). */
void native_poke(uint64_t linear, const void *from, size_t n);
const uint8_t *native_window(void);
void native_run(const struct diff_case *c, struct diff_outcome *ret);

/* --- guest.c --- */
int guest_init(enum engine engine);
cpu_features_t guest_features(void);
void guest_poke(uint64_t linear, const void *from, size_t n);
const uint8_t *guest_window(void);

/* --- engine.c --- */
void guest_run(const struct diff_case *c, enum engine engine, struct diff_outcome *ret);

/* --- compare.c --- */
/* true: alike. Otherwise says into f what differs (f may be NULL). */
bool compare(const struct diff_case *c, const struct diff_outcome *native,
	     const struct diff_outcome *software, enum engine engine, FILE *f);
void print_case(FILE *f, const struct diff_case *c);
