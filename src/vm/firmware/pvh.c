/*
 * The PVH entry (Xen: docs/misc/pvh.pandoc): 32-bit flat mode, EBX points to a start info of version 1 with memory map,
 * modules, command line and RSDP.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "base/endian.h"
#include "vm/firmware/elf_int.h"

#define PVH_MAGIC   0x336EC578U
#define PVH_VERSION 1

/* struct hvm_start_info of public/arch-x86/hvm/start_info.h, and what it points to. */
struct pvh_start_info {
	le32 magic, version, flags, n_modules;
	le64 modlist_gpa, cmdline_gpa, rsdp_gpa, memmap_gpa;
	le32 memmap_entries, reserved;
};

struct pvh_module {
	le64 gpa, size, cmdline_gpa, reserved;
};

struct pvh_memmap_entry {
	le64 gpa, size;
	le32 type, reserved;
};

/* All of it in one page at FW_START_INFO_BASE. */
struct pvh_area {
	struct pvh_start_info info;
	struct pvh_module module;
	struct pvh_memmap_entry memmap[FIRMWARE_MEMMAP_MAX];
};
_Static_assert(sizeof(struct pvh_area) <= 4096, "the start info must stay below the next table");

static int put_start_info(struct fw_boot *boot, gpa_t initrd)
{
	const gpa_t base = FW_START_INFO_BASE;
	struct pvh_area area = {
		.info.magic = le32_of(PVH_MAGIC),
		.info.version = le32_of(PVH_VERSION),
		.info.cmdline_gpa = le64_of(FW_CMDLINE_BASE),
		.info.rsdp_gpa = le64_of(boot->rsdp),
		.info.memmap_gpa = le64_of(base + offsetof(struct pvh_area, memmap)),
		.info.memmap_entries = le32_of(boot->map.n),
	};

	if (boot->initrd) {
		area.info.n_modules = le32_of(1);
		area.info.modlist_gpa = le64_of(base + offsetof(struct pvh_area, module));
		area.module.gpa = le64_of(initrd);
		area.module.size = le64_of(boot->initrd->size);
	}
	for (unsigned i = 0; i < boot->map.n; i++)
		area.memmap[i] = (struct pvh_memmap_entry){
			.gpa = le64_of(boot->map.entries[i].gpa),
			.size = le64_of(boot->map.entries[i].size),
			.type = le32_of(boot->map.entries[i].type),
		};
	return fw_put(boot, base, &area, sizeof(area));
}

int fw_load_pvh(struct fw_boot *boot, const struct fw_elf *elf, uint64_t entry)
{
	struct fw_extent at = {0};
	gpa_t initrd = 0;
	int r = fw_elf_load_segments(boot, elf, &at);

	if (r == 0 && (entry < at.start || entry >= at.end))
		r = error_set(boot->err, -ENOEXEC,
			      "the kernel '%s' cannot be booted: its PVH entry 0x%llx is outside "
			      "of it",
			      boot->kernel->name, (unsigned long long)entry);
	if (r == 0)
		r = fw_put_cmdline(boot, "", FW_CMDLINE_BYTES - 1);
	if (r == 0)
		r = fw_load_initrd(boot, at.start, at.end, GMEM_HOLE_START, false, &initrd);
	if (r == 0)
		r = put_start_info(boot, initrd);
	if (r < 0)
		return r;
	boot->regs.rbx = FW_START_INFO_BASE;
	return fw_enter_32(boot, entry);
}
