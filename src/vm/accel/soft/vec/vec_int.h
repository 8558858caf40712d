/*
 * Shared by vec/ alone: where the registers stand in cpu->fpu, thunks, and the checks that every instruction of a kind begins with. (Intel SDM volume 1,
 * section 13.4: layout; volume 3, section 2.5 and chapter 13: CR0.EM, CR0.TS, CR4.OSFXSR.) The vCPU's own thread, except where said.
 */
#pragma once

#include <pthread.h>
#include <string.h>

#include "vm/accel/soft/codemem.h"
#include "vm/accel/soft/cpu/access.h"
#include "vm/accel/soft/soft.h"

/* The standard XSAVE format. */
#define FPU_FCW        0
#define FPU_FSW        2
#define FPU_FTW        4 /* one bit a physical register: not empty */
#define FPU_FOP        6
#define FPU_FIP        8  /* 64 bits */
#define FPU_FDP        16 /* 64 bits */
#define FPU_MXCSR      24
#define FPU_MXCSR_MASK 28
#define FPU_ST         32  /* 16 bytes each, from the top of the stack */
#define FPU_XMM        160 /* 16 bytes each */
#define FPU_LEGACY     416 /* bytes of the legacy region that are used */
#define FPU_HEADER     512
#define FPU_YMM        576 /* upper halves */
#define FPU_BYTES      832
#define YMM_DISTANCE   (FPU_YMM - FPU_XMM)

#define XCR0_X87 1u
#define XCR0_SSE 2u
#define XCR0_AVX 4u

#define MXCSR_FLAGS   0x003fu
#define MXCSR_DAZ     0x0040u
#define MXCSR_MASKS   0x1f80u
#define MXCSR_DEFAULT 0x1f80u

#define FCW_VALID 0x1f3fu /* what can be written; bit 6 reads as 1 */
#define FCW_ONE   0x0040u

#define FSW_ES  0x0080u
#define FSW_B   0x8000u
#define FSW_TOP 0x3800u

/* What a thunk is called with: pointers to guest registers or memory by the field of the encoding that names them; unused ones may be
 * anything. fourth: the register in the immediate, or xmm0 when that is implied. Vector registers are pointers to their lower halves in
 * cpu->fpu, general ones to 8 bytes of cpu->gpr. x87 thunks get cpu->fpu as reg. */
typedef void (*vec_thunk)(void *reg, void *rm, void *vvvv, void *fourth, uint16_t *status,
			  uint64_t *gpr);

#define THUNK_VARIANTS 8 /* of a form: ModRM.mod is 3, VEX.L, VEX.W or REX.W; of x87: ModRM.rm */

/* x87_env.c: guest memory of any size; a fault leaves things half done. */
void vec_read_bytes(struct soft_cpu *cpu, uint64_t linear, void *to, unsigned size);
void vec_write_bytes(struct soft_cpu *cpu, uint64_t linear, const void *from, unsigned size);

/* More than all encodings together need (tests/unit/accel/soft/test_vec.c); pages are taken as they are written. */
#define THUNK_CODE_BYTES (8u << 20)

struct soft_vec {
	pthread_mutex_t lock; /* making thunks */
	struct codemem code;
	size_t used; /* [lock] bytes of code */
	/* By form and variant: a thunk, or for forms with an immediate byte a table of 256 of them. [atomic] */
	void *_Atomic *thunks;
	uint32_t mxcsr_mask; /* [const] bits that may be set */
};

/* A bounce buffer's size: the largest vector operand. */
struct vec_bounce {
	_Alignas(32) uint8_t bytes[32];
};

/* The immediate byte that the thunk has: a register in its high half is always xmm4. */
static inline uint8_t vec_imm(const struct insn *insn)
{
	const struct insn_operand *last = &insn->operand[3];

	return insn->n_operands == 4 && last->field == FIELD_IMM ? 0x40 : (uint8_t)insn->imm;
}

/* thunk.c: the code for insn, made when it is missing. Raises #UD where code memory has run out, which the number of encodings forbids. */
vec_thunk vec_thunk_make(struct soft_cpu *cpu, const struct insn *insn);
unsigned vec_thunk_slot(const struct insn *insn);
/* emit.c: writes the code for insn to at (THUNK_MAX_BYTES are free); returns its length. */
#define THUNK_MAX_BYTES 160
size_t vec_emit(uint8_t *at, const struct insn *insn);

/* trap.c */
int vec_trap_install(struct error *err); /* the process keeps it */
/* Calls thunk under mxcsr, whose exceptions may be unmasked. True: one was raised, and the thunk has stored nothing. *mxcsr: what it is then. */
bool vec_trap_call(vec_thunk thunk, void *const args[4], struct soft_cpu *cpu, uint32_t *mxcsr);

/* By kind; each returns NULL for what is another's. */
exec_fn vec_bind_move(const struct insn *insn);   /* move.c */
exec_fn vec_bind_masked(const struct insn *insn); /* masked.c */
exec_fn vec_bind_x87(const struct insn *insn);    /* x87.c */
exec_fn vec_bind_state(const struct insn *insn);  /* state.c */
exec_fn vec_bind_xsave(const struct insn *insn);  /* xsave.c */

exec_fn vec_bind_x87_env(const struct insn *insn); /* x87_env.c */

/* x87.c: #NM; #MF for what waits. */
void x87_check(struct soft_cpu *cpu);
void x87_wait(struct soft_cpu *cpu);
/* Control registers and tags as FNINIT leaves them; the top of the stack has to be register 0. */
void x87_init(struct soft_cpu *cpu);
/* Sets FSW; the registers stay what they are physically when its TOP is another. */
void x87_set_top(struct soft_cpu *cpu, uint16_t fsw);
/* #UD, #NM, #MF. */
void mmx_check(struct soft_cpu *cpu);
/* Makes the stack's top register 0 and all registers valid, as MMX instructions do. */
void mmx_enter(struct soft_cpu *cpu);
/* xsave.c: the components that are not in their initial configuration. */
uint64_t vec_in_use(struct soft_cpu *cpu);
/* FSW's summary bits follow from flags and masks. */
void x87_summarise(struct soft_cpu *cpu);

static inline uint16_t *fpu_u16(struct soft_cpu *cpu, unsigned offset)
{
	return (uint16_t *)(void *)(cpu->fpu + offset);
}
static inline uint32_t *fpu_u32(struct soft_cpu *cpu, unsigned offset)
{
	return (uint32_t *)(void *)(cpu->fpu + offset);
}
static inline uint64_t *fpu_u64(struct soft_cpu *cpu, unsigned offset)
{
	return (uint64_t *)(void *)(cpu->fpu + offset);
}
static inline uint8_t *fpu_xmm(struct soft_cpu *cpu, unsigned n)
{
	return cpu->fpu + FPU_XMM + 16 * (size_t)n;
}
static inline uint8_t *fpu_ymm_high(struct soft_cpu *cpu, unsigned n)
{
	return cpu->fpu + FPU_YMM + 16 * (size_t)n;
}

#define unlikely_(x) __builtin_expect(!!(x), 0)

_Noreturn void vec_refuse_sse(struct soft_cpu *cpu); /* #UD or #NM */
_Noreturn void vec_refuse_avx(struct soft_cpu *cpu);

static inline void vec_check_sse(struct soft_cpu *cpu)
{
	if (unlikely_((cpu->cr0 & (CR0_EM | CR0_TS)) | (~cpu->cr4 & CR4_OSFXSR)))
		vec_refuse_sse(cpu);
}

static inline void vec_check_avx(struct soft_cpu *cpu)
{
	if (unlikely_((cpu->cr0 & CR0_TS) | (~cpu->cr4 & CR4_OSXSAVE) |
		      (~cpu->xcr0 & (XCR0_SSE | XCR0_AVX))))
		vec_refuse_avx(cpu);
}

/* The offset of insn's memory operand, inline for what 64-bit code does nearly always. */
static inline uint64_t vec_offset(const struct soft_cpu *cpu, const struct insn *insn)
{
	uint64_t offset = (uint64_t)insn->disp;

	if (unlikely_(cpu->mode != INSN_MODE_64 || insn->addrsize != 8 ||
		      insn->base == INSN_REG_RIP))
		return insn_offset(cpu, insn);
	if (insn->base != INSN_REG_NONE)
		offset += cpu->gpr[insn->base];
	if (insn->index != INSN_REG_NONE)
		offset += cpu->gpr[insn->index] * insn->scale;
	return offset;
}

/* The linear address of insn's memory operand, checked by segmentation. */
static inline uint64_t vec_linear(struct soft_cpu *cpu, const struct insn *insn, unsigned size,
				  bool write)
{
	return seg_linear_inline(cpu, insn->seg, vec_offset(cpu, insn), size, write);
}

/* The same, aligned: #GP(0) comes before what segmentation says. */
static inline uint64_t vec_linear_multiple(struct soft_cpu *cpu, const struct insn *insn,
					   unsigned size, unsigned align, bool write)
{
	uint64_t offset = vec_offset(cpu, insn);

	if (unlikely_((offset + cpu->seg[insn->seg].base) & (align - 1)))
		cpu_raise_error(cpu, VEC_GP, 0);
	return seg_linear_inline(cpu, insn->seg, offset, size, write);
}

/* With the alignment that the form wants. */
static inline uint64_t vec_linear_aligned(struct soft_cpu *cpu, const struct insn *insn,
					  unsigned size, bool write)
{
	return vec_linear_multiple(cpu, insn, size, insn->form->attrs & FORM_ALIGN ? size : 1,
				   write);
}

/* Memory to read: in place, or copied to bounce. */
static inline const void *vec_read(struct soft_cpu *cpu, uint64_t linear, unsigned size,
				   struct vec_bounce *bounce)
{
	const void *host = mem_host_r_inline(cpu, linear, size);

	if (unlikely_(!host)) {
		mem_read_block(cpu, linear, bounce->bytes, size);
		host = bounce->bytes;
	}
	return host;
}
