/* Frames as they come: whole, in pieces, several at once, and with lengths that cannot be. */
#include "unit/test.h"

#include <errno.h>

#include "host/rpc/frame.h"

#define PAYLOAD 5000

static size_t make_frame(uint8_t *buf, size_t payload)
{
	const struct rpc_header header = {RPC_PROGRAM_REMOTE, 1, -7, RPC_CALL, 0x01020304, RPC_OK};

	rpc_frame_put(buf, &header, payload);
	for (size_t i = 0; i < payload; i++)
		buf[RPC_FRAME_MIN + i] = (uint8_t)i;
	return RPC_FRAME_MIN + payload;
}

/* Feeds at most `piece` bytes at a time; true when a frame came. */
static bool feed(struct rpc_reader *reader, const uint8_t *bytes, size_t len, size_t piece,
		 size_t *ret_used)
{
	size_t used = 0;
	bool whole = false;

	while (!whole && used < len) {
		void *at;
		size_t room;

		assert_int_equal(rpc_reader_space(reader, RPC_FRAME_MAX, &at, &room), 0);
		assert_true(room > 0);
		room = room < piece ? room : piece;
		room = room < len - used ? room : len - used;
		memcpy(at, bytes + used, room);
		used += room;
		whole = rpc_reader_took(reader, room);
	}
	*ret_used = used;
	return whole;
}

static void check_frame(const struct rpc_reader *reader, size_t payload)
{
	struct rpc_header header;
	const uint8_t *data;
	size_t len;

	rpc_reader_frame(reader, &header, &data, &len);
	assert_int_equal(header.program, RPC_PROGRAM_REMOTE);
	assert_int_equal(header.procedure, -7);
	assert_int_equal(header.serial, 0x01020304);
	assert_int_equal(len, payload);
	for (size_t i = 0; i < len; i++)
		assert_int_equal(data[i], (uint8_t)i);
}

static void bytes_are_those_of_the_protocol(void **state)
{
	static const uint8_t expected[] = {0, 0, 0,    28,   0x20, 0,    0x80, 0x86, 0, 0,
					   0, 1, 0xff, 0xff, 0xff, 0xf9, 0,    0,    0, 0,
					   1, 2, 3,    4,    0,    0,    0,    0};
	uint8_t buf[RPC_FRAME_MIN];

	assert_int_equal(make_frame(buf, 0), sizeof(expected));
	assert_memory_equal(buf, expected, sizeof(expected));
}

static void frames_come_whole_and_in_pieces(void **state)
{
	static const size_t pieces[] = {1, 3, 4, 27, 28, 29, 1000, 1 << 20};
	static const size_t payloads[] = {0, 1, 484, 485, PAYLOAD};
	uint8_t buf[RPC_FRAME_MIN + PAYLOAD];

	for (size_t i = 0; i < sizeof(pieces) / sizeof(pieces[0]); i++) {
		struct rpc_reader reader = {0};

		for (size_t j = 0; j < sizeof(payloads) / sizeof(payloads[0]); j++) {
			size_t len = make_frame(buf, payloads[j]), used;

			assert_true(feed(&reader, buf, len, pieces[i], &used));
			assert_int_equal(used, len);
			check_frame(&reader, payloads[j]);
			rpc_reader_next(&reader);
		}
		rpc_reader_fini(&reader);
	}
}

/* What belongs to the next frame is left where it is. */
static void a_frame_ends_where_it_says(void **state)
{
	struct rpc_reader reader = {0};
	uint8_t buf[200];
	size_t first = make_frame(buf, 10), second = make_frame(buf + first, 20), used;

	assert_true(feed(&reader, buf, first + second, 1 << 20, &used));
	assert_int_equal(used, first);
	rpc_reader_next(&reader);
	assert_true(feed(&reader, buf + first, second, 1 << 20, &used));
	check_frame(&reader, 20);
	rpc_reader_fini(&reader);
}

static int length_is(uint32_t length, size_t max)
{
	struct rpc_reader reader = {0};
	const uint8_t bytes[4] = {(uint8_t)(length >> 24), (uint8_t)(length >> 16),
				  (uint8_t)(length >> 8), (uint8_t)length};
	size_t used, room;
	void *at;
	int r;

	assert_false(feed(&reader, bytes, sizeof(bytes), 4, &used));
	r = rpc_reader_space(&reader, max, &at, &room);
	rpc_reader_fini(&reader);
	return r;
}

static void impossible_lengths_are_refused(void **state)
{
	assert_int_equal(length_is(0, RPC_FRAME_MAX), -EPROTO);
	assert_int_equal(length_is(27, RPC_FRAME_MAX), -EPROTO);
	assert_int_equal(length_is(28, RPC_FRAME_MAX), 0);
	assert_int_equal(length_is(RPC_FRAME_MAX, RPC_FRAME_MAX), 0);
	assert_int_equal(length_is(RPC_FRAME_MAX + 1, RPC_FRAME_MAX), -EPROTO);
	assert_int_equal(length_is(UINT32_MAX, RPC_FRAME_MAX), -EPROTO);
	assert_int_equal(length_is(1000, 999), -EPROTO);
	assert_int_equal(length_is(RPC_FRAME_MAX + 1, SIZE_MAX), -EPROTO);
}

/* 32 MiB announced and nothing sent must not cost 32 MiB. */
static void memory_grows_with_what_came(void **state)
{
	struct rpc_reader reader = {0};
	static const uint8_t bytes[4] = {2, 0, 0, 0};
	size_t used;

	assert_false(feed(&reader, bytes, sizeof(bytes), 4, &used));
	assert_true(reader.room < 4096);
	rpc_reader_fini(&reader);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(bytes_are_those_of_the_protocol),
		cmocka_unit_test(frames_come_whole_and_in_pieces),
		cmocka_unit_test(a_frame_ends_where_it_says),
		cmocka_unit_test(impossible_lengths_are_refused),
		cmocka_unit_test(memory_grows_with_what_came),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
