/* Frames over a stream socket: what arrives in pieces, too large, garbled; a full socket; a peer that goes away. */
#include "unit/test.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/endian.h"
#include "base/fd.h"
#include "vm/net/stream_int.h"

struct peer {
	struct loop *loop;
	struct net_backend *net;
	int fd; /* the far end */
	unsigned readable, writable, downs;
	uint8_t frame[NET_HDR_BYTES + NET_STREAM_MAX_FRAME];
	uint8_t far[sizeof(be32) + NET_STREAM_MAX_FRAME];
};

static void on_readable(void *opaque, unsigned queue)
{
	((struct peer *)opaque)->readable++;
}

static void on_writable(void *opaque, unsigned queue)
{
	((struct peer *)opaque)->writable++;
}

static void on_link(void *opaque, bool up)
{
	((struct peer *)opaque)->downs += !up;
}

static int peer_setup(void **state)
{
	struct peer *p = calloc(1, sizeof(*p));
	int fds[2];

	assert_non_null(p);
	assert_int_equal(loop_new(&p->loop), 0);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
	p->fd = fds[1];
	assert_int_equal(net_stream_open(p->loop, fds[0], &p->net), 0);
	p->net->events = (struct net_events){on_readable, on_writable, on_link, p};
	*state = p;
	return 0;
}

static int peer_teardown(void **state)
{
	struct peer *p = *state;

	net_backend_free(p->net);
	loop_free(p->loop);
	if (p->fd >= 0)
		close(p->fd);
	free(p);
	return 0;
}

static void fill(uint8_t *buf, size_t len, unsigned seed)
{
	for (size_t i = 0; i < len; i++)
		buf[i] = (uint8_t)(seed + i * 7 + (i >> 8));
}

static void feed_frame(struct peer *p, size_t len, unsigned seed)
{
	be32 n = be32_of((uint32_t)len);

	memcpy(p->far, &n, sizeof(n));
	fill(p->far + sizeof(n), len, seed);
	assert_int_equal(fd_write_full(p->fd, p->far, len + sizeof(n)), 0);
}

static ssize_t receive(struct peer *p)
{
	struct iovec iov[3] = {{p->frame, 7},
			       {p->frame + 7, 30},
			       {p->frame + 37, sizeof(p->frame) - 37}};

	return net_stream_receive(p->net, 0, iov, 3);
}

static void expect_frame(struct peer *p, size_t len, unsigned seed)
{
	uint8_t hdr[NET_HDR_BYTES] = {0};
	uint8_t *want = malloc(len);

	hdr[10] = 1;
	fill(want, len, seed);
	memset(p->frame, 0xee, sizeof(p->frame));
	assert_int_equal(receive(p), len + NET_HDR_BYTES);
	assert_memory_equal(p->frame, hdr, sizeof(hdr));
	assert_memory_equal(p->frame + NET_HDR_BYTES, want, len);
	free(want);
}

static void test_frames_of_all_sizes(void **state)
{
	static const size_t sizes[] = {14, 15, 60, 1514, 9014, 65535};
	struct peer *p = *state;

	for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
		feed_frame(p, sizes[i], (unsigned)i);
		expect_frame(p, sizes[i], (unsigned)i);
		assert_int_equal(receive(p), -EAGAIN);
	}
	/* Several at once: the length of each is read with the frame before it. */
	for (unsigned i = 0; i < 20; i++)
		feed_frame(p, 100 + i, i);
	for (unsigned i = 0; i < 20; i++)
		expect_frame(p, 100 + i, i);
	assert_int_equal(receive(p), -EAGAIN);
}

/* Every way to cut two frames in two. */
static void test_split_anywhere(void **state)
{
	struct peer *p = *state;
	const size_t len = 40;
	uint8_t both[2 * (sizeof(be32) + 40)];
	be32 n = be32_of(len);

	for (size_t i = 0; i < 2; i++) {
		memcpy(both + i * 44, &n, sizeof(n));
		fill(both + i * 44 + 4, len, (unsigned)i);
	}
	for (size_t cut = 1; cut < sizeof(both); cut++) {
		unsigned got = 0;

		assert_int_equal(fd_write_full(p->fd, both, cut), 0);
		for (; got < cut / 44; got++)
			expect_frame(p, len, got);
		assert_int_equal(receive(p), -EAGAIN);
		assert_int_equal(fd_write_full(p->fd, both + cut, sizeof(both) - cut), 0);
		for (; got < 2; got++)
			expect_frame(p, len, got);
		assert_int_equal(receive(p), -EAGAIN);
	}
	/* Byte by byte. */
	for (size_t i = 0; i < sizeof(both); i++) {
		assert_int_equal(write(p->fd, both + i, 1), 1);
		if ((i + 1) % 44 == 0)
			expect_frame(p, len, (unsigned)(i / 44));
		else
			assert_int_equal(receive(p), -EAGAIN);
	}
}

static void test_frame_without_room_is_dropped(void **state)
{
	struct peer *p = *state;
	struct iovec small = {p->frame, NET_HDR_BYTES + 50};

	feed_frame(p, 1000, 1);
	feed_frame(p, 50, 2);
	assert_int_equal(net_stream_receive(p->net, 0, &small, 1), -EMSGSIZE);
	expect_frame(p, 50, 2);
}

static void test_data_valid_is_told_when_wanted(void **state)
{
	struct peer *p = *state;

	assert_int_equal(net_stream_set_offloads(p->net, NET_OFFLOAD_CSUM, NET_HDR_BYTES), 0);
	feed_frame(p, 60, 0);
	assert_int_equal(receive(p), 72);
	assert_int_equal(p->frame[0], 2);
}

static void test_garbage_length_ends_the_link(void **state)
{
	static const uint32_t lengths[] = {0, 13, 65536, 0x7fffffff, 0xffffffff};

	for (size_t i = 0; i < ARRAY_SIZE(lengths); i++) {
		struct peer *p;
		be32 n = be32_of(lengths[i]);

		peer_setup((void **)&p);
		assert_int_equal(fd_write_full(p->fd, &n, sizeof(n)), 0);
		assert_int_equal(receive(p), -EAGAIN);
		/* Not from inside the call. */
		assert_int_equal(p->downs, 0);
		loop_run_once(p->loop, 0);
		assert_int_equal(p->downs, 1);
		assert_int_equal(receive(p), -EAGAIN);
		peer_teardown((void **)&p);
	}
}

static void test_peer_death(void **state)
{
	struct peer *p = *state;
	uint8_t frame[NET_HDR_BYTES + 60] = {0};
	struct iovec iov = {frame, sizeof(frame)};

	close(p->fd);
	p->fd = -1;
	loop_run_once(p->loop, 0);
	loop_run_once(p->loop, 0);
	assert_int_equal(p->downs, 1);
	assert_int_equal(net_stream_send(p->net, 0, &iov, 1), -EPIPE);
	assert_int_equal(receive(p), -EAGAIN);
	/* A descriptor that hangs up does not make the loop spin. */
	net_stream_want_receive(p->net, 0, true);
	loop_run_once(p->loop, 0);
	assert_int_equal(p->readable, 0);
	assert_int_equal(p->downs, 1);
}

static void test_readable_only_when_wanted(void **state)
{
	struct peer *p = *state;

	feed_frame(p, 60, 0);
	loop_run_once(p->loop, 0);
	assert_int_equal(p->readable, 0);
	net_stream_want_receive(p->net, 0, true);
	loop_run_once(p->loop, 0);
	assert_int_equal(p->readable, 1);
	net_stream_want_receive(p->net, 0, false);
	loop_run_once(p->loop, 0);
	assert_int_equal(p->readable, 1);
	expect_frame(p, 60, 0);
}

static void test_send_strips_the_header(void **state)
{
	struct peer *p = *state;
	uint8_t frame[NET_HDR_BYTES + 100];
	struct iovec iov[3] = {{frame, 5}, {frame + 5, 20}, {frame + 25, sizeof(frame) - 25}};

	fill(frame, sizeof(frame), 3);
	assert_int_equal(net_stream_send(p->net, 0, iov, 3), 0);
	assert_int_equal(read(p->fd, p->far, sizeof(p->far)), 104);
	assert_memory_equal(p->far, "\0\0\0\x64", 4);
	assert_memory_equal(p->far + 4, frame + NET_HDR_BYTES, 100);
}

static void test_send_refuses_what_is_no_frame(void **state)
{
	struct peer *p = *state;
	uint8_t *big = calloc(1, NET_HDR_BYTES + NET_STREAM_MAX_FRAME + 1);
	struct iovec iov = {big, NET_HDR_BYTES + 13};
	struct iovec twice[2] = {{big, NET_HDR_BYTES + 40000}, {big, 40000}};

	assert_int_equal(net_stream_send(p->net, 0, &iov, 1), -EINVAL);
	iov.iov_len = 3;
	assert_int_equal(net_stream_send(p->net, 0, &iov, 1), -EINVAL);
	assert_int_equal(net_stream_send(p->net, 0, &iov, 0), -EINVAL);
	iov.iov_len = NET_HDR_BYTES + NET_STREAM_MAX_FRAME + 1;
	assert_int_equal(net_stream_send(p->net, 0, &iov, 1), -EMSGSIZE);
	assert_int_equal(net_stream_send(p->net, 0, twice, 2), -EMSGSIZE);
	iov.iov_len--;
	assert_int_equal(net_stream_send(p->net, 0, &iov, 1), 0);
	assert_int_equal(fd_read_full(p->fd, p->far, sizeof(p->far)), sizeof(p->far));
	assert_memory_equal(p->far, "\0\0\xff\xff", 4);
	free(big);
}

/* Fills the socket, and finds every frame that was taken whole and in order at the other end. */
static void check_backpressure(struct peer *p, size_t len)
{
	uint8_t *frame = malloc(NET_HDR_BYTES + len);
	uint8_t *far = malloc(sizeof(be32) + len);
	struct iovec iov = {frame, NET_HDR_BYTES + len};
	unsigned sent = 0;

	assert_true(frame && far);
	for (;; sent++) {
		fill(frame, NET_HDR_BYTES + len, sent);
		if (net_stream_send(p->net, 0, &iov, 1) != 0)
			break;
		assert_true(sent < 100000);
	}
	assert_true(sent > 0);
	assert_int_equal(net_stream_send(p->net, 0, &iov, 1), -EAGAIN);
	loop_run_once(p->loop, 0);
	assert_int_equal(p->writable, 0);
	for (unsigned i = 0; i < sent; i++) {
		fill(frame, NET_HDR_BYTES + len, i);
		/* Reading makes room, which lets the tail of the last frame follow. */
		loop_run_once(p->loop, 0);
		assert_int_equal(fd_read_full(p->fd, far, sizeof(be32) + len), sizeof(be32) + len);
		assert_memory_equal(far + sizeof(be32), frame + NET_HDR_BYTES, len);
	}
	loop_run_once(p->loop, 0);
	assert_int_equal(p->writable, 1);
	assert_int_equal(net_stream_send(p->net, 0, &iov, 1), 0);
	free(frame);
	free(far);
}

static void test_backpressure_small(void **state)
{
	check_backpressure(*state, 60);
}

static void test_backpressure_large(void **state)
{
	check_backpressure(*state, NET_STREAM_MAX_FRAME);
}

/* A socket that takes a part of a frame, as one would whose accounting we misjudge: nothing is lost. */
static void test_partial_send(void **state)
{
	struct peer *p = *state;
	struct net_stream *stream = container_of(p->net, struct net_stream, net);
	uint8_t *frame = malloc(NET_HDR_BYTES + NET_STREAM_MAX_FRAME);
	struct iovec iov = {frame, NET_HDR_BYTES + NET_STREAM_MAX_FRAME};
	unsigned sent = 0;
	int r;

	fill(frame, iov.iov_len, 9);
	do {
		stream->tx_room = SIZE_MAX / 2;
		r = net_stream_send(p->net, 0, &iov, 1);
		sent += r == 0;
	} while (r == 0);
	assert_int_equal(r, -EAGAIN);
	while (sent--) {
		size_t have = 0;

		while (have < sizeof(p->far)) {
			ssize_t n = recv(p->fd, p->far + have, sizeof(p->far) - have, MSG_DONTWAIT);

			have += n > 0 ? (size_t)n : 0;
			loop_run_once(p->loop, 0);
		}
		assert_memory_equal(p->far, "\0\0\xff\xff", 4);
		assert_memory_equal(p->far + 4, frame + NET_HDR_BYTES, NET_STREAM_MAX_FRAME);
	}
	assert_int_equal(p->writable, 1);
	free(frame);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, peer_setup, peer_teardown)
	const struct CMUnitTest tests[] = {
		T(test_frames_of_all_sizes),
		T(test_split_anywhere),
		T(test_frame_without_room_is_dropped),
		T(test_data_valid_is_told_when_wanted),
		cmocka_unit_test(test_garbage_length_ends_the_link),
		T(test_peer_death),
		T(test_readable_only_when_wanted),
		T(test_send_strips_the_header),
		T(test_send_refuses_what_is_no_frame),
		T(test_backpressure_small),
		T(test_backpressure_large),
		T(test_partial_send),
	};
#undef T

	return cmocka_run_group_tests(tests, NULL, NULL);
}
