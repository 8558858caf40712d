/*
 * Shifts and rotates: ROL ROR RCL RCR SHL SHR SAR, SHLD SHRD, RORX SHLX SHRX SARX. (Intel SDM volume 2.) The count is in CL for the host's
 * instruction in each case; a count of zero leaves flags as they were brought in.
 */
#include "vm/accel/soft/interp/interp_int.h"

#define KERNEL(name, mnemonic)                                                                     \
	INLINE uint64_t name(unsigned size, uint64_t a, uint8_t count, uint16_t *status)           \
	{                                                                                          \
		uint32_t st = *status;                                                             \
                                                                                                   \
		switch (size) {                                                                    \
		case 1:                                                                            \
			__asm__(FLAGS_IN mnemonic "b %%cl,%b0" FLAGS_OUT                           \
				: "+&q"(a), "+&a"(st)                                              \
				: "c"(count)                                                       \
				: "cc");                                                           \
			break;                                                                     \
		case 2:                                                                            \
			__asm__(FLAGS_IN mnemonic "w %%cl,%w0" FLAGS_OUT                           \
				: "+&r"(a), "+&a"(st)                                              \
				: "c"(count)                                                       \
				: "cc");                                                           \
			break;                                                                     \
		case 4:                                                                            \
			__asm__(FLAGS_IN mnemonic "l %%cl,%k0" FLAGS_OUT                           \
				: "+&r"(a), "+&a"(st)                                              \
				: "c"(count)                                                       \
				: "cc");                                                           \
			break;                                                                     \
		default:                                                                           \
			__asm__(FLAGS_IN mnemonic "q %%cl,%0" FLAGS_OUT                            \
				: "+&r"(a), "+&a"(st)                                              \
				: "c"(count)                                                       \
				: "cc");                                                           \
		}                                                                                  \
		*status = (uint16_t)st;                                                            \
		return a;                                                                          \
	}

KERNEL(rol, "rol")
KERNEL(ror, "ror")
KERNEL(rcl, "rcl")
KERNEL(rcr, "rcr")
KERNEL(shl, "shl")
KERNEL(shr, "shr")
KERNEL(sar, "sar")

typedef uint64_t (*kernel)(unsigned size, uint64_t a, uint8_t count, uint16_t *status);

INLINE uint8_t count_of(struct soft_cpu *cpu, const struct insn *insn, unsigned operand)
{
	switch (insn->operand[operand].kind) {
	case OPND_IMM:
		return (uint8_t)insn->imm;
	case OPND_ONE:
		return 1;
	default:
		return (uint8_t)cpu->gpr[1];
	}
}

INLINE void shift(struct soft_cpu *cpu, const struct insn *insn, kernel fn, unsigned size,
		  uint8_t count)
{
	struct place_rw at = rw_begin(cpu, insn, &insn->operand[0], size);
	uint16_t status = cpu->status;
	uint64_t value = fn(size, at.value, count, &status);

	rw_end(cpu, &at, size, value);
	cpu->status = status;
}

INLINE void shift_register(struct soft_cpu *cpu, const struct insn *insn, kernel fn, unsigned size)
{
	reg_put(cpu, &insn->operand[0], size,
		fn(size, reg_get(cpu, &insn->operand[0], size), (uint8_t)insn->imm, &cpu->status));
}

/* ri: a register by an immediate; x: everything else. */
#define OF_SIZE(name, size)                                                                        \
	static void name##_ri_##size(struct soft_cpu *cpu, const struct insn *insn)                \
	{                                                                                          \
		shift_register(cpu, insn, name, size);                                             \
	}                                                                                          \
	static void name##_x_##size(struct soft_cpu *cpu, const struct insn *insn)                 \
	{                                                                                          \
		shift(cpu, insn, name, size, count_of(cpu, insn, 1));                              \
	}
#define FUNCTIONS(name) OF_SIZE(name, 1) OF_SIZE(name, 2) OF_SIZE(name, 4) OF_SIZE(name, 8)
FUNCTIONS(rol)
FUNCTIONS(ror)
FUNCTIONS(rcl)
FUNCTIONS(rcr)
FUNCTIONS(shl)
FUNCTIONS(shr)
FUNCTIONS(sar)

/* --- SHLD, SHRD --- */

#define DOUBLE(name, mnemonic)                                                                     \
	INLINE uint64_t name(unsigned size, uint64_t a, uint64_t b, uint8_t count,                 \
			     uint16_t *status)                                                     \
	{                                                                                          \
		uint32_t st = *status;                                                             \
                                                                                                   \
		switch (size) {                                                                    \
		case 2:                                                                            \
			__asm__(FLAGS_IN mnemonic "w %%cl,%w2,%w0" FLAGS_OUT                       \
				: "+&r"(a), "+&a"(st)                                              \
				: "r"(b), "c"(count)                                               \
				: "cc");                                                           \
			break;                                                                     \
		case 4:                                                                            \
			__asm__(FLAGS_IN mnemonic "l %%cl,%k2,%k0" FLAGS_OUT                       \
				: "+&r"(a), "+&a"(st)                                              \
				: "r"(b), "c"(count)                                               \
				: "cc");                                                           \
			break;                                                                     \
		default:                                                                           \
			__asm__(FLAGS_IN mnemonic "q %%cl,%2,%0" FLAGS_OUT                         \
				: "+&r"(a), "+&a"(st)                                              \
				: "r"(b), "c"(count)                                               \
				: "cc");                                                           \
		}                                                                                  \
		*status = (uint16_t)st;                                                            \
		return a;                                                                          \
	}
DOUBLE(shld, "shld")
DOUBLE(shrd, "shrd")

INLINE void shift_double(struct soft_cpu *cpu, const struct insn *insn, unsigned size, bool left)
{
	struct place_rw at = rw_begin(cpu, insn, &insn->operand[0], size);
	uint64_t other = reg_get(cpu, &insn->operand[1], size), value;
	uint8_t count = count_of(cpu, insn, 2);
	uint16_t status = cpu->status;

	value = left ? shld(size, at.value, other, count, &status)
		     : shrd(size, at.value, other, count, &status);
	rw_end(cpu, &at, size, value);
	cpu->status = status;
}

#define DOUBLE_OF_SIZE(size)                                                                       \
	static void shld_x_##size(struct soft_cpu *cpu, const struct insn *insn)                   \
	{                                                                                          \
		shift_double(cpu, insn, size, true);                                               \
	}                                                                                          \
	static void shrd_x_##size(struct soft_cpu *cpu, const struct insn *insn)                   \
	{                                                                                          \
		shift_double(cpu, insn, size, false);                                              \
	}
DOUBLE_OF_SIZE(2)
DOUBLE_OF_SIZE(4)
DOUBLE_OF_SIZE(8)

/* --- without flags --- */

static void shift_x(struct soft_cpu *cpu, const struct insn *insn)
{
	unsigned size = insn->operand[0].size, bits = 8 * size;
	uint64_t a = rm_get(cpu, insn, &insn->operand[1], size);
	unsigned count = insn->op == OP_RORX ? (unsigned)insn->imm
					     : (unsigned)cpu->gpr[insn->operand[2].reg];

	count &= bits - 1;
	switch (insn->op) {
	case OP_RORX:
		a = a >> count | a << (-count & (bits - 1));
		break;
	case OP_SHLX:
		a <<= count;
		break;
	case OP_SHRX:
		a >>= count;
		break;
	default:
		a = size == 4 ? (uint64_t)((int32_t)a >> count) : (uint64_t)((int64_t)a >> count);
	}
	gpr_put(cpu, insn->operand[0].reg, size, a);
}

exec_fn bind_shift(const struct insn *insn)
{
	static const struct {
		uint16_t op;
		exec_fn ri[4], x[4];
	} table[] = {
		{OP_ROL, BY_SIZE(rol_ri), BY_SIZE(rol_x)},
		{OP_ROR, BY_SIZE(ror_ri), BY_SIZE(ror_x)},
		{OP_RCL, BY_SIZE(rcl_ri), BY_SIZE(rcl_x)},
		{OP_RCR, BY_SIZE(rcr_ri), BY_SIZE(rcr_x)},
		{OP_SHL, BY_SIZE(shl_ri), BY_SIZE(shl_x)},
		{OP_SHR, BY_SIZE(shr_ri), BY_SIZE(shr_x)},
		{OP_SAR, BY_SIZE(sar_ri), BY_SIZE(sar_x)},
		{OP_SHLD, {NULL}, {NULL, shld_x_2, shld_x_4, shld_x_8}},
		{OP_SHRD, {NULL}, {NULL, shrd_x_2, shrd_x_4, shrd_x_8}},
	};
	unsigned size = size_index(insn->opsize);

	if (insn->op == OP_RORX || insn->op == OP_SHLX || insn->op == OP_SHRX ||
	    insn->op == OP_SARX)
		return shift_x;
	for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
		if (table[i].op != insn->op)
			continue;
		if (insn->operand[0].kind != OPND_MEM && insn->operand[1].kind == OPND_IMM)
			return table[i].ri[size];
		return table[i].x[size];
	}
	return NULL;
}
