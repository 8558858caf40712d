#include "unit/virtio/ring.h"

#define SIZE 8

static struct ring *split_new(bool event_idx, bool indirect)
{
	struct ring *r = ring_new(SIZE, false, event_idx, indirect);

	assert_int_equal(vq_enable(&r->vq), 0);
	return r;
}

static void make_available(struct ring *r, unsigned head)
{
	unsigned idx = (unsigned)get(r, RING_AVAIL + 2, 2);

	put(r, RING_AVAIL + 4 + 2 * (idx % SIZE), 2, head);
	put(r, RING_AVAIL + 2, 2, (uint16_t)(idx + 1));
}

static void takes_a_chain_and_gives_it_back(void **state)
{
	struct ring *r = split_new(false, false);

	(void)state;
	assert_int_equal(vq_pop(&r->vq, &r->req), 0);
	assert_false(vq_pending(&r->vq));
	put_desc(r, RING_DESC, 5, RING_DATA, 16, D_NEXT, 2);
	put_desc(r, RING_DESC, 2, RING_DATA + 0x1000, 512, D_NEXT | D_WRITE, 7);
	put_desc(r, RING_DESC, 7, RING_DATA + 0x2000, 1, D_WRITE, 0);
	make_available(r, 5);
	assert_true(vq_pending(&r->vq));
	assert_int_equal(vq_pop(&r->vq, &r->req), 1);
	assert_int_equal(r->req.id, 5);
	assert_int_equal(r->req.n_out, 1);
	assert_int_equal(r->req.n_in, 2);
	assert_int_equal(r->req.out_bytes, 16);
	assert_int_equal(r->req.in_bytes, 513);
	assert_ptr_equal(r->iov[0].iov_base, ring_at(r, RING_DATA));
	assert_ptr_equal(r->iov[2].iov_base, ring_at(r, RING_DATA + 0x2000));
	assert_int_equal(r->vq.in_flight, 1);
	assert_int_equal(vq_pop(&r->vq, &r->req), 0);
	r->req.n_in = 2;
	vq_push(&r->vq, &r->req, 513);
	assert_int_equal(get(r, RING_USED + 2, 2), 1);
	assert_int_equal(get(r, RING_USED + 4, 4), 5);
	assert_int_equal(get(r, RING_USED + 8, 4), 513);
	assert_int_equal(r->vq.in_flight, 0);
	ring_free(r);
}

static void unpop_takes_the_same_again(void **state)
{
	struct ring *r = split_new(false, false);

	(void)state;
	put_desc(r, RING_DESC, 1, RING_DATA, 16, 0, 0);
	put_desc(r, RING_DESC, 3, RING_DATA, 32, 0, 0);
	make_available(r, 1);
	make_available(r, 3);
	assert_int_equal(vq_pop(&r->vq, &r->req), 1);
	vq_unpop(&r->vq, &r->req);
	assert_int_equal(r->vq.in_flight, 0);
	assert_int_equal(vq_pop(&r->vq, &r->req), 1);
	assert_int_equal(r->req.id, 1);
	assert_int_equal(vq_pop(&r->vq, &r->req), 1);
	assert_int_equal(r->req.id, 3);
	ring_free(r);
}

static void indexes_wrap(void **state)
{
	struct ring *r = split_new(false, false);

	(void)state;
	for (unsigned i = 0; i < 70000; i++) {
		put_desc(r, RING_DESC, i % SIZE, RING_DATA, 8, D_WRITE, 0);
		make_available(r, i % SIZE);
		assert_int_equal(vq_pop(&r->vq, &r->req), 1);
		assert_int_equal(r->req.id, i % SIZE);
		vq_push(&r->vq, &r->req, 8);
		assert_int_equal(get(r, RING_USED + 2, 2), (uint16_t)(i + 1));
		assert_int_equal(get(r, RING_USED + 4 + 8 * (i % SIZE), 4), i % SIZE);
	}
	ring_free(r);
}

static void a_batch_becomes_visible_at_once(void **state)
{
	struct ring *r = split_new(false, false);
	struct vq_req reqs[3];

	(void)state;
	for (unsigned i = 0; i < 3; i++) {
		put_desc(r, RING_DESC, i, RING_DATA + i * 64, 64, D_WRITE, 0);
		make_available(r, i);
		reqs[i] = (struct vq_req){.iov = &r->iov[i], .max_iov = 1};
		assert_int_equal(vq_pop(&r->vq, &reqs[i]), 1);
	}
	for (unsigned i = 0; i < 3; i++) {
		vq_push_delayed(&r->vq, &reqs[i], 10 + i, i);
		assert_int_equal(get(r, RING_USED + 2, 2), 0);
	}
	vq_push_flush(&r->vq, 3);
	assert_int_equal(get(r, RING_USED + 2, 2), 3);
	for (unsigned i = 0; i < 3; i++) {
		assert_int_equal(get(r, RING_USED + 4 + 8 * i, 4), i);
		assert_int_equal(get(r, RING_USED + 8 + 8 * i, 4), 10 + i);
	}
	assert_int_equal(r->vq.in_flight, 0);
	ring_free(r);
}

static void indirect_tables_are_followed(void **state)
{
	struct ring *r = split_new(false, true);

	(void)state;
	/* One direct descriptor, then a table whose chain is not in the order of the table. */
	put_desc(r, RING_DESC, 0, RING_DATA, 4, D_NEXT, 1);
	put_desc(r, RING_DESC, 1, RING_TABLE, 48, D_INDIRECT, 0);
	put_desc(r, RING_TABLE, 0, RING_DATA + 0x100, 8, D_NEXT, 2);
	put_desc(r, RING_TABLE, 2, RING_DATA + 0x200, 16, D_NEXT | D_WRITE, 1);
	put_desc(r, RING_TABLE, 1, RING_DATA + 0x300, 32, D_WRITE, 9);
	make_available(r, 0);
	assert_int_equal(vq_pop(&r->vq, &r->req), 1);
	assert_int_equal(r->req.out_bytes, 12);
	assert_int_equal(r->req.in_bytes, 48);
	assert_ptr_equal(r->iov[3].iov_base, ring_at(r, RING_DATA + 0x300));
	ring_free(r);
}

static void buffers_span_regions_and_may_be_empty(void **state)
{
	struct ring *r = split_new(false, false);

	(void)state;
	put_desc(r, RING_DESC, 0, RING_ROM + 0x10, 0x100, D_NEXT, 1);
	put_desc(r, RING_DESC, 1, UINT64_MAX, 0, D_NEXT, 2);
	put_desc(r, RING_DESC, 2, RING_RAM - 0x30, 0x100, D_WRITE, 0);
	make_available(r, 0);
	assert_int_equal(vq_pop(&r->vq, &r->req), 1);
	assert_int_equal(r->req.n_out, 1);
	assert_int_equal(r->req.n_in, 2);
	assert_int_equal(r->req.in_bytes, 0x100);
	assert_ptr_equal(r->iov[1].iov_base, ring_at(r, RING_RAM - 0x30));
	assert_int_equal(r->iov[1].iov_len, 0x30);
	assert_ptr_equal(r->iov[2].iov_base, ring_at(r, RING_RAM));
	assert_int_equal(r->iov[2].iov_len, 0xd0);
	ring_free(r);
}

static void dirty_pages_are_those_written(void **state)
{
	struct ring *r = split_new(false, false);
	uint64_t dirty[4] = {0};

	(void)state;
	assert_int_equal(gmem_dirty_start(r->mem), 0);
	put_desc(r, RING_DESC, 0, 0x20ff0, 0x20, D_NEXT | D_WRITE, 1); /* pages 0x20 and 0x21 */
	put_desc(r, RING_DESC, 1, 0x30000, 0x2000, D_WRITE, 0);        /* the first of two */
	make_available(r, 0);
	assert_int_equal(vq_pop(&r->vq, &r->req), 1);
	vq_push(&r->vq, &r->req, 0x20 + 0x1000);
	gmem_dirty_fetch(r->mem, 0, dirty);
	assert_int_equal(dirty[0], BIT(RING_USED >> 12) | BIT(0x20) | BIT(0x21) | BIT(0x30));
	assert_int_equal(dirty[1] | dirty[2] | dirty[3], 0);
	ring_free(r);
}

/* --- hostile rings --- */

struct hostile {
	const char *why;
	void (*make)(struct ring *r);
	bool indirect; /* negotiated */
};

static void index_jumps(struct ring *r)
{
	put(r, RING_AVAIL + 2, 2, SIZE + 1);
}
static void head_too_large(struct ring *r)
{
	make_available(r, SIZE);
}
static void next_too_large(struct ring *r)
{
	put_desc(r, RING_DESC, 0, RING_DATA, 8, D_NEXT, SIZE);
	make_available(r, 0);
}
static void a_loop(struct ring *r)
{
	put_desc(r, RING_DESC, 0, RING_DATA, 8, D_NEXT, 1);
	put_desc(r, RING_DESC, 1, RING_DATA, 8, D_NEXT, 0);
	make_available(r, 0);
}
static void outside(struct ring *r)
{
	put_desc(r, RING_DESC, 0, 16 * MIB, 8, 0, 0);
	make_available(r, 0);
}
static void over_the_end(struct ring *r)
{
	put_desc(r, RING_DESC, 0, RING_RAM + 64 * KIB - 4, 8, 0, 0);
	make_available(r, 0);
}
static void wrapping_address(struct ring *r)
{
	put_desc(r, RING_DESC, 0, UINT64_MAX - 3, 8, D_WRITE, 0);
	make_available(r, 0);
}
static void writable_rom(struct ring *r)
{
	put_desc(r, RING_DESC, 0, RING_ROM, 8, D_WRITE, 0);
	make_available(r, 0);
}
static void readable_after_writable(struct ring *r)
{
	put_desc(r, RING_DESC, 0, RING_DATA, 8, D_NEXT | D_WRITE, 1);
	put_desc(r, RING_DESC, 1, RING_DATA, 8, 0, 0);
	make_available(r, 0);
}
static void make_indirect(struct ring *r, uint64_t table, uint32_t len, unsigned flags)
{
	put_desc(r, RING_DESC, 0, table, len, D_INDIRECT | flags, 1);
	make_available(r, 0);
}
static void indirect_unasked(struct ring *r)
{
	make_indirect(r, RING_TABLE, 16, 0);
}
static void indirect_empty(struct ring *r)
{
	make_indirect(r, RING_TABLE, 0, 0);
}
static void indirect_odd(struct ring *r)
{
	make_indirect(r, RING_TABLE, 24, 0);
}
static void indirect_outside(struct ring *r)
{
	make_indirect(r, RING_ROM + 64 * KIB - 16, 32, 0);
}
static void indirect_and_next(struct ring *r)
{
	make_indirect(r, RING_TABLE, 16, D_NEXT);
}
static void indirect_in_indirect(struct ring *r)
{
	make_indirect(r, RING_TABLE, 16, 0);
	put_desc(r, RING_TABLE, 0, RING_TABLE, 16, D_INDIRECT, 0);
}
static void indirect_next_too_large(struct ring *r)
{
	make_indirect(r, RING_TABLE, 16, 0);
	put_desc(r, RING_TABLE, 0, RING_DATA, 8, D_NEXT, 1);
}
/* Empty descriptors take no iovec, so only their number stops them. */
static void indirect_loop_of_nothing(struct ring *r)
{
	make_indirect(r, RING_TABLE, 0x8000, 0);
	put_desc(r, RING_TABLE, 0, 0, 0, D_NEXT, 0);
}
static void more_pieces_than_room(struct ring *r)
{
	make_indirect(r, RING_TABLE, 65 * 16, 0);
	for (unsigned i = 0; i < 65; i++)
		put_desc(r, RING_TABLE, i, RING_DATA, 8, i < 64 ? D_NEXT : 0, i + 1);
}

static void every_broken_rule_stops_the_queue(void **state)
{
	static const struct hostile cases[] = {
		{"available index jumps", index_jumps, true},
		{"head index out of range", head_too_large, true},
		{"descriptor index out of range", next_too_large, true},
		{"descriptor chain too long, or with a loop", a_loop, true},
		{"buffer outside of memory", outside, true},
		{"buffer outside of memory", over_the_end, true},
		{"buffer outside of memory", wrapping_address, true},
		{"buffer outside of memory", writable_rom, true},
		{"readable descriptor after a writable one", readable_after_writable, true},
		{"indirect descriptor without the feature", indirect_unasked, false},
		{"indirect table of a bad size", indirect_empty, true},
		{"indirect table of a bad size", indirect_odd, true},
		{"indirect table outside of memory", indirect_outside, true},
		{"indirect descriptor where there may be none", indirect_and_next, true},
		{"indirect descriptor where there may be none", indirect_in_indirect, true},
		{"descriptor index out of range", indirect_next_too_large, true},
		{"descriptor chain too long, or with a loop", indirect_loop_of_nothing, true},
		{"descriptor chain too long", more_pieces_than_room, true},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct ring *r = split_new(false, cases[i].indirect);

		cases[i].make(r);
		assert_breaks(r, cases[i].why);
		ring_free(r);
	}
}

static void sums_are_bounded(void **state)
{
	struct ring *r = split_new(false, true);

	(void)state;
	/* Five times 1 MiB is fine though memory is smaller: the device may write there more than once. */
	put_desc(r, RING_DESC, 0, RING_TABLE, 5 * 16, D_INDIRECT, 0);
	for (unsigned i = 0; i < 5; i++)
		put_desc(r, RING_TABLE, i, 0, 1 * MIB, D_WRITE | (i < 4 ? D_NEXT : 0), i + 1);
	make_available(r, 0);
	assert_int_equal(vq_pop(&r->vq, &r->req), 1);
	assert_int_equal(r->req.in_bytes, 5 * MIB);
	ring_free(r);
}

static void more_heads_than_descriptors_break_it(void **state)
{
	struct ring *r = split_new(false, false);

	(void)state;
	put_desc(r, RING_DESC, 0, RING_DATA, 8, 0, 0);
	for (unsigned i = 0; i < SIZE; i++) {
		make_available(r, 0);
		assert_int_equal(vq_pop(&r->vq, &r->req), 1);
	}
	make_available(r, 0);
	assert_breaks(r, "more requests than descriptors");
	ring_free(r);
}

static void bad_places_are_refused(void **state)
{
	static const struct {
		uint16_t size;
		gpa_t desc, avail, used;
	} cases[] = {
		{0, RING_DESC, RING_AVAIL, RING_USED},
		{12, RING_DESC, RING_AVAIL, RING_USED},
		{512, RING_DESC, RING_AVAIL, RING_USED},
		{8, RING_DESC + 8, RING_AVAIL, RING_USED},
		{8, RING_DESC, RING_AVAIL + 1, RING_USED},
		{8, RING_DESC, RING_AVAIL, RING_USED + 2},
		{8, 0xfffffffffffffff0, RING_AVAIL, RING_USED},
		{8, RING_RAM - 64, RING_AVAIL, RING_USED},
		{8, RING_DESC, 16 * MIB, RING_USED},
		{8, RING_DESC, RING_AVAIL, RING_ROM},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct ring *r = ring_new(cases[i].size, false, false, false);

		r->vq.desc = cases[i].desc;
		r->vq.avail = cases[i].avail;
		r->vq.used = cases[i].used;
		assert_int_equal(vq_enable(&r->vq), -EINVAL);
		assert_true(r->vq.broken);
		assert_int_equal(vq_pop(&r->vq, &r->req), 0);
		ring_free(r);
	}
}

/* --- notifications --- */

static void use_one(struct ring *r)
{
	put_desc(r, RING_DESC, 0, RING_DATA, 8, D_WRITE, 0);
	make_available(r, 0);
	assert_int_equal(vq_pop(&r->vq, &r->req), 1);
	vq_push(&r->vq, &r->req, 8);
}

static void interrupts_by_flag(void **state)
{
	struct ring *r = split_new(false, false);

	(void)state;
	use_one(r);
	assert_true(vq_should_signal(&r->vq));
	assert_false(vq_should_signal(&r->vq)); /* nothing since */
	put(r, RING_AVAIL, 2, 1);
	use_one(r);
	assert_false(vq_should_signal(&r->vq));
	put(r, RING_AVAIL, 2, 0);
	use_one(r);
	assert_true(vq_should_signal(&r->vq));
	ring_free(r);
}

static void interrupts_by_event(void **state)
{
	struct ring *r = split_new(true, false);
	const gpa_t used_event = RING_AVAIL + 4 + 2 * SIZE;

	(void)state;
	put(r, RING_AVAIL, 2, 1); /* the flag does not count with event index */
	use_one(r);
	assert_true(vq_should_signal(&r->vq)); /* the first always */
	put(r, used_event, 2, 3);
	use_one(r);
	use_one(r);
	assert_false(vq_should_signal(&r->vq)); /* used index 3: element 3 is not there yet */
	use_one(r);
	assert_true(vq_should_signal(&r->vq));
	/* A batch that passes it. */
	put(r, used_event, 2, 5);
	for (unsigned i = 0; i < 5; i++)
		use_one(r);
	assert_true(vq_should_signal(&r->vq));
	use_one(r);
	assert_false(vq_should_signal(&r->vq));
	/* Over the end of 16 bits. */
	r->vq.next_used = 0xfffe;
	r->vq.signalled_used = 0xfffe;
	put(r, used_event, 2, 0);
	use_one(r);
	assert_false(vq_should_signal(&r->vq));
	use_one(r);
	assert_false(vq_should_signal(&r->vq));
	use_one(r);
	assert_true(vq_should_signal(&r->vq));
	ring_free(r);
}

static void kicks_on_and_off(void **state)
{
	struct ring *r = split_new(false, false);

	(void)state;
	vq_kicks_off(&r->vq);
	assert_int_equal(get(r, RING_USED, 2), 1);
	assert_false(vq_kicks_on(&r->vq));
	assert_int_equal(get(r, RING_USED, 2), 0);
	vq_kicks_off(&r->vq);
	put_desc(r, RING_DESC, 0, RING_DATA, 8, 0, 0);
	make_available(r, 0);
	assert_true(vq_kicks_on(&r->vq)); /* it came while they were off */
	ring_free(r);

	r = split_new(true, false);
	use_one(r);
	vq_kicks_off(&r->vq);
	assert_int_equal(get(r, RING_USED + 4 + 8 * SIZE, 2), 0);
	assert_false(vq_kicks_on(&r->vq));
	assert_int_equal(get(r, RING_USED + 4 + 8 * SIZE, 2), 1);
	assert_int_equal(get(r, RING_USED, 2), 0);
	ring_free(r);
}

static void a_held_queue_gives_nothing_but_takes_back(void **state)
{
	struct ring *r = split_new(false, false);

	(void)state;
	put_desc(r, RING_DESC, 0, RING_DATA, 8, 0, 0);
	make_available(r, 0);
	make_available(r, 0);
	assert_int_equal(vq_pop(&r->vq, &r->req), 1);
	r->vq.held = VQ_HELD_PAUSED;
	assert_int_equal(vq_pop(&r->vq, &r->req), 0);
	assert_false(vq_kicks_on(&r->vq));
	r->req.n_in = 0;
	vq_push(&r->vq, &r->req, 0);
	assert_int_equal(get(r, RING_USED + 2, 2), 1);
	r->vq.held = 0;
	assert_int_equal(vq_pop(&r->vq, &r->req), 1);
	/* What outlives a reset of its queue goes nowhere. */
	vq_reset(&r->vq);
	vq_push(&r->vq, &r->req, 0);
	vq_unpop(&r->vq, &r->req);
	assert_int_equal(get(r, RING_USED + 2, 2), 1);
	assert_false(vq_should_signal(&r->vq));
	ring_free(r);
}

static void state_is_checked_when_loaded(void **state)
{
	struct ring *r = split_new(false, false);
	struct vq saved;

	(void)state;
	use_one(r);
	put_desc(r, RING_DESC, 0, RING_DATA, 8, 0, 0);
	make_available(r, 0);
	saved = r->vq;
	saved.desc_hva = NULL;
	assert_int_equal(vq_state_table.post_load(&saved, NULL), 0);
	assert_int_equal(vq_pop(&saved, &r->req), 1);
	saved = r->vq;
	saved.size = 7;
	assert_int_equal(vq_state_table.post_load(&saved, NULL), -EINVAL);
	saved = r->vq;
	saved.used = 16 * MIB;
	assert_int_equal(vq_state_table.post_load(&saved, NULL), -EINVAL);
	saved = r->vq;
	saved.in_flight = SIZE + 1;
	assert_int_equal(vq_state_table.post_load(&saved, NULL), -EINVAL);
	ring_free(r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(takes_a_chain_and_gives_it_back),
		cmocka_unit_test(unpop_takes_the_same_again),
		cmocka_unit_test(indexes_wrap),
		cmocka_unit_test(a_batch_becomes_visible_at_once),
		cmocka_unit_test(indirect_tables_are_followed),
		cmocka_unit_test(buffers_span_regions_and_may_be_empty),
		cmocka_unit_test(dirty_pages_are_those_written),
		cmocka_unit_test(every_broken_rule_stops_the_queue),
		cmocka_unit_test(sums_are_bounded),
		cmocka_unit_test(more_heads_than_descriptors_break_it),
		cmocka_unit_test(bad_places_are_refused),
		cmocka_unit_test(interrupts_by_flag),
		cmocka_unit_test(interrupts_by_event),
		cmocka_unit_test(kicks_on_and_off),
		cmocka_unit_test(a_held_queue_gives_nothing_but_takes_back),
		cmocka_unit_test(state_is_checked_when_loaded),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
