/*
 * XADD, CMPXCHG, CMPXCHG8B, CMPXCHG16B. (Intel SDM volume 2.) With LOCK or without, memory that is RAM is changed by one locked
 * instruction of the host: what LOCK promises is more than what is asked for without it. CMPXCHG writes also when it does not exchange.
 */
#include "vm/accel/soft/interp/interp_int.h"

uint16_t flags_of(unsigned size, uint64_t a, uint64_t b, bool adds)
{
	unsigned shift = 64 - 8 * size;
	uint32_t st;
	uint16_t af = (uint16_t)(((a ^ b ^ (adds ? a + b : a - b)) & 16) ? ST_AF : 0);
	uint8_t low = (uint8_t)(adds ? a + b : a - b);
	uint16_t pf = __builtin_parity(low) ? 0 : ST_PF;

	/* At the top of 64 bits, CF, OF, SF and ZF are those of the narrow operation; AF and PF belong to its lowest byte. */
	a <<= shift;
	b <<= shift;
	if (adds)
		__asm__("addq %2,%0" FLAGS_OUT : "+&r"(a), "=&a"(st) : "r"(b) : "cc");
	else
		__asm__("subq %2,%0" FLAGS_OUT : "+&r"(a), "=&a"(st) : "r"(b) : "cc");
	return (uint16_t)((st & ~(ST_AF | ST_PF)) | af | pf);
}

static void xadd(struct soft_cpu *cpu, const struct insn *insn)
{
	unsigned size = insn->opsize;
	uint64_t b = reg_get(cpu, &insn->operand[1], size), a, linear;
	void *host;

	if (insn->operand[0].kind != OPND_MEM) {
		a = reg_get(cpu, &insn->operand[0], size);
		/* The sum is written last: it wins where both are one register. */
		reg_put(cpu, &insn->operand[1], size, a);
		reg_put(cpu, &insn->operand[0], size, a + b);
		cpu->status = flags_of(size, a, b, true);
		return;
	}
	linear = linear_inline(cpu, insn, size, true);
	host = mem_host_rw_inline(cpu, linear, size);
	if (host) {
		a = ram_load(host, size);
		while (!ram_compare_exchange(host, size, &a, a + b))
			;
	} else {
		soft_exclusive_begin(cpu);
		a = mem_read(cpu, linear, size);
		mem_write(cpu, linear, size, (a + b) & size_mask(size));
		soft_exclusive_end(cpu);
	}
	reg_put(cpu, &insn->operand[1], size, a);
	cpu->status = flags_of(size, a, b, true);
}

/* What a 32-bit CMPXCHG makes of a register that it does not exchange: Intel clears the upper half, AMD leaves it. */
static uint64_t not_exchanged(uint64_t value)
{
	uint64_t other = ~value;

	__asm__("cmpxchgl %k2,%k0" : "+r"(value), "+a"(other) : "r"(other) : "cc");
	return value;
}

static void cmpxchg(struct soft_cpu *cpu, const struct insn *insn)
{
	unsigned size = insn->opsize;
	uint64_t wanted = cpu->gpr[0] & size_mask(size), found = wanted, linear;
	uint64_t value = reg_get(cpu, &insn->operand[1], size);
	void *host;

	if (insn->operand[0].kind != OPND_MEM) {
		found = reg_get(cpu, &insn->operand[0], size);
		if (found == wanted)
			reg_put(cpu, &insn->operand[0], size, value);
		else if (size == 4)
			cpu->gpr[insn->operand[0].reg] =
				not_exchanged(cpu->gpr[insn->operand[0].reg]);
	} else {
		linear = linear_inline(cpu, insn, size, true);
		host = mem_host_rw_inline(cpu, linear, size);
		if (host) {
			ram_compare_exchange(host, size, &found, value);
		} else {
			soft_exclusive_begin(cpu);
			found = mem_read(cpu, linear, size);
			mem_write(cpu, linear, size, found == wanted ? value : found);
			soft_exclusive_end(cpu);
		}
	}
	if (found != wanted)
		gpr_put(cpu, 0, size, found);
	cpu->status = flags_of(size, wanted, found, false);
}

static void set_zero_flag(struct soft_cpu *cpu, bool zero)
{
	cpu->status = (uint16_t)((cpu->status & ~ST_ZF) | (zero ? ST_ZF : 0));
}

static void cmpxchg8b(struct soft_cpu *cpu, const struct insn *insn)
{
	uint64_t wanted = cpu->gpr[2] << 32 | (uint32_t)cpu->gpr[0], found = wanted;
	uint64_t value = cpu->gpr[1] << 32 | (uint32_t)cpu->gpr[3];
	uint64_t linear = linear_inline(cpu, insn, 8, true);
	void *host = mem_host_rw_inline(cpu, linear, 8);

	if (host) {
		ram_compare_exchange(host, 8, &found, value);
	} else {
		soft_exclusive_begin(cpu);
		found = mem_read(cpu, linear, 8);
		mem_write(cpu, linear, 8, found == wanted ? value : found);
		soft_exclusive_end(cpu);
	}
	if (found != wanted) {
		cpu->gpr[0] = (uint32_t)found;
		cpu->gpr[2] = found >> 32;
	}
	set_zero_flag(cpu, found == wanted);
}

/* RAM, aligned to 16 bytes. */
__attribute__((no_sanitize("thread"))) static bool
exchange16(void *p, uint64_t *low, uint64_t *high, uint64_t new_low, uint64_t new_high)
{
	struct ram128 {
		uint8_t v[16];
	};
	bool done;

	__asm__ volatile("lock cmpxchg16b %2\n\tsete %3"
			 : "+a"(*low), "+d"(*high), "+m"(*(struct ram128 *)p), "=q"(done)
			 : "b"(new_low), "c"(new_high)
			 : "cc", "memory");
	return done;
}

static void cmpxchg16b(struct soft_cpu *cpu, const struct insn *insn)
{
	uint64_t found_low = cpu->gpr[0], found_high = cpu->gpr[2];
	uint64_t linear = linear_inline(cpu, insn, 16, true);
	void *host;
	bool done;

	if (linear & 15)
		cpu_raise_error(cpu, VEC_GP, 0);
	host = mem_host_rw_inline(cpu, linear, 16);
	if (host) {
		done = exchange16(host, &found_low, &found_high, cpu->gpr[3], cpu->gpr[1]);
	} else {
		soft_exclusive_begin(cpu);
		found_low = mem_read(cpu, linear, 8);
		found_high = mem_read(cpu, linear + 8, 8);
		done = found_low == cpu->gpr[0] && found_high == cpu->gpr[2];
		mem_write(cpu, linear, 8, done ? cpu->gpr[3] : found_low);
		mem_write(cpu, linear + 8, 8, done ? cpu->gpr[1] : found_high);
		soft_exclusive_end(cpu);
	}
	cpu->gpr[0] = found_low;
	cpu->gpr[2] = found_high;
	set_zero_flag(cpu, done);
}

exec_fn bind_atomic(const struct insn *insn)
{
	switch (insn->op) {
	case OP_XADD:
		return xadd;
	case OP_CMPXCHG:
		return cmpxchg;
	case OP_CMPXCHG8B:
		return cmpxchg8b;
	case OP_CMPXCHG16B:
		return cmpxchg16b;
	default:
		return NULL;
	}
}
