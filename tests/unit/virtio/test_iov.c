#include "unit/test.h"

#include "vm/virtio/virtio.h"

static void copies_across_pieces(void **state)
{
	uint8_t a[4] = {0, 1, 2, 3}, b[1] = {4}, c[5] = {5, 6, 7, 8, 9};
	struct iovec iov[] = {{a, 4}, {NULL, 0}, {b, 1}, {c, 5}};
	uint8_t out[16] = {0};

	(void)state;
	assert_int_equal(iov_to_buf(iov, 4, 0, out, 16), 10);
	for (unsigned i = 0; i < 10; i++)
		assert_int_equal(out[i], i);
	assert_int_equal(iov_to_buf(iov, 4, 3, out, 3), 3);
	assert_int_equal(out[0], 3);
	assert_int_equal(out[2], 5);
	assert_int_equal(iov_to_buf(iov, 4, 10, out, 3), 0);
	assert_int_equal(iov_to_buf(iov, 4, 99, out, 3), 0);
	assert_int_equal(iov_from_buf(iov, 4, 2, "\x10\x11\x12\x13", 4), 4);
	assert_int_equal(a[3], 0x11);
	assert_int_equal(b[0], 0x12);
	assert_int_equal(c[0], 0x13);
	assert_int_equal(iov_from_buf(iov, 4, 8, "\x20\x21\x22\x23", 4), 2);
	assert_int_equal(c[4], 0x21);
}

static void skips_in_place(void **state)
{
	uint8_t a[4], b[1], c[5];
	struct iovec iov[] = {{a, 4}, {b, 1}, {c, 5}};
	struct iovec *at = iov;
	unsigned n = 3;

	(void)state;
	assert_int_equal(iov_skip(&at, &n, 0), 0);
	assert_int_equal(iov_skip(&at, &n, 3), 3);
	assert_int_equal(n, 3);
	assert_ptr_equal(at->iov_base, a + 3);
	assert_int_equal(iov_skip(&at, &n, 2), 2);
	assert_int_equal(n, 1);
	assert_ptr_equal(at->iov_base, c);
	assert_int_equal(iov_skip(&at, &n, 9), 5);
	assert_int_equal(n, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(copies_across_pieces),
		cmocka_unit_test(skips_in_place),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
