#include "unit/test.h"

#include <errno.h>

#include "base/bits.h"
#include "base/str.h"

static void sizes_are_parsed(void **state)
{
	uint64_t v = 7;

	(void)state;
	assert_int_equal(parse_size("512M", 1, &v), 0);
	assert_int_equal(v, 512 * MIB);
	assert_int_equal(parse_size("1GiB", 1, &v), 0);
	assert_int_equal(v, GIB);
	assert_int_equal(parse_size("64", MIB, &v), 0);
	assert_int_equal(v, 64 * MIB);
	assert_int_equal(parse_size("64b", MIB, &v), 0);
	assert_int_equal(v, 64);
}

static void bad_sizes_are_refused(void **state)
{
	static const char *const bad[] = {"", "-1", " 1", "1X", "M", "1MM", "1.5G", "0x", "1BiB"};
	uint64_t v = 7;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		assert_int_equal(parse_size(bad[i], 1, &v), -EINVAL);
	assert_int_equal(parse_size("18446744073709551616", 1, &v), -ERANGE);
	assert_int_equal(parse_size("16777216T", 1, &v), -ERANGE);
	assert_int_equal(v, 7);
}

static void the_nearest_name_is_found(void **state)
{
	static const char *const names[] = {"memory", "kernel", "initrd", "append"};

	(void)state;
	assert_string_equal(str_nearest("memroy", names, 4), "memory");
	assert_string_equal(str_nearest("inird", names, 4), "initrd");
	assert_null(str_nearest("zzzzzzzz", names, 4));
}

static void copies_are_terminated(void **state)
{
	char buf[4];

	(void)state;
	assert_true(str_copy(buf, sizeof(buf), "abc"));
	assert_false(str_copy(buf, sizeof(buf), "abcd"));
	assert_string_equal(buf, "abc");
}

static void sizes_are_shown(void **state)
{
	char buf[32];

	(void)state;
	format_size(512 * MIB, buf, sizeof(buf));
	assert_string_equal(buf, "512 MiB");
	format_size(GIB + GIB / 2, buf, sizeof(buf));
	assert_string_equal(buf, "1.5 GiB");
	format_size(3, buf, sizeof(buf));
	assert_string_equal(buf, "3 bytes");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(sizes_are_parsed),
		cmocka_unit_test(bad_sizes_are_refused),
		cmocka_unit_test(the_nearest_name_is_found),
		cmocka_unit_test(copies_are_terminated),
		cmocka_unit_test(sizes_are_shown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
