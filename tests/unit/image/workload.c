#include "unit/image/workload.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/fd.h"

#define MAX_EVENTS  200000u
#define MAX_AT_ONCE 12u
#define MAX_BYTES   (192u * 1024)

void workload_init(struct workload *w, struct recorder *rec, uint64_t bytes, uint32_t seed)
{
	*w = (struct workload){.rec = rec, .seed = seed, .next_id = 1};
	w->sectors = (uint32_t)(bytes / MODEL_SECTOR);
	w->events = calloc(MAX_EVENTS, sizeof(*w->events));
	w->flushes = calloc(MAX_EVENTS, sizeof(*w->flushes));
	w->now = calloc(w->sectors, sizeof(*w->now));
	w->base = calloc(w->sectors, sizeof(*w->base));
	assert_true(w->events && w->flushes && w->now && w->base);
}

void workload_fini(struct workload *w)
{
	free(w->events);
	free(w->flushes);
	free(w->now);
	free(w->base);
}

void workload_base(struct workload *w, uint64_t id, char **ret_name)
{
	uint32_t count = w->sectors / 2 + 3;
	uint8_t *buf = malloc((size_t)count * MODEL_SECTOR);
	char name[] = "test-base-XXXXXX";
	int fd = mkstemp(name);

	assert_true(buf && fd >= 0);
	workload_fill(buf, 0, count, id);
	assert_int_equal(fd_write_full(fd, buf, (size_t)count * MODEL_SECTOR), 0);
	close(fd);
	free(buf);
	for (uint32_t i = 0; i < count; i++)
		w->base[i] = w->now[i] = id;
	*ret_name = strdup(name);
	assert_non_null(*ret_name);
}

void workload_open(struct workload *w, const struct image_config *config)
{
	struct error err = ERROR_INIT;

	if (image_open(config, &w->image, &err) < 0 ||
	    image_sync_open(w->image, 64, &w->s, &err) < 0)
		fail_msg("%s", err.text);
}

void workload_close(struct workload *w)
{
	image_sync_close(w->s);
	image_close(w->image);
	w->s = NULL;
	w->image = NULL;
}

static uint64_t pattern(uint32_t sector, uint64_t id, unsigned word)
{
	return id == 0 ? 0 : (id * 0x9e3779b97f4a7c15ULL) ^ ((uint64_t)sector << 32) ^ (word / 16);
}

void workload_fill(uint8_t *buf, uint32_t sector, uint32_t count, uint64_t id)
{
	for (uint32_t i = 0; i < count; i++) {
		for (unsigned k = 0; k < MODEL_SECTOR / 8; k++) {
			uint64_t v = pattern(sector + i, id, k);

			memcpy(buf + (size_t)i * MODEL_SECTOR + k * 8, &v, 8);
		}
	}
}

static bool holds(const uint8_t *data, uint32_t sector, uint64_t id)
{
	uint8_t want[MODEL_SECTOR];

	workload_fill(want, sector, 1, id);
	return memcmp(data, want, MODEL_SECTOR) == 0;
}

/* --- requests --- */

struct step {
	struct image_req req;
	struct iovec iov[2];
	struct workload *w;
	struct event *event;
	struct flush_event *flush;
	unsigned *left;
	uint8_t *buf;
	uint32_t first, count;
};

static void step_done(struct image_req *req, int result)
{
	struct step *s = container_of(req, struct step, req);
	size_t now = recorder_now(s->w->rec);

	assert_int_equal(result, 0);
	if (s->event)
		s->event->end = now;
	if (s->flush)
		s->flush->end = now;
	(*s->left)--;
}

static struct event *event_add(struct workload *w, uint32_t first, uint32_t count, uint64_t id)
{
	struct event *e = &w->events[w->n_events++];

	assert_true(w->n_events < MAX_EVENTS);
	*e = (struct event){.begin = recorder_now(w->rec),
			    .end = SIZE_MAX,
			    .first = first,
			    .count = count,
			    .id = id};
	return e;
}

static void choose_op(struct workload *w, struct step *s)
{
	unsigned what = next_random(&w->seed) % 16;
	struct image_req *req = &s->req;

	req->op = what < 8    ? IMAGE_WRITE
		  : what < 11 ? IMAGE_READ
		  : what < 13 ? IMAGE_WRITE_ZEROES
		  : what < 15 ? IMAGE_DISCARD
			      : IMAGE_FLUSH;
	req->fua = (req->op == IMAGE_WRITE || req->op == IMAGE_WRITE_ZEROES) &&
		   next_random(&w->seed) % 16 == 0;
	req->may_unmap = next_random(&w->seed) % 2;
	req->compress = w->compress && req->op == IMAGE_WRITE && next_random(&w->seed) % 2;
}

static void step_start(struct workload *w, struct step *s, uint32_t first, uint32_t count)
{
	size_t cut = next_random(&w->seed) % (count * MODEL_SECTOR + 1);
	uint64_t id = w->next_id++;

	*s = (struct step){.w = w, .left = s->left, .first = first, .count = count};
	choose_op(w, s);
	s->req.done = step_done;
	if (s->req.op == IMAGE_FLUSH) {
		s->flush = &w->flushes[w->n_flushes++];
		*s->flush = (struct flush_event){recorder_now(w->rec), SIZE_MAX};
		return;
	}
	s->req.offset = (uint64_t)first * MODEL_SECTOR;
	s->req.bytes = (uint64_t)count * MODEL_SECTOR;
	if (s->req.op != IMAGE_READ)
		s->event = event_add(w, first, count, s->req.op == IMAGE_WRITE ? id : 0);
	if (s->event) {
		s->event->maybe = s->req.op == IMAGE_DISCARD;
		s->event->stable = s->req.fua;
	}
	if (s->req.op != IMAGE_READ && s->req.op != IMAGE_WRITE)
		return;
	s->buf = malloc(s->req.bytes);
	assert_non_null(s->buf);
	if (s->req.op == IMAGE_WRITE)
		workload_fill(s->buf, first, count, id);
	s->iov[0] = (struct iovec){s->buf, cut};
	s->iov[1] = (struct iovec){s->buf + cut, s->req.bytes - cut};
	s->req.iov = s->iov;
	s->req.n_iov = 2;
}

static void check_read(struct workload *w, const struct step *s)
{
	for (uint32_t i = 0; i < s->count; i++) {
		if (!holds(s->buf + (size_t)i * MODEL_SECTOR, s->first + i, w->now[s->first + i]))
			fail_msg("sector %u does not hold %llu", s->first + i,
				 (unsigned long long)w->now[s->first + i]);
	}
}

/* What a discard left: each sector as it was, or zeroes. */
static void look_after_discard(struct workload *w, const struct step *s)
{
	size_t bytes = (size_t)s->count * MODEL_SECTOR;
	uint8_t *buf = malloc(bytes);

	assert_non_null(buf);
	assert_int_equal(image_sync_rw(w->s, IMAGE_READ, (uint64_t)s->first * MODEL_SECTOR, buf,
				       bytes),
			 0);
	for (uint32_t i = 0; i < s->count; i++) {
		const uint8_t *at = buf + (size_t)i * MODEL_SECTOR;

		if (holds(at, s->first + i, 0))
			w->now[s->first + i] = 0;
		else if (!holds(at, s->first + i, w->now[s->first + i]))
			fail_msg("sector %u holds something else after a discard", s->first + i);
	}
	free(buf);
}

static void step_end(struct workload *w, struct step *s)
{
	if (s->req.op == IMAGE_READ)
		check_read(w, s);
	else if (s->req.op == IMAGE_DISCARD)
		look_after_discard(w, s);
	else if (s->event)
		for (uint32_t i = 0; i < s->count; i++)
			w->now[s->first + i] = s->event->id;
	free(s->buf);
}

void workload_round(struct workload *w)
{
	struct step steps[MAX_AT_ONCE];
	unsigned n = 1 + next_random(&w->seed) % MAX_AT_ONCE;
	uint32_t at = next_random(&w->seed) % w->sectors;
	unsigned left = 0;
	unsigned used = 0;

	/* One behind the other, so that neighbours share clusters. */
	for (unsigned i = 0; i < n && at < w->sectors; i++) {
		uint32_t most = MIN(w->sectors - at, MAX_BYTES / MODEL_SECTOR);
		uint32_t count =
			1 + next_random(&w->seed) % (next_random(&w->seed) % 3 ? 16 : most);

		count = MIN(count, most);
		if (next_random(&w->seed) % 4 == 0) { /* whole large clusters too */
			at = (uint32_t)align_up(at, 128);
			if (at >= w->sectors)
				break;
			count = MIN(w->sectors - at, 128u);
		}
		steps[i].left = &left;
		step_start(w, &steps[i], at, count);
		at += count + (next_random(&w->seed) % 4 == 0 ? next_random(&w->seed) % 64 : 0);
		used++;
	}
	left = used;
	for (unsigned i = 0; i < used; i++)
		image_submit(image_sync_channel(w->s), &steps[i].req);
	image_channel_push(image_sync_channel(w->s));
	while (left > 0)
		image_sync_wait(w->s);
	for (unsigned i = 0; i < used; i++)
		step_end(w, &steps[i]);
}

void workload_verify(struct workload *w)
{
	size_t bytes = (size_t)w->sectors * MODEL_SECTOR;
	struct step s = {.first = 0, .count = w->sectors};

	s.buf = malloc(bytes);
	assert_non_null(s.buf);
	assert_int_equal(image_sync_rw(w->s, IMAGE_READ, 0, s.buf, bytes), 0);
	check_read(w, &s);
	free(s.buf);
}

void workload_becomes(struct workload *w, const uint64_t *then, size_t begin)
{
	for (uint32_t i = 0; i < w->sectors;) {
		struct event *e = event_add(w, i, 0, then[i]);

		for (; i < w->sectors && then[i] == e->id; i++)
			e->count++;
		e->begin = begin;
		e->end = recorder_now(w->rec);
		e->stable = true;
	}
	memcpy(w->now, then, w->sectors * sizeof(*w->now));
}

/* --- after a cut --- */

/* Before this moment everything that had ended is stable. */
static size_t stable_before(const struct workload *w, size_t cut)
{
	size_t best = 0;

	for (size_t i = 0; i < w->n_flushes; i++) {
		if (w->flushes[i].end <= cut)
			best = MAX(best, w->flushes[i].begin);
	}
	return best;
}

/* What a sector holds: its id, or UINT64_MAX when it is none that was ever written. */
static uint64_t id_of(const uint8_t *data, uint32_t sector)
{
	uint64_t inverse = 0xf1de83e19937733dULL; /* of the factor in pattern() */
	uint64_t v;
	uint64_t id;

	memcpy(&v, data, 8);
	id = v == 0 ? 0 : (v ^ ((uint64_t)sector << 32)) * inverse;
	return holds(data, sector, id) ? id : UINT64_MAX;
}

uint32_t workload_first_wrong(const struct workload *w, size_t cut, const uint8_t *disk)
{
	size_t stable = stable_before(w, cut);
	uint64_t *ids = calloc(w->sectors, sizeof(*ids));
	bool *good = calloc(w->sectors, sizeof(*good));
	uint32_t wrong = 0;

	assert_true(ids && good);
	for (uint32_t i = 0; i < w->sectors; i++) {
		ids[i] = id_of(disk + (size_t)i * MODEL_SECTOR, i);
		good[i] = ids[i] == w->base[i];
	}
	for (size_t i = 0; i < w->n_events; i++) {
		const struct event *e = &w->events[i];
		bool replaces = e->end <= (e->stable ? cut : stable) && !e->maybe;

		for (uint32_t k = e->first; e->begin <= cut && k < e->first + e->count; k++)
			good[k] = ids[k] == e->id || (good[k] && !replaces);
	}
	while (wrong < w->sectors && good[wrong])
		wrong++;
	free(ids);
	free(good);
	return wrong;
}
