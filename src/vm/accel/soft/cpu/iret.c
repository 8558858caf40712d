/*
 * IRET in all its forms: real mode, virtual-8086 mode, same and outer privilege, to virtual-8086 mode, out of a nested task, long
 * mode. (SDM volume 2, IRET; volume 3, section 20.2.)
 */
#include "vm/accel/soft/cpu/cpu_int.h"

uint64_t flags_changeable(const struct soft_cpu *cpu, unsigned opsize)
{
	uint64_t mask = RF_STATUS | RF_TF | RF_DF | RF_NT;

	if (!(cpu->cr0 & CR0_PE) || cpu->cpl == 0)
		mask |= RF_IOPL;
	if (!(cpu->cr0 & CR0_PE) || cpu->cpl <= cpu_iopl(cpu))
		mask |= RF_IF;
	if (opsize > 2)
		mask |= RF_RF | RF_AC | RF_ID;
	return mask;
}

static void flags_load(struct soft_cpu *cpu, uint64_t value, uint64_t mask)
{
	cpu->tlbs->keep_rf = true;
	cpu_set_rflags(cpu, (cpu_get_rflags(cpu) & ~mask) | (value & mask));
}

/* The same segment size and no privilege: real mode, and virtual-8086 mode with IOPL 3. */
static void iret_real(struct soft_cpu *cpu, unsigned opsize)
{
	struct stack s;
	uint64_t rip, flags, mask = flags_changeable(cpu, opsize);
	uint16_t selector;

	if (cpu_v86(cpu)) {
		if (cpu_iopl(cpu) < 3)
			cpu_raise_error(cpu, VEC_GP, 0);
		mask &= ~(uint64_t)RF_IOPL;
	}
	stack_current(cpu, &s);
	rip = stack_pop(&s, opsize);
	selector = (uint16_t)stack_pop(&s, opsize);
	flags = stack_pop(&s, opsize);
	if (rip > cpu->seg[SEG_CS].limit)
		cpu_raise_error(cpu, VEC_GP, 0);
	seg_load_real(cpu, SEG_CS, selector);
	stack_commit_sp(&s);
	cpu->next_rip = rip;
	flags_load(cpu, flags, mask);
}

static void iret_to_v86(struct soft_cpu *cpu, struct stack *s, uint64_t rip, uint16_t cs,
			uint64_t flags)
{
	static const uint8_t order[] = {SEG_ES, SEG_DS, SEG_FS, SEG_GS};
	uint16_t selector[4], ss;
	uint64_t sp = stack_pop(s, 4);

	ss = (uint16_t)stack_pop(s, 4);
	for (unsigned i = 0; i < 4; i++)
		selector[i] = (uint16_t)stack_pop(s, 4);
	if (rip > 0xFFFF)
		cpu_raise_error(cpu, VEC_GP, 0);
	cpu->tlbs->keep_rf = true;
	cpu->rflags |= RF_VM; /* segments are loaded as that mode does */
	seg_load_real(cpu, SEG_CS, cs);
	seg_load_real(cpu, SEG_SS, ss);
	for (unsigned i = 0; i < 4; i++)
		seg_load_real(cpu, (enum insn_seg)order[i], selector[i]);
	cpu->gpr[4] = sp;
	cpu->next_rip = rip;
	cpu_set_rflags(cpu, flags | RF_VM);
	cpu_mode_changed(cpu);
}

static void iret_task(struct soft_cpu *cpu)
{
	uint16_t link = (uint16_t)mem_read_system(cpu, cpu->tr.base & 0xFFFFFFFF, 2);
	struct desc d;
	unsigned type;

	if ((link & 4) || selector_null(link) || !desc_read(cpu, link, &d))
		raise_selector(cpu, VEC_TS, link);
	type = desc_type(&d);
	if (!desc_is_system(&d) || (type != SYS_TSS16_BUSY && type != SYS_TSS32_BUSY))
		raise_selector(cpu, VEC_TS, link);
	if (!desc_present(&d))
		raise_selector(cpu, VEC_NP, link);
	task_switch(cpu, &d, TASK_RETURN, cpu->next_rip, NULL);
}

static void iret_protected(struct soft_cpu *cpu, unsigned opsize)
{
	struct stack s, outer;
	struct target t;
	uint64_t rip, flags, sp, mask = flags_changeable(cpu, opsize);
	uint16_t selector;
	bool always = cpu_is64(cpu); /* 64-bit mode pops SS and RSP every time */

	stack_current(cpu, &s);
	rip = stack_pop(&s, opsize);
	selector = (uint16_t)stack_pop(&s, opsize);
	flags = stack_pop(&s, opsize);
	if ((flags & RF_VM) && opsize == 4 && cpu->cpl == 0 && !cpu_long(cpu)) {
		iret_to_v86(cpu, &s, rip, selector, flags);
		return;
	}
	return_target(cpu, selector, rip, &t);
	if (t.cpl == cpu->cpl && !always) {
		target_check_rip(cpu, &t);
		stack_commit_sp(&s);
	} else {
		sp = stack_pop(&s, opsize);
		return_stack(cpu, &t, (uint16_t)stack_pop(&s, opsize), sp, &outer);
		target_check_rip(cpu, &t);
		cpu->seg[SEG_SS] = outer.seg;
		stack_commit_sp(&outer);
		seg_drop_privileged(cpu, t.cpl);
	}
	target_enter(cpu, &t);
	flags_load(cpu, flags, mask);
}

void interrupt_return(struct soft_cpu *cpu, unsigned opsize)
{
	cpu->nmi_blocked = false;
	if (!cpu_protected(cpu)) {
		iret_real(cpu, opsize);
	} else if (cpu->rflags & RF_NT) {
		if (cpu_long(cpu))
			cpu_raise_error(cpu, VEC_GP, 0);
		iret_task(cpu);
	} else {
		iret_protected(cpu, opsize);
	}
}
