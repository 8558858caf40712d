#include "unit/test.h"

#include <sys/mman.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/fd.h"
#include "state/sample.h"
#include "vm/state/state_int.h"
#include "vm/state/stream.h"

static void build(struct state_buf *buf, struct sample *s)
{
	assert_int_equal(state_stream_begin(buf), 0);
	assert_int_equal(state_stream_object(buf, "disk0", 3, &sample_table, s), 0);
	assert_int_equal(state_stream_blob(buf, "note", 0, "hello", 5), 0);
	assert_int_equal(state_stream_end(buf), 0);
}

static void a_machine_comes_back(void **state)
{
	struct sample *a = sample_new(), *b = sample_new();
	_cleanup_(state_buf_fini) struct state_buf buf = {0};
	struct state_section s;
	struct state_reader in;
	struct error err = ERROR_INIT;
	char where[64];

	(void)state;
	a->medium = 0x12345678;
	a->queues[0].enabled = true;
	build(&buf, a);
	in = state_reader_of(buf.data, buf.len);
	assert_int_equal(state_stream_open(&in, &err), 0);
	assert_int_equal(state_stream_next(&in, &s, &err), 1);
	assert_int_equal(s.kind, STATE_SECTION_OBJECT);
	assert_string_equal(s.name, "disk0");
	assert_int_equal(s.instance, 3);
	assert_int_equal(state_section_load(&s, &sample_table, b, &err), 0);
	assert_true(state_compare(&sample_table, "s", a, b, where, sizeof(where)));
	assert_int_equal(state_stream_next(&in, &s, &err), 1);
	assert_int_equal(s.kind, STATE_SECTION_BLOB);
	assert_int_equal(s.body.len, 5);
	assert_memory_equal(s.body.data, "hello", 5);
	assert_int_equal(state_section_load(&s, &sample_table, b, &err), -EINVAL);
	assert_non_null(strstr(err.text, "'note'"));
	assert_int_equal(state_stream_next(&in, &s, &err), 0);
	assert_int_equal(in.pos, buf.len);
	sample_free(a);
	sample_free(b);
}

static void what_follows_in_the_descriptor_stays(void **state)
{
	_cleanup_close_ int fd = memfd_create("stream", MFD_CLOEXEC);
	_cleanup_(state_buf_fini) struct state_buf buf = {0}, got = {0};
	struct sample *a = sample_new();
	struct error err = ERROR_INIT;
	char tail[8] = "";

	(void)state;
	build(&buf, a);
	assert_int_equal(state_buf_write(&buf, fd), 0);
	assert_int_equal(fd_write_full(fd, "pages", 5), 0);
	assert_int_equal(lseek(fd, 0, SEEK_SET), 0);
	if (state_stream_read(fd, MIB, &got, &err) < 0)
		fail_msg("%s", err.text);
	assert_int_equal(got.len, buf.len);
	assert_memory_equal(got.data, buf.data, buf.len);
	assert_int_equal(read(fd, tail, sizeof(tail)), 5);
	assert_string_equal(tail, "pages");

	assert_int_equal(lseek(fd, 0, SEEK_SET), 0);
	assert_int_equal(state_stream_read(fd, buf.len - 1, &got, &err), -EFBIG);
	assert_int_equal(ftruncate(fd, (off_t)buf.len - 1), 0);
	assert_int_equal(lseek(fd, 0, SEEK_SET), 0);
	assert_int_equal(state_stream_read(fd, MIB, &got, &err), -EINVAL);
	sample_free(a);
}

static int walk(const uint8_t *data, size_t len)
{
	struct state_reader in = state_reader_of(data, len);
	struct state_section s;
	int r = state_stream_open(&in, NULL);

	while (r >= 0 && (r = state_stream_next(&in, &s, NULL)) == 1)
		;
	return r;
}

static void every_flipped_bit_is_noticed(void **state)
{
	_cleanup_(state_buf_fini) struct state_buf buf = {0};
	struct sample *a = sample_new();

	(void)state;
	build(&buf, a);
	assert_int_equal(walk(buf.data, buf.len), 0);
	for (size_t bit = 0; bit < buf.len * 8; bit++) {
		buf.data[bit / 8] ^= (uint8_t)(1 << bit % 8);
		assert_int_equal(walk(buf.data, buf.len), -EINVAL);
		buf.data[bit / 8] ^= (uint8_t)(1 << bit % 8);
	}
	for (size_t len = 0; len < buf.len; len++)
		assert_int_equal(walk(buf.data, len), -EINVAL);
	sample_free(a);
}

static void failures_stick(void **state)
{
	_cleanup_(state_buf_fini) struct state_buf buf = {0};
	static uint8_t big[1 << 20];
	int r = 0;

	(void)state;
	assert_int_equal(state_stream_blob(&buf,
					   "a name that is much longer than any name of a "
					   "device can ever be in a machine",
					   0, "", 0),
			 -ENAMETOOLONG);
	assert_int_equal(state_stream_end(&buf), -ENAMETOOLONG);
	state_buf_fini(&buf);
	for (int i = 0; i < 65 && r == 0; i++)
		r = state_stream_blob(&buf, "big", 0, big, sizeof(big));
	assert_int_equal(r, -EFBIG);
	assert_true(buf.cap <= STATE_BUF_MAX);
}

/* RFC 3720, appendix B.4 */
static void checksum_is_crc32c(void **state)
{
	uint8_t data[32] = {0};

	(void)state;
	assert_int_equal(state_crc32c(0, data, 32), 0x8A9136AA);
	memset(data, 0xFF, 32);
	assert_int_equal(state_crc32c(0, data, 32), 0x62A8AB43);
	for (uint8_t i = 0; i < 32; i++)
		data[i] = i;
	assert_int_equal(state_crc32c(0, data, 32), 0x46DD794E);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_machine_comes_back),
		cmocka_unit_test(what_follows_in_the_descriptor_stays),
		cmocka_unit_test(every_flipped_bit_is_noticed),
		cmocka_unit_test(failures_stick),
		cmocka_unit_test(checksum_is_crc32c),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
