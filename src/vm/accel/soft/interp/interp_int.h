/*
 * Private to interp/: operands of integer instructions, flags by the host's own instructions, and who binds what. A vCPU's own thread.
 *
 * Functions that take a size are inlined with a constant one: only that size's code is left.
 */
#pragma once

#include "vm/accel/soft/cpu/access.h"
#include "vm/accel/soft/soft.h"

#define INLINE __attribute__((always_inline)) static inline

/* Around an instruction in inline assembly whose "+a" operand is cpu->status: brings the six flags into the processor, and back. Adding
 * 0x7f to AL overflows when OF is set; SAHF leaves OF alone. */
#define FLAGS_IN  "addb $0x7f,%%al\n\tsahf\n\t"
#define FLAGS_OUT "\n\tlahf\n\tseto %%al"
/* Only CF is needed. */
#define CARRY_IN "btw $8,%%ax\n\t"

/* --- binding: each returns NULL for an operation, or a combination of operands, that it does not have --- */

exec_fn bind_alu(const struct insn *insn);
exec_fn bind_atomic(const struct insn *insn);
exec_fn bind_bit(const struct insn *insn);
exec_fn bind_bmi(const struct insn *insn);
exec_fn bind_branch(const struct insn *insn);
exec_fn bind_decimal(const struct insn *insn);
exec_fn bind_misc(const struct insn *insn);
exec_fn bind_mov(const struct insn *insn);
exec_fn bind_mul(const struct insn *insn);
exec_fn bind_shift(const struct insn *insn);
exec_fn bind_stack(const struct insn *insn);
exec_fn bind_string(const struct insn *insn);

/* 0 to 3 for 1, 2, 4, 8 bytes: the order of function tables by size. */
INLINE unsigned size_index(unsigned size)
{
	return (unsigned)__builtin_ctz(size);
}

/* The four sizes of an operation as a table by size_index(). */
#define BY_SIZE(name)                                                                              \
	{                                                                                          \
		name##_1, name##_2, name##_4, name##_8                                             \
	}

/* --- registers --- */

INLINE uint64_t size_mask(unsigned size)
{
	return size == 8 ? ~0ULL : (1ULL << 8 * size) - 1;
}

INLINE uint8_t *byte_register(struct soft_cpu *cpu, const struct insn_operand *operand)
{
	return (uint8_t *)&cpu->gpr[operand->reg] + (operand->kind == OPND_GPR_HIGH);
}

INLINE uint64_t reg_get(struct soft_cpu *cpu, const struct insn_operand *operand, unsigned size)
{
	uint64_t value = cpu->gpr[operand->reg];

	switch (size) {
	case 1:
		return *byte_register(cpu, operand);
	case 2:
		return (uint16_t)value;
	case 4:
		return (uint32_t)value;
	default:
		return value;
	}
}

/* A register's low part; 4 bytes clear the upper half. */
INLINE void gpr_put(struct soft_cpu *cpu, unsigned reg, unsigned size, uint64_t value)
{
	switch (size) {
	case 1:
		cpu->gpr[reg] = (cpu->gpr[reg] & ~0xffULL) | (uint8_t)value;
		break;
	case 2:
		cpu->gpr[reg] = (cpu->gpr[reg] & ~0xffffULL) | (uint16_t)value;
		break;
	case 4:
		cpu->gpr[reg] = (uint32_t)value;
		break;
	default:
		cpu->gpr[reg] = value;
	}
}

INLINE void reg_put(struct soft_cpu *cpu, const struct insn_operand *operand, unsigned size,
		    uint64_t value)
{
	if (size == 1)
		*byte_register(cpu, operand) = (uint8_t)value;
	else
		gpr_put(cpu, operand->reg, size, value);
}

/* --- memory operands --- */

INLINE uint64_t offset_inline(const struct soft_cpu *cpu, const struct insn *insn)
{
	uint64_t offset = (uint64_t)insn->disp;

	if (insn->base < 16)
		offset += cpu->gpr[insn->base];
	else if (insn->base == INSN_REG_RIP)
		offset += cpu->next_rip;
	if (insn->index < 16)
		offset += cpu->gpr[insn->index] * insn->scale;
	if (insn->addrsize == 8)
		return offset;
	return insn->addrsize == 4 ? (uint32_t)offset : (uint16_t)offset;
}

INLINE uint64_t linear_inline(struct soft_cpu *cpu, const struct insn *insn, unsigned size,
			      bool write)
{
	return seg_linear_inline(cpu, (enum insn_seg)insn->seg, offset_inline(cpu, insn), size,
				 write);
}

INLINE uint64_t memory_get(struct soft_cpu *cpu, const struct insn *insn, unsigned size)
{
	return mem_read_inline(cpu, linear_inline(cpu, insn, size, false), size);
}

INLINE void memory_put(struct soft_cpu *cpu, const struct insn *insn, unsigned size, uint64_t value)
{
	mem_write_inline(cpu, linear_inline(cpu, insn, size, true), size, value);
}

/* A register or memory. */
INLINE uint64_t rm_get(struct soft_cpu *cpu, const struct insn *insn,
		       const struct insn_operand *operand, unsigned size)
{
	if (operand->kind == OPND_MEM)
		return memory_get(cpu, insn, size);
	return reg_get(cpu, operand, size);
}

INLINE void rm_put(struct soft_cpu *cpu, const struct insn *insn,
		   const struct insn_operand *operand, unsigned size, uint64_t value)
{
	if (operand->kind == OPND_MEM)
		memory_put(cpu, insn, size, value);
	else
		reg_put(cpu, operand, size, value);
}

/* Anything that can be a source: register, memory, immediate. */
INLINE uint64_t source_get(struct soft_cpu *cpu, const struct insn *insn,
			   const struct insn_operand *operand, unsigned size)
{
	if (operand->kind == OPND_IMM)
		return insn->imm & size_mask(size);
	return rm_get(cpu, insn, operand, size);
}

/* The destination of a read-modify-write: a register, or memory that may be written, which is made sure of first. */
struct place_rw {
	const struct insn_operand *operand;
	void *host; /* NULL: not RAM that can be written as it is */
	uint64_t linear;
	uint64_t value; /* as read */
};

INLINE struct place_rw rw_begin(struct soft_cpu *cpu, const struct insn *insn,
				const struct insn_operand *operand, unsigned size)
{
	struct place_rw at = {.operand = operand};

	if (operand->kind != OPND_MEM) {
		at.value = reg_get(cpu, operand, size);
		return at;
	}
	at.linear = linear_inline(cpu, insn, size, true);
	at.host = mem_host_rw_inline(cpu, at.linear, size);
	at.value = at.host ? ram_load(at.host, size) : mem_read(cpu, at.linear, size);
	return at;
}

INLINE void rw_end(struct soft_cpu *cpu, const struct place_rw *at, unsigned size, uint64_t value)
{
	if (at->operand->kind != OPND_MEM)
		reg_put(cpu, at->operand, size, value);
	else if (at->host)
		ram_store(at->host, size, value);
	else
		mem_write(cpu, at->linear, size, value);
}

/* Compare and exchange of RAM by one host instruction, locked. */
INLINE __attribute__((no_sanitize("thread"))) bool
ram_compare_exchange(void *p, unsigned size, uint64_t *expected, uint64_t value)
{
	uint64_t old = *expected;
	bool done;

	switch (size) {
	case 1:
		__asm__ volatile("lock cmpxchgb %b3,%1\n\tsete %2"
				 : "+a"(old), "+m"(*(uint8_t *)p), "=q"(done)
				 : "q"(value)
				 : "cc", "memory");
		break;
	case 2:
		__asm__ volatile("lock cmpxchgw %w3,%1\n\tsete %2"
				 : "+a"(old), "+m"(*(struct ram16 *)p), "=q"(done)
				 : "r"(value)
				 : "cc", "memory");
		break;
	case 4:
		__asm__ volatile("lock cmpxchgl %k3,%1\n\tsete %2"
				 : "+a"(old), "+m"(*(struct ram32 *)p), "=q"(done)
				 : "r"(value)
				 : "cc", "memory");
		break;
	default:
		__asm__ volatile("lock cmpxchgq %3,%1\n\tsete %2"
				 : "+a"(old), "+m"(*(struct ram64 *)p), "=q"(done)
				 : "r"(value)
				 : "cc", "memory");
	}
	*expected = old & size_mask(size);
	return done;
}

/* --- stack --- */

/* Bytes of the stack pointer that are used: 8, 4 or 2. */
INLINE unsigned stack_width(const struct soft_cpu *cpu)
{
	if (cpu->mode == INSN_MODE_64)
		return 8;
	return cpu->seg[SEG_SS].attr & ATTR_DB ? 4 : 2;
}

INLINE uint64_t stack_wrap(const struct soft_cpu *cpu, uint64_t sp)
{
	return sp & size_mask(stack_width(cpu));
}

/* RSP after its used part has changed. */
INLINE void stack_set(struct soft_cpu *cpu, uint64_t sp)
{
	unsigned width = stack_width(cpu);

	/* In a 32-bit stack segment ESP is written: the upper half is zero already outside of 64-bit mode. */
	gpr_put(cpu, 4, width, sp);
}

/* Pushes one value: memory first, then RSP. */
INLINE void push_value(struct soft_cpu *cpu, unsigned size, uint64_t value)
{
	uint64_t sp = stack_wrap(cpu, cpu->gpr[4] - size);

	mem_write_inline(cpu, seg_linear_inline(cpu, SEG_SS, sp, size, true), size, value);
	stack_set(cpu, sp);
}

/* The value on top; RSP stays. */
INLINE uint64_t peek_value(struct soft_cpu *cpu, unsigned size, unsigned at)
{
	uint64_t sp = stack_wrap(cpu, cpu->gpr[4] + at);

	return mem_read_inline(cpu, seg_linear_inline(cpu, SEG_SS, sp, size, false), size);
}

/* --- control --- */

/* exec_atomic.c: flags of a + b, or a - b, of size bytes. */
uint16_t flags_of(unsigned size, uint64_t a, uint64_t b, bool adds);

INLINE bool condition(const struct soft_cpu *cpu, unsigned cond)
{
	unsigned st = cpu->status;
	bool holds;

	switch (cond >> 1) {
	case 0:
		holds = st & ST_OF;
		break;
	case 1:
		holds = st & ST_CF;
		break;
	case 2:
		holds = st & ST_ZF;
		break;
	case 3:
		holds = st & (ST_CF | ST_ZF);
		break;
	case 4:
		holds = st & ST_SF;
		break;
	case 5:
		holds = st & ST_PF;
		break;
	case 6:
		holds = (st >> 15 ^ st) & 1;
		break;
	default:
		holds = ((st >> 15 ^ st) & 1) || (st & ST_ZF);
	}
	return holds != (cond & 1);
}

/* Asks the run loop to look at everything before the next instruction. */
INLINE void look_again(struct soft_cpu *cpu)
{
	atomic_fetch_or_explicit(&cpu->request, REQ_SELF, memory_order_relaxed);
}

INLINE unsigned iopl(const struct soft_cpu *cpu)
{
	return (cpu->rflags & RF_IOPL) >> 12;
}

/* --- interp.c, for code.c --- */

/* How many instructions a vCPU has executed: for tests and benchmarks. */
uint64_t interp_count(const struct soft_cpu *cpu);
