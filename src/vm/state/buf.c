/* Buffers, readers, paths, and the checksum of sections. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "vm/state/state_int.h"

void state_buf_fini(struct state_buf *buf)
{
	free(buf->data);
	*buf = (struct state_buf){0};
}

static bool make_room(struct state_buf *buf, size_t len)
{
	size_t want = MAX(buf->cap, 4096u);
	uint8_t *data;

	if (buf->error)
		return false;
	if (len <= buf->cap - buf->len)
		return true;
	if (len > STATE_BUF_MAX - buf->len) {
		buf->error = -EFBIG;
		return false;
	}
	while (want - buf->len < len)
		want *= 2;
	data = realloc(buf->data, want);
	if (!data) {
		buf->error = -ENOMEM;
		return false;
	}
	buf->data = data;
	buf->cap = want;
	return true;
}

void state_put(struct state_buf *buf, const void *data, size_t len)
{
	if (len == 0 || !make_room(buf, len))
		return;
	memcpy(buf->data + buf->len, data, len);
	buf->len += len;
}

void state_put_uint(struct state_buf *buf, unsigned size, uint64_t value)
{
	uint8_t bytes[8];

	le_store(bytes, 8, value);
	state_put(buf, bytes, size);
}

size_t state_len_start(struct state_buf *buf)
{
	state_put_uint(buf, 4, 0);
	return buf->len;
}

void state_len_finish(struct state_buf *buf, size_t start)
{
	if (!buf->error)
		le_store(buf->data + start - 4, 4, buf->len - start);
}

const uint8_t *state_take(struct state_reader *reader, uint64_t len)
{
	const uint8_t *at = reader->data + reader->pos;

	if (reader->failed || !range_inside(reader->pos, len, reader->len)) {
		reader->failed = true;
		return NULL;
	}
	reader->pos += len;
	return at;
}

uint64_t state_take_uint(struct state_reader *reader, unsigned size)
{
	const uint8_t *at = state_take(reader, size);

	return at ? le_load(at, size) : 0;
}

struct state_reader state_take_part(struct state_reader *reader, uint64_t len)
{
	const uint8_t *at = state_take(reader, len);

	return at ? state_reader_of(at, len) : (struct state_reader){.failed = true};
}

void state_path_text(const struct state_path *path, char *text, size_t size)
{
	size_t used = 0;

	if (path->up) {
		state_path_text(path->up, text, size);
		used = strlen(text);
	}
	snprintf(text + used, size - used, "%s%s", used ? "." : "", path->name);
	used = strlen(text);
	if (path->index >= 0)
		snprintf(text + used, size - used, "[%d]", path->index);
}

/* CRC-32C (Castagnoli; RFC 3720, appendix B.4), by half bytes: sections are kilobytes. */
uint32_t state_crc32c(uint32_t crc, const void *data, size_t len)
{
	static const uint32_t table[16] = {
		0x00000000, 0x105EC76F, 0x20BD8EDE, 0x30E349B1, 0x417B1DBC, 0x5125DAD3,
		0x61C69362, 0x7198540D, 0x82F63B78, 0x92A8FC17, 0xA24BB5A6, 0xB21572C9,
		0xC38D26C4, 0xD3D3E1AB, 0xE330A81A, 0xF36E6F75,
	};
	const uint8_t *p = data;

	crc = ~crc;
	while (len-- > 0) {
		crc ^= *p++;
		crc = crc >> 4 ^ table[crc & 15];
		crc = crc >> 4 ^ table[crc & 15];
	}
	return ~crc;
}
