/* virtio-blk on a real file, driven as a guest's driver does. */
#include "device/driver.h"

#include <errno.h>
#include <stdio.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/endian.h"
#include "vm/devices/virtio_blk.h"
#include "vm/state/state.h"

#define SLOT       4
#define DISK_BYTES (4 * MIB)
#define SECTORS    (DISK_BYTES / 512)
#define N_QUEUES   2
#define QUEUE_SIZE 64

enum { T_IN = 0, T_OUT = 1, T_FLUSH = 4, T_GET_ID = 8, T_DISCARD = 11, T_ZEROES = 13 };
enum { S_OK = 0, S_IOERR = 1, S_UNSUPP = 2 };
#define F_RO         BIT(5)
#define F_FLUSH      BIT(9)
#define F_CONFIG_WCE BIT(11)
#define F_MQ         BIT(12)
#define F_DISCARD    BIT(13)
#define F_ZEROES     BIT(14)

struct header {
	le32 type, reserved;
	le64 sector;
};

struct range {
	le64 sector;
	le32 sectors, flags;
};

struct test {
	struct harness *h;
	char path[64];
	struct image *image;
	struct loop_thread *io[N_QUEUES];
	struct device *dev;
	struct driver d;
};

struct variant {
	enum image_engine_kind engine;
	bool readonly, io_threads;
};

static struct image *open_image(struct test *t, const struct variant *v)
{
	struct image_config config = {.path = t->path,
				      .fd = -1,
				      .engine = v->engine,
				      .readonly = v->readonly};
	struct image *image = NULL;
	struct error err = ERROR_INIT;

	if (image_open(&config, &image, &err) < 0)
		fail_msg("%s", err.text);
	return image;
}

static void attach(struct test *t, const struct variant *v)
{
	struct loop *loops[N_QUEUES];
	struct virtio_blk_config config = {
		.id = "disk0",
		.serial = "twenty-characters-ok",
		.queues = N_QUEUES,
		.queue_size = QUEUE_SIZE,
		.slot = SLOT,
	};
	struct error err = ERROR_INIT;

	t->image = open_image(t, v);
	config.image = t->image;
	for (unsigned i = 0; v->io_threads && i < N_QUEUES; i++) {
		assert_int_equal(loop_thread_start("io", &t->io[i]), 0);
		loops[i] = loop_thread_loop(t->io[i]);
		config.loops = loops;
		config.n_loops = N_QUEUES;
	}
	if (virtio_blk_new(&t->h->env, &config, &t->dev, &err) < 0)
		fail_msg("%s", err.text);
}

static int make(void **state, const struct variant *v)
{
	struct test *t = calloc(1, sizeof(*t));
	int fd;

	assert_non_null(t);
	t->h = harness_new();
	snprintf(t->path, sizeof(t->path), "test-blk-XXXXXX");
	fd = mkstemp(t->path);
	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, DISK_BYTES), 0);
	close(fd);
	attach(t, v);
	*state = t;
	return 0;
}

static int make_default(void **state)
{
	return make(state, &(struct variant){.engine = IMAGE_ENGINE_AUTO});
}

static int make_threads(void **state)
{
	return make(state, &(struct variant){.engine = IMAGE_ENGINE_THREADS});
}

static int make_io_threads(void **state)
{
	return make(state, &(struct variant){.engine = IMAGE_ENGINE_AUTO, .io_threads = true});
}

static int make_readonly(void **state)
{
	return make(state, &(struct variant){.engine = IMAGE_ENGINE_AUTO, .readonly = true});
}

static int drop(void **state)
{
	struct test *t = *state;

	device_pause(t->dev);
	device_free(t->dev);
	for (unsigned i = 0; i < N_QUEUES; i++)
		loop_thread_stop(t->io[i]);
	image_close(t->image);
	harness_free(t->h);
	unlink(t->path);
	free(t);
	return 0;
}

/* --- requests --- */

/* One command with out_len bytes of data to the device, or in_len from it. Returns its status; 0xff: none was written. */
static uint8_t command(struct test *t, unsigned queue, uint32_t type, uint64_t sector,
		       const void *out, uint32_t out_len, void *in, uint32_t in_len)
{
	struct header header = {.type = le32_of(type), .sector = le64_of(sector)};
	uint8_t *to = malloc(sizeof(header) + out_len);
	uint8_t *from = malloc(in_len + 1);
	uint32_t len;
	uint8_t status;

	assert_true(to && from);
	memcpy(to, &header, sizeof(header));
	if (out_len)
		memcpy(to + sizeof(header), out, out_len);
	len = driver_request(&t->d, queue, to, (uint32_t)sizeof(header) + out_len, from,
			     in_len + 1);
	assert_int_equal(len, in_len + 1);
	if (in_len)
		memcpy(in, from, in_len);
	status = from[in_len];
	free(to);
	free(from);
	return status;
}

static void fill(uint8_t *buf, size_t n, unsigned seed)
{
	for (size_t i = 0; i < n; i++)
		buf[i] = (uint8_t)(i / 3 + i * seed + seed);
}

static void round_trip(struct test *t, unsigned queue, uint64_t sector, uint32_t bytes,
		       unsigned seed)
{
	uint8_t *out = malloc(bytes);
	uint8_t *in = calloc(1, bytes);

	assert_true(out && in);
	fill(out, bytes, seed);
	assert_int_equal(command(t, queue, T_OUT, sector, out, bytes, NULL, 0), S_OK);
	assert_int_equal(command(t, queue, T_IN, sector, NULL, 0, in, bytes), S_OK);
	assert_memory_equal(in, out, bytes);
	free(out);
	free(in);
}

/* --- the tests --- */

static void shows_its_configuration(void **state)
{
	struct test *t = *state;
	uint8_t c[60];

	driver_start(&t->d, t->h, SLOT, DRIVER_ALL);
	assert_int_equal(t->d.config_bytes, 60);
	driver_config_read(&t->d, 0, c, sizeof(c));
	assert_int_equal(le_load(c, 8), SECTORS);
	assert_int_equal(le_load(c + 12, 4), QUEUE_SIZE - 2);
	assert_int_equal(le_load(c + 20, 4), 512);
	assert_int_equal(c[32], 1);
	assert_int_equal(le_load(c + 34, 2), N_QUEUES);
	assert_int_equal(le_load(c + 40, 4), 1);
	assert_int_equal(le_load(c + 52, 4), 1);
	assert_true(t->d.features & F_MQ);
	assert_false(t->d.features & F_RO);
	driver_stop(&t->d);
}

static void read_and_write(struct test *t, uint64_t features, bool indirect)
{
	driver_start(&t->d, t->h, SLOT, features);
	for (unsigned q = 0; q < N_QUEUES; q++)
		t->d.queues[q].indirect = indirect;
	for (unsigned i = 0; i < 150; i++) {
		round_trip(t, i % N_QUEUES, i, 512 + i % 4 * 512, i);
		driver_interrupts(&t->d.queues[i % N_QUEUES]);
	}
	round_trip(t, 0, 1000, MIB, 77);
	assert_int_equal(command(t, 0, T_FLUSH, 0, NULL, 0, NULL, 0), S_OK);
	assert_int_equal(driver_interrupts(&t->d.queues[0]) > 0, 1);
	driver_stop(&t->d);
}

static void reads_and_writes_split(void **state)
{
	read_and_write(*state, DRIVER_SPLIT & ~BIT(VIRTIO_F_EVENT_IDX), false);
}

static void reads_and_writes_split_indirect(void **state)
{
	read_and_write(*state, DRIVER_SPLIT, true);
}

static void reads_and_writes_packed(void **state)
{
	read_and_write(*state, DRIVER_ALL, false);
}

/* Header, data and status cut anywhere: the device may assume nothing about descriptors. */
static void takes_any_layout(void **state)
{
	struct test *t = *state;
	struct header header = {.type = le32_of(T_IN), .sector = le64_of(8)};
	gpa_t at = harness_alloc(t->h, 4096);
	struct driver_buf bufs[] = {
		{at, 3, false},       {at + 3, 13, false},  {at + 100, 500, true},
		{at + 700, 1, true},  {at + 701, 11, true}, {at + 800, 512, true},
		{at + 2000, 1, true},
	};
	uint8_t data[1024], in[1024];

	driver_start(&t->d, t->h, SLOT, DRIVER_ALL);
	fill(data, sizeof(data), 3);
	assert_int_equal(command(t, 0, T_OUT, 8, data, sizeof(data), NULL, 0), S_OK);
	memcpy(harness_ptr(t->h, at, 16), &header, sizeof(header));
	memset(harness_ptr(t->h, at + 2000, 1), 0xff, 1);
	driver_add(&t->d.queues[1], bufs, ARRAY_SIZE(bufs));
	driver_kick(&t->d.queues[1]);
	assert_int_equal(driver_wait(&t->d.queues[1], NULL), 1025);
	memcpy(in, harness_ptr(t->h, at + 100, 500), 500);
	memcpy(in + 500, harness_ptr(t->h, at + 700, 12), 12);
	memcpy(in + 512, harness_ptr(t->h, at + 800, 512), 512);
	assert_memory_equal(in, data, sizeof(data));
	assert_int_equal(*(uint8_t *)harness_ptr(t->h, at + 2000, 1), S_OK);
	driver_stop(&t->d);
}

static void refuses_what_is_not_on_the_disk(void **state)
{
	struct test *t = *state;
	uint8_t buf[1024] = {0};

	driver_start(&t->d, t->h, SLOT, DRIVER_ALL);
	for (uint32_t type = T_IN; type <= T_OUT; type++) {
		static const struct {
			uint64_t sector;
			uint32_t bytes;
			uint8_t status;
		} cases[] = {
			{SECTORS - 2, 1024, S_OK},
			{SECTORS - 1, 1024, S_IOERR},
			{SECTORS, 512, S_IOERR},
			{UINT64_MAX, 512, S_IOERR},
			{1ull << 55, 512, S_IOERR},
			{(1ull << 55) + 1, 512, S_IOERR},
			{0, 511, S_IOERR},
			{0, 513, S_IOERR},
			{0, 0, S_OK},
		};

		for (size_t i = 0; i < ARRAY_SIZE(cases); i++)
			assert_int_equal(command(t, 0, type, cases[i].sector, buf,
						 type == T_OUT ? cases[i].bytes : 0, buf,
						 type == T_IN ? cases[i].bytes : 0),
					 cases[i].status);
	}
	driver_stop(&t->d);
}

static void refuses_unknown_commands(void **state)
{
	struct test *t = *state;
	static const uint32_t types[] = {2, 3, 5, 9, 10, 12, 14, 15, 0x80000001, UINT32_MAX};
	uint8_t buf[512];

	driver_start(&t->d, t->h, SLOT, DRIVER_ALL);
	for (size_t i = 0; i < ARRAY_SIZE(types); i++)
		assert_int_equal(command(t, 0, types[i], 0, NULL, 0, buf, sizeof(buf)), S_UNSUPP);
	driver_stop(&t->d);
}

static void tells_its_serial(void **state)
{
	struct test *t = *state;
	char id[32];

	driver_start(&t->d, t->h, SLOT, DRIVER_ALL);
	memset(id, 'x', sizeof(id));
	assert_int_equal(command(t, 0, T_GET_ID, 0, NULL, 0, id, 20), S_OK);
	assert_memory_equal(id, "twenty-characters-ok", 20);
	assert_int_equal(command(t, 0, T_GET_ID, 0, NULL, 0, id, 6), S_OK);
	assert_memory_equal(id, "twenty", 6);
	assert_int_equal(command(t, 0, T_GET_ID, 0, NULL, 0, NULL, 0), S_OK);
	driver_stop(&t->d);
}

static uint8_t range_command(struct test *t, uint32_t type, uint64_t sector, uint32_t sectors,
			     uint32_t flags)
{
	struct range range = {le64_of(sector), le32_of(sectors), le32_of(flags)};

	return command(t, 0, type, 0, &range, sizeof(range), NULL, 0);
}

static void discards_and_writes_zeroes(void **state)
{
	struct test *t = *state;
	struct range two[2] = {{le64_of(0), le32_of(8), le32_of(0)},
			       {le64_of(8), le32_of(8), le32_of(0)}};
	uint8_t data[8192], zero[8192] = {0}, in[8192];

	driver_start(&t->d, t->h, SLOT, DRIVER_ALL);
	fill(data, sizeof(data), 5);
	assert_int_equal(command(t, 0, T_OUT, 16, data, sizeof(data), NULL, 0), S_OK);
	assert_int_equal(range_command(t, T_ZEROES, 17, 3, 0), S_OK);
	assert_int_equal(range_command(t, T_ZEROES, 24, 8, 1), S_OK);
	memset(data + 512, 0, 3 * 512);
	memset(data + 8 * 512, 0, 8 * 512);
	assert_int_equal(command(t, 0, T_IN, 16, NULL, 0, in, sizeof(in)), S_OK);
	assert_memory_equal(in, data, sizeof(in));
	assert_int_equal(range_command(t, T_DISCARD, 16, 16, 0), S_OK);
	assert_int_equal(command(t, 0, T_IN, 16, NULL, 0, in, sizeof(in)), S_OK);
	assert_memory_equal(in, zero,
			    sizeof(in)); /* a hole, on the file systems that tests run on */

	assert_int_equal(range_command(t, T_DISCARD, 0, 8, 1), S_UNSUPP);
	assert_int_equal(range_command(t, T_ZEROES, 0, 8, 2), S_UNSUPP);
	assert_int_equal(range_command(t, T_ZEROES, SECTORS - 1, 2, 0), S_IOERR);
	assert_int_equal(range_command(t, T_ZEROES, UINT64_MAX, 1, 0), S_IOERR);
	assert_int_equal(range_command(t, T_DISCARD, 0, UINT32_MAX, 0), S_IOERR);
	assert_int_equal(command(t, 0, T_DISCARD, 0, two, sizeof(two), NULL, 0), S_IOERR);
	assert_int_equal(command(t, 0, T_DISCARD, 0, two, 15, NULL, 0), S_IOERR);
	assert_int_equal(command(t, 0, T_ZEROES, 0, NULL, 0, NULL, 0), S_IOERR);
	driver_stop(&t->d);

	driver_start(&t->d, t->h, SLOT, DRIVER_ALL & ~(F_DISCARD | F_ZEROES));
	assert_int_equal(range_command(t, T_DISCARD, 0, 8, 0), S_UNSUPP);
	assert_int_equal(range_command(t, T_ZEROES, 0, 8, 0), S_UNSUPP);
	driver_stop(&t->d);
}

static void a_readonly_disk_stays_as_it_is(void **state)
{
	struct test *t = *state;
	uint8_t buf[512] = {1};

	driver_start(&t->d, t->h, SLOT, DRIVER_ALL);
	assert_true(t->d.features & F_RO);
	assert_false(t->d.features & (F_DISCARD | F_ZEROES));
	assert_int_equal(command(t, 0, T_OUT, 0, buf, sizeof(buf), NULL, 0), S_IOERR);
	assert_int_equal(range_command(t, T_ZEROES, 0, 1, 0), S_UNSUPP);
	assert_int_equal(command(t, 0, T_FLUSH, 0, NULL, 0, NULL, 0), S_OK);
	assert_int_equal(command(t, 0, T_IN, 0, NULL, 0, buf, sizeof(buf)), S_OK);
	assert_int_equal(buf[0], 0);
	driver_stop(&t->d);
}

/* --- protocol --- */

static void broken_by(struct test *t, const struct driver_buf *bufs, unsigned n)
{
	struct virtio_blk_info info;

	driver_start(&t->d, t->h, SLOT, DRIVER_ALL);
	driver_add(&t->d.queues[0], bufs, n);
	driver_kick(&t->d.queues[0]);
	harness_run(t->h);
	assert_true(driver_status(&t->d) & VIRTIO_STATUS_NEEDS_RESET);
	driver_stop(&t->d);
	driver_start(&t->d, t->h, SLOT, DRIVER_ALL);
	round_trip(t, 0, 0, 512, 1);
	driver_stop(&t->d);
	virtio_blk_query(t->dev, &info);
	assert_int_equal(info.errors, 0);
}

static void a_request_needs_header_and_status(void **state)
{
	struct test *t = *state;
	gpa_t at = harness_alloc(t->h, 4096);

	broken_by(t, &(struct driver_buf){at, 16, false}, 1);
	broken_by(t, &(struct driver_buf){at, 513, true}, 1);
	broken_by(t, (struct driver_buf[]){{at, 15, false}, {at + 100, 1, true}}, 2);
}

static void write_cache_follows_the_driver(void **state)
{
	struct test *t = *state;
	struct virtio_blk_info info;
	uint8_t wce = 0;

	driver_start(&t->d, t->h, SLOT, DRIVER_ALL);
	virtio_blk_query(t->dev, &info);
	assert_true(info.write_cache);
	driver_config_write(&t->d, 32, &wce, 1);
	virtio_blk_query(t->dev, &info);
	assert_false(info.write_cache);
	round_trip(t, 0, 0, 512, 1); /* by a write that is stable at once */
	driver_config_read(&t->d, 32, &wce, 1);
	assert_int_equal(wce, 0);
	driver_stop(&t->d);

	driver_start(&t->d, t->h, SLOT, DRIVER_ALL & ~(F_FLUSH | F_CONFIG_WCE));
	driver_config_read(&t->d, 32, &wce, 1);
	assert_int_equal(wce, 1); /* the reset forgot it */
	virtio_blk_query(t->dev, &info);
	assert_false(info.write_cache); /* no way to flush */
	driver_config_write(&t->d, 32, &(uint8_t){0}, 1);
	driver_config_read(&t->d, 32, &wce, 1);
	assert_int_equal(wce, 1); /* not negotiated */
	driver_stop(&t->d);
}

static void query_counts(void **state)
{
	struct test *t = *state;
	struct virtio_blk_info info;
	uint8_t buf[512];

	driver_start(&t->d, t->h, SLOT, DRIVER_ALL);
	round_trip(t, 0, 0, 1024, 1);
	round_trip(t, 1, 8, 512, 1);
	command(t, 0, T_FLUSH, 0, NULL, 0, NULL, 0);
	command(t, 0, T_IN, SECTORS, NULL, 0, buf, 512);
	virtio_blk_query(t->dev, &info);
	assert_string_equal(info.id, "disk0");
	assert_string_equal(info.serial, "twenty-characters-ok");
	assert_string_equal(info.image.path, t->path);
	assert_int_equal(info.reads, 2);
	assert_int_equal(info.writes, 2);
	assert_int_equal(info.read_bytes, 1536);
	assert_int_equal(info.written_bytes, 1536);
	assert_int_equal(info.flushes, 1);
	assert_int_equal(info.errors, 1);
	assert_int_equal(info.queues, N_QUEUES);
	driver_stop(&t->d);
}

/* --- many at once --- */

/* Writes one sector each, headers and data in guest memory at `at`. */
static void add_writes(struct test *t, struct driver_queue *q, gpa_t at, unsigned n,
		       uint64_t sector)
{
	for (unsigned i = 0; i < n; i++) {
		gpa_t base = at + i * 1024;
		struct header header = {.type = le32_of(T_OUT), .sector = le64_of(sector + i)};
		struct driver_buf bufs[] = {{base, 16, false},
					    {base + 512, 512, false},
					    {base + 16, 1, true}};

		memcpy(harness_ptr(t->h, base, 16), &header, sizeof(header));
		memset(harness_ptr(t->h, base + 16, 1), 0xff, 1);
		fill(harness_ptr(t->h, base + 512, 512), 512, i + 1);
		driver_add(q, bufs, ARRAY_SIZE(bufs));
	}
}

static void check_writes(struct test *t, gpa_t at, unsigned n, uint64_t sector)
{
	for (unsigned i = 0; i < n; i++) {
		uint8_t in[512], want[512];

		assert_int_equal(*(uint8_t *)harness_ptr(t->h, at + i * 1024 + 16, 1), S_OK);
		fill(want, sizeof(want), i + 1);
		assert_int_equal(command(t, 0, T_IN, sector + i, NULL, 0, in, sizeof(in)), S_OK);
		assert_memory_equal(in, want, sizeof(in));
	}
}

static void a_full_ring_is_served(void **state)
{
	struct test *t = *state;
	gpa_t at = harness_alloc(t->h, QUEUE_SIZE * 1024 * N_QUEUES);

	driver_start(&t->d, t->h, SLOT, DRIVER_ALL);
	for (unsigned q = 0; q < N_QUEUES; q++) {
		t->d.queues[q].indirect = true;
		add_writes(t, &t->d.queues[q], at + q * QUEUE_SIZE * 1024, QUEUE_SIZE, q * 100);
	}
	for (unsigned q = 0; q < N_QUEUES; q++)
		driver_kick(&t->d.queues[q]);
	for (unsigned q = 0; q < N_QUEUES; q++) {
		for (unsigned i = 0; i < QUEUE_SIZE; i++)
			driver_wait(&t->d.queues[q], NULL);
		check_writes(t, at + q * QUEUE_SIZE * 1024, QUEUE_SIZE, q * 100);
	}
	driver_stop(&t->d);
}

static void pause_ends_every_request(void **state)
{
	struct test *t = *state;
	gpa_t at = harness_alloc(t->h, QUEUE_SIZE * 1024);
	struct driver_queue *q;
	unsigned used = 0;

	driver_start(&t->d, t->h, SLOT, DRIVER_ALL);
	q = &t->d.queues[0];
	q->indirect = true;
	for (unsigned round = 0; round < 20; round++) {
		unsigned n = 1 + round * 3;

		add_writes(t, q, at, n, 200);
		driver_kick(q);
		if (!t->io[0])
			loop_run_once(t->h->env.loop,
				      0); /* the kick, perhaps not the completions */
		device_pause(t->dev);
		for (used = 0; driver_used(q, NULL, NULL); used++)
			;
		harness_run(t->h);
		assert_false(driver_used(q, NULL, NULL)); /* nothing after pause */
		device_resume(t->dev);
		for (; used < n; used++)
			driver_wait(q, NULL);
		check_writes(t, at, n, 200);
	}
	driver_stop(&t->d);
}

/* What the driver gave away before its reset must not be written to after the device says that it is reset. */
static void a_reset_waits_for_what_is_in_flight(void **state)
{
	struct test *t = *state;
	gpa_t at = harness_alloc(t->h, QUEUE_SIZE * 1024);

	for (unsigned round = 0; round < 50; round++) {
		driver_start(&t->d, t->h, SLOT, DRIVER_ALL);
		t->d.queues[0].indirect = true;
		add_writes(t, &t->d.queues[0], at, QUEUE_SIZE, 300);
		driver_kick(&t->d.queues[0]);
		if (!t->io[0])
			loop_run_once(t->h->env.loop, 0);
		driver_stop(&t->d);
		memset(harness_ptr(t->h, at, QUEUE_SIZE * 1024), 0xee, QUEUE_SIZE * 1024);
		harness_run(t->h);
		for (unsigned i = 0; i < QUEUE_SIZE; i++)
			assert_int_equal(*(uint8_t *)harness_ptr(t->h, at + i * 1024 + 16, 1),
					 0xee);
	}
}

static bool queue_is_reset(void *opaque)
{
	return driver_common_in(opaque, 0x3a, 2) == 0;
}

static void one_queue_is_reset_alone(void **state)
{
	struct test *t = *state;
	gpa_t at = harness_alloc(t->h, QUEUE_SIZE * 1024);
	struct driver_queue *q;

	driver_start(&t->d, t->h, SLOT, DRIVER_ALL);
	q = &t->d.queues[1];
	for (unsigned round = 0; round < 20; round++) {
		q->indirect = true;
		add_writes(t, q, at, 20, 400);
		driver_kick(q);
		driver_common_out(&t->d, 0x16, 2, 1);
		driver_common_out(&t->d, 0x3a, 2, 1);
		harness_wait(t->h, queue_is_reset, &t->d);
		assert_int_equal(driver_common_in(&t->d, 0x1c, 2), 0);
		round_trip(t, 0, 0, 512, round);
		t->h->outstanding = 0;
		driver_queue_setup(&t->d, 1, 0);
		round_trip(t, 1, 8, 512, round);
	}
	driver_stop(&t->d);
}

/* --- state --- */

static void state_survives_a_reset(void **state)
{
	struct test *t = *state;
	const struct state_table *table = t->dev->ops->state;
	gpa_t at = harness_alloc(t->h, 40 * 1024);
	struct state_buf saved = {0};
	struct state_buf again = {0};
	struct state_reader reader;
	struct error err = ERROR_INIT;
	uint8_t wce = 0;
	struct driver_queue *q;

	driver_start(&t->d, t->h, SLOT, DRIVER_ALL);
	driver_config_write(&t->d, 32, &wce, 1);
	q = &t->d.queues[0];
	q->indirect = true;
	add_writes(t, q, at, 40, 500);
	driver_kick(q);
	if (!t->io[0])
		loop_run_once(t->h->env.loop, 0);
	device_pause(t->dev);
	assert_int_equal(state_save(table, t->dev, &saved), 0);
	device_reset(t->dev);
	reader = state_reader_of(saved.data, saved.len);
	if (state_load(table, t->dev, &reader, &err) < 0)
		fail_msg("%s", err.text);
	assert_int_equal(state_save(table, t->dev, &again), 0);
	assert_int_equal(again.len, saved.len);
	assert_memory_equal(again.data, saved.data, saved.len);
	device_resume(t->dev);
	for (unsigned i = 0; i < 40; i++)
		driver_wait(q, NULL);
	check_writes(t, at, 40, 500);
	driver_config_read(&t->d, 32, &wce, 1);
	assert_int_equal(wce, 0);
	driver_stop(&t->d);
	state_buf_fini(&saved);
	state_buf_fini(&again);
}

static void bad_configurations_are_refused(void **state)
{
	struct test *t = *state;
	struct virtio_blk_config good = {
		.id = "x", .image = t->image, .queues = 1, .queue_size = 64, .slot = -1};
	struct virtio_blk_config c = good;
	struct device *dev = NULL;
	struct error err = ERROR_INIT;

	c.serial = "twenty-one-characters";
	assert_int_equal(virtio_blk_new(&t->h->env, &c, &dev, &err), -EINVAL);
	assert_non_null(strstr(err.text, "serial"));
	c = good;
	c.queues = 0;
	assert_int_equal(virtio_blk_new(&t->h->env, &c, &dev, &err), -EINVAL);
	c = good;
	c.queue_size = 100;
	assert_int_equal(virtio_blk_new(&t->h->env, &c, &dev, &err), -EINVAL);
	c = good;
	c.slot = SLOT;
	assert_int_equal(virtio_blk_new(&t->h->env, &c, &dev, &err), -EEXIST);
	assert_null(dev);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, make_default, drop)
#define TEST_EACH(f)                                                                               \
	{#f, f, make_default, drop, NULL}, {#f " (threads)", f, make_threads, drop, NULL},         \
	{                                                                                          \
#f " (I/O loops)", f, make_io_threads, drop, NULL                                  \
	}
	const struct CMUnitTest tests[] = {
		TEST(shows_its_configuration),
		TEST(reads_and_writes_split),
		TEST(reads_and_writes_split_indirect),
		TEST_EACH(reads_and_writes_packed),
		TEST(takes_any_layout),
		TEST(refuses_what_is_not_on_the_disk),
		TEST(refuses_unknown_commands),
		TEST(tells_its_serial),
		TEST_EACH(discards_and_writes_zeroes),
		cmocka_unit_test_setup_teardown(a_readonly_disk_stays_as_it_is, make_readonly,
						drop),
		TEST(a_request_needs_header_and_status),
		TEST(write_cache_follows_the_driver),
		TEST(query_counts),
		TEST_EACH(a_full_ring_is_served),
		TEST_EACH(pause_ends_every_request),
		TEST_EACH(a_reset_waits_for_what_is_in_flight),
		TEST_EACH(one_queue_is_reset_alone),
		TEST_EACH(state_survives_a_reset),
		TEST(bad_configurations_are_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
