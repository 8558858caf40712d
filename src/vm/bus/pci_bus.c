/*
 * The root bus: configuration space by ECAM (PCI Express Base 4.0, section 7.2.2) and by ports 0xCF8 and 0xCFC (PCI
 * Local Bus 3.0, section 3.2.2.3.2), and the host bridge at 00:00.0. Accesses come on vCPU threads.
 *
 * One bus, one function in a slot; no bridges, no hot plug.
 */
#include "vm/bus/pci.h"

#include <errno.h>
#include <linux/pci_regs.h>
#include <stdlib.h>

#include "base/cleanup.h"
#include "vm/bus/pci_int.h"

/* The generic PCI Express host bridge that systems know. */
#define PCI_BRIDGE_VENDOR 0x1b36
#define PCI_BRIDGE_DEVICE 0x0008
#define PCI_BRIDGE_CLASS  0x060000

#define PCI_PORT_ADDRESS 0xCF8
#define PCI_PORT_DATA    0xCFC

/* --- configuration space --- */

/* The function at an ECAM offset; *ret_offset is the byte within its space. NULL: nobody there. */
static struct pci_device *pci_bus_decode(struct pci_bus *bus, uint64_t ecam, unsigned *ret_offset)
{
	unsigned bus_number = (unsigned)(ecam >> 20);
	unsigned slot = (unsigned)(ecam >> 15) % PCI_SLOTS;
	unsigned function = (unsigned)(ecam >> 12) % 8;

	*ret_offset = (unsigned)ecam % PCI_CONFIG_BYTES;
	return bus_number == 0 && function == 0 ? bus->slots[slot] : NULL;
}

/* One to four bytes that stay inside a function's space. */
static uint32_t pci_bus_read_dword(struct pci_bus *bus, uint64_t ecam, unsigned size)
{
	unsigned offset;
	struct pci_device *pci = pci_bus_decode(bus, ecam, &offset);

	if (!pci || offset + size > PCI_CONFIG_BYTES)
		return UINT32_MAX;
	return pci_config_read(pci, offset, size);
}

static void pci_bus_write_dword(struct pci_bus *bus, uint64_t ecam, unsigned size, uint32_t value)
{
	unsigned offset;
	struct pci_device *pci = pci_bus_decode(bus, ecam, &offset);

	if (pci && offset + size <= PCI_CONFIG_BYTES)
		pci_config_write(pci, offset, size, value);
}

static uint64_t pci_ecam_read(void *opaque, uint64_t offset, unsigned size)
{
	struct pci_bus *bus = opaque;

	if (size < 8)
		return pci_bus_read_dword(bus, offset, size);
	return pci_bus_read_dword(bus, offset, 4) | (uint64_t)pci_bus_read_dword(bus, offset + 4, 4)
							    << 32;
}

static void pci_ecam_write(void *opaque, uint64_t offset, unsigned size, uint64_t value)
{
	struct pci_bus *bus = opaque;

	pci_bus_write_dword(bus, offset, MIN(size, 4u), (uint32_t)value);
	if (size == 8)
		pci_bus_write_dword(bus, offset + 4, 4, (uint32_t)(value >> 32));
}

static const struct bus_ops pci_ecam_ops = {.read = pci_ecam_read, .write = pci_ecam_write};

/* --- mechanism 1 --- */

static uint64_t pci_address_read(void *opaque, uint64_t offset, unsigned size)
{
	const struct pci_bus *bus = opaque;

	return bus->config_address;
}

static void pci_address_write(void *opaque, uint64_t offset, unsigned size, uint64_t value)
{
	struct pci_bus *bus = opaque;

	/* Bit 31 enables; 30:24 and 1:0 are reserved and read as zero. */
	bus->config_address = (uint32_t)value & 0x80fffffc;
}

static const struct bus_ops pci_address_ops = {
	.read = pci_address_read,
	.write = pci_address_write,
};

/* The register that the address port points at, as an ECAM offset; false while it is off. */
static bool pci_data_target(const struct pci_bus *bus, uint64_t offset, uint64_t *ret_ecam)
{
	uint32_t address = bus->config_address;

	/* Bus, device and function stand 4 bits higher in ECAM, whose register number is wider by as much. */
	*ret_ecam = ((uint64_t)(address & 0xffff00) << 4) | (address & 0xfc) | offset;
	return address >> 31;
}

static uint64_t pci_data_read(void *opaque, uint64_t offset, unsigned size)
{
	struct pci_bus *bus = opaque;
	uint64_t ecam;

	if (!pci_data_target(bus, offset, &ecam))
		return UINT64_MAX;
	return pci_bus_read_dword(bus, ecam, size);
}

static void pci_data_write(void *opaque, uint64_t offset, unsigned size, uint64_t value)
{
	struct pci_bus *bus = opaque;
	uint64_t ecam;

	if (pci_data_target(bus, offset, &ecam))
		pci_bus_write_dword(bus, ecam, size, (uint32_t)value);
}

static const struct bus_ops pci_data_ops = {.read = pci_data_read, .write = pci_data_write};

/* --- life --- */

static const struct device_ops pci_bridge_ops = {.type = "pci-host-bridge"};

static int pci_bus_add_bridge(struct pci_bus *bus)
{
	static const struct pci_device_config config = {
		.vendor_id = PCI_BRIDGE_VENDOR,
		.device_id = PCI_BRIDGE_DEVICE,
		.class_code = PCI_BRIDGE_CLASS,
	};
	int r;

	r = pci_device_init(&bus->bridge, &pci_bridge_ops, "pci-host-bridge", &bus->env, &config);
	if (r < 0)
		return r;
	return pci_device_add(&bus->bridge, 0, NULL);
}

static int pci_bus_map_region(struct pci_bus *bus, struct bus_region *region, const char *name,
			      const struct bus_ops *ops, enum bus_space space, uint64_t base,
			      uint64_t size)
{
	*region = (struct bus_region){
		.name = name,
		.ops = ops,
		.opaque = bus,
		.lock = &bus->lock,
		.space = space,
		.base = base,
		.size = size,
		.dword_only = ops == &pci_address_ops,
	};
	return bus_map(bus->env.bus, region);
}

static int pci_bus_map_regions(struct pci_bus *bus)
{
	int r;

	r = pci_bus_map_region(bus, &bus->ecam, "pci-ecam", &pci_ecam_ops, BUS_MMIO, PCI_ECAM_BASE,
			       PCI_ECAM_BYTES);
	if (r < 0)
		return r;
	r = pci_bus_map_region(bus, &bus->address_port, "pci-address", &pci_address_ops, BUS_PIO,
			       PCI_PORT_ADDRESS, 4);
	if (r < 0)
		return r;
	return pci_bus_map_region(bus, &bus->data_port, "pci-data", &pci_data_ops, BUS_PIO,
				  PCI_PORT_DATA, 4);
}

int pci_bus_new(const struct device_env *env, struct pci_bus **ret)
{
	struct pci_bus *bus = calloc(1, sizeof(*bus));
	int r;

	if (!bus)
		return -ENOMEM;
	bus->env = *env;
	bus->env.pci = bus;
	pthread_mutex_init(&bus->lock, NULL);
	pthread_mutex_init(&bus->intx_lock, NULL);
	r = pci_bus_map_regions(bus);
	if (r >= 0)
		r = pci_bus_add_bridge(bus);
	if (r < 0) {
		pci_bus_free(bus);
		return r;
	}
	*ret = bus;
	return 0;
}

void pci_bus_free(struct pci_bus *bus)
{
	if (!bus)
		return;
	pci_device_fini(&bus->bridge);
	bus_unmap(bus->env.bus, &bus->ecam);
	bus_unmap(bus->env.bus, &bus->address_port);
	bus_unmap(bus->env.bus, &bus->data_port);
	pthread_mutex_destroy(&bus->intx_lock);
	pthread_mutex_destroy(&bus->lock);
	free(bus);
}

void pci_bus_set_window64(struct pci_bus *bus, uint64_t base, uint64_t end)
{
	bus->window64_base = base;
	bus->window64_end = end;
}

void pci_bus_reset(struct pci_bus *bus)
{
	for (unsigned slot = 0; slot < PCI_SLOTS; slot++) {
		if (bus->slots[slot])
			pci_device_reset(bus->slots[slot]);
	}
	LOCK_GUARD(&bus->lock);
	bus->config_address = 0;
}

static const struct state_field pci_bus_fields[] = {
	STATE_UINT(struct pci_bus, config_address),
	STATE_STRUCT(struct pci_bus, bridge, &pci_device_state_table),
};

static const struct state_table pci_bus_state_table = {
	.name = "pci-bus",
	.version = 1,
	STATE_FIELDS(pci_bus_fields),
};

const struct state_table *pci_bus_state(void)
{
	return &pci_bus_state_table;
}
