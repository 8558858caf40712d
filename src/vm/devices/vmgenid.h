/*
 * The generation identifier of a virtual machine: 128 bits in guest memory that change when the machine is not the only
 * continuation of its past (restored from a snapshot, forked), and an event that says so.
 */
#pragma once

#include "vm/bus/device.h"

#define VMGENID_BYTES 16

struct vmgenid_config {
	const char *id;
	gpa_t gpa; /* where the identifier lies; the firmware tables say so to the guest */
	uint8_t guid
		[VMGENID_BYTES]; /* as it stands in memory: the first three fields little-endian */
	/* Raises PLATFORM_GPE_VMGENID (acpi_pm_raise_gpe); called without a lock. */
	void (*notify)(void *opaque);
	void *opaque;
};

/* -EFAULT when gpa is not in guest memory. */
int vmgenid_new(const struct device_env *env, const struct vmgenid_config *config,
		struct device **ret, struct error *err);

/* A new identifier, and the event. On the main thread; the guest should not run before it returns. -EFAULT as above. */
int vmgenid_set(struct device *dev, const uint8_t guid[VMGENID_BYTES]);
void vmgenid_get(struct device *dev, uint8_t ret[VMGENID_BYTES]);
