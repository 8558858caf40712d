/*
 * SYSCALL, SYSRET, SYSENTER, SYSEXIT, SWAPGS and the FS and GS base instructions. (SDM volume 2; AMD APM volume 3.) Where the two vendors differ,
 * the one that CPUID shows counts.
 */
#include "vm/accel/soft/cpu/cpu_int.h"

#define ATTR_CODE64 0xA09B /* present, DPL 0, code, readable, accessed, G, L */
#define ATTR_CODE32 0xC09B
#define ATTR_DATA32 0xC093

static struct soft_seg flat_seg(uint16_t selector, uint16_t attr, unsigned dpl)
{
	return (struct soft_seg){
		.limit = 0xFFFFFFFF,
		.selector = selector,
		.attr = (uint16_t)(attr | dpl << 5),
	};
}

static void enter_flat(struct soft_cpu *cpu, uint16_t cs, uint16_t ss, bool is64, unsigned dpl)
{
	cpu->seg[SEG_CS] = flat_seg(cs, is64 ? ATTR_CODE64 : ATTR_CODE32, dpl);
	cpu->seg[SEG_SS] = flat_seg(ss, ATTR_DATA32, dpl);
}

/* TF as it is afterwards decides whether a single step follows. */
static void step_as_after(struct soft_cpu *cpu)
{
	cpu->tlbs->step_armed = false;
	debug_step_now(cpu);
}

static void exec_syscall(struct soft_cpu *cpu, const struct insn *insn)
{
	uint16_t cs = (uint16_t)(cpu->star >> 32) & 0xFFFC;
	bool from64 = cpu_is64(cpu);

	(void)insn;
	if (!(cpu->efer & EFER_SCE) || !cpu_protected(cpu) || (!from64 && !cpu_is_amd(cpu)))
		cpu_raise(cpu, VEC_UD);
	if (cpu_long(cpu)) {
		cpu->gpr[1] = cpu->next_rip;
		cpu->gpr[11] = cpu_get_rflags(cpu) & ~(uint64_t)RF_RF;
		cpu->next_rip = from64 ? cpu->lstar : cpu->cstar;
		cpu_set_rflags(cpu, cpu_get_rflags(cpu) & ~(cpu->sfmask | RF_RF));
		enter_flat(cpu, cs, (uint16_t)(cs + 8), true, 0);
	} else {
		cpu->gpr[1] = (uint32_t)cpu->next_rip;
		cpu->next_rip = (uint32_t)cpu->star;
		cpu_set_rflags(cpu, cpu_get_rflags(cpu) & ~(uint64_t)(RF_VM | RF_IF | RF_RF));
		enter_flat(cpu, cs, (uint16_t)(cs + 8), false, 0);
	}
	cpu_mode_changed(cpu);
	step_as_after(cpu);
}

/* SYSRET's flags: all but RF and VM. */
#define SYSRET_FLAGS 0x3C7FD7ULL

static void exec_sysret(struct soft_cpu *cpu, const struct insn *insn)
{
	uint16_t base = (uint16_t)(cpu->star >> 48);
	bool amd = cpu_is_amd(cpu), to64 = cpu_is64(cpu) && insn->opsize == 8;

	if (!(cpu->efer & EFER_SCE) || !cpu_protected(cpu) || (!cpu_is64(cpu) && !amd))
		cpu_raise(cpu, VEC_UD);
	need_cpl0(cpu);
	/* AMD's processors notice an address that is not canonical at the fetch. */
	if (to64 && !amd && !is_canonical(cpu->gpr[1]))
		cpu_raise_error(cpu, VEC_GP, 0);
	cpu->tlbs->keep_rf = true;
	if (cpu_long(cpu))
		cpu_set_rflags(cpu, (cpu->gpr[11] & SYSRET_FLAGS) | RF_ONE);
	else
		cpu_set_rflags(cpu, cpu_get_rflags(cpu) | RF_IF);
	cpu->next_rip = to64 ? cpu->gpr[1] : (uint32_t)cpu->gpr[1];
	enter_flat(cpu, (uint16_t)((base + (to64 ? 16 : 0)) | 3), (uint16_t)((base + 8) | 3), to64,
		   3);
	cpu_mode_changed(cpu);
	step_as_after(cpu);
}

static void exec_sysenter(struct soft_cpu *cpu, const struct insn *insn)
{
	uint16_t cs = (uint16_t)cpu->sysenter_cs & 0xFFFC;
	bool to64 = cpu_long(cpu);

	(void)insn;
	if (to64 && cpu_is_amd(cpu))
		cpu_raise(cpu, VEC_UD);
	if (!(cpu->cr0 & CR0_PE) || cs == 0)
		cpu_raise_error(cpu, VEC_GP, 0);
	cpu_set_rflags(cpu, cpu_get_rflags(cpu) & ~(uint64_t)(RF_VM | RF_IF | RF_RF));
	cpu->gpr[4] = to64 ? cpu->sysenter_esp : (uint32_t)cpu->sysenter_esp;
	cpu->next_rip = to64 ? cpu->sysenter_eip : (uint32_t)cpu->sysenter_eip;
	enter_flat(cpu, cs, (uint16_t)(cs + 8), to64, 0);
	cpu_mode_changed(cpu);
}

static void exec_sysexit(struct soft_cpu *cpu, const struct insn *insn)
{
	uint16_t cs = (uint16_t)cpu->sysenter_cs & 0xFFFC;
	bool to64 = cpu_is64(cpu) && insn->opsize == 8;

	if (cpu_long(cpu) && cpu_is_amd(cpu))
		cpu_raise(cpu, VEC_UD);
	if (!cpu_protected(cpu) || cpu->cpl != 0 || cs == 0)
		cpu_raise_error(cpu, VEC_GP, 0);
	if (to64 && (!is_canonical(cpu->gpr[1]) || !is_canonical(cpu->gpr[2])))
		cpu_raise_error(cpu, VEC_GP, 0);
	cpu->gpr[4] = to64 ? cpu->gpr[1] : (uint32_t)cpu->gpr[1];
	cpu->next_rip = to64 ? cpu->gpr[2] : (uint32_t)cpu->gpr[2];
	cs = (uint16_t)(cs + (to64 ? 32 : 16));
	enter_flat(cpu, cs | 3, (uint16_t)(cs + 8) | 3, to64, 3);
	cpu_mode_changed(cpu);
}

static void exec_swapgs(struct soft_cpu *cpu, const struct insn *insn)
{
	uint64_t base = cpu->seg[SEG_GS].base;

	(void)insn;
	need_cpl0(cpu);
	cpu->seg[SEG_GS].base = cpu->kernel_gs_base;
	cpu->kernel_gs_base = base;
}

static void exec_read_base(struct soft_cpu *cpu, const struct insn *insn)
{
	enum insn_seg seg = insn->op == OP_RDFSBASE ? SEG_FS : SEG_GS;

	if (!(cpu->cr4 & CR4_FSGSBASE))
		cpu_raise(cpu, VEC_UD);
	operand_write(cpu, insn, 0, insn->operand[0].size, cpu->seg[seg].base);
}

static void exec_write_base(struct soft_cpu *cpu, const struct insn *insn)
{
	enum insn_seg seg = insn->op == OP_WRFSBASE ? SEG_FS : SEG_GS;
	uint64_t base;

	if (!(cpu->cr4 & CR4_FSGSBASE))
		cpu_raise(cpu, VEC_UD);
	base = operand_read(cpu, insn, 0, insn->operand[0].size);
	if (!is_canonical(base))
		cpu_raise_error(cpu, VEC_GP, 0);
	cpu->seg[seg].base = base;
}

/* Calls to the hypervisor that CPUID names, by the vendor's own instruction. */
static void exec_hypercall(struct soft_cpu *cpu, const struct insn *insn)
{
	uint64_t mask = cpu_is64(cpu) ? ~0ULL : UINT32_MAX;
	const uint64_t arg[] = {cpu->gpr[3] & mask, cpu->gpr[1] & mask, cpu->gpr[2] & mask,
				cpu->gpr[6] & mask};

	if ((insn->op == OP_VMMCALL) != cpu_is_amd(cpu))
		cpu_raise(cpu, VEC_UD);
	cpu->gpr[0] = irq_hypercall(cpu, cpu->gpr[0] & mask, arg) & mask;
}

exec_fn bind_fast_calls(const struct insn *insn)
{
	switch (insn->op) {
	case OP_SYSCALL:
		return exec_syscall;
	case OP_SYSRET:
		return exec_sysret;
	case OP_SYSENTER:
		return exec_sysenter;
	case OP_SYSEXIT:
		return exec_sysexit;
	case OP_VMCALL:
	case OP_VMMCALL:
		return exec_hypercall;
	case OP_SWAPGS:
		return exec_swapgs;
	case OP_RDFSBASE:
	case OP_RDGSBASE:
		return exec_read_base;
	case OP_WRFSBASE:
	case OP_WRGSBASE:
		return exec_write_base;
	default:
		return NULL;
	}
}
