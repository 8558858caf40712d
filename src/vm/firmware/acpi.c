#include "vm/firmware/acpi.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "vm/bus/pci.h"
#include "vm/firmware/acpi_int.h"
#include "vm/firmware/dsdt.h"
#include "vm/firmware/layout.h"

size_t fw_acpi_reserve(struct fw_acpi_area *area, size_t len, size_t align)
{
	size_t start = align_up(area->used, align);

	if (!range_inside(start, len, area->size)) {
		area->full = true;
		return 0;
	}
	area->used = start + len;
	return start;
}

size_t fw_acpi_append(struct fw_acpi_area *area, const void *data, size_t len)
{
	size_t start = fw_acpi_reserve(area, len, 1);

	if (!area->full)
		memcpy(area->data + start, data, len);
	return start;
}

uint8_t fw_acpi_checksum(const uint8_t *start, size_t len)
{
	uint8_t sum = 0;

	while (len-- > 0)
		sum = (uint8_t)(sum + *start++);
	return (uint8_t)-sum;
}

size_t fw_acpi_table_start(struct fw_acpi_area *area, const char *signature, uint8_t revision)
{
	struct fw_acpi_header h = {
		.revision = revision,
		.oem_id = {'V', 'I', 'R', 'E', 'O', ' '},
		.oem_table_id = {'V', 'I', 'R', 'E', 'O', 'V', 'M', ' '},
		.oem_revision = le32_of(1),
		.creator_id = {'V', 'I', 'R', 'E'},
		.creator_revision = le32_of(1),
	};
	size_t start = fw_acpi_reserve(area, sizeof(h), 16);

	memcpy(h.signature, signature, sizeof(h.signature));
	if (!area->full)
		memcpy(area->data + start, &h, sizeof(h));
	return start;
}

void fw_acpi_table_finish(struct fw_acpi_area *area, size_t table)
{
	struct fw_acpi_header *h = (void *)(area->data + table);
	size_t len = area->used - table;

	if (area->full)
		return;
	h->length = le32_of((uint32_t)len);
	h->checksum = 0;
	h->checksum = fw_acpi_checksum(area->data + table, len);
}

/* Section 5.2.10; version 2. Its memory is shared with the operating system, and no checksum covers it. */
static size_t facs(struct fw_acpi_area *area)
{
	struct {
		char signature[4];
		le32 length, hardware_signature, waking_vector, global_lock, flags;
		le64 x_waking_vector;
		uint8_t version, reserved[31];
	} t = {.signature = {'F', 'A', 'C', 'S'}, .length = le32_of(sizeof(t)), .version = 2};
	size_t start = fw_acpi_reserve(area, sizeof(t), 64);

	_Static_assert(sizeof(t) == 64, "ACPI 6.5, table 5.14");
	if (!area->full)
		memcpy(area->data + start, &t, sizeof(t));
	return start;
}

static size_t dsdt(struct fw_acpi_area *area)
{
	size_t start = fw_acpi_reserve(area, sizeof(fw_dsdt), 16);

	if (!area->full)
		memcpy(area->data + start, fw_dsdt, sizeof(fw_dsdt));
	return start;
}

/* PCI Firmware Specification 3.2, section 4.1.2: one segment with one bus. */
static size_t mcfg(struct fw_acpi_area *area)
{
	struct {
		uint8_t reserved[8];
		le64 base;
		le16 segment;
		uint8_t first_bus, last_bus, reserved2[4];
	} t = {.base = le64_of(PCI_ECAM_BASE)};
	size_t start = fw_acpi_table_start(area, "MCFG", 1);

	fw_acpi_append(area, &t, sizeof(t));
	fw_acpi_table_finish(area, start);
	return start;
}

static size_t xsdt(struct fw_acpi_area *area, const size_t *tables, size_t n)
{
	size_t start = fw_acpi_table_start(area, "XSDT", 1);

	for (size_t i = 0; i < n; i++) {
		le64 gpa = le64_of(area->base + tables[i]);

		fw_acpi_append(area, &gpa, sizeof(gpa));
	}
	fw_acpi_table_finish(area, start);
	return start;
}

/* Section 5.2.5.3. There is no RSDT: every operating system for x86-64 reads the XSDT. */
struct rsdp {
	char signature[8];
	uint8_t checksum;
	char oem_id[6];
	uint8_t revision;
	le32 rsdt;
	le32 length;
	le64 xsdt;
	uint8_t extended_checksum, reserved[3];
} __attribute__((packed));
_Static_assert(sizeof(struct rsdp) == 36, "ACPI 6.5, table 5.3");

static void fill_rsdp(struct fw_acpi_area *area, size_t rsdp, size_t xsdt_offset)
{
	struct rsdp t = {
		.signature = {'R', 'S', 'D', ' ', 'P', 'T', 'R', ' '},
		.oem_id = {'V', 'I', 'R', 'E', 'O', ' '},
		.revision = 2,
		.length = le32_of(sizeof(t)),
		.xsdt = le64_of(area->base + xsdt_offset),
	};

	t.checksum = fw_acpi_checksum((const uint8_t *)&t, offsetof(struct rsdp, length));
	t.extended_checksum = fw_acpi_checksum((const uint8_t *)&t, sizeof(t));
	memcpy(area->data + rsdp, &t, sizeof(t));
}

/* Returns the offset of the RSDP. */
static size_t build(struct fw_acpi_area *area, const struct firmware_acpi_config *config)
{
	size_t rsdp = fw_acpi_reserve(area, sizeof(struct rsdp), 16);
	gpa_t facs_gpa = area->base + facs(area);
	gpa_t dsdt_gpa = area->base + dsdt(area);
	size_t tables[] = {
		fw_acpi_fadt(area, config, facs_gpa, dsdt_gpa),
		fw_acpi_madt(area, config),
		mcfg(area),
		fw_acpi_ssdt(area, config),
	};
	size_t root = xsdt(area, tables, ARRAY_SIZE(tables));

	if (!area->full)
		fill_rsdp(area, rsdp, root);
	return rsdp;
}

int firmware_build_acpi(struct gmem *mem, const struct firmware_acpi_config *config,
			gpa_t *ret_rsdp, struct error *err)
{
	struct fw_acpi_area area = {.base = FW_ACPI_BASE, .size = FW_ACPI_BYTES};
	size_t rsdp;
	int r = 0;

	if (config->n_vcpus < 1 || config->n_vcpus > 255)
		return error_set(err, -EINVAL, "ACPI tables are for 1 to 255 vCPUs, not %u",
				 config->n_vcpus);
	if (config->pci_window64_end < config->pci_window64_base)
		return error_set(err, -EINVAL, "the 64-bit PCI window ends before it begins");
	area.data = calloc(1, area.size);
	if (!area.data)
		return error_set(err, -ENOMEM, "no memory to build ACPI tables");
	rsdp = build(&area, config);
	if (area.full)
		r = error_set(err, -ENOSPC, "the ACPI tables do not fit in %zu bytes", area.size);
	else if (gmem_write(mem, area.base, area.data, area.used) < 0)
		r = error_set(err, -ENOSPC, "the machine has too little memory for ACPI tables");
	else
		*ret_rsdp = area.base + rsdp;
	free(area.data);
	return r;
}
