/* Walks the input as a saved machine; checksums are put right so that the walk goes on. */
#include "state/sample.h"
#include "vm/state/state_int.h"
#include "vm/state/stream.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Rewrites the input, two bytes of length before each body, as a stream with right heads. */
static void make_stream(const uint8_t *data, size_t size, struct state_buf *buf)
{
	state_stream_begin(buf);
	while (size > 2) {
		size_t len = MIN((size_t)(data[0] | (data[1] & 3) << 8), size - 2);

		state_stream_blob(buf, "blob", data[1], data + 2, len);
		data += len + 2;
		size -= len + 2;
	}
	state_stream_end(buf);
}

static void walk(const uint8_t *data, size_t size)
{
	struct state_reader in = state_reader_of(data, size);
	struct sample *s = sample_new();
	struct state_section section;

	if (state_stream_open(&in, NULL) == 0)
		while (state_stream_next(&in, &section, NULL) == 1) {
			section.kind = STATE_SECTION_OBJECT;
			state_section_load(&section, &sample_table, s, NULL);
		}
	sample_free(s);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct state_buf buf = {0};

	walk(data, size);
	make_stream(data, size, &buf);
	walk(buf.data, buf.len);
	state_buf_fini(&buf);
	return 0;
}
