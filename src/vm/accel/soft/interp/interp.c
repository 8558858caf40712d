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
#define N_SLOTS     32768u
#define ARENA_BYTES (16u << 20) /* taken from the host as it is filled */

struct block;

/* Where execution went on behind a block, and what was found there. */
struct link {
	uint64_t rip;
	struct block *to;
};

struct block {
	const uint8_t *host; /* of the first byte */
	const _Atomic uint32_t *generation;
	uint32_t expected;
	uint16_t bytes;
	uint8_t n, mode;
	bool vex;
	bool near; /* ends without anything that could change how code is mapped */
	uint8_t next_link;
	struct link link[2];
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

static bool is_near(const struct insn *insn)
{
	switch (insn->op) {
	case OP_JCC:
	case OP_JMP:
	case OP_JMP_IND:
	case OP_CALL:
	case OP_CALL_IND:
	case OP_RET:
	case OP_LOOP:
	case OP_LOOPE:
	case OP_LOOPNE:
	case OP_JCXZ:
		return true;
	default:
		return false;
	}
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
		if (insn->form->attrs & (FORM_BRANCH | FORM_END)) {
			block->near = is_near(insn);
			return;
		}
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
		.near = true,
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

/* Is the block what would be decoded now, of the bytes where they are in this process? */
INLINE bool is_good(const struct soft_cpu *cpu, const struct block *block)
{
	return block->mode == cpu->mode && block->vex == cpu->vex_ok &&
	       atomic_load_explicit(block->generation, memory_order_acquire) == block->expected;
}

/* Where the bytes at a linear address are, when the TLB knows. */
INLINE const uint8_t *code_host(const struct soft_cpu *cpu, uint64_t linear)
{
	const struct tlb_entry *e = &cpu->tlb[tlb_index(linear)];

	if (__builtin_expect(e->exec != (linear & ~(uint64_t)(PAGE_BYTES - 1)), 0))
		return NULL;
	return (const uint8_t *)(uintptr_t)(linear + e->addend);
}

INLINE bool is_same_page(uint64_t a, uint64_t b)
{
	return (a ^ b) < PAGE_BYTES;
}

static struct block *block_find(struct soft_cpu *cpu)
{
	uint64_t linear = code_linear(cpu, cpu->rip);
	const uint8_t *host = code_host(cpu, linear);
	struct block *block;

	if (host) {
		block = cpu->interp->slot[slot_of(host)];
		if (block && block->host == host && is_good(cpu, block))
			return block;
	}
	return block_build(cpu, linear);
}

/* Behind a block that was executed at `from`, by way of its links. */
INLINE struct block *block_after(struct soft_cpu *cpu, const struct block *block, uint64_t from)
{
	uint64_t rip = cpu->rip;
	struct block *next;

	if (block->link[0].rip == rip)
		next = block->link[0].to;
	else if (block->link[1].rip == rip)
		next = block->link[1].to;
	else
		return NULL;
	if (!next || !is_good(cpu, next))
		return NULL;
	/* In the same page, it is mapped as that was. */
	if (block->near && is_same_page((uintptr_t)next->host, (uintptr_t)block->host) &&
	    is_same_page(code_linear(cpu, rip), code_linear(cpu, from)))
		return next;
	return code_host(cpu, code_linear(cpu, rip)) == next->host ? next : NULL;
}

static void block_run(struct soft_cpu *cpu, const struct block *block)
{
	const struct insn *insn = block->insn, *end = insn + block->n;
	uint64_t rip = cpu->rip;

	for (;;) {
		cpu->rip = rip;
		rip += insn->length;
		cpu->next_rip = rip;
		insn->exec(cpu, insn);
		insn++;
		if (insn == end || atomic_load_explicit(&cpu->request, memory_order_relaxed) != 0)
			break;
	}
	cpu->rip = cpu->next_rip;
	cpu->interp->count += (uint64_t)(insn - block->insn);
}

/* Must the next instruction be executed by itself? */
static bool is_special(const struct soft_cpu *cpu)
{
	return cpu->shadow || cpu->debug || (cpu->rflags & RF_RF);
}

/* Does the code segment end inside of the block? */
INLINE bool is_beyond_limit(const struct soft_cpu *cpu, const struct block *block)
{
	return cpu->mode != INSN_MODE_64 && cpu->rip + block->bytes - 1 > cpu->seg[SEG_CS].limit;
}

/* Finds what is behind a block, or anywhere, and remembers it there. */
static struct block *block_search(struct soft_cpu *cpu, struct block *behind)
{
	uint64_t used = cpu->interp->used;
	struct block *block = block_find(cpu);

	/* A lower mark: everything before was forgotten, the block behind too. */
	if (block && behind && cpu->interp->used >= used) {
		struct link *link = &behind->link[behind->next_link];

		behind->next_link ^= 1;
		*link = (struct link){.rip = cpu->rip, .to = block};
	}
	return block;
}

static void run(struct soft_cpu *cpu)
{
	struct block *block = NULL, *next;
	uint64_t from = 0;

	do {
		if (__builtin_expect(is_special(cpu), 0)) {
			cpu->shadow = false;
			interp_step(cpu);
			block = NULL;
			continue;
		}
		next = block ? block_after(cpu, block, from) : NULL;
		block = next ? next : block_search(cpu, block);
		if (!block || is_beyond_limit(cpu, block)) {
			interp_step(cpu);
			block = NULL;
			continue;
		}
		from = cpu->rip;
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
