/* What a person hears when an image cannot be opened, and who may open it at the same time. */
#include "unit/image/image_test.h"

#include <sys/stat.h>
#include <sys/wait.h>

static void refused(const struct image_config *config, int code, const char *const *words)
{
	struct image *image = NULL;
	struct error err = ERROR_INIT;

	assert_int_equal(image_open(config, &image, &err), code);
	assert_null(image);
	assert_int_equal(err.code, code);
	for (; *words; words++) {
		if (!strstr(err.text, *words))
			fail_msg("'%s' is not in: %s", *words, err.text);
	}
}
#define REFUSED(config, code, ...) refused(config, code, (const char *const[]){__VA_ARGS__, NULL})

static void test_absent(void **state)
{
	struct image_config c = {.path = "no-such-file.img", .fd = -1};

	REFUSED(&c, -ENOENT, "no-such-file.img", "no such file", "truncate");
	c.path = NULL;
	REFUSED(&c, -EINVAL, "path");
}

static void test_kinds_of_file(void **state)
{
	struct image_config c = {.path = ".", .fd = -1};

	REFUSED(&c, -EISDIR, "is a directory");
	c.path = "/dev/null";
	REFUSED(&c, -EINVAL, "neither a regular file nor a block device");
}

static void test_sizes(void **state)
{
	struct scratch s;
	struct image_config c;

	scratch_make(&s, 0);
	c = config_for(&s, IMAGE_ENGINE_AUTO, IMAGE_CACHE_WRITEBACK);
	REFUSED(&c, -EINVAL, s.path, "empty");
	assert_int_equal(truncate(s.path, 1000), 0);
	REFUSED(&c, -EINVAL, "1000 bytes", "no multiple of 512", "truncate -s 1024");
	scratch_drop(&s);
}

static void test_format(void **state)
{
	struct scratch s;
	struct image_config c;

	scratch_make(&s, 4096);
	c = config_for(&s, IMAGE_ENGINE_AUTO, IMAGE_CACHE_WRITEBACK);
	c.format = "rwa";
	REFUSED(&c, -EINVAL, s.path, "'rwa'", "'raw'");
	scratch_drop(&s);
}

/* Root may do everything, so a child drops it. */
static void test_permission(void **state)
{
	struct scratch s;
	pid_t pid;
	int status = 0;

	scratch_make(&s, 4096);
	assert_int_equal(chmod(s.path, 0444), 0);
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		struct image_config c = config_for(&s, IMAGE_ENGINE_AUTO, IMAGE_CACHE_WRITEBACK);
		struct error err = ERROR_INIT;
		struct image *image;

		if (geteuid() == 0 && (setgid(12345) < 0 || setuid(12345) < 0))
			_exit(77);
		if (access(s.path, R_OK) < 0)
			_exit(77); /* the folder itself is closed to others */
		if (image_open(&c, &image, &err) != -EACCES)
			_exit(1);
		if (!strstr(err.text, "mode 0444") || !strstr(err.text, "readonly=on"))
			_exit(2);
		c.readonly = true;
		_exit(image_open(&c, &image, &err) == 0 ? 0 : 3);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	scratch_drop(&s);
	assert_true(WIFEXITED(status));
	if (WEXITSTATUS(status) == 77)
		skip();
	assert_int_equal(WEXITSTATUS(status), 0);
}

static int open_in_child(const struct scratch *s, bool readonly)
{
	pid_t pid = fork();
	int status = 0;

	assert_true(pid >= 0);
	if (pid == 0) {
		struct image_config c = config_for(s, IMAGE_ENGINE_AUTO, IMAGE_CACHE_WRITEBACK);
		struct error err = ERROR_INIT;
		struct image *image;
		int r;

		c.readonly = readonly;
		r = image_open(&c, &image, &err);
		_exit(r == -EBUSY && strstr(err.text, "another machine") ? 1 : r < 0 ? 2 : 0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	return WEXITSTATUS(status);
}

static void test_lock(void **state)
{
	struct scratch s;
	struct image_config c;
	struct image *image = NULL;
	struct error err = ERROR_INIT;

	scratch_make(&s, 4096);
	c = config_for(&s, IMAGE_ENGINE_AUTO, IMAGE_CACHE_WRITEBACK);

	assert_int_equal(image_open(&c, &image, &err), 0);
	assert_int_equal(open_in_child(&s, false), 1);
	assert_int_equal(open_in_child(&s, true), 1);
	/* The same machine must not attach it twice either. */
	REFUSED(&c, -EBUSY, s.path, "readonly=on");
	image_close(image);

	c.readonly = true;
	assert_int_equal(image_open(&c, &image, &err), 0);
	assert_int_equal(open_in_child(&s, true), 0);
	assert_int_equal(open_in_child(&s, false), 1);
	image_close(image);
	assert_int_equal(open_in_child(&s, false), 0);

	c.readonly = false;
	c.no_lock = true;
	assert_int_equal(image_open(&c, &image, &err), 0);
	assert_int_equal(open_in_child(&s, false), 0);
	image_close(image);
	scratch_drop(&s);
}

/* A shared lock on byte 101 is how QEMU says that it writes; on byte 201, that nobody else may. */
static void test_qemu_lock(void **state)
{
	struct scratch s;
	struct flock uses_write = {.l_type = F_RDLCK, .l_start = 101, .l_len = 1};
	struct flock probe = {.l_type = F_WRLCK, .l_start = 201, .l_len = 1};
	struct image_config c;
	struct image *image = NULL;
	struct error err = ERROR_INIT;
	int fd;

	scratch_make(&s, 4096);
	c = config_for(&s, IMAGE_ENGINE_AUTO, IMAGE_CACHE_WRITEBACK);
	c.readonly = true;
	fd = open(s.path, O_RDWR | O_CLOEXEC);
	assert_true(fd >= 0);
	assert_int_equal(image_open(&c, &image, &err), 0);
	assert_int_equal(fcntl(fd, F_OFD_GETLK, &probe), 0);
	assert_int_equal(probe.l_type, F_RDLCK);
	image_close(image);

	assert_int_equal(fcntl(fd, F_OFD_SETLK, &uses_write), 0);
	REFUSED(&c, -EBUSY, "writes to it");
	c.readonly = false;
	REFUSED(&c, -EBUSY, "in use by another");
	close(fd);
	scratch_drop(&s);
}

static void test_descriptor(void **state)
{
	struct scratch s;
	struct image_config c;
	struct image *image = NULL;
	struct image_info info;
	struct error err = ERROR_INIT;
	int fd;

	scratch_make(&s, 8192);
	c = config_for(&s, IMAGE_ENGINE_AUTO, IMAGE_CACHE_WRITEBACK);
	fd = open(s.path, O_RDONLY);
	c.fd = fd;
	REFUSED(&c, -EACCES, "not open for reading and writing");
	assert_int_equal(fcntl(fd, F_GETFD), 0); /* still ours */
	c.readonly = true;
	assert_int_equal(image_open(&c, &image, &err), 0);
	image_get_info(image, &info);
	assert_int_equal(info.size_bytes, 8192);
	assert_true(info.readonly);
	assert_false(info.can_discard);
	image_close(image);
	assert_int_equal(fcntl(fd, F_GETFD), -1); /* closed with the image */
	c.fd = fd;
	REFUSED(&c, -EBADF, "not open");
	scratch_drop(&s);
}

static void test_info(void **state)
{
	struct scratch s;
	struct image_config c;
	struct image *image = NULL;
	struct image_info info;
	struct error err = ERROR_INIT;

	scratch_make(&s, 1 * MIB);
	c = config_for(&s, IMAGE_ENGINE_THREADS, IMAGE_CACHE_UNSAFE);
	assert_int_equal(image_open(&c, &image, &err), 0);
	image_get_info(image, &info);
	assert_string_equal(info.path, s.path);
	assert_string_equal(info.format, "raw");
	assert_string_equal(info.engine, "threads");
	assert_int_equal(info.cache, IMAGE_CACHE_UNSAFE);
	assert_int_equal(info.size_bytes, 1 * MIB);
	assert_int_equal(info.logical_block, 512);
	assert_true(is_power_of_two(info.physical_block) && info.physical_block >= 512);
	assert_true(info.can_discard && info.can_write_zeroes);
	assert_int_not_equal(info.discard_granularity, 0);
	image_close(image);
	c.discard = IMAGE_DISCARD_IGNORE;
	assert_int_equal(image_open(&c, &image, &err), 0);
	image_get_info(image, &info);
	assert_false(info.can_discard);
	image_close(image);
	scratch_drop(&s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_absent),     cmocka_unit_test(test_kinds_of_file),
		cmocka_unit_test(test_sizes),      cmocka_unit_test(test_format),
		cmocka_unit_test(test_permission), cmocka_unit_test(test_lock),
		cmocka_unit_test(test_qemu_lock),  cmocka_unit_test(test_descriptor),
		cmocka_unit_test(test_info),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
