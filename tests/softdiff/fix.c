/*
 * Points an instruction's memory operand, or the registers that it uses without naming them, into memory that exists, mostly. The displacement of addresses
 * without a base register is changed in the code.
 */
#include <string.h>

#include "softdiff/diff.h"

/* A linear address for n bytes: mostly in the window, now and then badly aligned, across pages, read-only, nowhere. */
static uint64_t target(struct rng *r, unsigned n, enum insn_mode mode)
{
	unsigned align = n >= 32 ? 32 : n >= 16 ? 16 : n >= 8 ? 8 : n ? n : 64;
	unsigned span = n ? n : 1024;
	uint64_t inside = WINDOW + rng_below(r, WINDOW_SIZE - span);

	switch (rng_below(r, 40)) {
	case 0:
		return WINDOW - 1 - rng_below(r, span);
	case 1:
		return READ_ONLY + rng_below(r, PAGE);
	case 2:
		return READ_ONLY - rng_below(r, span);
	case 3:
		return READ_ONLY + PAGE - rng_below(r, span);
	case 4:
		return mode == INSN_MODE_64 ? rng_next(r) : (uint32_t)rng_next(r);
	case 5:
		return WINDOW + PAGE - rng_below(r, span);
	case 6:
	case 7:
	case 8:
		return inside;
	default:
		return inside & ~(uint64_t)(align - 1);
	}
}

/* Fresh contents where the operand is. */
static void poke_target(struct rng *r, uint64_t at, unsigned n)
{
	uint8_t bytes[64];
	unsigned size = n > 48 || !n ? 64 : (n + 15) / 16 * 16;

	rng_fill(r, bytes, size);
	if (at < WINDOW || at + size > WINDOW + WINDOW_SIZE)
		return;
	native_poke(at, bytes, size);
	guest_poke(at, bytes, size);
}

/* Where the four displacement bytes stand, for forms of address without a base register. */
static unsigned displacement_at(const struct insn *insn, unsigned modrm_at)
{
	return modrm_at + ((insn->modrm & 7) == 4 && insn->addrsize != 2 ? 2 : 1);
}

static void point_without_base(const struct insn *insn, uint8_t *code, unsigned modrm_at,
			       uint64_t at, uint64_t wanted, struct diff_state *state)
{
	uint32_t disp = (uint32_t)wanted;

	if (insn->base == INSN_REG_RIP)
		disp = (uint32_t)(wanted - at - insn->length);
	else if (insn->index != INSN_REG_NONE)
		state->gpr[insn->index & 15] = rng_next(&(struct rng){wanted}) & 0xff;
	if (insn->base != INSN_REG_RIP && insn->index != INSN_REG_NONE)
		disp -= (uint32_t)(state->gpr[insn->index & 15] * insn->scale);
	memcpy(code + displacement_at(insn, modrm_at), &disp, 4);
}

static void point(struct rng *r, const struct insn *insn, uint8_t *code, unsigned modrm_at,
		  uint64_t at, uint64_t wanted, struct diff_state *state)
{
	bool is_vsib = insn->op == OP_VGATHER;
	uint64_t offset = wanted;

	if (insn->seg == SEG_GS && insn->mode == INSN_MODE_64) {
		state->gs_base = rng_chance(r, 50) ? WINDOW : rng_value(r) >> 18;
		offset -= state->gs_base;
	}
	if (insn->base == INSN_REG_NONE || insn->base == INSN_REG_RIP) {
		if (!is_vsib)
			point_without_base(insn, code, modrm_at, at, offset, state);
		return;
	}
	if (is_vsib) {
		state->gpr[insn->base] = offset - (uint64_t)insn->disp;
		return;
	}
	if (insn->index == insn->base) {
		uint64_t both = 1u + insn->scale;

		state->gpr[insn->base] = (offset - (uint64_t)insn->disp) / both;
		return;
	}
	if (insn->index != INSN_REG_NONE && rng_chance(r, 70))
		state->gpr[insn->index] = rng_next(r) & (rng_chance(r, 50) ? 0xff : UINT64_MAX);
	state->gpr[insn->base] =
		offset - (uint64_t)insn->disp -
		(insn->index == INSN_REG_NONE ? 0 : state->gpr[insn->index] * insn->scale);
	/* The upper half does not take part in 32-bit addresses. */
	if (insn->addrsize == 4 && rng_chance(r, 50))
		state->gpr[insn->base] = (uint32_t)state->gpr[insn->base] | rng_next(r) << 32;
}

/* A near address for each index of a gather, and a mask. */
static void fix_gather(struct rng *r, const struct insn *insn, struct diff_state *state)
{
	bool wide = insn->opcode & 1;

	for (unsigned half = 0; half < 2; half++) {
		uint8_t *at = state->fpu + (half ? 576 : 160) + 16 * (size_t)(insn->index & 15);

		for (unsigned i = 0; i < 4; i += wide ? 2 : 1) {
			int64_t index = (int)rng_below(r, 256) - 64;

			memcpy(at + 4 * (size_t)i, &index, wide ? 8 : 4);
		}
	}
}

/* EFLAGS on the stack that POPF may load: no traps, no alignment checks. */
static void fix_popf(struct rng *r, struct diff_state *state)
{
	uint64_t flags = rng_next(r) & ~0x40100ULL;

	if (state->gpr[4] < WINDOW || state->gpr[4] + 8 > WINDOW + WINDOW_SIZE)
		state->gpr[4] = WINDOW + 64;
	native_poke(state->gpr[4], &flags, 8);
	guest_poke(state->gpr[4], &flags, 8);
}

static void fix_xsave(struct rng *r, const struct insn *insn, uint64_t at, struct diff_state *state)
{
	uint64_t header[8] = {rng_next(r) & 7, 0, 0};
	uint32_t mxcsr = (uint32_t)rng_next(r) & 0xffff;

	state->gpr[0] &= rng_chance(r, 50) ? 7 : 0xffff071f;
	state->gpr[0] &= ~0xffffff18ULL & ~0xe0ULL;
	state->gpr[2] = 0;
	if (at < WINDOW || at + 832 > WINDOW + WINDOW_SIZE || at & 63)
		return;
	if (rng_chance(r, 30))
		header[1] = 1ULL << 63 | (rng_next(r) & 7);
	if (rng_chance(r, 10))
		header[rng_below(r, 8)] |= 1ULL << rng_below(r, 64);
	/* Not what the host's processor has, and the software CPU has not. */
	header[0] &= ~0xf8ULL;
	header[1] &= ~0xf8ULL;
	native_poke(at + 512, header, 64);
	guest_poke(at + 512, header, 64);
	if (rng_chance(r, 90)) {
		native_poke(at + 24, &mxcsr, 4);
		guest_poke(at + 24, &mxcsr, 4);
	}
}

static void fix_strings(struct rng *r, struct diff_state *state)
{
	state->gpr[6] = target(r, 64, INSN_MODE_64);
	state->gpr[7] =
		rng_chance(r, 80) ? target(r, 64, INSN_MODE_64) : state->gpr[6] + rng_below(r, 16);
	state->gpr[1] = rng_chance(r, 95) ? rng_below(r, 40) : rng_below(r, 5000);
	if (rng_chance(r, 20))
		state->rflags |= FLAGS_DF;
	poke_target(r, state->gpr[6] & ~15ULL, 64);
}

static void fix_implied(struct rng *r, const struct insn *insn, uint8_t *code,
			struct diff_state *state)
{
	switch (insn->op) {
	case OP_MOVS:
	case OP_CMPS:
	case OP_STOS:
	case OP_LODS:
	case OP_SCAS:
		fix_strings(r, state);
		break;
	case OP_MASKMOVQ:
	case OP_MASKMOVDQU:
		state->gpr[7] = target(r, 16, insn->mode);
		break;
	case OP_XLAT:
		state->gpr[3] = target(r, 256, insn->mode);
		break;
	case OP_LEAVE:
		state->gpr[5] = target(r, 8, insn->mode);
		break;
	case OP_ENTER:
		state->gpr[5] = target(r, 256, insn->mode);
		if (rng_chance(r, 90))
			code[insn->length - 2] = 0;
		break;
	case OP_POPF:
		fix_popf(r, state);
		break;
	default:
		break;
	}
}

static bool is_xsave(const struct insn *insn)
{
	return insn->op == OP_XSAVE || insn->op == OP_XSAVEOPT || insn->op == OP_XSAVEC ||
	       insn->op == OP_XRSTOR || insn->op == OP_FXRSTOR || insn->op == OP_FXSAVE;
}

void fix_operands(struct rng *r, struct insn *insn, uint8_t *code, unsigned modrm_at, uint64_t at,
		  struct diff_state *state)
{
	fix_implied(r, insn, code, state);
	if (insn->op == OP_VGATHER)
		fix_gather(r, insn, state);
	for (unsigned i = 0; i < insn->n_operands; i++) {
		const struct insn_operand *o = &insn->operand[i];
		uint64_t wanted;

		if (o->kind != OPND_MEM)
			continue;
		wanted = target(r, o->size, insn->mode);
		if (insn->addrsize == 4)
			wanted = (uint32_t)wanted;
		if (!insn->has_modrm) {
			/* MOV with the address in the instruction. */
			memcpy(code + insn->length - insn->addrsize, &wanted, insn->addrsize);
		} else if (insn->addrsize != 2) {
			point(r, insn, code, modrm_at, at, wanted, state);
		}
		poke_target(r, wanted, o->size);
		if (is_xsave(insn))
			fix_xsave(r, insn, wanted, state);
	}
}
