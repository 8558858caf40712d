/*
 * ACPI tables (ACPI 6.5) for a machine with the fixed devices of vm/bus/platform.h and the PCI windows of vm/bus/pci.h:
 * RSDP, XSDT, FADT, FACS, MADT, MCFG, a DSDT compiled from dsdt.asl at build time, and an SSDT with what varies from
 * machine to machine (processors, the 64-bit window, which optional devices are there).
 *
 * Run before the vCPUs, and again on every machine reset.
 */
#pragma once

#include "base/error.h"
#include "vm/mem/gmem.h"

struct firmware_acpi_config {
	unsigned n_vcpus;           /* 1 to 255 */
	const uint32_t *apic_ids;   /* one a vCPU; NULL: 0, 1, 2 ... */
	uint64_t pci_window64_base; /* [base, end) for 64-bit BARs; both 0: none */
	uint64_t pci_window64_end;
	gpa_t vmgenid_gpa; /* of the 16-byte generation identifier; 0: no such device */
	bool uart;         /* COM1 */
	bool rtc;
	bool i8042; /* a keyboard controller that answers as one; false where it only resets the machine */
	bool pvpanic;
};

/* Writes the tables; *ret_rsdp is where they start. -EINVAL, or -ENOSPC when they do not fit their area. */
int firmware_build_acpi(struct gmem *mem, const struct firmware_acpi_config *config,
			gpa_t *ret_rsdp, struct error *err);
