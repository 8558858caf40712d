#include "unit/test.h"

#include <errno.h>

#include "base/json.h"

static void members_are_typed(void **state)
{
	static const char text[] = "{\"n\": 3, \"neg\": -1, \"b\": true, \"s\": \"x\"}";
	json_t *obj = NULL;
	const char *s = NULL;
	uint64_t n = 0;
	bool b = false;

	(void)state;
	assert_int_equal(json_parse(text, strlen(text), "test", &obj, NULL), 0);
	assert_int_equal(json_get_u64(obj, "n", &n, NULL), 1);
	assert_int_equal(n, 3);
	assert_int_equal(json_get_u64(obj, "neg", &n, NULL), -EINVAL);
	assert_int_equal(json_get_u64(obj, "absent", &n, NULL), 0);
	assert_int_equal(json_get_bool(obj, "b", &b, NULL), 1);
	assert_true(b);
	assert_int_equal(json_get_bool(obj, "n", &b, NULL), -EINVAL);
	assert_int_equal(json_get_string(obj, "s", &s, NULL), 1);
	assert_string_equal(s, "x");
	json_decref(obj);
}

static void broken_text_is_refused(void **state)
{
	static const char *const bad[] = {"", "{", "{} x", "{\"a\":1,\"a\":2}", "{\"a\":}"};

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct error err = ERROR_INIT;
		json_t *obj = NULL;

		assert_int_equal(json_parse(bad[i], strlen(bad[i]), "here", &obj, &err), -EINVAL);
		assert_memory_equal(err.text, "here:", 5);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(members_are_typed),
		cmocka_unit_test(broken_text_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
