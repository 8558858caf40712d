/*
 * A virtio network device: features, configuration space, life and state. (VIRTIO 1.2, section 5.1.) Frames move in
 * virtio_net_rx.c and virtio_net_tx.c, commands in virtio_net_ctrl.c, and virtio_net_vhost.c hands the queues to the kernel.
 *
 * Registers are accessed on vCPU threads and only note what is wanted; the device's loop acts on it in net_sync().
 */
#include "vm/devices/virtio_net.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "base/cleanup.h"
#include "base/endian.h"
#include "vm/devices/virtio_net_int.h"

#define VIRTIO_ID_NET          1
#define PCI_CLASS_ETHERNET     0x020000
#define NET_DEFAULT_QUEUE_SIZE 256
#define NET_MIN_QUEUE_SIZE     64

/* Section 5.1.4, up to the fields that we have. */
struct net_config_space {
	uint8_t mac[6];
	le16 status;
	le16 max_virtqueue_pairs;
	le16 mtu;
} __attribute__((packed));

/* --- features and configuration --- */

static const struct {
	unsigned offload, host, guest; /* feature bits; 0: none */
} net_offload_features[] = {
	/* NET_F_CSUM is bit 0, so it stands on its own below. */
	{NET_OFFLOAD_TSO4, NET_F_HOST_TSO4, NET_F_GUEST_TSO4},
	{NET_OFFLOAD_TSO6, NET_F_HOST_TSO6, NET_F_GUEST_TSO6},
	{NET_OFFLOAD_ECN, NET_F_HOST_ECN, NET_F_GUEST_ECN},
	{NET_OFFLOAD_UFO, NET_F_HOST_UFO, NET_F_GUEST_UFO},
};

static uint64_t net_features(const struct virtio_net *net)
{
	const struct net_backend *backend = net->backend;
	uint64_t f = BIT(NET_F_MAC) | BIT(NET_F_MRG_RXBUF) | BIT(NET_F_STATUS) |
		     BIT(NET_F_CTRL_VQ) | BIT(NET_F_CTRL_RX) | BIT(NET_F_CTRL_VLAN) |
		     BIT(NET_F_CTRL_RX_EXTRA) | BIT(NET_F_GUEST_ANNOUNCE) |
		     BIT(NET_F_CTRL_MAC_ADDR);

	if (net->mtu)
		f |= BIT(NET_F_MTU);
	if (net->n_pairs > 1)
		f |= BIT(NET_F_MQ);
	if (backend->offloads & NET_OFFLOAD_CSUM)
		f |= BIT(NET_F_CSUM);
	if (backend->rx_offloads & NET_OFFLOAD_CSUM)
		f |= BIT(NET_F_GUEST_CSUM) | BIT(NET_F_CTRL_GUEST_OFFLOADS);
	for (size_t i = 0; i < ARRAY_SIZE(net_offload_features); i++) {
		if (backend->offloads & net_offload_features[i].offload)
			f |= BIT(net_offload_features[i].host);
		if (backend->rx_offloads & net_offload_features[i].offload)
			f |= BIT(net_offload_features[i].guest);
	}
	return f;
}

/* What the guest takes on receive, for the backend. */
static unsigned net_rx_offloads(const struct virtio_net *net)
{
	unsigned offloads = (net->guest_offloads >> NET_F_GUEST_CSUM & 1) ? NET_OFFLOAD_CSUM : 0;

	for (size_t i = 0; i < ARRAY_SIZE(net_offload_features); i++) {
		if (net->guest_offloads >> net_offload_features[i].guest & 1)
			offloads |= net_offload_features[i].offload;
	}
	return offloads & net->backend->rx_offloads;
}

void net_offloads_apply(struct virtio_net *net)
{
	struct device *dev = &net->vdev.pci.dev;
	int r = net->backend->ops->set_offloads(net->backend, net_rx_offloads(net), NET_HDR_BYTES);

	if (r < 0)
		log_guest(&dev->log_budget, "%s: the backend refuses offloads: %s", dev->id,
			  strerror(-r));
}

static bool net_features_set(struct virtio *vdev)
{
	const uint64_t guest = BIT(NET_F_GUEST_CSUM) | BIT(NET_F_GUEST_TSO4) |
			       BIT(NET_F_GUEST_TSO6) | BIT(NET_F_GUEST_ECN) | BIT(NET_F_GUEST_UFO);
	/* Section 5.1.3.1. */
	const uint64_t need_csum =
		BIT(NET_F_HOST_TSO4) | BIT(NET_F_HOST_TSO6) | BIT(NET_F_HOST_UFO);
	const uint64_t need_guest_csum = guest & ~BIT(NET_F_GUEST_CSUM);
	const uint64_t need_ctrl = BIT(NET_F_CTRL_RX) | BIT(NET_F_CTRL_VLAN) | BIT(NET_F_MQ) |
				   BIT(NET_F_GUEST_ANNOUNCE) | BIT(NET_F_CTRL_MAC_ADDR);

	if (((vdev->features & need_csum) && !virtio_has(vdev, NET_F_CSUM)) ||
	    ((vdev->features & need_guest_csum) && !virtio_has(vdev, NET_F_GUEST_CSUM)) ||
	    ((vdev->features & need_ctrl) && !virtio_has(vdev, NET_F_CTRL_VQ)))
		return false;
	/* Until the driver says otherwise. It does not run yet, and neither do we. */
	virtio_net_of(vdev)->guest_offloads = vdev->features & guest;
	return true;
}

static void net_config_read(struct virtio *vdev, unsigned offset, void *buf, unsigned size)
{
	struct virtio_net *net = virtio_net_of(vdev);
	struct net_config_space space = {
		.status = le16_of((uint16_t)((atomic_load(&net->link_up) ? NET_S_LINK_UP : 0) |
					     net->announce)),
		.max_virtqueue_pairs = le16_of((uint16_t)net->n_pairs),
		.mtu = le16_of(net->mtu),
	};

	memcpy(space.mac, net->mac, sizeof(space.mac));
	memcpy(buf, (uint8_t *)&space + offset, size);
}

static void net_config_write(struct virtio *vdev, unsigned offset, const void *buf, unsigned size)
{
	/* A driver of VIRTIO 1 sets the address by command. */
}

/* --- running --- */

void net_pairs_changed(struct virtio_net *net, unsigned before)
{
	struct net_backend *backend = net->backend;
	int r = 0;

	for (unsigned i = net->active_pairs; net->running && i < before; i++) {
		if (net->pairs[i].vhost)
			net_vhost_stop(net, i);
		else
			net_rx_stop(net, i);
		net->pairs[i].tx_full = false;
	}
	if (backend->ops->set_queues)
		r = backend->ops->set_queues(backend, net->active_pairs);
	if (r < 0)
		log_guest(&net->vdev.pci.dev.log_budget, "%s: the backend refuses %u queues: %s",
			  net->vdev.pci.dev.id, net->active_pairs, strerror(-r));
	for (unsigned i = before; net->running && i < net->active_pairs; i++) {
		if (net->pairs[i].vhost)
			net_vhost_start(net, i);
		net_rx_run(net, i);
		net_tx_run(net, i);
	}
}

static void net_start(struct virtio_net *net)
{
	net->running = true;
	net_offloads_apply(net);
	net_pairs_changed(net, 0);
	for (unsigned i = net->active_pairs; i < net->n_pairs; i++)
		net_tx_run(net, i);
	if (virtio_has(&net->vdev, NET_F_CTRL_VQ))
		net_ctrl_run(net);
}

static void net_stop(struct virtio_net *net)
{
	if (!net->running)
		return;
	for (unsigned i = 0; i < net->active_pairs; i++) {
		if (net->pairs[i].vhost)
			net_vhost_stop(net, i);
		else
			net_rx_stop(net, i);
		net->pairs[i].tx_full = false;
	}
	net->running = false;
}

/* The driver's or the machine's reset: the device is stopped, dev.lock held. */
static void net_forget(struct virtio_net *net)
{
	net_ctrl_reset(net);
	virtio_deactivated(&net->vdev);
}

/* Brings the device in line with what the registers say. */
static void net_sync(struct loop_msg *msg)
{
	struct virtio_net *net = container_of(msg, struct virtio_net, sync);
	struct virtio *vdev = &net->vdev;
	bool active = virtio_active(vdev) && !atomic_load(&vdev->paused);

	if (!active)
		net_stop(net);
	else if (!net->running)
		net_start(net);
	LOCK_GUARD(&vdev->pci.dev.lock);
	if (vdev->resetting && !net->running)
		net_forget(net);
}

static void net_activate(struct virtio *vdev)
{
	struct virtio_net *net = virtio_net_of(vdev);

	loop_post(vdev->pci.dev.env.loop, &net->sync);
}

static void net_deactivate(struct virtio *vdev)
{
	struct virtio_net *net = virtio_net_of(vdev);

	if (atomic_load(&vdev->paused))
		net_forget(net);
	else
		loop_post(vdev->pci.dev.env.loop, &net->sync);
}

static void net_kick(struct virtio *vdev, unsigned index)
{
	struct virtio_net *net = virtio_net_of(vdev);

	if (!net->running)
		return;
	if (index == net_ctrl_index(net))
		net_ctrl_run(net);
	else if (index >= 2 * net->n_pairs)
		return;
	else if (index % 2 == 0)
		net_rx_run(net, index / 2);
	else
		net_tx_run(net, index / 2);
}

/* --- the backend's events --- */

static void net_readable(void *opaque, unsigned queue)
{
	net_rx_run(opaque, queue);
}

static void net_writable(void *opaque, unsigned queue)
{
	struct virtio_net *net = opaque;

	/* A backend with one way out for all queues tells the first. */
	net->pairs[queue].tx_full = false;
	net_tx_run(net, queue);
}

static void net_link_update_locked(struct virtio_net *net)
{
	bool up = net->cable && net->carrier;

	if (atomic_exchange(&net->link_up, up) != up)
		virtio_config_changed_locked(&net->vdev);
}

/* On the loop, after the link went up or down. */
static void net_link_run(struct virtio_net *net)
{
	for (unsigned i = 0; i < net->n_pairs; i++) {
		bool served = net->running && i < net->active_pairs;

		if (!atomic_load(&net->link_up))
			net->pairs[i].tx_full = false;
		if (served && net->pairs[i].vhost) {
			if (atomic_load(&net->link_up))
				net_vhost_start(net, i);
			else
				net_vhost_stop(net, i);
		}
		net_rx_run(net, i);
		net_tx_run(net, i);
	}
}

static void net_carrier(void *opaque, bool up)
{
	struct virtio_net *net = opaque;

	pthread_mutex_lock(&net->vdev.pci.dev.lock);
	net->carrier = up;
	net_link_update_locked(net);
	pthread_mutex_unlock(&net->vdev.pci.dev.lock);
	net_link_run(net);
}

/* --- what vm/main asks --- */

static void net_link_call(void *opaque)
{
	net_link_run(opaque);
}

void virtio_net_set_link(struct device *dev, bool up)
{
	struct virtio_net *net = container_of(dev, struct virtio_net, vdev.pci.dev);

	pthread_mutex_lock(&dev->lock);
	net->cable = up;
	net_link_update_locked(net);
	pthread_mutex_unlock(&dev->lock);
	loop_call(dev->env.loop, net_link_call, net);
}

void virtio_net_announce(struct device *dev)
{
	struct virtio_net *net = container_of(dev, struct virtio_net, vdev.pci.dev);

	LOCK_GUARD(&dev->lock);
	if (!virtio_active(&net->vdev) || !virtio_has(&net->vdev, NET_F_GUEST_ANNOUNCE))
		return;
	net->announce = NET_S_ANNOUNCE;
	virtio_config_changed_locked(&net->vdev);
}

struct net_query {
	struct virtio_net *net;
	struct virtio_net_info *ret;
};

static void net_query_call(void *opaque)
{
	const struct net_query *query = opaque;
	const struct virtio_net *net = query->net;

	*query->ret = (struct virtio_net_info){
		.id = net->vdev.pci.dev.id,
		.backend = net->backend->ops->type,
		.link_up = atomic_load(&net->link_up),
		.vhost = net->use_vhost,
		.queue_pairs = net->n_pairs,
		.active_pairs = net->active_pairs,
		.stats = net->stats,
	};
	memcpy(query->ret->mac, net->mac, sizeof(net->mac));
}

void virtio_net_query(struct device *dev, struct virtio_net_info *ret)
{
	struct net_query query = {container_of(dev, struct virtio_net, vdev.pci.dev), ret};

	loop_call(dev->env.loop, net_query_call, &query);
}

/* --- stop, state, end --- */

static void net_stop_call(void *opaque)
{
	net_stop(opaque);
}

static void net_pause(struct device *dev)
{
	struct virtio_net *net = container_of(dev, struct virtio_net, vdev.pci.dev);

	virtio_device_pause(dev);
	loop_call(dev->env.loop, net_stop_call, net);
	/* A reset that was under way ends here, not after we have returned. */
	LOCK_GUARD(&dev->lock);
	if (net->vdev.resetting)
		net_forget(net);
}

static void net_resume(struct device *dev)
{
	struct virtio_net *net = container_of(dev, struct virtio_net, vdev.pci.dev);

	virtio_device_resume(dev);
	loop_post(dev->env.loop, &net->sync);
}

static void net_end_call(void *opaque)
{
	struct virtio_net *net = opaque;

	net_stop(net);
	loop_unpost(net->vdev.pci.dev.env.loop, &net->sync);
	net_vhost_close(net);
	net->backend->events = (struct net_events){0};
}

static void net_release(struct virtio_net *net)
{
	for (unsigned i = 0; i < net->n_pairs; i++)
		net_rx_fini(&net->pairs[i].rx);
	free(net->iov);
	free(net);
}

static void net_backend_end_call(void *opaque)
{
	net_backend_free(opaque);
}

static void net_free(struct device *dev)
{
	struct virtio_net *net = container_of(dev, struct virtio_net, vdev.pci.dev);
	struct loop *loop = dev->env.loop;

	loop_call(loop, net_end_call, net);
	virtio_fini(&net->vdev);
	loop_call(loop, net_backend_end_call, net->backend);
	net_release(net);
}

static int net_post_load(void *obj, struct error *err)
{
	struct virtio_net *net = obj;

	if (net->active_pairs == 0 || net->active_pairs > net->n_pairs)
		return error_set(err, -EINVAL, "%s: the saved device uses %u queue pairs of %u",
				 net->vdev.pci.dev.id, net->active_pairs, net->n_pairs);
	if (net->n_uni > NET_MAC_TABLE || net->n_multi > NET_MAC_TABLE - net->n_uni ||
	    (net->guest_offloads & ~net->vdev.features))
		return error_set(err, -EINVAL, "%s: the saved state contradicts itself",
				 net->vdev.pci.dev.id);
	return 0;
}

static const struct state_field net_fields[] = {
	STATE_STRUCT(struct virtio_net, vdev, &virtio_state_table),
	STATE_BYTES(struct virtio_net, mac),
	STATE_UINT_MAX(struct virtio_net, announce, NET_S_ANNOUNCE),
	STATE_UINT(struct virtio_net, active_pairs),
	STATE_UINT(struct virtio_net, guest_offloads),
	STATE_UINT_MAX(struct virtio_net, promisc, 1),
	STATE_UINT_MAX(struct virtio_net, allmulti, 1),
	STATE_UINT_MAX(struct virtio_net, alluni, 1),
	STATE_UINT_MAX(struct virtio_net, nomulti, 1),
	STATE_UINT_MAX(struct virtio_net, nouni, 1),
	STATE_UINT_MAX(struct virtio_net, nobcast, 1),
	STATE_UINT_MAX(struct virtio_net, uni_overflow, 1),
	STATE_UINT_MAX(struct virtio_net, multi_overflow, 1),
	STATE_UINT_MAX(struct virtio_net, n_uni, NET_MAC_TABLE),
	STATE_UINT_MAX(struct virtio_net, n_multi, NET_MAC_TABLE),
	STATE_BYTES(struct virtio_net, mac_table),
	STATE_BYTES(struct virtio_net, vlans),
};

static const struct state_table net_state = {
	.name = "virtio-net",
	.version = 1,
	STATE_FIELDS(net_fields),
	.post_load = net_post_load,
};

static const struct virtio_ops net_ops = {
	.dev =
		{
			.type = "virtio-net",
			.state = &net_state,
			.reset = virtio_device_reset,
			.pause = net_pause,
			.resume = net_resume,
			.free = net_free,
		},
	.device_id = VIRTIO_ID_NET,
	.class_code = PCI_CLASS_ETHERNET,
	.config_read = net_config_read,
	.config_write = net_config_write,
	.features_set = net_features_set,
	.activate = net_activate,
	.deactivate = net_deactivate,
	.kick = net_kick,
};

/* --- new --- */

static int net_check_config(const struct virtio_net_config *config, struct error *err)
{
	const struct net_backend *backend = config->backend;

	if (config->mac[0] & 1)
		return error_set(err, -EINVAL,
				 "%s: a MAC address whose first byte is odd (%02x) is a group's",
				 config->id, config->mac[0]);
	if (config->mtu && config->mtu < VIRTIO_NET_MIN_MTU)
		return error_set(err, -EINVAL, "%s: an MTU is %d to %d, not %u", config->id,
				 VIRTIO_NET_MIN_MTU, VIRTIO_NET_MAX_MTU, config->mtu);
	if (config->mtu && backend->mtu && config->mtu > backend->mtu)
		return error_set(err, -EINVAL,
				 "%s: its MTU of %u is more than the %u of its tap: set that first "
				 "(ip link set dev TAP mtu %u)",
				 config->id, config->mtu, backend->mtu, config->mtu);
	if (config->queue_pairs > backend->n_queues)
		return error_set(err, -EINVAL, "%s: %u queue pairs, and the %s backend has %u",
				 config->id, config->queue_pairs, backend->ops->type,
				 backend->n_queues);
	if (config->queue_size &&
	    (!is_power_of_two(config->queue_size) || config->queue_size < NET_MIN_QUEUE_SIZE ||
	     config->queue_size > VQ_MAX_SIZE))
		return error_set(err, -EINVAL,
				 "%s: a queue size is a power of two from %d to %d, not %u",
				 config->id, NET_MIN_QUEUE_SIZE, VQ_MAX_SIZE, config->queue_size);
	if (config->vhost && !backend->has_vhost)
		return error_set(err, -EOPNOTSUPP, "%s: vhost needs a tap, opened for it",
				 config->id);
	return 0;
}

static int net_alloc_queues(struct virtio_net *net)
{
	net->iov = calloc(VQ_MAX_SEGS, sizeof(*net->iov));
	if (!net->iov)
		return -ENOMEM;
	for (unsigned i = 0; i < net->n_pairs; i++) {
		int r = net->use_vhost ? 0 : net_rx_init(&net->pairs[i].rx);

		if (r < 0)
			return r;
	}
	return 0;
}

static void net_queues_call(void *opaque)
{
	net_pairs_changed(opaque, 0);
}

/* Everything but the first allocation; what is done is undone by the caller. */
static int net_build(struct virtio_net *net, const struct device_env *env,
		     const struct virtio_net_config *config, struct error *err)
{
	int r = net_alloc_queues(net);

	if (r < 0)
		return error_set(err, r, "%s: out of memory", config->id);
	r = virtio_init(&net->vdev, &net_ops, config->id, env, net_features(net),
			2 * net->n_pairs + 1,
			config->queue_size ? config->queue_size : NET_DEFAULT_QUEUE_SIZE,
			sizeof(struct net_config_space), err);
	if (r < 0)
		return r;
	net_ctrl_reset(net);
	if (net->use_vhost) {
		r = net_vhost_open(net, err);
		if (r < 0)
			return r;
	}
	loop_call(env->loop, net_queues_call, net);
	return virtio_start(&net->vdev, config->slot, err);
}

int virtio_net_new(const struct device_env *env, const struct virtio_net_config *config,
		   struct device **ret, struct error *err)
{
	struct virtio_net *net;
	int r = net_check_config(config, err);

	if (r < 0)
		return r;
	net = calloc(1, sizeof(*net));
	if (!net)
		return error_set(err, -ENOMEM, "%s: out of memory", config->id);
	net->backend = config->backend;
	net->sync.fn = net_sync;
	net->n_pairs = config->queue_pairs ? config->queue_pairs : config->backend->n_queues;
	net->use_vhost = config->vhost;
	net->mtu = config->mtu;
	memcpy(net->own_mac, config->mac, sizeof(net->own_mac));
	net->cable = net->carrier = true;
	atomic_init(&net->link_up, true);
	net->backend->events = (struct net_events){net_readable, net_writable, net_carrier, net};
	r = net_build(net, env, config, err);
	if (r < 0) {
		net->backend->events = (struct net_events){0};
		net_vhost_close(net);
		virtio_fini(&net->vdev);
		net_release(net);
		return r;
	}
	*ret = &net->vdev.pci.dev;
	return 0;
}
