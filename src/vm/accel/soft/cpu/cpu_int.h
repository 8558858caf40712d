/*
 * Private to cpu/: translation results, the TLB arrays behind cpu->tlb, accesses with chosen rights, descriptors, stacks, and what the
 * transfers share. Everything here runs on the vCPU's own thread. (Intel SDM volume 3; AMD APM volume 2.)
 */
#pragma once

#include "vm/accel/soft/soft.h"

#define PAGE_BYTES  4096u
#define PAGE_OFFSET 4095u

/* --- mmu.c --- */

enum mmu_want { MMU_READ, MMU_WRITE, MMU_EXEC };

/* With whose rights an access is made, and which array holds what is known of them. */
enum mem_kind {
	MEM_USER,
	MEM_KERNEL,    /* also implicit supervisor accesses, whatever CPL and AC */
	MEM_KERNEL_AC, /* explicit ones with RFLAGS.AC: SMAP does not apply */
	MEM_N_KINDS
};

struct mmu_page {
	gpa_t gpa; /* of the byte asked for */
	bool user, writable, nx, global, dirty;
	bool large; /* mapped by an entry for more than 4 KiB */
};

/* Walks; sets accessed (and for a write dirty) bits. False: a page fault with *ret_error as its error code. */
bool mmu_walk(struct soft_cpu *cpu, uint64_t linear, enum mmu_want want, enum mem_kind kind,
	      struct mmu_page *ret, uint32_t *ret_error);
bool mmu_allows(const struct soft_cpu *cpu, const struct mmu_page *page, enum mmu_want want,
		enum mem_kind kind);
/* PAE: reads the four entries at CR3 as MOV CR3 does. False: a reserved bit is set; nothing has changed. */
bool mmu_load_pdptrs(struct soft_cpu *cpu, uint64_t cr3);

/* --- tlb.c --- */

#define TLB_SPACES 8
#define TLB_WORDS  (TLB_SIZE / 64)

struct tlb_array {
	struct tlb_entry entry[TLB_SIZE];
	gpa_t page[TLB_SIZE]; /* physical page of an entry that is in use */
	uint64_t used[TLB_WORDS], global[TLB_WORDS], large[TLB_WORDS]; /* one bit an entry */
};

/* A page table that a walk has come to: what the levels above it say. (SDM volume 3, section 4.10.3.) */
struct tlb_table {
	uint64_t tag; /* linear address >> 21, + 1; 0: none */
	const uint8_t *host;
	gpa_t table;
	bool user, writable, nx;
};

#define TLB_TABLES 32

struct tlb_space {
	bool valid, ready; /* ready: the arrays have been made */
	uint16_t pcid;
	uint64_t last_use;
	struct tlb_table table[TLB_TABLES];
	struct tlb_array kind[MEM_N_KINDS];
};

#define CHECK_ALIGN 1 /* #AC at CPL 3 */
#define CHECK_WATCH 2 /* breakpoints on data */

struct soft_tlbs {
	struct tlb_entry never[TLB_SIZE]; /* cpu->tlb while each access has to be looked at */
	struct tlb_space space[TLB_SPACES];
	unsigned current;       /* space */
	uint64_t clock;         /* of uses */
	uint8_t kind;           /* enum mem_kind of data accesses now */
	uint8_t checks;         /* CHECK_* */
	uint64_t reserved_bits; /* [const] physical address bits that do not exist, of 51:0 */

	/* debug.c */
	bool step_armed;    /* TF was set when the instruction began */
	bool db_held;       /* MOV SS or POP SS has just held debug traps back */
	bool keep_rf;       /* the instruction has loaded RF itself */
	uint32_t hit;       /* DR6 bits met by the instruction */
	uint32_t held;      /* by the MOV SS or POP SS before it */
	bool external;      /* an event from outside is being delivered: EXT in error codes */
	uint64_t msr_count; /* accesses to MSRs that do not exist */
	uint64_t spec_ctrl; /* values that are kept for the guest and have no effect */
	uint64_t misc_value[8];
};

static inline struct tlb_array *tlb_array(struct soft_cpu *cpu, enum mem_kind kind)
{
	return &cpu->tlbs->space[cpu->tlbs->current].kind[kind];
}

void tlb_init(struct soft_tlbs *tlbs);
/* Where a walk of this address may leave its page table. */
static inline struct tlb_table *tlb_table(struct soft_cpu *cpu, uint64_t linear)
{
	return &cpu->tlbs->space[cpu->tlbs->current].table[(linear >> 21) % TLB_TABLES];
}
/* Enters a page. host: of the whole page in this process. can_write: write tag too, rights allowing. */
void tlb_enter(struct soft_cpu *cpu, uint64_t linear, enum mem_kind kind,
	       const struct mmu_page *page, const uint8_t *host, bool can_write);
void tlb_flush_local(struct soft_cpu *cpu); /* this address space, all but global pages */
void tlb_flush_spaces(struct soft_cpu *cpu, bool global); /* all address spaces */
void tlb_flush_pcid(struct soft_cpu *cpu, uint16_t pcid);
void tlb_flush_pcid_page(struct soft_cpu *cpu, uint16_t pcid, uint64_t linear);
/* Makes the address space of a PCID the current one. keep: what is known of it stays. */
void tlb_switch(struct soft_cpu *cpu, uint16_t pcid, bool keep);

/* --- memory.c: accesses with the rights of a kind instead of the current ones --- */

uint64_t mem_read_as(struct soft_cpu *cpu, uint64_t linear, unsigned size, enum mem_kind kind);
void mem_write_as(struct soft_cpu *cpu, uint64_t linear, unsigned size, uint64_t value,
		  enum mem_kind kind);
void mem_probe_as(struct soft_cpu *cpu, uint64_t linear, unsigned size, bool write,
		  enum mem_kind kind);
/* After a direct write to RAM: dirty mark, and whoever decoded code there is told. */
void mem_written(struct soft_cpu *cpu, struct soft_region *region, size_t page, gpa_t gpa,
		 unsigned size);

/* --- debug.c --- */

void debug_changed(struct soft_cpu *cpu); /* after TF or DR7 changed: cpu->debug, data checks */
void debug_watch(struct soft_cpu *cpu, uint64_t linear, unsigned size, bool write);
/* The instruction has loaded TF, and a single step follows it at once when that is set. */
void debug_step_now(struct soft_cpu *cpu);
uint64_t debug_read(struct soft_cpu *cpu, unsigned number);
void debug_write(struct soft_cpu *cpu, unsigned number, uint64_t value);
#define DR6_BS    (1u << 14)
#define DR6_BD    (1u << 13)
#define DR6_BT    (1u << 15)
#define DR6_FIXED 0xFFFF0FF0u
#define DR7_FIXED 0x400u
#define DR7_GD    (1u << 13)
_Noreturn void cpu_raise_debug(struct soft_cpu *cpu, uint32_t dr6_bits);

/* --- general --- */

static inline bool cpu_long(const struct soft_cpu *cpu)
{
	return (cpu->efer & EFER_LMA) != 0;
}

static inline bool cpu_is64(const struct soft_cpu *cpu)
{
	return cpu->mode == INSN_MODE_64;
}

static inline bool cpu_v86(const struct soft_cpu *cpu)
{
	return (cpu->rflags & RF_VM) != 0;
}

/* Protected mode proper: not real, not virtual-8086. */
static inline bool cpu_protected(const struct soft_cpu *cpu)
{
	return (cpu->cr0 & CR0_PE) && !cpu_v86(cpu);
}

static inline bool is_canonical(uint64_t address)
{
	return (uint64_t)((int64_t)(address << 16) >> 16) == address;
}

static inline unsigned cpu_iopl(const struct soft_cpu *cpu)
{
	return (cpu->rflags & RF_IOPL) >> 12;
}

static inline enum mem_kind cpu_kind_for(const struct soft_cpu *cpu, unsigned cpl)
{
	if (cpl == 3)
		return MEM_USER;
	return (cpu->cr4 & CR4_SMAP) && (cpu->rflags & RF_AC) ? MEM_KERNEL_AC : MEM_KERNEL;
}

/* --- segment.c: descriptors --- */

/* A descriptor of 8 bytes (or the first 8 of 16) as it is in a table. */
struct desc {
	uint64_t at; /* linear address */
	uint64_t raw;
	uint16_t selector;
};

/* Types of system descriptors (S clear). */
#define SYS_TSS16      1
#define SYS_LDT        2
#define SYS_TSS16_BUSY 3
#define SYS_CALL16     4
#define SYS_TASK_GATE  5
#define SYS_INT16      6
#define SYS_TRAP16     7
#define SYS_TSS32      9
#define SYS_TSS32_BUSY 11
#define SYS_CALL32     12
#define SYS_INT32      14
#define SYS_TRAP32     15

static inline uint16_t desc_attr(const struct desc *d)
{
	return (uint16_t)(d->raw >> 40 & 0xF0FF);
}

static inline unsigned desc_type(const struct desc *d)
{
	return (unsigned)(d->raw >> 40) & 15;
}

static inline unsigned desc_dpl(const struct desc *d)
{
	return (unsigned)(d->raw >> 45) & 3;
}

static inline bool desc_present(const struct desc *d)
{
	return (d->raw >> 47 & 1) != 0;
}

static inline bool desc_is_system(const struct desc *d)
{
	return (d->raw >> 44 & 1) == 0;
}

static inline bool desc_is_code(const struct desc *d)
{
	return (d->raw >> 43 & 3) == 3;
}

static inline bool desc_is_conforming(const struct desc *d)
{
	return (d->raw >> 42 & 1) != 0;
}

static inline bool desc_is_writable_data(const struct desc *d)
{
	return (desc_attr(d) & (ATTR_S | ATTR_CODE | ATTR_WRITE)) == (ATTR_S | ATTR_WRITE);
}

static inline bool selector_null(uint16_t selector)
{
	return (selector & 0xFFFC) == 0;
}

/* #GP and its kin with a selector as error code; EXT as cpu->tlbs->external says. */
_Noreturn void raise_selector(struct soft_cpu *cpu, enum cpu_vector vector, uint16_t selector);
/* False: outside its table. The selector is not null. */
bool desc_read(struct soft_cpu *cpu, uint16_t selector, struct desc *ret);
uint32_t desc_limit(const struct desc *d);
uint32_t desc_base(const struct desc *d); /* of what is not 16 bytes long */
struct soft_seg desc_seg(const struct desc *d);
/* Sets the accessed bit in the table. */
void desc_touch(struct soft_cpu *cpu, struct desc *d);
/* MOV, POP and the like; raise what they raise. Not CS. */
void seg_load(struct soft_cpu *cpu, enum insn_seg seg, uint16_t selector);
/* A segment of real or virtual-8086 mode. */
void seg_load_real(struct soft_cpu *cpu, enum insn_seg seg, uint16_t selector);
/* A stack segment for privilege level cpl as a far return or a gate loads it. vector: what violations raise. */
struct soft_seg seg_check_stack(struct soft_cpu *cpu, uint16_t selector, unsigned cpl,
				enum cpu_vector vector);
struct soft_seg seg_null_stack(uint16_t selector, unsigned cpl);
/* After the privilege level has become a lower one: data segments that are no longer allowed become null. */
void seg_drop_privileged(struct soft_cpu *cpu, unsigned cpl);
/* Is [offset, offset + size) inside the segment (outside of 64-bit mode)? */
bool seg_within(const struct soft_seg *seg, uint64_t offset, unsigned size);
void ldtr_load(struct soft_cpu *cpu, uint16_t selector, enum cpu_vector vector);
void tr_load(struct soft_cpu *cpu, uint16_t selector); /* LTR */

/* --- stack.c: pushes and pops that change nothing until they are committed --- */

struct stack {
	struct soft_cpu *cpu;
	struct soft_seg seg;
	uint64_t sp, mask; /* of the part of RSP that is used */
	bool flat;         /* 64-bit: no segment */
	enum mem_kind kind;
	uint16_t error; /* of #SS */
};

void stack_current(struct soft_cpu *cpu, struct stack *ret);
/* A new one for privilege level cpl; is64: as 64-bit code sees it. */
void stack_new(struct soft_cpu *cpu, struct stack *ret, const struct soft_seg *seg, uint64_t sp,
	       unsigned cpl, bool is64);
void stack_push(struct stack *s, unsigned size, uint64_t value);
uint64_t stack_pop(struct stack *s, unsigned size);
/* RSP of the current stack becomes s->sp. */
void stack_commit_sp(struct stack *s);

/* --- transfer.c and its kin --- */

/* A code segment as a transfer's target, checked. */
struct target {
	struct soft_seg cs;
	uint64_t rip;
	unsigned cpl;
};

/* #GP(0) unless rip is canonical in a 64-bit segment, inside the limit of another. */
void target_check_rip(struct soft_cpu *cpu, const struct target *t);
void target_enter(struct soft_cpu *cpu, const struct target *t);
bool target_is64(const struct soft_cpu *cpu, const struct soft_seg *cs);
/* The stack for an inner privilege level, from the TSS (long mode: with a null SS). */
void tss_stack(struct soft_cpu *cpu, unsigned cpl, struct stack *ret);
uint64_t tss_rsp64(struct soft_cpu *cpu, unsigned offset);
/* What a far transfer's or an interrupt's code segment must be for a gate to lead there. */
void gate_target(struct soft_cpu *cpu, uint16_t selector, bool to64, struct desc *ret);
/* The code segment, and the stack, that RET or IRET goes back to. */
void return_target(struct soft_cpu *cpu, uint16_t selector, uint64_t rip, struct target *ret);
void return_stack(struct soft_cpu *cpu, const struct target *t, uint16_t selector, uint64_t sp,
		  struct stack *ret);
void far_jump(struct soft_cpu *cpu, uint16_t selector, uint64_t offset, unsigned opsize);
void far_call(struct soft_cpu *cpu, uint16_t selector, uint64_t offset, unsigned opsize);
void far_return(struct soft_cpu *cpu, unsigned opsize, unsigned release);
void interrupt_return(struct soft_cpu *cpu, unsigned opsize);

enum task_reason { TASK_JUMP, TASK_CALL, TASK_RETURN, TASK_GATE };
/* d: descriptor of the new task's TSS, of which type and privilege have been checked. rip: where the old task goes on. */
void task_switch(struct soft_cpu *cpu, struct desc *d, enum task_reason reason, uint64_t rip,
		 const uint32_t *error);
/* RFLAGS bits that IRET and POPF may change at this privilege. */
uint64_t flags_changeable(const struct soft_cpu *cpu, unsigned opsize);

/* --- sysregs.c, msr.c, cpuid.c --- */

bool cpu_set_efer(struct soft_cpu *cpu, uint64_t value);
bool cpu_is_amd(const struct soft_cpu *cpu); /* the vendor shown: AMD or Hygon */

/* --- operands of system instructions, exec_sys.c --- */

uint64_t operand_read(struct soft_cpu *cpu, const struct insn *insn, unsigned i, unsigned size);
void operand_write(struct soft_cpu *cpu, const struct insn *insn, unsigned i, unsigned size,
		   uint64_t value);
/* Raises #GP(0) unless CPL is 0. */
void need_cpl0(struct soft_cpu *cpu);
/* By file; NULL: not there. */
exec_fn bind_transfers(const struct insn *insn);  /* exec_transfer.c */
exec_fn bind_tables(const struct insn *insn);     /* exec_table.c */
exec_fn bind_fast_calls(const struct insn *insn); /* exec_syscall.c */
