#include "unit/virtio/ring.h"

#define SIZE    8
#define D_AVAIL 0x80u
#define D_USED  0x8000u

static struct ring *packed_new(uint16_t size, bool event_idx, bool indirect)
{
	struct ring *r = ring_new(size, true, event_idx, indirect);

	r->wrap = true;
	assert_int_equal(vq_enable(&r->vq), 0);
	return r;
}

/* The next descriptor, available. A chain is written last to first by tests that care. */
static void add(struct ring *r, uint64_t addr, uint32_t len, unsigned id, unsigned flags)
{
	put_packed(r, RING_DESC, r->slot, addr, len, id, flags | (r->wrap ? D_AVAIL : D_USED));
	if (++r->slot == r->vq.size) {
		r->slot = 0;
		r->wrap = !r->wrap;
	}
}

static unsigned slot_flags(struct ring *r, unsigned slot)
{
	return (unsigned)get(r, RING_DESC + 16 * slot + 14, 2);
}

static void takes_a_chain_and_gives_it_back(void **state)
{
	struct ring *r = packed_new(SIZE, false, false);

	(void)state;
	assert_int_equal(vq_pop(&r->vq, &r->req), 0);
	assert_false(vq_pending(&r->vq));
	add(r, RING_DATA, 16, 0, D_NEXT);
	add(r, RING_DATA + 0x1000, 512, 0, D_NEXT | D_WRITE);
	add(r, RING_DATA + 0x2000, 1, 77, D_WRITE); /* the last one's id counts */
	assert_true(vq_pending(&r->vq));
	assert_int_equal(vq_pop(&r->vq, &r->req), 1);
	assert_int_equal(r->req.id, 77);
	assert_int_equal(r->req.n_descs, 3);
	assert_int_equal(r->req.n_out, 1);
	assert_int_equal(r->req.n_in, 2);
	assert_int_equal(r->req.in_bytes, 513);
	assert_int_equal(vq_pop(&r->vq, &r->req), 0);
	r->req.id = 77;
	r->req.n_descs = 3;
	vq_push(&r->vq, &r->req, 5);
	assert_int_equal(slot_flags(r, 0), D_AVAIL | D_USED | D_WRITE);
	assert_int_equal(get(r, RING_DESC + 12, 2), 77);
	assert_int_equal(get(r, RING_DESC + 8, 4), 5);
	assert_int_equal(r->vq.next_used, 0x8003);
	ring_free(r);
}

/* Rings of any size, chains that wrap in the middle, several laps. */
static void chains_wrap(void **state)
{
	static const uint16_t sizes[] = {1, 2, 3, 7, 8, 100, 256};

	(void)state;
	for (size_t s = 0; s < ARRAY_SIZE(sizes); s++) {
		struct ring *r = packed_new(sizes[s], false, false);
		unsigned used = 0;
		bool wrap = true;

		for (unsigned i = 0; i < 1000; i++) {
			unsigned n = 1 + i % MIN(sizes[s], (uint16_t)3);

			for (unsigned k = 0; k < n; k++)
				add(r, RING_DATA + k * 64, 64, i & 0xff,
				    D_WRITE | (k + 1 < n ? D_NEXT : 0));
			assert_int_equal(vq_pop(&r->vq, &r->req), 1);
			assert_int_equal(r->req.n_in, n);
			vq_unpop(&r->vq, &r->req);
			assert_int_equal(vq_pop(&r->vq, &r->req), 1);
			assert_int_equal(r->req.n_descs, n);
			assert_int_equal(r->req.id, i & 0xff);
			assert_int_equal(vq_pop(&r->vq,
						&(struct vq_req){.iov = r->iov + 32, .max_iov = 8}),
					 0);
			vq_push(&r->vq, &r->req, 1);
			assert_int_equal(slot_flags(r, used),
					 D_WRITE | (wrap ? D_AVAIL | D_USED : 0));
			used += n;
			if (used >= sizes[s]) {
				used -= sizes[s];
				wrap = !wrap;
			}
		}
		ring_free(r);
	}
}

static void a_batch_becomes_visible_at_once(void **state)
{
	struct ring *r = packed_new(SIZE, false, false);
	struct vq_req reqs[3];

	(void)state;
	for (unsigned lap = 0; lap < 4; lap++) { /* 6 of 8 slots each: some batches wrap */
		unsigned first = r->vq.next_used & 0x7fff;
		bool wrap = r->vq.next_used & 0x8000;

		for (unsigned i = 0; i < 3; i++) {
			add(r, RING_DATA, 64, 10 + i, D_WRITE | D_NEXT);
			add(r, RING_DATA, 64, 10 + i, D_WRITE);
			reqs[i] = (struct vq_req){.iov = &r->iov[2 * i], .max_iov = 2};
			assert_int_equal(vq_pop(&r->vq, &reqs[i]), 1);
		}
		for (unsigned i = 0; i < 3; i++) {
			vq_push_delayed(&r->vq, &reqs[i], 100 + i, i);
			assert_int_equal(!!(slot_flags(r, first) & D_USED), !wrap);
		}
		vq_push_flush(&r->vq, 3);
		for (unsigned i = 0; i < 3; i++) {
			unsigned slot = (first + 2 * i) % SIZE;
			bool lap_wrap = first + 2 * i < SIZE ? wrap : !wrap;

			assert_int_equal(get(r, RING_DESC + 16 * slot + 12, 2), 10 + i);
			assert_int_equal(get(r, RING_DESC + 16 * slot + 8, 4), 100 + i);
			assert_int_equal(slot_flags(r, slot),
					 D_WRITE | (lap_wrap ? D_AVAIL | D_USED : 0));
		}
		assert_int_equal(r->vq.in_flight, 0);
	}
	ring_free(r);
}

static void indirect_tables_are_followed(void **state)
{
	struct ring *r = packed_new(SIZE, false, true);

	(void)state;
	put_packed(r, RING_TABLE, 0, RING_DATA, 8, 0, 0);
	put_packed(r, RING_TABLE, 1, RING_DATA + 0x100, 16, 0,
		   D_WRITE | D_NEXT); /* NEXT has no meaning */
	put_packed(r, RING_TABLE, 2, RING_DATA + 0x200, 32, 0, D_WRITE);
	add(r, RING_TABLE, 48, 3, D_INDIRECT);
	assert_int_equal(vq_pop(&r->vq, &r->req), 1);
	assert_int_equal(r->req.out_bytes, 8);
	assert_int_equal(r->req.in_bytes, 48);
	assert_int_equal(r->req.n_descs, 1);
	assert_int_equal(r->req.id, 3);
	ring_free(r);
}

static void every_broken_rule_stops_the_queue(void **state)
{
	struct ring *r;

	(void)state;
	r = packed_new(SIZE, false, true);
	for (unsigned i = 0; i < SIZE; i++)
		add(r, RING_DATA, 1, 0, D_NEXT);
	assert_breaks(r, "descriptor chain with a loop");
	ring_free(r);

	r = packed_new(SIZE, false, true);
	add(r, 16 * MIB, 1, 0, 0);
	assert_breaks(r, "buffer outside of memory");
	ring_free(r);

	r = packed_new(SIZE, false, true);
	add(r, RING_DATA, 1, 0, D_NEXT | D_WRITE);
	add(r, RING_DATA, 1, 0, 0);
	assert_breaks(r, "readable descriptor after a writable one");
	ring_free(r);

	r = packed_new(SIZE, false, true);
	add(r, RING_TABLE, 16, 0, D_INDIRECT | D_NEXT);
	assert_breaks(r, "indirect descriptor where there may be none");
	ring_free(r);

	r = packed_new(SIZE, false, true);
	put_packed(r, RING_TABLE, 0, RING_TABLE, 16, 0, D_INDIRECT);
	add(r, RING_TABLE, 16, 0, D_INDIRECT);
	assert_breaks(r, "indirect descriptor where there may be none");
	ring_free(r);

	r = packed_new(SIZE, false, true);
	add(r, RING_TABLE, 16 * (VQ_MAX_SEGS + 1), 0, D_INDIRECT);
	assert_breaks(r, "descriptor chain too long");
	ring_free(r);

	r = packed_new(SIZE, false, false);
	add(r, RING_TABLE, 16, 0, D_INDIRECT);
	assert_breaks(r, "indirect descriptor without the feature");
	ring_free(r);
}

static void bad_places_are_refused(void **state)
{
	struct ring *r = ring_new(SIZE, true, false, false);

	(void)state;
	r->vq.avail = RING_AVAIL + 2;
	assert_int_equal(vq_enable(&r->vq), -EINVAL);
	vq_reset(&r->vq);
	assert_false(r->vq.broken);
	r->vq.packed = true;
	r->vq.desc = RING_ROM;
	assert_int_equal(vq_enable(&r->vq), -EINVAL);
	ring_free(r);
}

static void use(struct ring *r, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		add(r, RING_DATA, 8, i, D_WRITE);
		assert_int_equal(vq_pop(&r->vq, &r->req), 1);
		vq_push(&r->vq, &r->req, 8);
	}
}

static void interrupts_by_flag(void **state)
{
	struct ring *r = packed_new(SIZE, false, false);

	(void)state;
	use(r, 1);
	assert_true(vq_should_signal(&r->vq));
	assert_false(vq_should_signal(&r->vq));
	put(r, RING_AVAIL + 2, 2, 1);
	use(r, 1);
	assert_false(vq_should_signal(&r->vq));
	put(r, RING_AVAIL + 2, 2, 0);
	use(r, 1);
	assert_true(vq_should_signal(&r->vq));
	ring_free(r);
}

static void interrupts_by_event(void **state)
{
	struct ring *r = packed_new(SIZE, true, false);

	(void)state;
	put(r, RING_AVAIL, 2, 0x8000);
	put(r, RING_AVAIL + 2, 2, 2);
	use(r, 1);
	assert_true(vq_should_signal(&r->vq));
	/* Slot 3 of this lap. */
	put(r, RING_AVAIL, 2, 0x8003);
	use(r, 2); /* slots 1 and 2 */
	assert_false(vq_should_signal(&r->vq));
	use(r, 1);
	assert_true(vq_should_signal(&r->vq));
	/* Slot 1 of the next, whose wrap counter is 0; the batch passes the end. */
	put(r, RING_AVAIL, 2, 1);
	use(r, 4); /* 4 to 7 */
	assert_false(vq_should_signal(&r->vq));
	use(r, 1); /* 0 */
	assert_false(vq_should_signal(&r->vq));
	use(r, 1); /* 1 */
	assert_true(vq_should_signal(&r->vq));
	/* Asked for slot 7 of this lap; a batch from 2 to slot 1 of the next passes it. */
	put(r, RING_AVAIL, 2, 7);
	use(r, 8);
	assert_true(vq_should_signal(&r->vq));
	/* Asked for what has passed: no more. */
	use(r, 3);
	assert_false(vq_should_signal(&r->vq));
	ring_free(r);
}

static void kicks_on_and_off(void **state)
{
	struct ring *r = packed_new(SIZE, false, false);

	(void)state;
	vq_kicks_off(&r->vq);
	assert_int_equal(get(r, RING_USED + 2, 2), 1);
	assert_false(vq_kicks_on(&r->vq));
	assert_int_equal(get(r, RING_USED + 2, 2), 0);
	vq_kicks_off(&r->vq);
	add(r, RING_DATA, 8, 0, 0);
	assert_true(vq_kicks_on(&r->vq));
	ring_free(r);

	r = packed_new(SIZE, true, false);
	use(r, 9);
	vq_kicks_off(&r->vq);
	assert_int_equal(get(r, RING_USED + 2, 2), 1);
	assert_false(vq_kicks_on(&r->vq));
	assert_int_equal(get(r, RING_USED, 2), 1); /* slot 1, wrap counter 0 */
	assert_int_equal(get(r, RING_USED + 2, 2), 2);
	ring_free(r);
}

static void state_is_checked_when_loaded(void **state)
{
	struct ring *r = packed_new(SIZE, true, false);
	struct vq saved;

	(void)state;
	use(r, 11);
	add(r, RING_DATA, 8, 9, 0);
	saved = r->vq;
	saved.desc_hva = NULL;
	assert_int_equal(vq_state_table.post_load(&saved, NULL), 0);
	assert_int_equal(vq_pop(&saved, &r->req), 1);
	assert_int_equal(r->req.id, 9);
	saved = r->vq;
	saved.next_used = SIZE;
	assert_int_equal(vq_state_table.post_load(&saved, NULL), -EINVAL);
	saved = r->vq;
	saved.signalled_used = 0xffff;
	assert_int_equal(vq_state_table.post_load(&saved, NULL), -EINVAL);
	ring_free(r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(takes_a_chain_and_gives_it_back),
		cmocka_unit_test(chains_wrap),
		cmocka_unit_test(a_batch_becomes_visible_at_once),
		cmocka_unit_test(indirect_tables_are_followed),
		cmocka_unit_test(every_broken_rule_stops_the_queue),
		cmocka_unit_test(bad_places_are_refused),
		cmocka_unit_test(interrupts_by_flag),
		cmocka_unit_test(interrupts_by_event),
		cmocka_unit_test(kicks_on_and_off),
		cmocka_unit_test(state_is_checked_when_loaded),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
