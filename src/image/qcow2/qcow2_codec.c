/*
 * Compressed clusters (section "Compressed Clusters Descriptor"): raw deflate with a window of 4 KiB, or one zstd frame. We begin
 * each at a sector's start, so that no two writes share one.
 *
 * Packing and unpacking: any thread. Storing: the worker.
 */
#include <errno.h>
#include <stdlib.h>
#include <zlib.h>
#include <zstd.h>

#include "base/bits.h"
#include "base/cleanup.h"
#include "image/qcow2/qcow2_int.h"

#define WINDOW_BITS 12
#define MEM_LEVEL   9
#define ZSTD_LEVEL  3

/* --- packing --- */

static int64_t pack_zlib(const void *data, size_t bytes, void *packed, size_t max)
{
	z_stream z = {0};
	int r;

	if (deflateInit2(&z, Z_DEFAULT_COMPRESSION, Z_DEFLATED, -WINDOW_BITS, MEM_LEVEL,
			 Z_DEFAULT_STRATEGY) != Z_OK)
		return -ENOMEM;
	z.next_in = (Bytef *)(uintptr_t)data;
	z.avail_in = (uInt)bytes;
	z.next_out = packed;
	z.avail_out = (uInt)max;
	r = deflate(&z, Z_FINISH);
	deflateEnd(&z);
	return r == Z_STREAM_END ? (int64_t)(max - z.avail_out) : 0;
}

int64_t qcow2_pack(uint8_t compression, const void *data, size_t bytes, void *packed, size_t max)
{
	size_t n;

	if (max == 0 || max >= bytes)
		return 0;
	if (compression == 0)
		return pack_zlib(data, bytes, packed, max);
	n = ZSTD_compress(packed, max, data, bytes, ZSTD_LEVEL);
	return ZSTD_isError(n) ? 0 : (int64_t)n;
}

static int unpack_zlib(const void *packed, size_t packed_bytes, void *data, size_t bytes)
{
	z_stream z = {0};
	int r;

	if (inflateInit2(&z, -WINDOW_BITS) != Z_OK)
		return -ENOMEM;
	z.next_in = (Bytef *)(uintptr_t)packed;
	z.avail_in = (uInt)packed_bytes;
	z.next_out = data;
	z.avail_out = (uInt)bytes;
	r = inflate(&z, Z_FINISH);
	inflateEnd(&z);
	/* Some writers leave out the end mark: what counts is a whole cluster. */
	return (r == Z_STREAM_END || r == Z_BUF_ERROR) && z.avail_out == 0 ? 0 : -EIO;
}

static int unpack_zstd(const void *packed, size_t packed_bytes, void *data, size_t bytes)
{
	ZSTD_inBuffer in = {packed, packed_bytes, 0};
	ZSTD_outBuffer out = {data, bytes, 0};
	ZSTD_DStream *z = ZSTD_createDStream();
	size_t r = 1;

	if (!z)
		return -ENOMEM;
	while (out.pos < out.size && in.pos < in.size) {
		size_t in_before = in.pos;
		size_t out_before = out.pos;

		r = ZSTD_decompressStream(z, &out, &in);
		if (ZSTD_isError(r) || (in.pos == in_before && out.pos == out_before))
			break;
	}
	ZSTD_freeDStream(z);
	return !ZSTD_isError(r) && out.pos == out.size ? 0 : -EIO;
}

int qcow2_unpack(uint8_t compression, const void *packed, size_t packed_bytes, void *data,
		 size_t bytes)
{
	return compression == 0 ? unpack_zlib(packed, packed_bytes, data, bytes)
				: unpack_zstd(packed, packed_bytes, data, bytes);
}

/* --- reading one --- */

int qcow2_read_compressed(struct qcow2 *q, const struct qcow2_map *map, uint8_t *buf)
{
	uint64_t align = q->file->offset_align;
	uint64_t start = align_down(map->host, align);
	uint64_t end = align_up(map->host + map->comp_bytes, align);
	_cleanup_free_ uint8_t *packed = NULL;
	void *p = NULL;
	int r;

	if (posix_memalign(&p, 4096, end - start) != 0)
		return -ENOMEM;
	packed = p;
	r = image_file_pread(q->file, packed, end - start, start);
	return r < 0 ? r
		     : qcow2_unpack(q->h.compression, packed + (map->host - start), map->comp_bytes,
				    buf, q->cluster_bytes);
}

/* --- storing one --- */

static int take_cluster(struct qcow2 *q, uint64_t *ret)
{
	struct qcow2_run run;
	int r;

	do {
		r = qcow2_reserve_refill(q);
		if (r < 0)
			return r;
		pthread_mutex_lock(&q->lock);
		r = qcow2_alloc_locked(q, 1, &run) ? 0 : -EAGAIN;
		pthread_mutex_unlock(&q->lock);
	} while (r == -EAGAIN);
	*ret = run.cluster << q->cluster_bits;
	return 0;
}

/* The clusters that we are filling have a reference of ours beside those of what is in them: otherwise they could become free, and
 * somebody else's, between two. */
int qcow2_comp_release(struct qcow2 *q)
{
	uint64_t first = qcow2_cluster_of(q, q->comp_next);
	uint64_t n =
		q->comp_left ? qcow2_cluster_of(q, q->comp_next + q->comp_left - 1) + 1 - first : 0;

	q->comp_left = 0;
	return n ? qcow2_ref_change(q, first, n, -1) : 0;
}

static int space_more(struct qcow2 *q)
{
	uint64_t at;
	int r = take_cluster(q, &at);

	if (r >= 0 && (q->comp_left == 0 || q->comp_next + q->comp_left != at)) {
		r = qcow2_comp_release(q);
		q->comp_next = at;
	}
	if (r >= 0)
		q->comp_left += q->cluster_bytes;
	return r;
}

/* A reference for each cluster of [at, at + bytes); on failure none. */
static int space_ref(struct qcow2 *q, uint64_t at, uint64_t bytes)
{
	uint64_t first = qcow2_cluster_of(q, at);
	uint64_t last = qcow2_cluster_of(q, at + bytes - 1);

	for (uint64_t c = first; c <= last; c++) {
		int r = qcow2_ref_change(q, c, 1, 1);

		if (r < 0) {
			if (c > first)
				qcow2_ref_change(q, first, c - first, -1);
			return r;
		}
	}
	return 0;
}

/* A place for `bytes`, less than a cluster, with a reference to each cluster that it touches. */
static int space_take(struct qcow2 *q, uint64_t bytes, uint64_t *ret)
{
	uint64_t passed;
	int r;

	if (q->refcount_max == 1)
		return take_cluster(q, ret);
	do {
		r = 0;
		while (r >= 0 && q->comp_left < bytes)
			r = space_more(q);
		if (r >= 0)
			r = space_ref(q, q->comp_next, bytes);
		if (r == -ERANGE) { /* too many in it already */
			r = qcow2_comp_release(q);
			r = r < 0 ? r : -ERANGE;
		}
	} while (r == -ERANGE);
	if (r < 0)
		return r;
	*ret = q->comp_next;
	passed = qcow2_cluster_of(q, q->comp_next + bytes) - qcow2_cluster_of(q, q->comp_next);
	if (passed)
		r = qcow2_ref_change(q, qcow2_cluster_of(q, q->comp_next), passed, -1);
	q->comp_next += bytes;
	q->comp_left -= bytes;
	return r;
}

static int link_packed(struct qcow2 *q, uint64_t guest, uint64_t host, uint64_t bytes)
{
	unsigned x = 62 - (q->cluster_bits - 8);
	uint64_t sectors = ((host + bytes - 1) >> 9) - (host >> 9);
	struct qcow2_block *b;
	uint64_t load = 0;
	uint64_t bitmap;
	uint64_t old;
	int r;

	for (;;) {
		pthread_mutex_lock(&q->lock);
		r = qcow2_l2_locked(q, guest, &b, &load);
		if (r >= 0)
			break;
		pthread_mutex_unlock(&q->lock);
		r = r == -EAGAIN   ? qcow2_block_load(q, load, QCOW2_BLOCK_L2)
		    : r == -ENOENT ? qcow2_l2_make(q, guest)
				   : r;
		if (r < 0)
			return r;
	}
	old = qcow2_entry_get(q, b, guest, &bitmap);
	qcow2_entry_set_locked(q, b, guest, QCOW2_ENTRY_COMPRESSED | sectors << x | host, 0);
	qcow2_drop_entry_locked(q, old);
	pthread_mutex_unlock(&q->lock);
	return 0;
}

int qcow2_write_compressed(struct qcow2 *q, uint64_t guest, const void *packed, size_t bytes)
{
	uint64_t align = MAX(q->file->offset_align, 512u);
	uint64_t padded = align_up(bytes, align);
	_cleanup_free_ uint8_t *buf = NULL;
	void *p = NULL;
	uint64_t host;
	bool full;
	int r;

	if (posix_memalign(&p, 4096, padded) != 0)
		return -ENOMEM;
	buf = p;
	memcpy(buf, packed, bytes);
	memset(buf + bytes, 0, padded - bytes);
	pthread_mutex_lock(&q->lock);
	full = qcow2_cache_full_locked(q);
	pthread_mutex_unlock(&q->lock);
	r = full ? qcow2_commit(q) : 0;
	if (r >= 0)
		r = space_take(q, padded, &host);
	if (r < 0)
		return r;
	r = host + padded > BIT(62 - (q->cluster_bits - 8)) ? -EFBIG : 0;
	if (r >= 0)
		r = image_file_pwrite(q->file, buf, padded, host);
	if (r >= 0)
		r = link_packed(q, guest, host, bytes);
	if (r < 0) {
		LOCK_GUARD(&q->lock);
		qcow2_drop_locked(q, qcow2_cluster_of(q, host),
				  qcow2_cluster_of(q, host + padded - 1) -
					  qcow2_cluster_of(q, host) + 1);
	}
	return r;
}
