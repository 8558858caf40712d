/*
 * Kernels made in the test: headers as the formats' specifications have them, bodies of a recognisable pattern.
 */
#pragma once

#include <asm/bootparam.h>
#include <elf.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/endian.h"
#include "base/fd.h"
#include "firmware/guest.h"

/* A file in memory; the caller closes it. */
static inline int file_of(const void *data, size_t len)
{
	int fd = memfd_create("kernel", MFD_CLOEXEC);

	assert_true(fd >= 0);
	assert_int_equal(fd_write_full(fd, data, len), 0);
	return fd;
}

static inline void fill_pattern(uint8_t *to, size_t len)
{
	for (size_t i = 0; i < len; i++)
		to[i] = (uint8_t)(i * 7 + (i >> 8));
}

#define BZ_SETUP_BYTES   2048 /* 3 setup sectors and the boot sector */
#define BZ_PAYLOAD_BYTES 20000
#define BZ_BYTES         (BZ_SETUP_BYTES + BZ_PAYLOAD_BYTES)

/* A bzImage of protocol 2.15 like today's kernels have; tests then spoil it. */
static inline struct setup_header *make_bzimage(uint8_t image[BZ_BYTES])
{
	struct setup_header *h = (void *)(image + 0x1F1);

	memset(image, 0, BZ_SETUP_BYTES);
	fill_pattern(image + BZ_SETUP_BYTES, BZ_PAYLOAD_BYTES);
	*h = (struct setup_header){
		.setup_sects = BZ_SETUP_BYTES / 512 - 1,
		.syssize = BZ_PAYLOAD_BYTES / 16,
		.boot_flag = 0xAA55,
		.jump = 0x6AEB,
		.header = 0x53726448, /* HdrS */
		.version = 0x020F,
		.loadflags = LOADED_HIGH,
		.code32_start = 0x100000,
		.initrd_addr_max = 0x7FFFFFFF,
		.kernel_alignment = 0x200000,
		.relocatable_kernel = 1,
		.min_alignment = 21,
		.xloadflags = XLF_KERNEL_64 | XLF_CAN_BE_LOADED_ABOVE_4G,
		.cmdline_size = 2047,
		.pref_address = 0x1000000,
		.init_size = 0x800000,
	};
	return h;
}

#define ELF_SEGMENT_OFFSET 0x1000
#define ELF_SEGMENT_BYTES  5000
#define ELF_NOTE_OFFSET    0x800
#define ELF_BYTES          (ELF_SEGMENT_OFFSET + ELF_SEGMENT_BYTES)
#define ELF_GPA            0x200000
#define ELF_BSS_BYTES      9000

struct elf64 {
	Elf64_Ehdr ehdr;
	Elf64_Phdr load, note;
};

struct elf32 {
	Elf32_Ehdr ehdr;
	Elf32_Phdr load, note;
};

/* The PVH note, after another one of Xen's that must be passed over. */
static inline void make_notes(uint8_t *to, uint32_t entry, size_t *ret_len)
{
	static const uint8_t other[] = {4,   0,   0,   0, 6,   0,   0,   0,   6,   0, 0, 0,
					'X', 'e', 'n', 0, 'l', 'i', 'n', 'u', 'x', 0, 0, 0};
	static const uint8_t pvh[] = {4, 0, 0, 0, 4, 0, 0, 0, 18, 0, 0, 0, 'X', 'e', 'n', 0};

	memcpy(to, other, sizeof(other));
	memcpy(to + sizeof(other), pvh, sizeof(pvh));
	le_store(to + sizeof(other) + sizeof(pvh), 4, entry);
	*ret_len = sizeof(other) + sizeof(pvh) + 4;
}

static inline struct elf64 *make_elf64(uint8_t image[ELF_BYTES])
{
	struct elf64 *e = (void *)image;
	size_t note_bytes;

	memset(image, 0, ELF_SEGMENT_OFFSET);
	fill_pattern(image + ELF_SEGMENT_OFFSET, ELF_SEGMENT_BYTES);
	make_notes(image + ELF_NOTE_OFFSET, ELF_GPA + 0x40, &note_bytes);
	e->ehdr = (Elf64_Ehdr){
		.e_ident = {0x7F, 'E', 'L', 'F', ELFCLASS64, ELFDATA2LSB, EV_CURRENT},
		.e_type = ET_EXEC,
		.e_machine = EM_X86_64,
		.e_version = EV_CURRENT,
		.e_entry = ELF_GPA,
		.e_phoff = offsetof(struct elf64, load),
		.e_phentsize = sizeof(Elf64_Phdr),
		.e_phnum = 2,
	};
	e->load = (Elf64_Phdr){
		.p_type = PT_LOAD,
		.p_offset = ELF_SEGMENT_OFFSET,
		.p_vaddr = 0xFFFFFFFF80200000,
		.p_paddr = ELF_GPA,
		.p_filesz = ELF_SEGMENT_BYTES,
		.p_memsz = ELF_SEGMENT_BYTES + ELF_BSS_BYTES,
	};
	e->note = (Elf64_Phdr){
		.p_type = PT_NOTE,
		.p_offset = ELF_NOTE_OFFSET,
		.p_filesz = note_bytes,
		.p_align = 4,
	};
	return e;
}

static inline struct elf32 *make_elf32(uint8_t image[ELF_BYTES])
{
	struct elf64 big = *make_elf64(image);
	struct elf32 *e = (void *)image;

	memset(image, 0, sizeof(big));
	e->ehdr = (Elf32_Ehdr){
		.e_ident = {0x7F, 'E', 'L', 'F', ELFCLASS32, ELFDATA2LSB, EV_CURRENT},
		.e_type = ET_EXEC,
		.e_machine = EM_386,
		.e_version = EV_CURRENT,
		.e_entry = ELF_GPA + 0x10,
		.e_phoff = offsetof(struct elf32, load),
		.e_phentsize = sizeof(Elf32_Phdr),
		.e_phnum = 2,
	};
	e->load = (Elf32_Phdr){
		.p_type = PT_LOAD,
		.p_offset = ELF_SEGMENT_OFFSET,
		.p_vaddr = ELF_GPA,
		.p_paddr = ELF_GPA,
		.p_filesz = ELF_SEGMENT_BYTES,
		.p_memsz = ELF_SEGMENT_BYTES + ELF_BSS_BYTES,
	};
	e->note = (Elf32_Phdr){
		.p_type = PT_NOTE,
		.p_offset = ELF_NOTE_OFFSET,
		.p_filesz = (Elf32_Word)big.note.p_filesz,
		.p_align = 4,
	};
	return e;
}
