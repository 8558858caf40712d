/*
 * Discards and zeroes: whole clusters by their entries, parts of clusters by writing zeroes where something else is.
 *
 * On the channel's loop.
 */
#include <errno.h>

#include "base/bits.h"
#include "image/qcow2/qcow2_io.h"

/* What the entry becomes; false: the zeroes must be written, since this image cannot say them. */
static bool trim_entry(const struct qcow2_op *op, const struct qcow2_map *map, uint64_t old,
		       uint64_t *entry, uint64_t *bitmap)
{
	const struct qcow2 *q = op->qc->q;
	bool zeroes = op->req->op == IMAGE_WRITE_ZEROES;
	bool keep = zeroes && !op->req->may_unmap && map->mine && !(old & QCOW2_ENTRY_COMPRESSED) &&
		    ((old & QCOW2_OFFSET_MASK) || q->has_data_file);

	if (!q->zero_flag) {
		*entry = 0;
		return !keep && !q->has_backing;
	}
	*entry = keep ? (old & (QCOW2_OFFSET_MASK | QCOW2_ENTRY_MINE)) : 0;
	*bitmap = 0;
	if (q->ext_l2)
		*bitmap = zeroes || q->has_backing ? (uint64_t)UINT32_MAX << 32 : 0;
	else if (zeroes || q->has_backing)
		*entry |= QCOW2_ENTRY_ZERO;
	return true;
}

/* Lock held. How many bytes of full clusters were done; 0: the zeroes must be written. */
static uint64_t trim_clusters_locked(struct qcow2_op *op, struct qcow2_block *block,
				     const struct qcow2_map *map, uint64_t bytes)
{
	struct qcow2 *q = op->qc->q;
	uint64_t done = 0;

	while (done < bytes) {
		uint64_t guest = op->pos + done;
		uint64_t entry;
		uint64_t bitmap = 0;
		uint64_t old_bitmap;
		uint64_t old = qcow2_entry_get(q, block, guest, &old_bitmap);

		if (!trim_entry(op, map, old, &entry, &bitmap))
			break;
		qcow2_entry_set_locked(q, block, guest, entry, bitmap);
		if ((old & QCOW2_ENTRY_COMPRESSED) ||
		    (old & QCOW2_OFFSET_MASK) != (entry & QCOW2_OFFSET_MASK))
			qcow2_drop_entry_locked(q, old);
		op->linked = true;
		done += q->cluster_bytes;
	}
	return MIN(done, bytes);
}

/* Nothing to do there? */
static bool trimmed_already(const struct qcow2_op *op, const struct qcow2_map *map)
{
	const struct qcow2 *q = op->qc->q;

	if (map->kind == QCOW2_NONE)
		return op->req->op == IMAGE_DISCARD || !q->has_backing;
	return map->kind == QCOW2_ZERO && (map->host == 0 || !op->req->may_unmap) &&
	       op->req->op == IMAGE_WRITE_ZEROES;
}

static void trim_full(struct qcow2_op *op, struct qcow2_sub *sub, uint64_t bytes)
{
	struct qcow2 *q = op->qc->q;
	struct qcow2_map map = {0};
	struct qcow2_block *block = NULL;
	uint64_t load = 0;
	uint64_t done = 0;
	enum qcow2_need need = QCOW2_NEED_BLOCK;
	int r;

	pthread_mutex_lock(&q->lock);
	if (qcow2_claim_wait_locked(op, op->pos, &bytes)) {
		pthread_mutex_unlock(&q->lock);
		return;
	}
	r = qcow2_map_locked(q, op->pos, bytes, &map, &load);
	if (r >= 0 && q->ext_l2) /* the subclusters of one may differ */
		bytes = MIN(bytes, (uint64_t)q->cluster_bytes);
	else if (r >= 0)
		bytes = MIN(bytes, map.bytes);
	if (r >= 0 && trimmed_already(op, &map) && map.bytes >= bytes) {
		pthread_mutex_unlock(&q->lock);
		op->pos += bytes;
		return;
	}
	if (r >= 0) {
		r = qcow2_l2_locked(q, op->pos, &block, &load);
		if (r == -ENOENT) {
			need = QCOW2_NEED_L2;
			load = op->pos;
			r = -EAGAIN;
		} else if (r >= 0 && qcow2_cache_full_locked(q)) {
			need = QCOW2_NEED_COMMIT;
			load = q->commits_started + 1;
			r = -EAGAIN;
		}
	}
	if (r >= 0)
		done = trim_clusters_locked(op, block, &map, bytes);
	pthread_mutex_unlock(&q->lock);
	op->pos += done;
	if (r == -EAGAIN)
		qcow2_op_stall(op, need, load);
	else if (r < 0)
		op->error = r;
	else if (done == 0 && op->req->op == IMAGE_DISCARD)
		op->pos += bytes;
	else if (done == 0)
		qcow2_write_some(op, sub, bytes);
}

/* Zeroes to a part of a cluster: nothing where they are already. */
static void trim_part(struct qcow2_op *op, struct qcow2_sub *sub, uint64_t bytes)
{
	struct qcow2 *q = op->qc->q;
	struct qcow2_map map = {0};
	uint64_t load = 0;
	bool claimed;
	int r = 0;

	pthread_mutex_lock(&q->lock);
	claimed = qcow2_claim_wait_locked(op, op->pos, &bytes);
	if (!claimed)
		r = qcow2_map_locked(q, op->pos, bytes, &map, &load);
	pthread_mutex_unlock(&q->lock);
	if (claimed)
		return;
	if (r == -EAGAIN)
		qcow2_op_stall(op, QCOW2_NEED_BLOCK, load);
	else if (r < 0)
		op->error = r;
	else if (map.kind == QCOW2_ZERO || (map.kind == QCOW2_NONE && !q->has_backing))
		op->pos += map.bytes;
	else
		qcow2_write_some(op, sub, map.bytes);
}

void qcow2_trim_step(struct qcow2_op *op, struct qcow2_sub *sub)
{
	struct qcow2 *q = op->qc->q;
	uint64_t left = op->end - op->pos;
	uint64_t in = qcow2_in_cluster(q, op->pos);
	uint64_t full =
		op->end == q->node->info.size_bytes ? left : align_down(left, q->cluster_bytes);
	bool zeroes = op->req->op == IMAGE_WRITE_ZEROES;

	if (!zeroes && (q->file->ignore_discard || q->data_raw)) {
		op->pos = op->end;
	} else if (zeroes && q->data_raw) {
		/* The data file must say the same by itself. */
		qcow2_write_some(op, sub, MIN(left, qcow2_block_span(q, op->pos)));
	} else if (in != 0 || full == 0) {
		uint64_t part = MIN(left, q->cluster_bytes - in);

		if (zeroes)
			trim_part(op, sub, part);
		else
			op->pos += part;
	} else {
		trim_full(op, sub, MIN(full, qcow2_block_span(q, op->pos)));
	}
}
