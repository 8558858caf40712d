/*
 * The time registers of an MC146818 as a date and back, and its alarm. Pure functions; private to the real-time clock.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

/* Register indices and bits of register B (data sheet, figures 8 and 12). The century is the PC's addition. */
enum {
	RTC_SECONDS = 0x00,
	RTC_SECONDS_ALARM = 0x01,
	RTC_MINUTES = 0x02,
	RTC_MINUTES_ALARM = 0x03,
	RTC_HOURS = 0x04,
	RTC_HOURS_ALARM = 0x05,
	RTC_WEEKDAY = 0x06,
	RTC_DAY = 0x07,
	RTC_MONTH = 0x08,
	RTC_YEAR = 0x09,
	RTC_A = 0x0A,
	RTC_B = 0x0B,
	RTC_C = 0x0C,
	RTC_D = 0x0D,
	RTC_CENTURY = 0x32,
	RTC_BYTES = 128,
};

#define RTC_B_24H    0x02u
#define RTC_B_BINARY 0x04u

/* Fills the time registers of regs[RTC_BYTES] from seconds since 1970, in the format that its register B asks for. */
void rtc_time_encode(uint8_t *regs, int64_t seconds);
/* Seconds since 1970 of what the time registers hold; fields that are out of range carry over. */
int64_t rtc_time_decode(const uint8_t *regs);
/* The first second after `after` at which the alarm registers match; false when none does. */
bool rtc_alarm_next(const uint8_t *regs, int64_t after, int64_t *ret);
