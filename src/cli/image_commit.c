/*
 * `vireo image commit`: writes what an image has itself into its backing file. The image stays as it is, and goes on reading the
 * same; it may then be deleted, or kept.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "cli/image.h"

struct job {
	struct image_common common;
	const char *path;
	struct image *top, *held, *base;
};

/* The chain is opened without locks, since its backing file is written; the image itself is held apart. */
static int open_all(struct job *job, struct image_details *details, struct error *err)
{
	struct image_config hold = {.no_backing = true};
	struct image_config chain = {.no_lock = true};
	struct image_config base = {0};
	struct image_common common = job->common;
	int r = image_tool_open(&job->common, job->path, true, &hold, &job->held, err);

	if (r >= 0)
		r = image_tool_open(&job->common, job->path, false, &chain, &job->top, err);
	if (r < 0)
		return r;
	image_describe(job->top, 0, details);
	if (!details->backing_full)
		return error_set(err, -EINVAL, "%s: has no backing file to write into", job->path);
	common.format = details->backing_format;
	common.any_dir = true;
	return image_tool_open(&common, details->backing_full, true, &base, &job->base, err);
}

static int commit(struct job *job, struct error *err)
{
	struct image_details details;
	struct image_progress progress;
	struct image_info top;
	struct image_info base;
	struct image_copy copy = {.parallel = 16, .sparse = 4096, .progress = &progress};
	int r = open_all(job, &details, err);

	if (r < 0)
		return r;
	image_get_info(job->top, &top);
	image_get_info(job->base, &base);
	if (base.size_bytes < top.size_bytes)
		r = image_resize(job->base, top.size_bytes, IMAGE_PREALLOC_OFF, err);
	if (r < 0)
		return r;
	copy.from = job->top;
	copy.to = job->base;
	image_progress_begin(&progress, &job->common, top.size_bytes);
	r = image_copy_run(&copy, err);
	image_progress_end(&progress);
	return r;
}

int image_verb_commit(int argc, char **argv)
{
	struct job job = {0};
	struct error err = ERROR_INIT;
	const char *value;
	int first;
	int r;
	int c;

	while ((c = image_getopt(argc, argv, "", &job.common, &value)) != -1) {
		if (c == -2)
			return image_usage("commit");
	}
	if (image_rest(argc, &first) != 1) {
		log_error("commit wants one file");
		return image_usage("commit");
	}
	job.path = argv[first];
	image_catch_signals();
	r = commit(&job, &err);
	image_close(job.base);
	image_close(job.top);
	image_close(job.held);
	if (r < 0)
		return image_fail(&err);
	if (job.common.json)
		return image_print_json(json_pack("{s:s}", "filename", job.path));
	if (!job.common.quiet)
		printf("%s: its backing file has it all now\n", job.path);
	return CLI_OK;
}
