/*
 * Instructions that touch memory by a mask, element by element: VMASKMOV, MASKMOVDQU, MASKMOVQ, gathers. (Intel SDM volume 2, sections 2.3.12 and
 * 2.7.) What the mask leaves out is not accessed and does not fault.
 */
#include "vm/accel/soft/vec/vec_int.h"

/* A whole register as an array, and back. */
struct ymm {
	uint8_t b[32];
};

static void get_ymm(struct soft_cpu *cpu, unsigned n, struct ymm *ret)
{
	memcpy(ret->b, fpu_xmm(cpu, n), 16);
	memcpy(ret->b + 16, fpu_ymm_high(cpu, n), 16);
}

static void set_ymm(struct soft_cpu *cpu, unsigned n, const struct ymm *from)
{
	memcpy(fpu_xmm(cpu, n), from->b, 16);
	memcpy(fpu_ymm_high(cpu, n), from->b + 16, 16);
}

static bool is_set(const struct ymm *mask, unsigned element, unsigned bytes)
{
	return mask->b[element * bytes + bytes - 1] & 0x80;
}

static unsigned element_bytes(const struct insn *insn)
{
	switch (insn->opcode) {
	case 0x2c: /* VMASKMOVPS */
	case 0x2e:
		return 4;
	case 0x2d: /* VMASKMOVPD */
	case 0x2f:
		return 8;
	default:
		return insn->rex_w ? 8 : 4;
	}
}

static uint64_t truncated(const struct insn *insn, uint64_t offset)
{
	return insn->addrsize == 8 ? offset : offset & ((1ULL << (8 * insn->addrsize)) - 1);
}

static uint64_t element_linear(struct soft_cpu *cpu, const struct insn *insn, uint64_t offset,
			       unsigned bytes, bool write)
{
	return seg_linear_inline(cpu, insn->seg, truncated(insn, offset), bytes, write);
}

static void exec_vmaskmov_load(struct soft_cpu *cpu, const struct insn *insn)
{
	unsigned bytes = element_bytes(insn), n = (16u << insn->vex_l) / bytes;
	struct ymm mask, out = {{0}};
	uint64_t offset;

	vec_check_avx(cpu);
	offset = insn_offset(cpu, insn);
	get_ymm(cpu, insn->operand[1].reg, &mask);
	for (unsigned i = 0; i < n; i++) {
		uint64_t v;

		if (!is_set(&mask, i, bytes))
			continue;
		v = mem_read(cpu, element_linear(cpu, insn, offset + i * bytes, bytes, false),
			     bytes);
		memcpy(out.b + i * bytes, &v, bytes);
	}
	set_ymm(cpu, insn->operand[0].reg, &out);
}

static void exec_vmaskmov_store(struct soft_cpu *cpu, const struct insn *insn)
{
	unsigned bytes = element_bytes(insn), n = (16u << insn->vex_l) / bytes;
	uint64_t offset, linear[8];
	struct ymm mask, from;

	vec_check_avx(cpu);
	offset = insn_offset(cpu, insn);
	get_ymm(cpu, insn->operand[1].reg, &mask);
	get_ymm(cpu, insn->operand[2].reg, &from);
	for (unsigned i = 0; i < n; i++) {
		if (!is_set(&mask, i, bytes))
			continue;
		linear[i] = element_linear(cpu, insn, offset + i * bytes, bytes, true);
		mem_probe(cpu, linear[i], bytes, true);
	}
	for (unsigned i = 0; i < n; i++)
		if (is_set(&mask, i, bytes))
			mem_write(cpu, linear[i], bytes, ram_load(from.b + i * bytes, bytes));
}

/* Stores the bytes of from whose mask byte has its highest bit, at DS:[rDI]. */
static void store_bytes(struct soft_cpu *cpu, const struct insn *insn, const uint8_t *from,
			const uint8_t *mask, unsigned n)
{
	uint64_t offset = cpu->gpr[7], linear[16];

	for (unsigned i = 0; i < n; i++) {
		if (!(mask[i] & 0x80))
			continue;
		linear[i] = element_linear(cpu, insn, offset + i, 1, true);
		mem_probe(cpu, linear[i], 1, true);
	}
	for (unsigned i = 0; i < n; i++)
		if (mask[i] & 0x80)
			mem_write(cpu, linear[i], 1, from[i]);
}

static void exec_maskmovdqu(struct soft_cpu *cpu, const struct insn *insn)
{
	if (insn->encoding == ENC_VEX)
		vec_check_avx(cpu);
	else
		vec_check_sse(cpu);
	store_bytes(cpu, insn, fpu_xmm(cpu, insn->operand[0].reg),
		    fpu_xmm(cpu, insn->operand[1].reg), 16);
}

static void exec_maskmovq(struct soft_cpu *cpu, const struct insn *insn)
{
	unsigned top;
	const uint8_t *from, *mask;

	mmx_check(cpu);
	top = (*fpu_u16(cpu, FPU_FSW) & FSW_TOP) >> 11;
	from = cpu->fpu + FPU_ST + 16 * (size_t)((insn->operand[0].reg - top) & 7);
	mask = cpu->fpu + FPU_ST + 16 * (size_t)((insn->operand[1].reg - top) & 7);
	store_bytes(cpu, insn, from, mask, 8);
	mmx_enter(cpu);
}

static int64_t index_of(const struct ymm *indexes, unsigned i, unsigned bytes)
{
	uint64_t v = ram_load(indexes->b + i * bytes, bytes);

	return bytes == 4 ? (int32_t)v : (int64_t)v;
}

/* Elements are done from the lowest on; each that is done has its mask cleared, so that a fault leaves what is still to do. */
static void exec_gather(struct soft_cpu *cpu, const struct insn *insn)
{
	unsigned to = insn->operand[0].reg, mask_reg = insn->operand[2].reg;
	unsigned bytes = insn->rex_w ? 8 : 4, index_bytes = insn->opcode & 1 ? 8 : 4;
	unsigned n = (16u << insn->vex_l) / (bytes > index_bytes ? bytes : index_bytes);
	struct ymm mask, out, indexes;
	uint64_t base = (uint64_t)insn->disp;

	vec_check_avx(cpu);
	if (to == mask_reg || to == insn->index || mask_reg == insn->index)
		cpu_raise(cpu, VEC_UD);
	get_ymm(cpu, mask_reg, &mask);
	get_ymm(cpu, to, &out);
	get_ymm(cpu, insn->index, &indexes);
	if (insn->base != INSN_REG_NONE)
		base += cpu->gpr[insn->base];
	for (unsigned i = 0; i < n; i++)
		memset(mask.b + i * bytes, is_set(&mask, i, bytes) ? 0xff : 0, bytes);
	memset(mask.b + n * bytes, 0, sizeof(mask.b) - n * bytes);
	memset(out.b + n * bytes, 0, sizeof(out.b) - n * bytes);
	for (unsigned i = 0; i < n; i++) {
		uint64_t offset, v;

		if (!is_set(&mask, i, bytes))
			continue;
		offset = base + (uint64_t)index_of(&indexes, i, index_bytes) * insn->scale;
		v = mem_read(cpu, element_linear(cpu, insn, offset, bytes, false), bytes);
		memcpy(out.b + i * bytes, &v, bytes);
		memset(mask.b + i * bytes, 0, bytes);
		set_ymm(cpu, to, &out);
		set_ymm(cpu, mask_reg, &mask);
	}
	set_ymm(cpu, to, &out);
	set_ymm(cpu, mask_reg, &mask);
}

exec_fn vec_bind_masked(const struct insn *insn)
{
	switch (insn->op) {
	case OP_VMASKMOV_LOAD:
		return exec_vmaskmov_load;
	case OP_VMASKMOV_STORE:
		return exec_vmaskmov_store;
	case OP_MASKMOVDQU:
		return exec_maskmovdqu;
	case OP_MASKMOVQ:
		return exec_maskmovq;
	case OP_VGATHER:
		return exec_gather;
	default:
		return NULL;
	}
}
