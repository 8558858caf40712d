/* Between the files of this folder that are no format and no engine. */
#pragma once

#include "image/image_impl.h"

/* By name (NULL: raw); NULL with a message when there is none. */
const struct image_format *image_format_find(const char *name, const char *path, struct error *err);

int image_preallocate(struct image *image, uint64_t offset, uint64_t bytes, enum image_prealloc how,
		      struct error *err);
