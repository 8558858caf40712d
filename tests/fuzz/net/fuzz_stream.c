/*
 * The framing towards a user-mode peer: what it sends is the input, cut anywhere, read into buffers of any shape; frames of
 * ours go the other way meanwhile.
 */
#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/fd.h"
#include "base/log.h"
#include "vm/net/stream_int.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static uint8_t memory[NET_HDR_BYTES + NET_STREAM_MAX_FRAME];

static void on_queue(void *opaque, unsigned queue)
{
}

static void on_link(void *opaque, bool up)
{
	if (up || (*(bool *)opaque))
		abort();
	*(bool *)opaque = true;
}

/* Buffers in pieces that the byte chooses, all of `memory` or only a part. */
static ssize_t receive(struct net_backend *net, uint8_t shape)
{
	size_t room = shape & 0x80 ? 200 : sizeof(memory);
	struct iovec iov[4];
	size_t at = 0;
	ssize_t n;

	for (unsigned i = 0; i < 4; i++) {
		size_t part = i == 3 ? room - at : (size_t)(shape >> i & 15);

		iov[i] = (struct iovec){memory + at, part};
		at += part;
	}
	n = net->ops->receive(net, 0, iov, 4);
	if (n > (ssize_t)room || (n >= 0 && n < NET_HDR_BYTES + NET_MIN_FRAME_BYTES))
		abort();
	return n;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct net_backend *net;
	struct loop *loop;
	bool down = false;
	int fds[2];

	log_init("fuzz", LOG_ERROR);
	log_set_fd(-1);
	if (loop_new(&loop) < 0 || socketpair(AF_UNIX, SOCK_STREAM, 0, fds) < 0)
		return 0;
	if (net_stream_open(loop, fds[0], &net) < 0)
		abort();
	net->events = (struct net_events){on_queue, on_queue, on_link, &down};
	net->ops->want_receive(net, 0, true);
	for (size_t at = 0; at + 2 <= size;) {
		size_t part = MIN((size_t)data[at] * 4 + 1, size - at - 2);
		uint8_t shape = data[at + 1];
		struct iovec out = {memory, shape * 3u};

		if (part && send(fds[1], data + at + 2, part, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
			break;
		at += 2 + part;
		while (receive(net, shape) != -EAGAIN)
			;
		net->ops->send(net, 0, &out, 1);
		recv(fds[1], memory, sizeof(memory), MSG_DONTWAIT);
		if (shape % 16 == 0)
			loop_run_once(loop, 0);
	}
	close(fds[1]);
	while (receive(net, 0) != -EAGAIN)
		;
	loop_run_once(loop, 0);
	if (!down)
		abort();
	net_backend_free(net);
	loop_free(loop);
	return 0;
}
