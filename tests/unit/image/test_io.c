/*
 * Requests, for each engine and cache mode. argv: engine (io_uring, threads) and cache mode (writeback, none, writethrough,
 * unsafe). 77 when this kernel or file system has no such thing.
 */
#include "unit/image/image_test.h"

#include <sys/stat.h>

#include "base/str.h"

#define IMAGE_BYTES (4 * MIB)

static enum image_engine_kind engine;
static enum image_cache cache;

struct fixture {
	struct scratch scratch;
	struct image *image;
	struct loop *loop;
	struct image_channel *ch;
	uint8_t *buf; /* page-aligned, 2 MiB */
};

static int setup_depth(void **state, unsigned depth)
{
	static struct fixture f;
	struct image_config c;
	struct error err = ERROR_INIT;
	void *buf = NULL;

	memset(&f, 0, sizeof(f));
	scratch_make(&f.scratch, IMAGE_BYTES);
	c = config_for(&f.scratch, engine, cache);
	assert_int_equal(image_open(&c, &f.image, &err), 0);
	assert_int_equal(loop_new(&f.loop), 0);
	assert_int_equal(image_channel_open(f.image, f.loop, depth, &f.ch, &err), 0);
	assert_int_equal(posix_memalign(&buf, 4096, 2 * MIB), 0);
	f.buf = buf;
	*state = &f;
	return 0;
}

static int setup(void **state)
{
	return setup_depth(state, 64);
}

static int setup_shallow(void **state)
{
	return setup_depth(state, 2);
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	image_channel_close(f->ch);
	loop_free(f->loop);
	image_close(f->image);
	free(f->buf);
	scratch_drop(&f->scratch);
	return 0;
}

static void fill(uint8_t *buf, size_t bytes, unsigned seed)
{
	for (size_t i = 0; i < bytes; i++)
		buf[i] = (uint8_t)(i * 7 + i / 251 + seed);
}

/* As the file system has it, past the image layer. */
static void check_file(struct fixture *f, uint64_t offset, const uint8_t *want, size_t bytes)
{
	uint8_t *got = malloc(bytes);
	int fd = open(f->scratch.path, O_RDONLY);

	assert_true(fd >= 0 && got);
	assert_int_equal(pread(fd, got, bytes, (off_t)offset), bytes);
	assert_memory_equal(got, want, bytes);
	close(fd);
	free(got);
}

static void test_write_read(void **state)
{
	struct fixture *f = *state;
	uint8_t *in = f->buf + MIB;

	fill(f->buf, MIB, 1);
	assert_int_equal(sync_rw(f->loop, f->ch, IMAGE_WRITE, 8192, f->buf, MIB), 0);
	check_file(f, 8192, f->buf, MIB);
	assert_int_equal(sync_rw(f->loop, f->ch, IMAGE_READ, 8192, in, MIB), 0);
	assert_memory_equal(in, f->buf, MIB);
	assert_int_equal(sync_io(f->loop, f->ch, (struct image_req){.op = IMAGE_FLUSH}), 0);
	assert_int_equal(image_channel_in_flight(f->ch), 0);
}

static void test_fua(void **state)
{
	struct fixture *f = *state;
	struct iovec iov = {f->buf, 4096};
	struct image_req req = {.op = IMAGE_WRITE,
				.fua = true,
				.offset = 4096,
				.bytes = 4096,
				.iov = &iov,
				.n_iov = 1};

	fill(f->buf, 4096, 9);
	assert_int_equal(sync_io(f->loop, f->ch, req), 0);
	check_file(f, 4096, f->buf, 4096);
	req.op = IMAGE_WRITE_ZEROES;
	assert_int_equal(sync_io(f->loop, f->ch, req), 0);
	memset(f->buf, 0, 4096);
	check_file(f, 4096, f->buf, 4096);
}

/* Buffers at odd addresses and of odd lengths: direct I/O takes none of them. */
static void test_odd_buffers(void **state)
{
	struct fixture *f = *state;
	uint8_t *a = f->buf + 1;
	uint8_t *b = f->buf + 600 * KIB + 3;
	struct iovec iov[] = {{a, 511},
			      {a + 511, 1},
			      {a + 512, 0},
			      {a + 512, 300 * KIB},
			      {a + 300 * KIB + 512, 512}};
	struct iovec one = {b, 301 * KIB};
	struct image_req req = {
		.op = IMAGE_WRITE, .offset = 512, .bytes = 301 * KIB, .iov = iov, .n_iov = 5};

	fill(a, 301 * KIB, 3);
	assert_int_equal(sync_io(f->loop, f->ch, req), 0);
	check_file(f, 512, a, 301 * KIB);
	req.op = IMAGE_READ;
	req.iov = &one;
	req.n_iov = 1;
	assert_int_equal(sync_io(f->loop, f->ch, req), 0);
	assert_memory_equal(a, b, 301 * KIB);
}

static void test_many_elements(void **state)
{
	struct fixture *f = *state;
	static struct iovec iov[IMAGE_MAX_IOV];
	struct image_req req = {.op = IMAGE_WRITE,
				.bytes = 512 * IMAGE_MAX_IOV,
				.iov = iov,
				.n_iov = IMAGE_MAX_IOV};

	fill(f->buf, 512 * IMAGE_MAX_IOV, 5);
	for (unsigned i = 0; i < IMAGE_MAX_IOV; i++)
		iov[i] = (struct iovec){f->buf + 512 * i, 512};
	assert_int_equal(sync_io(f->loop, f->ch, req), 0);
	check_file(f, 0, f->buf, 512 * IMAGE_MAX_IOV);
	req.n_iov++;
	assert_int_equal(sync_io(f->loop, f->ch, req), -EINVAL);
}

static void test_bounds(void **state)
{
	struct fixture *f = *state;
	static const struct {
		uint64_t offset, bytes;
		int result;
	} cases[] = {
		{IMAGE_BYTES - 512, 512, 0},
		{IMAGE_BYTES - 512, 1024, -EINVAL},
		{IMAGE_BYTES, 512, -EINVAL},
		{0, 511, -EINVAL},
		{1, 512, -EINVAL},
		{UINT64_MAX - 511, 512, -EINVAL},
		{512, UINT64_MAX - 511, -EINVAL},
		{0, 0, 0},
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		for (int op = IMAGE_READ; op <= IMAGE_WRITE_ZEROES; op++) {
			struct iovec iov = {f->buf, 512};
			struct image_req req = {.op = (enum image_op)op,
						.offset = cases[i].offset,
						.bytes = cases[i].bytes,
						.iov = &iov,
						.n_iov = 1};

			if (op != IMAGE_FLUSH)
				assert_int_equal(sync_io(f->loop, f->ch, req), cases[i].result);
		}
	}
}

static uint64_t blocks_used(struct fixture *f)
{
	struct stat st;

	assert_int_equal(sync_io(f->loop, f->ch, (struct image_req){.op = IMAGE_FLUSH}), 0);
	assert_int_equal(stat(f->scratch.path, &st), 0);
	return (uint64_t)st.st_blocks * 512;
}

static void test_discard_and_zeroes(void **state)
{
	struct fixture *f = *state;
	struct image_req req = {.op = IMAGE_DISCARD, .offset = 0, .bytes = 512 * KIB};
	uint64_t before;

	fill(f->buf, MIB, 7);
	assert_int_equal(sync_rw(f->loop, f->ch, IMAGE_WRITE, 0, f->buf, MIB), 0);
	before = blocks_used(f);
	assert_int_equal(sync_io(f->loop, f->ch, req), 0);
	assert_true(blocks_used(f) < before);
	check_file(f, 512 * KIB, f->buf + 512 * KIB, 512 * KIB);

	/* Odd ends: the neighbours must survive. */
	req = (struct image_req){.op = IMAGE_WRITE_ZEROES,
				 .offset = 600 * KIB + 512,
				 .bytes = 100 * KIB};
	assert_int_equal(sync_io(f->loop, f->ch, req), 0);
	memset(f->buf + 600 * KIB + 512, 0, 100 * KIB);
	check_file(f, 512 * KIB, f->buf + 512 * KIB, 512 * KIB);

	before = blocks_used(f);
	req = (struct image_req){.op = IMAGE_WRITE_ZEROES,
				 .may_unmap = true,
				 .offset = 768 * KIB,
				 .bytes = 256 * KIB};
	assert_int_equal(sync_io(f->loop, f->ch, req), 0);
	memset(f->buf + 768 * KIB, 0, 256 * KIB);
	check_file(f, 512 * KIB, f->buf + 512 * KIB, 512 * KIB);
	assert_true(blocks_used(f) < before);
}

/* The file is cut while in use: an error, no hang, no success. */
static void test_shortened_file(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(truncate(f->scratch.path, 64 * KIB), 0);
	assert_int_equal(sync_rw(f->loop, f->ch, IMAGE_READ, 60 * KIB, f->buf, 16 * KIB), -EIO);
	assert_int_equal(sync_rw(f->loop, f->ch, IMAGE_READ, MIB, f->buf, 4096), -EIO);
	assert_int_equal(sync_rw(f->loop, f->ch, IMAGE_READ, 32 * KIB, f->buf, 4096), 0);
}

static void test_readonly(void **state)
{
	struct fixture *f = *state;
	struct image_config c = config_for(&f->scratch, engine, cache);
	struct image *image;
	struct image_channel *ch;
	struct error err = ERROR_INIT;

	c.readonly = true;
	c.no_lock = true;
	assert_int_equal(image_open(&c, &image, &err), 0);
	assert_int_equal(image_channel_open(image, f->loop, 1, &ch, &err), 0);
	assert_int_equal(sync_rw(f->loop, ch, IMAGE_READ, 0, f->buf, 512), 0);
	assert_int_equal(sync_rw(f->loop, ch, IMAGE_WRITE, 0, f->buf, 512), -EROFS);
	assert_int_equal(sync_io(f->loop, ch,
				 (struct image_req){.op = IMAGE_DISCARD, .bytes = 512}),
			 -EROFS);
	assert_int_equal(sync_io(f->loop, ch, (struct image_req){.op = IMAGE_FLUSH}), 0);
	image_channel_close(ch);
	image_close(image);
}

/* --- many at once --- */

#define MANY 500

struct many {
	struct image_req req;
	struct iovec iov;
	struct fixture *f;
	unsigned *left;
	bool again; /* submit once more from the callback */
};

static void many_done(struct image_req *req, int result)
{
	struct many *m = container_of(req, struct many, req);

	assert_int_equal(result, 0);
	(*m->left)--;
	if (m->again) {
		m->again = false;
		(*m->left)++;
		image_submit(m->f->ch, req);
		image_channel_push(m->f->ch);
	}
}

static void count_batch(void *opaque)
{
	(*(unsigned *)opaque)++;
}

/* More than the depth and the ring hold, some again from their own callbacks, all there after a drain. */
static void test_many(void **state)
{
	struct fixture *f = *state;
	static struct many many[MANY];
	unsigned left = MANY;
	unsigned batches = 0;

	image_channel_on_batch(f->ch, count_batch, &batches);
	fill(f->buf, 512 * MANY, 11);
	for (unsigned i = 0; i < MANY; i++) {
		many[i] = (struct many){.f = f, .left = &left, .again = i % 3 == 0};
		many[i].iov = (struct iovec){f->buf + 512 * i, 512};
		many[i].req = (struct image_req){.op = IMAGE_WRITE,
						 .offset = 512 * i,
						 .bytes = 512,
						 .iov = &many[i].iov,
						 .n_iov = 1,
						 .done = many_done};
		image_submit(f->ch, &many[i].req);
	}
	assert_int_equal(image_channel_in_flight(f->ch), MANY);
	image_channel_push(f->ch);
	image_channel_drain(f->ch);
	assert_int_equal(left, 0);
	assert_int_equal(image_channel_in_flight(f->ch), 0);
	assert_true(batches > 0);
	check_file(f, 0, f->buf, 512 * MANY);
}

/* --- against a model --- */

static uint32_t next_random(uint32_t *seed)
{
	*seed = *seed * 1664525u + 1013904223u;
	return *seed >> 8;
}

/* One random operation on image and model alike; discarded ranges read as zeroes on every file system we use. */
static void model_step(struct fixture *f, uint8_t *model, uint8_t *buf, uint32_t *seed)
{
	uint64_t sectors = 1 + next_random(seed) % 256;
	uint64_t offset = next_random(seed) % (IMAGE_BYTES / 512 - sectors) * 512;
	uint8_t *at = buf + (next_random(seed) % 4 ? 0 : 1 + next_random(seed) % 511);
	size_t cut = (size_t)(next_random(seed) % (sectors * 512));
	struct iovec iov[2] = {{at, cut}, {at + cut, sectors * 512 - cut}};
	struct image_req req = {.offset = offset, .bytes = sectors * 512, .iov = iov, .n_iov = 2};
	unsigned what = next_random(seed) % 10;

	req.op = what < 4   ? IMAGE_WRITE
		 : what < 7 ? IMAGE_READ
		 : what < 8 ? IMAGE_FLUSH
			    : IMAGE_WRITE_ZEROES;
	req.fua = what == 0;
	req.may_unmap = what == 9;
	if (req.op == IMAGE_WRITE)
		fill(at, req.bytes, *seed);
	assert_int_equal(sync_io(f->loop, f->ch, req), 0);
	if (req.op == IMAGE_READ)
		assert_memory_equal(at, model + offset, req.bytes);
	else if (req.op == IMAGE_WRITE)
		memcpy(model + offset, at, req.bytes);
	else if (req.op == IMAGE_WRITE_ZEROES)
		memset(model + offset, 0, req.bytes);
}

static void test_model(void **state)
{
	struct fixture *f = *state;
	uint8_t *model = calloc(1, IMAGE_BYTES);
	uint32_t seed = 20;

	assert_non_null(model);
	for (unsigned i = 0; i < 400; i++)
		model_step(f, model, f->buf, &seed);
	check_file(f, 0, model, IMAGE_BYTES);
	free(model);
}

/* --- the engine runs on a loop thread --- */

struct on_thread {
	struct fixture *f;
	struct image_channel *ch;
	struct many many;
	unsigned left;
};

static void thread_submit(void *opaque)
{
	struct on_thread *t = opaque;

	image_submit(t->ch, &t->many.req);
	image_channel_push(t->ch);
	image_channel_drain(t->ch);
}

static void test_loop_thread(void **state)
{
	struct fixture *f = *state;
	struct on_thread t = {.f = f, .left = 1};
	struct loop_thread *thread;
	struct error err = ERROR_INIT;

	assert_int_equal(loop_thread_start("test-io", &thread), 0);
	assert_int_equal(image_channel_open(f->image, loop_thread_loop(thread), 8, &t.ch, &err), 0);
	fill(f->buf, 4096, 4);
	t.many = (struct many){.f = f, .left = &t.left, .iov = {f->buf, 4096}};
	t.many.req = (struct image_req){.op = IMAGE_WRITE,
					.bytes = 4096,
					.iov = &t.many.iov,
					.n_iov = 1,
					.done = many_done};
	loop_call(loop_thread_loop(thread), thread_submit, &t);
	assert_int_equal(t.left, 0);
	check_file(f, 0, f->buf, 4096);
	image_channel_close(t.ch);
	loop_thread_stop(thread);
}

static void parse_args(int argc, char **argv)
{
	const char *e = argc > 1 ? argv[1] : "threads";
	const char *c = argc > 2 ? argv[2] : "writeback";

	engine = str_eq(e, "io_uring") ? IMAGE_ENGINE_IO_URING : IMAGE_ENGINE_THREADS;
	cache = str_eq(c, "none")           ? IMAGE_CACHE_NONE
		: str_eq(c, "writethrough") ? IMAGE_CACHE_WRITETHROUGH
		: str_eq(c, "unsafe")       ? IMAGE_CACHE_UNSAFE
					    : IMAGE_CACHE_WRITEBACK;
}

static bool possible(void)
{
	struct scratch s;
	struct image_config c;
	struct image *image = NULL;
	struct error err = ERROR_INIT;
	int r;

	scratch_make(&s, 4096);
	c = config_for(&s, engine, cache);
	r = image_open(&c, &image, &err);
	image_close(image);
	scratch_drop(&s);
	if (r < 0)
		printf("skipped: %s\n", err.text);
	return r >= 0;
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		TEST(test_write_read),
		TEST(test_fua),
		TEST(test_odd_buffers),
		TEST(test_many_elements),
		TEST(test_bounds),
		TEST(test_discard_and_zeroes),
		TEST(test_shortened_file),
		TEST(test_readonly),
		TEST(test_many),
		cmocka_unit_test_setup_teardown(test_many, setup_shallow, teardown),
		TEST(test_model),
		TEST(test_loop_thread),
	};

	parse_args(argc, argv);
	if (!possible())
		return 77;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
