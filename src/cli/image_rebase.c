/*
 * `vireo image rebase`: another backing file. What reads otherwise over the new one is copied into the image first, so that the disk
 * stays the same; with -u only the name is changed.
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
#include "base/str.h"
#include "cli/image.h"

#define CHUNK_BYTES (256u * 1024)

struct job {
	struct image_common common;
	const char *path, *backing, *backing_format;
	bool unsafe;
	struct image *top, *base;
	struct image_sync *top_io, *base_io;
	uint8_t *was, *is;
};

static int open_base(struct job *job, struct error *err)
{
	const char *slash = strrchr(job->path, '/');
	_cleanup_free_ char *path = NULL;
	struct image_config config = {.fd = -1,
				      .readonly = true,
				      .allow_any_dir = true,
				      .format = job->backing_format};
	int r;

	if (!job->backing)
		return 0;
	if (asprintf(&path, "%.*s%s",
		     job->backing[0] == '/' || !slash ? 0 : (int)(slash - job->path) + 1, job->path,
		     job->backing) < 0) {
		path = NULL;
		return error_set(err, -ENOMEM, "no memory for a path");
	}
	config.path = path;
	r = image_open(&config, &job->base, err);
	return r < 0 ? r : image_sync_open(job->base, 1, &job->base_io, err);
}

static int read_base(struct job *job, uint64_t offset, uint64_t bytes)
{
	struct image_info info = {0};
	uint64_t have;

	if (job->base)
		image_get_info(job->base, &info);
	have = offset < info.size_bytes ? MIN(bytes, info.size_bytes - offset) : 0;
	memset(job->is + have, 0, bytes - have);
	return have ? image_sync_rw(job->base_io, IMAGE_READ, offset, job->is, have) : 0;
}

/* A stretch that the image itself does not have. */
static int settle(struct job *job, uint64_t offset, uint64_t bytes)
{
	while (bytes > 0) {
		uint64_t part = MIN(bytes, (uint64_t)CHUNK_BYTES);
		int r = image_sync_rw(job->top_io, IMAGE_READ, offset, job->was, part);

		if (r >= 0)
			r = read_base(job, offset, part);
		if (r >= 0 && memcmp(job->was, job->is, part) != 0)
			r = image_all_zero(job->was, part)
				    ? image_sync_zero(job->top_io, offset, part, true)
				    : image_sync_rw(job->top_io, IMAGE_WRITE, offset, job->was,
						    part);
		if (r < 0)
			return r;
		offset += part;
		bytes -= part;
	}
	return 0;
}

static int settle_all(struct job *job, struct error *err)
{
	struct image_progress progress;
	struct image_info info;
	uint64_t at = 0;
	int r = 0;

	image_get_info(job->top, &info);
	image_progress_begin(&progress, &job->common, info.size_bytes);
	while (r >= 0 && at < info.size_bytes) {
		struct image_extent e;

		r = image_map(job->top, at, info.size_bytes - at, 0, &e, err);
		if (r < 0)
			return r;
		if (image_interrupted())
			return error_set(err, -EINTR, "interrupted");
		/* In steps, so that a signal is heard and progress seen. */
		e.bytes = MIN(e.bytes, (uint64_t)CHUNK_BYTES * 16);
		if (!e.present)
			r = settle(job, at, e.bytes);
		at += e.bytes;
		image_progress_add(&progress, e.bytes);
	}
	image_progress_end(&progress);
	if (r >= 0)
		r = image_sync_flush(job->top_io);
	return r < 0 ? error_set_errno(err, r, "%s: cannot be rebased", job->path) : 0;
}

static int rebase(struct job *job, struct error *err)
{
	struct image_config config = {.no_backing = job->unsafe};
	int r;

	if (job->backing && !job->backing_format)
		return error_set(err, -EINVAL, "-b %s: state its format with -F: it is not guessed",
				 job->backing);
	r = image_tool_open(&job->common, job->path, true, &config, &job->top, err);
	if (r >= 0 && !job->unsafe) {
		job->was = malloc(CHUNK_BYTES);
		job->is = malloc(CHUNK_BYTES);
		if (!job->was || !job->is)
			return error_set(err, -ENOMEM, "no memory to rebase");
		r = image_sync_open(job->top, 1, &job->top_io, err);
		if (r >= 0)
			r = open_base(job, err);
		if (r >= 0)
			r = settle_all(job, err);
		image_sync_close(job->top_io);
		image_sync_close(job->base_io);
	}
	return r < 0 ? r : image_set_backing(job->top, job->backing, job->backing_format, err);
}

int image_verb_rebase(int argc, char **argv)
{
	struct job job = {0};
	struct error err = ERROR_INIT;
	bool has_backing = false;
	const char *value;
	int first;
	int r;
	int c;

	while ((c = image_getopt(argc, argv, "b:F:u", &job.common, &value)) != -1) {
		if (c == -2)
			return image_usage("rebase");
		if (c == 'b') {
			has_backing = true;
			job.backing = *value ? value : NULL;
		} else if (c == 'F') {
			job.backing_format = value;
		}
		job.unsafe |= c == 'u';
	}
	if (image_rest(argc, &first) != 1 || !has_backing) {
		log_error("rebase wants a file, and its new backing file with -b");
		return image_usage("rebase");
	}
	job.path = argv[first];
	if (!job.backing)
		job.backing_format = NULL;
	image_catch_signals();
	r = rebase(&job, &err);
	image_close(job.base);
	image_close(job.top);
	free(job.was);
	free(job.is);
	if (r < 0)
		return image_fail(&err);
	if (job.common.json)
		return image_print_json(json_pack("{s:s}", "filename", job.path));
	return CLI_OK;
}
