/*
 * The control queue: receive filters, the hardware address, queue pairs, offloads, announcements (VIRTIO 1.2, section
 * 5.1.6.5). Each command is read once into a buffer of ours, checked, and answered with one byte.
 *
 * Runs on the device's loop. What registers show is changed under dev.lock, never under the queue's.
 */
#include <string.h>

#include "base/bits.h"
#include "base/cleanup.h"
#include "vm/devices/virtio_net_int.h"

#define CTRL_OK  0
#define CTRL_ERR 1

#define CTRL_BATCH 16 /* commands before others have their turn */

/* Classes and their commands. */
#define CTRL_RX                 0
#define CTRL_RX_PROMISC         0
#define CTRL_RX_ALLMULTI        1
#define CTRL_RX_ALLUNI          2
#define CTRL_RX_NOMULTI         3
#define CTRL_RX_NOUNI           4
#define CTRL_RX_NOBCAST         5
#define CTRL_MAC                1
#define CTRL_MAC_TABLE_SET      0
#define CTRL_MAC_ADDR_SET       1
#define CTRL_VLAN               2
#define CTRL_VLAN_ADD           0
#define CTRL_VLAN_DEL           1
#define CTRL_ANNOUNCE           3
#define CTRL_ANNOUNCE_ACK       0
#define CTRL_MQ                 4
#define CTRL_MQ_VQ_PAIRS_SET    0
#define CTRL_GUEST_OFFLOADS     5
#define CTRL_GUEST_OFFLOADS_SET 0

/* What follows class and command. */
struct ctrl_data {
	const struct iovec *iov;
	unsigned n;
	uint64_t bytes; /* behind `at` */
	size_t at;
};

/* The next `len` bytes; false when there are not so many. */
static bool ctrl_take(struct ctrl_data *data, void *buf, size_t len)
{
	if (data->bytes < len || iov_to_buf(data->iov, data->n, data->at, buf, len) != len)
		return false;
	data->at += len;
	data->bytes -= len;
	return true;
}

static bool ctrl_rx(struct virtio_net *net, uint8_t command, struct ctrl_data *data)
{
	uint8_t *modes[] = {&net->promisc, &net->allmulti, &net->alluni,
			    &net->nomulti, &net->nouni,    &net->nobcast};
	unsigned feature = command >= CTRL_RX_ALLUNI ? NET_F_CTRL_RX_EXTRA : NET_F_CTRL_RX;
	uint8_t on;

	if (command >= ARRAY_SIZE(modes) || !virtio_has(&net->vdev, feature) ||
	    !ctrl_take(data, &on, sizeof(on)))
		return false;
	*modes[command] = on != 0;
	return true;
}

/* One of the two tables: a count and so many addresses. Too many for us: everything of that kind passes. */
static bool ctrl_mac_list(struct ctrl_data *data, uint8_t (*table)[6], uint32_t room,
			  uint32_t *ret_n, uint8_t *ret_overflow)
{
	le32 n_le;
	uint32_t n;

	if (!ctrl_take(data, &n_le, sizeof(n_le)))
		return false;
	n = le32_get(n_le);
	if (n > data->bytes / 6)
		return false;
	*ret_overflow = n > room;
	if (n > room) {
		*ret_n = 0;
		data->at += (size_t)n * 6;
		data->bytes -= (size_t)n * 6;
		return true;
	}
	*ret_n = n;
	return ctrl_take(data, table, (size_t)n * 6);
}

static bool ctrl_mac_table(struct virtio_net *net, struct ctrl_data *data)
{
	uint8_t table[NET_MAC_TABLE][6] = {0};
	uint32_t n_uni;
	uint32_t n_multi;
	uint8_t uni_overflow;
	uint8_t multi_overflow;

	if (!virtio_has(&net->vdev, NET_F_CTRL_RX) ||
	    !ctrl_mac_list(data, table, NET_MAC_TABLE, &n_uni, &uni_overflow) ||
	    !ctrl_mac_list(data, table + n_uni, NET_MAC_TABLE - n_uni, &n_multi, &multi_overflow) ||
	    data->bytes != 0)
		return false;
	memcpy(net->mac_table, table, sizeof(table));
	net->n_uni = n_uni;
	net->n_multi = n_multi;
	net->uni_overflow = uni_overflow;
	net->multi_overflow = multi_overflow;
	return true;
}

static bool ctrl_mac_addr(struct virtio_net *net, struct ctrl_data *data)
{
	uint8_t mac[6];

	if (!virtio_has(&net->vdev, NET_F_CTRL_MAC_ADDR) || data->bytes != sizeof(mac) ||
	    !ctrl_take(data, mac, sizeof(mac)))
		return false;
	LOCK_GUARD(&net->vdev.pci.dev.lock);
	memcpy(net->mac, mac, sizeof(mac));
	return true;
}

static bool ctrl_mac(struct virtio_net *net, uint8_t command, struct ctrl_data *data)
{
	switch (command) {
	case CTRL_MAC_TABLE_SET:
		return ctrl_mac_table(net, data);
	case CTRL_MAC_ADDR_SET:
		return ctrl_mac_addr(net, data);
	default:
		return false;
	}
}

static bool ctrl_vlan(struct virtio_net *net, uint8_t command, struct ctrl_data *data)
{
	le16 id_le;
	uint16_t id;

	if (!virtio_has(&net->vdev, NET_F_CTRL_VLAN) || command > CTRL_VLAN_DEL ||
	    !ctrl_take(data, &id_le, sizeof(id_le)))
		return false;
	id = le16_get(id_le);
	if (id >= NET_VLANS)
		return false;
	if (command == CTRL_VLAN_ADD)
		net->vlans[id / 8] |= (uint8_t)(1u << (id % 8));
	else
		net->vlans[id / 8] &= (uint8_t) ~(1u << (id % 8));
	return true;
}

static bool ctrl_announce(struct virtio_net *net, uint8_t command)
{
	if (!virtio_has(&net->vdev, NET_F_GUEST_ANNOUNCE) || command != CTRL_ANNOUNCE_ACK)
		return false;
	LOCK_GUARD(&net->vdev.pci.dev.lock);
	net->announce = 0;
	return true;
}

static bool ctrl_mq(struct virtio_net *net, uint8_t command, struct ctrl_data *data)
{
	unsigned before = net->active_pairs;
	le16 pairs;

	if (!virtio_has(&net->vdev, NET_F_MQ) || command != CTRL_MQ_VQ_PAIRS_SET ||
	    !ctrl_take(data, &pairs, sizeof(pairs)))
		return false;
	if (le16_get(pairs) == 0 || le16_get(pairs) > net->n_pairs)
		return false;
	net->active_pairs = le16_get(pairs);
	net_pairs_changed(net, before);
	return true;
}

static bool ctrl_offloads(struct virtio_net *net, uint8_t command, struct ctrl_data *data)
{
	const uint64_t settable = BIT(NET_F_GUEST_CSUM) | BIT(NET_F_GUEST_TSO4) |
				  BIT(NET_F_GUEST_TSO6) | BIT(NET_F_GUEST_ECN) |
				  BIT(NET_F_GUEST_UFO);
	le64 offloads;

	if (!virtio_has(&net->vdev, NET_F_CTRL_GUEST_OFFLOADS) ||
	    command != CTRL_GUEST_OFFLOADS_SET || !ctrl_take(data, &offloads, sizeof(offloads)))
		return false;
	if (le64_get(offloads) & ~(settable & net->vdev.features))
		return false;
	net->guest_offloads = le64_get(offloads);
	net_offloads_apply(net);
	return true;
}

static bool ctrl_command(struct virtio_net *net, struct ctrl_data *data)
{
	uint8_t head[2];

	if (!ctrl_take(data, head, sizeof(head)))
		return false;
	switch (head[0]) {
	case CTRL_RX:
		return ctrl_rx(net, head[1], data);
	case CTRL_MAC:
		return ctrl_mac(net, head[1], data);
	case CTRL_VLAN:
		return ctrl_vlan(net, head[1], data);
	case CTRL_ANNOUNCE:
		return ctrl_announce(net, head[1]);
	case CTRL_MQ:
		return ctrl_mq(net, head[1], data);
	case CTRL_GUEST_OFFLOADS:
		return ctrl_offloads(net, head[1], data);
	default:
		return false;
	}
}

/* One request, from taking to giving back. 1: done; 0: none; -EINVAL: the driver broke the rules. */
static int ctrl_step(struct virtio_net *net, struct virtio_queue *queue, const char **ret_why)
{
	struct vq *vq = &queue->vq;
	struct vq_req req = {.iov = net->iov, .max_iov = VQ_MAX_SEGS};
	struct ctrl_data data;
	uint8_t ack;
	int r;

	pthread_mutex_lock(&vq->lock);
	r = vq_pop(vq, &req);
	if (r == 0 && vq_kicks_on(vq))
		r = vq_pop(vq, &req);
	if (r < 0)
		*ret_why = vq->broken_why;
	pthread_mutex_unlock(&vq->lock);
	if (r <= 0)
		return r;
	data = (struct ctrl_data){req.iov, req.n_out, req.out_bytes, 0};
	ack = ctrl_command(net, &data) ? CTRL_OK : CTRL_ERR;
	pthread_mutex_lock(&vq->lock);
	vq_push(vq, &req,
		(uint32_t)iov_from_buf(req.iov + req.n_out, req.n_in, 0, &ack, sizeof(ack)));
	virtio_signal(&net->vdev, queue);
	pthread_mutex_unlock(&vq->lock);
	return 1;
}

void net_ctrl_run(struct virtio_net *net)
{
	struct virtio_queue *queue = &net->vdev.queues[net_ctrl_index(net)];
	const char *why = NULL;
	int r = 1;

	if (!net->running)
		return;
	for (unsigned i = 0; i < CTRL_BATCH && r > 0; i++)
		r = ctrl_step(net, queue, &why);
	if (r > 0)
		virtio_queue_rekick(&net->vdev, queue->index);
	if (why)
		virtio_break(&net->vdev, why);
}

void net_ctrl_reset(struct virtio_net *net)
{
	memcpy(net->mac, net->own_mac, sizeof(net->mac));
	net->announce = 0;
	net->active_pairs = 1;
	net->guest_offloads = 0;
	/* Until the driver has said what it wants. */
	net->promisc = 1;
	net->allmulti = net->alluni = 0;
	net->nomulti = net->nouni = net->nobcast = 0;
	net->uni_overflow = net->multi_overflow = 0;
	net->n_uni = net->n_multi = 0;
	memset(net->mac_table, 0, sizeof(net->mac_table));
	memset(net->vlans, 0, sizeof(net->vlans));
}
