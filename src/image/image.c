/*
 * Opening and closing an image: which format over which file, which engine. The file's own checks are in file.c, requests
 * and channels in channel.c.
 *
 * Main thread. It does not guess formats: a raw disk's first sector belongs to the guest, which could write any header there.
 */
#include "image/image.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "base/str.h"
#include "image/image_impl.h"

#define POOL_THREADS 8 /* as many slow operations of one image at a time */

static const struct image_format *const formats[] = {
	&image_format_raw,
};

static const struct image_format *format_find(const char *name, const char *path, struct error *err)
{
	const char *names[ARRAY_SIZE(formats)];
	const char *near;

	if (!name)
		return &image_format_raw;
	for (size_t i = 0; i < ARRAY_SIZE(formats); i++) {
		names[i] = formats[i]->name;
		if (str_eq(name, names[i]))
			return formats[i];
	}
	near = str_nearest(name, names, ARRAY_SIZE(names));
	error_set(err, -EINVAL, "%s: there is no image format '%s'; %s '%s'", path, name,
		  near ? "did you mean" : "this program knows", near ? near : names[0]);
	return NULL;
}

static int engine_choose(struct image *image, enum image_engine_kind kind, struct error *err)
{
	int r;

	image->engine = &image_engine_threads;
	image->engine_auto = kind == IMAGE_ENGINE_AUTO;
	if (kind == IMAGE_ENGINE_THREADS)
		return 0;
	r = image_uring_probe();
	if (r >= 0)
		image->engine = &image_engine_uring;
	else if (kind == IMAGE_ENGINE_IO_URING)
		return error_set_errno(err, r,
				       "%s: the kernel refuses io_uring (see the sysctl "
				       "kernel.io_uring_disabled); use engine=threads",
				       image->path);
	return 0;
}

/* Takes the file over. */
static int nodes_open(struct image *image, const struct image_format *format,
		      const struct image_config *config, struct error *err)
{
	struct image_node *node = &image->nodes[0];

	*node = (struct image_node){.format = format, .image = image, .file = image->file};
	image->n_nodes = 1;
	return format->open(node, config, err);
}

static int image_build(struct image *image, const struct image_config *config, struct error *err)
{
	const struct image_format *format;
	int r;

	image->path = strdup(config->path ? config->path : "(inherited descriptor)");
	if (!image->path)
		return error_set(err, -ENOMEM, "no memory to open an image");
	image->cache = config->cache;
	format = format_find(config->format, image->path, err);
	if (!format)
		return -EINVAL;
	r = engine_choose(image, config->engine, err);
	if (r < 0)
		return r;
	r = image_pool_new("image", POOL_THREADS, &image->pool);
	if (r < 0)
		return error_set_errno(err, r, "%s", image->path);
	r = image_file_open(config, &image->file, err);
	if (r < 0)
		return r;
	r = nodes_open(image, format, config, err);
	if (r < 0 && config->fd >= 0)
		image->file->fd = -1; /* it stays the caller's */
	return r;
}

int image_open(const struct image_config *config, struct image **ret, struct error *err)
{
	struct image *image = calloc(1, sizeof(*image));
	int r;

	if (!image)
		return error_set(err, -ENOMEM, "no memory to open an image");
	r = image_build(image, config, err);
	if (r < 0) {
		image_close(image);
		return r;
	}
	*ret = image;
	return 0;
}

void image_close(struct image *image)
{
	if (!image)
		return;
	image_pool_free(image->pool);
	for (unsigned i = 0; i < image->n_nodes; i++) {
		if (image->nodes[i].format->close)
			image->nodes[i].format->close(&image->nodes[i]);
	}
	image_file_close(image->file);
	free(image->path);
	free(image);
}

void image_get_info(const struct image *image, struct image_info *ret)
{
	*ret = image->nodes[0].info;
	ret->path = image->path;
	ret->engine = image->engine->name;
	ret->cache = image->cache;
}
