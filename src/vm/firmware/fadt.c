/*
 * The FADT: fixed hardware, the ports of vm/bus/platform.h. (ACPI 6.5, section 5.2.9.)
 */
#include "vm/bus/platform.h"
#include "vm/firmware/acpi_int.h"

struct gas { /* generic address structure, section 5.2.3.2 */
	uint8_t space, bits, bit_offset, access;
	le64 address;
} __attribute__((packed));

struct fadt {
	struct fw_acpi_header header;
	le32 facs, dsdt;
	uint8_t reserved, preferred_profile;
	le16 sci_int;
	le32 smi_cmd;
	uint8_t acpi_enable, acpi_disable, s4bios_req, pstate_cnt;
	le32 pm1a_evt, pm1b_evt, pm1a_cnt, pm1b_cnt, pm2_cnt, pm_tmr, gpe0, gpe1;
	uint8_t pm1_evt_len, pm1_cnt_len, pm2_cnt_len, pm_tmr_len, gpe0_len, gpe1_len, gpe1_base;
	uint8_t cst_cnt;
	le16 c2_latency, c3_latency, flush_size, flush_stride;
	uint8_t duty_offset, duty_width, day_alarm, month_alarm, century;
	le16 boot_arch;
	uint8_t reserved2;
	le32 flags;
	struct gas reset_reg;
	uint8_t reset_value;
	le16 arm_boot_arch;
	uint8_t minor_version;
	le64 x_facs, x_dsdt;
	struct gas x_pm1a_evt, x_pm1b_evt, x_pm1a_cnt, x_pm1b_cnt, x_pm2_cnt, x_pm_tmr, x_gpe0,
		x_gpe1, sleep_control, sleep_status;
	char hypervisor[8];
} __attribute__((packed));
_Static_assert(sizeof(struct fadt) == 276, "ACPI 6.5, table 5.9");

#define GAS_PORT 1
/* access sizes of table 5.1 */
#define GAS_BYTE  1
#define GAS_WORD  2
#define GAS_DWORD 3

/* IA-PC boot architecture flags, table 5.11 */
#define BOOT_LEGACY_DEVICES 0x01
#define BOOT_8042           0x02
#define BOOT_NO_VGA         0x04
#define BOOT_NO_CMOS_RTC    0x20

/* fixed feature flags, table 5.10; the power button is fixed hardware, there is no sleep button */
#define FLAG_WBINVD            (1U << 0)
#define FLAG_PROC_C1           (1U << 2)
#define FLAG_NO_SLEEP_BUTTON   (1U << 5)
#define FLAG_NO_FIXED_RTC_WAKE (1U << 6)
#define FLAG_TMR_32BIT         (1U << 8)
#define FLAG_RESET_REG         (1U << 10)

#define PROFILE_ENTERPRISE_SERVER 4
#define NO_C2_LATENCY             101  /* more than 100: there is no C2 */
#define NO_C3_LATENCY             1001 /* more than 1000: there is no C3 */

static struct gas port(uint64_t address, unsigned bytes, uint8_t access)
{
	return (struct gas){GAS_PORT, (uint8_t)(bytes * 8), 0, access, le64_of(address)};
}

static void fill_power(struct fadt *t)
{
	t->pm1a_evt = le32_of(PLATFORM_PM1A_EVT_PORT);
	t->pm1a_cnt = le32_of(PLATFORM_PM1A_CNT_PORT);
	t->pm_tmr = le32_of(PLATFORM_PM_TMR_PORT);
	t->gpe0 = le32_of(PLATFORM_GPE0_PORT);
	t->pm1_evt_len = PLATFORM_PM1A_EVT_BYTES;
	t->pm1_cnt_len = PLATFORM_PM1A_CNT_BYTES;
	t->pm_tmr_len = PLATFORM_PM_TMR_BYTES;
	t->gpe0_len = PLATFORM_GPE0_BYTES;
	t->x_pm1a_evt = port(PLATFORM_PM1A_EVT_PORT, PLATFORM_PM1A_EVT_BYTES, GAS_WORD);
	t->x_pm1a_cnt = port(PLATFORM_PM1A_CNT_PORT, PLATFORM_PM1A_CNT_BYTES, GAS_WORD);
	t->x_pm_tmr = port(PLATFORM_PM_TMR_PORT, PLATFORM_PM_TMR_BYTES, GAS_DWORD);
	t->x_gpe0 = port(PLATFORM_GPE0_PORT, PLATFORM_GPE0_BYTES, GAS_BYTE);
	t->reset_reg = port(PLATFORM_RESET_PORT, 1, GAS_BYTE);
	t->reset_value = PLATFORM_RESET_VALUE;
	t->c2_latency = le16_of(NO_C2_LATENCY);
	t->c3_latency = le16_of(NO_C3_LATENCY);
}

size_t fw_acpi_fadt(struct fw_acpi_area *area, const struct firmware_acpi_config *config,
		    gpa_t facs, gpa_t dsdt)
{
	size_t table = fw_acpi_table_start(area, "FACP", 6);
	struct fadt t = {
		.facs = le32_of((uint32_t)facs),
		.dsdt = le32_of((uint32_t)dsdt),
		.x_facs = le64_of(facs),
		.x_dsdt = le64_of(dsdt),
		.preferred_profile = PROFILE_ENTERPRISE_SERVER,
		.sci_int = le16_of(PLATFORM_SCI_GSI),
		.century = config->rtc ? PLATFORM_RTC_CENTURY_INDEX : 0,
		.boot_arch =
			le16_of((uint16_t)((config->uart ? BOOT_LEGACY_DEVICES : 0) |
					   (config->i8042 ? BOOT_8042 : 0) |
					   (config->rtc ? 0 : BOOT_NO_CMOS_RTC) | BOOT_NO_VGA)),
		.flags = le32_of(FLAG_WBINVD | FLAG_PROC_C1 | FLAG_NO_SLEEP_BUTTON |
				 FLAG_NO_FIXED_RTC_WAKE | FLAG_TMR_32BIT | FLAG_RESET_REG),
		.minor_version = 5,
		.hypervisor = {'V', 'i', 'r', 'e', 'o'},
	};

	fill_power(&t);
	fw_acpi_append(area, (const uint8_t *)&t + sizeof(t.header), sizeof(t) - sizeof(t.header));
	fw_acpi_table_finish(area, table);
	return table;
}
