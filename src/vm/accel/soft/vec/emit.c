/*
 * Writes thunks: a function that loads the guest registers an instruction names into fixed host registers, executes the instruction with its
 * register numbers changed to those, and stores what it has written. (Intel SDM volume 2, chapter 2: encodings.)
 *
 * Fixed registers: ModRM.reg is xmm1 (or mm1, rax), VEX.vvvv xmm2, ModRM.rm xmm3 (or mm3, rax; memory is [rsi]), the register in the immediate xmm4, and
 * xmm0 is itself. Arguments arrive as struct vec_thunk says, in rdi, rsi, rdx, rcx, r8, r9; rax is free. Any thread; pure.
 */
#include "vm/accel/soft/vec/vec_int.h"

/* Registers as encodings number them. */
enum {
	RCX = 1,
	RDX = 2,
	RSI = 6,
	RDI = 7,
};

struct emitter {
	uint8_t *at;
	const struct insn *insn;
};

static void put(struct emitter *e, const void *bytes, size_t n)
{
	memcpy(e->at, bytes, n);
	e->at += n;
}
#define PUT(e, ...) put(e, (const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__}))

static void put32(struct emitter *e, uint32_t v)
{
	put(e, &v, 4);
}

/* The lower (with L, whole) register reg, between xmm reg and [base]. */
static void load_vec(struct emitter *e, unsigned reg, unsigned base)
{
	uint8_t modrm = (uint8_t)(reg << 3 | base);

	if (e->insn->encoding == ENC_LEGACY) {
		PUT(e, 0x0f, 0x28, modrm); /* movaps */
		return;
	}
	PUT(e, 0xc5, 0xf8, 0x28, modrm); /* vmovaps */
	if (!e->insn->vex_l)
		return;
	/* vinsertf128 ymm, ymm, [base + YMM_DISTANCE], 1 */
	PUT(e, 0xc4, 0xe3, (uint8_t)((~reg & 15) << 3 | 5), 0x18, modrm | 0x80);
	put32(e, YMM_DISTANCE);
	PUT(e, 1);
}

/* VEX instructions clear what they do not write of the register: the upper half is stored always. */
static void store_vec(struct emitter *e, unsigned reg, unsigned base)
{
	uint8_t modrm = (uint8_t)(reg << 3 | base);

	if (e->insn->encoding == ENC_LEGACY) {
		PUT(e, 0x0f, 0x29, modrm);
		return;
	}
	PUT(e, 0xc5, 0xf8, 0x29, modrm);
	PUT(e, 0xc4, 0xe3, 0x7d, 0x19, modrm | 0x80); /* vextractf128 [base + ...], ymm, 1 */
	put32(e, YMM_DISTANCE);
	PUT(e, 1);
}

/* Where an operand's value lives while the instruction runs. */
struct place {
	uint8_t reg;  /* number in the instruction */
	uint8_t base; /* the argument that points to it */
};

static struct place place_of(const struct insn_operand *o)
{
	switch (o->field) {
	case FIELD_REG:
		return (struct place){o->kind == OPND_GPR ? 0 : 1, RDI};
	case FIELD_RM:
		return (struct place){o->kind == OPND_GPR ? 0 : 3, RSI};
	case FIELD_VVVV:
		return (struct place){2, RDX};
	case FIELD_IMM:
		return (struct place){4, RCX};
	default:
		return (struct place){0, RCX};
	}
}

static void load_operand(struct emitter *e, const struct insn_operand *o)
{
	struct place p = place_of(o);
	uint8_t modrm = (uint8_t)(p.reg << 3 | p.base);

	if (!(o->access & INSN_READ))
		return;
	if (o->kind == OPND_VEC)
		load_vec(e, p.reg, p.base);
	else if (o->kind == OPND_MMX)
		PUT(e, 0x0f, 0x6f, modrm); /* movq mm, [base] */
	else if (o->kind == OPND_GPR)
		PUT(e, 0x48, 0x8b, modrm); /* mov rax, [base] */
}

static void store_operand(struct emitter *e, const struct insn_operand *o)
{
	struct place p = place_of(o);
	uint8_t modrm = (uint8_t)(p.reg << 3 | p.base);

	if (!(o->access & INSN_WRITE))
		return;
	if (o->kind == OPND_VEC)
		store_vec(e, p.reg, p.base);
	else if (o->kind == OPND_MMX)
		PUT(e, 0x0f, 0x7f, modrm);
	else if (o->kind == OPND_GPR)
		PUT(e, 0x48, 0x89, modrm); /* all of rax: a write of 32 bits has cleared the rest */
}

static void put_prefix(struct emitter *e)
{
	static const uint8_t prefixes[4] = {0, 0x66, 0xf3, 0xf2};

	if (e->insn->pp)
		PUT(e, prefixes[e->insn->pp]);
}

/* The instruction itself. */
static void put_insn(struct emitter *e)
{
	const struct insn *insn = e->insn;
	uint8_t modrm =
		insn->modrm >= 0xc0 ? (insn->modrm & 0x38) | 0xc0 : (insn->modrm & 0x38) | RSI;
	uint8_t vvvv = 0;
	bool has_imm = false;

	for (unsigned i = 0; i < insn->n_operands; i++) {
		const struct insn_operand *o = &insn->operand[i];
		struct place p = place_of(o);

		has_imm |= o->kind == OPND_IMM || o->field == FIELD_IMM;
		if (o->field == FIELD_REG)
			modrm = (uint8_t)((modrm & ~0x38) | p.reg << 3);
		else if (o->field == FIELD_RM && o->kind != OPND_MEM)
			modrm |= p.reg;
		else if (o->field == FIELD_VVVV)
			vvvv = p.reg;
	}
	if (insn->encoding == ENC_VEX) {
		PUT(e, 0xc4, 0xe0 | insn->map,
		    (uint8_t)(insn->rex_w << 7 | (~vvvv & 15) << 3 | insn->vex_l << 2 | insn->pp),
		    insn->opcode, modrm);
	} else {
		put_prefix(e);
		if (insn->rex_w)
			PUT(e, 0x48);
		PUT(e, 0x0f);
		if (insn->map > 1)
			PUT(e, insn->map == 2 ? 0x38 : 0x3a);
		PUT(e, insn->opcode, modrm);
	}
	if (has_imm)
		PUT(e, vec_imm(insn));
}

/* lahf; seto al; mov [r8], ax */
static void store_flags(struct emitter *e)
{
	PUT(e, 0x9f, 0x0f, 0x90, 0xc0, 0x66, 0x41, 0x89, 0x00);
}

static size_t emit_vec(struct emitter *e)
{
	const struct insn *insn = e->insn;
	const uint8_t *start = e->at;
	bool is_mmx = false;

	for (unsigned i = 0; i < insn->n_operands; i++) {
		load_operand(e, &insn->operand[i]);
		is_mmx |= insn->operand[i].kind == OPND_MMX;
	}
	if (insn->op == OP_PCMPESTRI || insn->op == OP_PCMPESTRM)
		PUT(e, 0x49, 0x8b, 0x01, 0x49, 0x8b, 0x51, 0x10); /* rax, rdx from [r9] */
	put_insn(e);
	if (insn->form->flags_written)
		store_flags(e);
	if (insn->op == OP_PCMPESTRI || insn->op == OP_PCMPISTRI)
		PUT(e, 0x49, 0x89, 0x49, 0x08); /* rcx to [r9 + 8] */
	if (insn->op == OP_PCMPESTRM)
		store_vec(e, 0, RCX);
	for (unsigned i = 0; i < insn->n_operands; i++)
		store_operand(e, &insn->operand[i]);
	if (is_mmx)
		PUT(e, 0x0f, 0x77); /* emms */
	if (insn->encoding == ENC_VEX && insn->vex_l)
		PUT(e, 0xc5, 0xf8, 0x77); /* vzeroupper */
	PUT(e, 0xc3);
	return (size_t)(e->at - start);
}

/* x87: all of the state goes in and out, with MXCSR on the way, which is put back. */
static size_t emit_x87(struct emitter *e)
{
	const struct insn *insn = e->insn;
	const uint8_t *start = e->at;

	PUT(e, 0x0f, 0xae, 0x5c, 0x24, 0xf8);   /* stmxcsr [rsp - 8] */
	PUT(e, 0x48, 0x0f, 0xae, RDI | 1 << 3); /* fxrstor64 [rdi] */
	if (insn->form->flags_read)             /* mov ax, [r8]; add al, 127; sahf */
		PUT(e, 0x66, 0x41, 0x8b, 0x00, 0x04, 0x7f, 0x9e);
	PUT(e, insn->opcode, insn->modrm >= 0xc0 ? insn->modrm : (insn->modrm & 0x38) | RSI);
	if (insn->form->flags_written)
		store_flags(e);
	PUT(e, 0x48, 0x0f, 0xae, RDI); /* fxsave64 [rdi] */
	PUT(e, 0xdb, 0xe3); /* fninit: the calling convention's state, and no pending exception */
	PUT(e, 0x0f, 0xae, 0x54, 0x24, 0xf8); /* ldmxcsr [rsp - 8] */
	PUT(e, 0xc3);
	return (size_t)(e->at - start);
}

size_t vec_emit(uint8_t *at, const struct insn *insn)
{
	struct emitter e = {at, insn};

	return insn->form->attrs & FORM_X87 ? emit_x87(&e) : emit_vec(&e);
}
