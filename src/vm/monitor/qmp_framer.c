/*
 * Cuts a byte stream into JSON values by counting braces outside of strings. It judges nothing else: what it delivers
 * may be no JSON at all, which the parser then says.
 */
#include "vm/monitor/qmp_int.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

void qmp_framer_fini(struct qmp_framer *framer)
{
	free(framer->buf);
	*framer = (struct qmp_framer){0};
}

int qmp_framer_feed(struct qmp_framer *framer, const char *data, size_t len)
{
	size_t need = framer->len + len;

	if (need > QMP_MAX_MESSAGE)
		return -EMSGSIZE;
	if (need > framer->capacity) {
		size_t capacity = need + need / 2 + 256;
		char *buf = realloc(framer->buf, capacity);

		if (!buf)
			return -ENOMEM;
		framer->buf = buf;
		framer->capacity = capacity;
	}
	memcpy(framer->buf + framer->len, data, len);
	framer->len = need;
	return 0;
}

static bool is_space(char c)
{
	return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

/* Takes one more byte into account; true when it ends a value. */
static bool framer_step(struct qmp_framer *framer, char c)
{
	if (framer->in_string) {
		if (framer->escaped)
			framer->escaped = false;
		else if (c == '\\')
			framer->escaped = true;
		else if (c == '"')
			framer->in_string = false;
		return false;
	}
	switch (c) {
	case '"':
		framer->in_string = true;
		return false;
	case '{':
	case '[':
		framer->depth++;
		return false;
	case '}':
	case ']':
		if (framer->depth > 0)
			framer->depth--;
		return framer->depth == 0;
	case '\n':
		return framer->depth == 0;
	default:
		return false;
	}
}

int qmp_framer_next(struct qmp_framer *framer, size_t *ret_len)
{
	size_t skip = 0;

	if (framer->scanned == 0) {
		while (skip < framer->len && is_space(framer->buf[skip]))
			skip++;
		qmp_framer_drop(framer, skip);
	}
	while (framer->scanned < framer->len) {
		if (framer_step(framer, framer->buf[framer->scanned++])) {
			*ret_len = framer->scanned;
			return 1;
		}
	}
	return 0;
}

void qmp_framer_drop(struct qmp_framer *framer, size_t len)
{
	if (len == 0)
		return;
	memmove(framer->buf, framer->buf + len, framer->len - len);
	framer->len -= len;
	framer->scanned = 0;
	framer->depth = 0;
	framer->in_string = false;
	framer->escaped = false;
	/* An idle client costs nothing. */
	if (framer->len == 0) {
		free(framer->buf);
		framer->buf = NULL;
		framer->capacity = 0;
	}
}
