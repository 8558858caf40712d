/* The backends other than stdio: unix, pty, file, null, memory. */
#include "unit/char/peer.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <termios.h>
#include <unistd.h>

#include "base/fd.h"

struct fixture {
	struct loop *loop;
	struct peer peer;
	char dir[32];
	char path[64];
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	snprintf(f->dir, sizeof(f->dir), "/tmp/vireo-char-XXXXXX");
	assert_non_null(mkdtemp(f->dir));
	snprintf(f->path, sizeof(f->path), "%s/it", f->dir);
	assert_int_equal(loop_new(&f->loop), 0);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	chardev_free(f->peer.chr);
	loop_free(f->loop);
	unlink(f->path);
	assert_int_equal(rmdir(f->dir), 0);
	free(f);
	return 0;
}

/* Reads what the backend sends until `len` bytes are there, running its loop. */
static void expect(struct fixture *f, int fd, const char *text)
{
	char buf[256];
	size_t len = strlen(text);
	size_t got = 0;

	assert_int_equal(fd_set_nonblock(fd, true), 0);
	assert_true(RUN_UNTIL(f->loop, ({
				      ssize_t r = read(fd, buf + got, sizeof(buf) - got);
				      got += r > 0 ? (size_t)r : 0;
				      got >= len;
			      })));
	assert_int_equal(got, len);
	assert_memory_equal(buf, text, len);
}

static void unix_serves_one_after_another(void **state)
{
	struct fixture *f = *state;
	struct chardev *chr;
	int first;
	int second;

	assert_int_equal(chardev_unix_open(f->loop, f->path, &chr, NULL), 0);
	assert_string_equal(chr->path, f->path);
	peer_attach(&f->peer, chr, 100);
	assert_true(RUN_UNTIL(f->loop, f->peer.closed == 1));
	assert_int_equal(peer_write(&f->peer, "nobody hears this"), 17);

	first = unix_connect(f->path);
	second = unix_connect(f->path);
	assert_true(RUN_UNTIL(f->loop, f->peer.open));
	assert_int_equal(write(first, "hello", 5), 5);
	assert_true(RUN_UNTIL(f->loop, f->peer.in_len == 5));
	assert_memory_equal(f->peer.in, "hello", 5);
	peer_write(&f->peer, "wor");
	peer_write(&f->peer, "ld");
	expect(f, first, "world");

	close(first);
	assert_true(RUN_UNTIL(f->loop, f->peer.opened == 2));
	assert_int_equal(f->peer.closed, 2);
	peer_write(&f->peer, "next");
	expect(f, second, "next");
	assert_true(idle_rounds(f->loop) < IDLE_MAX);
	close(second);
	assert_true(RUN_UNTIL(f->loop, !f->peer.open));
	assert_true(idle_rounds(f->loop) < IDLE_MAX);
}

static void unix_input_waits_for_the_device(void **state)
{
	struct fixture *f = *state;
	struct chardev *chr;
	char big[3000];
	int fd;

	memset(big, 'b', sizeof(big));
	assert_int_equal(chardev_unix_open(f->loop, f->path, &chr, NULL), 0);
	peer_attach(&f->peer, chr, 10);
	fd = unix_connect(f->path);
	assert_int_equal(write(fd, big, sizeof(big)), sizeof(big));
	assert_true(RUN_UNTIL(f->loop, f->peer.in_len == 10));
	assert_true(idle_rounds(f->loop) < IDLE_MAX);
	assert_int_equal(f->peer.in_len, 10);
	peer_give_room(&f->peer, 2000);
	assert_true(RUN_UNTIL(f->loop, f->peer.in_len == 2010));
	/* The end comes after the data, however late that is taken. */
	close(fd);
	assert_true(idle_rounds(f->loop) < IDLE_MAX);
	peer_give_room(&f->peer, 2000);
	assert_true(RUN_UNTIL(f->loop, f->peer.in_len == 3000));
	assert_true(RUN_UNTIL(f->loop, !f->peer.open));
}

static void output_is_bounded_and_ordered(void **state)
{
	struct fixture *f = *state;
	struct chardev *chr;
	static uint8_t pattern[251];
	uint64_t sent = 0;
	uint64_t got = 0;
	int fd;
	size_t n;

	for (size_t i = 0; i < sizeof(pattern); i++)
		pattern[i] = (uint8_t)i;
	assert_int_equal(chardev_unix_open(f->loop, f->path, &chr, NULL), 0);
	peer_attach(&f->peer, chr, 0);
	fd = unix_connect(f->path);
	assert_int_equal(fd_set_nonblock(fd, true), 0);
	assert_true(RUN_UNTIL(f->loop, f->peer.open));
	/* Until socket and buffer are full, then until all is read. */
	do {
		n = chardev_write(chr, pattern + sent % 251, 251 - sent % 251);
		sent += n;
		loop_run_once(f->loop, 0);
	} while (n > 0);
	assert_true(sent > 65536 && sent < 16 * MIB);
	assert_true(idle_rounds(f->loop) < IDLE_MAX);
	while (got < sent) {
		uint8_t buf[4096];
		ssize_t r = read(fd, buf, sizeof(buf));

		for (ssize_t i = 0; i < r; i++)
			assert_int_equal(buf[i], (got + (uint64_t)i) % 251);
		got += r > 0 ? (uint64_t)r : 0;
		loop_run_once(f->loop, 10);
	}
	assert_int_equal(f->peer.writable, 1);
	close(fd);
}

static void unix_refuses_a_path_in_use(void **state)
{
	struct fixture *f = *state;
	struct chardev *chr;
	struct chardev *other;
	struct error err = ERROR_INIT;

	assert_int_equal(chardev_unix_open(f->loop, f->path, &chr, NULL), 0);
	peer_attach(&f->peer, chr, 0);
	assert_true(chardev_unix_open(f->loop, f->path, &other, &err) < 0);
	assert_non_null(strstr(err.text, f->path));
	assert_int_equal(access(f->path, F_OK), 0);
}

static void pty_comes_and_goes(void **state)
{
	struct fixture *f = *state;
	struct chardev *chr;

	assert_int_equal(chardev_pty_open(f->loop, &chr, NULL), 0);
	peer_attach(&f->peer, chr, 100);
	assert_true(RUN_UNTIL(f->loop, f->peer.closed == 1));
	assert_int_equal(peer_write(&f->peer, "lost"), 4);
	assert_true(idle_rounds(f->loop) < IDLE_MAX);
	for (unsigned i = 1; i <= 2; i++) {
		int fd = open(chr->path, O_RDWR | O_NOCTTY);
		struct termios tio;

		assert_true(fd >= 0);
		assert_int_equal(tcgetattr(fd, &tio), 0);
		assert_int_equal(tio.c_lflag & (ICANON | ECHO), 0);
		assert_true(RUN_UNTIL(f->loop, f->peer.open));
		assert_int_equal(f->peer.opened, i);
		peer_write(&f->peer, "login: ");
		expect(f, fd, "login: ");
		f->peer.in_len = 0;
		assert_int_equal(write(fd, "root\r", 5), 5);
		assert_true(RUN_UNTIL(f->loop, f->peer.in_len == 5));
		assert_memory_equal(f->peer.in, "root\r", 5);
		close(fd);
		assert_true(RUN_UNTIL(f->loop, !f->peer.open));
		assert_true(idle_rounds(f->loop) < IDLE_MAX);
	}
}

static void file_is_appended(void **state)
{
	struct fixture *f = *state;
	struct chardev *chr;
	char buf[32];
	int fd;

	for (unsigned i = 0; i < 2; i++) {
		assert_int_equal(chardev_file_open(f->loop, f->path, &chr, NULL), 0);
		assert_int_equal(chardev_write(chr, (const uint8_t *)"line\n", 5), 5);
		chardev_free(chr); /* writes out what is left */
	}
	fd = open(f->path, O_RDONLY);
	assert_int_equal(fd_read_full(fd, buf, sizeof(buf)), 10);
	assert_memory_equal(buf, "line\nline\n", 10);
	close(fd);
}

static void file_errors_name_the_file(void **state)
{
	struct fixture *f = *state;
	struct chardev *chr;
	struct error err = ERROR_INIT;

	assert_int_equal(mkfifo(f->path, 0600), 0);
	assert_true(chardev_file_open(f->loop, f->path, &chr, &err) < 0);
	assert_non_null(strstr(err.text, f->path));
	assert_true(chardev_file_open(f->loop, f->dir, &chr, &err) < 0);
	assert_non_null(strstr(err.text, f->dir));
}

static void a_full_disk_loses_output_only(void **state)
{
	struct fixture *f = *state;
	struct chardev *chr;

	assert_int_equal(chardev_file_open(f->loop, "/dev/full", &chr, NULL), 0);
	peer_attach(&f->peer, chr, 0);
	for (unsigned i = 0; i < 200000; i++) {
		if (peer_write(&f->peer, "x") == 0)
			loop_run_once(f->loop, 0);
	}
	assert_true(RUN_UNTIL(f->loop, peer_write(&f->peer, "x") == 1));
	assert_true(idle_rounds(f->loop) < IDLE_MAX);
}

static void null_takes_everything(void **state)
{
	struct fixture *f = *state;
	struct chardev *chr;

	assert_int_equal(chardev_null_open(&chr), 0);
	peer_attach(&f->peer, chr, 10);
	assert_int_equal(peer_write(&f->peer, "anything"), 8);
}

int main(void)
{
#define CASE(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
	const struct CMUnitTest tests[] = {
		CASE(unix_serves_one_after_another),
		CASE(unix_input_waits_for_the_device),
		CASE(output_is_bounded_and_ordered),
		CASE(unix_refuses_a_path_in_use),
		CASE(pty_comes_and_goes),
		CASE(file_is_appended),
		CASE(file_errors_name_the_file),
		CASE(a_full_disk_loses_output_only),
		CASE(null_takes_everything),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
