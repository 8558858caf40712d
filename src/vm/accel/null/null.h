/*
 * The null accelerator: vCPUs that follow a script instead of executing instructions, and a recorder of interrupts. Tests
 * of the whole machine use it where there is no KVM, and where a guest's exact accesses matter.
 *
 * A script is text, one command a line; '#' begins a comment. Every vCPU follows it from the top on its own thread; a line
 * that starts with "N:" is for vCPU N alone. Numbers are decimal or 0x. The end of the script is `halt`.
 *
 *	out PORT SIZE VALUE      in PORT SIZE [EXPECTED]
 *	write ADDR SIZE VALUE    read ADDR SIZE [EXPECTED]     RAM where there is some, doorbells, else the MMIO handler
 *	msi ADDR DATA            as if the guest had sent it
 *	wait-irq GSI LEVEL       until the line has that level
 *	wait-msi [DATA]          until an MSI (with that data) arrives; each is taken once
 *	wait-kick                leaves with ACCEL_EXIT_KICKED; the next run goes on below
 *	idle                     leaves with ACCEL_EXIT_KICKED at each kick, for ever
 *	again                    from the top
 *	reset | halt | fail      leaves with that exit; a later run repeats `halt`, else goes on below
 *
 * An access whose result is not EXPECTED ends with ACCEL_EXIT_ERROR and a text that names the line. A kick is noticed
 * between lines and in every wait.
 */
#pragma once

#include "vm/accel/accel.h"

struct null_interrupt {
	bool is_msi;
	unsigned gsi; /* a line */
	bool level;
	uint64_t addr; /* an MSI */
	uint32_t data;
};

/* The recorder keeps the first 1024. */
#define NULL_MAX_RECORDED 1024

/* Copies what was recorded since the start (or the last null_forget()); returns how many there are. */
size_t null_recorded(struct accel *accel, struct null_interrupt *buf, size_t max);
void null_forget(struct accel *accel);
/* What accel_vcpu_set_boot() was given; NULL before. */
const struct x86_boot_regs *null_boot(const struct accel_vcpu *vcpu);
