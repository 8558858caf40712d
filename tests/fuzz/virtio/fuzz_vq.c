/*
 * A virtqueue over memory that the input fills: both formats, all features, requests taken, written to, given back alone or
 * in batches, while the rings change in between.
 */
#include <string.h>

#include "base/bits.h"
#include "vm/virtio/virtio.h"

#define RAM  (64 * KIB)
#define BITS 8 /* requests in flight */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct machine {
	struct gmem *mem;
	struct vq vq;
	struct vq_req reqs[BITS + 1];
	struct iovec iov[BITS + 1][32];
	unsigned taken; /* a bit for each of reqs but the last */
};

/* Takes into slot i, and touches what the request claims to be. */
static void take(struct machine *m, unsigned i)
{
	uint8_t byte;

	if (m->taken >> i & 1)
		return;
	m->reqs[i] = (struct vq_req){.iov = m->iov[i], .max_iov = 32};
	if (vq_pop(&m->vq, &m->reqs[i]) <= 0)
		return;
	m->taken |= 1u << i;
	for (unsigned k = 0; k < m->reqs[i].n_out; k++)
		iov_to_buf(&m->iov[i][k], 1, m->iov[i][k].iov_len - 1, &byte, 1);
	iov_from_buf(m->iov[i] + m->reqs[i].n_out, m->reqs[i].n_in, 0, "\xff\xff\xff", 3);
}

static void give(struct machine *m, unsigned mask, uint32_t written)
{
	unsigned n = 0;

	for (unsigned i = 0; i < BITS; i++) {
		if (mask & m->taken & (1u << i))
			vq_push_delayed(&m->vq, &m->reqs[i], written, n++);
	}
	m->taken &= ~mask;
	vq_push_flush(&m->vq, n);
	vq_should_signal(&m->vq);
}

static void step(struct machine *m, const uint8_t *op)
{
	switch (op[0] % 4) {
	case 0:
		memcpy(gmem_ptr(m->mem, (op[1] << 8 | op[2]) & ~3u, 4), op + 2, 4);
		break;
	case 1:
		give(m, op[1], op[2] * 100u);
		break;
	case 2:
		vq_kicks_off(&m->vq);
		vq_kicks_on(&m->vq);
		m->reqs[BITS] = (struct vq_req){.iov = m->iov[BITS], .max_iov = 32};
		if (vq_pop(&m->vq, &m->reqs[BITS]) > 0)
			vq_unpop(&m->vq, &m->reqs[BITS]);
		break;
	default:
		take(m, op[1] % BITS);
		break;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const struct gmem_config config = {.ram_bytes = RAM};
	struct machine m = {0};
	size_t steps;

	if (size < 16 || gmem_new(&config, &m.mem, NULL) < 0)
		return 0;
	gmem_add(m.mem, RAM, 4 * KIB, false, "more", NULL);
	gmem_dirty_start(m.mem);
	vq_init(&m.vq, m.mem, 256);
	m.vq.packed = data[0] & 1, m.vq.event_idx = data[0] & 2, m.vq.indirect = data[0] & 4;
	m.vq.size = data[1];
	m.vq.desc = data[2] * 16u;
	m.vq.avail = data[3] * 64u;
	m.vq.used = data[4] * 256u;
	/* Steps, then what memory holds. */
	steps = MIN((size_t)data[5] * 4, size);
	memcpy(gmem_ptr(m.mem, 0, RAM), data + steps, MIN(size - steps, RAM));
	vq_enable(&m.vq);
	for (size_t at = 6; at + 6 <= steps; at += 6)
		step(&m, data + at);
	vq_fini(&m.vq);
	gmem_free(m.mem);
	return 0;
}
