/* Kicks, state, dirty pages, clocks and reset. */
#include "guest.h"

#include <errno.h>
#include <stdio.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/clock.h"
#include "vm/accel/accel_impl.h"

static struct x86_vcpu_state *state_new(void)
{
	struct x86_vcpu_state *s = calloc(1, sizeof(*s));

	assert_non_null(s);
	return s;
}

/* Every kick is answered by one return of accel_vcpu_run() at least; a lost one ends in guest_wait()'s patience. */
struct kicked {
	struct guest *g;
	unsigned answered; /* [g->lock] */
	bool stop;         /* [g->lock] */
};

static void *kicked_thread(void *opaque)
{
	struct kicked *k = opaque;
	bool stop = false;

	while (!stop) {
		enum accel_exit exit = accel_vcpu_run(k->g->vcpus[0]);

		pthread_mutex_lock(&k->g->lock);
		if (exit == ACCEL_EXIT_KICKED)
			k->answered++;
		stop = k->stop || exit != ACCEL_EXIT_KICKED;
		pthread_cond_broadcast(&k->g->changed);
		pthread_mutex_unlock(&k->g->lock);
	}
	return NULL;
}

static void wait_answer(struct kicked *k, unsigned n)
{
	struct timespec limit;
	int r = 0;

	clock_gettime(CLOCK_REALTIME, &limit);
	limit.tv_sec += 30;
	pthread_mutex_lock(&k->g->lock);
	while (k->answered < n && r == 0)
		r = pthread_cond_timedwait(&k->g->changed, &k->g->lock, &limit);
	pthread_mutex_unlock(&k->g->lock);
	if (r)
		fail_msg("kick %u was lost", n);
}

#define KICKS 3000

static void kick_often(struct guest *g)
{
	struct kicked k = {.g = g};
	pthread_t thread;

	assert_int_equal(pthread_create(&thread, NULL, kicked_thread, &k), 0);
	for (unsigned i = 1; i <= KICKS; i++) {
		accel_vcpu_kick(g->vcpus[0]);
		wait_answer(&k, i);
	}
	pthread_mutex_lock(&g->lock);
	k.stop = true;
	pthread_mutex_unlock(&g->lock);
	accel_vcpu_kick(g->vcpus[0]);
	pthread_join(thread, NULL);
}

static void no_kick_is_lost(void **state)
{
	struct guest g;
	uint32_t count = 0;

	(void)state;
	/* While the guest computes; the count shows that it makes progress between kicks. */
	guest_init(&g, 1);
	GUEST_LOAD(&g, X86_BOOT_REAL, real_count);
	kick_often(&g);
	gmem_read(g.mem, 0x2000, &count, 4);
	assert_true(count > 0);
	guest_fini(&g);
	/* While it leaves by itself all the time. */
	guest_init(&g, 1);
	GUEST_LOAD(&g, X86_BOOT_REAL, real_chatter);
	kick_often(&g);
	guest_fini(&g);
	/* While it sleeps. */
	guest_init(&g, 1);
	GUEST_LOAD(&g, X86_BOOT_REAL, real_sleep);
	kick_often(&g);
	guest_fini(&g);
}

static void a_kick_before_the_run_counts(void **state)
{
	struct guest g;

	(void)state;
	guest_init(&g, 2);
	GUEST_LOAD(&g, X86_BOOT_REAL, real_sleep);
	accel_vcpu_kick(g.vcpus[0]);
	assert_int_equal(accel_vcpu_run(g.vcpus[0]), ACCEL_EXIT_KICKED);
	/* A processor that waits for INIT is left as well. */
	accel_vcpu_kick(g.vcpus[1]);
	assert_int_equal(accel_vcpu_run(g.vcpus[1]), ACCEL_EXIT_KICKED);
	guest_fini(&g);
}

/* The result of long_compute without interruption. */
static uint64_t compute_result(const struct guest *g)
{
	uint64_t low = 0, high = 0;

	for (size_t i = 0; i < g->n_log; i++) {
		if (g->log[i].is_pio && g->log[i].is_write && g->log[i].addr == 0x54)
			low = g->log[i].value;
		if (g->log[i].is_pio && g->log[i].is_write && g->log[i].addr == 0x55)
			high = g->log[i].value;
	}
	return high << 32 | low;
}

static unsigned questions(const struct guest *g)
{
	unsigned n = 0;

	for (size_t i = 0; i < g->n_log; i++)
		n += g->log[i].is_pio && !g->log[i].is_write && g->log[i].addr == 0x57;
	return n;
}

/* Moves everything a guest can see from one machine to another. */
static void guest_move(struct guest *from, struct guest *to)
{
	struct x86_vcpu_state *vcpu = state_new();
	struct x86_machine_state machine;
	struct error err = ERROR_INIT;

	assert_int_equal(accel_paused(from->accel), 0);
	if (accel_vcpu_get_state(from->vcpus[0], vcpu, &err) < 0 ||
	    accel_machine_get_state(from->accel, &machine, &err) < 0)
		fail_msg("%s", err.text);
	assert_int_equal(gmem_write(to->mem, 0, gmem_ptr(from->mem, 0, 4 * MIB), 4 * MIB), 0);
	if (accel_vcpu_set_state(to->vcpus[0], vcpu, &err) < 0 ||
	    accel_machine_set_state(to->accel, &machine, &err) < 0)
		fail_msg("%s", err.text);
	assert_int_equal(accel_resume(to->accel), 0);
	free(vcpu);
}

/* Asks its first question, is kicked while answering it, moves, asks the second in the new machine. */
static void a_computation_goes_on_elsewhere(void **state)
{
	struct guest whole, first, second;

	(void)state;
	guest_init(&whole, 1);
	GUEST_LOAD(&whole, X86_BOOT_LONG64, long_compute);
	guest_run_done(&whole);
	assert_int_equal(questions(&whole), 2);

	guest_init(&first, 1);
	guest_init(&second, 1);
	GUEST_LOAD(&first, X86_BOOT_LONG64, long_compute);
	first.kick_at = 0x57;
	assert_int_equal(accel_vcpu_run(first.vcpus[0]), ACCEL_EXIT_KICKED);
	assert_int_equal(accel_vcpu_settle(first.vcpus[0]), 0);
	assert_int_equal(questions(&first), 1);
	guest_move(&first, &second);
	guest_run_done(&second);
	assert_int_equal(questions(&second), 1);
	assert_int_equal(compute_result(&second), compute_result(&whole));
	guest_fini(&first);
	guest_fini(&second);
	guest_fini(&whole);
}

/* Stops that come from outside, at whatever instruction; each time the guest moves to a new machine. */
static void it_survives_many_moves(void **state)
{
	struct guest whole, g[2];
	struct kicked k;
	pthread_t thread;
	unsigned now = 0, asked = 0;

	(void)state;
	guest_init(&whole, 1);
	GUEST_LOAD(&whole, X86_BOOT_LONG64, long_compute);
	guest_run_done(&whole);

	guest_init(&g[0], 1);
	GUEST_LOAD(&g[0], X86_BOOT_LONG64, long_compute);
	for (unsigned moves = 0; moves < 20 && !g[now].done[0]; moves++) {
		k = (struct kicked){.g = &g[now], .stop = true};
		assert_int_equal(pthread_create(&thread, NULL, kicked_thread, &k), 0);
		accel_vcpu_kick(g[now].vcpus[0]);
		pthread_join(thread, NULL);
		assert_int_equal(accel_vcpu_settle(g[now].vcpus[0]), 0);
		if (g[now].done[0])
			break;
		asked += questions(&g[now]);
		guest_init(&g[!now], 1);
		guest_move(&g[now], &g[!now]);
		guest_fini(&g[now]);
		now = !now;
	}
	guest_run_done(&g[now]);
	assert_int_equal(asked + questions(&g[now]), 2);
	assert_int_equal(compute_result(&g[now]), compute_result(&whole));
	guest_fini(&g[now]);
	guest_fini(&whole);
}

static void what_was_set_is_what_is_got(void **state)
{
	struct x86_vcpu_state *one = state_new(), *two = state_new();
	struct x86_machine_state m1, m2;
	struct error err = ERROR_INIT;
	struct guest a, b;

	(void)state;
	guest_init(&a, 1);
	guest_init(&b, 1);
	GUEST_LOAD(&a, X86_BOOT_LONG64, long_compute);
	guest_run_done(&a);
	assert_int_equal(accel_vcpu_settle(a.vcpus[0]), 0);
	assert_int_equal(accel_paused(a.accel), 0);
	assert_int_equal(accel_vcpu_get_state(a.vcpus[0], one, &err), 0);
	assert_int_equal(accel_machine_get_state(a.accel, &m1, &err), 0);
	if (accel_vcpu_set_state(b.vcpus[0], one, &err) < 0)
		fail_msg("%s", err.text);
	assert_int_equal(accel_machine_set_state(b.accel, &m1, &err), 0);
	assert_int_equal(accel_vcpu_get_state(b.vcpus[0], two, &err), 0);
	assert_int_equal(accel_machine_get_state(b.accel, &m2, &err), 0);
	assert_true(one->n_msrs > 10);
	for (uint32_t i = 0; i < one->n_msrs; i++)
		if (one->msrs[i].index == 0x176)
			assert_int_equal(one->msrs[i].value, 0x5678);
	/* KVM restarts the timer's counts. */
	for (size_t i = 0; i < 3; i++)
		m1.pit[i].age_ns = m2.pit[i].age_ns = 0;
	assert_states_equal(&x86_machine_state_table, &m1, &m2);
	assert_states_equal(&x86_vcpu_state_table, one, two);
	guest_fini(&a);
	guest_fini(&b);
	free(one);
	free(two);
}

static void impossible_state_is_refused(void **state)
{
	struct x86_vcpu_state *s = state_new();
	struct error err = ERROR_INIT;
	struct guest g;

	(void)state;
	guest_init(&g, 1);
	assert_int_equal(accel_vcpu_get_state(g.vcpus[0], s, &err), 0);
	s->n_msrs = X86_MAX_MSRS + 1;
	assert_true(accel_vcpu_set_state(g.vcpus[0], s, &err) < 0);
	s->n_msrs = 1;
	s->msrs[0] = (struct x86_msr){.index = 0x12345, .value = 1};
	assert_true(accel_vcpu_set_state(g.vcpus[0], s, &err) < 0);
	assert_non_null(strstr(err.text, "0x12345"));
	s->n_msrs = 0;
	s->mp_state = X86_MP_STATES;
	assert_true(accel_vcpu_set_state(g.vcpus[0], s, &err) < 0);
	s->mp_state = X86_MP_RUNNABLE;
	s->cr4 = UINT64_MAX;
	assert_true(accel_vcpu_set_state(g.vcpus[0], s, &err) < 0);
	s->features[2] = ~0u;
	assert_int_equal(accel_vcpu_set_state(g.vcpus[0], s, &err), -EINVAL);
	assert_non_null(strstr(err.text, "leaf 0x7, EBX"));
	guest_fini(&g);
	free(s);
}

static void a_reset_is_a_power_on(void **state)
{
	struct x86_vcpu_state *fresh[2] = {state_new(), state_new()}, *again = state_new();
	struct x86_machine_state m1, m2;
	struct error err = ERROR_INIT;
	uint64_t result = 0;
	struct guest g;

	(void)state;
	guest_init(&g, 2);
	for (unsigned i = 0; i < 2; i++)
		assert_int_equal(accel_vcpu_get_state(g.vcpus[i], fresh[i], &err), 0);
	assert_int_equal(fresh[1]->mp_state, X86_MP_WAIT_INIT);
	assert_int_equal(accel_machine_get_state(g.accel, &m1, &err), 0);
	for (unsigned round = 0; round < 3; round++) {
		g.done[0] = false;
		g.n_log = 0;
		gmem_write(g.mem, 0x2000, &(uint64_t){0}, 8);
		GUEST_LOAD(&g, X86_BOOT_LONG64, long_compute);
		guest_run_done(&g);
		if (round > 0)
			assert_int_equal(compute_result(&g), result);
		result = compute_result(&g);

		if (accel_reset(g.accel, &err) < 0)
			fail_msg("%s", err.text);
		for (unsigned i = 0; i < 2; i++) {
			assert_int_equal(accel_vcpu_get_state(g.vcpus[i], again, &err), 0);
			again->tsc = fresh[i]->tsc;
			assert_states_equal(&x86_vcpu_state_table, fresh[i], again);
		}
		assert_int_equal(accel_machine_get_state(g.accel, &m2, &err), 0);
		m2.kvmclock_ns = m1.kvmclock_ns;
		for (size_t i = 0; i < 3; i++)
			m1.pit[i].age_ns = m2.pit[i].age_ns = 0;
		assert_states_equal(&x86_machine_state_table, &m1, &m2);
	}
	guest_fini(&g);
	free(fresh[0]);
	free(fresh[1]);
	free(again);
}

static void dirty_pages_are_named(void **state)
{
	struct error err = ERROR_INIT;
	const struct gmem_region *r;
	uint64_t bitmap[16] = {0}, all = 0;
	struct guest g;

	(void)state;
	guest_init(&g, 1);
	gmem_regions(g.mem, &r);
	assert_int_equal(accel_dirty_fetch(g.accel, r, bitmap), -ENOENT);
	GUEST_LOAD(&g, X86_BOOT_REAL, real_dirty);
	guest_run_done(&g);
	for (unsigned round = 0; round < 2; round++) {
		assert_int_equal(accel_dirty_start(g.accel), 0);
		memset(bitmap, 0, sizeof(bitmap));
		assert_int_equal(accel_dirty_fetch(g.accel, r, bitmap), 0);
		for (unsigned i = 0; i < 3; i++) {
			g.done[0] = false;
			guest_run_done(&g);
			memset(bitmap, 0, sizeof(bitmap));
			assert_int_equal(accel_dirty_fetch(g.accel, r, bitmap), 0);
			assert_int_equal(bitmap[0] & (BIT(5) | BIT(7)), BIT(5) | BIT(7));
			assert_int_equal(bitmap[0] & BIT(6), 0);
			for (size_t w = 1; w < ARRAY_SIZE(bitmap); w++)
				all |= bitmap[w];
		}
		assert_int_equal(all, 0);
		memset(bitmap, 0, sizeof(bitmap));
		assert_int_equal(accel_dirty_fetch(g.accel, r, bitmap), 0);
		assert_int_equal(bitmap[0], 0);
		assert_int_equal(accel_dirty_stop(g.accel), 0);
	}
	assert_int_equal(accel_unmap(g.accel, r), 0);
	assert_int_equal(accel_unmap(g.accel, r), -ENOENT);
	assert_int_equal(accel_map(g.accel, r, &err), 0);
	guest_fini(&g);
}

static uint64_t guest_tsc(struct guest *g)
{
	g->done[0] = false;
	g->n_log = 0;
	guest_run_done(g);
	return g->log[0].value | g->log[1].value << 32;
}

/* The counter advances by no more than the time that the guest was not stopped. */
static void a_stop_freezes_the_counter(void **state)
{
	struct x86_vcpu_state *s = state_new();
	struct error err = ERROR_INIT;
	uint64_t before, after, t[4], running, advanced;
	struct guest g;

	(void)state;
	guest_init(&g, 1);
	GUEST_LOAD(&g, X86_BOOT_LONG64, long_tsc);
	guest_tsc(&g);
	for (unsigned round = 0; round < 3; round++) {
		t[0] = clock_monotonic_ns();
		before = guest_tsc(&g);
		assert_int_equal(accel_vcpu_settle(g.vcpus[0]), 0);
		assert_int_equal(accel_paused(g.accel), 0);
		t[1] = clock_monotonic_ns();
		assert_int_equal(accel_vcpu_get_state(g.vcpus[0], s, &err), 0);
		while (clock_monotonic_ns() - t[1] < 30 * NSEC_PER_MSEC)
			;
		t[2] = clock_monotonic_ns();
		assert_int_equal(accel_resume(g.accel), 0);
		after = guest_tsc(&g);
		t[3] = clock_monotonic_ns();
		running = (t[1] - t[0]) + (t[3] - t[2]);
		assert_true(after > before);
		/* Two per cent for the difference between the clocks' rates, and a microsecond. */
		advanced = (after - before) * 1000000 / s->tsc_khz;
		if (advanced > running + running / 50 + 1000) {
			if (advanced >= running + 29 * NSEC_PER_MSEC) {
				print_message("skipped: this KVM does not move the counter\n");
				guest_fini(&g);
				free(s);
				skip();
			}
			fail_msg("the counter advanced by %llu ns in %llu",
				 (unsigned long long)advanced, (unsigned long long)running);
		}
	}
	guest_fini(&g);
	free(s);
}

struct cpuid_answer {
	uint32_t eax, ebx, ecx, edx;
};

static void ask_cpuid(unsigned n, unsigned sockets, unsigned cores, unsigned threads,
		      const uint32_t (*leaves)[2], size_t n_leaves, struct cpuid_answer *ret)
{
	struct accel_config config = {.kind = guest_kind(),
				      .n_vcpus = n,
				      .sockets = sockets,
				      .cores = cores,
				      .threads = threads};
	struct error err = ERROR_INIT;
	uint32_t count = (uint32_t)n_leaves;
	struct guest g;

	if (guest_try(&g, &config, &err) < 0)
		fail_msg("%s", err.text);
	GUEST_LOAD(&g, X86_BOOT_LONG64, long_cpuid);
	gmem_write(g.mem, 0x2ff8, &count, 4);
	gmem_write(g.mem, 0x3000, leaves, n_leaves * 8);
	guest_run_done(&g);
	gmem_read(g.mem, 0x4000, ret, n_leaves * sizeof(*ret));
	guest_fini(&g);
}

static void topology_is_told(void **state)
{
	static const uint32_t leaves[][2] = {{0, 0},          {1, 0},          {0xB, 0},
					     {0xB, 1},        {0xB, 2},        {4, 0},
					     {4, 3},          {0x80000008, 0}, {0xA, 0},
					     {0x40000000, 0}, {0x80000001, 0}};
	struct cpuid_answer a[ARRAY_SIZE(leaves)];
	struct guest g;

	(void)state;
	guest_init(&g, 1); /* leaves here when there is no KVM */
	guest_fini(&g);
	ask_cpuid(4, 1, 2, 2, leaves, ARRAY_SIZE(leaves), a);
	assert_true(a[1].ecx & BIT(31)); /* hypervisor */
	assert_true(a[1].ecx & BIT(21)); /* x2APIC */
	assert_false(a[1].ecx & BIT(5)); /* VMX */
	assert_true(a[1].edx & BIT(28));
	assert_int_equal(a[1].ebx >> 24, 0);
	assert_int_equal(a[1].ebx >> 16 & 0xff, 4);
	if (a[0].eax >= 0xB) {
		assert_int_equal(a[2].eax, 1);
		assert_int_equal(a[2].ebx, 2);
		assert_int_equal(a[2].ecx, 0x100);
		assert_int_equal(a[3].eax, 2);
		assert_int_equal(a[3].ebx, 4);
		assert_int_equal(a[3].ecx, 0x201);
		assert_int_equal(a[4].ebx, 0);
	}
	if ((a[5].eax & 0x1f) != 0) {                        /* Intel */
		assert_int_equal(a[5].eax >> 14 & 0xfff, 1); /* first level: two threads */
		assert_int_equal(a[5].eax >> 26, 1);         /* two cores */
		if ((a[6].eax & 0x1f) != 0)
			assert_int_equal(a[6].eax >> 14 & 0xfff, 3);
	} else {
		assert_int_equal(a[7].ecx & 0xff, 3);
		assert_int_equal(a[7].ecx >> 12 & 15, 2);
	}
	assert_int_equal(a[8].eax, 0);          /* no performance counters */
	assert_int_equal(a[9].ebx, 0x4b4d564b); /* "KVMK" */
	assert_true(a[9].eax >= 0x40000001);
	assert_false(a[10].ecx & BIT(2)); /* SVM */

	ask_cpuid(1, 1, 1, 1, leaves, ARRAY_SIZE(leaves), a);
	assert_int_equal(a[1].ebx >> 16 & 0xff, 1);
}

static void identifiers_have_fields(void **state)
{
	(void)state;
	assert_int_equal(x86_apic_id(0, 1, 1), 0);
	assert_int_equal(x86_apic_id(254, 1, 1), 254);
	assert_int_equal(x86_apic_id(254, 255, 1), 254);
	assert_int_equal(x86_apic_id(3, 3, 1), 4); /* the second socket of three cores */
	assert_int_equal(x86_apic_id(5, 3, 2), 5); /* core 2, thread 1 */
	assert_int_equal(x86_apic_id(6, 3, 2), 8); /* socket 1 */
	assert_int_equal(x86_apic_id(7, 2, 3), 9); /* socket 1, core 0, thread 1: 8 + 0 + 1 */
}

static void the_probe_has_an_answer(void **state)
{
	struct error err = ERROR_INIT;
	int r = accel_probe_kvm(&err);

	(void)state;
	assert_true(r == 0 || r == -ENOENT || r == -EACCES || r == -ENOSYS);
	if (r < 0)
		assert_true(strlen(err.text) > 20);
	print_message("probe: %s\n", r == 0 ? "fast" : err.text);
}

static void the_probe_s_answer_is_remembered(void **state)
{
	char folder[] = "/tmp/vireo-probe-XXXXXX", path[64];
	struct error err = ERROR_INIT;
	const char *old = getenv("XDG_RUNTIME_DIR");
	int first;
	FILE *f;

	(void)state;
	assert_non_null(mkdtemp(folder));
	snprintf(path, sizeof(path), "%s/vireo-kvm-probe", folder);
	setenv("XDG_RUNTIME_DIR", folder, 1);
	first = kvm_probe(&err);
	if (first == 0 || first == -ENOSYS) {
		assert_int_equal(access(path, R_OK), 0);
		assert_int_equal(kvm_probe_once(&err), first);
	}
	/* Of another boot: not believed. */
	f = fopen(path, "we");
	assert_non_null(f);
	fputs("00000000-0000-0000-0000-000000000000 slow once upon a time\n", f);
	fclose(f);
	err = (struct error)ERROR_INIT;
	assert_int_equal(kvm_probe_once(&err), first);
	assert_null(strstr(err.text, "once upon"));
	/* Not a file of ours to read. */
	unlink(path);
	assert_int_equal(symlink("/proc/self/environ", path), 0);
	assert_int_equal(kvm_probe_once(&err), first);
	unlink(path);
	rmdir(folder);
	if (old)
		setenv("XDG_RUNTIME_DIR", old, 1);
	else
		unsetenv("XDG_RUNTIME_DIR");
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(identifiers_have_fields),
		cmocka_unit_test(the_probe_has_an_answer),
		cmocka_unit_test(the_probe_s_answer_is_remembered),
		cmocka_unit_test(a_kick_before_the_run_counts),
		cmocka_unit_test(no_kick_is_lost),
		cmocka_unit_test(what_was_set_is_what_is_got),
		cmocka_unit_test(a_computation_goes_on_elsewhere),
		cmocka_unit_test(it_survives_many_moves),
		cmocka_unit_test(impossible_state_is_refused),
		cmocka_unit_test(a_reset_is_a_power_on),
		cmocka_unit_test(dirty_pages_are_named),
		cmocka_unit_test(a_stop_freezes_the_counter),
		cmocka_unit_test(topology_is_told),
	};

	return GUEST_MAIN(argc, argv, "accel-state", tests);
}
