#include "unit/test.h"

#include <errno.h>
#include <linux/pci_regs.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/fd.h"
#include "vm/bus/pci.h"

#define BAR0_SIZE   0x8000
#define MSIX_OFFSET 0x4000
#define VECTORS     4
#define BAR2_SIZE   0x2000
#define HOST_ROUTES 8
#define ECAM(slot)  (PCI_ECAM_BASE + ((slot) << 15))

/* A machine that remembers what was asked of it. */
struct recorder {
	struct bus_host host;
	bool line[24];
	unsigned msis;
	uint64_t msi_addr;
	uint32_t msi_data;
	int route_fd[HOST_ROUTES]; /* -1: free */
	uint32_t route_data[HOST_ROUTES];
};

static void rec_irq_line(struct bus_host *host, unsigned gsi, bool level)
{
	container_of(host, struct recorder, host)->line[gsi] = level;
}

static void rec_msi_send(struct bus_host *host, uint64_t addr, uint32_t data)
{
	struct recorder *rec = container_of(host, struct recorder, host);

	rec->msis++;
	rec->msi_addr = addr;
	rec->msi_data = data;
}

static int rec_irqfd_attach(struct bus_host *host, int fd, uint64_t addr, uint32_t data)
{
	struct recorder *rec = container_of(host, struct recorder, host);

	for (int i = 0; i < HOST_ROUTES; i++) {
		if (rec->route_fd[i] >= 0)
			continue;
		rec->route_fd[i] = fd;
		rec->route_data[i] = data;
		return i;
	}
	return -ENOSPC;
}

static int rec_irqfd_update(struct bus_host *host, int route, uint64_t addr, uint32_t data)
{
	container_of(host, struct recorder, host)->route_data[route] = data;
	return 0;
}

static void rec_irqfd_detach(struct bus_host *host, int route)
{
	container_of(host, struct recorder, host)->route_fd[route] = -1;
}

static const struct bus_host_ops rec_ops = {
	.irq_line = rec_irq_line,
	.msi_send = rec_msi_send,
	.irqfd_attach = rec_irqfd_attach,
	.irqfd_update = rec_irqfd_update,
	.irqfd_detach = rec_irqfd_detach,
};

/* A function with a 64-bit BAR that has MSI-X in it, and a 32-bit one. */
struct toy {
	struct pci_device pci;
	uint64_t reg;
	unsigned bar_changes;
};

static uint64_t toy_read(void *opaque, uint64_t offset, unsigned size)
{
	struct toy *toy = opaque;
	uint64_t v;

	if (pci_msix_read(&toy->pci, offset, size, &v))
		return v;
	return toy->reg;
}

static void toy_write(void *opaque, uint64_t offset, unsigned size, uint64_t value)
{
	struct toy *toy = opaque;

	if (!pci_msix_write(&toy->pci, offset, size, value))
		toy->reg = value;
}

static const struct bus_ops toy_bar_ops = {.read = toy_read, .write = toy_write};
static const struct device_ops toy_ops = {.type = "toy"};

static void toy_bar_changed(struct pci_device *pci, unsigned bar)
{
	container_of(pci, struct toy, pci)->bar_changes++;
}

struct machine {
	struct recorder rec;
	struct device_env env;
	struct toy a, b;
};

static void toy_init(struct toy *toy, const char *id, const struct device_env *env, int slot)
{
	static const struct pci_device_config config = {
		.vendor_id = 0x1af4,
		.device_id = 0x1234,
		.class_code = 0xff0000,
		.intx_pin = 1,
		.msix_vectors = VECTORS,
		.msix_bar = 0,
		.msix_offset = MSIX_OFFSET,
	};

	assert_int_equal(pci_device_init(&toy->pci, &toy_ops, id, env, &config), 0);
	pci_device_add_bar(&toy->pci, 0, BAR0_SIZE, true, false, &toy_bar_ops, toy);
	pci_device_add_bar(&toy->pci, 2, BAR2_SIZE, false, false, &toy_bar_ops, toy);
	toy->pci.bar_changed = toy_bar_changed;
	assert_int_equal(pci_device_add(&toy->pci, slot, NULL), 0);
}

static int machine_new(void **state)
{
	struct machine *m = calloc(1, sizeof(*m));

	m->rec.host.ops = &rec_ops;
	for (int i = 0; i < HOST_ROUTES; i++)
		m->rec.route_fd[i] = -1;
	m->env.host = &m->rec.host;
	assert_int_equal(bus_new(&m->env.bus), 0);
	assert_int_equal(pci_bus_new(&m->env, &m->env.pci), 0);
	pci_bus_set_window64(m->env.pci, 0x800000000, 0x900000000);
	toy_init(&m->a, "a", &m->env, -1);
	toy_init(&m->b, "b", &m->env, 9); /* shares slot 1's line */
	*state = m;
	return 0;
}

static int machine_free(void **state)
{
	struct machine *m = *state;

	pci_device_fini(&m->a.pci);
	pci_device_fini(&m->b.pci);
	pci_bus_free(m->env.pci);
	bus_free(m->env.bus);
	free(m);
	return 0;
}

static uint64_t in(struct machine *m, uint64_t addr, unsigned size)
{
	uint64_t v = 0;

	bus_access(m->env.bus, BUS_MMIO, addr, false, &v, size);
	return v;
}

static void out(struct machine *m, uint64_t addr, unsigned size, uint64_t v)
{
	bus_access(m->env.bus, BUS_MMIO, addr, true, &v, size);
}

static uint32_t port_in(struct machine *m, uint16_t port, unsigned size)
{
	uint32_t v = 0;

	bus_access(m->env.bus, BUS_PIO, port, false, &v, size);
	return v;
}

static void port_out(struct machine *m, uint16_t port, unsigned size, uint32_t v)
{
	bus_access(m->env.bus, BUS_PIO, port, true, &v, size);
}

static uint64_t bar0(struct machine *m, unsigned slot)
{
	return in(m, ECAM(slot) + PCI_BASE_ADDRESS_0, 8) & PCI_BASE_ADDRESS_MEM_MASK;
}

static void both_mechanisms_show_the_same(void **state)
{
	struct machine *m = *state;

	assert_int_equal(in(m, ECAM(0), 4), 0x00081b36);
	assert_int_equal(in(m, ECAM(1), 4), 0x12341af4);
	assert_int_equal(in(m, ECAM(2), 4), UINT32_MAX);
	assert_int_equal(in(m, ECAM(1) + (1 << 12), 4), UINT32_MAX); /* function 1 */
	assert_int_equal(in(m, ECAM(1) + (1 << 20), 4), UINT32_MAX); /* bus 1 */
	assert_int_equal(in(m, ECAM(1) + 0x100, 4), 0);              /* no extended capabilities */
	assert_int_equal(in(m, ECAM(1) + 0xffe, 4), UINT32_MAX);     /* leaves the function */
	port_out(m, 0xcf8, 4, 0x80000000 | 1 << 11);
	assert_int_equal(port_in(m, 0xcf8, 4), 0x80000800);
	assert_int_equal(port_in(m, 0xcfc, 4), 0x12341af4);
	assert_int_equal(port_in(m, 0xcfe, 2), 0x1234);
	port_out(m, 0xcf8, 2, 0); /* no dword: not for us */
	assert_int_equal(port_in(m, 0xcf8, 4), 0x80000800);
	port_out(m, 0xcf8, 4, 1 << 11);
	assert_int_equal(port_in(m, 0xcfc, 4), UINT32_MAX);
}

static unsigned find_cap(struct machine *m, unsigned slot, uint8_t id)
{
	unsigned at = (unsigned)in(m, ECAM(slot) + PCI_CAPABILITY_LIST, 1);

	for (unsigned hops = 0; at && hops < 48; hops++) {
		if (in(m, ECAM(slot) + at, 1) == id)
			return at;
		at = (unsigned)in(m, ECAM(slot) + at + 1, 1);
	}
	return 0;
}

static void is_an_integrated_endpoint(void **state)
{
	struct machine *m = *state;
	unsigned at = find_cap(m, 1, PCI_CAP_ID_EXP);

	assert_true(at != 0);
	assert_int_equal(in(m, ECAM(1) + at + PCI_EXP_FLAGS, 2), 2 | PCI_EXP_TYPE_RC_END << 4);
	assert_true(find_cap(m, 1, PCI_CAP_ID_MSIX) != 0);
	assert_int_equal(find_cap(m, 0, PCI_CAP_ID_EXP), 0);
	assert_int_equal(in(m, ECAM(1) + PCI_STATUS, 2) & PCI_STATUS_CAP_LIST, PCI_STATUS_CAP_LIST);
}

static void read_only_bits_stay(void **state)
{
	struct machine *m = *state;
	uint64_t before[32];

	for (unsigned i = 0; i < 32; i++)
		before[i] = in(m, ECAM(1) + i * 8, 8);
	for (unsigned i = 0; i < 512; i++)
		out(m, ECAM(1) + i * 8, 8, UINT64_MAX);
	assert_int_equal(in(m, ECAM(1), 4), before[0] & UINT32_MAX);
	assert_int_equal(in(m, ECAM(1) + PCI_COMMAND, 2),
			 PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER | PCI_COMMAND_INTX_DISABLE);
	assert_int_equal(in(m, ECAM(1) + PCI_STATUS, 2), PCI_STATUS_CAP_LIST);
	assert_int_equal(in(m, ECAM(1) + PCI_CLASS_REVISION, 4), before[1] & UINT32_MAX);
	assert_int_equal(in(m, ECAM(1) + PCI_INTERRUPT_PIN, 1), 1);
	pci_bus_reset(m->env.pci);
	for (unsigned i = 0; i < 32; i++)
		assert_int_equal(in(m, ECAM(1) + i * 8, 8), before[i]);
}

static void bars_tell_their_size(void **state)
{
	struct machine *m = *state;

	out(m, ECAM(1) + PCI_BASE_ADDRESS_0, 4, UINT32_MAX);
	out(m, ECAM(1) + PCI_BASE_ADDRESS_1, 4, UINT32_MAX);
	out(m, ECAM(1) + PCI_BASE_ADDRESS_2, 4, UINT32_MAX);
	out(m, ECAM(1) + PCI_BASE_ADDRESS_3, 4, UINT32_MAX);
	assert_int_equal(in(m, ECAM(1) + PCI_BASE_ADDRESS_0, 4),
			 (uint32_t) ~(BAR0_SIZE - 1) | PCI_BASE_ADDRESS_MEM_TYPE_64);
	assert_int_equal(in(m, ECAM(1) + PCI_BASE_ADDRESS_1, 4), UINT32_MAX);
	assert_int_equal(in(m, ECAM(1) + PCI_BASE_ADDRESS_2, 4), (uint32_t) ~(BAR2_SIZE - 1));
	assert_int_equal(in(m, ECAM(1) + PCI_BASE_ADDRESS_3, 4), 0);
}

static void assignment_places_all_and_decodes(void **state)
{
	struct machine *m = *state;
	uint64_t a, b;

	assert_int_equal(pci_bus_assign(m->env.pci, NULL), 0);
	a = bar0(m, 1);
	b = bar0(m, 9);
	assert_true(a >= PCI_MMIO32_BASE && a + BAR0_SIZE <= PCI_MMIO32_END && a % BAR0_SIZE == 0);
	assert_true(b >= a + BAR0_SIZE || b + BAR0_SIZE <= a);
	out(m, a, 4, 0x11);
	out(m, b, 4, 0x22);
	assert_int_equal(m->a.reg, 0x11);
	assert_int_equal(m->b.reg, 0x22);
	assert_int_equal(in(m, ECAM(1) + PCI_INTERRUPT_LINE, 1), pci_intx_gsi(1, 0));
	/* Not any more when memory space is off, and again when it is on. */
	out(m, ECAM(1) + PCI_COMMAND, 2, 0);
	assert_int_equal(in(m, a, 4), UINT32_MAX);
	out(m, ECAM(1) + PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
	assert_int_equal(in(m, a, 4), 0x11);
}

static void bars_move(void **state)
{
	struct machine *m = *state;
	uint64_t high = 0x812340000;

	m->a.reg = 0x77;
	assert_int_equal(pci_bus_assign(m->env.pci, NULL), 0);
	out(m, ECAM(1) + PCI_BASE_ADDRESS_0, 4, (uint32_t)high);
	out(m, ECAM(1) + PCI_BASE_ADDRESS_1, 4, high >> 32);
	assert_int_equal(in(m, high, 4), 0x77);
	assert_true(m->a.pci.bars[0].region.mapped);
	assert_true(m->a.bar_changes >= 3);
	/* Outside every window: gone, and nobody minds. */
	out(m, ECAM(1) + PCI_BASE_ADDRESS_1, 4, 0x12);
	assert_false(m->a.pci.bars[0].region.mapped);
	out(m, ECAM(1) + PCI_BASE_ADDRESS_0, 8, PCI_ECAM_BASE);
	assert_false(m->a.pci.bars[0].region.mapped);
	assert_int_equal(in(m, ECAM(1), 4), 0x12341af4);
	out(m, ECAM(1) + PCI_BASE_ADDRESS_0, 8, PCI_MMIO32_END - BAR0_SIZE / 2);
	assert_int_equal(bar0(m, 1), PCI_MMIO32_END - BAR0_SIZE);
	assert_true(m->a.pci.bars[0].region.mapped);
}

static void an_overlapping_bar_waits_for_its_place(void **state)
{
	struct machine *m = *state;
	uint64_t a;

	m->a.reg = 0xaa;
	m->b.reg = 0xbb;
	assert_int_equal(pci_bus_assign(m->env.pci, NULL), 0);
	a = bar0(m, 1);
	out(m, ECAM(9) + PCI_BASE_ADDRESS_0, 8, a);
	assert_int_equal(in(m, a, 1), 0xaa);
	assert_false(m->b.pci.bars[0].region.mapped);
	out(m, ECAM(1) + PCI_BASE_ADDRESS_0, 8, 0xd8000000);
	assert_int_equal(in(m, a, 1), 0xbb);
	assert_int_equal(in(m, 0xd8000000, 1), 0xaa);
}

static void assignment_says_when_there_is_no_room(void **state)
{
	struct machine *m = *state;
	struct error err = ERROR_INIT;
	struct toy big = {0};
	static const struct pci_device_config config = {.vendor_id = 1, .class_code = 0xff0000};

	assert_int_equal(pci_device_init(&big.pci, &toy_ops, "big", &m->env, &config), 0);
	pci_device_add_bar(&big.pci, 0, 8 * GIB, true, true, &toy_bar_ops, &big);
	assert_int_equal(pci_device_add(&big.pci, 4, NULL), 0);
	assert_int_equal(pci_bus_assign(m->env.pci, &err), -ENOSPC);
	assert_non_null(strstr(err.text, "big"));
	pci_device_fini(&big.pci);
	assert_int_equal(pci_device_init(&big.pci, &toy_ops, "big", &m->env, &config), 0);
	pci_device_add_bar(&big.pci, 0, 1 * GIB, true, true, &toy_bar_ops, &big);
	assert_int_equal(pci_device_add(&big.pci, 4, NULL), 0);
	assert_int_equal(pci_bus_assign(m->env.pci, &err), 0);
	assert_int_equal(bar0(m, 4), 0x800000000);
	pci_device_fini(&big.pci);
	assert_int_equal(in(m, 0x800000000, 4), UINT32_MAX);
}

static void slots_are_given_once(void **state)
{
	struct machine *m = *state;
	struct error err = ERROR_INIT;
	struct toy more = {0};
	static const struct pci_device_config config = {.vendor_id = 1, .class_code = 0xff0000};

	assert_int_equal(pci_device_init(&more.pci, &toy_ops, "more", &m->env, &config), 0);
	assert_int_equal(pci_device_add(&more.pci, 9, &err), -EEXIST);
	assert_int_equal(pci_device_add(&more.pci, 32, &err), -EINVAL);
	assert_int_equal(pci_device_add(&more.pci, -1, &err), 0);
	assert_int_equal(more.pci.slot, 2);
	pci_device_fini(&more.pci);
}

static void lines_are_shared(void **state)
{
	struct machine *m = *state;
	unsigned gsi = pci_intx_gsi(1, 0);

	assert_int_equal(gsi, pci_intx_gsi(9, 0));
	pci_intx_set(&m->a.pci, true);
	assert_true(m->rec.line[gsi]);
	assert_true(in(m, ECAM(1) + PCI_STATUS, 2) & PCI_STATUS_INTERRUPT);
	pci_intx_set(&m->b.pci, true);
	pci_intx_set(&m->a.pci, false);
	assert_true(m->rec.line[gsi]);
	out(m, ECAM(9) + PCI_COMMAND, 2, PCI_COMMAND_INTX_DISABLE);
	assert_false(m->rec.line[gsi]);
	assert_true(in(m, ECAM(9) + PCI_STATUS, 2) & PCI_STATUS_INTERRUPT);
	out(m, ECAM(9) + PCI_COMMAND, 2, 0);
	assert_true(m->rec.line[gsi]);
	pci_bus_reset(m->env.pci);
	assert_false(m->rec.line[gsi]);
}

/* Function `a` decoding and bus-mastering, MSI-X on; vector v at 0xfee00000 + v, data 0x40 + v, unmasked. */
static uint64_t msix_on(struct machine *m)
{
	unsigned cap;
	uint64_t table;

	assert_int_equal(pci_bus_assign(m->env.pci, NULL), 0);
	out(m, ECAM(1) + PCI_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
	cap = find_cap(m, 1, PCI_CAP_ID_MSIX);
	assert_int_equal(in(m, ECAM(1) + cap + PCI_MSIX_FLAGS, 2), VECTORS - 1);
	assert_int_equal(in(m, ECAM(1) + cap + PCI_MSIX_TABLE, 4), MSIX_OFFSET);
	assert_int_equal(in(m, ECAM(1) + cap + PCI_MSIX_PBA, 4), MSIX_OFFSET + VECTORS * 16);
	out(m, ECAM(1) + cap + PCI_MSIX_FLAGS, 2, PCI_MSIX_FLAGS_ENABLE);
	table = bar0(m, 1) + MSIX_OFFSET;
	for (unsigned v = 0; v < VECTORS; v++) {
		out(m, table + v * 16, 8, 0xfee00000 + v * 4);
		out(m, table + v * 16 + 8, 4, 0x40 + v);
		out(m, table + v * 16 + 12, 4, 0);
	}
	return table;
}

static void vectors_are_sent_held_and_delivered(void **state)
{
	struct machine *m = *state;
	uint64_t table, pba;
	unsigned cap = find_cap(m, 1, PCI_CAP_ID_MSIX);

	pci_msix_notify(&m->a.pci, 0); /* off: lost */
	assert_false(pci_msix_enabled(&m->a.pci));
	table = msix_on(m);
	pba = table + VECTORS * 16;
	assert_true(pci_msix_enabled(&m->a.pci));
	assert_int_equal(m->rec.msis, 0);
	pci_msix_notify(&m->a.pci, 2);
	assert_int_equal(m->rec.msis, 1);
	assert_int_equal(m->rec.msi_addr, 0xfee00008);
	assert_int_equal(m->rec.msi_data, 0x42);
	pci_msix_notify(&m->a.pci, VECTORS);
	pci_msix_notify(&m->a.pci, 0xffff);
	assert_int_equal(m->rec.msis, 1);
	/* Masked alone. */
	out(m, table + 2 * 16 + 12, 4, 1);
	pci_msix_notify(&m->a.pci, 2);
	pci_msix_notify(&m->a.pci, 2);
	assert_int_equal(m->rec.msis, 1);
	assert_int_equal(in(m, pba, 8), 1 << 2);
	out(m, pba, 8, UINT64_MAX);
	assert_int_equal(in(m, pba, 4), 1 << 2);
	out(m, table + 2 * 16 + 12, 4, 0);
	assert_int_equal(m->rec.msis, 2);
	assert_int_equal(in(m, pba, 8), 0);
	/* Masked as a whole. */
	out(m, ECAM(1) + cap + PCI_MSIX_FLAGS, 2, PCI_MSIX_FLAGS_ENABLE | PCI_MSIX_FLAGS_MASKALL);
	pci_msix_notify(&m->a.pci, 1);
	assert_int_equal(m->rec.msis, 2);
	out(m, ECAM(1) + cap + PCI_MSIX_FLAGS, 2, PCI_MSIX_FLAGS_ENABLE);
	assert_int_equal(m->rec.msis, 3);
	assert_int_equal(m->rec.msi_data, 0x41);
	/* No bus master, no message. */
	out(m, ECAM(1) + PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
	pci_msix_notify(&m->a.pci, 3);
	assert_int_equal(m->rec.msis, 3);
	out(m, ECAM(1) + PCI_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
	assert_int_equal(m->rec.msi_data, 0x43);
}

static void the_table_takes_odd_accesses(void **state)
{
	struct machine *m = *state;
	uint64_t table = msix_on(m);

	out(m, table + 8, 8, 0x0000000100000099);
	assert_int_equal(in(m, table + 8, 8), 0x0000000100000099);
	assert_int_equal(in(m, table + 12, 4), 1);
	out(m, table + 1, 4, UINT32_MAX);
	out(m, table + 8, 2, 0);
	out(m, table + 4, 8, UINT64_MAX);
	assert_int_equal(in(m, table, 8), 0xfee00000);
	assert_int_equal(in(m, table + 8, 8), 0x0000000100000099);
	out(m, table, 4, 0xfee0000f);
	assert_int_equal(in(m, table, 4), 0xfee0000c);
	/* The last bytes of the pending bits, and past them. */
	assert_int_equal(in(m, table + VECTORS * 16 + 7, 1), 0);
	m->a.reg = 0x5a;
	assert_int_equal(in(m, table + VECTORS * 16 + 8, 1), 0x5a);
}

static void an_eventfd_follows_its_vector(void **state)
{
	struct machine *m = *state;
	uint64_t table = msix_on(m);
	uint64_t pba = table + VECTORS * 16;
	int fd = pci_msix_fd(&m->a.pci, 1);

	assert_true(fd >= 0);
	assert_int_equal(pci_msix_fd(&m->a.pci, 1), fd);
	assert_int_equal(pci_msix_fd(&m->a.pci, VECTORS), -EINVAL);
	assert_int_equal(m->rec.route_fd[0], fd);
	assert_int_equal(m->rec.route_data[0], 0x41);
	out(m, table + 16 + 8, 4, 0x99);
	assert_int_equal(m->rec.route_data[0], 0x99);
	/* Masked: taken from the machine; a signal meanwhile shows as pending and is sent when it opens. */
	out(m, table + 16 + 12, 4, 1);
	assert_int_equal(m->rec.route_fd[0], -1);
	assert_int_equal(in(m, pba, 8), 0);
	eventfd_signal(fd);
	assert_int_equal(in(m, pba, 8), 1 << 1);
	out(m, table + 16 + 8, 4, 0x55);
	assert_int_equal(m->rec.msis, 0);
	out(m, table + 16 + 12, 4, 0);
	assert_int_equal(m->rec.msis, 1);
	assert_int_equal(m->rec.msi_data, 0x55);
	assert_int_equal(m->rec.route_fd[0], fd);
	assert_int_equal(m->rec.route_data[0], 0x55);
	assert_int_equal(in(m, pba, 8), 0);
	pci_bus_reset(m->env.pci);
	assert_int_equal(m->rec.route_fd[0], -1);
}

static void state_restores_map_masks_and_lines(void **state)
{
	struct machine *m = *state;
	struct pci_device *pci = &m->a.pci;
	uint8_t saved[PCI_LEGACY_BYTES];
	struct msix_vector vectors[VECTORS];
	uint64_t table = msix_on(m);
	uint64_t a = bar0(m, 1);
	unsigned cap = find_cap(m, 1, PCI_CAP_ID_MSIX);

	out(m, table + 12, 4, 1);
	pci_msix_notify(pci, 0);
	pci_intx_set(pci, true);
	pci_device_state_table.pre_save(pci);
	memcpy(saved, pci->saved, sizeof(saved));
	memcpy(vectors, pci->vectors, sizeof(vectors));

	pci_bus_reset(m->env.pci);
	assert_int_equal(in(m, a, 4), UINT32_MAX);
	memcpy(pci->saved, saved, sizeof(saved));
	memcpy(pci->vectors, vectors, sizeof(vectors));
	pci->intx_level = true;
	assert_int_equal(pci_device_state_table.post_load(pci, NULL), 0);
	assert_int_equal(bar0(m, 1), a);
	/* The line waits for MSI-X to end. */
	assert_false(m->rec.line[pci_intx_gsi(1, 0)]);
	out(m, ECAM(1) + cap + PCI_MSIX_FLAGS, 2, 0);
	assert_true(m->rec.line[pci_intx_gsi(1, 0)]);
	out(m, ECAM(1) + cap + PCI_MSIX_FLAGS, 2, PCI_MSIX_FLAGS_ENABLE);
	assert_false(m->rec.line[pci_intx_gsi(1, 0)]);
	assert_int_equal(m->rec.msis, 0);
	assert_int_equal(in(m, table + VECTORS * 16, 8), 1);
	out(m, table + 12, 4, 0);
	assert_int_equal(m->rec.msis, 1);

	/* A stream of another function is refused. */
	pci_device_state_table.pre_save(pci);
	pci->saved[PCI_CAPABILITY_LIST] ^= 4;
	assert_int_equal(pci_device_state_table.post_load(pci, NULL), -EINVAL);
	pci_device_state_table.pre_save(pci);
	pci->n_vectors = 1;
	assert_int_equal(pci_device_state_table.post_load(pci, NULL), -EINVAL);
	pci->n_vectors = VECTORS;
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, machine_new, machine_free)
	const struct CMUnitTest tests[] = {
		TEST(both_mechanisms_show_the_same),
		TEST(is_an_integrated_endpoint),
		TEST(read_only_bits_stay),
		TEST(bars_tell_their_size),
		TEST(assignment_places_all_and_decodes),
		TEST(bars_move),
		TEST(an_overlapping_bar_waits_for_its_place),
		TEST(assignment_says_when_there_is_no_room),
		TEST(slots_are_given_once),
		TEST(lines_are_shared),
		TEST(vectors_are_sent_held_and_delivered),
		TEST(the_table_takes_odd_accesses),
		TEST(an_eventfd_follows_its_vector),
		TEST(state_restores_map_masks_and_lines),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
