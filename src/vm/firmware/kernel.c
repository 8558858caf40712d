#include "vm/firmware/kernel.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/endian.h"
#include "base/str.h"
#include "vm/firmware/elf_int.h"

int fw_put(struct fw_boot *boot, gpa_t gpa, const void *data, size_t len)
{
	int r = gmem_write(boot->mem, gpa, data, len);

	if (r < 0)
		return error_set(boot->err, r,
				 "the machine has too little memory to boot a kernel");
	return 0;
}

int fw_check_room(const struct fw_boot *boot, gpa_t start, uint64_t size)
{
	gpa_t low_end = boot->map.low_end;
	char need[32], have[32];

	if (start >= FW_HIGH_BASE && range_inside(start, size, low_end))
		return 0;
	if (start >= FW_BIOS_DATA_END && range_inside(start, size, FW_LOADER_BASE))
		return 0;
	if (start >= FW_LOADER_END && range_inside(start, size, FW_EBDA_BASE))
		return 0;
	if (start < FW_HIGH_BASE)
		return error_set(boot->err, -EINVAL,
				 "the kernel '%s' wants to be at 0x%llx, where the firmware keeps "
				 "its tables; link it to 1 MiB or above",
				 boot->kernel->name, (unsigned long long)start);
	if (!range_inside(start, size, GMEM_HOLE_START))
		return error_set(boot->err, -EINVAL,
				 "the kernel '%s' wants %llu bytes at 0x%llx, where no memory can "
				 "be",
				 boot->kernel->name, (unsigned long long)size,
				 (unsigned long long)start);
	format_size(align_up(start + size, MIB), need, sizeof(need));
	format_size(gmem_ram_bytes(boot->mem), have, sizeof(have));
	return error_set(
		boot->err, -ENOSPC,
		"the kernel '%s' needs at least %s of memory to start, and the machine has "
		"%s; give it more (--memory)",
		boot->kernel->name, need, have);
}

/* The first byte of [off, end) in the file behind guest memory that was ever written, or `end`. */
static off_t next_data(int fd, off_t off, off_t end)
{
	off_t data = lseek(fd, off, SEEK_DATA);

	if (data < 0)
		return errno == ENXIO ? end : off; /* no data left, or the file cannot tell */
	return data < off ? off : MIN(data, end);
}

static off_t next_hole(int fd, off_t off, off_t end)
{
	off_t hole = lseek(fd, off, SEEK_HOLE);

	return hole <= off ? end : MIN(hole, end);
}

int fw_zero(struct fw_boot *boot, gpa_t start, uint64_t size)
{
	const struct gmem_region *regions;
	size_t n = gmem_regions(boot->mem, &regions);

	for (size_t i = 0; i < n && size > 0; i++) {
		const struct gmem_region *r = &regions[i];
		off_t off, end;

		if (start < r->gpa || !range_inside(start - r->gpa, size, r->size))
			continue;
		off = (off_t)(r->fd_offset + (start - r->gpa));
		end = off + (off_t)size;
		while ((off = next_data(r->fd, off, end)) < end) {
			off_t stop = next_hole(r->fd, off, end);

			memset(r->hva + ((uint64_t)off - r->fd_offset), 0, (size_t)(stop - off));
			off = stop;
		}
		gmem_mark_dirty(boot->mem, start, size);
		return 0;
	}
	return size == 0 ? 0 : -EFAULT;
}

int fw_put_cmdline(struct fw_boot *boot, const char *prefix, uint64_t max)
{
	size_t prefix_len = strlen(prefix);
	size_t len = strlen(boot->cmdline);
	int r;

	max = MIN(max, FW_CMDLINE_BYTES - 1);
	if (prefix_len > max || len > max - prefix_len)
		return error_set(boot->err, -E2BIG,
				 "the kernel command line is %zu bytes long, and the kernel '%s' "
				 "takes %llu at most; shorten it",
				 len, boot->kernel->name,
				 (unsigned long long)(max - MIN(max, prefix_len)));
	r = fw_put(boot, FW_CMDLINE_BASE, prefix, prefix_len);
	if (r < 0)
		return r;
	return fw_put(boot, FW_CMDLINE_BASE + prefix_len, boot->cmdline, len + 1);
}

/* The last page-aligned place for `size` bytes in [floor, end), or 0. */
static gpa_t place_below(gpa_t floor, gpa_t end, uint64_t size)
{
	gpa_t gpa;

	if (end <= floor || size > end - floor)
		return 0;
	gpa = align_down(end - size, 4096);
	return gpa >= floor ? gpa : 0;
}

static gpa_t place_high(const struct fw_boot *boot, uint64_t size)
{
	for (unsigned i = boot->map.n; i-- > 0;) {
		const struct firmware_memmap_entry *e = &boot->map.entries[i];

		if (e->type == FIRMWARE_MEMMAP_RAM && e->gpa >= GMEM_HOLE_END && size <= e->size)
			return place_below(e->gpa, e->gpa + e->size, size);
	}
	return 0;
}

static int no_room_for_initrd(const struct fw_boot *boot, gpa_t kernel_end, uint64_t limit)
{
	char size[32], have[32], kernel[32], bound[32];

	format_size(boot->initrd->size, size, sizeof(size));
	format_size(gmem_ram_bytes(boot->mem), have, sizeof(have));
	format_size(kernel_end, kernel, sizeof(kernel));
	format_size(limit, bound, sizeof(bound));
	if (limit < boot->map.low_end)
		return error_set(boot->err, -E2BIG,
				 "the initrd '%s' is %s, and the kernel '%s' takes none that ends "
				 "above %s; use a smaller one",
				 boot->initrd->name, size, boot->kernel->name, bound);
	return error_set(
		boot->err, -ENOSPC,
		"the initrd '%s' is %s and does not fit: the machine has %s of memory, and "
		"the kernel takes it up to %s; give it more (--memory)",
		boot->initrd->name, size, have, kernel);
}

int fw_load_initrd(struct fw_boot *boot, gpa_t start, gpa_t end, uint64_t limit, bool above_4g,
		   gpa_t *ret_gpa)
{
	gpa_t gpa;
	int r;

	if (!boot->initrd)
		return 0;
	limit = MIN(limit, boot->map.low_end);
	gpa = place_below(end, limit, boot->initrd->size);
	if (!gpa)
		gpa = place_below(FW_HIGH_BASE, MIN(start, limit), boot->initrd->size);
	if (!gpa && above_4g)
		gpa = place_high(boot, boot->initrd->size);
	if (!gpa)
		return no_room_for_initrd(boot, end, above_4g ? UINT64_MAX : limit);
	r = fw_source_load(boot->initrd, 0, boot->mem, gpa, boot->initrd->size, boot->err);
	if (r == 0)
		*ret_gpa = gpa;
	return r;
}

int fw_load_initrd_at(struct fw_boot *boot, gpa_t gpa, gpa_t kernel_end)
{
	if (!boot->initrd)
		return 0;
	if (!range_inside(gpa, boot->initrd->size, boot->map.low_end))
		return no_room_for_initrd(boot, kernel_end, UINT64_MAX);
	return fw_source_load(boot->initrd, 0, boot->mem, gpa, boot->initrd->size, boot->err);
}

/* Segment descriptors (Intel SDM volume 3, 3.4.5): present, accessed, base 0, limit 4 GiB by pages. */
#define GDT_CODE32 0x00CF9B000000FFFFULL
#define GDT_CODE64 0x00AF9B000000FFFFULL
#define GDT_DATA   0x00CF93000000FFFFULL
#define GDT_TSS    0x00008B000000FFFFULL /* busy 32- or 64-bit TSS at 0; its upper half is zero */

#define SELECTOR_CODE 0x10 /* __BOOT_CS and __BOOT_DS of the Linux boot protocol */
#define SELECTOR_DATA 0x18
#define SELECTOR_TSS  0x20

static int put_gdt(struct fw_boot *boot, uint64_t code)
{
	const le64 gdt[] = {le64_of(0),        le64_of(0),       le64_of(code),
			    le64_of(GDT_DATA), le64_of(GDT_TSS), le64_of(0)};

	boot->regs.cs_selector = SELECTOR_CODE;
	boot->regs.ds_selector = SELECTOR_DATA;
	boot->regs.tss_selector = SELECTOR_TSS;
	boot->regs.gdt_base = FW_GDT_BASE;
	boot->regs.gdt_limit = sizeof(gdt) - 1;
	return fw_put(boot, FW_GDT_BASE, gdt, sizeof(gdt));
}

int fw_enter_32(struct fw_boot *boot, uint64_t entry)
{
	boot->regs.mode = X86_BOOT_PROTECTED32;
	boot->regs.rip = entry;
	boot->regs.rsp = FW_STACK_TOP;
	return put_gdt(boot, GDT_CODE32);
}

/* Page table entries (Intel SDM volume 3, 4.5). */
#define PTE_TABLE 0x03ULL /* present, writable */
#define PTE_LARGE 0x83ULL /* present, writable, 2 MiB page */

static int put_page_tables(struct fw_boot *boot)
{
	le64 page[512] = {le64_of((FW_PAGE_TABLE_BASE + 4096) | PTE_TABLE)};
	int r = fw_put(boot, FW_PAGE_TABLE_BASE, page, sizeof(page));

	for (uint64_t i = 0; i < ARRAY_SIZE(page); i++)
		page[i] = le64_of(i < 4 ? (FW_PAGE_TABLE_BASE + (2 + i) * 4096) | PTE_TABLE : 0);
	if (r == 0)
		r = fw_put(boot, FW_PAGE_TABLE_BASE + 4096, page, sizeof(page));
	for (uint64_t table = 0; table < 4 && r == 0; table++) {
		for (uint64_t i = 0; i < ARRAY_SIZE(page); i++)
			page[i] = le64_of((table * GIB + i * 2 * MIB) | PTE_LARGE);
		r = fw_put(boot, FW_PAGE_TABLE_BASE + (2 + table) * 4096, page, sizeof(page));
	}
	return r;
}

int fw_enter_64(struct fw_boot *boot, uint64_t entry)
{
	int r = put_gdt(boot, GDT_CODE64);

	boot->regs.mode = X86_BOOT_LONG64;
	boot->regs.rip = entry;
	boot->regs.rsp = FW_STACK_TOP;
	boot->regs.cr3 = FW_PAGE_TABLE_BASE;
	return r < 0 ? r : put_page_tables(boot);
}

static int foreign(const struct fw_boot *boot)
{
	const char *guess = fw_guess(boot->head, boot->head_len);

	if (guess)
		return error_set(boot->err, -ENOEXEC, "the kernel '%s' cannot be booted: it is %s",
				 boot->kernel->name, guess);
	return error_set(boot->err, -ENOEXEC,
			 "the kernel '%s' cannot be booted: it is neither a bzImage, nor an ELF "
			 "file with a PVH note, nor a multiboot image",
			 boot->kernel->name);
}

int fw_boot_load(struct fw_boot *boot)
{
	int multiboot;
	int r = firmware_memmap_build(boot->mem, &boot->map);

	if (r < 0)
		return error_set(boot->err, r, "the memory map has too many entries");
	boot->head_len = MIN(boot->kernel->size, sizeof(boot->head));
	r = fw_source_read(boot->kernel, 0, boot->head, boot->head_len, boot->err);
	if (r < 0)
		return r;
	if (fw_is_elf(boot))
		return fw_load_elf(boot);
	if (fw_is_bzimage(boot))
		return fw_load_bzimage(boot);
	multiboot = fw_find_multiboot(boot);
	if (multiboot >= 0)
		return fw_load_multiboot(boot, (unsigned)multiboot, NULL);
	return foreign(boot);
}

/* Too large for a stack. */
struct load {
	struct fw_boot boot;
	struct fw_source kernel, initrd;
};

static int load_files(struct load *load, const struct firmware_kernel_config *config)
{
	struct fw_boot *boot = &load->boot;
	int r = fw_source_open(&load->kernel, "kernel", config->kernel_path, config->kernel_fd,
			       boot->err);

	if (r < 0)
		return r;
	boot->kernel = &load->kernel;
	if (config->initrd_path || config->initrd_fd >= 0) {
		r = fw_source_open(&load->initrd, "initrd", config->initrd_path, config->initrd_fd,
				   boot->err);
		if (r < 0)
			return r;
		boot->initrd = &load->initrd;
	}
	return fw_boot_load(boot);
}

int firmware_load_kernel(struct gmem *mem, const struct firmware_kernel_config *config,
			 struct x86_boot_regs *ret, struct error *err)
{
	struct load *load = calloc(1, sizeof(*load));
	int r;

	if (!load)
		return error_set(err, -ENOMEM, "no memory to load a kernel");
	load->boot.mem = mem;
	load->boot.cmdline = config->cmdline ? config->cmdline : "";
	load->boot.rsdp = config->rsdp;
	load->boot.err = err;
	r = load_files(load, config);
	if (r == 0)
		*ret = load->boot.regs;
	fw_source_close(&load->kernel);
	fw_source_close(&load->initrd);
	free(load);
	return r;
}
