/*
 * Pieces of L2 tables and refcount blocks in memory. At most max_blocks of them, but that changed ones stay until a commit has
 * written them; who changes asks qcow2_cache_full_locked() first, so that these are no more than half.
 */
#include <errno.h>
#include <stdlib.h>

#include "base/bits.h"
#include "base/cleanup.h"
#include "image/qcow2/qcow2_int.h"

static struct qcow2_block **bucket_of(struct qcow2 *q, uint64_t offset)
{
	uint64_t key = (offset >> q->unit_bits) * 0x9e3779b97f4a7c15ULL;

	return &q->hash[key >> 54];
}

static void lru_take(struct qcow2 *q, struct qcow2_block *b)
{
	*(b->newer ? &b->newer->older : &q->newest) = b->older;
	*(b->older ? &b->older->newer : &q->oldest) = b->newer;
}

static void lru_put(struct qcow2 *q, struct qcow2_block *b)
{
	b->newer = NULL;
	b->older = q->newest;
	*(q->newest ? &q->newest->newer : &q->oldest) = b;
	q->newest = b;
}

static struct qcow2_block *lookup(struct qcow2 *q, uint64_t offset)
{
	struct qcow2_block *b = *bucket_of(q, offset);

	while (b && b->offset != offset)
		b = b->hash_next;
	return b;
}

struct qcow2_block *qcow2_block_find_locked(struct qcow2 *q, uint64_t offset)
{
	struct qcow2_block *b = lookup(q, offset);

	if (!b || b->loading)
		return NULL;
	if (q->newest != b) {
		lru_take(q, b);
		lru_put(q, b);
	}
	return b;
}

static void block_remove(struct qcow2 *q, struct qcow2_block *b)
{
	struct qcow2_block **p = bucket_of(q, b->offset);

	while (*p != b)
		p = &(*p)->hash_next;
	*p = b->hash_next;
	lru_take(q, b);
	q->n_blocks--;
	if (b->dirty)
		q->n_dirty[b->kind]--;
	free(b->data);
	free(b);
}

static void evict(struct qcow2 *q)
{
	struct qcow2_block *b = q->oldest;

	while (b && q->n_blocks >= q->max_blocks) {
		struct qcow2_block *newer = b->newer;

		if (!b->loading && !b->dirty && !b->writing && b->pins == 0)
			block_remove(q, b);
		b = newer;
	}
}

static struct qcow2_block *block_add(struct qcow2 *q, uint64_t offset, enum qcow2_block_kind kind)
{
	struct qcow2_block *b;
	void *data = NULL;

	evict(q);
	b = calloc(1, sizeof(*b));
	if (!b || posix_memalign(&data, MAX(q->unit, 512u), q->unit) != 0) {
		free(b);
		return NULL;
	}
	b->offset = offset;
	b->kind = kind;
	b->data = data;
	b->hash_next = *bucket_of(q, offset);
	*bucket_of(q, offset) = b;
	lru_put(q, b);
	q->n_blocks++;
	return b;
}

int qcow2_block_hold(struct qcow2 *q, uint64_t offset, enum qcow2_block_kind kind,
		     struct qcow2_block **ret)
{
	struct qcow2_block *b;
	int r;

	pthread_mutex_lock(&q->lock);
	while ((b = lookup(q, offset)) && b->loading)
		pthread_cond_wait(&q->loaded, &q->lock);
	if (b) {
		*ret = qcow2_block_find_locked(q, offset);
		if ((*ret)->kind == kind)
			return 0;
		r = qcow2_damage_locked(q, "a refcount block and an L2 table are both at %llu",
					(unsigned long long)offset);
		pthread_mutex_unlock(&q->lock);
		return r;
	}
	b = block_add(q, offset, kind);
	if (!b) {
		pthread_mutex_unlock(&q->lock);
		return -ENOMEM;
	}
	b->loading = true;
	pthread_mutex_unlock(&q->lock);
	r = image_file_pread(q->file, b->data, q->unit, offset);
	pthread_mutex_lock(&q->lock);
	b->loading = false;
	pthread_cond_broadcast(&q->loaded);
	if (r < 0) {
		block_remove(q, b);
		pthread_mutex_unlock(&q->lock);
		return r;
	}
	*ret = b;
	return 0;
}

int qcow2_block_load(struct qcow2 *q, uint64_t offset, enum qcow2_block_kind kind)
{
	struct qcow2_block *b;
	int r = qcow2_block_hold(q, offset, kind, &b);

	if (r >= 0)
		pthread_mutex_unlock(&q->lock);
	return r;
}

void qcow2_block_dirty_locked(struct qcow2 *q, struct qcow2_block *b)
{
	if (b->dirty)
		return;
	b->dirty = true;
	q->n_dirty[b->kind]++;
}

bool qcow2_cache_full_locked(const struct qcow2 *q)
{
	return q->n_dirty[QCOW2_BLOCK_REF] + q->n_dirty[QCOW2_BLOCK_L2] >= q->max_blocks / 2;
}

void qcow2_cache_drop(struct qcow2 *q, uint64_t offset, uint64_t bytes)
{
	LOCK_GUARD(&q->lock);
	for (uint64_t at = offset; at < offset + bytes; at += q->unit) {
		struct qcow2_block *b = lookup(q, at);

		if (b)
			block_remove(q, b);
	}
}

void qcow2_cache_free(struct qcow2 *q)
{
	while (q->oldest)
		block_remove(q, q->oldest);
}
