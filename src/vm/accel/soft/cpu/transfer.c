/*
 * Far JMP, CALL and RET: through code segments, call gates, task gates and TSS descriptors. (SDM volume 2, CALL, JMP, RET; volume 3,
 * section 5.8 and chapter 7; AMD APM volume 2, section 4.11.)
 */
#include "vm/accel/soft/cpu/cpu_int.h"

#define RPL(selector) ((selector)&3u)

bool target_is64(const struct soft_cpu *cpu, const struct soft_seg *cs)
{
	return cpu_long(cpu) && (cs->attr & ATTR_L);
}

void target_check_rip(struct soft_cpu *cpu, const struct target *t)
{
	bool good = target_is64(cpu, &t->cs) ? is_canonical(t->rip) : t->rip <= t->cs.limit;

	if (!good)
		raise_selector(cpu, VEC_GP, 0);
}

void target_enter(struct soft_cpu *cpu, const struct target *t)
{
	cpu->seg[SEG_CS] = t->cs;
	cpu->seg[SEG_CS].selector = (uint16_t)((t->cs.selector & ~3u) | t->cpl);
	cpu->next_rip = t->rip;
	cpu_mode_changed(cpu);
}

/* In long mode a code segment is 64-bit or 32-bit, not both. */
static bool code_valid(const struct soft_cpu *cpu, const struct desc *d)
{
	uint16_t attr = desc_attr(d);

	return desc_is_code(d) &&
	       !(cpu_long(cpu) && (attr & (ATTR_L | ATTR_DB)) == (ATTR_L | ATTR_DB));
}

static uint64_t size_mask(unsigned size)
{
	return size == 8 ? ~0ULL : (1ULL << (8 * size)) - 1;
}

/* Real and virtual-8086 mode. */
static void enter_real(struct soft_cpu *cpu, uint16_t selector, uint64_t offset)
{
	if (offset > cpu->seg[SEG_CS].limit)
		cpu_raise_error(cpu, VEC_GP, 0);
	seg_load_real(cpu, SEG_CS, selector);
	cpu->next_rip = offset;
	cpu_mode_changed(cpu);
}

/* A code segment that JMP or CALL names directly. */
static void direct_target(struct soft_cpu *cpu, struct desc *d, uint64_t rip, struct target *ret)
{
	uint16_t selector = d->selector;

	if (!code_valid(cpu, d))
		raise_selector(cpu, VEC_GP, selector);
	if (desc_is_conforming(d) ? desc_dpl(d) > cpu->cpl
				  : RPL(selector) > cpu->cpl || desc_dpl(d) != cpu->cpl)
		raise_selector(cpu, VEC_GP, selector);
	if (!desc_present(d))
		raise_selector(cpu, VEC_NP, selector);
	*ret = (struct target){.cs = desc_seg(d), .rip = rip, .cpl = cpu->cpl};
	if (!target_is64(cpu, &ret->cs))
		ret->rip &= 0xFFFFFFFF;
	target_check_rip(cpu, ret);
}

static void direct_finish(struct soft_cpu *cpu, struct desc *d, struct target *t)
{
	desc_touch(cpu, d);
	t->cs.attr |= 1;
	target_enter(cpu, t);
}

void gate_target(struct soft_cpu *cpu, uint16_t selector, bool to64, struct desc *ret)
{
	if (selector_null(selector))
		raise_selector(cpu, VEC_GP, 0);
	if (!desc_read(cpu, selector, ret))
		raise_selector(cpu, VEC_GP, selector);
	if (!desc_is_code(ret) || desc_dpl(ret) > cpu->cpl)
		raise_selector(cpu, VEC_GP, selector);
	if (to64 && (desc_attr(ret) & (ATTR_L | ATTR_DB)) != ATTR_L)
		raise_selector(cpu, VEC_GP, selector);
	if (!desc_present(ret))
		raise_selector(cpu, VEC_NP, selector);
}

/* --- gates --- */

struct gate {
	uint16_t selector;
	uint64_t offset;
	unsigned params, size; /* size: bytes of a push */
};

static void gate_read(struct soft_cpu *cpu, const struct desc *d, struct gate *ret)
{
	ret->selector = (uint16_t)(d->raw >> 16);
	ret->offset = d->raw & 0xFFFF;
	ret->params = (unsigned)(d->raw >> 32) & 31;
	ret->size = desc_type(d) == SYS_CALL16 ? 2 : 4;
	if (ret->size == 4)
		ret->offset |= d->raw >> 32 & 0xFFFF0000;
	if (!cpu_long(cpu))
		return;
	ret->size = 8;
	ret->params = 0;
	{
		struct desc high;

		/* The second half stands where the next descriptor would, with its type field zero. */
		if ((uint32_t)(d->selector | 7u) + 8 > 0xFFFF ||
		    !desc_read(cpu, (uint16_t)(d->selector + 8), &high) ||
		    (high.raw >> 40 & 0x1F) != 0)
			raise_selector(cpu, VEC_GP, d->selector);
		ret->offset |= high.raw << 32;
	}
}

uint64_t tss_rsp64(struct soft_cpu *cpu, unsigned offset)
{
	uint64_t rsp;

	if (offset + 7 > cpu->tr.limit || !(cpu->tr.attr & ATTR_P))
		raise_selector(cpu, VEC_TS, cpu->tr.selector);
	rsp = mem_read_system(cpu, cpu->tr.base + offset, 8);
	if (!is_canonical(rsp))
		raise_selector(cpu, VEC_SS, 0);
	return rsp;
}

void tss_stack(struct soft_cpu *cpu, unsigned cpl, struct stack *ret)
{
	struct soft_seg ss;
	uint64_t base = cpu->tr.base;
	bool wide = (cpu->tr.attr & 8) != 0; /* 32-bit TSS */
	unsigned offset = wide ? 4 + 8 * cpl : 2 + 4 * cpl, size = wide ? 4 : 2;
	uint32_t sp;
	uint16_t selector;

	if (cpu_long(cpu)) {
		ss = seg_null_stack((uint16_t)cpl, cpl);
		stack_new(cpu, ret, &ss, tss_rsp64(cpu, 4 + 8 * cpl), cpl, true);
		ret->error = cpu->tlbs->external;
		return;
	}
	if (offset + size + 1 > cpu->tr.limit || !(cpu->tr.attr & ATTR_P))
		raise_selector(cpu, VEC_TS, cpu->tr.selector);
	sp = (uint32_t)mem_read_system(cpu, (base + offset) & 0xFFFFFFFF, size);
	selector = (uint16_t)mem_read_system(cpu, (base + offset + size) & 0xFFFFFFFF, 2);
	ss = seg_check_stack(cpu, selector, cpl, VEC_TS);
	stack_new(cpu, ret, &ss, sp, cpl, false);
}

/* CALL to an inner privilege level. */
static void gate_call_inner(struct soft_cpu *cpu, const struct gate *g, struct target *t)
{
	struct stack old, new;
	uint32_t param[31];

	stack_current(cpu, &old);
	tss_stack(cpu, t->cpl, &new);
	for (unsigned i = 0; i < g->params; i++)
		param[i] = (uint32_t)stack_pop(&old, g->size);
	target_check_rip(cpu, t);
	stack_push(&new, g->size, cpu->seg[SEG_SS].selector);
	stack_push(&new, g->size, cpu->gpr[4]);
	for (unsigned i = g->params; i-- > 0;)
		stack_push(&new, g->size, param[i]);
	stack_push(&new, g->size, cpu->seg[SEG_CS].selector);
	stack_push(&new, g->size, cpu->next_rip);
	cpu->seg[SEG_SS] = new.seg;
	stack_commit_sp(&new);
	target_enter(cpu, t);
}

static void gate_transfer(struct soft_cpu *cpu, const struct desc *d, bool call)
{
	struct gate g;
	struct desc code;
	struct target t;
	struct stack s;

	if (desc_dpl(d) < cpu->cpl || RPL(d->selector) > desc_dpl(d))
		raise_selector(cpu, VEC_GP, d->selector);
	if (!desc_present(d))
		raise_selector(cpu, VEC_NP, d->selector);
	gate_read(cpu, d, &g);
	gate_target(cpu, g.selector, cpu_long(cpu), &code);
	if (!call && !desc_is_conforming(&code) && desc_dpl(&code) != cpu->cpl)
		raise_selector(cpu, VEC_GP, g.selector);
	desc_touch(cpu, &code);
	t = (struct target){.cs = desc_seg(&code), .rip = g.offset, .cpl = cpu->cpl};
	if (call && !desc_is_conforming(&code) && desc_dpl(&code) < cpu->cpl) {
		t.cpl = desc_dpl(&code);
		gate_call_inner(cpu, &g, &t);
		return;
	}
	target_check_rip(cpu, &t);
	if (call) {
		stack_current(cpu, &s);
		if (cpu_long(cpu)) {
			s.flat = true;
			s.mask = ~0ULL;
		}
		stack_push(&s, g.size, cpu->seg[SEG_CS].selector);
		stack_push(&s, g.size, cpu->next_rip);
		stack_commit_sp(&s);
	}
	target_enter(cpu, &t);
}

/* A TSS named by JMP or CALL, or by a task gate. */
static void task_transfer(struct soft_cpu *cpu, struct desc *d, bool call)
{
	unsigned type = desc_type(d);

	if ((type != SYS_TSS16 && type != SYS_TSS32) || !desc_is_system(d))
		raise_selector(cpu, VEC_GP, d->selector);
	if (!desc_present(d))
		raise_selector(cpu, VEC_NP, d->selector);
	task_switch(cpu, d, call ? TASK_CALL : TASK_JUMP, cpu->next_rip, NULL);
}

static void system_transfer(struct soft_cpu *cpu, struct desc *d, bool call)
{
	unsigned type = desc_type(d);
	uint16_t tss = (uint16_t)(d->raw >> 16);
	bool tall = cpu_long(cpu);

	if (type == SYS_CALL32 || (type == SYS_CALL16 && !tall)) {
		gate_transfer(cpu, d, call);
		return;
	}
	if (tall || (type != SYS_TASK_GATE && type != SYS_TSS16 && type != SYS_TSS32) ||
	    desc_dpl(d) < cpu->cpl || RPL(d->selector) > desc_dpl(d))
		raise_selector(cpu, VEC_GP, d->selector);
	if (type != SYS_TASK_GATE) {
		task_transfer(cpu, d, call);
		return;
	}
	if (!desc_present(d))
		raise_selector(cpu, VEC_NP, d->selector);
	if (selector_null(tss) || (tss & 4) || !desc_read(cpu, tss, d))
		raise_selector(cpu, VEC_GP, tss);
	task_transfer(cpu, d, call);
}

static void transfer_desc(struct soft_cpu *cpu, uint16_t selector, struct desc *ret)
{
	if (selector_null(selector))
		raise_selector(cpu, VEC_GP, 0);
	if (!desc_read(cpu, selector, ret))
		raise_selector(cpu, VEC_GP, selector);
}

void far_jump(struct soft_cpu *cpu, uint16_t selector, uint64_t offset, unsigned opsize)
{
	struct desc d;
	struct target t;

	offset &= size_mask(opsize);
	if (!cpu_protected(cpu)) {
		enter_real(cpu, selector, offset);
		return;
	}
	transfer_desc(cpu, selector, &d);
	if (desc_is_system(&d)) {
		system_transfer(cpu, &d, false);
		return;
	}
	direct_target(cpu, &d, offset, &t);
	direct_finish(cpu, &d, &t);
}

void far_call(struct soft_cpu *cpu, uint16_t selector, uint64_t offset, unsigned opsize)
{
	struct desc d;
	struct target t;
	struct stack s;
	bool real = !cpu_protected(cpu);

	offset &= size_mask(opsize);
	if (!real) {
		transfer_desc(cpu, selector, &d);
		if (desc_is_system(&d)) {
			system_transfer(cpu, &d, true);
			return;
		}
		direct_target(cpu, &d, offset, &t);
	} else if (offset > cpu->seg[SEG_CS].limit) {
		cpu_raise_error(cpu, VEC_GP, 0);
	}
	stack_current(cpu, &s);
	stack_push(&s, opsize, cpu->seg[SEG_CS].selector);
	stack_push(&s, opsize, cpu->next_rip);
	if (real) {
		stack_commit_sp(&s);
		enter_real(cpu, selector, offset);
	} else {
		desc_touch(cpu, &d);
		stack_commit_sp(&s);
		direct_finish(cpu, &d, &t);
	}
}

/* --- returns --- */

void return_target(struct soft_cpu *cpu, uint16_t selector, uint64_t rip, struct target *ret)
{
	struct desc d;
	unsigned rpl = RPL(selector);

	transfer_desc(cpu, selector, &d);
	if (!code_valid(cpu, &d) || rpl < cpu->cpl ||
	    (desc_is_conforming(&d) ? desc_dpl(&d) > rpl : desc_dpl(&d) != rpl))
		raise_selector(cpu, VEC_GP, selector);
	if (!desc_present(&d))
		raise_selector(cpu, VEC_NP, selector);
	desc_touch(cpu, &d);
	*ret = (struct target){.cs = desc_seg(&d), .rip = rip, .cpl = rpl};
}

void return_stack(struct soft_cpu *cpu, const struct target *t, uint16_t selector, uint64_t sp,
		  struct stack *ret)
{
	bool to64 = target_is64(cpu, &t->cs);
	struct soft_seg ss;

	if (selector_null(selector) && to64 && t->cpl != 3 && RPL(selector) == t->cpl)
		ss = seg_null_stack(selector, t->cpl);
	else
		ss = seg_check_stack(cpu, selector, t->cpl, VEC_GP);
	stack_new(cpu, ret, &ss, sp, t->cpl, to64);
}

void far_return(struct soft_cpu *cpu, unsigned opsize, unsigned release)
{
	struct stack s, outer;
	struct target t;
	uint64_t rip, sp;
	uint16_t selector;

	stack_current(cpu, &s);
	rip = stack_pop(&s, opsize);
	selector = (uint16_t)stack_pop(&s, opsize);
	s.sp = (s.sp & ~s.mask) | ((s.sp + release) & s.mask);
	if (!cpu_protected(cpu)) {
		enter_real(cpu, selector, rip);
		stack_commit_sp(&s);
		return;
	}
	return_target(cpu, selector, rip, &t);
	target_check_rip(cpu, &t);
	if (t.cpl == cpu->cpl) {
		stack_commit_sp(&s);
		target_enter(cpu, &t);
		return;
	}
	sp = stack_pop(&s, opsize);
	return_stack(cpu, &t, (uint16_t)stack_pop(&s, opsize), sp, &outer);
	outer.sp = (outer.sp & ~outer.mask) | ((outer.sp + release) & outer.mask);
	cpu->seg[SEG_SS] = outer.seg;
	stack_commit_sp(&outer);
	seg_drop_privileged(cpu, t.cpl);
	target_enter(cpu, &t);
}
