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
	const struct pci_device_config config = {.class_code = 0xff0000,
						 .intx_pin = 1,
						 .msix_vectors = 5,
						 .msix_offset = 0x800};

	assert_int_equal(pci_device_init(toy, &toy_ops, id, env, &config), 0);
	pci_device_add_bar(toy, 0, 0x1000, true, false, &bar_ops, toy);
	pci_device_add_bar(toy, 2, 0x10000, false, true, &bar_ops, toy);
	assert_int_equal(pci_device_add(toy, -1, NULL), 0);
}

static void check(struct pci_device *toy, struct harness *h)
{
	const struct bus_region *region = &toy->bars[2].region;

	if (region->mapped) {
		assert_int_equal(le_load(toy->config + PCI_BASE_ADDRESS_2, 4) & ~15u, region->base);
		assert_int_equal(harness_in(h, region->base + 0x8888, 8), 0x8888);
	}
}

static void step(struct harness *h, struct pci_device *toys, const uint8_t *op)
{
	const struct bus_region *bar = &toys[op[1] & 1].bars[op[1] & 2].region;
	unsigned slot = op[1] & 3;
	uint64_t value = le_load(op + 4, 8);
	uint64_t addr[] = {
		PCI_ECAM_BASE + (slot << 15) + le_load(op + 2, 2) % 0x400,
		0xcf8 + op[2] % 8,
		bar->base + le_load(op + 2, 2),
	};

	if (op[0] % 4 < 3) {
		bus_access(h->env.bus, op[0] % 4 == 1 ? BUS_PIO : BUS_MMIO, addr[op[0] % 4],
			   op[0] & 0x80, &value, 1 + (op[1] >> 4) % 8);
		return;
	}
	/* Somewhere in the window, decoding or not. */
	harness_config_out(h, slot, PCI_BASE_ADDRESS_2, 4, 0xc0000000 + ((op[3] & 3u) << 16));
	harness_config_out(h, slot, PCI_COMMAND, 2, op[2]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct harness *h = harness_new();
	struct pci_device *toys = calloc(2, sizeof(*toys));

	log_init("fuzz", LOG_ERROR);
	pci_bus_set_window64(h->env.pci, 0x800000000, 0x900000000);
	toy_init(&toys[0], "a", &h->env);
	toy_init(&toys[1], "b", &h->env);
	for (size_t at = 0; at + 12 <= size; at += 12) {
		step(h, toys, data + at);
		check(&toys[0], h);
		check(&toys[1], h);
	}
	pci_bus_reset(h->env.pci);
	pci_device_fini(&toys[0]);
	pci_device_fini(&toys[1]);
	harness_free(h);
	free(toys);
	return 0;
}
