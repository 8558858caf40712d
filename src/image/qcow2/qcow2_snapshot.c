/*
 * Internal snapshots (section "Snapshots"): list, create, apply, delete. Offline, main thread, blocking.
 *
 * Each change is prepared beside what is valid, and takes effect by one write of the header's first sector. In what order the rest
 * happens, so that a cut leaves at most lost space and missing "mine alone" flags:
 *	create: flags down; refcounts up; the copy of L1 and the new table; header; the old table is free.
 *	apply:  flags down in the snapshot's tables; refcounts up; the new L1; header; what the old one reached loses a reference.
 *	delete: the new table; header; what the snapshot reached loses a reference; flags up.
 */
#include "image/qcow2/qcow2_snapshot.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/bits.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/str.h"
#include "image/qcow2/qcow2_tree.h"

#define MAX_NAME_BYTES 255u

static void snapshots_cleanup(struct qcow2_snapshots *s)
{
	qcow2_snapshots_fini(s);
}
#define _cleanup_snapshots_ _cleanup_(snapshots_cleanup)

static int fail(struct qcow2 *q, int r, const char *what, struct error *err)
{
	if (r == -ERANGE)
		return error_set(err, r, "%s: a refcount of %u bits cannot count one more snapshot",
				 q->file->path, 1u << q->h.refcount_order);
	if (r == -EIO && q->damaged)
		return error_set(err, r, "%s: is damaged: %s; see vireo image check", q->file->path,
				 q->damage);
	return error_set_errno(err, r, "%s: %s", q->file->path, what);
}

static int find(const struct qcow2_snapshots *s, const char *name, uint32_t *ret)
{
	for (uint32_t i = 0; i < s->n; i++) {
		*ret = i;
		if (str_eq(s->list[i].name, name))
			return 0;
	}
	for (uint32_t i = 0; i < s->n; i++) {
		*ret = i;
		if (str_eq(s->list[i].id, name))
			return 0;
	}
	return -ENOENT;
}

static int read_and_find(struct qcow2 *q, const char *name, struct qcow2_snapshots *s,
			 uint32_t *ret, struct error *err)
{
	int r = qcow2_snapshots_read(q, s, err);

	if (r < 0)
		return r;
	if (find(s, name, ret) < 0)
		return error_set(err, -ENOENT,
				 "%s: has no snapshot '%s'; vireo image snapshot -l lists them",
				 q->file->path, name);
	return 0;
}

int qcow2_snapshot_list(struct image_node *node, struct image_snapshot **ret, size_t *ret_n,
			struct error *err)
{
	struct qcow2 *q = qcow2_of(node);
	_cleanup_snapshots_ struct qcow2_snapshots s = {0};
	struct image_snapshot *list;
	int r = qcow2_snapshots_read(q, &s, err);

	if (r < 0)
		return r;
	list = calloc(s.n + 1, sizeof(*list));
	if (!list)
		return error_set(err, -ENOMEM, "no memory for the snapshots of %s", q->file->path);
	for (uint32_t i = 0; i < s.n; i++) {
		const struct qcow2_snapshot *from = &s.list[i];

		list[i] = (struct image_snapshot){
			.disk_bytes = from->disk_bytes,
			.vm_state_bytes = from->vm_state_bytes,
			.vm_clock_nsec = from->vm_clock_nsec,
			.date_sec = from->date_sec,
			.date_nsec = from->date_nsec,
		};
		list[i].id = steal_ptr(&s.list[i].id);
		list[i].name = steal_ptr(&s.list[i].name);
	}
	*ret = list;
	*ret_n = s.n;
	return 0;
}

/* --- writing a table and switching to it --- */

/* The clusters of the table that the header speaks of now. */
static int old_table_free(struct qcow2 *q, uint64_t offset, uint64_t bytes)
{
	return bytes ? qcow2_ref_change(q, offset >> q->cluster_bits, qcow2_clusters_for(q, bytes),
					-1)
		     : 0;
}

static int table_write(struct qcow2 *q, const struct qcow2_snapshots *s, uint64_t *ret_offset)
{
	uint64_t bytes;
	_cleanup_free_ uint8_t *buf = qcow2_snapshots_encode(s, &bytes);
	uint64_t cluster = 0;
	int r;

	*ret_offset = 0;
	if (!buf)
		return -ENOMEM;
	if (bytes > QCOW2_MAX_SNAPSHOT_BYTES)
		return -E2BIG;
	if (s->n == 0)
		return 0;
	r = qcow2_ref_take_exact(q, qcow2_clusters_for(q, bytes), &cluster);
	*ret_offset = cluster << q->cluster_bits;
	for (uint64_t at = 0; r >= 0 && at < bytes; at += q->unit) {
		uint8_t unit[4096] __attribute__((aligned(4096))) = {0};

		memcpy(unit, buf + at, MIN(bytes - at, (uint64_t)q->unit));
		r = image_file_pwrite(q->file, unit, q->unit, *ret_offset + at);
	}
	return r;
}

/* Everything up to here is made stable, then the header points to the new table. */
static int switch_table(struct qcow2 *q, const struct qcow2_snapshots *s, uint64_t old_bytes)
{
	uint64_t old_offset = q->h.snapshots_offset;
	struct qcow2_header h = q->h;
	int r = table_write(q, s, &h.snapshots_offset);

	h.n_snapshots = s->n;
	if (r >= 0)
		r = qcow2_commit(q);
	if (r >= 0)
		r = qcow2_header_write(q, &h);
	return r < 0 ? r : old_table_free(q, old_offset, old_bytes);
}

/* --- creating --- */

static int fill_new(struct qcow2 *q, const struct qcow2_snapshots *s, const char *name,
		    struct qcow2_snapshot *ret)
{
	uint64_t now = clock_realtime_ns();
	uint64_t id = 0;
	char text[24];

	for (uint32_t i = 0; i < s->n; i++) {
		uint64_t other;

		if (parse_u64(s->list[i].id, &other) == 0)
			id = MAX(id, other);
	}
	snprintf(text, sizeof(text), "%" PRIu64, id + 1);
	*ret = (struct qcow2_snapshot){
		.l1_size = q->l1.n,
		.disk_bytes = q->h.size,
		.date_sec = (uint32_t)(now / NSEC_PER_SEC),
		.date_nsec = (uint32_t)(now % NSEC_PER_SEC),
		.id = strdup(text),
		.name = strdup(name),
	};
	return ret->id && ret->name ? 0 : -ENOMEM;
}

/* The snapshot's L1: that of the disk, whose flags are down already. */
static int copy_l1(struct qcow2 *q, struct qcow2_snapshot *s)
{
	uint64_t n = qcow2_clusters_for(q, (uint64_t)q->l1.n * 8);
	uint64_t cluster = 0;
	int r = n ? qcow2_ref_take_exact(q, n, &cluster) : 0;

	s->l1_offset = cluster << q->cluster_bits;
	return r < 0 || n == 0 ? r : qcow2_table_write(q, q->l1.entries, q->l1.n, s->l1_offset);
}

int qcow2_snapshot_create(struct image_node *node, const char *name, struct error *err)
{
	struct qcow2 *q = qcow2_of(node);
	_cleanup_snapshots_ struct qcow2_snapshots s = {0};
	struct qcow2_snapshot *more;
	uint64_t old_bytes;
	int r = qcow2_snapshots_read(q, &s, err);

	if (r < 0)
		return r;
	if (q->has_data_file)
		return error_set(err, -ENOTSUP,
				 "%s: has an external data file, and so no internal snapshots",
				 q->file->path);
	if (!*name || strlen(name) > MAX_NAME_BYTES)
		return error_set(err, -EINVAL, "%s: a snapshot's name has 1 to 255 bytes",
				 q->file->path);
	if (s.n >= QCOW2_MAX_SNAPSHOTS)
		return error_set(err, -ENOSPC, "%s: has 65536 snapshots, no more fit",
				 q->file->path);
	old_bytes = s.bytes;
	more = realloc(s.list, (s.n + 1) * sizeof(*more));
	if (!more)
		return error_set(err, -ENOMEM, "no memory for the snapshots of %s", q->file->path);
	s.list = more;
	r = fill_new(q, &s, name, &s.list[s.n]);
	s.n++;
	if (r >= 0)
		r = qcow2_tree_ref_check(q, q->l1.entries, q->l1.n);
	if (r >= 0)
		r = qcow2_tree_share(q, q->l1.entries, q->l1.n);
	if (r >= 0)
		r = qcow2_commit(q);
	if (r >= 0)
		r = qcow2_tree_ref(q, q->l1.entries, q->l1.n, 1);
	if (r >= 0)
		r = copy_l1(q, &s.list[s.n - 1]);
	if (r >= 0)
		r = switch_table(q, &s, old_bytes);
	if (r >= 0)
		r = qcow2_commit(q);
	return r < 0 ? fail(q, r, "the snapshot could not be made", err) : 0;
}

/* --- applying --- */

static int read_l1(struct qcow2 *q, const struct qcow2_snapshot *s, struct qcow2_table *ret)
{
	if (!range_inside(s->l1_offset, (uint64_t)s->l1_size * 8, q->file_end) ||
	    (s->l1_size && s->l1_offset == 0)) {
		LOCK_GUARD(&q->lock);
		return qcow2_damage_locked(q, "the L1 table of snapshot '%s' is at %#llx", s->name,
					   (unsigned long long)s->l1_offset);
	}
	return qcow2_table_read(q, ret, s->l1_offset, s->l1_size);
}

static uint64_t l1_needed(const struct qcow2 *q, uint64_t size)
{
	uint64_t span = 1ULL << (q->cluster_bits + q->l2_bits);

	return size / span + (size % span != 0);
}

/* Makes `from` the disk's own; its flags are down and its refcounts raised. */
static int switch_l1(struct qcow2 *q, const struct qcow2_table *from, uint64_t size)
{
	uint32_t n = (uint32_t)MAX(l1_needed(q, size), (uint64_t)from->n);
	struct qcow2_header h = q->h;
	struct qcow2_table t = {.n = n};
	uint64_t cluster = 0;
	int r = -ENOMEM;

	t.entries = calloc(n + 1, sizeof(*t.entries));
	t.dirty = calloc(1, ((uint64_t)n * 8 >> q->unit_bits) + 1);
	if (t.entries && t.dirty) {
		for (uint32_t i = 0; i < from->n; i++)
			t.entries[i] = from->entries[i] & ~QCOW2_ENTRY_MINE;
		r = qcow2_ref_take_exact(q, MAX(qcow2_clusters_for(q, (uint64_t)n * 8), 1ULL),
					 &cluster);
	}
	t.offset = cluster << q->cluster_bits;
	if (r >= 0)
		r = qcow2_table_write(q, t.entries, n, t.offset);
	if (r >= 0)
		r = qcow2_commit(q);
	h.l1_offset = t.offset;
	h.l1_size = n;
	h.size = size;
	if (r >= 0)
		r = qcow2_header_write(q, &h);
	if (r < 0) {
		qcow2_table_fini(&t);
		return r;
	}
	LOCK_GUARD(&q->lock);
	q->l1 = t;
	return 0;
}

static int apply(struct qcow2 *q, const struct qcow2_snapshot *s, struct qcow2_table *l1)
{
	struct qcow2_table old;
	int r = read_l1(q, s, l1);

	if (r >= 0)
		r = qcow2_tree_ref_check(q, l1->entries, l1->n);
	if (r >= 0)
		r = qcow2_tree_share(q, l1->entries, l1->n);
	if (r >= 0)
		r = qcow2_commit(q);
	if (r >= 0)
		r = qcow2_tree_ref(q, l1->entries, l1->n, 1);
	old = q->l1;
	if (r >= 0)
		r = switch_l1(q, l1, s->disk_bytes);
	if (r < 0)
		return r;
	r = qcow2_tree_ref(q, old.entries, old.n, -1);
	if (r >= 0)
		r = old_table_free(q, old.offset, (uint64_t)old.n * 8);
	qcow2_table_fini(&old);
	if (r >= 0)
		r = qcow2_commit(q);
	return r < 0 ? r : qcow2_meta_rebuild(q);
}

int qcow2_snapshot_apply(struct image_node *node, const char *name, struct error *err)
{
	struct qcow2 *q = qcow2_of(node);
	_cleanup_snapshots_ struct qcow2_snapshots s = {0};
	struct qcow2_table l1 = {0};
	uint32_t index;
	int r = read_and_find(q, name, &s, &index, err);

	if (r < 0)
		return r;
	if (s.list[index].disk_bytes == 0 || s.list[index].disk_bytes > INT64_MAX ||
	    l1_needed(q, s.list[index].disk_bytes) > QCOW2_MAX_L1_BYTES / 8)
		return error_set(err, -EINVAL,
				 "%s: snapshot '%s' says that its disk has %" PRIu64 " bytes",
				 q->file->path, name, s.list[index].disk_bytes);
	r = apply(q, &s.list[index], &l1);
	qcow2_table_fini(&l1);
	if (r < 0)
		return fail(q, r, "the snapshot could not be applied", err);
	node->info.size_bytes = align_up(q->h.size, node->info.logical_block);
	return 0;
}

/* --- deleting --- */

int qcow2_snapshot_delete(struct image_node *node, const char *name, struct error *err)
{
	struct qcow2 *q = qcow2_of(node);
	_cleanup_snapshots_ struct qcow2_snapshots s = {0};
	struct qcow2_snapshot gone;
	struct qcow2_table l1 = {0};
	uint32_t index;
	int r = read_and_find(q, name, &s, &index, err);

	if (r < 0)
		return r;
	gone = s.list[index];
	r = read_l1(q, &gone, &l1);
	if (r < 0)
		return fail(q, r, "the snapshot could not be read", err);
	memmove(&s.list[index], &s.list[index + 1], (s.n - index - 1) * sizeof(gone));
	s.n--;
	r = switch_table(q, &s, s.bytes);
	if (r >= 0)
		r = qcow2_tree_ref(q, l1.entries, l1.n, -1);
	if (r >= 0)
		r = old_table_free(q, l1.offset, (uint64_t)l1.n * 8);
	if (r >= 0)
		r = qcow2_tree_own(q);
	if (r >= 0)
		r = qcow2_commit(q);
	if (r >= 0)
		r = qcow2_meta_rebuild(q);
	qcow2_table_fini(&l1);
	free(gone.id);
	free(gone.name);
	free(gone.more);
	return r < 0 ? fail(q, r, "the snapshot could not be deleted", err) : 0;
}
