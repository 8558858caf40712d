/*
 * Handing a virtio queue over to the kernel and taking it back (see virtio_vhost.h).
 *
 * The kernel gives back everything that it has taken before it lets a ring go, so that one index tells all. Where an
 * interrupt cannot be sent by an eventfd (INTx, or a machine that has no such) it comes to our loop and we relay it.
 */
#include "vm/devices/virtio_vhost.h"

#include <errno.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/cleanup.h"
#include "base/fd.h"

#define VHOST_MEM_REGIONS 64
#define ISR_QUEUE         1 /* VIRTIO 1.2, section 4.1.4.5 */

/* --- interrupts --- */

static void ring_relay(const struct virtio_vhost_ring *ring)
{
	struct virtio *vdev = ring->vdev;
	uint16_t vector = ring->queue->vq.msix_vector;

	if (pci_msix_enabled(&vdev->pci)) {
		if (vector < vdev->pci.n_vectors)
			pci_msix_notify(&vdev->pci, vector);
		return;
	}
	LOCK_GUARD(&vdev->isr_lock);
	vdev->isr |= ISR_QUEUE;
	pci_intx_set(&vdev->pci, true);
}

/* The kernel wants the driver interrupted and has looked whether the driver wants that, too. */
static void ring_called(struct loop_fd *src, unsigned events)
{
	if (eventfd_clear(src->fd))
		ring_relay(container_of(src, struct virtio_vhost_ring, call_src));
}

/* The eventfd that the kernel signals for this queue. */
static int ring_call_fd(struct virtio_vhost_ring *ring)
{
	struct pci_device *pci = &ring->vdev->pci;
	uint16_t vector = ring->queue->vq.msix_vector;
	int fd = -EOPNOTSUPP;

	if (pci_msix_enabled(pci) && vector < pci->n_vectors)
		fd = pci_msix_fd(pci, vector);
	if (fd >= 0)
		return fd;
	loop_fd_mod(&ring->call_src, LOOP_READ);
	return ring->call_src.fd;
}

/* --- life --- */

int virtio_vhost_ring_init(struct virtio_vhost_ring *ring, struct virtio *vdev, unsigned queue,
			   struct vhost *vhost, unsigned index)
{
	int fd = eventfd_new();

	*ring = (struct virtio_vhost_ring){
		.vdev = vdev,
		.queue = &vdev->queues[queue],
		.vhost = vhost,
		.index = index,
		.call_src.fd = fd,
	};
	if (fd < 0)
		return fd;
	return loop_fd_add(ring->queue->loop, &ring->call_src, fd, 0, ring_called);
}

void virtio_vhost_ring_fini(struct virtio_vhost_ring *ring)
{
	loop_fd_del(&ring->call_src);
	if (ring->call_src.fd >= 0)
		close(ring->call_src.fd);
	ring->call_src.fd = -1;
}

int virtio_vhost_ring_start(struct virtio_vhost_ring *ring)
{
	struct virtio_queue *queue = ring->queue;
	struct vq *vq = &queue->vq;
	struct vhost_ring to;
	int r;

	pthread_mutex_lock(&vq->lock);
	to = (struct vhost_ring){
		.size = vq->size,
		.base = vq->next_avail,
		.desc = vq->desc_hva,
		.avail = vq->avail_hva,
		.used = vq->used_hva,
		.used_gpa = vq->used,
		.kick_fd = queue->kick_fd,
	};
	pthread_mutex_unlock(&vq->lock);
	if (!to.desc)
		return -ENODEV;
	to.call_fd = ring_call_fd(ring);
	/* Kicks are the kernel's from here on. */
	loop_fd_mod(&queue->kick_src, 0);
	ring->started = true;
	r = vhost_ring_start(ring->vhost, ring->index, &to);
	if (r < 0)
		virtio_vhost_ring_stop(ring);
	return r;
}

void virtio_vhost_ring_stop(struct virtio_vhost_ring *ring)
{
	struct vq *vq = &ring->queue->vq;
	uint16_t base;

	if (!ring->started)
		return;
	ring->started = false;
	if (vhost_ring_stop(ring->vhost, ring->index, &base) >= 0) {
		pthread_mutex_lock(&vq->lock);
		vq->next_avail = vq->next_used = vq->avail_seen = base;
		/* When the driver was interrupted last is not known: once too often, then. */
		vq->signalled_valid = false;
		pthread_mutex_unlock(&vq->lock);
	}
	loop_fd_mod(&ring->call_src, 0);
	/* An interrupt that the kernel asked for and that we have not relayed yet. */
	if (eventfd_clear(ring->call_src.fd))
		ring_relay(ring);
	loop_fd_mod(&ring->queue->kick_src, LOOP_READ);
}

/* --- settings --- */

int virtio_vhost_set_mem(struct vhost *vhost, const struct gmem *mem)
{
	const struct gmem_region *regions;
	struct vhost_mem table[VHOST_MEM_REGIONS];
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

int virtio_vhost_limit(struct virtio *vdev, const struct vhost *vhost, uint64_t device_features,
		       struct error *err)
{
	const uint64_t ring_features =
		BIT(VIRTIO_F_RING_PACKED) | BIT(VIRTIO_F_INDIRECT_DESC) | BIT(VIRTIO_F_EVENT_IDX);
	uint64_t has = vhost_features(vhost);

	if (!(has & BIT(VIRTIO_F_VERSION_1)))
		return error_set(err, -EOPNOTSUPP, "%s: this kernel's vhost does not know VIRTIO 1",
				 vdev->pci.dev.id);
	vdev->offered &= ~(ring_features | device_features) | has;
	return 0;
}
