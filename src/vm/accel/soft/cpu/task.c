/*
 * Hardware task switches, 32-bit and 16-bit TSS. (SDM volume 3, chapter 7.) What fails before the new task's TSS is committed is the old
 * task's exception, what fails after it (segments) the new one's.
 */
#include "base/bits.h"
#include "vm/accel/soft/cpu/cpu_int.h"

/* Where things are in a TSS. Registers are in the encoding's order, segments in the order of enum insn_seg. */
struct tss_layout {
	unsigned size; /* bytes of a general register */
	unsigned cr3, ip, flags, gpr, seg, ldt, trap;
	unsigned n_segs, seg_step, min_limit;
};

static const struct tss_layout tss32 = {
	.size = 4,
	.cr3 = 0x1C,
	.ip = 0x20,
	.flags = 0x24,
	.gpr = 0x28,
	.seg = 0x48,
	.ldt = 0x60,
	.trap = 0x64,
	.n_segs = 6,
	.seg_step = 4,
	.min_limit = 0x67,
};

static const struct tss_layout tss16 = {
	.size = 2,
	.ip = 0x0E,
	.flags = 0x10,
	.gpr = 0x12,
	.seg = 0x22,
	.ldt = 0x2A,
	.n_segs = 4,
	.seg_step = 2,
	.min_limit = 0x2B,
};

struct tss_values {
	uint32_t cr3, ip, flags, gpr[8];
	uint16_t seg[6], ldt;
	bool trap;
};

static uint64_t tss_at(uint64_t base, unsigned offset)
{
	return (base + offset) & 0xFFFFFFFF;
}

static void tss_read(struct soft_cpu *cpu, uint64_t base, const struct tss_layout *l,
		     struct tss_values *v)
{
	*v = (struct tss_values){0};
	if (l->cr3)
		v->cr3 = (uint32_t)mem_read_system(cpu, tss_at(base, l->cr3), 4);
	v->ip = (uint32_t)mem_read_system(cpu, tss_at(base, l->ip), l->size);
	v->flags = (uint32_t)mem_read_system(cpu, tss_at(base, l->flags), l->size);
	for (unsigned i = 0; i < 8; i++)
		v->gpr[i] =
			(uint32_t)mem_read_system(cpu, tss_at(base, l->gpr + i * l->size), l->size);
	for (unsigned i = 0; i < l->n_segs; i++)
		v->seg[i] =
			(uint16_t)mem_read_system(cpu, tss_at(base, l->seg + i * l->seg_step), 2);
	v->ldt = (uint16_t)mem_read_system(cpu, tss_at(base, l->ldt), 2);
	if (l->trap)
		v->trap = mem_read_system(cpu, tss_at(base, l->trap), 2) & 1;
}

static void tss_save(struct soft_cpu *cpu, uint64_t base, const struct tss_layout *l, uint64_t rip,
		     uint64_t flags)
{
	mem_write_system(cpu, tss_at(base, l->ip), l->size, rip);
	mem_write_system(cpu, tss_at(base, l->flags), l->size, flags);
	for (unsigned i = 0; i < 8; i++)
		mem_write_system(cpu, tss_at(base, l->gpr + i * l->size), l->size, cpu->gpr[i]);
	for (unsigned i = 0; i < l->n_segs; i++)
		mem_write_system(cpu, tss_at(base, l->seg + i * l->seg_step), 2,
				 cpu->seg[i].selector);
}

static void busy_set(struct soft_cpu *cpu, uint64_t at, bool busy)
{
	uint64_t type = mem_read_system(cpu, at + 5, 1);

	mem_write_system(cpu, at + 5, 1, busy ? type | 2 : type & ~2ULL);
}

/* The descriptor of the task that runs. */
static uint64_t tr_at(const struct soft_cpu *cpu)
{
	return (cpu->gdt.base + (cpu->tr.selector & 0xFFF8u)) & 0xFFFFFFFF;
}

/* The code segment of the new task: #TS for what it must not be. */
static void load_cs(struct soft_cpu *cpu, uint16_t selector)
{
	struct desc d;
	unsigned rpl = selector & 3;

	if (selector_null(selector) || !desc_read(cpu, selector, &d) || !desc_is_code(&d) ||
	    (desc_is_conforming(&d) ? desc_dpl(&d) > rpl : desc_dpl(&d) != rpl))
		raise_selector(cpu, VEC_TS, selector);
	if (!desc_present(&d))
		raise_selector(cpu, VEC_NP, selector);
	desc_touch(cpu, &d);
	cpu->seg[SEG_CS] = desc_seg(&d);
}

static void load_data_segment(struct soft_cpu *cpu, enum insn_seg seg, uint16_t selector)
{
	struct desc d;
	uint16_t attr;

	cpu->seg[seg] = (struct soft_seg){.selector = selector};
	if (selector_null(selector))
		return;
	if (!desc_read(cpu, selector, &d))
		raise_selector(cpu, VEC_TS, selector);
	attr = desc_attr(&d);
	if (!(attr & ATTR_S) || (attr & (ATTR_CODE | ATTR_WRITE)) == ATTR_CODE)
		raise_selector(cpu, VEC_TS, selector);
	if ((attr & (ATTR_CODE | ATTR_CONFORM)) != (ATTR_CODE | ATTR_CONFORM) &&
	    ((selector & 3u) > desc_dpl(&d) || cpu->cpl > desc_dpl(&d)))
		raise_selector(cpu, VEC_TS, selector);
	if (!desc_present(&d))
		raise_selector(cpu, VEC_NP, selector);
	desc_touch(cpu, &d);
	cpu->seg[seg] = desc_seg(&d);
}

/* Segments in the new task: each fault now has the new task's registers behind it. */
static void load_segments(struct soft_cpu *cpu, const struct tss_values *v)
{
	static const uint8_t data[] = {SEG_DS, SEG_ES, SEG_FS, SEG_GS};
	unsigned cpl = v->seg[SEG_CS] & 3;

	for (unsigned i = 0; i < INSN_N_SEGS; i++)
		cpu->seg[i] = (struct soft_seg){.selector = v->seg[i]};
	cpu->ldtr = (struct soft_seg){.selector = v->ldt};
	if (v->flags & RF_VM) {
		for (unsigned i = 0; i < INSN_N_SEGS; i++)
			seg_load_real(cpu, (enum insn_seg)i, v->seg[i]);
		cpu_mode_changed(cpu);
		ldtr_load(cpu, v->ldt, VEC_TS);
		return;
	}
	cpu->seg[SEG_SS].attr = (uint16_t)(cpl << 5);
	cpu_mode_changed(cpu);
	ldtr_load(cpu, v->ldt, VEC_TS);
	load_cs(cpu, v->seg[SEG_CS]);
	cpu_mode_changed(cpu);
	cpu->seg[SEG_SS] = seg_check_stack(cpu, v->seg[SEG_SS], cpl, VEC_TS);
	cpu_mode_changed(cpu);
	for (size_t i = 0; i < ARRAY_SIZE(data); i++)
		load_data_segment(cpu, (enum insn_seg)data[i], v->seg[data[i]]);
}

static void load_registers(struct soft_cpu *cpu, const struct tss_layout *l,
			   const struct tss_values *v)
{
	for (unsigned i = 0; i < 8; i++)
		cpu->gpr[i] =
			l->size == 4 ? v->gpr[i] : (cpu->gpr[i] & ~0xFFFFULL) | (uint16_t)v->gpr[i];
	cpu->rip = cpu->next_rip = v->ip;
	cpu->tlbs->keep_rf = true;
	cpu_set_rflags(cpu, v->flags | RF_ONE);
}

static void load_cr3(struct soft_cpu *cpu, uint32_t cr3)
{
	if (!cpu->paging || cr3 == cpu->cr3)
		return;
	if ((cpu->cr4 & CR4_PAE) && !mmu_load_pdptrs(cpu, cr3))
		raise_selector(cpu, VEC_TS, cpu->tr.selector);
	cpu->cr3 = cr3;
	tlb_flush_local(cpu);
}

static void push_error(struct soft_cpu *cpu, unsigned size, uint32_t error)
{
	struct stack s;

	stack_current(cpu, &s);
	stack_push(&s, size, error);
	stack_commit_sp(&s);
}

void task_switch(struct soft_cpu *cpu, struct desc *d, enum task_reason reason, uint64_t rip,
		 const uint32_t *error)
{
	const struct tss_layout *from = cpu->tr.attr & 8 ? &tss32 : &tss16;
	const struct tss_layout *to = desc_type(d) & 8 ? &tss32 : &tss16;
	struct soft_seg tr = desc_seg(d);
	uint64_t flags = cpu_get_rflags(cpu);
	bool nested = reason == TASK_CALL || reason == TASK_GATE;
	struct tss_values v;

	if (tr.limit < to->min_limit)
		raise_selector(cpu, VEC_TS, d->selector);
	if (!(cpu->tr.attr & ATTR_P) || cpu->tr.limit < from->min_limit)
		raise_selector(cpu, VEC_TS, cpu->tr.selector);
	mem_probe_as(cpu, cpu->tr.base & 0xFFFFFFFF, from->min_limit + 1, true, MEM_KERNEL);
	mem_probe_as(cpu, tr.base, to->min_limit + 1, nested, MEM_KERNEL);
	mem_probe_as(cpu, tr_at(cpu) + 5, 1, true, MEM_KERNEL);
	mem_probe_as(cpu, d->at + 5, 1, true, MEM_KERNEL);
	tss_read(cpu, tr.base, to, &v);
	if (!nested)
		busy_set(cpu, tr_at(cpu), false);
	if (reason == TASK_RETURN)
		flags &= ~(uint64_t)RF_NT;
	tss_save(cpu, cpu->tr.base, from, rip, flags);
	if (nested) {
		mem_write_system(cpu, tr.base, 2, cpu->tr.selector);
		v.flags |= RF_NT;
	}
	if (reason != TASK_RETURN)
		busy_set(cpu, d->at, true);
	tr.attr |= 2;
	cpu->tr = tr;
	cpu->cr0 |= CR0_TS;
	cpu->dr7 &= ~0x155ULL; /* local breakpoints, LE */
	debug_changed(cpu);
	if (to->cr3)
		load_cr3(cpu, v.cr3);
	load_registers(cpu, to, &v);
	load_segments(cpu, &v);
	if (error)
		push_error(cpu, to->size, *error);
	if (cpu->next_rip > cpu->seg[SEG_CS].limit)
		raise_selector(cpu, VEC_GP, 0);
	if (v.trap) {
		cpu->tlbs->hit |= DR6_BT;
		cpu->debug |= DEBUG_HIT;
		atomic_fetch_or(&cpu->request, REQ_SELF);
	}
}
