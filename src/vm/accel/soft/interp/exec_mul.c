/*
 * MUL, IMUL, DIV, IDIV, MULX; and the decimal adjustments, which 64-bit mode does not have and which are therefore computed. (Intel SDM
 * volume 2.) Every case in which the host's DIV would raise #DE is found before.
 */
#include "vm/accel/soft/interp/interp_int.h"

typedef unsigned __int128 u128;
typedef __int128 s128;

/* --- multiplication --- */

/* The host's one-operand multiplication: low half in *low, flags into *status, returns the high half. Flags that are left undefined may
 * be those from before on one processor and not on another: so they are brought in. */
#define MULTIPLY(name, mnemonic)                                                                   \
	INLINE uint64_t name(unsigned size, uint64_t *low, uint64_t b, uint16_t *status)           \
	{                                                                                          \
		uint64_t high;                                                                     \
		uint32_t st = *status;                                                             \
                                                                                                   \
		switch (size) {                                                                    \
		case 1:                                                                            \
			__asm__(FLAGS_IN "movq %2,%%rax\n\t" mnemonic                              \
					 "b %b3\n\tmovq %%rax,%2" FLAGS_OUT                        \
				: "+&a"(st), "=&d"(high), "+&r"(*low)                              \
				: "r"(b)                                                           \
				: "cc");                                                           \
			high = *low >> 8 & 0xff;                                                   \
			*low &= 0xff;                                                              \
			break;                                                                     \
		case 2:                                                                            \
			__asm__(FLAGS_IN "movq %2,%%rax\n\t" mnemonic                              \
					 "w %w3\n\tmovq %%rax,%2" FLAGS_OUT                        \
				: "+&a"(st), "=&d"(high), "+&r"(*low)                              \
				: "r"(b)                                                           \
				: "cc");                                                           \
			break;                                                                     \
		case 4:                                                                            \
			__asm__(FLAGS_IN "movq %2,%%rax\n\t" mnemonic                              \
					 "l %k3\n\tmovq %%rax,%2" FLAGS_OUT                        \
				: "+&a"(st), "=&d"(high), "+&r"(*low)                              \
				: "r"(b)                                                           \
				: "cc");                                                           \
			break;                                                                     \
		default:                                                                           \
			__asm__(FLAGS_IN "movq %2,%%rax\n\t" mnemonic                              \
					 "q %3\n\tmovq %%rax,%2" FLAGS_OUT                         \
				: "+&a"(st), "=&d"(high), "+&r"(*low)                              \
				: "r"(b)                                                           \
				: "cc");                                                           \
		}                                                                                  \
		*status = (uint16_t)st;                                                            \
		return high;                                                                       \
	}
MULTIPLY(mul, "mul")
MULTIPLY(imul, "imul")

typedef uint64_t (*multiply)(unsigned size, uint64_t *low, uint64_t b, uint16_t *status);

INLINE void wide(struct soft_cpu *cpu, const struct insn *insn, multiply fn, unsigned size)
{
	uint64_t b = rm_get(cpu, insn, &insn->operand[0], size);
	uint64_t low = cpu->gpr[0] & size_mask(size);
	uint64_t high = fn(size, &low, b, &cpu->status);

	if (size == 1) {
		gpr_put(cpu, 0, 2, high << 8 | low);
		return;
	}
	gpr_put(cpu, 0, size, low);
	gpr_put(cpu, 2, size, high);
}

#define WIDE_OF_SIZE(size)                                                                         \
	static void mul_##size(struct soft_cpu *cpu, const struct insn *insn)                      \
	{                                                                                          \
		wide(cpu, insn, mul, size);                                                        \
	}                                                                                          \
	static void imul_##size(struct soft_cpu *cpu, const struct insn *insn)                     \
	{                                                                                          \
		wide(cpu, insn, imul, size);                                                       \
	}
WIDE_OF_SIZE(1)
WIDE_OF_SIZE(2)
WIDE_OF_SIZE(4)
WIDE_OF_SIZE(8)

/* IMUL with two and three operands. */
INLINE void narrow(struct soft_cpu *cpu, const struct insn *insn, unsigned size)
{
	uint64_t a, b = rm_get(cpu, insn, &insn->operand[1], size);
	uint32_t st = cpu->status;

	a = insn->n_operands == 3 ? insn->imm : reg_get(cpu, &insn->operand[0], size);
	switch (size) {
	case 2:
		__asm__(FLAGS_IN "imulw %w2,%w0" FLAGS_OUT : "+&r"(a), "+&a"(st) : "r"(b) : "cc");
		break;
	case 4:
		__asm__(FLAGS_IN "imull %k2,%k0" FLAGS_OUT : "+&r"(a), "+&a"(st) : "r"(b) : "cc");
		break;
	default:
		__asm__(FLAGS_IN "imulq %2,%0" FLAGS_OUT : "+&r"(a), "+&a"(st) : "r"(b) : "cc");
	}
	gpr_put(cpu, insn->operand[0].reg, size, a);
	cpu->status = (uint16_t)st;
}

static void narrow_2(struct soft_cpu *cpu, const struct insn *insn)
{
	narrow(cpu, insn, 2);
}

static void narrow_4(struct soft_cpu *cpu, const struct insn *insn)
{
	narrow(cpu, insn, 4);
}

static void narrow_8(struct soft_cpu *cpu, const struct insn *insn)
{
	narrow(cpu, insn, 8);
}

static void mulx(struct soft_cpu *cpu, const struct insn *insn)
{
	unsigned size = insn->operand[0].size;
	uint64_t a = rm_get(cpu, insn, &insn->operand[2], size);
	u128 product = (u128)a * (cpu->gpr[2] & size_mask(size));

	/* Both destinations may be one register: the high half stays. */
	gpr_put(cpu, insn->operand[1].reg, size, (uint64_t)product);
	gpr_put(cpu, insn->operand[0].reg, size, (uint64_t)(product >> 8 * size));
}

/* --- division --- */

static void put_quotient(struct soft_cpu *cpu, unsigned size, uint64_t quotient, uint64_t remainder)
{
	if (size == 1) {
		gpr_put(cpu, 0, 2, (remainder & 0xff) << 8 | (quotient & 0xff));
		return;
	}
	gpr_put(cpu, 0, size, quotient);
	gpr_put(cpu, 2, size, remainder);
}

/* The dividend's two halves. */
static void get_dividend(const struct soft_cpu *cpu, unsigned size, uint64_t *high, uint64_t *low)
{
	*low = cpu->gpr[0] & size_mask(size);
	*high = size == 1 ? cpu->gpr[0] >> 8 & 0xff : cpu->gpr[2] & size_mask(size);
}

static void div_any(struct soft_cpu *cpu, const struct insn *insn)
{
	unsigned size = insn->opsize;
	uint64_t b = rm_get(cpu, insn, &insn->operand[0], size), high, low, quotient, remainder;

	get_dividend(cpu, size, &high, &low);
	if (high >= b)
		cpu_raise(cpu, VEC_DE);
	if (size < 8) {
		uint64_t dividend = high << 8 * size | low;

		quotient = dividend / b;
		remainder = dividend % b;
	} else {
		__asm__("divq %4"
			: "=a"(quotient), "=d"(remainder)
			: "0"(low), "1"(high), "r"(b)
			: "cc");
	}
	put_quotient(cpu, size, quotient, remainder);
}

/* A value of size bytes with its sign. */
static int64_t with_sign(uint64_t value, unsigned size)
{
	switch (size) {
	case 1:
		return (int8_t)value;
	case 2:
		return (int16_t)value;
	case 4:
		return (int32_t)value;
	default:
		return (int64_t)value;
	}
}

static void idiv_any(struct soft_cpu *cpu, const struct insn *insn)
{
	unsigned size = insn->opsize;
	int64_t b = with_sign(rm_get(cpu, insn, &insn->operand[0], size), size);
	s128 dividend, quotient;
	uint64_t high, low, divisor = b < 0 ? -(uint64_t)b : (uint64_t)b;
	u128 magnitude;

	get_dividend(cpu, size, &high, &low);
	if (size == 8)
		dividend = (s128)((u128)high << 64 | low);
	else
		dividend = with_sign(high << 8 * size | low, 2 * size);
	magnitude = dividend < 0 ? -(u128)dividend : (u128)dividend;
	/* First: by zero, and what does not fit 64 bits by far. */
	if (magnitude >> 64 >= divisor)
		cpu_raise(cpu, VEC_DE);
	quotient = dividend / b;
	if (quotient != with_sign((uint64_t)quotient, size))
		cpu_raise(cpu, VEC_DE);
	put_quotient(cpu, size, (uint64_t)quotient, (uint64_t)(dividend % b));
}

exec_fn bind_mul(const struct insn *insn)
{
	static const exec_fn mul_table[] = BY_SIZE(mul), imul_table[] = BY_SIZE(imul);
	static const exec_fn narrow_table[] = {NULL, narrow_2, narrow_4, narrow_8};
	unsigned i = size_index(insn->opsize);

	switch (insn->op) {
	case OP_MUL:
		return mul_table[i];
	case OP_IMUL1:
		return imul_table[i];
	case OP_IMUL:
		return narrow_table[i];
	case OP_MULX:
		return mulx;
	case OP_DIV:
		return div_any;
	case OP_IDIV:
		return idiv_any;
	default:
		return NULL;
	}
}

/* --- decimal --- */

/* SF, ZF and PF of a byte as the host computes them; the other flags clear. */
static uint16_t byte_flags(uint8_t value)
{
	uint32_t st;

	__asm__("testb %1,%1" FLAGS_OUT : "=&a"(st) : "q"(value) : "cc");
	return (uint16_t)st & (ST_SF | ST_ZF | ST_PF);
}

static void daa_das(struct soft_cpu *cpu, const struct insn *insn)
{
	bool adds = insn->op == OP_DAA;
	uint8_t al = (uint8_t)cpu->gpr[0], value = al;
	bool half = (al & 15) > 9 || (cpu->status & ST_AF);
	bool full = al > 0x99 || (cpu->status & ST_CF);
	bool carry = full;

	if (half) {
		value = (uint8_t)(adds ? value + 6 : value - 6);
		/* DAS: a borrow out of the low digit's correction. */
		if (!adds && al < 6)
			carry = true;
	}
	if (full)
		value = (uint8_t)(adds ? value + 0x60 : value - 0x60);
	gpr_put(cpu, 0, 1, value);
	cpu->status = byte_flags(value) | (half ? ST_AF : 0) | (carry ? ST_CF : 0);
}

static void aaa_aas(struct soft_cpu *cpu, const struct insn *insn)
{
	uint16_t ax = (uint16_t)cpu->gpr[0];
	bool adjust = (ax & 15) > 9 || (cpu->status & ST_AF);

	if (adjust)
		ax = (uint16_t)(insn->op == OP_AAA ? ax + 0x106 : ax - 0x106);
	ax &= 0xff0f;
	gpr_put(cpu, 0, 2, ax);
	cpu->status = byte_flags((uint8_t)ax) | (adjust ? ST_AF | ST_CF : 0);
}

static void aam(struct soft_cpu *cpu, const struct insn *insn)
{
	uint8_t al = (uint8_t)cpu->gpr[0], base = (uint8_t)insn->imm;

	if (base == 0) {
		cpu_raise(cpu, VEC_DE);
		return;
	}
	gpr_put(cpu, 0, 2, (uint64_t)(al / base) << 8 | al % base);
	cpu->status = byte_flags(al % base);
}

static void aad(struct soft_cpu *cpu, const struct insn *insn)
{
	uint64_t ax = cpu->gpr[0];
	uint8_t value = (uint8_t)(ax + (ax >> 8 & 0xff) * insn->imm);

	gpr_put(cpu, 0, 2, value);
	cpu->status = byte_flags(value);
}

exec_fn bind_decimal(const struct insn *insn)
{
	switch (insn->op) {
	case OP_DAA:
	case OP_DAS:
		return daa_das;
	case OP_AAA:
	case OP_AAS:
		return aaa_aas;
	case OP_AAM:
		return aam;
	case OP_AAD:
		return aad;
	default:
		return NULL;
	}
}
