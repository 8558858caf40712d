/*
 * The JSON codec: one object whose keys are the table's. Values become text and go through the same parsers as the command line, so that the
 * two cannot disagree. The text is hostile until checked: types are checked first, lists are bounded by the table.
 */
#include "spec/spec_int.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "base/cleanup.h"
#include "base/str.h"

#define MAX_NAMES 64

static int wrong_type(const struct spec_type *type, struct error *err)
{
	const char *wanted = "a string";

	if (type->json & SPEC_JSON_ARRAY)
		wanted = "an array";
	else if (type->json & SPEC_JSON_BOOL)
		wanted = "true or false";
	else if (type->json & SPEC_JSON_INT)
		wanted = type->json & SPEC_JSON_STRING ? "a string, as \"512M\"" : "a whole number";
	return error_set(err, -EINVAL, "must be %s", wanted);
}

static int set_value(const struct spec_field *f, void *base, const json_t *value, struct error *err)
{
	unsigned takes = f->type->json;
	char digits[32];

	if (json_is_string(value) && (takes & SPEC_JSON_STRING))
		return spec_field_set(f, base, json_string_value(value), err);
	if (json_is_boolean(value) && (takes & SPEC_JSON_BOOL))
		return spec_field_set(f, base, json_is_true(value) ? "on" : "off", err);
	if (json_is_integer(value) && (takes & SPEC_JSON_INT)) {
		snprintf(digits, sizeof(digits), "%" PRId64, (int64_t)json_integer_value(value));
		return spec_field_set(f, base, digits, err);
	}
	if (json_is_array(value) && (takes & SPEC_JSON_ARRAY)) {
		int r = 0;

		for (size_t i = 0; r == 0 && i < json_array_size(value); i++) {
			const json_t *item = json_array_get(value, i);

			if (json_is_array(item))
				return wrong_type(f->type, err);
			r = set_value(f, base, item, err);
		}
		return r;
	}
	return wrong_type(f->type, err);
}

/* An object of the option's keys; or its main field's value alone. */
static int set_fields(const struct spec_option *opt, void *base, const json_t *value,
		      struct error *err)
{
	const char *names[MAX_NAMES];
	const char *key;
	json_t *member;
	size_t n = 0;

	if (!json_is_object(value))
		return set_value(&opt->fields[0], base, value, err);
	for (; n < opt->n_fields && n < MAX_NAMES; n++)
		names[n] = opt->fields[n].key;
	/* jansson iterates without changing the object, but only has a prototype that could. */
	json_object_foreach ((json_t *)(uintptr_t)value, key, member) {
		const struct spec_field *f = spec_field_find(opt, key);
		int r;

		if (!f)
			return spec_unknown(err, "key", key, names, n);
		r = set_value(f, base, member, err);
		if (r < 0) {
			error_prefix(err, "%s", key);
			return r;
		}
	}
	return 0;
}

static int set_list(struct spec *spec, const struct spec_option *opt, const json_t *value,
		    struct error *err)
{
	if (!json_is_array(value))
		return error_set(err, -EINVAL, "must be an array");
	for (size_t i = 0; i < json_array_size(value); i++) {
		void *elem = NULL;
		int r = spec_list_append(opt, spec, &elem, err);

		if (r == 0)
			r = set_fields(opt, elem, json_array_get(value, i), err);
		if (r < 0) {
			error_prefix(err, "[%zu]", i);
			return r;
		}
	}
	return 0;
}

static int set_option(struct spec *spec, const struct spec_option *opt, const json_t *value,
		      struct error *err)
{
	switch (opt->kind) {
	case SPEC_OPT_VALUE:
	case SPEC_OPT_FLAG:
		return set_value(&opt->fields[0], spec, value, err);
	case SPEC_OPT_GROUP:
		if (opt->present != SPEC_NO_OFFSET) {
			bool *present = spec_member(spec, opt->base + opt->present);

			*present = true;
		}
		return set_fields(opt, spec_option_base(opt, spec), value, err);
	case SPEC_OPT_LIST:
		return set_list(spec, opt, value, err);
	case SPEC_OPT_ACTION:
		break;
	}
	return -EINVAL;
}

int spec_from_json_value(struct spec *spec, const json_t *obj, const char *what, struct error *err)
{
	const char *names[MAX_NAMES];
	const char *key;
	json_t *value;
	size_t n = 0;
	int r = 0;

	if (!json_is_object(obj))
		return error_set(err, -EINVAL, "%s: a machine is an object: {\"kernel\": ...}",
				 what);
	for (size_t i = 0; i < spec_n_options && n < MAX_NAMES; i++)
		if (spec_options[i].json)
			names[n++] = spec_options[i].json;
	json_object_foreach ((json_t *)(uintptr_t)obj, key, value) {
		const struct spec_option *opt = spec_option_find_json(key);

		if (!opt) {
			r = spec_unknown(err, "key", key, names, n);
			break;
		}
		r = set_option(spec, opt, value, err);
		if (r < 0) {
			error_prefix(err, "%s", key);
			break;
		}
	}
	if (r < 0)
		error_prefix(err, "%s", what);
	return r;
}

int spec_from_json(struct spec *spec, const char *text, size_t len, const char *what,
		   struct error *err)
{
	_cleanup_json_ json_t *obj = NULL;
	int r = json_parse(text, len, what, &obj, err);

	return r < 0 ? r : spec_from_json_value(spec, obj, what, err);
}

/* --- to JSON --- */

static int put_field(json_t *obj, const char *key, const struct spec_field *f, const void *base)
{
	json_t *value = NULL;
	int r = f->type->to_json(f, base, &value);

	if (r < 0 || !value)
		return r;
	return json_object_set_new(obj, key, value) < 0 ? -ENOMEM : 0;
}

static json_t *fields_to_json(const struct spec_option *opt, const void *base)
{
	_cleanup_json_ json_t *obj = json_object();

	for (size_t i = 0; obj && i < opt->n_fields; i++)
		if (put_field(obj, opt->fields[i].key, &opt->fields[i], base) < 0)
			return NULL;
	return steal_ptr(&obj);
}

static json_t *list_to_json(const struct spec_option *opt, const struct spec *spec)
{
	_cleanup_json_ json_t *array = json_array();

	for (size_t i = 0; array && i < spec_list_count(opt, spec); i++) {
		json_t *elem = fields_to_json(opt, spec_list_at(opt, spec, i));

		if (json_array_append_new(array, elem) < 0)
			return NULL;
	}
	return steal_ptr(&array);
}

static int put_option(json_t *obj, const struct spec_option *opt, const struct spec *spec)
{
	json_t *value = NULL;

	switch (opt->kind) {
	case SPEC_OPT_VALUE:
	case SPEC_OPT_FLAG:
		return put_field(obj, opt->json, &opt->fields[0], spec);
	case SPEC_OPT_GROUP:
		if (opt->present != SPEC_NO_OFFSET) {
			const bool *present = spec_member_const(spec, opt->base + opt->present);

			if (!*present)
				return 0;
		}
		value = fields_to_json(opt, spec_option_base_const(opt, spec));
		break;
	case SPEC_OPT_LIST:
		value = list_to_json(opt, spec);
		break;
	case SPEC_OPT_ACTION:
		return 0;
	}
	/* A NULL value is an error of json_object_set_new() too. */
	return json_object_set_new(obj, opt->json, value) < 0 ? -ENOMEM : 0;
}

char *spec_to_json(const struct spec *spec)
{
	_cleanup_json_ json_t *obj = json_object();

	for (size_t i = 0; obj && i < spec_n_options; i++)
		if (put_option(obj, &spec_options[i], spec) < 0)
			return NULL;
	return obj ? json_dumps(obj, JSON_INDENT(2)) : NULL;
}
