/*
 * Looking at an image as a whole, and changing its shape offline: size, preallocation, the name of its backing file.
 *
 * Main thread, blocking, no channel open.
 */
#include <errno.h>
#include <stdlib.h>

#include "base/bits.h"
#include "base/cleanup.h"
#include "image/qcow2/qcow2_int.h"

void qcow2_describe(const struct image_node *node, struct image_details *ret)
{
	const struct qcow2 *q = qcow2_of(node);
	const struct qcow2_header *h = &q->h;

	ret->cluster_bytes = q->cluster_bytes;
	ret->version = h->version;
	ret->refcount_bits = 1u << h->refcount_order;
	ret->compression = h->compression ? "zstd" : "zlib";
	ret->backing_path = h->backing_name;
	ret->backing_format = h->backing_format;
	ret->backing_full = node->backing_path;
	ret->data_file = h->data_file;
	ret->data_file_raw = q->data_raw;
	ret->lazy_refcounts = (h->compat & QCOW2_COMPAT_LAZY) != 0;
	ret->extended_l2 = q->ext_l2;
	ret->dirty = (h->incompat & QCOW2_INCOMPAT_DIRTY) != 0;
	ret->corrupt = (h->incompat & QCOW2_INCOMPAT_CORRUPT) != 0;
	ret->encrypted = h->crypt_method != 0;
	ret->n_snapshots = h->n_snapshots;
	ret->n_bitmaps = h->has_bitmaps ? h->n_bitmaps : 0;
}

static int fail(struct qcow2 *q, int r, const char *what, struct error *err)
{
	if (r == -EIO && q->damaged)
		return error_set(err, r, "%s: is damaged: %s; see vireo image check", q->file->path,
				 q->damage);
	return error_set_errno(err, r, "%s: %s", q->file->path, what);
}

/* --- size --- */

static uint64_t l1_needed(const struct qcow2 *q, uint64_t size)
{
	uint64_t span = 1ULL << (q->cluster_bits + q->l2_bits);

	return size / span + (size % span != 0);
}

/* A longer L1 table; takes effect with the header, the size still being the old one. */
static int l1_grow(struct qcow2 *q, uint32_t n)
{
	struct qcow2_header h = q->h;
	struct qcow2_table t = {.n = n};
	struct qcow2_table old;
	uint64_t cluster = 0;
	int r = -ENOMEM;

	t.entries = calloc(n, sizeof(*t.entries));
	t.dirty = calloc(1, ((uint64_t)n * 8 >> q->unit_bits) + 1);
	if (t.entries && t.dirty)
		r = qcow2_ref_take_exact(q, qcow2_clusters_for(q, (uint64_t)n * 8), &cluster);
	if (r >= 0)
		r = qcow2_commit(q);
	if (r >= 0) {
		memcpy(t.entries, q->l1.entries, (size_t)q->l1.n * sizeof(*t.entries));
		t.offset = cluster << q->cluster_bits;
		r = qcow2_table_write(q, t.entries, n, t.offset);
	}
	h.l1_offset = t.offset;
	h.l1_size = n;
	if (r >= 0)
		r = qcow2_header_write(q, &h);
	if (r < 0) {
		qcow2_table_fini(&t);
		return r;
	}
	old = q->l1;
	pthread_mutex_lock(&q->lock);
	q->l1 = t;
	pthread_mutex_unlock(&q->lock);
	if (old.n)
		r = qcow2_ref_change(q, old.offset >> q->cluster_bits,
				     qcow2_clusters_for(q, (uint64_t)old.n * 8), -1);
	qcow2_table_fini(&old);
	return r;
}

static int l2_hold(struct qcow2 *q, uint64_t guest, bool make, struct qcow2_block **ret)
{
	uint64_t load = 0;
	int r;

	for (;;) {
		pthread_mutex_lock(&q->lock);
		r = qcow2_l2_locked(q, guest, ret, &load);
		if (r >= 0)
			return 0;
		pthread_mutex_unlock(&q->lock);
		if (r == -ENOENT && !make)
			return r;
		r = r == -EAGAIN   ? qcow2_block_load(q, load, QCOW2_BLOCK_L2)
		    : r == -ENOENT ? qcow2_l2_make(q, guest)
				   : r;
		if (r < 0)
			return r;
	}
}

static int room(struct qcow2 *q)
{
	bool full;

	pthread_mutex_lock(&q->lock);
	full = qcow2_cache_full_locked(q);
	pthread_mutex_unlock(&q->lock);
	return full ? qcow2_commit(q) : 0;
}

/* Takes everything away from [from, to), whole clusters; zero: what a backing image has there must not show. */
static int unmap(struct qcow2 *q, uint64_t from, uint64_t to, bool zero)
{
	int r = 0;

	for (uint64_t guest = from; r >= 0 && guest < to;) {
		uint64_t end = guest + MIN(qcow2_block_span(q, guest), to - guest);
		struct qcow2_block *b;
		uint64_t table = guest >> (q->cluster_bits + q->l2_bits);

		r = room(q);
		if (r >= 0 && !zero && (table >= q->l1.n || q->l1.entries[table] == 0)) {
			guest = end;
			continue;
		}
		if (r >= 0)
			r = l2_hold(q, guest, true, &b);
		if (r < 0)
			break;
		for (; guest < end; guest += q->cluster_bytes) {
			uint64_t bitmap;
			uint64_t old = qcow2_entry_get(q, b, guest, &bitmap);
			uint64_t entry = zero && !q->ext_l2 ? QCOW2_ENTRY_ZERO : 0;
			uint64_t zeroes = zero && q->ext_l2 ? (uint64_t)UINT32_MAX << 32 : 0;

			if (old == entry && bitmap == zeroes)
				continue;
			qcow2_entry_set_locked(q, b, guest, entry, zeroes);
			qcow2_drop_entry_locked(q, old);
		}
		pthread_mutex_unlock(&q->lock);
	}
	return r;
}

/* The rest of the last cluster may hold what was cut off, or what the backing image has. */
static int zero_tail(struct image_node *node, uint64_t from, uint64_t to, struct error *err)
{
	struct image_sync *s;
	int r;

	if (from >= to)
		return 0;
	r = image_sync_open(node->image, 1, &s, err);
	if (r < 0)
		return r;
	r = image_sync_zero(s, from, to - from, true);
	image_sync_close(s);
	return r < 0 ? error_set_errno(err, r, "%s: its end cannot be zeroed", node->file->path)
		     : 0;
}

static int grow(struct image_node *node, uint64_t bytes, struct error *err)
{
	struct qcow2 *q = qcow2_of(node);
	uint64_t old = q->h.size;
	uint64_t old_end = qcow2_clusters_for(q, old) << q->cluster_bits;
	uint64_t lower = node->lower ? node->lower->info.size_bytes : 0;
	uint64_t new_end = qcow2_clusters_for(q, bytes) << q->cluster_bits;
	struct qcow2_header h;
	int r;

	if (l1_needed(q, bytes) * 8 > QCOW2_MAX_L1_BYTES)
		return error_set(err, -EFBIG, "%s: is too large for clusters of %u bytes",
				 q->file->path, q->cluster_bytes);
	if (q->has_backing && !q->zero_flag && lower > old)
		return error_set(
			err, -ENOTSUP,
			"%s: its backing file is larger, and version 2 cannot hide what it "
			"has there",
			q->file->path);
	r = l1_needed(q, bytes) > q->l1.n ? l1_grow(q, (uint32_t)l1_needed(q, bytes)) : 0;
	if (r >= 0)
		r = unmap(q, old_end, new_end, false);
	if (r >= 0 && lower > old_end)
		r = unmap(q, old_end, MIN(new_end, qcow2_clusters_for(q, lower) << q->cluster_bits),
			  true);
	if (r >= 0)
		r = qcow2_commit(q);
	if (r < 0)
		return fail(q, r, "cannot be made larger", err);
	node->info.size_bytes = align_up(bytes, node->info.logical_block);
	r = zero_tail(node, old, MIN(old_end, bytes), err);
	if (r >= 0 && qcow2_commit(q) < 0)
		r = error_set(err, -EIO, "%s: cannot be made larger", q->file->path);
	h = q->h;
	h.size = bytes;
	if (r >= 0) {
		r = qcow2_header_write(q, &h);
		if (r < 0)
			fail(q, r, "cannot be made larger", err);
	}
	if (r < 0)
		node->info.size_bytes = align_up(old, node->info.logical_block);
	return r;
}

static int shrink(struct image_node *node, uint64_t bytes, struct error *err)
{
	struct qcow2 *q = qcow2_of(node);
	uint64_t old_end = qcow2_clusters_for(q, q->h.size) << q->cluster_bits;
	struct qcow2_header h;
	int r;

	if (q->h.n_snapshots)
		return error_set(err, -ENOTSUP,
				 "%s: has snapshots, and cannot be made smaller; delete them first",
				 q->file->path);
	r = qcow2_commit(q);
	h = q->h;
	h.size = bytes;
	if (r >= 0)
		r = qcow2_header_write(q, &h);
	if (r < 0)
		return fail(q, r, "cannot be made smaller", err);
	node->info.size_bytes = align_up(bytes, node->info.logical_block);
	r = unmap(q, qcow2_clusters_for(q, bytes) << q->cluster_bits, old_end, false);
	if (r >= 0)
		r = qcow2_commit(q);
	return r < 0 ? fail(q, r, "is smaller, but not all space is free", err) : 0;
}

int qcow2_resize(struct image_node *node, uint64_t bytes, struct error *err)
{
	struct qcow2 *q = qcow2_of(node);
	int r = bytes < q->h.size ? shrink(node, bytes, err) : 0;

	if (bytes > q->h.size)
		r = grow(node, bytes, err);
	if (r >= 0 && q->has_data_file) {
		r = image_file_truncate(q->data, bytes);
		if (r < 0)
			error_set_errno(err, r, "%s: cannot be resized", q->data->path);
	}
	return r;
}

/* --- preallocation --- */

static int link_some(struct qcow2 *q, struct qcow2_block *b, uint64_t guest, uint64_t *ret_bytes)
{
	uint64_t n = MAX(*ret_bytes >> q->cluster_bits, 1ULL);
	struct qcow2_run run = {.cluster = qcow2_cluster_of(q, guest), .count = n};
	uint64_t bitmap;
	uint64_t done = 0;

	if (qcow2_entry_get(q, b, guest, &bitmap) != 0) {
		*ret_bytes = q->cluster_bytes;
		return 0;
	}
	if (!q->has_data_file && qcow2_alloc_locked(q, n, &run) == 0)
		return -EAGAIN;
	while (done < run.count && qcow2_entry_get(q, b, guest, &bitmap) == 0) {
		/* What was used before holds something: it reads as zeroes by the flag until it is written. */
		bool zero = !run.fresh && !q->has_data_file;
		uint64_t entry = (run.cluster + done) << q->cluster_bits | QCOW2_ENTRY_MINE;

		bitmap = zero ? (uint64_t)UINT32_MAX << 32 : UINT32_MAX;
		if (zero && !q->ext_l2)
			entry |= QCOW2_ENTRY_ZERO;
		qcow2_entry_set_locked(q, b, guest, entry, bitmap);
		guest += q->cluster_bytes;
		done++;
	}
	if (done < run.count && !q->has_data_file)
		qcow2_drop_locked(q, run.cluster + done, run.count - done);
	*ret_bytes = done << q->cluster_bits;
	return 0;
}

/* Space for each stretch of clusters that is linked now. */
static int fill_space(struct qcow2 *q, uint64_t guest, uint64_t bytes, enum image_prealloc how)
{
	uint64_t end = guest + bytes;
	int r = 0;

	while (r >= 0 && how != IMAGE_PREALLOC_METADATA && guest < end) {
		struct qcow2_map map = {0};
		uint64_t load = 0;

		pthread_mutex_lock(&q->lock);
		r = qcow2_map_locked(q, guest, end - guest, &map, &load);
		pthread_mutex_unlock(&q->lock);
		if (r >= 0 && (map.kind == QCOW2_DATA || map.kind == QCOW2_ZERO) && map.mine)
			r = image_file_allocate(q->data, map.host, map.bytes, how);
		guest += map.bytes;
	}
	return r;
}

int qcow2_preallocate(struct image_node *node, uint64_t offset, uint64_t bytes,
		      enum image_prealloc how, struct error *err)
{
	struct qcow2 *q = qcow2_of(node);
	uint64_t end = offset + bytes;
	int r = 0;

	if (!q->zero_flag && q->file->is_block)
		return error_set(err, -ENOTSUP,
				 "%s: preallocation in version 2 wants a file that is new",
				 q->file->path);
	offset = align_down(offset, q->cluster_bytes);
	while (r >= 0 && offset < end) {
		uint64_t part = MIN(qcow2_block_span(q, offset), end - offset);
		struct qcow2_block *b;

		r = room(q);
		if (r >= 0)
			r = qcow2_reserve_refill(q);
		if (r >= 0)
			r = l2_hold(q, offset, true, &b);
		if (r < 0)
			break;
		part = align_up(part, q->cluster_bytes);
		r = link_some(q, b, offset, &part);
		pthread_mutex_unlock(&q->lock);
		if (r == -EAGAIN) {
			r = 0;
			continue;
		}
		if (r >= 0)
			r = fill_space(q, offset, part, how);
		offset += part;
	}
	if (r >= 0)
		r = qcow2_commit(q);
	return r < 0 ? fail(q, r, "cannot be preallocated", err) : 0;
}

/* --- the name of the backing file --- */

/* The new names, in a whole new header; the strings in it are the caller's. */
int qcow2_set_backing(struct image_node *node, const char *path, const char *format,
		      struct error *err)
{
	struct qcow2 *q = qcow2_of(node);
	struct qcow2_header h = q->h;
	_cleanup_free_ char *new_path = path ? strdup(path) : NULL;
	_cleanup_free_ char *new_format = format ? strdup(format) : NULL;
	_cleanup_free_ uint8_t *buf = NULL;
	void *p = NULL;
	int r;

	if (path && !format)
		return error_set(err, -EINVAL, "%s: state the backing file's format (-F)",
				 q->file->path);
	if (path && q->data_raw)
		return error_set(err, -ENOTSUP, "%s: has a raw data file, and so no backing file",
				 q->file->path);
	if ((path && (!new_path || !new_format)) ||
	    posix_memalign(&p, 4096, MAX(q->cluster_bytes, 4096u)) != 0)
		return error_set(err, -ENOMEM, "no memory for the header of %s", q->file->path);
	buf = p;
	h.backing_name = new_path;
	h.backing_format = new_format;
	r = qcow2_header_encode(&h, buf, q->cluster_bytes, q->file->path, err);
	if (r < 0)
		return r;
	r = qcow2_commit(q);
	if (r >= 0)
		r = image_file_pwrite(q->file, buf, q->cluster_bytes, 0);
	if (r >= 0)
		r = image_file_sync(q->file);
	if (r < 0)
		return error_set_errno(err, r, "%s: its header cannot be written", q->file->path);
	free(q->h.backing_name);
	free(q->h.backing_format);
	q->h.backing_name = steal_ptr(&new_path);
	q->has_backing = q->h.backing_name != NULL;
	q->h.backing_format = steal_ptr(&new_format);
	return 0;
}
