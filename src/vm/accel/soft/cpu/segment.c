/*
 * Segments: descriptors, loading of segment registers with all checks, and the address that a segment and an offset make.
 * (SDM volume 3, chapters 3, 5 and section 20.1; AMD APM volume 2, chapter 4.)
 */
#include "base/bits.h"
#include "vm/accel/soft/cpu/cpu_int.h"

#define RPL(selector)  ((selector)&3u)
#define TI(selector)   (((selector) >> 2) & 1u)
#define ATTR_REAL_DATA 0x0093 /* present, writable, accessed */
#define ATTR_V86       0x00F3 /* the same at DPL 3 */

bool desc_read(struct soft_cpu *cpu, uint16_t selector, struct desc *ret)
{
	uint64_t base = cpu->gdt.base;
	uint32_t limit = cpu->gdt.limit;

	if (TI(selector)) {
		if (!(cpu->ldtr.attr & ATTR_P))
			return false;
		base = cpu->ldtr.base;
		limit = cpu->ldtr.limit;
	}
	if ((selector | 7u) > limit)
		return false;
	ret->selector = selector;
	ret->at = base + (selector & 0xFFF8u);
	if (!cpu_long(cpu))
		ret->at &= 0xFFFFFFFF;
	ret->raw = mem_read_system(cpu, ret->at, 8);
	return true;
}

uint32_t desc_limit(const struct desc *d)
{
	uint32_t limit = (uint32_t)(d->raw & 0xFFFF) | (uint32_t)(d->raw >> 32 & 0xF0000);

	return desc_attr(d) & ATTR_G ? limit << 12 | 0xFFF : limit;
}

uint32_t desc_base(const struct desc *d)
{
	return (uint32_t)(d->raw >> 16 & 0xFFFFFF) | (uint32_t)(d->raw >> 56) << 24;
}

struct soft_seg desc_seg(const struct desc *d)
{
	return (struct soft_seg){
		.base = desc_base(d),
		.limit = desc_limit(d),
		.selector = d->selector,
		.attr = desc_attr(d),
	};
}

void desc_touch(struct soft_cpu *cpu, struct desc *d)
{
	if (d->raw >> 40 & 1)
		return;
	d->raw |= BIT(40);
	mem_write_system(cpu, d->at + 5, 1, d->raw >> 40);
}

void seg_load_real(struct soft_cpu *cpu, enum insn_seg seg, uint16_t selector)
{
	struct soft_seg *s = &cpu->seg[seg];

	s->selector = selector;
	s->base = (uint32_t)selector << 4;
	/* Real mode leaves limit and rights as they are: what protected mode loaded stays ("unreal mode"). */
	if (!cpu_v86(cpu))
		return;
	s->limit = 0xFFFF;
	s->attr = ATTR_V86;
}

struct soft_seg seg_null_stack(uint16_t selector, unsigned cpl)
{
	return (struct soft_seg){.selector = selector,
				 .limit = 0xFFFFFFFF,
				 .attr = (uint16_t)(cpl << 5 | ATTR_DB | ATTR_G)};
}

struct soft_seg seg_check_stack(struct soft_cpu *cpu, uint16_t selector, unsigned cpl,
				enum cpu_vector vector)
{
	struct desc d;

	if (selector_null(selector))
		raise_selector(cpu, vector, 0);
	if (!desc_read(cpu, selector, &d))
		raise_selector(cpu, vector, selector);
	if (RPL(selector) != cpl || desc_dpl(&d) != cpl || !desc_is_writable_data(&d))
		raise_selector(cpu, vector, selector);
	if (!desc_present(&d))
		raise_selector(cpu, VEC_SS, selector);
	desc_touch(cpu, &d);
	return desc_seg(&d);
}

static void load_data(struct soft_cpu *cpu, enum insn_seg seg, uint16_t selector)
{
	struct desc d;
	uint16_t attr;

	if (selector_null(selector)) {
		cpu->seg[seg] = (struct soft_seg){.selector = selector};
		return;
	}
	if (!desc_read(cpu, selector, &d))
		raise_selector(cpu, VEC_GP, selector);
	attr = desc_attr(&d);
	if (!(attr & ATTR_S) || (attr & (ATTR_CODE | ATTR_WRITE)) == ATTR_CODE)
		raise_selector(cpu, VEC_GP, selector);
	if ((attr & (ATTR_CODE | ATTR_CONFORM)) != (ATTR_CODE | ATTR_CONFORM) &&
	    (RPL(selector) > desc_dpl(&d) || cpu->cpl > desc_dpl(&d)))
		raise_selector(cpu, VEC_GP, selector);
	if (!desc_present(&d))
		raise_selector(cpu, VEC_NP, selector);
	desc_touch(cpu, &d);
	cpu->seg[seg] = desc_seg(&d);
}

void seg_load(struct soft_cpu *cpu, enum insn_seg seg, uint16_t selector)
{
	if (!cpu_protected(cpu)) {
		seg_load_real(cpu, seg, selector);
	} else if (seg != SEG_SS) {
		load_data(cpu, seg, selector);
	} else if (selector_null(selector) && cpu_is64(cpu) && cpu->cpl < 3 &&
		   RPL(selector) == cpu->cpl) {
		cpu->seg[SEG_SS] = seg_null_stack(selector, cpu->cpl);
	} else {
		cpu->seg[SEG_SS] = seg_check_stack(cpu, selector, cpu->cpl, VEC_GP);
	}
}

void seg_drop_privileged(struct soft_cpu *cpu, unsigned cpl)
{
	static const uint8_t data[] = {SEG_ES, SEG_DS, SEG_FS, SEG_GS};

	for (size_t i = 0; i < ARRAY_SIZE(data); i++) {
		struct soft_seg *s = &cpu->seg[data[i]];

		if ((s->attr & ATTR_P) &&
		    (s->attr & (ATTR_CODE | ATTR_CONFORM)) != (ATTR_CODE | ATTR_CONFORM) &&
		    ATTR_DPL(s->attr) < cpl) {
			s->selector = 0;
			s->attr = 0;
			s->limit = 0;
		}
	}
}

bool seg_within(const struct soft_seg *seg, uint64_t offset, unsigned size)
{
	uint64_t last = offset + (size ? size - 1 : 0);

	if ((seg->attr & (ATTR_S | ATTR_CODE | ATTR_CONFORM)) == (ATTR_S | ATTR_CONFORM)) {
		uint64_t top = seg->attr & ATTR_DB ? 0xFFFFFFFF : 0xFFFF;

		return offset > seg->limit && last <= top;
	}
	return last <= seg->limit;
}

static bool type_allows(const struct soft_seg *s, bool write)
{
	if (!(s->attr & ATTR_P))
		return false;
	if (s->attr & ATTR_CODE)
		return !write && (s->attr & ATTR_WRITE);
	return !write || (s->attr & ATTR_WRITE);
}

uint64_t seg_linear(struct soft_cpu *cpu, enum insn_seg seg, uint64_t offset, unsigned size,
		    bool write)
{
	const struct soft_seg *s = &cpu->seg[seg];
	enum cpu_vector vector = seg == SEG_SS ? VEC_SS : VEC_GP;

	if (cpu->mode == INSN_MODE_64) {
		uint64_t linear = seg >= SEG_FS ? s->base + offset : offset;
		uint64_t last = linear + (size ? size - 1 : 0);

		if (!is_canonical(linear) || !is_canonical(last))
			cpu_raise_error(cpu, vector, 0);
		return linear;
	}
	if (!seg_within(s, offset, size))
		cpu_raise_error(cpu, vector, 0);
	if (cpu_protected(cpu) && !type_allows(s, write))
		cpu_raise_error(cpu, vector, 0);
	return (s->base + offset) & 0xFFFFFFFF;
}

/* The upper half of a base that takes 16 bytes in long mode. False: outside the table. */
static bool desc_base_high(struct soft_cpu *cpu, const struct desc *d, uint64_t *ret)
{
	if ((uint32_t)(d->selector | 7u) + 8 > cpu->gdt.limit)
		return false;
	*ret = mem_read_system(cpu, d->at + 8, 8);
	return true;
}

/* LDT and TSS descriptors: only in the GDT. */
static struct soft_seg system_seg(struct soft_cpu *cpu, struct desc *d, enum cpu_vector vector)
{
	struct soft_seg s = desc_seg(d);
	uint64_t high;

	if (!cpu_long(cpu))
		return s;
	if (!desc_base_high(cpu, d, &high) || (high >> 40 & 0x1F) != 0)
		raise_selector(cpu, vector, d->selector);
	s.base |= high << 32;
	if (!is_canonical(s.base))
		raise_selector(cpu, vector, d->selector);
	return s;
}

void ldtr_load(struct soft_cpu *cpu, uint16_t selector, enum cpu_vector vector)
{
	struct desc d;

	if (selector_null(selector)) {
		cpu->ldtr = (struct soft_seg){.selector = selector};
		return;
	}
	if (TI(selector) || !desc_read(cpu, selector, &d) || !desc_is_system(&d) ||
	    desc_type(&d) != SYS_LDT)
		raise_selector(cpu, vector, selector);
	if (!desc_present(&d))
		raise_selector(cpu, vector == VEC_TS ? VEC_TS : VEC_NP, selector);
	cpu->ldtr = system_seg(cpu, &d, vector);
}

void tr_load(struct soft_cpu *cpu, uint16_t selector)
{
	struct desc d;
	struct soft_seg s;
	unsigned type;

	if (selector_null(selector))
		raise_selector(cpu, VEC_GP, 0);
	if (TI(selector) || !desc_read(cpu, selector, &d) || !desc_is_system(&d))
		raise_selector(cpu, VEC_GP, selector);
	type = desc_type(&d);
	if (type != SYS_TSS32 && (type != SYS_TSS16 || cpu_long(cpu)))
		raise_selector(cpu, VEC_GP, selector);
	if (!desc_present(&d))
		raise_selector(cpu, VEC_NP, selector);
	s = system_seg(cpu, &d, VEC_GP);
	s.attr |= 2; /* busy */
	mem_write_system(cpu, d.at + 5, 1, (d.raw >> 40 & 0xff) | 2);
	cpu->tr = s;
}
