/*
 * Inside of the virtqueue: what the split and the packed ring share. All with vq->lock held.
 *
 * Ring memory is shared with a hostile driver on another CPU. Each field is loaded or stored whole, once, through the
 * helpers here; alignment was checked when the queue was enabled.
 */
#pragma once

#include <endian.h>

#include "vm/virtio/vq.h"

#define likely(x)   __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)

/* Descriptor flags, sections 2.7.5 and 2.8.1. */
#define VQ_DESC_NEXT     1u
#define VQ_DESC_WRITE    2u
#define VQ_DESC_INDIRECT 4u
#define VQ_DESC_AVAIL    (1u << 7)  /* packed */
#define VQ_DESC_USED     (1u << 15) /* packed */

#define VQ_DESC_BYTES 16u

/* A descriptor of either ring, in our byte order. */
struct vq_desc {
	uint64_t addr;
	uint32_t len;
	uint16_t w6; /* split: flags; packed: id */
	uint16_t w7; /* split: next; packed: flags */
};

static inline uint16_t vq_load16(const void *p)
{
	return le16toh(__atomic_load_n((const uint16_t *)p, __ATOMIC_RELAXED));
}
/* What the driver wrote before this value is seen after it. */
static inline uint16_t vq_load16_acquire(const void *p)
{
	return le16toh(__atomic_load_n((const uint16_t *)p, __ATOMIC_ACQUIRE));
}
static inline uint32_t vq_load32(const void *p)
{
	return le32toh(__atomic_load_n((const uint32_t *)p, __ATOMIC_RELAXED));
}
static inline void vq_store16(void *p, uint16_t v)
{
	__atomic_store_n((uint16_t *)p, htole16(v), __ATOMIC_RELAXED);
}
/* The driver sees what we wrote before, when it sees this. */
static inline void vq_store16_release(void *p, uint16_t v)
{
	__atomic_store_n((uint16_t *)p, htole16(v), __ATOMIC_RELEASE);
}
static inline void vq_store32(void *p, uint32_t v)
{
	__atomic_store_n((uint32_t *)p, htole32(v), __ATOMIC_RELAXED);
}
/* Between what one side writes and what it then reads of the other's. */
static inline void vq_full_barrier(void)
{
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
}

/* Copies a descriptor; an indirect table has no alignment of its own. */
static inline struct vq_desc vq_desc_load(const void *table, unsigned index)
{
	struct unaligned64 {
		uint64_t v;
	} __attribute__((packed));
	const volatile struct unaligned64 *p =
		(const void *)((const uint8_t *)table + index * VQ_DESC_BYTES);
	uint64_t addr = le64toh(p[0].v);
	uint64_t rest = le64toh(p[1].v);

	return (struct vq_desc){
		.addr = addr,
		.len = (uint32_t)rest,
		.w6 = (uint16_t)(rest >> 32),
		.w7 = (uint16_t)(rest >> 48),
	};
}

static inline bool vq_usable(const struct vq *vq)
{
	return vq->enabled && !vq->broken && !vq->held;
}

/* Marks the queue broken; why is a constant string. Returns -EINVAL. */
int vq_fail(struct vq *vq, const char *why);

/* Adds one descriptor's buffer to the request, in as many pieces as it has memory regions. */
int vq_req_add(struct vq *vq, struct vq_req *req, const struct vq_desc *desc, bool writable);

/* The table that an indirect descriptor points at; *ret_n: its entries. NULL: the queue is broken. */
const void *vq_indirect_table(struct vq *vq, const struct vq_desc *desc, unsigned *ret_n);

/* vq_packed.c */
int vq_packed_map(struct vq *vq);
int vq_packed_pop(struct vq *vq, struct vq_req *req);
void vq_packed_unpop(struct vq *vq, const struct vq_req *req);
void vq_packed_push_delayed(struct vq *vq, const struct vq_req *req, uint32_t written, unsigned n);
void vq_packed_push_flush(struct vq *vq);
bool vq_packed_should_signal(struct vq *vq);
void vq_packed_kicks(struct vq *vq, bool on);
bool vq_packed_pending(const struct vq *vq);

/* vq_split.c */
int vq_split_map(struct vq *vq);
int vq_split_pop(struct vq *vq, struct vq_req *req);
void vq_split_push_delayed(struct vq *vq, const struct vq_req *req, uint32_t written, unsigned n);
void vq_split_push_flush(struct vq *vq, unsigned n);
bool vq_split_should_signal(struct vq *vq);
void vq_split_kicks(struct vq *vq, bool on);
bool vq_split_pending(const struct vq *vq);
