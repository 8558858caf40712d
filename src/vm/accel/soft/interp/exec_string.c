/*
 * String instructions: MOVS CMPS STOS LODS SCAS INS OUTS, with and without REP. (Intel SDM volume 2.)
 *
 * Registers are right after each element, so a fault or an interrupt leaves an instruction that goes on where it was. MOVS and STOS
 * upwards through RAM do as many elements at once as both pages hold, by the host's own instruction with elements of the same size: what
 * it does where source and destination overlap is what the guest asked for.
 */
#include "vm/accel/soft/interp/interp_int.h"

#define RAX 0
#define RCX 1
#define RDX 2
#define RSI 6
#define RDI 7

static uint64_t pointer(const struct soft_cpu *cpu, const struct insn *insn, unsigned reg)
{
	return cpu->gpr[reg] & size_mask(insn->addrsize);
}

/* Moves RSI or RDI by n elements. */
static void advance(struct soft_cpu *cpu, const struct insn *insn, unsigned reg, uint64_t n)
{
	uint64_t bytes = n * insn->opsize;

	gpr_put(cpu, reg, insn->addrsize,
		cpu->rflags & RF_DF ? cpu->gpr[reg] - bytes : cpu->gpr[reg] + bytes);
}

static uint64_t source_linear(struct soft_cpu *cpu, const struct insn *insn)
{
	return seg_linear_inline(cpu, (enum insn_seg)insn->seg, pointer(cpu, insn, RSI),
				 insn->opsize, false);
}

static uint64_t destination_linear(struct soft_cpu *cpu, const struct insn *insn, bool write)
{
	return seg_linear_inline(cpu, SEG_ES, pointer(cpu, insn, RDI), insn->opsize, write);
}

/* --- many elements at once --- */

/* How many of n elements, upwards from an element that is inside segment and page, are as well: at least 1. */
static uint64_t reach(const struct soft_cpu *cpu, const struct insn *insn, enum insn_seg seg,
		      unsigned reg, uint64_t linear, uint64_t n)
{
	uint64_t offset = pointer(cpu, insn, reg), bytes = 4096 - (linear & 4095);
	uint64_t last = size_mask(insn->addrsize);

	if (insn->mode != INSN_MODE_64) {
		/* Expand-down segments end at the other side. */
		if ((cpu->seg[seg].attr & (ATTR_CODE | ATTR_CONFORM)) == ATTR_CONFORM)
			return 1;
		if (cpu->seg[seg].limit < last)
			last = cpu->seg[seg].limit;
	}
	if (last - offset < bytes)
		bytes = last - offset + 1;
	if (bytes < insn->opsize)
		return 1;
	return n < bytes / insn->opsize ? n : bytes / insn->opsize;
}

static void copy(void *to, const void *from, unsigned size, uint64_t n)
{
	switch (size) {
	case 1:
		__asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(n) : : "memory");
		break;
	case 2:
		__asm__ volatile("rep movsw" : "+D"(to), "+S"(from), "+c"(n) : : "memory");
		break;
	case 4:
		__asm__ volatile("rep movsl" : "+D"(to), "+S"(from), "+c"(n) : : "memory");
		break;
	default:
		__asm__ volatile("rep movsq" : "+D"(to), "+S"(from), "+c"(n) : : "memory");
	}
}

static void fill(void *to, unsigned size, uint64_t n, uint64_t value)
{
	switch (size) {
	case 1:
		__asm__ volatile("rep stosb" : "+D"(to), "+c"(n) : "a"(value) : "memory");
		break;
	case 2:
		__asm__ volatile("rep stosw" : "+D"(to), "+c"(n) : "a"(value) : "memory");
		break;
	case 4:
		__asm__ volatile("rep stosl" : "+D"(to), "+c"(n) : "a"(value) : "memory");
		break;
	default:
		__asm__ volatile("rep stosq" : "+D"(to), "+c"(n) : "a"(value) : "memory");
	}
}

/* --- steps: at most n elements; they return how many --- */

typedef uint64_t (*step_fn)(struct soft_cpu *cpu, const struct insn *insn, uint64_t n);

/* May more than one element be done in one step? */
static bool takes_many(const struct soft_cpu *cpu, uint64_t n)
{
	return n > 1 && !(cpu->rflags & RF_DF) && !cpu->debug;
}

static uint64_t movs(struct soft_cpu *cpu, const struct insn *insn, uint64_t n)
{
	unsigned size = insn->opsize;
	uint64_t from = source_linear(cpu, insn), to = destination_linear(cpu, insn, true), value;

	if (takes_many(cpu, n)) {
		const void *source;
		void *destination;

		n = reach(cpu, insn, (enum insn_seg)insn->seg, RSI, from, n);
		n = reach(cpu, insn, SEG_ES, RDI, to, n);
		source = mem_host_r_inline(cpu, from, (unsigned)n * size);
		destination = mem_host_rw_inline(cpu, to, (unsigned)n * size);
		if (source && destination) {
			copy(destination, source, size, n);
			advance(cpu, insn, RSI, n);
			advance(cpu, insn, RDI, n);
			return n;
		}
	}
	value = mem_read_inline(cpu, from, size);
	mem_write_inline(cpu, to, size, value);
	advance(cpu, insn, RSI, 1);
	advance(cpu, insn, RDI, 1);
	return 1;
}

static uint64_t stos(struct soft_cpu *cpu, const struct insn *insn, uint64_t n)
{
	unsigned size = insn->opsize;
	uint64_t to = destination_linear(cpu, insn, true);

	if (takes_many(cpu, n)) {
		void *destination;

		n = reach(cpu, insn, SEG_ES, RDI, to, n);
		destination = mem_host_rw_inline(cpu, to, (unsigned)n * size);
		if (destination) {
			fill(destination, size, n, cpu->gpr[RAX]);
			advance(cpu, insn, RDI, n);
			return n;
		}
	}
	mem_write_inline(cpu, to, size, cpu->gpr[RAX] & size_mask(size));
	advance(cpu, insn, RDI, 1);
	return 1;
}

static uint64_t lods(struct soft_cpu *cpu, const struct insn *insn, uint64_t n)
{
	(void)n;
	gpr_put(cpu, RAX, insn->opsize,
		mem_read_inline(cpu, source_linear(cpu, insn), insn->opsize));
	advance(cpu, insn, RSI, 1);
	return 1;
}

static uint64_t cmps(struct soft_cpu *cpu, const struct insn *insn, uint64_t n)
{
	unsigned size = insn->opsize;
	uint64_t a = mem_read_inline(cpu, source_linear(cpu, insn), size);
	uint64_t b = mem_read_inline(cpu, destination_linear(cpu, insn, false), size);

	(void)n;
	cpu->status = flags_of(size, a, b, false);
	advance(cpu, insn, RSI, 1);
	advance(cpu, insn, RDI, 1);
	return 1;
}

static uint64_t scas(struct soft_cpu *cpu, const struct insn *insn, uint64_t n)
{
	unsigned size = insn->opsize;
	uint64_t b = mem_read_inline(cpu, destination_linear(cpu, insn, false), size);

	(void)n;
	cpu->status = flags_of(size, cpu->gpr[RAX] & size_mask(size), b, false);
	advance(cpu, insn, RDI, 1);
	return 1;
}

/* The device's register is read after it is known that the value has a place. */
static uint64_t ins(struct soft_cpu *cpu, const struct insn *insn, uint64_t n)
{
	unsigned size = insn->opsize;
	uint16_t port = (uint16_t)cpu->gpr[RDX];
	uint64_t to, value = 0;

	(void)n;
	cpu_check_io(cpu, port, size);
	to = destination_linear(cpu, insn, true);
	mem_probe(cpu, to, size, true);
	soft_pio(cpu, port, false, &value, size);
	mem_write(cpu, to, size, value);
	advance(cpu, insn, RDI, 1);
	return 1;
}

static uint64_t outs(struct soft_cpu *cpu, const struct insn *insn, uint64_t n)
{
	unsigned size = insn->opsize;
	uint16_t port = (uint16_t)cpu->gpr[RDX];
	uint64_t value;

	(void)n;
	cpu_check_io(cpu, port, size);
	value = mem_read(cpu, source_linear(cpu, insn), size);
	soft_pio(cpu, port, true, &value, size);
	advance(cpu, insn, RSI, 1);
	return 1;
}

/* --- REP --- */

/* Is a comparison's REPE or REPNE over? */
static bool is_over(const struct soft_cpu *cpu, const struct insn *insn)
{
	return ((cpu->status & ST_ZF) != 0) != (insn->rep == REP_F3);
}

INLINE void repeat(struct soft_cpu *cpu, const struct insn *insn, step_fn step, bool compares)
{
	if (insn->rep == REP_NONE) {
		step(cpu, insn, 1);
		return;
	}
	for (;;) {
		uint64_t left = pointer(cpu, insn, RCX);

		if (left == 0)
			return;
		left -= step(cpu, insn, left);
		gpr_put(cpu, RCX, insn->addrsize, left);
		if (left == 0 || (compares && is_over(cpu, insn)))
			return;
		if (cpu->debug || atomic_load_explicit(&cpu->request, memory_order_relaxed) != 0) {
			/* The rest after whatever is to be done. */
			cpu->next_rip = cpu->rip;
			return;
		}
	}
}

#define STRING(name, compares)                                                                     \
	static void exec_##name(struct soft_cpu *cpu, const struct insn *insn)                     \
	{                                                                                          \
		repeat(cpu, insn, name, compares);                                                 \
	}
STRING(movs, false)
STRING(stos, false)
STRING(lods, false)
STRING(cmps, true)
STRING(scas, true)
STRING(ins, false)
STRING(outs, false)

exec_fn bind_string(const struct insn *insn)
{
	switch (insn->op) {
	case OP_MOVS:
		return exec_movs;
	case OP_STOS:
		return exec_stos;
	case OP_LODS:
		return exec_lods;
	case OP_CMPS:
		return exec_cmps;
	case OP_SCAS:
		return exec_scas;
	case OP_INS:
		return exec_ins;
	case OP_OUTS:
		return exec_outs;
	default:
		return NULL;
	}
}
