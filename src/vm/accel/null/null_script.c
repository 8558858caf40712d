/*
 * The script's parser. The grammar stands in null.h.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "base/str.h"
#include "vm/accel/null/null_int.h"

#define MAX_WORDS      6
#define MAX_LINES      65536
#define MAX_LINE_BYTES 256

static const struct {
	const char *name;
	enum null_op op;
	unsigned min_args, max_args;
	bool sized; /* the second argument is an access size */
} commands[] = {
	{"out", NULL_OUT, 3, 3, true},
	{"in", NULL_IN, 2, 3, true},
	{"write", NULL_WRITE, 3, 3, true},
	{"read", NULL_READ, 2, 3, true},
	{"msi", NULL_MSI, 2, 2, false},
	{"wait-irq", NULL_WAIT_IRQ, 2, 2, false},
	{"wait-msi", NULL_WAIT_MSI, 0, 1, false},
	{"wait-kick", NULL_WAIT_KICK, 0, 0, false},
	{"idle", NULL_IDLE, 0, 0, false},
	{"again", NULL_AGAIN, 0, 0, false},
	{"reset", NULL_RESET, 0, 0, false},
	{"halt", NULL_HALT, 0, 0, false},
	{"fail", NULL_FAIL, 0, 0, false},
};

static bool args_fit(const struct null_line *line, bool sized)
{
	bool port = line->op == NULL_OUT || line->op == NULL_IN;
	uint64_t size = line->args[1];

	if (line->op == NULL_WAIT_IRQ)
		return line->args[0] < X86_N_GSIS && line->args[1] <= 1;
	if (!sized)
		return true;
	if (size != 1 && size != 2 && size != 4 && (port || size != 8))
		return false;
	return !port || line->args[0] <= UINT16_MAX;
}

/* words[0] is the command. */
static int parse_words(char **words, unsigned n, struct null_line *line, struct error *err)
{
	for (size_t c = 0; c < ARRAY_SIZE(commands); c++) {
		if (!str_eq(words[0], commands[c].name))
			continue;
		line->op = commands[c].op;
		line->n_args = n - 1;
		if (n - 1 < commands[c].min_args || n - 1 > commands[c].max_args)
			return error_set(err, -EINVAL,
					 "script line %u: '%s' takes %u to %u numbers",
					 line->number, words[0], commands[c].min_args,
					 commands[c].max_args);
		for (unsigned i = 1; i < n; i++)
			if (parse_u64(words[i], &line->args[i - 1]) < 0)
				return error_set(err, -EINVAL, "script line %u: '%s' is no number",
						 line->number, words[i]);
		if (!args_fit(line, commands[c].sized))
			return error_set(err, -EINVAL, "script line %u: '%s': out of range",
					 line->number, words[0]);
		return 0;
	}
	return error_set(err, -EINVAL, "script line %u: unknown command '%s'", line->number,
			 words[0]);
}

/* Returns 1 for a line, 0 for an empty one. */
static int parse_line(char *text, struct null_line *line, struct error *err)
{
	char *words[MAX_WORDS], *save = NULL;
	unsigned n = 0, first = 0;
	int r;

	text[strcspn(text, "#")] = '\0';
	for (char *w = strtok_r(text, " \t\r", &save); w; w = strtok_r(NULL, " \t\r", &save)) {
		if (n == MAX_WORDS)
			return error_set(err, -EINVAL, "script line %u: too many words",
					 line->number);
		words[n++] = w;
	}
	if (n == 0)
		return 0;
	line->vcpu = -1;
	if (words[0][strlen(words[0]) - 1] == ':') {
		uint32_t vcpu;

		words[0][strlen(words[0]) - 1] = '\0';
		if (parse_u32_range(words[0], 0, ACCEL_MAX_VCPUS - 1, &vcpu) < 0 || n == 1)
			return error_set(err, -EINVAL, "script line %u: 'N: command' expected",
					 line->number);
		line->vcpu = (int)vcpu;
		first = 1;
	}
	r = parse_words(words + first, n - first, line, err);
	return r < 0 ? r : 1;
}

static size_t count_lines(const char *text)
{
	size_t n = 1;

	for (const char *p = text; (p = strchr(p, '\n')) != NULL; p++)
		n++;
	return n;
}

int null_script_parse(const char *text, struct null_script *ret, struct error *err)
{
	size_t room = count_lines(text), n = 0;
	struct null_line *lines = room > MAX_LINES ? NULL : calloc(room, sizeof(*lines));
	unsigned number = 0;
	int r = 0;

	if (!lines)
		return error_set(err, -E2BIG, "script: too many lines");
	for (const char *at = text; r >= 0 && at; number++) {
		struct null_line line = {.number = number + 1};
		size_t len = strcspn(at, "\n");
		char buf[MAX_LINE_BYTES];

		if (len >= sizeof(buf)) {
			r = error_set(err, -E2BIG, "script line %u: too long", line.number);
			break;
		}
		memcpy(buf, at, len);
		buf[len] = '\0';
		at = at[len] ? at + len + 1 : NULL;
		r = parse_line(buf, &line, err);
		if (r > 0)
			lines[n++] = line;
	}
	if (r < 0) {
		free(lines);
		return r;
	}
	*ret = (struct null_script){.lines = lines, .n_lines = n};
	return 0;
}
