#include "host/rpc/frame.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "base/endian.h"

#define READER_FIRST 512u      /* most calls fit */
#define READER_KEEP  (4 * KIB) /* kept between frames */

static uint32_t word_get(const uint8_t *buf, unsigned index)
{
	be32 v;

	memcpy(&v, buf + 4 * index, sizeof(v));
	return be32_get(v);
}

static void word_put(uint8_t *buf, unsigned index, uint32_t value)
{
	be32 v = be32_of(value);

	memcpy(buf + 4 * index, &v, sizeof(v));
}

void rpc_header_get(const uint8_t *buf, struct rpc_header *ret)
{
	*ret = (struct rpc_header){
		.program = word_get(buf, 0),
		.version = word_get(buf, 1),
		.procedure = (int32_t)word_get(buf, 2),
		.type = word_get(buf, 3),
		.serial = word_get(buf, 4),
		.status = word_get(buf, 5),
	};
}

void rpc_frame_put(uint8_t *buf, const struct rpc_header *header, size_t payload_bytes)
{
	word_put(buf, 0, (uint32_t)(RPC_FRAME_MIN + payload_bytes));
	word_put(buf, 1, header->program);
	word_put(buf, 2, header->version);
	word_put(buf, 3, (uint32_t)header->procedure);
	word_put(buf, 4, header->type);
	word_put(buf, 5, header->serial);
	word_put(buf, 6, header->status);
}

static bool reader_knows_length(const struct rpc_reader *reader)
{
	return reader->have >= RPC_LENGTH_BYTES;
}

int rpc_reader_space(struct rpc_reader *reader, size_t max_frame, void **ret_at, size_t *ret_len)
{
	size_t want = RPC_LENGTH_BYTES;

	if (reader_knows_length(reader)) {
		want = word_get(reader->buf, 0);
		if (want < RPC_FRAME_MIN || want > MIN(max_frame, (size_t)RPC_FRAME_MAX))
			return -EPROTO;
	}
	if (reader->have == reader->room && reader->have < want) {
		size_t room = MAX(reader->room * 2, (size_t)READER_FIRST);
		uint8_t *buf = realloc(reader->buf, room);

		if (!buf)
			return -ENOMEM;
		reader->buf = buf;
		reader->room = room;
	}
	*ret_at = reader->buf + reader->have;
	*ret_len = MIN(reader->room, want) - reader->have;
	return 0;
}

bool rpc_reader_took(struct rpc_reader *reader, size_t len)
{
	reader->have += len;
	return reader->have >= RPC_FRAME_MIN && reader->have >= word_get(reader->buf, 0);
}

void rpc_reader_frame(const struct rpc_reader *reader, struct rpc_header *ret,
		      const uint8_t **ret_payload, size_t *ret_len)
{
	rpc_header_get(reader->buf + RPC_LENGTH_BYTES, ret);
	*ret_payload = reader->buf + RPC_FRAME_MIN;
	*ret_len = reader->have - RPC_FRAME_MIN;
}

void rpc_reader_next(struct rpc_reader *reader)
{
	if (reader->room > READER_KEEP)
		rpc_reader_fini(reader);
	reader->have = 0;
}

void rpc_reader_fini(struct rpc_reader *reader)
{
	free(reader->buf);
	*reader = (struct rpc_reader){0};
}
