#include "device/driver.h"

#include "base/endian.h"
#include "vm/devices/virtio_balloon.h"

#define SLOT 4

/* Section 5.5: queues with all features, feature bits, configuration. */
enum { INFLATE, DEFLATE, STATS, REPORTING };
#define F_STATS     (1ULL << 1)
#define F_OOM       (1ULL << 2)
#define F_POISON    (1ULL << 4)
#define F_REPORTING (1ULL << 5)
enum { NUM_PAGES = 0, ACTUAL = 4, POISON = 12 };

struct fixture {
	struct harness *h;
	struct device *dev;
	struct driver d;
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	struct virtio_balloon_config config = {.id = "balloon0",
					       .slot = SLOT,
					       .deflate_on_oom = true,
					       .free_page_reporting = true};

	f->h = harness_new();
	assert_int_equal(virtio_balloon_new(&f->h->env, &config, &f->dev, NULL), 0);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	device_pause(f->dev);
	device_free(f->dev);
	harness_free(f->h);
	free(f);
	return 0;
}

static uint32_t config_in(struct fixture *f, unsigned offset)
{
	uint8_t buf[4];

	driver_config_read(&f->d, offset, buf, sizeof(buf));
	return (uint32_t)le_load(buf, 4);
}

static void config_out(struct fixture *f, unsigned offset, uint32_t value)
{
	uint8_t buf[4];

	le_store(buf, 4, value);
	driver_config_write(&f->d, offset, buf, sizeof(buf));
}

static bool is_zero(struct fixture *f, gpa_t gpa, size_t len)
{
	const uint8_t *p = harness_ptr(f->h, gpa, len);

	for (size_t i = 0; i < len; i++) {
		if (p[i])
			return false;
	}
	return true;
}

static void the_target_is_told_and_followed(void **state)
{
	struct fixture *f = *state;
	struct virtio_balloon_info info;

	virtio_balloon_get(f->dev, &info);
	assert_false(info.ready);
	assert_int_equal(info.actual_bytes, HARNESS_RAM);
	driver_start(&f->d, f->h, SLOT, DRIVER_ALL);
	assert_int_equal(f->d.features & (F_STATS | F_OOM | F_REPORTING | F_POISON),
			 F_STATS | F_OOM | F_REPORTING | F_POISON);
	virtio_balloon_set_target(f->dev, HARNESS_RAM - 8 * MIB);
	assert_int_equal(driver_config_interrupts(&f->d), 1);
	assert_int_equal(config_in(f, NUM_PAGES), 2048);
	virtio_balloon_set_target(f->dev, HARNESS_RAM - 8 * MIB);
	assert_int_equal(driver_config_interrupts(&f->d), 0);

	config_out(f, ACTUAL, 1024);
	assert_true(f->h->requests[MACHINE_BALLOON_CHANGED] > 0);
	virtio_balloon_get(f->dev, &info);
	assert_true(info.ready);
	assert_int_equal(info.actual_bytes, HARNESS_RAM - 4 * MIB);
	assert_int_equal(info.target_bytes, HARNESS_RAM - 8 * MIB);
	/* A driver that claims to have given more than there is. */
	config_out(f, ACTUAL, UINT32_MAX);
	virtio_balloon_get(f->dev, &info);
	assert_int_equal(info.actual_bytes, 0);
	/* Configuration that is not the driver's. */
	config_out(f, NUM_PAGES, 7);
	assert_int_equal(config_in(f, NUM_PAGES), 2048);

	driver_reset(&f->d);
	virtio_balloon_get(f->dev, &info);
	assert_int_equal(info.actual_bytes, HARNESS_RAM);
	assert_int_equal(info.target_bytes, HARNESS_RAM - 8 * MIB);
	virtio_balloon_set_target(f->dev, UINT64_MAX);
	virtio_balloon_get(f->dev, &info);
	assert_int_equal(info.target_bytes, HARNESS_RAM);
	driver_stop(&f->d);
}

static void inflate_gives_pages_to_the_host(void **state)
{
	struct fixture *f = *state;
	/* Out of order, twice the same, with a hole at page 3. */
	static const unsigned order[] = {5, 0, 2, 1, 5, 4, 6};
	le32 pfns[ARRAY_SIZE(order)];
	gpa_t gpa;

	driver_start(&f->d, f->h, SLOT, DRIVER_ALL);
	gpa = harness_alloc(f->h, 8 * 4096);
	memset(harness_ptr(f->h, gpa, 8 * 4096), 0xAA, 8 * 4096);
	harness_dirty_forget(f->h, gpa, 8 * 4096);
	for (size_t i = 0; i < ARRAY_SIZE(order); i++)
		pfns[i] = le32_of((uint32_t)(gpa / 4096) + order[i]);
	driver_request(&f->d, INFLATE, pfns, sizeof(pfns), NULL, 0);
	assert_true(is_zero(f, gpa, 3 * 4096));
	assert_true(is_zero(f, gpa + 4 * 4096, 3 * 4096));
	assert_true(harness_dirty(f->h, gpa, 3 * 4096)); /* a migration must send the zeroes */
	assert_int_equal(*(uint8_t *)harness_ptr(f->h, gpa + 3 * 4096, 1), 0xAA);
	assert_int_equal(*(uint8_t *)harness_ptr(f->h, gpa + 7 * 4096, 1), 0xAA);

	/* They are memory again as soon as they are used, told or not. */
	memset(harness_ptr(f->h, gpa, 4096), 0x55, 4096);
	driver_request(&f->d, DEFLATE, pfns, sizeof(pfns), NULL, 0);
	assert_int_equal(*(uint8_t *)harness_ptr(f->h, gpa, 1), 0x55);
	driver_stop(&f->d);
}

static void wrong_page_numbers_harm_nobody(void **state)
{
	struct fixture *f = *state;
	le32 pfns[2000];

	driver_start(&f->d, f->h, SLOT, DRIVER_ALL);
	for (size_t i = 0; i < ARRAY_SIZE(pfns); i++)
		pfns[i] = le32_of(UINT32_MAX - (uint32_t)i);
	pfns[0] = le32_of((uint32_t)(HARNESS_RAM / 4096)); /* the first outside */
	driver_request(&f->d, INFLATE, pfns, sizeof(pfns), NULL, 0);
	driver_request(&f->d, INFLATE, pfns, 3, NULL, 0);
	driver_request(&f->d, INFLATE, NULL, 0, pfns, 4);
	assert_false(driver_status(&f->d) & VIRTIO_STATUS_NEEDS_RESET);
	driver_stop(&f->d);
}

static void report(struct fixture *f, unsigned queue, gpa_t gpa, uint32_t len)
{
	struct driver_buf buf = {.gpa = gpa, .len = len, .writable = true};

	driver_add(&f->d.queues[queue], &buf, 1);
	driver_kick(&f->d.queues[queue]);
	assert_int_equal(driver_wait(&f->d.queues[queue], NULL), 0);
}

static void reported_pages_go_too(void **state)
{
	struct fixture *f = *state;
	gpa_t gpa;

	driver_start(&f->d, f->h, SLOT, DRIVER_ALL);
	gpa = harness_alloc(f->h, MIB);
	memset(harness_ptr(f->h, gpa, MIB), 0xAA, MIB);
	report(f, REPORTING, gpa, MIB / 2);
	assert_true(is_zero(f, gpa, MIB / 2));
	assert_int_equal(*(uint8_t *)harness_ptr(f->h, gpa + MIB / 2, 1), 0xAA);
	/* A guest that fills its free pages with something would find zeroes. */
	config_out(f, POISON, 0xAAAAAAAA);
	report(f, REPORTING, gpa + MIB / 2, MIB / 2);
	assert_int_equal(*(uint8_t *)harness_ptr(f->h, gpa + MIB / 2, 1), 0xAA);
	driver_stop(&f->d);
}

/* A driver without statistics has its reporting queue one number lower. */
static void queues_close_up(void **state)
{
	struct fixture *f = *state;
	gpa_t gpa;

	driver_start(&f->d, f->h, SLOT, DRIVER_ALL & ~F_STATS);
	gpa = harness_alloc(f->h, 4096);
	memset(harness_ptr(f->h, gpa, 4096), 0xAA, 4096);
	report(f, REPORTING - 1, gpa, 4096);
	assert_true(is_zero(f, gpa, 4096));
	driver_stop(&f->d);
}

struct __attribute__((packed)) stat {
	le16 tag;
	le64 value;
};

static bool stats_known(void *opaque)
{
	struct fixture *f = opaque;
	struct virtio_balloon_info info;

	virtio_balloon_get(f->dev, &info);
	return info.stats_time_ns != 0;
}

static void statistics_arrive_and_are_asked_for(void **state)
{
	struct fixture *f = *state;
	struct stat stats[] = {{le16_of(4), le64_of(123456)},
			       {le16_of(3), le64_of(7)},
			       {le16_of(99), le64_of(1)}};
	struct virtio_balloon_info info;
	struct driver_buf buf = {.len = sizeof(stats)};
	struct driver_queue *q;

	driver_start(&f->d, f->h, SLOT, DRIVER_ALL);
	q = &f->d.queues[STATS];
	buf.gpa = harness_alloc(f->h, sizeof(stats));
	memcpy(harness_ptr(f->h, buf.gpa, sizeof(stats)), stats, sizeof(stats));
	driver_add(q, &buf, 1);
	driver_kick(q);
	harness_wait(f->h, stats_known, f);
	virtio_balloon_get(f->dev, &info);
	assert_int_equal(info.stats[VIRTIO_BALLOON_STAT_FREE_BYTES], 123456);
	assert_int_equal(info.stats[VIRTIO_BALLOON_STAT_MINOR_FAULTS], 7);
	assert_true(info.stats[VIRTIO_BALLOON_STAT_SWAP_IN] == UINT64_MAX);
	/* The buffer stays with the device until the next poll. */
	harness_run(f->h);
	assert_false(driver_used(q, NULL, NULL));
	virtio_balloon_set_polling(f->dev, 1);
	assert_int_equal(driver_wait(q, NULL), 0);
	/* And again, with the same buffer filled anew. */
	le_store((uint8_t *)harness_ptr(f->h, buf.gpa, sizeof(stats)) + 2, 8, 654321);
	driver_add(q, &buf, 1);
	driver_kick(q);
	assert_int_equal(driver_wait(q, NULL), 0);
	virtio_balloon_get(f->dev, &info);
	assert_int_equal(info.stats[VIRTIO_BALLOON_STAT_FREE_BYTES], 654321);
	driver_reset(&f->d);
	assert_false(stats_known(f));
	driver_stop(&f->d);
}

static void many_requests_take_turns(void **state)
{
	struct fixture *f = *state;
	struct driver_queue *q;
	struct driver_buf buf = {.len = 4};

	driver_start(&f->d, f->h, SLOT, DRIVER_ALL);
	q = &f->d.queues[DEFLATE];
	buf.gpa = harness_alloc(f->h, 4);
	for (unsigned i = 0; i < 100; i++)
		driver_add(q, &buf, 1);
	driver_kick(q);
	for (unsigned i = 0; i < 100; i++)
		assert_int_equal(driver_wait(q, NULL), 0);
	driver_stop(&f->d);
}

static void nothing_happens_while_paused(void **state)
{
	struct fixture *f = *state;
	struct driver_buf buf = {.len = 4};

	driver_start(&f->d, f->h, SLOT, DRIVER_ALL);
	buf.gpa = harness_alloc(f->h, 4096);
	le_store(harness_ptr(f->h, buf.gpa, 4), 4, buf.gpa / 4096);
	device_pause(f->dev);
	driver_add(&f->d.queues[INFLATE], &buf, 1);
	driver_kick(&f->d.queues[INFLATE]);
	harness_run(f->h);
	assert_false(is_zero(f, buf.gpa, 4));
	device_resume(f->dev);
	driver_wait(&f->d.queues[INFLATE], NULL);
	assert_true(is_zero(f, buf.gpa, 4));
	driver_stop(&f->d);
}

int main(void)
{
#define CASE(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
	const struct CMUnitTest tests[] = {
		CASE(the_target_is_told_and_followed),
		CASE(inflate_gives_pages_to_the_host),
		CASE(wrong_page_numbers_harm_nobody),
		CASE(reported_pages_go_too),
		CASE(queues_close_up),
		CASE(statistics_arrive_and_are_asked_for),
		CASE(many_requests_take_turns),
		CASE(nothing_happens_while_paused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
