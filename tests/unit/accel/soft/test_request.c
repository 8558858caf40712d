/* Stopping other vCPUs: synchronisation and exclusion by several at once, kicks, rest. Threads that act as vCPUs execute no code. */
#include "rig.h"

#include <errno.h>
#include <sched.h>

#include "base/clock.h"

#define ROUNDS 3000

struct player {
	struct rig *r;
	unsigned index;
	pthread_t thread;
	unsigned served; /* flushes */
};

static atomic_bool stop;

/* Between instructions: what the run loop does. */
static void take_requests(struct soft_cpu *cpu)
{
	soft_leave(cpu);
	atomic_fetch_and(&cpu->request, REQ_FLUSH);
	soft_enter(cpu);
}

static void players_start(struct rig *r, struct player *p, void *(*fn)(void *opaque))
{
	atomic_store(&stop, false);
	for (unsigned i = 0; i < r->n; i++) {
		p[i] = (struct player){.r = r, .index = i};
		assert_int_equal(pthread_create(&p[i].thread, NULL, fn, &p[i]), 0);
	}
}

static void players_join(struct rig *r, struct player *p)
{
	for (unsigned i = 0; i < r->n; i++)
		pthread_join(p[i].thread, NULL);
}

/* Each adds to a plain counter, alone. */
static unsigned counter;

static void *play_exclusive(void *opaque)
{
	struct player *p = opaque;
	struct soft_cpu *cpu = p->r->cpu[p->index];

	soft_enter(cpu);
	for (unsigned i = 0; i < ROUNDS; i++) {
		soft_exclusive_begin(cpu);
		counter++;
		soft_exclusive_end(cpu);
		if (atomic_load(&cpu->request))
			take_requests(cpu);
	}
	soft_leave(cpu);
	return NULL;
}

static void one_at_a_time_is_alone(void **state)
{
	struct player p[RIG_VCPUS];
	struct rig r;

	rig_init(&r, RIG_VCPUS);
	counter = 0;
	players_start(&r, p, play_exclusive);
	players_join(&r, p);
	assert_int_equal(counter, RIG_VCPUS * ROUNDS);
	rig_fini(&r);
}

/* While one is alone the others are between instructions: a value that one of them changes and puts right inside is never seen wrong. */
static _Atomic unsigned halves[RIG_VCPUS];

static void *play_watched(void *opaque)
{
	struct player *p = opaque;
	struct soft_cpu *cpu = p->r->cpu[p->index];

	soft_enter(cpu);
	while (!atomic_load(&stop)) {
		atomic_store(&halves[p->index], 1);
		atomic_store(&halves[p->index], 0);
		if (atomic_load(&cpu->request))
			take_requests(cpu);
		if (p->index != 0)
			continue;
		soft_exclusive_begin(cpu);
		for (unsigned i = 0; i < p->r->n; i++)
			if (atomic_load(&halves[i]))
				p->served++;
		soft_exclusive_end(cpu);
		if (++counter == ROUNDS)
			atomic_store(&stop, true);
	}
	soft_leave(cpu);
	return NULL;
}

static void the_others_stand_still(void **state)
{
	struct player p[RIG_VCPUS];
	struct rig r;

	rig_init(&r, RIG_VCPUS);
	counter = 0;
	players_start(&r, p, play_watched);
	players_join(&r, p);
	assert_int_equal(p[0].served, 0);
	rig_fini(&r);
}

/* Everyone makes everyone else flush, and a device does so too; in between somebody is alone. */
static void *play_sync(void *opaque)
{
	struct player *p = opaque;
	struct soft_cpu *cpu = p->r->cpu[p->index];

	soft_enter(cpu);
	for (unsigned i = 0; i < ROUNDS; i++) {
		soft_sync_others(p->r->soft, cpu, REQ_FLUSH);
		if (i % 16 == p->index) {
			soft_exclusive_begin(cpu);
			soft_sync_others(p->r->soft, cpu, REQ_FLUSH);
			soft_exclusive_end(cpu);
		}
		if (atomic_load(&cpu->request))
			take_requests(cpu);
	}
	soft_leave(cpu);
	return NULL;
}

static void all_may_ask_at_once(void **state)
{
	struct player p[RIG_VCPUS];
	struct rig r;

	rig_init(&r, RIG_VCPUS);
	players_start(&r, p, play_sync);
	for (unsigned i = 0; i < ROUNDS; i++)
		soft_sync_others(r.soft, NULL, REQ_FLUSH);
	players_join(&r, p);
	for (unsigned i = 0; i < r.n; i++)
		soft_sync_others(r.soft, r.cpu[i], REQ_FLUSH); /* nobody is inside */
	rig_fini(&r);
}

/* After a flush was asked for and waited for, nobody uses what they had looked up before. */
static _Atomic unsigned version;

static void *play_reader(void *opaque)
{
	struct player *p = opaque;
	struct soft_cpu *cpu = p->r->cpu[p->index];

	soft_enter(cpu);
	if (p->index == 0) {
		for (unsigned i = 0; i < ROUNDS; i++) {
			atomic_store(&version, 2 * i + 1);
			soft_sync_others(p->r->soft, cpu, REQ_FLUSH);
			atomic_store(&version, 2 * i + 2);
		}
		atomic_store(&stop, true);
	}
	while (!atomic_load(&stop)) {
		unsigned seen = atomic_load(&version);

		/* "An instruction": what was looked up stays in use to its end. */
		for (unsigned i = 0; i < 20; i++)
			if (seen % 2 == 0 && atomic_load(&version) > seen + 1)
				p->served++;
		if (atomic_load(&cpu->request))
			take_requests(cpu);
	}
	soft_leave(cpu);
	return NULL;
}

static void a_sync_waits_for_everyone(void **state)
{
	struct player p[RIG_VCPUS];
	struct rig r;

	rig_init(&r, RIG_VCPUS);
	players_start(&r, p, play_reader);
	players_join(&r, p);
	for (unsigned i = 1; i < r.n; i++)
		assert_int_equal(p[i].served, 0);
	rig_fini(&r);
}

/* Processors that wait for INIT or interrupts are left by a kick, each time. */
static void *play_rest(void *opaque)
{
	struct player *p = opaque;

	while (!atomic_load(&stop)) {
		assert_int_equal(soft_vcpu_run(&p->r->cpu[p->index]->base), ACCEL_EXIT_KICKED);
		p->served++;
	}
	return NULL;
}

static void kicks_end_rest(void **state)
{
	struct player p[RIG_VCPUS];
	struct rig r;

	rig_init(&r, RIG_VCPUS);
	soft_halt(r.cpu[0]);
	r.cpu[0]->rflags = 0;
	players_start(&r, p, play_rest);
	for (unsigned round = 0; round < 300; round++) {
		for (unsigned i = 0; i < r.n; i++)
			soft_vcpu_kick(&r.cpu[i]->base);
		for (unsigned i = 0; i < r.n; i++)
			while (atomic_load(&r.cpu[i]->request) & REQ_KICK)
				sched_yield();
	}
	atomic_store(&stop, true);
	for (unsigned i = 0; i < r.n; i++)
		soft_vcpu_kick(&r.cpu[i]->base);
	players_join(&r, p);
	for (unsigned i = 0; i < r.n; i++)
		assert_true(p[i].served >= 300);
	rig_fini(&r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(one_at_a_time_is_alone),
		cmocka_unit_test(the_others_stand_still),
		cmocka_unit_test(all_may_ask_at_once),
		cmocka_unit_test(a_sync_waits_for_everyone),
		cmocka_unit_test(kicks_end_rest),
	};

	return cmocka_run_group_tests_name("soft-request", tests, NULL, NULL);
}
