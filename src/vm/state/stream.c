#include "vm/state/stream.h"

#include <errno.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/fd.h"
#include "vm/state/state_int.h"

static const char magic[8] = {'V', 'I', 'R', 'E', 'O', 'S', 'T', '1'};

#define BYTE_ORDER_MARK 0x01020304u

/* Everything is naturally aligned; checksums cover head, name and body. */
struct stream_header {
	char magic[8];
	le16 version, flags; /* flags: none yet, others are refused */
	le32 byte_order;
};

struct section_head {
	le16 kind, name_len;
	le32 instance;
	le64 body_len;
};

int state_stream_begin(struct state_buf *buf)
{
	struct stream_header h = {
		.version = le16_of(STATE_STREAM_VERSION),
		.byte_order = le32_of(BYTE_ORDER_MARK),
	};

	memcpy(h.magic, magic, sizeof(magic));
	state_put(buf, &h, sizeof(h));
	return buf->error;
}

static size_t section_start(struct state_buf *buf, enum state_section_kind kind, const char *name,
			    uint32_t instance)
{
	size_t start = buf->len, name_len = strlen(name);
	struct section_head h = {
		.kind = le16_of((uint16_t)kind),
		.name_len = le16_of((uint16_t)name_len),
		.instance = le32_of(instance),
	};

	if (name_len > STATE_SECTION_NAME_MAX && !buf->error)
		buf->error = -ENAMETOOLONG;
	state_put(buf, &h, sizeof(h));
	state_put(buf, name, name_len);
	return start;
}

static int section_finish(struct state_buf *buf, size_t start)
{
	struct section_head *h;
	size_t body;

	if (buf->error)
		return buf->error;
	h = (void *)(buf->data + start);
	body = start + sizeof(*h) + le16_get(h->name_len);
	h->body_len = le64_of(buf->len - body);
	state_put_uint(buf, 4, state_crc32c(0, buf->data + start, buf->len - start));
	return buf->error;
}

int state_stream_object(struct state_buf *buf, const char *name, uint32_t instance,
			const struct state_table *table, void *obj)
{
	size_t start = section_start(buf, STATE_SECTION_OBJECT, name, instance);

	state_save(table, obj, buf);
	return section_finish(buf, start);
}

int state_stream_blob(struct state_buf *buf, const char *name, uint32_t instance, const void *data,
		      size_t len)
{
	size_t start = section_start(buf, STATE_SECTION_BLOB, name, instance);

	state_put(buf, data, len);
	return section_finish(buf, start);
}

int state_stream_end(struct state_buf *buf)
{
	return section_finish(buf, section_start(buf, STATE_SECTION_END, "", 0));
}

int state_buf_write(const struct state_buf *buf, int fd)
{
	return buf->error ? buf->error : fd_write_full(fd, buf->data, buf->len);
}

static int check_header(const struct stream_header *h, struct error *err)
{
	if (memcmp(h->magic, magic, sizeof(magic)) != 0)
		return error_set(err, -EINVAL, "this is not the saved state of a machine");
	if (le16_get(h->version) != STATE_STREAM_VERSION || le16_get(h->flags) != 0 ||
	    le32_get(h->byte_order) != BYTE_ORDER_MARK)
		return error_set(err, -EINVAL,
				 "saved state: format %u with flags 0x%x is not known here; it was "
				 "saved by a newer version",
				 le16_get(h->version), le16_get(h->flags));
	return 0;
}

static int damaged(struct error *err)
{
	return error_set(err, -EINVAL, "saved state: the stream is damaged or cut off");
}

int state_stream_open(struct state_reader *reader, struct error *err)
{
	struct stream_header h;
	const uint8_t *at = state_take(reader, sizeof(h));

	if (!at)
		return damaged(err);
	memcpy(&h, at, sizeof(h));
	return check_header(&h, err);
}

int state_stream_next(struct state_reader *reader, struct state_section *ret, struct error *err)
{
	const uint8_t *start = reader->data + reader->pos;
	const uint8_t *head = state_take(reader, sizeof(struct section_head)), *name;
	struct state_section s = {0};
	struct section_head h;
	uint32_t crc;

	if (!head)
		return damaged(err);
	memcpy(&h, head, sizeof(h));
	if (le16_get(h.kind) > STATE_SECTION_BLOB || le16_get(h.name_len) > STATE_SECTION_NAME_MAX)
		return damaged(err);
	name = state_take(reader, le16_get(h.name_len));
	s.body = state_take_part(reader, le64_get(h.body_len));
	crc = (uint32_t)state_take_uint(reader, 4);
	if (reader->failed ||
	    crc != state_crc32c(0, start, (size_t)(reader->data + reader->pos - 4 - start)))
		return damaged(err);
	s.kind = (enum state_section_kind)le16_get(h.kind);
	s.instance = le32_get(h.instance);
	memcpy(s.name, name, le16_get(h.name_len));
	*ret = s;
	return s.kind == STATE_SECTION_END ? 0 : 1;
}

int state_section_load(struct state_section *section, const struct state_table *table, void *obj,
		       struct error *err)
{
	int r;

	if (section->kind != STATE_SECTION_OBJECT)
		r = error_set(err, -EINVAL, "saved state: not an object");
	else
		r = state_load(table, obj, &section->body, err);
	if (r == 0 && section->body.pos != section->body.len)
		r = error_set(err, -EINVAL, "saved state: bytes left over");
	if (r < 0)
		error_prefix(err, "'%s'", section->name);
	return r;
}

/* Appends exactly len bytes from fd. */
static int read_more(int fd, struct state_buf *buf, size_t len, struct error *err)
{
	uint8_t chunk[16384];

	while (len > 0) {
		size_t n = MIN(len, sizeof(chunk));
		ssize_t got = fd_read_full(fd, chunk, n);

		if (got < 0)
			return error_set_errno(err, (int)got, "cannot read the saved state");
		if ((size_t)got < n)
			return damaged(err);
		state_put(buf, chunk, n);
		len -= n;
	}
	if (buf->error)
		return error_set_errno(err, buf->error, "cannot keep the saved state in memory");
	return 0;
}

int state_stream_read(int fd, size_t max_bytes, struct state_buf *ret, struct error *err)
{
	_cleanup_(state_buf_fini) struct state_buf buf = {0};
	struct stream_header header;
	struct section_head h;
	int r = read_more(fd, &buf, sizeof(header), err);

	if (r < 0)
		return r;
	memcpy(&header, buf.data, sizeof(header));
	r = check_header(&header, err);
	do {
		uint64_t rest;

		if (r == 0)
			r = read_more(fd, &buf, sizeof(h), err);
		if (r < 0)
			return r;
		memcpy(&h, buf.data + buf.len - sizeof(h), sizeof(h));
		rest = le16_get(h.name_len) + 4ULL;
		if (le64_get(h.body_len) > max_bytes ||
		    le64_get(h.body_len) + rest > max_bytes - MIN(buf.len, max_bytes))
			return error_set(err, -EFBIG,
					 "saved state: the stream is larger than %zu bytes",
					 max_bytes);
		r = read_more(fd, &buf, le64_get(h.body_len) + rest, err);
	} while (r == 0 && le16_get(h.kind) != STATE_SECTION_END);
	if (r < 0)
		return r;
	*ret = buf;
	buf = (struct state_buf){0};
	return 0;
}
