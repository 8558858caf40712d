/*
 * Instructions on the state of the vector unit as a whole: MXCSR, EMMS, VZEROUPPER, VZEROALL, XCR0; and what reset leaves. (Intel SDM volume 1,
 * sections 10.2.3 and 13.3; volume 3, table 9-1.)
 */
#include "vm/accel/soft/vec/vec_int.h"

static void check_mxcsr(struct soft_cpu *cpu, const struct insn *insn)
{
	if (insn->encoding == ENC_VEX)
		vec_check_avx(cpu);
	else
		vec_check_sse(cpu);
}

static void exec_ldmxcsr(struct soft_cpu *cpu, const struct insn *insn)
{
	uint32_t value;

	check_mxcsr(cpu, insn);
	value = (uint32_t)mem_read_inline(cpu, vec_linear(cpu, insn, 4, false), 4);
	if (value & ~cpu->soft->vec->mxcsr_mask)
		cpu_raise_error(cpu, VEC_GP, 0);
	*fpu_u32(cpu, FPU_MXCSR) = value;
}

static void exec_stmxcsr(struct soft_cpu *cpu, const struct insn *insn)
{
	check_mxcsr(cpu, insn);
	mem_write_inline(cpu, vec_linear(cpu, insn, 4, true), 4, *fpu_u32(cpu, FPU_MXCSR));
}

static void exec_emms(struct soft_cpu *cpu, const struct insn *insn)
{
	mmx_check(cpu);
	mmx_enter(cpu);
	cpu->fpu[FPU_FTW] = 0;
}

static unsigned n_registers(const struct soft_cpu *cpu)
{
	return cpu->mode == INSN_MODE_64 ? 16 : 8;
}

static void exec_vzeroupper(struct soft_cpu *cpu, const struct insn *insn)
{
	vec_check_avx(cpu);
	memset(fpu_ymm_high(cpu, 0), 0, 16 * (size_t)n_registers(cpu));
}

static void exec_vzeroall(struct soft_cpu *cpu, const struct insn *insn)
{
	vec_check_avx(cpu);
	memset(fpu_xmm(cpu, 0), 0, 16 * (size_t)n_registers(cpu));
	memset(fpu_ymm_high(cpu, 0), 0, 16 * (size_t)n_registers(cpu));
}

static void set_edx_eax(struct soft_cpu *cpu, uint64_t value)
{
	cpu->gpr[0] = (uint32_t)value;
	cpu->gpr[2] = value >> 32;
}

static void exec_xgetbv(struct soft_cpu *cpu, const struct insn *insn)
{
	uint32_t index = (uint32_t)cpu->gpr[1];

	if (!(cpu->cr4 & CR4_OSXSAVE))
		cpu_raise(cpu, VEC_UD);
	if (index == 0)
		set_edx_eax(cpu, cpu->xcr0);
	else if (index == 1 && cpu->features & FEATURE_BIT(FEATURE_XGETBV1))
		set_edx_eax(cpu, vec_in_use(cpu) & cpu->xcr0);
	else
		cpu_raise_error(cpu, VEC_GP, 0);
}

static void exec_xsetbv(struct soft_cpu *cpu, const struct insn *insn)
{
	uint64_t value = (uint32_t)cpu->gpr[0] | cpu->gpr[2] << 32;
	uint64_t valid = XCR0_X87 | XCR0_SSE;

	if (!(cpu->cr4 & CR4_OSXSAVE))
		cpu_raise(cpu, VEC_UD);
	if (cpu->features & FEATURE_BIT(FEATURE_AVX))
		valid |= XCR0_AVX;
	if (cpu->cpl || (uint32_t)cpu->gpr[1] || value & ~valid || !(value & XCR0_X87) ||
	    (value & XCR0_AVX && !(value & XCR0_SSE)))
		cpu_raise_error(cpu, VEC_GP, 0);
	cpu->xcr0 = value;
}

void vec_cpu_reset(struct soft_cpu *cpu)
{
	memset(cpu->fpu, 0, sizeof(cpu->fpu));
	*fpu_u16(cpu, FPU_FCW) = 0x40;
	cpu->fpu[FPU_FTW] = 0xff; /* valid: they are zero */
	*fpu_u32(cpu, FPU_MXCSR) = MXCSR_DEFAULT;
	cpu->xcr0 = XCR0_X87;
}

exec_fn vec_bind_state(const struct insn *insn)
{
	switch (insn->op) {
	case OP_LDMXCSR:
		return exec_ldmxcsr;
	case OP_STMXCSR:
		return exec_stmxcsr;
	case OP_EMMS:
		return exec_emms;
	case OP_VZEROUPPER:
		return exec_vzeroupper;
	case OP_VZEROALL:
		return exec_vzeroall;
	case OP_XGETBV:
		return exec_xgetbv;
	case OP_XSETBV:
		return exec_xsetbv;
	default:
		return vec_bind_xsave(insn);
	}
}
