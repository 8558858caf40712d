/* State for people and for tests: JSON, random values, and a check of the tables themselves. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "vm/state/state_int.h"

static json_t *uint_json(const struct state_field *field, const char *at)
{
	uint64_t value = 0;

	memcpy(&value, at, field->size); /* little-endian host */
	if (value > INT64_MAX)
		return json_sprintf("0x%llx", (unsigned long long)value);
	return json_integer((json_int_t)value);
}

static json_t *bytes_json(const char *at, size_t len)
{
	static const char digits[] = "0123456789abcdef";
	_cleanup_free_ char *text = malloc(len * 2 + 1);

	if (!text)
		return NULL;
	for (size_t i = 0; i < len; i++) {
		text[2 * i] = digits[(uint8_t)at[i] >> 4];
		text[2 * i + 1] = digits[at[i] & 15];
	}
	return json_stringn(text, len * 2);
}

static json_t *element_json(const struct state_field *field, char *at)
{
	switch (field->kind) {
	case STATE_KIND_UINT:
		return uint_json(field, at);
	case STATE_KIND_BYTES:
		return bytes_json(at, field->size);
	case STATE_KIND_STRUCT:
		return state_to_json(field->table, at);
	}
	return NULL;
}

static json_t *field_json(const struct state_field *field, void *obj)
{
	char *elements = state_elements(field, obj);
	uint32_t n = state_count(field, obj);
	_cleanup_json_ json_t *array = NULL;

	if (!state_is_array(field))
		return element_json(field, elements);
	if (field->kind == STATE_KIND_BYTES)
		return bytes_json(elements, n * field->size);
	array = json_array();
	for (uint32_t i = 0; i < n; i++)
		if (json_array_append_new(array, element_json(field, elements + i * field->size)) <
		    0)
			return NULL;
	return steal_ptr(&array);
}

json_t *state_to_json(const struct state_table *table, void *obj)
{
	_cleanup_json_ json_t *value = json_object();

	if (table->pre_save)
		table->pre_save(obj);
	for (size_t i = 0; i < table->n_fields; i++)
		if (json_object_set_new(value, table->fields[i].name,
					field_json(&table->fields[i], obj)) < 0)
			return NULL;
	return steal_ptr(&value);
}

/* xorshift64: any sequence will do, as long as it is the same for the same seed. */
static uint64_t draw(uint64_t *seed)
{
	uint64_t x = *seed ? *seed : 0x9E3779B97F4A7C15;

	x ^= x << 13;
	x ^= x >> 7;
	x ^= x << 17;
	return *seed = x;
}

static void fill_element(const struct state_field *field, char *at, uint64_t *seed)
{
	uint64_t value;

	switch (field->kind) {
	case STATE_KIND_UINT:
		value = draw(seed);
		if (field->max && field->max < UINT64_MAX)
			value %= field->max + 1;
		else if (field->size == 1)
			value &= 1; /* it may be a bool */
		memcpy(at, &value, field->size);
		break;
	case STATE_KIND_BYTES:
		for (size_t i = 0; i < field->size; i++)
			at[i] = (char)draw(seed);
		break;
	case STATE_KIND_STRUCT:
		state_fill(field->table, at, seed);
		break;
	}
}

void state_fill(const struct state_table *table, void *obj, uint64_t *seed)
{
	for (size_t i = 0; i < table->n_fields; i++) {
		const struct state_field *field = &table->fields[i];
		char *elements = state_elements(field, obj);
		uint32_t n;

		if (state_has_count(field) && !field->pointer) {
			n = (uint32_t)(draw(seed) % (field->max_count + 1));
			memcpy((char *)obj + field->count_offset, &n, sizeof(n));
		}
		n = state_count(field, obj);
		for (uint32_t k = 0; k < n; k++)
			fill_element(field, elements + k * field->size, seed);
	}
}

static bool sane_field(const struct state_table *table, size_t at)
{
	const struct state_field *f = &table->fields[at];

	if (!f->name || !*f->name || strlen(f->name) > STATE_NAME_MAX || f->max_count == 0 ||
	    f->max_count > UINT32_MAX || f->size == 0 || state_since(f) > table->version)
		return false;
	for (size_t i = 0; i < at; i++)
		if (strcmp(f->name, table->fields[i].name) == 0)
			return false;
	switch (f->kind) {
	case STATE_KIND_UINT:
		return !f->table && is_power_of_two(f->size) && f->size <= 8;
	case STATE_KIND_BYTES:
		return !f->table && !f->max;
	case STATE_KIND_STRUCT:
		return f->table && !f->max;
	}
	return false;
}

static int check(const struct state_table *table, unsigned depth, struct error *err)
{
	if (depth > STATE_DEPTH_MAX)
		return error_set(err, -EINVAL, "state table '%s' is nested too deeply",
				 table->name);
	if (!table->name || !*table->name || strlen(table->name) > STATE_NAME_MAX ||
	    table->version == 0 || table->n_fields > STATE_FIELDS_MAX)
		return error_set(err, -EINVAL,
				 "state table '%s' has no name, no version, or too "
				 "many fields",
				 table->name ? table->name : "");
	for (size_t i = 0; i < table->n_fields; i++) {
		const struct state_field *f = &table->fields[i];
		int r = 0;

		if (!sane_field(table, i))
			return error_set(err, -EINVAL,
					 "state table '%s': field %zu ('%s') is wrong", table->name,
					 i, f->name ? f->name : "");
		if (f->table)
			r = check(f->table, depth + 1, err);
		if (r < 0)
			return r;
	}
	return 0;
}

int state_table_check(const struct state_table *table, struct error *err)
{
	return check(table, 0, err);
}
