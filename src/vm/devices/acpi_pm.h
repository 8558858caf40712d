/*
 * ACPI fixed hardware: power management events and control, the PM timer, general-purpose events. Ports and the interrupt
 * line are those of vm/bus/platform.h.
 */
#pragma once

#include "vm/bus/device.h"

struct acpi_pm_config {
	const char *id;
};

int acpi_pm_new(const struct device_env *env, const struct acpi_pm_config *config,
		struct device **ret, struct error *err);

/* A short press of the power button: guests that follow ACPI shut down. Any thread. */
void acpi_pm_power_button(struct device *dev);
/* General-purpose event `bit` (PLATFORM_GPE_*) happened. Any thread, no device's lock held. */
void acpi_pm_raise_gpe(struct device *dev, unsigned bit);
