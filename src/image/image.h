/*
 * Disk images, as users of one see them: open, geometry, asynchronous requests. Formats (raw; later qcow2, luks) stand behind
 * struct image_format, engines (io_uring, threads) behind struct image_engine; see image_impl.h.
 *
 * Thread model: an image is opened and closed on the main thread. Each loop that does I/O opens its own channel; a channel
 * belongs to that loop, and completions run on it. Nothing allocates on the data path: the caller owns its requests.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "base/error.h"
#include "base/loop.h"

struct image;
struct image_channel;

enum image_cache {
	IMAGE_CACHE_WRITEBACK,    /* host page cache; a guest's flush reaches the disk (default) */
	IMAGE_CACHE_NONE,         /* O_DIRECT; a guest's flush reaches the disk */
	IMAGE_CACHE_WRITETHROUGH, /* every write reaches the disk before it completes */
	IMAGE_CACHE_UNSAFE,       /* flushes are ignored: for throw-away machines */
};

enum image_engine_kind {
	IMAGE_ENGINE_AUTO, /* io_uring where the kernel lets us, else threads */
	IMAGE_ENGINE_IO_URING,
	IMAGE_ENGINE_THREADS,
};

enum image_discard {
	IMAGE_DISCARD_UNMAP, /* the guest's discard frees space (default) */
	IMAGE_DISCARD_IGNORE,
};

struct image_config {
	const char *path;
	int fd; /* -1, or an open descriptor used instead of path (taken over on success) */
	const char *format; /* "raw"; never probed */
	bool readonly;
	bool no_lock; /* do not take the open-file-description lock */
	enum image_cache cache;
	enum image_engine_kind engine;
	enum image_discard discard;
};

/* Opens and locks (F_OFD_SETLK: exclusive for writing, shared for reading). The message names the file and what to do:
 * absent, no permission, a directory, locked by another machine, a size that is no multiple of 512. */
int image_open(const struct image_config *config, struct image **ret, struct error *err);
void image_close(struct image *image); /* after its channels; flushes nothing */

struct image_info {
	const char *format;
	const char *engine; /* as chosen: "io_uring", "threads" */
	uint64_t size_bytes;
	uint32_t logical_block,
		physical_block;       /* bytes; what I/O must be, and would best be, aligned to */
	uint32_t discard_granularity; /* bytes; 0: no discard */
	bool readonly, can_discard, can_write_zeroes;
};
void image_get_info(const struct image *image, struct image_info *ret);

enum image_op {
	IMAGE_READ,
	IMAGE_WRITE,
	IMAGE_FLUSH,        /* completed writes are on stable storage when it completes */
	IMAGE_DISCARD,      /* contents become undefined (zeroes or old) */
	IMAGE_WRITE_ZEROES, /* with may_unmap: freeing is fine as long as it reads back zero */
};

/* offset and bytes are multiples of logical_block and inside the image, or it completes with -EINVAL. iov and the memory
 * behind it stay until done. */
struct image_req {
	enum image_op op;
	bool fua;       /* WRITE, WRITE_ZEROES: on stable storage when it completes */
	bool may_unmap; /* WRITE_ZEROES */
	uint64_t offset, bytes;
	const struct iovec *iov; /* READ, WRITE: sums to bytes */
	unsigned n_iov;          /* at most 1024 */
	/* On the channel's loop, never from inside image_submit(). result: 0 or a negative errno. */
	void (*done)(struct image_req *req, int result);

	/* Of the format and engine. */
	struct image_channel *channel;
	struct image_req *next;
	int result;
	uint64_t done_bytes;
	struct iovec *bounce_iov; /* engine's, for short transfers and alignment */
	void *priv[4];
};

/* depth: how many requests may be in flight (1 to 4096); further ones wait inside, in order. */
int image_channel_open(struct image *image, struct loop *loop, unsigned depth,
		       struct image_channel **ret, struct error *err);
void image_channel_close(struct image_channel *ch); /* drained */
/* Queues a request; may hold it back until image_channel_push(). */
void image_submit(struct image_channel *ch, struct image_req *req);
/* Hands what was queued to the kernel; call once after a batch. */
void image_channel_push(struct image_channel *ch);
/* Waits until nothing is in flight, running the done callbacks; on the channel's loop. */
void image_channel_drain(struct image_channel *ch);
unsigned image_channel_in_flight(const struct image_channel *ch);
