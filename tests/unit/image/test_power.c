/*
 * Power cuts: usage test-power OPTIONS CUTS SEED. A recorder under the image logs what a random workload does to its file. At random
 * moments the power goes: of what was written since the last flush any part may be lost or torn at 512 bytes. Each time the image
 * must open, the check must find no corruption, and every sector must hold what was flushed, or something written later.
 */
#include "unit/image/workload.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/str.h"
#include "unit/image/qcow2_options.h"

#define ROUNDS       10u
#define IN_A_SESSION 12u

static const struct qcow2_options *options;
static unsigned n_cuts;
static uint32_t seed;

static void reported(void *opaque, bool corruption, const char *text)
{
	if (corruption)
		print_message("at cut %zu: %s\n", *(const size_t *)opaque, text);
}

/* --- the work --- */

static struct image *open_image(struct recorder *rec)
{
	struct image_config config = qcow2_options_open(&rec->backend);
	struct error err = ERROR_INIT;
	struct image *image;

	if (image_open(&config, &image, &err) < 0)
		fail_msg("%s", err.text);
	return image;
}

static void session(struct workload *w)
{
	struct image_config config = qcow2_options_open(&w->rec->backend);

	workload_open(w, &config);
	for (unsigned i = 0; i < IN_A_SESSION; i++)
		workload_round(w);
	workload_verify(w);
	workload_close(w);
}

struct snapshot_model {
	bool there;
	uint64_t *then;
	size_t begin, end; /* of its making */
};

/* Makes, applies or deletes the only snapshot. */
static void snapshot_step(struct workload *w, struct snapshot_model *snap)
{
	struct image *image = open_image(w->rec);
	size_t begin = recorder_now(w->rec);
	struct error err = ERROR_INIT;
	int r;

	if (!snap->there) {
		r = image_snapshot_create(image, "s", &err);
		memcpy(snap->then, w->now, w->sectors * sizeof(*w->now));
		snap->there = true;
	} else if (next_random(&w->seed) % 2) {
		r = image_snapshot_apply(image, "s", &err);
		if (r >= 0)
			workload_becomes(w, snap->then, begin);
	} else {
		r = image_snapshot_delete(image, "s", &err);
		snap->there = false;
	}
	if (r < 0)
		fail_msg("%s", err.text);
	image_close(image);
}

static void do_work(struct workload *w)
{
	struct snapshot_model snap = {.then = calloc(w->sectors, sizeof(uint64_t))};

	assert_non_null(snap.then);
	for (unsigned i = 0; i < ROUNDS; i++) {
		session(w);
		if (options->refcount_bits != 1)
			snapshot_step(w, &snap);
	}
	free(snap.then);
}

/* --- the cuts --- */

static void verify(const struct workload *w, struct image *image, size_t cut)
{
	size_t bytes = (size_t)w->sectors * MODEL_SECTOR;
	struct error err = ERROR_INIT;
	uint8_t *buf = malloc(bytes);
	struct image_sync *s;
	uint32_t wrong;

	assert_non_null(buf);
	assert_int_equal(image_sync_open(image, 8, &s, &err), 0);
	assert_int_equal(image_sync_rw(s, IMAGE_READ, 0, buf, bytes), 0);
	image_sync_close(s);
	wrong = workload_first_wrong(w, cut, buf);
	if (wrong < w->sectors)
		fail_msg("cut %zu: sector %u holds what it may not", cut, wrong);
	free(buf);
}

static void check_cut(const struct workload *w, struct recorder *after, size_t cut)
{
	struct image_config config = qcow2_options_open(&after->backend);
	struct image_check_config check = {.report = reported, .opaque = &cut};
	struct image_check_result result;
	struct error err = ERROR_INIT;
	struct image *image;

	if (image_open(&config, &image, &err) < 0)
		fail_msg("cut %zu: %s", cut, err.text);
	if (image_check(image, &check, &result, &err) < 0)
		fail_msg("cut %zu: %s", cut, err.text);
	if (result.corruptions != 0)
		fail_msg("cut %zu: %llu corruptions", cut, (unsigned long long)result.corruptions);
	verify(w, image, cut);
	image_close(image);
}

static int compare_cuts(const void *a, const void *b)
{
	size_t x = *(const size_t *)a;
	size_t y = *(const size_t *)b;

	return x < y ? -1 : x > y;
}

static size_t *choose_cuts(const struct recorder *rec)
{
	size_t *cuts = calloc(n_cuts, sizeof(*cuts));

	assert_non_null(cuts);
	for (unsigned i = 0; i < n_cuts; i++)
		cuts[i] = next_random(&seed) % (rec->n + 1);
	qsort(cuts, n_cuts, sizeof(*cuts), compare_cuts);
	return cuts;
}

/* stable holds everything up to the last flush before each cut; after that one, what the cut left. */
static void cut_all(const struct workload *w, const struct recorder *rec, struct recorder *stable)
{
	size_t *cuts = choose_cuts(rec);
	struct recorder after;
	size_t done = 0;

	recorder_init(&after);
	for (unsigned i = 0; i < n_cuts; i++) {
		size_t flushed = cuts[i];

		while (flushed > done && rec->log[flushed - 1].kind != RECORD_FLUSH)
			flushed--;
		for (; done < flushed; done++)
			recorder_replay(stable, &rec->log[done]);
		recorder_copy(&after, stable);
		for (size_t k = done; k < cuts[i]; k++)
			recorder_replay_torn(&after, &rec->log[k], &seed);
		check_cut(w, &after, cuts[i] ? rec->log[cuts[i] - 1].moment : 0);
	}
	recorder_fini(&after);
	free(cuts);
}

static void test_cuts(void **state)
{
	struct image_create_config create;
	struct error err = ERROR_INIT;
	struct recorder rec;
	struct recorder stable;
	struct workload w;
	char *base = NULL;

	recorder_init(&rec);
	recorder_init(&stable);
	workload_init(&w, &rec, options->bytes, seed);
	if (options->backed)
		workload_base(&w, BASE_ID, &base);
	create = qcow2_options_create(options, &rec.backend, base);
	if (image_create(&create, &err) < 0)
		fail_msg("%s", err.text);
	recorder_copy(&stable, &rec);
	rec.logging = true;
	w.compress = options->compress;
	do_work(&w);
	print_message("%zu writes and flushes, %u cuts\n", rec.n, n_cuts);
	cut_all(&w, &rec, &stable);
	workload_fini(&w);
	recorder_fini(&stable);
	recorder_fini(&rec);
	if (base)
		unlink(base);
	free(base);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(test_cuts)};
	uint64_t cuts = 50;
	uint64_t number = 1;

	options = qcow2_options_find(argc > 1 ? argv[1] : "plain");
	if ((argc > 2 && parse_u64(argv[2], &cuts) < 0) ||
	    (argc > 3 && parse_u64(argv[3], &number) < 0))
		return 2;
	n_cuts = (unsigned)cuts;
	seed = (uint32_t)number;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
