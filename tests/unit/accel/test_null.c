/* The scripted accelerator: what a script does, and what is recorded. */
#include "guest.h"

#include <errno.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/fd.h"
#include "vm/accel/null/null.h"

static void null_init(struct guest *g, unsigned n, const char *script)
{
	struct accel_config config = {
		.kind = ACCEL_NULL,
		.n_vcpus = n,
		.sockets = 1,
		.cores = n,
		.threads = 1,
		.null_script = script,
	};
	struct error err = ERROR_INIT;

	if (guest_try(g, &config, &err) < 0)
		fail_msg("%s", err.text);
}

static void a_script_accesses_ports_and_memory(void **state)
{
	struct guest g;
	uint32_t v = 0;

	(void)state;
	null_init(&g, 1,
		  "# a comment\n"
		  "out 0x3f8 1 0x41   # and another\n"
		  "\n"
		  "in 0x60 2 0x2211\n"
		  "write 0xc0000000 8 0x1122334455667788\n"
		  "read 0xc0000004 4\n"
		  "write 0x1000 4 0xcafe\n"
		  "read 0x1000 2 0xcafe\n"
		  "1: out 0x99 1 1\n");
	assert_string_equal(accel_name(g.accel), "null");
	assert_int_equal(accel_vcpu_run(g.vcpus[0]), ACCEL_EXIT_HALT);
	assert_int_equal(accel_vcpu_run(g.vcpus[0]), ACCEL_EXIT_HALT);
	guest_expect(&g, 0, true, true, 0x3f8, 1, 0x41);
	guest_expect(&g, 1, true, false, 0x60, 2, 0x2211);
	guest_expect(&g, 2, false, true, 0xc0000000, 8, 0x1122334455667788);
	guest_expect(&g, 3, false, false, 0xc0000004, 4, 0x44332211);
	assert_int_equal(g.n_log, 4);
	gmem_read(g.mem, 0x1000, &v, 4);
	assert_int_equal(v, 0xcafe);
	guest_fini(&g);
}

static void a_wrong_answer_names_the_line(void **state)
{
	struct guest g;

	(void)state;
	null_init(&g, 1, "out 1 1 1\n\nin 0x60 1 0x77\n");
	assert_int_equal(accel_vcpu_run(g.vcpus[0]), ACCEL_EXIT_ERROR);
	assert_non_null(strstr(accel_vcpu_error(g.vcpus[0]), "line 3"));
	assert_non_null(strstr(accel_vcpu_error(g.vcpus[0]), "0x11"));
	guest_fini(&g);
}

static void bad_scripts_are_refused(void **state)
{
	static const char *const bad[] = {
		"jump 7",  "out 1 1",  "out 1 3 1",       "out 0x10000 1 1", "out 1 8 1",
		"in 1",    "read x 1", "wait-irq 24 1",   "wait-irq 1 2",    "256: halt",
		"1:",      ":",        "a b c d e f g h", "halt 1",          "msi 0xfee00000",
		"x: halt",
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		struct accel_config config = {.kind = ACCEL_NULL,
					      .n_vcpus = 1,
					      .sockets = 1,
					      .cores = 1,
					      .threads = 1,
					      .null_script = bad[i]};
		struct error err = ERROR_INIT;
		struct accel *accel = NULL;

		if (accel_open(&config, &accel, &err) != -EINVAL)
			fail_msg("'%s' was accepted", bad[i]);
		assert_non_null(strstr(err.text, "line 1"));
	}
}

static void without_a_script_vcpus_halt(void **state)
{
	struct guest g;

	(void)state;
	null_init(&g, 2, NULL);
	assert_int_equal(accel_vcpu_run(g.vcpus[0]), ACCEL_EXIT_HALT);
	assert_int_equal(accel_vcpu_run(g.vcpus[1]), ACCEL_EXIT_HALT);
	guest_fini(&g);
}

static void exits_come_as_written(void **state)
{
	struct guest g;

	(void)state;
	null_init(&g, 1, "reset\nfail\nout 2 1 2\nhalt\n");
	assert_int_equal(accel_vcpu_run(g.vcpus[0]), ACCEL_EXIT_RESET);
	assert_int_equal(accel_vcpu_run(g.vcpus[0]), ACCEL_EXIT_ERROR);
	assert_int_equal(accel_vcpu_run(g.vcpus[0]), ACCEL_EXIT_HALT);
	assert_int_equal(g.n_log, 1);
	guest_fini(&g);
}

static void kicks_end_waits(void **state)
{
	struct guest g;

	(void)state;
	null_init(&g, 1, "wait-kick\nout 1 1 1\nidle\n");
	accel_vcpu_kick(g.vcpus[0]);
	assert_int_equal(accel_vcpu_run(g.vcpus[0]), ACCEL_EXIT_KICKED);
	assert_int_equal(g.n_log, 0);
	guest_start(&g);
	guest_wait(&g, 1, 1);
	for (unsigned i = 0; i < 100; i++)
		accel_vcpu_kick(g.vcpus[0]);
	guest_stop(&g);
	assert_int_equal(g.n_log, 1);
	guest_fini(&g);
}

static void interrupts_are_waited_for_and_recorded(void **state)
{
	struct null_interrupt got[8];
	struct guest g;
	int fd = eventfd_new(), route;

	(void)state;
	null_init(&g, 2,
		  "1: idle\n"
		  "out 1 1 1\nwait-irq 4 1\nout 2 1 1\nwait-irq 4 0\nout 3 1 1\n"
		  "wait-msi 0x31\nout 4 1 1\nwait-msi\nout 5 1 1\nwait-msi 0x33\nout 6 1 1\n"
		  "msi 0xfee01000 0x44\nout 7 1 1\nidle\n");
	guest_start(&g);
	guest_wait(&g, 1, 1);
	accel_irq_line(g.accel, 4, true);
	guest_wait(&g, 2, 1);
	accel_irq_line(g.accel, 4, true); /* no change: not recorded */
	accel_irq_line(g.accel, 4, false);
	guest_wait(&g, 3, 1);
	accel_msi(g.accel, 0xfee00000, 0x30);
	accel_msi(g.accel, 0xfee00000, 0x31);
	guest_wait(&g, 4, 1);
	guest_wait(&g, 5, 1);
	/* Attached while the vCPU waits. */
	route = accel_irqfd_attach(g.accel, fd, 0xfee00000, 0x32);
	assert_int_equal(accel_irqfd_update(g.accel, route, 0xfee00000, 0x33), 0);
	eventfd_signal(fd);
	guest_wait(&g, 7, 1);
	assert_int_equal(accel_irqfd_detach(g.accel, route), 0);
	assert_int_equal(accel_irqfd_detach(g.accel, route), -EINVAL);
	guest_stop(&g);
	assert_int_equal(null_recorded(g.accel, got, ARRAY_SIZE(got)), 6);
	assert_true(!got[0].is_msi && got[0].gsi == 4 && got[0].level);
	assert_true(!got[1].is_msi && got[1].gsi == 4 && !got[1].level);
	assert_true(got[2].is_msi && got[2].data == 0x30);
	assert_true(got[3].is_msi && got[3].data == 0x31);
	assert_true(got[4].is_msi && got[4].data == 0x33);
	assert_true(got[5].is_msi && got[5].addr == 0xfee01000 && got[5].data == 0x44);
	null_forget(g.accel);
	assert_int_equal(null_recorded(g.accel, got, ARRAY_SIZE(got)), 0);
	guest_fini(&g);
	close(fd);
}

static void doorbells_ring(void **state)
{
	struct guest g;
	int fd = eventfd_new();
	const struct accel_doorbell any = {.addr = 0xd0000000, .fd = fd};
	const struct accel_doorbell one = {
		.is_pio = true, .addr = 0x10, .size = 2, .match = true, .value = 3, .fd = fd};

	(void)state;
	null_init(&g, 1, "write 0xd0000000 2 7\nout 0x10 2 3\nout 0x10 2 4\nout 0x10 1 3\n");
	assert_int_equal(accel_doorbell_add(g.accel, &any), 0);
	assert_int_equal(accel_doorbell_add(g.accel, &any), -EEXIST);
	assert_int_equal(accel_doorbell_add(g.accel, &one), 0);
	assert_int_equal(accel_vcpu_run(g.vcpus[0]), ACCEL_EXIT_HALT);
	assert_int_equal(g.n_log, 2);
	guest_expect(&g, 0, true, true, 0x10, 2, 4);
	assert_true(eventfd_clear(fd));
	assert_int_equal(accel_doorbell_del(g.accel, &one), 0);
	assert_int_equal(accel_doorbell_del(g.accel, &one), -ENOENT);
	guest_fini(&g);
	close(fd);
}

static void state_and_dirty_pages(void **state)
{
	struct x86_vcpu_state *s = calloc(1, sizeof(*s));
	struct error err = ERROR_INIT;
	const struct gmem_region *r;
	uint64_t bitmap[16] = {0};
	struct x86_boot_regs boot = {.rip = 0x1234};
	struct guest g;

	(void)state;
	null_init(&g, 1, "out 1 1 1\nreset\nwrite 0x4ffe 4 1\nout 2 1 1\n");
	assert_null(null_boot(g.vcpus[0]));
	assert_int_equal(accel_vcpu_set_boot(g.vcpus[0], &boot, &err), 0);
	assert_int_equal(null_boot(g.vcpus[0])->rip, 0x1234);
	assert_int_equal(accel_vcpu_run(g.vcpus[0]), ACCEL_EXIT_RESET);
	assert_int_equal(accel_vcpu_get_state(g.vcpus[0], s, &err), 0);
	assert_int_equal(s->rip, 2);
	gmem_regions(g.mem, &r);
	assert_int_equal(accel_dirty_start(g.accel), 0);
	assert_int_equal(accel_vcpu_run(g.vcpus[0]), ACCEL_EXIT_HALT);
	assert_int_equal(accel_dirty_fetch(g.accel, r, bitmap), 0);
	assert_int_equal(bitmap[0], BIT(4) | BIT(5));
	assert_int_equal(accel_dirty_stop(g.accel), 0);
	assert_int_equal(accel_vcpu_set_state(g.vcpus[0], s, &err), 0);
	assert_int_equal(accel_vcpu_run(g.vcpus[0]), ACCEL_EXIT_HALT);
	assert_int_equal(g.written[2], 2);
	s->rip = 5;
	assert_int_equal(accel_vcpu_set_state(g.vcpus[0], s, &err), -EINVAL);
	assert_int_equal(accel_reset(g.accel, &err), 0);
	assert_null(null_boot(g.vcpus[0]));
	assert_int_equal(accel_vcpu_run(g.vcpus[0]), ACCEL_EXIT_RESET);
	assert_int_equal(g.written[1], 2);
	guest_fini(&g);
	free(s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_script_accesses_ports_and_memory),
		cmocka_unit_test(a_wrong_answer_names_the_line),
		cmocka_unit_test(bad_scripts_are_refused),
		cmocka_unit_test(without_a_script_vcpus_halt),
		cmocka_unit_test(exits_come_as_written),
		cmocka_unit_test(kicks_end_waits),
		cmocka_unit_test(interrupts_are_waited_for_and_recorded),
		cmocka_unit_test(doorbells_ring),
		cmocka_unit_test(state_and_dirty_pages),
	};

	return cmocka_run_group_tests_name("null", tests, NULL, NULL);
}
