/*
 * The tap backend: an interface of the host's kernel, by name or as open descriptors, one for each queue pair. Frames carry
 * the virtio header as it is (IFF_VNET_HDR), so that checksums and segmentation pass through, and nothing is copied but by
 * the kernel. (Linux, Documentation/networking/tuntap.rst.)
 *
 * Runs on the loop that it was opened with. It does not create bridges, addresses or routes.
 */
#include "vm/net/net.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/cleanup.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/str.h"

#define TAP_NODE   "/dev/net/tun"
#define VHOST_NODE "/dev/vhost-net"

struct tap_queue {
	struct net_tap *tap;
	struct loop_fd src; /* fd is -1 when there is none */
	bool want_receive, want_send;
	bool attached; /* the kernel hands frames to it */
};

struct net_tap {
	struct net_backend net;
	char ifname[IFNAMSIZ];
	bool multi_queue;
	bool dead; /* the interface is gone */
	struct loop *loop;
	struct loop_msg tell_dead;
	struct tap_queue queues[NET_MAX_QUEUES];
};

static struct net_tap *net_tap_of(struct net_backend *net)
{
	return container_of(net, struct net_tap, net);
}

/* --- frames --- */

static void tap_watch(struct tap_queue *queue)
{
	if (queue->attached && !queue->tap->dead)
		loop_fd_mod(&queue->src, (queue->want_receive ? LOOP_READ : 0) |
						 (queue->want_send ? LOOP_WRITE : 0));
}

static void tap_tell_dead(struct loop_msg *msg)
{
	struct net_tap *tap = container_of(msg, struct net_tap, tell_dead);
	struct net_events *events = &tap->net.events;

	if (events->link)
		events->link(events->opaque, false);
}

/* The interface was deleted: its descriptors are good for nothing any more. */
static void tap_kill(struct net_tap *tap)
{
	if (tap->dead)
		return;
	tap->dead = true;
	for (unsigned i = 0; i < tap->net.n_queues; i++)
		loop_fd_del(&tap->queues[i].src);
	loop_post(tap->loop, &tap->tell_dead);
}

static int net_tap_send(struct net_backend *net, unsigned index, const struct iovec *iov,
			unsigned n)
{
	struct net_tap *tap = net_tap_of(net);
	struct tap_queue *queue = &tap->queues[index];
	ssize_t r;

	do {
		r = writev(queue->src.fd, iov, (int)n);
	} while (r < 0 && errno == EINTR);
	if (r >= 0)
		return 0;
	if (errno == EBADFD)
		tap_kill(tap);
	if (errno != EAGAIN)
		return -errno; /* EIO: the interface is down; EINVAL: a header that makes no sense */
	queue->want_send = true;
	tap_watch(queue);
	return -EAGAIN;
}

static ssize_t net_tap_receive(struct net_backend *net, unsigned index, const struct iovec *iov,
			       unsigned n)
{
	struct net_tap *tap = net_tap_of(net);
	size_t room = 0;
	ssize_t r;

	do {
		r = readv(tap->queues[index].src.fd, iov, (int)n);
	} while (r < 0 && errno == EINTR);
	if (r < 0 && errno == EBADFD)
		tap_kill(tap);
	if (r <= 0)
		return -EAGAIN;
	/* A frame that is cut short shows as one that fills all there is. */
	for (unsigned i = 0; i < n; i++)
		room += iov[i].iov_len;
	if ((size_t)r >= room)
		return -EMSGSIZE;
	return r;
}

static void net_tap_want_receive(struct net_backend *net, unsigned index, bool on)
{
	struct tap_queue *queue = &net_tap_of(net)->queues[index];

	queue->want_receive = on;
	tap_watch(queue);
}

static void tap_ready(struct loop_fd *src, unsigned ready)
{
	struct tap_queue *queue = container_of(src, struct tap_queue, src);
	struct net_tap *tap = queue->tap;
	struct net_events *events = &tap->net.events;
	unsigned index = (unsigned)(queue - tap->queues);

	if ((ready & LOOP_WRITE) && queue->want_send) {
		queue->want_send = false;
		tap_watch(queue);
		if (events->writable)
			events->writable(events->opaque, index);
	}
	if ((ready & LOOP_READ) && queue->want_receive && !tap->dead && events->readable)
		events->readable(events->opaque, index);
	/* The kernel reports an error on a queue whose interface is gone. A detached one is no error. */
	else if ((ready & LOOP_HANGUP) && queue->attached)
		tap_kill(tap);
}

/* --- settings --- */

static unsigned tap_offload_flags(unsigned offloads)
{
	return ((offloads & NET_OFFLOAD_CSUM) ? TUN_F_CSUM : 0) |
	       ((offloads & NET_OFFLOAD_TSO4) ? TUN_F_TSO4 : 0) |
	       ((offloads & NET_OFFLOAD_TSO6) ? TUN_F_TSO6 : 0) |
	       ((offloads & NET_OFFLOAD_ECN) ? TUN_F_TSO_ECN : 0) |
	       ((offloads & NET_OFFLOAD_UFO) ? TUN_F_UFO : 0);
}

static int net_tap_set_offloads(struct net_backend *net, unsigned offloads, unsigned hdr_bytes)
{
	struct net_tap *tap = net_tap_of(net);
	unsigned flags = tap_offload_flags(offloads);

	if (hdr_bytes != NET_HDR_BYTES)
		return -EINVAL;
	return ioctl(tap->queues[0].src.fd, TUNSETOFFLOAD, (unsigned long)flags) < 0 ? -errno : 0;
}

static int tap_queue_watch_first(struct tap_queue *queue)
{
	unsigned events =
		(queue->want_receive ? LOOP_READ : 0) | (queue->want_send ? LOOP_WRITE : 0);

	return loop_fd_add(queue->tap->loop, &queue->src, queue->src.fd, events, tap_ready);
}

static int net_tap_set_queues(struct net_backend *net, unsigned queues)
{
	struct net_tap *tap = net_tap_of(net);

	if (!tap->multi_queue || tap->dead)
		return 0;
	for (unsigned i = 0; i < tap->net.n_queues; i++) {
		struct tap_queue *queue = &tap->queues[i];
		bool attach = i < queues;
		int r = 0;

		struct ifreq ifr = {.ifr_flags = attach ? IFF_ATTACH_QUEUE : IFF_DETACH_QUEUE};

		if (queue->attached == attach)
			continue;
		/* A detached descriptor polls as an error for ever. */
		if (!attach)
			loop_fd_del(&queue->src);
		if (ioctl(queue->src.fd, TUNSETQUEUE, &ifr) < 0)
			return -errno;
		queue->attached = attach;
		if (attach)
			r = tap_queue_watch_first(queue);
		if (r < 0)
			return r;
	}
	return 0;
}

static int net_tap_vhost_fd(struct net_backend *net, unsigned index)
{
	return net->has_vhost ? net_tap_of(net)->queues[index].src.fd : -ENOTSUP;
}

static void net_tap_close(struct net_tap *tap, bool close_fds)
{
	loop_unpost(tap->loop, &tap->tell_dead);
	for (unsigned i = 0; i < ARRAY_SIZE(tap->queues); i++) {
		loop_fd_del(&tap->queues[i].src);
		if (close_fds && tap->queues[i].src.fd >= 0)
			close(tap->queues[i].src.fd);
	}
	free(tap);
}

static void net_tap_free(struct net_backend *net)
{
	net_tap_close(net_tap_of(net), true);
}

static const struct net_backend_ops net_tap_ops = {
	.type = "tap",
	.send = net_tap_send,
	.receive = net_tap_receive,
	.want_receive = net_tap_want_receive,
	.set_offloads = net_tap_set_offloads,
	.vhost_fd = net_tap_vhost_fd,
	.set_queues = net_tap_set_queues,
	.free = net_tap_free,
};

/* --- open --- */

static int tap_explain(const char *ifname, int code, struct error *err)
{
	switch (code) {
	case -EBUSY:
		return error_set(err, code,
				 "tap %s: it is in use by another program (or was made without "
				 "multi_queue and is asked for several queues)",
				 ifname);
	case -EPERM:
	case -EACCES:
		return error_set(err, code,
				 "tap %s: no permission; it belongs to another user: make it with "
				 "\"ip tuntap add dev %s mode tap user $USER\"",
				 ifname, ifname);
	case -EINVAL:
		return error_set(
			err, code,
			"tap %s: this interface is no tap, or its multi_queue setting does "
			"not fit the number of queues",
			ifname);
	default:
		return error_set_errno(err, code, "tap %s", ifname);
	}
}

static int tap_open_node(const char *ifname, struct error *err)
{
	int fd = open(TAP_NODE, O_RDWR | O_CLOEXEC | O_NONBLOCK);

	if (fd >= 0)
		return fd;
	if (errno == ENOENT || errno == ENODEV)
		return error_set(err, -errno,
				 "tap %s: this host has no %s; \"modprobe tun\" as root makes it",
				 ifname, TAP_NODE);
	return error_set_errno(err, -errno, "tap %s: %s cannot be opened", ifname, TAP_NODE);
}

static int tap_attach(int fd, const char *ifname, short flags)
{
	struct ifreq ifr = {.ifr_flags = flags};

	memcpy(ifr.ifr_name, ifname, strlen(ifname));
	return ioctl(fd, TUNSETIFF, &ifr) < 0 ? -errno : 0;
}

/* One queue on the interface `ifname`. An existing tap may have been made with multi_queue or without: with one queue
 * both will do. */
static int tap_open_queue(struct net_tap *tap, const char *ifname, struct error *err)
{
	const short flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;
	int r;

	/* The kernel would make it: an interface that is down, on no bridge, and seldom what was meant. */
	if (if_nametoindex(ifname) == 0)
		return error_set(err, -ENODEV,
				 "tap %s: there is no such interface; \"ip tuntap add dev %s mode "
				 "tap user $USER\" as root makes it",
				 ifname, ifname);

	_cleanup_close_ int fd = tap_open_node(ifname, err);

	if (fd < 0)
		return fd;
	r = tap_attach(fd, ifname, tap->multi_queue ? flags | IFF_MULTI_QUEUE : flags);
	if (r == -EINVAL && !tap->multi_queue) {
		tap->multi_queue = true;
		r = tap_attach(fd, ifname, flags | IFF_MULTI_QUEUE);
	}
	if (r < 0)
		return tap_explain(ifname, r, err);
	return steal_fd(&fd);
}

/* A descriptor that somebody else has opened: is it a tap with virtio headers? */
static int tap_check_fd(struct net_tap *tap, int fd, struct error *err)
{
	struct ifreq ifr = {0};

	if (ioctl(fd, TUNGETIFF, &ifr) < 0)
		return error_set(err, -EINVAL,
				 "network: descriptor %d is no tap with an interface attached", fd);
	memcpy(tap->ifname, ifr.ifr_name, sizeof(tap->ifname) - 1);
	if (!(ifr.ifr_flags & IFF_TAP) || !(ifr.ifr_flags & IFF_NO_PI))
		return error_set(err, -EINVAL,
				 "tap %s: descriptor %d was opened in tun mode or with packet "
				 "information; open it with IFF_TAP | IFF_NO_PI | IFF_VNET_HDR",
				 tap->ifname, fd);
	if (!(ifr.ifr_flags & IFF_VNET_HDR))
		return error_set(err, -EINVAL,
				 "tap %s: descriptor %d was opened without IFF_VNET_HDR",
				 tap->ifname, fd);
	if (ifr.ifr_flags & IFF_MULTI_QUEUE)
		tap->multi_queue = true;
	return fd_set_nonblock(fd, true);
}

static int tap_set_header(struct net_tap *tap, int fd, struct error *err)
{
	int hdr = NET_HDR_BYTES;
	int le = 1;

	if (ioctl(fd, TUNSETVNETHDRSZ, &hdr) < 0)
		return error_set_errno(err, -errno, "tap %s: header size", tap->ifname);
	/* Little-endian by VIRTIO 1; a kernel of this byte order may not know the request. */
	if (ioctl(fd, TUNSETVNETLE, &le) < 0 && __BYTE_ORDER != __LITTLE_ENDIAN)
		return error_set_errno(err, -errno, "tap %s: byte order", tap->ifname);
	return 0;
}

/* What the kernel can do with offloads; none are on afterwards. */
static unsigned tap_probe_offloads(int fd)
{
	static const unsigned sets[] = {
		NET_OFFLOAD_CSUM | NET_OFFLOAD_TSO4 | NET_OFFLOAD_TSO6 | NET_OFFLOAD_ECN,
		NET_OFFLOAD_CSUM,
	};
	unsigned found = 0;

	for (size_t i = 0; i < ARRAY_SIZE(sets) && !found; i++) {
		if (ioctl(fd, TUNSETOFFLOAD, (unsigned long)tap_offload_flags(sets[i])) == 0)
			found = sets[i];
	}
	ioctl(fd, TUNSETOFFLOAD, 0UL);
	return found;
}

static unsigned tap_mtu(const char *ifname)
{
	struct ifreq ifr = {0};

	_cleanup_close_ int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	if (fd < 0 || !str_copy(ifr.ifr_name, sizeof(ifr.ifr_name), ifname) ||
	    ioctl(fd, SIOCGIFMTU, &ifr) < 0)
		return 0;
	return (unsigned)MAX(ifr.ifr_mtu, 0);
}

static int tap_check_vhost(const char *ifname, struct error *err)
{
	if (access(VHOST_NODE, R_OK | W_OK) == 0)
		return 0;
	if (errno == EACCES)
		return error_set(err, -EOPNOTSUPP,
				 "tap %s: no permission for %s; leave vhost off, or let the group "
				 "of %s have you",
				 ifname, VHOST_NODE, VHOST_NODE);
	return error_set(err, -EOPNOTSUPP,
			 "tap %s: this host has no %s; \"modprobe vhost_net\" as root makes it, or "
			 "leave vhost off",
			 ifname, VHOST_NODE);
}

static int tap_check_config(const struct net_tap_config *config, unsigned n, struct error *err)
{
	if (n > NET_MAX_QUEUES)
		return error_set(err, -EINVAL, "network: a tap has at most %d queues here, not %u",
				 NET_MAX_QUEUES, n);
	if (config->fds)
		return 0;
	if (!config->ifname || !*config->ifname)
		return error_set(err, -EINVAL, "network: a tap needs an interface's name");
	if (strlen(config->ifname) >= IFNAMSIZ || strpbrk(config->ifname, "/% :"))
		return error_set(err, -EINVAL, "tap %s: this is no interface name (%d characters)",
				 config->ifname, IFNAMSIZ - 1);
	return 0;
}

/* Opens or takes every queue. */
static int tap_open_queues(struct net_tap *tap, const struct net_tap_config *config,
			   struct error *err)
{
	int r;

	for (unsigned i = 0; i < tap->net.n_queues; i++) {
		struct tap_queue *queue = &tap->queues[i];
		int fd;

		if (config->fds) {
			fd = config->fds[i];
			r = tap_check_fd(tap, fd, err);
		} else {
			fd = tap_open_queue(tap, config->ifname, err);
			r = fd;
		}
		if (r < 0)
			return r;
		queue->src.fd = fd;
		queue->attached = true;
		r = tap_queue_watch_first(queue);
		if (r >= 0)
			r = tap_set_header(tap, fd, err);
		if (r < 0)
			return r;
	}
	return 0;
}

int net_tap_open(struct loop *loop, const struct net_tap_config *config, struct net_backend **ret,
		 struct error *err)
{
	unsigned n = MAX(config->n_queues, 1u);
	struct net_tap *tap;
	int r = tap_check_config(config, n, err);

	if (r < 0)
		return r;
	tap = calloc(1, sizeof(*tap));
	if (!tap)
		return error_set(err, -ENOMEM, "network: out of memory");
	tap->net.ops = &net_tap_ops;
	tap->net.n_queues = n;
	tap->loop = loop;
	tap->tell_dead.fn = tap_tell_dead;
	tap->multi_queue = n > 1;
	if (config->ifname)
		str_copy(tap->ifname, sizeof(tap->ifname), config->ifname);
	for (unsigned i = 0; i < ARRAY_SIZE(tap->queues); i++) {
		tap->queues[i].tap = tap;
		tap->queues[i].src.fd = -1;
	}
	r = tap_open_queues(tap, config, err);
	if (r >= 0 && config->vhost)
		r = tap_check_vhost(tap->ifname, err);
	if (r < 0) {
		/* Descriptors that were handed in stay the caller's. */
		net_tap_close(tap, !config->fds);
		return r;
	}
	tap->net.has_vhost = config->vhost;
	tap->net.mtu = tap_mtu(tap->ifname);
	tap->net.offloads = tap_probe_offloads(tap->queues[0].src.fd);
	tap->net.rx_offloads = tap->net.offloads;
	*ret = &tap->net;
	return 0;
}
