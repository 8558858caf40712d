/*
 * Memory with a virtqueue in it, for tests that write rings by hand.
 *
 *	0          1 MiB of RAM: the three areas of the ring, then buffers
 *	1 MiB      another region of 64 KiB, adjacent
 *	RING_ROM   64 KiB that are read-only for the guest
 */
#pragma once

#include "unit/test.h"

#include <errno.h>

#include "base/bits.h"
#include "base/endian.h"
#include "vm/virtio/vq.h"

#define RING_RAM   (1 * MIB)
#define RING_ROM   (2 * MIB)
#define RING_DESC  0x1000
#define RING_AVAIL 0x2000
#define RING_USED  0x3000
#define RING_TABLE 0x4000
#define RING_DATA  0x10000

#define D_NEXT     1u
#define D_WRITE    2u
#define D_INDIRECT 4u

struct ring {
	struct gmem *mem;
	struct vq vq;
	struct iovec iov[64];
	struct vq_req req;
	unsigned slot; /* packed: where the driver stands */
	bool wrap;
};

static inline struct ring *ring_new(uint16_t size, bool packed, bool event_idx, bool indirect)
{
	const struct gmem_config config = {.ram_bytes = RING_RAM};
	struct ring *r = calloc(1, sizeof(*r));

	assert_non_null(r);
	assert_int_equal(gmem_new(&config, &r->mem, NULL), 0);
	assert_int_equal(gmem_add(r->mem, RING_RAM, 64 * KIB, false, "more", NULL), 0);
	assert_int_equal(gmem_add(r->mem, RING_ROM, 64 * KIB, true, "rom", NULL), 0);
	vq_init(&r->vq, r->mem, 256);
	r->vq.size = size;
	r->vq.packed = packed;
	r->vq.event_idx = event_idx;
	r->vq.indirect = indirect;
	r->vq.desc = RING_DESC;
	r->vq.avail = RING_AVAIL;
	r->vq.used = RING_USED;
	r->req = (struct vq_req){.iov = r->iov, .max_iov = ARRAY_SIZE(r->iov)};
	return r;
}

static inline void ring_free(struct ring *r)
{
	vq_fini(&r->vq);
	gmem_free(r->mem);
	free(r);
}

static inline void *ring_at(struct ring *r, gpa_t gpa)
{
	void *p = gmem_ptr(r->mem, gpa, 1);

	assert_non_null(p);
	return p;
}

static inline void put(struct ring *r, gpa_t gpa, unsigned size, uint64_t value)
{
	le_store(ring_at(r, gpa), size, value);
}

static inline uint64_t get(struct ring *r, gpa_t gpa, unsigned size)
{
	return le_load(ring_at(r, gpa), size);
}

/* A descriptor of a split ring or of its indirect table. */
static inline void put_desc(struct ring *r, gpa_t table, unsigned i, uint64_t addr, uint32_t len,
			    unsigned flags, unsigned next)
{
	put(r, table + 16 * i, 8, addr);
	put(r, table + 16 * i + 8, 4, len);
	put(r, table + 16 * i + 12, 2, flags);
	put(r, table + 16 * i + 14, 2, next);
}

/* A descriptor of a packed ring. */
static inline void put_packed(struct ring *r, gpa_t table, unsigned i, uint64_t addr, uint32_t len,
			      unsigned id, unsigned flags)
{
	put_desc(r, table, i, addr, len, id, flags);
}

/* A driver that breaks a rule: the queue says so, and takes nothing more. */
static inline void assert_breaks(struct ring *r, const char *why)
{
	assert_int_equal(vq_pop(&r->vq, &r->req), -EINVAL);
	assert_true(r->vq.broken);
	assert_string_equal(r->vq.broken_why, why);
	assert_int_equal(vq_pop(&r->vq, &r->req), 0);
	assert_false(vq_pending(&r->vq));
}
