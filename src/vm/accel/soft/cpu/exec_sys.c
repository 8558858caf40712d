/*
 * System instructions that are not transfers: control and debug registers, MSRs, CPUID, the counters, TLB and cache control, HLT; and which
 * function executes each system instruction. (SDM volume 2.)
 */
#include <cpuid.h>
#include <x86intrin.h>

#include "vm/accel/soft/cpu/cpu_int.h"

void need_cpl0(struct soft_cpu *cpu)
{
	if (cpu->cpl != 0)
		cpu_raise_error(cpu, VEC_GP, 0);
}

static uint64_t truncated(uint64_t value, unsigned size)
{
	return size >= 8 ? value : value & ((1ULL << (8 * size)) - 1);
}

uint64_t operand_read(struct soft_cpu *cpu, const struct insn *insn, unsigned i, unsigned size)
{
	const struct insn_operand *o = &insn->operand[i];

	if (o->kind != OPND_MEM)
		return truncated(cpu->gpr[o->reg & 15], size);
	return mem_read(cpu,
			seg_linear(cpu, (enum insn_seg)insn->seg, insn_offset(cpu, insn), size,
				   false),
			size);
}

void operand_write(struct soft_cpu *cpu, const struct insn *insn, unsigned i, unsigned size,
		   uint64_t value)
{
	const struct insn_operand *o = &insn->operand[i];
	uint64_t *reg = &cpu->gpr[o->reg & 15];

	value = truncated(value, size);
	if (o->kind == OPND_MEM)
		mem_write(cpu,
			  seg_linear(cpu, (enum insn_seg)insn->seg, insn_offset(cpu, insn), size,
				     true),
			  size, value);
	else
		*reg = size >= 4 ? value : (*reg & ~0xFFFFULL) | value;
}

/* Registers of 64 bits in 64-bit mode, of 32 outside it. */
static unsigned native_size(const struct soft_cpu *cpu)
{
	return cpu_is64(cpu) ? 8 : 4;
}

static void exec_mov_from_cr(struct soft_cpu *cpu, const struct insn *insn)
{
	uint64_t value = 0;

	need_cpl0(cpu);
	switch (insn->operand[1].reg) {
	case 0:
		value = cpu->cr0;
		break;
	case 2:
		value = cpu->cr2;
		break;
	case 3:
		value = cpu->cr3;
		break;
	case 4:
		value = cpu->cr4;
		break;
	case 8:
		value = cpu_get_cr8(cpu);
		break;
	default:
		cpu_raise(cpu, VEC_UD);
	}
	operand_write(cpu, insn, 0, native_size(cpu), value);
}

static void exec_mov_to_cr(struct soft_cpu *cpu, const struct insn *insn)
{
	uint64_t value = operand_read(cpu, insn, 1, native_size(cpu));

	need_cpl0(cpu);
	switch (insn->operand[0].reg) {
	case 0:
		cpu_set_cr0(cpu, value);
		break;
	case 2:
		cpu->cr2 = value;
		break;
	case 3:
		cpu_set_cr3(cpu, value);
		break;
	case 4:
		cpu_set_cr4(cpu, value);
		break;
	case 8:
		cpu_set_cr8(cpu, value);
		break;
	default:
		cpu_raise(cpu, VEC_UD);
	}
}

static void exec_mov_from_dr(struct soft_cpu *cpu, const struct insn *insn)
{
	need_cpl0(cpu);
	operand_write(cpu, insn, 0, native_size(cpu), debug_read(cpu, insn->operand[1].reg));
}

static void exec_mov_to_dr(struct soft_cpu *cpu, const struct insn *insn)
{
	need_cpl0(cpu);
	debug_write(cpu, insn->operand[0].reg, operand_read(cpu, insn, 1, native_size(cpu)));
}

static void exec_clts(struct soft_cpu *cpu, const struct insn *insn)
{
	(void)insn;
	need_cpl0(cpu);
	cpu->cr0 &= ~(uint64_t)CR0_TS;
}

static void put_edx_eax(struct soft_cpu *cpu, uint64_t value)
{
	cpu->gpr[0] = (uint32_t)value;
	cpu->gpr[2] = value >> 32;
}

static void exec_rdmsr(struct soft_cpu *cpu, const struct insn *insn)
{
	uint64_t value;

	(void)insn;
	need_cpl0(cpu);
	if (!cpu_rdmsr(cpu, (uint32_t)cpu->gpr[1], &value))
		cpu_raise_error(cpu, VEC_GP, 0);
	put_edx_eax(cpu, value);
}

static void exec_wrmsr(struct soft_cpu *cpu, const struct insn *insn)
{
	(void)insn;
	need_cpl0(cpu);
	if (!cpu_wrmsr(cpu, (uint32_t)cpu->gpr[1], cpu->gpr[2] << 32 | (uint32_t)cpu->gpr[0]))
		cpu_raise_error(cpu, VEC_GP, 0);
}

static void exec_cpuid(struct soft_cpu *cpu, const struct insn *insn)
{
	uint32_t r[4];

	(void)insn;
	cpuid_read(cpu, (uint32_t)cpu->gpr[0], (uint32_t)cpu->gpr[1], r);
	cpu->gpr[0] = r[0];
	cpu->gpr[3] = r[1];
	cpu->gpr[1] = r[2];
	cpu->gpr[2] = r[3];
}

uint64_t cpu_rdtsc(struct soft_cpu *cpu)
{
	return __rdtsc() + cpu->tsc_offset;
}

static void check_tsd(struct soft_cpu *cpu)
{
	if ((cpu->cr4 & CR4_TSD) && cpu->cpl > 0)
		cpu_raise_error(cpu, VEC_GP, 0);
}

static void exec_rdtsc(struct soft_cpu *cpu, const struct insn *insn)
{
	(void)insn;
	check_tsd(cpu);
	put_edx_eax(cpu, cpu_rdtsc(cpu));
}

static void exec_rdtscp(struct soft_cpu *cpu, const struct insn *insn)
{
	exec_rdtsc(cpu, insn);
	cpu->gpr[1] = cpu->tsc_aux;
}

static void exec_rdpid(struct soft_cpu *cpu, const struct insn *insn)
{
	operand_write(cpu, insn, 0, native_size(cpu), cpu->tsc_aux);
}

/* There are no performance counters. */
static void exec_rdpmc(struct soft_cpu *cpu, const struct insn *insn)
{
	(void)insn;
	cpu_raise_error(cpu, VEC_GP, 0);
}

static void exec_invlpg(struct soft_cpu *cpu, const struct insn *insn)
{
	uint64_t linear = insn_offset(cpu, insn);

	need_cpl0(cpu);
	if (!cpu_is64(cpu))
		linear = (linear + cpu->seg[insn->seg].base) & 0xFFFFFFFF;
	else if (insn->seg >= SEG_FS)
		linear += cpu->seg[insn->seg].base;
	/* An address that is not canonical is no error and no page. */
	if (is_canonical(linear))
		tlb_flush_page(cpu, linear);
}

static void exec_invpcid(struct soft_cpu *cpu, const struct insn *insn)
{
	uint64_t type = truncated(cpu->gpr[insn->operand[0].reg & 15], native_size(cpu));
	uint64_t at, pcid, address;

	if (!cpu_protected(cpu))
		cpu_raise(cpu, VEC_UD);
	need_cpl0(cpu);
	at = seg_linear(cpu, (enum insn_seg)insn->seg, insn_offset(cpu, insn), 16, false);
	address = mem_read(cpu, at + 8, 8);
	pcid = mem_read(cpu, at, 8);
	if (type > 3 || pcid >> 12)
		cpu_raise_error(cpu, VEC_GP, 0);
	if (type <= 1 && pcid != 0 && !(cpu->cr4 & CR4_PCIDE))
		cpu_raise_error(cpu, VEC_GP, 0);
	switch (type) {
	case 0:
		if (!is_canonical(address))
			cpu_raise_error(cpu, VEC_GP, 0);
		tlb_flush_pcid_page(cpu, (uint16_t)pcid, address);
		break;
	case 1:
		tlb_flush_pcid(cpu, (uint16_t)pcid);
		break;
	default:
		tlb_flush_spaces(cpu, type == 2);
	}
}

static void exec_cache_all(struct soft_cpu *cpu, const struct insn *insn)
{
	(void)insn;
	need_cpl0(cpu);
}

/* Caches are coherent here: only the address is looked at. */
static void exec_cache_line(struct soft_cpu *cpu, const struct insn *insn)
{
	mem_probe(cpu, seg_linear(cpu, (enum insn_seg)insn->seg, insn_offset(cpu, insn), 1, false),
		  1, false);
}

static void exec_hlt(struct soft_cpu *cpu, const struct insn *insn)
{
	(void)insn;
	need_cpl0(cpu);
	soft_halt(cpu);
}

static void exec_ac(struct soft_cpu *cpu, const struct insn *insn)
{
	uint64_t flags = cpu_get_rflags(cpu);

	if (!cpu_protected(cpu) || cpu->cpl != 0)
		cpu_raise(cpu, VEC_UD);
	cpu_set_rflags(cpu, insn->op == OP_STAC ? flags | RF_AC : flags & ~(uint64_t)RF_AC);
}

static void exec_nothing(struct soft_cpu *cpu, const struct insn *insn)
{
	(void)cpu;
	(void)insn;
}

exec_fn exec_bind_sys(const struct insn *insn)
{
	exec_fn fn = bind_transfers(insn);

	if (!fn)
		fn = bind_tables(insn);
	if (!fn)
		fn = bind_fast_calls(insn);
	if (fn)
		return fn;
	switch (insn->op) {
	case OP_MOV_FROM_CR:
		return exec_mov_from_cr;
	case OP_MOV_TO_CR:
		return exec_mov_to_cr;
	case OP_MOV_FROM_DR:
		return exec_mov_from_dr;
	case OP_MOV_TO_DR:
		return exec_mov_to_dr;
	case OP_CLTS:
		return exec_clts;
	case OP_RDMSR:
		return exec_rdmsr;
	case OP_WRMSR:
		return exec_wrmsr;
	case OP_CPUID:
		return exec_cpuid;
	case OP_RDTSC:
		return exec_rdtsc;
	case OP_RDTSCP:
		return exec_rdtscp;
	case OP_RDPID:
		return exec_rdpid;
	case OP_RDPMC:
		return exec_rdpmc;
	case OP_INVLPG:
		return exec_invlpg;
	case OP_INVPCID:
		return exec_invpcid;
	case OP_INVD:
	case OP_WBINVD:
		return exec_cache_all;
	case OP_CLFLUSH:
	case OP_CLFLUSHOPT:
	case OP_CLWB:
		return exec_cache_line;
	case OP_HLT:
		return exec_hlt;
	case OP_CLAC:
	case OP_STAC:
		return exec_ac;
	case OP_SERIALIZE:
		return exec_nothing;
	default:
		return NULL;
	}
}
