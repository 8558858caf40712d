#include "spec_test.h"

#include "base/bits.h"

static void cpus_are_counted(void **state)
{
	(void)state;
	assert_refused("--cpus: count: 0 is out of range: give 1 to 255", "--kernel", "k", "--cpus",
		       "0");
	assert_refused("--cpus: count: 256 is out of range: give 1 to 255", "--kernel", "k",
		       "--cpus", "256");
}

/* A spec need not come from the command line. */
static void cpus_are_counted_without_a_parser(void **state)
{
	struct error err = ERROR_INIT;
	struct spec spec;

	(void)state;
	spec_init(&spec);
	spec.accel = SPEC_ACCEL_NULL;
	spec.cpu.count = 0;
	assert_true(spec_finish(&spec, &err) < 0);
	assert_non_null(strstr(err.text, "--cpus: 0 vCPUs"));
	spec.cpu.count = 256;
	assert_true(spec_finish(&spec, &err) < 0);
	assert_non_null(strstr(err.text, "--cpus: count: 256 is out of range"));
	spec_fini(&spec);
}

static void topology_is_filled(void **state)
{
	static const struct {
		const char *arg;
		uint32_t sockets, cores, threads;
	} cases[] = {
		{"1", 1, 1, 1},
		{"6", 1, 6, 1},
		{"8,threads=2", 1, 4, 2},
		{"8,sockets=2", 2, 4, 1},
		{"8,sockets=2,threads=2", 2, 2, 2},
		{"8,cores=2", 4, 2, 1},
		{"8,cores=2,threads=2", 2, 2, 2},
		{"8,sockets=2,cores=2", 2, 2, 2},
		{"255,sockets=1,cores=255,threads=1", 1, 255, 1},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct spec spec;

		assert_finished(&spec, "--kernel", "k", "--cpus", cases[i].arg);
		assert_int_equal(spec.cpu.sockets, cases[i].sockets);
		assert_int_equal(spec.cpu.cores, cases[i].cores);
		assert_int_equal(spec.cpu.threads, cases[i].threads);
		spec_fini(&spec);
	}
}

static void topology_makes_the_count(void **state)
{
	(void)state;
	assert_refused("2 sockets x 2 cores x 1 threads do not make 6 vCPUs", "--kernel", "k",
		       "--cpus", "6,sockets=2,cores=2,threads=1");
	assert_refused("do not make 7 vCPUs", "--kernel", "k", "--cpus", "7,threads=2");
	assert_refused("do not make 255 vCPUs", "--kernel", "k", "--cpus",
		       "255,sockets=255,cores=255,threads=255");
}

static void memory_is_possible(void **state)
{
	struct spec spec;

	(void)state;
	assert_refused("--memory: size: 0 is too small: give at least 32 MiB", "--kernel", "k",
		       "--memory", "0");
	assert_refused("31 MiB is too small", "--kernel", "k", "--memory", "31");
	assert_refused("33554433 bytes are no whole number of 4 KiB pages", "--kernel", "k",
		       "--memory", "33554433B");
	assert_refused("for example 33792K", "--kernel", "k", "--memory", "33554433B");
	assert_refused("more than a guest can address", "--kernel", "k", "--memory", "33T");
	assert_refused("more than an address can reach", "--kernel", "k", "--memory",
		       "99999999999T");
	assert_finished(&spec, "--kernel", "k", "--memory", "32");
	assert_int_equal(spec.memory.size_bytes, 32 * MIB);
	assert_int_equal(spec.memory.hugepage_bytes, 0);
	spec_fini(&spec);
	assert_finished(&spec, "--kernel", "k", "--memory", "32T");
	spec_fini(&spec);
}

static void huge_pages_fit(void **state)
{
	struct spec spec;

	(void)state;
	assert_finished(&spec, "--kernel", "k", "--memory", "64M,hugepages=on");
	assert_int_equal(spec.memory.hugepage_bytes, 2 * MIB);
	spec_fini(&spec);
	assert_refused("no multiple of the huge page, 2 MiB", "--kernel", "k", "--memory",
		       "65M,hugepages=on");
	assert_refused("no multiple of the huge page, 1 GiB", "--kernel", "k", "--memory",
		       "1025M,hugepages=on,hugepage-size=1G");
	assert_refused("4 MiB does not exist", "--kernel", "k", "--memory",
		       "64M,hugepages=on,hugepage-size=4M");
	assert_refused("add hugepages=on", "--kernel", "k", "--memory", "64M,hugepage-size=2M");
	assert_refused("exclude each other", "--kernel", "k", "--memory",
		       "64M,hugepages=on,path=/x");
	assert_refused("exclude each other", "--kernel", "k", "--memory",
		       "64M,hugepages=on,mergeable=on");
}

static void there_is_something_to_boot(void **state)
{
	struct spec spec;

	(void)state;
	assert_refused("there is no kernel to boot: give --kernel FILE", "--memory", "64M");
	assert_refused("script belongs to kind null", "--kernel", "k", "--accel",
		       "kvm,script=steps");
	assert_refused("engine belongs to kind soft", "--kernel", "k", "--accel",
		       "kvm,engine=interpreter");
	assert_finished(&spec, "--kernel", "k", "--accel", "soft,engine=interpreter");
	assert_int_equal(spec.engine, SPEC_ENGINE_INTERPRETER);
	spec_fini(&spec);
	assert_finished(&spec, "--accel", "null,script=steps");
	spec_fini(&spec);
}

static void names_are_plain(void **state)
{
	struct spec spec;

	(void)state;
	assert_refused("--name: is empty", "--kernel", "k", "--name", "");
	assert_refused("--name: 'a/b' is no name", "--kernel", "k", "--name", "a/b");
	assert_refused("--name: '-a' is no name", "--kernel", "k", "--name", "-a");
	assert_refused("63 bytes at most", "--kernel", "k", "--name",
		       "0123456789012345678901234567890123456789012345678901234567890123");
	assert_finished(&spec, "--kernel", "k", "--name", "web-1.example@A:b+c_d");
	spec_fini(&spec);
}

static void one_path_has_one_user(void **state)
{
	(void)state;
	assert_refused("both want stdio", "--kernel", "k", "--console", "stdio");
	assert_refused("--serial and --console both want '/s'", "--kernel", "k", "--serial",
		       "unix:/s", "--console", "unix:/s");
	assert_refused("--qmp and --serial both want '/s'", "--kernel", "k", "--serial", "unix:/s",
		       "--qmp", "/s");
	assert_refused("--qmp and --console both want '/s'", "--kernel", "k", "--console",
		       "unix:/s", "--qmp", "/s");
}

static void finishing_twice_changes_nothing(void **state)
{
	struct error err = ERROR_INIT;
	struct spec spec;
	char *once;
	char *twice;

	(void)state;
	assert_finished(&spec, "--kernel", "k", "--cpus", "4", "--disk", "a", "--net", "user",
			"--memory", "64M,hugepages=on", "--net", "tap,fds=3:4");
	once = spec_to_json(&spec);
	assert_non_null(once);
	assert_int_equal(spec_finish(&spec, &err), 0);
	twice = spec_to_json(&spec);
	assert_string_equal(once, twice);
	free(once);
	free(twice);
	spec_fini(&spec);
}

static void a_vsock_needs_a_number(void **state)
{
	struct error err = ERROR_INIT;
	struct spec spec;

	(void)state;
	spec_init(&spec);
	spec.accel = SPEC_ACCEL_NULL;
	spec.vsock.present = true;
	assert_true(spec_finish(&spec, &err) < 0);
	assert_non_null(strstr(err.text, "--vsock: no context id"));
	spec_fini(&spec);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(cpus_are_counted),
		cmocka_unit_test(cpus_are_counted_without_a_parser),
		cmocka_unit_test(topology_is_filled),
		cmocka_unit_test(topology_makes_the_count),
		cmocka_unit_test(memory_is_possible),
		cmocka_unit_test(huge_pages_fit),
		cmocka_unit_test(there_is_something_to_boot),
		cmocka_unit_test(names_are_plain),
		cmocka_unit_test(one_path_has_one_user),
		cmocka_unit_test(finishing_twice_changes_nothing),
		cmocka_unit_test(a_vsock_needs_a_number),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
