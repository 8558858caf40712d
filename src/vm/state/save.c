/*
 * Saves an object by its state table, in the format that state_int.h describes. The object's machine is stopped.
 */
#include <string.h>

#include "vm/state/state_int.h"

static void save_struct(const struct state_table *table, void *obj, struct state_buf *buf);

static void save_uints(const struct state_field *field, const char *elements, uint32_t count,
		       struct state_buf *buf)
{
	for (uint32_t i = 0; i < count; i++) {
		uint64_t value = 0;

		memcpy(&value, elements + i * field->size, field->size); /* little-endian host */
		state_put_uint(buf, (unsigned)field->size, value);
	}
}

static void save_structs(const struct state_field *field, char *elements, uint32_t count,
			 struct state_buf *buf)
{
	for (uint32_t i = 0; i < count; i++) {
		size_t start = state_len_start(buf);

		save_struct(field->table, elements + i * field->size, buf);
		state_len_finish(buf, start);
	}
}

static void save_field(const struct state_field *field, void *obj, struct state_buf *buf)
{
	size_t name_len = strlen(field->name);
	char *elements = state_elements(field, obj);
	uint32_t count = state_count(field, obj);
	size_t payload;

	state_put_uint(buf, 1, name_len);
	state_put(buf, field->name, name_len);
	state_put_uint(buf, 1, field->kind);
	state_put_uint(buf, 1, 0);
	state_put_uint(buf, 4, field->kind == STATE_KIND_STRUCT ? 0 : field->size);
	state_put_uint(buf, 4, count);
	payload = state_len_start(buf);
	switch (field->kind) {
	case STATE_KIND_UINT:
		save_uints(field, elements, count, buf);
		break;
	case STATE_KIND_BYTES:
		state_put(buf, elements, count * field->size);
		break;
	case STATE_KIND_STRUCT:
		save_structs(field, elements, count, buf);
		break;
	}
	state_len_finish(buf, payload);
}

static void save_struct(const struct state_table *table, void *obj, struct state_buf *buf)
{
	if (table->pre_save)
		table->pre_save(obj);
	state_put_uint(buf, 2, table->version);
	state_put_uint(buf, 2, table->n_fields);
	for (size_t i = 0; i < table->n_fields; i++)
		save_field(&table->fields[i], obj, buf);
}

int state_save(const struct state_table *table, void *obj, struct state_buf *buf)
{
	size_t name_len = strlen(table->name);

	state_put_uint(buf, 1, name_len);
	state_put(buf, table->name, name_len);
	save_struct(table, obj, buf);
	return buf->error;
}
