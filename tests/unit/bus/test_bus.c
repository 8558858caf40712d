#include "unit/test.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>

#include "base/bits.h"
#include "vm/bus/bus.h"

/* A region that remembers its last access and reads as `tag` plus the offset. */
struct probe {
	struct bus_region region;
	uint64_t tag;
	uint64_t last_offset;
	uint64_t last_value;
	unsigned last_size;
	unsigned writes;
};

static uint64_t probe_read(void *opaque, uint64_t offset, unsigned size)
{
	struct probe *p = opaque;

	p->last_offset = offset;
	p->last_size = size;
	return p->tag + offset;
}

static void probe_write(void *opaque, uint64_t offset, unsigned size, uint64_t value)
{
	struct probe *p = opaque;

	p->last_offset = offset;
	p->last_size = size;
	p->last_value = value;
	p->writes++;
}

static const struct bus_ops probe_ops = {.read = probe_read, .write = probe_write};

static void probe_init(struct probe *p, enum bus_space space, uint64_t base, uint64_t size,
		       uint64_t tag)
{
	*p = (struct probe){
		.region = {.name = "probe",
			   .ops = &probe_ops,
			   .opaque = p,
			   .space = space,
			   .base = base,
			   .size = size},
		.tag = tag,
	};
}

static uint64_t read_at(struct bus *bus, enum bus_space space, uint64_t addr, unsigned size)
{
	uint64_t v = 0;

	bus_access(bus, space, addr, false, &v, size);
	return v;
}

static void write_at(struct bus *bus, enum bus_space space, uint64_t addr, unsigned size,
		     uint64_t v)
{
	bus_access(bus, space, addr, true, &v, size);
}

static void finds_the_region_of_each_space(void **state)
{
	struct probe mem, port;
	struct bus *bus;

	(void)state;
	assert_int_equal(bus_new(&bus), 0);
	probe_init(&mem, BUS_MMIO, 0x1000, 0x100, 0x10);
	probe_init(&port, BUS_PIO, 0x1000, 0x10, 0x20);
	assert_int_equal(bus_map(bus, &mem.region), 0);
	assert_int_equal(bus_map(bus, &port.region), 0);
	assert_int_equal(read_at(bus, BUS_MMIO, 0x1004, 4), 0x14);
	assert_int_equal(mem.last_size, 4);
	assert_int_equal(read_at(bus, BUS_PIO, 0x1004, 1), 0x24);
	write_at(bus, BUS_MMIO, 0x10f8, 8, 0x1122334455667788);
	assert_int_equal(mem.last_value, 0x1122334455667788);
	assert_int_equal(mem.last_offset, 0xf8);
	bus_unmap(bus, &mem.region);
	assert_int_equal(read_at(bus, BUS_MMIO, 0x1004, 4), 0xffffffff);
	bus_unmap(bus, &mem.region);
	bus_free(bus);
}

static void nothing_there_reads_all_ones(void **state)
{
	struct bus *bus;

	(void)state;
	assert_int_equal(bus_new(&bus), 0);
	assert_int_equal(read_at(bus, BUS_MMIO, 0, 8), UINT64_MAX);
	assert_int_equal(read_at(bus, BUS_MMIO, UINT64_MAX, 8), UINT64_MAX);
	assert_int_equal(read_at(bus, BUS_PIO, 0xffff, 2), 0xffff);
	write_at(bus, BUS_PIO, 0x80, 1, 1);
	bus_free(bus);
}

static void refuses_overlaps_and_bad_ranges(void **state)
{
	struct probe a, b;
	struct bus *bus;

	(void)state;
	assert_int_equal(bus_new(&bus), 0);
	probe_init(&a, BUS_MMIO, 0x1000, 0x1000, 0);
	assert_int_equal(bus_map(bus, &a.region), 0);
	assert_int_equal(bus_map(bus, &a.region), -EINVAL); /* twice */

	static const struct {
		uint64_t base, size;
		int want;
	} cases[] = {
		{0xfff, 2, -EEXIST},     {0x1fff, 1, -EEXIST}, {0, UINT64_MAX, -EEXIST},
		{0x1800, 0x10, -EEXIST}, {0x3000, 0, -EINVAL}, {UINT64_MAX, 2, -EINVAL},
		{0xff0, 0x10, 0},        {0x2000, 0x10, 0},    {UINT64_MAX, 1, 0},
	};
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		probe_init(&b, BUS_MMIO, cases[i].base, cases[i].size, 0);
		assert_int_equal(bus_map(bus, &b.region), cases[i].want);
		bus_unmap(bus, &b.region);
	}
	probe_init(&b, BUS_PIO, 0xffff, 2, 0);
	assert_int_equal(bus_map(bus, &b.region), -EINVAL);
	bus_free(bus);
}

static void splits_what_crosses_an_end(void **state)
{
	struct probe a, b;
	struct bus *bus;

	(void)state;
	assert_int_equal(bus_new(&bus), 0);
	probe_init(&a, BUS_MMIO, 0x1000, 2, 0x40);
	probe_init(&b, BUS_MMIO, 0x1002, 1, 0x50);
	assert_int_equal(bus_map(bus, &a.region), 0);
	assert_int_equal(bus_map(bus, &b.region), 0);
	/* Bytes of a, a, b, and of nobody. */
	assert_int_equal(read_at(bus, BUS_MMIO, 0x1000, 4), 0xff504140);
	assert_int_equal(read_at(bus, BUS_MMIO, 0x0fff, 2), 0x40ff);
	/* Three bytes are no size of an operation. */
	assert_int_equal(read_at(bus, BUS_MMIO, 0x1000, 3), 0x504140);
	write_at(bus, BUS_MMIO, 0x1001, 2, 0xbbaa);
	assert_int_equal(a.last_value, 0xaa);
	assert_int_equal(b.last_value, 0xbb);
	bus_free(bus);
}

/* 0xCF8 as a dword is the configuration address; 0xCF9 as a byte is the reset register. */
static void dword_regions_leave_the_bytes_to_others(void **state)
{
	struct probe cf8, cf9;
	struct bus *bus;

	(void)state;
	assert_int_equal(bus_new(&bus), 0);
	probe_init(&cf8, BUS_PIO, 0xcf8, 4, 0x70);
	cf8.region.dword_only = true;
	probe_init(&cf9, BUS_PIO, 0xcf9, 1, 0x90);
	assert_int_equal(bus_map(bus, &cf8.region), 0);
	assert_int_equal(bus_map(bus, &cf9.region), 0);
	assert_int_equal(read_at(bus, BUS_PIO, 0xcf8, 4), 0x70);
	assert_int_equal(read_at(bus, BUS_PIO, 0xcf9, 1), 0x90);
	assert_int_equal(read_at(bus, BUS_PIO, 0xcf8, 2), 0x90ff);
	assert_int_equal(read_at(bus, BUS_PIO, 0xcf9, 4), 0xffffff90);
	write_at(bus, BUS_PIO, 0xcf8, 4, 0x80000000);
	assert_int_equal(cf8.last_value, 0x80000000);
	assert_int_equal(cf9.writes, 0);
	bus_free(bus);
}

static void holds_many_in_any_order(void **state)
{
	static struct probe p[512];
	static struct probe extra;
	struct bus *bus;

	(void)state;
	assert_int_equal(bus_new(&bus), 0);
	for (unsigned i = 0; i < 512; i++) {
		unsigned k = (i * 197) % 512; /* 197 and 512 are coprime */

		probe_init(&p[k], BUS_MMIO, 0x100000 + k * 0x20, 0x10, k * 0x100);
		assert_int_equal(bus_map(bus, &p[k].region), 0);
	}
	probe_init(&extra, BUS_MMIO, 0, 0x10, 0);
	assert_int_equal(bus_map(bus, &extra.region), -ENOSPC);
	for (unsigned k = 0; k < 512; k += 2)
		bus_unmap(bus, &p[k].region);
	for (unsigned k = 0; k < 512; k++) {
		uint64_t want = k & 1 ? k * 0x100 + 3 : 0xff;

		assert_int_equal(read_at(bus, BUS_MMIO, 0x100003 + k * 0x20, 1) & 0xff,
				 want & 0xff);
		assert_int_equal(read_at(bus, BUS_MMIO, 0x100010 + k * 0x20, 1), 0xff);
	}
	bus_free(bus);
}

/* One thread moves a region to and fro while another reads a neighbour, which must always answer. */
struct mover {
	struct bus *bus;
	struct probe moving;
	atomic_bool stop;
};

static void *mover_main(void *opaque)
{
	struct mover *m = opaque;

	for (unsigned i = 0; !atomic_load(&m->stop); i++) {
		bus_unmap(m->bus, &m->moving.region);
		m->moving.region.base = i & 1 ? 0x1000 : 0x3000;
		bus_map(m->bus, &m->moving.region);
	}
	return NULL;
}

static void dispatch_survives_a_moving_map(void **state)
{
	struct mover m = {0};
	struct probe still;
	pthread_t thread;

	(void)state;
	assert_int_equal(bus_new(&m.bus), 0);
	probe_init(&m.moving, BUS_MMIO, 0x1000, 0x10, 0x11);
	probe_init(&still, BUS_MMIO, 0x2000, 0x10, 0x22);
	assert_int_equal(bus_map(m.bus, &m.moving.region), 0);
	assert_int_equal(bus_map(m.bus, &still.region), 0);
	assert_int_equal(pthread_create(&thread, NULL, mover_main, &m), 0);
	for (unsigned i = 0; i < 20000; i++) {
		uint64_t v = read_at(m.bus, BUS_MMIO, 0x1000, 1);

		assert_true(v == 0x11 || v == 0xff);
		assert_int_equal(read_at(m.bus, BUS_MMIO, 0x2001, 1), 0x23);
	}
	atomic_store(&m.stop, true);
	pthread_join(thread, NULL);
	bus_free(m.bus);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(finds_the_region_of_each_space),
		cmocka_unit_test(nothing_there_reads_all_ones),
		cmocka_unit_test(refuses_overlaps_and_bad_ranges),
		cmocka_unit_test(splits_what_crosses_an_end),
		cmocka_unit_test(dword_regions_leave_the_bytes_to_others),
		cmocka_unit_test(holds_many_in_any_order),
		cmocka_unit_test(dispatch_survives_a_moving_map),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
