/*
 * Instructions about descriptor tables and descriptors: LGDT, SGDT, LLDT, LTR, STR and their kin, LAR, LSL, VERR, VERW, ARPL, SMSW, LMSW.
 * (SDM volume 2.)
 */
#include "vm/accel/soft/cpu/cpu_int.h"

static void set_zf(struct soft_cpu *cpu, bool value)
{
	cpu->status = (uint16_t)(value ? cpu->status | ST_ZF : cpu->status & ~ST_ZF);
}

/* SGDT, SIDT, SLDT, STR, SMSW: not for user code when UMIP says so. */
static void check_umip(struct soft_cpu *cpu)
{
	if ((cpu->cr4 & CR4_UMIP) && cpu->cpl > 0)
		cpu_raise_error(cpu, VEC_GP, 0);
}

static void exec_load_table(struct soft_cpu *cpu, const struct insn *insn)
{
	unsigned size = cpu_is64(cpu) ? 8 : 4;
	struct x86_table t;
	uint64_t at;

	need_cpl0(cpu);
	at = seg_linear(cpu, (enum insn_seg)insn->seg, insn_offset(cpu, insn), 2 + size, false);
	t.limit = (uint16_t)mem_read(cpu, at, 2);
	t.base = mem_read(cpu, at + 2, size);
	if (size == 8 && !is_canonical(t.base))
		cpu_raise_error(cpu, VEC_GP, 0);
	if (size == 4 && insn->opsize == 2)
		t.base &= 0xFFFFFF;
	if (insn->op == OP_LGDT)
		cpu->gdt = t;
	else
		cpu->idt = t;
}

static void exec_store_table(struct soft_cpu *cpu, const struct insn *insn)
{
	const struct x86_table *t = insn->op == OP_SGDT ? &cpu->gdt : &cpu->idt;
	unsigned size = cpu_is64(cpu) ? 8 : 4;
	uint64_t at;

	check_umip(cpu);
	at = seg_linear(cpu, (enum insn_seg)insn->seg, insn_offset(cpu, insn), 2 + size, true);
	mem_probe(cpu, at, 2 + size, true);
	mem_write(cpu, at, 2, t->limit);
	mem_write(cpu, at + 2, size, t->base);
}

static void exec_lldt(struct soft_cpu *cpu, const struct insn *insn)
{
	need_cpl0(cpu);
	ldtr_load(cpu, (uint16_t)operand_read(cpu, insn, 0, 2), VEC_GP);
}

static void exec_ltr(struct soft_cpu *cpu, const struct insn *insn)
{
	need_cpl0(cpu);
	tr_load(cpu, (uint16_t)operand_read(cpu, insn, 0, 2));
}

static void store_word(struct soft_cpu *cpu, const struct insn *insn, uint64_t value)
{
	operand_write(cpu, insn, 0, insn->operand[0].kind == OPND_MEM ? 2 : insn->opsize, value);
}

static void exec_sldt(struct soft_cpu *cpu, const struct insn *insn)
{
	check_umip(cpu);
	store_word(cpu, insn, cpu->ldtr.selector);
}

static void exec_str(struct soft_cpu *cpu, const struct insn *insn)
{
	check_umip(cpu);
	store_word(cpu, insn, cpu->tr.selector);
}

static void exec_smsw(struct soft_cpu *cpu, const struct insn *insn)
{
	check_umip(cpu);
	store_word(cpu, insn, cpu->cr0);
}

static void exec_lmsw(struct soft_cpu *cpu, const struct insn *insn)
{
	uint64_t value;

	need_cpl0(cpu);
	/* PE can be set this way but not cleared. */
	value = operand_read(cpu, insn, 0, 2) & (CR0_PE | CR0_MP | CR0_EM | CR0_TS);
	cpu_set_cr0(cpu, (cpu->cr0 & ~(uint64_t)(CR0_MP | CR0_EM | CR0_TS)) | value);
}

static bool system_type_known(const struct soft_cpu *cpu, unsigned type, bool gates)
{
	switch (type) {
	case SYS_LDT:
	case SYS_TSS32:
	case SYS_TSS32_BUSY:
		return true;
	case SYS_CALL32:
		return gates;
	case SYS_TSS16:
	case SYS_TSS16_BUSY:
		return !cpu_long(cpu);
	case SYS_CALL16:
	case SYS_TASK_GATE:
		return gates && !cpu_long(cpu);
	default:
		return false;
	}
}

/* The descriptor, if LAR (gates: it looks at gates too), LSL, VERR or VERW may look at it. */
static bool visible(struct soft_cpu *cpu, uint16_t selector, bool system, bool gates,
		    struct desc *d)
{
	if (selector_null(selector) || !desc_read(cpu, selector, d))
		return false;
	if (desc_is_system(d)) {
		if (!system || !system_type_known(cpu, desc_type(d), gates))
			return false;
	} else if (desc_is_code(d) && desc_is_conforming(d)) {
		return true;
	}
	return desc_dpl(d) >= cpu->cpl && desc_dpl(d) >= (selector & 3u);
}

static void exec_lar(struct soft_cpu *cpu, const struct insn *insn)
{
	uint16_t selector = (uint16_t)operand_read(cpu, insn, 1, 2);
	struct desc d;
	bool good = visible(cpu, selector, true, true, &d);

	if (good)
		operand_write(cpu, insn, 0, insn->opsize, d.raw >> 32 & 0x00FFFF00);
	set_zf(cpu, good);
}

static void exec_lsl(struct soft_cpu *cpu, const struct insn *insn)
{
	uint16_t selector = (uint16_t)operand_read(cpu, insn, 1, 2);
	struct desc d;
	bool good = visible(cpu, selector, true, false, &d);

	if (good)
		operand_write(cpu, insn, 0, insn->opsize, desc_limit(&d));
	set_zf(cpu, good);
}

static void exec_verr(struct soft_cpu *cpu, const struct insn *insn)
{
	uint16_t selector = (uint16_t)operand_read(cpu, insn, 0, 2);
	struct desc d;

	set_zf(cpu, visible(cpu, selector, false, false, &d) &&
			    (!desc_is_code(&d) || (desc_attr(&d) & ATTR_WRITE)));
}

static void exec_verw(struct soft_cpu *cpu, const struct insn *insn)
{
	uint16_t selector = (uint16_t)operand_read(cpu, insn, 0, 2);
	struct desc d;

	set_zf(cpu, visible(cpu, selector, false, false, &d) && desc_is_writable_data(&d));
}

static void exec_arpl(struct soft_cpu *cpu, const struct insn *insn)
{
	uint16_t to = (uint16_t)operand_read(cpu, insn, 0, 2);
	uint16_t from = (uint16_t)operand_read(cpu, insn, 1, 2);
	bool less = (to & 3) < (from & 3);

	if (less)
		operand_write(cpu, insn, 0, 2, (to & ~3u) | (from & 3u));
	set_zf(cpu, less);
}

exec_fn bind_tables(const struct insn *insn)
{
	switch (insn->op) {
	case OP_LGDT:
	case OP_LIDT:
		return exec_load_table;
	case OP_SGDT:
	case OP_SIDT:
		return exec_store_table;
	case OP_LLDT:
		return exec_lldt;
	case OP_LTR:
		return exec_ltr;
	case OP_SLDT:
		return exec_sldt;
	case OP_STR:
		return exec_str;
	case OP_SMSW:
		return exec_smsw;
	case OP_LMSW:
		return exec_lmsw;
	case OP_LAR:
		return exec_lar;
	case OP_LSL:
		return exec_lsl;
	case OP_VERR:
		return exec_verr;
	case OP_VERW:
		return exec_verw;
	case OP_ARPL:
		return exec_arpl;
	default:
		return NULL;
	}
}
