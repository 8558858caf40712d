/*
 * Copies what one image holds into another, some requests at once, in whatever order they end. Zeroes are left out where the
 * target has them already, and written as such where it has not.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/bits.h"
#include "base/cleanup.h"
#include "base/loop.h"
#include "cli/image.h"

#define CHUNK_BYTES (1u << 20)
#define MAX_SLOTS   64u
#define ALIGN       4096u

struct copier;

struct slot {
	struct image_req req;
	struct iovec iov;
	struct copier *copier;
	uint8_t *buf;
	uint64_t offset, bytes; /* of what was read */
	uint64_t at;            /* written up to here, from offset */
	bool busy;
};

struct copier {
	const struct image_copy *copy;
	struct loop *loop;
	struct image_channel *from, *to;
	struct slot slots[MAX_SLOTS];
	unsigned n_slots, n_busy;
	size_t chunk;
	uint64_t pos, end; /* of the source */
	uint64_t target_size;
	struct image_extent extent; /* around pos */
	int error;
};

bool image_all_zero(const void *buf, size_t bytes)
{
	const uint8_t *p = buf;

	/* The first bytes decide mostly; then each is compared with the one before it. */
	for (size_t i = 0; i < bytes && i < 16; i++) {
		if (p[i] != 0)
			return false;
	}
	return bytes <= 16 || memcmp(p, p + 16, bytes - 16) == 0;
}

static void slot_end(struct slot *slot, int result)
{
	struct copier *c = slot->copier;

	if (result < 0 && c->error == 0)
		c->error = result;
	slot->busy = false;
	c->n_busy--;
}

/* --- writing what a slot holds --- */

static void write_next(struct slot *slot);

static void written(struct image_req *req, int result)
{
	struct slot *slot = container_of(req, struct slot, req);

	if (result < 0 || slot->copier->error < 0) {
		slot_end(slot, result);
		return;
	}
	slot->at += req->bytes;
	write_next(slot);
	image_channel_push(slot->copier->to);
}

/* How far what is at `at` goes on, of one kind, in steps of the sparse size. */
static uint64_t stretch(const struct slot *slot, bool *ret_zero)
{
	const struct image_copy *copy = slot->copier->copy;
	uint64_t step = copy->sparse ? copy->sparse : slot->bytes;
	uint64_t at = slot->at;
	bool zero = false;

	*ret_zero = false;
	if (copy->sparse == 0)
		return slot->bytes - at;
	while (at < slot->bytes) {
		uint64_t n = MIN(step - (slot->offset + at) % step, slot->bytes - at);
		bool this = image_all_zero(slot->buf + at, n);

		if (at == slot->at)
			zero = this;
		else if (this != zero)
			break;
		at += n;
	}
	*ret_zero = zero;
	return at - slot->at;
}

static void write_next(struct slot *slot)
{
	struct copier *c = slot->copier;
	uint64_t n = 0;
	bool zero = false;

	while (slot->at < slot->bytes) {
		n = stretch(slot, &zero);
		/* A compressed cluster is written as a whole. */
		if (c->copy->compress && !(zero && n == slot->bytes)) {
			n = slot->bytes - slot->at;
			zero = false;
		}
		if (!zero || !c->copy->target_zero)
			break;
		slot->at += n;
	}
	if (slot->at >= slot->bytes) {
		if (c->copy->progress)
			image_progress_add(c->copy->progress, slot->bytes);
		slot_end(slot, 0);
		return;
	}
	slot->iov = (struct iovec){slot->buf + slot->at, n};
	slot->req = (struct image_req){.op = zero ? IMAGE_WRITE_ZEROES : IMAGE_WRITE,
				       .may_unmap = true,
				       .compress = c->copy->compress,
				       .offset = slot->offset + slot->at,
				       .bytes = n,
				       .iov = &slot->iov,
				       .n_iov = 1,
				       .done = written};
	image_submit(c->to, &slot->req);
}

static void have_read(struct image_req *req, int result)
{
	struct slot *slot = container_of(req, struct slot, req);

	if (result < 0 || slot->copier->error < 0) {
		slot_end(slot, result);
		return;
	}
	slot->at = 0;
	write_next(slot);
	image_channel_push(slot->copier->to);
}

/* --- what comes next --- */

static void start_read(struct copier *c, struct slot *slot, uint64_t bytes)
{
	slot->busy = true;
	c->n_busy++;
	slot->offset = c->pos;
	slot->bytes = bytes;
	slot->iov = (struct iovec){slot->buf, bytes};
	slot->req = (struct image_req){.op = IMAGE_READ,
				       .offset = c->pos,
				       .bytes = bytes,
				       .iov = &slot->iov,
				       .n_iov = 1,
				       .done = have_read};
	image_submit(c->from, &slot->req);
}

static void start_zero(struct copier *c, struct slot *slot, uint64_t bytes)
{
	slot->busy = true;
	c->n_busy++;
	slot->offset = c->pos;
	slot->bytes = slot->at = 0;
	slot->req = (struct image_req){.op = IMAGE_WRITE_ZEROES,
				       .may_unmap = true,
				       .offset = c->pos,
				       .bytes = bytes,
				       .done = written};
	image_submit(c->to, &slot->req);
}

static int find_extent(struct copier *c, struct error *err)
{
	const struct image_copy *copy = c->copy;
	unsigned depth = copy->whole ? UINT32_MAX : copy->depth;

	if (c->pos < c->extent.offset + c->extent.bytes && c->extent.bytes)
		return 0;
	return image_map(copy->from, c->pos, c->end - c->pos, depth, &c->extent, err);
}

static void skip(struct copier *c, uint64_t bytes)
{
	if (c->copy->progress)
		image_progress_add(c->copy->progress, bytes);
	c->pos += bytes;
}

/* Gives the next part of the source to a slot, or passes over it. */
static int advance(struct copier *c, struct slot *slot, struct error *err)
{
	const struct image_copy *copy = c->copy;
	uint64_t left;
	int r = find_extent(c, err);

	if (r < 0)
		return r;
	left = c->extent.offset + c->extent.bytes - c->pos;
	if (!c->extent.present && !copy->whole) {
		skip(c, left);
	} else if ((c->extent.zero || !c->extent.present) && copy->sparse && !copy->compress) {
		if (!copy->target_zero)
			start_zero(c, slot, left);
		skip(c, left);
	} else if (c->extent.zero && copy->sparse && copy->target_zero &&
		   align_down(left, c->chunk) > 0 && c->pos % c->chunk == 0) {
		skip(c, align_down(left, c->chunk));
	} else if (!c->extent.present && copy->target_zero && align_down(left, c->chunk) > 0 &&
		   c->pos % c->chunk == 0) {
		skip(c, align_down(left, c->chunk));
	} else {
		/* Chunks end where the target's clusters do; a compressed one must be whole. */
		uint64_t bytes = MIN(c->chunk - c->pos % c->chunk, c->end - c->pos);

		if (!copy->compress)
			bytes = MIN(bytes, left);
		start_read(c, slot, bytes);
		c->pos += bytes;
	}
	return 0;
}

static int fill(struct copier *c, struct error *err)
{
	int r = 0;

	for (unsigned i = 0; i < c->n_slots && r >= 0; i++) {
		while (r >= 0 && !c->slots[i].busy && c->pos < c->end)
			r = advance(c, &c->slots[i], err);
	}
	image_channel_push(c->from);
	image_channel_push(c->to);
	return r;
}

static int run(struct copier *c, struct error *err)
{
	int r = 0;

	while (r >= 0 && c->error >= 0 && (c->pos < c->end || c->n_busy > 0)) {
		if (image_interrupted())
			c->error = -EINTR;
		else
			r = fill(c, err);
		if (r >= 0 && c->n_busy > 0)
			loop_run_once(c->loop, 200);
	}
	image_channel_drain(c->from);
	image_channel_drain(c->to);
	image_channel_drain(c->from);
	if (c->error == -EINTR)
		return error_set(err, -EINTR, "interrupted");
	if (r >= 0 && c->error < 0)
		r = error_set_errno(err, c->error, "the copy failed");
	return r;
}

/* --- setting up --- */

struct flush {
	struct image_req req;
	bool done;
	int result;
};

static void flushed(struct image_req *req, int result)
{
	struct flush *f = container_of(req, struct flush, req);

	f->done = true;
	f->result = result;
}

static int flush_target(struct copier *c, struct error *err)
{
	struct flush f = {.req = {.op = IMAGE_FLUSH, .done = flushed}};

	image_submit(c->to, &f.req);
	image_channel_push(c->to);
	while (!f.done)
		loop_run_once(c->loop, -1);
	return f.result < 0 ? error_set_errno(err, f.result, "the target cannot be made stable")
			    : 0;
}

static size_t choose_chunk(const struct image_copy *copy)
{
	struct image_details details;

	image_describe(copy->to, 0, &details);
	if (copy->compress && details.cluster_bytes)
		return details.cluster_bytes;
	return MAX((size_t)CHUNK_BYTES, (size_t)details.cluster_bytes);
}

static int setup(struct copier *c, struct error *err)
{
	const struct image_copy *copy = c->copy;
	struct image_info from;
	struct image_info to;
	uint8_t *arena;
	int r = loop_new(&c->loop);

	image_get_info(copy->from, &from);
	image_get_info(copy->to, &to);
	c->end = MIN(from.size_bytes, to.size_bytes);
	c->chunk = choose_chunk(copy);
	c->n_slots = copy->parallel < MAX_SLOTS ? copy->parallel : MAX_SLOTS;
	arena = mmap(NULL, c->n_slots * c->chunk, PROT_READ | PROT_WRITE,
		     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (r < 0 || arena == MAP_FAILED)
		return error_set(err, -ENOMEM, "no memory for a copy");
	for (unsigned i = 0; i < c->n_slots; i++) {
		c->slots[i].copier = c;
		c->slots[i].buf = arena + i * c->chunk;
	}
	r = image_channel_open(copy->from, c->loop, MAX_SLOTS, &c->from, err);
	return r < 0 ? r : image_channel_open(copy->to, c->loop, MAX_SLOTS, &c->to, err);
}

int image_copy_run(const struct image_copy *copy, struct error *err)
{
	struct copier *c = calloc(1, sizeof(*c));
	int r;

	if (!c)
		return error_set(err, -ENOMEM, "no memory for a copy");
	c->copy = copy;
	r = setup(c, err);
	if (r >= 0)
		r = run(c, err);
	if (r >= 0)
		r = flush_target(c, err);
	image_channel_close(c->from);
	image_channel_close(c->to);
	if (c->slots[0].buf)
		munmap(c->slots[0].buf, c->n_slots * c->chunk);
	if (c->loop)
		loop_free(c->loop);
	free(c);
	return r;
}
