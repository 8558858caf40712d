/*
 * The translator's loop on a vCPU's thread, and what translated code calls: misses of the software TLB, instructions that C executes, jumps
 * that are not linked yet or not in the jump cache.
 *
 * Each of them finds the guest's registers in the vCPU, and the address of the instruction in its site. It may leave by cpu_raise() or
 * cpu_stop(), which abandon the translated code.
 */
#include "vm/accel/soft/jit/jit_int.h"

#include <errno.h>
#include <limits.h>
#include <sys/auxv.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "vm/accel/soft/interp/code.h"

#define RIGHTS_FLAT (ATTR_S | ATTR_P | ATTR_WRITE)

static bool is_flat(const struct soft_seg *seg)
{
	return seg->base == 0 && seg->limit == UINT32_MAX;
}

static bool is_flat_data(const struct soft_seg *seg)
{
	return is_flat(seg) &&
	       (seg->attr & (RIGHTS_FLAT | ATTR_CODE | ATTR_CONFORM)) == RIGHTS_FLAT;
}

static bool is_flat_32(const struct soft_cpu *cpu)
{
	return is_flat(&cpu->seg[SEG_CS]) && (cpu->seg[SEG_CS].attr & ATTR_WRITE) != 0 &&
	       (cpu->seg[SEG_SS].attr & ATTR_DB) != 0 && is_flat_data(&cpu->seg[SEG_SS]) &&
	       is_flat_data(&cpu->seg[SEG_DS]) && is_flat_data(&cpu->seg[SEG_ES]);
}

/* Can x87, MMX and SSE instructions run natively: enabled, all exceptions masked? */
static unsigned vector_key(const struct soft_cpu *cpu)
{
	uint16_t fcw = *(const uint16_t *)(const void *)cpu->fpu;
	uint32_t mxcsr = *(const uint32_t *)(const void *)(cpu->fpu + 24);

	if ((cpu->cr0 & (CR0_EM | CR0_TS)) != 0 || (cpu->cr4 & CR4_OSFXSR) == 0 ||
	    (fcw & 0x3f) != 0x3f || (mxcsr & 0x1f80) != 0x1f80)
		return 0;
	if ((cpu->cr4 & CR4_OSXSAVE) != 0 && (cpu->xcr0 & 6) == 6)
		return KEY_VEC | KEY_AVX;
	return KEY_VEC;
}

int jit_key(const struct soft_cpu *cpu)
{
	unsigned key = 0;

	if ((cpu->cr0 & CR0_PE) == 0 || (cpu->rflags & RF_VM) != 0 || cpu->debug != 0 ||
	    cpu->mode == INSN_MODE_16)
		return -1;
	if (cpu->cpl == 3) {
		key |= KEY_USER;
		if ((cpu->cr0 & CR0_AM) != 0 && (cpu->rflags & RF_AC) != 0)
			return -1;
	} else if (cpu->cpl != 0) {
		return -1;
	}
	if (cpu->mode == INSN_MODE_32) {
		if (!is_flat_32(cpu))
			return -1;
		key |= KEY_32;
	}
	return (int)(key | vector_key(cpu));
}

static bool is_canonical(uint64_t linear)
{
	return (int64_t)(linear << 16) >> 16 == (int64_t)linear;
}

static uint64_t code_address(const struct soft_cpu *cpu, unsigned off)
{
	uint64_t rip = cpu->scratch[SLOT_CODE_PAGE] + off;

	return cpu->mode == INSN_MODE_64 ? rip : (uint32_t)rip;
}

static const uint8_t *go_on(struct soft_cpu *cpu);

/* Executes the instruction at cpu->rip, and says where to go on. */
static const uint8_t *execute(struct soft_cpu *cpu, const struct jit_site *site,
			      const struct insn *insn)
{
	struct soft_jit_cpu *j = cpu->jit;
	uint64_t flushes = j->flushes;
	bool window;

	cpu->next_rip = code_address(cpu, site->off + insn->length);
	insn->exec(cpu, insn);
	cpu->rip = cpu->next_rip;
	if (site->end)
		return cpu->soft->jit->lockstep ? NULL : go_on(cpu);
	window = jit_window_check(cpu);
	if (site->block->dead || cpu->shadow || j->flushes != flushes ||
	    (site->in_window && !window) ||
	    atomic_load_explicit(&cpu->request, memory_order_relaxed) ||
	    jit_key(cpu) != (int)j->key || cpu->rip != code_address(cpu, site->next_off))
		return NULL;
	return site->resume;
}

const uint8_t *jit_on_exec(struct soft_cpu *cpu, struct jit_site *site)
{
	struct insn insn;

	cpu->jit->counts.exec++;
	cpu->rip = code_address(cpu, site->off);
	if (site->insn != NULL)
		return execute(cpu, site, site->insn);
	/* What was there when it was translated, or is there now: in that case the block is dead. */
	if (insn_decode(site->bytes, sizeof(site->bytes), cpu->mode, true, cpu->features, &insn) !=
	    INSN_OK)
		return NULL;
	insn.exec = exec_bind(&insn);
	return execute(cpu, site, &insn);
}

/* The window does not cover the stack accesses ahead: moves it, or goes on with code that does not use it. The page is fetched as the first of
 * the accesses would do it, fault included. */
static const uint8_t *on_window(struct soft_cpu *cpu, const struct jit_site *site, uint64_t linear)
{
	unsigned span = (site->size + 1u) * STACK_SPAN_STEP;
	uint64_t first = cpu->gpr[GUEST_RSP] + (uint64_t)site->disp;

	cpu->jit->counts.window++;
	if (jit_window_set(cpu, linear, span))
		return site->retry;
	if ((linear & 4095) + span <= 4096 && is_canonical(linear) && (first ^ linear) < 4096 &&
	    tlb_fill(cpu, first, site->write) != NULL && jit_window_set(cpu, linear, span))
		return site->retry;
	cpu->jit->nostack = true;
	return cpu->soft->jit->lockstep ? NULL : go_on(cpu);
}

const uint8_t *jit_on_memory(struct soft_cpu *cpu, struct jit_site *site, uint64_t linear)
{
	struct soft_jit_cpu *j = cpu->jit;
	uint64_t flushes = j->flushes, page = linear & ~4095ULL;
	const struct tlb_entry *entry;

	cpu->rip = code_address(cpu, site->off);
	if (site->window)
		return on_window(cpu, site, linear);
	j->counts.memory++;
	if (site->masked || !is_canonical(linear) || (linear & 4095) + site->size > 4096 ||
	    (site->aligned && (linear & (site->size - 1u)) != 0))
		return jit_on_exec(cpu, site);
	entry = tlb_fill(cpu, linear, site->write);
	if (entry == NULL || (site->write ? entry->write : entry->read) != page)
		return jit_on_exec(cpu, site);
	/* Executed here when it cannot go on as it is: to begin anew with it might bring the same again, for ever, when the look-up of
	 * its code and the access take a place in the TLB from each other. */
	if (j->flushes != flushes || (!jit_window_check(cpu) && site->in_window))
		return jit_on_exec(cpu, site);
	return site->retry;
}

/* --- look-ups --- */

/* The block for cpu->rip; NULL: execute one instruction in another way. May raise a fetch's page fault. */
static struct jit_block *look_up(struct soft_cpu *cpu, unsigned key)
{
	struct soft_jit *jit = cpu->soft->jit;
	struct soft_jit_cpu *j = cpu->jit;
	unsigned off = (unsigned)(cpu->rip & 4095);
	struct jit_block *block;
	struct jit_page *page;
	const uint8_t *bytes;
	uint32_t generation;
	uint64_t flushes;
	gpa_t gpa;

	bytes = mem_code_page(cpu, cpu->rip, &gpa);
	if (bytes == NULL)
		return NULL;
	pthread_mutex_lock(&jit->lock);
	block = jit_cache_find(jit, gpa, off, key);
	pthread_mutex_unlock(&jit->lock);
	if (block != NULL)
		return block;
	flushes = j->flushes;
	generation = code_watch(cpu, gpa);
	/* Waiting for others, the vCPU may have dropped what it knew of the page's address: the next round sees. */
	if (j->flushes != flushes)
		return NULL;
	pthread_mutex_lock(&jit->lock);
	do {
		page = jit_cache_page(jit, gpa, generation);
		block = page == NULL ? NULL : jit_translate(jit, cpu, page, bytes, off, key);
	} while (block == NULL && (page == NULL || jit->is_full) && jit_cache_turn(jit));
	pthread_mutex_unlock(&jit->lock);
	return block;
}

/* The same as far as most are concerned: where it is entered. */
static const uint8_t *look_up_code(struct soft_cpu *cpu, unsigned key)
{
	struct soft_jit *jit = cpu->soft->jit;
	struct jit_block *block;
	const uint8_t *code;
	gpa_t gpa;

	if (mem_code_page(cpu, cpu->rip, &gpa) == NULL)
		return NULL;
	pthread_mutex_lock(&jit->lock);
	code = jit_cache_code(jit, gpa, (unsigned)cpu->rip & 4095, key);
	pthread_mutex_unlock(&jit->lock);
	if (code != NULL && !jit->lockstep)
		return code;
	block = look_up(cpu, key);
	cpu->jit->lockstep_block = block;
	return block != NULL && block->n_insns != 0 ? block->resumed : NULL;
}

const uint8_t *jit_on_link(struct soft_cpu *cpu, struct jit_link *link)
{
	struct soft_jit *jit = cpu->soft->jit;
	unsigned key = link->from->key;
	struct jit_block *block;

	cpu->jit->counts.link++;
	cpu->rip = code_address(cpu, link->off);
	if (cpu->soft->jit->lockstep || link->from->dead ||
	    atomic_load_explicit(&cpu->request, memory_order_relaxed) != 0)
		return NULL;
	block = look_up(cpu, key);
	if (block == NULL || block->n_insns == 0 ||
	    atomic_load(&cpu->jit->epoch) != atomic_load(&jit->epoch))
		return NULL;
	if (block->page == link->from->page) {
		pthread_mutex_lock(&jit->lock);
		jit_cache_link(jit, link, block);
		pthread_mutex_unlock(&jit->lock);
	}
	jit_window_check(cpu);
	return block->resumed;
}

/* A branch to where no code can be: its effect on rsp is taken back. */
static void bad_branch(struct soft_cpu *cpu, const struct jit_site *site)
{
	cpu->rip = code_address(cpu, site->off);
	if (site->is_call)
		cpu->gpr[GUEST_RSP] += 8;
	else if (site->is_ret)
		cpu->gpr[GUEST_RSP] -= site->ret_bytes;
	cpu_raise_error(cpu, VEC_GP, 0);
}

const uint8_t *jit_on_jump(struct soft_cpu *cpu, struct jit_site *site, uint64_t linear)
{
	struct soft_jit *jit = cpu->soft->jit;
	struct soft_jit_cpu *j = cpu->jit;
	uint64_t flushes = j->flushes;
	const uint8_t *code;

	j->counts.jump++;
	/* Going on to the next instruction is no branch: what is wrong with its address is its own fault. */
	if (cpu->mode == INSN_MODE_64 && !is_canonical(linear) && site != NULL &&
	    linear != code_address(cpu, site->next_off))
		bad_branch(cpu, site);
	cpu->rip = linear;
	if (jit->lockstep || atomic_load_explicit(&cpu->request, memory_order_relaxed) != 0)
		return NULL;
	code = look_up_code(cpu, j->key);
	if (code == NULL || j->flushes != flushes ||
	    atomic_load(&j->epoch) != atomic_load(&jit->epoch))
		return NULL;
	jit_jumps_add(cpu, linear, code);
	cpu->scratch[SLOT_CODE_PAGE] = linear & ~4095ULL;
	jit_window_check(cpu);
	return code;
}

/* --- the loop --- */

static void point_gs(struct soft_cpu *cpu)
{
	/* Whether the instruction may be used: a bit of AT_HWCAP2 (Documentation/x86/elf_auxvec.rst). */
	if ((getauxval(AT_HWCAP2) & 2) != 0)
		__asm__ volatile("wrgsbase %0" : : "r"(cpu));
	else
		syscall(SYS_arch_prctl, 0x1001 /* ARCH_SET_GS */, cpu);
}

static void step(struct soft_cpu *cpu)
{
	cpu->jit->counts.step++;
	cpu->shadow = false;
	interp_step(cpu);
}

/* After a turn of the code memory: what the vCPU knows of blocks is void. */
static void meet_epoch(struct soft_cpu *cpu)
{
	unsigned epoch = atomic_load(&cpu->soft->jit->epoch);

	if (atomic_load(&cpu->jit->epoch) == epoch)
		return;
	jit_flush(cpu);
	atomic_store(&cpu->jit->epoch, epoch);
}

/* Where the code at cpu->rip is entered, all being as `key` says; NULL: execute one instruction in another way. May raise a fetch's fault. */
static const uint8_t *entry_for(struct soft_cpu *cpu, unsigned key)
{
	struct soft_jit_cpu *j = cpu->jit;
	const struct jit_jump *known;
	const uint8_t *code;
	uint64_t flushes = j->flushes;
	bool nostack = j->nostack;

	if ((key != j->key || j->current == NULL) && jit_jumps_select(cpu, key) != 0)
		return NULL;
	j->nostack = false;
	cpu->scratch[SLOT_CODE_PAGE] = cpu->rip & ~4095ULL;
	jit_window_check(cpu);
	if (j->current == NULL) /* never: it has been selected */
		return NULL;
	known = &j->current->entry[jit_jump_index(cpu->rip)];
	if (!nostack && known->linear == cpu->rip && known->code != cpu->soft->jit->stubs.dead)
		return known->code + JIT_RESUMED_AT;
	code = look_up_code(cpu, key | (nostack ? KEY_NOSTACK : 0));
	if (code == NULL)
		return NULL;
	if (j->flushes == flushes && !nostack && !cpu->soft->jit->lockstep)
		jit_jumps_add(cpu, cpu->rip, code);
	jit_window_check(cpu);
	return code;
}

/* Once around: false when the code that follows is not for translation. */
static bool once(struct soft_cpu *cpu)
{
	const uint8_t *entry;
	int key = jit_key(cpu);

	if (key < 0 && cpu->debug == 0)
		return false;
	if (key < 0 || cpu->shadow || (cpu->rflags & RF_RF) != 0) {
		step(cpu);
		return true;
	}
	meet_epoch(cpu);
	entry = entry_for(cpu, (unsigned)key);
	if (entry == NULL) {
		step(cpu);
		return true;
	}
	cpu->jit->counts.enter++;
	if (cpu->soft->jit->lockstep) {
		gpa_t gpa;

		jit_lockstep_run(cpu, cpu->jit->lockstep_block, mem_code_page(cpu, cpu->rip, &gpa));
		return true;
	}
	((jit_enter_fn)(uintptr_t)cpu->soft->jit->stubs.enter)(cpu, entry);
	return true;
}

/* After an instruction that ends its block: the next one, without a detour by the loop where nothing is in the way. */
static const uint8_t *go_on(struct soft_cpu *cpu)
{
	struct soft_jit_cpu *j = cpu->jit;
	int key = jit_key(cpu);

	if (key < 0 || cpu->shadow || (cpu->rflags & RF_RF) != 0 ||
	    atomic_load_explicit(&cpu->request, memory_order_relaxed) != 0 ||
	    atomic_load(&j->epoch) != atomic_load(&cpu->soft->jit->epoch))
		return NULL;
	/* What follows loads the vector state if it wants it. */
	cpu->scratch[SLOT_FPU_LIVE] = 0;
	return entry_for(cpu, (unsigned)key);
}

enum outcome { OUTCOME_REQUEST, OUTCOME_INTERPRET, OUTCOME_TRIPLE };

static enum outcome translated(struct soft_cpu *cpu)
{
	int how = setjmp(cpu->unwind);

	/* Not live: it was saved when C was called. */
	cpu->scratch[SLOT_FPU_LIVE] = 0;
	cpu->jit->nostack = cpu->jit->nostack && how == 0;
	if (how == SOFT_UNWIND_FAULT && !cpu_deliver_fault(cpu))
		return OUTCOME_TRIPLE;
	while (atomic_load_explicit(&cpu->request, memory_order_relaxed) == 0)
		if (!once(cpu))
			return OUTCOME_INTERPRET;
	return OUTCOME_REQUEST;
}

bool jit_run(struct soft_cpu *cpu)
{
	enum outcome outcome;
	bool ok = true;

	point_gs(cpu);
	cpu->scratch[SLOT_SELF] = (uintptr_t)cpu;
	/* What changed meanwhile is not known. */
	jit_window_drop(cpu);
	outcome = translated(cpu);
	atomic_store(&cpu->jit->epoch, UINT_MAX);
	if (outcome == OUTCOME_INTERPRET) {
		cpu->interpreting = true;
		ok = interp_run(cpu);
		cpu->interpreting = false;
	}
	return ok && outcome != OUTCOME_TRIPLE;
}
