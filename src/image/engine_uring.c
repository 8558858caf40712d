/*
 * The io_uring engine: one ring a channel, used by the channel's loop alone. Submissions of a batch go to the kernel in one
 * system call; what can be served at once (from the page cache, mostly) is reaped in the same turn.
 *
 * Short transfers are continued here. What the kernel refuses as such, or cannot do without blocking, goes to a worker.
 */
#include "image/image_impl.h"

#include <errno.h>
#include <liburing.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/bits.h"

#define MAX_SQ_ENTRIES 128u
#define MAX_RW_BYTES   0x7ffff000u /* of one read or write, whatever one asks for */
#define REAP_BATCH     32u

enum stage {
	STAGE_MAIN,
	STAGE_SYNC, /* zeroes that must be stable: allocated, now the fdatasync */
};

struct uring {
	struct io_uring ring;
	struct image_channel *ch;
	const void *owner;                   /* the thread that made the ring */
	struct image_req *held, **held_tail; /* the submission queue was full */
	unsigned n_kernel;                   /* submitted, not reaped */
	struct loop_msg retry;               /* the kernel was short of memory */
};

/* Its address tells threads apart. */
static _Thread_local char thread_mark;

int image_uring_probe(void)
{
	/* Where rings are allowed, the kernel goes on to look at the missing parameters. */
	long r = syscall(SYS_io_uring_setup, 1, NULL);

	if (r >= 0) {
		close((int)r);
		return 0;
	}
	return errno == EFAULT || errno == EINVAL ? 0 : -errno;
}

/* --- submitting --- */

static void prep_rw(struct io_uring_sqe *sqe, int fd, struct image_req *req)
{
	uint64_t offset = req->offset + req->done_bytes;
	const struct iovec *iov;
	unsigned n;

	image_req_rest(req, &iov, &n);
	if (n == 1) {
		unsigned len = (unsigned)MIN(iov->iov_len, (size_t)MAX_RW_BYTES);

		if (req->op == IMAGE_READ)
			io_uring_prep_read(sqe, fd, iov->iov_base, len, offset);
		else
			io_uring_prep_write(sqe, fd, iov->iov_base, len, offset);
	} else if (req->op == IMAGE_READ) {
		io_uring_prep_readv(sqe, fd, iov, n, offset);
	} else {
		io_uring_prep_writev(sqe, fd, iov, n, offset);
	}
	if (req->op == IMAGE_WRITE && image_file_stable(req->file, req))
		sqe->rw_flags = RWF_DSYNC;
}

static void prep(struct io_uring_sqe *sqe, struct image_req *req)
{
	int fd = req->file->fd;

	if (req->op == IMAGE_FLUSH || req->stage == STAGE_SYNC)
		io_uring_prep_fsync(sqe, fd, IORING_FSYNC_DATASYNC);
	else if (req->op == IMAGE_READ || req->op == IMAGE_WRITE)
		prep_rw(sqe, fd, req);
	else
		io_uring_prep_fallocate(sqe, fd, req->falloc_mode, (off_t)req->offset,
					(off_t)req->bytes);
	io_uring_sqe_set_data(sqe, req);
}

static void submit_queued(struct uring *u)
{
	while (io_uring_sq_ready(&u->ring) > 0) {
		int r = io_uring_submit(&u->ring);

		if (r > 0) {
			u->n_kernel += (unsigned)r;
			continue;
		}
		if (r == -EINTR)
			continue;
		/* No memory, or completions must be taken first: these call push again, or else the loop does. */
		if (u->n_kernel == 0)
			loop_post(u->ch->loop, &u->retry);
		return;
	}
}

static struct io_uring_sqe *sqe_get(struct uring *u)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&u->ring);

	if (sqe)
		return sqe;
	submit_queued(u);
	return io_uring_get_sqe(&u->ring);
}

static void uring_submit(struct image_channel *ch, struct image_req *req)
{
	struct uring *u = ch->engine_state;
	struct io_uring_sqe *sqe = u->held ? NULL : sqe_get(u);

	if (sqe) {
		prep(sqe, req);
		return;
	}
	req->next = NULL;
	*u->held_tail = req;
	u->held_tail = &req->next;
}

static void uring_push(struct image_channel *ch)
{
	struct uring *u = ch->engine_state;
	struct io_uring_sqe *sqe;

	while (u->held && (sqe = sqe_get(u))) {
		struct image_req *req = u->held;

		u->held = req->next;
		if (!u->held)
			u->held_tail = &u->held;
		prep(sqe, req);
	}
	submit_queued(u);
}

static void uring_retry(struct loop_msg *msg)
{
	image_channel_push(container_of(msg, struct uring, retry)->ch);
}

/* --- completing --- */

static void end_rw(struct image_channel *ch, struct image_req *req, int res)
{
	if (res == -EINTR) {
		uring_submit(ch, req);
	} else if (res == -EAGAIN || (res == -EOPNOTSUPP && req->op == IMAGE_WRITE)) {
		image_file_offload(req);
	} else if (res <= 0) {
		/* 0: the end of the file */
		image_complete(req, res < 0 ? res : image_req_past_end(req, true) ? 0 : -EIO);
	} else {
		req->done_bytes += (uint64_t)res;
		if (req->done_bytes >= req->bytes || image_req_past_end(req, false))
			image_complete(req, 0);
		else
			uring_submit(ch, req);
	}
}

static void end_falloc(struct image_channel *ch, struct image_req *req, int res)
{
	bool stable = req->op == IMAGE_WRITE_ZEROES && image_file_stable(req->file, req);

	if (res == -EAGAIN || res == -EINTR ||
	    image_file_falloc_refused(req->file, req->falloc_mode, res)) {
		image_file_offload(req);
	} else if (res >= 0 && stable) {
		req->stage = STAGE_SYNC;
		uring_submit(ch, req);
	} else {
		image_complete(req, MIN(res, 0));
	}
}

static void end_request(struct image_channel *ch, struct image_req *req, int res)
{
	if (req->op == IMAGE_FLUSH || req->stage == STAGE_SYNC)
		image_complete(req, MIN(res, 0));
	else if (req->op == IMAGE_READ || req->op == IMAGE_WRITE)
		end_rw(ch, req, res);
	else
		end_falloc(ch, req, res);
}

static void uring_reap(struct image_channel *ch)
{
	struct uring *u = ch->engine_state;
	struct io_uring_cqe *cqes[REAP_BATCH];
	unsigned n;

	while ((n = io_uring_peek_batch_cqe(&u->ring, cqes, REAP_BATCH)) > 0) {
		for (unsigned i = 0; i < n; i++)
			end_request(ch, io_uring_cqe_get_data(cqes[i]), cqes[i]->res);
		u->n_kernel -= n;
		io_uring_cq_advance(&u->ring, n);
		if (n < REAP_BATCH)
			break;
	}
}

static int uring_poll_fd(const struct image_channel *ch)
{
	const struct uring *u = ch->engine_state;

	return u->ring.ring_fd;
}

/* --- opening and closing --- */

static unsigned round_up_pow2(unsigned v)
{
	unsigned p = 1;

	while (p < v)
		p *= 2;
	return p;
}

/* From what suits best to what any kernel of ours takes: 6.1 knows them all, older ones fewer. Not DEFER_TASKRUN: it does not
 * wake a thread that waits for the ring in epoll. */
static int ring_setup(struct io_uring *ring, unsigned depth)
{
	static const unsigned flags[] = {
		IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG |
			IORING_SETUP_SUBMIT_ALL,
		IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG | IORING_SETUP_SUBMIT_ALL,
		0,
	};
	int r = -EINVAL;

	for (size_t i = 0; i < ARRAY_SIZE(flags) && r == -EINVAL; i++) {
		struct io_uring_params params = {
			.flags = flags[i] | IORING_SETUP_CQSIZE,
			.cq_entries = round_up_pow2(depth),
		};

		params.cq_entries = MAX(params.cq_entries, 2u);
		r = io_uring_queue_init_params(MIN(params.cq_entries, MAX_SQ_ENTRIES), ring,
					       &params);
		if (r < 0)
			continue;
		/* Without these, completions can be lost and iovecs read late. */
		if ((params.features & IORING_FEAT_NODROP) &&
		    (params.features & IORING_FEAT_SUBMIT_STABLE))
			return 0;
		io_uring_queue_exit(ring);
		return -ENOSYS;
	}
	return r;
}

static int uring_open(struct image_channel *ch, struct error *err)
{
	struct uring *u = calloc(1, sizeof(*u));
	int r;

	if (!u)
		return error_set(err, -ENOMEM, "%s: no memory for its I/O", ch->image->path);
	r = ring_setup(&u->ring, ch->depth);
	if (r < 0) {
		free(u);
		return error_set_errno(err, r, "%s: io_uring cannot be set up; use engine=threads",
				       ch->image->path);
	}
	/* Saves a lookup and is nothing to fail for. Not so the image itself: the ring would hold it, and its lock, for as
	 * long after our end as the kernel takes to clear it away. */
	io_uring_register_ring_fd(&u->ring);
	u->ch = ch;
	u->owner = &thread_mark;
	u->held_tail = &u->held;
	u->retry.fn = uring_retry;
	ch->engine_state = u;
	return 0;
}

static void uring_close(struct image_channel *ch)
{
	struct uring *u = ch->engine_state;

	loop_unpost(ch->loop, &u->retry);
	/* The registered index is the maker's; in another thread it would name another ring. */
	if (u->owner != &thread_mark) {
		u->ring.int_flags = 0;
		u->ring.enter_ring_fd = u->ring.ring_fd;
	}
	io_uring_queue_exit(&u->ring);
	free(u);
}

const struct image_engine image_engine_uring = {
	.name = "io_uring",
	.open = uring_open,
	.close = uring_close,
	.submit = uring_submit,
	.push = uring_push,
	.reap = uring_reap,
	.poll_fd = uring_poll_fd,
};
