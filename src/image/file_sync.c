/*
 * A whole request in one blocking call, on a worker thread: the thread engine's work, and what the io_uring engine hands over
 * because the kernel cannot do it in one step (buffers that direct I/O does not take, zeroes on a file system that has no
 * operation for them).
 */
#include "image/image_impl.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/cleanup.h"

#define ZERO_BYTES 4096u
#define ZERO_IOVS  256u /* 1 MiB a write */

static const uint8_t zeroes[ZERO_BYTES] __attribute__((aligned(4096))) = {0};

bool image_file_stable(const struct image_file *file, const struct image_req *req)
{
	return !file->no_flush && (file->dsync || req->fua);
}

bool image_file_aligned(const struct image_file *file, const struct image_req *req)
{
	uintptr_t addresses = 0;
	size_t lengths = 0;

	if (!file->direct)
		return true;
	for (unsigned i = 0; i < req->n_iov; i++) {
		addresses |= (uintptr_t)req->iov[i].iov_base;
		lengths |= req->iov[i].iov_len;
	}
	return (addresses & (file->memory_align - 1)) == 0 &&
	       (lengths & (file->offset_align - 1)) == 0;
}

void image_req_rest(struct image_req *req, const struct iovec **ret_iov, unsigned *ret_n)
{
	uint64_t skip = req->done_bytes;
	unsigned i = 0;

	while (i < req->n_iov && skip >= req->iov[i].iov_len)
		skip -= req->iov[i++].iov_len;
	if (skip == 0) {
		*ret_iov = req->iov + i;
		*ret_n = req->n_iov - i;
		return;
	}
	req->partial.iov_base = (char *)req->iov[i].iov_base + skip;
	req->partial.iov_len = req->iov[i].iov_len - skip;
	*ret_iov = &req->partial;
	*ret_n = 1;
}

void image_req_zero(const struct image_req *req, uint64_t from, uint64_t bytes)
{
	for (unsigned i = 0; i < req->n_iov && bytes > 0; i++) {
		const struct iovec *v = &req->iov[i];
		size_t n;

		if (from >= v->iov_len) {
			from -= v->iov_len;
			continue;
		}
		n = (size_t)MIN((uint64_t)v->iov_len - from, bytes);
		memset((char *)v->iov_base + from, 0, n);
		bytes -= n;
		from = 0;
	}
}

bool image_req_past_end(struct image_req *req, bool at_end)
{
	const struct image_file *file = req->file;

	if (req->op != IMAGE_READ || !file->grows)
		return false;
	/* Direct I/O reads whole blocks but at the end of the file. */
	if (!at_end && (!file->direct || (req->done_bytes & (file->offset_align - 1)) == 0))
		return false;
	image_req_zero(req, req->done_bytes, req->bytes - req->done_bytes);
	req->done_bytes = req->bytes;
	return true;
}

static int make_stable(const struct image_file *file)
{
	return fdatasync(file->fd) < 0 ? -errno : 0;
}

/* Writes made stable at once where the file system can do that, else by the caller afterwards. */
static ssize_t write_some(const struct image_file *file, const struct iovec *iov, unsigned n,
			  uint64_t offset, bool stable, bool *ret_sync_later)
{
	ssize_t r = pwritev2(file->fd, iov, (int)n, (off_t)offset, stable ? RWF_DSYNC : 0);

	if (r < 0 && stable && (errno == EOPNOTSUPP || errno == EINVAL)) {
		*ret_sync_later = true;
		r = pwritev2(file->fd, iov, (int)n, (off_t)offset, 0);
	}
	return r;
}

/* --- plain buffers --- */

static int run_direct(struct image_file *file, struct image_req *req)
{
	bool stable = req->op == IMAGE_WRITE && image_file_stable(file, req);
	bool sync_later = false;
	const struct iovec *iov;
	unsigned n;
	ssize_t r;

	while (req->done_bytes < req->bytes) {
		uint64_t at = req->offset + req->done_bytes;

		image_req_rest(req, &iov, &n);
		if (req->op == IMAGE_READ)
			r = preadv(file->fd, iov, (int)n, (off_t)at);
		else
			r = write_some(file, iov, n, at, stable, &sync_later);
		if (r < 0 && errno == EINTR)
			continue;
		if (r < 0)
			return -errno;
		req->done_bytes += (uint64_t)r;
		if (req->done_bytes < req->bytes && !image_req_past_end(req, r == 0) && r == 0)
			return -EIO; /* the file has become shorter */
	}
	return sync_later ? make_stable(file) : 0;
}

/* --- buffers that direct I/O does not take --- */

/* Copies between bounce and the request's buffers at [done_bytes, done_bytes + len). */
static void bounce_copy(struct image_req *req, uint8_t *bounce, size_t len, bool to_bounce)
{
	uint64_t skip = req->done_bytes;

	for (unsigned i = 0; i < req->n_iov && len > 0; i++) {
		const struct iovec *v = &req->iov[i];
		size_t n;

		if (skip >= v->iov_len) {
			skip -= v->iov_len;
			continue;
		}
		n = MIN(v->iov_len - (size_t)skip, len);
		if (to_bounce)
			memcpy(bounce, (char *)v->iov_base + skip, n);
		else
			memcpy((char *)v->iov_base + skip, bounce, n);
		bounce += n;
		len -= n;
		skip = 0;
	}
}

static int bounce_chunk(struct image_file *file, struct image_req *req, size_t len, bool stable,
			bool *ret_sync_later)
{
	uint64_t at = req->offset + req->done_bytes;
	uint8_t *bounce = file->bounce;
	size_t got = 0;

	if (req->op == IMAGE_WRITE)
		bounce_copy(req, bounce, len, true);
	while (got < len) {
		struct iovec v = {bounce + got, len - got};
		ssize_t r;

		if (req->op == IMAGE_READ)
			r = preadv(file->fd, &v, 1, (off_t)(at + got));
		else
			r = write_some(file, &v, 1, at + got, stable, ret_sync_later);
		if (r < 0 && errno == EINTR)
			continue;
		if (r < 0)
			return -errno;
		got += (size_t)r;
		if (got < len && (r == 0 || (got & (file->offset_align - 1)) != 0)) {
			if (req->op != IMAGE_READ || !file->grows)
				return -EIO;
			memset(bounce + got, 0, len - got);
			got = len;
		}
	}
	if (req->op == IMAGE_READ)
		bounce_copy(req, bounce, len, false);
	req->done_bytes += len;
	return 0;
}

static int run_bounced(struct image_file *file, struct image_req *req)
{
	bool stable = req->op == IMAGE_WRITE && image_file_stable(file, req);
	bool sync_later = false;
	int r;

	LOCK_GUARD(&file->bounce_lock);
	while (req->done_bytes < req->bytes) {
		uint64_t left = req->bytes - req->done_bytes;

		r = bounce_chunk(file, req, (size_t)MIN(left, (uint64_t)IMAGE_BOUNCE_BYTES), stable,
				 &sync_later);
		if (r < 0)
			return r;
	}
	return sync_later ? make_stable(file) : 0;
}

/* --- discard and zeroes --- */

int image_file_falloc_mode(const struct image_file *file, const struct image_req *req)
{
	bool punch = req->op == IMAGE_DISCARD || (req->may_unmap && !file->ignore_discard);

	if (punch && !atomic_load_explicit(&file->no_punch, memory_order_relaxed))
		return FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
	if (req->op == IMAGE_WRITE_ZEROES &&
	    !atomic_load_explicit(&file->no_zero_range, memory_order_relaxed))
		return FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE;
	return -1;
}

bool image_file_falloc_refused(struct image_file *file, int mode, int error)
{
	if (error != -EOPNOTSUPP && error != -ENOSYS && error != -EINVAL && error != -ENODEV)
		return false;
	atomic_store_explicit(mode & FALLOC_FL_PUNCH_HOLE ? &file->no_punch : &file->no_zero_range,
			      true, memory_order_relaxed);
	return true;
}

static int write_zeroes(struct image_file *file, struct image_req *req)
{
	struct iovec iov[ZERO_IOVS];

	while (req->done_bytes < req->bytes) {
		uint64_t left = req->bytes - req->done_bytes;
		unsigned n = 0;
		ssize_t r;

		for (; n < ZERO_IOVS && left > 0; n++) {
			iov[n].iov_base = (void *)(uintptr_t)zeroes;
			iov[n].iov_len = (size_t)MIN(left, (uint64_t)ZERO_BYTES);
			left -= iov[n].iov_len;
		}
		r = pwritev(file->fd, iov, (int)n, (off_t)(req->offset + req->done_bytes));
		if (r < 0 && errno == EINTR)
			continue;
		if (r <= 0)
			return r < 0 ? -errno : -EIO;
		req->done_bytes += (uint64_t)r;
	}
	return 0;
}

static int run_falloc(struct image_file *file, struct image_req *req)
{
	int mode;

	while ((mode = image_file_falloc_mode(file, req)) >= 0) {
		int r = fallocate(file->fd, mode, (off_t)req->offset, (off_t)req->bytes);

		r = r < 0 ? -errno : 0;
		if (r == -EINTR)
			continue;
		if (r >= 0 || !image_file_falloc_refused(file, mode, r))
			return r;
	}
	return req->op == IMAGE_DISCARD ? 0 : write_zeroes(file, req);
}

int image_file_run(struct image_file *file, struct image_req *req)
{
	int r;

	req->done_bytes = 0;
	req->file = file;
	if (file->backend)
		return file->backend->run(file->backend->opaque, req);
	switch (req->op) {
	case IMAGE_READ:
	case IMAGE_WRITE:
		return image_file_aligned(file, req) ? run_direct(file, req)
						     : run_bounced(file, req);
	case IMAGE_FLUSH:
		return make_stable(file);
	case IMAGE_DISCARD:
		return run_falloc(file, req);
	case IMAGE_WRITE_ZEROES:
		r = run_falloc(file, req);
		return r >= 0 && image_file_stable(file, req) ? make_stable(file) : r;
	}
	return -EINVAL;
}

/* --- one buffer --- */

static int run_buffer(struct image_file *file, enum image_op op, void *buf, size_t bytes,
		      uint64_t offset)
{
	struct iovec iov = {buf, bytes};
	struct image_req req = {
		.op = op, .offset = offset, .bytes = bytes, .iov = &iov, .n_iov = 1};

	return bytes == 0 ? 0 : image_file_run(file, &req);
}

int image_file_pread(struct image_file *file, void *buf, size_t bytes, uint64_t offset)
{
	return run_buffer(file, IMAGE_READ, buf, bytes, offset);
}

int image_file_pwrite(struct image_file *file, const void *buf, size_t bytes, uint64_t offset)
{
	return run_buffer(file, IMAGE_WRITE, (void *)(uintptr_t)buf, bytes, offset);
}

int image_file_sync(struct image_file *file)
{
	struct image_req req = {.op = IMAGE_FLUSH};

	return file->no_flush || file->readonly ? 0 : image_file_run(file, &req);
}

int image_file_length(struct image_file *file, uint64_t *ret)
{
	struct stat st;

	if (file->backend)
		*ret = file->backend->length(file->backend->opaque);
	else if (file->is_block)
		*ret = file->size_bytes;
	else if (fstat(file->fd, &st) < 0)
		return -errno;
	else
		*ret = (uint64_t)st.st_size;
	return 0;
}

int image_file_truncate(struct image_file *file, uint64_t bytes)
{
	if (file->backend)
		return file->backend->truncate(file->backend->opaque, bytes);
	if (file->is_block)
		return 0;
	return ftruncate(file->fd, (off_t)bytes) < 0 ? -errno : 0;
}

int image_file_allocate(struct image_file *file, uint64_t offset, uint64_t bytes,
			enum image_prealloc how)
{
	struct image_req req = {.op = IMAGE_WRITE_ZEROES, .offset = offset, .bytes = bytes};

	if (how == IMAGE_PREALLOC_FULL) {
		req.file = file;
		return file->backend ? image_file_run(file, &req) : write_zeroes(file, &req);
	}
	if (how != IMAGE_PREALLOC_FALLOC || file->backend || file->is_block)
		return 0;
	return -posix_fallocate(file->fd, (off_t)offset, (off_t)bytes);
}
