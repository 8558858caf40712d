/*
 * A translation in progress: what the parts of the translator share. [soft_jit.lock]
 */
#pragma once

#include "vm/accel/soft/jit/jit_int.h"

/* How an instruction is translated. */
enum trans_how {
	HOW_EXEC, /* C executes it */
	HOW_COPY, /* the same instruction, registers renamed and memory's address rewritten */
	HOW_VEC,  /* the same, of the vector or x87 set */
	HOW_NOP,
	HOW_LEA,
	HOW_PUSH,
	HOW_POP,
	HOW_LEAVE,
	HOW_DIV,
	HOW_CMPXCHG,
	HOW_RDTSC,
	HOW_PUSHF,
	HOW_CLI,
	HOW_STI, /* not a block's last */
	HOW_SWAPGS,
	HOW_FROM_SEG,
	/* These end a block, but for a conditional branch that is not taken. */
	HOW_JCC,
	HOW_JMP,
	HOW_CALL,
	HOW_JMP_IND,
	HOW_CALL_IND,
	HOW_RET,
	HOW_JRCXZ,
	HOW_LOOP,
};

/* Where the status flags that matter are. */
#define FLAGS_HOST  1u
#define FLAGS_SAVED 2u /* in cpu->status */

/* Code out of line, emitted after the block's own. */
enum tail_kind { TAIL_MEMORY, TAIL_WINDOW, TAIL_LINK, TAIL_POLL, TAIL_EXEC, TAIL_FPU, TAIL_FAR };
struct tail {
	enum tail_kind kind;
	uint8_t *jump;         /* displacement of the jump to it */
	struct jit_site *site; /* MEMORY, WINDOW, EXEC */
	struct jit_link *link; /* LINK */
	struct emit_rm ea;     /* MEMORY: the linear address as a register expression */
	const uint8_t *back;   /* FPU */
	int64_t off;           /* FAR: target */
	unsigned flags, i;     /* FAR: t->flags; all: t->i */
};
#define MAX_TAILS (BLOCK_MAX_INSNS * 4 + 8)

/* No block's code is longer. */
#define TRANS_MAX_BYTES (BLOCK_MAX_INSNS * 512 + 1024)

/* What an instruction does with rsp, relative to its value before the instruction. */
struct stack_use {
	bool known;    /* it moves by a constant */
	bool accesses; /* [lo, hi) around rsp */
	int32_t move, lo, hi;
};

struct trans {
	struct soft_jit *jit;
	struct emit *e;
	struct jit_block *block;
	const uint8_t *bytes; /* of the page */
	unsigned key;
	enum insn_mode mode;
	cpu_features_t features;
	bool no_memory, too_much;

	unsigned n;
	bool falls_out; /* after the last instruction the block goes on elsewhere */
	struct insn in[BLOCK_MAX_INSNS];
	uint16_t at[BLOCK_MAX_INSNS + 1];     /* offset in the page */
	uint8_t how[BLOCK_MAX_INSNS];         /* enum trans_how */
	uint8_t reads[BLOCK_MAX_INSNS];       /* flags */
	uint8_t writes[BLOCK_MAX_INSNS];      /* flags, for certain */
	uint8_t live[BLOCK_MAX_INSNS + 1];    /* flags that matter before it */
	uint8_t target_live[BLOCK_MAX_INSNS]; /* at its branch's target */
	/* The stack window: region of the instruction's access (0: none), and for each region its bounds relative to rsp at its first access. */
	uint8_t region[BLOCK_MAX_INSNS];
	uint8_t region_first[BLOCK_MAX_INSNS + 1];
	int32_t region_lo[BLOCK_MAX_INSNS + 1], region_hi[BLOCK_MAX_INSNS + 1];

	/* While emitting. */
	unsigned i;
	unsigned flags;    /* FLAGS_* that are valid */
	bool addend_in_s1; /* the stack window's */
	bool fpu_live;
	unsigned sites_here; /* of instruction i */
	struct jit_site *site_here[8];
	unsigned n_tails;
	struct tail tails[MAX_TAILS];
};

/* --- analyse.c --- */
/* Decodes the block at off and finds out about it. false: nothing can be translated there. */
bool trans_analyse(struct trans *t, unsigned off);
/* Does a block end with it when C executes it? */
bool trans_ends(const struct insn *insn);
/* The flags that code at an offset of the page reads before it writes them; unknown ones count as read. */
unsigned trans_live_at(const struct trans *t, unsigned off);

/* --- flags.c: around instruction t->i --- */
void trans_flags_clobber(struct trans *t); /* host flags are about to be lost */
void trans_flags_need(struct trans *t);    /* host flags have to be right */
void trans_flags_save(struct trans *t);    /* cpu->status has to be right */
void trans_flags_before(
	struct trans *t); /* right before the instruction itself, for what it reads */
void trans_flags_after(struct trans *t); /* right after it, for what it wrote */

/* --- memory.c --- */
/* The memory operand of t->in[t->i], checked: how host code reaches it. S2 is used by the result, S1 perhaps. */
struct emit_rm trans_memory(struct trans *t, const struct insn *insn, unsigned size, bool write,
			    bool aligned);
/* The same for a linear address that is a register expression without S2 and S3; flags have been given up. */
struct emit_rm trans_check(struct trans *t, struct emit_rm ea, unsigned size, bool write);
/* [rsp + disp], size bytes, in the instruction's region or not. */
struct emit_rm trans_stack(struct trans *t, int32_t disp, unsigned size, bool write);
/* The address that insn's operand means, for LEA and checks: perhaps loads S1 and S2. with_segment: linear. */
struct emit_rm trans_address(struct trans *t, const struct insn *insn, bool with_segment,
			     unsigned *ret_size);
bool trans_memory_ok(const struct trans *t, const struct insn *insn);

/* --- integer.c, vector.c --- */
enum trans_how trans_how_integer(const struct trans *t, const struct insn *insn);
enum trans_how trans_how_vector(const struct trans *t, const struct insn *insn);
void trans_copy(struct trans *t, const struct insn *insn);
void trans_vector(struct trans *t, const struct insn *insn);
void trans_integer(struct trans *t, const struct insn *insn, enum trans_how how);

/* --- flow.c --- */
void trans_flow(struct trans *t, const struct insn *insn, enum trans_how how);
void trans_exec(struct trans *t, const struct insn *insn);
/* Goes on at an offset from this page, inside or outside of it. live: flags that matter there. */
void trans_goto(struct trans *t, int64_t off, unsigned live);
void trans_entries(struct trans *t);
void trans_tails(struct trans *t);

/* --- translate.c --- */
void *trans_alloc(struct trans *t, size_t bytes); /* NULL: sets no_memory */
struct jit_site *trans_site(struct trans *t);     /* for t->in[t->i] */
struct tail *trans_tail(struct trans *t, enum tail_kind kind, uint8_t *jump);
/* A host register that holds guest register reg: its own, or scratch, loaded. */
unsigned trans_reg_in(struct trans *t, unsigned reg, unsigned scratch);
/* After scratch was made to hold reg's new value: stores it if it has no host register. */
void trans_reg_out(struct trans *t, unsigned reg, unsigned host);
