/*
 * Small files that must survive: definitions, one file an object. A write is there whole and durable when the call returns, or was never made; what a crash leaves
 * besides (".NAME.new") is removed by store_open(). Links mark what is started by itself.
 *
 * Any thread; two writers of one name are for the caller to keep apart. Blocks on the disk.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "base/error.h"

#define STORE_MAX_FILE (4u << 20)

/* The system calls that change the folder, so that a test can fail and record them. */
struct store_ops {
	int (*create)(int dir_fd, const char *name); /* a descriptor, or -errno */
	int (*write)(int fd, const void *data, size_t len);
	int (*sync)(int fd);
	int (*rename)(int dir_fd, const char *from, const char *to);
	int (*unlink)(int dir_fd, const char *name);
	int (*symlink)(int dir_fd, const char *target, const char *name);
};
extern const struct store_ops store_ops_real;

struct store {
	int dir_fd;
	char *path; /* for messages */
	const struct store_ops *ops;
};

/* Opens a folder, made (0700, and those above it) when it is not there. ops NULL: the real ones. */
int store_open(struct store *store, const char *path, const struct store_ops *ops,
	       struct error *err);
void store_close(struct store *store);

/* Is the name one that a file may have? Without slash, not beginning with a dot, 1 to 200 bytes, no control characters. */
bool store_name_good(const char *name);

int store_write(const struct store *store, const char *name, const void *data, size_t len,
		struct error *err);
/* The whole file as a heap string; -ENOENT. */
int store_read(const struct store *store, const char *name, char **ret, size_t *ret_len,
	       struct error *err);
/* No such file is fine. */
int store_remove(const struct store *store, const char *name, struct error *err);
/* A symbolic link in place of whatever has that name. */
int store_link(const struct store *store, const char *name, const char *target, struct error *err);
bool store_has(const struct store *store, const char *name);

/* Calls fn with each name that ends in suffix, until it returns non-zero, which is returned; -errno. */
int store_each(const struct store *store, const char *suffix,
	       int (*fn)(void *opaque, const char *name), void *opaque);

/* As mkdir -p, with this mode for what is made. */
int store_make_folder(const char *path, mode_t mode, struct error *err);
