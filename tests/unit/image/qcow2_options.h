/* Sets of options that the tests of qcow2 run with. */
#pragma once

#include <stdio.h>
#include <stdlib.h>

#include "base/bits.h"
#include "base/str.h"
#include "image/image_admin.h"

#define BASE_ID 0xbacedULL

struct qcow2_options {
	const char *name;
	uint64_t bytes; /* of the disk */
	uint32_t cluster_bytes, refcount_bits;
	unsigned version;
	bool extended_l2, compress, zstd;
	bool backed; /* over a raw file that holds BASE_ID, and is shorter */
};

static const struct qcow2_options qcow2_option_sets[] = {
	{.name = "plain", .bytes = 6 * MIB + 512},
	{.name = "small", .bytes = MIB, .cluster_bytes = 512},
	{.name = "4k", .bytes = 2 * MIB, .cluster_bytes = 4096, .refcount_bits = 64},
	{.name = "v2", .bytes = 2 * MIB, .cluster_bytes = 4096, .version = 2},
	{.name = "bit",
	 .bytes = 2 * MIB,
	 .cluster_bytes = 4096,
	 .refcount_bits = 1,
	 .compress = true},
	{.name = "extended", .bytes = 4 * MIB, .cluster_bytes = 65536, .extended_l2 = true},
	{.name = "packed",
	 .bytes = 4 * MIB,
	 .cluster_bytes = 16384,
	 .refcount_bits = 8,
	 .compress = true},
	{.name = "zstd", .bytes = 6 * MIB, .extended_l2 = true, .compress = true, .zstd = true},
	{.name = "backed", .bytes = 2 * MIB, .cluster_bytes = 8192, .backed = true},
	{.name = "backed-extended",
	 .bytes = 3 * MIB,
	 .extended_l2 = true,
	 .compress = true,
	 .backed = true},
	{.name = "large", .bytes = 24 * MIB, .cluster_bytes = 2 * MIB},
};

static inline const struct qcow2_options *qcow2_options_find(const char *name)
{
	for (size_t i = 0; i < ARRAY_SIZE(qcow2_option_sets); i++) {
		if (str_eq(qcow2_option_sets[i].name, name))
			return &qcow2_option_sets[i];
	}
	fprintf(stderr, "there is no set of options '%s'\n", name);
	exit(2);
}

static inline struct image_create_config qcow2_options_create(const struct qcow2_options *o,
							      const struct image_backend *backend,
							      const char *base)
{
	return (struct image_create_config){
		.path = "memory",
		.format = "qcow2",
		.size_bytes = o->bytes,
		.cluster_bytes = o->cluster_bytes,
		.refcount_bits = o->refcount_bits,
		.version = o->version,
		.extended_l2 = o->extended_l2,
		.compression = o->zstd ? IMAGE_COMPRESSION_ZSTD : IMAGE_COMPRESSION_ZLIB,
		.backing_path = base,
		.backing_format = "raw",
		.backend = backend,
	};
}

static inline struct image_config qcow2_options_open(const struct image_backend *backend)
{
	return (struct image_config){.path = "memory",
				     .fd = -1,
				     .format = "qcow2",
				     .backend = backend};
}
