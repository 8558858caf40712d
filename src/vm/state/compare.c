/*
 * Compares two objects by their state table: the first field that differs, by its path, for tests and for a person.
 */
#include <stdio.h>
#include <string.h>

#include "vm/state/state_int.h"

/* Where a comparison stopped. */
struct difference {
	char *text;
	size_t size;
};

static bool same_struct(const struct state_table *table, void *a, void *b,
			const struct state_path *path, const struct difference *ret);

static bool same_field(const struct state_field *field, void *a, void *b,
		       const struct state_path *up, const struct difference *ret)
{
	struct state_path path = {up, field->name, -1};
	char *ea = state_elements(field, a), *eb = state_elements(field, b);
	uint32_t n = state_count(field, a);

	if (n != state_count(field, b)) {
		state_path_text(&path, ret->text, ret->size);
		return false;
	}
	for (uint32_t i = 0; i < n; i++) {
		size_t at = i * field->size;

		path.index = state_is_array(field) ? (int)i : -1;
		if (field->kind == STATE_KIND_STRUCT) {
			if (!same_struct(field->table, ea + at, eb + at, &path, ret))
				return false;
		} else if (memcmp(ea + at, eb + at, field->size) != 0) {
			state_path_text(&path, ret->text, ret->size);
			return false;
		}
	}
	return true;
}

static bool same_struct(const struct state_table *table, void *a, void *b,
			const struct state_path *path, const struct difference *ret)
{
	if (table->pre_save) {
		table->pre_save(a);
		table->pre_save(b);
	}
	for (size_t i = 0; i < table->n_fields; i++)
		if (!same_field(&table->fields[i], a, b, path, ret))
			return false;
	return true;
}

bool state_compare(const struct state_table *table, const char *name, void *a, void *b, char *where,
		   size_t where_size)
{
	const struct state_path path = {NULL, name, -1};
	const struct difference ret = {where, where_size};

	return same_struct(table, a, b, &path, &ret);
}
