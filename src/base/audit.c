#include "base/audit.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/cleanup.h"
#include "base/fd.h"
#include "base/str.h"

#define HASH_MEMBER ",\"hash\":\""
#define HASH_END    "\"}"
/* How a record ends: the member with its value. */
#define TAIL_BYTES (sizeof(HASH_MEMBER) - 1 + 2 * SHA256_BYTES + sizeof(HASH_END) - 1)
#define NO_HASH    "0000000000000000000000000000000000000000000000000000000000000000"
#define MAX_RECORD (64 * KIB)

/* The hash that a record says it has, and that it has. */
static int check_hash(const char *line, size_t len, char ret[SHA256_TEXT_BYTES])
{
	_cleanup_free_ char *body = NULL;
	uint8_t hash[SHA256_BYTES];
	size_t body_len = len - TAIL_BYTES;

	if (len <= TAIL_BYTES || memcmp(line + body_len, HASH_MEMBER, sizeof(HASH_MEMBER) - 1) != 0)
		return -EBADMSG;
	body = malloc(body_len + 1);
	if (!body)
		return -ENOMEM;
	memcpy(body, line, body_len);
	body[body_len] = '}';
	sha256(body, body_len + 1, hash);
	sha256_text(hash, ret);
	return memcmp(ret, line + body_len + sizeof(HASH_MEMBER) - 1, SHA256_TEXT_BYTES - 1) == 0
		       ? 0
		       : -EBADMSG;
}

struct chain {
	uint64_t records;
	char last[SHA256_TEXT_BYTES];
};

static int check_record(struct chain *chain, const char *line, size_t len, struct error *err)
{
	_cleanup_json_ json_t *record = NULL;
	const char *before = NULL;
	uint64_t number = 0, at = chain->records + 1;
	char hash[SHA256_TEXT_BYTES];

	if (check_hash(line, len, hash) < 0)
		return error_set(err, -EBADMSG,
				 "line %llu was altered: its hash is not that of its text",
				 (unsigned long long)at);
	if (json_parse(line, len, "record", &record, NULL) < 0 ||
	    json_get_u64(record, "record", &number, NULL) <= 0 ||
	    json_get_string(record, "before", &before, NULL) <= 0)
		return error_set(err, -EBADMSG, "line %llu is no record", (unsigned long long)at);
	if (!str_eq(before, chain->last) || number != at)
		return error_set(
			err, -EBADMSG,
			"line %llu does not follow the one before it: records were removed, put in or "
			"exchanged there",
			(unsigned long long)at);
	chain->records = at;
	str_copy(chain->last, sizeof(chain->last), hash);
	return 0;
}

/* *ret_end: where the last complete line ends. */
static int walk(FILE *f, struct chain *chain, off_t *ret_end, struct error *err)
{
	_cleanup_free_ char *line = NULL;
	size_t room = 0;
	ssize_t n;

	*ret_end = 0;
	while ((n = getline(&line, &room, f)) > 0 && line[n - 1] == '\n') {
		int r = (size_t)n > MAX_RECORD
				? error_set(err, -EBADMSG, "line %llu is too long for a record",
					    (unsigned long long)chain->records + 1)
				: check_record(chain, line, (size_t)n - 1, err);

		if (r < 0)
			return r;
		*ret_end += n;
	}
	return ferror(f) ? error_set_errno(err, -EIO, "cannot read it") : 0;
}

int audit_verify(const char *path, uint64_t *ret_records, char *ret_last, struct error *err)
{
	_cleanup_fclose_ FILE *f = fopen(path, "re");
	struct chain chain = {.last = NO_HASH};
	struct stat st;
	off_t end;
	int r;

	if (!f || fstat(fileno(f), &st) < 0)
		return error_set_errno(err, -errno, "cannot open '%s'", path);
	r = walk(f, &chain, &end, err);
	if (r >= 0 && end != st.st_size)
		r = error_set(err, -EBADMSG, "line %llu is incomplete",
			      (unsigned long long)chain.records + 1);
	if (r < 0) {
		error_prefix(err, "%s", path);
		return r;
	}
	*ret_records = chain.records;
	memcpy(ret_last, chain.last, sizeof(chain.last));
	return 0;
}

/* The last complete record of a file of this length: its number and hash, and where it ends. A long file is not read as a whole for that. */
static int read_end(int fd, off_t size, struct chain *chain, off_t *ret_end, struct error *err)
{
	_cleanup_free_ char *text = malloc(2 * MAX_RECORD);
	_cleanup_json_ json_t *record = NULL;
	off_t from = size > (off_t)(2 * MAX_RECORD) ? size - (off_t)(2 * MAX_RECORD) : 0;
	const char *end, *start;
	ssize_t n;

	if (!text)
		return error_set(err, -ENOMEM, "no memory for its end");
	n = fd_pread_full(fd, text, (size_t)(size - from), from);
	if (n < 0)
		return error_set_errno(err, (int)n, "cannot read it");
	*ret_end = from;
	end = memrchr(text, '\n', (size_t)n);
	if (!end)
		return from == 0 ? 0 : error_set(err, -EBADMSG, "its end is no record");
	*ret_end = from + (end - text) + 1;
	start = memrchr(text, '\n', (size_t)(end - text));
	start = start ? start + 1 : text;
	if (check_hash(start, (size_t)(end - start), chain->last) < 0 ||
	    json_parse(start, (size_t)(end - start), "record", &record, NULL) < 0 ||
	    json_get_u64(record, "record", &chain->records, NULL) <= 0)
		return error_set(err, -EBADMSG, "its last record was altered");
	return 0;
}

int audit_open(struct audit_log *log, const char *path, struct error *err)
{
	_cleanup_close_ int fd =
		open(path, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600);
	struct chain chain = {.last = NO_HASH};
	struct error why = ERROR_INIT;
	struct stat st;
	off_t end = 0;
	int r;

	*log = (struct audit_log){.fd = -1};
	if (fd < 0 || fstat(fd, &st) < 0)
		return error_set_errno(err, -errno, "cannot open '%s'", path);
	r = read_end(fd, st.st_size, &chain, &end, &why);
	if (r < 0)
		return error_set(err, r, "'%s': %s: move the file away to begin a new one", path,
				 why.text);
	if (end != st.st_size && ftruncate(fd, end) < 0)
		return error_set_errno(err, -errno, "cannot go on with '%s'", path);
	log->next = chain.records + 1;
	memcpy(log->last, chain.last, sizeof(log->last));
	log->fd = steal_fd(&fd);
	return 0;
}

void audit_close(struct audit_log *log)
{
	if (log->fd >= 0)
		close(log->fd);
	log->fd = -1;
}

int audit_add(struct audit_log *log, json_t *fields, struct error *err)
{
	_cleanup_json_ json_t *record =
		json_pack("{s:I,s:s}", "record", (json_int_t)log->next, "before", log->last);
	_cleanup_free_ char *body = NULL, *line = NULL;
	uint8_t hash[SHA256_BYTES];
	char text[SHA256_TEXT_BYTES];
	int r = record && fields ? json_object_update(record, fields) : -1;
	int len = -1;

	json_decref(fields);
	body = r == 0 ? json_dumps(record, JSON_COMPACT) : NULL;
	if (body) {
		sha256(body, strlen(body), hash);
		sha256_text(hash, text);
		len = asprintf(&line, "%.*s%s%s%s\n", (int)strlen(body) - 1, body, HASH_MEMBER,
			       text, HASH_END);
	}
	if (len < 0) {
		line = NULL;
		return error_set(err, -ENOMEM, "no memory for a record");
	}
	r = fd_write_full(log->fd, line, (size_t)len);
	if (r < 0)
		return error_set_errno(err, r, "cannot write a record");
	log->next++;
	memcpy(log->last, text, sizeof(log->last));
	return 0;
}
