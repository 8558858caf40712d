/*
 * The PCI transport, without the legacy interface (VIRTIO 1.2, section 4.1). One BAR holds all register blocks and the MSI-X
 * table; each block has its page, and each queue its own doorbell, so that the accelerator can tell them apart by
 * address alone.
 *
 * Register accesses come on vCPU threads with dev.lock held.
 */
#include <assert.h>
#include <linux/pci_regs.h>
#include <string.h>

#include "base/bits.h"
#include "base/cleanup.h"
#include "base/endian.h"
#include "base/fd.h"
#include "vm/virtio/virtio_int.h"

/* Section 4.1.2. Modern devices have identifiers from 0x1040; 0x40 and up as subsystem; revision 1. */
#define VIRTIO_PCI_VENDOR    0x1af4
#define VIRTIO_PCI_DEVICE    0x1040
#define VIRTIO_PCI_SUBSYSTEM 0x1100

/* The BAR. */
#define VIRTIO_BAR           0
#define VIRTIO_BLOCK_BYTES   0x1000
#define VIRTIO_BAR_COMMON    0x0000
#define VIRTIO_BAR_ISR       0x1000
#define VIRTIO_BAR_DEVICE    0x2000
#define VIRTIO_BAR_NOTIFY    0x3000
#define VIRTIO_BAR_MSIX      0x4000
#define VIRTIO_BAR_BYTES     0x8000
#define VIRTIO_DOORBELL_STEP 4

/* Section 4.1.4. */
#define CAP_COMMON 1
#define CAP_NOTIFY 2
#define CAP_ISR    3
#define CAP_DEVICE 4
#define CAP_ACCESS 5

/* struct virtio_pci_cap, whose first two bytes every capability has. */
#define CAP_LEN        2
#define CAP_TYPE       3
#define CAP_BAR        4
#define CAP_OFFSET     8
#define CAP_LENGTH     12
#define CAP_BYTES      16
#define CAP_MULTIPLIER 16 /* CAP_NOTIFY */
#define CAP_DATA       16 /* CAP_ACCESS */

/* struct virtio_pci_common_cfg, section 4.1.4.3. */
#define COMMON_DEVICE_FEATURE_SELECT 0x00
#define COMMON_DEVICE_FEATURE        0x04
#define COMMON_DRIVER_FEATURE_SELECT 0x08
#define COMMON_DRIVER_FEATURE        0x0c
#define COMMON_CONFIG_VECTOR         0x10
#define COMMON_NUM_QUEUES            0x12
#define COMMON_STATUS                0x14
#define COMMON_GENERATION            0x15
#define COMMON_QUEUE_SELECT          0x16
#define COMMON_QUEUE_SIZE            0x18
#define COMMON_QUEUE_VECTOR          0x1a
#define COMMON_QUEUE_ENABLE          0x1c
#define COMMON_QUEUE_NOTIFY_OFF      0x1e
#define COMMON_QUEUE_DESC            0x20
#define COMMON_QUEUE_DRIVER          0x28
#define COMMON_QUEUE_DEVICE          0x30
#define COMMON_QUEUE_NOTIFY_DATA     0x38
#define COMMON_QUEUE_RESET           0x3a
#define COMMON_BYTES                 0x3c

static struct virtio *virtio_of_pci(struct pci_device *pci)
{
	return container_of(pci, struct virtio, pci);
}

static struct virtio_queue *virtio_selected(struct virtio *vdev)
{
	return vdev->queue_select < vdev->max_queues ? &vdev->queues[vdev->queue_select] : NULL;
}

/* --- common configuration --- */

static uint32_t virtio_feature_word(uint64_t features, uint32_t select)
{
	return select < 2 ? (uint32_t)(features >> (32 * select)) : 0;
}

static void virtio_queue_show(struct virtio_queue *queue, uint8_t *image)
{
	struct vq *vq = &queue->vq;

	LOCK_GUARD(&vq->lock);
	le_store(image + COMMON_QUEUE_SIZE, 2, vq->size);
	le_store(image + COMMON_QUEUE_VECTOR, 2, vq->msix_vector);
	le_store(image + COMMON_QUEUE_ENABLE, 2, vq->enabled);
	le_store(image + COMMON_QUEUE_NOTIFY_OFF, 2, queue->index);
	le_store(image + COMMON_QUEUE_DESC, 8, vq->desc);
	le_store(image + COMMON_QUEUE_DRIVER, 8, vq->avail);
	le_store(image + COMMON_QUEUE_DEVICE, 8, vq->used);
	le_store(image + COMMON_QUEUE_NOTIFY_DATA, 2, queue->index);
	le_store(image + COMMON_QUEUE_RESET, 2, queue->resetting);
}

/* Reads are rare (set-up, and status), so they cut from an image of the whole block. */
static uint64_t virtio_common_read(struct virtio *vdev, unsigned offset, unsigned size)
{
	uint8_t image[COMMON_BYTES + 8] = {0};
	struct virtio_queue *queue = virtio_selected(vdev);

	if (offset >= COMMON_BYTES)
		return 0;
	le_store(image + COMMON_DEVICE_FEATURE_SELECT, 4, vdev->device_feature_select);
	le_store(image + COMMON_DEVICE_FEATURE, 4,
		 virtio_feature_word(vdev->offered, vdev->device_feature_select));
	le_store(image + COMMON_DRIVER_FEATURE_SELECT, 4, vdev->driver_feature_select);
	le_store(image + COMMON_DRIVER_FEATURE, 4,
		 virtio_feature_word(vdev->driver_features, vdev->driver_feature_select));
	le_store(image + COMMON_CONFIG_VECTOR, 2, vdev->config_vector);
	le_store(image + COMMON_NUM_QUEUES, 2, vdev->max_queues);
	image[COMMON_STATUS] = virtio_status_read(vdev);
	image[COMMON_GENERATION] = vdev->config_generation;
	le_store(image + COMMON_QUEUE_SELECT, 2, vdev->queue_select);
	if (queue)
		virtio_queue_show(queue, image);
	else
		le_store(image + COMMON_QUEUE_VECTOR, 2, VIRTIO_NO_VECTOR);
	return le_load(image + offset, size);
}

static void virtio_driver_features_write(struct virtio *vdev, uint32_t value)
{
	unsigned shift = 32 * vdev->driver_feature_select;

	if (vdev->driver_feature_select >= 2 || (vdev->status & VIRTIO_STATUS_FEATURES_OK))
		return;
	vdev->driver_features &= ~((uint64_t)UINT32_MAX << shift);
	vdev->driver_features |= (uint64_t)value << shift;
}

/* A vector that does not exist reads back as none (section 4.1.5.1.2). */
static uint16_t virtio_vector_of(const struct virtio *vdev, uint64_t value)
{
	return value < vdev->pci.max_vectors ? (uint16_t)value : VIRTIO_NO_VECTOR;
}

static void virtio_addr_write(uint64_t *addr, unsigned part, unsigned size, uint64_t value)
{
	if (size == 8)
		*addr = value;
	else if (part == 0)
		*addr = (*addr & ~(uint64_t)UINT32_MAX) | value;
	else
		*addr = (*addr & UINT32_MAX) | value << 32;
}

/* Size and addresses, which are frozen while the queue is enabled. */
static void virtio_queue_write_frozen(struct virtio *vdev, struct vq *vq, unsigned offset,
				      unsigned size, uint64_t value)
{
	uint64_t *addr = NULL;

	if (vq->enabled || (vdev->status & VIRTIO_STATUS_NEEDS_RESET))
		return;
	switch (offset & ~4u) {
	case COMMON_QUEUE_DESC:
		addr = &vq->desc;
		break;
	case COMMON_QUEUE_DRIVER:
		addr = &vq->avail;
		break;
	case COMMON_QUEUE_DEVICE:
		addr = &vq->used;
		break;
	case COMMON_QUEUE_SIZE:
		if (size == 2 && value <= vq->max_size)
			vq->size = (uint16_t)value;
		break;
	}
	if (addr && (size == 4 || size == 8) && (size == 4 || !(offset & 4)))
		virtio_addr_write(addr, offset & 4, size, value);
}

static void virtio_queue_write(struct virtio *vdev, struct virtio_queue *queue, unsigned offset,
			       unsigned size, uint64_t value)
{
	switch (offset) {
	case COMMON_QUEUE_ENABLE:
		if (size == 2 && value == 1)
			virtio_queue_enable(vdev, queue);
		return;
	case COMMON_QUEUE_RESET:
		if (size == 2 && value == 1)
			virtio_queue_reset(vdev, queue);
		return;
	}
	LOCK_GUARD(&queue->vq.lock);
	if (offset == COMMON_QUEUE_VECTOR) {
		if (size == 2)
			queue->vq.msix_vector = virtio_vector_of(vdev, value);
		return;
	}
	virtio_queue_write_frozen(vdev, &queue->vq, offset, size, value);
}

/* Fields take writes of their own width, addresses also by halves (section 4.1.3.1); others vanish. */
static void virtio_common_write(struct virtio *vdev, unsigned offset, unsigned size, uint64_t value)
{
	struct virtio_queue *queue = virtio_selected(vdev);

	if (vdev->resetting)
		return;
	if (offset == COMMON_STATUS && size == 1)
		virtio_status_write(vdev, (uint8_t)value);
	else if (offset == COMMON_DEVICE_FEATURE_SELECT && size == 4)
		vdev->device_feature_select = (uint32_t)value;
	else if (offset == COMMON_DRIVER_FEATURE_SELECT && size == 4)
		vdev->driver_feature_select = (uint32_t)value;
	else if (offset == COMMON_DRIVER_FEATURE && size == 4)
		virtio_driver_features_write(vdev, (uint32_t)value);
	else if (offset == COMMON_CONFIG_VECTOR && size == 2)
		vdev->config_vector = virtio_vector_of(vdev, value);
	else if (offset == COMMON_QUEUE_SELECT && size == 2)
		vdev->queue_select = (uint16_t)value;
	else if (offset > COMMON_QUEUE_SELECT && queue)
		virtio_queue_write(vdev, queue, offset, size, value);
}

/* --- the other blocks --- */

static uint64_t virtio_device_config_read(struct virtio *vdev, unsigned offset, unsigned size)
{
	uint8_t buf[8] = {0};

	if (offset < vdev->config_bytes && vdev->ops->config_read)
		vdev->ops->config_read(vdev, offset, buf, MIN(size, vdev->config_bytes - offset));
	return le_load(buf, size);
}

static void virtio_device_config_write(struct virtio *vdev, unsigned offset, unsigned size,
				       uint64_t value)
{
	uint8_t buf[8];

	if (!range_inside(offset, size, vdev->config_bytes) || !vdev->ops->config_write)
		return;
	le_store(buf, size, value);
	vdev->ops->config_write(vdev, offset, buf, size);
}

static uint64_t virtio_bar_read(void *opaque, uint64_t offset, unsigned size)
{
	struct virtio *vdev = opaque;
	unsigned within = (unsigned)offset % VIRTIO_BLOCK_BYTES;
	uint64_t value = 0;

	switch (offset - within) {
	case VIRTIO_BAR_COMMON:
		return virtio_common_read(vdev, within, size);
	case VIRTIO_BAR_ISR:
		return within == 0 ? virtio_isr_take(vdev) : 0;
	case VIRTIO_BAR_DEVICE:
		return virtio_device_config_read(vdev, within, size);
	case VIRTIO_BAR_NOTIFY:
		return 0;
	default:
		pci_msix_read(&vdev->pci, offset, size, &value);
		return value;
	}
}

static void virtio_bar_write(void *opaque, uint64_t offset, unsigned size, uint64_t value)
{
	struct virtio *vdev = opaque;
	unsigned within = (unsigned)offset % VIRTIO_BLOCK_BYTES;

	switch (offset - within) {
	case VIRTIO_BAR_COMMON:
		virtio_common_write(vdev, within, size, value);
		break;
	case VIRTIO_BAR_ISR:
		break;
	case VIRTIO_BAR_DEVICE:
		virtio_device_config_write(vdev, within, size, value);
		break;
	case VIRTIO_BAR_NOTIFY:
		/* Where the machine does not signal it for us. */
		if (within / VIRTIO_DOORBELL_STEP < vdev->max_queues)
			virtio_queue_rekick(vdev, within / VIRTIO_DOORBELL_STEP);
		break;
	default:
		pci_msix_write(&vdev->pci, offset, size, value);
		break;
	}
}

static const struct bus_ops virtio_bar_ops = {.read = virtio_bar_read, .write = virtio_bar_write};

/* --- doorbells --- */

void virtio_pci_doorbells(struct virtio *vdev)
{
	struct bus_host *host = vdev->pci.dev.env.host;

	for (unsigned i = 0; i < vdev->max_queues; i++) {
		struct virtio_queue *queue = &vdev->queues[i];
		uint64_t addr = vdev->notify_base + i * VIRTIO_DOORBELL_STEP;
		bool want = vdev->notify_base && queue->doorbell_wanted;

		if (queue->doorbell && (!want || queue->doorbell_addr != addr)) {
			host->ops->doorbell_del(host, BUS_MMIO, queue->doorbell_addr, 0,
						queue->kick_fd);
			queue->doorbell = false;
		}
		if (want && !queue->doorbell) {
			queue->doorbell_addr = addr;
			queue->doorbell = host->ops->doorbell_add(host, BUS_MMIO, addr, 0,
								  queue->kick_fd) >= 0;
		}
	}
}

/* --- hooks of configuration space; pci lock held --- */

static void virtio_bar_changed(struct pci_device *pci, unsigned bar)
{
	struct virtio *vdev = virtio_of_pci(pci);
	const struct bus_region *region = &pci->bars[VIRTIO_BAR].region;

	LOCK_GUARD(&pci->dev.lock);
	vdev->notify_base = region->mapped ? region->base + VIRTIO_BAR_NOTIFY : 0;
	virtio_pci_doorbells(vdev);
}

/* The registers through configuration space (section 4.1.4.9): for firmware that cannot map a BAR. */
static bool virtio_access_target(const struct pci_device *pci, unsigned cap, uint32_t *ret_offset,
				 unsigned *ret_size)
{
	uint32_t offset = (uint32_t)le_load(pci->config + cap + CAP_OFFSET, 4);
	uint32_t size = (uint32_t)le_load(pci->config + cap + CAP_LENGTH, 4);

	if (pci->config[cap + CAP_BAR] != VIRTIO_BAR || (size != 1 && size != 2 && size != 4) ||
	    offset % size != 0 || offset >= VIRTIO_BAR_BYTES)
		return false;
	*ret_offset = offset;
	*ret_size = size;
	return true;
}

static bool virtio_touches(unsigned offset, unsigned size, unsigned reg)
{
	return offset < reg + 4 && reg < offset + size;
}

static void virtio_config_reading(struct pci_device *pci, unsigned offset, unsigned size)
{
	struct virtio *vdev = virtio_of_pci(pci);
	unsigned data = vdev->access_cap + CAP_DATA;
	uint32_t at;
	unsigned len;

	if (!virtio_touches(offset, size, data) ||
	    !virtio_access_target(pci, vdev->access_cap, &at, &len))
		return;
	LOCK_GUARD(&pci->dev.lock);
	le_store(pci->config + data, len, virtio_bar_read(vdev, at, len));
}

static void virtio_master_changed(struct virtio *vdev)
{
	bool master = pci_bus_master(&vdev->pci);

	LOCK_GUARD(&vdev->pci.dev.lock);
	virtio_hold(vdev, VQ_HELD_MASTER, !master);
	for (unsigned i = 0; master && virtio_active(vdev) && i < vdev->max_queues; i++)
		virtio_queue_rekick(vdev, i);
}

static void virtio_config_written(struct pci_device *pci, unsigned offset, unsigned size)
{
	struct virtio *vdev = virtio_of_pci(pci);
	unsigned data = vdev->access_cap + CAP_DATA;
	uint32_t at;
	unsigned len;

	if (virtio_touches(offset, size, PCI_COMMAND))
		virtio_master_changed(vdev);
	/* A whole space that changed is a reset or a load, and no access. */
	if (size > 4 || !virtio_touches(offset, size, data) ||
	    !virtio_access_target(pci, vdev->access_cap, &at, &len))
		return;
	LOCK_GUARD(&pci->dev.lock);
	virtio_bar_write(vdev, at, len, le_load(pci->config + data, len));
}

/* --- the function --- */

static unsigned virtio_add_cap(struct virtio *vdev, uint8_t type, uint32_t offset, uint32_t length,
			       unsigned extra_bytes)
{
	uint8_t cap[CAP_BYTES + 4] = {0};
	uint8_t writable[sizeof(cap)] = {0};
	unsigned bytes = CAP_BYTES + extra_bytes;

	cap[CAP_LEN] = (uint8_t)bytes;
	cap[CAP_TYPE] = type;
	cap[CAP_BAR] = VIRTIO_BAR;
	le_store(cap + CAP_OFFSET, 4, offset);
	le_store(cap + CAP_LENGTH, 4, length);
	if (type == CAP_NOTIFY)
		le_store(cap + CAP_MULTIPLIER, 4, VIRTIO_DOORBELL_STEP);
	if (type == CAP_ACCESS) {
		writable[CAP_BAR] = 0xff;
		memset(writable + CAP_OFFSET, 0xff, 12); /* offset, length, data */
	}
	return pci_device_add_cap(&vdev->pci, PCI_CAP_ID_VNDR, cap + 2, writable + 2, bytes - 2);
}

int virtio_pci_init(struct virtio *vdev, const char *id, const struct device_env *env)
{
	const struct pci_device_config config = {
		.vendor_id = VIRTIO_PCI_VENDOR,
		.device_id = (uint16_t)(VIRTIO_PCI_DEVICE + vdev->ops->device_id),
		.subsystem_vendor_id = VIRTIO_PCI_VENDOR,
		.subsystem_id = VIRTIO_PCI_SUBSYSTEM,
		.revision = 1,
		.class_code = vdev->ops->class_code,
		.intx_pin = 1,
		.msix_vectors = vdev->max_queues + 1,
		.msix_bar = VIRTIO_BAR,
		.msix_offset = VIRTIO_BAR_MSIX,
	};
	int r;

	static_assert(VIRTIO_MAX_QUEUES * VIRTIO_DOORBELL_STEP <= VIRTIO_BLOCK_BYTES,
		      "doorbells fill more than their block");
	r = pci_device_init(&vdev->pci, &vdev->ops->dev, id, env, &config);
	if (r < 0)
		return r;
	pci_device_add_bar(&vdev->pci, VIRTIO_BAR, VIRTIO_BAR_BYTES, true, false, &virtio_bar_ops,
			   vdev);
	virtio_add_cap(vdev, CAP_COMMON, VIRTIO_BAR_COMMON, COMMON_BYTES, 0);
	virtio_add_cap(vdev, CAP_ISR, VIRTIO_BAR_ISR, 1, 0);
	if (vdev->config_bytes)
		virtio_add_cap(vdev, CAP_DEVICE, VIRTIO_BAR_DEVICE, vdev->config_bytes, 0);
	virtio_add_cap(vdev, CAP_NOTIFY, VIRTIO_BAR_NOTIFY, vdev->max_queues * VIRTIO_DOORBELL_STEP,
		       4);
	vdev->access_cap = virtio_add_cap(vdev, CAP_ACCESS, 0, 0, 4);
	vdev->pci.config_reading = virtio_config_reading;
	vdev->pci.config_written = virtio_config_written;
	vdev->pci.bar_changed = virtio_bar_changed;
	return 0;
}
