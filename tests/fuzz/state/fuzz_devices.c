/*
 * Loads spoiled state into a device: the first byte picks one, driven and saved once; three bytes each say which byte of
 * the saved values becomes what; the stream's frame stays whole. A device that took them goes on, is reset and freed.
 */
#include "base/bits.h"
#include "base/endian.h"
#include "state/devices.h"
#include "vm/state/state_int.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
struct subject {
	const struct device_entry *entry;
	struct state_buf saved;
	size_t *values; /* offsets in saved of the bytes that are values */
	size_t n_values;
	uint8_t *ram;
	size_t ram_bytes;
};

/* Notes the values of one struct, and of those in it. */
static void find_values(struct subject *s, struct state_reader *in, const uint8_t *base)
{
	state_take(in, 2);
	for (unsigned n = (unsigned)state_take_uint(in, 2); n > 0 && !in->failed; n--) {
		unsigned kind;
		struct state_reader part;

		state_take(in, state_take_uint(in, 1));
		kind = (unsigned)state_take_uint(in, 1);
		state_take(in, 9); /* flags, size, count */
		part = state_take_part(in, state_take_uint(in, 4));
		for (size_t i = 0; kind != STATE_KIND_STRUCT && i < part.len; i++)
			s->values[s->n_values++] = (size_t)(part.data - base) + i;
		while (kind == STATE_KIND_STRUCT && part.pos < part.len) {
			struct state_reader one = state_take_part(&part, state_take_uint(&part, 4));

			find_values(s, &one, base);
		}
	}
}

static void subject_init(struct subject *s, const struct device_entry *entry)
{
	struct state_reader in;
	struct rig rig;

	rig_init(&rig, entry);
	if (rig.missing || entry->stateless)
		return rig_fini(&rig);
	s->entry = entry;
	entry->drive(&rig);
	device_pause(rig.dev);
	if (state_save(rig.dev->ops->state, rig.dev, &s->saved) < 0)
		abort();
	s->values = calloc(s->saved.len, sizeof(*s->values));
	in = state_reader_of(s->saved.data, s->saved.len);
	state_take(&in, state_take_uint(&in, 1));
	find_values(s, &in, s->saved.data);
	s->ram_bytes = rig.h->next_free;
	s->ram = malloc(s->ram_bytes);
	memcpy(s->ram, harness_ptr(rig.h, 0, s->ram_bytes), s->ram_bytes);
	device_resume(rig.dev);
	entry->go_on(&rig);
	rig_fini(&rig);
}

static void run(const struct subject *s, const uint8_t *data, size_t size)
{
	uint8_t *bytes = malloc(s->saved.len);
	struct state_reader in = state_reader_of(bytes, s->saved.len);
	struct rig rig;

	memcpy(bytes, s->saved.data, s->saved.len);
	for (; size >= 3; data += 3, size -= 3)
		bytes[s->values[le_load(data, 2) % s->n_values]] = data[2];
	rig_init(&rig, s->entry);
	memcpy(harness_ptr(rig.h, 0, s->ram_bytes), s->ram, s->ram_bytes);
	device_pause(rig.dev);
	if (state_load(rig.dev->ops->state, rig.dev, &in, NULL) == 0) {
		device_resume(rig.dev);
		harness_run(rig.h);
		device_pause(rig.dev);
	}
	device_reset(rig.dev);
	rig_fini(&rig);
	free(bytes);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct subject subjects[32];
	static size_t n;

	for (const struct device_entry *e; n < ARRAY_SIZE(subjects) && (e = device_entry(n)); n++)
		subject_init(&subjects[n], e);
	if (size > 1 && subjects[data[0] % n].entry)
		run(&subjects[data[0] % n], data + 1, size - 1);
	return 0;
}
