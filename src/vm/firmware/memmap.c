#include "vm/firmware/memmap.h"

#include <errno.h>

#include "base/bits.h"
#include "vm/bus/pci.h"
#include "vm/firmware/layout.h"

static int add(struct firmware_memmap *map, gpa_t start, gpa_t end, enum firmware_memmap_type type)
{
	struct firmware_memmap_entry *last = map->n > 0 ? &map->entries[map->n - 1] : NULL;

	if (start >= end)
		return 0;
	if (last && last->type == type && last->gpa + last->size == start) {
		last->size += end - start;
		return 0;
	}
	if (map->n == FIRMWARE_MEMMAP_MAX)
		return -ENOSPC;
	map->entries[map->n++] = (struct firmware_memmap_entry){start, end - start, type};
	return 0;
}

/* A region of guest memory, without the area between conventional memory and 1 MiB. */
static int add_region(struct firmware_memmap *map, const struct gmem_region *region)
{
	gpa_t start = region->gpa;
	gpa_t end = region->gpa + region->size;
	int r;

	if (region->readonly)
		return add(map, MAX(start, FW_HIGH_BASE), end, FIRMWARE_MEMMAP_RESERVED);
	r = add(map, start, MIN(end, FW_EBDA_BASE), FIRMWARE_MEMMAP_RAM);
	if (r < 0 || end <= FW_HIGH_BASE)
		return r;
	return add(map, MAX(start, FW_HIGH_BASE), end, FIRMWARE_MEMMAP_RAM);
}

static void sort(struct firmware_memmap *map)
{
	for (unsigned i = 1; i < map->n; i++)
		for (unsigned k = i; k > 0 && map->entries[k].gpa < map->entries[k - 1].gpa; k--) {
			struct firmware_memmap_entry swap = map->entries[k];

			map->entries[k] = map->entries[k - 1];
			map->entries[k - 1] = swap;
		}
}

int firmware_memmap_build(const struct gmem *mem, struct firmware_memmap *ret)
{
	const struct gmem_region *regions;
	size_t n = gmem_regions(mem, &regions);
	struct firmware_memmap map = {0};
	int r = 0;

	for (size_t i = 0; i < n && r >= 0; i++)
		r = add_region(&map, &regions[i]);
	if (r >= 0)
		r = add(&map, FW_EBDA_BASE, FW_VIDEO_BASE, FIRMWARE_MEMMAP_RESERVED);
	if (r >= 0)
		r = add(&map, FW_ACPI_BASE, FW_HIGH_BASE, FIRMWARE_MEMMAP_RESERVED);
	if (r >= 0)
		r = add(&map, PCI_ECAM_BASE, PCI_ECAM_BASE + PCI_ECAM_BYTES,
			FIRMWARE_MEMMAP_RESERVED);
	if (r < 0)
		return r;
	sort(&map);
	for (unsigned i = 0; i < map.n; i++)
		if (map.entries[i].gpa == FW_HIGH_BASE &&
		    map.entries[i].type == FIRMWARE_MEMMAP_RAM)
			map.low_end = MIN(FW_HIGH_BASE + map.entries[i].size, GMEM_HOLE_START);
	*ret = map;
	return 0;
}
