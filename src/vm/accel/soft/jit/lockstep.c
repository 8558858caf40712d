/*
 * Lockstep, for those who work on the translator (VIREO_SOFT_DEBUG=lockstep): each block is executed by the interpreter first, what it did is
 * taken back, and the translated block has to do the same to registers, flags, vector state and the pages that were written. For machines with
 * one vCPU; blocks are not linked, and those that need C, that fault or that reach devices are executed by the translator alone.
 */
#include "vm/accel/soft/jit/jit_int.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"

#define MAX_PAGES 16
#define PAGE      4096u

struct registers {
	uint64_t gpr[16], rip;
	uint32_t rflags;
	uint16_t status;
	uint8_t fpu[1024];
};

struct jit_lockstep {
	struct registers before, wanted;
	unsigned n_pages;
	unsigned undefined; /* flags that the block leaves so: each of the two may have its own */
	struct {
		uint8_t *host;
		uint8_t before[PAGE], wanted[PAGE];
	} page[MAX_PAGES];
	uint64_t n_compared, n_wrong;
	bool pending; /* the translated block was entered, and has not come back */
};

static void take(const struct soft_cpu *cpu, struct registers *ret)
{
	memcpy(ret->gpr, cpu->gpr, sizeof(ret->gpr));
	ret->rip = cpu->rip;
	ret->rflags = cpu->rflags;
	ret->status = cpu->status | 0x200;
	memcpy(ret->fpu, cpu->fpu, sizeof(ret->fpu));
}

static void give(struct soft_cpu *cpu, const struct registers *from)
{
	memcpy(cpu->gpr, from->gpr, sizeof(cpu->gpr));
	cpu->rip = from->rip;
	cpu->rflags = from->rflags;
	cpu->status = from->status;
	memcpy(cpu->fpu, from->fpu, sizeof(cpu->fpu));
}

/* Remembers a page that is about to be written. false: it cannot be taken back. May raise. */
static bool note(struct soft_cpu *cpu, uint64_t linear)
{
	struct jit_lockstep *l = cpu->jit->lockstep;
	uint8_t *host = mem_host_rw(cpu, linear, 1);

	if (host == NULL)
		return false;
	host -= linear % PAGE;
	for (unsigned n = 0; n < l->n_pages; n++)
		if (l->page[n].host == host)
			return true;
	if (l->n_pages == MAX_PAGES)
		return false;
	l->page[l->n_pages].host = host;
	memcpy(l->page[l->n_pages++].before, host, PAGE);
	return true;
}

static bool note_range(struct soft_cpu *cpu, uint64_t linear, unsigned size)
{
	return note(cpu, linear) && note(cpu, linear + size - 1);
}

/* Everything that the instruction may write. */
static bool note_writes(struct soft_cpu *cpu, const struct insn *insn)
{
	switch (insn->op) {
	case OP_PUSH:
	case OP_PUSHF:
	case OP_CALL:
	case OP_CALL_IND:
		if (!note_range(cpu, cpu->gpr[GUEST_RSP] - 8, 8))
			return false;
		break;
	default:
		break;
	}
	for (unsigned n = 0; n < insn->n_operands; n++) {
		const struct insn_operand *op = &insn->operand[n];

		if (op->kind != OPND_MEM || op->size == 0)
			continue;
		if ((op->access & INSN_WRITE) != 0 || insn->op == OP_CMPXCHG) {
			uint64_t linear = seg_linear(cpu, (enum insn_seg)insn->seg,
						     insn_offset(cpu, insn), op->size, true);

			if (!note_range(cpu, linear, op->size))
				return false;
		} else {
			uint64_t linear = seg_linear(cpu, (enum insn_seg)insn->seg,
						     insn_offset(cpu, insn), op->size, false);

			if (mem_host_r(cpu, linear, op->size) == NULL)
				return false; /* a device, whose registers reading may change */
		}
	}
	return true;
}

static bool interpret(struct soft_cpu *cpu, const struct jit_block *block, const uint8_t *bytes)
{
	struct jit_lockstep *l = cpu->jit->lockstep;
	unsigned off = block->off;

	for (unsigned n = 0; n < block->n_insns; n++) {
		struct insn insn;
		uint64_t next;

		if (insn_decode(bytes + off, PAGE - off, (enum insn_mode)cpu->mode, cpu->vex_ok,
				cpu->features, &insn) != INSN_OK)
			return false;
		next = cpu->next_rip = cpu->rip + insn.length;
		if (!note_writes(cpu, &insn))
			return false;
		exec_bind (&insn)(cpu, &insn);
		cpu->rip = cpu->next_rip;
		l->undefined = (l->undefined & ~(unsigned)insn.form->flags_written) |
			       insn.form->flags_undefined;
		if (cpu->rip != next)
			break;
		off += insn.length;
	}
	return true;
}

/* A fault of the interpreter: the translator is to have it by itself. */
static bool interpret_guarded(struct soft_cpu *cpu, const struct jit_block *block,
			      const uint8_t *bytes)
{
	jmp_buf outer;
	volatile bool done = false;

	memcpy(&outer, &cpu->unwind, sizeof(outer));
	if (setjmp(cpu->unwind) == 0)
		done = interpret(cpu, block, bytes);
	memcpy(&cpu->unwind, &outer, sizeof(outer));
	return done;
}

static unsigned status_of(unsigned flags)
{
	return ((flags & INSN_CF) != 0 ? ST_CF : 0) | ((flags & INSN_PF) != 0 ? ST_PF : 0) |
	       ((flags & INSN_AF) != 0 ? ST_AF : 0) | ((flags & INSN_ZF) != 0 ? ST_ZF : 0) |
	       ((flags & INSN_SF) != 0 ? ST_SF : 0) | ((flags & INSN_OF) != 0 ? ST_OF : 0);
}

static bool same(const struct registers *a, const struct registers *b, uint16_t flags)
{
	return memcmp(a->gpr, b->gpr, sizeof(a->gpr)) == 0 && a->rip == b->rip &&
	       a->rflags == b->rflags && ((a->status ^ b->status) & flags) == 0 &&
	       memcmp(a->fpu, b->fpu, 5) == 0 && memcmp(a->fpu + 24, b->fpu + 24, 4) == 0 &&
	       memcmp(a->fpu + 32, b->fpu + 32, 384) == 0 &&
	       memcmp(a->fpu + 576, b->fpu + 576, 256) == 0;
}

static void report(const struct soft_cpu *cpu, const struct jit_block *block, const uint8_t *bytes,
		   const struct registers *got)
{
	const struct jit_lockstep *l = cpu->jit->lockstep;
	char text[2 * 64 + 1] = "";

	for (unsigned n = 0; n < 64 && n < block->bytes; n++)
		snprintf(text + 2 * n, 3, "%02x", bytes[block->off + n]);
	log_error("lockstep: block at %lx, key %x: %s", (unsigned long)l->before.rip, block->key,
		  text);
	for (unsigned n = 0; n < 16; n++)
		if (l->wanted.gpr[n] != got->gpr[n])
			log_error("lockstep: register %u was %lx, is to be %lx, is %lx", n,
				  (unsigned long)l->before.gpr[n], (unsigned long)l->wanted.gpr[n],
				  (unsigned long)got->gpr[n]);
	log_error("lockstep: rip %lx %lx, rflags %x %x, status %x: %x %x",
		  (unsigned long)l->wanted.rip, (unsigned long)got->rip, l->wanted.rflags,
		  got->rflags, l->before.status, l->wanted.status, got->status);
}

static void compare(struct soft_cpu *cpu, const struct jit_block *block, const uint8_t *bytes)
{
	struct jit_lockstep *l = cpu->jit->lockstep;
	bool right;
	struct registers got;

	l->pending = false;
	/* It may leave in the middle, to go on with other code: the interpreter does the rest. */
	for (unsigned n = 0; n < block->n_insns && cpu->rip != l->wanted.rip &&
			     cpu->rip - l->before.rip - 1 < block->bytes - 1u;
	     n++)
		interp_step(cpu);
	take(cpu, &got);
	/* A request kept it from beginning, or it faulted where the interpreter did not: the next round sees. */
	if (got.rip == l->before.rip && same(&got, &l->before, UINT16_MAX))
		return;
	right = same(&got, &l->wanted, (uint16_t)~status_of(l->undefined));
	for (unsigned n = 0; n < l->n_pages && right; n++)
		right = memcmp(l->page[n].host, l->page[n].wanted, PAGE) == 0;
	l->n_compared++;
	if (right)
		return;
	if (l->n_wrong++ < 20)
		report(cpu, block, bytes, &got);
}

void jit_lockstep_run(struct soft_cpu *cpu, const struct jit_block *block, const uint8_t *bytes)
{
	struct jit_lockstep *l = cpu->jit->lockstep;
	jit_enter_fn enter = (jit_enter_fn)(uintptr_t)cpu->soft->jit->stubs.enter;
	bool compared = false;

	if (l == NULL)
		l = cpu->jit->lockstep = calloc(1, sizeof(*l));
	if (l != NULL && l->pending) {
		l->pending = false;
		if (l->n_wrong++ < 20)
			log_error("lockstep: block at %lx raised an exception by itself",
				  (unsigned long)l->before.rip);
	}
	if (l != NULL && block->pure && atomic_load(&cpu->request) == 0) {
		l->n_pages = l->undefined = 0;
		take(cpu, &l->before);
		compared = interpret_guarded(cpu, block, bytes);
		take(cpu, &l->wanted);
		for (unsigned n = 0; n < l->n_pages; n++) {
			memcpy(l->page[n].wanted, l->page[n].host, PAGE);
			memcpy(l->page[n].host, l->page[n].before, PAGE);
		}
		give(cpu, &l->before);
	}
	jit_window_check(cpu);
	if (compared)
		l->pending = true;
	enter(cpu, block->resumed);
	if (compared)
		compare(cpu, block, bytes);
}

void jit_lockstep_free(struct soft_cpu *cpu)
{
	struct jit_lockstep *l = cpu->jit->lockstep;

	if (l != NULL)
		log_info("lockstep: %lu blocks compared, %lu of them wrong",
			 (unsigned long)l->n_compared, (unsigned long)l->n_wrong);
	free(l);
}
