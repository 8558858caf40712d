#include "spec_test.h"

#include <stdio.h>

#include "base/str.h"
#include "spec/spec_int.h"

/* Each option, and each key of a group, is in the help with its value. */
static void help_has_every_option(void **state)
{
	char *text = spec_help_text();
	char wanted[96];

	(void)state;
	assert_non_null(text);
	for (size_t i = 0; i < spec_n_options; i++) {
		const struct spec_option *opt = &spec_options[i];

		snprintf(wanted, sizeof(wanted), "\n  --%s", opt->name);
		if (!strstr(text, wanted))
			fail_msg("--help says nothing of --%s", opt->name);
		for (size_t n = 0; opt->fields && n < opt->n_fields; n++) {
			if (!opt->fields[n].key)
				continue;
			snprintf(wanted, sizeof(wanted), "\n      %s=", opt->fields[n].key);
			if (!strstr(text, wanted))
				fail_msg("--help says nothing of --%s %s=", opt->name,
					 opt->fields[n].key);
		}
	}
	free(text);
}

/* What the code relies on in the table. */
static void the_table_is_sound(void **state)
{
	(void)state;
	for (size_t i = 0; i < spec_n_options; i++) {
		const struct spec_option *opt = &spec_options[i];
		bool one = opt->kind == SPEC_OPT_VALUE || opt->kind == SPEC_OPT_FLAG;

		assert_ptr_equal(spec_option_find(opt->name), opt);
		assert_non_null(opt->help);
		assert_int_equal(opt->json == NULL, opt->kind == SPEC_OPT_ACTION);
		assert_int_equal(opt->action == SPEC_ACTION_NONE, opt->kind != SPEC_OPT_ACTION);
		if (one)
			assert_int_equal(opt->n_fields, 1);
		if (opt->kind == SPEC_OPT_GROUP || opt->kind == SPEC_OPT_LIST)
			assert_non_null(opt->arg);
		for (size_t n = 0; n < opt->n_fields; n++) {
			const struct spec_field *f = &opt->fields[n];

			assert_int_equal(f->key == NULL, one);
			assert_int_equal(f->help == NULL, one);
			assert_non_null(f->type);
			if (f->type == &spec_type_enum || f->type == &spec_type_choice)
				assert_non_null(f->choices);
			if (f->type == &spec_type_string)
				assert_non_null(f->arg);
			if (f->type == &spec_type_u32 || f->type == &spec_type_size)
				assert_true(f->max > f->min);
			if (f->key)
				assert_ptr_equal(spec_field_find(opt, f->key), f);
		}
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(help_has_every_option),
		cmocka_unit_test(the_table_is_sound),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
