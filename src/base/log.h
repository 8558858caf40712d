/*
 * The log: lines on stderr (or a descriptor), each with the program's name. Any thread may log.
 * What a guest can trigger is logged through log_guest(), which is silent after its budget is used.
 */
#pragma once

#include <stdatomic.h>

enum log_level {
	LOG_ERROR,
	LOG_WARNING,
	LOG_INFO,
	LOG_DEBUG,
};

/* name: shown before each line, must outlive the program. Lines above `max` are dropped. */
void log_init(const char *name, enum log_level max);
void log_set_fd(int fd); /* not closed by the log */
/* eol: what ends a line; "\r\n" while the terminal is raw. Must be a constant string. */
void log_set_eol(const char *eol);

void log_line(enum log_level level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#define log_error(...)   log_line(LOG_ERROR, __VA_ARGS__)
#define log_warning(...) log_line(LOG_WARNING, __VA_ARGS__)
#define log_info(...)    log_line(LOG_INFO, __VA_ARGS__)
#define log_debug(...)   log_line(LOG_DEBUG, __VA_ARGS__)

/* One per device (zero-initialised): at most LOG_GUEST_BUDGET lines for its whole life. */
struct log_guest {
	atomic_uint used;
};
#define LOG_GUEST_BUDGET 8

void log_guest(struct log_guest *budget, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));
