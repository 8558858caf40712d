/*
 * A device that works on a thread of its own, as in a real machine, and a driver that follows the rules of notification to
 * the letter: it kicks only when asked to and sleeps until interrupted. A notification that is lost on either side
 * ends in a time-out. Then resets and pauses while it works.
 */
#include "device/driver.h"

#include "base/bits.h"
#include "vm/devices/virtio_rng.h"

#define SLOT   7
#define ROUNDS 4000

struct fixture {
	struct harness *h;
	struct loop_thread *thread;
	struct device *dev;
	struct driver d;
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	struct device_env env;

	assert_non_null(f);
	f->h = harness_new();
	assert_int_equal(loop_thread_start("device", &f->thread), 0);
	env = f->h->env;
	env.loop = loop_thread_loop(f->thread);
	assert_int_equal(virtio_rng_new(&env, "rng0", SLOT, &f->dev, NULL), 0);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	driver_stop(&f->d);
	device_free(f->dev);
	loop_thread_stop(f->thread);
	harness_free(f->h);
	free(f);
	return 0;
}

static bool interrupted(void *opaque)
{
	return driver_interrupts(opaque) > 0;
}

static void run(struct fixture *f, uint64_t features, bool indirect)
{
	struct driver_buf bufs[2] = {{.len = 16, .writable = true}, {.len = 8, .writable = true}};
	struct driver_queue *q;
	unsigned sent = 0, done = 0, kicks = 0, waits = 0;

	driver_start(&f->d, f->h, SLOT, features);
	q = &f->d.queues[0];
	q->indirect = indirect;
	bufs[0].gpa = harness_alloc(f->h, 64);
	bufs[1].gpa = bufs[0].gpa + 32;
	while (done < ROUNDS) {
		unsigned burst = 1 + sent % 7;

		while (sent < ROUNDS && burst-- > 0 && driver_has_room(q, 2)) {
			driver_add(q, bufs, 2);
			sent++;
		}
		kicks += driver_kick(q);
		if (!driver_used(q, NULL, NULL)) {
			harness_wait(f->h, interrupted, q);
			waits++;
			continue;
		}
		do {
			done++;
		} while (driver_used(q, NULL, NULL));
	}
	assert_int_equal(sent, ROUNDS);
	assert_true(kicks > 0 && kicks <= ROUNDS && waits <= ROUNDS);
}

#define NO(bit) (DRIVER_ALL & ~BIT(bit))

static void split_flags(void **state)
{
	run(*state, NO(VIRTIO_F_RING_PACKED) & NO(VIRTIO_F_EVENT_IDX), false);
}

static void split_events(void **state)
{
	run(*state, NO(VIRTIO_F_RING_PACKED), true);
}

static void packed_flags(void **state)
{
	run(*state, NO(VIRTIO_F_EVENT_IDX), true);
}

static void packed_events(void **state)
{
	run(*state, DRIVER_ALL, false);
}

/* A reset in the middle of work: once the status reads 0, memory is the driver's alone. */
static void resets_under_load(void **state)
{
	struct fixture *f = *state;
	struct driver_buf buf = {.len = 4096, .writable = true};

	driver_probe(&f->d, f->h, SLOT);
	buf.gpa = harness_alloc(f->h, buf.len);
	for (unsigned i = 0; i < 200; i++) {
		struct driver_queue *q;
		uint8_t *page = harness_ptr(f->h, buf.gpa, buf.len);

		driver_negotiate(&f->d, i & 1 ? DRIVER_ALL : DRIVER_SPLIT);
		q = driver_queue_setup(&f->d, 0, 0);
		driver_ok(&f->d);
		while (driver_has_room(q, 1))
			driver_add(q, &buf, 1);
		driver_kick_now(q);
		if (i % 3)
			driver_wait(q, NULL);
		driver_reset(&f->d);
		memset(page, 0x5a, buf.len);
		memset(harness_ptr(f->h, q->used, 64), 0x5a, 64);
		for (unsigned k = 0; k < buf.len; k += 64)
			assert_int_equal(page[k], 0x5a);
		assert_int_equal(*(uint8_t *)harness_ptr(f->h, q->used + 2, 1), 0x5a);
	}
}

/* Paused, it neither takes nor gives; resumed, it goes on without being kicked. */
static void pauses_under_load(void **state)
{
	struct fixture *f = *state;
	struct driver_buf buf = {.len = 64, .writable = true};
	struct driver_queue *q;

	driver_start(&f->d, f->h, SLOT, DRIVER_ALL);
	q = &f->d.queues[0];
	buf.gpa = harness_alloc(f->h, buf.len);
	for (unsigned i = 0; i < 200; i++) {
		unsigned out = 0;

		while (driver_has_room(q, 1)) {
			driver_add(q, &buf, 1);
			out++;
		}
		driver_kick(q);
		device_pause(f->dev);
		while (driver_used(q, NULL, NULL))
			out--;
		driver_interrupts(q);
		if (i & 1)
			driver_kick_now(q); /* held back */
		assert_false(driver_used(q, NULL, NULL));
		device_resume(f->dev);
		while (out-- > 0)
			driver_wait(q, NULL);
	}
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(split_flags),   TEST(split_events),      TEST(packed_flags),
		TEST(packed_events), TEST(resets_under_load), TEST(pauses_under_load),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
