/*
 * Requests: the walk over each, reads, flushes, and what a channel keeps. Writes are in qcow2_write.c.
 *
 * On the channel's loop, but the work functions.
 */
#include "image/qcow2/qcow2_io.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "base/bits.h"
#include "base/cleanup.h"

#define USER_OPS      64u
#define USER_OPS_LESS 24u /* of a backing image */
#define COW_OPS       8u
#define COW_BUFFERS   8u

/* --- buffers --- */

unsigned qcow2_slice(const struct image_req *req, uint64_t from, uint64_t bytes, struct iovec *iov)
{
	unsigned n = 0;

	for (unsigned i = 0; i < req->n_iov && bytes > 0; i++) {
		const struct iovec *v = &req->iov[i];
		size_t len;

		if (from >= v->iov_len) {
			from -= v->iov_len;
			continue;
		}
		len = (size_t)MIN((uint64_t)v->iov_len - from, bytes);
		iov[n++] = (struct iovec){(char *)v->iov_base + from, len};
		bytes -= len;
		from = 0;
	}
	return n;
}

/* --- subs --- */

void qcow2_sub_count_locked(struct qcow2_sub *sub)
{
	struct qcow2 *q = sub->op->qc->q;

	sub->parity = q->epoch & 1;
	sub->counted = true;
	q->in_flight[sub->parity]++;
}

void qcow2_sub_start(struct qcow2_sub *sub, uint64_t bytes)
{
	struct qcow2_op *op = sub->op;

	sub->guest = op->pos;
	sub->bytes = bytes;
	sub->busy = true;
	op->pos += bytes;
	op->n_busy++;
}

void qcow2_sub_end(struct qcow2_sub *sub, int result)
{
	struct qcow2_op *op = sub->op;
	struct qcow2 *q = op->qc->q;

	if (sub->counted) {
		LOCK_GUARD(&q->lock);
		q->in_flight[sub->parity]--;
		sub->counted = false;
	}
	sub->busy = false;
	op->n_busy--;
	if (result < 0 && op->error == 0)
		op->error = result;
	qcow2_op_run(op);
}

static void sub_done(struct image_req *req, int result)
{
	qcow2_sub_end(container_of(req, struct qcow2_sub, req), result);
}

static struct qcow2_sub *sub_get(struct qcow2_op *op)
{
	for (unsigned i = 0; i < QCOW2_OP_SUBS; i++) {
		if (!op->subs[i].busy)
			return &op->subs[i];
	}
	return NULL;
}

/* --- reading --- */

static void read_from(struct qcow2_sub *sub, struct image_node *lower, uint64_t offset,
		      uint64_t bytes)
{
	struct qcow2_op *op = sub->op;
	const struct image_req *up = op->req;
	struct image_channel *ch = op->qc->ch;

	sub->req = (struct image_req){.op = IMAGE_READ,
				      .offset = offset,
				      .bytes = bytes,
				      .iov = up->iov,
				      .n_iov = up->n_iov,
				      .done = sub_done,
				      .channel = ch,
				      .sub = true};
	if (bytes != up->bytes) {
		sub->req.iov = sub->iov;
		sub->req.n_iov = qcow2_slice(up, op->pos - up->offset, bytes, sub->iov);
	}
	qcow2_sub_start(sub, bytes);
	if (lower)
		image_sub_submit(lower, ch, &sub->req);
	else
		image_file_submit(op->qc->q->data, ch, &sub->req);
}

static void unpack_run(struct image_work *work)
{
	struct qcow2_sub *sub = container_of(work, struct qcow2_sub, work);
	struct qcow2 *q = sub->op->qc->q;
	const struct image_req *up = sub->op->req;
	_cleanup_free_ uint8_t *buf = malloc(q->cluster_bytes);
	uint64_t in = qcow2_in_cluster(q, sub->guest);
	struct iovec *iov = sub->iov;
	unsigned n;

	sub->result = buf ? qcow2_read_compressed(q, &sub->map, buf) : -ENOMEM;
	if (sub->result < 0)
		return;
	n = qcow2_slice(up, sub->guest - up->offset, sub->bytes, iov);
	for (unsigned i = 0; i < n; i++) {
		memcpy(iov[i].iov_base, buf + in, iov[i].iov_len);
		in += iov[i].iov_len;
	}
}

static void unpack_finish(struct image_work *work)
{
	struct qcow2_sub *sub = container_of(work, struct qcow2_sub, work);

	qcow2_sub_end(sub, sub->result);
}

static void read_packed(struct qcow2_sub *sub, const struct qcow2_map *map)
{
	struct qcow2_channel *qc = sub->op->qc;

	sub->map = *map;
	sub->work.run = unpack_run;
	sub->work.finish = unpack_finish;
	sub->work.channel = qc->ch;
	qcow2_sub_start(sub, map->bytes);
	image_pool_submit(qc->node->image->pool, &sub->work);
}

/* What neither this layer nor one below it has is zeroes. */
static void read_lower(struct qcow2_op *op, struct qcow2_sub *sub, uint64_t bytes)
{
	struct image_node *lower = op->qc->node->lower;
	uint64_t size = lower ? lower->info.size_bytes : 0;

	if (op->pos < size) {
		read_from(sub, lower, op->pos, MIN(bytes, size - op->pos));
		return;
	}
	image_req_zero(op->req, op->pos - op->req->offset, bytes);
	op->pos += bytes;
}

static void read_step(struct qcow2_op *op, struct qcow2_sub *sub)
{
	struct qcow2 *q = op->qc->q;
	struct qcow2_map map = {0};
	uint64_t load = 0;
	int r;

	pthread_mutex_lock(&q->lock);
	r = qcow2_map_locked(q, op->pos, op->end - op->pos, &map, &load);
	if (r >= 0 && (map.kind == QCOW2_DATA || map.kind == QCOW2_COMPRESSED))
		qcow2_sub_count_locked(sub);
	pthread_mutex_unlock(&q->lock);
	if (r == -EAGAIN) {
		qcow2_op_stall(op, QCOW2_NEED_BLOCK, load);
		return;
	}
	if (r < 0) {
		op->error = r;
		return;
	}
	switch (map.kind) {
	case QCOW2_NONE:
		read_lower(op, sub, map.bytes);
		break;
	case QCOW2_ZERO:
		image_req_zero(op->req, op->pos - op->req->offset, map.bytes);
		op->pos += map.bytes;
		break;
	case QCOW2_DATA:
		read_from(sub, NULL, map.host, map.bytes);
		break;
	case QCOW2_COMPRESSED:
		read_packed(sub, &map);
		break;
	}
}

/* --- what an op stalls for --- */

static int need_commit(struct qcow2 *q, uint64_t number)
{
	pthread_mutex_lock(&q->lock);
	if (q->commits_done >= number) {
		int r = q->commit_result;

		pthread_mutex_unlock(&q->lock);
		return r;
	}
	pthread_mutex_unlock(&q->lock);
	return qcow2_commit(q);
}

static int make_room(struct qcow2 *q)
{
	bool full;

	pthread_mutex_lock(&q->lock);
	full = qcow2_cache_full_locked(q);
	pthread_mutex_unlock(&q->lock);
	return full ? qcow2_commit(q) : 0;
}

static void need_run(struct image_work *work)
{
	struct qcow2_op *op = container_of(work, struct qcow2_op, work);
	struct qcow2 *q = op->qc->q;
	int r = 0;

	if (op->need == QCOW2_NEED_L2 || op->need == QCOW2_NEED_RESERVE)
		r = make_room(q);
	if (r >= 0) {
		switch (op->need) {
		case QCOW2_NEED_BLOCK:
			r = qcow2_block_load(q, op->need_arg, QCOW2_BLOCK_L2);
			break;
		case QCOW2_NEED_L2:
			r = qcow2_l2_make(q, op->need_arg);
			break;
		case QCOW2_NEED_RESERVE:
			r = qcow2_reserve_refill(q);
			break;
		case QCOW2_NEED_COMMIT:
			r = need_commit(q, op->need_arg);
			break;
		}
	}
	op->need_result = r;
}

static void need_finish(struct image_work *work)
{
	struct qcow2_op *op = container_of(work, struct qcow2_op, work);

	op->stalled = false;
	if (op->need_result < 0 && op->error == 0)
		op->error = op->need_result;
	qcow2_op_run(op);
}

void qcow2_op_stall(struct qcow2_op *op, enum qcow2_need need, uint64_t arg)
{
	struct qcow2 *q = op->qc->q;

	op->stalled = true;
	op->need = need;
	op->need_arg = arg;
	op->work.run = need_run;
	op->work.finish = need_finish;
	op->work.channel = op->qc->ch;
	image_pool_submit(need == QCOW2_NEED_BLOCK ? op->qc->node->image->pool : q->worker,
			  &op->work);
}

/* --- flushing --- */

static void flush_file(struct qcow2_op *op, struct qcow2_sub *sub, struct image_file *file)
{
	sub->req = (struct image_req){.op = IMAGE_FLUSH,
				      .done = sub_done,
				      .channel = op->qc->ch,
				      .sub = true};
	qcow2_sub_start(sub, 0);
	image_file_submit(file, op->qc->ch, &sub->req);
}

/* Everything that ended before is to be stable: data by a flush of the file, new mappings by a commit. */
static void op_make_stable(struct qcow2_op *op)
{
	struct qcow2 *q = op->qc->q;
	uint64_t number;
	bool uncommitted;

	pthread_mutex_lock(&q->lock);
	uncommitted = qcow2_uncommitted_locked(q);
	number = q->commits_started + 1;
	pthread_mutex_unlock(&q->lock);
	if (uncommitted) {
		qcow2_op_stall(op, QCOW2_NEED_COMMIT, number);
		return;
	}
	flush_file(op, &op->subs[0], q->file);
	if (q->data != q->file)
		flush_file(op, &op->subs[1], q->data);
}

/* --- ops --- */

static void op_start(struct qcow2_op *op, struct image_req *req)
{
	op->req = req;
	op->pos = req->offset;
	op->end = req->offset + req->bytes;
	if (req->op == IMAGE_FLUSH)
		op->pos = op->end = 0;
	op->n_busy = 0;
	op->stalled = op->linked = op->finishing = false;
	op->error = 0;
	op->no_pack_until = 0;
}

/* True when something is still to be done after the last piece. */
static bool op_finish_more(struct qcow2_op *op)
{
	const struct image_req *req = op->req;
	const struct image_file *file = op->qc->q->file;

	if (op->finishing || op->error < 0 || file->no_flush)
		return false;
	switch (req->op) {
	case IMAGE_READ:
	case IMAGE_DISCARD:
		return false;
	case IMAGE_FLUSH:
		break;
	case IMAGE_WRITE:
		/* What went to mapped clusters was made stable as it was written. */
		if (!op->linked || !(req->fua || file->dsync))
			return false;
		break;
	case IMAGE_WRITE_ZEROES:
		if (!req->fua && !(file->dsync && op->linked))
			return false;
		break;
	}
	op->finishing = true;
	op_make_stable(op);
	return op->n_busy > 0 || op->stalled;
}

static void op_end(struct qcow2_op *op)
{
	struct qcow2_channel *qc = op->qc;
	struct image_req *req = op->req;
	int result = op->error;

	op->next = qc->free_ops[op->class];
	qc->free_ops[op->class] = op;
	image_complete(req, result);
	qcow2_submit_class(qc, NULL, op->class);
}

void qcow2_op_run(struct qcow2_op *op)
{
	while (!op->stalled && op->error == 0 && op->pos < op->end) {
		struct qcow2_sub *sub = sub_get(op);

		/* Who packs goes a cluster at a time: the next may have to wait for space. */
		if (!sub || (op->req->compress && op->n_busy > 0))
			return;
		switch (op->req->op) {
		case IMAGE_READ:
			read_step(op, sub);
			break;
		case IMAGE_WRITE:
			qcow2_write_step(op, sub);
			break;
		default:
			qcow2_trim_step(op, sub);
			break;
		}
	}
	if (op->n_busy == 0 && !op->stalled && !op_finish_more(op))
		op_end(op);
}

/* Also without a request: starts waiting ones when there are ops for them. */
void qcow2_submit_class(struct qcow2_channel *qc, struct image_req *req, unsigned class)
{
	struct qcow2_op *op;

	if (req) {
		req->next = NULL;
		*qc->waiting_tail[class] = req;
		qc->waiting_tail[class] = &req->next;
	}
	if (qc->pumping[class])
		return;
	qc->pumping[class] = true;
	while ((req = qc->waiting[class]) && (op = qc->free_ops[class])) {
		qc->waiting[class] = req->next;
		if (!qc->waiting[class])
			qc->waiting_tail[class] = &qc->waiting[class];
		qc->free_ops[class] = op->next;
		op_start(op, req);
		qcow2_op_run(op);
	}
	qc->pumping[class] = false;
}

void qcow2_submit(struct image_node *node, struct image_channel *ch, struct image_req *req)
{
	req->channel = ch;
	qcow2_submit_class(ch->format_state[node->index], req, QCOW2_CLASS_USER);
}

/* --- channels --- */

static size_t take_space(size_t *at, size_t bytes)
{
	size_t here = *at;

	*at += align_up(bytes, 4096);
	return here;
}

static void ops_init(struct qcow2_channel *qc, struct qcow2_op *ops, unsigned n, unsigned class,
		     struct iovec *iovs)
{
	for (unsigned i = 0; i < n; i++) {
		struct qcow2_op *op = &ops[i];

		op->qc = qc;
		op->class = class;
		op->next = qc->free_ops[class];
		qc->free_ops[class] = op;
		for (unsigned k = 0; k < QCOW2_OP_SUBS; k++) {
			op->subs[k].op = op;
			op->subs[k].iov = iovs + ((size_t)i * QCOW2_OP_SUBS + k) * QCOW2_SUB_IOV;
		}
	}
}

/* Address space for the worst case; memory as it is touched. */
static int arena_map(struct qcow2_channel *qc, unsigned n_user, unsigned n_cow, unsigned n_buffers)
{
	size_t ops = 0;
	size_t all = n_user + n_cow;
	size_t cow_bytes = 2 * MAX((size_t)qc->q->cluster_bytes, (size_t)4096);
	size_t iovs;
	size_t buffers;
	uint8_t *base;

	take_space(&ops, all * sizeof(struct qcow2_op));
	iovs = take_space(&ops, all * QCOW2_OP_SUBS * QCOW2_SUB_IOV * sizeof(struct iovec));
	buffers = take_space(&ops, n_buffers * cow_bytes);
	qc->arena_bytes = ops + QCOW2_ZERO_BYTES;
	base = mmap(NULL, qc->arena_bytes, PROT_READ | PROT_WRITE,
		    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (base == MAP_FAILED)
		return -ENOMEM;
	qc->arena = base;
	ops_init(qc, (struct qcow2_op *)base, n_user, QCOW2_CLASS_USER,
		 (struct iovec *)(base + iovs));
	ops_init(qc, (struct qcow2_op *)base + n_user, n_cow, QCOW2_CLASS_COW,
		 (struct iovec *)(base + iovs) + (size_t)n_user * QCOW2_OP_SUBS * QCOW2_SUB_IOV);
	for (unsigned i = 0; i < n_buffers; i++) {
		uint8_t *buf = base + buffers + i * cow_bytes;

		memcpy(buf, &qc->cow_free, sizeof(qc->cow_free));
		qc->cow_free = buf;
	}
	qc->zeroes = base + ops;
	return 0;
}

int qcow2_channel_open(struct image_node *node, struct image_channel *ch, struct error *err)
{
	struct qcow2 *q = qcow2_of(node);
	struct qcow2_channel *qc = calloc(1, sizeof(*qc));
	bool writes = !q->readonly;
	int r;

	if (!qc)
		return error_set(err, -ENOMEM, "%s: no memory for its I/O", node->file->path);
	qc->q = q;
	qc->node = node;
	qc->ch = ch;
	for (unsigned i = 0; i < 2; i++)
		qc->waiting_tail[i] = &qc->waiting[i];
	qc->cow_waiters_tail = &qc->cow_waiters;
	ch->format_state[node->index] = qc;
	r = arena_map(qc, node->index == 0 ? USER_OPS : USER_OPS_LESS, writes ? COW_OPS : 0,
		      writes ? COW_BUFFERS : 0);
	return r < 0 ? error_set_errno(err, r, "%s: no memory for its I/O", node->file->path) : 0;
}

void qcow2_channel_close(struct image_node *node, struct image_channel *ch)
{
	struct qcow2_channel *qc = ch->format_state[node->index];

	if (!qc)
		return;
	if (qc->arena)
		munmap(qc->arena, qc->arena_bytes);
	free(qc);
	ch->format_state[node->index] = NULL;
}
