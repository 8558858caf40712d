/*
 * Disk images, as users of one see them: open, geometry, asynchronous requests. Formats (raw, qcow2; later luks) stand behind
 * struct image_format, engines (io_uring, threads) behind struct image_engine; see image_impl.h. Images that no machine uses are
 * made and changed through image_admin.h.
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
struct image_file;
struct image_backend;

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
	IMAGE_DISCARD_UNMAP,  /* the guest's discard frees space (default) */
	IMAGE_DISCARD_IGNORE, /* and write-zeroes never frees any */
};

struct image_config {
	const char *path; /* names the image in messages, also when fd is given; may then be NULL */
	int fd; /* -1, or an open descriptor used instead of path (taken over on success) */
	const char *format; /* "raw" (also when NULL) or "qcow2"; never probed */
	bool readonly;
	bool no_lock; /* do not take the open-file-description lock */
	enum image_cache cache;
	enum image_engine_kind engine;
	enum image_discard discard;
	/* Where files that an image names itself (backing and data files) may be, links followed: folders, NULL at the end, each
	 * with what is below it. NULL: the image's own folder. */
	const char *const *allowed_dirs;
	bool allow_any_dir;
	bool no_backing; /* as if the image had none: to look at it, or to give it another */
	bool inspect; /* also one that is marked as in use or damaged, as it is: to check or repair it */
	const struct image_backend
		*backend; /* in the place of a file, for tests; path then only names it */
};

/* Opens and locks (F_OFD_SETLK: exclusive for writing, shared for reading). The message names the file and what to do:
 * absent, no permission, a directory, locked by another machine, a size that is no multiple of 512. */
int image_open(const struct image_config *config, struct image **ret, struct error *err);
void image_close(struct image *image); /* after its channels; flushes nothing; NULL is fine */

struct image_info {
	const char *path;   /* as configured; lives as long as the image */
	const char *format; /* "raw", "qcow2" */
	const char *engine; /* as chosen: "io_uring", "threads" */
	enum image_cache cache;
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
	IMAGE_FLUSH, /* writes that completed before it was submitted are stable when it completes */
	IMAGE_DISCARD,      /* contents become undefined (zeroes or old) */
	IMAGE_WRITE_ZEROES, /* with may_unmap: freeing is fine as long as it reads back zero */
};

#define IMAGE_MAX_IOV 1024

/* Of the image layer: something for a worker thread, whose end is told on a channel's loop. See image_impl.h. */
struct image_work {
	void (*run)(struct image_work *work);    /* on the worker */
	void (*finish)(struct image_work *work); /* on the channel's loop */
	struct image_channel *channel;
	struct image_work *next;
};

/* offset and bytes are multiples of logical_block and inside the image, or it completes with -EINVAL. iov and the memory
 * behind it stay until done. FLUSH takes neither. A write to a read-only image completes with -EROFS. */
struct image_req {
	enum image_op op;
	bool fua;       /* WRITE, WRITE_ZEROES: on stable storage when it completes */
	bool may_unmap; /* WRITE_ZEROES */
	bool compress; /* WRITE: store it compressed, if that saves space and the format can; else as usual */
	uint64_t offset, bytes;
	const struct iovec *iov; /* READ, WRITE: sums to bytes */
	unsigned n_iov;          /* at most IMAGE_MAX_IOV */
	/* On the channel's loop, from image_channel_push(), _drain() or the loop itself, never from inside image_submit().
	 * The request belongs to the caller again. result: 0 or a negative errno. */
	void (*done)(struct image_req *req, int result);

	/* Of the image layer from image_submit() to done(). */
	struct image_channel *channel;
	struct image_file *file;
	struct image_req *next;
	struct image_work work;
	struct iovec partial; /* the rest of an element of iov after a short transfer */
	uint64_t done_bytes;
	int result;
	int falloc_mode; /* DISCARD, WRITE_ZEROES */
	uint8_t stage;   /* of operations that take several steps */
	bool sub;        /* made by a format, not by the channel's user */
};

/* depth: how many requests may be in flight (1 to 4096); further ones wait inside, in order. The loop runs on its thread, or
 * will be run by the calling one. Any thread that holds no lock which the loop's callbacks take. */
int image_channel_open(struct image *image, struct loop *loop, unsigned depth,
		       struct image_channel **ret, struct error *err);
void image_channel_close(
	struct image_channel *ch); /* drained; from where open was fine; NULL is fine */
/* fn is called on the loop after each batch of done callbacks: the place to tell the other side once. */
void image_channel_on_batch(struct image_channel *ch, void (*fn)(void *opaque), void *opaque);
/* Queues a request; may hold it back until image_channel_push(). */
void image_submit(struct image_channel *ch, struct image_req *req);
/* Hands what was queued to the kernel; call once after a batch. What finishes at once is completed in here, unless the caller
 * is a done or batch callback: then right after it. */
void image_channel_push(struct image_channel *ch);
/* Waits until nothing is in flight, running the callbacks; on the channel's loop, not from a callback. */
void image_channel_drain(struct image_channel *ch);
unsigned image_channel_in_flight(const struct image_channel *ch);
