/*
 * The offline face of an image: passes on to its format what that can do, and refuses the rest by name.
 *
 * Main thread, blocking.
 */
#include "image/image_admin.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bits.h"
#include "image/image_int.h"

static int refuse(const struct image *image, const char *what, struct error *err)
{
	return error_set(err, -EOPNOTSUPP, "%s: the format %s has no %s", image->path,
			 image->nodes[0]->format->name, what);
}

/* May it be changed now? */
static int check_idle(const struct image *image, struct error *err)
{
	if (atomic_load(&image->n_channels) > 0)
		return error_set(err, -EBUSY, "%s: is in use", image->path);
	if (image->nodes[0]->file->readonly)
		return error_set(err, -EROFS, "%s: is open for reading only", image->path);
	return 0;
}

/* --- looking --- */

unsigned image_layers(const struct image *image)
{
	return image->n_nodes;
}

void image_describe(const struct image *image, unsigned layer, struct image_details *ret)
{
	const struct image_node *node = image->nodes[layer];
	struct stat st;

	*ret = (struct image_details){
		.format = node->format->name,
		.path = node->file->path,
		.size_bytes = node->info.size_bytes,
	};
	image_file_length(node->file, &ret->file_bytes);
	ret->used_bytes = ret->file_bytes;
	if (node->file->fd >= 0 && !node->file->is_block && fstat(node->file->fd, &st) == 0)
		ret->used_bytes = (uint64_t)st.st_blocks * 512;
	if (node->format->admin->describe)
		node->format->admin->describe(node, ret);
}

static int map_node(struct image_node *node, uint64_t offset, uint64_t bytes, unsigned max_depth,
		    struct image_extent *ret)
{
	uint64_t size = node->info.size_bytes;
	uint64_t lower_size;
	int r;

	for (;;) {
		*ret = (struct image_extent){.bytes = bytes};
		r = node->format->map(node, offset, bytes, ret);
		if (r < 0)
			return r;
		ret->depth = node->index;
		ret->file = node->file->path;
		ret->bytes = MIN(ret->bytes, size - offset);
		if (ret->present || !node->lower || node->index >= max_depth)
			return 0;
		node = node->lower;
		lower_size = node->info.size_bytes;
		bytes = ret->bytes;
		if (offset >= lower_size)
			return 0;
		bytes = MIN(bytes, lower_size - offset);
		size = lower_size;
	}
}

int image_map(struct image *image, uint64_t offset, uint64_t bytes, unsigned max_depth,
	      struct image_extent *ret, struct error *err)
{
	uint64_t size = image->nodes[0]->info.size_bytes;
	int r;

	if (bytes == 0 || !range_inside(offset, bytes, size))
		return error_set(err, -EINVAL, "%s: there is nothing at offset %llu", image->path,
				 (unsigned long long)offset);
	r = map_node(image->nodes[0], offset, bytes, max_depth, ret);
	ret->offset = offset;
	return r < 0 ? error_set_errno(err, r, "%s: what is at offset %llu cannot be found out",
				       image->path, (unsigned long long)offset)
		     : 0;
}

/* --- changing --- */

int image_preallocate(struct image *image, uint64_t offset, uint64_t bytes, enum image_prealloc how,
		      struct error *err)
{
	struct image_node *node = image->nodes[0];

	if (how == IMAGE_PREALLOC_OFF || bytes == 0)
		return 0;
	if (!node->format->admin->preallocate)
		return refuse(image, "preallocation", err);
	return node->format->admin->preallocate(node, offset, bytes, how, err);
}

int image_resize(struct image *image, uint64_t bytes, enum image_prealloc preallocation,
		 struct error *err)
{
	struct image_node *node = image->nodes[0];
	uint64_t old = node->info.size_bytes;
	int r = check_idle(image, err);

	if (r < 0)
		return r;
	if (bytes % IMAGE_SECTOR_BYTES != 0)
		return error_set(err, -EINVAL, "%s: a size of %llu bytes is no multiple of 512",
				 image->path, (unsigned long long)bytes);
	if (!node->format->admin->resize)
		return refuse(image, "change of size", err);
	r = node->format->admin->resize(node, bytes, err);
	if (r < 0 || bytes <= old)
		return r;
	return image_preallocate(image, old, bytes - old, preallocation, err);
}

int image_set_backing(struct image *image, const char *path, const char *format, struct error *err)
{
	struct image_node *node = image->nodes[0];
	int r = check_idle(image, err);

	if (r < 0)
		return r;
	if (!node->format->admin->set_backing)
		return refuse(image, "backing file", err);
	return node->format->admin->set_backing(node, path, format, err);
}

int image_check(struct image *image, const struct image_check_config *config,
		struct image_check_result *ret, struct error *err)
{
	struct image_node *node = image->nodes[0];

	if (atomic_load(&image->n_channels) > 0)
		return error_set(err, -EBUSY, "%s: is in use", image->path);
	if (!node->format->admin->check)
		return refuse(image, "structure that could be checked", err);
	return node->format->admin->check(node, config, ret, err);
}

/* --- snapshots --- */

int image_snapshot_list(struct image *image, struct image_snapshot **ret, size_t *ret_n,
			struct error *err)
{
	struct image_node *node = image->nodes[0];

	if (!node->format->admin->snapshot_list)
		return refuse(image, "snapshots", err);
	return node->format->admin->snapshot_list(node, ret, ret_n, err);
}

void image_snapshot_list_free(struct image_snapshot *list, size_t n)
{
	for (size_t i = 0; list && i < n; i++) {
		free(list[i].id);
		free(list[i].name);
	}
	free(list);
}

static int snapshot_do(struct image *image, const char *name,
		       int (*fn)(struct image_node *node, const char *name, struct error *err),
		       struct error *err)
{
	int r = check_idle(image, err);

	if (r < 0)
		return r;
	return fn ? fn(image->nodes[0], name, err) : refuse(image, "snapshots", err);
}

int image_snapshot_create(struct image *image, const char *name, struct error *err)
{
	return snapshot_do(image, name, image->nodes[0]->format->admin->snapshot_create, err);
}

int image_snapshot_apply(struct image *image, const char *name, struct error *err)
{
	return snapshot_do(image, name, image->nodes[0]->format->admin->snapshot_apply, err);
}

int image_snapshot_delete(struct image *image, const char *name, struct error *err)
{
	return snapshot_do(image, name, image->nodes[0]->format->admin->snapshot_delete, err);
}
