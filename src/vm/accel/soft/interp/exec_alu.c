/*
 * ADD, OR, ADC, SBB, AND, SUB, XOR, CMP, TEST; INC, DEC, NEG, NOT. (Intel SDM volume 2.) The host's own instruction computes result and flags.
 *
 * One function for each operation, size and shape: rr, rm, ri; mr, mi; and lock for memory destinations with LOCK.
 */
#include "vm/accel/soft/interp/interp_int.h"

/* result = NAME(size, a, b): flags into *status. IN brings in the flags that are needed;
 * flags that are left undefined are clear, whatever the host does. */
#define KERNEL(name, mnemonic, in, undefined)                                                      \
	INLINE uint64_t name(unsigned size, uint64_t a, uint64_t b, uint16_t *status)              \
	{                                                                                          \
		uint32_t st = *status;                                                             \
                                                                                                   \
		switch (size) {                                                                    \
		case 1:                                                                            \
			__asm__(in mnemonic "b %b2,%b0" FLAGS_OUT                                  \
				: "+&q"(a), "+&a"(st)                                              \
				: "q"(b)                                                           \
				: "cc");                                                           \
			break;                                                                     \
		case 2:                                                                            \
			__asm__(in mnemonic "w %w2,%w0" FLAGS_OUT                                  \
				: "+&r"(a), "+&a"(st)                                              \
				: "r"(b)                                                           \
				: "cc");                                                           \
			break;                                                                     \
		case 4:                                                                            \
			__asm__(in mnemonic "l %k2,%k0" FLAGS_OUT                                  \
				: "+&r"(a), "+&a"(st)                                              \
				: "r"(b)                                                           \
				: "cc");                                                           \
			break;                                                                     \
		default:                                                                           \
			__asm__(in mnemonic "q %2,%0" FLAGS_OUT                                    \
				: "+&r"(a), "+&a"(st)                                              \
				: "r"(b)                                                           \
				: "cc");                                                           \
		}                                                                                  \
		*status = (uint16_t)(st & ~(undefined));                                           \
		return a;                                                                          \
	}

/* The same with one operand. */
#define KERNEL1(name, mnemonic, in)                                                                \
	INLINE uint64_t name(unsigned size, uint64_t a, uint64_t b, uint16_t *status)              \
	{                                                                                          \
		uint32_t st = *status;                                                             \
                                                                                                   \
		(void)b;                                                                           \
		switch (size) {                                                                    \
		case 1:                                                                            \
			__asm__(in mnemonic "b %b0" FLAGS_OUT : "+&q"(a), "+&a"(st) : : "cc");     \
			break;                                                                     \
		case 2:                                                                            \
			__asm__(in mnemonic "w %w0" FLAGS_OUT : "+&r"(a), "+&a"(st) : : "cc");     \
			break;                                                                     \
		case 4:                                                                            \
			__asm__(in mnemonic "l %k0" FLAGS_OUT : "+&r"(a), "+&a"(st) : : "cc");     \
			break;                                                                     \
		default:                                                                           \
			__asm__(in mnemonic "q %0" FLAGS_OUT : "+&r"(a), "+&a"(st) : : "cc");      \
		}                                                                                  \
		*status = (uint16_t)st;                                                            \
		return a;                                                                          \
	}

KERNEL(do_add, "add", "", 0)
KERNEL(do_or, "or", "", ST_AF)
KERNEL(do_adc, "adc", CARRY_IN, 0)
KERNEL(do_sbb, "sbb", CARRY_IN, 0)
KERNEL(do_and, "and", "", ST_AF)
KERNEL(do_sub, "sub", "", 0)
KERNEL(do_xor, "xor", "", ST_AF)
KERNEL(do_cmp, "cmp", "", 0)
KERNEL(do_test, "test", "", ST_AF)
KERNEL1(do_inc, "inc", CARRY_IN)
KERNEL1(do_dec, "dec", CARRY_IN)
KERNEL1(do_neg, "neg", "")

INLINE uint64_t do_not(unsigned size, uint64_t a, uint64_t b, uint16_t *status)
{
	(void)size;
	(void)b;
	(void)status;
	return ~a;
}

typedef uint64_t (*kernel)(unsigned size, uint64_t a, uint64_t b, uint16_t *status);

/* The shapes, inlined into each function below with everything but the instruction constant. */

INLINE void to_register(struct soft_cpu *cpu, const struct insn *insn, kernel fn, unsigned size,
			bool writes, uint64_t source)
{
	uint16_t status = cpu->status;
	uint64_t value = fn(size, reg_get(cpu, &insn->operand[0], size), source, &status);

	if (writes)
		reg_put(cpu, &insn->operand[0], size, value);
	cpu->status = status;
}

INLINE void to_memory(struct soft_cpu *cpu, const struct insn *insn, kernel fn, unsigned size,
		      bool writes, uint64_t source)
{
	uint16_t status = cpu->status;
	struct place_rw at;
	uint64_t value;

	if (!writes) {
		fn(size, memory_get(cpu, insn, size), source, &status);
		cpu->status = status;
		return;
	}
	at = rw_begin(cpu, insn, &insn->operand[0], size);
	value = fn(size, at.value, source, &status);
	rw_end(cpu, &at, size, value);
	cpu->status = status;
}

/* Whatever the source is. Memory that is no plain RAM: nobody else runs meanwhile. */
INLINE void to_memory_locked(struct soft_cpu *cpu, const struct insn *insn, kernel fn,
			     unsigned size)
{
	uint64_t source = insn->operand[1].kind == OPND_IMM ? insn->imm
							    : reg_get(cpu, &insn->operand[1], size);
	uint64_t linear = linear_inline(cpu, insn, size, true);
	void *host = mem_host_rw_inline(cpu, linear, size);
	uint16_t status;
	uint64_t old, value;

	if (!host) {
		soft_exclusive_begin(cpu);
		status = cpu->status;
		value = fn(size, mem_read(cpu, linear, size), source, &status);
		mem_write(cpu, linear, size, value);
		soft_exclusive_end(cpu);
		cpu->status = status;
		return;
	}
	old = ram_load(host, size);
	do {
		status = cpu->status;
		value = fn(size, old, source, &status);
	} while (!ram_compare_exchange(host, size, &old, value));
	cpu->status = status;
}

#define FUNCTIONS_OF_SIZE(name, size, writes)                                                      \
	static void name##_rr_##size(struct soft_cpu *cpu, const struct insn *insn)                \
	{                                                                                          \
		to_register(cpu, insn, name, size, writes, reg_get(cpu, &insn->operand[1], size)); \
	}                                                                                          \
	static void name##_rm_##size(struct soft_cpu *cpu, const struct insn *insn)                \
	{                                                                                          \
		to_register(cpu, insn, name, size, writes, memory_get(cpu, insn, size));           \
	}                                                                                          \
	static void name##_ri_##size(struct soft_cpu *cpu, const struct insn *insn)                \
	{                                                                                          \
		to_register(cpu, insn, name, size, writes, insn->imm);                             \
	}                                                                                          \
	static void name##_mr_##size(struct soft_cpu *cpu, const struct insn *insn)                \
	{                                                                                          \
		to_memory(cpu, insn, name, size, writes, reg_get(cpu, &insn->operand[1], size));   \
	}                                                                                          \
	static void name##_mi_##size(struct soft_cpu *cpu, const struct insn *insn)                \
	{                                                                                          \
		to_memory(cpu, insn, name, size, writes, insn->imm);                               \
	}

#define LOCK_OF_SIZE(name, size)                                                                   \
	static void name##_lock_##size(struct soft_cpu *cpu, const struct insn *insn)              \
	{                                                                                          \
		to_memory_locked(cpu, insn, name, size);                                           \
	}

/* One operand: a register or memory. */
#define FUNCTIONS1_OF_SIZE(name, size)                                                             \
	static void name##_r_##size(struct soft_cpu *cpu, const struct insn *insn)                 \
	{                                                                                          \
		to_register(cpu, insn, name, size, true, 0);                                       \
	}                                                                                          \
	static void name##_m_##size(struct soft_cpu *cpu, const struct insn *insn)                 \
	{                                                                                          \
		to_memory(cpu, insn, name, size, true, 0);                                         \
	}

#define FUNCTIONS(name, writes)                                                                    \
	FUNCTIONS_OF_SIZE(name, 1, writes)                                                         \
	FUNCTIONS_OF_SIZE(name, 2, writes)                                                         \
	FUNCTIONS_OF_SIZE(name, 4, writes)                                                         \
	FUNCTIONS_OF_SIZE(name, 8, writes)
#define LOCKS(name)                                                                                \
	LOCK_OF_SIZE(name, 1) LOCK_OF_SIZE(name, 2) LOCK_OF_SIZE(name, 4) LOCK_OF_SIZE(name, 8)
#define FUNCTIONS1(name)                                                                           \
	FUNCTIONS1_OF_SIZE(name, 1)                                                                \
	FUNCTIONS1_OF_SIZE(name, 2) FUNCTIONS1_OF_SIZE(name, 4) FUNCTIONS1_OF_SIZE(name, 8)

FUNCTIONS(do_add, true)
FUNCTIONS(do_or, true)
FUNCTIONS(do_adc, true)
FUNCTIONS(do_sbb, true)
FUNCTIONS(do_and, true)
FUNCTIONS(do_sub, true)
FUNCTIONS(do_xor, true)
FUNCTIONS(do_cmp, false)
FUNCTIONS(do_test, false)
FUNCTIONS1(do_inc)
FUNCTIONS1(do_dec)
FUNCTIONS1(do_neg)
FUNCTIONS1(do_not)
LOCKS(do_add)
LOCKS(do_or)
LOCKS(do_adc)
LOCKS(do_sbb)
LOCKS(do_and)
LOCKS(do_sub)
LOCKS(do_xor)
LOCKS(do_inc)
LOCKS(do_dec)
LOCKS(do_neg)
LOCKS(do_not)

enum shape { RR, RM, RI, MR, MI, LOCKED, N_SHAPES };

#define ENTRY2(name)                                                                               \
	{                                                                                          \
		BY_SIZE(name##_rr), BY_SIZE(name##_rm), BY_SIZE(name##_ri), BY_SIZE(name##_mr),    \
			BY_SIZE(name##_mi)                                                         \
	}
#define ENTRY2_LOCK(name)                                                                          \
	{                                                                                          \
		BY_SIZE(name##_rr), BY_SIZE(name##_rm), BY_SIZE(name##_ri), BY_SIZE(name##_mr),    \
			BY_SIZE(name##_mi), BY_SIZE(name##_lock)                                   \
	}
/* One operand stands where a register or immediate is the source. */
#define ENTRY1(name)                                                                               \
	{                                                                                          \
		[RI] = BY_SIZE(name##_r), [MI] = BY_SIZE(name##_m),                                \
		[LOCKED] = BY_SIZE(name##_lock)                                                    \
	}

static const struct {
	uint16_t op;
	exec_fn fn[N_SHAPES][4];
} table[] = {
	{OP_ADD, ENTRY2_LOCK(do_add)}, {OP_OR, ENTRY2_LOCK(do_or)},   {OP_ADC, ENTRY2_LOCK(do_adc)},
	{OP_SBB, ENTRY2_LOCK(do_sbb)}, {OP_AND, ENTRY2_LOCK(do_and)}, {OP_SUB, ENTRY2_LOCK(do_sub)},
	{OP_XOR, ENTRY2_LOCK(do_xor)}, {OP_CMP, ENTRY2(do_cmp)},      {OP_TEST, ENTRY2(do_test)},
	{OP_INC, ENTRY1(do_inc)},      {OP_DEC, ENTRY1(do_dec)},      {OP_NEG, ENTRY1(do_neg)},
	{OP_NOT, ENTRY1(do_not)},
};

static enum shape shape_of(const struct insn *insn)
{
	bool immediate = insn->n_operands == 1 || insn->operand[1].kind == OPND_IMM;

	if (insn->lock)
		return LOCKED;
	if (insn->operand[0].kind == OPND_MEM)
		return immediate ? MI : MR;
	if (insn->n_operands == 2 && insn->operand[1].kind == OPND_MEM)
		return RM;
	return immediate ? RI : RR;
}

exec_fn bind_alu(const struct insn *insn)
{
	for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++)
		if (table[i].op == insn->op)
			return table[i].fn[shape_of(insn)][size_index(insn->opsize)];
	return NULL;
}
