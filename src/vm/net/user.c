/*
 * User-mode networking: frames go to a passt process over a socket pair (stream.c), which is started with the machine and
 * ends with it (passt.c). Nothing needs root or an interface on the host.
 *
 * passt tells nobody when it is ready. We ask it for the gateway's hardware address (ARP, RFC 826) and wait for the answer:
 * when it comes, addresses and ports are bound; when the socket closes instead, it has said why.
 *
 * Runs on the loop that it was opened with; opening waits for passt, 20 ms as a rule, unless told to defer that.
 */
#include "vm/net/net.h"

#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "vm/net/passt_int.h"
#include "vm/net/stream_int.h"

#define USER_START_TIMEOUT_MS 20000 /* an emulated host is slow */

struct net_user {
	struct net_stream stream; /* first: its net is ours */
	struct passt passt;
	bool waiting; /* passt has been started, and net_user_wait_here() not been called */
};

static struct net_user *net_user_of(struct net_backend *net)
{
	return container_of(net, struct net_user, stream.net);
}

static void net_user_free(struct net_backend *net)
{
	struct net_user *user = net_user_of(net);

	/* Closing the socket ends passt. */
	net_stream_fini(&user->stream);
	passt_stop(&user->passt);
	free(user);
}

static void net_user_ended(struct passt *passt)
{
	net_stream_kill(&container_of(passt, struct net_user, passt)->stream);
}

/* RFC 826 in an Ethernet frame, behind its length on the stream. */
struct arp_packet {
	be32 stream_len;
	uint8_t dst[6], src[6];
	be16 ether_type;
	be16 hw_type, proto_type;
	uint8_t hw_len, proto_len;
	be16 op;
	uint8_t sender_mac[6], sender_ip[4];
	uint8_t target_mac[6], target_ip[4];
	uint8_t pad[18]; /* to the least size of a frame */
} __attribute__((packed));

#define ETHER_TYPE_ARP 0x0806
#define ARP_REQUEST    1
#define ARP_REPLY      2

static int net_user_ask(struct net_user *user)
{
	/* The guest's side; passt learns the true hardware address from the guest's first frame. */
	static const uint8_t mac[6] = {0x52, 0x55, 0x0a, 0x00, 0x02, 0x0f};
	struct arp_packet arp = {
		.stream_len = be32_of(sizeof(arp) - sizeof(be32)),
		.dst = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff},
		.ether_type = be16_of(ETHER_TYPE_ARP),
		.hw_type = be16_of(1),
		.proto_type = be16_of(0x0800),
		.hw_len = 6,
		.proto_len = 4,
		.op = be16_of(ARP_REQUEST),
	};

	memcpy(arp.src, mac, sizeof(mac));
	memcpy(arp.sender_mac, mac, sizeof(mac));
	inet_pton(AF_INET, NET_USER_GUEST_ADDR, arp.sender_ip);
	inet_pton(AF_INET, NET_USER_GATEWAY_ADDR, arp.target_ip);
	if (send(user->stream.src.fd, &arp, sizeof(arp), MSG_NOSIGNAL | MSG_DONTWAIT) !=
	    sizeof(arp))
		return -EPIPE;
	return 0;
}

/* Takes frames until the answer to net_user_ask() has come: 1; 0: not yet; negative: the link has ended. */
static int net_user_answered(struct net_user *user, uint8_t *frame, size_t size)
{
	struct net_stream *stream = &user->stream;
	struct arp_packet arp;

	for (;;) {
		struct iovec iov = {frame, size};
		ssize_t n = net_stream_receive(&stream->net, 0, &iov, 1);

		if (stream->dead)
			return -EPIPE;
		if (n == -EAGAIN)
			return 0;
		if (n < NET_HDR_BYTES + 42)
			continue;
		memcpy(&arp.dst, frame + NET_HDR_BYTES, 42);
		if (be16_get(arp.ether_type) == ETHER_TYPE_ARP && be16_get(arp.op) == ARP_REPLY)
			return 1;
	}
}

static int net_user_wait_here(struct net_user *user, struct error *err)
{
	uint64_t end = clock_monotonic_ns() + USER_START_TIMEOUT_MS * NSEC_PER_MSEC;
	size_t size = NET_HDR_BYTES + NET_STREAM_MAX_FRAME;
	int r = 0;

	if (!user->waiting)
		return 0;
	user->waiting = false;

	_cleanup_free_ uint8_t *frame = malloc(size);

	if (!frame)
		return error_set(err, -ENOMEM, "user-mode network: out of memory");
	while (r == 0) {
		struct pollfd p = {.fd = user->stream.src.fd, .events = POLLIN};
		uint64_t now = clock_monotonic_ns();

		if (now >= end)
			break;
		poll(&p, 1, (int)((end - now) / NSEC_PER_MSEC) + 1);
		r = net_user_answered(user, frame, size);
	}
	if (r <= 0)
		return passt_explain(&user->passt, err);
	r = passt_watch(&user->passt);
	if (r < 0)
		return error_set_errno(err, r, "user-mode network: passt cannot be watched");
	return 0;
}

struct net_user_wait {
	struct net_user *user;
	struct error *err;
	int result;
};

static void net_user_wait_call(void *opaque)
{
	struct net_user_wait *wait = opaque;

	wait->result = net_user_wait_here(wait->user, wait->err);
}

static int net_user_wait(struct net_backend *net, struct error *err)
{
	struct net_user_wait wait = {.user = net_user_of(net), .err = err};

	loop_call(wait.user->stream.loop, net_user_wait_call, &wait);
	return wait.result;
}

static const struct net_backend_ops net_user_ops = {
	.type = "user",
	.send = net_stream_send,
	.receive = net_stream_receive,
	.want_receive = net_stream_want_receive,
	.set_offloads = net_stream_set_offloads,
	.vhost_fd = net_stream_vhost_fd,
	.wait = net_user_wait,
	.free = net_user_free,
};

static int net_user_parse_forwards(const char *const *texts, struct passt_forward *ret,
				   size_t *ret_n, struct error *err)
{
	size_t n = 0;
	int r;

	for (; texts && texts[n]; n++) {
		if (n == PASST_MAX_FORWARDS)
			return error_set(err, -E2BIG,
					 "user-mode network: more than %d port forwards",
					 PASST_MAX_FORWARDS);
		r = passt_forward_parse(texts[n], &ret[n], err);
		if (r < 0)
			return r;
	}
	*ret_n = n;
	return 0;
}

int net_user_open(struct loop *loop, const struct net_user_config *config, struct net_backend **ret,
		  struct error *err)
{
	struct passt_forward forwards[PASST_MAX_FORWARDS];
	size_t n_forwards = 0;
	struct net_user *user;
	int fds[2];
	int r;

	r = net_user_parse_forwards(config->hostfwd, forwards, &n_forwards, err);
	if (r < 0)
		return r;
	user = calloc(1, sizeof(*user));
	if (!user)
		return error_set(err, -ENOMEM, "user-mode network: out of memory");
	user->passt = (struct passt){.pid = -1, .exit_src.fd = -1, .text_src.fd = -1};
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) < 0) {
		free(user);
		return error_set_errno(err, -errno, "user-mode network: no socket pair");
	}

	_cleanup_close_ int theirs = fds[1];

	r = net_stream_init(&user->stream, loop, fds[0], &net_user_ops);
	if (r < 0)
		error_set_errno(err, r, "user-mode network: no socket");
	if (r >= 0)
		r = passt_start(&user->passt, loop, config->program, theirs, forwards, n_forwards,
				err);
	if (r >= 0) {
		close(steal_fd(&theirs));
		user->passt.ended = net_user_ended;
		user->waiting = true;
		/* A failure here is one that the wait explains. */
		net_user_ask(user);
		if (!config->defer)
			r = net_user_wait_here(user, err);
	}
	if (r < 0) {
		net_user_free(&user->stream.net);
		return r;
	}
	*ret = &user->stream.net;
	return 0;
}
