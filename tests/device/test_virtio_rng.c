#include "device/driver.h"

#include "vm/devices/virtio_rng.h"

#define SLOT 5

struct rng_test {
	struct harness *h;
	struct device *dev;
	struct driver d;
};

static int rng_new(void **state)
{
	struct rng_test *t = calloc(1, sizeof(*t));

	assert_non_null(t);
	t->h = harness_new();
	assert_int_equal(virtio_rng_new(&t->h->env, "rng0", SLOT, &t->dev, NULL), 0);
	*state = t;
	return 0;
}

static int rng_free(void **state)
{
	struct rng_test *t = *state;

	device_free(t->dev);
	harness_free(t->h);
	free(t);
	return 0;
}

static bool all_zero(const uint8_t *p, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		if (p[i])
			return false;
	}
	return true;
}

static void fill_with(struct rng_test *t, uint64_t features, bool indirect)
{
	uint8_t a[64], b[64];

	driver_start(&t->d, t->h, SLOT, features);
	t->d.queues[0].indirect = indirect;
	for (unsigned i = 0; i < 200; i++) { /* some times round the ring */
		assert_int_equal(driver_request(&t->d, 0, NULL, 0, a, sizeof(a)), sizeof(a));
		assert_false(all_zero(a, sizeof(a)));
		assert_int_equal(driver_interrupts(&t->d.queues[0]), 1);
	}
	assert_int_equal(driver_request(&t->d, 0, NULL, 0, b, sizeof(b)), sizeof(b));
	assert_memory_not_equal(a, b, sizeof(a));
	driver_stop(&t->d);
}

static void fills_buffers_split(void **state)
{
	fill_with(*state, DRIVER_SPLIT & ~(1ULL << VIRTIO_F_EVENT_IDX), false);
}

static void fills_buffers_split_event_idx(void **state)
{
	fill_with(*state, DRIVER_SPLIT, true);
}

static void fills_buffers_packed(void **state)
{
	fill_with(*state, DRIVER_ALL & ~(1ULL << VIRTIO_F_EVENT_IDX), true);
}

static void fills_buffers_packed_event_idx(void **state)
{
	fill_with(*state, DRIVER_ALL, false);
}

static void a_machine_without_doorbells_works(void **state)
{
	struct rng_test *t = *state;

	t->h->refuse_doorbells = true;
	fill_with(t, DRIVER_ALL, false);
}

static void a_line_interrupt_works(void **state)
{
	struct rng_test *t = *state;
	unsigned gsi = pci_intx_gsi(SLOT, 0);
	uint8_t buf[16];

	t->h->intx = true;
	driver_start(&t->d, t->h, SLOT, DRIVER_ALL);
	driver_request(&t->d, 0, NULL, 0, buf, sizeof(buf));
	assert_true(t->h->line[gsi]);
	assert_int_equal(driver_interrupts(&t->d.queues[0]), 1);
	assert_false(t->h->line[gsi]);
	assert_int_equal(driver_interrupts(&t->d.queues[0]), 0);
	driver_stop(&t->d);
}

/* One kick is answered in portions; other work of the loop is not kept waiting, nothing is lost. */
static void a_large_demand_is_met_in_rounds(void **state)
{
	struct rng_test *t = *state;
	struct driver_queue *q;
	struct driver_buf buf = {.len = 60000, .writable = true};
	uint32_t total = 0;

	driver_start(&t->d, t->h, SLOT, DRIVER_ALL);
	q = &t->d.queues[0];
	for (unsigned i = 0; i < 8; i++) {
		buf.gpa = harness_alloc(t->h, buf.len);
		driver_add(q, &buf, 1);
	}
	driver_kick(q);
	loop_run_once(t->h->env.loop, 0);
	assert_true(driver_used(q, NULL, NULL));
	for (unsigned i = 1; i < 8; i++)
		total += driver_wait(q, NULL);
	assert_true(total > 0);
	driver_stop(&t->d);
}

static void a_broken_ring_stops_it_until_reset(void **state)
{
	struct rng_test *t = *state;
	struct driver_buf buf = {.gpa = HARNESS_RAM, .len = 64, .writable = true};
	uint8_t in[8];

	driver_start(&t->d, t->h, SLOT, DRIVER_ALL);
	driver_add(&t->d.queues[0], &buf, 1);
	driver_kick(&t->d.queues[0]);
	harness_run(t->h);
	assert_true(driver_status(&t->d) & VIRTIO_STATUS_NEEDS_RESET);
	assert_int_equal(driver_config_interrupts(&t->d), 1);
	driver_stop(&t->d);
	driver_start(&t->d, t->h, SLOT, DRIVER_ALL);
	assert_int_equal(driver_request(&t->d, 0, NULL, 0, in, sizeof(in)), sizeof(in));
	driver_stop(&t->d);
}

static void pause_holds_requests_and_resume_serves_them(void **state)
{
	struct rng_test *t = *state;
	struct driver_queue *q;
	struct driver_buf buf = {.len = 64, .writable = true};

	driver_start(&t->d, t->h, SLOT, DRIVER_ALL);
	q = &t->d.queues[0];
	buf.gpa = harness_alloc(t->h, buf.len);
	device_pause(t->dev);
	driver_add(q, &buf, 1);
	driver_kick(q);
	harness_run(t->h);
	assert_false(driver_used(q, NULL, NULL));
	device_resume(t->dev);
	assert_int_equal(driver_wait(q, NULL), 64);
	driver_stop(&t->d);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, rng_new, rng_free)
	const struct CMUnitTest tests[] = {
		TEST(fills_buffers_split),
		TEST(fills_buffers_split_event_idx),
		TEST(fills_buffers_packed),
		TEST(fills_buffers_packed_event_idx),
		TEST(a_machine_without_doorbells_works),
		TEST(a_line_interrupt_works),
		TEST(a_large_demand_is_met_in_rounds),
		TEST(a_broken_ring_stops_it_until_reset),
		TEST(pause_holds_requests_and_resume_serves_them),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
