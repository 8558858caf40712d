/*
 * stdin and stdout, each case in a process of its own whose stdin and stdout are a new pseudo-terminal or pipes. The child
 * reports through its exit status: 0, or the line of the check that failed.
 */
#include "unit/char/peer.h"

#include <fcntl.h>
#include <errno.h>
#include <pty.h>
#include <signal.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include "base/fd.h"

#define CHECK(condition)                                                                           \
	do {                                                                                       \
		if (!(condition)) {                                                                \
			fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);            \
			_exit(1);                                                                  \
		}                                                                                  \
	} while (0)

struct child {
	struct loop *loop;
	struct peer peer;
	char commands[8];
	unsigned n_commands;
	int ready_fd; /* a byte to here: set up */
};

static void on_command(void *opaque, char key)
{
	struct child *c = opaque;

	if (c->n_commands < sizeof(c->commands))
		c->commands[c->n_commands++] = key;
}

static void child_open(struct child *c, size_t room)
{
	struct chardev_stdio_config config = {.escape = 1, .command = on_command, .opaque = c};
	struct chardev *chr;

	CHECK(loop_new(&c->loop) == 0);
	CHECK(chardev_stdio_open(c->loop, &config, &chr, NULL) == 0);
	peer_attach(&c->peer, chr, room);
	CHECK(write(c->ready_fd, "r", 1) == 1);
}

static void child_close(struct child *c)
{
	chardev_free(c->peer.chr);
	loop_free(c->loop);
}

struct parent {
	pid_t pid;
	int master; /* of its terminal, or -1 */
	int slave;  /* kept open: what the terminal is set to after the child */
	int ready_fd;
	struct termios before;
};

static void spawn(struct parent *p, int in, int out, void (*run)(struct child *c))
{
	int ready[2];

	assert_int_equal(pipe(ready), 0);
	p->pid = fork();
	assert_true(p->pid >= 0);
	if (p->pid == 0) {
		struct child c = {.ready_fd = 3};

		/* The test library's handlers would go on with the next test in here. */
		signal(SIGSEGV, SIG_DFL);
		signal(SIGABRT, SIG_DFL);
		setpgid(0, 0); /* so that it can be stopped */
		dup2(in, 0);
		dup2(out, 1);
		dup2(ready[1], 3);
		close_range(4, ~0u, 0); /* no other end stays open in here */
		run(&c);
		_exit(0);
	}
	close(ready[1]);
	p->ready_fd = ready[0];
}

static void spawn_on_terminal(struct parent *p, void (*run)(struct child *c))
{
	struct winsize size = {.ws_col = 100, .ws_row = 40};

	assert_int_equal(openpty(&p->master, &p->slave, NULL, NULL, &size), 0);
	assert_int_equal(tcgetattr(p->slave, &p->before), 0);
	spawn(p, p->slave, p->slave, run);
}

static void wait_ready(struct parent *p)
{
	char byte;

	assert_int_equal(fd_read_full(p->ready_fd, &byte, 1), 1);
}

static int finish(struct parent *p)
{
	int status;

	assert_int_equal(waitpid(p->pid, &status, 0), p->pid);
	close(p->ready_fd);
	return status;
}

static bool is_raw(struct parent *p)
{
	struct termios now;

	assert_int_equal(tcgetattr(p->slave, &now), 0);
	return !(now.c_lflag & (ICANON | ECHO | ISIG)) && !(now.c_oflag & OPOST);
}

static bool is_as_before(struct parent *p)
{
	struct termios now;

	assert_int_equal(tcgetattr(p->slave, &now), 0);
	return now.c_lflag == p->before.c_lflag && now.c_iflag == p->before.c_iflag &&
	       now.c_oflag == p->before.c_oflag && now.c_cflag == p->before.c_cflag;
}

static void close_terminal(struct parent *p)
{
	close(p->master);
	close(p->slave);
}

/* --- every way out restores the terminal --- */

static void leave_by_free(struct child *c)
{
	child_open(c, 0);
	CHECK(RUN_UNTIL(c->loop, c->n_commands == 1));
	child_close(c);
}

static void leave_by_exit(struct child *c)
{
	child_open(c, 0);
	CHECK(RUN_UNTIL(c->loop, c->n_commands == 1));
	fclose(stderr); /* the leak checker's report, where there is one */
	exit(0);
}

static void leave_by_abort(struct child *c)
{
	child_open(c, 0);
	CHECK(RUN_UNTIL(c->loop, c->n_commands == 1));
	close(2);
	abort();
}

static void leave_by_fault(struct child *c)
{
	volatile char *nowhere = mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	child_open(c, 0);
	CHECK(RUN_UNTIL(c->loop, c->n_commands == 1));
	close(2);
	*nowhere = 1;
}

static void leave_by_signal(struct child *c)
{
	child_open(c, 0);
	CHECK(RUN_UNTIL(c->loop, c->n_commands == 2));
}

static void every_way_out_restores(void **state)
{
	static const struct {
		void (*leave)(struct child *c);
		int sig;
	} ways[] = {
		{leave_by_free, 0},
		{leave_by_exit, 0},
		{leave_by_abort, SIGABRT},
		{leave_by_fault, SIGSEGV},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(ways); i++) {
		struct parent p;
		int status;

		spawn_on_terminal(&p, ways[i].leave);
		wait_ready(&p);
		assert_true(is_raw(&p));
		assert_int_equal(write(p.master, "\001x", 2), 2);
		status = finish(&p);
		assert_true(is_as_before(&p));
		if (ways[i].sig == 0)
			assert_true(WIFEXITED(status));
		else
			assert_true(WIFSIGNALED(status) && WTERMSIG(status) == ways[i].sig);
		close_terminal(&p);
	}
}

static void signals_restore_and_still_kill(void **state)
{
	static const int signals[] = {SIGTERM, SIGHUP, SIGINT, SIGQUIT};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(signals); i++) {
		struct parent p;
		int status;

		spawn_on_terminal(&p, leave_by_signal);
		wait_ready(&p);
		assert_true(is_raw(&p));
		kill(p.pid, signals[i]);
		status = finish(&p);
		assert_true(WIFSIGNALED(status) && WTERMSIG(status) == signals[i]);
		assert_true(is_as_before(&p));
		close_terminal(&p);
	}
}

static void stop_and_continue(void **state)
{
	struct parent p;
	char text[512] = "";
	size_t got = 0;
	int status;

	(void)state;
	spawn_on_terminal(&p, leave_by_signal);
	wait_ready(&p);
	kill(p.pid, SIGTSTP);
	assert_int_equal(waitpid(p.pid, &status, WUNTRACED), p.pid);
	assert_true(WIFSTOPPED(status));
	assert_true(is_as_before(&p));
	kill(p.pid, SIGCONT);
	/* The help text shows that it runs, and it is raw before it runs. */
	assert_int_equal(write(p.master, "\001h", 2), 2);
	while (!strstr(text, "ends the machine")) {
		ssize_t r = read(p.master, text + got, sizeof(text) - 1 - got);

		assert_true(r > 0);
		got += (size_t)r;
	}
	assert_true(is_raw(&p));
	assert_int_equal(write(p.master, "\001x\001x", 4), 4);
	assert_int_equal(finish(&p), 0);
	close_terminal(&p);
}

/* --- input --- */

static void type_and_command(struct child *c)
{
	child_open(c, 100);
	CHECK(RUN_UNTIL(c->loop, c->n_commands == 2));
	CHECK(c->commands[0] == 'c' && c->commands[1] == 'x');
	CHECK(c->peer.in_len == 4 && memcmp(c->peer.in, "a\003\001b", 4) == 0);
	child_close(c);
}

static void keys_reach_the_guest_and_commands_do_not(void **state)
{
	struct parent p;

	(void)state;
	spawn_on_terminal(&p, type_and_command);
	wait_ready(&p);
	assert_int_equal(write(p.master, "a\003\001\001b\001c\001x", 9), 9);
	assert_int_equal(finish(&p), 0);
	close_terminal(&p);
}

static void deaf_guest(struct child *c)
{
	child_open(c, 0);
	CHECK(RUN_UNTIL(c->loop, c->n_commands == 1));
	CHECK(c->peer.in_len == 0);
	peer_give_room(&c->peer, sizeof(c->peer.in));
	CHECK(RUN_UNTIL(c->loop, c->peer.in_len == 1024));
	child_close(c);
}

/* A guest that takes no input must not keep the user from leaving. */
static void the_escape_key_works_at_a_deaf_guest(void **state)
{
	struct parent p;
	char junk[3000];

	(void)state;
	memset(junk, 'j', sizeof(junk));
	spawn_on_terminal(&p, deaf_guest);
	wait_ready(&p);
	for (unsigned i = 0; i < sizeof(junk); i += 100)
		assert_int_equal(fd_write_full(p.master, junk, 100), 0);
	assert_int_equal(write(p.master, "\001x", 2), 2);
	assert_int_equal(finish(&p), 0);
	close_terminal(&p);
}

static void read_pipe_to_end(struct child *c)
{
	child_open(c, 3);
	CHECK(RUN_UNTIL(c->loop, c->peer.in_len == 3));
	CHECK(idle_rounds(c->loop) < IDLE_MAX);
	peer_give_room(&c->peer, 100);
	CHECK(RUN_UNTIL(c->loop, c->peer.in_len == 6));
	CHECK(memcmp(c->peer.in, "in\001xab", 6) == 0); /* no terminal, no escape key */
	CHECK(idle_rounds(c->loop) < IDLE_MAX);
	CHECK(peer_write(&c->peer, "still here") == 10);
	CHECK(c->n_commands == 0);
	child_close(c);
}

static void a_pipe_ends_without_spinning(void **state)
{
	struct parent p;
	char buf[32];
	int in[2];
	int out[2];

	(void)state;
	assert_int_equal(pipe(in), 0);
	assert_int_equal(pipe(out), 0);
	assert_int_equal(write(in[1], "in\001xab", 6), 6);
	fcntl(in[1], F_SETFD, FD_CLOEXEC);
	close(in[1]);
	spawn(&p, in[0], out[1], read_pipe_to_end);
	close(out[1]);
	assert_int_equal(finish(&p), 0);
	assert_int_equal(fd_read_full(out[0], buf, sizeof(buf)), 10);
	assert_memory_equal(buf, "still here", 10);
	close(in[0]);
	close(out[0]);
}

static void read_file_to_end(struct child *c)
{
	child_open(c, 4096);
	CHECK(idle_rounds(c->loop) < IDLE_MAX);
	CHECK(c->peer.in_len == 0 || c->peer.in_len == 3000);
	peer_write(&c->peer, "x");
	child_close(c);
}

static void files_and_dev_null_do(void **state)
{
	struct parent p;
	char junk[3000];
	int null = open("/dev/null", O_RDWR);
	FILE *file = tmpfile();

	(void)state;
	spawn(&p, null, null, read_file_to_end);
	assert_int_equal(finish(&p), 0);
	memset(junk, 'f', sizeof(junk));
	assert_int_equal(fwrite(junk, 1, sizeof(junk), file), sizeof(junk));
	rewind(file);
	spawn(&p, fileno(file), null, read_file_to_end);
	assert_int_equal(finish(&p), 0);
	fclose(file);
	close(null);
}

/* --- output --- */

static void print_at_a_stopped_reader(struct child *c)
{
	unsigned sent = 0;
	size_t n;

	child_open(c, 10);
	CHECK(!(fcntl(0, F_GETFL) & O_NONBLOCK) && !(fcntl(1, F_GETFL) & O_NONBLOCK));
	do {
		uint8_t byte = (uint8_t)('a' + sent % 26);

		n = chardev_write(c->peer.chr, &byte, 1);
		sent += (unsigned)n;
		if (sent % 64 == 0)
			loop_run_once(c->loop, 0);
	} while (n > 0);
	CHECK(sent > 65536);
	CHECK(idle_rounds(c->loop) < IDLE_MAX);
	/* Tells how much to read, then waits until it was. */
	CHECK(write(c->ready_fd, &sent, sizeof(sent)) == sizeof(sent));
	CHECK(RUN_UNTIL(c->loop, c->n_commands == 1));
	CHECK(c->peer.writable == 1);
	child_close(c);
}

static void a_terminal_that_stands_still_blocks_nothing(void **state)
{
	struct parent p;
	unsigned sent;
	unsigned got = 0;

	(void)state;
	spawn_on_terminal(&p, print_at_a_stopped_reader);
	wait_ready(&p);
	assert_int_equal(fd_read_full(p.ready_fd, &sent, sizeof(sent)), sizeof(sent));
	while (got < sent) {
		uint8_t buf[4096];
		ssize_t r = read(p.master, buf, sizeof(buf));

		assert_true(r > 0);
		for (ssize_t i = 0; i < r; i++, got++)
			assert_int_equal(buf[i], 'a' + got % 26);
	}
	assert_int_equal(write(p.master, "\001x", 2), 2);
	assert_int_equal(finish(&p), 0);
	close_terminal(&p);
}

static void watch_size(struct child *c)
{
	child_open(c, 10);
	CHECK(RUN_UNTIL(c->loop, c->peer.columns == 100 && c->peer.rows == 40));
	CHECK(write(c->ready_fd, "s", 1) == 1);
	CHECK(RUN_UNTIL(c->loop, c->peer.columns == 132 && c->peer.rows == 50));
	child_close(c);
}

static void sizes_are_told(void **state)
{
	struct winsize size = {.ws_col = 132, .ws_row = 50};
	struct parent p;

	(void)state;
	spawn_on_terminal(&p, watch_size);
	wait_ready(&p);
	wait_ready(&p);
	assert_int_equal(ioctl(p.master, TIOCSWINSZ, &size), 0);
	kill(p.pid,
	     SIGWINCH); /* it is not in the foreground of this terminal, which no shell set up */
	assert_int_equal(finish(&p), 0);
	close_terminal(&p);
}

static void print_at_a_closed_pipe(struct child *c)
{
	child_open(c, 10);
	for (unsigned i = 0; i < 200000; i++) {
		/* Full until the reader leaves. */
		CHECK(RUN_UNTIL(c->loop, peer_write(&c->peer, "y") == 1));
	}
	CHECK(idle_rounds(c->loop) < IDLE_MAX);
	child_close(c);
}

static void a_reader_that_left_is_no_matter(void **state)
{
	struct parent p;
	int null = open("/dev/null", O_RDWR);
	int out[2];

	(void)state;
	assert_int_equal(pipe(out), 0);
	spawn(&p, null, out[1], print_at_a_closed_pipe);
	close(out[1]);
	wait_ready(&p);
	close(out[0]);
	assert_int_equal(finish(&p), 0);
	close(null);
}

static void open_twice(struct child *c)
{
	struct chardev_stdio_config config = {.escape = 1};
	struct chardev *chr;
	struct error err = ERROR_INIT;

	child_open(c, 10);
	CHECK(chardev_stdio_open(c->loop, &config, &chr, &err) == -EBUSY);
	CHECK(strlen(err.text) > 0);
	child_close(c);
	CHECK(loop_new(&c->loop) == 0);
	CHECK(chardev_stdio_open(c->loop, &config, &chr, &err) == 0);
	chardev_free(chr);
	loop_free(c->loop);
}

static void one_at_a_time(void **state)
{
	struct parent p;

	(void)state;
	spawn_on_terminal(&p, open_twice);
	assert_int_equal(finish(&p), 0);
	assert_true(is_as_before(&p));
	close_terminal(&p);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_way_out_restores),
		cmocka_unit_test(signals_restore_and_still_kill),
		cmocka_unit_test(stop_and_continue),
		cmocka_unit_test(keys_reach_the_guest_and_commands_do_not),
		cmocka_unit_test(the_escape_key_works_at_a_deaf_guest),
		cmocka_unit_test(a_pipe_ends_without_spinning),
		cmocka_unit_test(files_and_dev_null_do),
		cmocka_unit_test(a_terminal_that_stands_still_blocks_nothing),
		cmocka_unit_test(sizes_are_told),
		cmocka_unit_test(a_reader_that_left_is_no_matter),
		cmocka_unit_test(one_at_a_time),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
