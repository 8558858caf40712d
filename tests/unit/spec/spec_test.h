/* A machine from words, as a shell would give them. */
#pragma once

#include "unit/test.h"

#include "base/error.h"
#include "spec/spec.h"

#define MAX_WORDS 32

/* words: NULL-terminated. The spec is initialised here and must be freed with spec_fini() whatever comes back. */
static inline int parse_words(struct spec *spec, const char *const *words,
			      struct spec_cli_result *result, struct error *err)
{
	char *argv[MAX_WORDS];
	int argc = 0;
	int r;

	spec_init(spec);
	for (; words[argc]; argc++) {
		assert_true(argc < MAX_WORDS);
		argv[argc] = strdup(words[argc]);
		assert_non_null(argv[argc]);
	}
	r = spec_parse_args(spec, argc, argv, result, err);
	for (int i = 0; i < argc; i++)
		free(argv[i]);
	return r;
}

#define WORDS(...) ((const char *const[]){__VA_ARGS__, NULL})

/* The words are taken. */
#define assert_parsed(spec, ...)                                                                   \
	do {                                                                                       \
		struct error err_ = ERROR_INIT;                                                    \
		struct spec_cli_result res_ = {0};                                                 \
		if (parse_words((spec), WORDS(__VA_ARGS__), &res_, &err_) < 0)                     \
			fail_msg("%s", err_.text);                                                 \
	} while (0)

/* The words are taken and make a machine. */
#define assert_finished(spec, ...)                                                                 \
	do {                                                                                       \
		struct error ferr_ = ERROR_INIT;                                                   \
		assert_parsed((spec), __VA_ARGS__);                                                \
		if (spec_finish((spec), &ferr_) < 0)                                               \
			fail_msg("%s", ferr_.text);                                                \
	} while (0)

/* The words are refused, by the parser or by spec_finish(), with a message that has `part` in it. */
#define assert_refused(part, ...)                                                                  \
	do {                                                                                       \
		struct error err_ = ERROR_INIT;                                                    \
		struct spec_cli_result res_ = {0};                                                 \
		struct spec spec_;                                                                 \
		int r_ = parse_words(&spec_, WORDS(__VA_ARGS__), &res_, &err_);                    \
		if (r_ == 0)                                                                       \
			r_ = spec_finish(&spec_, &err_);                                           \
		spec_fini(&spec_);                                                                 \
		assert_true(r_ < 0);                                                               \
		assert_int_equal(r_, err_.code);                                                   \
		if (!strstr(err_.text, (part)))                                                    \
			fail_msg("\"%s\" has no \"%s\"", err_.text, (part));                       \
	} while (0)
