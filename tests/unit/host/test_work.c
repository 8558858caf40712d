/* Work on other threads is done on the loop, all of it and once; what has not begun when the pool goes is forgotten. */
#include "unit/test.h"

#include <semaphore.h>
#include <stdatomic.h>

#include "base/bits.h"
#include "host/system/work.h"

#define PIECES 200

struct rig {
	struct loop *loop;
	struct work_pool *pool;
	atomic_int ran;
	int done;
};

struct piece {
	struct work work;
	struct rig *rig;
	sem_t *wait; /* NULL: do not */
};

static void piece_run(struct work *work)
{
	struct piece *piece = container_of(work, struct piece, work);

	if (piece->wait)
		sem_wait(piece->wait);
	atomic_fetch_add(&piece->rig->ran, 1);
}

static void piece_done(struct work *work)
{
	struct piece *piece = container_of(work, struct piece, work);

	assert_true(loop_is_mine(piece->rig->loop));
	piece->rig->done++;
}

static int setup(void **state)
{
	struct rig *rig = calloc(1, sizeof(*rig));

	assert_int_equal(loop_new(&rig->loop), 0);
	assert_int_equal(work_pool_new(rig->loop, 3, &rig->pool), 0);
	*state = rig;
	return 0;
}

static int teardown(void **state)
{
	struct rig *rig = *state;

	work_pool_free(rig->pool);
	loop_free(rig->loop);
	free(rig);
	return 0;
}

static void submit(struct rig *rig, struct piece *piece, sem_t *wait)
{
	*piece = (struct piece){.work = {.run = piece_run, .done = piece_done},
				.rig = rig,
				.wait = wait};
	work_submit(rig->pool, &piece->work);
}

static void everything_is_done(void **state)
{
	static struct piece pieces[PIECES];
	struct rig *rig = *state;

	for (int i = 0; i < PIECES; i++)
		submit(rig, &pieces[i], NULL);
	while (rig->done < PIECES)
		loop_run_once(rig->loop, -1);
	assert_int_equal(atomic_load(&rig->ran), PIECES);
}

/* One that blocks leaves the others their threads. */
static void a_slow_one_holds_nobody_up(void **state)
{
	struct piece slow, quick[10];
	struct rig *rig = *state;
	sem_t wait;

	sem_init(&wait, 0, 0);
	submit(rig, &slow, &wait);
	for (size_t i = 0; i < ARRAY_SIZE(quick); i++)
		submit(rig, &quick[i], NULL);
	while (rig->done < (int)ARRAY_SIZE(quick))
		loop_run_once(rig->loop, -1);
	sem_post(&wait);
	while (rig->done < (int)ARRAY_SIZE(quick) + 1)
		loop_run_once(rig->loop, -1);
	sem_destroy(&wait);
}

static void what_has_not_begun_is_forgotten(void **state)
{
	struct piece busy[3], late;
	struct rig *rig = *state;
	sem_t wait;

	sem_init(&wait, 0, 0);
	for (size_t i = 0; i < ARRAY_SIZE(busy); i++)
		submit(rig, &busy[i], &wait);
	submit(rig, &late, NULL);
	for (size_t i = 0; i < ARRAY_SIZE(busy); i++)
		sem_post(&wait);
	work_pool_free(rig->pool);
	rig->pool = NULL;
	assert_true(atomic_load(&rig->ran) <= 4);
	assert_int_equal(rig->done, 0);
	sem_destroy(&wait);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(everything_is_done, setup, teardown),
		cmocka_unit_test_setup_teardown(a_slow_one_holds_nobody_up, setup, teardown),
		cmocka_unit_test_setup_teardown(what_has_not_begun_is_forgotten, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
