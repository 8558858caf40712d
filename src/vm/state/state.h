/*
 * Walks state tables (base/state.h): saves an object to bytes, loads it back, compares two objects, shows one as JSON.
 *
 * The encoding is little-endian and describes itself, so that an older and a newer program understand each other. A
 * struct is its table's version, a count of fields, and for each field its name, kind, element size, element count and
 * payload. Loading matches fields by name:
 *
 *   in the stream and in the table    loaded; kind and element size must agree
 *   in the table only                 kept as reset() left it if it is newer than the stream's version, else an error
 *   in the stream only                an error, unless the writer marked the field optional
 *
 * An array that the object allocated (STATE_PTR_STRUCTS) must have as many elements in the stream as in the object.
 *
 * The stream is not trusted: every length is checked against what is left before it is used, nothing is allocated for it,
 * and post_load has the last word on each struct, innermost first. An object whose load failed is half-written: reset it.
 *
 * Threads: the object is quiescent (vCPUs stopped, device paused); buffers and readers belong to one thread.
 */
#pragma once

#include "base/json.h"
#include "base/state.h"

/* --- bytes going out --- */

/* Grows up to STATE_BUF_MAX; the first failure sticks and is returned by state_buf_error(). Zero-initialise. */
struct state_buf {
	uint8_t *data;
	size_t len, cap;
	int error; /* 0 or negative errno */
};

#define STATE_BUF_MAX (64 * MIB)

void state_buf_fini(struct state_buf *buf);
static inline int state_buf_error(const struct state_buf *buf)
{
	return buf->error;
}

/* --- bytes coming in --- */

/* Over memory of the caller's. Zero-copy; a read past the end sets `failed` and gives zeroes. */
struct state_reader {
	const uint8_t *data;
	size_t len, pos;
	bool failed;
};

static inline struct state_reader state_reader_of(const void *data, size_t len)
{
	return (struct state_reader){.data = data, .len = len};
}

/* --- one object --- */

/* Appends obj, after its table's pre_save. Returns state_buf_error(). */
int state_save(const struct state_table *table, void *obj, struct state_buf *buf);

/* Reads one object from where the reader stands, and moves it past. -EINVAL for a malformed or incompatible stream, or what
 * post_load said; the message names the field ("queues[1].next_avail"). */
int state_load(const struct state_table *table, void *obj, struct state_reader *reader,
	       struct error *err);

/* Are two objects of one table equal in every live field? If not, `where` gets the path of the first difference, beginning
 * with `name`: "disk0.queues[1].next_avail". Runs pre_save on both. */
bool state_compare(const struct state_table *table, const char *name, void *a, void *b, char *where,
		   size_t where_size);

/* The object for people: integers as numbers (as "0x..." strings above INT64_MAX), bytes in hexadecimal. NULL: no memory.
 * The caller owns the value. */
json_t *state_to_json(const struct state_table *table, void *obj);

/* For tests: gives every field a value that the table allows, from a seed; counts of embedded arrays vary too. */
void state_fill(const struct state_table *table, void *obj, uint64_t *seed);

/* Checks the table itself, for tests: names unique and short, sizes and versions possible, sub-tables too. */
int state_table_check(const struct state_table *table, struct error *err);
