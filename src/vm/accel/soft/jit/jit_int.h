/*
 * The translator's own structures. How translated code looks:
 *
 * Guest general registers live in host registers (host_of[]), but for four that live in cpu->gpr: r9, r10 and r11 of the host are scratch, and
 * the guest's rsp is in the host's r15. The host's rsp is the thread's own stack; %gs points at the vCPU. Guest status flags are in the host's,
 * or in cpu->status, as flags.h follows them. Guest vector and x87 state is in the host's registers while SLOT_FPU_LIVE is set, which
 * stubs.c saves before any C code runs.
 *
 * A block is code from one physical page, found by physical address and mode bits (KEY_*), whatever its linear address is: that is
 * SLOT_CODE_PAGE plus an offset. Its entries: `entry` (a direct jump from the same page: flags are in the host's, code page is right), `polled`
 * (the same, looks at cpu->request first: backward jumps), `indirect` (r9 is the linear address, flags are in cpu->status), `resumed` (from C).
 *
 * Locks: soft_jit.lock covers blocks, pages, links and code memory; code runs without it. What is freed is used again only when no
 * vCPU can be in it (cache.c).
 */
#pragma once

#include <pthread.h>
#include <stddef.h>

#include "vm/accel/soft/codemem.h"
#include "vm/accel/soft/jit/emit.h"
#include "vm/accel/soft/soft.h"

#define S1 H_R9  /* the stack window's addend, or an address */
#define S2 H_R10 /* scratch */
#define S3 H_R11 /* scratch; a stub's argument */

#define GUEST_RSP 4

/* cpu->scratch: */
enum jit_slot {
	SLOT_CODE_PAGE,    /* linear address of the page whose code runs */
	SLOT_STACK_PAGE,   /* stack window: a page that rsp was in */
	SLOT_STACK_ADDEND, /* host address - linear address there */
	SLOT_TARGET,       /* of a stub's last jump */
	SLOT_FPU_LIVE,
	SLOT_SPILL,       /* a register of a stub */
	SLOT_SITE,        /* struct jit_site or jit_link that C was entered for */
	SLOT_STACK_LIMIT, /* eight of them: offsets in the page where accesses that span up to 128, 256, ... bytes begin at most; 0: no window */
	SLOT_SELF = SLOT_STACK_LIMIT + 8, /* the vCPU's address */
	SLOT_VALUE, /* what an instruction has read while it checks where to write */
	SLOT_END
};
#define STACK_SPAN_STEP 128
#define STACK_SPAN_MAX  1024

#define CPU_OFF(field) offsetof(struct soft_cpu, field)
#define SLOT_OFF(slot) (offsetof(struct soft_cpu, scratch) + 8 * (size_t)(slot))
#define GPR_OFF(reg)   (offsetof(struct soft_cpu, gpr) + 8 * (size_t)(reg))

/* Mode bits of a block. A vCPU has a jump cache for each combination of the first four. */
#define KEY_USER    1u /* CPL 3 */
#define KEY_VEC     2u /* x87, MMX and SSE run natively: enabled, nothing unmasked */
#define KEY_AVX     4u /* AVX too */
#define KEY_32      8u /* 32-bit protected mode, flat segments */
#define KEY_MODES   16
#define KEY_NOSTACK 16u /* no stack window: the frame crosses a page */

#define JUMP_CACHE_BITS 14
#define JUMP_CACHE_SIZE (1u << JUMP_CACHE_BITS)

struct jit_jump {
	uint64_t linear;
	const uint8_t *code; /* stubs.dead: no entry */
};

/* As flow.c computes it. */
static inline unsigned jit_jump_index(uint64_t linear)
{
	return (unsigned)(linear ^ linear >> 12) & (JUMP_CACHE_SIZE - 1);
}

/* A jump cache, and which of its entries are in use: so that it is soon emptied. */
struct jit_jumps {
	struct jit_jump entry[JUMP_CACHE_SIZE];
	unsigned n_used; /* above the array's size: many */
	bool local;      /* some are of pages that are not global */
	uint16_t used[4096];
};

/* `resumed` is this far behind `indirect` in every block. */
#define JIT_RESUMED_AT 16

#define BLOCK_MAX_INSNS 48

struct jit_block;
struct trans;

/* Where translated code goes to C: an access that misses, or an instruction that is executed there. Lives as long as its block. */
struct jit_site {
	struct jit_block *block;
	const uint8_t *retry;    /* memory: the check again */
	const uint8_t *resume;   /* after the instruction; flags in both places */
	const struct insn *insn; /* NULL: decode `bytes` */
	uint8_t bytes[INSN_MAX_BYTES];
	uint16_t off,
		next_off; /* of the instruction in its page, and of the next one (up to 4096) */
	uint8_t size;
	bool write;
	bool aligned;
	bool masked;    /* not all of the bytes may be accessed: only C knows where it faults */
	bool end;       /* the block ends with this instruction */
	bool in_window; /* the code at resume relies on the stack window */
	bool window;    /* it is the stack window that misses: for a span of class `size` */
	int32_t disp;   /* of the access that comes first, from rsp */
	bool is_call, is_ret; /* a branch to a place that cannot be: what it did to rsp */
	uint16_t ret_bytes;
};

/* A jump to code in the same page. */
struct jit_link {
	struct jit_block *from, *to; /* to: NULL while not linked */
	struct jit_link *next_in;    /* of to->in */
	uint8_t *disp;               /* where its displacement is written */
	const uint8_t *unlinked;
	uint16_t off; /* target, in the page */
	bool polled;
};

struct jit_block {
	struct jit_block *hash_next, *page_next;
	struct jit_page *page;
	const uint8_t *entry, *polled, *indirect, *resumed;
	uint8_t *indirect_rw;
	struct jit_link *in;
	uint16_t off, bytes;
	uint16_t n_insns;
	uint8_t key;
	bool dead;
	bool pure; /* nothing in it is executed by C */
};

struct jit_page {
	struct jit_page *hash_next;
	struct jit_block *blocks;
	gpa_t gpa;
	uint32_t generation;
};

/* Memory that is freed all at once. */
struct jit_arena {
	struct jit_chunk *chunks;
	size_t used;
};
void *arena_alloc(struct jit_arena *arena, size_t bytes); /* zeroed; NULL: no memory */
void arena_free(struct jit_arena *arena);

#define JIT_HASH_BITS 17
#define JIT_HASH_SIZE (1u << JIT_HASH_BITS)
#define JIT_HALVES    2

/* Blocks of one hash value. What a look-up wants of the first one is here: the block itself is seldom in the processor's cache. */
struct jit_bucket {
	uint64_t id;            /* of place and key */
	const uint8_t *resumed; /* NULL: look at the blocks */
	struct jit_block *first;
};

struct jit_stubs {
	const uint8_t *enter, *leave, *memory, *exec, *link, *jump, *poll, *fpu_load, *dead;
};

/* For benchmarks and tests. */
struct jit_counts {
	uint64_t enter, memory, window, exec, jump, link, step;
};

struct soft_jit {
	struct soft *soft; /* [const] */
	struct codemem mem;
	struct jit_stubs stubs;        /* [const] */
	bool has_avx;                  /* [const] host's */
	bool stats, lockstep;          /* [const] VIREO_SOFT_DEBUG */
	size_t stub_bytes, half_bytes; /* [const] */
	pthread_mutex_t lock;
	/* [lock] from here */
	struct jit_bucket blocks[JIT_HASH_SIZE];
	struct jit_page *pages[JIT_HASH_SIZE];
	struct jit_arena arena[JIT_HALVES];
	struct emit emit;
	struct trans *trans;
	bool is_full; /* why jit_translate() returned NULL */
	unsigned half;
	atomic_uint epoch; /* [atomic] grows when a half is left */
	uint64_t n_blocks, n_insns, n_fallbacks, n_invalidated, n_flushes;
};

#define JIT_SPACES 8

struct soft_jit_cpu {
	/* Made when first wanted. User code's are of one address space each; kernel code's are all in the first. */
	struct jit_jumps *jumps[KEY_MODES][JIT_SPACES];
	struct jit_jumps *current; /* NULL: to be selected */
	unsigned space;
	/* The stack window of the other side of a system call: kernel's, user's. Page 1: none. */
	struct {
		uint64_t page, addend;
	} window[2];
	unsigned key;           /* of what runs, KEY_NOSTACK aside */
	bool nostack;           /* the next look-up wants KEY_NOSTACK */
	uint64_t code_pages[8]; /* which pages have entries in jump caches: a filter */
	uint64_t flushes;       /* how often look-ups became void */
	atomic_uint epoch; /* [atomic] of soft_jit when last between blocks; UINT_MAX: outside */
	struct jit_counts counts;
	struct jit_lockstep *lockstep;
	struct jit_block *lockstep_block; /* looked up last */
};

/* Which host register has a guest's; H_NONE: cpu->gpr has it. */
extern const uint8_t jit_host_of[16];

/* --- stubs.c --- */
int jit_stubs_make(struct soft_jit *jit, struct error *err);
typedef void (*jit_enter_fn)(struct soft_cpu *cpu, const uint8_t *target);

/* --- run.c: called by stubs; return where to go on, NULL: leave --- */
const uint8_t *jit_on_memory(struct soft_cpu *cpu, struct jit_site *site, uint64_t linear);
const uint8_t *jit_on_exec(struct soft_cpu *cpu, struct jit_site *site);
const uint8_t *jit_on_link(struct soft_cpu *cpu, struct jit_link *link);
const uint8_t *jit_on_jump(struct soft_cpu *cpu, struct jit_site *site, uint64_t linear);

/* The mode bits of code that runs now, or -1 where none is translated. */
int jit_key(const struct soft_cpu *cpu);

/* --- window.c: the stack window, and jump caches --- */
void jit_window_drop(struct soft_cpu *cpu);
/* After C code ran: is it still what the TLB says? Otherwise there is none. */
bool jit_window_check(struct soft_cpu *cpu);
/* Makes the page of linear the window, where span bytes from there may be read and written without a fault. */
bool jit_window_set(struct soft_cpu *cpu, uint64_t linear, unsigned span);
int jit_jumps_select(struct soft_cpu *cpu, unsigned key);
void jit_jumps_add(struct soft_cpu *cpu, uint64_t linear, const uint8_t *resumed);

/* --- lockstep.c --- */
/* Enters the block, compared with the interpreter where that can be. bytes: of its page. May raise. */
void jit_lockstep_run(struct soft_cpu *cpu, const struct jit_block *block, const uint8_t *bytes);
void jit_lockstep_free(struct soft_cpu *cpu);

/* --- translate.c --- */
/* Translates the code at page->gpa + off, whose page's bytes are at `bytes`. NULL: no room; the caller makes some. */
struct jit_block *jit_translate(struct soft_jit *jit, struct soft_cpu *cpu, struct jit_page *page,
				const uint8_t *bytes, unsigned off, unsigned key);

/* --- cache.c: all with the lock held --- */
struct jit_block *jit_cache_find(struct soft_jit *jit, gpa_t page, unsigned off, unsigned key);
/* The same, for code that runs: where it is entered from C; NULL: not found at once. */
const uint8_t *jit_cache_code(struct soft_jit *jit, gpa_t page, unsigned off, unsigned key);
struct jit_page *jit_cache_page(struct soft_jit *jit, gpa_t page, uint32_t generation);
void jit_cache_add(struct soft_jit *jit, struct jit_block *block);
void jit_cache_link(struct soft_jit *jit, struct jit_link *link, struct jit_block *to);
/* soft->on_code_written; takes the lock. */
void jit_cache_written(struct soft *soft, gpa_t gpa);
void jit_cache_drop_page(struct soft_jit *jit, struct jit_page *page);
/* The half in use is full: goes on with the other one. false: some vCPU may still be in that. */
bool jit_cache_turn(struct soft_jit *jit);
