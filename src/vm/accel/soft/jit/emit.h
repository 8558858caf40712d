/*
 * Encoder of x86-64 instructions for translated code. Writes into a buffer that is mapped elsewhere for execution; relative addresses are
 * made for the place of execution. Running out of space sets `full`, and nothing is written from then on. Any thread; no state of its own.
 * (Intel SDM volume 2, chapter 2.)
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum host_reg {
	H_RAX,
	H_RCX,
	H_RDX,
	H_RBX,
	H_RSP,
	H_RBP,
	H_RSI,
	H_RDI,
	H_R8,
	H_R9,
	H_R10,
	H_R11,
	H_R12,
	H_R13,
	H_R14,
	H_R15,
	H_NONE = 0xff
};

enum cond_code { CC_O, CC_NO, CC_B, CC_AE, CC_E, CC_NE, CC_BE, CC_A, CC_S, CC_NS, CC_P, CC_NP };

/* ModRM.reg of the immediate group, and opcode / 8 of the register forms. */
enum alu_op { ALU_ADD, ALU_OR, ALU_ADC, ALU_SBB, ALU_AND, ALU_SUB, ALU_XOR, ALU_CMP };

struct emit {
	uint8_t *p, *start, *end; /* where is written */
	ptrdiff_t exec;           /* what is written at p is executed at p + exec */
	bool full;
};

/* The right-hand side of a ModRM: a register, or memory. */
struct emit_rm {
	bool is_reg, gs;
	uint8_t reg;
	uint8_t base, index, scale; /* H_NONE: none */
	int32_t disp;
};

/* An encoding without its operands. */
struct emit_enc {
	bool vex, lock, opsize, w, l;
	bool byte_reg,
		byte_rm; /* a byte register stands in reg, in rm: registers 4 to 7 need a REX prefix */
	uint8_t pp;      /* 0, 1: 66, 2: F3, 3: F2 */
	uint8_t map, opcode, vvvv;
	uint8_t imm_bytes;
	uint64_t imm;
};

static inline struct emit_rm rm_reg(unsigned reg)
{
	return (struct emit_rm){.is_reg = true, .reg = (uint8_t)reg};
}

static inline struct emit_rm rm_mem(unsigned base, int32_t disp)
{
	return (struct emit_rm){.base = (uint8_t)base, .index = H_NONE, .scale = 1, .disp = disp};
}

static inline struct emit_rm rm_index(unsigned base, unsigned index, unsigned scale, int32_t disp)
{
	return (struct emit_rm){.base = (uint8_t)base,
				.index = (uint8_t)index,
				.scale = (uint8_t)scale,
				.disp = disp};
}

/* The vCPU's field at an offset: %gs points at it. */
static inline struct emit_rm rm_gs(size_t offset)
{
	return (struct emit_rm){
		.gs = true, .base = H_NONE, .index = H_NONE, .scale = 1, .disp = (int32_t)offset};
}

static inline const uint8_t *emit_here(const struct emit *e)
{
	return e->p + e->exec;
}

void emit_init(struct emit *e, uint8_t *rw, size_t bytes, ptrdiff_t exec);
void emit_u8(struct emit *e, unsigned byte);
void emit_u32(struct emit *e, uint32_t value);
void emit_u64(struct emit *e, uint64_t value);
void emit_bytes(struct emit *e, const void *bytes, size_t n);
void emit_nops(struct emit *e, unsigned n);
void emit_align(struct emit *e, unsigned alignment);

/* Any instruction with a ModRM byte. */
void emit_insn(struct emit *e, const struct emit_enc *enc, unsigned reg, struct emit_rm rm);

/* size: 1, 2, 4, 8 bytes. */
void emit_mov_rr(struct emit *e, unsigned size, unsigned dst, unsigned src);
void emit_mov_ri(struct emit *e, unsigned dst, uint64_t value); /* all 64 bits */
void emit_load(struct emit *e, unsigned size, unsigned dst,
	       struct emit_rm src); /* 1, 2: zero-extended */
void emit_store(struct emit *e, unsigned size, struct emit_rm dst, unsigned src);
void emit_store_imm(struct emit *e, unsigned size, struct emit_rm dst, int32_t value);
void emit_lea(struct emit *e, unsigned size, unsigned dst, struct emit_rm src);
void emit_alu_rm(struct emit *e, enum alu_op op, unsigned size, unsigned dst, struct emit_rm src);
void emit_alu_mr(struct emit *e, enum alu_op op, unsigned size, struct emit_rm dst, unsigned src);
void emit_alu_ri(struct emit *e, enum alu_op op, unsigned size, struct emit_rm dst, int32_t value);
void emit_shr(struct emit *e, unsigned size, unsigned dst, unsigned count);
void emit_shl(struct emit *e, unsigned size, unsigned dst, unsigned count);
void emit_sar(struct emit *e, unsigned size, unsigned dst, unsigned count);
void emit_test_ri8(struct emit *e, unsigned reg, unsigned value);

/* Jumps with 32-bit displacements. target: a place of execution, or NULL: then the return value is the displacement for emit_patch(). */
uint8_t *emit_jmp(struct emit *e, const uint8_t *target);
uint8_t *emit_jcc(struct emit *e, unsigned cond, const uint8_t *target);
/* As above, the displacement at a multiple of four, so that it can be changed while others execute it. */
uint8_t *emit_jmp_aligned(struct emit *e, const uint8_t *target);
uint8_t *emit_jcc_aligned(struct emit *e, unsigned cond, const uint8_t *target);
void emit_call(struct emit *e, const void *target); /* through a register: rax is lost */
/* disp32 was returned by one of them: it now leads to target. */
void emit_patch(struct emit *e, uint8_t *disp32, const uint8_t *target);
void emit_patch_here(struct emit *e, uint8_t *disp32);
