/*
 * Blocking I/O on an image for those without a loop: a private loop and one channel. Any one thread.
 */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>

#include "base/bits.h"
#include "image/image_admin.h"
#include "image/image_impl.h"

struct image_sync {
	struct loop *loop;
	struct image_channel *ch;
};

int image_sync_open(struct image *image, unsigned depth, struct image_sync **ret, struct error *err)
{
	struct image_sync *s = calloc(1, sizeof(*s));
	int r = s ? loop_new(&s->loop) : -ENOMEM;

	if (r < 0) {
		free(s);
		return error_set_errno(err, r, "no loop for the I/O of an image");
	}
	r = image_channel_open(image, s->loop, depth, &s->ch, err);
	if (r < 0) {
		loop_free(s->loop);
		free(s);
		return r;
	}
	*ret = s;
	return 0;
}

void image_sync_close(struct image_sync *s)
{
	if (!s)
		return;
	image_channel_drain(s->ch);
	image_channel_close(s->ch);
	loop_free(s->loop);
	free(s);
}

struct image_channel *image_sync_channel(struct image_sync *s)
{
	return s->ch;
}

void image_sync_wait(struct image_sync *s)
{
	loop_run_once(s->loop, -1);
}

struct blocking {
	struct image_req req;
	bool done;
	int result;
};

static void blocking_done(struct image_req *req, int result)
{
	struct blocking *b = container_of(req, struct blocking, req);

	b->done = true;
	b->result = result;
}

static int run(struct image_sync *s, struct blocking *b)
{
	b->req.done = blocking_done;
	image_submit(s->ch, &b->req);
	image_channel_push(s->ch);
	while (!b->done)
		loop_run_once(s->loop, -1);
	return b->result;
}

int image_sync_rw(struct image_sync *s, enum image_op op, uint64_t offset, void *buf, size_t bytes)
{
	struct iovec iov = {buf, bytes};
	struct blocking b = {
		.req = {.op = op, .offset = offset, .bytes = bytes, .iov = &iov, .n_iov = 1}};

	return run(s, &b);
}

int image_sync_zero(struct image_sync *s, uint64_t offset, uint64_t bytes, bool may_unmap)
{
	struct blocking b = {.req = {.op = IMAGE_WRITE_ZEROES,
				     .offset = offset,
				     .bytes = bytes,
				     .may_unmap = may_unmap}};

	return run(s, &b);
}

int image_sync_flush(struct image_sync *s)
{
	struct blocking b = {.req = {.op = IMAGE_FLUSH}};

	return run(s, &b);
}
