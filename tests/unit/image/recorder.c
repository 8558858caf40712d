#include "unit/image/recorder.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "base/cleanup.h"

#define SECTOR 512u

static void need(bool good)
{
	if (!good) {
		perror("recorder");
		abort();
	}
}

static void set_length(struct recorder *r, uint64_t bytes)
{
	if (bytes > r->room) {
		uint64_t room = MAX(bytes, r->room * 2);

		r->data = realloc(r->data, room);
		need(r->data);
		memset(r->data + r->room, 0, room - r->room);
		r->room = room;
	}
	if (bytes < r->length)
		memset(r->data + bytes, 0, r->length - bytes);
	r->length = bytes;
}

static void note(struct recorder *r, enum record_kind kind, uint64_t offset, uint64_t bytes,
		 const void *data)
{
	struct record *rec;

	if (!r->logging)
		return;
	if (r->n == r->max) {
		r->max = r->max ? r->max * 2 : 1024;
		r->log = realloc(r->log, r->max * sizeof(*r->log));
		need(r->log);
	}
	rec = &r->log[r->n++];
	*rec = (struct record){.kind = kind,
			       .offset = offset,
			       .bytes = bytes,
			       .moment = ++r->moment};
	if (data) {
		rec->data = malloc(bytes);
		need(rec->data);
		memcpy(rec->data, data, bytes);
	}
}

static int run_write(struct recorder *r, struct image_req *req)
{
	uint64_t at = req->offset;

	r->n_writes++;
	if (r->fail_after && r->n_writes >= r->fail_after)
		return -ENOSPC;
	if (req->offset + req->bytes > r->length)
		set_length(r, req->offset + req->bytes);
	for (unsigned i = 0; i < req->n_iov; i++) {
		memcpy(r->data + at, req->iov[i].iov_base, req->iov[i].iov_len);
		at += req->iov[i].iov_len;
	}
	note(r, RECORD_WRITE, req->offset, req->bytes, r->data + req->offset);
	if (image_file_stable(req->file, req))
		note(r, RECORD_FLUSH, 0, 0, NULL);
	return 0;
}

static int run_read(struct recorder *r, struct image_req *req)
{
	uint64_t at = req->offset;

	for (unsigned i = 0; i < req->n_iov; i++) {
		const struct iovec *v = &req->iov[i];
		uint64_t have = at < r->length ? MIN(r->length - at, (uint64_t)v->iov_len) : 0;

		if (have)
			memcpy(v->iov_base, r->data + at, have);
		memset((uint8_t *)v->iov_base + have, 0, v->iov_len - have);
		at += v->iov_len;
	}
	return 0;
}

static int run_zero(struct recorder *r, struct image_req *req)
{
	if (req->op == IMAGE_WRITE_ZEROES && req->offset + req->bytes > r->length)
		set_length(r, req->offset + req->bytes);
	if (req->offset < r->length)
		memset(r->data + req->offset, 0, MIN(req->bytes, r->length - req->offset));
	note(r, RECORD_ZERO, req->offset, req->bytes, NULL);
	return 0;
}

static int run(void *opaque, struct image_req *req)
{
	struct recorder *r = opaque;

	LOCK_GUARD(&r->lock);
	switch (req->op) {
	case IMAGE_READ:
		return run_read(r, req);
	case IMAGE_WRITE:
		return run_write(r, req);
	case IMAGE_FLUSH:
		note(r, RECORD_FLUSH, 0, 0, NULL);
		return 0;
	default:
		return run_zero(r, req);
	}
}

static uint64_t length(void *opaque)
{
	struct recorder *r = opaque;

	LOCK_GUARD(&r->lock);
	return r->length;
}

static int truncate_to(void *opaque, uint64_t bytes)
{
	struct recorder *r = opaque;

	LOCK_GUARD(&r->lock);
	set_length(r, bytes);
	note(r, RECORD_LENGTH, bytes, 0, NULL);
	return 0;
}

void recorder_init(struct recorder *r)
{
	memset(r, 0, sizeof(*r));
	pthread_mutex_init(&r->lock, NULL);
	r->backend = (struct image_backend){run, length, truncate_to, r};
}

void recorder_fini(struct recorder *r)
{
	for (size_t i = 0; i < r->n; i++)
		free(r->log[i].data);
	free(r->log);
	free(r->data);
	pthread_mutex_destroy(&r->lock);
}

size_t recorder_now(struct recorder *r)
{
	LOCK_GUARD(&r->lock);
	return ++r->moment;
}

static void put(struct recorder *to, const struct record *rec, uint64_t at, uint64_t bytes)
{
	uint64_t offset = rec->offset + at;

	if (rec->kind == RECORD_ZERO && offset >= to->length)
		return;
	if (offset + bytes > to->length && rec->kind == RECORD_ZERO)
		bytes = to->length - offset;
	if (offset + bytes > to->length)
		set_length(to, offset + bytes);
	if (rec->data)
		memcpy(to->data + offset, rec->data + at, bytes);
	else
		memset(to->data + offset, 0, bytes);
}

void recorder_replay(struct recorder *to, const struct record *rec)
{
	if (rec->kind == RECORD_LENGTH)
		set_length(to, rec->offset);
	else if (rec->kind != RECORD_FLUSH)
		put(to, rec, 0, rec->bytes);
}

void recorder_replay_torn(struct recorder *to, const struct record *rec, uint32_t *seed)
{
	unsigned how = next_random(seed) % 4;

	if (how == 0 || rec->kind == RECORD_FLUSH)
		return;
	if (how == 1 || rec->kind == RECORD_LENGTH) {
		recorder_replay(to, rec);
		return;
	}
	for (uint64_t at = 0; at < rec->bytes; at += SECTOR) {
		if (next_random(seed) % 2)
			put(to, rec, at, MIN((uint64_t)SECTOR, rec->bytes - at));
	}
}

void recorder_copy(struct recorder *to, const struct recorder *from)
{
	set_length(to, 0);
	set_length(to, from->length);
	if (from->length)
		memcpy(to->data, from->data, from->length);
}
