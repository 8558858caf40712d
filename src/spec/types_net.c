/*
 * What an option's value can be, continued: inherited descriptors and port forwards.
 */
#include "spec/spec_int.h"

#include <arpa/inet.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/str.h"

/* --- inherited descriptors: "5:6:7" --- */

static int fds_add(const struct spec_field *f, void *base, const char *text, struct error *err)
{
	int *fds = spec_member(base, f->offset);
	size_t *count = spec_member(base, f->aux);
	uint32_t fd;

	if (parse_u32_range(text, 0, INT32_MAX, &fd) < 0)
		return error_set(err, -EINVAL, "'%s' is no descriptor: give numbers as in 5:6",
				 text);
	if (*count >= f->max)
		return error_set(err, -ENOSPC, "more than %" PRIu64 " descriptors", f->max);
	fds[(*count)++] = (int)fd;
	return 0;
}

static int fds_parse(const struct spec_field *f, void *base, const char *text, struct error *err)
{
	_cleanup_free_ char *copy = strdup(text);
	char *rest = copy;
	char *one;
	int r = 0;

	if (!copy)
		return error_set(err, -ENOMEM, "no memory for '%s'", text);
	while (r == 0 && (one = strsep(&rest, ":")))
		r = fds_add(f, base, one, err);
	return r;
}

static int fds_to_json(const struct spec_field *f, const void *base, json_t **ret)
{
	const int *fds = spec_member_const(base, f->offset);
	const size_t *count = spec_member_const(base, f->aux);
	json_t *array;

	if (*count == 0)
		return 0;
	array = json_array();
	for (size_t i = 0; array && i < *count; i++) {
		if (json_array_append_new(array, json_integer(fds[i])) < 0) {
			json_decref(array);
			array = NULL;
		}
	}
	return spec_json_made(array, ret);
}

static void fds_clear(const struct spec_field *f, void *base)
{
	size_t *count = spec_member(base, f->aux);

	*count = 0;
}

static int fds_check(const struct spec_field *f, const void *base, struct error *err)
{
	const size_t *count = spec_member_const(base, f->aux);

	return *count <= f->max
		       ? 0
		       : error_set(err, -ENOSPC, "more than %" PRIu64 " descriptors", f->max);
}

const struct spec_type spec_type_fds = {
	.json = SPEC_JSON_STRING | SPEC_JSON_INT | SPEC_JSON_ARRAY,
	.parse = fds_parse,
	.to_json = fds_to_json,
	.clear = fds_clear,
	.check = fds_check,
};

/* --- port forwards --- */

static int hostfwd_bad(struct error *err, const char *text, const char *why)
{
	return error_set(err, -EINVAL,
			 "'%s': %s: write tcp|udp:[HOSTADDR]:[HOSTPORT]-[GUESTADDR]:GUESTPORT, as "
			 "in tcp:127.0.0.1:2222-:22",
			 text, why);
}

/* [from, to): nothing, an IPv4 address, or an IPv6 address in brackets. *ret has room for the longer one. */
static bool hostfwd_addr(const char *from, const char *to, int *ret_family, uint8_t *ret)
{
	char text[INET6_ADDRSTRLEN];
	int family = AF_INET;
	size_t len;

	*ret_family = 0;
	if (from == to)
		return true;
	if (*from == '[') {
		if (to[-1] != ']')
			return false;
		family = AF_INET6;
		from++;
		to--;
	}
	len = (size_t)(to - from);
	if (len >= sizeof(text))
		return false;
	memcpy(text, from, len);
	text[len] = '\0';
	*ret_family = family;
	return inet_pton(family, text, ret) == 1;
}

static bool hostfwd_port(const char *from, const char *to, uint16_t *ret)
{
	char text[6];
	size_t len = (size_t)(to - from);
	uint32_t port;

	if (len >= sizeof(text))
		return false;
	memcpy(text, from, len);
	text[len] = '\0';
	if (parse_u32_range(text, 1, UINT16_MAX, &port) < 0)
		return false;
	*ret = (uint16_t)port;
	return true;
}

int spec_hostfwd_parse(const char *text, struct spec_hostfwd *ret, struct error *err)
{
	struct spec_hostfwd fwd = {.udp = str_starts(text, "udp:")};
	const char *host = text + strlen("tcp:");
	const char *bracket, *host_port, *guest, *guest_port;
	uint8_t guest_addr[16];
	int guest_family;

	if (!fwd.udp && !str_starts(text, "tcp:"))
		return hostfwd_bad(err, text, "it begins with neither tcp: nor udp:");
	bracket = *host == '[' ? strchr(host, ']') : host;
	host_port = bracket ? strchr(bracket, ':') : NULL;
	guest = host_port ? strchr(host_port, '-') : NULL;
	guest_port = guest ? strchr(guest, ':') : NULL;
	if (!guest_port)
		return hostfwd_bad(err, text, "a part is missing");
	if (!hostfwd_addr(host, host_port, &fwd.family, fwd.host_addr))
		return hostfwd_bad(err, text,
				   "the host's address is none (IPv6 stands in brackets)");
	if (!hostfwd_addr(guest + 1, guest_port, &guest_family, guest_addr))
		return hostfwd_bad(err, text, "the guest's address is none");
	if (!hostfwd_port(guest_port + 1, strchr(guest_port, '\0'), &fwd.guest_port))
		return hostfwd_bad(err, text, "the guest's port is not 1 to 65535");
	fwd.host_port = fwd.guest_port;
	if (host_port + 1 != guest && !hostfwd_port(host_port + 1, guest, &fwd.host_port))
		return hostfwd_bad(err, text, "the host's port is not 1 to 65535");
	*ret = fwd;
	return 0;
}

/* The text, with the host's port filled in where it is left out. NULL without memory. */
static char *hostfwd_complete(const char *text, const struct spec_hostfwd *fwd)
{
	const char *dash = strrchr(text, '-');
	char *full;

	if (dash[-1] != ':')
		return strdup(text);
	if (asprintf(&full, "%.*s%u%s", (int)(dash - text), text, fwd->host_port, dash) < 0)
		return NULL;
	return full;
}

static int hostfwd_parse(const struct spec_field *f, void *base, const char *text,
			 struct error *err)
{
	char ***list = spec_member(base, f->offset);
	size_t *count = spec_member(base, f->aux);
	struct spec_hostfwd fwd;
	int r = spec_hostfwd_parse(text, &fwd, err);
	char **grown;

	if (r < 0)
		return r;
	if (*count >= f->max)
		return error_set(err, -ENOSPC, "more than %" PRIu64 " forwards", f->max);
	grown = reallocarray(*list, *count + 2, sizeof(**list));
	if (!grown)
		return error_set(err, -ENOMEM, "no memory for '%s'", text);
	*list = grown;
	grown[*count] = hostfwd_complete(text, &fwd);
	if (!grown[*count])
		return error_set(err, -ENOMEM, "no memory for '%s'", text);
	grown[++*count] = NULL;
	return 0;
}

static int hostfwd_check(const struct spec_field *f, const void *base, struct error *err)
{
	char **const *list = spec_member_const(base, f->offset);
	const size_t *count = spec_member_const(base, f->aux);
	struct spec_hostfwd fwd;
	int r = 0;

	for (size_t i = 0; r == 0 && i < *count; i++)
		r = spec_hostfwd_parse((*list)[i], &fwd, err);
	return r;
}

static int hostfwd_to_json(const struct spec_field *f, const void *base, json_t **ret)
{
	char **const *list = spec_member_const(base, f->offset);
	const size_t *count = spec_member_const(base, f->aux);
	json_t *array;

	if (*count == 0)
		return 0;
	array = json_array();
	for (size_t i = 0; array && i < *count; i++) {
		if (json_array_append_new(array, json_string((*list)[i])) < 0) {
			json_decref(array);
			array = NULL;
		}
	}
	return spec_json_made(array, ret);
}

static void hostfwd_clear(const struct spec_field *f, void *base)
{
	char ***list = spec_member(base, f->offset);
	size_t *count = spec_member(base, f->aux);

	for (size_t i = 0; i < *count; i++)
		free((*list)[i]);
	free(*list);
	*list = NULL;
	*count = 0;
}

const struct spec_type spec_type_hostfwd = {
	.json = SPEC_JSON_STRING | SPEC_JSON_ARRAY,
	.parse = hostfwd_parse,
	.to_json = hostfwd_to_json,
	.clear = hostfwd_clear,
	.check = hostfwd_check,
};
