/*
 * The snapshot table: reading it, with a message for what cannot be, and writing it.
 *
 * Main thread.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "base/cleanup.h"
#include "image/qcow2/qcow2_snapshot.h"

#define FIXED_BYTES 40u
#define EXTRA_BYTES 16u /* of the extra data, what we know */
#define MAX_EXTRA   1024u
#define MAX_TOTAL   QCOW2_MAX_SNAPSHOT_BYTES

static int bad(struct error *err, const char *path, uint32_t index, const char *field,
	       uint64_t value, const char *why)
{
	return error_set(err, -EINVAL, "%s: snapshot %" PRIu32 ": its %s of %" PRIu64 " %s", path,
			 index, field, value, why);
}

/* Names are text for people: what would not print is replaced. */
static char *take_text(const uint8_t *p, size_t len)
{
	char *s = malloc(len + 1);

	if (!s)
		return NULL;
	memcpy(s, p, len);
	s[len] = '\0';
	for (char *c = s; *c; c++)
		*c = (unsigned char)*c < ' ' || *c == 127 ? '?' : *c;
	return s;
}

/* One entry at p, of which `left` bytes are there; *ret_bytes: its length. */
static int parse_one(const uint8_t *p, size_t left, const struct qcow2_header *h, const char *path,
		     uint32_t index, struct qcow2_snapshot *s, uint64_t *ret_bytes,
		     struct error *err)
{
	uint32_t extra;
	uint64_t id_len;
	uint64_t name_len;
	uint64_t total;

	if (left < FIXED_BYTES)
		return -ENOSPC;
	extra = qcow2_get32(p + 36);
	id_len = qcow2_get32(p + 12) >> 16;
	name_len = qcow2_get32(p + 12) & 0xffff;
	if (extra > MAX_EXTRA)
		return bad(err, path, index, "extra data size", extra, "is more than 1024");
	total = align_up(FIXED_BYTES + extra + id_len + name_len, 8);
	if (total > left)
		return -ENOSPC;
	s->l1_offset = qcow2_get64(p);
	s->l1_size = qcow2_get32(p + 8);
	s->date_sec = qcow2_get32(p + 16);
	s->date_nsec = qcow2_get32(p + 20);
	s->vm_clock_nsec = qcow2_get64(p + 24);
	s->vm_state_bytes = extra >= 8 ? qcow2_get64(p + 40) : qcow2_get32(p + 32);
	s->disk_bytes = extra >= 16 ? qcow2_get64(p + 48) : h->size;
	if ((uint64_t)s->l1_size * 8 > QCOW2_MAX_L1_BYTES)
		return bad(err, path, index, "l1_size", s->l1_size, "is more than 4194304");
	if (s->l1_offset & ((1ULL << h->cluster_bits) - 1))
		return bad(err, path, index, "l1_table_offset", s->l1_offset,
			   "is no multiple of the cluster size");
	if (extra > EXTRA_BYTES) {
		s->n_more = extra - EXTRA_BYTES;
		s->more = malloc(s->n_more);
		if (s->more)
			memcpy(s->more, p + FIXED_BYTES + EXTRA_BYTES, s->n_more);
	}
	s->id = take_text(p + FIXED_BYTES + extra, id_len);
	s->name = take_text(p + FIXED_BYTES + extra + id_len, name_len);
	if (!s->id || !s->name || (s->n_more && !s->more))
		return error_set(err, -ENOMEM, "no memory for the snapshots of %s", path);
	*ret_bytes = total;
	return 0;
}

int qcow2_snapshots_parse(const uint8_t *buf, size_t len, uint32_t n, const struct qcow2_header *h,
			  const char *path, struct qcow2_snapshots *ret, struct error *err)
{
	struct qcow2_snapshots s = {0};
	int r = 0;

	/* No more room than the entries that can be there. */
	if (n > QCOW2_MAX_SNAPSHOTS || (uint64_t)n * FIXED_BYTES > len)
		return -ENOSPC;
	s.list = calloc(n ? n : 1, sizeof(*s.list));
	if (!s.list)
		return error_set(err, -ENOMEM, "no memory for the snapshots of %s", path);
	for (uint32_t i = 0; r >= 0 && i < n; i++) {
		uint64_t bytes = 0;

		s.n = i + 1;
		r = parse_one(buf + s.bytes, len - s.bytes, h, path, i, &s.list[i], &bytes, err);
		s.bytes += bytes;
	}
	if (r < 0) {
		qcow2_snapshots_fini(&s);
		return r;
	}
	*ret = s;
	return 0;
}

void qcow2_snapshots_fini(struct qcow2_snapshots *s)
{
	for (uint32_t i = 0; i < s->n; i++) {
		free(s->list[i].id);
		free(s->list[i].name);
		free(s->list[i].more);
	}
	free(s->list);
	*s = (struct qcow2_snapshots){0};
}

/* --- writing --- */

static uint64_t entry_bytes(const struct qcow2_snapshot *s)
{
	return align_up(FIXED_BYTES + EXTRA_BYTES + s->n_more + strlen(s->id) + strlen(s->name), 8);
}

static void put_entry(const struct qcow2_snapshot *s, uint8_t *p)
{
	size_t id_len = strlen(s->id);
	size_t name_len = strlen(s->name);

	qcow2_put64(p, s->l1_offset);
	qcow2_put32(p + 8, s->l1_size);
	qcow2_put32(p + 12, (uint32_t)(id_len << 16 | name_len));
	qcow2_put32(p + 16, s->date_sec);
	qcow2_put32(p + 20, s->date_nsec);
	qcow2_put64(p + 24, s->vm_clock_nsec);
	qcow2_put32(p + 32, s->vm_state_bytes <= UINT32_MAX ? (uint32_t)s->vm_state_bytes : 0);
	qcow2_put32(p + 36, EXTRA_BYTES + s->n_more);
	qcow2_put64(p + 40, s->vm_state_bytes);
	qcow2_put64(p + 48, s->disk_bytes);
	p += FIXED_BYTES + EXTRA_BYTES;
	if (s->n_more)
		memcpy(p, s->more, s->n_more);
	memcpy(p + s->n_more, s->id, id_len);
	memcpy(p + s->n_more + id_len, s->name, name_len);
}

uint8_t *qcow2_snapshots_encode(const struct qcow2_snapshots *s, uint64_t *ret_bytes)
{
	uint64_t total = 0;
	uint8_t *buf;

	for (uint32_t i = 0; i < s->n; i++)
		total += entry_bytes(&s->list[i]);
	buf = calloc(1, total ? total : 1);
	*ret_bytes = total;
	total = 0;
	for (uint32_t i = 0; buf && i < s->n; i++) {
		put_entry(&s->list[i], buf + total);
		total += entry_bytes(&s->list[i]);
	}
	return buf;
}

/* --- from the file --- */

int qcow2_snapshots_read(struct qcow2 *q, struct qcow2_snapshots *ret, struct error *err)
{
	const struct qcow2_header *h = &q->h;
	const char *path = q->file->path;
	uint64_t most = h->snapshots_offset < q->file_end ? q->file_end - h->snapshots_offset : 0;
	uint64_t len = 65536;
	int r = -ENOSPC;

	*ret = (struct qcow2_snapshots){0};
	if (h->n_snapshots == 0)
		return 0;
	most = MIN(most, (uint64_t)MAX_TOTAL);
	/* How long it is, only its entries say. */
	while (r == -ENOSPC) {
		_cleanup_free_ uint8_t *buf = NULL;
		void *p = NULL;

		len = MIN(len, most);
		if (posix_memalign(&p, 4096, align_up(MAX(len, 4096ULL), 4096)) != 0)
			return error_set(err, -ENOMEM, "no memory for the snapshots of %s", path);
		buf = p;
		r = image_file_pread(q->file, buf, align_up(len, q->unit), h->snapshots_offset);
		if (r < 0)
			return error_set_errno(err, r, "%s: its snapshot table cannot be read",
					       path);
		r = qcow2_snapshots_parse(buf, len, h->n_snapshots, h, path, ret, err);
		if (r == -ENOSPC && len == most)
			return error_set(err, -EINVAL,
					 "%s: its %" PRIu32 " snapshots go past the end of the "
					 "file, or take more than 64 MiB",
					 path, h->n_snapshots);
		len *= 4;
	}
	return r;
}
