#include "vm/main/host_glue.h"

#include <string.h>

#include "base/bits.h"
#include "vm/main/vcpus.h"

static struct host_glue *glue_of(struct bus_host *host)
{
	return container_of(host, struct host_glue, host);
}

/* --- from devices --- */

static void glue_irq_line(struct bus_host *host, unsigned gsi, bool level)
{
	accel_irq_line(glue_of(host)->accel, gsi, level);
}

static void glue_msi_send(struct bus_host *host, uint64_t addr, uint32_t data)
{
	accel_msi(glue_of(host)->accel, addr, data);
}

static int glue_irqfd_attach(struct bus_host *host, int fd, uint64_t addr, uint32_t data)
{
	return accel_irqfd_attach(glue_of(host)->accel, fd, addr, data);
}

static int glue_irqfd_update(struct bus_host *host, int route, uint64_t addr, uint32_t data)
{
	return accel_irqfd_update(glue_of(host)->accel, route, addr, data);
}

static void glue_irqfd_detach(struct bus_host *host, int route)
{
	accel_irqfd_detach(glue_of(host)->accel, route);
}

static struct accel_doorbell doorbell_of(enum bus_space space, uint64_t addr, unsigned size, int fd)
{
	return (struct accel_doorbell){.is_pio = space == BUS_PIO,
				       .addr = addr,
				       .size = size,
				       .fd = fd};
}

static int glue_doorbell_add(struct bus_host *host, enum bus_space space, uint64_t addr,
			     unsigned size, int fd)
{
	struct accel_doorbell bell = doorbell_of(space, addr, size, fd);

	return accel_doorbell_add(glue_of(host)->accel, &bell);
}

static void glue_doorbell_del(struct bus_host *host, enum bus_space space, uint64_t addr,
			      unsigned size, int fd)
{
	struct accel_doorbell bell = doorbell_of(space, addr, size, fd);

	accel_doorbell_del(glue_of(host)->accel, &bell);
}

void host_glue_request(struct host_glue *glue, enum machine_request request)
{
	atomic_fetch_or(&glue->requests, 1u << request);
	loop_post(glue->loop, &glue->msg);
}

static void glue_request(struct bus_host *host, int request)
{
	host_glue_request(glue_of(host), (enum machine_request)request);
	if (request == MACHINE_POWEROFF || request == MACHINE_RESET ||
	    request == MACHINE_GUEST_PANICKED)
		vcpus_hold_current();
}

static void glue_exit_with(struct bus_host *host, int status)
{
	struct host_glue *glue = glue_of(host);
	int unset = -1;

	/* The first one counts. */
	atomic_compare_exchange_strong(&glue->exit_status, &unset, status);
	loop_post(glue->loop, &glue->msg);
	vcpus_hold_current();
}

static const struct bus_host_ops glue_ops = {
	.irq_line = glue_irq_line,
	.msi_send = glue_msi_send,
	.irqfd_attach = glue_irqfd_attach,
	.irqfd_update = glue_irqfd_update,
	.irqfd_detach = glue_irqfd_detach,
	.doorbell_add = glue_doorbell_add,
	.doorbell_del = glue_doorbell_del,
	.request = glue_request,
	.exit_with = glue_exit_with,
};

static void glue_deliver(struct loop_msg *msg)
{
	struct host_glue *glue = container_of(msg, struct host_glue, msg);

	glue->requested(glue->opaque, atomic_exchange(&glue->requests, 0));
}

/* --- from vCPUs --- */

static void glue_pio(void *opaque, unsigned vcpu, uint16_t port, bool is_write, void *data,
		     unsigned size)
{
	struct host_glue *glue = opaque;

	bus_access(glue->bus, BUS_PIO, port, is_write, data, size);
}

static void glue_mmio(void *opaque, unsigned vcpu, gpa_t addr, bool is_write, void *data,
		      unsigned size)
{
	struct host_glue *glue = opaque;

	bus_access(glue->bus, BUS_MMIO, addr, is_write, data, size);
}

struct accel_handlers host_glue_handlers(struct host_glue *glue)
{
	return (struct accel_handlers){.pio = glue_pio, .mmio = glue_mmio, .opaque = glue};
}

void host_glue_init(struct host_glue *glue, struct loop *loop,
		    void (*requested)(void *opaque, unsigned requests), void *opaque)
{
	memset(glue, 0, sizeof(*glue));
	glue->host.ops = &glue_ops;
	glue->loop = loop;
	glue->requested = requested;
	glue->opaque = opaque;
	glue->msg.fn = glue_deliver;
	atomic_init(&glue->exit_status, -1);
}
