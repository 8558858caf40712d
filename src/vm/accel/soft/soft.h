/*
 * The software CPU: the machine and the vCPU, as every part of accel/soft sees them. (Intel SDM volumes 2 and 3; AMD APM volume 2.)
 *
 * Folders: isa/ decodes; interp/ is the interpreter and its integer instructions; cpu/ memory management, exceptions, system instructions; vec/ x87, MMX, SSE, AVX, XSAVE;
 * irq/ the accelerator's operations, interrupt controllers, clocks, eventfds; jit/ the translator.
 *
 * Threads: a vCPU belongs to its thread, which is "inside" between soft_enter() and soft_leave() (irq/run.c). Others reach it through
 * `request` alone. What a machine shares is [const], [atomic], or [lock] as said.
 */
#pragma once

#include <setjmp.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "vm/accel/accel_impl.h"
#include "vm/accel/soft/isa/features.h"
#include "vm/accel/soft/isa/insn.h"
#include "vm/mem/gmem.h"

/* --- RFLAGS. The six status flags live in cpu->status as LAHF and SETO leave them in AX: AH has SF ZF - AF - PF 1 CF, AL has OF
 * (0 or 1). cpu->rflags holds the others, with status bits zero and bit 1 set. --- */

#define RF_CF     (1u << 0)
#define RF_ONE    (1u << 1)
#define RF_PF     (1u << 2)
#define RF_AF     (1u << 4)
#define RF_ZF     (1u << 6)
#define RF_SF     (1u << 7)
#define RF_TF     (1u << 8)
#define RF_IF     (1u << 9)
#define RF_DF     (1u << 10)
#define RF_OF     (1u << 11)
#define RF_IOPL   (3u << 12)
#define RF_NT     (1u << 14)
#define RF_RF     (1u << 16)
#define RF_VM     (1u << 17)
#define RF_AC     (1u << 18)
#define RF_VIF    (1u << 19)
#define RF_VIP    (1u << 20)
#define RF_ID     (1u << 21)
#define RF_STATUS (RF_CF | RF_PF | RF_AF | RF_ZF | RF_SF | RF_OF)

/* In cpu->status. */
#define ST_OF 0x0001u
#define ST_CF 0x0100u
#define ST_PF 0x0400u
#define ST_AF 0x1000u
#define ST_ZF 0x4000u
#define ST_SF 0x8000u

/* --- control registers and EFER --- */

#define CR0_PE (1u << 0)
#define CR0_MP (1u << 1)
#define CR0_EM (1u << 2)
#define CR0_TS (1u << 3)
#define CR0_ET (1u << 4)
#define CR0_NE (1u << 5)
#define CR0_WP (1u << 16)
#define CR0_AM (1u << 18)
#define CR0_NW (1u << 29)
#define CR0_CD (1u << 30)
#define CR0_PG (1u << 31)

#define CR4_VME        (1u << 0)
#define CR4_PVI        (1u << 1)
#define CR4_TSD        (1u << 2)
#define CR4_DE         (1u << 3)
#define CR4_PSE        (1u << 4)
#define CR4_PAE        (1u << 5)
#define CR4_MCE        (1u << 6)
#define CR4_PGE        (1u << 7)
#define CR4_PCE        (1u << 8)
#define CR4_OSFXSR     (1u << 9)
#define CR4_OSXMMEXCPT (1u << 10)
#define CR4_UMIP       (1u << 11)
#define CR4_FSGSBASE   (1u << 16)
#define CR4_PCIDE      (1u << 17)
#define CR4_OSXSAVE    (1u << 18)
#define CR4_SMEP       (1u << 20)
#define CR4_SMAP       (1u << 21)

#define EFER_SCE (1u << 0)
#define EFER_LME (1u << 8)
#define EFER_LMA (1u << 10)
#define EFER_NXE (1u << 11)

/* --- segments --- */

struct soft_seg {
	uint64_t base;
	uint32_t limit; /* bytes - 1, granularity applied */
	uint16_t selector;
	/* Access rights as in bits 8 to 23 of a descriptor's second word: type 0-3, S 4, DPL 5-6, P 7, AVL 12, L 13, D/B 14, G 15. A null or
	 * unusable segment has P clear. */
	uint16_t attr;
};
#define ATTR_S       0x0010
#define ATTR_DPL(a)  (((a) >> 5) & 3)
#define ATTR_P       0x0080
#define ATTR_L       0x2000
#define ATTR_DB      0x4000
#define ATTR_G       0x8000
#define ATTR_CODE    0x0008 /* with S */
#define ATTR_CONFORM 0x0004 /* code: conforming; data: expand down */
#define ATTR_WRITE   0x0002 /* data: writable; code: readable */

/* --- exceptions --- */

enum cpu_vector {
	VEC_DE,
	VEC_DB,
	VEC_NMI,
	VEC_BP,
	VEC_OF,
	VEC_BR,
	VEC_UD,
	VEC_NM,
	VEC_DF,
	VEC_MP,
	VEC_TS,
	VEC_NP,
	VEC_SS,
	VEC_GP,
	VEC_PF,
	VEC_MF = 16,
	VEC_AC,
	VEC_MC,
	VEC_XM
};

#define PF_P 1u /* page-fault error code */
#define PF_W 2u
#define PF_U 4u
#define PF_R 8u
#define PF_I 16u

/* --- software TLB. A tag is the page's linear address when that access needs no further look, and TLB_NEVER otherwise. The host address
 * of a byte is its linear address + addend (modulo 2^64). An entry covers 4 KiB. One array for each kind of access rights: which one is
 * cpu->tlb. Write tags are absent for pages that hold code, are not dirty yet, or are tracked; tags are absent for what is not RAM. --- */

#define TLB_BITS 12
#define TLB_SIZE (1u << TLB_BITS)
#define TLB_NEVER                                                                                  \
	0x800ULL /* of no page, nor of an address whose low bits say that it is not aligned */

struct tlb_entry {
	uint64_t read, write, exec;
	uintptr_t addend;
};

static inline unsigned tlb_index(uint64_t linear)
{
	return (unsigned)(linear >> 12) & (TLB_SIZE - 1);
}

/* --- what others ask of a vCPU: bits of cpu->request --- */

#define REQ_KICK      (1u << 0) /* leave accel_vcpu_run() */
#define REQ_INTERRUPT (1u << 1) /* look at the local APIC */
#define REQ_NMI       (1u << 2)
#define REQ_INIT      (1u << 3)
#define REQ_SIPI      (1u << 4)
#define REQ_FLUSH     (1u << 5) /* drop all TLB entries, translated look-ups too */
#define REQ_SELF                                                                                   \
	(1u << 6) /* set by the vCPU itself: stop between instructions and look at everything */

struct soft;
struct soft_tlbs;    /* cpu/tlb.c: the arrays behind cpu->tlb */
struct soft_lapic;   /* irq/lapic.c */
struct soft_interp;  /* interp/interp.c: decoded code of this vCPU */
struct soft_jit_cpu; /* jit/: translated code's per-vCPU part */

/* An exception on its way: filled by cpu_raise() and its kin. */
struct soft_fault {
	uint8_t vector;
	bool has_error;
	uint32_t error;
	uint64_t address; /* #PF: for CR2; #DB: bits for DR6 */
};

struct soft_cpu {
	/* --- hot: translated code reaches these by a constant offset --- */
	uint64_t gpr[16];
	uint64_t rip;      /* of the instruction being executed; an offset in CS */
	uint64_t next_rip; /* what follows it; a branch changes it */
	uint16_t status;   /* status flags, see above */
	uint8_t cpl;
	uint8_t mode;        /* enum insn_mode: how code is decoded now */
	uint32_t rflags;     /* the others */
	atomic_uint request; /* [atomic] REQ_* */
	bool shadow; /* interrupts are held back for one instruction: after STI, MOV SS, POP SS */
	/* An interrupt or NMI is there, and RFLAGS.IF or an NMI's handler holds it back: who lets it in sets REQ_SELF. */
	bool waiting;
	bool vex_ok;       /* protected mode, not virtual-8086 */
	bool interpreting; /* for jit_run(): a change of mode ends it, by REQ_SELF */
	bool paging;
	uint8_t debug;         /* DEBUG_*: not 0: see cpu/debug.c below */
	struct tlb_entry *tlb; /* the array for data accesses at this CPL, AC and address space */
	struct soft_seg seg[INSN_N_SEGS];
	uint64_t tsc_offset;  /* guest's time stamp counter - host's */
	uint64_t scratch[24]; /* translated code's own */
	void *jump_cache;     /* translated code's own */
	struct soft_jit_cpu *jit;

	/* x87, MMX, SSE and AVX state in the standard (not compacted) XSAVE format: legacy region, header, upper halves of ymm at 576. The
	 * header is not used here: everything is always live. Inside translated code the host's registers may hold it instead. */
	uint8_t fpu[1024] __attribute__((aligned(64)));
	uint64_t xcr0;

	/* --- system registers --- */
	uint64_t cr0, cr2, cr3, cr4, efer;
	uint64_t dr[4], dr6, dr7;
	struct soft_seg ldtr, tr;
	struct x86_table gdt, idt;
	uint64_t pdptr[4]; /* PAE paging */
	uint64_t star, lstar, cstar, sfmask, kernel_gs_base, sysenter_cs, sysenter_esp,
		sysenter_eip, pat, tsc_aux;
	uint64_t misc_enable, mtrr_def, mtrr_fixed[11], mtrr_base[8], mtrr_mask[8], xss, debugctl;
	struct soft_tlbs *tlbs;
	cpu_features_t features;

	/* --- execution --- */
	struct soft_fault fault;
	jmp_buf unwind; /* cpu_raise() and cpu_stop() go here, with SOFT_UNWIND_*; set by the run loop */
	struct soft_interp *interp;
	uint64_t n_unknown; /* instructions that are not implemented, seen */

	/* --- events --- */
	struct x86_events
		events; /* only what is between being raised and delivered across a stop; otherwise clear */
	bool nmi_blocked;        /* until IRET */
	atomic_uint nmi_pending; /* [atomic] */
	uint32_t mp_state;       /* enum x86_mp_state */
	atomic_uint sipi_vector; /* [atomic] */
	struct soft_lapic *lapic;
	atomic_bool inside; /* [atomic] executing guest code: requests are looked at soon */

	struct soft *soft;
	struct accel_vcpu base;
};

static inline struct soft_cpu *soft_cpu_of(struct accel_vcpu *vcpu)
{
	return (struct soft_cpu *)((char *)vcpu - offsetof(struct soft_cpu, base));
}

#define SOFT_MAX_REGIONS 32

/* A mapped region and what is known of its pages. */
struct soft_region {
	struct gmem_region mem;
	/* One byte a 4 KiB page: PAGE_*. [atomic] */
	_Atomic uint8_t *pages;
};
#define PAGE_CODE                                                                                  \
	1 /* holds code that somebody has decoded or translated: writes must be seen (interp/code.h) */
#define PAGE_DIRTY   2 /* written since the last fetch, while tracking */
#define PAGE_WATCHED 4 /* with PAGE_CODE: no vCPU has a write tag for it any more (interp/code.c) */

struct soft_irq;    /* irq/: controllers, routes, doorbells, clock */
struct soft_code;   /* interp/code.c */
struct soft_jit;    /* jit/ */
struct soft_vec;    /* vec/: thunks */
struct cpuid_table; /* cpu/cpuid.c */

struct soft {
	struct accel accel;
	struct soft_region
		regions[SOFT_MAX_REGIONS]; /* [const while vCPUs run] sorted by address */
	unsigned n_regions;
	atomic_bool tracking; /* dirty pages */
	struct soft_cpu *cpus[ACCEL_MAX_VCPUS];
	cpu_features_t features; /* shown to guests */
	struct cpuid_table *cpuid;
	struct soft_irq *irq;
	struct soft_code *code;
	struct soft_vec *vec;
	struct soft_jit *jit; /* NULL: interpret everything */
	void (*on_code_written)(struct soft *soft,
				gpa_t page); /* the translator's, by code_written(); or NULL */
	uint64_t tsc_khz; /* [const] of the guest's counter, which is the host's plus tsc_offset */
};

/* ------------------------------------------------------------------------------------------------------------------------
 * Who offers what. Each line names the file that has it.
 * ------------------------------------------------------------------------------------------------------------------------ */

#define SOFT_UNWIND_FAULT 1
#define SOFT_UNWIND_STOP  2
/* --- cpu/fault.c: leaves the instruction being executed; what it has done so far must be undone or not begun. Never returns: unwinds to
 * the run loop, which delivers the exception with cpu->rip as return address (faults). --- */
_Noreturn void cpu_raise(struct soft_cpu *cpu, enum cpu_vector vector); /* without error code */
_Noreturn void cpu_raise_error(struct soft_cpu *cpu, enum cpu_vector vector, uint32_t error);
_Noreturn void cpu_raise_page_fault(struct soft_cpu *cpu, uint64_t linear, uint32_t error);
/* Leaves without an exception: cpu->rip is what to go on with. For what ends a run (HLT done, mode switch, code invalidated). */
_Noreturn void cpu_stop(struct soft_cpu *cpu);

/* --- cpu/deliver.c: called by the run loop, not from instructions. Push a frame and enter the handler through IDT or real-mode vector;
 * nested faults become double faults; a triple fault returns false. --- */
bool cpu_deliver_fault(struct soft_cpu *cpu);                     /* cpu->fault */
bool cpu_deliver_interrupt(struct soft_cpu *cpu, uint8_t vector); /* external */
bool cpu_deliver_nmi(struct soft_cpu *cpu);
/* From an instruction: INT n, INT3, INTO, INT1; return address is cpu->next_rip; may raise. */
void cpu_software_interrupt(struct soft_cpu *cpu, uint8_t vector, bool is_int_n);

/* --- cpu/mmu.c, cpu/tlb.c, cpu/memory.c: linear addresses; any size 1 to 8 and 16, 32 for the block forms; page-crossing, MMIO and
 * tracking are handled; raise #PF (#GP, #SS, #AC by the segmented ones) before anything is changed. Accesses of up to 8 bytes that
 * are aligned are single-copy atomic. --- */
uint64_t mem_read(struct soft_cpu *cpu, uint64_t linear, unsigned size);
void mem_write(struct soft_cpu *cpu, uint64_t linear, unsigned size, uint64_t value);
void mem_read_block(struct soft_cpu *cpu, uint64_t linear, void *buf, unsigned size);
void mem_write_block(struct soft_cpu *cpu, uint64_t linear, const void *buf, unsigned size);
/* Checks that [linear, linear + size) can be written (read) now: what follows will not fault. */
void mem_probe(struct soft_cpu *cpu, uint64_t linear, unsigned size, bool write);
/* With supervisor rights whatever the CPL: descriptor tables, TSS. */
uint64_t mem_read_system(struct soft_cpu *cpu, uint64_t linear, unsigned size);
void mem_write_system(struct soft_cpu *cpu, uint64_t linear, unsigned size, uint64_t value);
/* The host address of RAM for a read-modify-write that is inside one page and may be written now, or NULL: then it is MMIO or crosses a
 * page, and the caller uses mem_read() and mem_write() between soft_exclusive_begin() and _end(). Faults are raised. */
void *mem_host_rw(struct soft_cpu *cpu, uint64_t linear, unsigned size);
/* As above for reading; NULL for MMIO and page-crossing. */
const void *mem_host_r(struct soft_cpu *cpu, uint64_t linear, unsigned size);
/* The slow path of translated code, and of the inline functions in interp/access.h: fills cpu->tlb for the page or raises. Returns NULL when
 * the access cannot go through the TLB (MMIO, code, tracking, page-crossing). */
struct tlb_entry *tlb_fill(struct soft_cpu *cpu, uint64_t linear, bool write);
/* Fetches up to n bytes of code at linear (an instruction's fetch: exec rights), at least 1 or raises #PF; stops at the page's end when
 * the next page does not let it. *ret_gpa: physical address of the first byte. Returns the number of bytes. */
unsigned mem_fetch(struct soft_cpu *cpu, uint64_t linear, uint8_t *buf, unsigned n, gpa_t *ret_gpa);
/* Code at a linear address: its physical page address and host address (whole page), for block look-up; raises #PF. NULL host address: not RAM. */
const uint8_t *mem_code_page(struct soft_cpu *cpu, uint64_t linear, gpa_t *ret_page);
/* Segmented: checks and adds the base. write: for limit and type checks. size 0 is 1. */
uint64_t seg_linear(struct soft_cpu *cpu, enum insn_seg seg, uint64_t offset, unsigned size,
		    bool write);
/* Recomputes cpu->tlb, mode, cpl-dependent things after CR0, CR3, CR4, EFER, CPL, CS, RFLAGS.AC or VM changed. */
void cpu_mode_changed(struct soft_cpu *cpu);
void tlb_flush_all(struct soft_cpu *cpu); /* own thread */
void tlb_flush_page(struct soft_cpu *cpu, uint64_t linear);
/* Takes this vCPU's write tags for a physical page away: the next write there takes the slow path. */
void tlb_protect(struct soft_cpu *cpu, gpa_t page);
/* RAM at a physical address; NULL: not RAM. ret_region may be NULL. */
uint8_t *soft_ram(struct soft *soft, gpa_t gpa, struct soft_region **ret_region, size_t *ret_page);

/* --- interp/code.h: pages with code --- */

/* --- interp/exec.c, and by owner interp/, cpu/, vec/ --- */
/* Which function executes it; never NULL (OP_UD, and what is not implemented, raise #UD). */
exec_fn exec_bind(const struct insn *insn);
/* By owner: each returns NULL for an operation that is not its own. */
exec_fn exec_bind_int(const struct insn *insn);
exec_fn exec_bind_sys(const struct insn *insn);
exec_fn exec_bind_vec(const struct insn *insn);
/* The effective address of insn's memory operand, an offset in its segment. */
uint64_t insn_offset(const struct soft_cpu *cpu, const struct insn *insn);

/* --- interp/interp.c --- */
/* Executes until cpu->request is not 0 or something calls cpu_stop(); exceptions have been delivered. Returns false on triple fault. */
bool interp_run(struct soft_cpu *cpu);
/* One instruction, decoded afresh; for tests, single-stepping and what translated code leaves to it. May raise. */
void interp_step(struct soft_cpu *cpu);
int interp_cpu_init(struct soft_cpu *cpu);
void interp_cpu_fini(struct soft_cpu *cpu);
void interp_forget(struct soft_cpu *cpu); /* all decoded code */

/* --- cpu/sysregs.c, msr.c, cpuid.c --- */
void cpu_set_cr0(struct soft_cpu *cpu, uint64_t value); /* checked; raise #GP */
void cpu_set_cr3(struct soft_cpu *cpu, uint64_t value);
void cpu_set_cr4(struct soft_cpu *cpu, uint64_t value);
void cpu_set_cr8(struct soft_cpu *cpu, uint64_t value);
uint64_t cpu_get_cr8(struct soft_cpu *cpu);
/* false: no such MSR, or a value that it refuses: #GP. */
bool cpu_rdmsr(struct soft_cpu *cpu, uint32_t index, uint64_t *ret);
bool cpu_wrmsr(struct soft_cpu *cpu, uint32_t index, uint64_t value);
void cpuid_read(struct soft_cpu *cpu, uint32_t leaf, uint32_t subleaf, uint32_t ret[4]);
int cpuid_init(struct soft *soft, struct error *err); /* fills soft->features and soft->cpuid */
void cpuid_fini(struct soft *soft);
int cpu_init(struct soft_cpu *cpu); /* once, before cpu_reset(): what is behind cpu->tlbs */
void cpu_fini(struct soft_cpu *cpu);
void cpu_reset(struct soft_cpu *cpu);       /* power-on state of everything but the local APIC */
void cpu_init_signal(struct soft_cpu *cpu); /* INIT: as the SDM's table for INIT */
uint64_t cpu_get_rflags(const struct soft_cpu *cpu);
/* All bits, unchecked; acts on changes of TF, AC and VM. Whoever changes one of these three (POPF, STAC, CLAC) calls it. */
void cpu_set_rflags(struct soft_cpu *cpu, uint64_t value);
uint64_t cpu_rdtsc(struct soft_cpu *cpu);

/* --- cpu/debug.c: single steps and breakpoints. While cpu->debug is not 0, instructions are executed one at a time (no translated code),
 * each as: cpu_debug_before(cpu), then the instruction, cpu->rip = cpu->next_rip, and cpu_debug_after(cpu). Both may raise #DB: the first as
 * a fault, the second as a trap. An iteration of a REP instruction counts as an instruction. What makes cpu->debug not 0 sets REQ_SELF. --- */
#define DEBUG_STEP  1 /* RFLAGS.TF */
#define DEBUG_BREAK 2 /* a breakpoint of DR7 is armed */
#define DEBUG_HIT   4 /* an instruction has met a breakpoint on data or a port */
void cpu_debug_before(struct soft_cpu *cpu);
void cpu_debug_after(struct soft_cpu *cpu);
/* IN, OUT, INS, OUTS: may the port be used at this privilege? Raises #GP; meets breakpoints on ports. */
void cpu_check_io(struct soft_cpu *cpu, uint16_t port, unsigned size);

/* --- vec/ --- */
int vec_init(struct soft *soft, struct error *err); /* thunks' code memory */
void vec_fini(struct soft *soft);
void vec_cpu_reset(struct soft_cpu *cpu);

/* --- irq/: outside of guest code. Bytes are little-endian in *data; size 1 to 8; unclaimed reads are all ones --- */
void soft_mmio(struct soft_cpu *cpu, gpa_t gpa, bool is_write, void *data, unsigned size);
void soft_pio(struct soft_cpu *cpu, uint16_t port, bool is_write, void *data, unsigned size);
/* x2APIC (0x800 to 0x8ff), IA32_APIC_BASE, TSC, TSC_DEADLINE, TSC_ADJUST and the paravirtual ones (0x11, 0x12, 0x4b564dxx); as cpu_rdmsr(). */
bool irq_rdmsr(struct soft_cpu *cpu, uint32_t index, uint64_t *ret);
bool irq_wrmsr(struct soft_cpu *cpu, uint32_t index, uint64_t value);
/* The paravirtual CPUID leaves 0x40000000 up. */
void irq_cpuid(struct soft_cpu *cpu, uint32_t leaf, uint32_t ret[4]);
/* VMCALL, VMMCALL: the result. */
uint64_t irq_hypercall(struct soft_cpu *cpu, uint64_t call, const uint64_t arg[4]);
uint8_t lapic_get_tpr(struct soft_cpu *cpu);
void lapic_set_tpr(struct soft_cpu *cpu, uint8_t tpr);
uint32_t lapic_id(const struct soft_cpu *cpu);
/* HLT: puts the vCPU to rest; the run loop waits for an interrupt. */
void soft_halt(struct soft_cpu *cpu);
/* Stops every other vCPU between instructions until _end(): for atomic operations that are not one host instruction. Does not nest. */
void soft_exclusive_begin(struct soft_cpu *cpu);
void soft_exclusive_end(struct soft_cpu *cpu);
/* Called by cpu_raise() and cpu_stop() before they unwind: an instruction that faults while it is alone is so no more. */
void soft_unwinding(struct soft_cpu *cpu);
/* Posts request bits to every other vCPU, and returns when each has acted on them or is outside guest code (and will act before it
 * is inside again). cpu: the caller's own, or NULL. The caller's own requests are served while it waits. */
void soft_sync_others(struct soft *soft, struct soft_cpu *cpu, unsigned request);
/* Any thread: sets bits, and wakes the vCPU if it rests. */
void soft_request(struct soft_cpu *cpu, unsigned request);

/* --- jit/ --- */
int jit_init(
	struct soft *soft, struct
	error *err); /* -EACCES where the host allows no executable memory: then soft->jit stays NULL */
void jit_fini(struct soft *soft);
int jit_cpu_init(struct soft_cpu *cpu);
void jit_cpu_fini(struct soft_cpu *cpu);
bool jit_run(struct soft_cpu *cpu); /* as interp_run() */
/* Look-ups by linear address are void: a TLB flush of all, or of one page. */
void jit_flush(struct soft_cpu *cpu);
void jit_flush_page(struct soft_cpu *cpu, uint64_t linear);
/* The same for one of the TLB's address spaces (cpu/tlb.c), global pages aside; and the one that is used from now on. */
void jit_flush_space(struct soft_cpu *cpu, unsigned space);
void jit_switch_space(struct soft_cpu *cpu, unsigned space);
