/*
 * qcow2 against a model, for one set of options; argv: a name of the table below. Random work, several requests at once, with
 * snapshots and reopening between; the check must find an image without fault after each closing.
 */
#include "unit/image/workload.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/str.h"
#include "unit/image/qcow2_options.h"

static const struct qcow2_options *options;
static char *base; /* the backing file's name */

static void open_workload(struct workload *w, struct recorder *rec)
{
	struct image_config config = qcow2_options_open(&rec->backend);

	workload_open(w, &config);
}

static void reported(void *opaque, bool corruption, const char *text)
{
	(void)opaque;
	print_message("%s: %s\n", corruption ? "corruption" : "leak", text);
}

static void check_clean(struct recorder *rec)
{
	struct image_config config = qcow2_options_open(&rec->backend);
	struct image_check_config check = {.report = reported};
	struct image_check_result result;
	struct error err = ERROR_INIT;
	struct image *image;

	config.inspect = true;
	config.readonly = true;
	if (image_open(&config, &image, &err) < 0)
		fail_msg("%s", err.text);
	assert_int_equal(image_check(image, &check, &result, &err), 0);
	assert_int_equal(result.corruptions, 0);
	assert_int_equal(result.leaks, 0);
	assert_int_equal(result.stale_flags, 0);
	image_close(image);
}

/* And a model of what is in it. */
static void make(struct recorder *rec, struct workload *w, uint32_t seed)
{
	struct image_create_config create;
	struct error err = ERROR_INIT;

	recorder_init(rec);
	workload_init(w, rec, options->bytes, seed);
	if (options->backed && !base)
		workload_base(w, BASE_ID, &base);
	else if (options->backed)
		for (uint32_t i = 0; i < w->sectors / 2 + 3; i++)
			w->now[i] = BASE_ID;
	create = qcow2_options_create(options, &rec->backend, base);
	if (image_create(&create, &err) < 0)
		fail_msg("%s", err.text);
	check_clean(rec);
}

static void test_model(void **state)
{
	struct recorder rec;
	struct workload w;

	make(&rec, &w, 7);
	w.compress = options->compress;
	for (unsigned round = 0; round < 6; round++) {
		open_workload(&w, &rec);
		for (unsigned i = 0; i < 40; i++)
			workload_round(&w);
		workload_verify(&w);
		workload_close(&w);
		check_clean(&rec);
		open_workload(&w, &rec);
		workload_verify(&w);
		workload_close(&w);
	}
	workload_fini(&w);
	recorder_fini(&rec);
}

/* --- snapshots --- */

static void snapshot_do(struct recorder *rec,
			int (*fn)(struct image *image, const char *name, struct error *err),
			const char *name)
{
	struct image_config config = qcow2_options_open(&rec->backend);
	struct error err = ERROR_INIT;
	struct image *image;

	if (image_open(&config, &image, &err) < 0 || fn(image, name, &err) < 0)
		fail_msg("%s", err.text);
	image_close(image);
	check_clean(rec);
}

static void work(struct workload *w, struct recorder *rec)
{
	open_workload(w, rec);
	for (unsigned i = 0; i < 15; i++)
		workload_round(w);
	workload_verify(w);
	workload_close(w);
	check_clean(rec);
}

static void test_snapshots(void **state)
{
	struct recorder rec;
	struct workload w;
	uint64_t *then[2];

	if (options->refcount_bits == 1)
		skip();
	make(&rec, &w, 11);
	w.compress = options->compress;
	for (unsigned i = 0; i < 2; i++) {
		work(&w, &rec);
		snapshot_do(&rec, image_snapshot_create, i ? "second" : "first");
		then[i] = malloc(w.sectors * sizeof(*w.now));
		memcpy(then[i], w.now, w.sectors * sizeof(*w.now));
	}
	work(&w, &rec);
	snapshot_do(&rec, image_snapshot_apply, "first");
	workload_becomes(&w, then[0], 0);
	work(&w, &rec);
	snapshot_do(&rec, image_snapshot_apply, "second");
	workload_becomes(&w, then[1], 0);
	snapshot_do(&rec, image_snapshot_delete, "second");
	work(&w, &rec);
	snapshot_do(&rec, image_snapshot_apply, "1");
	workload_becomes(&w, then[0], 0);
	work(&w, &rec);
	snapshot_do(&rec, image_snapshot_delete, "first");
	work(&w, &rec);
	free(then[0]);
	free(then[1]);
	workload_fini(&w);
	recorder_fini(&rec);
}

/* --- size --- */

static void resize(struct recorder *rec, struct workload *w, uint64_t bytes)
{
	struct image_config config = qcow2_options_open(&rec->backend);
	struct error err = ERROR_INIT;
	struct image *image;
	uint32_t sectors = (uint32_t)(bytes / MODEL_SECTOR);

	if (image_open(&config, &image, &err) < 0 ||
	    image_resize(image, bytes, IMAGE_PREALLOC_OFF, &err) < 0)
		fail_msg("%s", err.text);
	image_close(image);
	check_clean(rec);
	w->now = realloc(w->now, sectors * sizeof(*w->now));
	assert_non_null(w->now);
	for (uint32_t i = w->sectors; i < sectors; i++)
		w->now[i] = 0;
	w->sectors = sectors;
}

static void test_resize(void **state)
{
	struct recorder rec;
	struct workload w;

	make(&rec, &w, 13);
	work(&w, &rec);
	resize(&rec, &w, options->bytes * 3 + 512 * 3);
	work(&w, &rec);
	resize(&rec, &w, options->bytes / 2048 * 1024 + 512 * 5);
	work(&w, &rec);
	resize(&rec, &w, options->bytes * 2);
	work(&w, &rec);
	workload_fini(&w);
	recorder_fini(&rec);
}

/* --- two loops at once --- */

#define STRIPE       8u /* sectors; neighbours belong to different threads */
#define THREAD_STEPS 150u
#define AT_ONCE      6u

struct worker {
	struct loop_thread *thread;
	struct image_channel *ch;
	unsigned index;
	uint32_t stripes;
	uint64_t *ids; /* by stripe, ours only */
	bool *touched;
	uint32_t seed;
	int error;
};

struct stripe_req {
	struct image_req req;
	struct iovec iov;
	struct worker *worker;
	uint8_t buf[STRIPE * MODEL_SECTOR];
};

static void stripe_done(struct image_req *req, int result)
{
	struct stripe_req *s = container_of(req, struct stripe_req, req);

	if (result < 0)
		s->worker->error = result;
}

/* Each step: a few stripes of ours anew, sometimes zeroed, sometimes with a flush. */
static void worker_run(void *opaque)
{
	struct worker *w = opaque;
	static const enum image_op ops[] = {IMAGE_WRITE, IMAGE_WRITE, IMAGE_WRITE,
					    IMAGE_WRITE_ZEROES, IMAGE_FLUSH};
	struct stripe_req *reqs = calloc(AT_ONCE, sizeof(*reqs));
	uint32_t before[AT_ONCE];

	for (unsigned step = 0; reqs && step < THREAD_STEPS; step++) {
		for (unsigned i = 0; i < AT_ONCE; i++) {
			struct stripe_req *s = &reqs[i];
			uint32_t at = next_random(&w->seed) % (w->stripes / 2) * 2 + w->index;
			enum image_op op = ops[next_random(&w->seed) % ARRAY_SIZE(ops)];
			uint64_t id = op == IMAGE_WRITE ? step * AT_ONCE + i + 1 : 0;
			bool twice = false;

			for (unsigned k = 0; k < i; k++)
				twice |= before[k] == at;
			before[i] = at;
			if (twice)
				op = IMAGE_FLUSH;
			if (op != IMAGE_FLUSH) {
				w->ids[at] = id;
				w->touched[at] = true;
			}
			workload_fill(s->buf, at * STRIPE, STRIPE, id);
			s->worker = w;
			s->iov = (struct iovec){s->buf, sizeof(s->buf)};
			s->req = (struct image_req){.op = op,
						    .offset = (uint64_t)at * STRIPE * MODEL_SECTOR,
						    .bytes = sizeof(s->buf),
						    .iov = &s->iov,
						    .n_iov = 1,
						    .may_unmap = id % 2,
						    .done = stripe_done};
			image_submit(w->ch, &s->req);
		}
		image_channel_push(w->ch);
		image_channel_drain(w->ch);
	}
	free(reqs);
}

struct worker_msg {
	struct loop_msg msg;
	struct worker *worker;
	pthread_mutex_t lock;
	pthread_cond_t cond;
	bool done;
};

static void worker_post(struct loop_msg *msg)
{
	struct worker_msg *m = container_of(msg, struct worker_msg, msg);

	worker_run(m->worker);
	pthread_mutex_lock(&m->lock);
	m->done = true;
	pthread_cond_signal(&m->cond);
	pthread_mutex_unlock(&m->lock);
}

static void wait_for(struct worker_msg *m)
{
	pthread_mutex_lock(&m->lock);
	while (!m->done)
		pthread_cond_wait(&m->cond, &m->lock);
	pthread_mutex_unlock(&m->lock);
}

static void verify_stripes(struct recorder *rec, struct workload *w, const struct worker *workers)
{
	open_workload(w, rec);
	for (uint32_t i = 0; i < workers[0].stripes; i++) {
		if (!workers[i % 2].touched[i])
			continue;
		for (uint32_t k = 0; k < STRIPE; k++)
			w->now[i * STRIPE + k] = workers[i % 2].ids[i];
	}
	workload_verify(w);
	workload_close(w);
}

static void test_threads(void **state)
{
	struct image_config config;
	struct worker workers[2] = {0};
	struct worker_msg msgs[2] = {0};
	struct error err = ERROR_INIT;
	struct image *image;
	struct recorder rec;
	struct workload w;

	make(&rec, &w, 17);
	config = qcow2_options_open(&rec.backend);
	assert_int_equal(image_open(&config, &image, &err), 0);
	for (unsigned i = 0; i < 2; i++) {
		struct worker *t = &workers[i];

		t->index = i;
		t->seed = i + 1;
		t->stripes = (uint32_t)(MIN(options->bytes, MIB) / MODEL_SECTOR / STRIPE);
		t->ids = calloc(t->stripes, sizeof(*t->ids));
		t->touched = calloc(t->stripes, sizeof(*t->touched));
		assert_true(t->ids && t->touched);
		assert_int_equal(loop_thread_start("test-io", &t->thread), 0);
		assert_int_equal(image_channel_open(image, loop_thread_loop(t->thread), 16, &t->ch,
						    &err),
				 0);
		msgs[i].worker = t;
		msgs[i].msg.fn = worker_post;
		pthread_mutex_init(&msgs[i].lock, NULL);
		pthread_cond_init(&msgs[i].cond, NULL);
	}
	for (unsigned i = 0; i < 2; i++)
		loop_post(loop_thread_loop(workers[i].thread), &msgs[i].msg);
	for (unsigned i = 0; i < 2; i++) {
		wait_for(&msgs[i]);
		assert_int_equal(workers[i].error, 0);
		image_channel_close(workers[i].ch);
		loop_thread_stop(workers[i].thread);
	}
	image_close(image);
	check_clean(&rec);
	verify_stripes(&rec, &w, workers);
	free(workers[0].ids);
	free(workers[1].ids);
	free(workers[0].touched);
	free(workers[1].touched);
	workload_fini(&w);
	recorder_fini(&rec);
}

/* --- a full disk --- */

static void try_write(struct image_sync *s, uint8_t *buf, uint64_t at, unsigned *failed)
{
	int r = image_sync_rw(s, IMAGE_WRITE, at, buf, 65536);

	assert_true(r == 0 || r == -ENOSPC);
	*failed += r < 0;
}

/* Writes fail while there is no space, nothing is damaged by it, and it goes on when there is some. */
static void test_full(void **state)
{
	struct image_config config;
	struct error err = ERROR_INIT;
	uint8_t *buf = malloc(65536);
	struct image *image;
	struct image_sync *s;
	struct recorder rec;
	struct workload w;
	unsigned failed = 0;

	assert_non_null(buf);
	memset(buf, 0x5a, 65536);
	make(&rec, &w, 1);
	config = qcow2_options_open(&rec.backend);
	assert_int_equal(image_open(&config, &image, &err), 0);
	assert_int_equal(image_sync_open(image, 8, &s, &err), 0);
	for (unsigned i = 0; i < 8; i++) {
		pthread_mutex_lock(&rec.lock);
		rec.fail_after = i % 2 ? rec.n_writes + 2 : 0;
		pthread_mutex_unlock(&rec.lock);
		for (uint64_t at = i * 65536; at + 65536 <= 12 * 65536; at += 3 * 65536)
			try_write(s, buf, at, &failed);
		image_sync_flush(s); /* may fail as well */
	}
	pthread_mutex_lock(&rec.lock);
	rec.fail_after = 0;
	pthread_mutex_unlock(&rec.lock);
	assert_true(failed > 0);
	for (uint64_t at = 0; at + 65536 <= 12 * 65536; at += 65536)
		assert_int_equal(image_sync_rw(s, IMAGE_WRITE, at, buf, 65536), 0);
	assert_int_equal(image_sync_flush(s), 0);
	image_sync_close(s);
	image_close(image);
	check_clean(&rec);
	workload_fini(&w);
	recorder_fini(&rec);
	free(buf);
}

int main(int argc, char **argv)
{
	int failed;
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_model),  cmocka_unit_test(test_snapshots),
		cmocka_unit_test(test_resize), cmocka_unit_test(test_threads),
		cmocka_unit_test(test_full),
	};

	options = qcow2_options_find(argc > 1 ? argv[1] : "plain");
	failed = cmocka_run_group_tests(tests, NULL, NULL);
	if (base)
		unlink(base);
	free(base);
	return failed;
}
