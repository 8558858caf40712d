#include "unit/test.h"

#include "base/cleanup.h"
#include "base/endian.h"
#include "state/sample.h"

static void save(const struct state_table *table, void *obj, struct state_buf *buf)
{
	assert_int_equal(state_save(table, obj, buf), 0);
}

static int load(const struct state_table *table, void *obj, const struct state_buf *buf,
		struct error *err)
{
	struct state_reader in = state_reader_of(buf->data, buf->len);
	int r = state_load(table, obj, &in, err);

	if (r == 0)
		assert_int_equal(in.pos, buf->len);
	return r;
}

static void assert_same(struct sample *a, struct sample *b)
{
	char where[64];

	if (!state_compare(&sample_table, "s", a, b, where, sizeof(where)))
		fail_msg("%s differs", where);
}

static void every_kind_comes_back(void **state)
{
	uint64_t seed = 1;

	(void)state;
	for (int i = 0; i < 200; i++) {
		struct sample *a = sample_new(), *b = sample_new();
		_cleanup_(state_buf_fini) struct state_buf one = {0}, two = {0};
		struct error err = ERROR_INIT;

		state_fill(&sample_table, a, &seed);
		if (a->small == 0xDEAD)
			a->small = 1;
		save(&sample_table, a, &one);
		if (load(&sample_table, b, &one, &err) < 0)
			fail_msg("%s", err.text);
		assert_same(a, b);
		assert_int_equal(b->loads, 1);
		assert_int_equal(b->cached, a->medium + 1);
		save(&sample_table, b, &two);
		assert_int_equal(one.len, two.len);
		assert_memory_equal(one.data, two.data, one.len);
		sample_free(a);
		sample_free(b);
	}
}

static void first_difference_is_named(void **state)
{
	struct sample *a = sample_new(), *b = sample_new();
	char where[64];

	(void)state;
	assert_same(a, b);
	b->queues[1].next_avail = 5;
	assert_false(state_compare(&sample_table, "disk0", a, b, where, sizeof(where)));
	assert_string_equal(where, "disk0.queues[1].next_avail");
	b->control.ring[2] = 1;
	assert_false(state_compare(&sample_table, "disk0", a, b, where, sizeof(where)));
	assert_string_equal(where, "disk0.control.ring[2]");
	a->n_pending = 1;
	b->control.ring[2] = 0;
	assert_false(state_compare(&sample_table, "disk0", a, b, where, sizeof(where)));
	assert_string_equal(where, "disk0.pending");
	b->on = true;
	assert_false(state_compare(&sample_table, "disk0", a, b, where, sizeof(where)));
	assert_string_equal(where, "disk0.on");
	sample_free(a);
	sample_free(b);
}

static void json_shows_it(void **state)
{
	struct sample *s = sample_new();
	_cleanup_json_ json_t *value = NULL;
	json_t *queue;

	(void)state;
	s->mode = 2;
	s->large = UINT64_MAX;
	s->mac[0] = 0x52;
	s->fifo_len = 2;
	s->fifo[1] = 0xAB;
	s->queues[2].next_used = 77;
	value = state_to_json(&sample_table, s);
	assert_non_null(value);
	assert_int_equal(json_integer_value(json_object_get(value, "mode")), 2);
	assert_string_equal(json_string_value(json_object_get(value, "large")),
			    "0xffffffffffffffff");
	assert_string_equal(json_string_value(json_object_get(value, "mac")), "520000000000");
	assert_string_equal(json_string_value(json_object_get(value, "fifo")), "00ab");
	assert_int_equal(json_array_size(json_object_get(value, "pending")), 0);
	queue = json_array_get(json_object_get(value, "queues"), 2);
	assert_int_equal(json_integer_value(json_object_get(queue, "next_used")), 77);
	sample_free(s);
}

/* --- versions --- */

struct skew {
	uint32_t a, b, c;
};

static const struct state_field skew1_fields[] = {
	STATE_UINT(struct skew, a),
};
static const struct state_table skew1 = {.name = "skew", .version = 1, STATE_FIELDS(skew1_fields)};

static const struct state_field skew2_fields[] = {
	STATE_UINT(struct skew, a),
	{.name = "b",
	 .kind = STATE_KIND_UINT,
	 .offset = offsetof(struct skew, b),
	 .size = 4,
	 .max_count = 1,
	 .count_offset = STATE_NO_COUNT,
	 .since = 2},
};
static const struct state_table skew2 = {.name = "skew", .version = 2, STATE_FIELDS(skew2_fields)};

static void versions_meet(void **state)
{
	_cleanup_(state_buf_fini) struct state_buf old = {0}, new = {0};
	struct skew one = {.a = 1}, two = {.a = 2, .b = 3}, got = {.a = 90, .b = 91};
	struct error err = ERROR_INIT;

	(void)state;
	save(&skew1, &one, &old);
	save(&skew2, &two, &new);
	assert_int_equal(load(&skew2, &got, &old, &err), 0);
	assert_int_equal(got.a, 1);
	assert_int_equal(got.b, 91); /* as reset left it */
	assert_int_equal(load(&skew1, &got, &new, &err), -EINVAL);
	assert_non_null(strstr(err.text, "skew.b"));
	assert_non_null(strstr(err.text, "newer version"));

	/* the same field, marked optional: name length, name, kind, then the flags */
	for (size_t i = 0; i + 3 < new.len; i++)
		if (new.data[i] == 1 && new.data[i + 1] == 'b')
			new.data[i + 3] = 1;
	assert_int_equal(load(&skew1, &got, &new, &err), 0);
	assert_int_equal(got.a, 2);

	/* a stream of version 2 without its field */
	old.data[5] = 2;
	assert_int_equal(load(&skew2, &got, &old, &err), -EINVAL);
	assert_non_null(strstr(err.text, "skew.b"));
	assert_non_null(strstr(err.text, "missing"));
}

static void another_object_is_refused(void **state)
{
	_cleanup_(state_buf_fini) struct state_buf buf = {0};
	struct sample *s = sample_new();
	struct skew skew = {0};
	struct error err = ERROR_INIT;

	(void)state;
	save(&skew1, &skew, &buf);
	assert_int_equal(load(&sample_table, s, &buf, &err), -EINVAL);
	assert_non_null(strstr(err.text, "something else"));
	sample_free(s);
}

/* --- limits --- */

static void values_out_of_range_are_refused(void **state)
{
	struct sample *a = sample_new(), *b = sample_new();
	struct error err = ERROR_INIT;

	(void)state;
	{
		_cleanup_(state_buf_fini) struct state_buf buf = {0};

		a->mode = 4;
		save(&sample_table, a, &buf);
		assert_int_equal(load(&sample_table, b, &buf, &err), -EINVAL);
		assert_string_equal(err.text,
				    "saved state: sample.mode: has a value that is out of range");
	}
	{
		_cleanup_(state_buf_fini) struct state_buf buf = {0};

		a->mode = 3;
		a->small = 0xDEAD;
		save(&sample_table, a, &buf);
		assert_int_equal(load(&sample_table, b, &buf, &err), -EINVAL);
		assert_string_equal(err.text, "saved state: sample: small is 0xdead");
	}
	sample_free(a);
	sample_free(b);
}

static void another_number_of_elements_is_refused(void **state)
{
	struct sample *a = sample_new(), *b = sample_new();
	_cleanup_(state_buf_fini) struct state_buf buf = {0};
	struct error err = ERROR_INIT;

	(void)state;
	a->queues[1].next_avail = 9;
	save(&sample_table, a, &buf);
	b->n_queues = 2; /* a machine with one queue less */
	assert_int_equal(load(&sample_table, b, &buf, &err), -EINVAL);
	assert_non_null(strstr(err.text, "sample.queues"));
	assert_int_equal(b->n_queues, 2);

	/* nor does one with more know what to do with it */
	a->n_queues = 2;
	b->n_queues = 3;
	buf.len = 0;
	save(&sample_table, a, &buf);
	assert_int_equal(load(&sample_table, b, &buf, &err), -EINVAL);
	assert_non_null(strstr(err.text, "another number of elements"));
	assert_int_equal(b->n_queues, 3);
	sample_free(a);
	sample_free(b);
}

/* A count that the object itself has wrong must not lead anywhere. */
static void wild_counts_are_bounded(void **state)
{
	struct sample *a = sample_new();
	_cleanup_(state_buf_fini) struct state_buf buf = {0};

	(void)state;
	a->fifo_len = UINT32_MAX;
	a->n_pending = 1000;
	save(&sample_table, a, &buf);
	sample_free(a);
}

static void every_cut_is_refused(void **state)
{
	struct sample *a = sample_new(), *b = sample_new();
	_cleanup_(state_buf_fini) struct state_buf buf = {0};
	struct error err = ERROR_INIT;
	uint64_t seed = 5;

	(void)state;
	state_fill(&sample_table, a, &seed);
	save(&sample_table, a, &buf);
	for (size_t len = 0; len < buf.len; len++) {
		_cleanup_free_ uint8_t *copy = malloc(len + 1); /* for the address sanitizer */
		struct state_reader in = state_reader_of(copy, len);

		memcpy(copy, buf.data, len);
		assert_int_equal(state_load(&sample_table, b, &in, &err), -EINVAL);
	}
	sample_free(a);
	sample_free(b);
}

static void tables_are_checked(void **state)
{
	static const struct state_field twice[] = {STATE_UINT(struct skew, a),
						   STATE_UINT(struct skew, a)};
	static const struct state_field odd[] = {{.name = "x",
						  .kind = STATE_KIND_UINT,
						  .size = 3,
						  .max_count = 1,
						  .count_offset = STATE_NO_COUNT}};
	static const struct state_table bad[] = {
		{.name = "twice", .version = 1, STATE_FIELDS(twice)},
		{.name = "odd", .version = 1, STATE_FIELDS(odd)},
		{.name = "early", .version = 1, STATE_FIELDS(skew2_fields)},
		{.name = "unversioned", STATE_FIELDS(skew1_fields)},
	};

	(void)state;
	assert_int_equal(state_table_check(&sample_table, NULL), 0);
	assert_int_equal(state_table_check(&skew2, NULL), 0);
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		assert_int_equal(state_table_check(&bad[i], NULL), -EINVAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_kind_comes_back),
		cmocka_unit_test(first_difference_is_named),
		cmocka_unit_test(json_shows_it),
		cmocka_unit_test(versions_meet),
		cmocka_unit_test(another_object_is_refused),
		cmocka_unit_test(values_out_of_range_are_refused),
		cmocka_unit_test(another_number_of_elements_is_refused),
		cmocka_unit_test(wild_counts_are_bounded),
		cmocka_unit_test(every_cut_is_refused),
		cmocka_unit_test(tables_are_checked),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
