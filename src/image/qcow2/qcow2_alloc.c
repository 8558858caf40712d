/*
 * Clusters on their way between free and used. Requests take new ones from a reserve, whose refcounts were raised ahead, so that
 * they need no table. What loses its last reference is `dropped` until a commit has made that loss stable, then in `limbo` until
 * the requests that may have seen it are through; only then does its refcount sink, and it can be found free again.
 */
#include <errno.h>
#include <stdlib.h>

#include "base/bits.h"
#include "base/cleanup.h"
#include "image/qcow2/qcow2_int.h"

#define RESERVE_MIN_BYTES (1u << 20)
#define RESERVE_MAX_BYTES (32u << 20)
#define PUNCH_MIN_BYTES   4096u

/* --- the reserve --- */

uint64_t qcow2_alloc_locked(struct qcow2 *q, uint64_t n, struct qcow2_run *ret)
{
	struct qcow2_run *run = &q->reserve[0];

	if (q->n_reserve == 0)
		return 0;
	*ret = *run;
	ret->count = MIN(n, run->count);
	run->cluster += ret->count;
	run->count -= ret->count;
	if (run->count == 0) {
		q->n_reserve--;
		memmove(q->reserve, q->reserve + 1, q->n_reserve * sizeof(q->reserve[0]));
	}
	return ret->count;
}

/* How many it should hold: more each time, so that a small image stays small. */
static uint64_t want_next(struct qcow2 *q)
{
	uint64_t min = MAX(RESERVE_MIN_BYTES >> q->cluster_bits, 2u);
	uint64_t max = MAX(RESERVE_MAX_BYTES >> q->cluster_bits, 16u);

	q->reserve_want = MIN(q->reserve_want * 2, max);
	q->reserve_want = MAX(q->reserve_want, min);
	return q->reserve_want;
}

int qcow2_reserve_refill(struct qcow2 *q)
{
	struct qcow2_run runs[QCOW2_MAX_RESERVE];
	uint64_t want;
	uint64_t got = 0;
	unsigned n;
	int r;

	pthread_mutex_lock(&q->lock);
	n = q->n_reserve;
	pthread_mutex_unlock(&q->lock);
	if (n > 0)
		return 0;
	r = qcow2_limbo_free(q);
	if (r < 0)
		return r;
	want = want_next(q);
	for (n = 0; got < want && n < QCOW2_MAX_RESERVE; n++) {
		r = qcow2_ref_take(q, q->free_hint, want - got, &runs[n]);
		if (r < 0)
			break;
		q->free_hint = runs[n].cluster + runs[n].count;
		got += runs[n].count;
	}
	LOCK_GUARD(&q->lock);
	memcpy(q->reserve, runs, n * sizeof(*runs));
	q->n_reserve = n;
	return got > 0 ? 0 : r;
}

int qcow2_reserve_return(struct qcow2 *q)
{
	int r = 0;

	while (r >= 0 && q->n_reserve > 0) {
		struct qcow2_run *run = &q->reserve[--q->n_reserve];

		r = qcow2_ref_change(q, run->cluster, run->count, -1);
	}
	return r;
}

/* --- dropping --- */

int qcow2_frees_add(struct qcow2_frees *f, uint64_t cluster, uint64_t count)
{
	struct qcow2_run *last = f->n && f->runs ? &f->runs[f->n - 1] : NULL;
	struct qcow2_run *more;

	if (last && last->cluster + last->count == cluster) {
		last->count += count;
		return 0;
	}
	if (f->n == f->max || !f->runs) {
		size_t max = f->max ? f->max * 2 : 256;

		more = realloc(f->runs, max * sizeof(*more));
		if (!more)
			return -ENOMEM;
		f->runs = more;
		f->max = max;
	}
	f->runs[f->n++] = (struct qcow2_run){.cluster = cluster, .count = count};
	return 0;
}

void qcow2_frees_move(struct qcow2_frees *from, struct qcow2_frees *to)
{
	for (size_t i = 0; i < from->n; i++)
		qcow2_frees_add(to, from->runs[i].cluster, from->runs[i].count);
	free(from->runs);
	*from = (struct qcow2_frees){0};
}

/* Without memory for the note it is lost space, until a check. */
void qcow2_drop_locked(struct qcow2 *q, uint64_t cluster, uint64_t count)
{
	qcow2_frees_add(&q->dropped, cluster, count);
}

void qcow2_drop_entry_locked(struct qcow2 *q, uint64_t entry)
{
	uint64_t host;
	uint64_t bytes;

	if (entry & QCOW2_ENTRY_COMPRESSED) {
		qcow2_entry_compressed(q, entry, &host, &bytes);
		qcow2_drop_locked(q, qcow2_cluster_of(q, host),
				  qcow2_cluster_of(q, host + bytes - 1) -
					  qcow2_cluster_of(q, host) + 1);
	} else if ((entry & QCOW2_OFFSET_MASK) && !q->has_data_file) {
		qcow2_drop_locked(q, qcow2_cluster_of(q, entry & QCOW2_OFFSET_MASK), 1);
	}
}

/* Gives the space of clusters that are free now back to the file system. */
static void punch(struct qcow2 *q, const struct qcow2_run *run)
{
	struct image_req req = {.op = IMAGE_DISCARD,
				.offset = run->cluster << q->cluster_bits,
				.bytes = run->count << q->cluster_bits};

	if (!q->file->ignore_discard && req.bytes >= PUNCH_MIN_BYTES)
		image_file_run(q->file, &req); /* only space is lost if it cannot */
}

static int free_run(struct qcow2 *q, const struct qcow2_run *run)
{
	struct qcow2_run freed = {0};
	int r;

	for (uint64_t i = 0; i < run->count; i++) {
		uint64_t left = 0;

		r = qcow2_ref_change(q, run->cluster + i, 1, -1);
		if (r >= 0)
			r = qcow2_ref_read(q, run->cluster + i, &left);
		if (r < 0)
			return r;
		if (left != 0)
			continue;
		pthread_mutex_lock(&q->lock);
		qcow2_meta_remove_locked(q, run->cluster + i);
		pthread_mutex_unlock(&q->lock);
		if (freed.count && freed.cluster + freed.count != run->cluster + i) {
			punch(q, &freed);
			freed.count = 0;
		}
		if (freed.count++ == 0)
			freed.cluster = run->cluster + i;
	}
	if (freed.count)
		punch(q, &freed);
	return 0;
}

/* Requests are counted by the parity of the epoch in which they began. Those that begin in a new one cannot see what is in limbo;
 * when none is left that began before, it is free. A new epoch takes the parity of the one before the last, so no request of that
 * one may be left. */
static void take_drained_locked(struct qcow2 *q, struct qcow2_frees *ret)
{
	if (q->in_flight[(q->epoch & 1) ^ 1] > 0)
		return;
	if (q->limbo.n > 0) {
		qcow2_frees_move(&q->limbo, &q->draining);
		q->epoch++;
	}
	if (q->in_flight[(q->epoch & 1) ^ 1] > 0)
		return;
	*ret = q->draining;
	q->draining = (struct qcow2_frees){0};
}

int qcow2_limbo_free(struct qcow2 *q)
{
	struct qcow2_frees drained = {0};
	int r = 0;

	pthread_mutex_lock(&q->lock);
	take_drained_locked(q, &drained);
	pthread_mutex_unlock(&q->lock);
	for (size_t i = 0; r >= 0 && i < drained.n; i++)
		r = free_run(q, &drained.runs[i]);
	free(drained.runs);
	return r;
}
