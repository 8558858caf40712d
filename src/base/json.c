#include "base/json.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "base/cleanup.h"
#include "base/fd.h"

int json_parse(const char *text, size_t len, const char *what, json_t **ret, struct error *err)
{
	json_error_t jerr;
	json_t *value = json_loadb(text, len, JSON_REJECT_DUPLICATES, &jerr);

	if (!value)
		return error_set(err, -EINVAL, "%s: line %d, column %d: %s", what, jerr.line,
				 jerr.column, jerr.text);
	*ret = value;
	return 0;
}

int json_parse_file(const char *path, size_t max_bytes, json_t **ret, struct error *err)
{
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
	ssize_t n;

	if (fd < 0)
		return error_set_errno(err, -errno, "cannot open '%s'", path);

	_cleanup_free_ char *text = malloc(max_bytes + 1);

	if (!text)
		return error_set(err, -ENOMEM, "no memory to read '%s'", path);
	n = fd_read_full(fd, text, max_bytes + 1);
	if (n < 0)
		return error_set_errno(err, (int)n, "cannot read '%s'", path);
	if ((size_t)n > max_bytes)
		return error_set(err, -EFBIG, "'%s' is larger than %zu bytes", path, max_bytes);
	return json_parse(text, (size_t)n, path, ret, err);
}

int json_get_u64(const json_t *obj, const char *key, uint64_t *ret, struct error *err)
{
	const json_t *v = json_object_get(obj, key);

	if (!v)
		return 0;
	if (!json_is_integer(v) || json_integer_value(v) < 0)
		return error_set(err, -EINVAL, "'%s' must be a whole number, 0 or more", key);
	*ret = (uint64_t)json_integer_value(v);
	return 1;
}

int json_get_bool(const json_t *obj, const char *key, bool *ret, struct error *err)
{
	const json_t *v = json_object_get(obj, key);

	if (!v)
		return 0;
	if (!json_is_boolean(v))
		return error_set(err, -EINVAL, "'%s' must be true or false", key);
	*ret = json_is_true(v);
	return 1;
}

int json_get_string(const json_t *obj, const char *key, const char **ret, struct error *err)
{
	const json_t *v = json_object_get(obj, key);

	if (!v)
		return 0;
	if (!json_is_string(v))
		return error_set(err, -EINVAL, "'%s' must be a string", key);
	*ret = json_string_value(v);
	return 1;
}
