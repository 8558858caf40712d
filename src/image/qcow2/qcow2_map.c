/*
 * From guest offsets to what is there (sections "Cluster mapping", "Extended L2 Entries"), and making L2 tables that may be
 * changed. Entries are checked each time they are used: a hostile image is found out when it is read, and that request fails.
 */
#include <errno.h>
#include <stdlib.h>

#include "base/bits.h"
#include "base/cleanup.h"
#include "image/qcow2/qcow2_int.h"

/* --- where an entry is --- */

static uint64_t l1_index_of(const struct qcow2 *q, uint64_t guest)
{
	return guest >> (q->cluster_bits + q->l2_bits);
}

static uint64_t l2_index_of(const struct qcow2 *q, uint64_t guest)
{
	return guest >> q->cluster_bits & (BIT(q->l2_bits) - 1);
}

uint64_t qcow2_block_span(const struct qcow2 *q, uint64_t guest)
{
	uint64_t span = (uint64_t)(q->unit >> q->entry_bits) << q->cluster_bits;

	return span - (guest & (span - 1));
}

static uint8_t *entry_at(const struct qcow2 *q, const struct qcow2_block *b, uint64_t guest)
{
	return b->data + ((l2_index_of(q, guest) << q->entry_bits) & (q->unit - 1));
}

uint64_t qcow2_entry_get(const struct qcow2 *q, const struct qcow2_block *b, uint64_t guest,
			 uint64_t *ret_bitmap)
{
	const uint8_t *p = entry_at(q, b, guest);

	*ret_bitmap = q->ext_l2 ? qcow2_get64(p + 8) : 0;
	return qcow2_get64(p);
}

void qcow2_entry_set_locked(struct qcow2 *q, struct qcow2_block *b, uint64_t guest, uint64_t entry,
			    uint64_t bitmap)
{
	uint8_t *p = entry_at(q, b, guest);

	qcow2_put64(p, entry);
	if (q->ext_l2)
		qcow2_put64(p + 8, bitmap);
	qcow2_block_dirty_locked(q, b);
}

/* 0 and *ret_offset 0: no table. */
static int l2_table_locked(struct qcow2 *q, uint64_t guest, uint64_t *ret_offset, bool *ret_mine)
{
	uint64_t index = l1_index_of(q, guest);
	uint64_t entry;

	*ret_offset = 0;
	*ret_mine = false;
	if (index >= q->l1.n)
		return 0;
	entry = q->l1.entries[index];
	if ((entry & QCOW2_L1_RESERVED) || qcow2_in_cluster(q, entry & QCOW2_OFFSET_MASK) ||
	    (entry & QCOW2_OFFSET_MASK) >= q->file_end)
		return qcow2_damage_locked(q, "L1 entry %llu is %#llx", (unsigned long long)index,
					   (unsigned long long)entry);
	*ret_offset = entry & QCOW2_OFFSET_MASK;
	*ret_mine = (entry & QCOW2_ENTRY_MINE) != 0;
	return 0;
}

static uint64_t unit_in_table(const struct qcow2 *q, uint64_t guest)
{
	return align_down(l2_index_of(q, guest) << q->entry_bits, q->unit);
}

/* --- what an entry says --- */

void qcow2_entry_compressed(const struct qcow2 *q, uint64_t entry, uint64_t *ret_host,
			    uint64_t *ret_bytes)
{
	unsigned x = 62 - (q->cluster_bits - 8);
	uint64_t host = entry & (BIT(x) - 1);
	uint64_t sectors = (entry & (QCOW2_ENTRY_COMPRESSED - 1)) >> x;

	*ret_host = host;
	*ret_bytes = (sectors + 1) * 512 - (host & 511);
}

static int bad_entry(struct qcow2 *q, uint64_t guest, uint64_t entry)
{
	return qcow2_damage_locked(q, "the L2 entry of guest offset %#llx is %#llx",
				   (unsigned long long)guest, (unsigned long long)entry);
}

static int classify_compressed(struct qcow2 *q, uint64_t guest, uint64_t entry,
			       struct qcow2_map *ret)
{
	qcow2_entry_compressed(q, entry, &ret->host, &ret->comp_bytes);
	if (q->has_data_file || (entry & QCOW2_ENTRY_MINE) || ret->host == 0 ||
	    ret->host >= BIT(56) ||
	    !range_inside(ret->host, ret->comp_bytes, align_up(q->file_end, q->cluster_bytes)))
		return bad_entry(q, guest, entry);
	ret->kind = QCOW2_COMPRESSED;
	ret->mine = false;
	ret->bytes = q->cluster_bytes - qcow2_in_cluster(q, guest);
	return 0;
}

static int check_standard(struct qcow2 *q, uint64_t guest, uint64_t entry, uint64_t bitmap)
{
	uint64_t host = entry & QCOW2_OFFSET_MASK;

	if ((entry & QCOW2_STD_RESERVED) || qcow2_in_cluster(q, host) ||
	    (q->ext_l2 && (entry & QCOW2_ENTRY_ZERO)) ||
	    (uint32_t)bitmap & (uint32_t)(bitmap >> 32))
		return bad_entry(q, guest, entry);
	if (!q->has_data_file) {
		if (host >= q->file_end || (host == 0 && (entry & QCOW2_ENTRY_MINE)) ||
		    (host == 0 && (uint32_t)bitmap))
			return bad_entry(q, guest, entry);
	} else if (host != 0 && host != align_down(guest, q->cluster_bytes)) {
		return bad_entry(q, guest, entry);
	}
	return 0;
}

/* Of the one subcluster that guest is in. */
static int classify(struct qcow2 *q, uint64_t guest, uint64_t entry, uint64_t bitmap,
		    struct qcow2_map *ret)
{
	uint64_t host = entry & QCOW2_OFFSET_MASK;
	unsigned sub = (unsigned)(qcow2_in_cluster(q, guest) >> q->sub_bits);
	bool has_host = host != 0 || (q->has_data_file && (entry & QCOW2_ENTRY_MINE));
	bool zero = q->ext_l2 ? bitmap >> (sub + 32) & 1
			      : q->zero_flag && (entry & QCOW2_ENTRY_ZERO) != 0;
	int r;

	ret->entry = entry;
	if (entry & QCOW2_ENTRY_COMPRESSED)
		return classify_compressed(q, guest, entry, ret);
	r = check_standard(q, guest, entry, bitmap);
	if (r < 0)
		return r;
	ret->mine = has_host && (entry & QCOW2_ENTRY_MINE);
	ret->host = has_host ? host + qcow2_in_cluster(q, guest) : 0;
	ret->bytes = BIT(q->sub_bits) - (guest & (BIT(q->sub_bits) - 1));
	if (zero)
		ret->kind = QCOW2_ZERO;
	else if (has_host && (!q->ext_l2 || (bitmap >> sub & 1)))
		ret->kind = QCOW2_DATA;
	else
		ret->kind = QCOW2_NONE;
	return 0;
}

static bool goes_on(const struct qcow2_map *a, const struct qcow2_map *b)
{
	if (a->kind != b->kind || a->kind == QCOW2_COMPRESSED || a->mine != b->mine)
		return false;
	if (a->kind == QCOW2_NONE)
		return (a->host != 0) == (b->host != 0) || !a->mine;
	if (a->kind == QCOW2_ZERO && a->host == 0)
		return b->host == 0;
	return b->host == a->host + a->bytes;
}

int qcow2_map_locked(struct qcow2 *q, uint64_t guest, uint64_t bytes, struct qcow2_map *ret,
		     uint64_t *ret_load)
{
	uint64_t span = qcow2_block_span(q, guest);
	uint64_t table;
	uint64_t entry;
	uint64_t bitmap;
	struct qcow2_block *b;
	bool mine;
	int r = l2_table_locked(q, guest, &table, &mine);

	if (r < 0)
		return r;
	bytes = MIN(bytes, span);
	if (table == 0) {
		*ret = (struct qcow2_map){.kind = QCOW2_NONE, .bytes = bytes};
		return 0;
	}
	*ret_load = table + unit_in_table(q, guest);
	b = qcow2_block_find_locked(q, *ret_load);
	if (!b)
		return -EAGAIN;
	if (b->kind != QCOW2_BLOCK_L2)
		return qcow2_damage_locked(q, "an L2 table is at %#llx, as is a refcount block",
					   (unsigned long long)table);
	entry = qcow2_entry_get(q, b, guest, &bitmap);
	r = classify(q, guest, entry, bitmap, ret);
	while (r >= 0 && ret->bytes < bytes) {
		struct qcow2_map next = {0};

		entry = qcow2_entry_get(q, b, guest + ret->bytes, &bitmap);
		if (classify(q, guest + ret->bytes, entry, bitmap, &next) < 0 ||
		    !goes_on(ret, &next))
			break;
		ret->bytes += next.bytes;
	}
	ret->mine &= mine;
	ret->bytes = MIN(ret->bytes, bytes);
	return r;
}

int qcow2_l2_locked(struct qcow2 *q, uint64_t guest, struct qcow2_block **ret, uint64_t *ret_load)
{
	uint64_t table;
	bool mine;
	int r = l2_table_locked(q, guest, &table, &mine);

	if (r < 0)
		return r;
	if (table == 0 || !mine)
		return -ENOENT;
	*ret_load = table + unit_in_table(q, guest);
	*ret = qcow2_block_find_locked(q, *ret_load);
	if (*ret && (*ret)->kind != QCOW2_BLOCK_L2)
		return qcow2_damage_locked(q, "an L2 table is at %#llx, as is a refcount block",
					   (unsigned long long)table);
	return *ret ? 0 : -EAGAIN;
}

/* --- L2 tables of our own --- */

/* The first contents of a table at `to`: those of the one at `from`, or none. In the file only: they are committed with the L1
 * entry, after a flush. */
static int table_copy(struct qcow2 *q, uint64_t from, uint64_t to)
{
	_cleanup_free_ uint8_t *table = NULL;
	void *p = NULL;
	int r = 0;

	if (posix_memalign(&p, 4096, q->cluster_bytes) != 0)
		return -ENOMEM;
	table = p;
	memset(table, 0, q->cluster_bytes);
	for (uint64_t at = 0; from != 0 && at < q->cluster_bytes; at += q->unit) {
		struct qcow2_block *b;

		r = qcow2_block_hold(q, from + at, QCOW2_BLOCK_L2, &b);
		if (r < 0)
			return r;
		memcpy(table + at, b->data, q->unit);
		pthread_mutex_unlock(&q->lock);
	}
	return image_file_pwrite(q->file, table, q->cluster_bytes, to);
}

static int take_one(struct qcow2 *q, struct qcow2_run *ret)
{
	int r = qcow2_reserve_refill(q);

	if (r < 0)
		return r;
	pthread_mutex_lock(&q->lock);
	r = qcow2_alloc_locked(q, 1, ret) ? 0 : -EAGAIN;
	pthread_mutex_unlock(&q->lock);
	return r;
}

int qcow2_l2_make(struct qcow2 *q, uint64_t guest)
{
	uint64_t index = l1_index_of(q, guest);
	struct qcow2_run run = {0};
	uint64_t old;
	uint64_t at;
	bool mine;
	int r;

	if (index >= q->l1.n)
		return -EIO;
	pthread_mutex_lock(&q->lock);
	r = l2_table_locked(q, guest, &old, &mine);
	pthread_mutex_unlock(&q->lock);
	if (r < 0)
		return r;
	if (old != 0 && mine)
		return qcow2_block_load(q, old + unit_in_table(q, guest), QCOW2_BLOCK_L2);
	do
		r = take_one(q, &run);
	while (r == -EAGAIN);
	if (r < 0)
		return r;
	at = run.cluster << q->cluster_bits;
	/* What was cached of that place, when it was a table before, is no more. */
	qcow2_cache_drop(q, at, q->cluster_bytes);
	r = table_copy(q, old, at);
	pthread_mutex_lock(&q->lock);
	if (r >= 0)
		r = qcow2_meta_add_locked(q, run.cluster);
	if (r < 0) {
		qcow2_drop_locked(q, run.cluster, 1);
	} else {
		qcow2_table_set_locked(q, &q->l1, (uint32_t)index, at | QCOW2_ENTRY_MINE);
		if (old != 0)
			qcow2_drop_locked(q, old >> q->cluster_bits, 1);
	}
	pthread_mutex_unlock(&q->lock);
	return r < 0 ? r : qcow2_block_load(q, at + unit_in_table(q, guest), QCOW2_BLOCK_L2);
}

/* --- for those who only want to know --- */

int qcow2_node_map(struct image_node *node, uint64_t offset, uint64_t bytes,
		   struct image_extent *ret)
{
	struct qcow2 *q = qcow2_of(node);
	struct qcow2_map map = {0};
	struct qcow2_map next;
	uint64_t load = 0;
	int r;

	do {
		pthread_mutex_lock(&q->lock);
		r = qcow2_map_locked(q, offset, bytes, &map, &load);
		pthread_mutex_unlock(&q->lock);
		if (r == -EAGAIN && (r = qcow2_block_load(q, load, QCOW2_BLOCK_L2)) >= 0)
			r = -EAGAIN;
	} while (r == -EAGAIN);
	if (r < 0)
		return r;
	/* On through further blocks, as long as they are there and alike. */
	while (map.bytes < bytes) {
		next = (struct qcow2_map){0};
		pthread_mutex_lock(&q->lock);
		r = qcow2_map_locked(q, offset + map.bytes, bytes - map.bytes, &next, &load);
		pthread_mutex_unlock(&q->lock);
		if (r == -EAGAIN && qcow2_block_load(q, load, QCOW2_BLOCK_L2) >= 0)
			continue;
		if (r < 0 || !goes_on(&map, &next))
			break;
		map.bytes += next.bytes;
	}
	ret->bytes = map.bytes;
	ret->present = map.kind != QCOW2_NONE;
	ret->zero = map.kind == QCOW2_ZERO;
	ret->compressed = map.kind == QCOW2_COMPRESSED;
	ret->has_host = map.host != 0 && map.kind != QCOW2_COMPRESSED && map.kind != QCOW2_NONE;
	if (q->has_data_file && map.kind == QCOW2_DATA)
		ret->has_host = true;
	ret->host = map.host;
	return 0;
}
