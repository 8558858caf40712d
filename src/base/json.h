/*
 * JSON by jansson: this header is the only one that includes it. Values read from outside are bounded and typed here.
 */
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

static inline void cleanup_json(json_t **value)
{
	json_decref(*value);
}
#define _cleanup_json_ __attribute__((cleanup(cleanup_json)))

/* Parses one document of at most max_bytes; duplicate keys and trailing text are errors. `what` names it in the
 * message. The caller owns *ret. */
int json_parse(const char *text, size_t len, const char *what, json_t **ret, struct error *err);
int json_parse_file(const char *path, size_t max_bytes, json_t **ret, struct error *err);

/* Typed members of an object. Return 1 when present, 0 when absent (ret untouched), -EINVAL when of another type or
 * out of range, with a message that names the key. */
int json_get_u64(const json_t *obj, const char *key, uint64_t *ret, struct error *err);
int json_get_bool(const json_t *obj, const char *key, bool *ret, struct error *err);
/* *ret is borrowed from obj. */
int json_get_string(const json_t *obj, const char *key, const char **ret, struct error *err);
