/* `vireo image create`: an empty image, perhaps over a backing file, whose size it then has unless one is given. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "base/str.h"
#include "cli/image.h"

struct job {
	struct image_common common;
	struct image_create_config create;
	char *options;
	bool unsafe; /* the backing file is not looked at */
	bool has_size;
};

static int take_one(struct job *job, int c, const char *value, struct error *err)
{
	switch (c) {
	case 'o':
		return image_parse_options(value, &job->create, &job->options, err);
	case 'b':
		job->create.backing_path = value;
		return 0;
	case 'F':
		job->create.backing_format = value;
		return 0;
	case 'u':
		job->unsafe = true;
		return 0;
	}
	return 0;
}

static int parse(struct job *job, int argc, char **argv)
{
	struct error err = ERROR_INIT;
	const char *value;
	int first;
	int rest;
	int c;

	while ((c = image_getopt(argc, argv, "o:b:F:u", &job->common, &value)) != -1) {
		if (c == -2)
			return image_usage("create");
		if (take_one(job, c, value, &err) < 0) {
			image_fail(&err);
			return CLI_USAGE;
		}
	}
	rest = image_rest(argc, &first);
	if (rest < 1 || rest > 2) {
		log_error("create wants a file, and its size unless it has a backing file");
		return image_usage("create");
	}
	job->create.path = argv[first];
	job->has_size = rest == 2 || job->create.size_bytes > 0;
	if (rest == 2 &&
	    image_parse_size(argv[first + 1], "size", &job->create.size_bytes, &err) < 0) {
		image_fail(&err);
		return CLI_USAGE;
	}
	return CLI_OK;
}

/* Opens the backing file as it would be opened later: is it there, of that format, and how large? */
static int look_at_backing(struct job *job, struct error *err)
{
	const char *slash = strrchr(job->create.path, '/');
	const char *name = job->create.backing_path;
	_cleanup_free_ char *path = NULL;
	struct image_config config = {.fd = -1, .readonly = true, .allow_any_dir = true};
	struct image_info info;
	struct image *image;
	int r;

	if (!job->create.backing_format)
		return error_set(err, -EINVAL, "-b %s: state its format with -F: it is not guessed",
				 name);
	if (asprintf(&path, "%.*s%s",
		     name[0] == '/' || !slash ? 0 : (int)(slash - job->create.path) + 1,
		     job->create.path, name) < 0) {
		path = NULL;
		return error_set(err, -ENOMEM, "no memory for a path");
	}
	config.path = path;
	config.format = job->create.backing_format;
	r = image_open(&config, &image, err);
	if (r < 0)
		return r;
	image_get_info(image, &info);
	image_close(image);
	if (!job->has_size)
		job->create.size_bytes = info.size_bytes;
	job->has_size = true;
	return 0;
}

static int create(struct job *job, struct error *err)
{
	int r = 0;

	if (job->create.backing_path && !job->unsafe)
		r = look_at_backing(job, err);
	if (r < 0)
		return r;
	if (!job->has_size)
		return error_set(err, -EINVAL, "%s: give its size, for example 10G",
				 job->create.path);
	job->create.size_bytes = align_up(job->create.size_bytes, 512);
	job->create.replace = true;
	return image_create(&job->create, err);
}

int image_verb_create(int argc, char **argv)
{
	struct job job = {0};
	struct error err = ERROR_INIT;
	int status = parse(&job, argc, argv);
	char size[32];
	int r;

	if (status != CLI_OK) {
		free(job.options);
		return status;
	}
	job.create.format = job.common.format ? job.common.format : "raw";
	r = create(&job, &err);
	free(job.options); /* what follows needs none of the strings in it */
	if (r < 0)
		return image_fail(&err);
	if (job.common.json)
		return image_print_json(json_pack("{s:s, s:s, s:I}", "filename", job.create.path,
						  "format", job.create.format, "virtual-size",
						  (json_int_t)job.create.size_bytes));
	format_size(job.create.size_bytes, size, sizeof(size));
	if (!job.common.quiet)
		printf("%s: %s, %s\n", job.create.path, job.create.format, size);
	return CLI_OK;
}
