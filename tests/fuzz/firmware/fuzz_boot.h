/*
 * Shared by the kernel loaders' targets: a small machine that outlives the runs, and one load from memory. What the loader
 * must keep for the firmware tables has to be untouched afterwards, whatever the kernel says.
 */
#pragma once

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "vm/firmware/boot_int.h"

#define FUZZ_RAM (8 * MIB)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static inline struct gmem *fuzz_memory(void)
{
	static struct gmem *mem;
	const struct gmem_config config = {.ram_bytes = FUZZ_RAM};

	if (!mem && gmem_new(&config, &mem, NULL) < 0)
		abort();
	return mem;
}

/* Where no kernel may be loaded, so none may be entered. */
static inline bool fuzz_is_firmware(uint64_t rip)
{
	return rip < FW_BIOS_DATA_END || (rip >= FW_LOADER_BASE && rip < FW_LOADER_END);
}

static inline void fuzz_load(const uint8_t *kernel, size_t size, const uint8_t *initrd,
			     size_t initrd_size)
{
	static const uint8_t untouched[FW_HIGH_BASE - FW_EBDA_BASE];
	static struct fw_boot boot;
	const struct fw_source k = {
		.what = "kernel", .name = "fuzz", .size = size, .fd = -1, .data = kernel};
	const struct fw_source i = {
		.what = "initrd", .name = "fuzz", .size = initrd_size, .fd = -1, .data = initrd};
	struct gmem *mem = fuzz_memory();
	const uint8_t *kept = gmem_ptr(mem, FW_EBDA_BASE, sizeof(untouched));
	struct error err = ERROR_INIT;
	int r;

	if (size == 0)
		return;
	memset(&boot, 0, sizeof(boot));
	boot.mem = mem;
	boot.kernel = &k;
	boot.initrd = initrd_size ? &i : NULL;
	boot.cmdline = "console=ttyS0";
	boot.rsdp = FW_ACPI_BASE;
	boot.err = &err;
	r = fw_boot_load(&boot);
	if (r > 0 || (r < 0) != (err.code < 0) || (r == 0 && fuzz_is_firmware(boot.regs.rip)))
		abort();
	if (memcmp(kept, untouched, sizeof(untouched)) != 0)
		abort();
}
