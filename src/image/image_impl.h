/*
 * For those who write a format or an engine.
 *
 *	image_submit() -> the top node's format -> ... -> image_file_submit() -> engine or worker pool
 *	                                                        |
 *	       done() on the channel's loop <- image_complete() <-
 *
 * A node is one layer of an open image: a format over a file and, where that has nothing, over a lower node. A format that changes
 * nothing passes a request on as it is; one that moves or splits it submits requests of its own (from a pool that it made
 * when the channel was opened) with image_sub_submit(), and completes the upper one from their done callbacks. What needs
 * slow or serialised work, such as a change of metadata, goes to a pool as a struct image_work: a pool with one thread is
 * the per-image serialisation. One channel serves the whole stack, backing files included, since a request names its file.
 *
 * Everything here is called on the channel's loop unless it says otherwise.
 */
#pragma once

#include <pthread.h>
#include <stdatomic.h>

#include "image/image_admin.h"

#define IMAGE_SECTOR_BYTES 512u

/* What answers in the place of a file: for tests (and for what is no file at all). Any thread. */
struct image_backend {
	int (*run)(void *opaque,
		   struct image_req *req); /* the whole request, blocking; its result */
	uint64_t (*length)(void *opaque);
	int (*truncate)(void *opaque, uint64_t bytes);
	void *opaque;
};

/* --- files: the bottom; src/image/file.c opens and checks, file_sync.c does I/O --- */

struct image_file {
	/* All but the atomics: [const after open]. */
	char *path;
	int fd;
	uint64_t size_bytes;
	bool is_block, readonly, direct, locked;
	bool dsync;    /* every write is made stable before it completes */
	bool no_flush; /* nothing is ever made stable */
	bool ignore_discard;
	bool grows; /* holds a format: of any length, and what is behind its end reads as zeroes */
	const struct image_backend *backend; /* or NULL */
	uint32_t offset_align; /* of offsets and sizes; a power of two, at least 512 */
	uint32_t memory_align; /* of buffers, when direct; else 1 */
	uint32_t physical_block, discard_granularity;
	atomic_bool no_punch; /* [atomic] the file system refused once */
	atomic_bool no_zero_range;
	pthread_mutex_t bounce_lock;
	void *bounce; /* [bounce_lock] IMAGE_BOUNCE_BYTES, aligned to a page; NULL when not direct */
};
#define IMAGE_BOUNCE_BYTES (256u * 1024)

enum image_file_use {
	IMAGE_FILE_DISK, /* its bytes are a disk's */
	IMAGE_FILE_BACKING, /* so, but nobody writes: zeroes are added to make its length a whole number of sectors */
	IMAGE_FILE_FORMAT, /* a format's, which checks its length itself */
};

int image_file_open(const struct image_config *config, enum image_file_use use,
		    struct image_file **ret, struct error *err);
void image_file_close(struct image_file *file); /* NULL is fine */
/* Does the whole request in the calling thread, any thread, blocking. Returns its result. */
int image_file_run(struct image_file *file, struct image_req *req);
/* The same for one buffer, whose memory and place need no alignment but that of offset_align; 0 or a negative errno. Any thread. */
int image_file_pread(struct image_file *file, void *buf, size_t bytes, uint64_t offset);
int image_file_pwrite(struct image_file *file, const void *buf, size_t bytes, uint64_t offset);
int image_file_sync(
	struct image_file *
		file); /* all that was written before is stable; nothing where flushes are ignored */
int image_file_length(struct image_file *file, uint64_t *ret);
int image_file_truncate(struct image_file *file,
			uint64_t bytes); /* a block device keeps its length */
/* Gets the space of [offset, offset + bytes), which reads as it did (FALLOC) or as zeroes (FULL). Slow. */
int image_file_allocate(struct image_file *file, uint64_t offset, uint64_t bytes,
			enum image_prealloc how);
/* Must a write-like request be stable when it completes? */
bool image_file_stable(const struct image_file *file, const struct image_req *req);
/* Can the kernel take these buffers as they are? */
bool image_file_aligned(const struct image_file *file, const struct image_req *req);
/* The mode of fallocate() for DISCARD and WRITE_ZEROES, or -1 when the file system has refused it before. */
int image_file_falloc_mode(const struct image_file *file, const struct image_req *req);
/* Is this negative errno a refusal of the operation as such? Then it is remembered in the file. */
bool image_file_falloc_refused(struct image_file *file, int mode, int error);

/* What is left of a READ or WRITE after done_bytes; *ret_iov stays valid until the next call for this request. */
void image_req_rest(struct image_req *req, const struct iovec **ret_iov, unsigned *ret_n);
/* After a short READ: was that the end of a file whose rest is zeroes? Then they are filled in. at_end: nothing more could be read. */
bool image_req_past_end(struct image_req *req, bool at_end);
/* Zeroes [from, from + bytes) of a READ's buffers. */
void image_req_zero(const struct image_req *req, uint64_t from, uint64_t bytes);

/* --- formats --- */

struct image_node;
struct image_admin;

struct image_format {
	const char *name;
	enum image_file_use use; /* how the file is to be opened; FORMAT or DISK */
	/* node->file is set. Fills node->state, node->info and, where there is a backing image, node->backing_path and
	 * node->backing_format, which the caller opens as node->lower afterwards. */
	int (*open)(struct image_node *node, const struct image_config *config, struct error *err);
	void (*close)(struct image_node *node); /* optional; also after a failed open */
	/* Optional; what the format keeps for a channel, in ch->format_state[node->index]. Main or loop's thread. */
	int (*channel_open)(struct image_node *node, struct image_channel *ch, struct error *err);
	void (*channel_close)(struct image_node *node, struct image_channel *ch);
	/* req is checked against info (bounds, alignment, readonly). Ends in image_complete(), at any time. */
	void (*submit)(struct image_node *node, struct image_channel *ch, struct image_req *req);
	/* Any thread, blocking: what is at offset, as far as it is of one kind and before offset + bytes, of which there is
	 * at least one. Fills all of ret but its offset, depth and file. */
	int (*map)(struct image_node *node, uint64_t offset, uint64_t bytes,
		   struct image_extent *ret);
	const struct image_admin *admin;
};

/* What image_admin.h offers, by a format; any may be absent. */
struct image_admin {
	int (*create)(const struct image_create_config *config, struct image_file *file,
		      struct error *err);
	void (*describe)(const struct image_node *node, struct image_details *ret);
	int (*resize)(struct image_node *node, uint64_t bytes, struct error *err);
	int (*check)(struct image_node *node, const struct image_check_config *config,
		     struct image_check_result *ret, struct error *err);
	int (*set_backing)(struct image_node *node, const char *path, const char *format,
			   struct error *err);
	int (*preallocate)(struct image_node *node, uint64_t offset, uint64_t bytes,
			   enum image_prealloc how, struct error *err);
	int (*snapshot_list)(struct image_node *node, struct image_snapshot **ret, size_t *ret_n,
			     struct error *err);
	int (*snapshot_create)(struct image_node *node, const char *name, struct error *err);
	int (*snapshot_apply)(struct image_node *node, const char *name, struct error *err);
	int (*snapshot_delete)(struct image_node *node, const char *name, struct error *err);
};

struct image_node {
	const struct image_format *format;
	struct image *image;
	struct image_node *lower; /* what is read where this one has nothing; or NULL */
	struct image_file *file;
	unsigned index;         /* 0 at the top */
	struct image_info info; /* of this layer; path, engine and cache are image.c's */
	void *state;            /* the format's */
	char *backing_path;     /* of the lower node, ready to be opened; heap; or NULL */
	char *backing_format;
};

extern const struct image_format image_format_raw, image_format_qcow2;

/* The path of a file that an image names: relative to the folder of the image's own. Refused when it is outside the folders
 * of config. Heap path; `what` names it in the message. */
int image_path_resolve(const struct image_config *config, const char *image_path, const char *name,
		       const char *what, char **ret, struct error *err);

/* Submits a request that a format made, to a lower node; its done is called like any other. */
void image_sub_submit(struct image_node *node, struct image_channel *ch, struct image_req *req);
/* From a bottom format: to the engine, or to a worker where the engine cannot. */
void image_file_submit(struct image_file *file, struct image_channel *ch, struct image_req *req);
/* The request has ended; done() is called soon after, not from in here. */
void image_complete(struct image_req *req, int result);

/* --- engines --- */

struct image_engine {
	const char *name;
	/* On the channel's loop. Fills ch->engine_state. */
	int (*open)(struct image_channel *ch, struct error *err);
	void (*close)(
		struct image_channel *ch); /* on the loop when it still runs; nothing in flight */
	/* req->file and falloc_mode are set, buffers are aligned, done_bytes and stage are 0. Ends in image_complete() or
	 * image_file_offload(). */
	void (*submit)(struct image_channel *ch, struct image_req *req);
	void (*push)(struct image_channel *ch); /* optional; cheap when nothing is queued */
	void (*reap)(
		struct image_channel *ch); /* optional; takes finished requests, never blocks */
	/* Readable when reap has something to do; -1: none, the engine ends its requests through image_work. */
	int (*poll_fd)(const struct image_channel *ch);
};

extern const struct image_engine image_engine_uring, image_engine_threads;

/* Does the kernel let this process set up a ring at all? 0 or a negative errno. */
int image_uring_probe(void);

/* Continues a request on a worker thread with image_file_run(), from the start. */
void image_file_offload(struct image_req *req);

/* --- worker pools --- */

struct image_pool;

/* Threads are started when there is work for them, at most max_threads; with one, work runs strictly in order. */
int image_pool_new(const char *name, unsigned max_threads, struct image_pool **ret);
void image_pool_free(struct image_pool *pool); /* finishes what is queued; NULL is fine */
/* Any thread. work->run() on a worker (or here and now where no thread can be had), then work->finish() on
 * work->channel's loop. */
void image_pool_submit(struct image_pool *pool, struct image_work *work);
/* Any thread: work->finish() will be called on the channel's loop. */
void image_channel_post(struct image_channel *ch, struct image_work *work);

/* --- the structs --- */

struct image {
	/* [const after open] */
	struct image_node **nodes; /* the top first */
	unsigned n_nodes;
	const struct image_engine *engine;
	bool engine_auto; /* a channel may fall back to threads */
	struct image_pool *pool;
	char *path;
	enum image_cache cache;
	atomic_uint n_channels; /* [atomic] open ones */
};

struct image_channel {
	/* [const after open] */
	struct image *image;
	struct loop *loop;
	const struct image_engine *engine;
	void *engine_state;
	void **format_state; /* by node->index */
	unsigned depth;
	void (*batch_fn)(void *opaque);
	void *batch_opaque;

	/* [loop] */
	unsigned in_flight; /* given to the top format */
	unsigned n_waiting; /* above depth */
	struct image_req *waiting, **waiting_tail;
	struct image_req *finished, **finished_tail; /* done not called yet */
	bool completing;                             /* callbacks are being run */
	struct loop_fd engine_src;                   /* engine->poll_fd */
	struct loop_fd inbox_src;

	pthread_mutex_t inbox_lock;
	struct image_work *inbox, **inbox_tail; /* [inbox_lock] ended on workers */
};
