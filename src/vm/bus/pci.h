/*
 * PCI Express: one root bus, ECAM and ports 0xCF8/0xCFC, type 0 functions, BARs, MSI-X, INTx. (PCI Express Base 4.0;
 * PCI Local Bus 3.0 for configuration mechanism 1.)
 *
 * The pci_bus has one lock for all configuration space. It is taken before a device's lock, never after.
 */
#pragma once

#include "vm/bus/device.h"

#define PCI_MAX_BARS       6
#define PCI_CONFIG_BYTES   4096
#define PCI_ECAM_BASE      0xE0000000ULL /* 256 buses would fit; one is used */
#define PCI_ECAM_BYTES     0x10000000ULL
#define PCI_MMIO32_BASE    0xC0000000ULL
#define PCI_MMIO32_END     0xE0000000ULL
#define PCI_INTX_GSI_FIRST 16 /* slot s, pin p is GSI 16 + (s + p) % 8 */
#define PCI_INTX_GSI_COUNT 8

struct pci_bus;

struct pci_device;

struct pci_device_config {
	uint16_t vendor_id, device_id;
	uint16_t subsystem_vendor_id, subsystem_id;
	uint8_t revision;
	uint32_t class_code;   /* 24 bits: class, subclass, interface */
	uint8_t intx_pin;      /* 0: none, 1: INTA# */
	unsigned msix_vectors; /* 0: no MSI-X; at most 2048 */
	unsigned msix_bar; /* table at its start + msix_offset; the BAR must be added, with room */
	uint32_t msix_offset;
};

struct msix_vector {
	uint64_t addr;
	uint32_t data;
	uint32_t control; /* bit 0: masked */
	bool pending;
	int irq_fd; /* an eventfd whose signal sends this vector, or -1 (see pci_msix_fd) */
	int route;  /* of irq_fd, or -1 */
};

struct pci_bar {
	uint64_t size; /* 0: absent; a power of two */
	bool is_64bit, is_pio, prefetchable;
	struct bus_region region;
};

/* First member of every PCI device's instance struct. */
struct pci_device {
	struct device dev;
	struct pci_bus *bus;
	unsigned slot, function;            /* [const after pci_device_add] */
	uint8_t config[PCI_CONFIG_BYTES];   /* [pci lock] */
	uint8_t writable[PCI_CONFIG_BYTES]; /* [const after start] bits that the guest may write */
	struct pci_bar bars[PCI_MAX_BARS];
	uint8_t msix_cap; /* offset in config, 0: none */
	uint32_t n_vectors;
	struct msix_vector *vectors; /* [msix_lock] */
	pthread_mutex_t msix_lock;   /* a leaf: only bus_host calls are made under it */
	bool intx_level;             /* [msix_lock] */
	/* Optional: the guest wrote config[offset, offset + size), already stored through `writable`. Pci lock held. */
	void (*config_written)(struct pci_device *pci, unsigned offset, unsigned size);
	/* Optional: a read is about to be served from config[]. */
	void (*config_reading)(struct pci_device *pci, unsigned offset, unsigned size);
};

int pci_bus_new(const struct device_env *env, struct pci_bus **ret);
void pci_bus_free(struct pci_bus *bus);
/* The window for 64-bit BARs; set before BARs are assigned. */
void pci_bus_set_window64(struct pci_bus *bus, uint64_t base, uint64_t end);
/* Gives every BAR an address and enables decoding, as firmware would; for direct kernel boot. */
int pci_bus_assign(struct pci_bus *bus, struct error *err);
/* Configuration to power-on for every function, BARs unassigned. */
void pci_bus_reset(struct pci_bus *bus);
const struct state_table *pci_bus_state(void); /* over struct pci_bus: the CF8 latch */

/* Builds the configuration header and capabilities' frame. Not yet on the bus. */
void pci_device_init(struct pci_device *pci, const struct device_ops *ops, const char *id,
		     const struct device_env *env, const struct pci_device_config *config);
/* region ops are called with dev.lock held, opaque is given as is. */
void pci_device_add_bar(struct pci_device *pci, unsigned bar, uint64_t size, bool is_64bit,
			bool prefetchable, const struct bus_ops *ops, void *opaque);
/* Appends a capability of `size` bytes (id and next are filled in); returns its offset. Contents of `body` follow the two
 * header bytes; writable (may be NULL) has the mask for them. */
unsigned pci_device_add_cap(struct pci_device *pci, uint8_t cap_id, const void *body,
			    const void *writable, size_t body_size);
/* Puts it on the bus; slot < 0: the next free. -ENOSPC when full, -EEXIST when taken. */
int pci_device_add(struct pci_device *pci, int slot, struct error *err);
void pci_device_fini(struct pci_device *pci);
void pci_device_reset(struct pci_device *pci);
/* The state common to all PCI functions (config, MSI-X); embed as STATE_STRUCT(type, pci, pci_device_state()). */
extern const struct state_table pci_device_state_table;

/* Any thread, with or without dev.lock: these take msix_lock themselves. */
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
