/*
 * Images that no machine uses: making them, looking at them, changing their shape. What the tool and the daemon's storage need
 * beside image.h.
 *
 * Everything here is blocking, for the main thread (or any one thread that has the image to itself). What changes an image wants
 * it open for writing and without channels, and says -EBUSY otherwise. After a failure the image is as it was, or has lost at
 * most free space, which a check gives back.
 */
#pragma once

#include "image/image.h"

/* --- making one --- */

enum image_prealloc {
	IMAGE_PREALLOC_OFF,
	IMAGE_PREALLOC_METADATA, /* tables only */
	IMAGE_PREALLOC_FALLOC,   /* and space, unwritten */
	IMAGE_PREALLOC_FULL,     /* and zeroes written */
};

enum image_compression {
	IMAGE_COMPRESSION_ZLIB,
	IMAGE_COMPRESSION_ZSTD,
};

struct image_create_config {
	const char *path;
	const char *format; /* "raw", "qcow2" */
	uint64_t size_bytes;
	enum image_prealloc preallocation;
	bool replace; /* a file that is there is emptied; without it that is -EEXIST */

	/* qcow2 only; zero is the default. */
	const char *
		backing_path; /* as written into the image: relative to the image's folder, or absolute; not opened */
	const char *backing_format; /* must be given with it */
	const char *data_file;      /* as above; made as well, unless it is there */
	bool data_file_raw;         /* which can then be read as a raw disk */
	uint32_t cluster_bytes;     /* a power of two from 512 to 2 MiB; default 64 KiB */
	uint32_t refcount_bits;     /* 1, 2, 4 ... 64; default 16 */
	unsigned version;           /* 2 or 3; default 3 */
	bool lazy_refcounts, extended_l2;
	enum image_compression compression;
	const struct image_backend *backend; /* in the place of a file, for tests */
};

/* The message names the option that does not fit. On failure no file is left that was not there before. */
int image_create(const struct image_create_config *config, struct error *err);

/* --- looking --- */

struct image_details {
	const char *format, *path;
	uint64_t size_bytes;
	uint64_t file_bytes,
		used_bytes; /* the file's length, and what it takes on its file system */
	/* From here, qcow2 only; strings live as long as the image and are NULL where there is nothing. */
	uint32_t cluster_bytes;
	unsigned version, refcount_bits;
	const char *compression;  /* "zlib", "zstd" */
	const char *backing_path; /* as written */
	const char *backing_format;
	const char *backing_full; /* as it would be opened */
	const char *data_file;
	bool data_file_raw, lazy_refcounts, extended_l2, dirty, corrupt, encrypted;
	unsigned n_snapshots, n_bitmaps;
};

unsigned image_layers(const struct image *image);
/* layer: 0 for the image itself, 1 for its backing image, and so on. */
void image_describe(const struct image *image, unsigned layer, struct image_details *ret);

struct image_extent {
	uint64_t offset, bytes;
	bool present; /* some layer says what is here; else it is zeroes for want of anything */
	bool zero;    /* reads as zeroes without a look at a file */
	bool compressed;
	bool has_host; /* host is where it is in `file` */
	uint64_t host;
	unsigned depth;   /* of the layer that has it */
	const char *file; /* of that layer */
};

/* What is at offset and for how many bytes it goes on alike, at most to offset + bytes. Also while channels are open.
 * max_depth: layers below this one are not looked at; UINT_MAX for all. */
int image_map(struct image *image, uint64_t offset, uint64_t bytes, unsigned max_depth,
	      struct image_extent *ret, struct error *err);

/* --- changing --- */

/* bytes: a multiple of 512. What becomes visible reads as zeroes. Shrinking throws away what is behind. */
int image_resize(struct image *image, uint64_t bytes, enum image_prealloc preallocation,
		 struct error *err);

/* Only the name in the image changes; path NULL: none any more. */
int image_set_backing(struct image *image, const char *path, const char *format, struct error *err);

struct image_check_config {
	bool fix_leaks, fix_all;
	/* Told of each finding (the first thousand); may be NULL. */
	void (*report)(void *opaque, bool corruption, const char *text);
	void *opaque;
};

struct image_check_result {
	uint64_t corruptions, leaks; /* left after any repair */
	uint64_t corruptions_fixed, leaks_fixed;
	uint64_t
		stale_flags; /* of "this cluster is mine alone", unset without need: costs a copy, endangers nothing */
	uint64_t total_clusters, allocated_clusters, compressed_clusters, fragmented_clusters;
	uint64_t end_offset; /* behind the last cluster in use */
};

/* -EOPNOTSUPP for formats that have nothing to check. Fixing wants the image open for writing with config.inspect. */
int image_check(struct image *image, const struct image_check_config *config,
		struct image_check_result *ret, struct error *err);

struct image_snapshot {
	char *id, *name;
	uint64_t disk_bytes, vm_state_bytes, vm_clock_nsec;
	uint32_t date_sec, date_nsec;
};

int image_snapshot_list(struct image *image, struct image_snapshot **ret, size_t *ret_n,
			struct error *err);
void image_snapshot_list_free(struct image_snapshot *list, size_t n);
int image_snapshot_create(struct image *image, const char *name, struct error *err);
/* name: of a snapshot, or its id where no name is like it. */
int image_snapshot_apply(struct image *image, const char *name, struct error *err);
int image_snapshot_delete(struct image *image, const char *name, struct error *err);

/* --- blocking I/O for those without a loop --- */

struct image_sync;

int image_sync_open(struct image *image, unsigned depth, struct image_sync **ret,
		    struct error *err);
void image_sync_close(struct image_sync *s); /* NULL is fine */
/* One request at a time; bytes as image_submit() wants them. buf is not written to by WRITE. */
int image_sync_rw(struct image_sync *s, enum image_op op, uint64_t offset, void *buf, size_t bytes);
int image_sync_zero(struct image_sync *s, uint64_t offset, uint64_t bytes, bool may_unmap);
int image_sync_flush(struct image_sync *s);
/* For several at once: submit and push on the channel, then wait for some callback. */
struct image_channel *image_sync_channel(struct image_sync *s);
void image_sync_wait(struct image_sync *s);
