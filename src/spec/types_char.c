/*
 * What an option's value can be, continued: character backends and the terminal's escape key.
 */
#include "spec/spec_int.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "base/cleanup.h"
#include "base/str.h"

/* --- character backends --- */

static const char *const char_kinds[] = {
	[SPEC_CHAR_NONE] = "none", [SPEC_CHAR_STDIO] = "stdio", [SPEC_CHAR_PTY] = "pty",
	[SPEC_CHAR_UNIX] = "unix", [SPEC_CHAR_FILE] = "file",
};

static int char_parse(const struct spec_field *f, void *base, const char *text, struct error *err)
{
	struct spec_char *chr = spec_member(base, f->offset);
	const char *colon = strchr(text, ':');
	size_t len = colon ? (size_t)(colon - text) : strlen(text);
	_cleanup_free_ char *path = colon ? strdup(colon + 1) : NULL;

	if (colon && !path)
		return error_set(err, -ENOMEM, "no memory for '%s'", text);
	for (unsigned i = 0; i < ARRAY_SIZE(char_kinds); i++) {
		bool wants_path = i == SPEC_CHAR_UNIX || i == SPEC_CHAR_FILE;

		if (strlen(char_kinds[i]) != len || memcmp(char_kinds[i], text, len) != 0)
			continue;
		if (!wants_path && colon)
			return error_set(err, -EINVAL, "'%s' takes no path: give '%s'", text,
					 char_kinds[i]);
		free(chr->path);
		chr->path = steal_ptr(&path);
		chr->kind = (enum spec_char_kind)i;
		return 0;
	}
	return error_set(err, -EINVAL,
			 "'%s' is not known: give stdio, pty, none, unix:PATH or file:PATH", text);
}

static int char_check(const struct spec_field *f, const void *base, struct error *err)
{
	const struct spec_char *chr = spec_member_const(base, f->offset);

	if (chr->kind != SPEC_CHAR_UNIX && chr->kind != SPEC_CHAR_FILE)
		return 0;
	if (!chr->path || chr->path[0] == '\0')
		return error_set(err, -EINVAL, "needs a path: give %s:PATH", char_kinds[chr->kind]);
	if (chr->kind == SPEC_CHAR_UNIX && strlen(chr->path) > SPEC_MAX_SOCKET_PATH)
		return error_set(err, -ENAMETOOLONG,
				 "'%s' is too long for a socket: %d bytes at most", chr->path,
				 SPEC_MAX_SOCKET_PATH);
	return 0;
}

static int char_to_json(const struct spec_field *f, const void *base, json_t **ret)
{
	const struct spec_char *chr = spec_member_const(base, f->offset);

	if (chr->path)
		return spec_json_made(json_sprintf("%s:%s", char_kinds[chr->kind], chr->path), ret);
	return spec_json_made(json_string(char_kinds[chr->kind]), ret);
}

static void char_clear(const struct spec_field *f, void *base)
{
	struct spec_char *chr = spec_member(base, f->offset);

	free(chr->path);
	chr->path = NULL;
	chr->kind = SPEC_CHAR_NONE;
}

const struct spec_type spec_type_char = {
	.json = SPEC_JSON_STRING,
	.parse = char_parse,
	.to_json = char_to_json,
	.clear = char_clear,
	.check = char_check,
};

/* --- the escape key: a control character as the terminal shows it, ^A to ^_ --- */

static int key_parse(const struct spec_field *f, void *base, const char *text, struct error *err)
{
	uint8_t *key = spec_member(base, f->offset);
	int c;

	if (str_eq(text, "none")) {
		*key = 0;
		return 0;
	}
	c = text[0] == '^' ? toupper((unsigned char)text[1]) : 0;
	if (c < 'A' || c > '_' || text[2] != '\0')
		return error_set(err, -EINVAL, "'%s' is no control key: give ^A to ^_, or none",
				 text);
	*key = (uint8_t)(c - '@');
	return 0;
}

static int key_check(const struct spec_field *f, const void *base, struct error *err)
{
	const uint8_t *key = spec_member_const(base, f->offset);

	return *key < 32 ? 0 : error_set(err, -EINVAL, "character %u is no control key", *key);
}

static int key_to_json(const struct spec_field *f, const void *base, json_t **ret)
{
	const uint8_t *key = spec_member_const(base, f->offset);

	if (*key == 0)
		return spec_json_made(json_string("none"), ret);
	return spec_json_made(json_sprintf("^%c", '@' + *key), ret);
}

static void key_clear(const struct spec_field *f, void *base)
{
	uint8_t *key = spec_member(base, f->offset);

	*key = 0;
}

const struct spec_type spec_type_key = {
	.json = SPEC_JSON_STRING,
	.parse = key_parse,
	.to_json = key_to_json,
	.clear = key_clear,
	.check = key_check,
};
