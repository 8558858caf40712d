/*
 * The network device's queues in the kernel's hands: vhost-net moves the frames between the guest's rings and the tap, the
 * guest's kicks and the interrupts pass us by. The control queue stays with us.
 *
 * The kernel gives back everything that it has taken before it lets a ring go, so that one index tells all. It filters no
 * addresses: the guest's own network stack does. Where an interrupt cannot be sent by an eventfd (INTx, or a machine that
 * has no such), we relay it.
 *
 * Runs on the device's loop.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/cleanup.h"
#include "base/fd.h"
#include "vm/devices/virtio_net_int.h"

#define NET_VHOST_MEM        64 /* regions */
#define VIRTIO_ISR_QUEUE_BIT 1  /* section 4.1.4.5 */

struct net_vhost_ring {
	struct virtio_net *net;
	struct virtio_queue *queue;
	struct loop_fd call_src; /* our own eventfd, for interrupts that we relay */
	bool relayed;
};

struct net_vhost {
	struct vhost *vhost;
	bool running;
	struct net_vhost_ring rings[2];
};

/* --- interrupts --- */

/* What an eventfd cannot do: INTx with its status bit, or an MSI where there is no route for it. */
static void net_vhost_relay(const struct net_vhost_ring *ring)
{
	struct virtio *vdev = &ring->net->vdev;
	uint16_t vector = ring->queue->vq.msix_vector;

	if (pci_msix_enabled(&vdev->pci)) {
		if (vector < vdev->pci.n_vectors)
			pci_msix_notify(&vdev->pci, vector);
		return;
	}
	LOCK_GUARD(&vdev->isr_lock);
	vdev->isr |= VIRTIO_ISR_QUEUE_BIT;
	pci_intx_set(&vdev->pci, true);
}

/* The kernel wants the driver interrupted and has looked whether the driver wants that, too. */
static void net_vhost_called(struct loop_fd *src, unsigned events)
{
	struct net_vhost_ring *ring = container_of(src, struct net_vhost_ring, call_src);

	if (eventfd_clear(src->fd))
		net_vhost_relay(ring);
}

/* The eventfd that the kernel signals for this queue. */
static int net_vhost_call_fd(struct net_vhost_ring *ring)
{
	struct pci_device *pci = &ring->net->vdev.pci;
	uint16_t vector = ring->queue->vq.msix_vector;
	int fd = -EOPNOTSUPP;

	if (pci_msix_enabled(pci) && vector < pci->n_vectors)
		fd = pci_msix_fd(pci, vector);
	ring->relayed = fd < 0;
	if (!ring->relayed)
		return fd;
	loop_fd_mod(&ring->call_src, LOOP_READ);
	return ring->call_src.fd;
}

/* --- start and stop --- */

static int net_vhost_ring_start(struct virtio_net *net, unsigned pair, unsigned i)
{
	struct net_vhost *nv = net->pairs[pair].vhost;
	struct virtio_queue *queue = &net->vdev.queues[2 * pair + i];
	struct vq *vq = &queue->vq;
	struct vhost_ring ring;

	pthread_mutex_lock(&vq->lock);
	ring = (struct vhost_ring){
		.size = vq->size,
		.base = vq->next_avail,
		.desc = vq->desc_hva,
		.avail = vq->avail_hva,
		.used = vq->used_hva,
		.used_gpa = vq->used,
		.kick_fd = queue->kick_fd,
		.call_fd = net_vhost_call_fd(&nv->rings[i]),
	};
	pthread_mutex_unlock(&vq->lock);
	if (!ring.desc)
		return -ENODEV;
	/* Kicks are the kernel's from here on. */
	loop_fd_mod(&queue->kick_src, 0);
	return vhost_ring_start(nv->vhost, i, &ring);
}

static void net_vhost_ring_stop(struct virtio_net *net, unsigned pair, unsigned i)
{
	struct net_vhost *nv = net->pairs[pair].vhost;
	struct virtio_queue *queue = &net->vdev.queues[2 * pair + i];
	struct vq *vq = &queue->vq;
	uint16_t base;
	int r;

	vhost_net_attach(nv->vhost, i, -1);
	r = vhost_ring_stop(nv->vhost, i, &base);
	pthread_mutex_lock(&vq->lock);
	if (r >= 0) {
		vq->next_avail = vq->next_used = vq->avail_seen = base;
		/* Who was interrupted last is not known: interrupt once too often. */
		vq->signalled_valid = false;
	}
	pthread_mutex_unlock(&vq->lock);
	loop_fd_mod(&nv->rings[i].call_src, 0);
	/* An interrupt that the kernel asked for and we have not relayed yet. */
	if (eventfd_clear(nv->rings[i].call_src.fd))
		net_vhost_relay(&nv->rings[i]);
	loop_fd_mod(&queue->kick_src, LOOP_READ);
}

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
		r = net_vhost_ring_start(net, pair, i);
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
		net_vhost_ring_stop(net, pair, i);
	nv->running = false;
}

/* --- life --- */

static int net_vhost_set_mem(struct vhost *vhost, const struct gmem *mem)
{
	const struct gmem_region *regions;
	struct vhost_mem table[NET_VHOST_MEM];
	size_t n = gmem_regions(mem, &regions);
	size_t used = 0;

	for (size_t i = 0; i < n; i++) {
		if (regions[i].readonly)
			continue;
		if (used == ARRAY_SIZE(table))
			return -E2BIG;
		table[used++] = (struct vhost_mem){regions[i].gpa, regions[i].size, regions[i].hva};
	}
	return vhost_set_mem(vhost, table, used);
}

static int net_vhost_open_pair(struct virtio_net *net, unsigned pair, struct error *err)
{
	const struct device *dev = &net->vdev.pci.dev;
	struct net_vhost *nv = calloc(1, sizeof(*nv));
	int r;

	if (!nv)
		return error_set(err, -ENOMEM, "%s: out of memory", dev->id);
	net->pairs[pair].vhost = nv;
	for (unsigned i = 0; i < 2; i++) {
		nv->rings[i].net = net;
		nv->rings[i].queue = &net->vdev.queues[2 * pair + i];
		nv->rings[i].call_src.fd = -1;
	}
	r = vhost_net_open(dev->id, &nv->vhost, err);
	if (r < 0)
		return r;
	r = net_vhost_set_mem(nv->vhost, dev->env.mem);
	for (unsigned i = 0; i < 2 && r >= 0; i++) {
		int fd = eventfd_new();

		nv->rings[i].call_src.fd = fd;
		r = fd < 0 ? fd
			   : loop_fd_add(dev->env.loop, &nv->rings[i].call_src, fd, 0,
					 net_vhost_called);
	}
	return r < 0 ? error_set_errno(err, r, "%s: vhost cannot be set up", dev->id) : 0;
}

int net_vhost_open(struct virtio_net *net, struct error *err)
{
	/* Of these the kernel must know; packed rings it does not. */
	const uint64_t ring_features = BIT(VIRTIO_F_RING_PACKED) | BIT(VIRTIO_F_INDIRECT_DESC) |
				       BIT(VIRTIO_F_EVENT_IDX) | BIT(NET_F_MRG_RXBUF);
	const uint64_t needed = BIT(VIRTIO_F_VERSION_1);

	for (unsigned i = 0; i < net->n_pairs; i++) {
		uint64_t has;
		int r = net_vhost_open_pair(net, i, err);

		if (r < 0)
			return r;
		has = vhost_features(net->pairs[i].vhost->vhost);
		if ((has & needed) != needed)
			return error_set(err, -EOPNOTSUPP,
					 "%s: this kernel's vhost-net does not know VIRTIO 1",
					 net->vdev.pci.dev.id);
		net->vdev.offered &= ~ring_features | has;
	}
	return 0;
}

void net_vhost_close(struct virtio_net *net)
{
	for (unsigned pair = 0; pair < net->n_pairs; pair++) {
		struct net_vhost *nv = net->pairs[pair].vhost;

		if (!nv)
			continue;
		for (unsigned i = 0; i < 2; i++) {
			loop_fd_del(&nv->rings[i].call_src);
			if (nv->rings[i].call_src.fd >= 0)
				close(nv->rings[i].call_src.fd);
		}
		vhost_close(nv->vhost);
		free(nv);
		net->pairs[pair].vhost = NULL;
	}
}
