/*
 * Random work on an image, several requests at once, and a model of what the disk must hold. Each sector's history is kept, so that
 * it can be said what it may hold after a cut at any moment.
 */
#pragma once

#include "unit/test.h"

#include "image/image_admin.h"
#include "unit/image/recorder.h"

#define MODEL_SECTOR 512u

/* What happened to a range of sectors, from one moment of the recorder to another. */
struct event {
	size_t begin, end; /* end: SIZE_MAX while it goes on */
	uint32_t first, count;
	uint64_t id; /* what its sectors hold then; 0: zeroes */
	bool maybe;  /* or what they held before */
	bool stable; /* when it has ended; else with the next flush */
};

struct flush_event {
	size_t begin, end;
};

struct workload {
	struct recorder *rec;
	struct image *image;
	struct image_sync *s;
	uint32_t sectors;
	uint32_t seed;
	uint64_t next_id;
	struct event *events;
	size_t n_events;
	struct flush_event *flushes;
	size_t n_flushes;
	uint64_t *now; /* by sector; what is there without a cut */
	bool compress;
	uint64_t *base; /* by sector; what was there at first */
};

void workload_init(struct workload *w, struct recorder *rec, uint64_t bytes, uint32_t seed);
/* Makes a raw file in the current folder, of which half a disk of this size is read at first; *ret_name is on the heap. */
void workload_base(struct workload *w, uint64_t id, char **ret_name);
void workload_fini(struct workload *w);
void workload_open(struct workload *w, const struct image_config *config);
void workload_close(struct workload *w);
/* Some requests at once, of random kinds, on sectors that are disjoint; ends when they have. */
void workload_round(struct workload *w);
/* Reads the whole disk and compares with the model. */
void workload_verify(struct workload *w);
/* The disk becomes what it was when `then` was copied from now; for snapshots. */
void workload_becomes(struct workload *w, const uint64_t *then, size_t begin);
void workload_fill(uint8_t *buf, uint32_t sector, uint32_t count, uint64_t id);
/* The first sector of a disk that holds what it may not after a cut at this moment; w->sectors: there is none. */
uint32_t workload_first_wrong(const struct workload *w, size_t cut, const uint8_t *disk);
