/*
 * Inside of the network device: what configuration and life (virtio_net.c), receive (_rx), transmit (_tx), the control
 * queue (_ctrl) and the kernel's data path (_vhost) share. Private to virtio_net*.c.
 *
 * Everything runs on the device's loop but what the registers call (features, configuration, activate, deactivate), which
 * runs on vCPU threads under dev.lock and leaves the work to the loop by posting `sync`.
 */
#pragma once

#include <stdatomic.h>

#include "base/endian.h"
#include "vm/devices/virtio_net.h"
#include "vm/virtio/virtio.h"

/* Feature bits, section 5.1.3. */
#define NET_F_CSUM                0
#define NET_F_GUEST_CSUM          1
#define NET_F_CTRL_GUEST_OFFLOADS 2
#define NET_F_MTU                 3
#define NET_F_MAC                 5
#define NET_F_GUEST_TSO4          7
#define NET_F_GUEST_TSO6          8
#define NET_F_GUEST_ECN           9
#define NET_F_GUEST_UFO           10
#define NET_F_HOST_TSO4           11
#define NET_F_HOST_TSO6           12
#define NET_F_HOST_ECN            13
#define NET_F_HOST_UFO            14
#define NET_F_MRG_RXBUF           15
#define NET_F_STATUS              16
#define NET_F_CTRL_VQ             17
#define NET_F_CTRL_RX             18
#define NET_F_CTRL_VLAN           19
#define NET_F_CTRL_RX_EXTRA       20
#define NET_F_GUEST_ANNOUNCE      21
#define NET_F_MQ                  22
#define NET_F_CTRL_MAC_ADDR       23

/* Configuration status, section 5.1.4. */
#define NET_S_LINK_UP  1
#define NET_S_ANNOUNCE 2

#define NET_MAC_TABLE 64
#define NET_VLANS     4096

#define NET_RX_SLOTS 128  /* guest buffers taken in advance */
#define NET_RX_IOVS  2048 /* twice the segments that one request may have */
#define NET_RX_ROOM  (NET_HDR_BYTES + NET_MAX_FRAME_BYTES)
#define NET_BATCH    64 /* frames of one queue before others have their turn */

/* Buffers that the guest gave for receiving, taken but not yet used: a FIFO of requests whose iovecs stand one behind the
 * other in `iov`, so that one read fills several. */
struct net_rx {
	struct vq_req reqs[NET_RX_SLOTS]; /* a ring */
	unsigned first, count;
	struct iovec *iov; /* NET_RX_IOVS, live from iov_first to iov_end */
	unsigned iov_first, iov_end;
	uint64_t bytes; /* room in them */
	bool full;      /* no more can be held, be they ever so small */
	/* What did not fit into them, NET_RX_ROOM bytes; kept until the guest gives more. */
	uint8_t *spill;
	size_t frame_bytes; /* of the frame that waits in buffers and spill; 0: none does */
	size_t covered;     /* bytes of it that are in buffers */
};

struct net_pair {
	struct net_rx rx;
	bool tx_full; /* the backend said -EAGAIN and has not called `writable` */
	struct net_vhost *vhost;
};

struct virtio_net {
	struct virtio vdev; /* first: the instance is a virtio device */
	struct net_backend *backend;
	struct loop_msg sync;
	uint8_t own_mac[6]; /* [const] */
	uint16_t mtu;       /* [const] */
	uint32_t n_pairs;   /* [const] */
	bool use_vhost;     /* [const] */

	bool running;        /* [loop] queues are served */
	bool cable;          /* [lock] set_link */
	bool carrier;        /* [lock] the backend's word */
	atomic_bool link_up; /* both */

	/* Guest-visible, [loop] and written under dev.lock. */
	uint8_t mac[6];
	uint8_t announce; /* status bit of a request that the guest has not acknowledged */
	uint32_t active_pairs;
	uint64_t guest_offloads; /* as feature bits */
	uint8_t promisc, allmulti, alluni, nomulti, nouni, nobcast;
	uint8_t uni_overflow, multi_overflow;
	uint32_t n_uni, n_multi; /* of mac_table: unicast first */
	uint8_t mac_table[NET_MAC_TABLE][6];
	uint8_t vlans[NET_VLANS / 8];

	struct iovec *iov;             /* [loop] VQ_MAX_SEGS: a transmit or control request */
	struct virtio_net_stats stats; /* [loop] */
	struct net_pair pairs[NET_MAX_QUEUES];
};

static inline struct virtio_net *virtio_net_of(struct virtio *vdev)
{
	return (struct virtio_net *)vdev;
}

static inline struct vq *net_rxq(struct virtio_net *net, unsigned pair)
{
	return &net->vdev.queues[2 * pair].vq;
}

static inline struct vq *net_txq(struct virtio_net *net, unsigned pair)
{
	return &net->vdev.queues[2 * pair + 1].vq;
}

/* Section 5.1.2: behind the queues of all pairs when these were negotiated, else behind the first. */
static inline unsigned net_ctrl_index(const struct virtio_net *net)
{
	return virtio_has(&net->vdev, NET_F_MQ) ? 2 * net->n_pairs : 2;
}

/* --- virtio_net_rx.c --- */
int net_rx_init(struct net_rx *rx);
void net_rx_fini(struct net_rx *rx);
/* Moves frames from the backend to the guest, as many as are there and a batch allows. */
void net_rx_run(struct virtio_net *net, unsigned pair);
/* Gives unused buffers back to the queue; a frame that waits for more of them is lost. */
void net_rx_stop(struct virtio_net *net, unsigned pair);
/* Does a frame with this beginning concern the guest? len: bytes of it that are there. */
bool net_rx_wanted(const struct virtio_net *net, const uint8_t *frame, size_t len);

/* --- virtio_net_tx.c --- */
void net_tx_run(struct virtio_net *net, unsigned pair);

/* --- virtio_net_ctrl.c --- */
void net_ctrl_run(struct virtio_net *net);
/* Filters and addresses as after power-on. dev.lock held. */
void net_ctrl_reset(struct virtio_net *net);

/* --- virtio_net_vhost.c --- */
int net_vhost_open(struct virtio_net *net, struct error *err);
void net_vhost_close(struct virtio_net *net);
int net_vhost_start(struct virtio_net *net, unsigned pair);
/* The rings' positions are ours again afterwards. */
void net_vhost_stop(struct virtio_net *net, unsigned pair);

/* --- virtio_net.c --- */
/* The pairs in use have changed from `before`. */
void net_pairs_changed(struct virtio_net *net, unsigned before);
void net_offloads_apply(struct virtio_net *net);
