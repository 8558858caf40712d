/*
 * Life of a spec: defaults, lists, freeing. Everything here walks the option table, so a new property needs no line in this file.
 */
#include "spec/spec.h"

#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "base/str.h"
#include "spec/spec_int.h"

void *spec_option_base(const struct spec_option *opt, struct spec *spec)
{
	return spec_member(spec, opt->kind == SPEC_OPT_GROUP ? opt->base : 0);
}

const void *spec_option_base_const(const struct spec_option *opt, const struct spec *spec)
{
	return spec_member_const(spec, opt->kind == SPEC_OPT_GROUP ? opt->base : 0);
}

size_t spec_list_count(const struct spec_option *opt, const struct spec *spec)
{
	const size_t *count = spec_member_const(spec, opt->count);

	return *count;
}

void *spec_list_at(const struct spec_option *opt, const struct spec *spec, size_t index)
{
	void *const *elems = spec_member_const(spec, opt->base);

	return (char *)*elems + index * opt->elem_size;
}

/* A default that cannot be stored (no memory) leaves the member unset, which spec_finish() notices where it matters. */
void spec_fields_init(const struct spec_option *opt, void *base)
{
	for (size_t i = 0; i < opt->n_fields; i++) {
		const struct spec_field *f = &opt->fields[i];

		f->type->clear(f, base);
		if (f->initial)
			(void)f->type->parse(f, base, f->initial, NULL);
	}
}

static void fields_fini(const struct spec_option *opt, void *base)
{
	for (size_t i = 0; i < opt->n_fields; i++)
		opt->fields[i].type->clear(&opt->fields[i], base);
}

int spec_list_append(const struct spec_option *opt, struct spec *spec, void **ret,
		     struct error *err)
{
	void **elems = spec_member(spec, opt->base);
	size_t *count = spec_member(spec, opt->count);
	void *grown;

	if (*count >= opt->max_count)
		return error_set(err, -ENOSPC, "a machine has at most %zu of them", opt->max_count);
	grown = reallocarray(*elems, *count + 1, opt->elem_size);
	if (!grown)
		return error_set(err, -ENOMEM, "no memory for one more");
	*elems = grown;
	*ret = spec_list_at(opt, spec, *count);
	memset(*ret, 0, opt->elem_size);
	spec_fields_init(opt, *ret);
	(*count)++;
	return 0;
}

void spec_init(struct spec *spec)
{
	memset(spec, 0, sizeof(*spec));
	for (size_t i = 0; i < spec_n_options; i++) {
		const struct spec_option *opt = &spec_options[i];

		if (opt->kind != SPEC_OPT_LIST && opt->kind != SPEC_OPT_ACTION)
			spec_fields_init(opt, spec_option_base(opt, spec));
	}
}

void spec_fini(struct spec *spec)
{
	for (size_t i = 0; i < spec_n_options; i++) {
		const struct spec_option *opt = &spec_options[i];

		if (opt->kind == SPEC_OPT_LIST) {
			void **elems = spec_member(spec, opt->base);

			for (size_t n = 0; n < spec_list_count(opt, spec); n++)
				fields_fini(opt, spec_list_at(opt, spec, n));
			free(*elems);
		} else if (opt->kind != SPEC_OPT_ACTION) {
			fields_fini(opt, spec_option_base(opt, spec));
		}
	}
	memset(spec, 0, sizeof(*spec));
}

int spec_unknown(struct error *err, const char *what, const char *word, const char *const *names,
		 size_t n)
{
	const char *nearest = str_nearest(word, names, n);

	if (nearest)
		return error_set(err, -EINVAL, "%s '%s' is not known: did you mean '%s'?", what,
				 word, nearest);
	return error_set(err, -EINVAL, "%s '%s' is not known: see --help", what, word);
}
