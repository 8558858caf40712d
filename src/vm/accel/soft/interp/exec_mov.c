/*
 * Moves: MOV, MOVZX, MOVSX, LEA, XCHG, CMOVcc, SETcc, BSWAP, MOVBE, MOVNTI, CBW and CWD and their kin, XLAT. (Intel SDM volume 2.)
 */
#include "vm/accel/soft/interp/interp_int.h"

/* --- MOV --- */

#define MOV_OF_SIZE(size)                                                                          \
	static void mov_rr_##size(struct soft_cpu *cpu, const struct insn *insn)                   \
	{                                                                                          \
		reg_put(cpu, &insn->operand[0], size, reg_get(cpu, &insn->operand[1], size));      \
	}                                                                                          \
	static void mov_rm_##size(struct soft_cpu *cpu, const struct insn *insn)                   \
	{                                                                                          \
		reg_put(cpu, &insn->operand[0], size, memory_get(cpu, insn, size));                \
	}                                                                                          \
	static void mov_ri_##size(struct soft_cpu *cpu, const struct insn *insn)                   \
	{                                                                                          \
		reg_put(cpu, &insn->operand[0], size, insn->imm);                                  \
	}                                                                                          \
	static void mov_mr_##size(struct soft_cpu *cpu, const struct insn *insn)                   \
	{                                                                                          \
		memory_put(cpu, insn, size, reg_get(cpu, &insn->operand[1], size));                \
	}                                                                                          \
	static void mov_mi_##size(struct soft_cpu *cpu, const struct insn *insn)                   \
	{                                                                                          \
		memory_put(cpu, insn, size, insn->imm &size_mask(size));                           \
	}
MOV_OF_SIZE(1)
MOV_OF_SIZE(2)
MOV_OF_SIZE(4)
MOV_OF_SIZE(8)

static exec_fn bind_plain(const struct insn *insn)
{
	static const exec_fn rr[] = BY_SIZE(mov_rr), rm[] = BY_SIZE(mov_rm), ri[] = BY_SIZE(mov_ri),
			     mr[] = BY_SIZE(mov_mr), mi[] = BY_SIZE(mov_mi);
	unsigned i = size_index(insn->operand[0].size);
	bool immediate = insn->operand[1].kind == OPND_IMM;

	if (insn->operand[0].kind == OPND_MEM)
		return immediate ? mi[i] : mr[i];
	if (insn->operand[1].kind == OPND_MEM)
		return rm[i];
	return immediate ? ri[i] : rr[i];
}

/* --- MOVZX, MOVSX --- */

#define EXTEND(name, from, to, type)                                                               \
	static void name##_r_##to(struct soft_cpu *cpu, const struct insn *insn)                   \
	{                                                                                          \
		gpr_put(cpu, insn->operand[0].reg, to,                                             \
			(uint64_t)(int64_t)(type)reg_get(cpu, &insn->operand[1], from));           \
	}                                                                                          \
	static void name##_m_##to(struct soft_cpu *cpu, const struct insn *insn)                   \
	{                                                                                          \
		gpr_put(cpu, insn->operand[0].reg, to,                                             \
			(uint64_t)(int64_t)(type)memory_get(cpu, insn, from));                     \
	}
EXTEND(zero1, 1, 2, uint8_t)
EXTEND(zero1, 1, 4, uint8_t)
EXTEND(zero1, 1, 8, uint8_t)
EXTEND(zero2, 2, 2, uint16_t)
EXTEND(zero2, 2, 4, uint16_t)
EXTEND(zero2, 2, 8, uint16_t)
EXTEND(sign1, 1, 2, int8_t)
EXTEND(sign1, 1, 4, int8_t)
EXTEND(sign1, 1, 8, int8_t)
EXTEND(sign2, 2, 2, int16_t)
EXTEND(sign2, 2, 4, int16_t)
EXTEND(sign2, 2, 8, int16_t)
EXTEND(sign4, 4, 4, int32_t)
EXTEND(sign4, 4, 8, int32_t)

/* By size of the source, then shape, then size of the destination. */
#define EXTENSIONS(name)                                                                           \
	{                                                                                          \
		{name##_r_2, name##_r_4, name##_r_8},                                              \
		{                                                                                  \
			name##_m_2, name##_m_4, name##_m_8                                         \
		}                                                                                  \
	}
static const exec_fn zero_extend[3][2][3] = {EXTENSIONS(zero1), EXTENSIONS(zero2)};
static const exec_fn sign_extend[3][2][3] = {EXTENSIONS(sign1),
					     EXTENSIONS(sign2),
					     {{NULL, sign4_r_4, sign4_r_8},
					      {NULL, sign4_m_4, sign4_m_8}}};

static exec_fn bind_extend(const struct insn *insn)
{
	unsigned from = size_index(insn->operand[1].size);
	unsigned to = size_index(insn->operand[0].size) - 1;
	bool memory = insn->operand[1].kind == OPND_MEM;

	return (insn->op == OP_MOVZX ? zero_extend : sign_extend)[from][memory][to];
}

/* --- LEA --- */

static void lea_2(struct soft_cpu *cpu, const struct insn *insn)
{
	gpr_put(cpu, insn->operand[0].reg, 2, offset_inline(cpu, insn));
}

static void lea_4(struct soft_cpu *cpu, const struct insn *insn)
{
	gpr_put(cpu, insn->operand[0].reg, 4, offset_inline(cpu, insn));
}

static void lea_8(struct soft_cpu *cpu, const struct insn *insn)
{
	cpu->gpr[insn->operand[0].reg] = offset_inline(cpu, insn);
}

/* --- XCHG: with memory always locked --- */

static void xchg_rr(struct soft_cpu *cpu, const struct insn *insn)
{
	unsigned size = insn->operand[0].size;
	uint64_t a = reg_get(cpu, &insn->operand[0], size);
	uint64_t b = reg_get(cpu, &insn->operand[1], size);

	reg_put(cpu, &insn->operand[0], size, b);
	reg_put(cpu, &insn->operand[1], size, a);
}

static void xchg_mr(struct soft_cpu *cpu, const struct insn *insn)
{
	unsigned size = insn->operand[0].size;
	uint64_t linear = linear_inline(cpu, insn, size, true);
	uint64_t value = reg_get(cpu, &insn->operand[1], size), old;
	void *host = mem_host_rw_inline(cpu, linear, size);

	if (host) {
		old = ram_load(host, size);
		while (!ram_compare_exchange(host, size, &old, value))
			;
	} else {
		soft_exclusive_begin(cpu);
		old = mem_read(cpu, linear, size);
		mem_write(cpu, linear, size, value);
		soft_exclusive_end(cpu);
	}
	reg_put(cpu, &insn->operand[1], size, old);
}

/* --- CMOVcc, SETcc --- */

#define CMOV_OF_SIZE(size)                                                                         \
	static void cmov_r_##size(struct soft_cpu *cpu, const struct insn *insn)                   \
	{                                                                                          \
		uint64_t value = reg_get(cpu, &insn->operand[1], size);                            \
                                                                                                   \
		if (!condition(cpu, insn->cond))                                                   \
			value = reg_get(cpu, &insn->operand[0], size);                             \
		gpr_put(cpu, insn->operand[0].reg, size, value);                                   \
	}                                                                                          \
	static void cmov_m_##size(struct soft_cpu *cpu, const struct insn *insn)                   \
	{                                                                                          \
		uint64_t value = memory_get(cpu, insn, size);                                      \
                                                                                                   \
		if (!condition(cpu, insn->cond))                                                   \
			value = reg_get(cpu, &insn->operand[0], size);                             \
		gpr_put(cpu, insn->operand[0].reg, size, value);                                   \
	}
CMOV_OF_SIZE(2)
CMOV_OF_SIZE(4)
CMOV_OF_SIZE(8)

static void set_condition(struct soft_cpu *cpu, const struct insn *insn)
{
	rm_put(cpu, insn, &insn->operand[0], 1, condition(cpu, insn->cond));
}

/* --- bytes in reverse --- */

static uint64_t reversed(uint64_t value, unsigned size)
{
	return __builtin_bswap64(value) >> (64 - 8 * size);
}

static void bswap(struct soft_cpu *cpu, const struct insn *insn)
{
	unsigned size = insn->operand[0].size, reg = insn->operand[0].reg;

	/* Of 16 bits: undefined, and zero on every processor. */
	gpr_put(cpu, reg, size, size == 2 ? 0 : reversed(cpu->gpr[reg], size));
}

static void movbe(struct soft_cpu *cpu, const struct insn *insn)
{
	unsigned size = insn->operand[0].size;
	uint64_t value = rm_get(cpu, insn, &insn->operand[1], size);

	rm_put(cpu, insn, &insn->operand[0], size, reversed(value, size));
}

/* --- sign extension of the accumulator --- */

static void cbw(struct soft_cpu *cpu, const struct insn *insn)
{
	uint64_t a = cpu->gpr[0];
	int64_t value = insn->opsize == 2 ? (int8_t)a : insn->opsize == 4 ? (int16_t)a : (int32_t)a;

	gpr_put(cpu, 0, insn->opsize, (uint64_t)value);
}

static void cwd(struct soft_cpu *cpu, const struct insn *insn)
{
	uint64_t sign = cpu->gpr[0] >> (8 * insn->opsize - 1) & 1;

	gpr_put(cpu, 2, insn->opsize, 0 - sign);
}

static void xlat(struct soft_cpu *cpu, const struct insn *insn)
{
	uint64_t offset = (cpu->gpr[3] + (uint8_t)cpu->gpr[0]) & size_mask(insn->addrsize);
	uint64_t linear = seg_linear_inline(cpu, (enum insn_seg)insn->seg, offset, 1, false);

	gpr_put(cpu, 0, 1, mem_read_inline(cpu, linear, 1));
}

static void nop(struct soft_cpu *cpu, const struct insn *insn)
{
	(void)cpu;
	(void)insn;
}

exec_fn bind_mov(const struct insn *insn)
{
	static const exec_fn lea[] = {NULL, lea_2, lea_4, lea_8};
	static const exec_fn cmov[2][4] = {{NULL, cmov_r_2, cmov_r_4, cmov_r_8},
					   {NULL, cmov_m_2, cmov_m_4, cmov_m_8}};
	unsigned i = size_index(insn->opsize);

	switch (insn->op) {
	case OP_MOV:
	case OP_MOVNTI:
		return bind_plain(insn);
	case OP_MOVZX:
	case OP_MOVSX:
		/* A 16-bit one from 16 bits is a plain move. */
		return insn->operand[0].size == insn->operand[1].size && insn->op == OP_MOVSX
			       ? bind_plain(insn)
			       : bind_extend(insn);
	case OP_LEA:
		return lea[i];
	case OP_XCHG:
		return insn->operand[0].kind == OPND_MEM ? xchg_mr : xchg_rr;
	case OP_CMOV:
		return cmov[insn->operand[1].kind == OPND_MEM][i];
	case OP_SET:
		return set_condition;
	case OP_BSWAP:
		return bswap;
	case OP_MOVBE:
		return movbe;
	case OP_CBW:
		return cbw;
	case OP_CWD:
		return cwd;
	case OP_XLAT:
		return xlat;
	case OP_NOP:
	case OP_PAUSE:
		return nop;
	default:
		return NULL;
	}
}
