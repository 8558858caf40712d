#include "unit/test.h"

#include <errno.h>

#include "base/error.h"

static void text_and_code_are_kept(void **state)
{
	struct error err = ERROR_INIT;

	(void)state;
	assert_int_equal(error_set_errno(&err, -ENOENT, "disk '%s'", "a"), -ENOENT);
	assert_string_equal(err.text, "disk 'a': No such file or directory");
	assert_int_equal(error_prefix(&err, "machine '%s'", "m"), -ENOENT);
	assert_string_equal(err.text, "machine 'm': disk 'a': No such file or directory");
}

static void a_null_error_is_fine(void **state)
{
	(void)state;
	assert_int_equal(error_set(NULL, -EINVAL, "x"), -EINVAL);
	assert_int_equal(error_prefix(NULL, "x"), 0);
}

static void long_text_is_cut(void **state)
{
	struct error err = ERROR_INIT;
	char big[2000];

	(void)state;
	memset(big, 'x', sizeof(big) - 1);
	big[sizeof(big) - 1] = '\0';
	error_set_errno(&err, -EIO, "%s", big);
	assert_int_equal(strlen(err.text), sizeof(err.text) - 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(text_and_code_are_kept),
		cmocka_unit_test(a_null_error_is_fine),
		cmocka_unit_test(long_text_is_cut),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
