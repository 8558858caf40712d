/*
 * What the verbs of `vireo image` share: options, opening, sizes, output.
 */
#include <errno.h>
#include <getopt.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "base/str.h"
#include "cli/image.h"

/* Long options that verbs see as letters of their own. */
static const struct option long_options[] = {
	{"json", no_argument, NULL, 1001},
	{"output", required_argument, NULL, 1002},
	{"backing-dir", required_argument, NULL, 1003},
	{"any-backing", no_argument, NULL, 1004},
	{"force-share", no_argument, NULL, 'U'},
	{"shrink", no_argument, NULL, 'K'},
	{"preallocation", required_argument, NULL, 'P'},
	{"backing-chain", no_argument, NULL, 'C'},
	{"random", no_argument, NULL, 'R'},
	{"repair", required_argument, NULL, 'r'},
	{"start-offset", required_argument, NULL, 's'},
	{"max-length", required_argument, NULL, 'l'},
	{NULL, 0, NULL, 0},
};

static int take_output(const char *value, struct image_common *common)
{
	common->json = str_eq(value, "json");
	if (common->json || str_eq(value, "human"))
		return 0;
	log_error("--output=%s: it is json or human", value);
	return -2;
}

static int take_dir(const char *value, struct image_common *common)
{
	if (common->n_dirs == IMAGE_MAX_DIRS) {
		log_error("--backing-dir: %u folders at most", IMAGE_MAX_DIRS);
		return -2;
	}
	common->dirs[common->n_dirs++] = value;
	return 0;
}

static bool wanted(const char *letters, int c)
{
	return c > ' ' && c < 127 && c != ':' && strchr(letters, c);
}

int image_getopt(int argc, char **argv, const char *letters, struct image_common *common,
		 const char **ret_value)
{
	char all[64];
	int c;

	snprintf(all, sizeof(all), ":f:Up%s%s", strchr(letters, 'q') ? "" : "q", letters);
	c = getopt_long(argc, argv, all, long_options, NULL);
	*ret_value = optarg;
	switch (c) {
	case -1:
		return -1;
	case 'f':
		common->format = optarg;
		return 0;
	case 'U':
		common->force_share = true;
		return 0;
	case 'p':
		common->progress = true;
		return 0;
	case 'q':
		common->quiet = true;
		return 0;
	case 1001:
		common->json = true;
		return 0;
	case 1002:
		return take_output(optarg, common);
	case 1003:
		return take_dir(optarg, common);
	case 1004:
		common->any_dir = true;
		return 0;
	case ':':
		log_error("option '%s' wants a value", argv[optind - 1]);
		return -2;
	}
	if (wanted(letters, c))
		return c;
	if (optopt > ' ' && optopt < 127 && c == '?')
		log_error("option '-%c' is not known", optopt);
	else
		log_error("option '%s' is not known here", argv[optind - 1]);
	return -2;
}

int image_rest(int argc, int *ret_first)
{
	*ret_first = optind;
	return argc - optind;
}

int image_fail(const struct error *err)
{
	log_error("%s", err->text);
	return CLI_FAILED;
}

int image_print_json(json_t *value)
{
	_cleanup_json_ json_t *root = value;
	_cleanup_free_ char *text = root ? json_dumps(root, JSON_INDENT(4)) : NULL;

	if (!text) {
		log_error("this cannot be written as JSON: a name in it is no UTF-8, or no memory");
		return CLI_FAILED;
	}
	puts(text);
	return CLI_OK;
}

/* --- opening --- */

static bool ends_with(const char *path, const char *end)
{
	size_t len = strlen(path);
	size_t n = strlen(end);

	return len > n && str_eq(path + len - n, end);
}

const char *image_format_of(const char *stated, const char *path, struct error *err)
{
	if (stated)
		return stated;
	if (ends_with(path, ".qcow2"))
		return "qcow2";
	if (ends_with(path, ".raw") || ends_with(path, ".img"))
		return "raw";
	error_set(err, -EINVAL,
		  "%s: state its format, with -f raw or -f qcow2: it is not guessed from what is "
		  "in it, which a guest may have written",
		  path);
	return NULL;
}

int image_tool_open(const struct image_common *common, const char *path, bool writable,
		    struct image_config *config, struct image **ret, struct error *err)
{
	config->path = path;
	config->fd = -1;
	config->format = image_format_of(common->format, path, err);
	if (!config->format)
		return -EINVAL;
	config->readonly = !writable;
	config->no_lock |= common->force_share;
	config->allowed_dirs = common->dirs;
	config->allow_any_dir = common->any_dir;
	config->cache = common->cache;
	return image_open(config, ret, err);
}

/* --- values --- */

int image_parse_size(const char *text, const char *what, uint64_t *ret, struct error *err)
{
	if (parse_size(text, 1, ret) == 0)
		return 0;
	return error_set(err, -EINVAL, "%s '%s' is no size, such as 512, 64K, 10G", what, text);
}

int image_parse_cache(const char *text, enum image_cache *ret, struct error *err)
{
	static const struct {
		const char *name;
		enum image_cache cache;
	} names[] = {
		{"writeback", IMAGE_CACHE_WRITEBACK},
		{"none", IMAGE_CACHE_NONE},
		{"writethrough", IMAGE_CACHE_WRITETHROUGH},
		{"unsafe", IMAGE_CACHE_UNSAFE},
	};

	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		if (str_eq(text, names[i].name)) {
			*ret = names[i].cache;
			return 0;
		}
	}
	return error_set(err, -EINVAL,
			 "cache mode '%s' is none of writeback, none, writethrough, unsafe", text);
}

static int bad_value(const char *key, const char *value, const char *wants, struct error *err)
{
	return error_set(err, -EINVAL, "-o %s=%s: it is %s", key, value, wants);
}

static int take_word(const char *key, const char *value, struct image_create_config *c,
		     struct error *err)
{
	static const char *const modes[] = {"off", "metadata", "falloc", "full"};

	if (str_eq(key, "compat")) {
		if (str_eq(value, "0.10") || str_eq(value, "v2"))
			c->version = 2;
		else if (str_eq(value, "1.1") || str_eq(value, "v3"))
			c->version = 3;
		else
			return bad_value(key, value, "0.10 or 1.1", err);
		return 0;
	}
	if (str_eq(key, "compression_type")) {
		if (str_eq(value, "zstd"))
			c->compression = IMAGE_COMPRESSION_ZSTD;
		else if (!str_eq(value, "zlib"))
			return bad_value(key, value, "zlib or zstd", err);
		return 0;
	}
	for (size_t i = 0; str_eq(key, "preallocation") && i < ARRAY_SIZE(modes); i++) {
		if (str_eq(value, modes[i])) {
			c->preallocation = (enum image_prealloc)i;
			return 0;
		}
	}
	return bad_value(key, value, "off, metadata, falloc or full", err);
}

static int take_number(const char *key, const char *value, struct image_create_config *c,
		       struct error *err)
{
	uint64_t v;

	if (parse_size(value, 1, &v) < 0 || v > UINT32_MAX)
		return bad_value(key, value, "a number", err);
	*(str_eq(key, "cluster_size") ? &c->cluster_bytes : &c->refcount_bits) = (uint32_t)v;
	return 0;
}

static int take_flag(const char *key, const char *value, bool *ret, struct error *err)
{
	return parse_bool(value, ret) < 0 ? bad_value(key, value, "on or off", err) : 0;
}

static int take_option(const char *key, const char *value, struct image_create_config *c,
		       struct error *err)
{
	static const char *const names[] = {
		"compat",        "compression_type", "preallocation", "cluster_size",
		"refcount_bits", "lazy_refcounts",   "extended_l2",   "data_file_raw",
		"backing_file",  "backing_fmt",      "data_file",     "size",
	};
	const char *near;

	if (str_eq(key, "compat") || str_eq(key, "compression_type") ||
	    str_eq(key, "preallocation"))
		return take_word(key, value, c, err);
	if (str_eq(key, "cluster_size") || str_eq(key, "refcount_bits"))
		return take_number(key, value, c, err);
	if (str_eq(key, "lazy_refcounts"))
		return take_flag(key, value, &c->lazy_refcounts, err);
	if (str_eq(key, "extended_l2"))
		return take_flag(key, value, &c->extended_l2, err);
	if (str_eq(key, "data_file_raw"))
		return take_flag(key, value, &c->data_file_raw, err);
	if (str_eq(key, "size"))
		return image_parse_size(value, "-o size", &c->size_bytes, err);
	if (str_eq(key, "backing_file"))
		c->backing_path = value;
	else if (str_eq(key, "backing_fmt"))
		c->backing_format = value;
	else if (str_eq(key, "data_file"))
		c->data_file = value;
	else {
		near = str_nearest(key, names, ARRAY_SIZE(names));
		return error_set(err, -EINVAL, "-o %s: there is no such option%s%s", key,
				 near ? "; did you mean " : "", near ? near : "");
	}
	return 0;
}

int image_parse_options(const char *text, struct image_create_config *config, char **ret_copy,
			struct error *err)
{
	char *rest;
	char *item;

	free(*ret_copy);
	*ret_copy = rest = strdup(text);
	if (!rest)
		return error_set(err, -ENOMEM, "no memory for -o");
	while ((item = strsep(&rest, ","))) {
		char *value = strchr(item, '=');
		int r;

		if (!*item)
			continue;
		if (!value)
			return error_set(err, -EINVAL, "-o %s: it wants a value: %s=...", item,
					 item);
		*value++ = '\0';
		r = take_option(item, value, config, err);
		if (r < 0)
			return r;
	}
	return 0;
}
