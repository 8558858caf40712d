/*
 * Loads a bzImage by the Linux x86 boot protocol (Documentation/arch/x86/boot.rst, zero-page.rst): the 64-bit entry of
 * protocol 2.12 where the kernel has one, else the 32-bit entry. The kernel unpacks itself; this only places it. Not
 * supported: zImage (loaded below 1 MiB), the 16-bit entry, protocols before 2.02.
 */
#include <asm/bootparam.h>
#include <errno.h>
#include <string.h>
#include <sys/random.h>

#include "base/bits.h"
#include "base/endian.h"
#include "vm/firmware/boot_int.h"

/* Offsets in the file; from 0x1f1 on the file has what struct setup_header describes. */
#define BZ_HEADER       0x1F1
#define BZ_BOOT_FLAG    0x1FE /* 0xAA55 */
#define BZ_JUMP_TARGET  0x201 /* header end, relative to the next byte */
#define BZ_MAGIC        0x202 /* "HdrS" */
#define BZ_HEADER_START 0x202

#define BZ_ENTRY_64 0x200 /* from where the protected-mode code was loaded */

#define LOADER_UNKNOWN 0xFF /* type_of_loader: no identifier assigned */
#define VIDEO_NORMAL   0xFFFF

/* What later protocols say in the header and earlier ones leave to the documentation. */
#define OLD_CMDLINE_MAX     255
#define OLD_INITRD_ADDR_MAX 0x37FFFFFFU

struct bzimage {
	struct setup_header hdr;
	uint64_t payload_offset; /* of the protected-mode code, in the file */
	uint64_t payload_bytes;
	gpa_t load; /* where it goes */
	uint64_t
		footprint; /* bytes from `load` that it needs before it can look at the memory map */
	bool entry64;
};

bool fw_is_bzimage(const struct fw_boot *boot)
{
	return boot->head_len >= BZ_HEADER + sizeof(struct setup_header) &&
	       le_load(boot->head + BZ_BOOT_FLAG, 2) == 0xAA55 &&
	       memcmp(boot->head + BZ_MAGIC, "HdrS", 4) == 0;
}

static int parse(struct fw_boot *boot, struct bzimage *bz)
{
	size_t len = MIN(BZ_HEADER_START - BZ_HEADER + (size_t)boot->head[BZ_JUMP_TARGET],
			 sizeof(bz->hdr));
	uint64_t file_bytes = boot->kernel->size;
	unsigned setup_sects;

	memset(bz, 0, sizeof(*bz));
	memcpy(&bz->hdr, boot->head + BZ_HEADER, len);
	if (bz->hdr.version < 0x0202)
		return error_set(boot->err, -ENOEXEC,
				 "the kernel '%s' speaks boot protocol %u.%02u; 2.02 is the oldest "
				 "that can be booted",
				 boot->kernel->name, bz->hdr.version >> 8, bz->hdr.version & 0xFF);
	if (!(bz->hdr.loadflags & LOADED_HIGH))
		return error_set(boot->err, -ENOEXEC,
				 "the kernel '%s' is a zImage; build a bzImage instead",
				 boot->kernel->name);
	setup_sects = bz->hdr.setup_sects ? bz->hdr.setup_sects : 4;
	bz->payload_offset = (setup_sects + 1) * 512ULL;
	bz->payload_bytes = (bz->hdr.version >= 0x0204 ? bz->hdr.syssize : 0) * 16ULL;
	if (bz->payload_bytes == 0 && file_bytes > bz->payload_offset)
		bz->payload_bytes = file_bytes - bz->payload_offset;
	if (bz->payload_bytes == 0 ||
	    !range_inside(bz->payload_offset, bz->payload_bytes, file_bytes))
		return error_set(boot->err, -EINVAL,
				 "the kernel '%s' is truncated: it has %llu bytes, and its header "
				 "promises %llu; copy it again",
				 boot->kernel->name, (unsigned long long)file_bytes,
				 (unsigned long long)(bz->payload_offset + bz->payload_bytes));
	return 0;
}

/* A relocatable kernel could be put elsewhere, but it unpacks itself at its preferred address or above in any case. */
static int place(struct fw_boot *boot, struct bzimage *bz)
{
	bz->load = bz->hdr.version >= 0x020A ? bz->hdr.pref_address : FW_HIGH_BASE;
	bz->footprint = bz->payload_bytes;
	if (bz->hdr.version >= 0x020A)
		bz->footprint = MAX(bz->footprint, (uint64_t)bz->hdr.init_size);
	bz->entry64 = bz->hdr.version >= 0x020C && bz->hdr.xloadflags & XLF_KERNEL_64 &&
		      bz->payload_bytes > BZ_ENTRY_64;
	return fw_check_room(boot, bz->load, bz->footprint);
}

static int load_initrd(struct fw_boot *boot, const struct bzimage *bz, gpa_t *ret_gpa)
{
	uint64_t limit = OLD_INITRD_ADDR_MAX;
	bool above_4g = bz->entry64 && bz->hdr.xloadflags & XLF_CAN_BE_LOADED_ABOVE_4G;

	if (bz->hdr.version >= 0x0203)
		limit = bz->hdr.initrd_addr_max;
	return fw_load_initrd(boot, bz->load, bz->load + bz->footprint, limit + 1, above_4g,
			      ret_gpa);
}

static void fill_e820(const struct firmware_memmap *map, struct boot_params *params)
{
	unsigned n = MIN(map->n, ARRAY_SIZE(params->e820_table));

	for (unsigned i = 0; i < n; i++) {
		params->e820_table[i].addr = map->entries[i].gpa;
		params->e820_table[i].size = map->entries[i].size;
		params->e820_table[i].type = map->entries[i].type;
	}
	params->e820_entries = (uint8_t)n;
}

/* Entropy for the guest's random number generator, so that it need not wait for some. Kernels that do not know the type
 * pass over it. */
static int put_seed(struct fw_boot *boot, struct setup_header *hdr)
{
	struct {
		struct setup_data head;
		uint8_t seed[32];
	} data = {.head = {.type = SETUP_RNG_SEED, .len = sizeof(data.seed)}};

	if (hdr->version < 0x0209 ||
	    getrandom(data.seed, sizeof(data.seed), GRND_NONBLOCK) != sizeof(data.seed))
		return 0;
	hdr->setup_data = FW_SETUP_DATA_BASE;
	return fw_put(boot, FW_SETUP_DATA_BASE, &data, sizeof(data));
}

static int put_boot_params(struct fw_boot *boot, const struct bzimage *bz, gpa_t initrd)
{
	struct boot_params params = {.hdr = bz->hdr, .acpi_rsdp_addr = boot->rsdp};
	uint64_t initrd_bytes = boot->initrd ? boot->initrd->size : 0;
	int r;

	params.hdr.type_of_loader = LOADER_UNKNOWN;
	params.hdr.vid_mode = VIDEO_NORMAL;
	params.hdr.code32_start = (uint32_t)bz->load;
	params.hdr.cmd_line_ptr = (uint32_t)FW_CMDLINE_BASE;
	params.hdr.ramdisk_image = (uint32_t)initrd;
	params.hdr.ramdisk_size = (uint32_t)initrd_bytes;
	params.ext_ramdisk_image = (uint32_t)(initrd >> 32);
	params.ext_ramdisk_size = (uint32_t)(initrd_bytes >> 32);
	params.hdr.setup_data = 0;
	fill_e820(&boot->map, &params);
	r = put_seed(boot, &params.hdr);
	if (r < 0)
		return r;
	return fw_put(boot, FW_BOOT_PARAMS_BASE, &params, sizeof(params));
}

int fw_load_bzimage(struct fw_boot *boot)
{
	struct bzimage bz;
	gpa_t initrd = 0;
	int r = parse(boot, &bz);

	if (r == 0)
		r = place(boot, &bz);
	if (r == 0)
		r = fw_put_cmdline(boot, "",
				   bz.hdr.version >= 0x0206 ? bz.hdr.cmdline_size
							    : OLD_CMDLINE_MAX);
	if (r == 0)
		r = fw_source_load(boot->kernel, bz.payload_offset, boot->mem, bz.load,
				   bz.payload_bytes, boot->err);
	if (r == 0)
		r = load_initrd(boot, &bz, &initrd);
	if (r == 0)
		r = put_boot_params(boot, &bz, initrd);
	if (r < 0)
		return r;
	boot->regs.rsi = FW_BOOT_PARAMS_BASE;
	if (bz.entry64)
		return fw_enter_64(boot, bz.load + BZ_ENTRY_64);
	return fw_enter_32(boot, bz.load);
}
