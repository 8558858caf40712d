/*
 * The queues of a virtio block device: requests are taken in batches, checked, handed to the image's channel, and given back
 * in batches with one interrupt. (VIRTIO 1.2, section 5.2.6.)
 *
 * On the queue's loop. The vq's lock is held only to take and to give back, never across I/O.
 *
 * A request whose header and status byte are there gets a status whatever else is wrong with it; without them the driver
 * has broken the protocol.
 */
#include "vm/devices/virtio_blk_int.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "base/bits.h"
#include "base/cleanup.h"

#define BATCH  64u /* requests taken before they are handed on */
#define ROUNDS 16u /* batches before other sources of the loop have a turn */

/* Section 5.2.6. */
enum blk_type {
	BLK_T_IN = 0,
	BLK_T_OUT = 1,
	BLK_T_FLUSH = 4,
	BLK_T_GET_ID = 8,
	BLK_T_DISCARD = 11,
	BLK_T_WRITE_ZEROES = 13,
};

enum blk_status {
	BLK_S_OK = 0,
	BLK_S_IOERR = 1,
	BLK_S_UNSUPP = 2,
};

/* struct virtio_blk_req, the part before the data. */
struct blk_header {
	le32 type;
	le32 reserved;
	le64 sector;
};
_Static_assert(sizeof(struct blk_header) == 16, "section 5.2.6");

/* struct virtio_blk_discard_write_zeroes */
struct blk_range {
	le64 sector;
	le32 sectors;
	le32 flags;
};
_Static_assert(sizeof(struct blk_range) == 16, "section 5.2.6");
#define RANGE_UNMAP 1u

/* --- storage --- */

static struct blk_req *req_get(struct blk_queue *q)
{
	struct blk_req *req = q->free_req;

	if (req)
		q->free_req = req->next;
	else if (q->n_fresh < q->n_reqs)
		req = &q->reqs[q->n_fresh++];
	return req;
}

/* There is one for each request and one for the scratch place. */
static struct iovec *large_get(struct blk_queue *q)
{
	struct iovec *iov = q->free_iov;

	if (iov)
		q->free_iov = iov->iov_base;
	else
		iov = q->iovs + (size_t)q->n_fresh_iovs++ * q->max_iov;
	return iov;
}

static void req_put(struct blk_queue *q, struct blk_req *req)
{
	if (req->large) {
		req->large->iov_base = q->free_iov;
		q->free_iov = req->large;
		req->large = NULL;
	}
	req->next = q->free_req;
	q->free_req = req;
}

/* --- giving back --- */

static void count(atomic_uint_fast64_t *counter, uint64_t n)
{
	atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + n,
			      memory_order_relaxed);
}

static void req_end(struct blk_req *req, enum blk_status status)
{
	struct blk_queue *q = req->queue;

	*req->status = (uint8_t)status;
	if (req->cut)
		req->cut->iov_len++;
	if (status != BLK_S_OK)
		count(&q->stats.errors, 1);
	req->next = NULL;
	*q->ended_tail = req;
	q->ended_tail = &req->next;
}

static void count_done(struct blk_stats *stats, const struct image_req *io)
{
	switch (io->op) {
	case IMAGE_READ:
		count(&stats->reads, 1);
		count(&stats->read_bytes, io->bytes);
		break;
	case IMAGE_WRITE:
	case IMAGE_WRITE_ZEROES:
		count(&stats->writes, 1);
		count(&stats->written_bytes, io->bytes);
		break;
	case IMAGE_FLUSH:
		count(&stats->flushes, 1);
		break;
	case IMAGE_DISCARD:
		count(&stats->discards, 1);
		break;
	}
}

static void io_done(struct image_req *io, int result)
{
	struct blk_req *req = container_of(io, struct blk_req, io);

	if (result >= 0)
		count_done(&req->queue->stats, io);
	req_end(req, result < 0 ? BLK_S_IOERR : BLK_S_OK);
}

/* The status byte is the last writable one, so all of them count as written. */
static uint32_t req_written(const struct blk_req *req)
{
	return (uint32_t)MIN(req->vr.in_bytes, (uint64_t)UINT32_MAX);
}

static void queue_look_idle(struct blk_queue *q)
{
	unsigned reasons;

	if (q->in_flight > 0 || !atomic_load(&q->stopping))
		return;
	reasons = atomic_exchange(&q->stopping, 0);
	if (reasons)
		blk_queue_stopped(q, reasons);
}

static void queue_give_back(void *opaque)
{
	struct blk_queue *q = opaque;
	struct vq *vq = &q->vqueue->vq;
	struct blk_req *first = q->ended;
	unsigned n = 0;

	if (first) {
		LOCK_GUARD(&vq->lock);
		for (struct blk_req *req = first; req; req = req->next)
			vq_push_delayed(vq, &req->vr, req_written(req), n++);
		vq_push_flush(vq, n);
		virtio_signal(&q->blk->vdev, q->vqueue);
	}
	q->ended = NULL;
	q->ended_tail = &q->ended;
	while (first) {
		struct blk_req *next = first->next;

		req_put(q, first);
		first = next;
	}
	q->in_flight -= n;
	queue_look_idle(q);
	if (q->starved && n > 0)
		virtio_queue_rekick(&q->blk->vdev, q->vqueue->index);
}

/* --- what a request asks for --- */

static void io_submit(struct blk_req *req, enum image_op op)
{
	req->io.op = op;
	req->io.done = io_done;
	image_submit(req->queue->ch, &req->io);
}

/* offset and bytes, when the range is on the disk. */
static bool io_range(struct blk_req *req, uint64_t sector, uint64_t bytes)
{
	uint64_t size = req->queue->blk->info.size_bytes;

	if (bytes % BLK_SECTOR_BYTES != 0 || sector > size / BLK_SECTOR_BYTES ||
	    !range_inside(sector * BLK_SECTOR_BYTES, bytes, size))
		return false;
	req->io.offset = sector * BLK_SECTOR_BYTES;
	req->io.bytes = bytes;
	return true;
}

static bool wants_stable(const struct blk_queue *q)
{
	return atomic_load_explicit(&q->blk->stable, memory_order_relaxed);
}

static void do_read(struct blk_req *req, uint64_t sector)
{
	req->io.iov = req->vr.iov + req->vr.n_out;
	req->io.n_iov = req->vr.n_in;
	if (req->cut && req->cut->iov_len == 0)
		req->io.n_iov--;
	if (!io_range(req, sector, req->vr.in_bytes - 1))
		req_end(req, BLK_S_IOERR);
	else
		io_submit(req, IMAGE_READ);
}

static void do_write(struct blk_req *req, uint64_t sector)
{
	struct iovec *iov = req->vr.iov;
	unsigned n = req->vr.n_out;

	iov_skip(&iov, &n, sizeof(struct blk_header));
	req->io.iov = iov;
	req->io.n_iov = n;
	req->io.fua = wants_stable(req->queue);
	if (req->queue->blk->info.readonly ||
	    !io_range(req, sector, req->vr.out_bytes - sizeof(struct blk_header)))
		req_end(req, BLK_S_IOERR);
	else
		io_submit(req, IMAGE_WRITE);
}

static void do_get_id(struct blk_req *req)
{
	char id[VIRTIO_BLK_SERIAL_BYTES] = "";

	/* Not terminated when it fills all of them. */
	memcpy(id, req->queue->blk->serial, strnlen(req->queue->blk->serial, sizeof(id)));
	iov_from_buf(req->vr.iov + req->vr.n_out, req->vr.n_in, 0, id,
		     MIN(sizeof(id), (size_t)(req->vr.in_bytes - 1)));
	req_end(req, BLK_S_OK);
}

static void do_range(struct blk_req *req, enum image_op op, uint32_t max_sectors,
		     uint32_t known_flags)
{
	struct blk_range range;
	uint32_t flags;

	/* One range a command, as announced. */
	if (req->vr.out_bytes != sizeof(struct blk_header) + sizeof(range) ||
	    iov_to_buf(req->vr.iov, req->vr.n_out, sizeof(struct blk_header), &range,
		       sizeof(range)) != sizeof(range)) {
		req_end(req, BLK_S_IOERR);
		return;
	}
	flags = le32_get(range.flags);
	if (flags & ~known_flags) {
		req_end(req, BLK_S_UNSUPP);
		return;
	}
	req->io.may_unmap = flags & RANGE_UNMAP;
	req->io.fua = wants_stable(req->queue);
	if (req->queue->blk->info.readonly || le32_get(range.sectors) > max_sectors ||
	    !io_range(req, le64_get(range.sector),
		      (uint64_t)le32_get(range.sectors) * BLK_SECTOR_BYTES))
		req_end(req, BLK_S_IOERR);
	else
		io_submit(req, op);
}

static void req_dispatch(struct blk_req *req, const struct blk_header *header)
{
	const struct virtio *vdev = &req->queue->blk->vdev;
	uint64_t sector = le64_get(header->sector);

	switch (le32_get(header->type)) {
	case BLK_T_IN:
		do_read(req, sector);
		return;
	case BLK_T_OUT:
		do_write(req, sector);
		return;
	case BLK_T_FLUSH:
		io_submit(req, IMAGE_FLUSH);
		return;
	case BLK_T_GET_ID:
		do_get_id(req);
		return;
	case BLK_T_DISCARD:
		if (!virtio_has(vdev, BLK_F_DISCARD))
			break;
		do_range(req, IMAGE_DISCARD, BLK_MAX_DISCARD_SECTORS, 0);
		return;
	case BLK_T_WRITE_ZEROES:
		if (!virtio_has(vdev, BLK_F_WRITE_ZEROES))
			break;
		do_range(req, IMAGE_WRITE_ZEROES, BLK_MAX_ZEROES_SECTORS, RANGE_UNMAP);
		return;
	}
	req_end(req, BLK_S_UNSUPP);
}

/* Finds header and status byte; false: the driver broke the protocol. */
static bool req_start(struct blk_req *req)
{
	struct vq_req *vr = &req->vr;
	struct blk_header header;
	struct iovec *last;

	if (vr->in_bytes < 1 ||
	    iov_to_buf(vr->iov, vr->n_out, 0, &header, sizeof(header)) != sizeof(header))
		return false;
	last = &vr->iov[vr->n_out + vr->n_in - 1];
	last->iov_len--;
	req->cut = last;
	req->status = (uint8_t *)last->iov_base + last->iov_len;
	req_dispatch(req, &header);
	return true;
}

/* --- taking --- */

/* A popped request keeps its iovecs: few of them beside it, many where they are. */
static void req_keep_iov(struct blk_queue *q, struct blk_req *req)
{
	unsigned n = req->vr.n_out + req->vr.n_in;

	if (n <= BLK_SMALL_IOV) {
		memcpy(req->small, q->scratch, n * sizeof(*req->small));
		req->vr.iov = req->small;
	} else {
		req->large = q->scratch;
		q->scratch = large_get(q);
	}
}

/* Takes up to a batch into *ret. *ret_why is set when the driver broke the rules. */
static void queue_take(struct blk_queue *q, struct blk_req **ret, const char **ret_why)
{
	struct vq *vq = &q->vqueue->vq;
	unsigned n = 0;

	LOCK_GUARD(&vq->lock);
	vq_kicks_off(vq);
	q->starved = false;
	for (; n < BATCH; n++) {
		struct blk_req *req = req_get(q);
		int r;

		if (!req) {
			q->starved = true;
			break;
		}
		memset(req, 0, offsetof(struct blk_req, small));
		req->queue = q;
		req->vr.iov = q->scratch;
		req->vr.max_iov = q->max_iov;
		r = vq_pop(vq, &req->vr);
		if (r <= 0) {
			req_put(q, req);
			if (r < 0)
				*ret_why = vq->broken_why;
			break;
		}
		req_keep_iov(q, req);
		*ret = req;
		ret = &req->next;
	}
	*ret = NULL;
	q->in_flight += n;
}

/* Starts each; a malformed one is dropped and ends the queue's life. */
static void batch_start(struct blk_queue *q, struct blk_req *req, const char **ret_why)
{
	while (req) {
		struct blk_req *next = req->next;

		if (!req_start(req)) {
			*ret_why = "disk request without a header or a status byte";
			req_put(q, req);
			q->in_flight--;
		}
		req = next;
	}
}

/* No more for now? Then kicks are on again. */
static bool queue_is_quiet(struct blk_queue *q)
{
	LOCK_GUARD(&q->vqueue->vq.lock);
	return !vq_kicks_on(&q->vqueue->vq);
}

void blk_queue_run(struct blk_queue *q)
{
	for (unsigned round = 0; round < ROUNDS; round++) {
		struct blk_req *batch = NULL;
		const char *why = NULL;

		queue_take(q, &batch, &why);
		batch_start(q, batch, &why);
		image_channel_push(q->ch);
		queue_give_back(q);
		if (why) {
			virtio_break(&q->blk->vdev, why);
			return;
		}
		if (q->starved || queue_is_quiet(q))
			return;
	}
	virtio_queue_rekick(&q->blk->vdev, q->vqueue->index);
}

/* --- stopping --- */

static void stop_run(struct loop_msg *msg)
{
	queue_look_idle(container_of(msg, struct blk_queue, stop_msg));
}

void blk_queue_stop(struct blk_queue *q, unsigned reason)
{
	atomic_fetch_or(&q->stopping, reason);
	loop_post(q->loop, &q->stop_msg);
}

void blk_queue_drain(struct blk_queue *q)
{
	image_channel_drain(q->ch);
	queue_give_back(q);
	/* A reset that was under way ends now, not after the pause. */
	loop_unpost(q->loop, &q->stop_msg);
	queue_look_idle(q);
}

/* --- opening and closing --- */

static int arena_map(struct blk_queue *q, unsigned n_reqs)
{
	size_t reqs_bytes = align_up(n_reqs * sizeof(*q->reqs), 4096);
	size_t iovs_bytes = (n_reqs + 1) * (size_t)q->max_iov * sizeof(*q->iovs);

	q->arena_bytes = reqs_bytes + iovs_bytes;
	q->arena = mmap(NULL, q->arena_bytes, PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (q->arena == MAP_FAILED) {
		q->arena = NULL;
		return -ENOMEM;
	}
	q->reqs = q->arena;
	q->n_reqs = n_reqs;
	q->iovs = (struct iovec *)((char *)q->arena + reqs_bytes);
	q->scratch = large_get(q);
	return 0;
}

int blk_queue_open(struct virtio_blk *blk, unsigned index, struct error *err)
{
	struct blk_queue *q = &blk->queues[index];
	unsigned size;
	int r;

	q->blk = blk;
	q->vqueue = &blk->vdev.queues[index];
	q->loop = q->vqueue->loop;
	q->ended_tail = &q->ended;
	q->stop_msg.fn = stop_run;
	size = q->vqueue->vq.max_size;
	/* Chains are no longer than the queue (2.7.5.3.1); a buffer may straddle two regions of memory. */
	q->max_iov = size + 2;
	r = arena_map(q, size);
	if (r < 0)
		return error_set_errno(err, r, "no memory for %u requests", size);
	r = image_channel_open(blk->image, q->loop, size, &q->ch, err);
	if (r >= 0)
		image_channel_on_batch(q->ch, queue_give_back, q);
	return r;
}

static void close_on_loop(void *opaque)
{
	struct blk_queue *q = opaque;

	loop_unpost(q->loop, &q->stop_msg);
	image_channel_close(q->ch);
	q->ch = NULL;
}

void blk_queue_close(struct blk_queue *q)
{
	if (q->ch)
		loop_call(q->loop, close_on_loop, q);
	if (q->arena)
		munmap(q->arena, q->arena_bytes);
	q->arena = NULL;
}
