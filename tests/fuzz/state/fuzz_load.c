/*
 * Loads a saved object that the input has spoiled: eight bytes seed the object, then each three say which byte of its saved
 * state becomes what, and a last pair where it is cut. What is accepted must come out of a save again as it went in.
 */
#include "base/endian.h"
#include "state/sample.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void try_load(const uint8_t *data, size_t size)
{
	struct sample *a = sample_new(), *b = sample_new();
	struct state_reader in = state_reader_of(data, size);
	struct state_buf buf = {0};
	struct error err = ERROR_INIT;
	char where[64];

	if (state_load(&sample_table, a, &in, &err) == 0) {
		if (a->mode > 3 || a->n_pending > 4 || a->fifo_len > sizeof(a->fifo) ||
		    a->n_queues != SAMPLE_QUEUES)
			abort();
		if (state_save(&sample_table, a, &buf) < 0)
			abort();
		in = state_reader_of(buf.data, buf.len);
		if (state_load(&sample_table, b, &in, &err) < 0 ||
		    !state_compare(&sample_table, "s", a, b, where, sizeof(where)))
			abort();
		json_decref(state_to_json(&sample_table, a));
	}
	state_buf_fini(&buf);
	sample_free(a);
	sample_free(b);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct sample *s = sample_new();
	struct state_buf buf = {0};
	uint64_t seed = size >= 8 ? le_load(data, 8) : 1;

	try_load(data, size);
	state_fill(&sample_table, s, &seed);
	if (state_save(&sample_table, s, &buf) < 0)
		abort();
	for (size_t i = 8; i + 3 <= size; i += 3)
		buf.data[le_load(data + i, 2) % buf.len] = data[i + 2];
	try_load(buf.data,
		 size > 8 && size % 3 == 1 ? le_load(data + size - 2, 2) % buf.len : buf.len);
	state_buf_fini(&buf);
	sample_free(s);
	return 0;
}
