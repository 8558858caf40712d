/*
 * INTx: level-triggered lines, wired so that functions of several slots share one (PCI Local Bus 3.0, section 2.2.6). A
 * line is high while anybody pulls it.
 */
#include "vm/bus/pci.h"

#include <linux/pci_regs.h>

#include "base/cleanup.h"
#include "base/endian.h"
#include "vm/bus/pci_int.h"

static void pci_intx_settle_locked(struct pci_device *pci)
{
	/* A function with MSI-X enabled leaves its line alone. */
	bool want = pci->intx_level && !pci->intx_off && !pci_msix_enabled(pci);
	struct pci_bus *bus = pci->bus;
	unsigned gsi;
	unsigned *users;

	if (want == pci->intx_asserted || !pci->config[PCI_INTERRUPT_PIN] || !bus)
		return;
	pci->intx_asserted = want;
	gsi = pci_intx_gsi(pci->slot, pci->config[PCI_INTERRUPT_PIN] - 1u);
	users = &bus->intx_users[gsi - PCI_INTX_GSI_FIRST];
	LOCK_GUARD(&bus->intx_lock);
	if (want && (*users)++ == 0)
		bus->env.host->ops->irq_line(bus->env.host, gsi, true);
	if (!want && --(*users) == 0)
		bus->env.host->ops->irq_line(bus->env.host, gsi, false);
}

void pci_intx_set(struct pci_device *pci, bool level)
{
	LOCK_GUARD(&pci->irq_lock);
	pci->intx_level = level;
	pci_intx_settle_locked(pci);
}

void pci_intx_update(struct pci_device *pci)
{
	LOCK_GUARD(&pci->irq_lock);
	pci->intx_off = le_load(pci->config + PCI_COMMAND, 2) & PCI_COMMAND_INTX_DISABLE;
	pci_intx_settle_locked(pci);
}
