#include "firmware/synthetic.h"

#include <errno.h>

#include "vm/accel/x86.h"
#include "vm/firmware/kernel.h"
#include "vm/firmware/layout.h"
#include "vm/firmware/memmap.h"

#define RSDP 0xE0000

struct loaded {
	struct gmem *mem;
	struct x86_boot_regs regs;
	struct error err;
	int r;
};

static struct loaded load_with(const void *kernel, size_t len, uint64_t ram, const void *initrd,
			       size_t initrd_len, const char *cmdline)
{
	struct firmware_kernel_config config = FIRMWARE_KERNEL_CONFIG_INIT;
	struct loaded l = {.mem = guest_memory(ram)};

	config.kernel_path = "vmlinuz";
	config.kernel_fd = file_of(kernel, len);
	if (initrd) {
		config.initrd_path = "initrd.img";
		config.initrd_fd = file_of(initrd, initrd_len);
	}
	config.cmdline = cmdline;
	config.rsdp = RSDP;
	l.r = firmware_load_kernel(l.mem, &config, &l.regs, &l.err);
	close(config.kernel_fd);
	if (initrd)
		close(config.initrd_fd);
	return l;
}

static struct loaded load(const void *kernel, size_t len, uint64_t ram)
{
	return load_with(kernel, len, ram, NULL, 0, NULL);
}

static void assert_loaded(struct loaded *l)
{
	if (l->r < 0)
		fail_msg("%s", l->err.text);
}

/* The message must name the file and hold `text`. */
static void assert_refused(struct loaded l, const char *text)
{
	assert_true(l.r < 0);
	assert_int_equal(l.err.code, l.r);
	if (!strstr(l.err.text, text) || !strstr(l.err.text, "'"))
		fail_msg("'%s' is not in: %s", text, l.err.text);
	gmem_free(l.mem);
}

static void assert_guest_has(const struct gmem *mem, gpa_t gpa, const void *data, size_t len)
{
	const void *there = gmem_ptr_ro(mem, gpa, len);

	assert_non_null(there);
	assert_memory_equal(there, data, len);
}

/* --- bzImage --- */

static void bzimage_enters_in_long_mode(void **state)
{
	static uint8_t image[BZ_BYTES];
	struct loaded l;

	(void)state;
	make_bzimage(image);
	l = load_with(image, sizeof(image), 64 * MIB, "cpio", 4, "console=ttyS0");
	assert_loaded(&l);
	assert_int_equal(l.regs.mode, X86_BOOT_LONG64);
	assert_int_equal(l.regs.rip, 0x1000200);
	assert_guest_has(l.mem, 0x1000000, image + BZ_SETUP_BYTES, BZ_PAYLOAD_BYTES);
	assert_int_equal(l.regs.cs_selector, 0x10);
	assert_int_equal(l.regs.ds_selector, 0x18);
	assert_int_equal(guest_load(l.mem, l.regs.gdt_base + 0x10, 8), 0x00AF9B000000FFFF);
	assert_true(l.regs.gdt_limit >= 0x2F);
	gmem_free(l.mem);
}

/* Walks the page tables as a processor does. */
static uint64_t translate(const struct gmem *mem, uint64_t cr3, uint64_t va)
{
	uint64_t e = guest_load(mem, cr3 + (va >> 39 & 511) * 8, 8);

	assert_int_equal(e & 1, 1);
	e = guest_load(mem, (e & ~0xFFFULL) + (va >> 30 & 511) * 8, 8);
	assert_int_equal(e & 0x81, 1);
	e = guest_load(mem, (e & ~0xFFFULL) + (va >> 21 & 511) * 8, 8);
	assert_int_equal(e & 0x81, 0x81);
	return (e & ~0x1FFFFFULL) + (va & 0x1FFFFF);
}

static void page_tables_map_four_gib(void **state)
{
	static const uint64_t probes[] = {0, 0x7123, 0x1000200, 0xBFFFFFFF, 0xFFFFFFFF};
	static uint8_t image[BZ_BYTES];
	struct loaded l;

	(void)state;
	make_bzimage(image);
	l = load(image, sizeof(image), 64 * MIB);
	assert_loaded(&l);
	for (size_t i = 0; i < ARRAY_SIZE(probes); i++)
		assert_int_equal(translate(l.mem, l.regs.cr3, probes[i]), probes[i]);
	gmem_free(l.mem);
}

static void boot_params_tell_all(void **state)
{
	static uint8_t image[BZ_BYTES], initrd[12345];
	struct boot_params p;
	struct loaded l;

	(void)state;
	make_bzimage(image);
	fill_pattern(initrd, sizeof(initrd));
	l = load_with(image, sizeof(image), 5 * GIB, initrd, sizeof(initrd), "quiet splash");
	assert_loaded(&l);
	assert_int_equal(gmem_read(l.mem, l.regs.rsi, &p, sizeof(p)), 0);
	assert_int_equal(p.hdr.header, 0x53726448);
	assert_int_equal(p.hdr.type_of_loader, 0xFF);
	assert_int_equal(p.acpi_rsdp_addr, RSDP);
	assert_int_equal(p.sentinel, 0);
	assert_guest_has(l.mem, p.hdr.cmd_line_ptr, "quiet splash", 13);
	/* the highest place that the kernel allows */
	assert_int_equal(p.hdr.ramdisk_size, sizeof(initrd));
	assert_int_equal(p.hdr.ramdisk_image, 0x7FFFC000);
	assert_int_equal(p.ext_ramdisk_image, 0);
	assert_guest_has(l.mem, 0x7FFFC000, initrd, sizeof(initrd));
	assert_int_equal(p.e820_entries, 6);
	assert_int_equal(p.e820_table[0].size, 0x9FC00);
	assert_int_equal(p.e820_table[3].addr, 0x100000);
	assert_int_equal(p.e820_table[3].size, GMEM_HOLE_START - 0x100000);
	assert_int_equal(p.e820_table[5].addr, 4 * GIB);
	assert_int_equal(p.e820_table[5].size, 2 * GIB);
	gmem_free(l.mem);
}

static void initrd_goes_where_there_is_room(void **state)
{
	static uint8_t image[BZ_BYTES];
	struct setup_header *h = make_bzimage(image);
	struct boot_params p;
	struct loaded l;

	(void)state;
	h->initrd_addr_max = 0x18FFFFF; /* leaves 1 MiB above the kernel */
	l = load_with(image, sizeof(image), 4 * GIB, image, sizeof(image), "");
	assert_loaded(&l);
	assert_int_equal(gmem_read(l.mem, l.regs.rsi, &p, sizeof(p)), 0);
	assert_int_equal(p.hdr.ramdisk_image, 0x18FA000);
	gmem_free(l.mem);

	h->initrd_addr_max = 0x1800000; /* leaves nothing above the kernel, but something below */
	l = load_with(image, sizeof(image), 4 * GIB, image, sizeof(image), "");
	assert_loaded(&l);
	assert_int_equal(gmem_read(l.mem, l.regs.rsi, &p, sizeof(p)), 0);
	assert_int_equal(p.hdr.ramdisk_image, 0xFFA000);
	assert_guest_has(l.mem, 0xFFA000, image, sizeof(image));
	gmem_free(l.mem);

	h->initrd_addr_max = 0x101000; /* leaves nothing */
	l = load_with(image, sizeof(image), 4 * GIB, image, sizeof(image), "");
	assert_loaded(&l);
	assert_int_equal(gmem_read(l.mem, l.regs.rsi, &p, sizeof(p)), 0);
	assert_int_equal(p.ext_ramdisk_image, 1);
	assert_int_equal(p.hdr.ramdisk_image, GIB - align_up(sizeof(image), 4096));
	gmem_free(l.mem);

	h->xloadflags = XLF_KERNEL_64;
	assert_refused(load_with(image, sizeof(image), 4 * GIB, image, sizeof(image), ""),
		       "takes none that ends above");
}

static void old_kernel_enters_in_protected_mode(void **state)
{
	static uint8_t image[BZ_BYTES];
	struct setup_header *h = make_bzimage(image);
	struct loaded l;

	(void)state;
	h->xloadflags = 0;
	l = load(image, sizeof(image), 64 * MIB);
	assert_loaded(&l);
	assert_int_equal(l.regs.mode, X86_BOOT_PROTECTED32);
	assert_int_equal(l.regs.rip, 0x1000000);
	assert_int_equal(l.regs.rbx | l.regs.rdi | l.regs.rbp, 0);
	assert_int_equal(guest_load(l.mem, l.regs.gdt_base + 0x10, 8), 0x00CF9B000000FFFF);
	gmem_free(l.mem);

	h->version = 0x0203;
	h->jump = 0x2CEB; /* its header is as short as its protocol is old */
	l = load(image, sizeof(image), 64 * MIB);
	assert_loaded(&l);
	assert_int_equal(l.regs.rip, 0x100000);
	assert_guest_has(l.mem, 0x100000, image + BZ_SETUP_BYTES, BZ_PAYLOAD_BYTES);
	gmem_free(l.mem);
}

static void bad_bzimage_is_refused(void **state)
{
	static uint8_t image[BZ_BYTES], long_cmdline[4096];
	struct setup_header *h = make_bzimage(image);

	(void)state;
	assert_refused(load(image, sizeof(image) - 100, 64 * MIB), "truncated");
	assert_refused(load(image, BZ_SETUP_BYTES, 64 * MIB), "truncated");
	assert_refused(load(image, sizeof(image), 16 * MIB), "needs at least 24 MiB");
	h->init_size = 0xFFFFFFFF;
	assert_refused(load(image, sizeof(image), 64 * MIB), "no memory can be");
	make_bzimage(image);
	h->pref_address = 0xFFFFFFFFFFFFF000;
	assert_refused(load(image, sizeof(image), 64 * MIB), "no memory can be");
	h->pref_address = 0x8000;
	assert_refused(load(image, sizeof(image), 64 * MIB), "1 MiB or above");
	make_bzimage(image);
	h->loadflags = 0;
	assert_refused(load(image, sizeof(image), 64 * MIB), "zImage");
	make_bzimage(image);
	h->version = 0x0201;
	assert_refused(load(image, sizeof(image), 64 * MIB), "2.01");
	make_bzimage(image);
	memset(long_cmdline, 'x', 2048);
	assert_refused(load_with(image, sizeof(image), 64 * MIB, NULL, 0, (char *)long_cmdline),
		       "takes 2047 at most");
}

static void initrd_larger_than_memory_is_refused(void **state)
{
	static uint8_t image[BZ_BYTES];
	uint8_t *initrd = calloc(1, 41 * MIB);

	(void)state;
	make_bzimage(image);
	assert_non_null(initrd);
	assert_refused(
		load_with(image, sizeof(image), 64 * MIB, initrd, 41 * MIB, ""),
		"the initrd 'initrd.img' is 41 MiB and does not fit: the machine has 64 MiB");
	assert_refused(load_with(image, sizeof(image), 64 * MIB, initrd, 0, ""), "is empty");
	free(initrd);
}

/* --- ELF --- */

static void check_pvh(struct loaded *l, const uint8_t *image, const void *initrd, size_t initrd_len)
{
	gpa_t info, map;

	assert_loaded(l);
	info = l->regs.rbx;
	assert_int_equal(l->regs.mode, X86_BOOT_PROTECTED32);
	assert_int_equal(l->regs.rip, ELF_GPA + 0x40);
	assert_guest_has(l->mem, ELF_GPA, image + ELF_SEGMENT_OFFSET, ELF_SEGMENT_BYTES);
	assert_int_equal(guest_load(l->mem, info, 4), 0x336EC578);
	assert_int_equal(guest_load(l->mem, info + 4, 4), 1);
	assert_guest_has(l->mem, guest_load(l->mem, info + 24, 8), "root=/dev/vda", 14);
	assert_int_equal(guest_load(l->mem, info + 32, 8), RSDP);
	map = guest_load(l->mem, info + 40, 8);
	assert_int_equal(guest_load(l->mem, info + 48, 4), 5);
	assert_int_equal(guest_load(l->mem, map + 8, 8), 0x9FC00);
	assert_int_equal(guest_load(l->mem, map + 16, 4), FIRMWARE_MEMMAP_RAM);
	if (initrd) {
		gpa_t mod = guest_load(l->mem, info + 16, 8);

		assert_int_equal(guest_load(l->mem, info + 12, 4), 1);
		assert_int_equal(guest_load(l->mem, mod + 8, 8), initrd_len);
		assert_guest_has(l->mem, guest_load(l->mem, mod, 8), initrd, initrd_len);
	}
	gmem_free(l->mem);
}

static void elf_enters_by_its_pvh_note(void **state)
{
	static uint8_t image[ELF_BYTES];
	struct loaded l;

	(void)state;
	make_elf64(image);
	l = load_with(image, sizeof(image), 64 * MIB, image, 300, "root=/dev/vda");
	check_pvh(&l, image, image, 300);
	make_elf32(image);
	l = load_with(image, sizeof(image), 64 * MIB, NULL, 0, "root=/dev/vda");
	check_pvh(&l, image, NULL, 0);
}

/* On a reset the kernel is loaded over what the guest left behind. */
static void bss_is_zero_also_the_second_time(void **state)
{
	static uint8_t image[ELF_BYTES], zeroes[ELF_BSS_BYTES];
	struct firmware_kernel_config config = FIRMWARE_KERNEL_CONFIG_INIT;
	struct loaded l = {.mem = guest_memory(64 * MIB)};
	const gpa_t bss = ELF_GPA + ELF_SEGMENT_BYTES;

	(void)state;
	make_elf64(image);
	config.kernel_fd = file_of(image, sizeof(image));
	memset(gmem_ptr(l.mem, ELF_GPA, 64 * KIB), 0xCC, 64 * KIB);
	for (int i = 0; i < 2; i++) {
		l.r = firmware_load_kernel(l.mem, &config, &l.regs, &l.err);
		assert_loaded(&l);
		assert_guest_has(l.mem, bss, zeroes, sizeof(zeroes));
		assert_guest_has(l.mem, ELF_GPA, image + ELF_SEGMENT_OFFSET, ELF_SEGMENT_BYTES);
		assert_int_equal(guest_load(l.mem, bss + ELF_BSS_BYTES, 1), 0xCC);
		memset(gmem_ptr(l.mem, bss, ELF_BSS_BYTES), 0xCC, ELF_BSS_BYTES);
	}
	close(config.kernel_fd);
	gmem_free(l.mem);
}

static void bad_elf_is_refused(void **state)
{
	static uint8_t image[ELF_BYTES];
	struct elf64 *e = make_elf64(image);

	(void)state;
	assert_refused(load(image, 40, 64 * MIB), "truncated");
	assert_refused(load(image, 100, 64 * MIB), "cut off");
	assert_refused(load(image, sizeof(image) - 1, 64 * MIB), "truncated");
	e->ehdr.e_phnum = 65535;
	assert_refused(load(image, sizeof(image), 64 * MIB), "program headers");
	e->ehdr.e_phnum = 2;
	e->ehdr.e_phoff = UINT64_MAX - 8;
	assert_refused(load(image, sizeof(image), 64 * MIB), "program headers");
	e->ehdr.e_phoff = offsetof(struct elf64, load);
	e->ehdr.e_machine = EM_AARCH64;
	assert_refused(load(image, sizeof(image), 64 * MIB), "another processor");
	e->ehdr.e_machine = EM_X86_64;
	e->ehdr.e_type = ET_REL;
	assert_refused(load(image, sizeof(image), 64 * MIB), "no executable");
	e->ehdr.e_type = ET_EXEC;
	e->load.p_filesz = e->load.p_memsz + 1;
	assert_refused(load(image, sizeof(image), 64 * MIB), "larger in the file");
	make_elf64(image);
	e->load.p_memsz = UINT64_MAX;
	assert_refused(load(image, sizeof(image), 64 * MIB), "no memory can be");
	e->load.p_memsz = 100 * MIB;
	assert_refused(load(image, sizeof(image), 64 * MIB), "needs at least 102 MiB");
	make_elf64(image);
	e->load.p_paddr = 0x400;
	assert_refused(load(image, sizeof(image), 64 * MIB), "1 MiB or above");
	e->load.p_paddr = FW_LOADER_END - 0x1000;
	assert_refused(load(image, sizeof(image), 64 * MIB), "1 MiB or above");
	e->load.p_paddr = FW_LOADER_BASE - 0x1000;
	assert_refused(load(image, sizeof(image), 64 * MIB), "1 MiB or above");
	e->load.p_paddr = 0x9F000;
	assert_refused(load(image, sizeof(image), 64 * MIB), "1 MiB or above");
	make_elf64(image);
	e->note.p_filesz = 40; /* cuts the note off */
	assert_refused(load(image, sizeof(image), 64 * MIB), "PVH note");
}

/* --- multiboot --- */

/* Puts a multiboot header where a kernel's text begins. */
static void put_multiboot(uint8_t *at, uint32_t flags)
{
	le_store(at, 4, 0x1BADB002);
	le_store(at + 4, 4, flags);
	le_store(at + 8, 4, -(0x1BADB002 + flags));
}

static void check_multiboot(struct loaded *l, const uint8_t *text, size_t len, uint32_t entry,
			    const char *cmdline)
{
	gpa_t info, map;

	assert_loaded(l);
	info = l->regs.rbx;
	assert_int_equal(l->regs.mode, X86_BOOT_PROTECTED32);
	assert_int_equal(l->regs.rax, 0x2BADB002);
	assert_int_equal(l->regs.rip, entry);
	assert_guest_has(l->mem, ELF_GPA, text, len);
	assert_int_equal(guest_load(l->mem, info, 4) & 0x45, 0x45);
	assert_int_equal(guest_load(l->mem, info + 8, 4), 63 * 1024);
	assert_guest_has(l->mem, guest_load(l->mem, info + 16, 4), cmdline, strlen(cmdline) + 1);
	assert_int_equal(guest_load(l->mem, info + 44, 4), 5 * 24);
	map = guest_load(l->mem, info + 48, 4);
	assert_int_equal(guest_load(l->mem, map, 4), 20);
	assert_int_equal(guest_load(l->mem, map + 12, 8), 0x9FC00);
	gmem_free(l->mem);
}

static void multiboot_elf_is_entered(void **state)
{
	static uint8_t image[ELF_BYTES];
	struct loaded l;
	gpa_t mod;

	(void)state;
	make_elf32(image)->ehdr.e_phnum = 1; /* no PVH note */
	put_multiboot(image + ELF_SEGMENT_OFFSET, 3);
	l = load_with(image, sizeof(image), 64 * MIB, "module", 7, "a b");
	assert_loaded(&l);
	mod = guest_load(l.mem, l.regs.rbx + 24, 4);
	assert_int_equal(guest_load(l.mem, l.regs.rbx + 20, 4), 1);
	assert_int_equal(guest_load(l.mem, mod, 4),
			 align_up(ELF_GPA + ELF_SEGMENT_BYTES + ELF_BSS_BYTES, 4096));
	assert_int_equal(guest_load(l.mem, mod + 4, 4) - guest_load(l.mem, mod, 4), 7);
	assert_guest_has(l.mem, guest_load(l.mem, mod, 4), "module", 7);
	check_multiboot(&l, image + ELF_SEGMENT_OFFSET, ELF_SEGMENT_BYTES, ELF_GPA + 0x10,
			"vmlinuz a b");

	/* 64-bit, with a virtual entry */
	make_elf64(image)->ehdr.e_phnum = 1;
	((struct elf64 *)image)->ehdr.e_entry = 0xFFFFFFFF80200020;
	put_multiboot(image + ELF_SEGMENT_OFFSET, 0);
	l = load(image, sizeof(image), 64 * MIB);
	check_multiboot(&l, image + ELF_SEGMENT_OFFSET, ELF_SEGMENT_BYTES, ELF_GPA + 0x20,
			"vmlinuz");
}

static void multiboot_flat_is_entered(void **state)
{
	static uint8_t image[6000];
	struct loaded l;
	uint8_t *h = image + 100;

	(void)state;
	fill_pattern(image, sizeof(image));
	put_multiboot(h, 1 << 16);
	le_store(h + 12, 4, ELF_GPA + 36); /* the header is 36 bytes into what is loaded */
	le_store(h + 16, 4, ELF_GPA);
	le_store(h + 20, 4, ELF_GPA + 5000);
	le_store(h + 24, 4, ELF_GPA + 9000);
	le_store(h + 28, 4, ELF_GPA + 64);
	l = load(image, sizeof(image), 64 * MIB);
	check_multiboot(&l, image + 64, 5000, ELF_GPA + 64, "vmlinuz");

	le_store(h + 20, 4, 0); /* to the end of the file */
	le_store(h + 24, 4, 0); /* no bss */
	l = load(image, sizeof(image), 64 * MIB);
	check_multiboot(&l, image + 64, sizeof(image) - 64, ELF_GPA + 64, "vmlinuz");

	le_store(h + 20, 4, ELF_GPA + 8000);
	assert_refused(load(image, sizeof(image), 64 * MIB), "truncated");
	le_store(h + 20, 4, ELF_GPA - 1);
	assert_refused(load(image, sizeof(image), 64 * MIB), "contradict each other");
	le_store(h + 20, 4, ELF_GPA + 5000);
	le_store(h + 24, 4, ELF_GPA + 4999);
	assert_refused(load(image, sizeof(image), 64 * MIB), "contradict each other");
	le_store(h + 24, 4, 0);
	le_store(h + 28, 4, ELF_GPA + 5000);
	assert_refused(load(image, sizeof(image), 64 * MIB), "entry point");
	le_store(h + 12, 4, ELF_GPA + 101);
	assert_refused(load(image, sizeof(image), 64 * MIB), "contradict the file");
	put_multiboot(h, 8);
	assert_refused(load(image, sizeof(image), 64 * MIB), "no version of the specification");
	put_multiboot(h, 0);
	assert_refused(load(image, sizeof(image), 64 * MIB), "gives no addresses");
}

/* --- files that are no kernel --- */

static void foreign_files_are_named(void **state)
{
	static const struct {
		const char *data;
		size_t len;
		const char *want;
	} files[] = {
		{"\x1f\x8b\x08 and so on", 13, "gzip"}, {"#!/bin/sh\nexec", 14, "a script"},
		{"MZ\0\0and more of this", 20, "EFI"},  {"070701000", 9, "cpio"},
		{"QFI\xfb\0\0\0\3", 8, "qcow2"},        {"x", 1, "neither a bzImage"},
	};
	static uint8_t arm[128];

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(files); i++)
		assert_refused(load(files[i].data, files[i].len, 32 * MIB), files[i].want);
	memcpy(arm + 56, "ARM\x64", 4);
	assert_refused(load(arm, sizeof(arm), 32 * MIB), "64-bit ARM");
	assert_refused(load("", 0, 32 * MIB), "empty");
}

static void paths_that_are_no_files_are_named(void **state)
{
	struct firmware_kernel_config config = FIRMWARE_KERNEL_CONFIG_INIT;
	struct gmem *mem = guest_memory(32 * MIB);
	struct x86_boot_regs regs;
	struct error err = ERROR_INIT;

	(void)state;
	config.kernel_path = "/nowhere/vmlinuz";
	assert_int_equal(firmware_load_kernel(mem, &config, &regs, &err), -ENOENT);
	assert_non_null(strstr(err.text, "'/nowhere/vmlinuz'"));
	config.kernel_path = "/tmp";
	assert_int_equal(firmware_load_kernel(mem, &config, &regs, &err), -EISDIR);
	config.kernel_path = "/dev/null";
	assert_int_equal(firmware_load_kernel(mem, &config, &regs, &err), -EINVAL);
	gmem_free(mem);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(bzimage_enters_in_long_mode),
		cmocka_unit_test(page_tables_map_four_gib),
		cmocka_unit_test(boot_params_tell_all),
		cmocka_unit_test(initrd_goes_where_there_is_room),
		cmocka_unit_test(old_kernel_enters_in_protected_mode),
		cmocka_unit_test(bad_bzimage_is_refused),
		cmocka_unit_test(initrd_larger_than_memory_is_refused),
		cmocka_unit_test(elf_enters_by_its_pvh_note),
		cmocka_unit_test(bss_is_zero_also_the_second_time),
		cmocka_unit_test(bad_elf_is_refused),
		cmocka_unit_test(multiboot_elf_is_entered),
		cmocka_unit_test(multiboot_flat_is_entered),
		cmocka_unit_test(foreign_files_are_named),
		cmocka_unit_test(paths_that_are_no_files_are_named),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
