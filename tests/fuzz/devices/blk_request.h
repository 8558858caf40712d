/* A request to a disk out of eight bytes of a fuzzer's input. */
#pragma once

#include "base/bits.h"
#include "base/endian.h"
#include "device/driver.h"

/* Header at op[1] * 64 in the area; then either as a driver does it, or up to 8 pieces with sizes by op[6] and op[7]. */
static inline void blk_request(struct driver *d, gpa_t area, const uint8_t *op)
{
	static const uint32_t types[8] = {0, 1, 8, 1, 4, 11, UINT32_MAX, 13};
	static const uint32_t sizes[8] = {16, 1, 512, 513, 4096, 15, 32, 3};
	struct driver_queue *q = &d->queues[0];
	unsigned n = 1 + (op[5] & 7), n_out = op[5] >> 3 & 7;
	struct driver_buf bufs[8];
	gpa_t at = area + op[1] * 64u;
	uint8_t *header = harness_ptr(d->h, at, 16);

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
		bufs[1] = (struct driver_buf){area, (op[2] & 7) < 4 ? op[6] % 32 * 512u : 16,
					      !(op[2] & 1)};
		bufs[2] = (struct driver_buf){at, 1, true};
		bufs[0].writable = false;
		n = 3;
	}
	q->indirect = op[5] & 0x40;
	if (driver_has_room(q, n))
		driver_add(q, bufs, n);
}
