/*
 * The memory map that a guest is told, whatever tells it: Linux's e820 table, PVH, multiboot. Computed in this one place
 * from guest memory and the fixed windows of the machine. (ACPI 6.5, table 15.6: address range types.)
 *
 * Threads: any, while the map of guest memory does not change.
 */
#pragma once

#include "vm/mem/gmem.h"

enum firmware_memmap_type {
	FIRMWARE_MEMMAP_RAM = 1,
	FIRMWARE_MEMMAP_RESERVED = 2,
};

struct firmware_memmap_entry {
	gpa_t gpa;
	uint64_t size; /* bytes, never 0 */
	enum firmware_memmap_type type;
};

#define FIRMWARE_MEMMAP_MAX 64

struct firmware_memmap {
	struct firmware_memmap_entry entries[FIRMWARE_MEMMAP_MAX]; /* sorted, disjoint */
	unsigned n;
	gpa_t low_end; /* one past the RAM that starts at 1 MiB and has no gap; 0 when there is none */
};

/* -ENOSPC when guest memory has more regions than a map has entries. */
int firmware_memmap_build(const struct gmem *mem, struct firmware_memmap *ret);
