/* Port and memory accesses, and the ways out of a run. */
#include "guest.h"

#include <errno.h>

#include "base/bits.h"

static void ports_of_all_widths(void **state)
{
	struct guest g;

	(void)state;
	guest_init(&g, 1);
	GUEST_LOAD(&g, X86_BOOT_REAL, real_ports);
	guest_run_done(&g);
	guest_expect(&g, 0, true, true, 0x50, 1, 0x11);
	guest_expect(&g, 1, true, true, 0x1234, 2, 0x3322);
	guest_expect(&g, 2, true, true, 0x1234, 4, 0x77665544);
	guest_expect(&g, 3, true, false, 0x1234, 1, 0x11);
	guest_expect(&g, 4, true, true, 0x51, 1, 0x11);
	guest_expect(&g, 5, true, false, 0x1234, 2, 0x2211);
	guest_expect(&g, 6, true, true, 0x52, 2, 0x2211);
	guest_expect(&g, 7, true, false, 0x1234, 4, 0x44332211);
	guest_expect(&g, 8, true, true, 0x53, 4, 0x44332211);
	guest_expect(&g, 9, true, true, PORT_DONE, 1, 0x11);
	assert_int_equal(g.n_log, 10);
	guest_fini(&g);
}

static void strings_come_element_by_element(void **state)
{
	static const char text[] = "vireo";
	struct guest g;

	(void)state;
	guest_init(&g, 1);
	GUEST_LOAD(&g, X86_BOOT_REAL, real_strings);
	guest_run_done(&g);
	for (size_t i = 0; i < 5; i++)
		guest_expect(&g, i, true, true, 0x560, 1, (uint8_t)text[i]);
	for (size_t i = 5; i < 8; i++)
		guest_expect(&g, i, true, false, 0x560, 2, 0x2211);
	for (size_t i = 8; i < 11; i++)
		guest_expect(&g, i, true, true, 0x560, 2, 0x2211);
	guest_fini(&g);
}

static void memory_of_all_widths(void **state)
{
	struct guest g;

	(void)state;
	guest_init(&g, 1);
	GUEST_LOAD(&g, X86_BOOT_LONG64, long_mmio);
	guest_run_done(&g);
	guest_expect(&g, 0, false, true, 0xD0000000, 1, 0x11);
	guest_expect(&g, 1, false, true, 0xD0000002, 2, 0x3322);
	guest_expect(&g, 2, false, true, 0xD0000004, 4, 0x77665544);
	guest_expect(&g, 3, false, true, 0xD0000008, 8, 0xffeeddccbbaa9988ULL);
	guest_expect(&g, 4, false, false, 0xD0000010, 1, 0x11);
	guest_expect(&g, 5, true, true, 0x51, 1, 0x11);
	guest_expect(&g, 6, false, false, 0xD0000012, 2, 0x2211);
	guest_expect(&g, 7, true, true, 0x52, 2, 0x2211);
	guest_expect(&g, 8, false, false, 0xD0000014, 4, 0x44332211);
	guest_expect(&g, 9, true, true, 0x53, 4, 0x44332211);
	guest_expect(&g, 10, false, false, 0xD0000018, 8, 0x8877665544332211ULL);
	guest_expect(&g, 11, true, true, 0x54, 4, 0x44332211);
	guest_expect(&g, 12, true, true, 0x55, 4, 0x88776655);
	guest_fini(&g);
}

static void a_triple_fault_is_a_reset(void **state)
{
	struct guest g;

	(void)state;
	guest_init(&g, 1);
	GUEST_LOAD(&g, X86_BOOT_LONG64, long_triple_fault);
	if (accel_vcpu_run(g.vcpus[0]) != ACCEL_EXIT_RESET)
		fail_msg("%s", accel_vcpu_error(g.vcpus[0]));
	guest_fini(&g);
}

static void code_and_stack_may_share_a_place_in_caches(void **state)
{
	struct guest g;

	(void)state;
	guest_init(&g, 1);
	GUEST_LOAD(&g, X86_BOOT_LONG64, long_alias);
	guest_run_done(&g);
	guest_expect(&g, 0, true, true, 0x54, 4, 60000);
	guest_fini(&g);
}

static void bad_configurations_are_refused(void **state)
{
	static const struct accel_config bad[] = {
		{.kind = ACCEL_KVM, .n_vcpus = 0, .sockets = 0, .cores = 1, .threads = 1},
		{.kind = ACCEL_KVM, .n_vcpus = 256, .sockets = 256, .cores = 1, .threads = 1},
		{.kind = ACCEL_KVM, .n_vcpus = 4, .sockets = 1, .cores = 3, .threads = 1},
		{.kind = ACCEL_KVM, .n_vcpus = 2, .sockets = 0, .cores = 2, .threads = 1},
		/* 85 sockets of 3 cores: identifiers up to 338. */
		{.kind = ACCEL_KVM, .n_vcpus = 255, .sockets = 85, .cores = 3, .threads = 1},
		{.kind = ACCEL_KVM,
		 .n_vcpus = 1,
		 .sockets = 1u << 31,
		 .cores = 1u << 31,
		 .threads = 4},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		struct error err = ERROR_INIT;
		struct accel *accel = NULL;

		assert_int_equal(accel_open(&bad[i], &accel, &err), -EINVAL);
		assert_null(accel);
		assert_true(strlen(err.text) > 10);
	}
}

static void as_many_as_there_may_be(void **state)
{
	struct accel_config config = {.kind = guest_kind(),
				      .n_vcpus = ACCEL_MAX_VCPUS,
				      .sockets = ACCEL_MAX_VCPUS,
				      .cores = 1,
				      .threads = 1};
	struct accel_vcpu *vcpus[ACCEL_MAX_VCPUS];
	struct error err = ERROR_INIT;
	struct accel *accel = NULL;
	struct guest g;

	(void)state;
	guest_init(&g, 1); /* leaves here when there is no KVM */
	guest_fini(&g);
	if (accel_open(&config, &accel, &err) < 0)
		fail_msg("%s", err.text);
	for (unsigned i = 0; i < ACCEL_MAX_VCPUS; i++)
		if (accel_vcpu_new(accel, i, &vcpus[i], &err) < 0)
			fail_msg("%s", err.text);
	assert_int_equal(accel_vcpu_new(accel, 3, &vcpus[3], &err), -EEXIST);
	for (unsigned i = 0; i < ACCEL_MAX_VCPUS; i++)
		accel_vcpu_free(vcpus[i]);
	accel_close(accel);
}

static void memory_where_the_accelerator_keeps_its_own_is_refused(void **state)
{
	struct error err = ERROR_INIT;
	const struct gmem_region *r;
	struct guest g;
	size_t n;

	(void)state;
	guest_init(&g, 1);
	assert_int_equal(gmem_add(g.mem, X86_RESERVED_START, 4096, false, "x", &err), 0);
	n = gmem_regions(g.mem, &r);
	assert_int_equal(accel_map(g.accel, &r[n - 1], &err), -EINVAL);
	assert_int_equal(gmem_add(g.mem, 1ULL << 52, 4096, false, "far", &err), 0);
	n = gmem_regions(g.mem, &r);
	assert_int_equal(accel_map(g.accel, &r[n - 1], &err), -EINVAL);
	assert_non_null(strstr(err.text, "bits"));
	guest_fini(&g);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(ports_of_all_widths),
		cmocka_unit_test(strings_come_element_by_element),
		cmocka_unit_test(memory_of_all_widths),
		cmocka_unit_test(a_triple_fault_is_a_reset),
		cmocka_unit_test(code_and_stack_may_share_a_place_in_caches),
		cmocka_unit_test(bad_configurations_are_refused),
		cmocka_unit_test(as_many_as_there_may_be),
		cmocka_unit_test(memory_where_the_accelerator_keeps_its_own_is_refused),
	};

	return GUEST_MAIN(argc, argv, "accel", tests);
}
