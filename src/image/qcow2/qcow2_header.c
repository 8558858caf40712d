/*
 * The header and its extensions (sections "Header", "Header extensions"): parsing with a message for each field that cannot be,
 * and writing. Unknown extensions, unknown later header fields and unknown compatible features are kept as they are.
 *
 * No I/O; any thread.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "base/cleanup.h"
#include "base/str.h"
#include "image/qcow2/qcow2_int.h"

#define EXT_END       0x00000000u
#define EXT_BACKING   0xe2792acau
#define EXT_FEATURES  0x6803f857u
#define EXT_BITMAPS   0x23852875u
#define EXT_CRYPTO    0x0537be77u
#define EXT_DATA_FILE 0x44415441u

#define FEATURE_BYTES 48u
#define MAX_FORMAT    64u

struct input {
	const uint8_t *buf;
	size_t len; /* of the first cluster, as far as there is one */
	uint64_t file_bytes;
	const char *path;
	struct error *err;
};

static int bad(const struct input *in, const char *field, uint64_t value, const char *why)
{
	return error_set(in->err, -EINVAL, "%s: its qcow2 header's %s of %" PRIu64 " %s", in->path,
			 field, value, why);
}

/* --- fields --- */

/* The name of an incompatible feature as the image's own table has it. */
static void feature_name(const struct input *in, uint32_t at, unsigned bit, char *ret, size_t size)
{
	snprintf(ret, size, "unknown feature %u", bit);
	while (at + 8 <= in->len) {
		uint32_t type = qcow2_get32(in->buf + at);
		uint64_t len = qcow2_get32(in->buf + at + 4);

		if (type == EXT_END || len > in->len - at - 8)
			return;
		for (uint64_t i = 0; type == EXT_FEATURES && i + FEATURE_BYTES <= len;
		     i += FEATURE_BYTES) {
			const uint8_t *f = in->buf + at + 8 + i;

			if (f[0] == 0 && f[1] == bit)
				snprintf(ret, size, "feature %u, '%.*s'", bit, 46,
					 (const char *)f + 2);
		}
		at += 8 + (uint32_t)align_up(len, 8);
	}
}

static int check_features(const struct input *in, const struct qcow2_header *h)
{
	uint64_t unknown = h->incompat & ~(uint64_t)QCOW2_INCOMPAT_KNOWN;
	char name[96];

	if (unknown == 0)
		return 0;
	feature_name(in, h->header_bytes, (unsigned)__builtin_ctzll(unknown), name, sizeof(name));
	for (char *c = name; *c; c++)
		*c = *c < ' ' || *c > '~' ? '?' : *c;
	return error_set(in->err, -ENOTSUP, "%s: it needs %s, which this program does not know",
			 in->path, name);
}

static int parse_v3(const struct input *in, struct qcow2_header *h)
{
	if (in->len < QCOW2_HEADER_V3_BYTES)
		return bad(in, "length", in->len, "is too short for version 3");
	h->incompat = qcow2_get64(in->buf + 72);
	h->compat = qcow2_get64(in->buf + 80);
	h->autoclear = qcow2_get64(in->buf + 88);
	h->refcount_order = qcow2_get32(in->buf + 96);
	h->header_bytes = qcow2_get32(in->buf + 100);
	if (h->header_bytes < QCOW2_HEADER_V3_BYTES || h->header_bytes % 8 != 0 ||
	    h->header_bytes > in->len)
		return bad(in, "header_length", h->header_bytes,
			   "is no multiple of 8 from 104 to a cluster");
	if (h->header_bytes > 104)
		h->compression = in->buf[104];
	if (h->header_bytes > QCOW2_HEADER_OUR_BYTES) {
		h->n_more = h->header_bytes - QCOW2_HEADER_OUR_BYTES;
		h->more = malloc(h->n_more);
		if (!h->more)
			return error_set(in->err, -ENOMEM, "no memory for the header of %s",
					 in->path);
		memcpy(h->more, in->buf + QCOW2_HEADER_OUR_BYTES, h->n_more);
	}
	return check_features(in, h);
}

static int check_table(const struct input *in, const struct qcow2_header *h, const char *field,
		       uint64_t offset, uint64_t bytes)
{
	uint64_t cluster = 1ULL << h->cluster_bits;

	if (offset & (cluster - 1))
		return bad(in, field, offset, "is no multiple of the cluster size");
	if (offset < cluster)
		return bad(in, field, offset, "is inside the header");
	if (!range_inside(offset, bytes, align_up(in->file_bytes, cluster)))
		return bad(in, field, offset, "points past the end of the file");
	return 0;
}

static bool overlap(uint64_t a, uint64_t a_bytes, uint64_t b, uint64_t b_bytes)
{
	return a_bytes && b_bytes && a < b + b_bytes && b < a + a_bytes;
}

static int check_tables(const struct input *in, const struct qcow2_header *h)
{
	uint64_t l1_bytes = (uint64_t)h->l1_size * 8;
	uint64_t reft_bytes = (uint64_t)h->reft_clusters << h->cluster_bits;
	unsigned entry_bits = h->incompat & QCOW2_INCOMPAT_EXT_L2 ? 4 : 3;
	unsigned l2_span_bits = 2 * h->cluster_bits - entry_bits;
	uint64_t need = l2_span_bits > 63 ? h->size != 0 : h->size >> l2_span_bits;
	int r;

	if (l2_span_bits <= 63 && (h->size & (BIT(l2_span_bits) - 1)))
		need++;
	if (l1_bytes > QCOW2_MAX_L1_BYTES)
		return bad(in, "l1_size", h->l1_size, "is more than 4194304");
	if (h->l1_size < need)
		return bad(in, "l1_size", h->l1_size, "is too small for the size of the disk");
	if (reft_bytes == 0 || reft_bytes > QCOW2_MAX_REFT_BYTES)
		return bad(in, "refcount_table_clusters", h->reft_clusters,
			   "is not from one cluster to 8 MiB");
	if (h->n_snapshots > QCOW2_MAX_SNAPSHOTS)
		return bad(in, "nb_snapshots", h->n_snapshots, "is more than 65536");
	r = h->l1_size ? check_table(in, h, "l1_table_offset", h->l1_offset, l1_bytes) : 0;
	if (r >= 0)
		r = check_table(in, h, "refcount_table_offset", h->reft_offset, reft_bytes);
	if (r >= 0 && h->n_snapshots)
		r = check_table(in, h, "snapshots_offset", h->snapshots_offset,
				(uint64_t)h->n_snapshots * 40);
	if (r < 0)
		return r;
	if (overlap(h->l1_offset, l1_bytes, h->reft_offset, reft_bytes))
		return bad(in, "l1_table_offset", h->l1_offset, "overlaps the refcount table");
	if (h->n_snapshots && (overlap(h->snapshots_offset, 1, h->l1_offset, l1_bytes) ||
			       overlap(h->snapshots_offset, 1, h->reft_offset, reft_bytes)))
		return bad(in, "snapshots_offset", h->snapshots_offset, "overlaps another table");
	return 0;
}

static int check_fields(const struct input *in, const struct qcow2_header *h)
{
	if (h->refcount_order > 6)
		return bad(in, "refcount_order", h->refcount_order, "is more than 6");
	if (h->size > INT64_MAX - (1ULL << QCOW2_MAX_CLUSTER_BITS))
		return bad(in, "size", h->size, "is more than any disk has");
	if (h->crypt_method > 2)
		return bad(in, "crypt_method", h->crypt_method, "is none that exists");
	if ((h->incompat & QCOW2_INCOMPAT_EXT_L2) && h->cluster_bits < 14)
		return bad(in, "cluster_bits", h->cluster_bits,
			   "is less than the 14 of extended L2 entries");
	if (((h->incompat & QCOW2_INCOMPAT_COMPRESSION) != 0) != (h->compression != 0))
		return bad(in, "compression_type", h->compression,
			   "contradicts its incompatible feature bit");
	if (h->compression > 1)
		return bad(in, "compression_type", h->compression, "is neither zlib nor zstd");
	if ((h->autoclear & QCOW2_AUTOCLEAR_RAW_DATA) && !(h->incompat & QCOW2_INCOMPAT_DATA_FILE))
		return bad(in, "autoclear_features", h->autoclear,
			   "speaks of a raw external data file, and there is none");
	if ((h->incompat & QCOW2_INCOMPAT_DATA_FILE) && h->n_snapshots)
		return bad(in, "nb_snapshots", h->n_snapshots,
			   "cannot be with an external data file");
	return check_tables(in, h);
}

/* --- strings and extensions --- */

static int take_string(const struct input *in, const char *what, const uint8_t *p, uint64_t len,
		       uint64_t max, char **ret)
{
	char *s;

	if (len > max)
		return bad(in, what, len, "is too long a name");
	if (memchr(p, '\0', len))
		len = strnlen((const char *)p, len);
	if (*ret)
		return bad(in, what, len, "is there twice");
	s = malloc(len + 1);
	if (!s)
		return error_set(in->err, -ENOMEM, "no memory for the header of %s", in->path);
	memcpy(s, p, len);
	s[len] = '\0';
	*ret = s;
	return 0;
}

static int keep_extension(const struct input *in, struct qcow2_header *h, uint32_t type,
			  const uint8_t *p, uint32_t len)
{
	struct qcow2_extension *e = &h->extensions[h->n_extensions];

	if (h->n_extensions == QCOW2_MAX_EXTENSIONS)
		return bad(in, "header extensions", h->n_extensions, "are too many");
	e->data = malloc(len ? len : 1);
	if (!e->data)
		return error_set(in->err, -ENOMEM, "no memory for the header of %s", in->path);
	memcpy(e->data, p, len);
	e->type = type;
	e->len = len;
	h->n_extensions++;
	return 0;
}

static int take_bitmaps(const struct input *in, struct qcow2_header *h, const uint8_t *p,
			uint32_t len)
{
	if (len != 24)
		return bad(in, "bitmaps extension", len, "has not 24 bytes");
	h->has_bitmaps = true;
	h->n_bitmaps = qcow2_get32(p);
	h->bitmaps_bytes = qcow2_get64(p + 8);
	h->bitmaps_offset = qcow2_get64(p + 16);
	if (h->n_bitmaps == 0 || h->n_bitmaps > 65535)
		return bad(in, "nb_bitmaps", h->n_bitmaps, "is not from 1 to 65535");
	if (h->bitmaps_bytes > 65535ULL * 2048)
		return bad(in, "bitmap_directory_size", h->bitmaps_bytes, "is too large");
	return check_table(in, h, "bitmap_directory_offset", h->bitmaps_offset, h->bitmaps_bytes);
}

static int take_extension(const struct input *in, struct qcow2_header *h, uint32_t type,
			  const uint8_t *p, uint32_t len)
{
	switch (type) {
	case EXT_BACKING:
		return take_string(in, "backing format", p, len, MAX_FORMAT, &h->backing_format);
	case EXT_DATA_FILE:
		return take_string(in, "data file name", p, len, QCOW2_MAX_NAME, &h->data_file);
	case EXT_BITMAPS:
		return take_bitmaps(in, h, p, len);
	case EXT_CRYPTO:
		if (len != 16)
			return bad(in, "encryption extension", len, "has not 16 bytes");
		h->crypto_offset = qcow2_get64(p);
		h->crypto_bytes = qcow2_get64(p + 8);
		return check_table(in, h, "encryption header offset", h->crypto_offset,
				   h->crypto_bytes);
	}
	return keep_extension(in, h, type, p, len);
}

static int parse_extensions(const struct input *in, struct qcow2_header *h, uint64_t end)
{
	uint64_t at = h->header_bytes;

	while (at + 8 <= end) {
		uint32_t type = qcow2_get32(in->buf + at);
		uint32_t len = qcow2_get32(in->buf + at + 4);
		int r;

		at += 8;
		if (type == EXT_END)
			return 0;
		if (len > end - at)
			return bad(in, "extension length", len, "goes past the header's cluster");
		r = take_extension(in, h, type, in->buf + at, len);
		if (r < 0)
			return r;
		at += align_up(len, 8);
	}
	return 0;
}

static int parse_names(const struct input *in, struct qcow2_header *h)
{
	uint64_t offset = qcow2_get64(in->buf + 8);
	uint32_t len = qcow2_get32(in->buf + 16);
	int r;

	if (offset != 0) {
		if (len > QCOW2_MAX_NAME)
			return bad(in, "backing_file_size", len, "is more than 1023");
		if (offset < h->header_bytes || !range_inside(offset, len, in->len))
			return bad(in, "backing_file_offset", offset,
				   "is outside the header's cluster");
		r = take_string(in, "backing_file_size", in->buf + offset, len, QCOW2_MAX_NAME,
				&h->backing_name);
		if (r >= 0 && *h->backing_name == '\0') { /* as good as none */
			free(h->backing_name);
			h->backing_name = NULL;
		}
		if (r < 0)
			return r;
	}
	return parse_extensions(in, h, offset ? offset : in->len);
}

int qcow2_header_parse(const uint8_t *buf, size_t len, uint64_t file_bytes, const char *path,
		       struct qcow2_header *ret, struct error *err)
{
	struct input in = {
		.buf = buf, .len = len, .file_bytes = file_bytes, .path = path, .err = err};
	struct qcow2_header h = {.refcount_order = 4, .header_bytes = QCOW2_HEADER_V2_BYTES};
	int r;

	if (len < QCOW2_HEADER_V2_BYTES || qcow2_get32(buf) != QCOW2_MAGIC)
		return error_set(err, -EINVAL, "%s: is no qcow2 image (it has no such header)",
				 path);
	h.version = qcow2_get32(buf + 4);
	if (h.version != 2 && h.version != 3)
		return bad(&in, "version", h.version, "is neither 2 nor 3");
	h.cluster_bits = qcow2_get32(buf + 20);
	if (h.cluster_bits < 9 || h.cluster_bits > QCOW2_MAX_CLUSTER_BITS)
		return bad(&in, "cluster_bits", h.cluster_bits, "is not from 9 to 21");
	in.len = MIN(len, (size_t)1 << h.cluster_bits);
	h.size = qcow2_get64(buf + 24);
	h.crypt_method = qcow2_get32(buf + 32);
	h.l1_size = qcow2_get32(buf + 36);
	h.l1_offset = qcow2_get64(buf + 40);
	h.reft_offset = qcow2_get64(buf + 48);
	h.reft_clusters = qcow2_get32(buf + 56);
	h.n_snapshots = qcow2_get32(buf + 60);
	h.snapshots_offset = qcow2_get64(buf + 64);
	r = h.version == 3 ? parse_v3(&in, &h) : 0;
	if (r >= 0)
		r = check_fields(&in, &h);
	if (r >= 0)
		r = parse_names(&in, &h);
	if (r >= 0 && (h.autoclear & QCOW2_AUTOCLEAR_BITMAPS) && !h.has_bitmaps)
		r = bad(&in, "autoclear_features", h.autoclear,
			"speaks of bitmaps, and there are none");
	if (r < 0) {
		qcow2_header_fini(&h);
		return r;
	}
	*ret = h;
	return 0;
}

void qcow2_header_fini(struct qcow2_header *h)
{
	free(h->backing_name);
	free(h->backing_format);
	free(h->data_file);
	free(h->more);
	for (unsigned i = 0; i < h->n_extensions; i++)
		free(h->extensions[i].data);
	*h = (struct qcow2_header){0};
}

/* --- writing --- */

struct output {
	uint8_t *buf;
	size_t len, at;
	bool full;
};

static uint8_t *out_take(struct output *out, size_t bytes)
{
	static uint8_t nowhere[8];
	uint8_t *p = out->buf + out->at;

	if (out->full || align_up(bytes, 8) > out->len - out->at) {
		out->full = true;
		return bytes <= sizeof(nowhere) ? nowhere : NULL;
	}
	out->at += align_up(bytes, 8);
	return p;
}

static void out_extension(struct output *out, uint32_t type, const void *data, size_t len)
{
	uint8_t *p = out_take(out, 8 + len);

	if (!p || out->full)
		return;
	qcow2_put32(p, type);
	qcow2_put32(p + 4, (uint32_t)len);
	if (len)
		memcpy(p + 8, data, len);
}

static const struct feature {
	uint8_t type, bit;
	const char *name;
} features[] = {
	{0, 0, "refcounts not up to date (dirty)"},
	{0, 1, "damaged (corrupt)"},
	{0, 2, "external data file"},
	{0, 3, "compression other than zlib"},
	{0, 4, "extended L2 entries"},
	{1, 0, "lazy refcounts"},
	{2, 0, "bitmaps"},
	{2, 1, "raw external data file"},
};

static void out_features(struct output *out)
{
	uint8_t table[ARRAY_SIZE(features) * FEATURE_BYTES] = {0};

	for (size_t i = 0; i < ARRAY_SIZE(features); i++) {
		uint8_t *f = table + i * FEATURE_BYTES;

		f[0] = features[i].type;
		f[1] = features[i].bit;
		memcpy(f + 2, features[i].name, strlen(features[i].name));
	}
	out_extension(out, EXT_FEATURES, table, sizeof(table));
}

static void put_fields(const struct qcow2_header *h, uint8_t *buf)
{
	qcow2_put32(buf, QCOW2_MAGIC);
	qcow2_put32(buf + 4, h->version);
	qcow2_put32(buf + 20, h->cluster_bits);
	qcow2_put64(buf + 24, h->size);
	qcow2_put32(buf + 32, h->crypt_method);
	qcow2_put32(buf + 36, h->l1_size);
	qcow2_put64(buf + 40, h->l1_offset);
	qcow2_put64(buf + 48, h->reft_offset);
	qcow2_put32(buf + 56, h->reft_clusters);
	qcow2_put32(buf + 60, h->n_snapshots);
	qcow2_put64(buf + 64, h->snapshots_offset);
	if (h->version == 2)
		return;
	qcow2_put64(buf + 72, h->incompat);
	qcow2_put64(buf + 80, h->compat);
	qcow2_put64(buf + 88, h->autoclear);
	qcow2_put32(buf + 96, h->refcount_order);
	qcow2_put32(buf + 100, h->header_bytes);
	if (h->header_bytes > 104)
		buf[104] = h->compression;
}

static void out_extensions(struct output *out, const struct qcow2_header *h)
{
	bool has_table = false;

	if (h->backing_format)
		out_extension(out, EXT_BACKING, h->backing_format, strlen(h->backing_format));
	if (h->data_file)
		out_extension(out, EXT_DATA_FILE, h->data_file, strlen(h->data_file));
	if (h->crypto_offset) {
		uint8_t data[16];

		qcow2_put64(data, h->crypto_offset);
		qcow2_put64(data + 8, h->crypto_bytes);
		out_extension(out, EXT_CRYPTO, data, sizeof(data));
	}
	if (h->has_bitmaps) {
		uint8_t data[24] = {0};

		qcow2_put32(data, h->n_bitmaps);
		qcow2_put64(data + 8, h->bitmaps_bytes);
		qcow2_put64(data + 16, h->bitmaps_offset);
		out_extension(out, EXT_BITMAPS, data, sizeof(data));
	}
	for (unsigned i = 0; i < h->n_extensions; i++) {
		has_table |= h->extensions[i].type == EXT_FEATURES;
		out_extension(out, h->extensions[i].type, h->extensions[i].data,
			      h->extensions[i].len);
	}
	/* Names for others' messages; small clusters have no room for them. */
	if (h->version == 3 && !has_table && out->len >= 4096)
		out_features(out);
	out_extension(out, EXT_END, NULL, 0);
}

int qcow2_header_encode(const struct qcow2_header *h, uint8_t *buf, size_t cluster_bytes,
			const char *path, struct error *err)
{
	struct output out = {.buf = buf, .len = cluster_bytes, .at = h->header_bytes};
	size_t len = h->backing_name ? strlen(h->backing_name) : 0;
	uint8_t *p;

	memset(buf, 0, cluster_bytes);
	put_fields(h, buf);
	if (h->n_more)
		memcpy(buf + QCOW2_HEADER_OUR_BYTES, h->more, h->n_more);
	out_extensions(&out, h);
	if (len > QCOW2_MAX_NAME)
		return error_set(err, -ENAMETOOLONG,
				 "%s: the backing file's name has more than 1023 characters", path);
	if (len) {
		qcow2_put64(buf + 8, out.at);
		qcow2_put32(buf + 16, (uint32_t)len);
		p = out_take(&out, len);
		if (p && !out.full)
			memcpy(p, h->backing_name, len);
	}
	if (out.full)
		return error_set(err, -ENOSPC,
				 "%s: names and extensions do not fit into its first cluster of "
				 "%zu bytes; shorten the names",
				 path, cluster_bytes);
	return 0;
}
