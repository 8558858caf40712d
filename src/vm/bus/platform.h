/*
 * Where the fixed devices of a PC sit: ports, interrupt lines, register values. The devices claim these and the firmware
 * tables describe them to the guest; neither includes the other, both include this. Constants only.
 *
 * Ports below 0x600 are those of the IBM PC/AT; the power-management block and the rest are our choice, told to the guest
 * by the FADT and the DSDT. (ACPI 6.5, sections 4.8 and 5.2.9.)
 */
#pragma once

/* --- 16550A serial port (COM1) --- */
#define PLATFORM_UART_PORT  0x3F8u
#define PLATFORM_UART_PORTS 8u
#define PLATFORM_UART_GSI   4u

/* --- MC146818 real-time clock: index and data --- */
#define PLATFORM_RTC_PORT          0x70u
#define PLATFORM_RTC_PORTS         2u
#define PLATFORM_RTC_GSI           8u
#define PLATFORM_RTC_CENTURY_INDEX 0x32u /* also FADT.CENTURY */

/* --- i8042 keyboard controller --- */
#define PLATFORM_I8042_DATA_PORT    0x60u
#define PLATFORM_I8042_COMMAND_PORT 0x64u
#define PLATFORM_I8042_KEYBOARD_GSI 1u
#define PLATFORM_I8042_MOUSE_GSI    12u

/* --- other ports of the PC/AT --- */
#define PLATFORM_POST_PORT     0x80u /* diagnostic codes; written by kernels as a delay */
#define PLATFORM_FAST_A20_PORT 0x92u /* system control port A */

/* --- reset register (FADT.RESET_REG, RESET_VALUE): one byte in port space --- */
#define PLATFORM_RESET_PORT  0xCF9u
#define PLATFORM_RESET_VALUE 0x06u /* SYS_RST | RST_CPU */

/* --- ACPI fixed hardware; no SMI command port: the machine is always in ACPI mode --- */
#define PLATFORM_SCI_GSI 9u /* level-triggered, active high */

#define PLATFORM_PM_BASE        0x600u
#define PLATFORM_PM1A_EVT_PORT  (PLATFORM_PM_BASE + 0x00u) /* status word, enable word */
#define PLATFORM_PM1A_EVT_BYTES 4u
#define PLATFORM_PM1A_CNT_PORT  (PLATFORM_PM_BASE + 0x04u)
#define PLATFORM_PM1A_CNT_BYTES 2u
#define PLATFORM_PM_TMR_PORT                                                                       \
	(PLATFORM_PM_BASE + 0x08u) /* 3.579545 MHz, 32 bits: FADT.TMR_VAL_EXT */
#define PLATFORM_PM_TMR_BYTES 4u
#define PLATFORM_GPE0_PORT    (PLATFORM_PM_BASE + 0x20u) /* status bytes, then as many enable bytes */
#define PLATFORM_GPE0_BYTES   16u

/* SLP_TYPa values: what the DSDT's \_S5 package gives and PM1a_CNT takes. Only S0 and S5 exist. */
#define PLATFORM_SLP_TYP_S0 0u
#define PLATFORM_SLP_TYP_S5 5u

/* General-purpose events: bit in GPE0, method \_GPE._Exx of the DSDT. */
#define PLATFORM_GPE_VMGENID 0u

/* --- pvpanic (ISA): one byte --- */
#define PLATFORM_PVPANIC_PORT 0x505u
