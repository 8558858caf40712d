/*
 * The split virtqueue (VIRTIO 1.2, section 2.7): a descriptor table, an available ring that the driver writes and a used
 * ring that we write. Indexes run freely over 16 bits; a ring's size is a power of two.
 */
#include <errno.h>

#include "base/bits.h"
#include "vm/virtio/vq_int.h"

/* Section 2.7.6. */
#define AVAIL_FLAGS        0
#define AVAIL_IDX          2
#define AVAIL_RING         4
#define AVAIL_NO_INTERRUPT 1u
/* Section 2.7.8. */
#define USED_FLAGS     0
#define USED_IDX       2
#define USED_RING      4
#define USED_NO_NOTIFY 1u

static uint8_t *split_avail(const struct vq *vq, size_t offset)
{
	return (uint8_t *)vq->avail_hva + offset;
}

static uint8_t *split_used(const struct vq *vq, size_t offset)
{
	return (uint8_t *)vq->used_hva + offset;
}

/* Where the driver says when it wants an interrupt, and we when we want a kick: after either ring's elements. */
static size_t split_used_event_offset(const struct vq *vq)
{
	return AVAIL_RING + 2u * vq->size;
}

static size_t split_avail_event_offset(const struct vq *vq)
{
	return USED_RING + 8u * vq->size;
}

int vq_split_map(struct vq *vq)
{
	if (!is_power_of_two(vq->size))
		return vq_fail(vq, "size of a split ring is no power of two");
	/* Alignments of section 2.7. */
	if (vq->desc % 16 != 0 || vq->avail % 2 != 0 || vq->used % 4 != 0)
		return vq_fail(vq, "misaligned ring");
	vq->desc_hva = gmem_ptr(vq->mem, vq->desc, VQ_DESC_BYTES * vq->size);
	vq->avail_hva = gmem_ptr(vq->mem, vq->avail, split_used_event_offset(vq) + 2);
	vq->used_hva = gmem_ptr(vq->mem, vq->used, split_avail_event_offset(vq) + 2);
	return 0;
}

/* --- taking --- */

/* Descriptors from `at` on, linked within a table of n entries. */
static int split_walk(struct vq *vq, struct vq_req *req, const void *table, unsigned n, unsigned at,
		      bool indirect)
{
	for (unsigned left = MIN(n, (unsigned)VQ_MAX_SEGS); left > 0; left--) {
		struct vq_desc desc = vq_desc_load(table, at);
		unsigned flags = desc.w6;
		int r;

		if (unlikely(flags & VQ_DESC_INDIRECT)) {
			const void *sub;
			unsigned sub_n;

			if (indirect || (flags & VQ_DESC_NEXT))
				return vq_fail(vq, "indirect descriptor where there may be none");
			sub = vq_indirect_table(vq, &desc, &sub_n);
			return sub ? split_walk(vq, req, sub, sub_n, 0, true) : -EINVAL;
		}
		r = vq_req_add(vq, req, &desc, flags & VQ_DESC_WRITE);
		if (unlikely(r < 0))
			return r;
		if (!(flags & VQ_DESC_NEXT))
			return 0;
		at = desc.w7;
		if (unlikely(at >= n))
			return vq_fail(vq, "descriptor index out of range");
	}
	return vq_fail(vq, "descriptor chain too long, or with a loop");
}

/* Are there requests? Reads the driver's index only when all that it showed before is taken. */
static int split_look(struct vq *vq)
{
	uint16_t idx;

	if (vq->next_avail != vq->avail_seen)
		return 1;
	idx = vq_load16_acquire(split_avail(vq, AVAIL_IDX));
	if (unlikely((uint16_t)(idx - vq->next_avail) > vq->size))
		return vq_fail(vq, "available index jumps");
	vq->avail_seen = idx;
	return idx != vq->next_avail;
}

int vq_split_pop(struct vq *vq, struct vq_req *req)
{
	uint16_t head;
	int r;

	r = split_look(vq);
	if (r <= 0)
		return r;
	if (unlikely(vq->in_flight >= vq->size))
		return vq_fail(vq, "more requests than descriptors");
	head = vq_load16(split_avail(vq, AVAIL_RING + 2u * (vq->next_avail & (vq->size - 1u))));
	if (unlikely(head >= vq->size))
		return vq_fail(vq, "head index out of range");
	r = split_walk(vq, req, vq->desc_hva, vq->size, head, false);
	if (unlikely(r < 0))
		return r;
	req->id = head;
	req->n_descs = 1;
	vq->next_avail++;
	return 1;
}

bool vq_split_pending(const struct vq *vq)
{
	return vq_load16_acquire(split_avail(vq, AVAIL_IDX)) != vq->next_avail;
}

/* --- giving back --- */

void vq_split_push_delayed(struct vq *vq, const struct vq_req *req, uint32_t written, unsigned n)
{
	size_t offset = USED_RING + 8u * ((vq->next_used + n) & (vq->size - 1u));

	vq_store32(split_used(vq, offset), req->id);
	vq_store32(split_used(vq, offset + 4), written);
	gmem_mark_dirty(vq->mem, vq->used + offset, 8);
}

void vq_split_push_flush(struct vq *vq, unsigned n)
{
	vq->next_used = (uint16_t)(vq->next_used + n);
	vq_store16_release(split_used(vq, USED_IDX), vq->next_used);
	gmem_mark_dirty(vq->mem, vq->used + USED_IDX, 2);
}

/* --- notifications --- */

bool vq_split_should_signal(struct vq *vq)
{
	uint16_t now = vq->next_used;
	uint16_t before = vq->signalled_used;
	bool valid = vq->signalled_valid;
	uint16_t event;

	vq->signalled_used = now;
	vq->signalled_valid = true;
	if (valid && now == before)
		return false;
	/* The driver asks for interrupts, then looks at the used index once more; we the other way round. */
	vq_full_barrier();
	if (!vq->event_idx)
		return !(vq_load16(split_avail(vq, AVAIL_FLAGS)) & AVAIL_NO_INTERRUPT);
	if (!valid)
		return true;
	event = vq_load16(split_avail(vq, split_used_event_offset(vq)));
	/* Section 2.7.10: was the element at `event` among those just used? */
	return (uint16_t)(now - event - 1) < (uint16_t)(now - before);
}

void vq_split_kicks(struct vq *vq, bool on)
{
	size_t offset = USED_FLAGS;
	uint16_t value = on ? 0 : USED_NO_NOTIFY;

	if (vq->event_idx) {
		/* An event that stands still is passed once and then asks for nothing. */
		if (!on)
			return;
		offset = split_avail_event_offset(vq);
		value = vq->next_avail;
	}
	vq_store16(split_used(vq, offset), value);
	gmem_mark_dirty(vq->mem, vq->used + offset, 2);
}
