#include "device/harness.h"

#include <errno.h>

#include "base/bits.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/fd.h"

#define PAGE 4096ULL

static struct harness *harness_of(struct bus_host *host)
{
	return (struct harness *)host;
}

/* --- the host --- */

static void harness_irq_line(struct bus_host *host, unsigned gsi, bool level)
{
	struct harness *h = harness_of(host);

	LOCK_GUARD(&h->lock);
	assert_true(gsi < HARNESS_GSIS);
	h->line_rises[gsi] += level && !h->line[gsi];
	h->line[gsi] = level;
	loop_post(h->env.loop, &h->wake);
}

static void harness_msi_send(struct bus_host *host, uint64_t addr, uint32_t data)
{
	struct harness *h = harness_of(host);
	unsigned slot = data >> 8 & 0xff;
	unsigned vector = data & 0xff;

	LOCK_GUARD(&h->lock);
	if (addr == HARNESS_MSI_ADDR && slot < PCI_SLOTS && vector < HARNESS_VECTORS &&
	    data == harness_msi_data(slot, vector))
		h->msis[slot][vector]++;
	else
		h->msis_unknown++;
	loop_post(h->env.loop, &h->wake);
}

unsigned harness_msi_take(struct harness *h, unsigned slot, unsigned vector)
{
	unsigned n;

	LOCK_GUARD(&h->lock);
	n = h->msis[slot][vector];
	h->msis[slot][vector] = 0;
	return n;
}

static void harness_route_ready(struct loop_fd *src, unsigned events)
{
	struct harness_route *route = container_of(src, struct harness_route, src);

	if (eventfd_clear(src->fd))
		harness_msi_send(&route->h->host, route->addr, route->data);
}

static int harness_irqfd_attach(struct bus_host *host, int fd, uint64_t addr, uint32_t data)
{
	struct harness *h = harness_of(host);

	for (int i = 0; i < HARNESS_ROUTES && !h->refuse_irqfds; i++) {
		struct harness_route *route = &h->routes[i];
		int r;

		if (route->used)
			continue;
		r = loop_fd_add(h->env.loop, &route->src, fd, LOOP_READ, harness_route_ready);
		if (r < 0)
			return r;
		route->h = h;
		route->addr = addr;
		route->data = data;
		route->used = true;
		return i;
	}
	return -ENOSPC;
}

static int harness_irqfd_update(struct bus_host *host, int i, uint64_t addr, uint32_t data)
{
	struct harness_route *route = &harness_of(host)->routes[i];

	assert_true(route->used);
	route->addr = addr;
	route->data = data;
	return 0;
}

static void harness_irqfd_detach(struct bus_host *host, int i)
{
	struct harness_route *route = &harness_of(host)->routes[i];

	assert_true(route->used);
	loop_fd_del(&route->src);
	route->used = false;
}

static int harness_doorbell_add(struct bus_host *host, enum bus_space space, uint64_t addr,
				unsigned size, int fd)
{
	struct harness *h = harness_of(host);
	int at = -1;

	LOCK_GUARD(&h->lock);
	if (h->refuse_doorbells)
		return -ENOSYS;
	assert_int_equal(space, BUS_MMIO);
	for (int i = 0; i < HARNESS_DOORBELLS; i++) {
		if (h->doorbells[i].fd >= 0 && h->doorbells[i].addr == addr)
			return -EEXIST;
		if (h->doorbells[i].fd < 0 && at < 0)
			at = i;
	}
	if (at < 0)
		return -ENOSPC;
	h->doorbells[at] = (struct harness_doorbell){.addr = addr, .fd = fd};
	return 0;
}

static struct harness_doorbell *harness_doorbell_find(struct harness *h, uint64_t addr)
{
	for (int i = 0; i < HARNESS_DOORBELLS; i++) {
		if (h->doorbells[i].fd >= 0 && h->doorbells[i].addr == addr)
			return &h->doorbells[i];
	}
	return NULL;
}

static void harness_doorbell_del(struct bus_host *host, enum bus_space space, uint64_t addr,
				 unsigned size, int fd)
{
	struct harness *h = harness_of(host);
	struct harness_doorbell *bell;

	LOCK_GUARD(&h->lock);
	bell = harness_doorbell_find(h, addr);
	assert_non_null(bell);
	assert_int_equal(bell->fd, fd);
	bell->fd = -1;
}

static void harness_request(struct bus_host *host, int request)
{
	struct harness *h = harness_of(host);

	LOCK_GUARD(&h->lock);
	h->requests[request]++;
}

static void harness_exit_with(struct bus_host *host, int status)
{
	harness_of(host)->exit_status = status;
}

static const struct bus_host_ops harness_ops = {
	.irq_line = harness_irq_line,
	.msi_send = harness_msi_send,
	.irqfd_attach = harness_irqfd_attach,
	.irqfd_update = harness_irqfd_update,
	.irqfd_detach = harness_irqfd_detach,
	.doorbell_add = harness_doorbell_add,
	.doorbell_del = harness_doorbell_del,
	.request = harness_request,
	.exit_with = harness_exit_with,
};

static void harness_woken(struct loop_msg *msg)
{
}

/* --- life --- */

struct harness *harness_new(void)
{
	const struct gmem_config config = {.ram_bytes = HARNESS_RAM};
	struct harness *h = calloc(1, sizeof(*h));

	assert_non_null(h);
	h->host.ops = &harness_ops;
	h->exit_status = -1;
	h->wake.fn = harness_woken;
	h->next_free = 16 * PAGE; /* a null pointer is never a good buffer */
	for (int i = 0; i < HARNESS_DOORBELLS; i++)
		h->doorbells[i].fd = -1;
	pthread_mutex_init(&h->lock, NULL);
	h->dirty = calloc(HARNESS_RAM / PAGE / 64, sizeof(*h->dirty));
	assert_non_null(h->dirty);
	assert_int_equal(gmem_new(&config, &h->env.mem, NULL), 0);
	assert_int_equal(gmem_dirty_start(h->env.mem), 0);
	assert_int_equal(loop_new(&h->env.loop), 0);
	assert_int_equal(bus_new(&h->env.bus), 0);
	h->env.host = &h->host;
	assert_int_equal(pci_bus_new(&h->env, &h->env.pci), 0);
	return h;
}

void harness_free(struct harness *h)
{
	if (!h)
		return;
	pci_bus_free(h->env.pci);
	bus_free(h->env.bus);
	/* What a device left behind would be a leak in a real machine. */
	for (int i = 0; i < HARNESS_DOORBELLS; i++)
		assert_int_equal(h->doorbells[i].fd, -1);
	for (int i = 0; i < HARNESS_ROUTES; i++)
		assert_false(h->routes[i].used);
	loop_free(h->env.loop);
	gmem_free(h->env.mem);
	pthread_mutex_destroy(&h->lock);
	free(h->dirty);
	free(h);
}

/* --- guest memory --- */

gpa_t harness_alloc(struct harness *h, size_t bytes)
{
	gpa_t at = h->next_free;

	assert_true(range_inside(at, bytes, HARNESS_RAM));
	h->next_free = align_up(at + bytes, PAGE);
	return at;
}

void *harness_ptr(struct harness *h, gpa_t gpa, size_t len)
{
	void *p = gmem_ptr(h->env.mem, gpa, len);

	assert_non_null(p);
	return p;
}

/* One past the last page of the range; what is not RAM has no bits. */
static uint64_t harness_end_page(gpa_t gpa, size_t len)
{
	return MIN(gpa + len + PAGE - 1, HARNESS_RAM) / PAGE;
}

bool harness_dirty(struct harness *h, gpa_t gpa, size_t len)
{
	bool all = true;

	gmem_dirty_fetch(h->env.mem, 0, h->dirty);
	for (uint64_t page = gpa / PAGE; page < harness_end_page(gpa, len); page++)
		all = all && (h->dirty[page / 64] >> (page % 64) & 1);
	return all;
}

void harness_dirty_forget(struct harness *h, gpa_t gpa, size_t len)
{
	gmem_dirty_fetch(h->env.mem, 0, h->dirty);
	for (uint64_t page = gpa / PAGE; page < harness_end_page(gpa, len); page++)
		h->dirty[page / 64] &= ~BIT(page % 64);
}

/* --- accesses --- */

uint64_t harness_in(struct harness *h, uint64_t addr, unsigned size)
{
	uint64_t value = 0;

	bus_access(h->env.bus, BUS_MMIO, addr, false, &value, size);
	return value;
}

void harness_out(struct harness *h, uint64_t addr, unsigned size, uint64_t value)
{
	struct harness_doorbell *bell;

	pthread_mutex_lock(&h->lock);
	bell = harness_doorbell_find(h, addr);
	if (bell)
		eventfd_signal(bell->fd);
	pthread_mutex_unlock(&h->lock);
	if (!bell)
		bus_access(h->env.bus, BUS_MMIO, addr, true, &value, size);
}

uint32_t harness_pio_in(struct harness *h, uint16_t port, unsigned size)
{
	uint32_t value = 0;

	bus_access(h->env.bus, BUS_PIO, port, false, &value, size);
	return value;
}

void harness_pio_out(struct harness *h, uint16_t port, unsigned size, uint32_t value)
{
	bus_access(h->env.bus, BUS_PIO, port, true, &value, size);
}

uint32_t harness_config_in(struct harness *h, unsigned slot, unsigned offset, unsigned size)
{
	return (uint32_t)harness_in(h, PCI_ECAM_BASE + (slot << 15) + offset, size);
}

void harness_config_out(struct harness *h, unsigned slot, unsigned offset, unsigned size,
			uint32_t value)
{
	harness_out(h, PCI_ECAM_BASE + (slot << 15) + offset, size, value);
}

/* --- time --- */

void harness_run(struct harness *h)
{
	/* A kick, what it posts, and what that leads to. */
	for (int i = 0; i < 8; i++)
		loop_run_once(h->env.loop, 0);
}

void harness_wait(struct harness *h, bool (*cond)(void *opaque), void *opaque)
{
	uint64_t end = clock_monotonic_ns() + HARNESS_WAIT_SECS * NSEC_PER_SEC;

	while (!cond(opaque)) {
		if (clock_monotonic_ns() > end)
			fail_msg("waited %d s for something that must happen", HARNESS_WAIT_SECS);
		loop_run_once(h->env.loop, 20);
	}
}
