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
	void (*free)(struct net_backend *net);
};

/* Events to the device; on the backend's loop. */
struct net_events {
	void (*readable)(void *opaque, unsigned queue);
	void (*writable)(void *opaque, unsigned queue);
	void (*link)(void *opaque, bool up); /* the peer went away or came back */
	void *opaque;
};

struct net_backend {
	const struct net_backend_ops *ops;
	struct net_events events; /* set by the device before want_receive */
	unsigned offloads;        /* [const after open] what it can do */
	unsigned n_queues;
	unsigned mtu;   /* 0: not known */
	bool has_vhost; /* vhost-net may take the data path over (see vhost.h) */
};

static inline void net_backend_free(struct net_backend *net)
{
	if (net)
		net->ops->free(net);
}

/* --- user mode: passt, a child process that ends with us --- */
struct net_user_config {
	const char *const *hostfwd; /* "tcp:127.0.0.1:2222-:22", NULL-terminated; NULL: none */
	const char *program;        /* NULL: "passt" in PATH */
};
int net_user_open(struct loop *loop, const struct net_user_config *config, struct net_backend **ret,
		  struct error *err);

/* --- tap --- */
struct net_tap_config {
	const char *ifname; /* an existing or, with the right to, a new tap; or NULL with fds */
	const int *fds;     /* n_queues open tap descriptors, taken over on success */
	unsigned n_queues;
	bool vhost; /* -EOPNOTSUPP when /dev/vhost-net cannot be used */
};
int net_tap_open(struct loop *loop, const struct net_tap_config *config, struct net_backend **ret,
		 struct error *err);

/* --- for tests: frames go to and come from a pair of queues in memory --- */
int net_null_open(struct loop *loop, struct net_backend **ret);
