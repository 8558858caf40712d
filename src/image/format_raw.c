/*
 * The raw format: the file is the disk, byte for byte. Every request passes on as it is.
 */
#include <errno.h>
#include <unistd.h>

#include "base/bits.h"
#include "image/image_impl.h"

static int raw_open(struct image_node *node, const struct image_config *config, struct error *err)
{
	const struct image_file *file = node->file;
	bool discards = !file->readonly && !file->ignore_discard && file->discard_granularity != 0;

	(void)config;
	(void)err;
	node->info = (struct image_info){
		.format = image_format_raw.name,
		.size_bytes = file->size_bytes,
		.logical_block = file->offset_align,
		.physical_block = file->physical_block,
		.discard_granularity = discards ? file->discard_granularity : 0,
		.readonly = file->readonly,
		.can_discard = discards,
		.can_write_zeroes = !file->readonly,
	};
	return 0;
}

static void raw_submit(struct image_node *node, struct image_channel *ch, struct image_req *req)
{
	image_file_submit(node->file, ch, req);
}

/* Any thread: nobody uses the descriptor's position. */
static int raw_map(struct image_node *node, uint64_t offset, uint64_t bytes,
		   struct image_extent *ret)
{
	off_t data = -1;
	off_t hole = -1;

	ret->present = true;
	ret->has_host = true;
	ret->host = offset;
	ret->bytes = bytes;
	if (node->file->fd < 0 || node->file->is_block)
		return 0;
	data = lseek(node->file->fd, (off_t)offset, SEEK_DATA);
	if (data < 0) {
		ret->zero = errno == ENXIO; /* nothing but holes; anything else: it cannot say */
		return 0;
	}
	if ((uint64_t)data > offset) {
		ret->zero = true;
		ret->bytes = MIN(align_down((uint64_t)data, IMAGE_SECTOR_BYTES) - offset, bytes);
		if (ret->bytes > 0)
			return 0;
		ret->zero = false;
		ret->bytes = MIN(bytes, (uint64_t)IMAGE_SECTOR_BYTES);
	}
	hole = lseek(node->file->fd, (off_t)offset, SEEK_HOLE);
	if (hole > 0 && (uint64_t)hole > offset)
		ret->bytes = MIN(align_up((uint64_t)hole, IMAGE_SECTOR_BYTES) - offset, bytes);
	return 0;
}

static int raw_preallocate(struct image_node *node, uint64_t offset, uint64_t bytes,
			   enum image_prealloc how, struct error *err)
{
	int r = image_file_allocate(node->file, offset, bytes, how);

	return r < 0 ? error_set_errno(err, r, "%s: its space cannot be had", node->file->path) : 0;
}

static int raw_create(const struct image_create_config *config, struct image_file *file,
		      struct error *err)
{
	int r = 0;

	if (config->backing_path || config->data_file || config->cluster_bytes ||
	    config->refcount_bits || config->version || config->lazy_refcounts ||
	    config->extended_l2 || config->compression != IMAGE_COMPRESSION_ZLIB)
		return error_set(err, -EINVAL,
				 "%s: a raw image has no options but size and preallocation",
				 config->path);
	if (config->preallocation == IMAGE_PREALLOC_METADATA)
		return error_set(err, -EINVAL, "%s: preallocation=metadata: a raw image has none",
				 config->path);
	if (file->is_block)
		return config->size_bytes <= file->size_bytes
			       ? 0
			       : error_set(err, -ENOSPC, "%s: the device is too small",
					   config->path);
	r = image_file_truncate(file, config->size_bytes);
	return r < 0 ? error_set_errno(err, r, "%s: cannot be written", config->path) : 0;
}

static int raw_resize(struct image_node *node, uint64_t bytes, struct error *err)
{
	int r = 0;

	if (node->file->is_block)
		return error_set(err, -ENOTSUP, "%s: is a block device, whose size is not ours",
				 node->file->path);
	r = image_file_truncate(node->file, bytes);
	if (r < 0)
		return error_set_errno(err, r, "%s: cannot be resized", node->file->path);
	node->file->size_bytes = bytes;
	node->info.size_bytes = bytes;
	return 0;
}

static const struct image_admin admin = {
	.create = raw_create,
	.resize = raw_resize,
	.preallocate = raw_preallocate,
};

const struct image_format image_format_raw = {
	.name = "raw",
	.use = IMAGE_FILE_DISK,
	.open = raw_open,
	.submit = raw_submit,
	.map = raw_map,
	.admin = &admin,
};
