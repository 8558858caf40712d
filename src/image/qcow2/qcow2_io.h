/*
 * Between qcow2_io.c, qcow2_write.c and qcow2_trim.c: a request on its way through the format. Each request of the layer above becomes an op,
 * which walks over it in pieces that are alike; a piece is a sub, of which an op has a few at work at once. An op that needs a
 * metadata block, space, or a commit stalls until a worker has brought that, and goes on where it was.
 *
 * Everything here is on the channel's loop, but the `run` functions of works.
 */
#pragma once

#include "image/qcow2/qcow2_int.h"

#define QCOW2_OP_SUBS 4u
/* The request's own elements, and those of zeroes before and behind: a cluster of 2 MiB in pieces of 64 KiB, twice. */
#define QCOW2_SUB_IOV (IMAGE_MAX_IOV + 2 * 32 + 4)

struct qcow2_op;
struct qcow2_channel;

struct qcow2_sub {
	struct image_req req; /* to a file, or to the backing node */
	struct image_req cow; /* to the node itself */
	struct iovec cow_iov;
	struct image_work work;
	struct qcow2_op *op;
	struct iovec *iov; /* QCOW2_SUB_IOV */
	bool busy, counted;
	unsigned parity;       /* counted: in which epoch */
	uint64_t guest, bytes; /* of the request */
	struct qcow2_map map;  /* COMPRESSED */
	/* A write to clusters that must be linked when it has ended. */
	struct qcow2_claim claim;
	bool claimed, zero_fill, whole_clusters;
	struct qcow2_block *block; /* pinned */
	uint64_t host;             /* of the first byte written, at cow_start */
	uint64_t cow_start, cow_end;
	uint8_t *cow_buf;
	uint8_t *packed;
	int64_t packed_bytes;
	int result;
};

enum qcow2_need {
	QCOW2_NEED_BLOCK, /* arg: its offset */
	QCOW2_NEED_L2,    /* arg: guest offset */
	QCOW2_NEED_RESERVE,
	QCOW2_NEED_COMMIT, /* arg: the number of the first one that will do */
};

struct qcow2_op {
	struct image_req *req;
	struct qcow2_channel *qc;
	unsigned class;
	uint64_t pos, end;
	unsigned n_busy;
	bool stalled, finishing;
	bool linked;            /* it depends on a mapping that is not committed */
	uint64_t no_pack_until; /* this cluster does not get smaller */
	int error;
	enum qcow2_need need;
	uint64_t need_arg;
	int need_result;
	struct image_work work;
	struct qcow2_op *next; /* free, or waiting */
	struct qcow2_sub subs[QCOW2_OP_SUBS];
};

#define QCOW2_CLASS_USER 0u
#define QCOW2_CLASS_COW  1u /* reads that writes of the first class wait for */

struct qcow2_channel {
	struct qcow2 *q;
	struct image_node *node;
	struct image_channel *ch;
	void *arena;
	size_t arena_bytes;
	struct qcow2_op *free_ops[2];
	struct image_req *waiting[2], **waiting_tail[2];
	bool pumping[2];
	uint8_t *cow_free; /* each holds the address of the next one */
	struct qcow2_op *cow_waiters, **cow_waiters_tail;
	uint8_t *zeroes; /* QCOW2_ZERO_BYTES */
};

#define QCOW2_ZERO_BYTES 65536u

void qcow2_op_run(struct qcow2_op *op);
void qcow2_op_stall(struct qcow2_op *op, enum qcow2_need need, uint64_t arg);
void qcow2_submit_class(struct qcow2_channel *qc, struct image_req *req, unsigned class);

/* Puts the part [from, from + bytes) of a request's buffers at iov; how many elements. */
unsigned qcow2_slice(const struct image_req *req, uint64_t from, uint64_t bytes, struct iovec *iov);
void qcow2_sub_count_locked(struct qcow2_sub *sub);
void qcow2_sub_start(struct qcow2_sub *sub,
		     uint64_t bytes); /* takes bytes at op->pos, which moves on */
void qcow2_sub_end(struct qcow2_sub *sub, int result);

/* The next piece of a WRITE, and of a DISCARD or WRITE_ZEROES. */
/* Up to `bytes` at op->pos, of data or (for what is no WRITE) of zeroes. */
void qcow2_write_some(struct qcow2_op *op, struct qcow2_sub *sub, uint64_t bytes);
void qcow2_write_step(struct qcow2_op *op, struct qcow2_sub *sub);
void qcow2_trim_step(struct qcow2_op *op, struct qcow2_sub *sub);
/* Is a cluster of [guest, guest + *bytes) claimed? Then waits for it and returns true; else shortens *bytes to the next one that is. */
bool qcow2_claim_wait_locked(struct qcow2_op *op, uint64_t guest, uint64_t *bytes);
