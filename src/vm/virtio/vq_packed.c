/*
 * The packed virtqueue (VIRTIO 1.2, section 2.8): one ring of descriptors that both sides write. Whose turn a slot is
 * shows in two of its flags, compared with a wrap counter that flips each time round. A position is an index in bits
 * 14:0 with the wrap counter in bit 15, as in the event structures.
 */
#include <errno.h>

#include "vm/virtio/vq_int.h"

#define PACKED_INDEX 0x7fffu
#define PACKED_WRAP  0x8000u

/* Within a descriptor, section 2.8.13. */
#define PACKED_LEN   8
#define PACKED_ID    12
#define PACKED_FLAGS 14

/* Event suppression structures, section 2.8.14. */
#define EVENT_OFF_WRAP 0
#define EVENT_FLAGS    2
#define EVENT_BYTES    4
#define EVENT_ENABLE   0u
#define EVENT_DISABLE  1u
#define EVENT_DESC     2u

static uint8_t *packed_slot(const struct vq *vq, unsigned index, size_t field)
{
	return (uint8_t *)vq->desc_hva + index * VQ_DESC_BYTES + field;
}

static uint16_t packed_advance(const struct vq *vq, uint16_t position, unsigned slots)
{
	unsigned index = (position & PACKED_INDEX) + slots;
	unsigned wrap = position & PACKED_WRAP;

	if (index >= vq->size) {
		index -= vq->size;
		wrap ^= PACKED_WRAP;
	}
	return (uint16_t)(index | wrap);
}

static uint16_t packed_retreat(const struct vq *vq, uint16_t position, unsigned slots)
{
	unsigned index = position & PACKED_INDEX;
	unsigned wrap = position & PACKED_WRAP;

	if (index < slots) {
		index += vq->size;
		wrap ^= PACKED_WRAP;
	}
	return (uint16_t)((index - slots) | wrap);
}

int vq_packed_map(struct vq *vq)
{
	/* Alignments of section 2.8.10. */
	if (vq->desc % 16 != 0 || vq->avail % 4 != 0 || vq->used % 4 != 0)
		return vq_fail(vq, "misaligned ring");
	vq->desc_hva = gmem_ptr(vq->mem, vq->desc, VQ_DESC_BYTES * vq->size);
	vq->avail_hva = gmem_ptr(vq->mem, vq->avail, EVENT_BYTES);
	vq->used_hva = gmem_ptr(vq->mem, vq->used, EVENT_BYTES);
	return 0;
}

/* --- taking --- */

/* Is the slot ours, seen by its flags? Acquire: the rest of the chain was written before them. */
static bool packed_available(const struct vq *vq, uint16_t position)
{
	unsigned flags = vq_load16_acquire(packed_slot(vq, position & PACKED_INDEX, PACKED_FLAGS));
	bool wrap = position & PACKED_WRAP;

	return !!(flags & VQ_DESC_AVAIL) == wrap && !!(flags & VQ_DESC_USED) != wrap;
}

bool vq_packed_pending(const struct vq *vq)
{
	return packed_available(vq, vq->next_avail);
}

/* Section 2.8.7: entries follow each other; of their flags WRITE alone has a meaning. */
static int packed_take_indirect(struct vq *vq, struct vq_req *req, const struct vq_desc *head)
{
	unsigned n;
	const void *table = vq_indirect_table(vq, head, &n);

	if (!table)
		return -EINVAL;
	if (n > VQ_MAX_SEGS)
		return vq_fail(vq, "descriptor chain too long");
	for (unsigned i = 0; i < n; i++) {
		struct vq_desc desc = vq_desc_load(table, i);
		int r;

		if (desc.w7 & VQ_DESC_INDIRECT)
			return vq_fail(vq, "indirect descriptor where there may be none");
		r = vq_req_add(vq, req, &desc, desc.w7 & VQ_DESC_WRITE);
		if (r < 0)
			return r;
	}
	return 0;
}

int vq_packed_pop(struct vq *vq, struct vq_req *req)
{
	unsigned index = vq->next_avail & PACKED_INDEX;

	if (!packed_available(vq, vq->next_avail))
		return 0;
	if (unlikely(vq->in_flight >= vq->size))
		return vq_fail(vq, "more requests than descriptors");
	for (unsigned slots = 1; slots <= vq->size; slots++) {
		struct vq_desc desc = vq_desc_load(vq->desc_hva, index);
		unsigned flags = desc.w7;
		int r;

		if (!(flags & VQ_DESC_INDIRECT))
			r = vq_req_add(vq, req, &desc, flags & VQ_DESC_WRITE);
		else if (flags & VQ_DESC_NEXT)
			r = vq_fail(vq, "indirect descriptor where there may be none");
		else
			r = packed_take_indirect(vq, req, &desc);
		if (unlikely(r < 0))
			return r;
		if (!(flags & VQ_DESC_NEXT)) {
			req->id = desc.w6; /* the last one's counts */
			req->n_descs = (uint16_t)slots;
			vq->next_avail = packed_advance(vq, vq->next_avail, slots);
			return 1;
		}
		if (++index == vq->size)
			index = 0;
	}
	return vq_fail(vq, "descriptor chain with a loop");
}

void vq_packed_unpop(struct vq *vq, const struct vq_req *req)
{
	vq->next_avail = packed_retreat(vq, vq->next_avail, req->n_descs);
}

/* --- giving back --- */

void vq_packed_push_delayed(struct vq *vq, const struct vq_req *req, uint32_t written, unsigned n)
{
	uint16_t position;
	unsigned index;
	uint16_t flags;

	if (n == 0)
		vq->batch_slots = 0;
	position = packed_advance(vq, vq->next_used, vq->batch_slots);
	index = position & PACKED_INDEX;
	flags = position & PACKED_WRAP ? VQ_DESC_AVAIL | VQ_DESC_USED : 0;
	if (written)
		flags |= VQ_DESC_WRITE;
	vq_store32(packed_slot(vq, index, PACKED_LEN), written);
	vq_store16(packed_slot(vq, index, PACKED_ID), req->id);
	/* The driver takes them in order, so those after the first are hidden while the first is. */
	if (n == 0)
		vq->batch_flags = flags;
	else
		vq_store16_release(packed_slot(vq, index, PACKED_FLAGS), flags);
	gmem_mark_dirty(vq->mem, vq->desc + index * VQ_DESC_BYTES, VQ_DESC_BYTES);
	vq->batch_slots = (uint16_t)(vq->batch_slots + req->n_descs);
}

void vq_packed_push_flush(struct vq *vq)
{
	unsigned index = vq->next_used & PACKED_INDEX;

	vq_store16_release(packed_slot(vq, index, PACKED_FLAGS), vq->batch_flags);
	gmem_mark_dirty(vq->mem, vq->desc + index * VQ_DESC_BYTES, VQ_DESC_BYTES);
	vq->next_used = packed_advance(vq, vq->next_used, vq->batch_slots);
	vq->batch_slots = 0;
}

/* --- notifications --- */

/* A position as a distance on the lap of `now`: one of the other wrap counter is a lap behind. */
static uint16_t packed_unroll(const struct vq *vq, uint16_t position, uint16_t now)
{
	unsigned index = position & PACKED_INDEX;

	return (uint16_t)(((position ^ now) & PACKED_WRAP) ? index - vq->size : index);
}

bool vq_packed_should_signal(struct vq *vq)
{
	uint16_t now = vq->next_used;
	uint16_t before = vq->signalled_used;
	bool valid = vq->signalled_valid;
	uint16_t now_index = now & PACKED_INDEX;
	uint16_t event;
	uint32_t area;

	vq->signalled_used = now;
	vq->signalled_valid = true;
	if (valid && now == before)
		return false;
	/* The driver asks for interrupts, then looks at the ring once more; we the other way round. */
	vq_full_barrier();
	area = vq_load32(vq->avail_hva); /* both halves at once */
	switch (area >> (8 * EVENT_FLAGS) & 3) {
	case EVENT_DISABLE:
		return false;
	case EVENT_DESC:
		if (!vq->event_idx || !valid)
			return true;
		event = packed_unroll(vq, (uint16_t)area, now);
		before = packed_unroll(vq, before, now);
		return (uint16_t)(now_index - event - 1) < (uint16_t)(now_index - before);
	default:
		return true;
	}
}

void vq_packed_kicks(struct vq *vq, bool on)
{
	uint8_t *area = vq->used_hva;
	uint16_t flags = EVENT_DISABLE;

	if (on && vq->event_idx)
		vq_store16(area + EVENT_OFF_WRAP, vq->next_avail);
	if (on)
		flags = vq->event_idx ? EVENT_DESC : EVENT_ENABLE;
	vq_store16_release(area + EVENT_FLAGS, flags);
	gmem_mark_dirty(vq->mem, vq->used, EVENT_BYTES);
}
