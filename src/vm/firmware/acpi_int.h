/*
 * Private to the folder: the area in which ACPI tables are laid out before they are copied to the guest, and the frame that
 * all tables share. (ACPI 6.5, section 5.2.6.)
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "base/endian.h"
#include "vm/firmware/acpi.h"

/* \VDEV of dsdt.asl. */
enum fw_acpi_dev {
	FW_ACPI_DEV_UART = 1 << 0,
	FW_ACPI_DEV_RTC = 1 << 1,
	FW_ACPI_DEV_I8042 = 1 << 2,
	FW_ACPI_DEV_PVPANIC = 1 << 3,
	FW_ACPI_DEV_VMGENID = 1 << 4,
};

struct fw_acpi_header {
	char signature[4];
	le32 length;
	uint8_t revision, checksum;
	char oem_id[6], oem_table_id[8];
	le32 oem_revision;
	char creator_id[4];
	le32 creator_revision;
} __attribute__((packed));

/* Appending past the end sets `full` and writes nothing; offsets are from the area's start. */
struct fw_acpi_area {
	uint8_t *data;
	gpa_t base; /* where the area will be in guest memory */
	size_t size, used;
	bool full;
};

/* Aligned, zeroed space; returns its offset. */
size_t fw_acpi_reserve(struct fw_acpi_area *area, size_t len, size_t align);
size_t fw_acpi_append(struct fw_acpi_area *area, const void *data, size_t len);
/* Starts a table with its header; finish fills in length and checksum. */
size_t fw_acpi_table_start(struct fw_acpi_area *area, const char *signature, uint8_t revision);
void fw_acpi_table_finish(struct fw_acpi_area *area, size_t table);
/* The byte that makes the sum of [start, start + len) zero. */
uint8_t fw_acpi_checksum(const uint8_t *start, size_t len);

/* --- the tables: each appends itself and returns its offset --- */

size_t fw_acpi_ssdt(struct fw_acpi_area *area, const struct firmware_acpi_config *config);
size_t fw_acpi_madt(struct fw_acpi_area *area, const struct firmware_acpi_config *config);
size_t fw_acpi_fadt(struct fw_acpi_area *area, const struct firmware_acpi_config *config,
		    gpa_t facs, gpa_t dsdt);

static inline uint32_t fw_acpi_apic_id(const struct firmware_acpi_config *config, unsigned vcpu)
{
	return config->apic_ids ? config->apic_ids[vcpu] : vcpu;
}
