/*
 * State tables: how an object says what its guest-visible state is. A table is constant data beside the struct it
 * describes; vm/state walks it to save, load, compare and fuzz. Everything that a guest can observe, now or
 * later, is in a table; what is rebuilt from configuration or is a cache is not.
 *
 * Versions: a field carries the table version that introduced it; loading an older stream leaves such a field as
 * reset() set it. Fields are never removed or re-typed, only superseded.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/bits.h"
#include "base/error.h"

enum state_kind {
	STATE_KIND_UINT,   /* bool or an unsigned or signed integer of `size` bytes */
	STATE_KIND_BYTES,  /* `size` opaque bytes */
	STATE_KIND_STRUCT, /* an element of `size` bytes described by `table` */
};

struct state_table;

struct state_field {
	const char *name;
	enum state_kind kind;
	uint16_t since;   /* table version, 0 counts as 1 */
	size_t offset;    /* of the first element, or of the pointer to it */
	size_t size;      /* of one element, bytes */
	size_t max_count; /* elements there is room for */
	bool pointer;     /* the member is a pointer to the elements (allocated before loading) */
	size_t count_offset; /* of a uint32_t member that holds how many are live; SIZE_MAX: all max_count */
	uint64_t max; /* UINT: loading refuses a larger value; 0: no bound */
	const struct state_table *table;
};

struct state_table {
	const char *name;
	uint16_t version; /* from 1 */
	const struct state_field *fields;
	size_t n_fields;
	/* Optional. Brings the struct up to date before it is read; nothing guest-visible changes. */
	void (*pre_save)(void *obj);
	/* Optional. Validates what was loaded (it is hostile) and rebuilds what follows from it. 0 or negative errno. */
	int (*post_load)(void *obj, struct error *err);
};

#define STATE_NO_COUNT SIZE_MAX

/* What is stored into a bool must be one. */
#define STATE_MAX_OF(value) _Generic((value), bool : 1, default : 0)

/* One integer or bool member. */
#define STATE_UINT(type, member)                                                                   \
	{                                                                                          \
		.name = #member, .kind = STATE_KIND_UINT, .offset = offsetof(type, member),        \
		.size = sizeof(((type *)0)->member), .max_count = 1,                               \
		.count_offset = STATE_NO_COUNT, .max = STATE_MAX_OF(((type *)0)->member)           \
	}
/* The same, refused on load above `limit`. */
#define STATE_UINT_MAX(type, member, limit)                                                        \
	{                                                                                          \
		.name = #member, .kind = STATE_KIND_UINT, .offset = offsetof(type, member),        \
		.size = sizeof(((type *)0)->member), .max_count = 1,                               \
		.count_offset = STATE_NO_COUNT, .max = (limit)                                     \
	}
/* An array of integers, whole. */
#define STATE_UINTS(type, member)                                                                  \
	{                                                                                          \
		.name = #member, .kind = STATE_KIND_UINT, .offset = offsetof(type, member),        \
		.size = sizeof(((type *)0)->member[0]),                                            \
		.max_count = ARRAY_SIZE(((type *)0)->member), .count_offset = STATE_NO_COUNT,      \
		.max = STATE_MAX_OF(((type *)0)->member[0])                                        \
	}
/* A byte array, whole. */
#define STATE_BYTES(type, member)                                                                  \
	{                                                                                          \
		.name = #member, .kind = STATE_KIND_BYTES, .offset = offsetof(type, member),       \
		.size = sizeof(((type *)0)->member), .max_count = 1,                               \
		.count_offset = STATE_NO_COUNT                                                     \
	}
/* A byte array of which the first `count_member` (uint32_t) bytes are live. Put the count itself in no field. */
#define STATE_VBYTES(type, member, count_member)                                                   \
	{                                                                                          \
		.name = #member, .kind = STATE_KIND_BYTES, .offset = offsetof(type, member),       \
		.size = 1, .max_count = sizeof(((type *)0)->member),                               \
		.count_offset = offsetof(type, count_member)                                       \
	}
/* One embedded struct with a table of its own. */
#define STATE_STRUCT(type, member, sub)                                                            \
	{                                                                                          \
		.name = #member, .kind = STATE_KIND_STRUCT, .offset = offsetof(type, member),      \
		.size = sizeof(((type *)0)->member), .max_count = 1,                               \
		.count_offset = STATE_NO_COUNT, .table = (sub)                                     \
	}
/* An embedded array of structs, of which `count_member` (uint32_t) are live. */
#define STATE_VSTRUCTS(type, member, count_member, sub)                                            \
	{                                                                                          \
		.name = #member, .kind = STATE_KIND_STRUCT, .offset = offsetof(type, member),      \
		.size = sizeof(((type *)0)->member[0]),                                            \
		.max_count = ARRAY_SIZE(((type *)0)->member),                                      \
		.count_offset = offsetof(type, count_member), .table = (sub)                       \
	}
/* A member that points to an allocated array of at most `limit` structs, `count_member` (uint32_t) of them live.
 * Loading does not allocate: a stream with more elements than the object has now is refused. */
#define STATE_PTR_STRUCTS(type, member, count_member, limit, sub)                                  \
	{                                                                                          \
		.name = #member, .kind = STATE_KIND_STRUCT, .offset = offsetof(type, member),      \
		.size = sizeof(*((type *)0)->member), .max_count = (limit), .pointer = true,       \
		.count_offset = offsetof(type, count_member), .table = (sub)                       \
	}

#define STATE_FIELDS(array) .fields = (array), .n_fields = ARRAY_SIZE(array)
