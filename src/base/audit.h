/*
 * A chain of records in a file of JSON lines, to which records are only added. Each has a number, the hash of the one before it, and a hash of its own text, so that
 * one that was altered, removed or put in is found. It is no signature: who may write the file can make a whole new chain; keep the last hash elsewhere to notice that,
 * and that records were cut off at the end.
 *
 * One thread a log.
 */
#pragma once

#include "base/error.h"
#include "base/json.h"
#include "base/sha256.h"

struct audit_log {
	int fd;
	uint64_t next; /* number of the next record, from 1 */
	char last[SHA256_TEXT_BYTES];
};

/* Opens or makes the file (mode 0600) and goes on with its chain, of which only the last record is looked at (-EBADMSG). A record that a loss of power left incomplete at the end is cut off. */
int audit_open(struct audit_log *log, const char *path, struct error *err);
void audit_close(struct audit_log *log);
/* Adds one; takes over fields, an object. */
int audit_add(struct audit_log *log, json_t *fields, struct error *err);

/* Reads a whole file. -EBADMSG: err names the line and what is wrong. *ret_last: the last record's hash, of SHA256_TEXT_BYTES. */
int audit_verify(const char *path, uint64_t *ret_records, char *ret_last, struct error *err);
