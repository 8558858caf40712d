/*
 * Opening and closing an image: which format over which file, the chain of its backing images, which engine. The file's own
 * checks are in file.c, requests and channels in channel.c.
 *
 * Main thread. It does not guess formats: a raw disk's first sector belongs to the guest, which could write any header there.
 */
#include "image/image.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/bits.h"
#include "base/str.h"
#include "image/image_int.h"

#define POOL_THREADS 8 /* as many slow operations of one image at a time */

static const struct image_format *const formats[] = {
	&image_format_raw,
	&image_format_qcow2,
};

const struct image_format *image_format_find(const char *name, const char *path, struct error *err)
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

static int engine_choose(struct image *image, const struct image_config *config, struct error *err)
{
	int r;

	image->engine = &image_engine_threads;
	image->engine_auto = config->engine == IMAGE_ENGINE_AUTO;
	if (config->engine == IMAGE_ENGINE_THREADS || config->backend)
		return 0;
	r = image_uring_probe();
	if (r >= 0)
		image->engine = &image_engine_uring;
	else if (config->engine == IMAGE_ENGINE_IO_URING)
		return error_set_errno(err, r,
				       "%s: the kernel refuses io_uring (see the sysctl "
				       "kernel.io_uring_disabled); use engine=threads",
				       image->path);
	return 0;
}

/* --- the chain of nodes --- */

static struct image_node *node_add(struct image *image, const struct image_format *format)
{
	struct image_node **nodes =
		realloc(image->nodes, (image->n_nodes + 1) * sizeof(struct image_node *));
	struct image_node *node = calloc(1, sizeof(*node));

	if (nodes)
		image->nodes = nodes;
	if (!nodes || !node) {
		free(node);
		return NULL;
	}
	node->format = format;
	node->image = image;
	node->index = image->n_nodes;
	image->nodes[image->n_nodes++] = node;
	return node;
}

static void node_free(struct image_node *node)
{
	if (node->file && node->format->close)
		node->format->close(node);
	image_file_close(node->file);
	free(node->backing_path);
	free(node->backing_format);
	free(node);
}

/* A file that is in the chain already would be read for ever. */
static int check_loop(const struct image *image, const struct image_node *node, struct error *err)
{
	struct stat st;
	struct stat other;

	if (node->file->fd < 0 || fstat(node->file->fd, &st) < 0)
		return 0;
	for (unsigned i = 0; i < node->index; i++) {
		const struct image_file *file = image->nodes[i]->file;

		if (file->fd >= 0 && fstat(file->fd, &other) == 0 && other.st_ino == st.st_ino &&
		    other.st_dev == st.st_dev)
			return error_set(
				err, -ELOOP,
				"%s: its backing file is %s, which is in its own chain: a loop",
				image->nodes[node->index - 1]->file->path, node->file->path);
	}
	return 0;
}

static int node_open(struct image *image, const struct image_config *config, bool is_backing,
		     struct error *err)
{
	const char *path = config->path ? config->path : image->path;
	const struct image_format *format = image_format_find(config->format, path, err);
	enum image_file_use use;
	struct image_node *node;
	int r;

	if (!format)
		return -EINVAL;
	node = node_add(image, format);
	if (!node)
		return error_set(err, -ENOMEM, "no memory to open %s", path);
	use = format->use == IMAGE_FILE_DISK && is_backing ? IMAGE_FILE_BACKING : format->use;
	r = image_file_open(config, use, &node->file, err);
	if (r >= 0)
		r = check_loop(image, node, err);
	return r < 0 ? r : format->open(node, config, err);
}

static int backing_open(struct image *image, const struct image_config *top, struct error *err)
{
	struct image_node *upper = image->nodes[image->n_nodes - 1];
	struct image_config config = *top;
	int r;

	config.path = upper->backing_path;
	config.format = upper->backing_format;
	config.fd = -1;
	config.backend = NULL;
	config.readonly = true;
	config.inspect = false;
	r = node_open(image, &config, true, err);
	if (r < 0)
		return error_prefix(err, "%s: its backing file", upper->file->path);
	upper->lower = image->nodes[image->n_nodes - 1];
	return 0;
}

static int nodes_open(struct image *image, const struct image_config *config, struct error *err)
{
	int r = node_open(image, config, false, err);

	while (r >= 0 && !config->no_backing && image->nodes[image->n_nodes - 1]->backing_path)
		r = backing_open(image, config, err);
	return r;
}

static int image_build(struct image *image, const struct image_config *config, struct error *err)
{
	int r;

	image->path = strdup(config->path ? config->path : "(inherited descriptor)");
	if (!image->path)
		return error_set(err, -ENOMEM, "no memory to open an image");
	image->cache = config->cache;
	r = engine_choose(image, config, err);
	if (r < 0)
		return r;
	r = image_pool_new("image", POOL_THREADS, &image->pool);
	if (r < 0)
		return error_set_errno(err, r, "%s", image->path);
	r = nodes_open(image, config, err);
	if (r < 0 && config->fd >= 0 && image->n_nodes > 0 && image->nodes[0]->file)
		image->nodes[0]->file->fd = -1; /* it stays the caller's */
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
	for (unsigned i = 0; i < image->n_nodes; i++)
		node_free(image->nodes[i]);
	free(image->nodes);
	free(image->path);
	free(image);
}

void image_get_info(const struct image *image, struct image_info *ret)
{
	*ret = image->nodes[0]->info;
	ret->path = image->path;
	ret->engine = image->engine->name;
	ret->cache = image->cache;
}
