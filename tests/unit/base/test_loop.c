#include "unit/test.h"

#include <pthread.h>
#include <stdatomic.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/clock.h"
#include "base/fd.h"
#include "base/loop.h"

struct pair {
	struct loop_fd a, b;
	unsigned a_calls, b_calls;
};

static void delete_the_other(struct loop_fd *src, unsigned events)
{
	struct pair *pair = container_of(src, struct pair, a);

	(void)events;
	pair->a_calls++;
	eventfd_clear(src->fd);
	loop_fd_del(&pair->b);
}

static void count_b(struct loop_fd *src, unsigned events)
{
	struct pair *pair = container_of(src, struct pair, b);

	(void)events;
	pair->b_calls++;
	eventfd_clear(src->fd);
	loop_fd_del(&pair->a);
}

/* Both are ready in one batch; whoever runs first removes the other, which must not run any more. */
static void a_removed_source_is_silent(void **state)
{
	struct pair pair = {0};
	struct loop *loop;
	int fa = eventfd_new();
	int fb = eventfd_new();

	(void)state;
	assert_int_equal(loop_new(&loop), 0);
	assert_int_equal(loop_fd_add(loop, &pair.a, fa, LOOP_READ, delete_the_other), 0);
	assert_int_equal(loop_fd_add(loop, &pair.b, fb, LOOP_READ, count_b), 0);
	eventfd_signal(fa);
	eventfd_signal(fb);
	loop_run_once(loop, 1000);
	assert_int_equal(pair.a_calls + pair.b_calls, 1);
	loop_free(loop);
	close(fa);
	close(fb);
}

struct order {
	struct loop_timer t[3];
	int fired[3];
	int n;
};
static struct order order_now; /* one test's record */

static void note_timer(struct loop_timer *timer)
{
	order_now.fired[order_now.n++] = (int)(timer - order_now.t);
}

static void timers_fire_in_order(void **state)
{
	uint64_t now = clock_monotonic_ns();
	struct loop *loop;

	(void)state;
	assert_int_equal(loop_new(&loop), 0);
	for (int i = 0; i < 3; i++)
		loop_timer_init(loop, &order_now.t[i], note_timer);
	loop_timer_arm(&order_now.t[0], now + 3 * NSEC_PER_MSEC);
	loop_timer_arm(&order_now.t[1], now + 1 * NSEC_PER_MSEC);
	loop_timer_arm(&order_now.t[2], now + 2 * NSEC_PER_MSEC);
	loop_timer_arm(&order_now.t[0], now); /* moved to the front */
	loop_timer_disarm(&order_now.t[2]);
	while (order_now.n < 2)
		loop_run_once(loop, 1000);
	assert_int_equal(order_now.fired[0], 0);
	assert_int_equal(order_now.fired[1], 1);
	assert_false(loop_timer_armed(&order_now.t[2]));
	loop_free(loop);
}

struct counter {
	struct loop_msg msg;
	struct loop *loop;
	unsigned runs;
};

static void count_run(struct loop_msg *msg)
{
	struct counter *c = container_of(msg, struct counter, msg);

	c->runs++;
}

static void posts_coalesce_and_can_be_taken_back(void **state)
{
	struct counter c = {.msg.fn = count_run};
	struct loop *loop;

	(void)state;
	assert_int_equal(loop_new(&loop), 0);
	loop_post(loop, &c.msg);
	loop_post(loop, &c.msg);
	loop_run_once(loop, 0);
	assert_int_equal(c.runs, 1);
	loop_post(loop, &c.msg);
	loop_unpost(loop, &c.msg);
	loop_run_once(loop, 0);
	assert_int_equal(c.runs, 1);
	loop_free(loop);
}

static void add_one(void *opaque)
{
	(*(unsigned *)opaque)++;
}

struct caller {
	struct loop *loop;
	unsigned *sum;
};

static void *call_often(void *opaque)
{
	struct caller *caller = opaque;

	for (int i = 0; i < 1000; i++)
		loop_call(caller->loop, add_one, caller->sum);
	return NULL;
}

/* Four threads add through one loop: nothing is lost, and nothing needs a lock. */
static void calls_run_on_the_loop(void **state)
{
	struct loop_thread *thread;
	pthread_t callers[4];
	unsigned sum = 0;
	struct caller caller = {.sum = &sum};

	(void)state;
	assert_int_equal(loop_thread_start("test", &thread), 0);
	caller.loop = loop_thread_loop(thread);
	assert_false(loop_is_mine(caller.loop));
	for (int i = 0; i < 4; i++)
		assert_int_equal(pthread_create(&callers[i], NULL, call_often, &caller), 0);
	for (int i = 0; i < 4; i++)
		pthread_join(callers[i], NULL);
	loop_thread_stop(thread);
	assert_int_equal(sum, 4000);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_removed_source_is_silent),
		cmocka_unit_test(timers_fire_in_order),
		cmocka_unit_test(posts_coalesce_and_can_be_taken_back),
		cmocka_unit_test(calls_run_on_the_loop),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
