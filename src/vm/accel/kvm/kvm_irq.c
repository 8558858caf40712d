/*
 * Interrupts: the kernel's controllers, lines, MSIs, and eventfds that send MSIs (irqfd).
 *
 * An irqfd names a GSI, and a GSI's meaning stands in a table that KVM replaces as a whole; so a route takes a GSI above
 * those of the controllers when it is attached, not before, and an unused entry stays until somebody needs it.
 * route_lock may be held across the ioctl: it is a leaf, and its takers are device threads, never the data path.
 */
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "base/cleanup.h"
#include "vm/accel/kvm/kvm_int.h"

#define BASE_ENTRIES (16 + X86_N_GSIS) /* 8259A inputs, I/O APIC pins */

void kvm_irq_close(struct kvm *kvm)
{
	free(kvm->routes);
	free(kvm->table);
	pthread_mutex_destroy(&kvm->route_lock);
}

int kvm_irq_line(struct accel *accel, unsigned gsi, bool level)
{
	struct kvm_irq_level line = {.irq = gsi, .level = level};

	return kvm_ioctl(kvm_of(accel)->vm_fd, KVM_IRQ_LINE, &line);
}

/* With 32-bit identifiers the upper address half carries destination bits 31:8, and its low byte must be zero. */
static bool kvm_msi_valid(const struct kvm *kvm, uint64_t addr)
{
	return !kvm->caps.x2apic_32bit || ((addr >> 32) & 0xff) == 0;
}

int kvm_msi(struct accel *accel, uint64_t addr, uint32_t data)
{
	struct kvm *kvm = kvm_of(accel);
	struct kvm_msi msi = {
		.address_lo = (uint32_t)addr,
		.address_hi = (uint32_t)(addr >> 32),
		.data = data,
	};
	int r;

	if (!kvm_msi_valid(kvm, addr))
		return -EINVAL;
	r = kvm_ioctl(kvm->vm_fd, KVM_SIGNAL_MSI, &msi);
	/* 0: the guest has the vector blocked (no such APIC, or it is off). That is the guest's business. */
	return r < 0 ? r : 0;
}

/* An NMI travels as a message to the vCPU's APIC: unlike KVM_NMI it needs neither the vCPU's thread nor LINT1. */
int kvm_vcpu_nmi(struct accel_vcpu *base)
{
	struct kvm_vcpu *vcpu = kvm_vcpu_of(base);
	uint32_t addr = 0xFEE00000u | vcpu->apic_id << 12; /* SDM volume 3, section 11.11.1 */

	return kvm_msi(base->accel, addr, 4u << 8 /* delivery mode NMI */);
}

/* Room for one more route, doubling. */
static int kvm_routes_grow(struct kvm *kvm)
{
	unsigned room = kvm->table_room ? kvm->table_room * 2 : 32;
	struct kvm_irq_routing *table;
	struct kvm_route *routes;

	if (kvm->n_routes < kvm->table_room)
		return 0;
	room = MIN(room, (unsigned)kvm->caps.routes - BASE_ENTRIES);
	if (kvm->caps.routes <= BASE_ENTRIES || kvm->n_routes >= room)
		return -ENOSPC;
	routes = realloc(kvm->routes, room * sizeof(*routes));
	if (!routes)
		return -ENOMEM;
	kvm->routes = routes;
	table = realloc(kvm->table,
			sizeof(*table) + (BASE_ENTRIES + room) * sizeof(table->entries[0]));
	if (!table)
		return -ENOMEM;
	kvm->table = table;
	kvm->table_room = room;
	return 0;
}

static void route_pin(struct kvm_irq_routing *table, unsigned gsi, unsigned chip, unsigned pin)
{
	table->entries[table->nr++] = (struct kvm_irq_routing_entry){
		.gsi = gsi,
		.type = KVM_IRQ_ROUTING_IRQCHIP,
		.u.irqchip = {.irqchip = chip, .pin = pin},
	};
}

/* Hands the whole table to KVM: the controllers' inputs, then the routes in use. IRQ 0, the 8254's, arrives at pin 2 of the
 * I/O APIC, as on every PC; KVM's own first table has it at pin 0. */
static int kvm_routes_commit(struct kvm *kvm)
{
	struct kvm_irq_routing *table = kvm->table;

	memset(table, 0, sizeof(*table));
	for (unsigned pin = 0; pin < X86_N_GSIS; pin++) {
		if (pin < 16)
			route_pin(table, pin,
				  pin < 8 ? KVM_IRQCHIP_PIC_MASTER : KVM_IRQCHIP_PIC_SLAVE,
				  pin % 8);
		if (pin != 2)
			route_pin(table, pin, KVM_IRQCHIP_IOAPIC, pin == 0 ? 2 : pin);
	}
	for (unsigned i = 0; i < kvm->n_routes; i++) {
		if (kvm->routes[i].fd < 0)
			continue;
		table->entries[table->nr++] = (struct kvm_irq_routing_entry){
			.gsi = X86_N_GSIS + i,
			.type = KVM_IRQ_ROUTING_MSI,
			.u.msi = {.address_lo = (uint32_t)kvm->routes[i].addr,
				  .address_hi = (uint32_t)(kvm->routes[i].addr >> 32),
				  .data = kvm->routes[i].data},
		};
	}
	return kvm_ioctl(kvm->vm_fd, KVM_SET_GSI_ROUTING, table);
}

int kvm_irq_open(struct kvm *kvm, struct error *err)
{
	/* The dummy speaker makes port 0x61 the kernel's too: its gate bit is part of how kernels time the TSC. */
	struct kvm_pit_config pit = {.flags = KVM_PIT_SPEAKER_DUMMY};
	int r;

	r = kvm_ioctl_value(kvm->vm_fd, KVM_CREATE_IRQCHIP, 0);
	if (r == 0)
		r = kvm_ioctl(kvm->vm_fd, KVM_CREATE_PIT2, &pit);
	if (r < 0)
		return error_set_errno(err, r, "KVM cannot create the interrupt controllers");
	/* KVM delivers ticks of the 8254 that the guest was too slow to take; old kernels count on it. Switching that off
	 * (KVM_REINJECT_CONTROL) waits for a grace period of 15 ms; ticks missed in a stop are dropped at accel_resume(). */
	r = kvm_routes_grow(kvm);
	if (r == 0)
		r = kvm_routes_commit(kvm);
	if (r < 0)
		return error_set_errno(err, r, "KVM refuses the table of interrupt routes");
	return 0;
}

static int kvm_irqfd(const struct kvm *kvm, int fd, unsigned route, bool assign)
{
	struct kvm_irqfd irqfd = {
		.fd = (uint32_t)fd,
		.gsi = X86_N_GSIS + route,
		.flags = assign ? 0 : KVM_IRQFD_FLAG_DEASSIGN,
	};

	return kvm_ioctl(kvm->vm_fd, KVM_IRQFD, &irqfd);
}

int kvm_irqfd_attach(struct accel *accel, int fd, uint64_t addr, uint32_t data)
{
	struct kvm *kvm = kvm_of(accel);
	unsigned i = 0;
	int r;

	if (fd < 0 || !kvm_msi_valid(kvm, addr))
		return -EINVAL;
	LOCK_GUARD(&kvm->route_lock);
	while (i < kvm->n_routes && kvm->routes[i].fd >= 0)
		i++;
	if (i == kvm->n_routes) {
		r = kvm_routes_grow(kvm);
		if (r < 0)
			return r;
		kvm->n_routes++;
	}
	kvm->routes[i] = (struct kvm_route){.addr = addr, .data = data, .fd = fd};
	r = kvm_routes_commit(kvm);
	if (r == 0)
		r = kvm_irqfd(kvm, fd, i, true);
	if (r < 0) {
		kvm->routes[i].fd = -1;
		return r;
	}
	return (int)i;
}

static bool route_known(const struct kvm *kvm, int route)
{
	return route >= 0 && (unsigned)route < kvm->n_routes && kvm->routes[route].fd >= 0;
}

int kvm_irqfd_update(struct accel *accel, int route, uint64_t addr, uint32_t data)
{
	struct kvm *kvm = kvm_of(accel);
	struct kvm_route old;
	int r;

	LOCK_GUARD(&kvm->route_lock);
	if (!route_known(kvm, route) || !kvm_msi_valid(kvm, addr))
		return -EINVAL;
	old = kvm->routes[route];
	if (old.addr == addr && old.data == data)
		return 0;
	kvm->routes[route].addr = addr;
	kvm->routes[route].data = data;
	r = kvm_routes_commit(kvm);
	if (r < 0)
		kvm->routes[route] = old;
	return r;
}

int kvm_irqfd_detach(struct accel *accel, int route)
{
	struct kvm *kvm = kvm_of(accel);
	int r;

	LOCK_GUARD(&kvm->route_lock);
	if (!route_known(kvm, route))
		return -EINVAL;
	r = kvm_irqfd(kvm, kvm->routes[route].fd, (unsigned)route, false);
	/* The table entry is harmless without its eventfd; the next change drops it. */
	kvm->routes[route].fd = -1;
	return r;
}
