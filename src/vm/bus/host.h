/*
 * What the buses and devices may ask of the machine around them: interrupts and doorbells. vm/main implements it
 * on the accelerator; tests implement it with a recorder. Calls may come from any thread and never block for long.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

enum bus_space {
	BUS_MMIO,
	BUS_PIO,
};

struct bus_host;

struct bus_host_ops {
	/* An input of the interrupt controllers (GSI). */
	void (*irq_line)(struct bus_host *host, unsigned gsi, bool level);
	void (*msi_send)(struct bus_host *host, uint64_t addr, uint32_t data);
	/* An eventfd that sends an MSI when signalled; returns a route (>= 0) or a negative errno. */
	int (*irqfd_attach)(struct bus_host *host, int fd, uint64_t addr, uint32_t data);
	int (*irqfd_update)(struct bus_host *host, int route, uint64_t addr, uint32_t data);
	void (*irqfd_detach)(struct bus_host *host, int route);
	/* A guest write of `size` bytes (0: any) at addr signals fd instead of reaching the region. Negative errno when the
	 * machine cannot: the region's write operation is then called as usual. */
	int (*doorbell_add)(struct bus_host *host, enum bus_space space, uint64_t addr,
			    unsigned size, int fd);
	void (*doorbell_del)(struct bus_host *host, enum bus_space space, uint64_t addr,
			     unsigned size, int fd);
	/* What a device asks for on behalf of the guest. Any thread; acted on later by the main loop. */
	void (*request)(struct bus_host *host, int request /* enum machine_request */);
	/* The debug-exit device: end the process with this status. */
	void (*exit_with)(struct bus_host *host, int status);
};

struct bus_host {
	const struct bus_host_ops *ops;
};

enum machine_request {
	MACHINE_POWEROFF,          /* ACPI S5 */
	MACHINE_RESET,             /* port 0xCF9, i8042, ACPI reset register */
	MACHINE_GUEST_PANICKED,    /* pvpanic: the guest's kernel panicked */
	MACHINE_GUEST_CRASHLOADED, /* pvpanic: its crash kernel takes over */
	MACHINE_BALLOON_CHANGED,   /* the balloon's actual size changed */
};
