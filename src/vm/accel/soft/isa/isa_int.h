/*
 * What the decoder and the tables that gen_isa.py makes share: one struct isa_line for each opcode that a form of the tables covers.
 * gen_isa.py mirrors the layout of the state word.
 */
#pragma once

#include "vm/accel/soft/isa/insn.h"

/* Where each constraint stands in the state word that a line is matched against. */
#define ISA_STATE_PP     0 /* 2 bits: mandatory prefix: none, 66, F3, F2 */
#define ISA_STATE_REG    2 /* 3 bits: ModRM.reg */
#define ISA_STATE_MOD3   5
#define ISA_STATE_RM     6 /* 3 bits: ModRM.rm */
#define ISA_STATE_W      9
#define ISA_STATE_L      10
#define ISA_STATE_MODE   11 /* 2 bits: enum insn_mode */
#define ISA_STATE_O      13 /* 2 bits: operand size 2, 4, 8 as 1, 2, 3 */
#define ISA_STATE_A      15 /* 2 bits: address size */
#define ISA_STATE_MODE64 17
#define ISA_STATE_B      18 /* REX.B */

/* Operand codes: the letters of the tables, and what stands for fixed operands. */
enum isa_code {
	ISA_E,
	ISA_G,
	ISA_M,
	ISA_R,
	ISA_I, /* zero-extended when b or w, otherwise sign-extended */
	ISA_K, /* sign-extended byte */
	ISA_J,
	ISA_S,
	ISA_C,
	ISA_D,
	ISA_O,
	ISA_A,
	ISA_Z,
	ISA_P,
	ISA_Q,
	ISA_N,
	ISA_V,
	ISA_W,
	ISA_U,
	ISA_H,
	ISA_L,
	ISA_B,
	ISA_ST,
	ISA_ONE,
	ISA_FIX_GPR,
	ISA_FIX_SEG,
	ISA_FIX_ST,
	ISA_FIX_VEC,
};

enum isa_size {
	ISA_SIZE_NONE,
	ISA_SIZE_B,
	ISA_SIZE_W,
	ISA_SIZE_D,
	ISA_SIZE_Q,
	ISA_SIZE_V, /* operand size */
	ISA_SIZE_Y, /* 4 or 8 by REX.W or VEX.W */
	ISA_SIZE_Z, /* operand size, at most 4 */
	ISA_SIZE_P, /* far pointer in memory: operand size + 2 */
	ISA_SIZE_S, /* descriptor table register in memory */
	ISA_SIZE_DQ,
	ISA_SIZE_QQ,
	ISA_SIZE_X, /* 16 or 32 by VEX.L */
	ISA_SIZE_T,
	ISA_SIZE_HALF, /* of a vector register as VEX.L has it */
	ISA_SIZE_QUARTER,
	ISA_SIZE_EIGHTH,
	ISA_N_SIZES
};

struct isa_operand {
	uint8_t code;        /* enum isa_code */
	uint8_t size;        /* enum isa_size */
	uint8_t memory_size; /* when it is in memory */
	uint8_t access;      /* INSN_READ | INSN_WRITE */
	uint8_t reg;         /* of the fixed ones */
};

#define ISA_LINE_BYTE   0x01 /* the operation is on bytes */
#define ISA_LINE_ANYMOD 0x02 /* ModRM.mod is not looked at: always a register */
#define ISA_LINE_VSIB   0x04 /* the index is a vector register */
#define ISA_LINE_MODRM  0x08
#define ISA_LINE_PP     0x10 /* 66, F3, F2 are part of the encoding */
#define ISA_LINE_COND   0x20
#define ISA_LINE_VVVV   0x40 /* VEX.vvvv is an operand; otherwise it must be 1111 */

struct isa_line {
	uint32_t mask, value;
	uint16_t form;
	uint8_t n_operands;
	uint8_t flags; /* ISA_LINE_* */
	struct isa_operand operand[INSN_MAX_OPERANDS];
};

struct isa_group {
	uint16_t first; /* line */
	uint8_t count;
	uint8_t modrm; /* some line needs a ModRM byte */
};

extern const struct isa_line isa_lines[];
/* By encoding (enum insn_encoding), map and opcode. */
extern const struct isa_group isa_groups[2][4][256];
