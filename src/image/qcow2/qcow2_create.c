/*
 * Making an empty image: header, refcount table, refcount blocks, an empty L1 table, one behind the other. The header is written
 * last, so that a cut leaves no image.
 *
 * Main thread.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

#include "base/bits.h"
#include "base/cleanup.h"
#include "image/qcow2/qcow2_int.h"

struct layout {
	uint64_t reft_clusters, block_clusters, l1_clusters, total;
	unsigned ref_bits; /* log2 of clusters that one block counts */
};

static int refuse(const char *path, const char *option, const char *why, struct error *err)
{
	return error_set(err, -EINVAL, "%s: %s %s", path, option, why);
}

static int check_options(const struct image_create_config *c, struct error *err)
{
	uint32_t cluster = c->cluster_bytes ? c->cluster_bytes : 65536;
	uint32_t bits = c->refcount_bits ? c->refcount_bits : 16;

	if (!is_power_of_two(cluster) || cluster < 512 || cluster > 2 * MIB)
		return refuse(c->path, "cluster_size", "must be a power of two from 512 to 2M",
			      err);
	if (!is_power_of_two(bits) || bits > 64)
		return refuse(c->path, "refcount_bits", "must be a power of two from 1 to 64", err);
	if (c->version != 0 && c->version != 2 && c->version != 3)
		return refuse(c->path, "compat", "must be 0.10 (version 2) or 1.1 (version 3)",
			      err);
	if (c->version == 2 && (bits != 16 || c->lazy_refcounts || c->extended_l2 || c->data_file ||
				c->compression != IMAGE_COMPRESSION_ZLIB))
		return refuse(c->path, "compat=0.10",
			      "has refcount_bits=16 and no lazy_refcounts, extended_l2, data_file "
			      "or compression_type",
			      err);
	if (c->extended_l2 && cluster < 16384)
		return refuse(c->path, "extended_l2", "wants a cluster_size of 16K or more", err);
	if (c->backing_path && !c->backing_format)
		return refuse(c->path, "backing_file",
			      "must come with the backing file's format (-F): it is not guessed",
			      err);
	if (c->backing_path && c->data_file_raw)
		return refuse(c->path, "data_file_raw", "cannot be with a backing file", err);
	if (c->data_file_raw && !c->data_file)
		return refuse(c->path, "data_file_raw", "wants a data_file", err);
	if (c->size_bytes % 512 != 0)
		return refuse(c->path, "size", "must be a multiple of 512", err);
	return 0;
}

static void header_of(const struct image_create_config *c, struct qcow2_header *h)
{
	uint32_t cluster = c->cluster_bytes ? c->cluster_bytes : 65536;
	uint32_t bits = c->refcount_bits ? c->refcount_bits : 16;

	*h = (struct qcow2_header){
		.version = c->version ? c->version : 3,
		.cluster_bits = (uint32_t)__builtin_ctz(cluster),
		.size = c->size_bytes,
		.refcount_order = (uint32_t)__builtin_ctz(bits),
		.backing_name = (char *)(uintptr_t)c->backing_path,
		.backing_format = c->backing_path ? (char *)(uintptr_t)c->backing_format : NULL,
		.data_file = (char *)(uintptr_t)c->data_file,
	};
	h->header_bytes = h->version == 2 ? QCOW2_HEADER_V2_BYTES : QCOW2_HEADER_OUR_BYTES;
	if (c->lazy_refcounts)
		h->compat |= QCOW2_COMPAT_LAZY;
	if (c->extended_l2)
		h->incompat |= QCOW2_INCOMPAT_EXT_L2;
	if (c->data_file)
		h->incompat |= QCOW2_INCOMPAT_DATA_FILE;
	if (c->data_file_raw)
		h->autoclear |= QCOW2_AUTOCLEAR_RAW_DATA;
	if (c->compression == IMAGE_COMPRESSION_ZSTD) {
		h->incompat |= QCOW2_INCOMPAT_COMPRESSION;
		h->compression = 1;
	}
}

static int lay_out(const struct image_create_config *c, struct qcow2_header *h, struct layout *l,
		   struct error *err)
{
	unsigned entry_bits = h->incompat & QCOW2_INCOMPAT_EXT_L2 ? 4 : 3;
	unsigned span_bits = 2 * h->cluster_bits - entry_bits;
	uint64_t l1 = (h->size >> span_bits) + ((h->size & (BIT(span_bits) - 1)) != 0);
	uint64_t cluster = BIT(h->cluster_bits);

	if (l1 * 8 > QCOW2_MAX_L1_BYTES || h->size > INT64_MAX - BIT(QCOW2_MAX_CLUSTER_BITS))
		return refuse(c->path, "size", "is too large for clusters of this size", err);
	h->l1_size = (uint32_t)l1;
	l->ref_bits = h->cluster_bits + 3 - h->refcount_order;
	l->l1_clusters = MAX((l1 * 8 + cluster - 1) >> h->cluster_bits, 1ULL);
	l->reft_clusters = l->block_clusters = 1;
	for (;;) {
		uint64_t blocks;
		uint64_t tables;

		l->total = 1 + l->reft_clusters + l->block_clusters + l->l1_clusters;
		blocks = (l->total + BIT(l->ref_bits) - 1) >> l->ref_bits;
		tables = (blocks * 8 + cluster - 1) >> h->cluster_bits;
		if (blocks <= l->block_clusters && tables <= l->reft_clusters)
			break;
		l->block_clusters = MAX(blocks, l->block_clusters);
		l->reft_clusters = MAX(tables, l->reft_clusters);
	}
	h->reft_offset = cluster;
	h->reft_clusters = (uint32_t)l->reft_clusters;
	h->l1_offset = (1 + l->reft_clusters + l->block_clusters) << h->cluster_bits;
	return 0;
}

/* What cluster `index` holds. */
static void fill_cluster(const struct qcow2_header *h, const struct layout *l, uint64_t index,
			 uint8_t *buf)
{
	uint64_t bytes = BIT(h->cluster_bits);
	uint64_t first_block = 1 + l->reft_clusters;

	memset(buf, 0, bytes);
	if (index >= 1 && index < first_block) {
		uint64_t at = (index - 1) * (bytes / 8);

		for (uint64_t i = 0; i < bytes / 8 && at + i < l->block_clusters; i++)
			qcow2_put64(buf + i * 8, (first_block + at + i) << h->cluster_bits);
	} else if (index >= first_block && index < first_block + l->block_clusters) {
		uint64_t at = (index - first_block) << l->ref_bits;

		for (uint64_t i = 0; i < BIT(l->ref_bits) && at + i < l->total; i++)
			qcow2_ref_set_entry(buf, h->refcount_order, i, 1);
	}
}

int qcow2_create(const struct image_create_config *config, struct image_file *file,
		 struct error *err)
{
	struct qcow2_header h = {0};
	_cleanup_free_ uint8_t *buf = NULL;
	void *p = NULL;
	struct layout l = {0};
	uint64_t bytes;
	int r = check_options(config, err);

	if (r < 0)
		return r;
	header_of(config, &h);
	r = lay_out(config, &h, &l, err);
	if (r < 0)
		return r;
	bytes = BIT(h.cluster_bits);
	if (posix_memalign(&p, 4096, MAX(bytes, 4096ULL)) != 0)
		return error_set(err, -ENOMEM, "no memory to make %s", config->path);
	buf = p;
	r = image_file_truncate(file, l.total << h.cluster_bits);
	if (r >= 0 && file->is_block && l.total << h.cluster_bits > file->size_bytes)
		r = -ENOSPC;
	for (uint64_t i = 1; r >= 0 && i < l.total; i++) {
		/* The L1 table is the hole that truncation left. */
		if (i >= h.l1_offset >> h.cluster_bits && !file->is_block)
			break;
		fill_cluster(&h, &l, i, buf);
		r = image_file_pwrite(file, buf, bytes, i << h.cluster_bits);
	}
	if (r >= 0)
		r = image_file_sync(file);
	if (r < 0)
		return error_set_errno(err, r, "%s: cannot be written", config->path);
	r = qcow2_header_encode(&h, buf, bytes, config->path, err);
	if (r < 0)
		return r;
	r = image_file_pwrite(file, buf, bytes, 0);
	if (r >= 0)
		r = image_file_sync(file);
	return r < 0 ? error_set_errno(err, r, "%s: cannot be written", config->path) : 0;
}
