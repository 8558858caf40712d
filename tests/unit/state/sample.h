/* An object with a field of every kind, for the tests of the walker and for its fuzzer. */
#pragma once

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "vm/state/state.h"

struct sample_queue {
	uint16_t next_avail, next_used;
	bool enabled;
	uint64_t ring[3];
};

struct sample {
	bool on;
	uint8_t mode;
	uint16_t small;
	uint32_t medium;
	uint64_t large;
	int32_t negative;
	uint32_t registers[5];
	uint8_t mac[6];
	uint8_t fifo[16];
	uint32_t fifo_len;
	struct sample_queue control;
	struct sample_queue pending[4];
	uint32_t n_pending;
	struct sample_queue *queues;
	uint32_t n_queues;
	unsigned cached; /* in no table */
	int saves, loads;
};

#define SAMPLE_QUEUES 3

static const struct state_field sample_queue_fields[] = {
	STATE_UINT(struct sample_queue, next_avail),
	STATE_UINT(struct sample_queue, next_used),
	STATE_UINT_MAX(struct sample_queue, enabled, 1),
	STATE_UINTS(struct sample_queue, ring),
};
static const struct state_table sample_queue_table = {.name = "sample-queue",
						      .version = 1,
						      STATE_FIELDS(sample_queue_fields)};

static inline void sample_pre_save(void *obj)
{
	((struct sample *)obj)->saves++;
}

static inline int sample_post_load(void *obj, struct error *err)
{
	struct sample *s = obj;

	s->loads++;
	if (s->small == 0xDEAD)
		return error_set(err, -EINVAL, "small is 0x%x", s->small);
	s->cached = s->medium + 1;
	return 0;
}

static const struct state_field sample_fields[] = {
	STATE_UINT_MAX(struct sample, on, 1),
	STATE_UINT_MAX(struct sample, mode, 3),
	STATE_UINT(struct sample, small),
	STATE_UINT(struct sample, medium),
	STATE_UINT(struct sample, large),
	STATE_UINT(struct sample, negative),
	STATE_UINTS(struct sample, registers),
	STATE_BYTES(struct sample, mac),
	STATE_VBYTES(struct sample, fifo, fifo_len),
	STATE_STRUCT(struct sample, control, &sample_queue_table),
	STATE_VSTRUCTS(struct sample, pending, n_pending, &sample_queue_table),
	STATE_PTR_STRUCTS(struct sample, queues, n_queues, 8, &sample_queue_table),
};
static const struct state_table sample_table = {
	.name = "sample",
	.version = 1,
	STATE_FIELDS(sample_fields),
	.pre_save = sample_pre_save,
	.post_load = sample_post_load,
};

static inline struct sample *sample_new(void)
{
	struct sample *s = calloc(1, sizeof(*s));

	if (!s)
		abort();
	s->n_queues = SAMPLE_QUEUES;
	s->queues = calloc(SAMPLE_QUEUES, sizeof(*s->queues));
	if (!s->queues)
		abort();
	return s;
}

static inline void sample_free(struct sample *s)
{
	free(s->queues);
	free(s);
}
