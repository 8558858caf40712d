#include "vm/devices/rtc_time.h"

#include <time.h>

#define HOUR_PM        0x80u
#define ALARM_WILDCARD 0xC0u /* both top bits: any value matches */

#define DAY_SECONDS 86400
/* Years 0 to 9999, what the registers can say; keeps time_t arithmetic far from its ends. */
#define SECONDS_MIN (-62167219200LL)
#define SECONDS_MAX 253402300799LL

static uint8_t encode(const uint8_t *regs, int value)
{
	if (regs[RTC_B] & RTC_B_BINARY)
		return (uint8_t)value;
	return (uint8_t)(value / 10 % 10 << 4 | value % 10);
}

static int decode(const uint8_t *regs, uint8_t byte)
{
	return regs[RTC_B] & RTC_B_BINARY ? byte : (byte >> 4) * 10 + (byte & 0x0F);
}

static uint8_t encode_hour(const uint8_t *regs, int hour)
{
	uint8_t pm = 0;

	if (!(regs[RTC_B] & RTC_B_24H)) {
		pm = hour >= 12 ? HOUR_PM : 0;
		hour = hour % 12 == 0 ? 12 : hour % 12;
	}
	return encode(regs, hour) | pm;
}

static int decode_hour(const uint8_t *regs, uint8_t byte)
{
	int hour;

	if (regs[RTC_B] & RTC_B_24H)
		return decode(regs, byte);
	hour = decode(regs, byte & (uint8_t)~HOUR_PM) % 12;
	return byte & HOUR_PM ? hour + 12 : hour;
}

void rtc_time_encode(uint8_t *regs, int64_t seconds)
{
	struct tm tm;
	time_t t;

	if (seconds < SECONDS_MIN)
		seconds = SECONDS_MIN;
	if (seconds > SECONDS_MAX)
		seconds = SECONDS_MAX;
	t = (time_t)seconds;
	gmtime_r(&t, &tm);
	regs[RTC_SECONDS] = encode(regs, tm.tm_sec);
	regs[RTC_MINUTES] = encode(regs, tm.tm_min);
	regs[RTC_HOURS] = encode_hour(regs, tm.tm_hour);
	regs[RTC_WEEKDAY] = encode(regs, tm.tm_wday + 1);
	regs[RTC_DAY] = encode(regs, tm.tm_mday);
	regs[RTC_MONTH] = encode(regs, tm.tm_mon + 1);
	regs[RTC_YEAR] = encode(regs, (tm.tm_year + 1900) % 100);
	regs[RTC_CENTURY] = encode(regs, (tm.tm_year + 1900) / 100);
}

int64_t rtc_time_decode(const uint8_t *regs)
{
	struct tm tm = {
		.tm_sec = decode(regs, regs[RTC_SECONDS]),
		.tm_min = decode(regs, regs[RTC_MINUTES]),
		.tm_hour = decode_hour(regs, regs[RTC_HOURS]),
		.tm_mday = decode(regs, regs[RTC_DAY]),
		.tm_mon = decode(regs, regs[RTC_MONTH]) - 1,
		.tm_year =
			decode(regs, regs[RTC_CENTURY]) * 100 + decode(regs, regs[RTC_YEAR]) - 1900,
	};

	return timegm(&tm);
}

bool rtc_alarm_next(const uint8_t *regs, int64_t after, int64_t *ret)
{
	bool any_h = (regs[RTC_HOURS_ALARM] & ALARM_WILDCARD) == ALARM_WILDCARD;
	bool any_m = (regs[RTC_MINUTES_ALARM] & ALARM_WILDCARD) == ALARM_WILDCARD;
	bool any_s = (regs[RTC_SECONDS_ALARM] & ALARM_WILDCARD) == ALARM_WILDCARD;
	int hour = decode_hour(regs, regs[RTC_HOURS_ALARM]);
	int minute = decode(regs, regs[RTC_MINUTES_ALARM]);
	int second = decode(regs, regs[RTC_SECONDS_ALARM]);
	int64_t t = after + 1;
	int64_t last = after + DAY_SECONDS;

	/* In steps of the largest unit that does not match: some 170 at most. */
	while (t <= last) {
		int64_t of_day = ((t % DAY_SECONDS) + DAY_SECONDS) % DAY_SECONDS;

		if (!any_h && of_day / 3600 != hour)
			t += 3600 - of_day % 3600;
		else if (!any_m && of_day / 60 % 60 != minute)
			t += 60 - of_day % 60;
		else if (!any_s && of_day % 60 != second)
			t += 1;
		else {
			*ret = t;
			return true;
		}
	}
	return false;
}
