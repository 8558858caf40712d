/*
 * x86-64 processor state, independent of who executes it. The same structures serve KVM and the software CPU; their state
 * tables are in x86_state.c. (Intel SDM volume 3; AMD APM volume 2.)
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/state.h"

/* Inputs of the interrupt controllers: I/O APIC pins 0 to 23; 0 to 15 are also the inputs of the two 8259As. Input n is pin n,
 * but for the timer's (IRQ 0), which arrives at pin 2: the MADT has the override that every PC has. */
#define X86_N_GSIS 24

/* Guest-physical addresses that the accelerator keeps for itself (KVM: identity page table and task state segment on Intel
 * processors without unrestricted guests). No memory and no device may stand here. */
#define X86_RESERVED_START 0xFEFFC000ULL
#define X86_RESERVED_END   0xFF000000ULL

/* Bits that n values need in an APIC identifier. */
static inline unsigned x86_id_bits(unsigned n)
{
	return n <= 1 ? 0 : 32 - (unsigned)__builtin_clz(n - 1);
}

/* The APIC identifier of a vCPU: socket, core and thread, each in a field of whole bits. (SDM volume 3, section 9.9.) */
static inline uint32_t x86_apic_id(unsigned index, unsigned cores, unsigned threads)
{
	unsigned thread = index % threads, core = index / threads % cores;
	unsigned socket = index / threads / cores;
	unsigned thread_bits = x86_id_bits(threads);

	return socket << (thread_bits + x86_id_bits(cores)) | core << thread_bits | thread;
}

enum x86_boot_mode {
	X86_BOOT_REAL,        /* 16-bit real mode at cs:rip, as after reset but elsewhere */
	X86_BOOT_PROTECTED32, /* flat 4 GiB segments, paging off: PVH, multiboot */
	X86_BOOT_LONG64,      /* long mode, flat, page tables at cr3: the Linux 64-bit protocol */
};

/* How a boot protocol wants the boot processor. Segments are flat ones whose selectors the loader also wrote into a GDT in
 * guest memory, where the protocol asks for one. Interrupts are off. */
struct x86_boot_regs {
	enum x86_boot_mode mode;
	uint64_t rip;
	uint64_t rax, rbx, rcx, rdx, rsi, rdi, rsp, rbp;
	uint16_t real_cs; /* REAL: selector; base is selector << 4 */
	uint16_t cs_selector, ds_selector, tss_selector;
	uint64_t gdt_base;
	uint16_t gdt_limit;
	uint64_t cr3; /* LONG64 */
};

/* --- the state of a vCPU: all that a guest can observe in it (SDM volume 3, chapters 2, 3, 11, 13; APM volume 2) --- */

#define X86_XSAVE_BYTES 16384 /* more than any XSAVE area of today */
#define X86_MAX_MSRS    512
#define X86_LAPIC_BYTES 1024 /* the register page up to the last register, in its memory layout */
#define X86_IOAPIC_PINS 24
#define X86_N_FEATURES  12 /* words of CPUID feature bits: x86_feature_words */

struct x86_segment {
	uint64_t base;
	uint32_t limit; /* bytes - 1, granularity applied */
	uint16_t selector;
	uint8_t type, dpl;
	bool present, db, s, l, g, avl, unusable;
};

struct x86_table {
	uint64_t base;
	uint16_t limit;
};

/* Of the processor as the multiprocessor protocol sees it. */
enum x86_mp_state {
	X86_MP_RUNNABLE,
	X86_MP_WAIT_INIT, /* application processor after power-on */
	X86_MP_WAIT_SIPI, /* got INIT */
	X86_MP_GOT_SIPI,
	X86_MP_HALTED,
	X86_MP_STATES
};

/* What is between being raised and being delivered. */
struct x86_events {
	bool exception_injected, exception_pending, exception_has_error, exception_has_payload;
	uint8_t exception_vector;
	uint32_t exception_error;
	uint64_t exception_payload;
	bool interrupt_injected, interrupt_soft;
	uint8_t interrupt_vector, interrupt_shadow;
	bool nmi_injected, nmi_masked;
	uint8_t nmi_pending; /* how many */
	bool sipi_valid;
	uint8_t sipi_vector;
	bool smm, smm_pending, smm_in_nmi, smm_latched_init;
	bool triple_fault;
};

struct x86_msr {
	uint32_t index;
	uint64_t value;
};

struct x86_vcpu_state {
	uint64_t gpr[16]; /* rax rcx rdx rbx rsp rbp rsi rdi r8 .. r15: the encoding's order */
	uint64_t rip, rflags;
	struct x86_segment cs, ds, es, fs, gs, ss, tr, ldt;
	struct x86_table gdt, idt;
	uint64_t cr0, cr2, cr3, cr4, cr8, efer, apic_base;
	bool pdptrs_valid; /* PAE paging: the four entries the processor holds */
	uint64_t pdptrs[4];
	uint64_t dr[4], dr6, dr7;
	uint64_t xcr0;
	uint32_t xsave_bytes; /* live bytes of xsave: the standard format */
	uint8_t xsave[X86_XSAVE_BYTES];
	uint8_t lapic[X86_LAPIC_BYTES];
	uint32_t mp_state; /* enum x86_mp_state */
	struct x86_events events;
	uint32_t n_msrs;
	struct x86_msr msrs[X86_MAX_MSRS]; /* TSC and TSC_DEADLINE are not among them */
	/* The features that the guest was shown. A processor that lacks one of them refuses the state. */
	uint32_t features[X86_N_FEATURES];
	uint32_t tsc_khz;
	uint64_t tsc; /* guest's time stamp counter at the moment x86_machine_state describes */
	uint64_t tsc_deadline; /* 0: not armed */
};

extern const struct state_table x86_vcpu_state_table;

/* Where each word of x86_vcpu_state.features comes from. */
enum x86_register { X86_EAX, X86_EBX, X86_ECX, X86_EDX };
struct x86_feature_word {
	uint32_t leaf, subleaf;
	enum x86_register reg;
	uint32_t ignore; /* bits that say something else, or that follow the guest's own settings */
};
extern const struct x86_feature_word x86_feature_words[X86_N_FEATURES];
/* 0, or -EINVAL and the first feature that `has` lacks. */
int x86_features_check(const uint32_t wanted[X86_N_FEATURES], const uint32_t has[X86_N_FEATURES],
		       struct error *err);

/* --- the machine's interrupt controllers, timer and clock --- */

struct x86_pic { /* one 8259A */
	uint8_t last_irr, irr, imr, isr, priority_add, irq_base, read_reg_select, poll;
	uint8_t special_mask, init_state, auto_eoi, rotate_on_auto_eoi, special_fully_nested;
	uint8_t init4, elcr, elcr_mask;
};

struct x86_ioapic {
	uint64_t base;
	uint32_t select, id, irr;
	uint64_t redirect[X86_IOAPIC_PINS];
};

struct x86_pit_channel { /* of the 8254 */
	uint32_t count;  /* 1 to 65536 */
	uint16_t latched_count;
	uint8_t count_latched, status_latched, status, read_state, write_state, write_latch,
		rw_mode, mode, bcd, gate;
	uint64_t age_ns; /* since the count was loaded */
};

struct x86_machine_state {
	struct x86_pic pic[2]; /* master, slave */
	struct x86_ioapic ioapic;
	struct x86_pit_channel pit[3];
	bool pit_disabled; /* an HPET has taken its place */
	bool speaker_on;
	uint64_t kvmclock_ns; /* the paravirtual clock, 0 at power-on */
};

extern const struct state_table x86_machine_state_table;
