/*
 * Moves between vector registers, general registers and memory in plain C: they are half of all vector instructions that programs execute, and a
 * thunk would cost more than the move. (Intel SDM volume 2.)
 */
#include "vm/accel/soft/vec/vec_int.h"

struct vec16 {
	uint64_t v[2];
} __attribute__((packed, may_alias));

/* Guest memory may be written by others meanwhile: that is the guest's own race. */
RAM_ACCESS void copy16(void *to, const void *from)
{
	*(struct vec16 *)to = *(const struct vec16 *)from;
}

static inline void check(struct soft_cpu *cpu, bool avx)
{
	if (avx)
		vec_check_avx(cpu);
	else
		vec_check_sse(cpu);
}

static inline void clear_high(struct soft_cpu *cpu, unsigned reg)
{
	memset(fpu_ymm_high(cpu, reg), 0, 16);
}

/* size: 16, 32; 4 and 8 clear the rest of the register. */
static inline __attribute__((always_inline)) void
load(struct soft_cpu *cpu, const struct insn *insn, unsigned size, bool avx)
{
	unsigned reg = insn->operand[0].reg;
	struct vec_bounce bounce;
	const uint8_t *from;
	uint64_t linear;

	check(cpu, avx);
	linear = vec_linear_aligned(cpu, insn, size, false);
	if (size < 16) {
		uint64_t both[2] = {mem_read_inline(cpu, linear, size), 0};

		memcpy(fpu_xmm(cpu, reg), both, 16);
	} else {
		from = vec_read(cpu, linear, size, &bounce);
		copy16(fpu_xmm(cpu, reg), from);
		if (size == 32)
			copy16(fpu_ymm_high(cpu, reg), from + 16);
	}
	if (avx && size < 32)
		clear_high(cpu, reg);
}

static inline __attribute__((always_inline)) void
store(struct soft_cpu *cpu, const struct insn *insn, unsigned size, bool avx)
{
	unsigned reg = insn->operand[1].reg;
	const uint8_t *from = fpu_xmm(cpu, reg);
	struct tlb_entry *e;
	uint64_t linear;

	check(cpu, avx);
	linear = vec_linear_aligned(cpu, insn, size, true);
	if (size < 16) {
		mem_write_inline(cpu, linear, size, ram_load(from, size));
		return;
	}
	e = &cpu->tlb[tlb_index(linear)];
	if (__builtin_expect(((linear + size - 1) & ~4095ULL) == e->write, 1)) {
		uint8_t *to = (uint8_t *)(uintptr_t)(linear + e->addend);

		copy16(to, from);
		if (size == 32)
			copy16(to + 16, fpu_ymm_high(cpu, reg));
	} else {
		struct vec_bounce bounce;

		copy16(bounce.bytes, from);
		copy16(bounce.bytes + 16, fpu_ymm_high(cpu, reg));
		mem_write_block(cpu, linear, bounce.bytes, size);
	}
}

static inline __attribute__((always_inline)) void
copy(struct soft_cpu *cpu, const struct insn *insn, unsigned size, bool avx)
{
	unsigned to = insn->operand[0].reg, from = insn->operand[1].reg;

	check(cpu, avx);
	copy16(fpu_xmm(cpu, to), fpu_xmm(cpu, from));
	if (size == 32)
		copy16(fpu_ymm_high(cpu, to), fpu_ymm_high(cpu, from));
	else if (avx)
		clear_high(cpu, to);
}

#define MOVES(name, size, avx)                                                                     \
	static void load_##name(struct soft_cpu *cpu, const struct insn *insn)                     \
	{                                                                                          \
		load(cpu, insn, size, avx);                                                        \
	}                                                                                          \
	static void store_##name(struct soft_cpu *cpu, const struct insn *insn)                    \
	{                                                                                          \
		store(cpu, insn, size, avx);                                                       \
	}
MOVES(4, 4, false)
MOVES(8, 8, false)
MOVES(16, 16, false)
MOVES(v4, 4, true)
MOVES(v8, 8, true)
MOVES(v16, 16, true)
MOVES(v32, 32, true)

static void copy_16(struct soft_cpu *cpu, const struct insn *insn)
{
	copy(cpu, insn, 16, false);
}
static void copy_v16(struct soft_cpu *cpu, const struct insn *insn)
{
	copy(cpu, insn, 16, true);
}
static void copy_v32(struct soft_cpu *cpu, const struct insn *insn)
{
	copy(cpu, insn, 32, true);
}

/* MOVD, MOVQ from a general register, and MOVQ from the low half of a vector register: the rest is cleared. */
static inline __attribute__((always_inline)) void to_vec(struct soft_cpu *cpu,
							 const struct insn *insn, bool avx)
{
	const struct insn_operand *from = &insn->operand[1];
	uint64_t both[2] = {0, 0};

	check(cpu, avx);
	if (from->kind == OPND_VEC)
		memcpy(both, fpu_xmm(cpu, from->reg), 8);
	else
		both[0] = from->size == 8 ? cpu->gpr[from->reg] : (uint32_t)cpu->gpr[from->reg];
	memcpy(fpu_xmm(cpu, insn->operand[0].reg), both, 16);
	if (avx)
		clear_high(cpu, insn->operand[0].reg);
}

static void to_vec_sse(struct soft_cpu *cpu, const struct insn *insn)
{
	to_vec(cpu, insn, false);
}
static void to_vec_avx(struct soft_cpu *cpu, const struct insn *insn)
{
	to_vec(cpu, insn, true);
}

static inline __attribute__((always_inline)) void to_gpr(struct soft_cpu *cpu,
							 const struct insn *insn, bool avx)
{
	check(cpu, avx);
	cpu->gpr[insn->operand[0].reg] =
		ram_load(fpu_xmm(cpu, insn->operand[1].reg), insn->operand[0].size);
}

static void to_gpr_sse(struct soft_cpu *cpu, const struct insn *insn)
{
	to_gpr(cpu, insn, false);
}
static void to_gpr_avx(struct soft_cpu *cpu, const struct insn *insn)
{
	to_gpr(cpu, insn, true);
}

/* MOVSS, MOVSD between registers: the rest stays. */
static void merge_4(struct soft_cpu *cpu, const struct insn *insn)
{
	vec_check_sse(cpu);
	memcpy(fpu_xmm(cpu, insn->operand[0].reg), fpu_xmm(cpu, insn->operand[1].reg), 4);
}
static void merge_8(struct soft_cpu *cpu, const struct insn *insn)
{
	vec_check_sse(cpu);
	memcpy(fpu_xmm(cpu, insn->operand[0].reg), fpu_xmm(cpu, insn->operand[1].reg), 8);
}

static exec_fn bind_load(unsigned size, bool avx)
{
	switch (size) {
	case 4:
		return avx ? load_v4 : load_4;
	case 8:
		return avx ? load_v8 : load_8;
	case 16:
		return avx ? load_v16 : load_16;
	default:
		return load_v32;
	}
}

static exec_fn bind_store(unsigned size, bool avx)
{
	switch (size) {
	case 4:
		return avx ? store_v4 : store_4;
	case 8:
		return avx ? store_v8 : store_8;
	case 16:
		return avx ? store_v16 : store_16;
	default:
		return store_v32;
	}
}

/* Which of the instructions with map 0F only move. */
enum move {
	NO_MOVE,
	WHOLE,  /* a register or as many bytes of memory */
	SCALAR, /* MOVSS, MOVSD: registers merge, memory clears */
	LOW,    /* MOVD, MOVQ: clears, between general registers, memory and vectors */
};

static enum move move_of(uint8_t opcode, uint8_t pp)
{
	switch (opcode) {
	case 0x10:
	case 0x11:
		return pp < 2 ? WHOLE : SCALAR;
	case 0x28:
	case 0x29:
		return pp < 2 ? WHOLE : NO_MOVE;
	case 0x2b:
		return pp < 2 ? WHOLE : SCALAR;
	case 0x6f:
	case 0x7f:
		return pp == 1 || pp == 2 ? WHOLE : NO_MOVE;
	case 0xe7:
		return pp == 1 ? WHOLE : NO_MOVE;
	case 0xf0:
		return pp == 3 ? WHOLE : NO_MOVE;
	case 0x6e:
	case 0xd6:
		return pp == 1 ? LOW : NO_MOVE;
	case 0x7e:
		return pp == 1 || pp == 2 ? LOW : NO_MOVE;
	default:
		return NO_MOVE;
	}
}

exec_fn vec_bind_move(const struct insn *insn)
{
	enum move move = insn->map == 1 ? move_of(insn->opcode, insn->pp) : NO_MOVE;
	const struct insn_operand *o = insn->operand;
	bool avx = insn->encoding == ENC_VEX;

	/* MMX forms, and VMOVSS of three registers. */
	if (move == NO_MOVE || insn->form->attrs & FORM_MMX || insn->n_operands != 2)
		return NULL;
	if (o[0].kind == OPND_MEM)
		return bind_store(o[0].size, avx);
	if (o[1].kind == OPND_MEM)
		return bind_load(o[1].size, avx);
	if (move == WHOLE)
		return !avx ? copy_16 : o[0].size == 32 ? copy_v32 : copy_v16;
	if (move == SCALAR)
		return insn->pp == 2 ? merge_4 : merge_8;
	if (o[0].kind == OPND_GPR)
		return avx ? to_gpr_avx : to_gpr_sse;
	return avx ? to_vec_avx : to_vec_sse;
}
