#include "device/driver.h"

#include <linux/pci_regs.h>

#include "base/bits.h"
#include "base/endian.h"

/* struct virtio_pci_common_cfg. */
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

/* --- registers --- */

uint64_t driver_common_in(struct driver *d, unsigned offset, unsigned size)
{
	return harness_in(d->h, d->common + offset, size);
}

void driver_common_out(struct driver *d, unsigned offset, unsigned size, uint64_t value)
{
	harness_out(d->h, d->common + offset, size, value);
}

uint8_t driver_status(struct driver *d)
{
	return (uint8_t)driver_common_in(d, COMMON_STATUS, 1);
}

void driver_set_status(struct driver *d, uint8_t status)
{
	driver_common_out(d, COMMON_STATUS, 1, status);
}

void driver_config_read(struct driver *d, unsigned offset, void *buf, unsigned len)
{
	uint64_t generation;

	assert_true(range_inside(offset, len, d->config_bytes));
	do {
		generation = driver_common_in(d, COMMON_GENERATION, 1);
		for (unsigned i = 0; i < len; i++)
			((uint8_t *)buf)[i] = (uint8_t)harness_in(d->h, d->config + offset + i, 1);
	} while (generation != driver_common_in(d, COMMON_GENERATION, 1));
}

void driver_config_write(struct driver *d, unsigned offset, const void *buf, unsigned len)
{
	assert_true(range_inside(offset, len, d->config_bytes));
	for (unsigned i = 0; i < len; i++)
		harness_out(d->h, d->config + offset + i, 1, ((const uint8_t *)buf)[i]);
}

/* --- finding the device --- */

static uint64_t driver_bar(struct driver *d, unsigned bar)
{
	unsigned reg = PCI_BASE_ADDRESS_0 + 4 * bar;
	uint64_t addr = harness_config_in(d->h, d->slot, reg, 4);

	if (addr & PCI_BASE_ADDRESS_MEM_TYPE_64)
		addr |= (uint64_t)harness_config_in(d->h, d->slot, reg + 4, 4) << 32;
	return addr & PCI_BASE_ADDRESS_MEM_MASK;
}

static void driver_take_cap(struct driver *d, unsigned cap)
{
	struct harness *h = d->h;
	uint64_t at = driver_bar(d, harness_config_in(h, d->slot, cap + 4, 1)) +
		      harness_config_in(h, d->slot, cap + 8, 4);

	switch (harness_config_in(h, d->slot, cap + 3, 1)) {
	case 1:
		d->common = at;
		break;
	case 2:
		d->notify = at;
		d->notify_step = harness_config_in(h, d->slot, cap + 16, 4);
		break;
	case 3:
		d->isr = at;
		break;
	case 4:
		d->config = at;
		d->config_bytes = harness_config_in(h, d->slot, cap + 12, 4);
		break;
	}
}

static void driver_take_msix(struct driver *d, unsigned cap)
{
	uint32_t table = harness_config_in(d->h, d->slot, cap + PCI_MSIX_TABLE, 4);
	uint32_t flags = harness_config_in(d->h, d->slot, cap + PCI_MSIX_FLAGS, 2);

	d->msix_table = driver_bar(d, table & PCI_MSIX_TABLE_BIR) + (table & PCI_MSIX_TABLE_OFFSET);
	for (unsigned v = 0; v <= (flags & PCI_MSIX_FLAGS_QSIZE); v++) {
		uint64_t entry = d->msix_table + v * PCI_MSIX_ENTRY_SIZE;

		harness_out(d->h, entry, 8, HARNESS_MSI_ADDR);
		harness_out(d->h, entry + 8, 4, harness_msi_data(d->slot, v));
		harness_out(d->h, entry + 12, 4, 0);
	}
	if (!d->intx)
		harness_config_out(d->h, d->slot, cap + PCI_MSIX_FLAGS, 2, PCI_MSIX_FLAGS_ENABLE);
}

void driver_probe(struct driver *d, struct harness *h, unsigned slot)
{
	unsigned cap;

	*d = (struct driver){.h = h, .slot = slot, .intx = h->intx};
	assert_int_equal(pci_bus_assign(h->env.pci, NULL), 0);
	assert_int_equal(harness_config_in(h, slot, PCI_VENDOR_ID, 2), 0x1af4);
	harness_config_out(h, slot, PCI_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
	for (cap = harness_config_in(h, slot, PCI_CAPABILITY_LIST, 1); cap;
	     cap = harness_config_in(h, slot, cap + 1, 1)) {
		uint32_t id = harness_config_in(h, slot, cap, 1);

		if (id == PCI_CAP_ID_VNDR)
			driver_take_cap(d, cap);
		else if (id == PCI_CAP_ID_MSIX)
			driver_take_msix(d, cap);
	}
	assert_true(d->common && d->notify && d->isr);
	d->n_queues = (unsigned)driver_common_in(d, COMMON_NUM_QUEUES, 2);
	d->queues = calloc(d->n_queues, sizeof(*d->queues));
	assert_non_null(d->queues);
}

/* --- negotiation --- */

uint64_t driver_offered(struct driver *d)
{
	uint64_t offered;

	driver_common_out(d, COMMON_DEVICE_FEATURE_SELECT, 4, 1);
	offered = driver_common_in(d, COMMON_DEVICE_FEATURE, 4) << 32;
	driver_common_out(d, COMMON_DEVICE_FEATURE_SELECT, 4, 0);
	return offered | driver_common_in(d, COMMON_DEVICE_FEATURE, 4);
}

void driver_negotiate(struct driver *d, uint64_t wanted)
{
	uint8_t status = VIRTIO_STATUS_ACKNOWLEDGE | VIRTIO_STATUS_DRIVER;

	driver_reset(d);
	driver_set_status(d, VIRTIO_STATUS_ACKNOWLEDGE);
	driver_set_status(d, status);
	d->features = driver_offered(d) & (wanted | BIT(VIRTIO_F_VERSION_1));
	driver_common_out(d, COMMON_DRIVER_FEATURE_SELECT, 4, 0);
	driver_common_out(d, COMMON_DRIVER_FEATURE, 4, (uint32_t)d->features);
	driver_common_out(d, COMMON_DRIVER_FEATURE_SELECT, 4, 1);
	driver_common_out(d, COMMON_DRIVER_FEATURE, 4, d->features >> 32);
	status |= VIRTIO_STATUS_FEATURES_OK;
	driver_set_status(d, status);
	assert_int_equal(driver_status(d), status);
	if (!d->intx)
		driver_common_out(d, COMMON_CONFIG_VECTOR, 2, 0);
}

static void driver_queue_init(struct driver_queue *q)
{
	gpa_t desc = q->desc, avail = q->avail, used = q->used;

	memset(harness_ptr(q->d->h, desc, 16u * q->size), 0, 16u * q->size);
	memset(harness_ptr(q->d->h, avail, 6 + 2u * q->size), 0, 6 + 2u * q->size);
	memset(harness_ptr(q->d->h, used, 6 + 8u * q->size), 0, 6 + 8u * q->size);
	memset(q->reqs, 0, q->size * sizeof(*q->reqs));
	q->free_slots = q->size;
	q->next_slot = q->packed ? 0x8000 : 0;
	q->next_used = q->next_slot;
	q->kicked = q->next_slot;
}

struct driver_queue *driver_queue_setup(struct driver *d, unsigned index, uint16_t size)
{
	struct driver_queue *q = &d->queues[index];
	struct harness *h = d->h;

	assert_true(index < d->n_queues);
	driver_common_out(d, COMMON_QUEUE_SELECT, 2, index);
	if (!size)
		size = (uint16_t)driver_common_in(d, COMMON_QUEUE_SIZE, 2);
	if (q->size < size) {
		free(q->reqs);
		q->reqs = calloc(size, sizeof(*q->reqs));
		assert_non_null(q->reqs);
		q->desc = harness_alloc(h, 16u * size);
		q->avail = harness_alloc(h, 6 + 2u * size);
		q->used = harness_alloc(h, 6 + 8u * size);
		q->tables = harness_alloc(h, 16u * DRIVER_MAX_BUFS * size);
	}
	q->d = d;
	q->index = index;
	q->size = size;
	q->packed = d->features >> VIRTIO_F_RING_PACKED & 1;
	q->event_idx = d->features >> VIRTIO_F_EVENT_IDX & 1;
	q->indirect = false;
	q->quiet = false;
	driver_queue_init(q);
	driver_common_out(d, COMMON_QUEUE_SIZE, 2, size);
	if (!d->intx) {
		driver_common_out(d, COMMON_QUEUE_VECTOR, 2, index + 1);
		assert_int_equal(driver_common_in(d, COMMON_QUEUE_VECTOR, 2), index + 1);
	}
	driver_common_out(d, COMMON_QUEUE_DESC, 8, q->desc);
	driver_common_out(d, COMMON_QUEUE_DRIVER, 4, (uint32_t)q->avail);
	driver_common_out(d, COMMON_QUEUE_DRIVER + 4, 4, q->avail >> 32);
	driver_common_out(d, COMMON_QUEUE_DEVICE, 8, q->used);
	q->doorbell = d->notify + driver_common_in(d, COMMON_QUEUE_NOTIFY_OFF, 2) * d->notify_step;
	driver_common_out(d, COMMON_QUEUE_ENABLE, 2, 1);
	assert_int_equal(driver_common_in(d, COMMON_QUEUE_ENABLE, 2), 1);
	return q;
}

void driver_ok(struct driver *d)
{
	uint8_t status = driver_status(d) | VIRTIO_STATUS_DRIVER_OK;

	driver_set_status(d, status);
	assert_int_equal(driver_status(d), status);
}

void driver_start(struct driver *d, struct harness *h, unsigned slot, uint64_t wanted)
{
	driver_probe(d, h, slot);
	driver_negotiate(d, wanted);
	for (unsigned i = 0; i < d->n_queues; i++)
		driver_queue_setup(d, i, 0);
	driver_ok(d);
}

void driver_forget(struct driver *d)
{
	for (unsigned i = 0; i < d->n_queues; i++) {
		struct driver_queue *q = &d->queues[i];

		for (unsigned id = 0; id < q->size; id++)
			d->h->outstanding -= q->reqs[id].slots > 0;
		if (q->size)
			driver_queue_init(q);
	}
}

static bool driver_is_reset(void *opaque)
{
	return driver_status(opaque) == 0;
}

void driver_reset(struct driver *d)
{
	driver_set_status(d, 0);
	harness_wait(d->h, driver_is_reset, d);
	driver_forget(d);
}

void driver_stop(struct driver *d)
{
	driver_reset(d);
	for (unsigned i = 0; i < d->n_queues; i++)
		free(d->queues[i].reqs);
	free(d->queues);
	d->queues = NULL;
}

/* --- interrupts --- */

static unsigned driver_intx(struct driver *d, unsigned bit)
{
	unsigned gsi = pci_intx_gsi(d->slot, 0);

	return d->h->line[gsi] && (harness_in(d->h, d->isr, 1) & bit);
}

unsigned driver_interrupts(struct driver_queue *q)
{
	if (q->d->intx)
		return driver_intx(q->d, 1);
	return harness_msi_take(q->d->h, q->d->slot, q->index + 1);
}

unsigned driver_config_interrupts(struct driver *d)
{
	if (d->intx)
		return driver_intx(d, 2);
	return harness_msi_take(d->h, d->slot, 0);
}
