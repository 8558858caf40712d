/*
 * The network device's queues in the kernel's hands: vhost-net moves the frames between the guest's rings and the tap; the
 * guest's kicks and the interrupts pass us by. The control queue stays with us. The kernel filters no addresses: the guest's
 * own network stack does.
 *
 * Runs on the device's loop.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "vm/devices/virtio_net_int.h"
#include "vm/devices/virtio_vhost.h"

/* One descriptor of /dev/vhost-net: a queue pair. */
struct net_vhost {
	struct vhost *vhost;
	bool running;
	struct virtio_vhost_ring rings[2]; /* receive, transmit */
};

int net_vhost_start(struct virtio_net *net, unsigned pair)
{
	struct net_vhost *nv = net->pairs[pair].vhost;
	struct device *dev = &net->vdev.pci.dev;
	int tap = net->backend->ops->vhost_fd(net->backend, pair);
	int r;

	if (nv->running || !atomic_load(&net->link_up))
		return 0;
	nv->running = true;
	r = vhost_set_features(nv->vhost, net->vdev.features);
	for (unsigned i = 0; i < 2 && r >= 0; i++)
		r = virtio_vhost_ring_start(&nv->rings[i]);
	for (unsigned i = 0; i < 2 && r >= 0; i++)
		r = vhost_net_attach(nv->vhost, i, tap);
	if (r >= 0)
		return 0;
	net_vhost_stop(net, pair);
	log_guest(&dev->log_budget, "%s: vhost does not take queue pair %u: %s", dev->id, pair,
		  strerror(-r));
	return r;
}

void net_vhost_stop(struct virtio_net *net, unsigned pair)
{
	struct net_vhost *nv = net->pairs[pair].vhost;

	if (!nv->running)
		return;
	for (unsigned i = 0; i < 2; i++)
		vhost_net_attach(nv->vhost, i, -1);
	for (unsigned i = 0; i < 2; i++)
		virtio_vhost_ring_stop(&nv->rings[i]);
	nv->running = false;
}

static int net_vhost_open_pair(struct virtio_net *net, unsigned pair, struct error *err)
{
	struct device *dev = &net->vdev.pci.dev;
	struct net_vhost *nv = calloc(1, sizeof(*nv));
	int r;

	if (!nv)
		return error_set(err, -ENOMEM, "%s: out of memory", dev->id);
	nv->rings[0].call_src.fd = nv->rings[1].call_src.fd = -1;
	net->pairs[pair].vhost = nv;
	r = vhost_net_open(dev->id, &nv->vhost, err);
	if (r < 0)
		return r;
	r = virtio_vhost_limit(&net->vdev, nv->vhost, BIT(NET_F_MRG_RXBUF), err);
	if (r < 0)
		return r;
	r = virtio_vhost_set_mem(nv->vhost, dev->env.mem);
	for (unsigned i = 0; i < 2 && r >= 0; i++)
		r = virtio_vhost_ring_init(&nv->rings[i], &net->vdev, 2 * pair + i, nv->vhost, i);
	return r < 0 ? error_set_errno(err, r, "%s: vhost cannot be set up", dev->id) : 0;
}

int net_vhost_open(struct virtio_net *net, struct error *err)
{
	for (unsigned i = 0; i < net->n_pairs; i++) {
		int r = net_vhost_open_pair(net, i, err);

		if (r < 0)
			return r;
	}
	return 0;
}

void net_vhost_close(struct virtio_net *net)
{
	for (unsigned pair = 0; pair < net->n_pairs; pair++) {
		struct net_vhost *nv = net->pairs[pair].vhost;

		if (!nv)
			continue;
		for (unsigned i = 0; i < 2; i++)
			virtio_vhost_ring_fini(&nv->rings[i]);
		vhost_close(nv->vhost);
		free(nv);
		net->pairs[pair].vhost = NULL;
	}
}
