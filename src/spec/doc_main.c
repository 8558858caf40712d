/*
 * spec-doc: a build-time program that fills templates of documentation from the option table. It copies stdin to stdout and puts the asked-for
 * text where a line is "@OPTIONS@", and the version for "@VERSION@" in a line. Not installed.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "base/cleanup.h"
#include "base/str.h"
#include "spec/spec_int.h"

static const struct text {
	const char *name;
	void (*write)(FILE *out);
} texts[] = {
	{"help", spec_doc_help},
	{"man", spec_doc_man},
	{"completion", spec_doc_completion},
	{"list", spec_doc_list},
};

static void copy_line(const char *line, const struct text *text, FILE *out)
{
	static const char mark[] = "@VERSION@";
	const char *at;

	if (str_eq(line, "@OPTIONS@\n")) {
		text->write(out);
		return;
	}
	while ((at = strstr(line, mark))) {
		fprintf(out, "%.*s%s", (int)(at - line), line, VIREO_VERSION);
		line = at + strlen(mark);
	}
	fputs(line, out);
}

int main(int argc, char **argv)
{
	_cleanup_free_ char *line = NULL;
	size_t size = 0;

	for (size_t i = 0; argc == 2 && i < ARRAY_SIZE(texts); i++) {
		if (!str_eq(argv[1], texts[i].name))
			continue;
		while (getline(&line, &size, stdin) >= 0)
			copy_line(line, &texts[i], stdout);
		return fflush(stdout) == 0 && !ferror(stdin) ? EXIT_SUCCESS : EXIT_FAILURE;
	}
	fprintf(stderr, "usage: spec-doc help|man|completion|list <TEMPLATE\n");
	return 2;
}
