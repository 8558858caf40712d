/*
 * What split and packed virtqueues have in common: life, requests and their buffers, state; and the choice between the
 * two. The formats are in vq_split.c and vq_packed.c. (VIRTIO 1.2, section 2.6.)
 */
#include "vm/virtio/vq.h"

#include <errno.h>

#include "base/bits.h"
#include "vm/virtio/vq_int.h"

#define VQ_MAX_REQ_BYTES (4 * GIB)

void vq_init(struct vq *vq, struct gmem *mem, uint16_t max_size)
{
	*vq = (struct vq){.mem = mem};
	vq->max_size = MIN(max_size, (uint16_t)VQ_MAX_SIZE);
	pthread_mutex_init(&vq->lock, NULL);
	vq_reset(vq);
}

void vq_fini(struct vq *vq)
{
	pthread_mutex_destroy(&vq->lock);
}

void vq_reset(struct vq *vq)
{
	uint8_t held = vq->held & (VQ_HELD_PAUSED | VQ_HELD_MASTER);

	vq->size = vq->max_size;
	vq->enabled = false;
	vq->desc = 0;
	vq->avail = 0;
	vq->used = 0;
	vq->msix_vector = VQ_NO_VECTOR;
	vq->packed = false;
	vq->event_idx = false;
	vq->indirect = false;
	vq->next_avail = 0;
	vq->next_used = 0;
	vq->avail_seen = 0;
	vq->signalled_used = 0;
	vq->signalled_valid = false;
	vq->notify_off = false;
	vq->held = held;
	vq->broken = false;
	vq->broken_why = NULL;
	vq->in_flight = 0;
	vq->batch_slots = 0;
	vq->desc_hva = NULL;
	vq->avail_hva = NULL;
	vq->used_hva = NULL;
}

int vq_fail(struct vq *vq, const char *why)
{
	vq->broken = true;
	vq->broken_why = why;
	return -EINVAL;
}

static int vq_map(struct vq *vq)
{
	int r;

	if (vq->size == 0 || vq->size > vq->max_size)
		return vq_fail(vq, "queue size out of range");
	r = vq->packed ? vq_packed_map(vq) : vq_split_map(vq);
	if (r < 0)
		return r;
	if (!vq->desc_hva || !vq->avail_hva || !vq->used_hva)
		return vq_fail(vq, "ring outside of memory");
	return 0;
}

int vq_enable(struct vq *vq)
{
	int r = vq_map(vq);

	if (r < 0)
		return r;
	/* Packed rings start with both wrap counters at 1 (section 2.8.1). */
	vq->next_avail = vq->packed ? 1u << 15 : 0;
	vq->next_used = vq->next_avail;
	vq->avail_seen = vq->next_avail;
	vq->signalled_valid = false;
	vq->in_flight = 0;
	vq->enabled = true;
	return 0;
}

/* --- buffers --- */

static int vq_req_add_piece(struct vq *vq, struct vq_req *req, void *hva, uint64_t len,
			    bool writable)
{
	uint32_t n = req->n_out + req->n_in;

	if (unlikely(n >= req->max_iov))
		return vq_fail(vq, "descriptor chain too long");
	req->iov[n] = (struct iovec){.iov_base = hva, .iov_len = len};
	if (writable)
		req->n_in++;
	else
		req->n_out++;
	return 0;
}

/* A buffer that no one region holds. */
static int vq_req_add_across(struct vq *vq, struct vq_req *req, gpa_t gpa, uint64_t len,
			     bool writable)
{
	const struct gmem_region *regions;
	size_t n = gmem_regions(vq->mem, &regions);

	/* Regions are sorted: one pass finds every piece in order. */
	for (size_t i = 0; i < n && len > 0; i++) {
		uint64_t offset = gpa - regions[i].gpa;
		uint64_t part;
		int r;

		if (offset >= regions[i].size || (writable && regions[i].readonly))
			continue;
		part = MIN(len, regions[i].size - offset);
		r = vq_req_add_piece(vq, req, regions[i].hva + offset, part, writable);
		if (r < 0)
			return r;
		gpa += part;
		len -= part;
	}
	return len ? vq_fail(vq, "buffer outside of memory") : 0;
}

int vq_req_add(struct vq *vq, struct vq_req *req, const struct vq_desc *desc, bool writable)
{
	uint64_t *sum = writable ? &req->in_bytes : &req->out_bytes;
	union {
		const void *ro;
		void *rw;
	} hva; /* iovecs of readable buffers are only read */

	if (unlikely(!writable && req->n_in))
		return vq_fail(vq, "readable descriptor after a writable one");
	if (unlikely(desc->len == 0))
		return 0;
	*sum += desc->len;
	if (unlikely(*sum > VQ_MAX_REQ_BYTES))
		return vq_fail(vq, "request of more than 4 GiB");
	if (writable)
		hva.rw = gmem_ptr(vq->mem, desc->addr, desc->len);
	else
		hva.ro = gmem_ptr_ro(vq->mem, desc->addr, desc->len);
	if (unlikely(!hva.ro))
		return vq_req_add_across(vq, req, desc->addr, desc->len, writable);
	return vq_req_add_piece(vq, req, hva.rw, desc->len, writable);
}

const void *vq_indirect_table(struct vq *vq, const struct vq_desc *desc, unsigned *ret_n)
{
	const void *table;

	if (!vq->indirect) {
		vq_fail(vq, "indirect descriptor without the feature");
		return NULL;
	}
	if (desc->len == 0 || desc->len % VQ_DESC_BYTES != 0) {
		vq_fail(vq, "indirect table of a bad size");
		return NULL;
	}
	table = gmem_ptr_ro(vq->mem, desc->addr, desc->len);
	if (!table) {
		vq_fail(vq, "indirect table outside of memory");
		return NULL;
	}
	*ret_n = desc->len / VQ_DESC_BYTES;
	return table;
}

/* The guest address of a buffer that vq_req_add() found. */
static void vq_mark_piece(struct vq *vq, const void *hva, uint64_t len)
{
	const struct gmem_region *regions;
	size_t n = gmem_regions(vq->mem, &regions);

	for (size_t i = 0; i < n; i++) {
		uint64_t offset = (uintptr_t)hva - (uintptr_t)regions[i].hva;

		if (offset >= regions[i].size)
			continue;
		gmem_mark_dirty(vq->mem, regions[i].gpa + offset, len);
		return;
	}
}

static void vq_mark_written(struct vq *vq, const struct vq_req *req, uint64_t written)
{
	const struct iovec *iov = req->iov + req->n_out;

	for (uint32_t i = 0; i < req->n_in && written > 0; i++) {
		uint64_t part = MIN(written, (uint64_t)iov[i].iov_len);

		vq_mark_piece(vq, iov[i].iov_base, part);
		written -= part;
	}
}

/* --- requests --- */

int vq_pop(struct vq *vq, struct vq_req *req)
{
	int r;

	if (unlikely(!vq_usable(vq)))
		return 0;
	req->n_out = 0;
	req->n_in = 0;
	req->out_bytes = 0;
	req->in_bytes = 0;
	r = vq->packed ? vq_packed_pop(vq, req) : vq_split_pop(vq, req);
	if (r > 0)
		vq->in_flight++;
	return r;
}

void vq_unpop(struct vq *vq, const struct vq_req *req)
{
	if (!vq->used_hva)
		return;
	if (vq->packed)
		vq_packed_unpop(vq, req);
	else
		vq->next_avail--;
	if (vq->in_flight)
		vq->in_flight--;
}

void vq_push_delayed(struct vq *vq, const struct vq_req *req, uint32_t written, unsigned n)
{
	/* A request that outlived its queue goes nowhere. */
	if (unlikely(!vq->used_hva))
		return;
	vq_mark_written(vq, req, written);
	if (vq->packed)
		vq_packed_push_delayed(vq, req, written, n);
	else
		vq_split_push_delayed(vq, req, written, n);
	if (vq->in_flight)
		vq->in_flight--;
}

void vq_push_flush(struct vq *vq, unsigned n)
{
	if (unlikely(!vq->used_hva) || n == 0)
		return;
	if (vq->packed)
		vq_packed_push_flush(vq);
	else
		vq_split_push_flush(vq, n);
}

void vq_push(struct vq *vq, const struct vq_req *req, uint32_t written)
{
	vq_push_delayed(vq, req, written, 0);
	vq_push_flush(vq, 1);
}

/* --- notifications --- */

bool vq_should_signal(struct vq *vq)
{
	if (!vq->used_hva)
		return false;
	return vq->packed ? vq_packed_should_signal(vq) : vq_split_should_signal(vq);
}

bool vq_kicks_on(struct vq *vq)
{
	vq->notify_off = false;
	if (!vq_usable(vq))
		return false;
	if (vq->packed)
		vq_packed_kicks(vq, true);
	else
		vq_split_kicks(vq, true);
	/* What we just asked for is seen before we look whether it came too late. */
	vq_full_barrier();
	return vq_pending(vq);
}

void vq_kicks_off(struct vq *vq)
{
	if (vq->notify_off || !vq_usable(vq))
		return;
	vq->notify_off = true;
	if (vq->packed)
		vq_packed_kicks(vq, false);
	else
		vq_split_kicks(vq, false);
}

bool vq_pending(struct vq *vq)
{
	if (!vq_usable(vq))
		return false;
	return vq->packed ? vq_packed_pending(vq) : vq_split_pending(vq);
}

/* --- state --- */

static bool vq_position_valid(const struct vq *vq, uint16_t position)
{
	return !vq->packed || (position & 0x7fff) < vq->size;
}

static int vq_post_load(void *obj, struct error *err)
{
	struct vq *vq = obj;

	vq->desc_hva = NULL;
	vq->avail_hva = NULL;
	vq->used_hva = NULL;
	vq->batch_slots = 0;
	vq->avail_seen = vq->next_avail;
	vq->broken_why = vq->broken ? "broken before it was saved" : NULL;
	if (vq->size > vq->max_size)
		return error_set(err, -EINVAL,
				 "the saved virtqueue has %u entries, this device's have %u",
				 vq->size, vq->max_size);
	if (!vq->enabled || vq->broken)
		return 0;
	if (vq_map(vq) < 0)
		return error_set(err, -EINVAL, "the saved virtqueue is invalid: %s",
				 vq->broken_why);
	if (!vq_position_valid(vq, vq->next_avail) || !vq_position_valid(vq, vq->next_used) ||
	    !vq_position_valid(vq, vq->signalled_used) || vq->in_flight > vq->size)
		return error_set(err, -EINVAL, "the saved virtqueue stands outside of its ring");
	return 0;
}

static const struct state_field vq_fields[] = {
	STATE_UINT_MAX(struct vq, size, VQ_MAX_SIZE),
	STATE_UINT(struct vq, enabled),
	STATE_UINT(struct vq, desc),
	STATE_UINT(struct vq, avail),
	STATE_UINT(struct vq, used),
	STATE_UINT(struct vq, msix_vector),
	STATE_UINT(struct vq, packed),
	STATE_UINT(struct vq, event_idx),
	STATE_UINT(struct vq, indirect),
	STATE_UINT(struct vq, next_avail),
	STATE_UINT(struct vq, next_used),
	STATE_UINT(struct vq, signalled_used),
	STATE_UINT(struct vq, signalled_valid),
	STATE_UINT(struct vq, notify_off),
	STATE_UINT(struct vq, broken),
	STATE_UINT_MAX(struct vq, in_flight, VQ_MAX_SIZE),
};

const struct state_table vq_state_table = {
	.name = "virtqueue",
	.version = 1,
	STATE_FIELDS(vq_fields),
	.post_load = vq_post_load,
};
