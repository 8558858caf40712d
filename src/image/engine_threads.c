/*
 * The thread engine: each request is done by a worker with plain system calls. For kernels and sandboxes that refuse
 * io_uring.
 */
#include "image/image_impl.h"

static int threads_open(struct image_channel *ch, struct error *err)
{
	(void)ch;
	(void)err;
	return 0;
}

static void threads_close(struct image_channel *ch)
{
	(void)ch;
}

static void threads_submit(struct image_channel *ch, struct image_req *req)
{
	(void)ch;
	image_file_offload(req);
}

static int threads_poll_fd(const struct image_channel *ch)
{
	(void)ch;
	return -1;
}

const struct image_engine image_engine_threads = {
	.name = "threads",
	.open = threads_open,
	.close = threads_close,
	.submit = threads_submit,
	.poll_fd = threads_poll_fd,
};
