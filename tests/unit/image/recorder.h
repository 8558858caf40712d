/*
 * A disk in memory, in the place of an image's file, that keeps a log of everything done to it. From the log any state can be made
 * that a power cut may leave: all up to the last flush, and of what came after it any part, torn between sectors.
 */
#pragma once

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "image/image_impl.h"

enum record_kind {
	RECORD_WRITE,
	RECORD_ZERO, /* a punched hole, or zeroes */
	RECORD_FLUSH,
	RECORD_LENGTH,
};

struct record {
	enum record_kind kind;
	uint64_t offset, bytes; /* LENGTH: the new one */
	uint8_t *data;
	size_t moment; /* when it had been done */
};

struct recorder {
	struct image_backend backend; /* its opaque is this */
	pthread_mutex_t lock;
	uint8_t *data;
	uint64_t length, room;
	struct record *log;
	size_t n, max;
	bool logging;
	size_t moment;
	uint64_t fail_after; /* writes from this one on get ENOSPC; 0: none */
	uint64_t n_writes;
};

void recorder_init(struct recorder *r);
void recorder_fini(struct recorder *r);
/* A moment in its life, later than any before. */
size_t recorder_now(struct recorder *r);

/* A state to come: made by replaying records of another one in order. */
void recorder_replay(struct recorder *to, const struct record *rec);
/* As after a power cut: the record is lost, done, or done for some of its sectors. */
void recorder_replay_torn(struct recorder *to, const struct record *rec, uint32_t *seed);
void recorder_copy(struct recorder *to, const struct recorder *from);

static inline uint32_t next_random(uint32_t *seed)
{
	*seed = *seed * 1664525u + 1013904223u;
	return *seed >> 8;
}
