/*
 * Private to the folder: what the loaders of the three boot protocols share.
 */
#pragma once

#include "base/error.h"
#include "vm/accel/x86.h"
#include "vm/firmware/layout.h"
#include "vm/firmware/memmap.h"
#include "vm/firmware/source.h"

/* Multiboot 1, section 3.1: the header lies within the first 8192 bytes. The other formats need less. */
#define FW_HEAD_BYTES 8192

struct fw_boot {
	struct gmem *mem;
	struct firmware_memmap map;
	const struct fw_source *kernel;
	const struct fw_source *initrd; /* NULL: none */
	const char *cmdline;            /* never NULL */
	gpa_t rsdp;
	uint8_t head[FW_HEAD_BYTES]; /* the kernel's first bytes; zeroes after a shorter one */
	size_t head_len;
	struct x86_boot_regs regs; /* out */
	struct error *err;
};

/* Loads by whichever protocol the kernel has; the part of firmware_load_kernel() that needs no files. */
int fw_boot_load(struct fw_boot *boot);

bool fw_is_bzimage(const struct fw_boot *boot);
int fw_load_bzimage(struct fw_boot *boot);

bool fw_is_elf(const struct fw_boot *boot);
int fw_load_elf(struct fw_boot *boot); /* PVH, or else multiboot */

/* Offset of the multiboot header in head, or negative. */
int fw_find_multiboot(const struct fw_boot *boot);

/* --- kernel.c --- */

/* May [start, start + size) hold a part of the kernel: conventional memory above the loaders' tables, or RAM from 1 MiB to
 * the hole? The message says how much memory the kernel wants. */
int fw_check_room(const struct fw_boot *boot, gpa_t start, uint64_t size);
/* Makes guest memory zero without touching what is still untouched. The range was checked. */
int fw_zero(struct fw_boot *boot, gpa_t start, uint64_t size);
/* Copies the loaders' own tables in. */
int fw_put(struct fw_boot *boot, gpa_t gpa, const void *data, size_t len);
/* The command line at FW_CMDLINE_BASE; max: without the terminating zero. */
int fw_put_cmdline(struct fw_boot *boot, const char *prefix, uint64_t max);

/* Reads the initrd in beside a kernel that takes [start, end): as high as it goes in low RAM below `limit` (one past its
 * last byte), above the kernel or else below it; or, if above_4g and it does not fit there, in high RAM. *ret_gpa is
 * untouched without an initrd. */
int fw_load_initrd(struct fw_boot *boot, gpa_t start, gpa_t end, uint64_t limit, bool above_4g,
		   gpa_t *ret_gpa);
/* The same at one place. */
int fw_load_initrd_at(struct fw_boot *boot, gpa_t gpa, gpa_t kernel_end);

/* Descriptor table and registers of a flat processor without paging, to start at `entry`. */
int fw_enter_32(struct fw_boot *boot, uint64_t entry);
/* The same in long mode, with the first 4 GiB mapped one to one. */
int fw_enter_64(struct fw_boot *boot, uint64_t entry);
