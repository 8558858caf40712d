/* Memory for generated code: what is written on one side runs on the other, and no side does both. */
#include "unit/test.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>

#include "vm/accel/soft/codemem.h"

static const uint8_t return_42[] = {0xb8, 42, 0, 0, 0, 0xc3}; /* mov eax, 42; ret */

static void test_runs(void **state)
{
	struct codemem mem;
	struct error err = ERROR_INIT;
	int (*fn)(void);

	if (codemem_open(&mem, "vireo-test-code", 10000, &err) < 0)
		fail_msg("%s", err.text);
	assert_int_equal(mem.size, 12288);
	memcpy(mem.rw + 8000, return_42, sizeof(return_42));
	*(void **)&fn = mem.rx + 8000;
	assert_int_equal(fn(), 42);
	mem.rw[8001] = 43;
	assert_int_equal(fn(), 43);
	codemem_close(&mem);
	assert_null(mem.rw);
	codemem_close(&mem);
}

/* The rights of the mapping that holds addr, as in /proc/self/maps. */
static void rights_of(const void *addr, char ret[5])
{
	FILE *f = fopen("/proc/self/maps", "re");
	char line[512];

	assert_non_null(f);
	ret[0] = 0;
	while (fgets(line, sizeof(line), f)) {
		char *end;
		uintptr_t from = strtoull(line, &end, 16), to = strtoull(end + 1, &end, 16);

		if ((uintptr_t)addr >= from && (uintptr_t)addr < to) {
			memcpy(ret, end + 1, 4);
			ret[4] = 0;
		}
	}
	fclose(f);
}

static void test_never_both(void **state)
{
	struct codemem mem;
	char rights[5];

	assert_int_equal(codemem_open(&mem, "vireo-test-code", 4096, NULL), 0);
	rights_of(mem.rw, rights);
	assert_string_equal(rights, "rw-s");
	rights_of(mem.rx, rights);
	assert_string_equal(rights, "r-xs");
	codemem_close(&mem);
}

static void test_refuses(void **state)
{
	struct codemem mem;
	struct error err = ERROR_INIT;

	assert_int_equal(codemem_open(&mem, "vireo-test-code", 0, &err), -EINVAL);
	assert_null(mem.rw);
	assert_true(codemem_open(&mem, "vireo-test-code", SIZE_MAX / 4, &err) < 0);
	assert_non_null(strstr(err.text, "generated code"));
	codemem_close(&mem);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_runs),
		cmocka_unit_test(test_never_both),
		cmocka_unit_test(test_refuses),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
