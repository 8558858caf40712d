/*
 * Loads a state stream into an object by its table. The stream is hostile: nothing of it is believed before it is checked against
 * the table, and nothing is allocated for it.
 */
#include <errno.h>
#include <string.h>

#include "vm/state/state_int.h"

/* A field's head as it stands in the stream; nothing of it is believed yet. */
struct wire_field {
	const char *name; /* not terminated */
	size_t name_len;
	uint8_t kind, flags;
	uint32_t size, count;
	struct state_reader payload;
};

static int load_struct(const struct state_table *table, void *obj, struct state_reader *in,
		       const struct state_path *path, struct error *err);

static int refuse(const struct state_path *path, struct error *err, const char *why)
{
	char where[160];

	state_path_text(path, where, sizeof(where));
	return error_set(err, -EINVAL, "saved state: %s: %s", where, why);
}

static bool take_field(struct state_reader *in, struct wire_field *ret)
{
	ret->name_len = state_take_uint(in, 1);
	ret->name = (const char *)state_take(in, ret->name_len);
	ret->kind = (uint8_t)state_take_uint(in, 1);
	ret->flags = (uint8_t)state_take_uint(in, 1);
	ret->size = (uint32_t)state_take_uint(in, 4);
	ret->count = (uint32_t)state_take_uint(in, 4);
	ret->payload = state_take_part(in, state_take_uint(in, 4));
	return !in->failed;
}

/* Fields mostly come in the table's order: the search starts where the last one ended. */
static size_t find_field(const struct state_table *table, size_t hint,
			 const struct wire_field *wire)
{
	for (size_t i = 0; i < table->n_fields; i++) {
		size_t at = (hint + i) % table->n_fields;
		const char *name = table->fields[at].name;

		if (strlen(name) == wire->name_len && memcmp(name, wire->name, wire->name_len) == 0)
			return at;
	}
	return SIZE_MAX;
}

/* May the field take what the stream has? Everything is left as it is otherwise. */
static int check_field(const struct state_field *field, const void *obj,
		       const struct wire_field *wire, const struct state_path *path,
		       struct error *err)
{
	if (wire->kind != field->kind)
		return refuse(path, err, "is of another kind");
	if (wire->size != (field->kind == STATE_KIND_STRUCT ? 0 : field->size))
		return refuse(path, err, "has elements of another size");
	if (!state_has_count(field) && wire->count != field->max_count)
		return refuse(path, err, "has another number of elements");
	if (wire->count > field->max_count)
		return refuse(path, err, "has more elements than there is room for");
	/* What the object allocated follows from how the machine was configured. */
	if (field->pointer && wire->count != state_count(field, obj))
		return refuse(path, err,
			      "has another number of elements; start the machine with the options "
			      "that it was saved with");
	if (field->kind != STATE_KIND_STRUCT &&
	    wire->payload.len != (uint64_t)wire->count * wire->size)
		return refuse(path, err, "is damaged (length)");
	return 0;
}

static int load_uints(const struct state_field *field, char *elements, struct wire_field *wire,
		      const struct state_path *path, struct error *err)
{
	for (uint32_t i = 0; i < wire->count; i++) {
		uint64_t value = state_take_uint(&wire->payload, (unsigned)field->size);

		if (field->max && value > field->max)
			return refuse(path, err, "has a value that is out of range");
		memcpy(elements + i * field->size, &value, field->size); /* little-endian host */
	}
	return 0;
}

static int load_structs(const struct state_field *field, char *elements, struct wire_field *wire,
			const struct state_path *path, struct error *err)
{
	for (uint32_t i = 0; i < wire->count; i++) {
		struct state_path at = *path;
		struct state_reader part =
			state_take_part(&wire->payload, state_take_uint(&wire->payload, 4));
		int r;

		at.index = state_is_array(field) ? (int)i : -1;
		if (wire->payload.failed)
			return refuse(&at, err, "is damaged (length)");
		r = load_struct(field->table, elements + i * field->size, &part, &at, err);
		if (r < 0)
			return r;
		if (part.pos != part.len)
			return refuse(&at, err, "is damaged (bytes left over)");
	}
	if (wire->payload.pos != wire->payload.len)
		return refuse(path, err, "is damaged (bytes left over)");
	return 0;
}

static int load_field(const struct state_field *field, void *obj, struct wire_field *wire,
		      const struct state_path *up, struct error *err)
{
	const struct state_path path = {up, field->name, -1};
	char *elements = state_elements(field, obj);
	int r = check_field(field, obj, wire, &path, err);

	if (r < 0)
		return r;
	switch (field->kind) {
	case STATE_KIND_UINT:
		r = load_uints(field, elements, wire, &path, err);
		break;
	case STATE_KIND_BYTES:
		if (wire->count > 0)
			memcpy(elements, wire->payload.data, wire->payload.len);
		break;
	case STATE_KIND_STRUCT:
		r = load_structs(field, elements, wire, &path, err);
		break;
	}
	if (r == 0 && state_has_count(field))
		memcpy((char *)obj + field->count_offset, &wire->count, sizeof(wire->count));
	return r;
}

static int check_all_seen(const struct state_table *table, const uint64_t *seen, uint16_t version,
			  const struct state_path *path, struct error *err)
{
	for (size_t i = 0; i < table->n_fields; i++) {
		const struct state_path at = {path, table->fields[i].name, -1};

		if (!(seen[i / 64] >> i % 64 & 1) && state_since(&table->fields[i]) <= version)
			return refuse(&at, err, "is missing");
	}
	return 0;
}

static int load_struct(const struct state_table *table, void *obj, struct state_reader *in,
		       const struct state_path *path, struct error *err)
{
	uint64_t seen[STATE_FIELDS_MAX / 64] = {0};
	uint16_t version = (uint16_t)state_take_uint(in, 2);
	uint16_t n = (uint16_t)state_take_uint(in, 2);
	size_t next = 0;
	int r = 0;

	if (table->n_fields > STATE_FIELDS_MAX)
		return refuse(path, err, "has too many fields");
	for (uint16_t i = 0; i < n && r == 0; i++) {
		struct wire_field wire;
		size_t at;

		if (!take_field(in, &wire))
			break;
		at = find_field(table, next, &wire);
		if (at == SIZE_MAX) {
			char name[STATE_NAME_MAX + 1] = "";
			const struct state_path unknown = {path, name, -1};

			if (wire.flags & STATE_FIELD_OPTIONAL)
				continue;
			memcpy(name, wire.name, MIN(wire.name_len, sizeof(name) - 1));
			return refuse(&unknown, err,
				      "is unknown here; it was saved by a newer version");
		}
		if (seen[at / 64] >> at % 64 & 1)
			return refuse(path, err, "is damaged (a field twice)");
		seen[at / 64] |= BIT(at % 64);
		next = at + 1;
		r = load_field(&table->fields[at], obj, &wire, path, err);
	}
	if (r == 0 && (in->failed || version == 0))
		r = refuse(path, err, "is damaged (cut off)");
	if (r == 0)
		r = check_all_seen(table, seen, version, path, err);
	if (r == 0 && table->post_load) {
		struct error why = ERROR_INIT;

		r = table->post_load(obj, &why);
		if (r < 0)
			r = refuse(path, err, why.code ? why.text : "makes no sense");
	}
	return r;
}

int state_load(const struct state_table *table, void *obj, struct state_reader *reader,
	       struct error *err)
{
	const struct state_path path = {NULL, table->name, -1};
	size_t len = state_take_uint(reader, 1);
	const uint8_t *name = state_take(reader, len);

	if (!name)
		return refuse(&path, err, "is damaged (cut off)");
	if (len != strlen(table->name) || memcmp(name, table->name, len) != 0)
		return refuse(&path, err, "is expected, and something else was saved");
	return load_struct(table, obj, reader, &path, err);
}
