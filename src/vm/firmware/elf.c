/*
 * Loads an ELF kernel, 32- or 64-bit, for x86: by its PVH note (Xen: docs/misc/pvh.pandoc, public/arch-x86/hvm/
 * start_info.h version 1), or else by a multiboot header. Segments go to their physical addresses. Section headers,
 * relocations and dynamic segments are not looked at.
 */
#include <elf.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "base/cleanup.h"
#include "base/endian.h"
#include "vm/firmware/elf_int.h"

#define MAX_NOTE_BYTES (256 * KIB)

#define XEN_ELFNOTE_PHYS32_ENTRY 18

bool fw_is_elf(const struct fw_boot *boot)
{
	return boot->head_len >= SELFMAG && memcmp(boot->head, ELFMAG, SELFMAG) == 0;
}

static int refuse(struct fw_boot *boot, const char *why)
{
	return error_set(boot->err, -ENOEXEC, "the kernel '%s' cannot be booted: %s",
			 boot->kernel->name, why);
}

/* One program header, of either class, read at `off`. */
static int read_segment(struct fw_boot *boot, bool is64, uint64_t off, struct fw_elf_segment *ret)
{
	union {
		Elf32_Phdr h32;
		Elf64_Phdr h64;
	} u;
	int r = fw_source_read(boot->kernel, off, &u, is64 ? sizeof(u.h64) : sizeof(u.h32),
			       boot->err);

	if (r < 0)
		return r;
	if (is64)
		*ret = (struct fw_elf_segment){
			.type = u.h64.p_type,
			.offset = u.h64.p_offset,
			.vaddr = u.h64.p_vaddr,
			.paddr = u.h64.p_paddr,
			.file_bytes = u.h64.p_filesz,
			.mem_bytes = u.h64.p_memsz,
			.align = u.h64.p_align,
		};
	else
		*ret = (struct fw_elf_segment){
			.type = u.h32.p_type,
			.offset = u.h32.p_offset,
			.vaddr = u.h32.p_vaddr,
			.paddr = u.h32.p_paddr,
			.file_bytes = u.h32.p_filesz,
			.mem_bytes = u.h32.p_memsz,
			.align = u.h32.p_align,
		};
	return 0;
}

static int check_ident(struct fw_boot *boot, struct fw_elf *elf)
{
	const Elf32_Ehdr *h = (const void *)boot->head; /* both classes agree up to e_version */

	if (boot->head_len < sizeof(Elf64_Ehdr))
		return refuse(boot, "it is a truncated ELF file; copy it again");
	elf->is64 = h->e_ident[EI_CLASS] == ELFCLASS64;
	if (!elf->is64 && h->e_ident[EI_CLASS] != ELFCLASS32)
		return refuse(boot, "it is an ELF file of an unknown class");
	if (h->e_ident[EI_DATA] != ELFDATA2LSB ||
	    (h->e_machine != EM_X86_64 && h->e_machine != EM_386))
		return refuse(boot, "it is an ELF file for another processor");
	if (h->e_type != ET_EXEC && h->e_type != ET_DYN)
		return refuse(boot, "it is an ELF file, but no executable (an object file or a "
				    "module?)");
	return 0;
}

static int read_headers(struct fw_boot *boot, struct fw_elf *elf)
{
	const Elf32_Ehdr *h32 = (const void *)boot->head;
	const Elf64_Ehdr *h64 = (const void *)boot->head;
	uint64_t phoff, phentsize, want;
	int r = check_ident(boot, elf);

	if (r < 0)
		return r;
	elf->entry = elf->is64 ? h64->e_entry : h32->e_entry;
	elf->n = elf->is64 ? h64->e_phnum : h32->e_phnum;
	phoff = elf->is64 ? h64->e_phoff : h32->e_phoff;
	phentsize = elf->is64 ? h64->e_phentsize : h32->e_phentsize;
	want = elf->is64 ? sizeof(Elf64_Phdr) : sizeof(Elf32_Phdr);
	if (elf->n == 0 || elf->n > FW_ELF_SEGMENTS_MAX || phentsize < want ||
	    !range_inside(phoff, elf->n * phentsize, boot->kernel->size))
		return refuse(boot, "its ELF program headers are damaged or cut off");
	for (unsigned i = 0; i < elf->n; i++) {
		r = read_segment(boot, elf->is64, phoff + i * phentsize, &elf->segments[i]);
		if (r < 0)
			return r;
	}
	return 0;
}

int fw_elf_load_segments(struct fw_boot *boot, const struct fw_elf *elf, struct fw_extent *ret)
{
	struct fw_extent at = {UINT64_MAX, 0};

	for (unsigned i = 0; i < elf->n; i++) {
		const struct fw_elf_segment *s = &elf->segments[i];
		int r;

		if (s->type != PT_LOAD || s->mem_bytes == 0)
			continue;
		if (s->file_bytes > s->mem_bytes)
			return refuse(boot, "an ELF segment of it is larger in the file than in "
					    "memory");
		r = fw_check_room(boot, s->paddr, s->mem_bytes);
		if (r == 0)
			r = fw_source_load(boot->kernel, s->offset, boot->mem, s->paddr,
					   s->file_bytes, boot->err);
		if (r == 0)
			r = fw_zero(boot, s->paddr + s->file_bytes, s->mem_bytes - s->file_bytes);
		if (r < 0)
			return r;
		at.start = MIN(at.start, s->paddr);
		at.end = MAX(at.end, s->paddr + s->mem_bytes);
	}
	if (at.end == 0)
		return refuse(boot, "it is an ELF file with nothing to load");
	*ret = at;
	return 0;
}

/* Looks for the PVH entry among the notes in data: Elf32_Nhdr, name, description, each padded to `align`. */
static bool find_pvh_note(const uint8_t *data, uint64_t len, uint64_t align, uint64_t *ret_entry)
{
	uint64_t pos = 0;

	while (range_inside(pos, sizeof(Elf32_Nhdr), len)) {
		uint64_t name_len = le_load(data + pos, 4);
		uint64_t desc_len = le_load(data + pos + 4, 4);
		uint64_t type = le_load(data + pos + 8, 4);
		uint64_t name = pos + sizeof(Elf32_Nhdr);
		uint64_t desc = align_up(name + name_len, align);

		if (!range_inside(name, name_len, len) || !range_inside(desc, desc_len, len))
			return false;
		if (type == XEN_ELFNOTE_PHYS32_ENTRY && name_len == 4 &&
		    memcmp(data + name, "Xen", 4) == 0 && (desc_len == 4 || desc_len == 8)) {
			*ret_entry = le_load(data + desc, (unsigned)desc_len);
			return true;
		}
		pos = align_up(desc + desc_len, align);
	}
	return false;
}

/* 1 with the entry, 0 without a note, or a negative errno. */
static int pvh_entry(struct fw_boot *boot, const struct fw_elf *elf, uint64_t *ret_entry)
{
	for (unsigned i = 0; i < elf->n; i++) {
		const struct fw_elf_segment *s = &elf->segments[i];
		_cleanup_free_ uint8_t *notes = NULL;
		int r;

		if (s->type != PT_NOTE || s->file_bytes == 0 || s->file_bytes > MAX_NOTE_BYTES)
			continue;
		notes = malloc(s->file_bytes);
		if (!notes)
			return error_set(boot->err, -ENOMEM, "no memory to load a kernel");
		r = fw_source_read(boot->kernel, s->offset, notes, s->file_bytes, boot->err);
		if (r < 0)
			return r;
		if (find_pvh_note(notes, s->file_bytes, s->align == 8 ? 8 : 4, ret_entry))
			return 1;
	}
	return 0;
}

int fw_load_elf(struct fw_boot *boot)
{
	struct fw_elf elf = {0};
	uint64_t entry = 0;
	int multiboot;
	int r = read_headers(boot, &elf);

	if (r < 0)
		return r;
	r = pvh_entry(boot, &elf, &entry);
	if (r < 0)
		return r;
	if (r == 1)
		return fw_load_pvh(boot, &elf, entry);
	multiboot = fw_find_multiboot(boot);
	if (multiboot >= 0)
		return fw_load_multiboot(boot, (unsigned)multiboot, &elf);
	return refuse(boot,
		      "it is an ELF file without a PVH note (Linux: CONFIG_PVH) and without a "
		      "multiboot header");
}
