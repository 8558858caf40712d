/*
 * Private to the folder: a parsed ELF kernel, shared by the PVH and multiboot protocols.
 */
#pragma once

#include "vm/firmware/boot_int.h"

#define FW_ELF_SEGMENTS_MAX 64

struct fw_elf_segment {
	uint32_t type;
	uint64_t offset, vaddr, paddr, file_bytes, mem_bytes, align;
};

struct fw_elf {
	bool is64;
	uint64_t entry;
	unsigned n;
	struct fw_elf_segment segments[FW_ELF_SEGMENTS_MAX];
};

/* Where a kernel lies: nothing of it is outside of [start, end). */
struct fw_extent {
	gpa_t start, end;
};

/* Copies the segments to their physical addresses. */
int fw_elf_load_segments(struct fw_boot *boot, const struct fw_elf *elf, struct fw_extent *ret);

int fw_load_pvh(struct fw_boot *boot, const struct fw_elf *elf, uint64_t entry);

/* offset: of the header in boot->head; elf: NULL for a file that is no ELF file. */
int fw_load_multiboot(struct fw_boot *boot, unsigned offset, const struct fw_elf *elf);
