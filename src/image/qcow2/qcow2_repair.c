/*
 * Repairs. Refcounts that are too low make every allocation dangerous: so the new tables are written behind everything that is in
 * use or may be, and take effect with the header.
 */
#include <errno.h>
#include <stdlib.h>

#include "base/bits.h"
#include "base/cleanup.h"
#include "image/qcow2/qcow2_check.h"

static int buffer(struct qcow2 *q, uint8_t **ret)
{
	void *p = NULL;

	if (posix_memalign(&p, 4096, MAX(q->cluster_bytes, 4096u)) != 0)
		return -ENOMEM;
	*ret = p;
	return 0;
}

int qcow2_repair_leaks(struct qcow2_check *c)
{
	struct qcow2 *q = c->q;
	uint64_t per = BIT(q->ref_bits);
	_cleanup_free_ uint8_t *buf = NULL;
	int r = buffer(q, &buf);

	for (uint32_t i = 0; r >= 0 && i < q->reft.n; i++) {
		bool any = false;

		if (!q->reft.entries[i])
			continue;
		r = image_file_pread(q->file, buf, q->cluster_bytes, q->reft.entries[i]);
		for (uint64_t k = 0; r >= 0 && k < per; k++) {
			uint64_t cluster = i * per + k;
			uint64_t refs = cluster < c->n_clusters ? c->refs[cluster] : 0;

			if (qcow2_ref_get_entry(buf, q->h.refcount_order, k) <= refs)
				continue;
			qcow2_ref_set_entry(buf, q->h.refcount_order, k, refs);
			any = true;
		}
		if (r >= 0 && any) {
			qcow2_cache_drop(q, q->reft.entries[i], q->cluster_bytes);
			r = image_file_pwrite(q->file, buf, q->cluster_bytes, q->reft.entries[i]);
		}
	}
	q->free_hint = 0;
	return r < 0 ? r : image_file_sync(q->file);
}

/* --- all refcounts anew --- */

struct rebuilt {
	uint64_t first, blocks, reft_clusters, end; /* clusters */
};

static int plan(struct qcow2_check *c, struct rebuilt *n)
{
	struct qcow2 *q = c->q;

	*n = (struct rebuilt){.first = c->n_clusters, .blocks = 1, .reft_clusters = 1};
	for (;;) {
		uint64_t blocks;
		uint64_t tables;

		n->end = n->first + n->blocks + n->reft_clusters;
		blocks = (n->end + BIT(q->ref_bits) - 1) >> q->ref_bits;
		tables = qcow2_clusters_for(q, blocks * 8);
		if (blocks <= n->blocks && tables <= n->reft_clusters)
			break;
		n->blocks = MAX(blocks, n->blocks);
		n->reft_clusters = MAX(tables, n->reft_clusters);
	}
	return n->reft_clusters << q->cluster_bits > QCOW2_MAX_REFT_BYTES ? -EFBIG : 0;
}

static int write_block(struct qcow2_check *c, const struct rebuilt *n, uint64_t index, uint8_t *buf)
{
	struct qcow2 *q = c->q;
	uint64_t per = BIT(q->ref_bits);

	memset(buf, 0, q->cluster_bytes);
	for (uint64_t k = 0; k < per; k++) {
		uint64_t cluster = index * per + k;
		uint64_t refs = 0;

		if (cluster < c->n_clusters)
			refs = c->refs[cluster];
		else if (cluster >= n->first && cluster < n->end)
			refs = 1;
		if (refs > q->refcount_max)
			return -ERANGE;
		if (refs)
			qcow2_ref_set_entry(buf, q->h.refcount_order, k, refs);
	}
	return image_file_pwrite(q->file, buf, q->cluster_bytes,
				 (n->first + index) << q->cluster_bits);
}

static int write_tables(struct qcow2_check *c, const struct rebuilt *n)
{
	struct qcow2 *q = c->q;
	_cleanup_free_ uint64_t *entries = calloc(n->blocks, sizeof(*entries));
	_cleanup_free_ uint8_t *buf = NULL;
	int r = entries ? buffer(q, &buf) : -ENOMEM;

	if (r >= 0)
		r = image_file_truncate(q->file, n->end << q->cluster_bits);
	for (uint64_t i = 0; r >= 0 && i < n->blocks; i++) {
		entries[i] = (n->first + i) << q->cluster_bits;
		r = write_block(c, n, i, buf);
	}
	for (uint64_t i = 0; r >= 0 && i < n->reft_clusters; i++) {
		uint64_t per = q->cluster_bytes / 8;
		uint64_t from = MIN(i * per, n->blocks);

		r = qcow2_table_write(q, entries + from, (uint32_t)MIN(per, n->blocks - from),
				      (n->first + n->blocks + i) << q->cluster_bits);
		if (n->blocks == from &&
		    r >= 0) { /* nothing in it, and still a cluster of zeroes */
			memset(buf, 0, q->cluster_bytes);
			r = image_file_pwrite(q->file, buf, q->cluster_bytes,
					      (n->first + n->blocks + i) << q->cluster_bits);
		}
	}
	return r;
}

int qcow2_repair_refcounts(struct qcow2_check *c)
{
	struct qcow2 *q = c->q;
	struct qcow2_header h = q->h;
	struct qcow2_table t = {0};
	struct rebuilt n;
	int r = plan(c, &n);

	/* The old ones are not in use any more. */
	if (r >= 0)
		qcow2_check_mark_reft(c, -1);
	if (r >= 0)
		r = write_tables(c, &n);
	h.reft_offset = (n.first + n.blocks) << q->cluster_bits;
	h.reft_clusters = (uint32_t)n.reft_clusters;
	h.incompat &= ~QCOW2_INCOMPAT_DIRTY;
	if (c->lost == 0)
		h.incompat &= ~QCOW2_INCOMPAT_CORRUPT;
	if (r >= 0)
		r = qcow2_header_write(q, &h);
	if (r >= 0)
		r = qcow2_table_read(q, &t, h.reft_offset,
				     (uint32_t)(n.reft_clusters << q->cluster_bits >> 3));
	if (r < 0)
		return r;
	qcow2_cache_free(q);
	qcow2_table_fini(&q->reft);
	q->reft = t;
	q->file_end = MAX(q->file_end, n.end << q->cluster_bits);
	q->high_water = MAX(q->high_water, n.end);
	q->free_hint = 0;
	return q->meta_size > 0 ? qcow2_meta_rebuild(q) : 0;
}

/* --- flags --- */

static bool fix_flag(struct qcow2_check *c, uint64_t *entry)
{
	struct qcow2 *q = c->q;
	uint64_t cluster = (*entry & QCOW2_OFFSET_MASK) >> q->cluster_bits;
	uint64_t old = *entry;

	if (cluster == 0 || cluster >= c->n_clusters ||
	    qcow2_in_cluster(q, *entry & QCOW2_OFFSET_MASK))
		return false;
	*entry &= ~QCOW2_ENTRY_MINE;
	if (c->refs[cluster] == 1)
		*entry |= QCOW2_ENTRY_MINE;
	return *entry != old;
}

static int fix_table(struct qcow2_check *c, uint64_t table, uint8_t *buf)
{
	struct qcow2 *q = c->q;
	bool any = false;
	int r = image_file_pread(q->file, buf, q->cluster_bytes, table);

	for (uint64_t k = 0; r >= 0 && k < BIT(q->l2_bits); k++) {
		uint64_t entry = qcow2_get64(buf + (k << q->entry_bits));

		if ((entry & QCOW2_ENTRY_COMPRESSED) || !fix_flag(c, &entry))
			continue;
		qcow2_put64(buf + (k << q->entry_bits), entry);
		any = true;
	}
	if (r < 0 || !any)
		return r;
	qcow2_cache_drop(q, table, q->cluster_bytes);
	return image_file_pwrite(q->file, buf, q->cluster_bytes, table);
}

int qcow2_repair_flags(struct qcow2_check *c)
{
	struct qcow2 *q = c->q;
	_cleanup_free_ uint8_t *buf = NULL;
	bool any = false;
	int r = buffer(q, &buf);

	for (uint32_t i = 0; r >= 0 && i < q->l1.n; i++) {
		uint64_t table = q->l1.entries[i] & QCOW2_OFFSET_MASK;

		if (!table || qcow2_in_cluster(q, table) ||
		    table >> q->cluster_bits >= c->n_clusters)
			continue;
		r = fix_table(c, table, buf);
		any |= fix_flag(c, &q->l1.entries[i]);
	}
	if (r >= 0 && any)
		r = qcow2_table_write(q, q->l1.entries, q->l1.n, q->l1.offset);
	if (r >= 0)
		c->result->stale_flags = 0;
	return r < 0 ? r : image_file_sync(q->file);
}
