/*
 * What an option's value can be: the plain types (switches, numbers, sizes, names, strings). Each is four operations over a member
 * of struct spec or of an element; types_net.c has the composed ones.
 */
#include "spec/spec_int.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "base/str.h"

int spec_field_set(const struct spec_field *f, void *base, const char *text, struct error *err)
{
	int r = f->type->parse(f, base, text, err);

	if (r == 0 && f->type->check)
		r = f->type->check(f, base, err);
	return r;
}

/* --- bool --- */

static int bool_parse(const struct spec_field *f, void *base, const char *text, struct error *err)
{
	if (parse_bool(text, spec_member(base, f->offset)) < 0)
		return error_set(err, -EINVAL, "'%s' is neither on nor off", text);
	return 0;
}

static int bool_to_json(const struct spec_field *f, const void *base, json_t **ret)
{
	const bool *v = spec_member_const(base, f->offset);

	return spec_json_made(json_boolean(*v), ret);
}

static void bool_clear(const struct spec_field *f, void *base)
{
	bool *v = spec_member(base, f->offset);

	*v = false;
}

const struct spec_type spec_type_bool = {
	.json = SPEC_JSON_BOOL,
	.parse = bool_parse,
	.to_json = bool_to_json,
	.clear = bool_clear,
};

/* --- numbers --- */

static int number_parse(const char *text, uint64_t max, uint64_t *ret, struct error *err)
{
	int r = parse_u64(text, ret);

	if (r == -ERANGE || (r == 0 && *ret > max))
		return error_set(err, -ERANGE, "%s is too large", text);
	if (r < 0)
		return error_set(err, r, "'%s' is not a whole number", text);
	return 0;
}

static int number_check(const struct spec_field *f, uint64_t v, struct error *err)
{
	if (v < f->min || v > f->max)
		return error_set(err, -ERANGE,
				 "%" PRIu64 " is out of range: give %" PRIu64 " to %" PRIu64, v,
				 f->min, f->max);
	return 0;
}

static int u32_parse(const struct spec_field *f, void *base, const char *text, struct error *err)
{
	uint32_t *at = spec_member(base, f->offset);
	uint64_t v;
	int r = number_parse(text, UINT32_MAX, &v, err);

	if (r < 0)
		return r;
	/* Nobody writes 0 to leave a number open; elsewhere in the program 0 does mean that. */
	if (v == 0 && f->min > 0)
		return number_check(f, v, err);
	*at = (uint32_t)v;
	return 0;
}

static int u32_check(const struct spec_field *f, const void *base, struct error *err)
{
	const uint32_t *at = spec_member_const(base, f->offset);

	return *at == 0 ? 0 : number_check(f, *at, err);
}

static int u32_to_json(const struct spec_field *f, const void *base, json_t **ret)
{
	const uint32_t *at = spec_member_const(base, f->offset);

	if (*at == 0 && f->min > 0)
		return 0;
	return spec_json_made(json_integer(*at), ret);
}

static void u32_clear(const struct spec_field *f, void *base)
{
	uint32_t *at = spec_member(base, f->offset);

	*at = 0;
}

const struct spec_type spec_type_u32 = {
	.json = SPEC_JSON_INT,
	.parse = u32_parse,
	.to_json = u32_to_json,
	.clear = u32_clear,
	.check = u32_check,
};

static int int_parse(const struct spec_field *f, void *base, const char *text, struct error *err)
{
	int32_t *at = spec_member(base, f->offset);
	uint64_t v;
	int r = number_parse(text, INT32_MAX, &v, err);

	if (r == 0)
		*at = (int32_t)v;
	return r;
}

static int int_check(const struct spec_field *f, const void *base, struct error *err)
{
	const int32_t *at = spec_member_const(base, f->offset);

	if (*at < -1)
		return error_set(err, -ERANGE, "%" PRId32 " is negative", *at);
	return *at == -1 ? 0 : number_check(f, (uint64_t)*at, err);
}

static int int_to_json(const struct spec_field *f, const void *base, json_t **ret)
{
	const int32_t *at = spec_member_const(base, f->offset);

	return *at == -1 ? 0 : spec_json_made(json_integer(*at), ret);
}

static void int_clear(const struct spec_field *f, void *base)
{
	int32_t *at = spec_member(base, f->offset);

	*at = -1;
}

const struct spec_type spec_type_int = {
	.json = SPEC_JSON_INT,
	.parse = int_parse,
	.to_json = int_to_json,
	.clear = int_clear,
	.check = int_check,
};

/* --- size --- */

static int size_parse(const struct spec_field *f, void *base, const char *text, struct error *err)
{
	uint64_t *at = spec_member(base, f->offset);
	uint64_t v;
	int r = parse_size(text, f->unit, &v);

	if (r == -ERANGE)
		return error_set(err, r, "%s is more than an address can reach", text);
	if (r < 0)
		return error_set(err, r, "'%s' is not a size: give a number with K, M, G or T",
				 text);
	if (v == 0) {
		char least[32];

		format_size(f->min, least, sizeof(least));
		return error_set(err, -ERANGE, "0 is too small: give at least %s", least);
	}
	*at = v;
	return 0;
}

static int size_check(const struct spec_field *f, const void *base, struct error *err)
{
	const uint64_t *at = spec_member_const(base, f->offset);
	char given[32], least[32], most[32];

	if (*at == 0 || (*at >= f->min && *at <= f->max))
		return 0;
	format_size(*at, given, sizeof(given));
	format_size(f->min, least, sizeof(least));
	format_size(f->max, most, sizeof(most));
	if (*at < f->min)
		return error_set(err, -ERANGE, "%s is too small: give at least %s", given, least);
	return error_set(err, -ERANGE, "%s is more than a guest can address: give at most %s",
			 given, most);
}

/* The largest unit that leaves a whole number, so that reading it gives the same bytes. */
static int size_to_json(const struct spec_field *f, const void *base, json_t **ret)
{
	static const char suffixes[] = "BKMGT";
	const uint64_t *at = spec_member_const(base, f->offset);
	uint64_t v = *at;
	unsigned u = 0;

	if (v == 0)
		return 0;
	while (v % 1024 == 0 && suffixes[u + 1] != '\0') {
		v /= 1024;
		u++;
	}
	return spec_json_made(json_sprintf("%" PRIu64 "%c", v, suffixes[u]), ret);
}

static void size_clear(const struct spec_field *f, void *base)
{
	uint64_t *at = spec_member(base, f->offset);

	*at = 0;
}

const struct spec_type spec_type_size = {
	.json = SPEC_JSON_STRING | SPEC_JSON_INT,
	.parse = size_parse,
	.to_json = size_to_json,
	.clear = size_clear,
	.check = size_check,
};

/* --- names out of a list --- */

static size_t n_choices(const struct spec_field *f)
{
	size_t n = 0;

	while (f->choices[n])
		n++;
	return n;
}

static int choice_index(const struct spec_field *f, const char *text, struct error *err)
{
	char list[160] = "";
	size_t n = n_choices(f);
	size_t used = 0;

	for (size_t i = 0; i < n; i++)
		if (str_eq(f->choices[i], text))
			return (int)i;
	for (size_t i = 0; i < n && used < sizeof(list); i++) {
		const char *before = i == n - 1 ? " or " : ", ";

		used += (size_t)snprintf(list + used, sizeof(list) - used, "%s%s",
					 i == 0 ? "" : before, f->choices[i]);
	}
	return error_set(err, -EINVAL, "'%s' is not known: give %s", text, list);
}

static int enum_parse(const struct spec_field *f, void *base, const char *text, struct error *err)
{
	unsigned *at = spec_member(base, f->offset);
	int i = choice_index(f, text, err);

	if (i < 0)
		return i;
	*at = (unsigned)i;
	return 0;
}

static int enum_check(const struct spec_field *f, const void *base, struct error *err)
{
	const unsigned *at = spec_member_const(base, f->offset);

	if (*at >= n_choices(f))
		return error_set(err, -EINVAL, "%u is none of its values", *at);
	return 0;
}

static int enum_to_json(const struct spec_field *f, const void *base, json_t **ret)
{
	const unsigned *at = spec_member_const(base, f->offset);

	return spec_json_made(json_string(*at < n_choices(f) ? f->choices[*at] : "?"), ret);
}

static void enum_clear(const struct spec_field *f, void *base)
{
	unsigned *at = spec_member(base, f->offset);

	*at = 0;
}

const struct spec_type spec_type_enum = {
	.json = SPEC_JSON_STRING,
	.parse = enum_parse,
	.to_json = enum_to_json,
	.clear = enum_clear,
	.check = enum_check,
};

/* --- strings --- */

static int string_parse(const struct spec_field *f, void *base, const char *text, struct error *err)
{
	char **at = spec_member(base, f->offset);
	char *copy = strdup(text);

	if (!copy)
		return error_set(err, -ENOMEM, "no memory for '%s'", text);
	free(*at);
	*at = copy;
	return 0;
}

static int string_check(const struct spec_field *f, const void *base, struct error *err)
{
	char *const *at = spec_member_const(base, f->offset);
	size_t len;

	if (!*at)
		return 0;
	len = strlen(*at);
	if (len < f->min)
		return error_set(err, -EINVAL, "is empty: give a %s", f->arg);
	if (f->max && len > f->max)
		return error_set(err, -ENAMETOOLONG, "'%s' is too long: %" PRIu64 " bytes at most",
				 *at, f->max);
	return 0;
}

static int string_to_json(const struct spec_field *f, const void *base, json_t **ret)
{
	char *const *at = spec_member_const(base, f->offset);

	return *at ? spec_json_made(json_string(*at), ret) : 0;
}

static void string_clear(const struct spec_field *f, void *base)
{
	char **at = spec_member(base, f->offset);

	free(*at);
	*at = NULL;
}

const struct spec_type spec_type_string = {
	.json = SPEC_JSON_STRING,
	.parse = string_parse,
	.to_json = string_to_json,
	.clear = string_clear,
	.check = string_check,
};

static int choice_check(const struct spec_field *f, const void *base, struct error *err)
{
	char *const *at = spec_member_const(base, f->offset);

	return *at ? MIN(choice_index(f, *at, err), 0) : 0;
}

const struct spec_type spec_type_choice = {
	.json = SPEC_JSON_STRING,
	.parse = string_parse,
	.to_json = string_to_json,
	.clear = string_clear,
	.check = choice_check,
};
