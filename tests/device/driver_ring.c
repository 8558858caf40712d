#include "device/driver.h"

#include "base/bits.h"
#include "base/endian.h"

/* --- adding --- */

static uint8_t *driver_area(struct driver_queue *q, gpa_t area, size_t offset)
{
	return harness_ptr(q->d->h, area + offset, 8);
}

static void store16(uint8_t *p, unsigned v)
{
	__atomic_store_n((uint16_t *)(void *)p, htole16((uint16_t)v), __ATOMIC_SEQ_CST);
}

static uint16_t load16(const uint8_t *p)
{
	return le16toh(__atomic_load_n((const uint16_t *)(const void *)p, __ATOMIC_SEQ_CST));
}

static uint32_t load32(const uint8_t *p)
{
	return le32toh(__atomic_load_n((const uint32_t *)(const void *)p, __ATOMIC_SEQ_CST));
}

/* Everything of a descriptor but the last two bytes, or the two before them. */
static void driver_desc(uint8_t *desc, gpa_t gpa, uint32_t len)
{
	le_store(desc, 8, gpa);
	le_store(desc + 8, 4, len);
}

static uint16_t packed_add(uint16_t position, unsigned n, uint16_t size)
{
	unsigned index = (position & 0x7fffu) + n;

	return (uint16_t)(index < size ? (position & 0x8000u) | index
				       : ((position & 0x8000u) ^ 0x8000u) | (index - size));
}

static unsigned driver_free_id(struct driver_queue *q)
{
	for (unsigned id = 0; id < q->size; id++) {
		if (!q->reqs[id].busy)
			return id;
	}
	fail_msg("the ring is full");
	return 0;
}

bool driver_has_room(const struct driver_queue *q, unsigned n)
{
	return q->free_slots >= (q->indirect ? 1 : n);
}

/* The pieces as an indirect table; returns what the ring holds instead. */
static struct driver_buf driver_make_table(struct driver_queue *q, unsigned id,
					   const struct driver_buf *bufs, unsigned n)
{
	gpa_t table = q->tables + 16ull * DRIVER_MAX_BUFS * id;

	for (unsigned i = 0; i < n; i++) {
		uint8_t *desc = harness_ptr(q->d->h, table + 16ull * i, 16);
		unsigned flags = bufs[i].writable ? 2 : 0;

		driver_desc(desc, bufs[i].gpa, bufs[i].len);
		if (q->packed) {
			le_store(desc + 12, 2, 0);
			le_store(desc + 14, 2, flags);
		} else {
			le_store(desc + 12, 2, flags | (i + 1 < n ? 1u : 0u));
			le_store(desc + 14, 2, i + 1);
		}
	}
	return (struct driver_buf){.gpa = table, .len = 16 * n};
}

/* Split: ids are head descriptors. Free descriptors are found by looking, tests have few. */
static unsigned split_add(struct driver_queue *q, const struct driver_buf *bufs, unsigned n,
			  bool indirect)
{
	unsigned id = driver_free_id(q);
	unsigned at = id;

	for (unsigned i = 0; i < n; i++) {
		uint8_t *desc = harness_ptr(q->d->h, q->desc + 16ull * at, 16);
		unsigned flags = (bufs[i].writable ? 2u : 0u) | (indirect ? 4u : 0u);
		unsigned next = at;

		q->reqs[at].busy = true;
		driver_desc(desc, bufs[i].gpa, bufs[i].len);
		if (i + 1 < n) {
			next = driver_free_id(q);
			flags |= 1;
		}
		le_store(desc + 12, 2, flags);
		le_store(desc + 14, 2, next);
		at = next;
	}
	store16(driver_area(q, q->avail, 4 + 2u * (q->next_slot % q->size)), id);
	q->next_slot++;
	store16(driver_area(q, q->avail, 2), q->next_slot);
	return id;
}

static unsigned packed_ring_add(struct driver_queue *q, const struct driver_buf *bufs, unsigned n,
				bool indirect)
{
	unsigned id = driver_free_id(q);
	uint16_t at = q->next_slot;

	q->reqs[id].busy = true;
	/* Last to first, so that the head's flags come last. */
	for (unsigned i = n; i-- > 0;) {
		uint16_t position = packed_add(at, i, q->size);
		uint8_t *desc = harness_ptr(q->d->h, q->desc + 16ull * (position & 0x7fff), 16);
		unsigned flags = (bufs[i].writable ? 2u : 0u) | (i + 1 < n ? 1u : 0u) |
				 (indirect ? 4u : 0u) | (position & 0x8000 ? 0x80u : 0x8000u);

		driver_desc(desc, bufs[i].gpa, bufs[i].len);
		le_store(desc + 12, 2, id);
		store16(desc + 14, flags);
	}
	q->next_slot = packed_add(at, n, q->size);
	return id;
}

unsigned driver_add(struct driver_queue *q, const struct driver_buf *bufs, unsigned n)
{
	bool indirect = q->indirect;
	struct driver_buf table;
	struct driver_req *req;
	unsigned slots = indirect ? 1 : n;
	unsigned id;

	assert_true(n > 0 && n <= DRIVER_MAX_BUFS);
	assert_true(driver_has_room(q, n));
	if (!q->d->h->outstanding++) {
		for (unsigned i = 0; i < n; i++)
			harness_dirty_forget(q->d->h, bufs[i].gpa, bufs[i].len);
	}
	if (indirect)
		table = driver_make_table(q, driver_free_id(q), bufs, n);
	id = (q->packed ? packed_ring_add : split_add)(q, indirect ? &table : bufs, slots,
						       indirect);
	req = &q->reqs[id];
	req->slots = (uint16_t)slots;
	req->n = n;
	memcpy(req->bufs, bufs, n * sizeof(*bufs));
	q->free_slots -= slots;
	return id;
}

/* --- kicks --- */

static bool split_wants_kick(struct driver_queue *q)
{
	uint16_t event;

	if (!q->event_idx)
		return !(load16(driver_area(q, q->used, 0)) & 1);
	event = load16(driver_area(q, q->used, 4 + 8u * q->size));
	return (uint16_t)(q->next_slot - event - 1) < (uint16_t)(q->next_slot - q->kicked);
}

static bool packed_wants_kick(struct driver_queue *q)
{
	uint32_t area = load32(driver_area(q, q->used, 0));
	uint16_t event = (uint16_t)area;

	switch (area >> 16 & 3) {
	case 0:
		return true;
	case 1:
		return false;
	}
	/* Was the event's position one of those filled since the last kick? */
	for (uint16_t at = q->kicked; at != q->next_slot; at = packed_add(at, 1, q->size)) {
		if (at == event)
			return true;
	}
	return false;
}

void driver_kick_now(struct driver_queue *q)
{
	q->kicked = q->next_slot;
	harness_out(q->d->h, q->doorbell, 2, q->index);
}

bool driver_kick(struct driver_queue *q)
{
	bool wanted;

	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	wanted = q->packed ? packed_wants_kick(q) : split_wants_kick(q);
	if (wanted)
		driver_kick_now(q);
	else
		q->kicked = q->next_slot;
	return wanted;
}

/* --- taking back --- */

static bool split_used(struct driver_queue *q, unsigned *ret_id, uint32_t *ret_len)
{
	uint8_t *element = driver_area(q, q->used, 4 + 8u * (q->next_used % q->size));
	unsigned at;

	if (load16(driver_area(q, q->used, 2)) == q->next_used)
		return false;
	*ret_id = load32(element);
	*ret_len = load32(element + 4);
	assert_true(*ret_id < q->size && q->reqs[*ret_id].slots);
	/* The chain's other descriptors are free again. */
	at = *ret_id;
	for (unsigned i = 0; i + 1 < q->reqs[*ret_id].slots; i++) {
		at = load16(harness_ptr(q->d->h, q->desc + 16ull * at + 14, 2));
		q->reqs[at].busy = false;
	}
	q->next_used++;
	if (q->event_idx && !q->quiet)
		store16(driver_area(q, q->avail, 4 + 2u * q->size), q->next_used);
	return true;
}

static bool packed_used(struct driver_queue *q, unsigned *ret_id, uint32_t *ret_len)
{
	uint8_t *desc = harness_ptr(q->d->h, q->desc + 16ull * (q->next_used & 0x7fff), 16);
	unsigned flags = load16(desc + 14);
	bool wrap = q->next_used & 0x8000;

	if (!!(flags & 0x80) != wrap || !!(flags & 0x8000) != wrap)
		return false;
	*ret_id = load16(desc + 12);
	*ret_len = flags & 2 ? load32(desc + 8) : 0;
	assert_true(*ret_id < q->size && q->reqs[*ret_id].slots);
	q->next_used = packed_add(q->next_used, q->reqs[*ret_id].slots, q->size);
	return true;
}

/* Whatever the device says it wrote it must have marked, or a migration would lose it. */
static void driver_check_dirty(struct driver_queue *q, const struct driver_req *req, uint32_t len)
{
	for (unsigned i = 0; i < req->n && len > 0; i++) {
		uint32_t part = MIN(len, req->bufs[i].len);

		if (!req->bufs[i].writable)
			continue;
		assert_true(harness_dirty(q->d->h, req->bufs[i].gpa, part));
		len -= part;
	}
	assert_int_equal(len, 0); /* more than there was room for */
}

bool driver_used(struct driver_queue *q, unsigned *ret_id, uint32_t *ret_len)
{
	struct driver_req *req;
	unsigned id = 0;
	uint32_t len = 0;

	if (!(q->packed ? packed_used : split_used)(q, &id, &len))
		return false;
	req = &q->reqs[id];
	assert_true(req->busy);
	driver_check_dirty(q, req, len);
	q->free_slots += req->slots;
	*req = (struct driver_req){0};
	q->d->h->outstanding--;
	if (ret_id)
		*ret_id = id;
	if (ret_len)
		*ret_len = len;
	return true;
}

struct driver_await {
	struct driver_queue *q;
	unsigned id;
	uint32_t len;
};

static bool driver_await(void *opaque)
{
	struct driver_await *await = opaque;

	return driver_used(await->q, &await->id, &await->len);
}

uint32_t driver_wait(struct driver_queue *q, unsigned *ret_id)
{
	struct driver_await await = {.q = q};

	harness_wait(q->d->h, driver_await, &await);
	if (ret_id)
		*ret_id = await.id;
	return await.len;
}

void driver_quiet(struct driver_queue *q, bool quiet)
{
	q->quiet = quiet;
	if (q->packed)
		store16(driver_area(q, q->avail, 2), quiet ? 1 : 0);
	else if (!q->event_idx)
		store16(driver_area(q, q->avail, 0), quiet ? 1 : 0);
	else
		store16(driver_area(q, q->avail, 4 + 2u * q->size),
			quiet ? q->next_used - 1u : q->next_used);
}

/* --- whole requests --- */

uint32_t driver_request(struct driver *d, unsigned queue, const void *out, uint32_t out_len,
			void *in, uint32_t in_len)
{
	struct driver_queue *q = &d->queues[queue];
	gpa_t mark = d->h->next_free;
	struct driver_buf bufs[2];
	unsigned n = 0;
	unsigned id, used_id;
	uint32_t len;

	if (out_len) {
		bufs[n++] =
			(struct driver_buf){.gpa = harness_alloc(d->h, out_len), .len = out_len};
		memcpy(harness_ptr(d->h, bufs[0].gpa, out_len), out, out_len);
	}
	if (in_len) {
		bufs[n] = (struct driver_buf){harness_alloc(d->h, in_len), in_len, true};
		memset(harness_ptr(d->h, bufs[n].gpa, in_len), 0, in_len);
		n++;
	}
	id = driver_add(q, bufs, n);
	driver_kick(q);
	do {
		len = driver_wait(q, &used_id);
	} while (used_id != id); /* earlier ones */
	if (in_len)
		memcpy(in, harness_ptr(d->h, bufs[n - 1].gpa, in_len), in_len);
	d->h->next_free = mark;
	return len;
}
