/* The QMP server over a real socket, with a machine that only counts. */
#include "unit/test.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "vm/monitor/qmp.h"
#include "vm/monitor/qmp_int.h"

struct fake {
	struct loop *loop;
	struct qmp *qmp;
	struct qmp_target target;
	char dir[32];
	char path[64];
	bool running, quit;
	uint64_t balloon;
	int fd; /* the client */
};

static enum qmp_run_state fake_run_state(void *opaque)
{
	return ((struct fake *)opaque)->running ? QMP_RUNNING : QMP_PAUSED;
}
static int fake_stop(void *opaque, struct error *err)
{
	struct fake *f = opaque;

	(void)err;
	f->running = false;
	qmp_event(f->qmp, "STOP", NULL);
	return 0;
}
static int fake_cont(void *opaque, struct error *err)
{
	return error_set(err, -EINVAL, "the machine has ended");
}
static void fake_quit(void *opaque)
{
	((struct fake *)opaque)->quit = true;
}
static unsigned fake_n_cpus(void *opaque)
{
	(void)opaque;
	return 2;
}
static void fake_cpu(void *opaque, unsigned index, struct qmp_cpu *ret)
{
	(void)opaque;
	*ret = (struct qmp_cpu){.thread_id = 100 + (int)index, .core = index};
}
static unsigned fake_n_blocks(void *opaque)
{
	(void)opaque;
	return 1;
}
static void fake_block(void *opaque, unsigned index, struct qmp_block *ret)
{
	(void)opaque;
	(void)index;
	*ret = (struct qmp_block){"disk0", "/a.img", "raw", "threads", 4096,
				  true,    true,     false, false};
}
static unsigned fake_n_chars(void *opaque)
{
	(void)opaque;
	return 2;
}
static void fake_char(void *opaque, unsigned index, struct qmp_char *ret)
{
	(void)opaque;
	*ret = index == 0 ? (struct qmp_char){"serial0", "pty", "/dev/pts/9"}
			  : (struct qmp_char){"console0", "null", ""};
}
static int fake_balloon_get(void *opaque, uint64_t *ret, struct error *err)
{
	struct fake *f = opaque;

	if (f->balloon == 0)
		return error_set(err, -ENODEV, "no balloon");
	*ret = f->balloon;
	return 0;
}
static int fake_balloon_set(void *opaque, uint64_t bytes, struct error *err)
{
	(void)err;
	((struct fake *)opaque)->balloon = bytes;
	return 0;
}

static int setup(void **state)
{
	struct fake *f = calloc(1, sizeof(*f));

	assert_non_null(f);
	snprintf(f->dir, sizeof(f->dir), "/tmp/vireo-qmp-XXXXXX");
	assert_non_null(mkdtemp(f->dir));
	snprintf(f->path, sizeof(f->path), "%s/s", f->dir);
	f->running = true;
	f->target = (struct qmp_target){
		.name = "fake",
		.accel = "null",
		.opaque = f,
		.run_state = fake_run_state,
		.stop = fake_stop,
		.cont = fake_cont,
		.quit = fake_quit,
		.n_cpus = fake_n_cpus,
		.cpu = fake_cpu,
		.n_blocks = fake_n_blocks,
		.block = fake_block,
		.n_chars = fake_n_chars,
		.chr = fake_char,
		.balloon_get = fake_balloon_get,
		.balloon_set = fake_balloon_set,
	};
	assert_int_equal(loop_new(&f->loop), 0);
	assert_int_equal(qmp_new(f->loop, f->path, &f->target, &f->qmp, NULL), 0);
	f->fd = unix_connect(f->path);
	assert_true(f->fd >= 0);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fake *f = *state;

	close(f->fd);
	qmp_free(f->qmp);
	assert_int_equal(access(f->path, F_OK), -1);
	loop_free(f->loop);
	rmdir(f->dir);
	free(f);
	return 0;
}

/* One line of the server; the loop runs until it is there. */
static json_t *next_line(struct fake *f)
{
	char line[8192];
	size_t len = 0;
	uint64_t end = clock_monotonic_ns() + 10 * NSEC_PER_SEC;
	json_t *value = NULL;

	while (len == 0 || line[len - 1] != '\n') {
		ssize_t n;

		assert_true(clock_monotonic_ns() < end);
		loop_run_once(f->loop, 0);
		n = recv(f->fd, line + len, 1, MSG_DONTWAIT);
		if (n == 1)
			len++;
		assert_true(n != 0 && len < sizeof(line));
	}
	assert_int_equal(json_parse(line, len, "reply", &value, NULL), 0);
	return value;
}

static void send_text(struct fake *f, const char *text)
{
	assert_int_equal(fd_write_full(f->fd, text, strlen(text)), 0);
}

static void expect_error(struct fake *f, const char *class_name)
{
	json_t *reply = next_line(f);
	json_t *error = json_object_get(reply, "error");

	assert_non_null(error);
	assert_string_equal(json_string_value(json_object_get(error, "class")), class_name);
	json_decref(reply);
}

static json_t *expect_return(struct fake *f)
{
	json_t *reply = next_line(f);

	assert_non_null(json_object_get(reply, "return"));
	return reply;
}

static void negotiate(struct fake *f)
{
	json_t *greeting = next_line(f);

	assert_non_null(json_object_get(greeting, "QMP"));
	json_decref(greeting);
	send_text(f, "{\"execute\":\"qmp_capabilities\"}");
	json_decref(expect_return(f));
}

static void nothing_before_negotiation(void **state)
{
	struct fake *f = *state;

	json_decref(next_line(f));
	send_text(f, "{\"execute\":\"stop\"}\n");
	expect_error(f, "CommandNotFound");
	assert_true(f->running);
}

static void commands_and_events(void **state)
{
	struct fake *f = *state;
	json_t *reply;
	const char *first, *second;

	negotiate(f);
	/* Two commands in one packet, one of them with an id; the event comes before its command's reply. */
	send_text(f, "{\"execute\":\"stop\",\"id\":7}{\"execute\":\"query-status\"}");
	reply = next_line(f);
	assert_string_equal(json_string_value(json_object_get(reply, "event")), "STOP");
	assert_non_null(json_object_get(reply, "timestamp"));
	json_decref(reply);
	reply = expect_return(f);
	assert_int_equal(json_integer_value(json_object_get(reply, "id")), 7);
	json_decref(reply);
	reply = expect_return(f);
	assert_string_equal(json_string_value(
				    json_object_get(json_object_get(reply, "return"), "status")),
			    "paused");
	json_decref(reply);
	send_text(f, "{\"execute\":\"cont\"}");
	expect_error(f, "GenericError");
	send_text(f, "{\"execute\":\"query-balloon\"}");
	expect_error(f, "DeviceNotActive");
	send_text(f, "{\"execute\":\"balloon\",\"arguments\":{\"value\":1048576}}");
	json_decref(expect_return(f));
	assert_int_equal(f->balloon, 1048576);
	send_text(f, "{\"execute\":\"query-cpus-fast\"}{\"execute\":\"query-block\"}");
	reply = expect_return(f);
	assert_int_equal(json_array_size(json_object_get(reply, "return")), 2);
	json_decref(reply);
	reply = expect_return(f);
	assert_int_equal(json_array_size(json_object_get(reply, "return")), 1);
	json_decref(reply);
	send_text(f, "{\"execute\":\"query-chardev\"}");
	reply = expect_return(f);
	json_unpack(reply, "{s:[{s:s},{s:s}]}", "return", "filename", &first, "filename", &second);
	assert_string_equal(first, "pty:/dev/pts/9");
	assert_string_equal(second, "null");
	json_decref(reply);
	send_text(f, "{\"execute\":\"quit\"}");
	json_decref(expect_return(f));
	assert_true(f->quit);
}

static void bad_input_is_answered(void **state)
{
	static const char *const bad[] = {
		"{\"execute\":3}",
		"{\"execute\":\"balloon\"}",
		"{\"execute\":\"balloon\",\"arguments\":{\"value\":-1}}",
		"{\"execute\":\"balloon\",\"arguments\":{\"valu\":1}}",
		"{\"execute\":\"stop\",\"arguments\":[]}",
		"hello\n",
		"{]",
		"[1,2]",
	};
	struct fake *f = *state;

	negotiate(f);
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		send_text(f, bad[i]);
		expect_error(f, "GenericError");
	}
	send_text(f, "{\"execute\":\"no-such\"}");
	expect_error(f, "CommandNotFound");
	assert_true(f->running);
}

static void a_message_without_end_is_cut_off(void **state)
{
	struct fake *f = *state;
	uint64_t end = clock_monotonic_ns() + 10 * NSEC_PER_SEC;
	char junk[4096];
	ssize_t n = 1;

	negotiate(f);
	memset(junk, '{', sizeof(junk));
	fd_set_nonblock(f->fd, true);
	while (n != 0 && !(n < 0 && errno == ECONNRESET)) {
		assert_true(clock_monotonic_ns() < end);
		(void)!send(f->fd, junk, sizeof(junk), MSG_NOSIGNAL);
		loop_run_once(f->loop, 0);
		n = recv(f->fd, junk + 1, 1, MSG_DONTWAIT);
	}
}

static void a_path_in_use_is_refused(void **state)
{
	struct fake *f = *state;
	struct error err = ERROR_INIT;
	struct qmp *second;

	assert_int_equal(qmp_new(f->loop, f->path, &f->target, &second, &err), -EADDRINUSE);
	assert_non_null(strstr(err.text, f->path));
	assert_non_null(strstr(err.text, "in use"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(nothing_before_negotiation, setup, teardown),
		cmocka_unit_test_setup_teardown(commands_and_events, setup, teardown),
		cmocka_unit_test_setup_teardown(bad_input_is_answered, setup, teardown),
		cmocka_unit_test_setup_teardown(a_message_without_end_is_cut_off, setup, teardown),
		cmocka_unit_test_setup_teardown(a_path_in_use_is_refused, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
