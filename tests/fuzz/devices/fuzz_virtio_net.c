/*
 * The network device: requests of any shape on every queue, commands to the control queue, rings overwritten, frames from a
 * backend that is full at times, pause, reset, link changes in between.
 */
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "fuzz/devices/net_request.h"
#include "vm/devices/virtio_net.h"
#include "vm/net/null.h"

#define SLOT 1

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct machine {
	struct harness *h;
	struct device *dev;
	struct net_backend *net;
	struct driver d;
};

static void push_frame(struct machine *m, const uint8_t *op, const uint8_t *rest, size_t left)
{
	static uint8_t frame[NET_HDR_BYTES + NET_MAX_FRAME_BYTES];
	size_t len = MIN(op[2] * 257u, sizeof(frame));

	memcpy(frame, rest, MIN(left, len));
	net_null_push(m->net, op[1] % 2, frame, len);
}

static void step(struct machine *m, const uint8_t *op, const uint8_t *rest, size_t left)
{
	struct driver_queue *q = &m->d.queues[op[1] % m->d.n_queues];
	unsigned what = op[0] % 16;

	if (what == 0) {
		device_pause(m->dev);
		if (op[1] & 1) {
			device_reset(m->dev);
			pci_bus_assign(m->h->env.pci, NULL);
			harness_config_out(m->h, SLOT, 4, 2, 6);
		}
		device_resume(m->dev);
	} else if (what == 1) {
		driver_set_status(&m->d, op[1]);
	} else if (what == 2) {
		net_null_block(m->net, op[1] & 1);
	} else if (what == 3) {
		virtio_net_set_link(m->dev, op[1] & 1);
	} else if (what == 4 && q->size) {
		memcpy(harness_ptr(m->h, (op[2] & 1 ? q->desc : q->avail) + op[3] * 4u, 4), op + 4,
		       2);
	} else if (what <= 7) {
		loop_run_once(m->h->env.loop, 0);
	} else if (what <= 9) {
		push_frame(m, op, rest, left);
	} else {
		net_request(&m->d, op, rest, left);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct machine m = {.h = harness_new()};
	struct virtio_net_config config = {.id = "net", .queue_size = 64, .slot = SLOT};

	log_init("fuzz", LOG_ERROR);
	if (net_null_open_with(m.h->env.loop, 2, 15, 15, &m.net) < 0)
		abort();
	config.backend = m.net;
	if (size > 1 && virtio_net_new(&m.h->env, &config, &m.dev, NULL) == 0) {
		driver_start(&m.d, m.h, SLOT,
			     (data[0] & 1 ? DRIVER_ALL : DRIVER_SPLIT) &
				     ~((data[0] & 6u) << 14 | (data[0] & 8u) << 19));
		for (size_t at = 1; at + 6 <= size && at < 6 * 500; at += 6)
			step(&m, data + at, data + at + 6, size - at - 6);
		device_free(m.dev);
		for (unsigned i = 0; i < m.d.n_queues; i++)
			free(m.d.queues[i].reqs);
		free(m.d.queues);
	} else {
		net_backend_free(m.net);
	}
	harness_free(m.h);
	return 0;
}
