/*
 * Loads a kernel into guest memory and says how the boot processor enters it. Three kinds are known: bzImage (Linux x86
 * boot protocol; 64-bit entry, or the 32-bit one for kernels that have no other), ELF with a PVH note (Xen's x86/HVM direct
 * boot ABI, start info version 1), and multiboot 1 (ELF, or the header's own addresses). The file is read straight into
 * guest memory. It is not trusted: every offset and size in it is checked.
 *
 * Run before the vCPUs, and again on every machine reset. It does not write ACPI tables (acpi.h) and passes on only where
 * they are. struct x86_boot_regs comes from vm/accel/x86.h, a header of plain data; nothing else of the accelerator is used.
 */
#pragma once

#include "base/error.h"
#include "vm/mem/gmem.h"

struct x86_boot_regs;

struct firmware_kernel_config {
	const char
		*kernel_path; /* opened when kernel_fd is negative; names the kernel in messages */
	int kernel_fd; /* a readable regular file, stays the caller's; its position does not matter */
	const char *initrd_path; /* both absent (NULL, negative): no initrd */
	int initrd_fd;
	const char *cmdline; /* NULL: empty */
	gpa_t rsdp;          /* of the ACPI tables; 0: the guest searches for itself */
};

#define FIRMWARE_KERNEL_CONFIG_INIT                                                                \
	{                                                                                          \
		.kernel_fd = -1, .initrd_fd = -1                                                   \
	}

/* 0, or a negative errno with a message that names the file, what is wrong and what to do. Guest memory may hold parts of
 * the kernel after a failure. */
int firmware_load_kernel(struct gmem *mem, const struct firmware_kernel_config *config,
			 struct x86_boot_regs *ret, struct error *err);
