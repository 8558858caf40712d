/*
 * Network backends: where a network device's frames go. A table of operations; user (passt), tap, and a recorder for tests.
 *
 * Thread model: a backend belongs to the loop it was opened with; send and receive are called there. Frames carry a
 * virtio_net_hdr of `hdr_bytes` in front on both ways (VIRTIO 1.2, 5.1.6); a backend without offloads ignores and zeroes it.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "base/error.h"
#include "base/loop.h"

struct net_backend;

/* The largest frame that any backend takes or gives, without the header: 64 KiB of IP behind an Ethernet header and
 * two VLAN tags. */
#define NET_MAX_FRAME_BYTES (65535 + 22)
#define NET_MIN_FRAME_BYTES 14
#define NET_HDR_BYTES       12 /* struct virtio_net_hdr with num_buffers */
#define NET_MAX_QUEUES      8  /* pairs */

/* Offloads, as a mask. */
#define NET_OFFLOAD_CSUM 1u /* partial checksums */
#define NET_OFFLOAD_TSO4 2u
#define NET_OFFLOAD_TSO6 4u
#define NET_OFFLOAD_ECN  8u
#define NET_OFFLOAD_UFO  16u
#define NET_OFFLOAD_USO  32u

struct net_backend_ops {
	const char *type; /* "user", "tap", "null" */
	/* Sends one frame. 0: taken; -EAGAIN: full, `writable` will be called; other: dropped (counted by the caller). */
	int (*send)(struct net_backend *net, unsigned queue, const struct iovec *iov, unsigned n);
	/* Reads one frame into iov; returns its bytes with header, -EAGAIN when there is none, -EMSGSIZE when it did not fit
	 * (the frame is gone). */
	ssize_t (*receive)(struct net_backend *net, unsigned queue, const struct iovec *iov,
			   unsigned n);
	/* Asks for `readable` calls on or off (off while the guest has no buffers). */
	void (*want_receive)(struct net_backend *net, unsigned queue, bool on);
	/* What the guest accepts on receive, and the header's size (12 for VIRTIO 1). Returns 0 or a negative errno. */
	int (*set_offloads)(struct net_backend *net, unsigned offloads, unsigned hdr_bytes);
	/* Descriptors for a vhost backend: the tap's fd for a queue, or -ENOTSUP. */
	int (*vhost_fd)(struct net_backend *net, unsigned queue);
	/* How many queue pairs the guest uses from now on; those behind get no frames. NULL: nothing to do. */
	int (*set_queues)(struct net_backend *net, unsigned queues);
	/* Waits until the backend works or has failed. NULL: it works since it was opened. See net_backend_wait(). */
	int (*wait)(struct net_backend *net, struct error *err);
	void (*free)(struct net_backend *net);
};

/* Events to the device; on the backend's loop, never from inside a call of an operation. */
struct net_events {
	void (*readable)(void *opaque, unsigned queue);
	void (*writable)(void *opaque, unsigned queue);
	void (*link)(void *opaque, bool up); /* the peer went away or came back */
	void *opaque;
};

struct net_backend {
	const struct net_backend_ops *ops;
	struct net_events events; /* set by the device before want_receive */
	unsigned offloads;    /* [const after open] what it does with frames that the guest sends */
	unsigned rx_offloads; /* [const after open] what it can make use of on receive */
	unsigned n_queues;
	unsigned mtu;   /* 0: not known */
	bool has_vhost; /* vhost-net may take the data path over (see vhost.h) */
};

static inline void net_backend_free(struct net_backend *net)
{
	if (net)
		net->ops->free(net);
}

/* For backends that are opened with `defer`: to be called once before the guest runs; any thread. */
static inline int net_backend_wait(struct net_backend *net, struct error *err)
{
	return net->ops->wait ? net->ops->wait(net, err) : 0;
}

/* --- user mode: passt, a child process that ends with us ---
 *
 * The guest finds DHCP, a resolver, and the host itself at the gateway's address; IPv6 when the host has a default route
 * for it. The addresses do not depend on the host's. */
#define NET_USER_GUEST_ADDR   "10.0.2.15"
#define NET_USER_GATEWAY_ADDR "10.0.2.2"
#define NET_USER_PREFIX       "24"

struct net_user_config {
	/* "tcp|udp:[address]:port-[10.0.2.15]:port", one port each, NULL-terminated; NULL: none */
	const char *const *hostfwd;
	const char *program; /* NULL: "passt" in PATH */
	bool defer; /* return once passt is started; net_backend_wait() reports how its start went */
};
int net_user_open(struct loop *loop, const struct net_user_config *config, struct net_backend **ret,
		  struct error *err);

/* --- tap --- */
struct net_tap_config {
	const char *ifname; /* an existing tap; or NULL with fds */
	const int *fds;     /* n_queues open tap descriptors, taken over on success */
	unsigned n_queues;  /* pairs; 0 counts as 1 */
	bool vhost;         /* -EOPNOTSUPP when /dev/vhost-net cannot be used */
};
int net_tap_open(struct loop *loop, const struct net_tap_config *config, struct net_backend **ret,
		 struct error *err);

/* --- for tests: frames go to and come from a pair of queues in memory (see vm/net/null.h); without a test's hand on
 * them, what is sent vanishes and nothing is received --- */
int net_null_open(struct loop *loop, struct net_backend **ret);
