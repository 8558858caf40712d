/*
 * `vireo image convert`. The target is made under another name beside the one it will have, and renamed when it is complete: so
 * there is never a half-written file under its name, whatever ends the program.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "base/str.h"
#include "cli/image.h"

struct job {
	struct image_common common;
	struct image_create_config create;
	const char *source, *target;
	char *options; /* what create's strings are in */
	char *part;    /* the target's name until it is complete; NULL: it has its own */
	bool compress, no_create;
	enum image_cache source_cache;
	uint64_t parallel, sparse;
};

static int take_one(struct job *job, int c, const char *value, struct error *err)
{
	switch (c) {
	case 'O':
		job->create.format = value;
		return 0;
	case 'o':
		return image_parse_options(value, &job->create, &job->options, err);
	case 'c':
		job->compress = true;
		return 0;
	case 'm':
		return parse_u64(value, &job->parallel) < 0 || job->parallel < 1 ||
				       job->parallel > 64
			       ? error_set(err, -EINVAL, "-m %s: it is 1 to 64", value)
			       : 0;
	case 'S':
		if (image_parse_size(value, "-S", &job->sparse, err) < 0)
			return -EINVAL;
		return job->sparse % 512
			       ? error_set(err, -EINVAL, "-S %s: is no multiple of 512", value)
			       : 0;
	case 'n':
		job->no_create = true;
		return 0;
	case 't':
		return image_parse_cache(value, &job->common.cache, err);
	case 'T':
		return image_parse_cache(value, &job->source_cache, err);
	}
	return 0; /* -W: always so */
}

static int parse(struct job *job, int argc, char **argv)
{
	struct error err = ERROR_INIT;
	const char *value;
	int first;
	int c;

	while ((c = image_getopt(argc, argv, "O:o:cm:WS:nt:T:", &job->common, &value)) != -1) {
		if (c == -2)
			return image_usage("convert");
		if (take_one(job, c, value, &err) < 0) {
			image_fail(&err);
			return CLI_USAGE;
		}
	}
	if (image_rest(argc, &first) != 2) {
		log_error("convert wants a source and a target");
		return image_usage("convert");
	}
	job->source = argv[first];
	job->target = argv[first + 1];
	return CLI_OK;
}

/* A new file, or one that is replaced, gets another name first. A device has only its own. */
static int make_target(struct job *job, struct error *err)
{
	struct stat st;

	job->create.path = job->target;
	job->create.replace = true;
	if (job->no_create)
		return 0;
	if (stat(job->target, &st) < 0 || S_ISREG(st.st_mode)) {
		if (asprintf(&job->part, "%s.part-%d", job->target, (int)getpid()) < 0) {
			job->part = NULL;
			return error_set(err, -ENOMEM, "no memory for a name");
		}
		job->create.path = job->part;
		job->create.replace = false;
	}
	return image_create(&job->create, err);
}

static int finish_target(struct job *job, struct error *err)
{
	struct stat st;

	if (!job->part)
		return 0;
	if (stat(job->target, &st) == 0)
		chmod(job->part, st.st_mode & 07777);
	if (rename(job->part, job->target) < 0)
		return error_set_errno(err, -errno, "%s: cannot be put in its place", job->target);
	return 0;
}

static int copy_all(struct job *job, struct image *from, struct image *to, struct error *err)
{
	struct image_progress progress;
	struct image_info info;
	struct image_copy copy = {
		.from = from,
		.to = to,
		.compress = job->compress,
		.whole = true,
		.target_zero = !job->no_create &&
			       (job->part || str_eq(job->create.format, "qcow2")) &&
			       !job->create.backing_path,
		.parallel = (unsigned)job->parallel,
		.sparse = job->sparse,
		.progress = &progress,
	};
	int r;

	image_get_info(from, &info);
	image_progress_begin(&progress, &job->common, info.size_bytes);
	r = image_copy_run(&copy, err);
	image_progress_end(&progress);
	return r < 0 ? error_prefix(err, "%s to %s", job->source, job->target) : 0;
}

static int convert(struct job *job, struct image *from, struct error *err)
{
	struct image_common target = job->common;
	struct image_config config = {0};
	struct image_info info;
	struct image *to = NULL;
	int r;

	image_get_info(from, &info);
	job->create.size_bytes = info.size_bytes;
	r = make_target(job, err);
	if (r < 0)
		return r;
	target.format = job->create.format;
	target.any_dir = true;
	config.discard = IMAGE_DISCARD_UNMAP;
	r = image_tool_open(&target, job->create.path, true, &config, &to, err);
	if (r >= 0)
		r = copy_all(job, from, to, err);
	image_close(to);
	if (r >= 0)
		r = finish_target(job, err);
	if (r < 0 && job->part)
		unlink(job->part);
	return r;
}

static int open_source(struct job *job, struct image **ret, struct error *err)
{
	struct image_common source = job->common;
	struct image_config config = {0};

	source.cache = job->source_cache;
	return image_tool_open(&source, job->source, false, &config, ret, err);
}

int image_verb_convert(int argc, char **argv)
{
	struct job job = {.create = {.format = "raw"}, .parallel = 16, .sparse = 4096};
	struct error err = ERROR_INIT;
	struct image *from = NULL;
	int status = parse(&job, argc, argv);
	int r;

	if (status != CLI_OK) {
		free(job.options);
		return status;
	}
	image_catch_signals();
	r = open_source(&job, &from, &err);
	if (r >= 0 && job.compress && !str_eq(job.create.format, "qcow2"))
		r = error_set(&err, -EINVAL, "-c: the format %s has no compression",
			      job.create.format);
	if (r >= 0)
		r = convert(&job, from, &err);
	image_close(from);
	free(job.options);
	free(job.part);
	if (r < 0)
		return image_fail(&err);
	if (job.common.json)
		return image_print_json(
			json_pack("{s:s, s:s}", "source", job.source, "target", job.target));
	return CLI_OK;
}
