/*
 * The check: counts what points to each cluster, from the header, tables, snapshots and bitmaps, and compares with the refcounts.
 * A refcount that is too low, a pointer that cannot be, and a wrong claim to be alone are corruptions; one that is too high is
 * lost space (a leak).
 *
 * Offline, main thread, blocking. Reads tables from the file, a cluster at a time.
 */
#include "image/qcow2/qcow2_check.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/bits.h"
#include "base/cleanup.h"
#include "image/qcow2/qcow2_snapshot.h"

#define MAX_REPORTS  1000u
#define MAX_CLUSTERS (1ULL << 33)
#define ENTRY_FIXED  24u /* of a bitmap directory entry */

void qcow2_check_report(struct qcow2_check *c, bool corruption, const char *fmt, ...)
{
	char text[256];
	va_list args;

	if (corruption)
		c->result->corruptions++;
	else
		c->result->leaks++;
	if (!c->config->report || c->n_reported++ >= MAX_REPORTS)
		return;
	va_start(args, fmt);
	vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	c->config->report(c->config->opaque, corruption, text);
}

/* --- counting --- */

static void mark(struct qcow2_check *c, uint64_t cluster, uint64_t n, int delta)
{
	for (uint64_t i = cluster; i < cluster + n && i < c->n_clusters; i++) {
		if (delta > 0 && c->refs[i] < UINT32_MAX)
			c->refs[i]++;
		else if (delta < 0 && c->refs[i] > 0)
			c->refs[i]--;
	}
}

/* False: it cannot be, and was reported. */
static bool mark_area(struct qcow2_check *c, const char *what, uint64_t offset, uint64_t bytes)
{
	struct qcow2 *q = c->q;

	if (bytes == 0)
		return true;
	if (qcow2_in_cluster(q, offset) || offset == 0 ||
	    !range_inside(offset, bytes, c->n_clusters << q->cluster_bits)) {
		qcow2_check_report(c, true, "%s is at %#" PRIx64 ", which cannot be", what, offset);
		c->lost++;
		return false;
	}
	mark(c, offset >> q->cluster_bits, qcow2_clusters_for(q, bytes), 1);
	return true;
}

void qcow2_check_mark_reft(struct qcow2_check *c, int delta)
{
	struct qcow2 *q = c->q;

	mark(c, q->reft.offset >> q->cluster_bits, q->h.reft_clusters, delta);
	for (uint32_t i = 0; i < q->reft.n; i++) {
		if (q->reft.entries[i] && !qcow2_in_cluster(q, q->reft.entries[i]))
			mark(c, q->reft.entries[i] >> q->cluster_bits, 1, delta);
	}
}

static void bad_entry(struct qcow2_check *c, const char *whose, uint64_t guest, uint64_t entry)
{
	qcow2_check_report(c, true, "%s: the L2 entry of guest offset %#" PRIx64 " is %#" PRIx64,
			   whose, guest, entry);
	c->lost++;
}

static void mark_compressed(struct qcow2_check *c, const char *whose, uint64_t guest,
			    uint64_t entry, bool active)
{
	struct qcow2 *q = c->q;
	uint64_t host;
	uint64_t bytes;

	qcow2_entry_compressed(q, entry, &host, &bytes);
	if ((entry & QCOW2_ENTRY_MINE) || q->has_data_file || host == 0 ||
	    !range_inside(host, bytes, c->n_clusters << q->cluster_bits)) {
		bad_entry(c, whose, guest, entry);
		return;
	}
	mark(c, host >> q->cluster_bits,
	     qcow2_cluster_of(q, host + bytes - 1) - qcow2_cluster_of(q, host) + 1, 1);
	if (active) {
		c->result->allocated_clusters++;
		c->result->compressed_clusters++;
		c->result->fragmented_clusters++;
	}
}

struct walk {
	const char *whose;
	bool active;
	uint64_t next_host; /* behind the last data cluster */
};

static void mark_entry(struct qcow2_check *c, struct walk *w, uint64_t guest, uint64_t entry,
		       uint64_t bitmap)
{
	struct qcow2 *q = c->q;
	uint64_t host = entry & QCOW2_OFFSET_MASK;

	if (entry & QCOW2_ENTRY_COMPRESSED) {
		mark_compressed(c, w->whose, guest, entry, w->active);
		return;
	}
	if ((entry & QCOW2_STD_RESERVED) || qcow2_in_cluster(q, host) ||
	    (q->ext_l2 &&
	     ((entry & QCOW2_ENTRY_ZERO) || ((uint32_t)bitmap & (uint32_t)(bitmap >> 32)) ||
	      (host == 0 && !q->has_data_file && (uint32_t)bitmap)))) {
		bad_entry(c, w->whose, guest, entry);
		return;
	}
	if (q->has_data_file) {
		if (host != 0 && host != guest)
			bad_entry(c, w->whose, guest, entry);
		c->result->allocated_clusters += w->active && (entry & QCOW2_ENTRY_MINE);
		return;
	}
	if (host == 0) {
		if (entry & QCOW2_ENTRY_MINE)
			bad_entry(c, w->whose, guest, entry);
		return;
	}
	if (host >> q->cluster_bits >= c->n_clusters) {
		bad_entry(c, w->whose, guest, entry);
		return;
	}
	mark(c, host >> q->cluster_bits, 1, 1);
	if (w->active) {
		c->result->allocated_clusters++;
		c->result->fragmented_clusters += w->next_host != 0 && host != w->next_host;
		w->next_host = host + q->cluster_bytes;
	}
}

static int mark_l2(struct qcow2_check *c, struct walk *w, uint64_t index, uint64_t table,
		   uint8_t *buf)
{
	struct qcow2 *q = c->q;
	int r = image_file_pread(q->file, buf, q->cluster_bytes, table);

	for (uint64_t i = 0; r >= 0 && i < BIT(q->l2_bits); i++) {
		const uint8_t *p = buf + (i << q->entry_bits);
		uint64_t entry = qcow2_get64(p);
		uint64_t bitmap = q->ext_l2 ? qcow2_get64(p + 8) : 0;

		if (entry != 0 || bitmap != 0)
			mark_entry(c, w, ((index << q->l2_bits) + i) << q->cluster_bits, entry,
				   bitmap);
	}
	return r;
}

static int mark_tree(struct qcow2_check *c, const char *whose, const struct qcow2_table *l1,
		     bool active)
{
	struct qcow2 *q = c->q;
	struct walk w = {.whose = whose, .active = active};
	_cleanup_free_ uint8_t *buf = NULL;
	void *p = NULL;
	int r = 0;

	if (!mark_area(c, "an L1 table", l1->offset, (uint64_t)l1->n * 8))
		return 0;
	if (posix_memalign(&p, 4096, MAX(q->cluster_bytes, 4096u)) != 0)
		return -ENOMEM;
	buf = p;
	for (uint32_t i = 0; r >= 0 && i < l1->n; i++) {
		uint64_t table = l1->entries[i] & QCOW2_OFFSET_MASK;

		if (l1->entries[i] & QCOW2_L1_RESERVED) {
			qcow2_check_report(c, true, "%s: L1 entry %u is %#" PRIx64, whose, i,
					   l1->entries[i]);
			c->lost++;
		} else if (table && mark_area(c, "an L2 table", table, q->cluster_bytes)) {
			r = mark_l2(c, &w, i, table, buf);
		}
	}
	return r;
}

static int mark_snapshots(struct qcow2_check *c, struct error *err)
{
	struct qcow2 *q = c->q;
	struct qcow2_snapshots s = {0};
	int r = qcow2_snapshots_read(q, &s, err);

	if (r < 0)
		return r;
	mark_area(c, "the snapshot table", q->h.snapshots_offset, s.bytes);
	for (uint32_t i = 0; r >= 0 && i < s.n; i++) {
		struct qcow2_table l1 = {0};

		if (!range_inside(s.list[i].l1_offset, (uint64_t)s.list[i].l1_size * 8,
				  c->n_clusters << q->cluster_bits)) {
			mark_area(c, "a snapshot's L1 table", s.list[i].l1_offset,
				  (uint64_t)s.list[i].l1_size * 8);
			continue;
		}
		r = qcow2_table_read(q, &l1, s.list[i].l1_offset, s.list[i].l1_size);
		if (r >= 0)
			r = mark_tree(c, s.list[i].name, &l1, false);
		qcow2_table_fini(&l1);
		if (r < 0)
			error_set_errno(err, r, "%s: its snapshots cannot be read", q->file->path);
	}
	qcow2_snapshots_fini(&s);
	return r;
}

/* Bitmaps are kept, not used: their clusters must not look lost. */
static int mark_bitmap(struct qcow2_check *c, uint64_t offset, uint32_t n)
{
	struct qcow2 *q = c->q;
	struct qcow2_table t = {0};
	int r;

	if (!mark_area(c, "a bitmap's table", offset, (uint64_t)n * 8))
		return 0;
	r = qcow2_table_read(q, &t, offset, n);
	for (uint32_t i = 0; r >= 0 && i < n; i++)
		mark_area(c, "a bitmap's cluster", t.entries[i] & QCOW2_OFFSET_MASK,
			  t.entries[i] & QCOW2_OFFSET_MASK ? q->cluster_bytes : 0);
	qcow2_table_fini(&t);
	return r;
}

static int mark_bitmaps(struct qcow2_check *c)
{
	struct qcow2 *q = c->q;
	const struct qcow2_header *h = &q->h;
	_cleanup_free_ uint8_t *buf = NULL;
	uint64_t at = 0;
	void *p = NULL;
	int r;

	if (!h->has_bitmaps || !(h->autoclear & QCOW2_AUTOCLEAR_BITMAPS))
		return 0;
	if (!mark_area(c, "the bitmap directory", h->bitmaps_offset, h->bitmaps_bytes))
		return 0;
	if (posix_memalign(&p, 4096, align_up(h->bitmaps_bytes, 4096)) != 0)
		return -ENOMEM;
	buf = p;
	r = image_file_pread(q->file, buf, align_up(h->bitmaps_bytes, q->unit), h->bitmaps_offset);
	for (uint32_t i = 0; r >= 0 && i < h->n_bitmaps; i++) {
		const uint8_t *e = buf + at;
		uint64_t bytes;

		if (at + ENTRY_FIXED > h->bitmaps_bytes)
			break;
		bytes = align_up((uint64_t)ENTRY_FIXED + (qcow2_get32(e + 16) & 0xffff) +
					 qcow2_get32(e + 20),
				 8);
		if (qcow2_get32(e + 8) > QCOW2_MAX_L1_BYTES / 8) {
			qcow2_check_report(c, true, "bitmap %u has a table of %u entries", i,
					   qcow2_get32(e + 8));
			c->lost++;
			break;
		}
		r = mark_bitmap(c, qcow2_get64(e), qcow2_get32(e + 8));
		at += bytes;
	}
	return r;
}

static int count_all(struct qcow2_check *c, struct error *err)
{
	struct qcow2 *q = c->q;
	int r;

	mark(c, 0, 1, 1);
	if (mark_area(c, "the refcount table", q->reft.offset,
		      (uint64_t)q->h.reft_clusters << q->cluster_bits))
		mark(c, q->reft.offset >> q->cluster_bits, q->h.reft_clusters, -1);
	for (uint32_t i = 0; i < q->reft.n; i++) {
		uint64_t e = q->reft.entries[i];

		if (e && (qcow2_in_cluster(q, e) || e >> q->cluster_bits >= c->n_clusters)) {
			qcow2_check_report(c, true, "refcount table entry %u is %#" PRIx64, i, e);
			c->ref_errors++;
			q->reft.entries[i] = 0;
		}
	}
	qcow2_check_mark_reft(c, 1);
	if (q->h.crypto_bytes)
		mark_area(c, "the encryption header", q->h.crypto_offset, q->h.crypto_bytes);
	r = mark_tree(c, "the disk", &q->l1, true);
	if (r >= 0)
		r = mark_bitmaps(c);
	if (r < 0)
		return error_set_errno(err, r, "%s: its tables cannot be read", q->file->path);
	return mark_snapshots(c, err);
}

/* --- comparing --- */

static void compare_one(struct qcow2_check *c, uint64_t cluster, uint64_t stored)
{
	uint64_t refs = cluster < c->n_clusters ? c->refs[cluster] : 0;

	if (stored < refs) {
		qcow2_check_report(c, true,
				   "cluster %" PRIu64 " has %" PRIu64
				   " references and a refcount of "
				   "%" PRIu64,
				   cluster, refs, stored);
		c->ref_errors++;
	} else if (stored > refs) {
		qcow2_check_report(c, false,
				   "cluster %" PRIu64 " has %" PRIu64
				   " references and a refcount of "
				   "%" PRIu64,
				   cluster, refs, stored);
	}
	if (refs || stored)
		c->result->end_offset = (cluster + 1) << c->q->cluster_bits;
}

static int compare_refs(struct qcow2_check *c)
{
	struct qcow2 *q = c->q;
	uint64_t per = BIT(q->ref_bits);
	_cleanup_free_ uint8_t *buf = NULL;
	void *p = NULL;
	int r = 0;

	if (posix_memalign(&p, 4096, MAX(q->cluster_bytes, 4096u)) != 0)
		return -ENOMEM;
	buf = p;
	for (uint64_t i = 0; r >= 0 && (i < q->reft.n || i * per < c->n_clusters); i++) {
		bool there = i < q->reft.n && q->reft.entries[i];

		if (there)
			r = image_file_pread(q->file, buf, q->cluster_bytes, q->reft.entries[i]);
		for (uint64_t k = 0; r >= 0 && k < per; k++) {
			uint64_t cluster = i * per + k;

			if (!there && cluster >= c->n_clusters)
				break;
			compare_one(c, cluster,
				    there ? qcow2_ref_get_entry(buf, q->h.refcount_order, k) : 0);
		}
	}
	return r;
}

/* --- flags --- */

static void compare_flag(struct qcow2_check *c, const char *what, uint64_t guest, uint64_t entry)
{
	uint64_t cluster = (entry & QCOW2_OFFSET_MASK) >> c->q->cluster_bits;
	bool mine = (entry & QCOW2_ENTRY_MINE) != 0;

	if (cluster == 0 || cluster >= c->n_clusters ||
	    qcow2_in_cluster(c->q, entry & QCOW2_OFFSET_MASK))
		return;
	if (mine && c->refs[cluster] > 1) {
		qcow2_check_report(c, true,
				   "the %s for guest offset %#" PRIx64 " says that cluster %" PRIu64
				   " has no other user, and it has",
				   what, guest, cluster);
		c->flag_errors++;
	} else if (!mine && c->refs[cluster] == 1) {
		c->result->stale_flags++;
	}
}

static int compare_flags(struct qcow2_check *c)
{
	struct qcow2 *q = c->q;
	_cleanup_free_ uint8_t *buf = NULL;
	void *p = NULL;
	int r = 0;

	if (q->has_data_file)
		return 0;
	if (posix_memalign(&p, 4096, MAX(q->cluster_bytes, 4096u)) != 0)
		return -ENOMEM;
	buf = p;
	for (uint64_t i = 0; r >= 0 && i < q->l1.n; i++) {
		uint64_t e = q->l1.entries[i];
		uint64_t table = e & QCOW2_OFFSET_MASK;
		uint64_t guest = i << (q->l2_bits + q->cluster_bits);

		if (!table || qcow2_in_cluster(q, table) || (e & QCOW2_L1_RESERVED) ||
		    table >> q->cluster_bits >= c->n_clusters)
			continue;
		compare_flag(c, "L1 entry", guest, e);
		r = image_file_pread(q->file, buf, q->cluster_bytes, table);
		for (uint64_t k = 0; r >= 0 && k < BIT(q->l2_bits); k++) {
			uint64_t entry = qcow2_get64(buf + (k << q->entry_bits));

			if (!(entry & QCOW2_ENTRY_COMPRESSED))
				compare_flag(c, "L2 entry", guest + (k << q->cluster_bits), entry);
		}
	}
	return r;
}

/* --- all of it --- */

static int repair(struct qcow2_check *c)
{
	const struct image_check_config *config = c->config;
	struct image_check_result *res = c->result;
	bool marked = c->q->h.incompat & (QCOW2_INCOMPAT_DIRTY | QCOW2_INCOMPAT_CORRUPT);
	int r = 0;

	if (config->fix_all && (c->ref_errors || c->flag_errors || marked)) {
		res->corruptions_fixed = c->ref_errors + c->flag_errors;
		res->leaks_fixed = res->leaks;
		r = qcow2_repair_refcounts(c);
	} else if ((config->fix_leaks || config->fix_all) && c->ref_errors == 0 && res->leaks) {
		res->leaks_fixed = res->leaks;
		r = qcow2_repair_leaks(c);
	}
	if (r >= 0 && config->fix_all && (c->flag_errors || res->stale_flags))
		r = qcow2_repair_flags(c);
	if (r < 0) {
		res->corruptions_fixed = res->leaks_fixed = 0;
		return r;
	}
	res->corruptions -= res->corruptions_fixed;
	res->leaks -= res->leaks_fixed;
	return 0;
}

static int setup(struct qcow2_check *c, struct error *err)
{
	struct qcow2 *q = c->q;

	if (q->meta_size > 0 && qcow2_commit(q) < 0)
		return error_set(err, -EIO, "%s: cannot be written", q->file->path);
	c->n_clusters = q->file_end >> q->cluster_bits;
	if (c->n_clusters > MAX_CLUSTERS)
		return error_set(err, -EFBIG, "%s: its file has more clusters than can be counted",
				 q->file->path);
	c->refs = calloc(c->n_clusters + 1, sizeof(*c->refs));
	return c->refs ? 0
		       : error_set(err, -ENOMEM, "no memory to count the clusters of %s",
				   q->file->path);
}

int qcow2_check(struct image_node *node, const struct image_check_config *config,
		struct image_check_result *ret, struct error *err)
{
	struct qcow2 *q = qcow2_of(node);
	struct qcow2_check c = {.q = q, .config = config, .result = ret};
	int r;

	*ret = (struct image_check_result){.total_clusters = qcow2_clusters_for(q, q->h.size)};
	if ((config->fix_all || config->fix_leaks) && q->readonly)
		return error_set(err, -EROFS, "%s: is open for reading only", q->file->path);
	r = setup(&c, err);
	if (r >= 0)
		r = count_all(&c, err);
	if (r >= 0) {
		r = compare_refs(&c);
		if (r >= 0)
			r = compare_flags(&c);
		if (r >= 0)
			r = repair(&c);
		if (r < 0)
			error_set_errno(err, r, "%s: the check could not be finished",
					q->file->path);
	}
	free(c.refs);
	return r;
}
