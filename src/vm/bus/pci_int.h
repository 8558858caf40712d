/*
 * Inside of the PCI bus: what its files share.
 *
 *	pci_bus.c     the bus, configuration mechanisms, host bridge
 *	pci_device.c  a function: header, capabilities, writes to configuration space, reset, state
 *	pci_bar.c     base address registers and the windows they may stand in
 *	pci_irq.c     INTx lines
 *	pci_msix.c    MSI-X
 */
#pragma once

#include "vm/bus/pci.h"

struct pci_bus {
	pthread_mutex_t lock;
	struct device_env env;               /* env.pci is this bus */
	struct pci_device *slots[PCI_SLOTS]; /* [const after start] function 0 of each */
	struct bus_region ecam, address_port, data_port;
	uint32_t config_address;              /* [lock] port 0xCF8 */
	uint64_t window64_base, window64_end; /* [const after start] */
	struct pci_device bridge;
	/* The last lock of all: who pulls each shared line. */
	pthread_mutex_t intx_lock;
	unsigned intx_users[PCI_INTX_GSI_COUNT];
};

/* --- all with bus->lock held --- */

uint32_t pci_config_read(struct pci_device *pci, unsigned offset, unsigned size);
void pci_config_write(struct pci_device *pci, unsigned offset, unsigned size, uint32_t value);

/* Brings the address map in line with the BARs and the command register. */
void pci_bars_update(struct pci_device *pci);
void pci_bar_store(struct pci_device *pci, unsigned bar, uint64_t addr);

/* Brings vectors and line in line with the MSI-X control and command registers. */
void pci_msix_update(struct pci_device *pci);
void pci_intx_update(struct pci_device *pci);

/* --- life of the parts --- */

int pci_msix_init(struct pci_device *pci, const struct pci_device_config *config);
void pci_msix_fini(struct pci_device *pci);
void pci_msix_reset(struct pci_device *pci);
/* What a signalled eventfd of a masked vector holds becomes its pending bit. */
void pci_msix_collect_pending(struct pci_device *pci);
/* Checks what a state stream brought. */
int pci_msix_validate(const struct pci_device *pci, struct error *err);
extern const struct state_table pci_msix_state_table;
