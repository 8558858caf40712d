/*
 * Private to the folder: how a field finds its elements, the wire format's primitives, and paths for messages.
 */
#pragma once

#include "base/endian.h"
#include "vm/state/state.h"

/*
 * The wire format. An object is its table's name, then a struct; a struct is
 *
 *	u16 version, u16 fields, and each field:
 *	u8 name length, name, u8 kind, u8 flags, u32 element size, u32 count, u32 payload length, payload
 *
 * A payload is the elements one after the other; an element that is a struct has size 0 in the field's head, and a u32
 * length before itself.
 */
#define STATE_FIELD_OPTIONAL 1u /* flags: an older program may pass over it */

#define STATE_FIELDS_MAX 256
#define STATE_NAME_MAX   63
#define STATE_DEPTH_MAX  8

static inline uint16_t state_since(const struct state_field *field)
{
	return field->since ? field->since : 1;
}

static inline void *state_elements(const struct state_field *field, void *obj)
{
	char *at = (char *)obj + field->offset;
	void *elements;

	if (!field->pointer)
		return at;
	memcpy(&elements, at, sizeof(elements));
	return elements;
}

static inline bool state_has_count(const struct state_field *field)
{
	return field->count_offset != STATE_NO_COUNT;
}

/* Live elements, never more than there is room for. */
static inline uint32_t state_count(const struct state_field *field, const void *obj)
{
	uint32_t n = (uint32_t)field->max_count;

	if (state_has_count(field))
		memcpy(&n, (const char *)obj + field->count_offset, sizeof(n));
	return (uint32_t)MIN(n, field->max_count);
}

/* --- where we are, for messages: disk0.queues[1].next_avail --- */

struct state_path {
	const struct state_path *up; /* NULL: the root */
	const char *name;
	int index; /* negative: not an array */
};

void state_path_text(const struct state_path *path, char *text, size_t size);
/* Is the field shown with an index? */
static inline bool state_is_array(const struct state_field *field)
{
	return field->max_count > 1 || state_has_count(field);
}

/* --- primitives --- */

void state_put(struct state_buf *buf, const void *data, size_t len);
void state_put_uint(struct state_buf *buf, unsigned size, uint64_t value);
/* Reserves a u32 for the length of what follows; finish fills it in. */
size_t state_len_start(struct state_buf *buf);
void state_len_finish(struct state_buf *buf, size_t start);

/* NULL and `failed` when fewer bytes are left. */
const uint8_t *state_take(struct state_reader *reader, uint64_t len);
uint64_t state_take_uint(struct state_reader *reader, unsigned size);
/* A part of the reader's bytes as a reader of its own. */
struct state_reader state_take_part(struct state_reader *reader, uint64_t len);

uint32_t state_crc32c(uint32_t crc, const void *data, size_t len);
