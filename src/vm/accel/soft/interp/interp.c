/*
 * The interpreter: blocks of decoded instructions by where their bytes are in this process, executed one after the other. (Intel SDM volume 3,
 * sections 6.9, 11.6, 17.3.)
 *
 * A block ends with a branch, with what changes how code is decoded or mapped, or before an instruction that crosses into another
 * page; those are decoded each time. It is good while the generation of its page is the same. Between any two instructions cpu->request
 * is looked at. The vCPU's own thread.
 */
#include <errno.h>
#include <stdlib.h>

#include "base/log.h"
#include "vm/accel/soft/interp/code.h"
#include "vm/accel/soft/interp/interp_int.h"

#define PAGE_BYTES  4096u
#define MAX_BLOCK   32u /* instructions */
#define N_SLOTS     8192u
#define ARENA_BYTES (8u << 20)

struct block {
	const uint8_t *host; /* of the first byte */
	const _Atomic uint32_t *generation;
	uint32_t expected;
	uint16_t bytes;
	uint8_t n, mode;
	bool vex;
	struct insn insn[];
};

struct soft_interp {
	struct block *slot[N_SLOTS];
	uint8_t *arena;
	size_t used;
	uint64_t count;
};

int interp_cpu_init(struct soft_cpu *cpu)
{
	struct soft_interp *interp = calloc(1, sizeof(*interp));

	if (!interp)
		return -ENOMEM;
	interp->arena = malloc(ARENA_BYTES);
	if (!interp->arena) {
		free(interp);
		return -ENOMEM;
	}
	cpu->interp = interp;
	return 0;
}

void interp_cpu_fini(struct soft_cpu *cpu)
{
	if (!cpu->interp)
		return;
	free(cpu->interp->arena);
	free(cpu->interp);
	cpu->interp = NULL;
}

void interp_forget(struct soft_cpu *cpu)
{
	struct soft_interp *interp = cpu->interp;

	for (unsigned i = 0; i < N_SLOTS; i++)
		interp->slot[i] = NULL;
	interp->used = 0;
}

uint64_t interp_count(const struct soft_cpu *cpu)
{
	return cpu->interp->count;
}

static uint64_t code_linear(const struct soft_cpu *cpu, uint64_t rip)
{
	if (cpu->mode == INSN_MODE_64)
		return rip;
	return (cpu->seg[SEG_CS].base + rip) & 0xffffffff;
}

/* --- one instruction, decoded afresh --- */

static void decode_here(struct soft_cpu *cpu, struct insn *ret)
{
	uint64_t linear = code_linear(cpu, cpu->rip), limit = cpu->seg[SEG_CS].limit;
	uint8_t bytes[INSN_MAX_BYTES];
	unsigned wanted = sizeof(bytes), n;
	gpa_t gpa;

	if (cpu->mode != INSN_MODE_64) {
		if (cpu->rip > limit)
			cpu_raise_error(cpu, VEC_GP, 0);
		if (limit - cpu->rip < wanted)
			wanted = (unsigned)(limit - cpu->rip) + 1;
	}
	for (;;) {
		n = mem_fetch(cpu, linear, bytes, wanted, &gpa);
		switch (insn_decode(bytes, n, (enum insn_mode)cpu->mode, cpu->vex_ok, cpu->features,
				    ret)) {
		case INSN_OK:
			break;
		case INSN_SHORT:
			if (n == wanted)
				cpu_raise_error(cpu, VEC_GP, 0);
			/* The page that the rest is in does not let it be fetched; unless it does by now. */
			mem_code_page(cpu, code_linear(cpu, cpu->rip + n), &gpa);
			continue;
		case INSN_LONG:
			cpu_raise_error(cpu, VEC_GP, 0);
		case INSN_BAD:
			cpu_raise(cpu, VEC_UD);
		}
		break;
	}
	ret->exec = exec_bind(ret);
}

static void wrap_rip(struct soft_cpu *cpu)
{
	if (cpu->mode != INSN_MODE_64)
		cpu->rip = (uint32_t)cpu->rip;
}

void interp_step(struct soft_cpu *cpu)
{
	bool debug = cpu->debug, resumes = cpu->rflags & RF_RF;
	struct insn insn;

	if (debug)
		cpu_debug_before(cpu);
	decode_here(cpu, &insn);
	cpu->next_rip = cpu->rip + insn.length;
	insn.exec(cpu, &insn);
	cpu->rip = cpu->next_rip;
	wrap_rip(cpu);
	cpu->interp->count++;
	if (debug || cpu->debug)
		cpu_debug_after(cpu);
	else if (resumes && insn.op != OP_IRET)
		cpu->rflags &= ~RF_RF;
}

/* --- blocks --- */

static unsigned slot_of(const uint8_t *host)
{
	uintptr_t at = (uintptr_t)host;

	return (unsigned)(at ^ at >> 13) & (N_SLOTS - 1);
}

static struct block *block_new(struct soft_cpu *cpu)
{
	struct soft_interp *interp = cpu->interp;

	if (ARENA_BYTES - interp->used < sizeof(struct block) + MAX_BLOCK * sizeof(struct insn))
		interp_forget(cpu);
	return (struct block *)(void *)(interp->arena + interp->used);
}

/* Decodes up to what ends a block. */
static void block_fill(struct soft_cpu *cpu, struct block *block, unsigned rest)
{
	while (block->n < MAX_BLOCK) {
		struct insn *insn = &block->insn[block->n];
		enum insn_status status =
			insn_decode(block->host + block->bytes, rest - block->bytes,
				    (enum insn_mode)block->mode, block->vex, cpu->features, insn);

		if (status != INSN_OK)
			return;
		insn->exec = exec_bind(insn);
		block->n++;
		block->bytes += insn->length;
		if (insn->form->attrs & (FORM_BRANCH | FORM_END))
			return;
	}
}

/* NULL: no RAM, or its first instruction does not end in this page, or is none. */
static struct block *block_build(struct soft_cpu *cpu, uint64_t linear)
{
	struct block *block;
	const uint8_t *page;
	gpa_t gpa;

	page = mem_code_page(cpu, linear, &gpa);
	if (!page)
		return NULL;
	block = block_new(cpu);
	*block = (struct block){
		.host = page + linear % PAGE_BYTES,
		.mode = cpu->mode,
		.vex = cpu->vex_ok,
		.generation = code_generation_ref(cpu->soft, gpa),
		.expected = code_watch(cpu, gpa),
	};
	block_fill(cpu, block, PAGE_BYTES - (unsigned)(linear % PAGE_BYTES));
	if (block->n == 0)
		return NULL;
	cpu->interp->used += sizeof(*block) + block->n * sizeof(struct insn);
	cpu->interp->slot[slot_of(block->host)] = block;
	return block;
}

INLINE struct block *block_find(struct soft_cpu *cpu)
{
	uint64_t linear = code_linear(cpu, cpu->rip);
	const struct tlb_entry *e = &cpu->tlb[tlb_index(linear)];
	struct block *block;

	if (__builtin_expect(e->exec == (linear & ~(uint64_t)(PAGE_BYTES - 1)), 1)) {
		const uint8_t *host = (const uint8_t *)(uintptr_t)(linear + e->addend);

		block = cpu->interp->slot[slot_of(host)];
		if (__builtin_expect(block && block->host == host && block->mode == cpu->mode &&
					     block->vex == cpu->vex_ok &&
					     atomic_load_explicit(block->generation,
								  memory_order_acquire) ==
						     block->expected,
				     1))
			return block;
	}
	return block_build(cpu, linear);
}

static void block_run(struct soft_cpu *cpu, const struct block *block)
{
	const struct insn *insn = block->insn, *end = insn + block->n;

	do {
		cpu->next_rip = cpu->rip + insn->length;
		insn->exec(cpu, insn);
		cpu->rip = cpu->next_rip;
		insn++;
	} while (insn < end && atomic_load_explicit(&cpu->request, memory_order_relaxed) == 0);
	cpu->interp->count += (uint64_t)(insn - block->insn);
}

/* Must the next instruction be executed by itself? */
static bool is_special(const struct soft_cpu *cpu)
{
	return cpu->shadow || cpu->debug || (cpu->rflags & RF_RF);
}

static void run(struct soft_cpu *cpu)
{
	do {
		const struct block *block = NULL;

		if (__builtin_expect(is_special(cpu), 0)) {
			cpu->shadow = false;
			interp_step(cpu);
			continue;
		}
		block = block_find(cpu);
		if (!block || (cpu->mode != INSN_MODE_64 &&
			       cpu->rip + block->bytes - 1 > cpu->seg[SEG_CS].limit)) {
			interp_step(cpu);
			continue;
		}
		block_run(cpu, block);
		wrap_rip(cpu);
	} while (atomic_load_explicit(&cpu->request, memory_order_relaxed) == 0);
}

bool interp_run(struct soft_cpu *cpu)
{
	do {
		switch (setjmp(cpu->unwind)) {
		case 0:
			run(cpu);
			return true;
		case SOFT_UNWIND_STOP:
			return true;
		default:
			if (!cpu_deliver_fault(cpu))
				return false;
		}
	} while (atomic_load_explicit(&cpu->request, memory_order_relaxed) == 0);
	return true;
}
