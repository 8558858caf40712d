/*
 * x87: instructions run on the host's x87 with the guest's whole state, exceptions unmasked as the guest has them; the thunk ends with FNINIT, so that an
 * exception they raise is pending in the guest's state alone. (Intel SDM volume 1, chapter 8; volume 3, section 2.5.)
 *
 * FCS and FDS are always 0, as CPUID says (leaf 7, EBX bit 13). Without CR0.NE an exception should arrive as interrupt 13; it is ignored here, as with
 * IGNNE# asserted. What MMX instructions do to x87 state is here too (SDM volume 1, section 9.5).
 */
#include "vm/accel/soft/vec/vec_int.h"

#define FSW_EXCEPTIONS 0x3fu
#define EXC_IE         0x01u
#define EXC_OE         0x08u
#define EXC_UE         0x10u

void x87_check(struct soft_cpu *cpu)
{
	if (cpu->cr0 & (CR0_EM | CR0_TS))
		cpu_raise(cpu, VEC_NM);
}

static uint16_t unmasked(struct soft_cpu *cpu)
{
	return *fpu_u16(cpu, FPU_FSW) & (uint16_t) ~*fpu_u16(cpu, FPU_FCW) & FSW_EXCEPTIONS;
}

void x87_summarise(struct soft_cpu *cpu)
{
	uint16_t *fsw = fpu_u16(cpu, FPU_FSW);

	*fsw &= (uint16_t) ~(FSW_ES | FSW_B);
	if (unmasked(cpu))
		*fsw |= FSW_ES | FSW_B;
}

void x87_wait(struct soft_cpu *cpu)
{
	if (unlikely_(*fpu_u16(cpu, FPU_FSW) & FSW_ES) && cpu->cr0 & CR0_NE)
		cpu_raise(cpu, VEC_MF);
}

void mmx_check(struct soft_cpu *cpu)
{
	if (cpu->cr0 & CR0_EM)
		cpu_raise(cpu, VEC_UD);
	if (cpu->cr0 & CR0_TS)
		cpu_raise(cpu, VEC_NM);
	x87_wait(cpu);
}

void mmx_enter(struct soft_cpu *cpu)
{
	uint16_t *fsw = fpu_u16(cpu, FPU_FSW);
	unsigned top = (*fsw & FSW_TOP) >> 11;

	/* The image has the stack's order, and mm0 is always the first physical register. */
	if (top) {
		uint8_t old[128];

		memcpy(old, cpu->fpu + FPU_ST, sizeof(old));
		for (unsigned i = 0; i < 8; i++)
			memcpy(cpu->fpu + FPU_ST + 16 * ((i + top) & 7), old + 16 * (size_t)i, 16);
		*fsw &= (uint16_t)~FSW_TOP;
	}
	cpu->fpu[FPU_FTW] = 0xff;
}

static vec_thunk x87_thunk(struct soft_cpu *cpu, const struct insn *insn)
{
	void *p = atomic_load_explicit(&cpu->soft->vec->thunks[vec_thunk_slot(insn)],
				       memory_order_acquire);

	return p ? (vec_thunk)(uintptr_t)p : vec_thunk_make(cpu, insn);
}

/* Runs a thunk; true: an unmasked exception is pending that kept it from storing its result to memory. */
static bool run(struct soft_cpu *cpu, const struct insn *insn, void *memory)
{
	vec_thunk thunk = x87_thunk(cpu, insn);
	uint16_t *fsw = fpu_u16(cpu, FPU_FSW), ignored = unmasked(cpu);
	bool blocked;

	/* Pending although it is no longer raised: CR0.NE is 0. */
	*fsw &= (uint16_t) ~(ignored | FSW_ES | FSW_B);
	thunk(cpu->fpu, memory, NULL, NULL, &cpu->status, cpu->gpr);
	blocked = unmasked(cpu) & (EXC_IE | EXC_OE | EXC_UE);
	if (ignored) {
		*fsw |= ignored;
		x87_summarise(cpu);
	}
	return blocked;
}

static void set_pointers(struct soft_cpu *cpu, const struct insn *insn, bool has_memory,
			 uint64_t offset)
{
	*fpu_u16(cpu, FPU_FOP) = (uint16_t)((insn->opcode & 7) << 8 | insn->modrm);
	*fpu_u64(cpu, FPU_FIP) = cpu->rip;
	if (has_memory)
		*fpu_u64(cpu, FPU_FDP) = offset;
}

static void exec_register(struct soft_cpu *cpu, const struct insn *insn)
{
	x87_check(cpu);
	x87_wait(cpu);
	run(cpu, insn, NULL);
	set_pointers(cpu, insn, false, 0);
}

static const struct insn_operand *memory_operand(const struct insn *insn)
{
	for (unsigned i = 0; i < insn->n_operands; i++)
		if (insn->operand[i].kind == OPND_MEM)
			return &insn->operand[i];
	return NULL;
}

static void exec_memory(struct soft_cpu *cpu, const struct insn *insn)
{
	const struct insn_operand *o = memory_operand(insn);
	struct vec_bounce bounce;
	uint64_t offset, linear;
	bool write = o->access & INSN_WRITE, blocked;

	x87_check(cpu);
	x87_wait(cpu);
	offset = insn_offset(cpu, insn);
	linear = seg_linear_inline(cpu, insn->seg, offset, o->size, write);
	if (write)
		mem_probe(cpu, linear, o->size, true);
	else
		mem_read_block(cpu, linear, bounce.bytes, o->size);
	blocked = run(cpu, insn, bounce.bytes);
	if (insn->op != OP_FLDCW)
		set_pointers(cpu, insn, true, offset);
	if (write && !blocked)
		mem_write_block(cpu, linear, bounce.bytes, o->size);
}

static void exec_fwait(struct soft_cpu *cpu, const struct insn *insn)
{
	if ((cpu->cr0 & (CR0_MP | CR0_TS)) == (CR0_MP | CR0_TS))
		cpu_raise(cpu, VEC_NM);
	x87_wait(cpu);
}

static void exec_fnop(struct soft_cpu *cpu, const struct insn *insn)
{
	x87_check(cpu);
}

static void exec_fnclex(struct soft_cpu *cpu, const struct insn *insn)
{
	x87_check(cpu);
	*fpu_u16(cpu, FPU_FSW) &= 0x7f00;
}

void x87_init(struct soft_cpu *cpu)
{
	*fpu_u16(cpu, FPU_FCW) = 0x37f;
	*fpu_u16(cpu, FPU_FSW) = 0;
	cpu->fpu[FPU_FTW] = 0;
	*fpu_u16(cpu, FPU_FOP) = 0;
	*fpu_u64(cpu, FPU_FIP) = 0;
	*fpu_u64(cpu, FPU_FDP) = 0;
}

void x87_set_top(struct soft_cpu *cpu, uint16_t fsw)
{
	/* Registers stay where they are physically; the image is in the stack's order. */
	unsigned from = (*fpu_u16(cpu, FPU_FSW) & FSW_TOP) >> 11, to = (fsw & FSW_TOP) >> 11;
	uint8_t old[128];

	*fpu_u16(cpu, FPU_FSW) = fsw;
	if (from == to)
		return;
	memcpy(old, cpu->fpu + FPU_ST, sizeof(old));
	for (unsigned i = 0; i < 8; i++)
		memcpy(cpu->fpu + FPU_ST + 16 * ((i + from - to) & 7), old + 16 * (size_t)i, 16);
}

static void exec_fninit(struct soft_cpu *cpu, const struct insn *insn)
{
	x87_check(cpu);
	x87_set_top(cpu, 0);
	x87_init(cpu);
}

static void store_word(struct soft_cpu *cpu, const struct insn *insn, uint16_t value)
{
	const struct insn_operand *o = &insn->operand[0];

	if (o->kind == OPND_MEM)
		mem_write(cpu, vec_linear(cpu, insn, 2, true), 2, value);
	else
		cpu->gpr[0] = (cpu->gpr[0] & ~0xffffULL) | value;
}

static void exec_fnstsw(struct soft_cpu *cpu, const struct insn *insn)
{
	x87_check(cpu);
	store_word(cpu, insn, *fpu_u16(cpu, FPU_FSW));
}

static void exec_fnstcw(struct soft_cpu *cpu, const struct insn *insn)
{
	x87_check(cpu);
	store_word(cpu, insn, *fpu_u16(cpu, FPU_FCW));
}

exec_fn vec_bind_x87(const struct insn *insn)
{
	switch (insn->op) {
	case OP_X87:
	case OP_FLDCW:
		return memory_operand(insn) ? exec_memory : exec_register;
	case OP_FWAIT:
		return exec_fwait;
	case OP_FNOP:
		return exec_fnop;
	case OP_FNCLEX:
		return exec_fnclex;
	case OP_FNINIT:
		return exec_fninit;
	case OP_FNSTSW:
		return exec_fnstsw;
	case OP_FNSTCW:
		return exec_fnstcw;
	default:
		return vec_bind_x87_env(insn);
	}
}
