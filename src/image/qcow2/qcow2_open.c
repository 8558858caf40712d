/*
 * Opening and closing: header, tables, data file; and the few places where the header's first sector is rewritten, which is how
 * every change of shape takes effect at once or not at all.
 *
 * Main thread.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/bits.h"
#include "base/cleanup.h"
#include "image/qcow2/qcow2_int.h"

#define CACHE_BYTES                                                                                \
	(32u << 20) /* of metadata blocks at most; all that 256 GiB need with clusters of 64 KiB */

int qcow2_damage_locked(struct qcow2 *q, const char *fmt, ...)
{
	va_list args;

	if (!q->damaged) {
		va_start(args, fmt);
		vsnprintf(q->damage, sizeof(q->damage), fmt, args);
		va_end(args);
		q->damaged = true;
	}
	return -EIO;
}

/* --- which clusters hold tables --- */

#define META_GONE UINT64_MAX

static size_t meta_slot(const struct qcow2 *q, uint64_t key)
{
	return (size_t)(key * 0x9e3779b97f4a7c15ULL >> 32) & (q->meta_size - 1);
}

static bool meta_has(const struct qcow2 *q, uint64_t cluster)
{
	uint64_t key = cluster + 1;

	if (q->meta_size == 0)
		return false;
	for (size_t i = meta_slot(q, key); q->meta[i] != 0; i = (i + 1) & (q->meta_size - 1)) {
		if (q->meta[i] == key)
			return true;
	}
	return false;
}

static void meta_put(struct qcow2 *q, uint64_t key)
{
	size_t i = meta_slot(q, key);

	while (q->meta[i] != 0)
		i = (i + 1) & (q->meta_size - 1);
	q->meta[i] = key;
	q->meta_used++;
}

static int meta_grow(struct qcow2 *q)
{
	size_t old_size = q->meta_size;
	uint64_t *old = q->meta;
	size_t live = 0;
	size_t size = 256;

	for (size_t i = 0; i < old_size; i++)
		live += old[i] != 0 && old[i] != META_GONE;
	while (size < live * 3)
		size *= 2;
	q->meta = calloc(size, sizeof(*q->meta));
	if (!q->meta) {
		q->meta = old;
		return -ENOMEM;
	}
	q->meta_size = size;
	q->meta_used = 0;
	for (size_t i = 0; i < old_size; i++) {
		if (old[i] != 0 && old[i] != META_GONE)
			meta_put(q, old[i]);
	}
	free(old);
	return 0;
}

int qcow2_meta_add_locked(struct qcow2 *q, uint64_t cluster)
{
	if (meta_has(q, cluster))
		return 0;
	if ((q->meta_used + 1) * 3 > q->meta_size * 2) {
		int r = meta_grow(q);

		if (r < 0)
			return r;
	}
	meta_put(q, cluster + 1);
	return 0;
}

void qcow2_meta_remove_locked(struct qcow2 *q, uint64_t cluster)
{
	uint64_t key = cluster + 1;

	if (q->meta_size == 0)
		return;
	for (size_t i = meta_slot(q, key); q->meta[i] != 0; i = (i + 1) & (q->meta_size - 1)) {
		if (q->meta[i] == key)
			q->meta[i] = META_GONE;
	}
}

int qcow2_meta_rebuild(struct qcow2 *q)
{
	int r = 0;

	LOCK_GUARD(&q->lock);
	free(q->meta);
	q->meta = NULL;
	q->meta_size = q->meta_used = 0;
	for (uint32_t i = 0; r >= 0 && i < q->l1.n; i++) {
		if (q->l1.entries[i] & QCOW2_OFFSET_MASK)
			r = qcow2_meta_add_locked(q, (q->l1.entries[i] & QCOW2_OFFSET_MASK) >>
							     q->cluster_bits);
	}
	for (uint32_t i = 0; r >= 0 && i < q->reft.n; i++) {
		if (q->reft.entries[i])
			r = qcow2_meta_add_locked(q, q->reft.entries[i] >> q->cluster_bits);
	}
	return r;
}

static bool in_area(const struct qcow2 *q, uint64_t cluster, uint64_t offset, uint64_t bytes)
{
	uint64_t first = offset >> q->cluster_bits;

	return bytes > 0 && cluster >= first && cluster - first < qcow2_clusters_for(q, bytes);
}

bool qcow2_is_meta_locked(const struct qcow2 *q, uint64_t cluster)
{
	const struct qcow2_header *h = &q->h;

	return cluster == 0 || in_area(q, cluster, h->l1_offset, (uint64_t)h->l1_size * 8) ||
	       in_area(q, cluster, h->reft_offset, (uint64_t)h->reft_clusters << q->cluster_bits) ||
	       in_area(q, cluster, h->snapshots_offset, h->n_snapshots ? 1 : 0) ||
	       in_area(q, cluster, h->crypto_offset, h->crypto_bytes) || meta_has(q, cluster);
}

/* --- tables in memory --- */

void qcow2_table_fini(struct qcow2_table *t)
{
	free(t->entries);
	free(t->dirty);
	*t = (struct qcow2_table){0};
}

int qcow2_table_read(struct qcow2 *q, struct qcow2_table *t, uint64_t offset, uint32_t n)
{
	uint64_t bytes = align_up((uint64_t)n * 8, q->unit);
	void *p = NULL;
	int r;

	*t = (struct qcow2_table){.offset = offset, .n = n};
	if (posix_memalign(&p, 4096, bytes ? bytes : 4096) != 0)
		return -ENOMEM;
	t->entries = p;
	t->dirty = calloc(1, (bytes >> q->unit_bits) + 1);
	r = t->dirty ? image_file_pread(q->file, p, bytes, offset) : -ENOMEM;
	if (r < 0) {
		qcow2_table_fini(t);
		return r;
	}
	for (uint32_t i = 0; i < n; i++)
		t->entries[i] = qcow2_get64(&t->entries[i]);
	return 0;
}

void qcow2_table_set_locked(struct qcow2 *q, struct qcow2_table *t, uint32_t index, uint64_t value)
{
	size_t unit = (size_t)index * 8 >> q->unit_bits;

	t->entries[index] = value;
	if (t->dirty[unit])
		return;
	t->dirty[unit] = 1;
	t->n_dirty++;
}

int qcow2_table_write(struct qcow2 *q, const uint64_t *entries, uint32_t n, uint64_t offset)
{
	uint64_t bytes = qcow2_clusters_for(q, (uint64_t)n * 8) << q->cluster_bits;
	_cleanup_free_ uint8_t *buf = NULL;
	void *p = NULL;

	if (posix_memalign(&p, 4096, MAX(bytes, 4096u)) != 0)
		return -ENOMEM;
	buf = p;
	memset(buf, 0, bytes);
	for (uint32_t i = 0; i < n; i++)
		qcow2_put64(buf + (size_t)i * 8, entries[i]);
	return image_file_pwrite(q->file, buf, bytes, offset);
}

/* --- the header's first sector --- */

int qcow2_header_write(struct qcow2 *q, const struct qcow2_header *h)
{
	_cleanup_free_ uint8_t *buf = NULL;
	void *p = NULL;
	int r;

	if (posix_memalign(&p, 4096, 4096) != 0)
		return -ENOMEM;
	buf = p;
	r = image_file_sync(q->file);
	if (r >= 0)
		r = image_file_pread(q->file, buf, q->unit, 0);
	if (r < 0)
		return r;
	qcow2_put64(buf + 24, h->size);
	qcow2_put32(buf + 36, h->l1_size);
	qcow2_put64(buf + 40, h->l1_offset);
	qcow2_put64(buf + 48, h->reft_offset);
	qcow2_put32(buf + 56, h->reft_clusters);
	qcow2_put32(buf + 60, h->n_snapshots);
	qcow2_put64(buf + 64, h->snapshots_offset);
	if (h->version >= 3) {
		qcow2_put64(buf + 72, h->incompat);
		qcow2_put64(buf + 80, h->compat);
		qcow2_put64(buf + 88, h->autoclear);
	}
	r = image_file_pwrite(q->file, buf, q->unit, 0);
	if (r >= 0)
		r = image_file_sync(q->file);
	if (r < 0)
		return r;
	LOCK_GUARD(&q->lock);
	q->h.size = h->size;
	q->h.l1_size = h->l1_size;
	q->h.l1_offset = h->l1_offset;
	q->h.reft_offset = h->reft_offset;
	q->h.reft_clusters = h->reft_clusters;
	q->h.n_snapshots = h->n_snapshots;
	q->h.snapshots_offset = h->snapshots_offset;
	q->h.incompat = h->incompat;
	q->h.compat = h->compat;
	q->h.autoclear = h->autoclear;
	return 0;
}

/* --- opening --- */

static int read_header(struct qcow2 *q, const struct image_config *config, struct error *err)
{
	struct image_file *file = q->file;
	size_t most = (size_t)MIN(file->size_bytes, (uint64_t)1 << QCOW2_MAX_CLUSTER_BITS);
	size_t len = MIN(most, (size_t)65536);
	_cleanup_free_ uint8_t *buf = NULL;
	void *p = NULL;
	uint32_t bits;
	int r;

	if (posix_memalign(&p, 4096, (size_t)1 << QCOW2_MAX_CLUSTER_BITS) != 0)
		return error_set(err, -ENOMEM, "no memory for the header of %s", file->path);
	buf = p;
	r = len ? image_file_pread(file, buf, align_up(len, 4096), 0) : 0;
	/* Larger clusters are the exception: their header may be as long. */
	bits = len >= 24 ? qcow2_get32(buf + 20) : 0;
	if (r >= 0 && bits <= QCOW2_MAX_CLUSTER_BITS && bits > 16 && most > len) {
		len = MIN(most, (size_t)1 << bits);
		r = image_file_pread(file, buf, align_up(len, 4096), 0);
	}
	if (r < 0)
		return error_set_errno(err, r, "%s: its header cannot be read", file->path);
	r = qcow2_header_parse(buf, len, file->size_bytes, file->path, &q->h, err);
	if (r < 0 || config->inspect)
		return r;
	if ((q->h.incompat & QCOW2_INCOMPAT_CORRUPT) && !q->readonly)
		return error_set(err, -EIO,
				 "%s: is marked as damaged and may only be read; repair it: "
				 "vireo image check -r all",
				 file->path);
	if (q->h.crypt_method != 0)
		return error_set(err, -ENOTSUP,
				 "%s: is encrypted (%s), which this program cannot read",
				 file->path, q->h.crypt_method == 1 ? "AES" : "LUKS");
	return 0;
}

static void set_geometry(struct qcow2 *q)
{
	const struct qcow2_header *h = &q->h;

	q->cluster_bits = h->cluster_bits;
	q->cluster_bytes = 1u << h->cluster_bits;
	q->unit_bits = MIN(q->cluster_bits, 12u);
	q->unit = 1u << q->unit_bits;
	q->ext_l2 = (h->incompat & QCOW2_INCOMPAT_EXT_L2) != 0;
	q->entry_bits = q->ext_l2 ? 4 : 3;
	q->l2_bits = q->cluster_bits - q->entry_bits;
	q->sub_bits = q->ext_l2 ? q->cluster_bits - 5 : q->cluster_bits;
	q->ref_bits = q->cluster_bits + 3 - h->refcount_order;
	q->refcount_max = h->refcount_order == 6 ? UINT64_MAX : BIT(1u << h->refcount_order) - 1;
	q->zero_flag = h->version >= 3;
	q->max_blocks = MAX(CACHE_BYTES >> q->unit_bits, 64u);
	q->file_end = align_up(q->file->size_bytes, q->cluster_bytes);
	q->high_water = q->file->is_block ? UINT64_MAX : q->file_end >> q->cluster_bits;
}

static int check_tables(struct qcow2 *q, struct error *err)
{
	const char *path = q->file->path;

	for (uint32_t i = 0; i < q->reft.n; i++) {
		uint64_t e = q->reft.entries[i];

		if (e != 0 && (qcow2_in_cluster(q, e) || e >= q->file_end))
			return error_set(err, -EINVAL,
					 "%s: its refcount table's entry %" PRIu32 " of %#" PRIx64
					 " is no place of a cluster in the file",
					 path, i, e);
	}
	for (uint32_t i = 0; i < q->l1.n; i++) {
		uint64_t e = q->l1.entries[i];
		uint64_t at = e & QCOW2_OFFSET_MASK;

		if ((e & QCOW2_L1_RESERVED) || qcow2_in_cluster(q, at) || at >= q->file_end)
			return error_set(err, -EINVAL,
					 "%s: its L1 table's entry %" PRIu32 " of %#" PRIx64
					 " is no place of a cluster in the file",
					 path, i, e);
	}
	return 0;
}

static int read_tables(struct qcow2 *q, const struct image_config *config, struct error *err)
{
	uint32_t n = (uint32_t)((uint64_t)q->h.reft_clusters << q->cluster_bits >> 3);
	int r = qcow2_table_read(q, &q->l1, q->h.l1_offset, q->h.l1_size);

	if (r >= 0)
		r = qcow2_table_read(q, &q->reft, q->h.reft_offset, n);
	if (r < 0)
		return error_set_errno(err, r, "%s: its tables cannot be read", q->file->path);
	if (config->inspect)
		return 0;
	r = check_tables(q, err);
	if (r >= 0 && !q->readonly && qcow2_meta_rebuild(q) < 0)
		r = error_set(err, -ENOMEM, "no memory for the tables of %s", q->file->path);
	return r;
}

static int open_data_file(struct qcow2 *q, const struct image_config *config, struct error *err)
{
	struct image_config data = *config;
	int r;

	q->data = q->file;
	q->has_data_file = (q->h.incompat & QCOW2_INCOMPAT_DATA_FILE) != 0;
	q->data_raw = (q->h.autoclear & QCOW2_AUTOCLEAR_RAW_DATA) != 0;
	if (!q->has_data_file || config->inspect)
		return 0;
	if (!q->h.data_file)
		return error_set(err, -EINVAL, "%s: its data file has no name in it",
				 q->file->path);
	r = image_path_resolve(config, q->file->path, q->h.data_file, "data file", &q->data_path,
			       err);
	if (r < 0)
		return r;
	data.path = q->data_path;
	data.fd = -1;
	data.backend = NULL;
	data.readonly = q->readonly;
	r = image_file_open(&data, IMAGE_FILE_FORMAT, &q->data, err);
	if (r < 0) {
		q->data = q->file;
		return error_prefix(err, "%s: its data file", q->file->path);
	}
	return 0;
}

static int find_backing(struct qcow2 *q, const struct image_config *config, struct error *err)
{
	struct image_node *node = q->node;
	int r;

	q->has_backing = q->h.backing_name != NULL && *q->h.backing_name;
	if (!q->has_backing || config->no_backing)
		return 0;
	if (!q->h.backing_format)
		return error_set(err, -EINVAL,
				 "%s: its backing file '%s' has no stated format, and guessing is "
				 "not safe; state it: vireo image rebase -u -F FORMAT -b '%s' '%s'",
				 q->file->path, q->h.backing_name, q->h.backing_name,
				 q->file->path);
	r = image_path_resolve(config, q->file->path, q->h.backing_name, "backing file",
			       &node->backing_path, err);
	if (r < 0)
		return r;
	node->backing_format = strdup(q->h.backing_format);
	return node->backing_format ? 0
				    : error_set(err, -ENOMEM, "no memory for %s", q->file->path);
}

/* A writer that was killed left refcounts behind that may be too low: they are counted anew before anything is written. */
static int settle(struct qcow2 *q, const struct image_config *config, struct error *err)
{
	struct qcow2_header h = q->h;
	struct image_check_config check = {.fix_all = true, .fix_leaks = true};
	struct image_check_result result;
	uint64_t keep = q->data_raw ? QCOW2_AUTOCLEAR_RAW_DATA : 0;
	int r;

	if (q->readonly || config->inspect)
		return 0;
	if (h.incompat & QCOW2_INCOMPAT_DIRTY) {
		r = qcow2_check(q->node, &check, &result, err);
		if (r < 0)
			return r;
		if (result.corruptions > 0)
			return error_set(err, -EIO,
					 "%s: was not closed and cannot be repaired without a "
					 "loss; see: vireo image check '%s'",
					 q->file->path, q->file->path);
		h = q->h;
	}
	/* What others keep beside the disk (bitmaps) is not kept up by us. */
	if (h.version < 3 || (h.autoclear & ~keep) == 0)
		return 0;
	h.autoclear &= keep;
	r = qcow2_header_write(q, &h);
	return r < 0 ? error_set_errno(err, r, "%s: its header cannot be written", q->file->path)
		     : 0;
}

static void fill_info(struct qcow2 *q)
{
	const struct image_file *file = q->file;
	bool discards = !q->readonly && !file->ignore_discard;
	uint32_t logical = MAX(file->offset_align, q->data->offset_align);
	uint32_t physical = MAX(file->physical_block, q->data->physical_block);

	q->node->info = (struct image_info){
		.format = image_format_qcow2.name,
		.size_bytes = align_up(q->h.size, logical),
		.logical_block = logical,
		.physical_block = physical,
		.discard_granularity = discards ? q->cluster_bytes : 0,
		.readonly = q->readonly,
		.can_discard = discards,
		.can_write_zeroes = !q->readonly,
	};
}

static int open_all(struct qcow2 *q, const struct image_config *config, struct error *err)
{
	int r = read_header(q, config, err);

	if (r < 0)
		return r;
	set_geometry(q);
	if (q->file->offset_align > q->unit)
		return error_set(err, -EINVAL,
				 "%s: clusters of %u bytes are smaller than what direct I/O needs "
				 "here; use another cache mode than none",
				 q->file->path, q->cluster_bytes);
	r = image_pool_new("image-meta", 1, &q->worker);
	if (r < 0)
		return error_set_errno(err, r, "%s", q->file->path);
	r = open_data_file(q, config, err);
	if (r >= 0)
		r = read_tables(q, config, err);
	if (r >= 0)
		r = find_backing(q, config, err);
	if (r < 0)
		return r;
	fill_info(q);
	/* Without its backing image, the rest of a cluster cannot be known. */
	if (q->has_backing && config->no_backing)
		q->node->info.readonly = true;
	return settle(q, config, err);
}

static int open_node(struct image_node *node, const struct image_config *config, struct error *err)
{
	struct qcow2 *q = calloc(1, sizeof(*q));

	if (!q)
		return error_set(err, -ENOMEM, "no memory to open %s", node->file->path);
	q->node = node;
	q->file = node->file;
	q->data = node->file;
	q->readonly = node->file->readonly;
	pthread_mutex_init(&q->lock, NULL);
	pthread_cond_init(&q->loaded, NULL);
	node->state = q;
	return open_all(q, config, err);
}

/* --- closing --- */

/* Gives back what was taken ahead, and cuts off the end of the file that it took. Failures lose space only, or what was not
 * flushed. */
static void finish(struct qcow2 *q)
{
	uint64_t end = q->file_end >> q->cluster_bits;
	uint64_t count = 0;

	if (qcow2_comp_release(q) < 0 || qcow2_commit(q) < 0 || qcow2_reserve_return(q) < 0 ||
	    qcow2_commit(q) < 0)
		return;
	while (end > 0 && qcow2_ref_read(q, end - 1, &count) >= 0 && count == 0)
		end--;
	if (end << q->cluster_bits < q->file_end && end > 0)
		image_file_truncate(q->file, end << q->cluster_bits);
}

static void close_node(struct image_node *node)
{
	struct qcow2 *q = qcow2_of(node);

	if (!q)
		return;
	image_pool_free(q->worker);
	if (!q->readonly && q->meta_size > 0 &&
	    (q->commits_started > 0 || q->n_reserve > 0 || qcow2_uncommitted_locked(q) ||
	     q->dropped.n > 0))
		finish(q);
	qcow2_cache_free(q);
	qcow2_table_fini(&q->l1);
	qcow2_table_fini(&q->reft);
	qcow2_header_fini(&q->h);
	if (q->data != q->file)
		image_file_close(q->data);
	free(q->meta);
	free(q->dropped.runs);
	free(q->limbo.runs);
	free(q->draining.runs);
	free(q->data_path);
	pthread_cond_destroy(&q->loaded);
	pthread_mutex_destroy(&q->lock);
	free(q);
	node->state = NULL;
}

static const struct image_admin admin = {
	.create = qcow2_create,
	.describe = qcow2_describe,
	.resize = qcow2_resize,
	.check = qcow2_check,
	.set_backing = qcow2_set_backing,
	.preallocate = qcow2_preallocate,
	.snapshot_list = qcow2_snapshot_list,
	.snapshot_create = qcow2_snapshot_create,
	.snapshot_apply = qcow2_snapshot_apply,
	.snapshot_delete = qcow2_snapshot_delete,
};

const struct image_format image_format_qcow2 = {
	.name = "qcow2",
	.use = IMAGE_FILE_FORMAT,
	.open = open_node,
	.close = close_node,
	.channel_open = qcow2_channel_open,
	.channel_close = qcow2_channel_close,
	.submit = qcow2_submit,
	.map = qcow2_node_map,
	.admin = &admin,
};
