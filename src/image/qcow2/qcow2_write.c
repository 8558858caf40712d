/*
 * Writes. A write to a cluster that is the active disk's alone goes straight to the file. Any other takes new
 * clusters, claims the guest's so that nobody else changes them meanwhile, writes the data with what surrounds it in the cluster,
 * and links the clusters when that has been written.
 *
 * On the channel's loop, but the work functions.
 */
#include <errno.h>
#include <stdlib.h>

#include "base/bits.h"
#include "base/cleanup.h"
#include "image/qcow2/qcow2_io.h"

/* --- claims --- */

bool qcow2_claim_wait_locked(struct qcow2_op *op, uint64_t guest, uint64_t *bytes)
{
	struct qcow2 *q = op->qc->q;
	uint64_t cluster = qcow2_cluster_of(q, guest);

	for (struct qcow2_claim *c = q->claims; c; c = c->next) {
		if (cluster >= c->first && cluster - c->first < c->count) {
			op->stalled = true;
			op->next = c->waiters;
			c->waiters = op;
			return true;
		}
		if (c->first > cluster)
			*bytes = MIN(*bytes, (c->first << q->cluster_bits) - guest);
	}
	return false;
}

static void claim_locked(struct qcow2 *q, struct qcow2_sub *sub, uint64_t first, uint64_t count)
{
	struct qcow2_claim *c = &sub->claim;

	c->first = first;
	c->count = count;
	c->waiters = NULL;
	c->next = q->claims;
	c->prev = &q->claims;
	if (c->next)
		c->next->prev = &c->next;
	q->claims = c;
	sub->claimed = true;
}

/* Returns those that wait for it. */
static struct qcow2_op *unclaim_locked(struct qcow2_sub *sub)
{
	struct qcow2_claim *c = &sub->claim;

	*c->prev = c->next;
	if (c->next)
		c->next->prev = c->prev;
	sub->claimed = false;
	return c->waiters;
}

static void resume_run(struct image_work *work)
{
	(void)work;
}

static void resume_finish(struct image_work *work)
{
	struct qcow2_op *op = container_of(work, struct qcow2_op, work);

	op->stalled = false;
	qcow2_op_run(op);
}

static void resume_all(struct qcow2_channel *qc, struct qcow2_op *op)
{
	while (op) {
		struct qcow2_op *next = op->next;

		if (op->qc == qc) {
			op->stalled = false;
			qcow2_op_run(op);
		} else {
			op->work.run = resume_run;
			op->work.finish = resume_finish;
			op->work.channel = op->qc->ch;
			image_channel_post(op->qc->ch, &op->work);
		}
		op = next;
	}
}

/* --- buffers for what surrounds the data --- */

static uint8_t *cow_get(struct qcow2_op *op)
{
	struct qcow2_channel *qc = op->qc;
	uint8_t *buf = qc->cow_free;

	if (buf) {
		memcpy(&qc->cow_free, buf, sizeof(qc->cow_free));
		return buf;
	}
	op->stalled = true;
	op->next = NULL;
	*qc->cow_waiters_tail = op;
	qc->cow_waiters_tail = &op->next;
	return NULL;
}

static void cow_put(struct qcow2_channel *qc, uint8_t *buf)
{
	struct qcow2_op *op = qc->cow_waiters;

	memcpy(buf, &qc->cow_free, sizeof(qc->cow_free));
	qc->cow_free = buf;
	if (!op)
		return;
	qc->cow_waiters = op->next;
	if (!qc->cow_waiters)
		qc->cow_waiters_tail = &qc->cow_waiters;
	op->stalled = false;
	qcow2_op_run(op);
}

/* --- linking --- */

static void link_cluster_locked(struct qcow2 *q, struct qcow2_sub *sub, uint64_t guest,
				uint64_t host)
{
	uint64_t bitmap;
	uint64_t old = qcow2_entry_get(q, sub->block, guest, &bitmap);
	uint64_t from = MAX(sub->cow_start, guest);
	uint64_t to = MIN(align_up(sub->cow_end, BIT(q->sub_bits)), guest + q->cluster_bytes);

	if (q->ext_l2) {
		unsigned first = (unsigned)(qcow2_in_cluster(q, from) >> q->sub_bits);
		unsigned n = (unsigned)((to - from) >> q->sub_bits);
		uint64_t mask = (n == 32 ? UINT32_MAX : BIT(n) - 1) << first;

		bitmap = sub->whole_clusters ? UINT32_MAX : (bitmap | mask) & ~(mask << 32);
	}
	qcow2_entry_set_locked(q, sub->block, guest, host | QCOW2_ENTRY_MINE, bitmap);
	if ((old & QCOW2_ENTRY_COMPRESSED) || (old & QCOW2_OFFSET_MASK) != host)
		qcow2_drop_entry_locked(q, old);
}

static void link_locked(struct qcow2 *q, struct qcow2_sub *sub)
{
	uint64_t guest = sub->claim.first << q->cluster_bits;
	uint64_t host = align_down(sub->host, q->cluster_bytes);

	for (uint64_t i = 0; i < sub->claim.count; i++) {
		link_cluster_locked(q, sub, guest, host);
		guest += q->cluster_bytes;
		host += q->cluster_bytes;
	}
}

/* The new clusters of a write that failed were never seen by anyone. */
static void give_up_locked(struct qcow2 *q, struct qcow2_sub *sub)
{
	uint64_t guest = sub->claim.first << q->cluster_bits;
	uint64_t host = align_down(sub->host, q->cluster_bytes);

	for (uint64_t i = 0; i < sub->claim.count && !q->has_data_file; i++) {
		uint64_t bitmap;
		uint64_t old = qcow2_entry_get(q, sub->block, guest, &bitmap);

		if ((old & QCOW2_ENTRY_COMPRESSED) || (old & QCOW2_OFFSET_MASK) != host)
			qcow2_drop_locked(q, qcow2_cluster_of(q, host), 1);
		guest += q->cluster_bytes;
		host += q->cluster_bytes;
	}
}

static void alloc_end(struct qcow2_sub *sub, int result)
{
	struct qcow2_op *op = sub->op;
	struct qcow2_channel *qc = op->qc;
	struct qcow2_op *waiters;
	uint8_t *buf = sub->cow_buf;
	struct qcow2 *q = qc->q;

	pthread_mutex_lock(&q->lock);
	if (result >= 0)
		link_locked(q, sub);
	else
		give_up_locked(q, sub);
	sub->block->pins--;
	waiters = unclaim_locked(sub);
	pthread_mutex_unlock(&q->lock);
	op->linked = true;
	sub->cow_buf = NULL;
	qcow2_sub_end(sub, result);
	if (buf)
		cow_put(qc, buf);
	resume_all(qc, waiters);
}

/* --- a write to new clusters: what surrounds it, then all --- */

static void alloc_written(struct image_req *req, int result)
{
	alloc_end(container_of(req, struct qcow2_sub, req), result);
}

static unsigned add_zeroes(struct qcow2_channel *qc, struct iovec *iov, uint64_t bytes)
{
	unsigned n = 0;

	while (bytes > 0) {
		size_t len = (size_t)MIN(bytes, (uint64_t)QCOW2_ZERO_BYTES);

		iov[n++] = (struct iovec){qc->zeroes, len};
		bytes -= len;
	}
	return n;
}

static void alloc_write(struct qcow2_sub *sub)
{
	struct qcow2_op *op = sub->op;
	struct qcow2_channel *qc = op->qc;
	const struct image_req *up = op->req;
	uint64_t head = sub->guest - sub->cow_start;
	uint64_t tail = sub->cow_end - sub->guest - sub->bytes;
	struct iovec *iov = sub->iov;
	unsigned n = 0;
	uint64_t host = sub->host;
	bool surround = sub->cow_buf || sub->zero_fill;

	if (!surround) {
		host += head;
		head = tail = 0;
	}
	if (head && sub->cow_buf)
		iov[n++] = (struct iovec){sub->cow_buf, head};
	else if (head)
		n += add_zeroes(qc, iov + n, head);
	if (up->op == IMAGE_WRITE)
		n += qcow2_slice(up, sub->guest - up->offset, sub->bytes, iov + n);
	else
		n += add_zeroes(qc, iov + n, sub->bytes);
	if (tail && sub->cow_buf)
		iov[n++] = (struct iovec){sub->cow_buf + head, tail};
	else if (tail)
		n += add_zeroes(qc, iov + n, tail);
	sub->req = (struct image_req){.op = IMAGE_WRITE,
				      .offset = host,
				      .bytes = head + sub->bytes + tail,
				      .iov = iov,
				      .n_iov = n,
				      .done = alloc_written,
				      .channel = qc->ch,
				      .sub = true};
	image_file_submit(qc->q->data, qc->ch, &sub->req);
}

static void cow_read(struct qcow2_sub *sub, uint64_t offset, uint64_t bytes, uint8_t *buf,
		     void (*done)(struct image_req *req, int result))
{
	struct qcow2_channel *qc = sub->op->qc;

	sub->cow_iov = (struct iovec){buf, bytes};
	sub->cow = (struct image_req){.op = IMAGE_READ,
				      .offset = offset,
				      .bytes = bytes,
				      .iov = &sub->cow_iov,
				      .n_iov = 1,
				      .done = done,
				      .channel = qc->ch,
				      .sub = true};
	qcow2_submit_class(qc, &sub->cow, QCOW2_CLASS_COW);
}

static void tail_read(struct image_req *req, int result)
{
	struct qcow2_sub *sub = container_of(req, struct qcow2_sub, cow);

	if (result < 0)
		alloc_end(sub, result);
	else
		alloc_write(sub);
}

static void head_read(struct image_req *req, int result)
{
	struct qcow2_sub *sub = container_of(req, struct qcow2_sub, cow);
	uint64_t head = sub->guest - sub->cow_start;
	uint64_t end = sub->guest + sub->bytes;

	if (result < 0)
		alloc_end(sub, result);
	else if (sub->cow_end > end)
		cow_read(sub, end, sub->cow_end - end, sub->cow_buf + head, tail_read);
	else
		alloc_write(sub);
}

static void alloc_start(struct qcow2_sub *sub)
{
	uint64_t head = sub->guest - sub->cow_start;

	if (!sub->cow_buf)
		alloc_write(sub);
	else if (head > 0)
		cow_read(sub, sub->cow_start, head, sub->cow_buf, head_read);
	else
		head_read(&sub->cow, 0);
}

/* --- planning one --- */

struct plan {
	struct qcow2_map map;
	uint64_t bytes; /* that this write covers */
	uint64_t grain; /* what is linked at a time */
	uint64_t first, count;
	bool in_place; /* its cluster is there already, and not read */
	bool read;     /* what surrounds it has contents */
};

static uint64_t disk_end(const struct qcow2 *q)
{
	return q->node->info.size_bytes;
}

/* Of the grain that ends at or behind `end`; no further than the disk. */
static uint64_t grain_end(const struct qcow2 *q, uint64_t end, uint64_t grain)
{
	uint64_t limit = MAX(disk_end(q), end);

	return MIN(align_up(end, grain), limit);
}

static void plan_make(struct qcow2_op *op, struct plan *p)
{
	struct qcow2 *q = op->qc->q;
	const struct qcow2_map *m = &p->map;
	struct image_node *lower = op->qc->node->lower;
	uint64_t start;
	uint64_t end;

	p->in_place = m->mine && m->kind != QCOW2_DATA && m->kind != QCOW2_COMPRESSED;
	p->grain = q->cluster_bytes;
	p->bytes = MIN(p->bytes, m->bytes);
	if (q->ext_l2) {
		bool has_cluster =
			(m->entry & QCOW2_OFFSET_MASK) != 0 || (m->entry & QCOW2_ENTRY_COMPRESSED);

		p->in_place &= q->has_data_file || (m->entry & QCOW2_OFFSET_MASK) != 0;
		if (p->in_place || !has_cluster)
			p->grain = BIT(q->sub_bits);
		p->bytes = MIN(p->bytes, q->cluster_bytes - qcow2_in_cluster(q, op->pos));
	}
	p->first = qcow2_cluster_of(q, op->pos);
	p->count = qcow2_cluster_of(q, op->pos + p->bytes - 1) - p->first + 1;
	start = align_down(op->pos, p->grain);
	end = grain_end(q, op->pos + p->bytes, p->grain);
	p->read = (start < op->pos || end > op->pos + p->bytes) &&
		  (m->kind == QCOW2_DATA || m->kind == QCOW2_COMPRESSED ||
		   (m->kind == QCOW2_NONE && lower && start < lower->info.size_bytes) ||
		   (q->ext_l2 && p->grain == q->cluster_bytes));
}

/* Finds the clusters' place; false: the reserve is empty. */
static bool plan_place_locked(struct qcow2_op *op, struct plan *p, struct qcow2_run *run)
{
	struct qcow2 *q = op->qc->q;

	*run = (struct qcow2_run){.count = p->count};
	if (q->has_data_file)
		run->cluster = p->first;
	else if (p->in_place)
		run->cluster = qcow2_cluster_of(q, p->map.host);
	else if (qcow2_alloc_locked(q, p->count, run) == 0)
		return false;
	if (run->count < p->count) {
		p->count = run->count;
		p->bytes = ((p->first + p->count) << q->cluster_bits) - op->pos;
	}
	return true;
}

/* Lock held; released in here. */
static void alloc_step_locked(struct qcow2_op *op, struct qcow2_sub *sub, struct plan *p)
{
	struct qcow2 *q = op->qc->q;
	struct qcow2_block *block = NULL;
	struct qcow2_run run;
	uint64_t load = 0;
	int r = qcow2_l2_locked(q, op->pos, &block, &load);
	enum qcow2_need need = QCOW2_NEED_RESERVE;
	uint64_t arg = 0;

	if (r == -EAGAIN) {
		need = QCOW2_NEED_BLOCK;
		arg = load;
	} else if (r == -ENOENT) {
		need = QCOW2_NEED_L2;
		arg = op->pos;
	} else if (r >= 0 && qcow2_cache_full_locked(q)) {
		need = QCOW2_NEED_COMMIT;
		arg = q->commits_started + 1;
		r = -EAGAIN;
	}
	if (r >= 0) {
		plan_make(op, p);
		sub->cow_buf = p->read ? cow_get(op) : NULL;
		if (p->read && !sub->cow_buf) {
			pthread_mutex_unlock(&q->lock);
			return;
		}
		if (!plan_place_locked(op, p, &run))
			r = -EAGAIN;
	}
	if (r < 0) {
		uint8_t *buf = sub->cow_buf;

		pthread_mutex_unlock(&q->lock);
		sub->cow_buf = NULL;
		if (buf)
			cow_put(op->qc, buf);
		if (r != -EAGAIN && r != -ENOENT)
			op->error = r;
		else
			qcow2_op_stall(op, need, arg);
		return;
	}
	claim_locked(q, sub, p->first, p->count);
	sub->block = block;
	block->pins++;
	sub->whole_clusters = p->grain == q->cluster_bytes;
	sub->zero_fill = !p->read && !run.fresh;
	sub->cow_start = align_down(op->pos, p->grain);
	sub->cow_end = grain_end(q, op->pos + p->bytes, p->grain);
	sub->host = (run.cluster << q->cluster_bits) + qcow2_in_cluster(q, sub->cow_start);
	pthread_mutex_unlock(&q->lock);
	qcow2_sub_start(sub, p->bytes);
	alloc_start(sub);
}

/* --- in place --- */

static void place_done(struct image_req *req, int result)
{
	qcow2_sub_end(container_of(req, struct qcow2_sub, req), result);
}

static bool hits_meta_locked(struct qcow2 *q, const struct qcow2_map *map, uint64_t bytes)
{
	uint64_t last = qcow2_cluster_of(q, map->host + bytes - 1);

	if (q->has_data_file)
		return false;
	for (uint64_t c = qcow2_cluster_of(q, map->host); c <= last; c++) {
		if (qcow2_is_meta_locked(q, c)) {
			qcow2_damage_locked(q, "data and a table are both in cluster %llu",
					    (unsigned long long)c);
			return true;
		}
	}
	return false;
}

static void write_in_place(struct qcow2_op *op, struct qcow2_sub *sub, const struct qcow2_map *map,
			   uint64_t bytes)
{
	struct qcow2_channel *qc = op->qc;
	const struct image_req *up = op->req;

	sub->req = (struct image_req){.op = IMAGE_WRITE,
				      .fua = op->req->fua && !op->linked,
				      .offset = map->host,
				      .bytes = bytes,
				      .iov = up->iov,
				      .n_iov = up->n_iov,
				      .done = place_done,
				      .channel = qc->ch,
				      .sub = true};
	if (up->op != IMAGE_WRITE) {
		sub->req.op = IMAGE_WRITE_ZEROES;
		sub->req.fua = false;
	} else if (bytes != up->bytes) {
		sub->req.iov = sub->iov;
		sub->req.n_iov = qcow2_slice(up, op->pos - up->offset, bytes, sub->iov);
	}
	qcow2_sub_start(sub, bytes);
	image_file_submit(qc->q->data, qc->ch, &sub->req);
}

void qcow2_write_some(struct qcow2_op *op, struct qcow2_sub *sub, uint64_t bytes)
{
	struct qcow2 *q = op->qc->q;
	struct plan p = {.bytes = bytes};
	uint64_t load = 0;
	int r;

	pthread_mutex_lock(&q->lock);
	if (qcow2_claim_wait_locked(op, op->pos, &p.bytes)) {
		pthread_mutex_unlock(&q->lock);
		return;
	}
	r = qcow2_map_locked(q, op->pos, p.bytes, &p.map, &load);
	if (r >= 0 && p.map.kind == QCOW2_DATA && p.map.mine) {
		p.bytes = MIN(p.bytes, p.map.bytes);
		r = hits_meta_locked(q, &p.map, p.bytes) ? -EIO : 0;
		if (r >= 0)
			qcow2_sub_count_locked(sub);
		/* Stable data is not enough where the mapping is not. */
		op->linked |= qcow2_uncommitted_locked(q);
		pthread_mutex_unlock(&q->lock);
		if (r >= 0)
			write_in_place(op, sub, &p.map, p.bytes);
		else
			op->error = r;
		return;
	}
	if (r >= 0) {
		alloc_step_locked(op, sub, &p);
		return;
	}
	pthread_mutex_unlock(&q->lock);
	if (r == -EAGAIN)
		qcow2_op_stall(op, QCOW2_NEED_BLOCK, load);
	else
		op->error = r;
}

/* --- compressed --- */

static void pack_end(struct qcow2_sub *sub, int result)
{
	struct qcow2_op *op = sub->op;
	struct qcow2_op *waiters;
	struct qcow2 *q = op->qc->q;

	pthread_mutex_lock(&q->lock);
	waiters = unclaim_locked(sub);
	pthread_mutex_unlock(&q->lock);
	free(sub->packed);
	sub->packed = NULL;
	op->linked = true;
	qcow2_sub_end(sub, result);
	resume_all(op->qc, waiters);
}

static void store_run(struct image_work *work)
{
	struct qcow2_sub *sub = container_of(work, struct qcow2_sub, work);

	sub->result = qcow2_write_compressed(sub->op->qc->q, sub->guest, sub->packed,
					     (size_t)sub->packed_bytes);
}

static void store_finish(struct image_work *work)
{
	struct qcow2_sub *sub = container_of(work, struct qcow2_sub, work);

	pack_end(sub, sub->result);
}

static void pack_run(struct image_work *work)
{
	struct qcow2_sub *sub = container_of(work, struct qcow2_sub, work);
	const struct image_req *up = sub->op->req;
	struct qcow2 *q = sub->op->qc->q;
	_cleanup_free_ uint8_t *buf = calloc(1, q->cluster_bytes);
	unsigned n = qcow2_slice(up, sub->guest - up->offset, sub->bytes, sub->iov);
	size_t at = 0;

	sub->packed = malloc(q->cluster_bytes);
	if (!buf || !sub->packed) {
		sub->packed_bytes = -ENOMEM;
		return;
	}
	for (unsigned i = 0; i < n; i++) {
		memcpy(buf + at, sub->iov[i].iov_base, sub->iov[i].iov_len);
		at += sub->iov[i].iov_len;
	}
	sub->packed_bytes = qcow2_pack(q->h.compression, buf, q->cluster_bytes, sub->packed,
				       q->cluster_bytes - 512);
}

static void pack_finish(struct image_work *work)
{
	struct qcow2_sub *sub = container_of(work, struct qcow2_sub, work);
	struct qcow2_op *op = sub->op;

	if (sub->packed_bytes > 0) {
		work->run = store_run;
		work->finish = store_finish;
		image_pool_submit(op->qc->q->worker, work);
		return;
	}
	/* It gets no smaller: once more from there, as it is. */
	if (sub->packed_bytes == 0) {
		op->no_pack_until = sub->guest + sub->bytes;
		op->pos = sub->guest;
	}
	pack_end(sub, sub->packed_bytes < 0 ? (int)sub->packed_bytes : 0);
}

/* One cluster at a time: whoever wants more at once submits more requests. */
static void pack_step(struct qcow2_op *op, struct qcow2_sub *sub)
{
	struct qcow2_channel *qc = op->qc;
	struct qcow2 *q = qc->q;
	uint64_t bytes = MIN((uint64_t)q->cluster_bytes, op->end - op->pos);

	pthread_mutex_lock(&q->lock);
	if (qcow2_claim_wait_locked(op, op->pos, &bytes)) {
		pthread_mutex_unlock(&q->lock);
		return;
	}
	claim_locked(q, sub, qcow2_cluster_of(q, op->pos), 1);
	pthread_mutex_unlock(&q->lock);
	sub->work.run = pack_run;
	sub->work.finish = pack_finish;
	sub->work.channel = qc->ch;
	qcow2_sub_start(sub, bytes);
	image_pool_submit(qc->node->image->pool, &sub->work);
}

static bool packs(const struct qcow2_op *op)
{
	const struct qcow2 *q = op->qc->q;
	uint64_t left = op->end - op->pos;

	return op->req->compress && !q->has_data_file && op->pos >= op->no_pack_until &&
	       qcow2_in_cluster(q, op->pos) == 0 &&
	       (left >= q->cluster_bytes || op->end == disk_end(q));
}

void qcow2_write_step(struct qcow2_op *op, struct qcow2_sub *sub)
{
	struct qcow2 *q = op->qc->q;
	uint64_t left = op->end - op->pos;

	if (packs(op)) {
		pack_step(op, sub);
		return;
	}
	if (op->no_pack_until > op->pos)
		left = MIN(left, op->no_pack_until - op->pos);
	qcow2_write_some(op, sub, MIN(left, qcow2_block_span(q, op->pos)));
}
