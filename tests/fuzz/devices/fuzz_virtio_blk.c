/*
 * virtio-blk requests: commands of every kind with data cut anyhow, rewritten while they are in flight, with resets of the
 * device and of its queue, pauses and configuration accesses in between. The disk is a memfd.
 */
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/log.h"
#include "fuzz/devices/blk_request.h"
#include "vm/devices/virtio_blk.h"

#define SLOT 1

struct machine {
	struct harness *h;
	struct device *dev;
	struct driver d;
	gpa_t area; /* guest memory that requests use */
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void start_driver(struct machine *m, uint64_t features)
{
	driver_negotiate(&m->d, features);
	driver_queue_setup(&m->d, 0, 0);
	driver_ok(&m->d);
}

static void step(struct machine *m, const uint8_t *op)
{
	struct driver_queue *q = &m->d.queues[0];
	unsigned what = op[0] % 16;

	if (what >= 7) {
		blk_request(&m->d, m->area, op);
	} else if (what == 6 && op[1] % 4 == 0) {
		start_driver(m, le_load(op + 3, 4) | 3ull << 32);
	} else if (what == 6) { /* one queue is reset */
		driver_common_out(&m->d, 0x16, 2, 0);
		driver_common_out(&m->d, 0x3a, 2, 1);
	} else if (what == 5) {
		harness_out(m->h, m->d.config + (op[2] & 63), 1u << (op[1] & 3),
			    le_load(op + 3, 4));
		harness_in(m->h, m->d.config + (op[2] & 63), 1u << (op[1] & 3));
	} else if (what == 4) {
		device_pause(m->dev);
		device_resume(m->dev);
	} else if (what >= 2) {
		loop_run_once(m->h->env.loop, 0);
	} else if (what == 1) {
		driver_kick_now(q);
	} else { /* a request or the ring changes under the device */
		gpa_t base = op[1] & 1 ? m->area : q->desc;

		memcpy(harness_ptr(m->h, base + (op[2] & 0x7f) * 4u, 4), op + 3, 4);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct machine m; /* for all inputs: each begins with a reset of the device */

	if (!m.h) {
		struct image_config image = {.fd = memfd_create("disk", 0)};
		struct virtio_blk_config config = {.id = "disk",
						   .queues = 1,
						   .queue_size = 16,
						   .slot = SLOT};

		log_init("fuzz", LOG_ERROR);
		if (ftruncate(image.fd, 256 * KIB) < 0 ||
		    image_open(&image, &config.image, NULL) < 0)
			__builtin_trap();
		m.h = harness_new();
		m.area = harness_alloc(m.h, 64 * KIB);
		if (virtio_blk_new(&m.h->env, &config, &m.dev, NULL) < 0)
			__builtin_trap();
		driver_start(&m.d, m.h, SLOT, DRIVER_ALL);
	}
	start_driver(&m, size && (data[0] & 2) ? DRIVER_ALL : DRIVER_SPLIT);
	for (size_t at = 1; at + 8 <= size && at < 8 * 300; at += 8)
		step(&m, data + at);
	return 0;
}
