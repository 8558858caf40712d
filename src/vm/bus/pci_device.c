/*
 * A PCI function: type 0 header, capability list, writes to configuration space and what follows from them. (PCI Local
 * Bus 3.0, chapter 6; PCI Express Base 4.0, section 7.5.)
 *
 * Every function is a root complex integrated endpoint: it has no link, so its PCI Express capability is read-only.
 */
#include "vm/bus/pci.h"

#include <errno.h>
#include <linux/pci_regs.h>
#include <stdlib.h>

#include "base/cleanup.h"
#include "base/endian.h"
#include "vm/bus/pci_int.h"

#define PCI_CLASS_BRIDGE 0x06

/* No function has I/O BARs. */
#define PCI_COMMAND_BITS (PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER | PCI_COMMAND_INTX_DISABLE)

/* --- building --- */

static void pci_device_add_express_cap(struct pci_device *pci)
{
	/* Section 7.5.3: version 2, all of it present, since no link makes the link's registers zero. */
	uint8_t body[PCI_CAP_EXP_ENDPOINT_SIZEOF_V2 + 10 - 2] = {0};

	le_store(body + PCI_EXP_FLAGS - 2, 2, 2 | PCI_EXP_TYPE_RC_END << 4);
	le_store(body + PCI_EXP_DEVCAP - 2, 4, PCI_EXP_DEVCAP_RBER);
	pci_device_add_cap(pci, PCI_CAP_ID_EXP, body, NULL, sizeof(body));
}

int pci_device_init(struct pci_device *pci, const struct device_ops *ops, const char *id,
		    const struct device_env *env, const struct pci_device_config *config)
{
	uint8_t *c = pci->config;
	int r;

	device_init(&pci->dev, ops, id, env);
	pthread_mutex_init(&pci->irq_lock, NULL);
	pci->cap_end = PCI_STD_HEADER_SIZEOF;
	le_store(c + PCI_VENDOR_ID, 2, config->vendor_id);
	le_store(c + PCI_DEVICE_ID, 2, config->device_id);
	c[PCI_REVISION_ID] = config->revision;
	le_store(c + PCI_CLASS_PROG, 1, config->class_code);
	le_store(c + PCI_CLASS_DEVICE, 2, config->class_code >> 8);
	le_store(c + PCI_SUBSYSTEM_VENDOR_ID, 2, config->subsystem_vendor_id);
	le_store(c + PCI_SUBSYSTEM_ID, 2, config->subsystem_id);
	c[PCI_INTERRUPT_PIN] = config->intx_pin;
	le_store(pci->writable + PCI_COMMAND, 2, PCI_COMMAND_BITS);
	pci->writable[PCI_INTERRUPT_LINE] = 0xff;
	if (config->class_code >> 16 != PCI_CLASS_BRIDGE)
		pci_device_add_express_cap(pci);
	r = pci_msix_init(pci, config);
	if (r < 0)
		pci_device_fini(pci);
	return r;
}

unsigned pci_device_add_cap(struct pci_device *pci, uint8_t cap_id, const void *body,
			    const void *writable, size_t body_size)
{
	unsigned at = pci->cap_end;

	/* Devices are built from constants: one that overfills its list is a mistake in the program. */
	if (at + 2 + body_size > PCI_LEGACY_BYTES)
		abort();
	pci->config[at] = cap_id;
	memcpy(pci->config + at + 2, body, body_size);
	if (writable)
		memcpy(pci->writable + at + 2, writable, body_size);
	if (pci->cap_last)
		pci->config[pci->cap_last + 1] = (uint8_t)at;
	else
		pci->config[PCI_CAPABILITY_LIST] = (uint8_t)at;
	pci->config[PCI_STATUS] |= PCI_STATUS_CAP_LIST;
	pci->cap_last = at;
	pci->cap_end = (unsigned)align_up(at + 2 + body_size, 4);
	return at;
}

int pci_device_add(struct pci_device *pci, int slot, struct error *err)
{
	struct pci_bus *bus = pci->dev.env.pci;

	if (slot < 0) {
		for (slot = 0; slot < PCI_SLOTS && bus->slots[slot]; slot++)
			;
		if (slot == PCI_SLOTS)
			return error_set(err, -ENOSPC,
					 "%s: the PCI bus is full, it has %d slots: use fewer "
					 "devices",
					 pci->dev.id, PCI_SLOTS);
	}
	if (slot >= PCI_SLOTS)
		return error_set(err, -EINVAL, "%s: PCI slot %d does not exist, the last is %d",
				 pci->dev.id, slot, PCI_SLOTS - 1);
	if (bus->slots[slot])
		return error_set(err, -EEXIST, "%s: PCI slot %d is taken by %s: choose another",
				 pci->dev.id, slot, bus->slots[slot]->dev.id);
	LOCK_GUARD(&bus->lock);
	pci->slot = (unsigned)slot;
	pci->bus = bus;
	bus->slots[slot] = pci;
	return 0;
}

void pci_device_fini(struct pci_device *pci)
{
	struct pci_bus *bus = pci->bus;

	if (!pci->dev.ops)
		return;
	if (bus) {
		pci_device_reset(pci);
		LOCK_GUARD(&bus->lock);
		bus->slots[pci->slot] = NULL;
		pci->bus = NULL;
	}
	pci_msix_fini(pci);
	pthread_mutex_destroy(&pci->irq_lock);
	device_fini(&pci->dev);
	pci->dev.ops = NULL;
}

/* --- configuration space --- */

static bool pci_touches(unsigned offset, unsigned size, unsigned reg, unsigned reg_size)
{
	return offset < reg + reg_size && reg < offset + size;
}

bool pci_bus_master(const struct pci_device *pci)
{
	return pci->config[PCI_COMMAND] & PCI_COMMAND_MASTER;
}

uint32_t pci_config_read(struct pci_device *pci, unsigned offset, unsigned size)
{
	if (pci_touches(offset, size, PCI_STATUS, 1)) {
		LOCK_GUARD(&pci->irq_lock);
		pci->config[PCI_STATUS] &= (uint8_t)~PCI_STATUS_INTERRUPT;
		if (pci->intx_level)
			pci->config[PCI_STATUS] |= PCI_STATUS_INTERRUPT;
	}
	if (pci->config_reading)
		pci->config_reading(pci, offset, size);
	return (uint32_t)le_load(pci->config + offset, size);
}

/* What a change of [offset, offset + size) means for the bus. */
static void pci_config_settle(struct pci_device *pci, unsigned offset, unsigned size)
{
	bool command = pci_touches(offset, size, PCI_COMMAND, 2);

	if (command || pci_touches(offset, size, PCI_BASE_ADDRESS_0, 4 * PCI_MAX_BARS))
		pci_bars_update(pci);
	if (command || (pci->msix_cap && pci_touches(offset, size, pci->msix_cap + 2u, 2))) {
		pci_msix_update(pci);
		pci_intx_update(pci);
	}
}

void pci_config_write(struct pci_device *pci, unsigned offset, unsigned size, uint32_t value)
{
	for (unsigned i = 0; i < size && offset + i < PCI_LEGACY_BYTES; i++) {
		uint8_t mask = pci->writable[offset + i];
		uint8_t *byte = &pci->config[offset + i];

		*byte = (uint8_t)((*byte & ~mask) | (value >> (8 * i) & mask));
	}
	pci_config_settle(pci, offset, size);
	if (pci->config_written)
		pci->config_written(pci, offset, size);
}

void pci_device_reset(struct pci_device *pci)
{
	if (!pci->bus)
		return;
	pci_msix_reset(pci);
	pci_intx_set(pci, false);
	LOCK_GUARD(&pci->bus->lock);
	for (unsigned i = 0; i < PCI_LEGACY_BYTES; i++)
		pci->config[i] &= (uint8_t)~pci->writable[i];
	pci_config_settle(pci, 0, PCI_LEGACY_BYTES);
	if (pci->config_written)
		pci->config_written(pci, 0, PCI_LEGACY_BYTES);
}

/* --- state --- */

static void pci_device_pre_save(void *obj)
{
	struct pci_device *pci = obj;

	memcpy(pci->saved, pci->config, sizeof(pci->saved));
	/* Follows from intx_level. */
	pci->saved[PCI_STATUS] &= (uint8_t)~PCI_STATUS_INTERRUPT;
	pci_msix_collect_pending(pci);
}

/* A stream changes what a guest could have changed; a function of another make is refused. */
static int pci_device_take_config(struct pci_device *pci, struct error *err)
{
	pci->config[PCI_STATUS] &= (uint8_t)~PCI_STATUS_INTERRUPT;
	for (unsigned i = 0; i < PCI_LEGACY_BYTES; i++) {
		if ((pci->saved[i] ^ pci->config[i]) & ~pci->writable[i])
			return error_set(err, -EINVAL,
					 "%s: the saved PCI function is of another kind (its "
					 "configuration differs at byte %#x)",
					 pci->dev.id, i);
	}
	memcpy(pci->config, pci->saved, sizeof(pci->saved));
	return 0;
}

static int pci_device_post_load(void *obj, struct error *err)
{
	struct pci_device *pci = obj;
	int r;

	if (!pci->bus)
		return error_set(err, -ENODEV, "%s: it is on no PCI bus", pci->dev.id);
	LOCK_GUARD(&pci->bus->lock);
	r = pci_msix_validate(pci, err);
	if (r < 0)
		return r;
	r = pci_device_take_config(pci, err);
	if (r < 0)
		return r;
	pci_config_settle(pci, 0, PCI_LEGACY_BYTES);
	if (pci->config_written)
		pci->config_written(pci, 0, PCI_LEGACY_BYTES);
	return 0;
}

static const struct state_field pci_device_fields[] = {
	STATE_BYTES(struct pci_device, saved),
	STATE_UINT(struct pci_device, intx_level),
	STATE_PTR_STRUCTS(struct pci_device, vectors, n_vectors, PCI_MSIX_MAX_VECTORS,
			  &pci_msix_state_table),
};

const struct state_table pci_device_state_table = {
	.name = "pci",
	.version = 1,
	STATE_FIELDS(pci_device_fields),
	.pre_save = pci_device_pre_save,
	.post_load = pci_device_post_load,
};
