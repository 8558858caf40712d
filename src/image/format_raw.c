/*
 * The raw format: the file is the disk, byte for byte. Every request passes on as it is.
 */
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

const struct image_format image_format_raw = {
	.name = "raw",
	.open = raw_open,
	.submit = raw_submit,
};
