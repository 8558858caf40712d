/*
 * The command-line codec: `--name value`, `--name=value`, and for groups and lists `--disk path=a,readonly=on`, where a comma that belongs
 * to a value is written as two. It knows no option by name; table.c has them.
 */
#include "spec/spec_int.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "base/cleanup.h"
#include "base/str.h"

#define MAX_NAMES        64
#define MAX_CONFIG_BYTES (1U << 20)

static int unknown_option(const char *arg, struct error *err)
{
	const char *names[MAX_NAMES];
	const char *nearest;
	size_t n = 0;

	while (*arg == '-')
		arg++;

	size_t len = strcspn(arg, "=");
	_cleanup_free_ char *word = strndup(arg, len);

	if (!word)
		return error_set(err, -ENOMEM, "no memory for the options");
	for (; n < spec_n_options && n < MAX_NAMES; n++)
		names[n] = spec_options[n].name;
	nearest = str_nearest(word, names, n);
	if (nearest)
		return error_set(err, -EINVAL, "option '--%s' is not known: did you mean '--%s'?",
				 word, nearest);
	return error_set(err, -EINVAL, "option '--%s' is not known: see --help", word);
}

static int unknown_key(const struct spec_option *opt, const char *key, struct error *err)
{
	const char *names[MAX_NAMES];
	size_t n = 0;

	for (; n < opt->n_fields && n < MAX_NAMES; n++)
		names[n] = opt->fields[n].key;
	return spec_unknown(err, "key", key, names, n);
}

static int set_field(const struct spec_field *f, void *base, const char *value, struct error *err)
{
	int r = spec_field_set(f, base, value, err);

	if (r < 0)
		error_prefix(err, "%s", f->key);
	return r;
}

/* One item of a group: "key=value", a switch's key alone, or at the front the main field's value alone. */
static int set_item(const struct spec_option *opt, void *base, char *item, bool first,
		    struct error *err)
{
	char *equals = strchr(item, '=');
	const struct spec_field *f;

	if (equals)
		*equals = '\0';
	f = spec_field_find(opt, item);
	if (!f && !equals && first)
		return set_field(&opt->fields[0], base, item, err);
	if (!f)
		return unknown_key(opt, item, err);
	if (!equals && f->type != &spec_type_bool)
		return error_set(err, -EINVAL, "key '%s' needs a value: give %s=VALUE", item, item);
	return set_field(f, base, equals ? equals + 1 : "on", err);
}

/* Takes the next item off *rest: up to a single comma, with double ones made single. */
static char *next_item(char **rest)
{
	char *item = *rest;
	char *from = item;
	char *to = item;

	if (!item)
		return NULL;
	while (*from && !(from[0] == ',' && from[1] != ',')) {
		if (*from == ',')
			from++;
		*to++ = *from++;
	}
	*rest = *from ? from + 1 : NULL;
	*to = '\0';
	return item;
}

static int set_items(const struct spec_option *opt, void *base, const char *text, struct error *err)
{
	_cleanup_free_ char *copy = strdup(text);
	char *rest = copy;
	char *item;
	bool first = true;
	int r = 0;

	if (!copy)
		return error_set(err, -ENOMEM, "no memory for '%s'", text);
	while (r == 0 && (item = next_item(&rest))) {
		if (*item == '\0')
			return error_set(err, -EINVAL,
					 "'%s' has an empty item: a comma in a value is written as "
					 "two",
					 text);
		r = set_item(opt, base, item, first, err);
		first = false;
	}
	return r;
}

static int set_option(struct spec *spec, const struct spec_option *opt, const char *value,
		      struct error *err)
{
	void *base = spec_option_base(opt, spec);
	int r;

	switch (opt->kind) {
	case SPEC_OPT_VALUE:
	case SPEC_OPT_FLAG:
		return spec_field_set(&opt->fields[0], spec, value, err);
	case SPEC_OPT_GROUP:
		if (opt->present != SPEC_NO_OFFSET) {
			bool *present = spec_member(spec, opt->base + opt->present);

			*present = true;
		}
		if (opt->fresh)
			spec_fields_init(opt, base);
		return set_items(opt, base, value, err);
	case SPEC_OPT_LIST:
		r = spec_list_append(opt, spec, &base, err);
		return r < 0 ? r : set_items(opt, base, value, err);
	case SPEC_OPT_ACTION:
		break;
	}
	return -EINVAL;
}

static int read_config(struct spec *spec, const char *path, struct error *err)
{
	_cleanup_json_ json_t *obj = NULL;
	int r = json_parse_file(path, MAX_CONFIG_BYTES, &obj, err);

	return r < 0 ? r : spec_from_json_value(spec, obj, path, err);
}

static int act(struct spec *spec, const struct spec_option *opt, const char *value,
	       struct spec_cli_result *result, struct error *err)
{
	switch (opt->action) {
	case SPEC_ACTION_CONFIG:
		return read_config(spec, value, err);
	case SPEC_ACTION_PRINT_CONFIG:
		result->print_config = true;
		break;
	case SPEC_ACTION_HELP:
		result->help = true;
		break;
	case SPEC_ACTION_VERSION:
		result->version = true;
		break;
	case SPEC_ACTION_NONE:
		break;
	}
	return 0;
}

/* The value in "--kernel=FILE", or the argument after "--kernel", which *at then steps over. */
static int option_value(const struct spec_option *opt, const char *equals, int argc, char **argv,
			int *at, const char **ret, struct error *err)
{
	const char *arg = spec_option_arg(opt);

	if (opt->kind == SPEC_OPT_FLAG) {
		*ret = equals ? equals + 1 : "on";
		return 0;
	}
	if (!arg) {
		if (equals)
			return error_set(err, -EINVAL, "--%s takes no value", opt->name);
		*ret = "";
		return 0;
	}
	if (equals) {
		*ret = equals + 1;
		return 0;
	}
	if (*at + 1 >= argc)
		return error_set(err, -EINVAL, "--%s needs a value: give --%s %s", opt->name,
				 opt->name, arg);
	*ret = argv[++*at];
	return 0;
}

static const struct spec_option *find_option(const char *arg, const char *equals)
{
	size_t len = equals ? (size_t)(equals - arg) : strlen(arg);

	for (size_t i = 0; i < spec_n_options; i++) {
		const char *name = spec_options[i].name;

		if (strlen(name) == len && memcmp(name, arg, len) == 0)
			return &spec_options[i];
	}
	return NULL;
}

int spec_parse_args(struct spec *spec, int argc, char **argv, struct spec_cli_result *ret,
		    struct error *err)
{
	struct spec_cli_result result = {0};
	int r = 0;

	for (int i = 0; i < argc && r == 0 && !result.help && !result.version; i++) {
		const struct spec_option *opt;
		const char *value = "";
		const char *equals;

		if (argv[i][0] != '-')
			return error_set(err, -EINVAL,
					 "'%s' is no option: what belongs to an option comes right "
					 "after it, options begin with --",
					 argv[i]);
		equals = strchr(argv[i], '=');
		opt = str_starts(argv[i], "--") ? find_option(argv[i] + 2, equals) : NULL;
		if (str_eq(argv[i], "-h"))
			opt = spec_option_find("help");
		if (!opt)
			return unknown_option(argv[i], err);
		r = option_value(opt, equals, argc, argv, &i, &value, err);
		if (r < 0)
			return r;
		if (opt->kind == SPEC_OPT_ACTION)
			r = act(spec, opt, value, &result, err);
		else if ((r = set_option(spec, opt, value, err)) < 0)
			error_prefix(err, "--%s", opt->name);
	}
	if (r == 0)
		*ret = result;
	return r;
}
