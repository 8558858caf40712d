/*
 * Channels: a loop's way into an image. Checks each request, hands it to the top format, collects what has ended, and runs
 * the callbacks in batches.
 *
 * Everything runs on the channel's loop, but image_channel_post(), which worker threads call.
 */
#include "image/image.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/cleanup.h"
#include "base/fd.h"
#include "image/image_impl.h"

#define MAX_DEPTH    4096
#define BATCH_ROUNDS 16 /* of completions and what they start, before other sources have a turn */

/* --- a request's way down --- */

static int req_check(const struct image_info *info, const struct image_req *req)
{
	if (req->op == IMAGE_FLUSH)
		return 0;
	if (((req->offset | req->bytes) & (info->logical_block - 1)) != 0 ||
	    !range_inside(req->offset, req->bytes, info->size_bytes))
		return -EINVAL;
	if (req->op == IMAGE_READ)
		return req->n_iov > IMAGE_MAX_IOV ? -EINVAL : 0;
	if (info->readonly)
		return -EROFS;
	if (req->op == IMAGE_WRITE)
		return req->n_iov > IMAGE_MAX_IOV ? -EINVAL : 0;
	return 0;
}

static void req_start(struct image_channel *ch, struct image_req *req)
{
	struct image_node *top = ch->image->nodes[0];
	int r = req_check(&top->info, req);

	ch->in_flight++;
	if (r < 0 || (req->op != IMAGE_FLUSH && req->bytes == 0))
		image_complete(req, r);
	else
		top->format->submit(top, ch, req);
}

void image_submit(struct image_channel *ch, struct image_req *req)
{
	req->channel = ch;
	req->sub = false;
	if (ch->in_flight < ch->depth && ch->n_waiting == 0) {
		req_start(ch, req);
		return;
	}
	req->next = NULL;
	*ch->waiting_tail = req;
	ch->waiting_tail = &req->next;
	ch->n_waiting++;
}

void image_sub_submit(struct image_node *node, struct image_channel *ch, struct image_req *req)
{
	int r = req_check(&node->info, req);

	req->channel = ch;
	req->sub = true;
	if (r < 0)
		image_complete(req, r);
	else
		node->format->submit(node, ch, req);
}

/* What needs neither engine nor worker. */
static bool file_has_nothing_to_do(const struct image_file *file, const struct image_req *req)
{
	if (req->op == IMAGE_FLUSH)
		return file->no_flush || file->readonly;
	return req->op == IMAGE_DISCARD &&
	       (file->ignore_discard || (!file->backend && req->falloc_mode < 0));
}

void image_file_submit(struct image_file *file, struct image_channel *ch, struct image_req *req)
{
	bool is_falloc = req->op == IMAGE_DISCARD || req->op == IMAGE_WRITE_ZEROES;
	bool is_rw = req->op == IMAGE_READ || req->op == IMAGE_WRITE;

	req->channel = ch;
	req->file = file;
	req->done_bytes = 0;
	req->stage = 0;
	if (is_falloc && !file->backend)
		req->falloc_mode = image_file_falloc_mode(file, req);
	if (file_has_nothing_to_do(file, req))
		image_complete(req, 0);
	else if (file->backend || (is_falloc && req->falloc_mode < 0) ||
		 (is_rw && !image_file_aligned(file, req)))
		image_file_offload(req);
	else
		ch->engine->submit(ch, req);
}

static void offload_run(struct image_work *work)
{
	struct image_req *req = container_of(work, struct image_req, work);

	req->result = image_file_run(req->file, req);
}

static void offload_finish(struct image_work *work)
{
	struct image_req *req = container_of(work, struct image_req, work);

	image_complete(req, req->result);
}

void image_file_offload(struct image_req *req)
{
	req->work.run = offload_run;
	req->work.finish = offload_finish;
	req->work.channel = req->channel;
	image_pool_submit(req->channel->image->pool, &req->work);
}

/* --- and its way back --- */

void image_complete(struct image_req *req, int result)
{
	struct image_channel *ch = req->channel;

	req->result = result;
	req->next = NULL;
	*ch->finished_tail = req;
	ch->finished_tail = &req->next;
}

static struct image_req *finished_take(struct image_channel *ch)
{
	struct image_req *req = ch->finished;

	if (req) {
		ch->finished = req->next;
		if (!ch->finished)
			ch->finished_tail = &ch->finished;
	}
	return req;
}

static void waiting_start(struct image_channel *ch)
{
	struct image_req *req;

	while ((req = ch->waiting) && ch->in_flight < ch->depth) {
		ch->waiting = req->next;
		if (!ch->waiting)
			ch->waiting_tail = &ch->waiting;
		ch->n_waiting--;
		req_start(ch, req);
	}
}

static void engine_push(struct image_channel *ch)
{
	if (ch->engine->push)
		ch->engine->push(ch);
}

/* Calls done for what has ended; true when there was something. */
static bool finish_batch(struct image_channel *ch)
{
	struct image_req *req;
	bool any = false;

	if (ch->engine->reap)
		ch->engine->reap(ch);
	while ((req = finished_take(ch))) {
		any = true;
		if (!req->sub)
			ch->in_flight--;
		req->done(req, req->result);
	}
	waiting_start(ch);
	engine_push(ch);
	return any;
}

static void channel_run(struct image_channel *ch)
{
	if (ch->completing)
		return;
	ch->completing = true;
	for (unsigned round = 0; round < BATCH_ROUNDS; round++) {
		if (!finish_batch(ch))
			break;
		if (ch->batch_fn)
			ch->batch_fn(ch->batch_opaque);
	}
	ch->completing = false;
	if (ch->finished)
		eventfd_signal(ch->inbox_src.fd);
}

void image_channel_push(struct image_channel *ch)
{
	engine_push(ch);
	channel_run(ch);
}

unsigned image_channel_in_flight(const struct image_channel *ch)
{
	return ch->in_flight + ch->n_waiting;
}

void image_channel_on_batch(struct image_channel *ch, void (*fn)(void *opaque), void *opaque)
{
	ch->batch_fn = fn;
	ch->batch_opaque = opaque;
}

/* --- events --- */

void image_channel_post(struct image_channel *ch, struct image_work *work)
{
	LOCK_GUARD(&ch->inbox_lock);
	work->next = NULL;
	if (!ch->inbox)
		eventfd_signal(ch->inbox_src.fd);
	*ch->inbox_tail = work;
	ch->inbox_tail = &work->next;
}

static struct image_work *inbox_take_all(struct image_channel *ch)
{
	struct image_work *work;

	LOCK_GUARD(&ch->inbox_lock);
	work = ch->inbox;
	ch->inbox = NULL;
	ch->inbox_tail = &ch->inbox;
	return work;
}

static void inbox_run(struct image_channel *ch)
{
	struct image_work *work;

	eventfd_clear(ch->inbox_src.fd);
	work = inbox_take_all(ch);
	while (work) {
		struct image_work *next = work->next;

		work->finish(work);
		work = next;
	}
}

static void inbox_ready(struct loop_fd *src, unsigned events)
{
	struct image_channel *ch = container_of(src, struct image_channel, inbox_src);

	(void)events;
	inbox_run(ch);
	channel_run(ch);
}

static void engine_ready(struct loop_fd *src, unsigned events)
{
	(void)events;
	channel_run(container_of(src, struct image_channel, engine_src));
}

void image_channel_drain(struct image_channel *ch)
{
	struct pollfd fds[2] = {
		{.fd = ch->inbox_src.fd, .events = POLLIN},
		{.fd = ch->engine->poll_fd(ch), .events = POLLIN}, /* poll() passes over -1 */
	};

	engine_push(ch);
	channel_run(ch);
	while (image_channel_in_flight(ch) > 0) {
		if (poll(fds, ARRAY_SIZE(fds), -1) <= 0)
			continue;
		inbox_run(ch);
		channel_run(ch);
	}
}

/* --- opening and closing, on the loop's thread --- */

static int formats_open(struct image_channel *ch, struct error *err)
{
	struct image *image = ch->image;

	ch->format_state = calloc(image->n_nodes, sizeof(*ch->format_state));
	if (!ch->format_state)
		return error_set(err, -ENOMEM, "%s: no memory for its I/O", image->path);
	for (unsigned i = 0; i < image->n_nodes; i++) {
		struct image_node *node = image->nodes[i];
		int r = node->format->channel_open ? node->format->channel_open(node, ch, err) : 0;

		if (r < 0)
			return r;
	}
	return 0;
}

static int engine_open(struct image_channel *ch, struct error *err)
{
	int r;

	ch->engine = ch->image->engine;
	r = ch->engine->open(ch, err);
	if (r < 0 && ch->image->engine_auto) {
		ch->engine = &image_engine_threads;
		r = ch->engine->open(ch, err);
	}
	if (r < 0)
		ch->engine = NULL;
	return r;
}

static int channel_setup(struct image_channel *ch, struct error *err)
{
	int fd = eventfd_new();
	int r = fd;

	ch->inbox_src.fd = fd;
	if (r >= 0)
		r = loop_fd_add(ch->loop, &ch->inbox_src, fd, LOOP_READ, inbox_ready);
	if (r < 0)
		return error_set_errno(err, r, "%s: no descriptor for its I/O", ch->image->path);
	r = engine_open(ch, err);
	if (r < 0)
		return r;
	fd = ch->engine->poll_fd(ch);
	if (fd >= 0)
		r = loop_fd_add(ch->loop, &ch->engine_src, fd, LOOP_READ, engine_ready);
	if (r < 0)
		return error_set_errno(err, r, "%s: its I/O cannot be waited for", ch->image->path);
	return formats_open(ch, err);
}

static void channel_teardown(void *opaque)
{
	struct image_channel *ch = opaque;
	struct image *image = ch->image;

	loop_fd_del(&ch->engine_src);
	loop_fd_del(&ch->inbox_src);
	for (unsigned i = 0; ch->format_state && i < image->n_nodes; i++) {
		if (image->nodes[i]->format->channel_close)
			image->nodes[i]->format->channel_close(image->nodes[i], ch);
	}
	free(ch->format_state);
	if (ch->engine)
		ch->engine->close(ch);
	if (ch->inbox_src.fd >= 0)
		close(ch->inbox_src.fd);
	pthread_mutex_destroy(&ch->inbox_lock);
	free(ch);
}

struct open_call {
	struct image_channel *ch;
	struct error *err;
	int result;
};

static void open_on_loop(void *opaque)
{
	struct open_call *call = opaque;

	call->result = channel_setup(call->ch, call->err);
	if (call->result < 0)
		channel_teardown(call->ch);
}

int image_channel_open(struct image *image, struct loop *loop, unsigned depth,
		       struct image_channel **ret, struct error *err)
{
	struct open_call call = {.err = err};
	struct image_channel *ch;

	if (depth < 1 || depth > MAX_DEPTH)
		return error_set(err, -EINVAL, "%s: a queue depth of %u is not from 1 to %u",
				 image->path, depth, MAX_DEPTH);
	ch = calloc(1, sizeof(*ch));
	if (!ch)
		return error_set(err, -ENOMEM, "%s: no memory for its I/O", image->path);
	ch->image = image;
	ch->loop = loop;
	ch->depth = depth;
	ch->waiting_tail = &ch->waiting;
	ch->finished_tail = &ch->finished;
	ch->inbox_tail = &ch->inbox;
	ch->inbox_src.fd = -1;
	pthread_mutex_init(&ch->inbox_lock, NULL);
	call.ch = ch;
	loop_call(loop, open_on_loop, &call);
	if (call.result >= 0) {
		atomic_fetch_add(&image->n_channels, 1);
		*ret = ch;
	}
	return call.result;
}

void image_channel_close(struct image_channel *ch)
{
	if (!ch)
		return;
	atomic_fetch_sub(&ch->image->n_channels, 1);
	loop_call(ch->loop, channel_teardown, ch);
}
