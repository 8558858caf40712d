/*
 * Base address registers for memory; there are none for ports (PCI Local Bus 3.0, section 6.2.5.1). A BAR is in the address map while its space is decoded and
 * it stands in a window of the host bridge where nobody else is; a guest may write anything there, so a place that
 * cannot be had is no error: the BAR just does not answer, until the place is free.
 *
 * Also the assignment of addresses, for a kernel that is started without firmware.
 */
#include "vm/bus/pci.h"

#include <errno.h>
#include <linux/pci_regs.h>
#include <stdlib.h>

#include "base/cleanup.h"
#include "base/endian.h"
#include "base/str.h"
#include "vm/bus/pci_int.h"

/* Larger 64-bit BARs go above 4 GiB; the others stay where a 32-bit guest reaches them, too. */
#define PCI_SMALL_BAR (16 * MIB)

static unsigned pci_bar_offset(unsigned bar)
{
	return PCI_BASE_ADDRESS_0 + 4 * bar;
}

void pci_device_add_bar(struct pci_device *pci, unsigned bar, uint64_t size, bool is_64bit,
			bool prefetchable, const struct bus_ops *ops, void *opaque)
{
	unsigned offset = pci_bar_offset(bar);
	uint64_t mask = ~(size - 1);

	if (bar + is_64bit >= PCI_MAX_BARS || !is_power_of_two(size) || size < 16)
		abort(); /* built from constants */
	pci->bars[bar] = (struct pci_bar){
		.size = size,
		.is_64bit = is_64bit,
		.prefetchable = prefetchable,
		.region = {.name = pci->dev.id,
			   .ops = ops,
			   .opaque = opaque,
			   .lock = &pci->dev.lock,
			   .space = BUS_MMIO,
			   .size = size},
	};
	pci->config[offset] = (uint8_t)((is_64bit ? PCI_BASE_ADDRESS_MEM_TYPE_64 : 0) |
					(prefetchable ? PCI_BASE_ADDRESS_MEM_PREFETCH : 0));
	le_store(pci->writable + offset, is_64bit ? 8 : 4, mask);
}

static uint64_t pci_bar_load(const struct pci_device *pci, unsigned i)
{
	const struct pci_bar *bar = &pci->bars[i];

	return le_load(pci->config + pci_bar_offset(i), bar->is_64bit ? 8 : 4) &
	       PCI_BASE_ADDRESS_MEM_MASK;
}

void pci_bar_store(struct pci_device *pci, unsigned i, uint64_t addr)
{
	const struct pci_bar *bar = &pci->bars[i];
	uint8_t *reg = pci->config + pci_bar_offset(i);

	le_store(reg, bar->is_64bit ? 8 : 4, addr | (*reg & ~PCI_BASE_ADDRESS_MEM_MASK));
}

/* --- the address map --- */

static bool pci_bar_decoded(const struct pci_device *pci, const struct pci_bar *bar)
{
	return bar->size && (pci->config[PCI_COMMAND] & PCI_COMMAND_MEMORY);
}

static bool pci_bar_in_window(const struct pci_bus *bus, const struct pci_bar *bar, uint64_t addr)
{
	if (addr >= PCI_MMIO32_BASE && addr < PCI_MMIO32_END)
		return range_inside(addr - PCI_MMIO32_BASE, bar->size,
				    PCI_MMIO32_END - PCI_MMIO32_BASE);
	return addr >= bus->window64_base && range_inside(addr - bus->window64_base, bar->size,
							  bus->window64_end - bus->window64_base);
}

/* Takes the BAR out of the map when it is not wanted where it is. */
static bool pci_bar_retract(struct pci_device *pci, unsigned i)
{
	struct pci_bar *bar = &pci->bars[i];

	if (!bar->region.mapped ||
	    (pci_bar_decoded(pci, bar) && pci_bar_load(pci, i) == bar->region.base))
		return false;
	bus_unmap(pci->bus->env.bus, &bar->region);
	if (pci->bar_changed)
		pci->bar_changed(pci, i);
	return true;
}

/* Returns false when the guest wants it where it cannot be. */
static bool pci_bar_place(struct pci_device *pci, unsigned i)
{
	struct pci_bar *bar = &pci->bars[i];
	uint64_t addr;

	if (bar->region.mapped || !pci_bar_decoded(pci, bar))
		return true;
	addr = pci_bar_load(pci, i);
	if (!pci_bar_in_window(pci->bus, bar, addr)) {
		/* All ones is how a size is asked for, by halves; zero is a BAR that has no address yet. */
		return addr == 0 || (uint32_t)addr == (uint32_t) ~(bar->size - 1);
	}
	bar->region.base = addr;
	if (bus_map(pci->bus->env.bus, &bar->region) < 0)
		return false;
	if (pci->bar_changed)
		pci->bar_changed(pci, i);
	return true;
}

void pci_bars_update(struct pci_device *pci)
{
	struct pci_bus *bus = pci->bus;
	bool freed = false;

	for (unsigned i = 0; i < PCI_MAX_BARS; i++)
		freed |= pci_bar_retract(pci, i);
	for (unsigned i = 0; i < PCI_MAX_BARS; i++) {
		if (!pci_bar_place(pci, i))
			log_guest(
				&pci->dev.log_budget,
				"%s: BAR %u cannot be at %#llx: outside the PCI windows, or taken",
				pci->dev.id, i, (unsigned long long)pci_bar_load(pci, i));
	}
	/* Somebody may have waited for the place. */
	for (unsigned slot = 0; freed && slot < PCI_SLOTS; slot++) {
		for (unsigned i = 0; bus->slots[slot] && i < PCI_MAX_BARS; i++)
			pci_bar_place(bus->slots[slot], i);
	}
}

/* --- assignment --- */

struct pci_window {
	const char *name;
	uint64_t next, end;
};

static bool pci_window_take(struct pci_window *window, uint64_t size, uint64_t *ret)
{
	uint64_t at = align_up(window->next, size);

	if (at < window->next || at > window->end || size > window->end - at)
		return false;
	window->next = at + size;
	*ret = at;
	return true;
}

struct pci_windows {
	struct pci_window mmio32, mmio64;
};

static int pci_bar_assign(struct pci_device *pci, unsigned i, struct pci_windows *windows,
			  struct error *err)
{
	const struct pci_bar *bar = &pci->bars[i];
	bool high = bar->is_64bit && bar->size > PCI_SMALL_BAR;
	struct pci_window *first = high ? &windows->mmio64 : &windows->mmio32;
	struct pci_window *second = high ? &windows->mmio32 : &windows->mmio64;
	char text[32];
	uint64_t addr;

	if (!pci_window_take(first, bar->size, &addr) &&
	    (!bar->is_64bit || !pci_window_take(second, bar->size, &addr))) {
		format_size(bar->size, text, sizeof(text));
		return error_set(err, -ENOSPC,
				 "%s: no room for its %s of registers in the %s window: use fewer "
				 "or smaller devices",
				 pci->dev.id, text, first->name);
	}
	pci_bar_store(pci, i, addr);
	return 0;
}

/* One size on all functions. */
static int pci_bus_assign_size(struct pci_bus *bus, uint64_t size, struct pci_windows *windows,
			       struct error *err)
{
	for (unsigned slot = 0; slot < PCI_SLOTS; slot++) {
		struct pci_device *pci = bus->slots[slot];

		for (unsigned i = 0; pci && i < PCI_MAX_BARS; i++) {
			int r;

			if (pci->bars[i].size != size)
				continue;
			r = pci_bar_assign(pci, i, windows, err);
			if (r < 0)
				return r;
		}
	}
	return 0;
}

static void pci_device_enable(struct pci_device *pci)
{
	uint8_t command = pci->config[PCI_COMMAND];

	for (unsigned i = 0; i < PCI_MAX_BARS; i++) {
		if (pci->bars[i].size)
			command |= PCI_COMMAND_MEMORY;
	}
	if (pci->config[PCI_INTERRUPT_PIN])
		pci->config[PCI_INTERRUPT_LINE] =
			(uint8_t)pci_intx_gsi(pci->slot, pci->config[PCI_INTERRUPT_PIN] - 1u);
	pci_config_write(pci, PCI_COMMAND, 1, command);
}

int pci_bus_assign(struct pci_bus *bus, struct error *err)
{
	struct pci_windows windows = {
		.mmio32 = {"32-bit memory", PCI_MMIO32_BASE, PCI_MMIO32_END},
		.mmio64 = {"64-bit memory", bus->window64_base, bus->window64_end},
	};
	uint64_t sizes = 0; /* a bit for each size that is there; sizes are powers of two */

	LOCK_GUARD(&bus->lock);
	for (unsigned slot = 0; slot < PCI_SLOTS; slot++) {
		for (unsigned i = 0; bus->slots[slot] && i < PCI_MAX_BARS; i++)
			sizes |= bus->slots[slot]->bars[i].size;
	}
	/* Largest first leaves no gaps. */
	while (sizes) {
		uint64_t size = BIT(63 - __builtin_clzll(sizes));
		int r = pci_bus_assign_size(bus, size, &windows, err);

		if (r < 0)
			return r;
		sizes &= ~size;
	}
	for (unsigned slot = 0; slot < PCI_SLOTS; slot++) {
		if (bus->slots[slot])
			pci_device_enable(bus->slots[slot]);
	}
	return 0;
}
