/*
 * A decoded x86 instruction, and the decoder (Intel SDM volume 2, chapters 2 and 3; AMD APM volume 3).
 *
 * What instructions there are is data: isa/ *.tab, one line for each form of an encoding; gen_isa.py makes constant C tables of
 * them at build time. The interpreter binds a form to a C function (interp/exec.c), the translator copies or rewrites it, tests walk the
 * forms. The decoder only decodes: privilege, modes and features are checked where it says so below; it reads nothing but the bytes
 * it is given. Any thread; no state.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "vm/accel/soft/isa/features.h"
#include "vm/accel/soft/isa/insn_ops.h"

#define INSN_MAX_BYTES    15
#define INSN_MAX_OPERANDS 4

/* Operations, enum insn_op: OP_ADD, OP_MOV, ... are generated (insn_ops.h). Vector and x87 instructions that need nothing special
 * share OP_VEC and OP_X87: the host's own processor executes them from their raw encoding. */

enum insn_mode { /* how code is decoded: CS.D, CS.L and EFER.LMA */
		 INSN_MODE_16,
		 INSN_MODE_32,
		 INSN_MODE_64,
};

/* General registers 0 to 15 in the encoding's order: rax rcx rdx rbx rsp rbp rsi rdi r8 .. r15. */
#define INSN_REG_RIP  16
#define INSN_REG_NONE 0xff

/* Segments in the encoding's order. */
enum insn_seg { SEG_ES, SEG_CS, SEG_SS, SEG_DS, SEG_FS, SEG_GS, INSN_N_SEGS };

enum insn_operand_kind {
	OPND_NONE,
	OPND_GPR,      /* reg 0..15, size bytes: low part */
	OPND_GPR_HIGH, /* reg 0..3: ah ch dh bh */
	OPND_MEM, /* insn.seg:[base + index * scale + disp], size bytes; size 0: the operation knows */
	OPND_IMM, /* insn.imm (of a second immediate: insn.imm2), extended to 64 bits as the operation wants */
	OPND_REL, /* insn.imm, sign-extended: relative to the next instruction */
	OPND_FAR, /* insn.imm: offset; insn.imm2: selector */
	OPND_SEG, /* reg: enum insn_seg */
	OPND_CR,
	OPND_DR,
	OPND_MMX,
	OPND_VEC, /* xmm or ymm register 0..15, size 16 or 32 (or fewer bytes for scalars) */
	OPND_ST,  /* x87 stack register 0..7 */
	OPND_ONE, /* the constant 1: shifts D0, D1 */
};

/* Which field of the encoding names an operand's register (or memory): for those who encode it again. */
enum insn_field {
	FIELD_NONE,   /* fixed by the operation, or no register */
	FIELD_REG,    /* ModRM.reg with REX.R */
	FIELD_RM,     /* ModRM.rm with REX.B; memory too */
	FIELD_VVVV,   /* VEX.vvvv */
	FIELD_OPCODE, /* the opcode's low three bits with REX.B */
	FIELD_IMM,    /* the immediate's high half */
};

#define INSN_READ  1
#define INSN_WRITE 2

struct insn_operand {
	uint8_t kind;   /* enum insn_operand_kind */
	uint8_t reg;    /* as kind says */
	uint8_t size;   /* bytes */
	uint8_t access; /* INSN_READ | INSN_WRITE */
	uint8_t field;  /* enum insn_field */
};

/* Arithmetic flags as a mask of eight bits, for flags read and written. */
#define INSN_CF     0x01
#define INSN_PF     0x02
#define INSN_AF     0x04
#define INSN_ZF     0x08
#define INSN_SF     0x10
#define INSN_OF     0x20
#define INSN_DF     0x40
#define INSN_STATUS 0x3f

/* Attributes of a form. */
#define FORM_LOCK    (1u << 0) /* lock prefix allowed, with a memory destination */
#define FORM_NO64    (1u << 1) /* #UD in 64-bit mode */
#define FORM_ONLY64  (1u << 2) /* #UD outside 64-bit mode */
#define FORM_DEF64   (1u << 3) /* operand size defaults to 64 bits in 64-bit mode; 66 makes it 16 */
#define FORM_FORCE64 (1u << 4) /* operand size is 64 bits in 64-bit mode, whatever the prefixes */
#define FORM_CPL0                                                                                  \
	(1u << 5) /* #GP(0) unless CPL is 0: checked by the executor before anything else */
#define FORM_ALIGN  (1u << 6) /* vector memory operand must be aligned to its size: #GP(0) */
#define FORM_MXCSR  (1u << 7) /* may raise SIMD floating-point exceptions */
#define FORM_BRANCH (1u << 8) /* may set RIP to something other than the next instruction */
#define FORM_END                                                                                   \
	(1u                                                                                        \
	 << 9) /* ends a block for other reasons: changes mode, mapping, interruptibility; serialises */
#define FORM_REP  (1u << 10) /* takes REP or REPE/REPNE: a string instruction */
#define FORM_X87  (1u << 11)
#define FORM_SSE  (1u << 12) /* legacy SSE state rules: CR0.EM, CR4.OSFXSR, CR0.TS */
#define FORM_AVX  (1u << 13) /* VEX: CR4.OSXSAVE, XCR0, CR0.TS; upper halves are zeroed */
#define FORM_MMX  (1u << 14)
#define FORM_PROT (1u << 15) /* #UD in real and virtual-8086 mode */
#define FORM_NATIVE                                                                                \
	(1u                                                                                        \
	 << 16) /* reads and writes only its operands and flags: can run on the host as it stands, with registers renamed */
#define FORM_IO (1u << 17) /* ports */

/* One line of the tables. [const] */
struct insn_form {
	uint16_t op;
	uint16_t id; /* its number: 0 is "no such instruction" */
	uint32_t attrs;
	uint8_t flags_read, flags_written,
		flags_undefined; /* written includes undefined; a flag that only perhaps
							       changes (shift by 0) is read and written */
	uint8_t feature;         /* enum cpu_feature; FEATURE_ALWAYS */
	const char *name;        /* mnemonic, lower case */
	const char *where;       /* its encoding, as in the table: for coverage reports */
};

enum insn_encoding { ENC_LEGACY, ENC_VEX };
enum insn_rep { REP_NONE, REP_F3, REP_F2 }; /* REP/REPE; REPNE */

struct soft_cpu;
struct insn;
typedef void (*exec_fn)(struct soft_cpu *cpu, const struct insn *insn);

struct insn {
	exec_fn exec; /* set by exec_bind(), not by the decoder */
	const struct insn_form *form;
	uint16_t op;      /* form->op */
	uint8_t length;   /* bytes */
	uint8_t mode;     /* enum insn_mode */
	uint8_t opsize;   /* bytes of the integer operation: 1, 2, 4, 8 */
	uint8_t addrsize; /* bytes: 2, 4, 8 */
	uint8_t rep;      /* enum insn_rep: F3 or F2, when not a mandatory prefix */
	bool lock;

	/* The memory operand, if any. */
	uint8_t seg; /* enum insn_seg: after override and default (SS with rsp/rbp bases) */
	uint8_t base, index,
		scale; /* registers or INSN_REG_*; scale 1, 2, 4, 8. rip: disp is already relative to the next one */
	uint8_t n_operands;
	uint8_t cond; /* condition code of jcc, setcc, cmovcc: low four bits of the opcode */
	struct insn_operand operand[INSN_MAX_OPERANDS];
	int64_t disp;
	uint64_t imm, imm2;

	/* The raw encoding, for those who encode it again. */
	uint8_t encoding; /* enum insn_encoding */
	uint8_t map;      /* 0: one byte, 1: 0F, 2: 0F 38, 3: 0F 3A */
	uint8_t opcode;
	uint8_t pp; /* mandatory prefix: 0, 1: 66, 2: F3, 3: F2 */
	bool has_modrm;
	uint8_t modrm;
	bool rex_w;         /* or VEX.W */
	uint8_t vex_l;      /* 0: 128, 1: 256 bits */
	uint8_t vvvv;       /* 0..15 */
	bool opsize_prefix; /* 66 was there */
	bool has_rex;
};

enum insn_status {
	INSN_OK,
	INSN_SHORT, /* more bytes are needed than were given: fetch on (a fault there is the instruction's), at most 15 in all */
	INSN_LONG,  /* more than 15 bytes: #GP(0) */
	INSN_BAD, /* no such instruction here: #UD. insn->length and form are set as far as known */
};

/* Decodes the instruction at bytes. features: the processor shown to the guest; a form that needs another is no instruction.
 * vex: VEX encodings are allowed (protected mode, not virtual-8086). Writes all of *ret in any case. */
enum insn_status insn_decode(const uint8_t *bytes, size_t n, enum insn_mode mode, bool vex,
			     cpu_features_t features, struct insn *ret);

extern const struct insn_form insn_forms[];
extern const size_t insn_n_forms;
