/* A request to a network card out of six bytes of a fuzzer's input and those after them. */
#pragma once

#include <string.h>

#include "base/bits.h"
#include "device/driver.h"

#define NET_REQUEST_AREA 0x100000u /* where requests are; the driver's rings lie below */

/* A request of two pieces, whose first holds the input's next bytes: a command, or a frame's header. */
static inline void net_request(struct driver *d, const uint8_t *op, const uint8_t *rest,
			       size_t left)
{
	struct driver_queue *q = &d->queues[op[1] % d->n_queues];
	uint32_t len[2] = {op[2], op[3] * 300u};
	struct driver_buf bufs[2] = {
		{NET_REQUEST_AREA + op[4] * 64u, len[0], (op[5] & 1) != 0},
		{NET_REQUEST_AREA + op[4] * 512u, len[1], (op[5] & 3) != 0},
	};

	q->indirect = op[5] & 4;
	if (!q->size || !driver_has_room(q, 2))
		return;
	memcpy(harness_ptr(d->h, bufs[0].gpa, 256), rest, MIN(left, (size_t)256));
	driver_add(q, bufs, 1u + (op[5] >> 3 & 1));
	if (op[5] & 16)
		driver_kick_now(q);
}
