/*
 * PCI Express: one root bus, ECAM and ports 0xCF8/0xCFC, type 0 functions, BARs, MSI-X, INTx. (PCI Express Base 4.0;
 * PCI Local Bus 3.0 for configuration mechanism 1.)
 *
 * Locks, outermost first: the bus's lock for all configuration space, a device's dev.lock, the lock of one of its vectors
 * or its irq_lock, the bus's lock of the interrupt lines. Configuration is written under the first, so hooks may take
 * the others.
 */
#pragma once

#include <stdatomic.h>

#include "vm/bus/device.h"

#define PCI_MAX_BARS         6
#define PCI_SLOTS            32
#define PCI_CONFIG_BYTES     4096
#define PCI_LEGACY_BYTES     256 /* what mechanism 1 reaches, and all of it that a guest can change */
#define PCI_MSIX_MAX_VECTORS 2048
#define PCI_ECAM_BASE        0xE0000000ULL /* 256 buses would fit; one is used */
#define PCI_ECAM_BYTES       0x10000000ULL
#define PCI_MMIO32_BASE      0xC0000000ULL
#define PCI_MMIO32_END       0xE0000000ULL
#define PCI_PIO_BASE         0x1000ULL
#define PCI_PIO_END          0x10000ULL
#define PCI_INTX_GSI_FIRST   16
#define PCI_INTX_GSI_COUNT   8

/* The line of slot s, pin p: GSI 16 + (s + p) % 8, with p = 0 for INTA#, as in ACPI's _PRT. */
static inline unsigned pci_intx_gsi(unsigned slot, unsigned pin)
{
	return PCI_INTX_GSI_FIRST + (slot + pin) % PCI_INTX_GSI_COUNT;
}

struct pci_bus;

struct pci_device_config {
	uint16_t vendor_id, device_id;
	uint16_t subsystem_vendor_id, subsystem_id;
	uint8_t revision;
	uint32_t class_code;   /* 24 bits: class, subclass, interface */
	uint8_t intx_pin;      /* 0: none, 1: INTA# */
	unsigned msix_vectors; /* 0: no MSI-X; at most PCI_MSIX_MAX_VECTORS */
	unsigned msix_bar; /* table at its start + msix_offset; the BAR must be added, with room */
	uint32_t msix_offset;
};

/* What the control and command registers let vectors do. */
enum msix_mode {
	MSIX_OFF,  /* not enabled: INTx works */
	MSIX_HELD, /* masked as a whole, or not a bus master */
	MSIX_OPEN,
};

/* Each has its own lock, so that queues on different threads do not meet here. */
struct msix_vector {
	pthread_mutex_t lock; /* only bus_host calls are made under it */
	uint64_t addr;
	uint32_t data;
	uint32_t control; /* bit 0: masked */
	bool pending;
	int irq_fd; /* an eventfd whose signal sends this vector, or -1 (see pci_msix_fd) */
	int route;  /* of irq_fd while it is attached to the machine, or -1 */
};

struct pci_bar {
	uint64_t size; /* 0: absent; a power of two */
	bool is_64bit, prefetchable;
	struct bus_region region;
};

/* First member of every PCI device's instance struct. */
struct pci_device {
	struct device dev;
	struct pci_bus *bus;              /* NULL until pci_device_add */
	unsigned slot, function;          /* [const after pci_device_add] */
	uint8_t config[PCI_CONFIG_BYTES]; /* [pci lock] */
	uint8_t writable
		[PCI_LEGACY_BYTES]; /* [const after start] bits the guest may write; 0 at power-on */
	uint8_t saved[PCI_LEGACY_BYTES]; /* config on its way to and from a state stream */
	unsigned cap_last,
		cap_end; /* [const after start] the list's last capability, the first free byte */
	struct pci_bar bars[PCI_MAX_BARS]; /* [pci lock] */
	uint8_t msix_cap;                  /* [const] offset in config, 0: none */
	uint32_t msix_offset;              /* [const] */
	uint32_t max_vectors;              /* [const] */
	uint32_t n_vectors;                /* the same, for the state table */
	struct msix_vector *vectors;       /* [its lock] each */
	_Atomic(enum msix_mode)
		msix_mode; /* written under the pci lock, then each vector is brought in line */
	pthread_mutex_t irq_lock; /* for the state of the line */
	bool intx_level;          /* [irq_lock] what the device asks for */
	bool intx_off;            /* [irq_lock] disabled in the command register */
	bool intx_asserted;       /* [irq_lock] counted on the shared line */
	/* Optional: the guest wrote config[offset, offset + size), already stored through `writable`. Also after a reset or a
	 * state load, for all of it. Pci lock held. */
	void (*config_written)(struct pci_device *pci, unsigned offset, unsigned size);
	/* Optional: a read is about to be served from config[]. Pci lock held. */
	void (*config_reading)(struct pci_device *pci, unsigned offset, unsigned size);
	/* Optional: bars[bar].region was mapped (region.mapped, at region.base) or unmapped. Pci lock held. */
	void (*bar_changed)(struct pci_device *pci, unsigned bar);
};

int pci_bus_new(const struct device_env *env, struct pci_bus **ret);
void pci_bus_free(struct pci_bus *bus);
/* The window for 64-bit BARs; set before BARs are assigned. */
void pci_bus_set_window64(struct pci_bus *bus, uint64_t base, uint64_t end);
/* Gives every BAR an address and enables decoding, as firmware would; for direct kernel boot. */
int pci_bus_assign(struct pci_bus *bus, struct error *err);
/* Configuration to power-on for every function, BARs unassigned. */
void pci_bus_reset(struct pci_bus *bus);
/* Over struct pci_bus: the address port and the host bridge. */
const struct state_table *pci_bus_state(void);

/* Builds the configuration header and capabilities' frame; env->pci is its bus, which it is not yet on. -ENOMEM. */
int pci_device_init(struct pci_device *pci, const struct device_ops *ops, const char *id,
		    const struct device_env *env, const struct pci_device_config *config);
/* region ops are called with dev.lock held, opaque is given as is. A 64-bit BAR takes the next register, too. */
void pci_device_add_bar(struct pci_device *pci, unsigned bar, uint64_t size, bool is_64bit,
			bool prefetchable, const struct bus_ops *ops, void *opaque);
/* Appends a capability of `size` bytes (id and next are filled in); returns its offset. Contents of `body` follow the two
 * header bytes; writable (may be NULL) has the mask for them, and body has zeroes there. */
unsigned pci_device_add_cap(struct pci_device *pci, uint8_t cap_id, const void *body,
			    const void *writable, size_t body_size);
/* Puts it on the bus; slot < 0: the next free. -ENOSPC when full, -EEXIST when taken. */
int pci_device_add(struct pci_device *pci, int slot, struct error *err);
/* Takes it off the bus and its BARs out of the map. Also for one that pci_device_init refused (then a no-op). */
void pci_device_fini(struct pci_device *pci);
void pci_device_reset(struct pci_device *pci);
/* Is the function a bus master, which DMA and MSI take? Pci lock held. */
bool pci_bus_master(const struct pci_device *pci);
/* The state common to all PCI functions (config, MSI-X); embed as STATE_STRUCT(type, pci, &pci_device_state_table). */
extern const struct state_table pci_device_state_table;

/* Any thread, with or without dev.lock. */
bool pci_msix_enabled(const struct pci_device *pci);
/* Sends vector v, or marks it pending while masked. */
void pci_msix_notify(struct pci_device *pci, unsigned vector);
/* An eventfd, owned by the device, that sends vector v as the guest has programmed it, whatever it does with masks: for
 * vhost. Returns it or a negative errno. */
int pci_msix_fd(struct pci_device *pci, unsigned vector);
void pci_intx_set(struct pci_device *pci, bool level);

/* For MSI-X reads and writes that fall in the table or PBA: a device whose MSI-X shares a BAR with its registers calls these
 * from its BAR's ops. Return false when the offset (from the BAR's start) is in neither. */
bool pci_msix_read(struct pci_device *pci, uint64_t offset, unsigned size, uint64_t *ret);
bool pci_msix_write(struct pci_device *pci, uint64_t offset, unsigned size, uint64_t value);
/* Bytes that table and PBA take from msix_offset on. */
uint32_t pci_msix_bytes(unsigned vectors);
