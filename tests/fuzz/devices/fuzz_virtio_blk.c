/*
 * virtio-blk requests: commands of every kind with data cut anyhow, rewritten while they are in flight, with resets of the
 * device and of its queue, pauses and configuration accesses in between. The disk is a memfd.
 */
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/endian.h"
#include "base/log.h"
#include "device/driver.h"
#include "vm/devices/virtio_blk.h"

#define SLOT 1

struct machine {
	struct harness *h;
	struct device *dev;
	struct driver d;
	gpa_t area; /* guest memory that requests use */
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Header at op[1] * 64 in the area; then either as a driver does it, or up to 8 pieces with sizes by op[6] and op[7]. */
static void add_request(struct machine *m, const uint8_t *op)
{
	static const uint32_t types[8] = {0, 1, 8, 1, 4, 11, UINT32_MAX, 13};
	static const uint32_t sizes[8] = {16, 1, 512, 513, 4096, 15, 32, 3};
	struct driver_queue *q = &m->d.queues[0];
	unsigned n = 1 + (op[5] & 7), n_out = op[5] >> 3 & 7;
	struct driver_buf bufs[8];
	gpa_t at = m->area + op[1] * 64u;
	uint8_t *header = harness_ptr(m->h, at, 16);

	le_store(header, 4, types[op[2] & 7]);
	le_store(header + 8, 8, op[2] & 8 ? UINT64_MAX - op[3] : (op[3] | op[4] << 8) & 0x3ff);
	for (unsigned i = 0; i < n; i++) {
		bufs[i] =
			(struct driver_buf){at, sizes[op[6 + i % 2] >> i / 2 * 2 & 7], i >= n_out};
		if (i == 0 && !(op[5] & 0x80))
			bufs[i].len = 16;
		at += bufs[i].len;
	}
	if (op[2] & 16) {
		bufs[0].len = 16;
		bufs[1] = (struct driver_buf){m->area, (op[2] & 7) < 4 ? op[6] % 32 * 512u : 16,
					      !(op[2] & 1)};
		bufs[2] = (struct driver_buf){at, 1, true};
		bufs[0].writable = false;
		n = 3;
	}
	q->indirect = op[5] & 0x40;
	if (driver_has_room(q, n))
		driver_add(q, bufs, n);
}

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
		add_request(m, op);
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
