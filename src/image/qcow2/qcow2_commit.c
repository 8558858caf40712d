/*
 * Commit: makes stable what requests have changed, in the order that qcow2_int.h gives. What is dirty is copied at one moment,
 * under the lock; requests go on changing tables meanwhile, which the next commit will write. Data that an entry in the copy
 * points to was written before the entry was, so the flush between the two steps covers it.
 *
 * On the worker, or offline; blocking. After a failure everything is dirty again and the next commit starts anew.
 */
#include <errno.h>
#include <stdlib.h>

#include "base/bits.h"
#include "base/cleanup.h"
#include "image/qcow2/qcow2_int.h"

#define MAX_WRITE_UNITS 64u

/* A unit on its way to the file. */
struct piece {
	uint64_t offset;
	struct qcow2_block *block; /* or NULL: of a table */
	uint8_t *data;
};

struct batch {
	struct piece *pieces;
	size_t n, max;
	uint8_t *copy; /* the pieces' data */
};

struct capture {
	struct batch refs, reft,
		links; /* refcount blocks; their table; L2 blocks and the L1 table */
	struct qcow2_frees dropped;
};

bool qcow2_uncommitted_locked(const struct qcow2 *q)
{
	return q->n_dirty[QCOW2_BLOCK_L2] > 0 || q->l1.n_dirty > 0 || q->commit_running;
}

/* --- the moment --- */

static int batch_init(struct qcow2 *q, struct batch *b, size_t max)
{
	void *copy = NULL;

	b->pieces = calloc(max + 1, sizeof(*b->pieces));
	if (!b->pieces || posix_memalign(&copy, 4096, MAX(max * q->unit, (size_t)4096)) != 0)
		return -ENOMEM;
	b->copy = copy;
	b->max = max;
	return 0;
}

static void batch_fini(struct batch *b)
{
	free(b->pieces);
	free(b->copy);
}

static struct piece *batch_add(struct qcow2 *q, struct batch *b, uint64_t offset)
{
	struct piece *p = &b->pieces[b->n];

	p->offset = offset;
	p->data = b->copy + b->n * q->unit;
	b->n++;
	return p;
}

static void capture_table_locked(struct qcow2 *q, struct qcow2_table *t, struct batch *b)
{
	uint32_t per = q->unit / 8;

	for (uint32_t i = 0; t->n_dirty > 0 && i * per < t->n; i++) {
		struct piece *p;

		if (!t->dirty[i])
			continue;
		t->dirty[i] = 0;
		t->n_dirty--;
		p = batch_add(q, b, t->offset + (uint64_t)i * q->unit);
		for (uint32_t k = 0; k < per; k++)
			qcow2_put64(p->data + k * 8,
				    i * per + k < t->n ? t->entries[i * per + k] : 0);
	}
}

static void capture_blocks_locked(struct qcow2 *q, struct capture *c)
{
	for (struct qcow2_block *b = q->newest; b; b = b->older) {
		struct piece *p;

		if (!b->dirty)
			continue;
		p = batch_add(q, b->kind == QCOW2_BLOCK_REF ? &c->refs : &c->links, b->offset);
		p->block = b;
		memcpy(p->data, b->data, q->unit);
		b->dirty = false;
		b->writing = true;
		q->n_dirty[b->kind]--;
	}
}

static int capture_locked(struct qcow2 *q, struct capture *c)
{
	int r = batch_init(q, &c->refs, q->n_dirty[QCOW2_BLOCK_REF]);

	if (r >= 0)
		r = batch_init(q, &c->reft, q->reft.n_dirty);
	if (r >= 0)
		r = batch_init(q, &c->links, q->n_dirty[QCOW2_BLOCK_L2] + q->l1.n_dirty);
	if (r < 0)
		return r;
	capture_blocks_locked(q, c);
	capture_table_locked(q, &q->reft, &c->reft);
	capture_table_locked(q, &q->l1, &c->links);
	c->dropped = q->dropped;
	q->dropped = (struct qcow2_frees){0};
	q->commits_started++;
	q->commit_running = true;
	return 0;
}

/* --- writing --- */

static int compare_pieces(const void *a, const void *b)
{
	const struct piece *x = a;
	const struct piece *y = b;

	return x->offset < y->offset ? -1 : x->offset > y->offset;
}

/* Neighbours in the file go in one write. */
static int batch_write(struct qcow2 *q, struct batch *b)
{
	struct iovec iov[MAX_WRITE_UNITS];
	int r = 0;

	if (b->n > 1)
		qsort(b->pieces, b->n, sizeof(*b->pieces), compare_pieces);
	for (size_t i = 0; r >= 0 && i < b->n;) {
		struct image_req req = {.op = IMAGE_WRITE,
					.offset = b->pieces[i].offset,
					.iov = iov};

		do {
			iov[req.n_iov++] = (struct iovec){b->pieces[i].data, q->unit};
			req.bytes += q->unit;
			i++;
		} while (i < b->n && req.n_iov < MAX_WRITE_UNITS &&
			 b->pieces[i].offset == req.offset + req.bytes);
		r = image_file_run(q->file, &req);
	}
	return r;
}

static int sync_files(struct qcow2 *q)
{
	int r = q->data != q->file ? image_file_sync(q->data) : 0;

	return r < 0 ? r : image_file_sync(q->file);
}

static int write_all(struct qcow2 *q, struct capture *c)
{
	int r = 0;

	/* A new refcount block must be there before the table says so. */
	if (c->reft.n > 0)
		r = image_file_sync(q->file);
	if (r >= 0)
		r = batch_write(q, &c->refs);
	if (r >= 0)
		r = batch_write(q, &c->reft);
	if (r >= 0 && c->links.n > 0)
		r = sync_files(q);
	if (r >= 0)
		r = batch_write(q, &c->links);
	return r < 0 ? r : sync_files(q);
}

/* --- afterwards --- */

static void batch_done_locked(struct qcow2 *q, struct batch *b, bool good)
{
	for (size_t i = 0; i < b->n; i++) {
		struct qcow2_block *block = b->pieces[i].block;

		if (!block)
			continue;
		block->writing = false;
		if (!good)
			qcow2_block_dirty_locked(q, block);
	}
}

static void table_redo_locked(struct qcow2 *q, struct qcow2_table *t, const struct batch *b)
{
	for (size_t i = 0; i < b->n; i++) {
		uint64_t at = b->pieces[i].offset - t->offset;

		if (b->pieces[i].block || b->pieces[i].offset < t->offset || at / 8 >= t->n)
			continue;
		if (!t->dirty[at >> q->unit_bits])
			t->n_dirty++;
		t->dirty[at >> q->unit_bits] = 1;
	}
}

static void finish_locked(struct qcow2 *q, struct capture *c, int result)
{
	batch_done_locked(q, &c->refs, result >= 0);
	batch_done_locked(q, &c->links, result >= 0);
	if (result < 0) {
		table_redo_locked(q, &q->reft, &c->reft);
		table_redo_locked(q, &q->l1, &c->links);
		qcow2_frees_move(&c->dropped, &q->dropped);
	} else {
		qcow2_frees_move(&c->dropped, &q->limbo);
	}
	q->commit_running = false;
	q->commits_done = q->commits_started;
	q->commit_result = result;
}

int qcow2_commit(struct qcow2 *q)
{
	struct capture c = {0};
	int r;

	pthread_mutex_lock(&q->lock);
	r = capture_locked(q, &c);
	pthread_mutex_unlock(&q->lock);
	if (r >= 0) {
		r = write_all(q, &c);
		pthread_mutex_lock(&q->lock);
		finish_locked(q, &c, r);
		pthread_mutex_unlock(&q->lock);
	}
	batch_fini(&c.refs);
	batch_fini(&c.reft);
	batch_fini(&c.links);
	return r < 0 ? r : qcow2_limbo_free(q);
}
