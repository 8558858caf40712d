/*
 * The test's side of the null backend: what the device has sent, what it shall receive, and a full queue on demand.
 * Everything here runs on the backend's loop.
 */
#pragma once

#include "vm/net/net.h"

#define NET_NULL_MAX_FRAMES 256 /* kept for a test, each way; more are dropped */

/* As net_null_open(), with several queue pairs and a choice of offloads. */
int net_null_open_with(struct loop *loop, unsigned n_queues, unsigned offloads,
		       unsigned rx_offloads, struct net_backend **ret);

/* A frame for the guest: header and all. -ENOBUFS when too many wait, -EMSGSIZE when it is larger than any can be. */
int net_null_push(struct net_backend *net, unsigned queue, const void *frame, size_t len);
/* The next frame that the guest sent, header and all, once net_null_record() was called. Returns its bytes or -EAGAIN. */
ssize_t net_null_pop(struct net_backend *net, unsigned queue, void *buf, size_t size);
/* Frames waiting for the guest. */
size_t net_null_waiting(const struct net_backend *net, unsigned queue);
void net_null_record(struct net_backend *net, bool on);
/* While blocked, every send says -EAGAIN; unblocking calls `writable`. */
void net_null_block(struct net_backend *net, bool blocked);
void net_null_set_link(struct net_backend *net, bool up);
/* What the device asked for last. */
unsigned net_null_offloads(const struct net_backend *net);
unsigned net_null_queues(const struct net_backend *net);
