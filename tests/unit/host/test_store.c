/*
 * The store, failed and killed at every step: whatever happens, a name has its old content or its new one, nothing of a half-made file is seen, and what was
 * called done had reached the disk in an order that a crash cannot undo.
 */
#include "unit/test.h"

#include <errno.h>
#include <stdio.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/str.h"
#include "host/store/store.h"

#define OLD    "the old content"
#define NEW    "the new content, which is longer"
#define KILLED 99

/* What the recorder does at its step `at`: fails with `failure`, or ends the process. */
static struct {
	int step, at, failure;
	char trace[64]; /* a letter a step */
} recorder;

static int record(char what)
{
	size_t len = strlen(recorder.trace);

	if (len + 1 < sizeof(recorder.trace)) {
		recorder.trace[len] = what;
		recorder.trace[len + 1] = '\0';
	}
	if (recorder.at && ++recorder.step == recorder.at) {
		if (!recorder.failure)
			_exit(KILLED);
		return recorder.failure;
	}
	return 0;
}

static int rec_create(int dir_fd, const char *name)
{
	int r = record('c');

	return r < 0 ? r : store_ops_real.create(dir_fd, name);
}
static int rec_write(int fd, const void *data, size_t len)
{
	/* A kill in mid-write leaves half of it. */
	if (recorder.at == recorder.step + 1)
		fd_write_full(fd, data, len / 2);
	int r = record('w');

	return r < 0 ? r : store_ops_real.write(fd, data, len);
}
static int rec_sync(int fd)
{
	struct stat st;
	int r;

	assert_int_equal(fstat(fd, &st), 0);
	r = record(S_ISDIR(st.st_mode) ? 'D' : 'F');
	return r < 0 ? r : store_ops_real.sync(fd);
}
static int rec_rename(int dir_fd, const char *from, const char *to)
{
	int r = record('r');

	return r < 0 ? r : store_ops_real.rename(dir_fd, from, to);
}
static int rec_unlink(int dir_fd, const char *name)
{
	int r = record('u');

	return r < 0 ? r : store_ops_real.unlink(dir_fd, name);
}
static int rec_symlink(int dir_fd, const char *target, const char *name)
{
	int r = record('l');

	return r < 0 ? r : store_ops_real.symlink(dir_fd, target, name);
}

static const struct store_ops recording = {rec_create, rec_write,  rec_sync,
					   rec_rename, rec_unlink, rec_symlink};

static void arm(int at, int failure)
{
	recorder.step = 0;
	recorder.at = at;
	recorder.failure = failure;
	recorder.trace[0] = '\0';
}

struct rig {
	char dir[64];
	struct store store;
};

static int setup(void **state)
{
	struct rig *rig = calloc(1, sizeof(*rig));

	snprintf(rig->dir, sizeof(rig->dir), "/tmp/vireo-store-XXXXXX");
	assert_non_null(mkdtemp(rig->dir));
	arm(0, 0);
	assert_int_equal(store_open(&rig->store, rig->dir, &recording, NULL), 0);
	assert_int_equal(store_write(&rig->store, "a.xml", OLD, strlen(OLD), NULL), 0);
	*state = rig;
	return 0;
}

static int remove_one(void *opaque, const char *name)
{
	const struct rig *rig = opaque;

	unlinkat(rig->store.dir_fd, name, 0);
	return 0;
}

static int teardown(void **state)
{
	struct rig *rig = *state;

	store_each(&rig->store, "", remove_one, rig);
	store_close(&rig->store);
	assert_int_equal(rmdir(rig->dir), 0);
	free(rig);
	return 0;
}

static bool content_is(struct rig *rig, const char *name, const char *expected)
{
	char *text = NULL;
	size_t len;
	bool same;

	if (store_read(&rig->store, name, &text, &len, NULL) < 0)
		return false;
	same = str_eq(text, expected);
	free(text);
	return same;
}

static int count_one(void *opaque, const char *name)
{
	*(int *)opaque += 1;
	return 0;
}

static int files_in(struct rig *rig, const char *suffix)
{
	int n = 0;

	assert_int_equal(store_each(&rig->store, suffix, count_one, &n), 0);
	return n;
}

/* What replaces is whole on the disk before it has the name; everything is there before anybody is told. */
static void the_order_is_durable(void **state)
{
	struct rig *rig = *state;

	arm(0, 0);
	assert_int_equal(store_write(&rig->store, "b.xml", NEW, strlen(NEW), NULL), 0);
	assert_string_equal(recorder.trace, "cwrF");
	arm(0, 0);
	assert_int_equal(store_write(&rig->store, "b.xml", OLD, strlen(OLD), NULL), 0);
	assert_string_equal(recorder.trace, "cwFrD");
	arm(0, 0);
	assert_int_equal(store_remove(&rig->store, "b.xml", NULL), 0);
	assert_string_equal(recorder.trace, "uD");
	arm(0, 0);
	assert_int_equal(store_link(&rig->store, "l.xml", "a.xml", NULL), 0);
	assert_string_equal(recorder.trace, "ulrD");
}

static void killed_at_every_step(void **state)
{
	struct rig *rig = *state;
	bool finished = false;

	for (int at = 1; !finished; at++) {
		struct store again;
		int status;
		pid_t pid = fork();

		assert_true(at < 20);
		if (pid == 0) {
			arm(at, 0);
			_exit(store_write(&rig->store, "a.xml", NEW, strlen(NEW), NULL) == 0 ? 0
											     : 1);
		}
		assert_int_equal(waitpid(pid, &status, 0), pid);
		assert_true(WIFEXITED(status));
		finished = WEXITSTATUS(status) == 0;
		assert_true(finished || WEXITSTATUS(status) == KILLED);
		assert_true(content_is(rig, "a.xml", OLD) || content_is(rig, "a.xml", NEW));
		if (finished)
			assert_true(content_is(rig, "a.xml", NEW));
		/* The next start finds one file, and clears away what was not one yet. */
		assert_int_equal(store_open(&again, rig->dir, NULL, NULL), 0);
		store_close(&again);
		assert_int_equal(files_in(rig, ".xml"), 1);
		assert_int_equal(files_in(rig, ".new"), 0);
		arm(0, 0);
		assert_int_equal(store_write(&rig->store, "a.xml", OLD, strlen(OLD), NULL), 0);
	}
}

/* A new name: nothing of it, or all of it. */
static void a_new_name_killed_at_every_step(void **state)
{
	struct rig *rig = *state;
	bool finished = false;

	for (int at = 1; !finished; at++) {
		struct store again;
		int status;
		pid_t pid = fork();

		assert_true(at < 20);
		if (pid == 0) {
			arm(at, 0);
			_exit(store_write(&rig->store, "n.xml", NEW, strlen(NEW), NULL) == 0 ? 0
											     : 1);
		}
		assert_int_equal(waitpid(pid, &status, 0), pid);
		finished = WIFEXITED(status) && WEXITSTATUS(status) == 0;
		assert_int_equal(store_open(&again, rig->dir, NULL, NULL), 0);
		store_close(&again);
		assert_int_equal(files_in(rig, ".new"), 0);
		assert_int_equal(store_has(&rig->store, "n.xml"), content_is(rig, "n.xml", NEW));
		arm(0, 0);
		assert_int_equal(store_remove(&rig->store, "n.xml", NULL), 0);
	}
}

static void failed_at_every_step(void **state)
{
	struct rig *rig = *state;
	bool finished = false;

	for (int at = 1; !finished; at++) {
		struct error err = ERROR_INIT;

		assert_true(at < 20);
		arm(at, -ENOSPC);
		finished = store_write(&rig->store, "a.xml", NEW, strlen(NEW), &err) == 0;
		/* The cleaning up after a failure has a step of its own, which may fail too. */
		if (finished)
			break;
		assert_non_null(strstr(err.text, "a.xml"));
		assert_non_null(strstr(err.text, "No space"));
		assert_true(content_is(rig, "a.xml", OLD) || content_is(rig, "a.xml", NEW));
		assert_int_equal(files_in(rig, ".new"), 0);
		arm(0, 0);
		assert_int_equal(store_write(&rig->store, "a.xml", OLD, strlen(OLD), NULL), 0);
	}
	assert_true(content_is(rig, "a.xml", NEW));
}

static void a_new_name_that_fails_is_not_there(void **state)
{
	struct rig *rig = *state;
	bool finished = false;

	for (int at = 1; !finished; at++) {
		assert_true(at < 20);
		arm(at, -EIO);
		finished = store_write(&rig->store, "n.xml", NEW, strlen(NEW), NULL) == 0;
		assert_int_equal(store_has(&rig->store, "n.xml"), finished);
		assert_int_equal(files_in(rig, ".new"), 0);
	}
}

static void names_stay_in_the_folder(void **state)
{
	static const char *const bad[] = {"", ".", "..", "a/b", "../a", ".hidden", "a\nb", "a\x7f"};
	struct rig *rig = *state;
	char longest[256];

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		assert_false(store_name_good(bad[i]));
		assert_int_equal(store_write(&rig->store, bad[i], "x", 1, NULL), -EINVAL);
		assert_int_equal(store_link(&rig->store, bad[i], "x", NULL), -EINVAL);
	}
	memset(longest, 'a', sizeof(longest));
	longest[201] = '\0';
	assert_false(store_name_good(longest));
	longest[200] = '\0';
	assert_int_equal(store_write(&rig->store, longest, "x", 1, NULL), 0);
	assert_true(store_name_good("machine with spaces"));
}

static void links_and_absences(void **state)
{
	struct rig *rig = *state;
	struct error err = ERROR_INIT;
	char *text = NULL;
	size_t len;

	assert_false(store_has(&rig->store, "l.xml"));
	assert_int_equal(store_link(&rig->store, "l.xml", "a.xml", NULL), 0);
	assert_true(store_has(&rig->store, "l.xml"));
	assert_true(content_is(rig, "l.xml", OLD));
	assert_int_equal(store_link(&rig->store, "l.xml", "nowhere", NULL), 0);
	/* A link that leads nowhere is there all the same. */
	assert_true(store_has(&rig->store, "l.xml"));
	assert_int_equal(store_remove(&rig->store, "l.xml", NULL), 0);
	assert_int_equal(store_remove(&rig->store, "l.xml", NULL), 0);
	assert_int_equal(store_read(&rig->store, "l.xml", &text, &len, &err), -ENOENT);
	assert_non_null(strstr(err.text, "l.xml"));
	/* A folder is no file. */
	assert_int_equal(mkdirat(rig->store.dir_fd, "d.xml", 0700), 0);
	assert_int_equal(store_read(&rig->store, "d.xml", &text, &len, &err), -EFBIG);
	assert_int_equal(unlinkat(rig->store.dir_fd, "d.xml", AT_REMOVEDIR), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(the_order_is_durable, setup, teardown),
		cmocka_unit_test_setup_teardown(killed_at_every_step, setup, teardown),
		cmocka_unit_test_setup_teardown(a_new_name_killed_at_every_step, setup, teardown),
		cmocka_unit_test_setup_teardown(failed_at_every_step, setup, teardown),
		cmocka_unit_test_setup_teardown(a_new_name_that_fails_is_not_there, setup,
						teardown),
		cmocka_unit_test_setup_teardown(names_stay_in_the_folder, setup, teardown),
		cmocka_unit_test_setup_teardown(links_and_absences, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
