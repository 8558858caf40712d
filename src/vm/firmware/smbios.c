#include "vm/firmware/smbios.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "base/endian.h"
#include "vm/firmware/layout.h"
#include "vm/firmware/memmap.h"

/* The 64-bit entry point, section 5.2.2; the structures follow it. */
struct entry_point {
	char anchor[5];
	uint8_t checksum, length, major, minor, docrev, revision, reserved;
	le32 table_max_bytes;
	le64 table_gpa;
} __attribute__((packed));
_Static_assert(sizeof(struct entry_point) == 0x18, "DSP0134, table 2");

#define VERSION_MAJOR 3
#define VERSION_MINOR 0

/* Section 6.1.2: every structure begins so; its handle is its type in the upper byte, a number in the lower. */
struct header {
	uint8_t type, length;
	le16 handle;
};

#define HANDLE(type, n) ((uint16_t)((type) << 8 | (n)))
#define NO_HANDLE       0xFFFF
#define NO_ERROR_HANDLE 0xFFFE

struct area {
	uint8_t *data;
	size_t size, used;
	bool full;
};

static void append(struct area *area, const void *data, size_t len)
{
	if (!range_inside(area->used, len, area->size)) {
		area->full = true;
		return;
	}
	memcpy(area->data + area->used, data, len);
	area->used += len;
}

/* A structure and its strings, which the structure refers to by 1, 2, 3 ... in this order; NULL ends them. */
static void put(struct area *area, const void *structure, const char *const *strings)
{
	const struct header *h = structure;

	append(area, structure, h->length);
	if (!*strings)
		append(area, "", 1);
	for (; *strings; strings++)
		append(area, *strings, strlen(*strings) + 1);
	append(area, "", 1);
}

/* 7.1 */
static void put_bios(struct area *area)
{
	struct {
		struct header h;
		uint8_t vendor, version;
		le16 segment;
		uint8_t date, rom_size;
		le64 characteristics;
		uint8_t extension[2], major, minor, ec_major, ec_minor;
	} __attribute__((packed)) t = {
		.h = {0, sizeof(t), le16_of(HANDLE(0, 0))},
		.vendor = 1,
		.version = 2,
		.date = 3,
		.segment = le16_of(0xE000),
		.characteristics = le64_of(BIT(3)), /* characteristics are not supported */
		.extension = {0, 0x10},             /* a virtual machine */
		.major = 0xFF,
		.minor = 0xFF,
		.ec_major = 0xFF,
		.ec_minor = 0xFF,
	};
	static const char *const strings[] = {"Vireo", VIREO_VERSION, "01/01/2024", NULL};

	put(area, &t, strings);
}

/* 7.2; the first three fields of the UUID are little-endian. */
static void put_system(struct area *area, const struct firmware_smbios_config *config)
{
	static const uint8_t order[16] = {3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15};
	struct {
		struct header h;
		uint8_t manufacturer, product, version, serial, uuid[16], wake_up, sku, family;
	} t = {
		.h = {1, sizeof(t), le16_of(HANDLE(1, 0))},
		.manufacturer = 1,
		.product = 2,
		.version = 3,
		.wake_up = 6, /* power switch */
		.family = 2,
	};
	static const char *const strings[] = {"Vireo", "Virtual Machine", VIREO_VERSION, NULL};

	for (unsigned i = 0; i < 16; i++)
		t.uuid[i] = config->uuid[order[i]];
	put(area, &t, strings);
}

/* 7.4; the asset tag is the machine's name. */
static void put_chassis(struct area *area, const struct firmware_smbios_config *config)
{
	struct {
		struct header h;
		uint8_t manufacturer, type, version, serial, asset_tag, boot_state, power_state;
		uint8_t thermal_state, security;
		le32 oem;
		uint8_t height, power_cords, n_elements, element_length, sku;
	} __attribute__((packed)) t = {
		.h = {3, sizeof(t), le16_of(HANDLE(3, 0))},
		.manufacturer = 1,
		.type = 1, /* other */
		.asset_tag = config->name && *config->name ? 2 : 0,
		.boot_state = 3, /* safe */
		.power_state = 3,
		.thermal_state = 3,
		.security = 2, /* unknown */
	};
	const char *const strings[] = {"Vireo", t.asset_tag ? config->name : NULL, NULL};

	put(area, &t, strings);
}

/* Counts above 255 are in the wide fields alone. */
static uint8_t at_most_255(unsigned n)
{
	return (uint8_t)MIN(n, 255u);
}

/* 7.5 */
static void put_processor(struct area *area, const struct firmware_smbios_config *config,
			  unsigned socket)
{
	unsigned cores = config->cores_per_socket;
	unsigned threads = cores * config->threads_per_core;
	struct {
		struct header h;
		uint8_t socket, type, family, manufacturer;
		le64 id;
		uint8_t version, voltage;
		le16 clock, max_speed, speed;
		uint8_t status, upgrade;
		le16 l1, l2, l3;
		uint8_t serial, asset_tag, part, cores, cores_enabled, threads;
		le16 characteristics, family2, cores2, cores2_enabled, threads2;
	} __attribute__((packed)) t = {
		.h = {4, sizeof(t), le16_of(HANDLE(4, socket))},
		.socket = 1,
		.type = 3,   /* central processor */
		.family = 1, /* other */
		.manufacturer = 2,
		.status = 0x41, /* populated, enabled */
		.upgrade = 1,   /* other */
		.l1 = le16_of(NO_HANDLE),
		.l2 = le16_of(NO_HANDLE),
		.l3 = le16_of(NO_HANDLE),
		.cores = at_most_255(cores),
		.cores_enabled = at_most_255(cores),
		.threads = at_most_255(threads),
		.characteristics = le16_of(BIT(2)), /* 64-bit capable */
		.family2 = le16_of(1),
		.cores2 = le16_of((uint16_t)cores),
		.cores2_enabled = le16_of((uint16_t)cores),
		.threads2 = le16_of((uint16_t)threads),
	};
	char name[16];
	const char *const strings[] = {name, "Vireo", NULL};

	_Static_assert(sizeof(t) == 0x30, "DSP0134, table 21");
	snprintf(name, sizeof(name), "CPU %u", socket);
	put(area, &t, strings);
}

/* 7.17; capacity in KiB, or from 2 TiB on in bytes in the extended field */
static void put_memory_array(struct area *area, uint64_t ram_bytes)
{
	bool extended = ram_bytes >= 0x80000000ULL * KIB;
	struct {
		struct header h;
		uint8_t location, use, correction;
		le32 capacity;
		le16 error_handle, n_devices;
		le64 extended_capacity;
	} __attribute__((packed)) t = {
		.h = {16, sizeof(t), le16_of(HANDLE(16, 0))},
		.location = 1,   /* other */
		.use = 3,        /* system memory */
		.correction = 3, /* none */
		.capacity = le32_of(extended ? 0x80000000U : (uint32_t)(ram_bytes / KIB)),
		.error_handle = le16_of(NO_ERROR_HANDLE),
		.n_devices = le16_of(1),
		.extended_capacity = le64_of(extended ? ram_bytes : 0),
	};
	static const char *const strings[] = {NULL};

	put(area, &t, strings);
}

/* 7.18; size in MiB, or from 32 GiB - 1 MiB on in the extended field */
static void put_memory_device(struct area *area, uint64_t ram_bytes)
{
	bool extended = ram_bytes / MIB >= 0x7FFF;
	struct {
		struct header h;
		le16 array, error_handle, total_width, data_width, size;
		uint8_t form, set, locator, bank, type;
		le16 detail, speed;
		uint8_t manufacturer, serial, asset_tag, part, attributes;
		le32 extended_size;
		le16 configured_speed, min_voltage, max_voltage, voltage;
	} __attribute__((packed)) t = {
		.h = {17, sizeof(t), le16_of(HANDLE(17, 0))},
		.array = le16_of(HANDLE(16, 0)),
		.error_handle = le16_of(NO_ERROR_HANDLE),
		.total_width = le16_of(0xFFFF), /* unknown */
		.data_width = le16_of(0xFFFF),
		.size = le16_of(extended ? 0x7FFF : (uint16_t)(ram_bytes / MIB)),
		.form = 9, /* DIMM */
		.locator = 1,
		.type = 7,                 /* RAM */
		.detail = le16_of(BIT(1)), /* other */
		.manufacturer = 2,
		.extended_size = le32_of(extended ? (uint32_t)(ram_bytes / MIB) : 0),
	};
	static const char *const strings[] = {"DIMM 0", "Vireo", NULL};

	_Static_assert(sizeof(t) == 0x28, "DSP0134, table 77");
	put(area, &t, strings);
}

/* 7.20; addresses in KiB where they fit, else in bytes in the extended fields */
static void put_mapped_range(struct area *area, unsigned n, gpa_t start, gpa_t end)
{
	bool extended = end / KIB >= 0xFFFFFFFFULL;
	struct {
		struct header h;
		le32 start, end;
		le16 array;
		uint8_t width;
		le64 extended_start, extended_end;
	} __attribute__((packed)) t = {
		.h = {19, sizeof(t), le16_of(HANDLE(19, n))},
		.start = le32_of(extended ? 0xFFFFFFFF : (uint32_t)(start / KIB)),
		.end = le32_of(extended ? 0xFFFFFFFF : (uint32_t)(end / KIB - 1)),
		.array = le16_of(HANDLE(16, 0)),
		.width = 1,
		.extended_start = le64_of(extended ? start : 0),
		.extended_end = le64_of(extended ? end - 1 : 0),
	};
	static const char *const strings[] = {NULL};

	put(area, &t, strings);
}

static void put_memory(struct area *area, const struct gmem *mem)
{
	uint64_t ram = gmem_ram_bytes(mem);
	uint64_t low = MIN(ram, GMEM_HOLE_START);

	put_memory_array(area, ram);
	put_memory_device(area, ram);
	put_mapped_range(area, 0, 0, low);
	if (ram > low)
		put_mapped_range(area, 1, GMEM_HOLE_END, GMEM_HOLE_END + (ram - low));
}

/* 7.33 and 7.46 */
static void put_tail(struct area *area)
{
	struct {
		struct header h;
		uint8_t reserved[6], status; /* no error */
	} boot = {.h = {32, sizeof(boot), le16_of(HANDLE(32, 0))}};
	struct {
		struct header h;
	} end = {.h = {127, sizeof(end), le16_of(HANDLE(127, 0))}};
	static const char *const strings[] = {NULL};

	put(area, &boot, strings);
	put(area, &end, strings);
}

static struct entry_point entry_point(const struct area *area)
{
	struct entry_point e = {
		.anchor = {'_', 'S', 'M', '3', '_'},
		.length = sizeof(e),
		.major = VERSION_MAJOR,
		.minor = VERSION_MINOR,
		.revision = 1,
		.table_max_bytes = le32_of((uint32_t)(area->used - sizeof(e))),
		.table_gpa = le64_of(FW_SMBIOS_BASE + sizeof(e)),
	};
	uint8_t sum = 0;

	for (size_t i = 0; i < sizeof(e); i++)
		sum = (uint8_t)(sum + ((const uint8_t *)&e)[i]);
	e.checksum = (uint8_t)-sum;
	return e;
}

static bool sane(const struct firmware_smbios_config *c)
{
	uint64_t vcpus = (uint64_t)c->n_sockets * c->cores_per_socket * c->threads_per_core;

	return c->n_sockets >= 1 && c->n_sockets <= 255 && c->cores_per_socket >= 1 &&
	       c->cores_per_socket <= 0xFFFF && c->threads_per_core >= 1 && vcpus <= 0xFFFF;
}

static void put_all(struct area *area, const struct gmem *mem,
		    const struct firmware_smbios_config *config)
{
	struct entry_point entry;

	put_bios(area);
	put_system(area, config);
	put_chassis(area, config);
	for (unsigned i = 0; i < config->n_sockets; i++)
		put_processor(area, config, i);
	put_memory(area, mem);
	put_tail(area);
	entry = entry_point(area);
	memcpy(area->data, &entry, sizeof(entry));
}

int firmware_build_smbios(struct gmem *mem, const struct firmware_smbios_config *config,
			  struct error *err)
{
	struct area area = {.size = FW_SMBIOS_BYTES, .used = sizeof(struct entry_point)};
	int r = 0;

	if (!sane(config))
		return error_set(err, -EINVAL,
				 "SMBIOS tables are for 1 to 255 sockets, not %u of %u cores of %u "
				 "threads",
				 config->n_sockets, config->cores_per_socket,
				 config->threads_per_core);
	area.data = calloc(1, area.size);
	if (!area.data)
		return error_set(err, -ENOMEM, "no memory to build SMBIOS tables");
	put_all(&area, mem, config);
	if (area.full)
		r = error_set(err, -ENOSPC, "the SMBIOS tables do not fit in %zu bytes", area.size);
	else if (gmem_write(mem, FW_SMBIOS_BASE, area.data, area.used) < 0)
		r = error_set(err, -ENOSPC, "the machine has too little memory for SMBIOS tables");
	free(area.data);
	return r;
}
