/*
 * x86-64 processor state, independent of who executes it. The same structures serve KVM and the software CPU; their state
 * tables are in x86_state.c. (Intel SDM volume 3; AMD APM volume 2.)
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

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
