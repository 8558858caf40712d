#include "device/ports.h"

#include <time.h>

#include "vm/devices/rtc_cmos.h"
#include "vm/devices/rtc_time.h"

#define GSI 8

struct fixture {
	struct ports *ports;
	struct device *rtc;
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	struct rtc_cmos_config config = {
		.id = "rtc",
		.ram_below_4g_bytes = 3 * GIB,
		.ram_above_4g_bytes = 5 * GIB,
	};

	f->ports = ports_new();
	assert_int_equal(rtc_cmos_new(&f->ports->env, &config, &f->rtc, NULL), 0);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	device_pause(f->rtc);
	device_free(f->rtc);
	ports_free(f->ports);
	free(f);
	return 0;
}

static uint8_t cmos_in(struct fixture *f, uint8_t index)
{
	outb(f->ports, 0x70, index);
	return inb(f->ports, 0x71);
}

static void cmos_out(struct fixture *f, uint8_t index, uint8_t value)
{
	outb(f->ports, 0x70, index);
	outb(f->ports, 0x71, value);
}

/* All time registers, without a second's change in between. */
static int64_t read_time(struct fixture *f)
{
	static const uint8_t order[] = {RTC_SECONDS, RTC_MINUTES, RTC_HOURS,  RTC_DAY,
					RTC_MONTH,   RTC_YEAR,    RTC_CENTURY};
	uint8_t regs[RTC_BYTES] = {0};
	uint8_t again;

	regs[RTC_B] = cmos_in(f, RTC_B);
	do {
		for (size_t i = 0; i < sizeof(order); i++)
			regs[order[i]] = cmos_in(f, order[i]);
		again = cmos_in(f, RTC_SECONDS);
	} while (again != regs[RTC_SECONDS]);
	return rtc_time_decode(regs);
}

static void set_time(struct fixture *f, const uint8_t *regs)
{
	static const uint8_t order[] = {RTC_SECONDS, RTC_MINUTES, RTC_HOURS,  RTC_DAY,
					RTC_MONTH,   RTC_YEAR,    RTC_CENTURY};
	uint8_t b = cmos_in(f, RTC_B);

	cmos_out(f, RTC_B, b | 0x80);
	for (size_t i = 0; i < sizeof(order); i++)
		cmos_out(f, order[i], regs[order[i]]);
	cmos_out(f, RTC_B, b);
}

static void formats_agree(void **state)
{
	static const int64_t when[] = {0,          951782399,  1709210096,
				       1732233600, 4102444799, 13569465599};
	static const uint8_t formats[] = {0, RTC_B_24H, RTC_B_BINARY, RTC_B_24H | RTC_B_BINARY};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(when); i++) {
		for (size_t j = 0; j < ARRAY_SIZE(formats); j++) {
			uint8_t regs[RTC_BYTES] = {[RTC_B] = formats[j]};

			rtc_time_encode(regs, when[i]);
			assert_int_equal(rtc_time_decode(regs), when[i]);
		}
	}
}

static void known_encodings(void **state)
{
	uint8_t regs[RTC_BYTES] = {0};

	(void)state;
	rtc_time_encode(regs, 951868799); /* Tue 29 Feb 2000 23:59:59, 12-hour BCD */
	assert_int_equal(regs[RTC_SECONDS], 0x59);
	assert_int_equal(regs[RTC_HOURS], 0x91);
	assert_int_equal(regs[RTC_WEEKDAY], 3);
	assert_int_equal(regs[RTC_DAY], 0x29);
	assert_int_equal(regs[RTC_YEAR], 0x00);
	assert_int_equal(regs[RTC_CENTURY], 0x20);
	rtc_time_encode(regs, 951868800); /* midnight is 12 AM */
	assert_int_equal(regs[RTC_HOURS], 0x12);
	/* Ends of what can be said, and beyond. */
	rtc_time_encode(regs, INT64_MAX);
	assert_int_equal(regs[RTC_CENTURY], 0x99);
	rtc_time_encode(regs, INT64_MIN);
	assert_int_equal(regs[RTC_CENTURY], 0x00);
}

static void alarms_match(void **state)
{
	uint8_t regs[RTC_BYTES] = {[RTC_B] = RTC_B_24H};
	int64_t next;

	(void)state;
	regs[RTC_HOURS_ALARM] = 0x06;
	regs[RTC_MINUTES_ALARM] = 0x30;
	regs[RTC_SECONDS_ALARM] = 0x15;
	assert_true(rtc_alarm_next(regs, 0, &next));
	assert_int_equal(next, 6 * 3600 + 30 * 60 + 15);
	assert_true(rtc_alarm_next(regs, next, &next));
	assert_int_equal(next, 86400 + 6 * 3600 + 30 * 60 + 15);
	regs[RTC_HOURS_ALARM] = 0xFF;
	assert_true(rtc_alarm_next(regs, 3600, &next));
	assert_int_equal(next, 3600 + 30 * 60 + 15);
	regs[RTC_MINUTES_ALARM] = 0xC0;
	regs[RTC_SECONDS_ALARM] = 0xC0;
	assert_true(rtc_alarm_next(regs, 77, &next));
	assert_int_equal(next, 78);
	assert_true(rtc_alarm_next(regs, -77, &next));
	assert_int_equal(next, -76);
	regs[RTC_HOURS_ALARM] = 0x31; /* never */
	assert_false(rtc_alarm_next(regs, 0, &next));
}

static void it_shows_the_hosts_time(void **state)
{
	struct fixture *f = *state;
	int64_t before = (int64_t)time(NULL);
	int64_t seen = read_time(f);

	assert_true(seen >= before - 1 && seen <= (int64_t)time(NULL) + 1);
	assert_int_equal(cmos_in(f, RTC_D), 0x80);
	assert_int_equal(cmos_in(f, RTC_B), 0x02);
	assert_int_equal(inb(f->ports, 0x70), 0xFF);
}

static void what_is_set_stays_set(void **state)
{
	struct fixture *f = *state;
	uint8_t regs[RTC_BYTES] = {[RTC_B] = RTC_B_24H};
	int64_t seen;

	rtc_time_encode(regs, 1000000000);
	set_time(f, regs);
	seen = read_time(f);
	assert_true(seen >= 1000000000 && seen < 1000000010);
	device_pause(f->rtc);
	device_reset(f->rtc); /* the battery stays */
	device_resume(f->rtc);
	seen = read_time(f);
	assert_true(seen >= 1000000000 && seen < 1000000020);
	/* Far away in both directions. */
	rtc_time_encode(regs, 253402300000);
	set_time(f, regs);
	assert_true(read_time(f) >= 253402300000);
	rtc_time_encode(regs, -62167219200);
	set_time(f, regs);
	assert_true(read_time(f) < -62167219100);
}

static void a_stopped_clock_stands(void **state)
{
	struct fixture *f = *state;

	cmos_out(f, RTC_B, 0x82);
	cmos_out(f, RTC_SECONDS, 0x33);
	assert_int_equal(cmos_in(f, RTC_SECONDS), 0x33);
	assert_int_equal(cmos_in(f, RTC_A) & 0x80, 0);
	cmos_out(f, RTC_A, 0x76); /* divider in reset */
	cmos_out(f, RTC_B, 0x02);
	assert_int_equal(cmos_in(f, RTC_SECONDS), 0x33);
	cmos_out(f, RTC_A, 0x26);
	assert_int_equal(cmos_in(f, RTC_SECONDS) & 0xF0, 0x30);
}

static void memory_sizes_for_a_bios(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(cmos_in(f, 0x15) | cmos_in(f, 0x16) << 8, 640);
	assert_int_equal(cmos_in(f, 0x17) | cmos_in(f, 0x18) << 8, 0xFFFF);
	assert_int_equal(cmos_in(f, 0x34) | cmos_in(f, 0x35) << 8, (3072 - 16) * 16);
	assert_int_equal(cmos_in(f, 0x5B) | cmos_in(f, 0x5C) << 8 | cmos_in(f, 0x5D) << 16,
			 5 * 1024 * 16);
	cmos_out(f, 0x8F & 0x7F, 0xA5);
	assert_int_equal(cmos_in(f, 0x8F), 0xA5); /* the NMI bit is no part of the index */
}

static void periodic_interrupt_comes_and_waits(void **state)
{
	struct fixture *f = *state;

	cmos_out(f, RTC_A, 0x26);
	cmos_out(f, RTC_B, 0x42);
	assert_true(ports_wait(f->ports, &f->ports->level[GSI]));
	assert_int_equal(f->ports->edges[GSI], 1);
	/* Not acknowledged: no second one, and nothing to wait for. */
	for (int i = 0; i < 5; i++)
		loop_run_once(f->ports->env.loop, 2);
	assert_int_equal(f->ports->edges[GSI], 1);
	assert_int_equal(cmos_in(f, RTC_C) & 0xC0, 0xC0);
	assert_false(f->ports->level[GSI]);
	assert_true(ports_wait(f->ports, &f->ports->level[GSI]));
	cmos_out(f, RTC_B, 0x02);
	assert_false(f->ports->level[GSI]);
}

static void update_and_alarm_come_with_the_second(void **state)
{
	struct fixture *f = *state;

	cmos_out(f, RTC_HOURS_ALARM, 0xFF);
	cmos_out(f, RTC_MINUTES_ALARM, 0xFF);
	cmos_out(f, RTC_SECONDS_ALARM, 0xFF);
	cmos_in(f, RTC_C);
	cmos_out(f, RTC_B, 0x32);
	assert_true(ports_wait(f->ports, &f->ports->level[GSI]));
	assert_int_equal(cmos_in(f, RTC_C) & 0xB0, 0xB0);
	assert_int_equal(cmos_in(f, RTC_C) & 0x80, 0);
}

static void a_paused_clock_is_silent(void **state)
{
	struct fixture *f = *state;
	bool before;

	cmos_out(f, RTC_B, 0x42);
	device_pause(f->rtc);
	/* A period may have ended before the pause. */
	before = f->ports->level[GSI];
	for (int i = 0; i < 5; i++)
		loop_run_once(f->ports->env.loop, 2);
	assert_int_equal(f->ports->level[GSI], before);
	device_resume(f->rtc);
	assert_true(ports_wait(f->ports, &f->ports->level[GSI]));
}

int main(void)
{
#define CASE(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(formats_agree),
		cmocka_unit_test(known_encodings),
		cmocka_unit_test(alarms_match),
		CASE(it_shows_the_hosts_time),
		CASE(what_is_set_stays_set),
		CASE(a_stopped_clock_stands),
		CASE(memory_sizes_for_a_bios),
		CASE(periodic_interrupt_comes_and_waits),
		CASE(update_and_alarm_come_with_the_second),
		CASE(a_paused_clock_is_silent),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
