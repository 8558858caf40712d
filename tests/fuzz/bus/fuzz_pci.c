/*
 * PCI configuration space by both mechanisms, and accesses to wherever the guest has put the BARs of two functions.
 * Afterwards the map is consistent: a BAR that is mapped answers where its register says, and where nobody else does.
 */
#include <linux/pci_regs.h>

#include "base/bits.h"
#include "base/endian.h"
#include "base/log.h"
#include "device/harness.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const struct device_ops toy_ops = {.type = "toy"};

static uint64_t toy_read(void *opaque, uint64_t offset, unsigned size)
{
	uint64_t v = offset;

	pci_msix_read(opaque, offset, size, &v);
	return v;
}

static void toy_write(void *opaque, uint64_t offset, unsigned size, uint64_t value)
{
	pci_msix_write(opaque, offset, size, value);
	pci_msix_notify(opaque, (unsigned)value % 8);
	pci_intx_set(opaque, value & 1);
}

static const struct bus_ops bar_ops = {.read = toy_read, .write = toy_write};

static void toy_init(struct pci_device *toy, const char *id, const struct device_env *env)
{
	const struct pci_device_config config = {.vendor_id = 1,
						 .class_code = 0xff0000,
						 .intx_pin = 1,
						 .msix_vectors = 5,
						 .msix_offset = 0x800};

	if (pci_device_init(toy, &toy_ops, id, env, &config) < 0)
		abort();
	pci_device_add_bar(toy, 0, 0x1000, true, false, &bar_ops, toy);
	pci_device_add_bar(toy, 2, 0x10000, false, true, &bar_ops, toy);
	if (pci_device_add(toy, -1, NULL) < 0)
		abort();
}

static void check(struct pci_device *toy, struct bus *bus)
{
	const struct bus_region *region = &toy->bars[2].region;
	uint64_t v = 0;

	if (!region->mapped)
		return;
	if ((le_load(toy->config + PCI_BASE_ADDRESS_2, 4) & PCI_BASE_ADDRESS_MEM_MASK) !=
	    region->base)
		abort();
	bus_access(bus, BUS_MMIO, region->base + 0x8888, false, &v, 8);
	if (v != 0x8888)
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct harness *h = harness_new();
	struct device_env env = h->env;
	struct pci_device *toys = calloc(2, sizeof(*toys));

	log_init("fuzz", LOG_ERROR);
	pci_bus_set_window64(env.pci, 0x800000000, 0x900000000);
	toy_init(&toys[0], "a", &env);
	toy_init(&toys[1], "b", &env);
	if (size && (data[0] & 1))
		pci_bus_assign(env.pci, NULL);
	for (size_t at = 1; at + 12 <= size; at += 12) {
		const uint8_t *op = data + at;
		uint64_t value = le_load(op + 4, 8);
		uint64_t ecam = PCI_ECAM_BASE + ((op[1] & 3u) << 15) + (op[2] | (op[3] & 3u) << 8);
		const struct bus_region *bar = &toys[op[1] & 1].bars[op[1] & 2].region;
		unsigned len = op[1] >> 4;

		switch (op[0] % 5) {
		case 0:
		case 1:
			bus_access(env.bus, BUS_MMIO, ecam, op[0] & 0x80, &value, len % 9);
			break;
		case 2:
			bus_access(env.bus, BUS_PIO, 0xcf8 + op[2] % 8, op[0] & 0x80, &value,
				   len % 5);
			break;
		case 3:
			bus_access(env.bus, BUS_MMIO, bar->base + (op[2] | op[3] << 8),
				   op[0] & 0x80, &value, len % 9);
			break;
		default:
			bus_access(env.bus, BUS_MMIO, ecam & ~0xffull, true,
				   (uint8_t[]){0, 0, 0, 0, op[2]}, 5);
			break;
		}
		check(&toys[0], env.bus);
		check(&toys[1], env.bus);
	}
	pci_bus_reset(env.pci);
	pci_device_fini(&toys[0]);
	pci_device_fini(&toys[1]);
	harness_free(h);
	free(toys);
	return 0;
}
