/*
 * Refcounts (section "Host cluster management"): reading, changing, finding free clusters, and making the tables longer.
 *
 * Runs on the worker, or offline; blocking. A new block's first contents are written at once, since the entry that points to it
 * goes to the disk in a commit, after a flush.
 */
#include <errno.h>
#include <stdlib.h>

#include "base/bits.h"
#include "base/cleanup.h"
#include "image/qcow2/qcow2_int.h"

uint64_t qcow2_ref_get_entry(const uint8_t *block, unsigned order, uint64_t index)
{
	uint64_t at = (index << order) >> 3;
	unsigned shift;
	be16 v16;

	switch (order) {
	case 3:
		return block[at];
	case 4:
		memcpy(&v16, block + at, 2);
		return be16_get(v16);
	case 5:
		return qcow2_get32(block + at);
	case 6:
		return qcow2_get64(block + at);
	}
	shift = (unsigned)((index << order) & 7);
	return block[at] >> shift & ((1u << (1u << order)) - 1);
}

void qcow2_ref_set_entry(uint8_t *block, unsigned order, uint64_t index, uint64_t value)
{
	uint64_t at = (index << order) >> 3;
	unsigned shift;
	unsigned mask;
	be16 v16 = be16_of((uint16_t)value);

	switch (order) {
	case 3:
		block[at] = (uint8_t)value;
		return;
	case 4:
		memcpy(block + at, &v16, 2);
		return;
	case 5:
		qcow2_put32(block + at, (uint32_t)value);
		return;
	case 6:
		qcow2_put64(block + at, value);
		return;
	}
	shift = (unsigned)((index << order) & 7);
	mask = ((1u << (1u << order)) - 1) << shift;
	block[at] = (uint8_t)((block[at] & ~mask) | ((unsigned)value << shift & mask));
}

/* --- places --- */

/* Clusters whose refcounts are in one unit. */
static uint64_t per_unit(const struct qcow2 *q)
{
	return ((uint64_t)q->unit * 8) >> q->h.refcount_order;
}

static uint64_t index_in_unit(const struct qcow2 *q, uint64_t cluster)
{
	return cluster & (per_unit(q) - 1);
}

/* Where the unit with a cluster's refcount is; 0: there is no block. Damage is -EIO. */
static int unit_of(struct qcow2 *q, uint64_t cluster, uint64_t *ret)
{
	uint64_t index = cluster >> q->ref_bits;
	uint64_t in_block = cluster & (BIT(q->ref_bits) - 1);
	uint64_t entry;

	LOCK_GUARD(&q->lock);
	*ret = 0;
	if (index >= q->reft.n)
		return 0;
	entry = q->reft.entries[index];
	if (entry == 0)
		return 0;
	if (qcow2_in_cluster(q, entry) || entry >= q->file_end)
		return qcow2_damage_locked(q, "refcount table entry %llu is %#llx",
					   (unsigned long long)index, (unsigned long long)entry);
	*ret = entry + align_down((in_block << q->h.refcount_order) >> 3, q->unit);
	return 0;
}

int qcow2_ref_read(struct qcow2 *q, uint64_t cluster, uint64_t *ret)
{
	struct qcow2_block *b;
	uint64_t offset;
	int r = unit_of(q, cluster, &offset);

	if (r < 0)
		return r;
	if (offset == 0) {
		*ret = 0;
		return 0;
	}
	r = qcow2_block_hold(q, offset, QCOW2_BLOCK_REF, &b);
	if (r < 0)
		return r;
	*ret = qcow2_ref_get_entry(b->data, q->h.refcount_order, index_in_unit(q, cluster));
	pthread_mutex_unlock(&q->lock);
	return 0;
}

/* --- new blocks and a longer table --- */

static int write_first_block(struct qcow2 *q, uint64_t offset, uint64_t used)
{
	_cleanup_free_ uint8_t *block = calloc(1, q->cluster_bytes);
	int r;

	if (!block)
		return -ENOMEM;
	for (uint64_t i = 0; i < used; i++)
		qcow2_ref_set_entry(block, q->h.refcount_order, i, 1);
	r = image_file_pwrite(q->file, block, q->cluster_bytes, offset);
	return r;
}

static int extend_file(struct qcow2 *q, uint64_t end)
{
	uint64_t length;
	int r;

	if (end <= q->file_end)
		return 0;
	if (end > BIT(56))
		return -EFBIG;
	r = image_file_length(q->file, &length);
	if (r < 0)
		return r;
	if (end > length) {
		if (q->file->is_block)
			return -ENOSPC;
		r = image_file_truncate(q->file, end);
		if (r < 0)
			return r;
	}
	pthread_mutex_lock(&q->lock);
	q->file_end = MAX(q->file_end, end);
	pthread_mutex_unlock(&q->lock);
	return 0;
}

/* Sets the refcounts of a range to one in blocks that are on disk but in no table yet. */
static int write_blocks_for(struct qcow2 *q, uint64_t first_block, uint64_t n_blocks, uint64_t used)
{
	for (uint64_t i = 0; i < n_blocks; i++) {
		uint64_t per = BIT(q->ref_bits);
		uint64_t here = used > i * per ? MIN(used - i * per, per) : 0;
		int r = write_first_block(q, (first_block + i) << q->cluster_bits, here);

		if (r < 0)
			return r;
	}
	return 0;
}

static int reft_switch(struct qcow2 *q, struct qcow2_table *t, uint64_t clusters)
{
	struct qcow2_header h = q->h;
	uint64_t old_offset = q->reft.offset;
	uint64_t old_clusters = q->h.reft_clusters;
	int r;

	h.reft_offset = t->offset;
	h.reft_clusters = (uint32_t)clusters;
	r = qcow2_header_write(q, &h);
	if (r < 0)
		return r;
	pthread_mutex_lock(&q->lock);
	qcow2_table_fini(&q->reft);
	q->reft = *t;
	qcow2_drop_locked(q, old_offset >> q->cluster_bits, old_clusters);
	pthread_mutex_unlock(&q->lock);
	return 0;
}

/* Every cluster that the table can count has a block or could have one, and more are needed: a table of about twice the size
 * behind all of them, with the blocks that count it and themselves. What is in memory of the old one is committed first. */
static int reft_grow(struct qcow2 *q)
{
	uint64_t first = (uint64_t)q->reft.n << q->ref_bits;
	uint64_t clusters = (uint64_t)q->h.reft_clusters * 2;
	uint64_t n = clusters << q->cluster_bits >> 3;
	uint64_t blocks = 1;
	struct qcow2_table t = {0};
	int r;

	if (clusters << q->cluster_bits > QCOW2_MAX_REFT_BYTES)
		return -EFBIG;
	while (blocks << q->ref_bits < blocks + clusters)
		blocks++;
	r = extend_file(q, (first + blocks + clusters) << q->cluster_bits);
	if (r >= 0)
		r = qcow2_commit(q);
	if (r >= 0)
		r = write_blocks_for(q, first, blocks, blocks + clusters);
	if (r < 0)
		return r;
	t.offset = (first + blocks) << q->cluster_bits;
	t.n = (uint32_t)n;
	t.entries = calloc(n, sizeof(*t.entries));
	t.dirty = calloc(1, (n * 8 >> q->unit_bits) + 1);
	r = t.entries && t.dirty ? 0 : -ENOMEM;
	if (r >= 0) {
		memcpy(t.entries, q->reft.entries, (size_t)q->reft.n * sizeof(*t.entries));
		for (uint64_t i = 0; i < blocks; i++)
			t.entries[q->reft.n + i] = (first + i) << q->cluster_bits;
		r = qcow2_table_write(q, t.entries, t.n, t.offset);
	}
	if (r >= 0)
		r = image_file_sync(q->file);
	if (r >= 0)
		r = reft_switch(q, &t, clusters);
	if (r < 0) {
		qcow2_table_fini(&t);
		return r;
	}
	pthread_mutex_lock(&q->lock);
	for (uint64_t i = 0; i < blocks; i++)
		qcow2_meta_add_locked(q, first + i);
	q->high_water = MAX(q->high_water, first + blocks + clusters);
	pthread_mutex_unlock(&q->lock);
	return 0;
}

/* A block for the refcounts around `cluster`, at the first cluster that it counts, where nothing is as long as there is none. */
static int block_make(struct qcow2 *q, uint64_t cluster)
{
	uint64_t index = cluster >> q->ref_bits;
	uint64_t at;
	int r = 0;

	while (r >= 0 && index >= q->reft.n)
		r = reft_grow(q);
	if (r < 0)
		return r;
	at = index << q->ref_bits;
	if (q->reft.entries[index] != 0)
		return 0; /* made with the longer table */
	if (at == 0)
		return -EIO; /* the header would be there */
	r = extend_file(q, (at + 1) << q->cluster_bits);
	if (r >= 0)
		r = write_first_block(q, at << q->cluster_bits, 1);
	if (r < 0)
		return r;
	pthread_mutex_lock(&q->lock);
	qcow2_table_set_locked(q, &q->reft, (uint32_t)index, at << q->cluster_bits);
	r = qcow2_meta_add_locked(q, at);
	q->high_water = MAX(q->high_water, at + 1);
	pthread_mutex_unlock(&q->lock);
	return r;
}

/* --- changing --- */

static int hold_unit(struct qcow2 *q, uint64_t cluster, bool make, struct qcow2_block **ret)
{
	uint64_t offset;
	int r = unit_of(q, cluster, &offset);

	if (r >= 0 && offset == 0 && make) {
		r = block_make(q, cluster);
		if (r >= 0)
			r = unit_of(q, cluster, &offset);
	}
	if (r < 0)
		return r;
	return offset == 0 ? -ENOENT : qcow2_block_hold(q, offset, QCOW2_BLOCK_REF, ret);
}

static int change_locked(struct qcow2 *q, struct qcow2_block *b, uint64_t cluster, int delta)
{
	uint64_t index = index_in_unit(q, cluster);
	uint64_t count = qcow2_ref_get_entry(b->data, q->h.refcount_order, index);

	if (delta > 0 && count == q->refcount_max)
		return -ERANGE;
	if (delta < 0 && count == 0)
		return qcow2_damage_locked(q, "cluster %llu is in use, and its refcount is 0",
					   (unsigned long long)cluster);
	qcow2_ref_set_entry(b->data, q->h.refcount_order, index, delta > 0 ? count + 1 : count - 1);
	qcow2_block_dirty_locked(q, b);
	if (delta < 0 && count == 1)
		q->free_hint = MIN(q->free_hint, cluster);
	return 0;
}

int qcow2_ref_change(struct qcow2 *q, uint64_t cluster, uint64_t count, int delta)
{
	while (count > 0) {
		uint64_t here = MIN(per_unit(q) - index_in_unit(q, cluster), count);
		struct qcow2_block *b;
		int r = hold_unit(q, cluster, delta > 0, &b);

		if (r == -ENOENT) {
			LOCK_GUARD(&q->lock);
			return qcow2_damage_locked(q, "cluster %llu is in use without a refcount",
						   (unsigned long long)cluster);
		}
		if (r < 0)
			return r;
		for (uint64_t i = 0; r >= 0 && i < here; i++)
			r = change_locked(q, b, cluster + i, delta);
		pthread_mutex_unlock(&q->lock);
		if (r < 0)
			return r;
		cluster += here;
		count -= here;
	}
	return 0;
}

/* --- finding free ones --- */

/* Extends *run by the free clusters at its end that are in one unit. Lock held. */
static void take_from_unit_locked(struct qcow2 *q, struct qcow2_block *b, uint64_t cluster,
				  uint64_t want, struct qcow2_run *run)
{
	uint64_t end = cluster - index_in_unit(q, cluster) + per_unit(q);

	for (; cluster < end && run->count < want; cluster++) {
		uint64_t index = index_in_unit(q, cluster);

		if (qcow2_ref_get_entry(b->data, q->h.refcount_order, index) != 0) {
			if (run->count)
				return;
			continue;
		}
		if (run->count == 0)
			run->cluster = cluster;
		run->count++;
		qcow2_ref_set_entry(b->data, q->h.refcount_order, index, 1);
		qcow2_block_dirty_locked(q, b);
	}
}

static uint64_t clusters_end(const struct qcow2 *q)
{
	return q->file->is_block ? q->file->size_bytes >> q->cluster_bits
				 : BIT(56 - q->cluster_bits);
}

int qcow2_ref_take(struct qcow2 *q, uint64_t from, uint64_t want, struct qcow2_run *ret)
{
	struct qcow2_run run = {0};
	uint64_t at = from;
	int r;

	want = MIN(want, 1ULL << 20);
	while (run.count < want) {
		struct qcow2_block *b;

		if (run.count && at != run.cluster + run.count)
			break;
		if (at >= clusters_end(q)) {
			if (run.count)
				break;
			return -ENOSPC;
		}
		r = hold_unit(q, at, true, &b);
		if (r < 0) {
			if (run.count)
				break;
			return r;
		}
		take_from_unit_locked(q, b, at, MIN(want, run.count + clusters_end(q) - at), &run);
		pthread_mutex_unlock(&q->lock);
		at = align_down(at, per_unit(q)) + per_unit(q);
	}
	r = extend_file(q, (run.cluster + run.count) << q->cluster_bits);
	if (r < 0) {
		qcow2_ref_change(q, run.cluster, run.count, -1);
		return r;
	}
	pthread_mutex_lock(&q->lock);
	run.fresh = run.cluster >= q->high_water;
	q->high_water = MAX(q->high_water, run.cluster + run.count);
	pthread_mutex_unlock(&q->lock);
	*ret = run;
	return 0;
}

int qcow2_ref_take_exact(struct qcow2 *q, uint64_t count, uint64_t *ret_cluster)
{
	uint64_t from = q->free_hint;
	struct qcow2_run run;
	int r;

	for (;;) {
		r = qcow2_ref_take(q, from, count, &run);
		if (r < 0)
			return r;
		if (run.count == count)
			break;
		from = run.cluster + run.count;
		r = qcow2_ref_change(q, run.cluster, run.count, -1);
		if (r < 0)
			return r;
	}
	*ret_cluster = run.cluster;
	return 0;
}
