/*
 * MSI-X (PCI Local Bus 3.0, section 6.8.2; PCI Express Base 4.0, section 7.7.2): the vector table and pending bits, and how a vector is
 * sent: by a call, or, for a vhost device in the kernel, by an eventfd that the accelerator turns into a message.
 *
 * A vector is open while MSI-X is enabled, the function is a bus master and neither mask is set. An eventfd is attached
 * to the accelerator exactly while its vector is open; what is signalled meanwhile stays in its counter, which
 * makes it the pending bit.
 */
#include "vm/bus/pci.h"

#include <errno.h>
#include <linux/pci_regs.h>
#include <poll.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/endian.h"
#include "base/fd.h"
#include "vm/bus/pci_int.h"

static uint32_t pci_msix_table_bytes(unsigned vectors)
{
	return vectors * PCI_MSIX_ENTRY_SIZE;
}

uint32_t pci_msix_bytes(unsigned vectors)
{
	return pci_msix_table_bytes(vectors) + (vectors + 63) / 64 * 8;
}

/* --- life --- */

int pci_msix_init(struct pci_device *pci, const struct pci_device_config *config)
{
	uint8_t body[PCI_CAP_MSIX_SIZEOF - 2] = {0};
	uint8_t writable[sizeof(body)] = {0};
	unsigned n = config->msix_vectors;

	if (n == 0)
		return 0;
	if (n > PCI_MSIX_MAX_VECTORS || config->msix_bar >= PCI_MAX_BARS)
		return -EINVAL;
	pci->vectors = calloc(n, sizeof(*pci->vectors));
	if (!pci->vectors)
		return -ENOMEM;
	for (unsigned i = 0; i < n; i++) {
		struct msix_vector *vector = &pci->vectors[i];

		pthread_mutex_init(&vector->lock, NULL);
		vector->control = PCI_MSIX_ENTRY_CTRL_MASKBIT;
		vector->irq_fd = -1;
		vector->route = -1;
	}
	pci->max_vectors = n;
	pci->n_vectors = n;
	pci->msix_offset = config->msix_offset;
	le_store(body + PCI_MSIX_FLAGS - 2, 2, n - 1);
	le_store(body + PCI_MSIX_TABLE - 2, 4, config->msix_offset | config->msix_bar);
	le_store(body + PCI_MSIX_PBA - 2, 4,
		 (config->msix_offset + pci_msix_table_bytes(n)) | config->msix_bar);
	le_store(writable + PCI_MSIX_FLAGS - 2, 2, PCI_MSIX_FLAGS_ENABLE | PCI_MSIX_FLAGS_MASKALL);
	pci->msix_cap =
		(uint8_t)pci_device_add_cap(pci, PCI_CAP_ID_MSIX, body, writable, sizeof(body));
	return 0;
}

static void msix_detach_locked(struct pci_device *pci, struct msix_vector *vector)
{
	struct bus_host *host = pci->dev.env.host;

	if (vector->route >= 0)
		host->ops->irqfd_detach(host, vector->route);
	vector->route = -1;
}

void pci_msix_fini(struct pci_device *pci)
{
	for (unsigned i = 0; i < pci->max_vectors; i++) {
		struct msix_vector *vector = &pci->vectors[i];

		msix_detach_locked(pci, vector);
		if (vector->irq_fd >= 0)
			close(vector->irq_fd);
		pthread_mutex_destroy(&vector->lock);
	}
	free(pci->vectors);
	pci->vectors = NULL;
	pci->max_vectors = 0;
}

/* --- vectors --- */

static bool msix_open_locked(const struct pci_device *pci, const struct msix_vector *vector)
{
	return atomic_load(&pci->msix_mode) == MSIX_OPEN &&
	       !(vector->control & PCI_MSIX_ENTRY_CTRL_MASKBIT);
}

static void msix_attach_locked(struct pci_device *pci, struct msix_vector *vector)
{
	struct bus_host *host = pci->dev.env.host;
	int r;

	r = host->ops->irqfd_attach(host, vector->irq_fd, vector->addr, vector->data);
	if (r < 0)
		log_guest(&pci->dev.log_budget, "%s: an interrupt cannot be routed: error %d",
			  pci->dev.id, -r);
	else
		vector->route = r;
}

/* The guest opened or closed a vector. */
static void msix_settle_locked(struct pci_device *pci, struct msix_vector *vector)
{
	struct bus_host *host = pci->dev.env.host;

	if (!msix_open_locked(pci, vector)) {
		msix_detach_locked(pci, vector);
		return;
	}
	if (vector->irq_fd >= 0 && vector->route < 0) {
		vector->pending |= eventfd_clear(vector->irq_fd);
		msix_attach_locked(pci, vector);
	}
	if (vector->pending) {
		vector->pending = false;
		host->ops->msi_send(host, vector->addr, vector->data);
	}
}

void pci_msix_update(struct pci_device *pci)
{
	enum msix_mode mode = MSIX_OPEN;
	uint64_t control;

	if (!pci->msix_cap)
		return;
	control = le_load(pci->config + pci->msix_cap + PCI_MSIX_FLAGS, 2);
	if (!(control & PCI_MSIX_FLAGS_ENABLE))
		mode = MSIX_OFF;
	else if ((control & PCI_MSIX_FLAGS_MASKALL) || !pci_bus_master(pci))
		mode = MSIX_HELD;
	atomic_store(&pci->msix_mode, mode);
	/* Whoever sends by the old mode has ended when its vector's lock can be had. */
	for (unsigned i = 0; i < pci->max_vectors; i++) {
		LOCK_GUARD(&pci->vectors[i].lock);
		msix_settle_locked(pci, &pci->vectors[i]);
	}
}

bool pci_msix_enabled(const struct pci_device *pci)
{
	return atomic_load(&pci->msix_mode) != MSIX_OFF;
}

void pci_msix_notify(struct pci_device *pci, unsigned v)
{
	struct bus_host *host = pci->dev.env.host;
	struct msix_vector *vector;

	if (v >= pci->max_vectors)
		return;
	vector = &pci->vectors[v];
	LOCK_GUARD(&vector->lock);
	if (msix_open_locked(pci, vector))
		host->ops->msi_send(host, vector->addr, vector->data);
	else if (pci_msix_enabled(pci))
		vector->pending = true;
}

int pci_msix_fd(struct pci_device *pci, unsigned v)
{
	struct bus_host *host = pci->dev.env.host;
	struct msix_vector *vector;
	int fd;
	int r;

	if (v >= pci->max_vectors)
		return -EINVAL;
	vector = &pci->vectors[v];
	LOCK_GUARD(&vector->lock);
	if (vector->irq_fd >= 0)
		return vector->irq_fd;
	fd = eventfd_new();
	if (fd < 0)
		return fd;
	/* Masked or not: whether this machine can do it is known now rather than at the first unmask. */
	r = host->ops->irqfd_attach(host, fd, vector->addr, vector->data);
	if (r < 0) {
		close(fd);
		return r;
	}
	vector->irq_fd = fd;
	vector->route = r;
	msix_settle_locked(pci, vector);
	return fd;
}

void pci_msix_reset(struct pci_device *pci)
{
	for (unsigned i = 0; i < pci->max_vectors; i++) {
		struct msix_vector *vector = &pci->vectors[i];

		LOCK_GUARD(&vector->lock);
		msix_detach_locked(pci, vector);
		if (vector->irq_fd >= 0)
			eventfd_clear(vector->irq_fd);
		vector->addr = 0;
		vector->data = 0;
		vector->control = PCI_MSIX_ENTRY_CTRL_MASKBIT;
		vector->pending = false;
	}
}

/* --- table and pending bits, as the guest sees them --- */

static bool msix_vector_pending(struct msix_vector *vector)
{
	struct pollfd p = {.fd = vector->irq_fd, .events = POLLIN};

	LOCK_GUARD(&vector->lock);
	if (vector->pending)
		return true;
	/* While it is attached, what is in the counter is on its way. */
	return vector->irq_fd >= 0 && vector->route < 0 && poll(&p, 1, 0) == 1;
}

static uint64_t msix_pending_read(struct pci_device *pci, uint64_t offset, unsigned size)
{
	uint64_t first = offset * 8;
	uint64_t bits = 0;

	for (unsigned i = 0; i < size * 8 && first + i < pci->max_vectors; i++)
		bits |= (uint64_t)msix_vector_pending(&pci->vectors[first + i]) << i;
	return bits;
}

static uint32_t msix_entry_read(const struct msix_vector *vector, unsigned reg)
{
	switch (reg) {
	case PCI_MSIX_ENTRY_LOWER_ADDR:
		return (uint32_t)vector->addr;
	case PCI_MSIX_ENTRY_UPPER_ADDR:
		return (uint32_t)(vector->addr >> 32);
	case PCI_MSIX_ENTRY_DATA:
		return vector->data;
	default:
		return vector->control;
	}
}

static void msix_entry_write(struct msix_vector *vector, unsigned reg, uint32_t value)
{
	switch (reg) {
	case PCI_MSIX_ENTRY_LOWER_ADDR:
		vector->addr = (vector->addr & ~(uint64_t)UINT32_MAX) | (value & ~3u);
		break;
	case PCI_MSIX_ENTRY_UPPER_ADDR:
		vector->addr = (vector->addr & UINT32_MAX) | (uint64_t)value << 32;
		break;
	case PCI_MSIX_ENTRY_DATA:
		vector->data = value;
		break;
	default:
		vector->control = value & PCI_MSIX_ENTRY_CTRL_MASKBIT;
		break;
	}
}

bool pci_msix_read(struct pci_device *pci, uint64_t offset, unsigned size, uint64_t *ret)
{
	uint32_t table = pci_msix_table_bytes(pci->max_vectors);
	uint64_t value = 0;

	if (offset < pci->msix_offset)
		return false;
	offset -= pci->msix_offset;
	if (!range_inside(offset, size, pci_msix_bytes(pci->max_vectors)))
		return false;
	if (offset >= table) {
		value = msix_pending_read(pci, offset - table, size);
	} else if ((size == 4 || size == 8) && offset % size == 0) {
		struct msix_vector *vector = &pci->vectors[offset / PCI_MSIX_ENTRY_SIZE];

		LOCK_GUARD(&vector->lock);
		for (unsigned i = 0; i < size; i += 4)
			value |= (uint64_t)msix_entry_read(vector, (unsigned)(offset + i) %
									   PCI_MSIX_ENTRY_SIZE)
				 << (8 * i);
	}
	*ret = value;
	return true;
}

bool pci_msix_write(struct pci_device *pci, uint64_t offset, unsigned size, uint64_t value)
{
	struct bus_host *host = pci->dev.env.host;
	struct msix_vector *vector;

	if (offset < pci->msix_offset)
		return false;
	offset -= pci->msix_offset;
	if (!range_inside(offset, size, pci_msix_bytes(pci->max_vectors)))
		return false;
	/* Pending bits are read-only; the table takes whole dwords and qwords, other accesses are undefined. */
	if (offset >= pci_msix_table_bytes(pci->max_vectors) || (size != 4 && size != 8) ||
	    offset % size != 0)
		return true;
	vector = &pci->vectors[offset / PCI_MSIX_ENTRY_SIZE];
	LOCK_GUARD(&vector->lock);
	for (unsigned i = 0; i < size; i += 4)
		msix_entry_write(vector, (unsigned)(offset + i) % PCI_MSIX_ENTRY_SIZE,
				 (uint32_t)(value >> (8 * i)));
	if (vector->route >= 0)
		host->ops->irqfd_update(host, vector->route, vector->addr, vector->data);
	msix_settle_locked(pci, vector);
	return true;
}

/* --- state --- */

void pci_msix_collect_pending(struct pci_device *pci)
{
	for (unsigned i = 0; i < pci->max_vectors; i++) {
		struct msix_vector *vector = &pci->vectors[i];

		LOCK_GUARD(&vector->lock);
		if (vector->irq_fd >= 0 && vector->route < 0 && pci_msix_enabled(pci))
			vector->pending |= eventfd_clear(vector->irq_fd);
	}
}

int pci_msix_validate(const struct pci_device *pci, struct error *err)
{
	if (pci->n_vectors == pci->max_vectors)
		return 0;
	return error_set(err, -EINVAL, "%s: the saved device has %u interrupt vectors, this one %u",
			 pci->dev.id, pci->n_vectors, pci->max_vectors);
}

static const struct state_field msix_fields[] = {
	STATE_UINT(struct msix_vector, addr),
	STATE_UINT(struct msix_vector, data),
	STATE_UINT_MAX(struct msix_vector, control, PCI_MSIX_ENTRY_CTRL_MASKBIT),
	STATE_UINT(struct msix_vector, pending),
};

const struct state_table pci_msix_state_table = {
	.name = "msix-vector",
	.version = 1,
	STATE_FIELDS(msix_fields),
};
