/*
 * Execution of vector instructions: finds out where the operands are, and calls the thunk. (Intel SDM volume 2; volume 3, section 2.5.)
 *
 * Most instructions are of a few shapes: those have functions of their own, made of one inline template. The others take the general way.
 */
#include "vm/accel/soft/vec/vec_int.h"

void vec_refuse_sse(struct soft_cpu *cpu)
{
	cpu_raise(cpu, cpu->cr0 & CR0_EM || !(cpu->cr4 & CR4_OSFXSR) ? VEC_UD : VEC_NM);
}

void vec_refuse_avx(struct soft_cpu *cpu)
{
	bool enabled = cpu->cr4 & CR4_OSXSAVE &&
		       (cpu->xcr0 & (XCR0_SSE | XCR0_AVX)) == (XCR0_SSE | XCR0_AVX);

	cpu_raise(cpu, enabled ? VEC_NM : VEC_UD);
}

static inline vec_thunk thunk_of(struct soft_cpu *cpu, const struct insn *insn, bool has_imm)
{
	void *p = atomic_load_explicit(&cpu->soft->vec->thunks[vec_thunk_slot(insn)],
				       memory_order_acquire);

	if (has_imm && p)
		p = atomic_load_explicit((void *_Atomic *)p + vec_imm(insn), memory_order_acquire);
	return p ? (vec_thunk)(uintptr_t)p : vec_thunk_make(cpu, insn);
}

static inline uint32_t host_mxcsr(void)
{
	uint32_t v;

	__asm__ volatile("stmxcsr %0" : "=m"(v));
	return v;
}

static inline void set_host_mxcsr(uint32_t v)
{
	__asm__ volatile("ldmxcsr %0" ::"m"(v));
}

/* What the guest's rounding, denormals or masks ask for: the host's MXCSR has it no longer than the instruction takes. */
static __attribute__((noinline)) void call_special(struct soft_cpu *cpu, vec_thunk thunk,
						   void *const args[4])
{
	uint32_t *guest = fpu_u32(cpu, FPU_MXCSR);

	if ((*guest & MXCSR_MASKS) == MXCSR_MASKS) {
		set_host_mxcsr(*guest);
		thunk(args[0], args[1], args[2], args[3], &cpu->status, cpu->gpr);
		*guest = host_mxcsr();
		set_host_mxcsr(MXCSR_DEFAULT);
	} else if (vec_trap_call(thunk, args, cpu, guest)) {
		cpu_raise(cpu, cpu->cr4 & CR4_OSXMMEXCPT ? VEC_XM : VEC_UD);
	}
}

/* Under the guest's MXCSR. One that differs from the default in its flags alone stays in the host's register: C code does not mind. */
static inline void call_mxcsr(struct soft_cpu *cpu, vec_thunk thunk, void *const args[4])
{
	uint32_t *guest = fpu_u32(cpu, FPU_MXCSR), now = *guest;

	if (unlikely_((now & ~MXCSR_FLAGS) != MXCSR_DEFAULT)) {
		call_special(cpu, thunk, args);
		return;
	}
	if (host_mxcsr() != now)
		set_host_mxcsr(now);
	thunk(args[0], args[1], args[2], args[3], &cpu->status, cpu->gpr);
	*guest = host_mxcsr();
}

/* --- V, W and V, H, W, with or without an immediate: registers, or memory that is read --- */

#define SHAPE_AVX   1u
#define SHAPE_MEM   2u
#define SHAPE_VVVV  4u
#define SHAPE_IMM   8u
#define SHAPE_MXCSR 16u
#define N_SHAPES    32u

static inline __attribute__((always_inline)) void
exec_shape(struct soft_cpu *cpu, const struct insn *insn, unsigned shape)
{
	const struct insn_operand *rm = &insn->operand[shape & SHAPE_VVVV ? 2 : 1];
	struct vec_bounce bounce;
	void *args[4];
	vec_thunk thunk;

	if (shape & SHAPE_AVX)
		vec_check_avx(cpu);
	else
		vec_check_sse(cpu);
	if (shape & SHAPE_MEM) {
		uint64_t linear = vec_linear_aligned(cpu, insn, rm->size, false);

		args[1] = (void *)(uintptr_t)vec_read(cpu, linear, rm->size, &bounce);
	} else {
		args[1] = fpu_xmm(cpu, rm->reg);
	}
	args[0] = fpu_xmm(cpu, insn->operand[0].reg);
	args[2] = shape & SHAPE_VVVV ? fpu_xmm(cpu, insn->operand[1].reg) : NULL;
	args[3] = NULL;
	thunk = thunk_of(cpu, insn, shape & SHAPE_IMM);
	if (shape & SHAPE_MXCSR)
		call_mxcsr(cpu, thunk, args);
	else
		thunk(args[0], args[1], args[2], NULL, &cpu->status, cpu->gpr);
}

#define SHAPE(n)                                                                                   \
	static void exec_shape_##n(struct soft_cpu *cpu, const struct insn *insn)                  \
	{                                                                                          \
		exec_shape(cpu, insn, n);                                                          \
	}
#define SHAPE4(a, b, c, d) SHAPE(a) SHAPE(b) SHAPE(c) SHAPE(d)
SHAPE4(0, 1, 2, 3)
SHAPE4(4, 5, 6, 7)
SHAPE4(8, 9, 10, 11)
SHAPE4(12, 13, 14, 15)
SHAPE4(16, 17, 18, 19)
SHAPE4(20, 21, 22, 23)
SHAPE4(24, 25, 26, 27)
SHAPE4(28, 29, 30, 31)

#define NAMES4(a, b, c, d) exec_shape_##a, exec_shape_##b, exec_shape_##c, exec_shape_##d
static const exec_fn shapes[N_SHAPES] = {
	NAMES4(0, 1, 2, 3),     NAMES4(4, 5, 6, 7),     NAMES4(8, 9, 10, 11),
	NAMES4(12, 13, 14, 15), NAMES4(16, 17, 18, 19), NAMES4(20, 21, 22, 23),
	NAMES4(24, 25, 26, 27), NAMES4(28, 29, 30, 31),
};

static bool is_vec(const struct insn_operand *o, unsigned field)
{
	return o->kind == OPND_VEC && o->field == field;
}

/* The shape of insn, or N_SHAPES. */
static unsigned shape_of(const struct insn *insn)
{
	const struct insn_operand *o = insn->operand;
	unsigned shape = insn->encoding == ENC_VEX ? SHAPE_AVX : 0, n = 1;

	if (insn->form->attrs & FORM_MMX || insn->n_operands < 2 || !is_vec(&o[0], FIELD_REG))
		return N_SHAPES;
	if (is_vec(&o[n], FIELD_VVVV)) {
		shape |= SHAPE_VVVV;
		n++;
	}
	if (n >= insn->n_operands || o[n].field != FIELD_RM || o[n].access != INSN_READ)
		return N_SHAPES;
	if (o[n].kind == OPND_MEM)
		shape |= SHAPE_MEM;
	else if (o[n].kind != OPND_VEC)
		return N_SHAPES;
	if (++n < insn->n_operands) {
		if (o[n].kind != OPND_IMM || n + 1 < insn->n_operands)
			return N_SHAPES;
		shape |= SHAPE_IMM;
	}
	if (insn->form->attrs & FORM_MXCSR)
		shape |= SHAPE_MXCSR;
	return shape;
}

/* --- all others --- */

static bool check_general(struct soft_cpu *cpu, const struct insn *insn)
{
	uint32_t attrs = insn->form->attrs;
	bool has_mmx = false;

	if (attrs & FORM_AVX)
		vec_check_avx(cpu);
	else if (attrs & FORM_SSE)
		vec_check_sse(cpu);
	/* CVTPI2PS and CVTPI2PD with memory have nothing to do with MMX. */
	for (unsigned i = 0; i < insn->n_operands; i++)
		has_mmx |= insn->operand[i].kind == OPND_MMX;
	if (has_mmx)
		mmx_check(cpu);
	return has_mmx;
}

static void *register_of(struct soft_cpu *cpu, const struct insn_operand *o)
{
	switch (o->kind) {
	case OPND_VEC:
		return fpu_xmm(cpu, o->reg);
	case OPND_MMX:
		return cpu->fpu + FPU_ST + 16 * (size_t)o->reg;
	case OPND_GPR:
		return &cpu->gpr[o->reg];
	default:
		return NULL;
	}
}

/* Index in a thunk's arguments. */
static unsigned argument_of(const struct insn_operand *o)
{
	return o->field == FIELD_REG    ? 0
	       : o->field == FIELD_RM   ? 1
	       : o->field == FIELD_VVVV ? 2
					: 3;
}

static void exec_general(struct soft_cpu *cpu, const struct insn *insn)
{
	const struct insn_operand *memory = NULL, *mmx_written = NULL;
	void *args[4] = {NULL, NULL, NULL, fpu_xmm(cpu, 0)};
	struct vec_bounce bounce;
	uint64_t linear = 0;
	bool has_imm = false, has_mmx = check_general(cpu, insn);
	vec_thunk thunk;

	for (unsigned i = 0; i < insn->n_operands; i++) {
		const struct insn_operand *o = &insn->operand[i];

		has_imm |= o->kind == OPND_IMM || o->field == FIELD_IMM;
		if (o->kind == OPND_MEM)
			memory = o;
		else if (o->kind != OPND_IMM)
			args[argument_of(o)] = register_of(cpu, o);
		if (o->kind == OPND_MMX && o->access & INSN_WRITE)
			mmx_written = o;
	}
	if (memory) {
		linear = vec_linear_aligned(cpu, insn, memory->size, memory->access & INSN_WRITE);
		if (memory->access & INSN_WRITE)
			mem_probe(cpu, linear, memory->size, true);
		else
			mem_read_block(cpu, linear, bounce.bytes, memory->size);
		args[1] = bounce.bytes;
	}
	thunk = thunk_of(cpu, insn, has_imm);
	if (has_mmx)
		mmx_enter(cpu);
	if (insn->form->attrs & FORM_MXCSR)
		call_mxcsr(cpu, thunk, args);
	else
		thunk(args[0], args[1], args[2], args[3], &cpu->status, cpu->gpr);
	if (mmx_written)
		*fpu_u16(cpu, FPU_ST + 16u * mmx_written->reg + 8) = 0xffff;
	if (memory && memory->access & INSN_WRITE)
		mem_write_block(cpu, linear, bounce.bytes, memory->size);
}

/* EXTRQ and INSERTQ with two immediates: the forms that have them in a register do the same. (APM volume 4.) */
static void exec_bit_field(struct soft_cpu *cpu, const struct insn *insn)
{
	bool is_insert = insn->pp == 3;
	const struct insn_operand *dest = &insn->operand[0];
	uint64_t control = (insn->imm & 0x3f) | (insn->imm2 & 0x3f) << 8;
	_Alignas(16) uint64_t source[2] = {control, control};
	struct insn other = *insn;
	void *reg = fpu_xmm(cpu, dest->reg);

	vec_check_sse(cpu);
	if (is_insert)
		memcpy(source, fpu_xmm(cpu, insn->operand[1].reg), 8);
	other.opcode = 0x79;
	other.n_operands = 2;
	other.operand[0] =
		(struct insn_operand){OPND_VEC, 0, 16, INSN_READ | INSN_WRITE, FIELD_REG};
	other.operand[1] = (struct insn_operand){OPND_VEC, 0, 16, INSN_READ, FIELD_RM};
	thunk_of(cpu, &other, false)(reg, source, NULL, NULL, &cpu->status, cpu->gpr);
}

exec_fn exec_bind_vec(const struct insn *insn)
{
	unsigned shape;
	exec_fn fn;

	switch (insn->op) {
	case OP_VEC:
		if (insn->map == 1 && insn->opcode == 0x78)
			return exec_bit_field;
		fn = vec_bind_move(insn);
		if (fn)
			return fn;
		shape = shape_of(insn);
		return shape < N_SHAPES ? shapes[shape] : exec_general;
	case OP_PCMPESTRI:
	case OP_PCMPESTRM:
	case OP_PCMPISTRI:
	case OP_PCMPISTRM:
		return exec_general;
	default:
		fn = vec_bind_masked(insn);
		if (!fn)
			fn = vec_bind_x87(insn);
		return fn ? fn : vec_bind_state(insn);
	}
}
