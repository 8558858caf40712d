#include "device/ports.h"

#include "vm/devices/vmgenid.h"

#define GPA 0xEF000

static void noticed(void *opaque)
{
	(*(unsigned *)opaque)++;
}

static void a_new_identifier_is_seen_and_told(void **state)
{
	struct ports *ports = ports_new();
	struct gmem_config mem_config = {.ram_bytes = 2 * MIB};
	unsigned told = 0;
	struct vmgenid_config config = {.id = "vmgenid",
					.gpa = GPA,
					.guid = "0123456789abcde",
					.notify = noticed,
					.opaque = &told};
	uint8_t seen[VMGENID_BYTES];
	uint8_t fresh[VMGENID_BYTES] = "another machine";
	struct device *dev;

	(void)state;
	assert_int_equal(gmem_new(&mem_config, &ports->env.mem, NULL), 0);
	assert_int_equal(vmgenid_new(&ports->env, &config, &dev, NULL), 0);
	assert_int_equal(gmem_read(ports->env.mem, GPA, seen, sizeof(seen)), 0);
	assert_memory_equal(seen, config.guid, sizeof(seen));
	assert_int_equal(told, 0);

	assert_int_equal(vmgenid_set(dev, fresh), 0);
	assert_int_equal(gmem_read(ports->env.mem, GPA, seen, sizeof(seen)), 0);
	assert_memory_equal(seen, fresh, sizeof(seen));
	assert_int_equal(told, 1);
	vmgenid_get(dev, seen);
	assert_memory_equal(seen, fresh, sizeof(seen));

	/* A guest that scribbled over it gets it back with a reset. */
	memset(seen, 0, sizeof(seen));
	assert_int_equal(gmem_write(ports->env.mem, GPA, seen, sizeof(seen)), 0);
	device_reset(dev);
	assert_int_equal(gmem_read(ports->env.mem, GPA, seen, sizeof(seen)), 0);
	assert_memory_equal(seen, fresh, sizeof(seen));
	device_free(dev);
	gmem_free(ports->env.mem);
	ports_free(ports);
}

static void an_address_outside_memory_is_refused(void **state)
{
	struct ports *ports = ports_new();
	struct gmem_config mem_config = {.ram_bytes = 2 * MIB};
	struct vmgenid_config config = {.id = "vmgenid", .gpa = 2 * MIB - 8};
	struct device *dev;
	struct error err = ERROR_INIT;

	(void)state;
	assert_int_equal(gmem_new(&mem_config, &ports->env.mem, NULL), 0);
	assert_true(vmgenid_new(&ports->env, &config, &dev, &err) < 0);
	assert_non_null(strstr(err.text, "0x1ffff8"));
	gmem_free(ports->env.mem);
	ports_free(ports);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_new_identifier_is_seen_and_told),
		cmocka_unit_test(an_address_outside_memory_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
