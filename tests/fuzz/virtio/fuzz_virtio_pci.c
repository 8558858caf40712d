/*
 * The registers of a virtio device: accesses of any size anywhere in its BAR and configuration space, the loop run in
 * between, pause and machine reset thrown in. An entropy device is behind it, so that requests are served.
 */
#include <string.h>

#include "base/bits.h"
#include "base/endian.h"
#include "base/log.h"
#include "device/driver.h"
#include "vm/devices/virtio_rng.h"

#define SLOT 1

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct machine {
	struct harness *h;
	struct device *dev;
	struct driver d;
};

static void access_register(struct machine *m, const uint8_t *op)
{
	static const unsigned blocks[] = {0x0000, 0x0000, 0x1000, 0x2000,
					  0x3000, 0x4000, 0x4400, 0x7000};
	uint64_t addr = m->d.common + blocks[op[1] % 8] + (op[2] & 0x7f);
	unsigned size = 1u << (op[1] >> 3 & 3);

	if (op[1] & 0x80)
		harness_in(m->h, addr, size);
	else
		harness_out(m->h, addr, size, le_load(op + 3, 4));
}

static void step(struct machine *m, const uint8_t *op)
{
	switch (op[0] % 16) {
	case 0:
		harness_config_out(m->h, SLOT, op[1], 1u << (op[2] & 1) * 2,
				   (uint32_t)le_load(op + 3, 4));
		break;
	case 1:
		harness_config_in(m->h, SLOT, op[1], 4);
		break;
	case 2:
		device_pause(m->dev);
		if (op[1] & 1) {
			device_reset(m->dev);
			pci_bus_assign(m->h->env.pci, NULL);
		}
		device_resume(m->dev);
		break;
	case 3:
	case 4:
	case 5:
		memcpy(harness_ptr(m->h, m->d.queues[0].desc + (op[1] | (op[2] & 15) << 8), 4),
		       op + 3, 4);
		break;
	case 6:
		loop_run_once(m->h->env.loop, 0);
		break;
	case 7: { /* a good request, if the device is in a state for one */
		struct driver_buf buf = {.gpa = 0x8000, .len = op[1], .writable = true};

		if (driver_has_room(&m->d.queues[0], 1))
			driver_add(&m->d.queues[0], &buf, 1);
		break;
	}
	case 8:
		driver_kick_now(&m->d.queues[0]);
		break;
	default:
		access_register(m, op);
		break;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct machine m = {.h = harness_new()};

	log_init("fuzz", LOG_ERROR);
	if (size && virtio_rng_new(&m.h->env, "rng", SLOT, &m.dev, NULL) == 0) {
		m.h->intx = data[0] & 1;
		driver_start(&m.d, m.h, SLOT, data[0] & 2 ? DRIVER_ALL : DRIVER_SPLIT);
		for (size_t at = 1; at + 7 <= size && at < 7 * 500; at += 7)
			step(&m, data + at);
		device_free(m.dev);
		for (unsigned i = 0; i < m.d.n_queues; i++)
			free(m.d.queues[i].reqs);
		free(m.d.queues);
	}
	harness_free(m.h);
	return 0;
}
