/*
 * What a kernel or an initrd is read from: a file, or memory in tests and fuzzers. Reads are positioned and go straight to
 * where the bytes belong, which is guest memory for all but headers.
 */
#pragma once

#include "base/error.h"
#include "vm/mem/gmem.h"

struct fw_source {
	const char *what; /* "kernel", "initrd" */
	const char *name; /* as the user gave it */
	uint64_t size;    /* bytes */
	int fd;           /* negative: data */
	bool owns_fd;
	const uint8_t *data;
};

/* fd: used when not negative, else path is opened. -EINVAL for what is no regular file. */
int fw_source_open(struct fw_source *src, const char *what, const char *path, int fd,
		   struct error *err);
void fw_source_close(struct fw_source *src); /* harmless on a zeroed one */

/* All of [off, off + len). -EINVAL with "truncated" when the source ends before. */
int fw_source_read(const struct fw_source *src, uint64_t off, void *buf, size_t len,
		   struct error *err);
/* The same into guest memory, which must be one writable region there: the caller has checked. */
int fw_source_load(const struct fw_source *src, uint64_t off, struct gmem *mem, gpa_t gpa,
		   uint64_t len, struct error *err);

/* What the first bytes of a file look like, for a message about a kernel that is none: "a gzip archive"; NULL when they look
 * like nothing known. */
const char *fw_guess(const uint8_t *head, size_t len);
