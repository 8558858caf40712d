/*
 * Access to guest memory by linear address, inline: one comparison when the page is in cpu->tlb, else the functions of
 * memory.c. An access that crosses a page never compares equal. The vCPU's own thread.
 *
 * Guest RAM is written by other vCPUs, devices and host threads at any time: each access of 1, 2, 4 or 8 bytes is one host access, and
 * hidden from the thread sanitizer, since races there are the guest's own.
 */
#pragma once

#include <string.h>

#include "vm/accel/soft/soft.h"

/* The thread sanitizer looks at what it inlines, whatever the callee asks for. */
#if defined(__SANITIZE_THREAD__)
#define RAM_ACCESS_INLINE noinline, unused
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define RAM_ACCESS_INLINE noinline, unused
#endif
#endif
#ifndef RAM_ACCESS_INLINE
#define RAM_ACCESS_INLINE always_inline
#endif
#define RAM_ACCESS                                                                                 \
	__attribute__((RAM_ACCESS_INLINE, no_sanitize("thread"),                                   \
		       no_sanitize("alignment"))) static inline

struct ram16 {
	uint16_t v;
} __attribute__((packed, may_alias));
struct ram32 {
	uint32_t v;
} __attribute__((packed, may_alias));
struct ram64 {
	uint64_t v;
} __attribute__((packed, may_alias));

RAM_ACCESS uint64_t ram_load(const void *p, unsigned size)
{
	uint64_t v = 0;

	switch (size) {
	case 1:
		return *(const volatile uint8_t *)p;
	case 2:
		return ((const volatile struct ram16 *)p)->v;
	case 4:
		return ((const volatile struct ram32 *)p)->v;
	case 8:
		return ((const volatile struct ram64 *)p)->v;
	default:
		for (unsigned i = 0; i < size; i++)
			v |= (uint64_t) * ((const volatile uint8_t *)p + i) << (8 * i);
		return v;
	}
}

RAM_ACCESS void ram_store(void *p, unsigned size, uint64_t v)
{
	switch (size) {
	case 1:
		*(volatile uint8_t *)p = (uint8_t)v;
		break;
	case 2:
		((volatile struct ram16 *)p)->v = (uint16_t)v;
		break;
	case 4:
		((volatile struct ram32 *)p)->v = (uint32_t)v;
		break;
	case 8:
		((volatile struct ram64 *)p)->v = v;
		break;
	default:
		for (unsigned i = 0; i < size; i++)
			*((volatile uint8_t *)p + i) = (uint8_t)(v >> (8 * i));
	}
}

/* size: a constant, so that only one case is left. */
static inline uint64_t mem_read_inline(struct soft_cpu *cpu, uint64_t linear, unsigned size)
{
	const struct tlb_entry *e = &cpu->tlb[tlb_index(linear)];

	if (__builtin_expect(((linear + size - 1) & ~4095ULL) == e->read, 1))
		return ram_load((const void *)(uintptr_t)(linear + e->addend), size);
	return mem_read(cpu, linear, size);
}

static inline void mem_write_inline(struct soft_cpu *cpu, uint64_t linear, unsigned size,
				    uint64_t value)
{
	const struct tlb_entry *e = &cpu->tlb[tlb_index(linear)];

	if (__builtin_expect(((linear + size - 1) & ~4095ULL) == e->write, 1))
		ram_store((void *)(uintptr_t)(linear + e->addend), size, value);
	else
		mem_write(cpu, linear, size, value);
}

/* NULL: not in the TLB, or across a page: mem_host_rw() knows more. */
static inline void *mem_host_rw_inline(struct soft_cpu *cpu, uint64_t linear, unsigned size)
{
	const struct tlb_entry *e = &cpu->tlb[tlb_index(linear)];

	if (__builtin_expect(((linear + size - 1) & ~4095ULL) == e->write && e->read == e->write,
			     1))
		return (void *)(uintptr_t)(linear + e->addend);
	return mem_host_rw(cpu, linear, size);
}

static inline const void *mem_host_r_inline(struct soft_cpu *cpu, uint64_t linear, unsigned size)
{
	const struct tlb_entry *e = &cpu->tlb[tlb_index(linear)];

	if (__builtin_expect(((linear + size - 1) & ~4095ULL) == e->read, 1))
		return (const void *)(uintptr_t)(linear + e->addend);
	return mem_host_r(cpu, linear, size);
}

/* seg_linear() without a call for what 64-bit code does nearly always: a canonical address, no base. */
static inline uint64_t seg_linear_inline(struct soft_cpu *cpu, enum insn_seg seg, uint64_t offset,
					 unsigned size, bool write)
{
	if (__builtin_expect(cpu->mode == INSN_MODE_64, 1)) {
		uint64_t linear =
			seg == SEG_FS || seg == SEG_GS ? cpu->seg[seg].base + offset : offset;
		uint64_t last = linear + (size ? size - 1 : 0);

		/* Canonical: bits 63 to 47 are alike; and no wrap from the top to the bottom. */
		if (__builtin_expect(((linear + (1ULL << 47)) | (last + (1ULL << 47))) >> 48 == 0 &&
					     last >= linear,
				     1))
			return linear;
	}
	return seg_linear(cpu, seg, offset, size, write);
}
