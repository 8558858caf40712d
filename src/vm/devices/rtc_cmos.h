/*
 * MC146818-compatible real-time clock with 128 bytes of battery-backed memory.
 */
#pragma once

#include "vm/bus/device.h"

struct rtc_cmos_config {
	const char *id;
	int64_t offset_sec; /* the guest's clock minus the host's UTC at start; 0 for a guest that keeps UTC */
	/* RAM as BIOS data says it: below 4 GiB (from 0), and above. */
	uint64_t ram_below_4g_bytes, ram_above_4g_bytes;
};

int rtc_cmos_new(const struct device_env *env, const struct rtc_cmos_config *config,
		 struct device **ret, struct error *err);
