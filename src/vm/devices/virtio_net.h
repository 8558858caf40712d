/*
 * A virtio network device over a network backend. (VIRTIO 1.2, section 5.1.)
 *
 * Threads: made and freed on the main thread. The device, all its queues and its backend belong to env->loop.
 */
#pragma once

#include "vm/bus/device.h"
#include "vm/net/net.h"

#define VIRTIO_NET_MIN_MTU 68 /* section 5.1.4.1 */
#define VIRTIO_NET_MAX_MTU 65535

struct virtio_net_config {
	const char *id;
	struct net_backend *backend; /* opened on env->loop; taken over on success */
	uint8_t mac[6];
	uint16_t mtu;         /* announced to the guest; 0: not */
	unsigned queue_pairs; /* 1 to the backend's; 0: as many as the backend has */
	uint16_t queue_size;  /* a power of two, 64 to VQ_MAX_SIZE; 0: 256 */
	bool vhost;           /* the kernel moves the frames; the backend has_vhost */
	int slot;             /* on the PCI bus; -1: next free */
};

/* Puts the device on env->pci. */
int virtio_net_new(const struct device_env *env, const struct virtio_net_config *config,
		   struct device **ret, struct error *err);

/* All below: any thread but, for query, one that holds a lock of the device; dev: made by virtio_net_new(). */

/* Pulls or plugs the cable. */
void virtio_net_set_link(struct device *dev, bool up);
/* Asks the guest to make itself known to the network (gratuitous ARP), for use after a move. */
void virtio_net_announce(struct device *dev);

struct virtio_net_stats {
	uint64_t rx_frames, rx_bytes;
	uint64_t rx_filtered; /* not for this guest */
	uint64_t rx_dropped;  /* larger than the guest's buffers */
	uint64_t tx_frames, tx_bytes;
	uint64_t tx_dropped; /* no frame at all, or refused by the backend */
	uint64_t tx_waits;   /* times that the backend was full */
};

struct virtio_net_info {
	const char *id;
	const char *backend; /* its type */
	uint8_t mac[6];      /* as the guest has set it */
	bool link_up;
	bool vhost; /* the kernel moves the frames: it counts none here */
	unsigned queue_pairs, active_pairs;
	struct virtio_net_stats stats; /* since start */
};
void virtio_net_query(struct device *dev, struct virtio_net_info *ret);
