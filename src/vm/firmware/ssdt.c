/*
 * The SSDT: what dsdt.asl refers to and what differs from machine to machine. Written as AML directly (ACPI 6.5, chapter 20):
 * a few integers, and a device for each vCPU.
 */
#include "vm/firmware/acpi_int.h"

#include <stdio.h>
#include <string.h>

#define AML_NAME          0x08
#define AML_DWORD         0x0C
#define AML_STRING        0x0D
#define AML_QWORD         0x0E
#define AML_SCOPE         0x10
#define AML_EXT           0x5B
#define AML_EXT_DEVICE    0x82
#define AML_PACKAGE_BYTES 3 /* a length below 2^20 in the three-byte form, section 20.2.4 */

static void put_u8(struct fw_acpi_area *area, uint8_t v)
{
	fw_acpi_append(area, &v, 1);
}

static void put_qword(struct fw_acpi_area *area, const char *name, uint64_t value)
{
	le64 v = le64_of(value);

	put_u8(area, AML_NAME);
	fw_acpi_append(area, name, 4);
	put_u8(area, AML_QWORD);
	fw_acpi_append(area, &v, sizeof(v));
}

static void put_dword(struct fw_acpi_area *area, const char *name, uint32_t value)
{
	le32 v = le32_of(value);

	put_u8(area, AML_NAME);
	fw_acpi_append(area, name, 4);
	put_u8(area, AML_DWORD);
	fw_acpi_append(area, &v, sizeof(v));
}

static void put_string(struct fw_acpi_area *area, const char *name, const char *value)
{
	put_u8(area, AML_NAME);
	fw_acpi_append(area, name, 4);
	put_u8(area, AML_STRING);
	fw_acpi_append(area, value, strlen(value) + 1);
}

static size_t package_start(struct fw_acpi_area *area)
{
	return fw_acpi_reserve(area, AML_PACKAGE_BYTES, 1);
}

static void package_finish(struct fw_acpi_area *area, size_t start)
{
	size_t len = area->used - start;

	if (area->full)
		return;
	area->data[start] = (uint8_t)(0x80 | (len & 0xF));
	area->data[start + 1] = (uint8_t)(len >> 4);
	area->data[start + 2] = (uint8_t)(len >> 12);
}

/* Section 8.4.1: a processor device; its _UID is that of its entry in the MADT. */
static void put_processor(struct fw_acpi_area *area, unsigned vcpu)
{
	char name[8];
	size_t package;

	snprintf(name, sizeof(name), "C%03X", vcpu & 0xFFF);
	put_u8(area, AML_EXT);
	put_u8(area, AML_EXT_DEVICE);
	package = package_start(area);
	fw_acpi_append(area, name, 4);
	put_string(area, "_HID", "ACPI0007");
	put_dword(area, "_UID", vcpu);
	package_finish(area, package);
}

static uint32_t devices(const struct firmware_acpi_config *config)
{
	return (config->uart ? FW_ACPI_DEV_UART : 0) | (config->rtc ? FW_ACPI_DEV_RTC : 0) |
	       (config->i8042 ? FW_ACPI_DEV_I8042 : 0) |
	       (config->pvpanic ? FW_ACPI_DEV_PVPANIC : 0) |
	       (config->vmgenid_gpa ? FW_ACPI_DEV_VMGENID : 0);
}

size_t fw_acpi_ssdt(struct fw_acpi_area *area, const struct firmware_acpi_config *config)
{
	bool window = config->pci_window64_end > config->pci_window64_base;
	size_t table = fw_acpi_table_start(area, "SSDT", 2);
	size_t scope;

	put_dword(area, "VDEV", devices(config));
	put_qword(area, "VP6B", window ? config->pci_window64_base : 0);
	put_qword(area, "VP6E", window ? config->pci_window64_end - 1 : 0);
	put_qword(area, "VGIA", config->vmgenid_gpa);
	put_u8(area, AML_SCOPE);
	scope = package_start(area);
	fw_acpi_append(area, "\\_SB_", 5);
	for (unsigned i = 0; i < config->n_vcpus; i++)
		put_processor(area, i);
	package_finish(area, scope);
	fw_acpi_table_finish(area, table);
	return table;
}
