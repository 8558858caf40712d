/* Private to vm/monitor: framing of messages and the table of commands. */
#pragma once

#include "vm/monitor/qmp.h"

/* --- framing: one JSON value after another, with or without white space between them --- */

struct qmp_framer {
	char *buf;
	size_t len, capacity;
	size_t scanned; /* bytes of buf looked at */
	unsigned depth;
	bool in_string, escaped;
};

void qmp_framer_fini(struct qmp_framer *framer);
/* Adds bytes. -EMSGSIZE past QMP_MAX_MESSAGE, -ENOMEM. */
int qmp_framer_feed(struct qmp_framer *framer, const char *data, size_t len);
/* The next whole value: 1 and its length (it starts at framer->buf), 0 when more bytes are needed. Text that starts with
 * neither brace nor bracket is delivered up to the end of its line, so that the parser can refuse it. */
int qmp_framer_next(struct qmp_framer *framer, size_t *ret_len);
/* Drops the value that qmp_framer_next() delivered. */
void qmp_framer_drop(struct qmp_framer *framer, size_t len);

/* --- commands --- */

struct qmp_command {
	const char *name;
	/* args: an object or NULL. *ret: what "return" holds, NULL for {}. Negative errno with err filled on failure. */
	int (*run)(struct qmp *qmp, const json_t *args, json_t **ret, struct error *err);
	/* Argument names that are known; others are refused. NULL-terminated. */
	const char *const *arguments;
};

const struct qmp_command *qmp_command_find(const char *name);
const struct qmp_target *qmp_target_of(const struct qmp *qmp);
