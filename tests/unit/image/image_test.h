/* Files and blocking requests for the tests of images. The loop is run by the test's own thread. */
#pragma once

#include "unit/test.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/cleanup.h"
#include "image/image.h"

struct scratch {
	char path[64];
};

/* An image file of `bytes`, all zero, in the current folder (a real file system: /tmp may be tmpfs). */
static inline void scratch_make(struct scratch *s, uint64_t bytes)
{
	int fd;

	snprintf(s->path, sizeof(s->path), "test-image-XXXXXX");
	fd = mkstemp(s->path);
	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, (off_t)bytes), 0);
	close(fd);
}

static inline void scratch_drop(struct scratch *s)
{
	unlink(s->path);
}

static inline struct image_config config_for(const struct scratch *s, enum image_engine_kind engine,
					     enum image_cache cache)
{
	return (struct image_config){.path = s->path, .fd = -1, .engine = engine, .cache = cache};
}

struct sync_req {
	struct image_req req;
	bool done;
	int result;
};

static inline void sync_done(struct image_req *req, int result)
{
	struct sync_req *s = container_of(req, struct sync_req, req);

	assert_false(s->done);
	s->done = true;
	s->result = result;
}

static inline int sync_io(struct loop *loop, struct image_channel *ch, struct image_req req)
{
	struct sync_req s = {.req = req};

	s.req.done = sync_done;
	image_submit(ch, &s.req);
	assert_false(s.done);
	image_channel_push(ch);
	while (!s.done)
		loop_run_once(loop, -1);
	return s.result;
}

static inline int sync_rw(struct loop *loop, struct image_channel *ch, enum image_op op,
			  uint64_t offset, void *buf, size_t bytes)
{
	struct iovec iov = {buf, bytes};

	return sync_io(loop, ch,
		       (struct image_req){.op = op,
					  .offset = offset,
					  .bytes = bytes,
					  .iov = &iov,
					  .n_iov = 1});
}
