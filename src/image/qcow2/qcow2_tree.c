/*
 * Walks over all that an L1 table reaches. Offline, blocking. Changes are in memory until a commit, which comes by itself when
 * they get too many.
 */
#include "image/qcow2/qcow2_tree.h"

#include <errno.h>
#include <stdlib.h>

#include "base/bits.h"
#include "base/cleanup.h"

int qcow2_tree_room(struct qcow2 *q)
{
	bool full;

	pthread_mutex_lock(&q->lock);
	full = qcow2_cache_full_locked(q);
	pthread_mutex_unlock(&q->lock);
	return full ? qcow2_commit(q) : 0;
}

static int bad_entry(struct qcow2 *q, uint64_t entry)
{
	LOCK_GUARD(&q->lock);
	return qcow2_damage_locked(q, "a table entry is %#llx", (unsigned long long)entry);
}

/* The clusters that an L2 entry points to; *ret_n 0: none. */
static int entry_clusters(struct qcow2 *q, uint64_t entry, uint64_t *ret_first, uint64_t *ret_n)
{
	uint64_t host = entry & QCOW2_OFFSET_MASK;
	uint64_t bytes = 1;

	*ret_n = 0;
	if (entry & QCOW2_ENTRY_COMPRESSED)
		qcow2_entry_compressed(q, entry, &host, &bytes);
	else if (host == 0)
		return 0;
	else if (qcow2_in_cluster(q, host))
		return bad_entry(q, entry);
	if (!range_inside(host, bytes, q->file_end))
		return bad_entry(q, entry);
	*ret_first = qcow2_cluster_of(q, host);
	*ret_n = qcow2_cluster_of(q, host + bytes - 1) - *ret_first + 1;
	return 0;
}

static int table_of(struct qcow2 *q, uint64_t entry, uint64_t *ret)
{
	*ret = entry & QCOW2_OFFSET_MASK;
	if ((entry & QCOW2_L1_RESERVED) || qcow2_in_cluster(q, *ret) || *ret >= q->file_end)
		return bad_entry(q, entry);
	return 0;
}

/* --- refcounts --- */

/* packed: some of their references may be by several entries of one tree. */
typedef int (*range_fn)(struct qcow2 *q, uint64_t first, uint64_t n, bool packed);

/* The clusters of one unit of an L2 table; neighbours together. */
static int unit_ref(struct qcow2 *q, uint64_t offset, range_fn fn)
{
	uint8_t copy[4096];
	struct qcow2_block *b;
	uint64_t from = 0;
	uint64_t count = 0;
	bool packed = false;
	int r = qcow2_block_hold(q, offset, QCOW2_BLOCK_L2, &b);

	if (r < 0)
		return r;
	memcpy(copy, b->data, q->unit);
	pthread_mutex_unlock(&q->lock);
	for (uint32_t at = 0; r >= 0 && at < q->unit; at += 1u << q->entry_bits) {
		uint64_t entry = qcow2_get64(copy + at);
		uint64_t first;
		uint64_t n;

		r = entry_clusters(q, entry, &first, &n);
		if (r < 0 || n == 0)
			continue;
		if (count && first == from + count && !packed &&
		    !(entry & QCOW2_ENTRY_COMPRESSED)) {
			count += n;
			continue;
		}
		if (count)
			r = fn(q, from, count, packed);
		from = first;
		count = n;
		packed = (entry & QCOW2_ENTRY_COMPRESSED) != 0;
	}
	return r >= 0 && count ? fn(q, from, count, packed) : r;
}

static int tree_walk(struct qcow2 *q, const uint64_t *l1, uint32_t n, range_fn fn)
{
	int r = 0;

	for (uint32_t i = 0; r >= 0 && i < n; i++) {
		uint64_t table;

		r = table_of(q, l1[i], &table);
		if (r < 0 || table == 0)
			continue;
		for (uint64_t at = 0; r >= 0 && at < q->cluster_bytes; at += q->unit) {
			r = unit_ref(q, table + at, fn);
			if (r >= 0)
				r = qcow2_tree_room(q);
		}
		if (r >= 0)
			r = fn(q, table >> q->cluster_bits, 1, false);
	}
	return r;
}

static int ref_check(struct qcow2 *q, uint64_t first, uint64_t n, bool packed)
{
	/* No more references can be added than there are. */
	uint64_t most = packed ? q->refcount_max / 2 : q->refcount_max - 1;

	for (uint64_t i = 0; i < n; i++) {
		uint64_t count;
		int r = qcow2_ref_read(q, first + i, &count);

		if (r < 0)
			return r;
		if (count > most)
			return -ERANGE;
	}
	return 0;
}

static int ref_up(struct qcow2 *q, uint64_t first, uint64_t n, bool packed)
{
	(void)packed;
	return qcow2_ref_change(q, first, n, 1);
}

static int ref_down(struct qcow2 *q, uint64_t first, uint64_t n, bool packed)
{
	(void)packed;
	return qcow2_ref_change(q, first, n, -1);
}

int qcow2_tree_ref_check(struct qcow2 *q, const uint64_t *l1, uint32_t n)
{
	return tree_walk(q, l1, n, ref_check);
}

int qcow2_tree_ref(struct qcow2 *q, const uint64_t *l1, uint32_t n, int delta)
{
	return tree_walk(q, l1, n, delta > 0 ? ref_up : ref_down);
}

/* --- flags --- */

static int unit_share(struct qcow2 *q, uint64_t offset)
{
	struct qcow2_block *b;
	int r = qcow2_block_hold(q, offset, QCOW2_BLOCK_L2, &b);

	if (r < 0)
		return r;
	for (uint32_t at = 0; at < q->unit; at += 1u << q->entry_bits) {
		uint64_t entry = qcow2_get64(b->data + at);

		if (!(entry & QCOW2_ENTRY_MINE))
			continue;
		qcow2_put64(b->data + at, entry & ~QCOW2_ENTRY_MINE);
		qcow2_block_dirty_locked(q, b);
	}
	pthread_mutex_unlock(&q->lock);
	return qcow2_tree_room(q);
}

int qcow2_tree_share(struct qcow2 *q, const uint64_t *l1, uint32_t n)
{
	int r = 0;

	for (uint32_t i = 0; r >= 0 && i < n; i++) {
		uint64_t table;

		r = table_of(q, l1[i], &table);
		if (r < 0 || table == 0)
			continue;
		for (uint64_t at = 0; r >= 0 && at < q->cluster_bytes; at += q->unit)
			r = unit_share(q, table + at);
		if (r >= 0 && l1 == q->l1.entries && (l1[i] & QCOW2_ENTRY_MINE)) {
			LOCK_GUARD(&q->lock);
			qcow2_table_set_locked(q, &q->l1, i, table);
		}
	}
	return r;
}

/* One entry of a held copy: does its flag change? */
static int owned(struct qcow2 *q, uint64_t entry, bool *ret)
{
	uint64_t host = entry & QCOW2_OFFSET_MASK;
	uint64_t count = 0;
	int r = 0;

	*ret = false;
	if ((entry & QCOW2_ENTRY_COMPRESSED) || host == 0 || qcow2_in_cluster(q, host))
		return 0;
	r = qcow2_ref_read(q, host >> q->cluster_bits, &count);
	*ret = count == 1;
	return r;
}

static int unit_own(struct qcow2 *q, uint64_t offset)
{
	uint8_t copy[4096];
	bool any = false;
	struct qcow2_block *b;
	int r = qcow2_block_hold(q, offset, QCOW2_BLOCK_L2, &b);

	if (r < 0)
		return r;
	memcpy(copy, b->data, q->unit);
	pthread_mutex_unlock(&q->lock);
	for (uint32_t at = 0; r >= 0 && at < q->unit; at += 1u << q->entry_bits) {
		uint64_t entry = qcow2_get64(copy + at);
		bool mine;

		if (entry & QCOW2_ENTRY_MINE)
			continue;
		r = owned(q, entry, &mine);
		if (r < 0 || !mine)
			continue;
		qcow2_put64(copy + at, entry | QCOW2_ENTRY_MINE);
		any = true;
	}
	if (r < 0 || !any)
		return r;
	r = qcow2_block_hold(q, offset, QCOW2_BLOCK_L2, &b);
	if (r < 0)
		return r;
	memcpy(b->data, copy, q->unit);
	qcow2_block_dirty_locked(q, b);
	pthread_mutex_unlock(&q->lock);
	return qcow2_tree_room(q);
}

int qcow2_tree_own(struct qcow2 *q)
{
	int r = 0;

	for (uint32_t i = 0; r >= 0 && i < q->l1.n; i++) {
		uint64_t table;
		uint64_t count = 0;

		r = table_of(q, q->l1.entries[i], &table);
		if (r >= 0 && table != 0)
			r = qcow2_ref_read(q, table >> q->cluster_bits, &count);
		if (r < 0 || table == 0 || count != 1)
			continue;
		for (uint64_t at = 0; r >= 0 && at < q->cluster_bytes; at += q->unit)
			r = unit_own(q, table + at);
		if (r >= 0 && !(q->l1.entries[i] & QCOW2_ENTRY_MINE)) {
			LOCK_GUARD(&q->lock);
			qcow2_table_set_locked(q, &q->l1, i, table | QCOW2_ENTRY_MINE);
		}
	}
	return r;
}
