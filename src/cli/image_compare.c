/*
 * `vireo image compare`. Exit status as qemu-img's: 0 they hold the same, 1 they do not, 2 it could not be found out. What the
 * longer one has behind the end of the other must be zeroes.
 */
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "cli/image.h"

#define CHUNK_BYTES      (1u << 20)
#define STATUS_DIFFERENT 1
#define STATUS_FAILED    2

struct side {
	struct image *image;
	struct image_sync *s;
	uint64_t size;
	uint8_t *buf;
	struct image_extent extent;
};

struct job {
	struct image_common common;
	const char *second_format;
	bool strict;
};

static void side_close(struct side *side)
{
	image_sync_close(side->s);
	image_close(side->image);
	free(side->buf);
}

static int side_open(struct side *side, const struct image_common *common, const char *path,
		     struct error *err)
{
	struct image_config config = {0};
	struct image_info info;
	int r = image_tool_open(common, path, false, &config, &side->image, err);

	if (r >= 0)
		r = image_sync_open(side->image, 1, &side->s, err);
	if (r < 0)
		return r;
	image_get_info(side->image, &info);
	side->size = info.size_bytes;
	side->buf = malloc(CHUNK_BYTES);
	return side->buf ? 0 : error_set(err, -ENOMEM, "no memory for a comparison");
}

/* Are the next bytes at offset zeroes without a look at them? Shortens *bytes to what is alike. */
static int peek(struct side *side, uint64_t offset, uint64_t *bytes, bool *ret_zero,
		struct error *err)
{
	int r;

	*ret_zero = true;
	if (offset >= side->size)
		return 0;
	*bytes = MIN(*bytes, side->size - offset);
	if (offset < side->extent.offset || offset >= side->extent.offset + side->extent.bytes) {
		r = image_map(side->image, offset, side->size - offset, UINT_MAX, &side->extent,
			      err);
		if (r < 0)
			return r;
	}
	*bytes = MIN(*bytes, side->extent.offset + side->extent.bytes - offset);
	*ret_zero = side->extent.zero || !side->extent.present;
	return 0;
}

static int fetch(struct side *side, uint64_t offset, uint64_t bytes, bool zero)
{
	if (!zero)
		return image_sync_rw(side->s, IMAGE_READ, offset, side->buf, bytes);
	memset(side->buf, 0, bytes);
	return 0;
}

/* 0: alike; 1: different, at *ret_at. */
static int compare(struct side *a, struct side *b, struct image_progress *progress,
		   uint64_t *ret_at, struct error *err)
{
	uint64_t end = MAX(a->size, b->size);
	uint64_t at = 0;

	while (at < end) {
		uint64_t bytes = end - at;
		bool a_zero;
		bool b_zero;
		int r = peek(a, at, &bytes, &a_zero, err);

		if (r >= 0)
			r = peek(b, at, &bytes, &b_zero, err);
		if (r < 0)
			return r;
		if (image_interrupted())
			return error_set(err, -EINTR, "interrupted");
		if (!a_zero || !b_zero) {
			bytes = MIN(bytes, (uint64_t)CHUNK_BYTES);
			r = fetch(a, at, bytes, a_zero);
			if (r >= 0)
				r = fetch(b, at, bytes, b_zero);
			if (r < 0)
				return error_set_errno(err, r, "offset %" PRIu64 " cannot be read",
						       at);
			for (uint64_t i = 0; memcmp(a->buf, b->buf, bytes) != 0 && i < bytes; i++) {
				*ret_at = at + i;
				if (a->buf[i] != b->buf[i])
					return 1;
			}
		}
		at += bytes;
		image_progress_add(progress, bytes);
	}
	return 0;
}

static int say(const struct job *job, bool same, const char *why, uint64_t at)
{
	int status = same ? CLI_OK : STATUS_DIFFERENT;

	if (job->common.json) {
		json_t *o = json_pack("{s:b}", "identical", same);

		if (!same && why == NULL)
			json_object_set_new(o, "offset", json_integer((json_int_t)at));
		return image_print_json(o) == CLI_OK ? status : STATUS_FAILED;
	}
	if (job->common.quiet)
		return status;
	if (same)
		puts("they hold the same");
	else if (why)
		puts(why);
	else
		printf("they differ at offset %" PRIu64 "\n", at);
	return status;
}

static int run(const struct job *job, const char *one, const char *two)
{
	struct image_common second = job->common;
	struct side a = {0};
	struct side b = {0};
	struct image_progress progress;
	struct error err = ERROR_INIT;
	uint64_t at = 0;
	int r = side_open(&a, &job->common, one, &err);

	second.format = job->second_format;
	if (r >= 0)
		r = side_open(&b, &second, two, &err);
	if (r >= 0 && job->strict && a.size != b.size) {
		side_close(&a);
		side_close(&b);
		return say(job, false, "their sizes differ", 0);
	}
	if (r >= 0) {
		image_progress_begin(&progress, &job->common, MAX(a.size, b.size));
		r = compare(&a, &b, &progress, &at, &err);
		image_progress_end(&progress);
	}
	side_close(&a);
	side_close(&b);
	if (r < 0) {
		image_fail(&err);
		return STATUS_FAILED;
	}
	return say(job, r == 0, NULL, at);
}

int image_verb_compare(int argc, char **argv)
{
	struct job job = {0};
	const char *value;
	int first;
	int c;

	while ((c = image_getopt(argc, argv, "F:s", &job.common, &value)) != -1) {
		if (c == -2)
			return image_usage("compare");
		if (c == 'F')
			job.second_format = value;
		job.strict |= c == 's';
	}
	if (image_rest(argc, &first) != 2) {
		log_error("compare wants two files");
		return image_usage("compare");
	}
	image_catch_signals();
	return run(&job, argv[first], argv[first + 1]);
}
