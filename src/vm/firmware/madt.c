/*
 * The MADT: processors and interrupt controllers. (ACPI 6.5, section 5.2.12.)
 */
#include "base/bits.h"
#include "vm/bus/platform.h"
#include "vm/firmware/acpi_int.h"

#define LAPIC_GPA  0xFEE00000U /* Intel SDM volume 3, 11.4.1 */
#define IOAPIC_GPA 0xFEC00000U /* I/O APIC 0 of a PC */

#define MADT_PCAT_COMPAT 1U /* a pair of 8259s is there too */
#define MADT_ENABLED     1U

/* MPS INTI flags, table 5.26 */
#define INTI_CONFORMS          0x0U
#define INTI_LEVEL_ACTIVE_HIGH 0xDU

enum madt_type {
	MADT_LAPIC = 0,
	MADT_IOAPIC = 1,
	MADT_OVERRIDE = 2,
	MADT_LAPIC_NMI = 4,
	MADT_X2APIC = 9,
	MADT_X2APIC_NMI = 10,
};

#define LAST_XAPIC_ID 254U /* 255 is the broadcast */
#define ALL_UIDS      0xFFU
#define ALL_X2_UIDS   0xFFFFFFFFU

static void put_processor(struct fw_acpi_area *area, uint32_t uid, uint32_t apic_id)
{
	struct {
		uint8_t type, length, uid, apic_id;
		le32 flags;
	} lapic = {MADT_LAPIC, sizeof(lapic), (uint8_t)uid, (uint8_t)apic_id,
		   le32_of(MADT_ENABLED)};
	struct {
		uint8_t type, length, reserved[2];
		le32 apic_id, flags, uid;
	} x2apic = {
		.type = MADT_X2APIC,
		.length = sizeof(x2apic),
		.apic_id = le32_of(apic_id),
		.flags = le32_of(MADT_ENABLED),
		.uid = le32_of(uid),
	};

	if (apic_id <= LAST_XAPIC_ID)
		fw_acpi_append(area, &lapic, sizeof(lapic));
	else
		fw_acpi_append(area, &x2apic, sizeof(x2apic));
}

static void put_ioapic(struct fw_acpi_area *area)
{
	struct {
		uint8_t type, length, id, reserved;
		le32 gpa, first_gsi;
	} t = {.type = MADT_IOAPIC, .length = sizeof(t), .gpa = le32_of(IOAPIC_GPA)};

	fw_acpi_append(area, &t, sizeof(t));
}

static void put_override(struct fw_acpi_area *area, uint8_t irq, uint32_t gsi, uint16_t flags)
{
	struct {
		uint8_t type, length, bus, irq;
		le32 gsi;
		le16 flags;
	} t = {MADT_OVERRIDE, sizeof(t), 0, irq, le32_of(gsi), le16_of(flags)};

	fw_acpi_append(area, &t, sizeof(t));
}

/* The non-maskable interrupt comes in at LINT1 of every processor. */
static void put_nmi(struct fw_acpi_area *area, bool x2apic)
{
	struct {
		uint8_t type, length, uid;
		le16 flags;
		uint8_t lint;
	} __attribute__((packed))
	nmi = {MADT_LAPIC_NMI, sizeof(nmi), ALL_UIDS, le16_of(INTI_CONFORMS), 1};
	struct {
		uint8_t type, length;
		le16 flags;
		le32 uid;
		uint8_t lint, reserved[3];
	} x2nmi = {
		.type = MADT_X2APIC_NMI,
		.length = sizeof(x2nmi),
		.flags = le16_of(INTI_CONFORMS),
		.uid = le32_of(ALL_X2_UIDS),
		.lint = 1,
	};

	fw_acpi_append(area, &nmi, sizeof(nmi));
	if (x2apic)
		fw_acpi_append(area, &x2nmi, sizeof(x2nmi));
}

size_t fw_acpi_madt(struct fw_acpi_area *area, const struct firmware_acpi_config *config)
{
	const le32 fixed[] = {le32_of(LAPIC_GPA), le32_of(MADT_PCAT_COMPAT)};
	size_t table = fw_acpi_table_start(area, "APIC", 5);
	bool x2apic = false;

	fw_acpi_append(area, fixed, sizeof(fixed));
	for (unsigned i = 0; i < config->n_vcpus; i++) {
		put_processor(area, i, fw_acpi_apic_id(config, i));
		x2apic |= fw_acpi_apic_id(config, i) > LAST_XAPIC_ID;
	}
	put_ioapic(area);
	put_override(area, 0, 2, INTI_CONFORMS); /* the PIT's line, as on every PC */
	put_override(area, PLATFORM_SCI_GSI, PLATFORM_SCI_GSI, INTI_LEVEL_ACTIVE_HIGH);
	put_nmi(area, x2apic);
	fw_acpi_table_finish(area, table);
	return table;
}
