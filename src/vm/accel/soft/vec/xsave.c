/*
 * FXSAVE, FXRSTOR, XSAVE, XSAVEOPT, XSAVEC, XRSTOR. (Intel SDM volume 1, sections 10.5 and 13.4 to 13.10.)
 *
 * A component is "in use" when it is not in its initial configuration, by comparison: there is no tracking, and XSAVEOPT writes
 * what is in use. Memory is read or probed as a whole before anything is changed.
 */
#include "vm/accel/soft/vec/vec_int.h"

#define COMPACT (1ULL << 63)
#define KNOWN   ((uint64_t)(XCR0_X87 | XCR0_SSE | XCR0_AVX))

static bool is_zero(const uint8_t *p, size_t n)
{
	uint64_t any = 0, v;

	for (size_t i = 0; i < n; i += 8) {
		memcpy(&v, p + i, 8);
		any |= v;
	}
	return !any;
}

static bool x87_in_use(struct soft_cpu *cpu)
{
	return *fpu_u16(cpu, FPU_FCW) != 0x37f || *fpu_u16(cpu, FPU_FSW) || cpu->fpu[FPU_FTW] ||
	       *fpu_u16(cpu, FPU_FOP) || *fpu_u64(cpu, FPU_FIP) || *fpu_u64(cpu, FPU_FDP) ||
	       !is_zero(cpu->fpu + FPU_ST, 128);
}

uint64_t vec_in_use(struct soft_cpu *cpu)
{
	uint64_t out = 0;

	if (x87_in_use(cpu))
		out |= XCR0_X87;
	if (!is_zero(cpu->fpu + FPU_XMM, 256))
		out |= XCR0_SSE;
	if (!is_zero(cpu->fpu + FPU_YMM, 256))
		out |= XCR0_AVX;
	return out;
}

/* Registers 8 to 15 exist in 64-bit mode alone: elsewhere they are neither saved nor loaded. */
static unsigned register_bytes(const struct soft_cpu *cpu)
{
	return cpu->mode == INSN_MODE_64 ? 256 : 128;
}

/* Bytes 0 to 23: control registers and pointers, as REX.W chooses. */
static void put_control(struct soft_cpu *cpu, const struct insn *insn, uint8_t *to)
{
	memcpy(to, cpu->fpu, 24);
	if (!insn->rex_w)
		for (unsigned at = FPU_FIP; at <= FPU_FDP; at += 8)
			memset(to + at + 4, 0, 4); /* FCS, FDS */
}

static void get_control(struct soft_cpu *cpu, const struct insn *insn, const uint8_t *from)
{
	uint16_t *fcw = fpu_u16(cpu, FPU_FCW);

	memcpy(cpu->fpu, from, 24);
	*fcw = (*fcw & FCW_VALID) | FCW_ONE;
	cpu->fpu[FPU_FTW + 1] = 0;
	*fpu_u16(cpu, FPU_FOP) &= 0x7ff;
	if (!insn->rex_w)
		for (unsigned at = FPU_FIP; at <= FPU_FDP; at += 8)
			memset(cpu->fpu + at + 4, 0, 4);
	x87_summarise(cpu);
}

static void get_st(struct soft_cpu *cpu, const uint8_t *from)
{
	for (unsigned i = 0; i < 8; i++) {
		memcpy(cpu->fpu + FPU_ST + 16 * (size_t)i, from + FPU_ST + 16 * (size_t)i, 10);
		memset(cpu->fpu + FPU_ST + 16 * (size_t)i + 10, 0, 6);
	}
}

static void check_mxcsr(struct soft_cpu *cpu, const uint8_t *image)
{
	uint32_t mxcsr;

	memcpy(&mxcsr, image + FPU_MXCSR, 4);
	if (mxcsr & ~cpu->soft->vec->mxcsr_mask)
		cpu_raise_error(cpu, VEC_GP, 0);
}

static void put_mxcsr(struct soft_cpu *cpu, uint64_t linear)
{
	mem_write(cpu, linear + FPU_MXCSR, 4, *fpu_u32(cpu, FPU_MXCSR));
	mem_write(cpu, linear + FPU_MXCSR_MASK, 4, cpu->soft->vec->mxcsr_mask);
}

static void check_fxsave(struct soft_cpu *cpu)
{
	if (cpu->cr0 & (CR0_EM | CR0_TS))
		cpu_raise(cpu, VEC_NM);
}

static void exec_fxsave(struct soft_cpu *cpu, const struct insn *insn)
{
	uint8_t control[24];
	uint64_t linear;

	check_fxsave(cpu);
	linear = vec_linear(cpu, insn, 512, true);
	if (linear & 15)
		cpu_raise_error(cpu, VEC_GP, 0);
	mem_probe(cpu, linear, 512, true);
	put_control(cpu, insn, control);
	vec_write_bytes(cpu, linear, control, sizeof(control));
	put_mxcsr(cpu, linear);
	vec_write_bytes(cpu, linear + FPU_ST, cpu->fpu + FPU_ST, 128);
	vec_write_bytes(cpu, linear + FPU_XMM, cpu->fpu + FPU_XMM, register_bytes(cpu));
}

static void exec_fxrstor(struct soft_cpu *cpu, const struct insn *insn)
{
	uint8_t image[FPU_LEGACY];
	uint64_t linear;

	check_fxsave(cpu);
	linear = vec_linear(cpu, insn, 512, false);
	if (linear & 15)
		cpu_raise_error(cpu, VEC_GP, 0);
	mem_probe(cpu, linear, 512, false);
	vec_read_bytes(cpu, linear, image, sizeof(image));
	check_mxcsr(cpu, image);
	get_control(cpu, insn, image);
	get_st(cpu, image);
	memcpy(cpu->fpu + FPU_MXCSR, image + FPU_MXCSR, 4);
	memcpy(cpu->fpu + FPU_XMM, image + FPU_XMM, register_bytes(cpu));
}

/* The common beginning; returns the linear address. *ret_wanted: the components that are asked for and enabled. */
static uint64_t begin_xsave(struct soft_cpu *cpu, const struct insn *insn, bool write,
			    uint64_t *ret_wanted)
{
	if (!(cpu->cr4 & CR4_OSXSAVE))
		cpu_raise(cpu, VEC_UD);
	if (cpu->cr0 & CR0_TS)
		cpu_raise(cpu, VEC_NM);
	*ret_wanted = ((uint32_t)cpu->gpr[0] | cpu->gpr[2] << 32) & cpu->xcr0 & KNOWN;
	return vec_linear_multiple(cpu, insn, FPU_HEADER + 64, 64, write);
}

/* Writes components; the area has been probed. */
static void put_components(struct soft_cpu *cpu, const struct insn *insn, uint64_t linear,
			   uint64_t components)
{
	if (components & XCR0_X87) {
		uint8_t control[24];

		put_control(cpu, insn, control);
		vec_write_bytes(cpu, linear, control, sizeof(control));
		vec_write_bytes(cpu, linear + FPU_ST, cpu->fpu + FPU_ST, 128);
	}
	if (components & XCR0_SSE)
		vec_write_bytes(cpu, linear + FPU_XMM, cpu->fpu + FPU_XMM, register_bytes(cpu));
	if (components & XCR0_AVX)
		vec_write_bytes(cpu, linear + FPU_YMM, cpu->fpu + FPU_YMM, register_bytes(cpu));
}

static void exec_xsave(struct soft_cpu *cpu, const struct insn *insn)
{
	uint64_t wanted, linear = begin_xsave(cpu, insn, true, &wanted), old, in_use;

	mem_probe(cpu, linear, wanted & XCR0_AVX ? FPU_BYTES : FPU_HEADER + 64, true);
	old = mem_read(cpu, linear + FPU_HEADER, 8);
	in_use = vec_in_use(cpu) & wanted;
	put_components(cpu, insn, linear, insn->op == OP_XSAVEOPT ? in_use : wanted);
	if (wanted & (XCR0_SSE | XCR0_AVX))
		put_mxcsr(cpu, linear);
	mem_write(cpu, linear + FPU_HEADER, 8, (old & ~wanted) | in_use);
}

static void exec_xsavec(struct soft_cpu *cpu, const struct insn *insn)
{
	uint64_t wanted, linear = begin_xsave(cpu, insn, true, &wanted), in_use;

	mem_probe(cpu, linear, wanted & XCR0_AVX ? FPU_BYTES : FPU_HEADER + 64, true);
	in_use = vec_in_use(cpu);
	if (*fpu_u32(cpu, FPU_MXCSR) != MXCSR_DEFAULT)
		in_use |= XCR0_SSE;
	in_use &= wanted;
	put_components(cpu, insn, linear, in_use);
	if (in_use & XCR0_SSE)
		put_mxcsr(cpu, linear);
	mem_write(cpu, linear + FPU_HEADER, 8, in_use);
	mem_write(cpu, linear + FPU_HEADER + 8, 8, wanted | COMPACT);
}

/* The header as XRSTOR wants it; #GP otherwise. Returns whether the format is the compacted one. */
static bool check_header(struct soft_cpu *cpu, const uint64_t header[8])
{
	bool compact = header[1] & COMPACT, bad = header[0] & ~cpu->xcr0;

	if (compact) {
		bad |= !(cpu->features & FEATURE_BIT(FEATURE_XSAVEC));
		bad |= (header[1] & ~COMPACT & ~cpu->xcr0) != 0 || (header[0] & ~header[1]) != 0;
		for (unsigned i = 2; i < 8; i++)
			bad |= header[i] != 0;
	} else {
		bad |= header[1] || header[2];
	}
	if (bad)
		cpu_raise_error(cpu, VEC_GP, 0);
	return compact;
}

static void load_components(struct soft_cpu *cpu, const struct insn *insn, uint64_t wanted,
			    uint64_t present, const uint8_t *image)
{
	unsigned bytes = register_bytes(cpu);

	if (wanted & present & XCR0_X87) {
		get_control(cpu, insn, image);
		get_st(cpu, image);
	} else if (wanted & XCR0_X87) {
		x87_init(cpu);
		memset(cpu->fpu + FPU_ST, 0, 128);
	}
	if (wanted & present & XCR0_SSE)
		memcpy(cpu->fpu + FPU_XMM, image + FPU_XMM, bytes);
	else if (wanted & XCR0_SSE)
		memset(cpu->fpu + FPU_XMM, 0, bytes);
	if (wanted & present & XCR0_AVX)
		memcpy(cpu->fpu + FPU_YMM, image + FPU_YMM, bytes);
	else if (wanted & XCR0_AVX)
		memset(cpu->fpu + FPU_YMM, 0, bytes);
}

static void exec_xrstor(struct soft_cpu *cpu, const struct insn *insn)
{
	uint64_t wanted, linear = begin_xsave(cpu, insn, false, &wanted), header[8];
	uint8_t image[FPU_BYTES];
	bool compact, load_mxcsr;

	vec_read_bytes(cpu, linear + FPU_HEADER, header, sizeof(header));
	compact = check_header(cpu, header);
	vec_read_bytes(cpu, linear, image, FPU_LEGACY);
	if (wanted & header[0] & XCR0_AVX)
		vec_read_bytes(cpu, linear + FPU_YMM, image + FPU_YMM, register_bytes(cpu));
	/* The compacted format treats MXCSR as part of the SSE component. */
	load_mxcsr = compact ? wanted & header[0] & XCR0_SSE : wanted & (XCR0_SSE | XCR0_AVX);
	if (load_mxcsr) {
		check_mxcsr(cpu, image);
		memcpy(cpu->fpu + FPU_MXCSR, image + FPU_MXCSR, 4);
	} else if (compact && wanted & XCR0_SSE) {
		*fpu_u32(cpu, FPU_MXCSR) = MXCSR_DEFAULT;
	}
	load_components(cpu, insn, wanted, header[0], image);
}

exec_fn vec_bind_xsave(const struct insn *insn)
{
	switch (insn->op) {
	case OP_FXSAVE:
		return exec_fxsave;
	case OP_FXRSTOR:
		return exec_fxrstor;
	case OP_XSAVE:
	case OP_XSAVEOPT:
		return exec_xsave;
	case OP_XSAVEC:
		return exec_xsavec;
	case OP_XRSTOR:
		return exec_xrstor;
	default:
		return NULL;
	}
}
