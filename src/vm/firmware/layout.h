/*
 * Where the firmware and the loaders put things in guest memory. What the guest may overwrite at once (the loaders' own
 * tables) lies at 448 to 576 KiB, out of the way of small kernels that start at 32 KiB; what it must keep (ACPI, SMBIOS) lies in the area between 896 KiB and 1 MiB, which the
 * memory map reserves and in which operating systems look for it. Constants only.
 */
#pragma once

/* --- the loaders' tables: free for the guest once it has read them --- */
#define FW_BIOS_DATA_END    0x00500ULL /* real-mode vectors and the BIOS data area are below */
#define FW_LOADER_BASE      0x70000ULL /* no kernel segment may reach from here ... */
#define FW_GDT_BASE         0x70500ULL
#define FW_SETUP_DATA_BASE  0x75000ULL /* Linux setup_data list */
#define FW_START_INFO_BASE  0x76000ULL /* PVH start info, or multiboot information */
#define FW_BOOT_PARAMS_BASE 0x77000ULL /* Linux "zero page" */
#define FW_STACK_TOP        0x79000ULL
#define FW_PAGE_TABLE_BASE  0x79000ULL /* 6 pages: the first 4 GiB by 2 MiB pages */
#define FW_CMDLINE_BASE     0x80000ULL
#define FW_CMDLINE_BYTES    0x10000ULL /* with the terminating zero */
#define FW_LOADER_END       0x90000ULL /* ... to here */

/* --- kept --- */
#define FW_EBDA_BASE    0x9FC00ULL /* end of conventional memory, as the BIOS reports it */
#define FW_VIDEO_BASE   0xA0000ULL /* never RAM in the map */
#define FW_ACPI_BASE    0xE0000ULL /* RSDP first */
#define FW_ACPI_BYTES   0xF000ULL
#define FW_VMGENID_BASE 0xEF000ULL /* 4 KiB for the generation identifier */
#define FW_SMBIOS_BASE  0xF0000ULL
#define FW_SMBIOS_BYTES 0x10000ULL
#define FW_HIGH_BASE    0x100000ULL /* RAM again */
