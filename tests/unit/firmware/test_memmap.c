#include "firmware/guest.h"

#include "vm/bus/pci.h"
#include "vm/firmware/layout.h"
#include "vm/firmware/memmap.h"

static enum firmware_memmap_type type_at(const struct firmware_memmap *map, gpa_t gpa)
{
	for (unsigned i = 0; i < map->n; i++)
		if (gpa >= map->entries[i].gpa && gpa - map->entries[i].gpa < map->entries[i].size)
			return map->entries[i].type;
	return 0;
}

static uint64_t ram_bytes(const struct firmware_memmap *map)
{
	uint64_t sum = 0;

	for (unsigned i = 0; i < map->n; i++)
		if (map->entries[i].type == FIRMWARE_MEMMAP_RAM)
			sum += map->entries[i].size;
	return sum;
}

static struct firmware_memmap build(struct gmem *mem)
{
	struct firmware_memmap map;

	assert_int_equal(firmware_memmap_build(mem, &map), 0);
	for (unsigned i = 1; i < map.n; i++)
		assert_true(map.entries[i - 1].gpa + map.entries[i - 1].size <= map.entries[i].gpa);
	return map;
}

static void all_memory_is_told(void **state)
{
	static const uint64_t sizes[] = {32 * MIB, GIB, 3 * GIB, 3 * GIB + 4096, 6 * GIB};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
		struct gmem *mem = guest_memory(sizes[i]);
		struct firmware_memmap map = build(mem);

		assert_int_equal(ram_bytes(&map), sizes[i] - (FW_HIGH_BASE - FW_EBDA_BASE));
		assert_int_equal(map.low_end, MIN(sizes[i], 3 * GIB));
		assert_int_equal(type_at(&map, 4 * GIB),
				 sizes[i] > 3 * GIB ? FIRMWARE_MEMMAP_RAM : 0);
		gmem_free(mem);
	}
}

static void what_is_no_memory_is_not_told_as_such(void **state)
{
	struct gmem *mem = guest_memory(64 * MIB);
	struct firmware_memmap map;

	(void)state;
	assert_int_equal(gmem_add(mem, 0xFFFC0000, 256 * KIB, true, "rom", NULL), 0);
	map = build(mem);
	assert_int_equal(type_at(&map, FW_EBDA_BASE), FIRMWARE_MEMMAP_RESERVED);
	assert_int_equal(type_at(&map, FW_VIDEO_BASE), 0);
	assert_int_equal(type_at(&map, FW_ACPI_BASE), FIRMWARE_MEMMAP_RESERVED);
	assert_int_equal(type_at(&map, FW_VMGENID_BASE), FIRMWARE_MEMMAP_RESERVED);
	assert_int_equal(type_at(&map, FW_HIGH_BASE - 1), FIRMWARE_MEMMAP_RESERVED);
	assert_int_equal(type_at(&map, PCI_ECAM_BASE), FIRMWARE_MEMMAP_RESERVED);
	assert_int_equal(type_at(&map, 0xFFFC0000), FIRMWARE_MEMMAP_RESERVED);
	assert_int_equal(type_at(&map, PCI_MMIO32_BASE), 0);
	gmem_free(mem);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(all_memory_is_told),
		cmocka_unit_test(what_is_no_memory_is_not_told_as_such),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
