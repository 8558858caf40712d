/*
 * Loads a multiboot 1 image (GNU Multiboot Specification 0.6.96): small kernels and test kernels. Segments of an ELF file,
 * or the addresses in the header; then 32-bit flat mode with EAX the magic number and EBX the information structure. The
 * kernel's name stands before its command line, as kernels expect. No symbol tables, drives, APM or video modes.
 */
#include <errno.h>
#include <string.h>

#include "base/bits.h"
#include "base/endian.h"
#include "vm/firmware/elf_int.h"

#define HEADER_MAGIC 0x1BADB002U
#define BOOT_MAGIC   0x2BADB002U

/* Header flags, section 3.1.2. An unknown one among the lower sixteen must be refused. */
#define WANT_PAGE_ALIGNED BIT(0)
#define WANT_MEMORY       BIT(1)
#define WANT_VIDEO        BIT(2) /* a wish: text mode is a valid answer, and so is none */
#define WANT_ADDRESSES    BIT(16)
#define KNOWN_MUSTS       (WANT_PAGE_ALIGNED | WANT_MEMORY | WANT_VIDEO)

/* Information flags, section 3.3. */
#define HAVE_MEMORY  BIT(0)
#define HAVE_CMDLINE BIT(2)
#define HAVE_MODULES BIT(3)
#define HAVE_MEMMAP  BIT(6)
#define HAVE_LOADER  BIT(9)

struct mb_header {
	uint32_t flags;
	uint32_t header_addr, load_addr, load_end_addr, bss_end_addr, entry_addr;
};

struct mb_info {
	le32 flags, mem_lower, mem_upper, boot_device, cmdline, n_mods, mods, syms[4];
	le32 mmap_bytes, mmap, drives_bytes, drives, config_table, loader_name, apm;
};

struct mb_module {
	le32 start, end, string, reserved;
};

struct mb_memmap_entry {
	le32 size; /* of what follows */
	le64 gpa, bytes;
	le32 type;
} __attribute__((packed));

/* All of it in one page at FW_START_INFO_BASE. */
struct mb_area {
	struct mb_info info;
	struct mb_module module;
	struct mb_memmap_entry memmap[FIRMWARE_MEMMAP_MAX];
	char loader_name[8];
	char no_string[4];
};
_Static_assert(sizeof(struct mb_area) <= 4096, "the information must stay below the next table");

int fw_find_multiboot(const struct fw_boot *boot)
{
	for (size_t i = 0; i + 12 <= boot->head_len; i += 4) {
		uint32_t flags = (uint32_t)le_load(boot->head + i + 4, 4);
		uint32_t checksum = (uint32_t)le_load(boot->head + i + 8, 4);

		if (le_load(boot->head + i, 4) == HEADER_MAGIC &&
		    HEADER_MAGIC + flags + checksum == 0)
			return (int)i;
	}
	return -ENOENT;
}

static int refuse(struct fw_boot *boot, const char *why)
{
	return error_set(boot->err, -ENOEXEC, "the multiboot kernel '%s' cannot be booted: %s",
			 boot->kernel->name, why);
}

static int parse(struct fw_boot *boot, unsigned offset, struct mb_header *h)
{
	const uint8_t *p = boot->head + offset;

	memset(h, 0, sizeof(*h));
	h->flags = (uint32_t)le_load(p + 4, 4);
	if (h->flags & 0xFFFF & ~KNOWN_MUSTS)
		return refuse(boot,
			      "it asks for something that no version of the specification has");
	if (!(h->flags & WANT_ADDRESSES))
		return 0;
	if (offset + 32 > boot->head_len)
		return refuse(boot, "its header is cut off");
	h->header_addr = (uint32_t)le_load(p + 12, 4);
	h->load_addr = (uint32_t)le_load(p + 16, 4);
	h->load_end_addr = (uint32_t)le_load(p + 20, 4);
	h->bss_end_addr = (uint32_t)le_load(p + 24, 4);
	h->entry_addr = (uint32_t)le_load(p + 28, 4);
	return 0;
}

/* By the addresses in the header, section 3.1.3. */
static int load_flat(struct fw_boot *boot, unsigned offset, const struct mb_header *h,
		     struct fw_extent *ret)
{
	uint64_t before = h->header_addr - (uint64_t)h->load_addr; /* of the header, in the image */
	uint64_t file_offset, file_bytes, mem_bytes;
	int r;

	if (h->header_addr < h->load_addr || before > offset)
		return refuse(boot, "its header's addresses contradict the file");
	file_offset = offset - before;
	file_bytes = h->load_end_addr ? h->load_end_addr - (uint64_t)h->load_addr
				      : boot->kernel->size - file_offset;
	mem_bytes = h->bss_end_addr ? h->bss_end_addr - (uint64_t)h->load_addr : file_bytes;
	if ((h->load_end_addr && h->load_end_addr <= h->load_addr) ||
	    (h->bss_end_addr && mem_bytes < file_bytes) || mem_bytes > UINT32_MAX)
		return refuse(boot, "its header's addresses contradict each other");
	r = fw_check_room(boot, h->load_addr, mem_bytes);
	if (r == 0)
		r = fw_source_load(boot->kernel, file_offset, boot->mem, h->load_addr, file_bytes,
				   boot->err);
	if (r == 0)
		r = fw_zero(boot, h->load_addr + file_bytes, mem_bytes - file_bytes);
	if (r == 0)
		*ret = (struct fw_extent){h->load_addr, h->load_addr + mem_bytes};
	return r;
}

/* Kernels linked to run elsewhere give their entry as a virtual address. */
static uint64_t physical_entry(const struct fw_elf *elf)
{
	for (unsigned i = 0; i < elf->n; i++) {
		const struct fw_elf_segment *s = &elf->segments[i];

		if (s->mem_bytes > 0 && elf->entry - s->vaddr < s->mem_bytes)
			return elf->entry - s->vaddr + s->paddr;
	}
	return elf->entry;
}

/* The initrd follows the kernel, page-aligned: the only place that the kernels out there look after. */
static int load_module(struct fw_boot *boot, gpa_t end, struct mb_area *area)
{
	const uint32_t base = (uint32_t)FW_START_INFO_BASE;
	gpa_t start = align_up(end, 4096);

	if (!boot->initrd)
		return 0;
	area->module.start = le32_of((uint32_t)start);
	area->module.end = le32_of((uint32_t)(start + boot->initrd->size));
	area->module.string = le32_of(base + (uint32_t)offsetof(struct mb_area, no_string));
	area->info.n_mods = le32_of(1);
	area->info.mods = le32_of(base + (uint32_t)offsetof(struct mb_area, module));
	return fw_load_initrd_at(boot, start, end);
}

static void fill_info(const struct fw_boot *boot, struct mb_area *area)
{
	const uint32_t base = (uint32_t)FW_START_INFO_BASE;
	struct mb_info *info = &area->info;

	info->flags = le32_of((uint32_t)(HAVE_MEMORY | HAVE_CMDLINE | HAVE_MEMMAP | HAVE_LOADER |
					 (boot->initrd ? HAVE_MODULES : 0)));
	info->mem_lower = le32_of((uint32_t)(FW_EBDA_BASE / KIB));
	if (boot->map.low_end)
		info->mem_upper = le32_of((uint32_t)((boot->map.low_end - FW_HIGH_BASE) / KIB));
	info->cmdline = le32_of((uint32_t)FW_CMDLINE_BASE);
	info->mmap_bytes = le32_of((uint32_t)(boot->map.n * sizeof(area->memmap[0])));
	info->mmap = le32_of(base + (uint32_t)offsetof(struct mb_area, memmap));
	info->loader_name = le32_of(base + (uint32_t)offsetof(struct mb_area, loader_name));
	memcpy(area->loader_name, "Vireo", 6);
	for (unsigned i = 0; i < boot->map.n; i++)
		area->memmap[i] = (struct mb_memmap_entry){
			.size = le32_of(sizeof(struct mb_memmap_entry) - 4),
			.gpa = le64_of(boot->map.entries[i].gpa),
			.bytes = le64_of(boot->map.entries[i].size),
			.type = le32_of(boot->map.entries[i].type),
		};
}

static int put_cmdline(struct fw_boot *boot)
{
	char prefix[256];
	const char *slash = strrchr(boot->kernel->name, '/');
	size_t len = strnlen(slash ? slash + 1 : boot->kernel->name, sizeof(prefix) - 2);

	memcpy(prefix, slash ? slash + 1 : boot->kernel->name, len);
	prefix[len] = *boot->cmdline ? ' ' : '\0';
	prefix[len + 1] = '\0';
	return fw_put_cmdline(boot, prefix, FW_CMDLINE_BYTES - 1);
}

int fw_load_multiboot(struct fw_boot *boot, unsigned offset, const struct fw_elf *elf)
{
	struct mb_area area = {0};
	struct mb_header h;
	uint64_t entry;
	struct fw_extent at = {0};
	int r = parse(boot, offset, &h);

	if (r < 0)
		return r;
	if (h.flags & WANT_ADDRESSES) {
		r = load_flat(boot, offset, &h, &at);
		entry = h.entry_addr;
	} else if (elf) {
		r = fw_elf_load_segments(boot, elf, &at);
		entry = physical_entry(elf);
	} else {
		return refuse(boot, "it is no ELF file and its header gives no addresses");
	}
	if (r == 0 && (entry < at.start || entry >= at.end))
		r = refuse(boot, "its entry point is outside of it");
	if (r == 0)
		r = put_cmdline(boot);
	if (r == 0)
		r = load_module(boot, at.end, &area);
	if (r < 0)
		return r;
	fill_info(boot, &area);
	r = fw_put(boot, FW_START_INFO_BASE, &area, sizeof(area));
	if (r < 0)
		return r;
	boot->regs.rax = BOOT_MAGIC;
	boot->regs.rbx = FW_START_INFO_BASE;
	return fw_enter_32(boot, entry);
}
