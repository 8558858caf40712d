/*
 * The x87 environment in memory: FNSTENV, FLDENV, FNSAVE, FRSTOR, in the four layouts that operand size and mode choose. (Intel SDM volume 1,
 * section 8.1.10, figures 8-9 to 8-12.)
 */
#include "vm/accel/soft/vec/vec_int.h"

#define ENV_BYTES_32 28
#define ENV_BYTES_16 14
#define REGS_BYTES   80

struct env {
	uint16_t fcw, fsw, tags, opcode;
	uint64_t ip, dp;
};

static unsigned env_bytes(const struct insn *insn)
{
	return insn->opsize == 2 ? ENV_BYTES_16 : ENV_BYTES_32;
}

/* Pointers are linear addresses in two halves, as real-address and virtual-8086 mode have them. */
static bool is_real(const struct soft_cpu *cpu)
{
	return !(cpu->cr0 & CR0_PE) || cpu->rflags & RF_VM;
}

/* The tag of a register that is not empty: 0 valid, 1 zero, 2 special. */
static unsigned tag_of(const uint8_t *reg)
{
	uint64_t mantissa;
	unsigned exponent;

	memcpy(&mantissa, reg, 8);
	exponent = (reg[8] | reg[9] << 8) & 0x7fff;
	if (exponent == 0 && mantissa == 0)
		return 1;
	return exponent == 0 || exponent == 0x7fff || !(mantissa >> 63) ? 2 : 0;
}

static uint16_t full_tags(struct soft_cpu *cpu)
{
	unsigned top = (*fpu_u16(cpu, FPU_FSW) & FSW_TOP) >> 11, tags = 0;

	for (unsigned i = 0; i < 8; i++) {
		const uint8_t *reg = cpu->fpu + FPU_ST + 16 * (size_t)((i - top) & 7);

		tags |= (cpu->fpu[FPU_FTW] >> i & 1 ? tag_of(reg) : 3) << (2 * i);
	}
	return (uint16_t)tags;
}

static uint8_t short_tags(uint16_t tags)
{
	uint8_t out = 0;

	for (unsigned i = 0; i < 8; i++)
		if ((tags >> (2 * i) & 3) != 3)
			out |= (uint8_t)(1 << i);
	return out;
}

static void put16(uint8_t *p, unsigned index, uint64_t v)
{
	memcpy(p + 2 * (size_t)index, &(uint16_t){(uint16_t)v}, 2);
}

static void put32(uint8_t *p, unsigned index, uint64_t v)
{
	memcpy(p + 4 * (size_t)index, &(uint32_t){(uint32_t)v}, 4);
}

static uint16_t get16(const uint8_t *p, unsigned index)
{
	uint16_t v;

	memcpy(&v, p + 2 * (size_t)index, 2);
	return v;
}

static uint32_t get32(const uint8_t *p, unsigned index)
{
	uint32_t v;

	memcpy(&v, p + 4 * (size_t)index, 4);
	return v;
}

static void encode_env(const struct env *env, bool real, unsigned bytes, uint8_t *to)
{
	if (bytes == ENV_BYTES_16) {
		put16(to, 0, env->fcw);
		put16(to, 1, env->fsw);
		put16(to, 2, env->tags);
		put16(to, 3, env->ip);
		put16(to, 4, real ? (env->ip >> 4 & 0xf000) | env->opcode : 0);
		put16(to, 5, env->dp);
		put16(to, 6, real ? env->dp >> 4 & 0xf000 : 0);
		return;
	}
	put32(to, 0, env->fcw | 0xffff0000u);
	put32(to, 1, env->fsw | 0xffff0000u);
	put32(to, 2, env->tags | 0xffff0000u);
	if (real) {
		put32(to, 3, (env->ip & 0xffff) | 0xffff0000u);
		put32(to, 4, (env->ip >> 4 & 0x0ffff000) | env->opcode);
		put32(to, 5, (env->dp & 0xffff) | 0xffff0000u);
		put32(to, 6, env->dp >> 4 & 0x0ffff000);
	} else {
		put32(to, 3, env->ip);
		put32(to, 4, (uint32_t)env->opcode << 16);
		put32(to, 5, env->dp);
		put32(to, 6, 0xffff0000u);
	}
}

static void decode_env(struct env *env, bool real, unsigned bytes, const uint8_t *from)
{
	if (bytes == ENV_BYTES_16) {
		env->fcw = get16(from, 0);
		env->fsw = get16(from, 1);
		env->tags = get16(from, 2);
		env->ip = get16(from, 3);
		env->dp = get16(from, 5);
		env->opcode = 0;
		if (real) {
			env->opcode = get16(from, 4);
			env->ip |= (uint64_t)(get16(from, 4) & 0xf000) << 4;
			env->dp |= (uint64_t)(get16(from, 6) & 0xf000) << 4;
		}
		return;
	}
	env->fcw = (uint16_t)get32(from, 0);
	env->fsw = (uint16_t)get32(from, 1);
	env->tags = (uint16_t)get32(from, 2);
	if (real) {
		env->ip = (get32(from, 3) & 0xffff) | (uint64_t)(get32(from, 4) & 0x0ffff000) << 4;
		env->opcode = (uint16_t)get32(from, 4);
		env->dp = (get32(from, 5) & 0xffff) | (uint64_t)(get32(from, 6) & 0x0ffff000) << 4;
	} else {
		env->ip = get32(from, 3);
		env->opcode = (uint16_t)(get32(from, 4) >> 16);
		env->dp = get32(from, 5);
	}
}

static void save_env(struct soft_cpu *cpu, unsigned bytes, uint8_t *to)
{
	struct env env = {
		.fcw = *fpu_u16(cpu, FPU_FCW),
		.fsw = *fpu_u16(cpu, FPU_FSW),
		.tags = full_tags(cpu),
		.opcode = *fpu_u16(cpu, FPU_FOP),
		.ip = *fpu_u64(cpu, FPU_FIP),
		.dp = *fpu_u64(cpu, FPU_FDP),
	};

	encode_env(&env, is_real(cpu), bytes, to);
}

static void load_env(struct soft_cpu *cpu, unsigned bytes, const uint8_t *from)
{
	struct env env;

	decode_env(&env, is_real(cpu), bytes, from);
	x87_set_top(cpu, env.fsw);
	*fpu_u16(cpu, FPU_FCW) = (env.fcw & FCW_VALID) | FCW_ONE;
	cpu->fpu[FPU_FTW] = short_tags(env.tags);
	*fpu_u16(cpu, FPU_FOP) = env.opcode & 0x7ff;
	*fpu_u64(cpu, FPU_FIP) = env.ip;
	*fpu_u64(cpu, FPU_FDP) = env.dp;
	x87_summarise(cpu);
}

/* Guest memory in pieces that the block functions take. */
void vec_read_bytes(struct soft_cpu *cpu, uint64_t linear, void *to, unsigned size)
{
	for (unsigned at = 0, n; at < size; at += n) {
		n = size - at >= 32 ? 32 : size - at >= 16 ? 16 : size - at >= 8 ? 8 : 1;
		mem_read_block(cpu, linear + at, (uint8_t *)to + at, n);
	}
}

void vec_write_bytes(struct soft_cpu *cpu, uint64_t linear, const void *from, unsigned size)
{
	for (unsigned at = 0, n; at < size; at += n) {
		n = size - at >= 32 ? 32 : size - at >= 16 ? 16 : size - at >= 8 ? 8 : 1;
		mem_write_block(cpu, linear + at, (const uint8_t *)from + at, n);
	}
}

static void exec_fnstenv(struct soft_cpu *cpu, const struct insn *insn)
{
	unsigned bytes = env_bytes(insn);
	uint8_t image[ENV_BYTES_32];
	uint64_t linear;

	x87_check(cpu);
	linear = vec_linear(cpu, insn, bytes, true);
	mem_probe(cpu, linear, bytes, true);
	save_env(cpu, bytes, image);
	vec_write_bytes(cpu, linear, image, bytes);
	*fpu_u16(cpu, FPU_FCW) |= 0x3f;
	x87_summarise(cpu);
}

static void exec_fldenv(struct soft_cpu *cpu, const struct insn *insn)
{
	unsigned bytes = env_bytes(insn);
	uint8_t image[ENV_BYTES_32];

	x87_check(cpu);
	x87_wait(cpu);
	vec_read_bytes(cpu, vec_linear(cpu, insn, bytes, false), image, bytes);
	load_env(cpu, bytes, image);
}

static void exec_fnsave(struct soft_cpu *cpu, const struct insn *insn)
{
	unsigned bytes = env_bytes(insn);
	uint8_t image[ENV_BYTES_32 + REGS_BYTES];
	uint64_t linear;

	x87_check(cpu);
	linear = vec_linear(cpu, insn, bytes + REGS_BYTES, true);
	mem_probe(cpu, linear, bytes + REGS_BYTES, true);
	save_env(cpu, bytes, image);
	for (unsigned i = 0; i < 8; i++)
		memcpy(image + bytes + 10 * (size_t)i, cpu->fpu + FPU_ST + 16 * (size_t)i, 10);
	vec_write_bytes(cpu, linear, image, bytes + REGS_BYTES);
	x87_set_top(cpu, 0);
	x87_init(cpu);
}

static void exec_frstor(struct soft_cpu *cpu, const struct insn *insn)
{
	unsigned bytes = env_bytes(insn);
	uint8_t image[ENV_BYTES_32 + REGS_BYTES];

	x87_check(cpu);
	x87_wait(cpu);
	vec_read_bytes(cpu, vec_linear(cpu, insn, bytes + REGS_BYTES, false), image,
		       bytes + REGS_BYTES);
	load_env(cpu, bytes, image);
	for (unsigned i = 0; i < 8; i++)
		memcpy(cpu->fpu + FPU_ST + 16 * (size_t)i, image + bytes + 10 * (size_t)i, 10);
}

exec_fn vec_bind_x87_env(const struct insn *insn)
{
	switch (insn->op) {
	case OP_FNSTENV:
		return exec_fnstenv;
	case OP_FLDENV:
		return exec_fldenv;
	case OP_FNSAVE:
		return exec_fnsave;
	case OP_FRSTOR:
		return exec_frstor;
	default:
		return NULL;
	}
}
