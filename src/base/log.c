#include "base/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* Mutable file-scope state is allowed here alone: set once at start, read by every thread. */
static const char *log_name = "vireo";
static enum log_level log_max = LOG_INFO;
static atomic_int log_fd = 2;
static _Atomic(const char *) log_eol = "\n";

void log_init(const char *name, enum log_level max)
{
	log_name = name;
	log_max = max;
}

void log_set_fd(int fd)
{
	atomic_store(&log_fd, fd);
}

void log_set_eol(const char *eol)
{
	atomic_store(&log_eol, eol);
}

/* One write() a line, so that lines of several threads do not mix. */
static void log_emit(enum log_level level, const char *fmt, va_list ap, const char *tail)
{
	static const char *const prefix[] = {"error: ", "warning: ", "", "debug: "};
	char line[1024];
	size_t used;
	ssize_t r;

	snprintf(line, sizeof(line) - 160, "%s: %s", log_name, prefix[level]);
	used = strlen(line);
	vsnprintf(line + used, sizeof(line) - 160 - used, fmt, ap);
	used = strlen(line);
	snprintf(line + used, sizeof(line) - used, "%s%s", tail, atomic_load(&log_eol));
	r = write(atomic_load(&log_fd), line, strlen(line));
	(void)r;
}

void log_line(enum log_level level, const char *fmt, ...)
{
	va_list ap;

	if (level > log_max)
		return;
	va_start(ap, fmt);
	log_emit(level, fmt, ap, "");
	va_end(ap);
}

void log_guest(struct log_guest *budget, const char *fmt, ...)
{
	unsigned n = atomic_load_explicit(&budget->used, memory_order_relaxed);
	va_list ap;

	/* No unconditional increment: a guest that repeats this for years must not wrap the counter. */
	if (n >= LOG_GUEST_BUDGET)
		return;
	n = atomic_fetch_add(&budget->used, 1);
	if (n >= LOG_GUEST_BUDGET)
		return;
	va_start(ap, fmt);
	log_emit(LOG_WARNING, fmt, ap,
		 n == LOG_GUEST_BUDGET - 1 ? " (further messages of this device are dropped)" : "");
	va_end(ap);
}
