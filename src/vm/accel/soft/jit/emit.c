/*
 * Encoder of x86-64 instructions. See emit.h.
 */
#include "vm/accel/soft/jit/emit.h"

#include <string.h>

#define REX   0x40
#define REX_W 0x08
#define REX_R 0x04
#define REX_X 0x02
#define REX_B 0x01

void emit_init(struct emit *e, uint8_t *rw, size_t bytes, ptrdiff_t exec)
{
	*e = (struct emit){.p = rw, .start = rw, .end = rw + bytes, .exec = exec};
}

static bool room(struct emit *e, size_t n)
{
	if ((size_t)(e->end - e->p) >= n)
		return true;
	e->full = true;
	return false;
}

void emit_u8(struct emit *e, unsigned byte)
{
	if (room(e, 1))
		*e->p++ = (uint8_t)byte;
}

void emit_bytes(struct emit *e, const void *bytes, size_t n)
{
	if (room(e, n)) {
		memcpy(e->p, bytes, n);
		e->p += n;
	}
}

void emit_u32(struct emit *e, uint32_t value)
{
	emit_bytes(e, &value, sizeof(value));
}

void emit_u64(struct emit *e, uint64_t value)
{
	emit_bytes(e, &value, sizeof(value));
}

void emit_nops(struct emit *e, unsigned n)
{
	/* SDM volume 2, NOP: the recommended sequences. */
	static const uint8_t nops[9][8] = {
		{0},
		{0x90},
		{0x66, 0x90},
		{0x0f, 0x1f, 0x00},
		{0x0f, 0x1f, 0x40, 0x00},
		{0x0f, 0x1f, 0x44, 0x00, 0x00},
		{0x66, 0x0f, 0x1f, 0x44, 0x00, 0x00},
		{0x0f, 0x1f, 0x80, 0x00, 0x00, 0x00, 0x00},
		{0x0f, 0x1f, 0x84, 0x00, 0x00, 0x00, 0x00, 0x00},
	};

	while (n > 0) {
		unsigned bytes = n < 8 ? n : 8;

		emit_bytes(e, nops[bytes], bytes);
		n -= bytes;
	}
}

void emit_align(struct emit *e, unsigned alignment)
{
	emit_nops(e, (unsigned)(-(uintptr_t)e->p & (alignment - 1)));
}

static void prefixes(struct emit *e, const struct emit_enc *enc, unsigned reg,
		     const struct emit_rm *rm)
{
	static const uint8_t mandatory[] = {0, 0x66, 0xf3, 0xf2};
	unsigned rex = (enc->w ? REX_W : 0) | (reg >= 8 ? REX_R : 0);

	if (rm->is_reg) {
		rex |= rm->reg >= 8 ? REX_B : 0;
		if (enc->byte_rm && rm->reg >= 4)
			rex |= REX;
	} else {
		rex |= rm->base != H_NONE && rm->base >= 8 ? REX_B : 0;
		rex |= rm->index != H_NONE && rm->index >= 8 ? REX_X : 0;
	}
	if (enc->byte_reg && reg >= 4)
		rex |= REX;
	if (rm->gs && !rm->is_reg)
		emit_u8(e, 0x65);
	if (enc->lock)
		emit_u8(e, 0xf0);
	if (enc->vex) {
		/* The three-byte form says everything. */
		emit_u8(e, 0xc4);
		emit_u8(e, (~(rex << 5) & 0xe0) | enc->map);
		emit_u8(e, (enc->w ? 0x80 : 0) | (~(unsigned)enc->vvvv & 15) << 3 |
				   (enc->l ? 4 : 0) | enc->pp);
		return;
	}
	if (enc->opsize && enc->pp != 1)
		emit_u8(e, 0x66);
	if (enc->pp != 0)
		emit_u8(e, mandatory[enc->pp]);
	if (rex != 0)
		emit_u8(e, REX | rex);
	if (enc->map != 0)
		emit_u8(e, 0x0f);
	if (enc->map >= 2)
		emit_u8(e, enc->map == 2 ? 0x38 : 0x3a);
}

static unsigned scale_bits(unsigned scale)
{
	return scale == 8 ? 3 : scale == 4 ? 2 : scale == 2 ? 1 : 0;
}

static void modrm(struct emit *e, unsigned reg, const struct emit_rm *rm)
{
	unsigned r = (reg & 7) << 3, base = rm->base & 7, mod;

	if (rm->is_reg) {
		emit_u8(e, 0xc0 | r | (rm->reg & 7));
		return;
	}
	if (rm->base == H_NONE) { /* SIB without a base */
		emit_u8(e, r | 4);
		emit_u8(e, scale_bits(rm->scale) << 6 |
				   (rm->index == H_NONE ? 4u : (rm->index & 7u)) << 3 | 5);
		emit_u32(e, (uint32_t)rm->disp);
		return;
	}
	mod = rm->disp == 0 && base != 5 ? 0 : rm->disp >= -128 && rm->disp <= 127 ? 1 : 2;
	if (rm->index != H_NONE || base == 4) {
		emit_u8(e, mod << 6 | r | 4);
		emit_u8(e, scale_bits(rm->scale) << 6 |
				   (rm->index == H_NONE ? 4u : (rm->index & 7u)) << 3 | base);
	} else {
		emit_u8(e, mod << 6 | r | base);
	}
	if (mod == 1)
		emit_u8(e, (uint8_t)rm->disp);
	else if (mod == 2)
		emit_u32(e, (uint32_t)rm->disp);
}

void emit_insn(struct emit *e, const struct emit_enc *enc, unsigned reg, struct emit_rm rm)
{
	prefixes(e, enc, reg, &rm);
	emit_u8(e, enc->opcode);
	modrm(e, reg, &rm);
	emit_bytes(e, &enc->imm, enc->imm_bytes);
}

/* An instruction of the integer set whose opcode has bit 0 clear for bytes. */
static void integer(struct emit *e, unsigned size, unsigned opcode, unsigned reg, struct emit_rm rm)
{
	struct emit_enc enc = {
		.opsize = size == 2,
		.w = size == 8,
		.byte_reg = size == 1,
		.byte_rm = size == 1,
		.opcode = (uint8_t)(opcode | (size == 1 ? 0 : 1)),
	};

	emit_insn(e, &enc, reg, rm);
}

void emit_mov_rr(struct emit *e, unsigned size, unsigned dst, unsigned src)
{
	integer(e, size, 0x88, src, rm_reg(dst));
}

void emit_mov_ri(struct emit *e, unsigned dst, uint64_t value)
{
	if (value <= UINT32_MAX) {
		if (dst >= 8)
			emit_u8(e, REX | REX_B);
		emit_u8(e, 0xb8 | (dst & 7));
		emit_u32(e, (uint32_t)value);
		return;
	}
	if ((int64_t)value == (int32_t)value) {
		struct emit_enc enc = {.w = true, .opcode = 0xc7, .imm_bytes = 4, .imm = value};

		emit_insn(e, &enc, 0, rm_reg(dst));
		return;
	}
	emit_u8(e, REX | REX_W | (dst >= 8 ? REX_B : 0));
	emit_u8(e, 0xb8 | (dst & 7));
	emit_u64(e, value);
}

void emit_load(struct emit *e, unsigned size, unsigned dst, struct emit_rm src)
{
	if (size <= 2) {
		struct emit_enc enc = {.map = 1,
				       .opcode = size == 1 ? 0xb6 : 0xb7,
				       .byte_rm = size == 1};

		emit_insn(e, &enc, dst, src);
		return;
	}
	integer(e, size, 0x8a, dst, src);
}

void emit_store(struct emit *e, unsigned size, struct emit_rm dst, unsigned src)
{
	integer(e, size, 0x88, src, dst);
}

void emit_store_imm(struct emit *e, unsigned size, struct emit_rm dst, int32_t value)
{
	struct emit_enc enc = {
		.opsize = size == 2,
		.w = size == 8,
		.opcode = size == 1 ? 0xc6 : 0xc7,
		.imm_bytes = (uint8_t)(size == 8 ? 4 : size),
		.imm = (uint64_t)value,
	};

	emit_insn(e, &enc, 0, dst);
}

void emit_lea(struct emit *e, unsigned size, unsigned dst, struct emit_rm src)
{
	struct emit_enc enc = {.opsize = size == 2, .w = size == 8, .opcode = 0x8d};

	emit_insn(e, &enc, dst, src);
}

void emit_alu_rm(struct emit *e, enum alu_op op, unsigned size, unsigned dst, struct emit_rm src)
{
	integer(e, size, (unsigned)op << 3 | 2, dst, src);
}

void emit_alu_mr(struct emit *e, enum alu_op op, unsigned size, struct emit_rm dst, unsigned src)
{
	integer(e, size, (unsigned)op << 3, src, dst);
}

void emit_alu_ri(struct emit *e, enum alu_op op, unsigned size, struct emit_rm dst, int32_t value)
{
	bool small = size != 1 && value >= -128 && value <= 127;
	struct emit_enc enc = {
		.opsize = size == 2,
		.w = size == 8,
		.byte_rm = size == 1,
		.opcode = size == 1 ? 0x80
			  : small   ? 0x83
				    : 0x81,
		.imm_bytes = (uint8_t)(size == 1 || small ? 1
				       : size == 2        ? 2
							  : 4),
		.imm = (uint64_t)value,
	};

	emit_insn(e, &enc, op, dst);
}

static void shift(struct emit *e, unsigned size, unsigned digit, unsigned dst, unsigned count)
{
	struct emit_enc enc = {
		.opsize = size == 2, .w = size == 8, .opcode = 0xc1, .imm_bytes = 1, .imm = count};

	emit_insn(e, &enc, digit, rm_reg(dst));
}

void emit_shr(struct emit *e, unsigned size, unsigned dst, unsigned count)
{
	shift(e, size, 5, dst, count);
}

void emit_shl(struct emit *e, unsigned size, unsigned dst, unsigned count)
{
	shift(e, size, 4, dst, count);
}

void emit_sar(struct emit *e, unsigned size, unsigned dst, unsigned count)
{
	shift(e, size, 7, dst, count);
}

void emit_test_ri8(struct emit *e, unsigned reg, unsigned value)
{
	struct emit_enc enc = {.byte_rm = true, .opcode = 0xf6, .imm_bytes = 1, .imm = value};

	emit_insn(e, &enc, 0, rm_reg(reg));
}

void emit_patch(struct emit *e, uint8_t *disp32, const uint8_t *target)
{
	uint32_t disp;

	if (disp32 == NULL)
		return;
	disp = (uint32_t)(target - (disp32 + 4 + e->exec));
	memcpy(disp32, &disp, 4);
}

void emit_patch_here(struct emit *e, uint8_t *disp32)
{
	if (!e->full)
		emit_patch(e, disp32, emit_here(e));
}

static uint8_t *displacement(struct emit *e, const uint8_t *target)
{
	uint8_t *at = e->p;

	emit_u32(e, 0);
	if (e->full)
		return NULL;
	if (target != NULL)
		emit_patch(e, at, target);
	return at;
}

uint8_t *emit_jmp(struct emit *e, const uint8_t *target)
{
	emit_u8(e, 0xe9);
	return displacement(e, target);
}

uint8_t *emit_jcc(struct emit *e, unsigned cond, const uint8_t *target)
{
	emit_u8(e, 0x0f);
	emit_u8(e, 0x80 | cond);
	return displacement(e, target);
}

uint8_t *emit_jmp_aligned(struct emit *e, const uint8_t *target)
{
	emit_nops(e, (unsigned)(-((uintptr_t)e->p + 1) & 3));
	return emit_jmp(e, target);
}

uint8_t *emit_jcc_aligned(struct emit *e, unsigned cond, const uint8_t *target)
{
	emit_nops(e, (unsigned)(-((uintptr_t)e->p + 2) & 3));
	return emit_jcc(e, cond, target);
}

void emit_call(struct emit *e, const void *target)
{
	emit_mov_ri(e, H_RAX, (uintptr_t)target);
	emit_u8(e, 0xff); /* call rax */
	emit_u8(e, 0xd0);
}
