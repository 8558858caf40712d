/*
 * Stacks as gates, far transfers and interrupts use them: pushed and popped through a copy, so that nothing changes before the last
 * check has passed. (SDM volume 3, sections 5.8.5 and 6.12.)
 */
#include "vm/accel/soft/cpu/cpu_int.h"

static uint64_t width_mask(bool flat, const struct soft_seg *seg)
{
	if (flat)
		return ~0ULL;
	return seg->attr & ATTR_DB ? 0xFFFFFFFF : 0xFFFF;
}

void stack_current(struct soft_cpu *cpu, struct stack *ret)
{
	bool flat = cpu_is64(cpu);

	*ret = (struct stack){
		.cpu = cpu,
		.seg = cpu->seg[SEG_SS],
		.sp = cpu->gpr[4],
		.mask = width_mask(flat, &cpu->seg[SEG_SS]),
		.flat = flat,
		.kind = cpu_kind_for(cpu, cpu->cpl),
		.error = cpu->tlbs->external,
	};
}

void stack_new(struct soft_cpu *cpu, struct stack *ret, const struct soft_seg *seg, uint64_t sp,
	       unsigned cpl, bool is64)
{
	*ret = (struct stack){
		.cpu = cpu,
		.seg = *seg,
		.sp = sp,
		.mask = width_mask(is64, seg),
		.flat = is64,
		.kind = cpu_kind_for(cpu, cpl),
		.error = (uint16_t)((seg->selector & 0xFFFC) | (cpu->tlbs->external ? 1 : 0)),
	};
}

/* The linear address of size bytes at an offset of the stack. */
static uint64_t stack_linear(const struct stack *s, uint64_t offset, unsigned size)
{
	if (s->flat) {
		if (!is_canonical(offset) || !is_canonical(offset + size - 1))
			cpu_raise_error(s->cpu, VEC_SS, s->error);
		return offset;
	}
	if (!seg_within(&s->seg, offset, size) || !(s->seg.attr & ATTR_P))
		cpu_raise_error(s->cpu, VEC_SS, s->error);
	return (s->seg.base + offset) & 0xFFFFFFFF;
}

void stack_push(struct stack *s, unsigned size, uint64_t value)
{
	uint64_t offset = (s->sp - size) & s->mask;

	mem_write_as(s->cpu, stack_linear(s, offset, size), size, value, s->kind);
	s->sp = (s->sp & ~s->mask) | offset;
}

uint64_t stack_pop(struct stack *s, unsigned size)
{
	uint64_t offset = s->sp & s->mask;
	uint64_t value = mem_read_as(s->cpu, stack_linear(s, offset, size), size, s->kind);

	s->sp = (s->sp & ~s->mask) | ((offset + size) & s->mask);
	return value;
}

void stack_commit_sp(struct stack *s)
{
	uint64_t old = s->cpu->gpr[4];

	/* A 32-bit stack pointer clears what is above it, a 16-bit one does not. */
	s->cpu->gpr[4] = s->mask == 0xFFFF ? (old & ~s->mask) | (s->sp & s->mask) : s->sp & s->mask;
}
