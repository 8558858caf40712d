/*
 * An error that a person will read. Functions whose failure reaches a user take a trailing
 * `struct error *err`, which may be NULL; they return a negative errno and fill err with one
 * sentence that names the thing and says what to do. Success leaves err untouched.
 */
#pragma once

#include <stdarg.h>
#include <stdbool.h>

struct error {
	int code; /* negative errno, 0 while unset */
	char text[480];
};

#define ERROR_INIT                                                                                 \
	{                                                                                          \
		.code = 0, .text = ""                                                              \
	}

/* Sets the text and returns `code` (a negative errno), so that `return error_set(...)` reads well. */
int error_set(struct error *err, int code, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

/* As error_set() with ": <strerror(-code)>" appended. */
int error_set_errno(struct error *err, int code, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

/* Puts "<prefix>: " before what is there; for callers that know which object it was. Returns err->code. */
int error_prefix(struct error *err, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#ifdef __clang_analyzer__
/* Static analysis looks at one file at a time: it is told here what comes back. */
#define error_set(err, code, ...)       ((error_set)(err, code, __VA_ARGS__), (code))
#define error_set_errno(err, code, ...) ((error_set_errno)(err, code, __VA_ARGS__), (code))
#endif
