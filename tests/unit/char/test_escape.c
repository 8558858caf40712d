#include "unit/test.h"

#include "vm/char/escape.h"

struct commands {
	char keys[16];
	size_t n;
};

static void note(void *opaque, char key)
{
	struct commands *c = opaque;

	assert_true(c->n < sizeof(c->keys));
	c->keys[c->n++] = key;
}

static void check(const char *typed, const char *passed, const char *commands)
{
	struct commands c = {.n = 0};
	struct escape esc = {.key = 1, .command = note, .opaque = &c};
	size_t len = strlen(typed);

	/* Whole, then byte by byte: a pair may be split anywhere. */
	for (size_t step = 1; step <= 64; step += 63) {
		uint8_t out[64];
		size_t n = 0;

		c.n = 0;
		for (size_t at = 0; at < len; at += step) {
			uint8_t buf[64];
			size_t part = len - at < step ? len - at : step;

			memcpy(buf, typed + at, part);
			part = escape_filter(&esc, buf, part);
			memcpy(out + n, buf, part);
			n += part;
		}
		assert_int_equal(n, strlen(passed));
		assert_memory_equal(out, passed, n);
		assert_int_equal(c.n, strlen(commands));
		assert_memory_equal(c.keys, commands, c.n);
	}
}

static void pairs(void **state)
{
	(void)state;
	check("hello", "hello", "");
	check("a\001xb", "ab", "x");
	check("\001\001", "\001", "");
	check("\001\001\001h!", "\001!", "h");
	check("\001c\001z", "", "cz");
}

static void no_key_passes_everything(void **state)
{
	struct escape esc = {.key = 0};
	uint8_t buf[] = {0, 1, 'x'};

	(void)state;
	assert_int_equal(escape_filter(&esc, buf, sizeof(buf)), 3);
}

static void names(void **state)
{
	char buf[16];

	(void)state;
	escape_key_name(1, buf, sizeof(buf));
	assert_string_equal(buf, "Ctrl-A");
	escape_key_name(0x1d, buf, sizeof(buf));
	assert_string_equal(buf, "Ctrl-]");
	escape_key_name('~', buf, sizeof(buf));
	assert_string_equal(buf, "~");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(pairs),
		cmocka_unit_test(no_key_passes_everything),
		cmocka_unit_test(names),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
