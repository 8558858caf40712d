/*
 * The decoder: prefixes, opcode, ModRM and SIB, displacement, immediates, then operands as the tables' line says. (Intel SDM volume 2,
 * chapter 2; AMD APM volume 3, chapter 1.)
 *
 * Bytes are copied once, and filled up with zeroes to more than any encoding can reach: nothing here looks where the bytes end,
 * and what was decoded of the filling is thrown away afterwards.
 */
#include "vm/accel/soft/isa/insn.h"

#include <string.h>

#include "vm/accel/soft/isa/isa_int.h"

/* 14 prefixes, three opcode bytes, ModRM, SIB, displacement and two immediates of at most 8 bytes each; rounded up. */
#define BUFFER_BYTES 48

/* CR0, CR2, CR3, CR4, CR8. */
#define CONTROL_REGISTERS 0x11du

/* Where decoding stands. */
struct cursor {
	uint8_t bytes[BUFFER_BYTES];
	unsigned at;
	struct insn *insn;
	const struct isa_line *line;
	bool prefix_66, prefix_67, prefix_before_vex;
	uint8_t rep;                 /* enum insn_rep: the last of F3, F2 */
	uint8_t seg;                 /* override, or INSN_N_SEGS */
	uint8_t rex_r, rex_x, rex_b; /* 0 or 8: added to register numbers */
	uint8_t effective;           /* operand size 2, 4, 8 that the form has */
	bool is_memory;              /* ModRM names memory */
	bool has_imm;                /* one immediate has been read */
};

enum prefix_class {
	NO_PREFIX,
	PREFIX_SEG,
	PREFIX_66,
	PREFIX_67,
	PREFIX_LOCK,
	PREFIX_REP,
	PREFIX_REX
};

static const uint8_t prefix_classes[256] = {
	[0x26] = PREFIX_SEG, [0x2e] = PREFIX_SEG, [0x36] = PREFIX_SEG,
	[0x3e] = PREFIX_SEG, [0x64] = PREFIX_SEG, [0x65] = PREFIX_SEG,
	[0x66] = PREFIX_66,  [0x67] = PREFIX_67,  [0xf0] = PREFIX_LOCK,
	[0xf2] = PREFIX_REP, [0xf3] = PREFIX_REP, [0x40 ... 0x4f] = PREFIX_REX,
};

/* Code may be written by another vCPU meanwhile: each byte is read once, and which of both values it gives does not matter. */
__attribute__((no_sanitize("thread"))) static void copy_bytes(uint8_t *to, const uint8_t *from,
							      size_t n)
{
	if (n >= 16) {
		uint64_t words[2];

		words[0] = *(const volatile uint64_t *)(const volatile void *)from;
		words[1] = *(const volatile uint64_t *)(const volatile void *)(from + 8);
		memcpy(to, words, 16);
		return;
	}
	for (size_t i = 0; i < n; i++)
		to[i] = ((const volatile uint8_t *)from)[i];
}

/* Reads prefixes up to the first byte that is none. false: there are too many. */
static bool read_prefixes(struct cursor *c)
{
	struct insn *insn = c->insn;
	uint8_t rex = 0;

	for (;; c->at++) {
		uint8_t byte = c->bytes[c->at];
		uint8_t class = prefix_classes[byte];

		if (class == NO_PREFIX || (class == PREFIX_REX && insn->mode != INSN_MODE_64))
			break;
		if (c->at == INSN_MAX_BYTES - 1)
			return false;
		/* Only a REX right before the opcode counts. */
		rex = class == PREFIX_REX ? byte : 0;
		switch (class) {
		case PREFIX_SEG:
			if (byte >= 0x64)
				c->seg = (uint8_t)(byte - 0x64 + SEG_FS);
			else if (insn->mode != INSN_MODE_64)
				c->seg = (byte - 0x26) >> 3;
			break;
		case PREFIX_66:
			c->prefix_66 = true;
			break;
		case PREFIX_67:
			c->prefix_67 = true;
			break;
		case PREFIX_LOCK:
			insn->lock = true;
			break;
		case PREFIX_REP:
			c->rep = byte == 0xf3 ? REP_F3 : REP_F2;
			break;
		default:
			break;
		}
	}
	insn->has_rex = rex != 0;
	insn->rex_w = rex & 8;
	c->rex_r = (rex & 4) << 1;
	c->rex_x = (rex & 2) << 2;
	c->rex_b = (uint8_t)((rex & 1) << 3);
	c->prefix_before_vex = rex || c->prefix_66 || c->rep || insn->lock;
	return true;
}

/* The bytes after C4 or C5. */
static void read_vex(struct cursor *c)
{
	struct insn *insn = c->insn;
	bool long_form = c->bytes[c->at++] == 0xc4;
	uint8_t first = c->bytes[c->at++];
	uint8_t last = first;

	insn->encoding = ENC_VEX;
	insn->map = 1;
	c->rex_r = ~first & 0x80 ? 8 : 0;
	if (long_form) {
		c->rex_x = ~first & 0x40 ? 8 : 0;
		c->rex_b = ~first & 0x20 ? 8 : 0;
		insn->map = first & 0x1f;
		last = c->bytes[c->at++];
		insn->rex_w = last & 0x80;
	}
	insn->vvvv = ~(last >> 3) & 15;
	insn->vex_l = last >> 2 & 1;
	/* The order of pp is 66, F3, F2, as here. */
	insn->pp = last & 3;
	if (insn->mode != INSN_MODE_64) {
		c->rex_r = c->rex_x = c->rex_b = 0;
	}
	insn->opcode = c->bytes[c->at++];
}

/* Reads the opcode and finds its group. NULL: there is none. */
static const struct isa_group *read_opcode(struct cursor *c, bool vex)
{
	struct insn *insn = c->insn;
	uint8_t byte = c->bytes[c->at];

	if ((byte & 0xfe) == 0xc4 &&
	    (insn->mode == INSN_MODE_64 || (vex && c->bytes[c->at + 1] >= 0xc0))) {
		read_vex(c);
		if (c->prefix_before_vex || insn->map < 1 || insn->map > 3)
			return NULL;
		return &isa_groups[ENC_VEX][insn->map][insn->opcode];
	}
	c->at++;
	if (byte == 0x0f) {
		byte = c->bytes[c->at++];
		insn->map = 1;
		if (byte == 0x38 || byte == 0x3a) {
			insn->map = byte == 0x38 ? 2 : 3;
			byte = c->bytes[c->at++];
		}
	}
	insn->opcode = byte;
	insn->pp = c->rep == REP_F3 ? 2 : c->rep == REP_F2 ? 3 : c->prefix_66;
	return &isa_groups[ENC_LEGACY][insn->map][byte];
}

/* Operand size by prefixes alone, before a form has its say: 1, 2, 3 for 2, 4, 8 bytes. */
static unsigned plain_size(const struct cursor *c)
{
	const struct insn *insn = c->insn;

	if (insn->mode == INSN_MODE_64 && insn->rex_w)
		return 3;
	if (insn->encoding == ENC_VEX)
		return 2;
	return (insn->mode == INSN_MODE_16) == c->prefix_66 ? 2 : 1;
}

/* The first line whose constraints hold and whose feature is there. */
static const struct isa_line *find_line(const struct cursor *c, const struct isa_group *group,
					unsigned size, cpu_features_t features)
{
	const struct insn *insn = c->insn;
	uint32_t state = (uint32_t)insn->pp << ISA_STATE_PP |
			 (uint32_t)(insn->modrm >> 3 & 7) << ISA_STATE_REG |
			 (uint32_t)(insn->modrm >= 0xc0) << ISA_STATE_MOD3 |
			 (uint32_t)(insn->modrm & 7) << ISA_STATE_RM |
			 (insn->rex_w ? 1u << ISA_STATE_W : 0) |
			 (uint32_t)insn->vex_l << ISA_STATE_L |
			 (uint32_t)insn->mode << ISA_STATE_MODE | (uint32_t)size << ISA_STATE_O |
			 (uint32_t)((insn->addrsize >> 1) - (insn->addrsize >> 3)) << ISA_STATE_A |
			 (uint32_t)(insn->mode == INSN_MODE_64) << ISA_STATE_MODE64 |
			 (uint32_t)(c->rex_b >> 3) << ISA_STATE_B;
	const struct isa_line *line = &isa_lines[group->first];

	for (const struct isa_line *end = line + group->count; line < end; line++)
		if ((state & line->mask) == line->value &&
		    features >> insn_forms[line->form].feature & 1)
			return line;
	return NULL;
}

static uint64_t read_unsigned(struct cursor *c, unsigned n)
{
	uint64_t value = 0;

	memcpy(&value, c->bytes + c->at, n);
	c->at += n;
	return value;
}

static int64_t read_signed(struct cursor *c, unsigned n)
{
	unsigned shift = 64 - 8 * n;

	return (int64_t)(read_unsigned(c, n) << shift) >> shift;
}

static void read_memory_16(struct cursor *c)
{
	static const uint8_t bases[8] = {3, 3, 5, 5, 6, 7, 5, 3};
	static const uint8_t indexes[8] = {
		6, 7, 6, 7, INSN_REG_NONE, INSN_REG_NONE, INSN_REG_NONE, INSN_REG_NONE};
	struct insn *insn = c->insn;
	unsigned mod = insn->modrm >> 6, rm = insn->modrm & 7;

	insn->base = bases[rm];
	insn->index = indexes[rm];
	insn->scale = 1;
	if (mod == 0 && rm == 6) {
		insn->base = INSN_REG_NONE;
		insn->disp = read_signed(c, 2);
	} else if (mod) {
		insn->disp = read_signed(c, mod);
	}
	if (insn->base == 5)
		insn->seg = SEG_SS;
}

static void read_memory_32(struct cursor *c)
{
	struct insn *insn = c->insn;
	unsigned mod = insn->modrm >> 6, rm = insn->modrm & 7;

	insn->base = (uint8_t)rm | c->rex_b;
	insn->scale = 1;
	if (rm == 4) {
		uint8_t sib = c->bytes[c->at++];

		insn->index = (sib >> 3 & 7) | c->rex_x;
		insn->scale = (uint8_t)(1 << (sib >> 6));
		rm = sib & 7;
		insn->base = (uint8_t)rm | c->rex_b;
		if (insn->index == 4 && !(c->line->flags & ISA_LINE_VSIB)) {
			insn->index = INSN_REG_NONE;
			insn->scale = 1;
		}
		if (rm == 5 && mod == 0)
			insn->base = INSN_REG_NONE;
	} else if (rm == 5 && mod == 0) {
		insn->base = insn->mode == INSN_MODE_64 ? INSN_REG_RIP : INSN_REG_NONE;
	}
	if (mod == 1)
		insn->disp = read_signed(c, 1);
	else if (mod == 2 || (rm == 5 && mod == 0))
		insn->disp = read_signed(c, 4);
	if (insn->base == 4 || insn->base == 5)
		insn->seg = SEG_SS;
}

static void read_memory(struct cursor *c)
{
	struct insn *insn = c->insn;

	if (insn->addrsize == 2)
		read_memory_16(c);
	else
		read_memory_32(c);
	if (c->seg != INSN_N_SEGS)
		insn->seg = c->seg;
}

/* Bytes of an operand. */
static uint8_t size_bytes(const struct cursor *c, uint8_t size)
{
	static const uint8_t fixed[ISA_N_SIZES] = {
		[ISA_SIZE_B] = 1,   [ISA_SIZE_W] = 2,   [ISA_SIZE_D] = 4,  [ISA_SIZE_Q] = 8,
		[ISA_SIZE_DQ] = 16, [ISA_SIZE_QQ] = 32, [ISA_SIZE_T] = 10,
	};
	const struct insn *insn = c->insn;
	bool long_mode = insn->mode == INSN_MODE_64;

	switch (size) {
	case ISA_SIZE_V:
		return c->effective;
	case ISA_SIZE_Y:
		return long_mode && (insn->rex_w || insn->form->attrs & FORM_FORCE64) ? 8 : 4;
	case ISA_SIZE_Z:
		return c->effective == 2 ? 2 : 4;
	case ISA_SIZE_P:
		return c->effective + 2;
	case ISA_SIZE_S:
		return long_mode ? 10 : 6;
	case ISA_SIZE_X:
		return (uint8_t)(16 << insn->vex_l);
	case ISA_SIZE_HALF:
		return (uint8_t)(8 << insn->vex_l);
	case ISA_SIZE_QUARTER:
		return (uint8_t)(4 << insn->vex_l);
	case ISA_SIZE_EIGHTH:
		return (uint8_t)(2 << insn->vex_l);
	default:
		return fixed[size];
	}
}

static void set_gpr(const struct cursor *c, struct insn_operand *operand, uint8_t reg)
{
	const struct insn *insn = c->insn;

	operand->kind = OPND_GPR;
	operand->reg = reg;
	if (operand->size == 1 && reg >= 4 && reg < 8 && !insn->has_rex &&
	    insn->encoding == ENC_LEGACY) {
		operand->kind = OPND_GPR_HIGH;
		operand->reg = reg - 4;
	}
}

/* An immediate goes to imm, a second one to imm2. */
static void set_imm(struct cursor *c, struct insn_operand *operand, uint64_t value)
{
	operand->kind = OPND_IMM;
	if (c->has_imm)
		c->insn->imm2 = value;
	else
		c->insn->imm = value;
	c->has_imm = true;
}

static void set_reg(struct insn_operand *operand, enum insn_operand_kind kind, uint8_t reg)
{
	operand->kind = (uint8_t)kind;
	operand->reg = reg;
}

/* An operand that ModRM.rm names. */
static void decode_rm(const struct cursor *c, const struct isa_operand *want,
		      struct insn_operand *operand)
{
	uint8_t rm = c->insn->modrm & 7;

	if (c->is_memory) {
		operand->kind = OPND_MEM;
		operand->size = size_bytes(c, want->memory_size);
		return;
	}
	switch (want->code) {
	case ISA_Q:
	case ISA_N:
		set_reg(operand, OPND_MMX, rm);
		break;
	case ISA_W:
	case ISA_U:
		set_reg(operand, OPND_VEC, rm | c->rex_b);
		break;
	case ISA_ST:
		set_reg(operand, OPND_ST, rm);
		break;
	default:
		set_gpr(c, operand, rm | c->rex_b);
	}
}

static void decode_immediate(struct cursor *c, const struct isa_operand *want,
			     struct insn_operand *operand)
{
	struct insn *insn = c->insn;

	switch (want->code) {
	case ISA_I:
		/* Bytes and explicit words are counts, ports and stack sizes. */
		if (want->size == ISA_SIZE_B || want->size == ISA_SIZE_W)
			set_imm(c, operand, read_unsigned(c, operand->size));
		else
			set_imm(c, operand, (uint64_t)read_signed(c, operand->size));
		break;
	case ISA_K:
		set_imm(c, operand, (uint64_t)read_signed(c, 1));
		break;
	case ISA_J:
		operand->kind = OPND_REL;
		insn->imm = (uint64_t)read_signed(c, operand->size);
		break;
	case ISA_A:
		operand->kind = OPND_FAR;
		operand->size = c->effective + 2;
		insn->imm = read_unsigned(c, c->effective);
		insn->imm2 = read_unsigned(c, 2);
		break;
	default: /* ISA_O */
		operand->kind = OPND_MEM;
		insn->disp = (int64_t)read_unsigned(c, insn->addrsize);
		insn->base = insn->index = INSN_REG_NONE;
		break;
	}
}

/* An operand that ModRM.reg names. false: the register does not exist. */
static bool decode_reg(const struct cursor *c, const struct isa_operand *want,
		       struct insn_operand *operand)
{
	uint8_t reg = (c->insn->modrm >> 3 & 7) | c->rex_r;

	operand->field = FIELD_REG;
	switch (want->code) {
	case ISA_S:
		set_reg(operand, OPND_SEG, reg & 7);
		return operand->reg < INSN_N_SEGS;
	case ISA_C:
		set_reg(operand, OPND_CR, reg);
		return CONTROL_REGISTERS >> reg & 1;
	case ISA_D:
		set_reg(operand, OPND_DR, reg);
		return reg < 8;
	case ISA_P:
		set_reg(operand, OPND_MMX, reg & 7);
		break;
	case ISA_V:
		set_reg(operand, OPND_VEC, reg);
		break;
	default: /* ISA_G */
		set_gpr(c, operand, reg);
	}
	return true;
}

/* A register that VEX.vvvv, the opcode or an immediate names. */
static void decode_elsewhere(struct cursor *c, const struct isa_operand *want,
			     struct insn_operand *operand)
{
	struct insn *insn = c->insn;

	switch (want->code) {
	case ISA_Z:
		operand->field = FIELD_OPCODE;
		set_gpr(c, operand, (insn->opcode & 7) | c->rex_b);
		break;
	case ISA_H:
		operand->field = FIELD_VVVV;
		set_reg(operand, OPND_VEC, insn->vvvv);
		break;
	case ISA_B:
		operand->field = FIELD_VVVV;
		set_reg(operand, OPND_GPR, insn->vvvv);
		break;
	default: /* ISA_L */
		operand->field = FIELD_IMM;
		/* Outside 64-bit mode the highest bit is ignored; who encodes it again does not. */
		insn->imm = c->bytes[c->at++] & (insn->mode == INSN_MODE_64 ? 0xff : 0x7f);
		set_reg(operand, OPND_VEC, insn->imm >> 4 & 15);
	}
}

/* false: the register does not exist. */
static bool decode_operand(struct cursor *c, const struct isa_operand *want,
			   struct insn_operand *operand)
{
	operand->access = want->access;
	operand->size = size_bytes(c, want->size);
	switch ((enum isa_code)want->code) {
	case ISA_E:
	case ISA_M:
	case ISA_R:
	case ISA_Q:
	case ISA_N:
	case ISA_W:
	case ISA_U:
	case ISA_ST:
		operand->field = FIELD_RM;
		decode_rm(c, want, operand);
		break;
	case ISA_G:
	case ISA_S:
	case ISA_C:
	case ISA_D:
	case ISA_P:
	case ISA_V:
		return decode_reg(c, want, operand);
	case ISA_Z:
	case ISA_H:
	case ISA_B:
	case ISA_L:
		decode_elsewhere(c, want, operand);
		break;
	case ISA_I:
	case ISA_K:
	case ISA_J:
	case ISA_A:
	case ISA_O:
		decode_immediate(c, want, operand);
		break;
	case ISA_ONE:
		set_reg(operand, OPND_ONE, 0);
		break;
	case ISA_FIX_GPR:
		set_reg(operand, OPND_GPR, want->reg);
		break;
	case ISA_FIX_SEG:
		set_reg(operand, OPND_SEG, want->reg);
		break;
	case ISA_FIX_ST:
		set_reg(operand, OPND_ST, want->reg);
		break;
	case ISA_FIX_VEC:
		set_reg(operand, OPND_VEC, want->reg);
		break;
	}
	return true;
}

static uint8_t effective_size(const struct cursor *c, unsigned plain)
{
	uint32_t attrs = c->insn->form->attrs;

	if (c->insn->mode == INSN_MODE_64) {
		if (attrs & FORM_FORCE64)
			return 8;
		if (attrs & FORM_DEF64)
			return c->prefix_66 && !c->insn->rex_w ? 2 : 8;
	}
	return (uint8_t)(1 << plain);
}

/* What a form forbids. */
static bool is_allowed(const struct cursor *c)
{
	const struct insn *insn = c->insn;
	uint32_t attrs = insn->form->attrs;

	if (attrs & (insn->mode == INSN_MODE_64 ? FORM_NO64 : FORM_ONLY64))
		return false;
	if (!(c->line->flags & ISA_LINE_VVVV) && insn->vvvv != 0)
		return false;
	if (insn->lock && (!(attrs & FORM_LOCK) || !c->is_memory))
		return false;
	return !(c->line->flags & ISA_LINE_VSIB) || ((insn->modrm & 7) == 4 && insn->addrsize != 2);
}

/* Everything after prefixes, for bytes without end. */
static enum insn_status decode(struct cursor *c, bool vex, cpu_features_t features)
{
	struct insn *insn = c->insn;
	const struct isa_group *group = read_opcode(c, vex);
	unsigned plain;

	if (!group)
		return INSN_BAD;
	if (group->modrm) {
		insn->has_modrm = true;
		insn->modrm = c->bytes[c->at++];
	}
	plain = plain_size(c);
	c->line = find_line(c, group, plain, features);
	if (!c->line)
		return INSN_BAD;
	insn->form = &insn_forms[c->line->form];
	/* Outside 64-bit mode, VEX.W makes no general register wider: what else it may do, the line says. */
	if (insn->mode != INSN_MODE_64 && !(c->line->mask >> ISA_STATE_W & 1))
		insn->rex_w = false;
	insn->op = insn->form->op;
	c->is_memory = group->modrm && insn->modrm < 0xc0 && !(c->line->flags & ISA_LINE_ANYMOD);
	if (!is_allowed(c))
		return INSN_BAD;
	if (insn->mode != INSN_MODE_64)
		insn->vvvv &= 7;
	if (insn->encoding == ENC_LEGACY && !(c->line->flags & ISA_LINE_PP)) {
		insn->rep = c->rep;
		insn->pp = 0;
	}
	if (c->line->flags & ISA_LINE_COND)
		insn->cond = insn->opcode & 15;
	c->effective = effective_size(c, plain);
	insn->opsize = c->line->flags & ISA_LINE_BYTE ? 1 : c->effective;
	/* Ports are at most 4 bytes wide. */
	if (insn->form->attrs & FORM_IO && insn->opsize == 8)
		insn->opsize = 4;
	if (c->is_memory)
		read_memory(c);
	insn->n_operands = c->line->n_operands;
	for (unsigned i = 0; i < insn->n_operands; i++)
		if (!decode_operand(c, &c->line->operand[i], &insn->operand[i]))
			return INSN_BAD;
	return INSN_OK;
}

enum insn_status insn_decode(const uint8_t *bytes, size_t n, enum insn_mode mode, bool vex,
			     cpu_features_t features, struct insn *ret)
{
	struct cursor c = {.insn = ret, .seg = INSN_N_SEGS};
	enum insn_status status = INSN_LONG;

	*ret = (struct insn){.form = insn_forms,
			     .mode = (uint8_t)mode,
			     .base = INSN_REG_NONE,
			     .index = INSN_REG_NONE,
			     .scale = 1};
	copy_bytes(c.bytes, bytes, n);
	if (read_prefixes(&c)) {
		ret->addrsize = mode == INSN_MODE_64 ? 8 : mode == INSN_MODE_32 ? 4 : 2;
		if (c.prefix_67)
			ret->addrsize = ret->addrsize == 4 ? 2 : 4;
		ret->seg = c.seg == INSN_N_SEGS ? SEG_DS : c.seg;
		ret->opsize_prefix = c.prefix_66;
		status = decode(&c, vex, features);
	} else {
		c.at = INSN_MAX_BYTES + 1;
	}
	if (c.at > n && n < INSN_MAX_BYTES)
		status = INSN_SHORT;
	else if (c.at > INSN_MAX_BYTES)
		status = INSN_LONG;
	ret->length = (uint8_t)c.at;
	return status;
}
