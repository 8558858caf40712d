/* `vireo image bench`: many requests of one kind, some at once, and how long they took. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/bits.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/str.h"
#include "cli/image.h"

#define MAX_DEPTH 1024u
#define MAX_BYTES (64u << 20)

struct job {
	struct image_common common;
	uint64_t count, depth, bytes, step, offset;
	bool write, random;
	struct image_sync *s;
	struct image_channel *ch;
	uint64_t size, started, left, random_state;
	int error;
};

struct request {
	struct image_req req;
	struct iovec iov;
	struct job *job;
};

static uint64_t next_offset(struct job *job)
{
	uint64_t at = job->offset;
	uint64_t slots = job->size / job->bytes;

	if (!job->random) {
		job->offset = (at + job->step) % job->size;
		if (job->offset > job->size - job->bytes)
			job->offset = 0;
		return at;
	}
	/* xorshift64 */
	job->random_state ^= job->random_state << 13;
	job->random_state ^= job->random_state >> 7;
	job->random_state ^= job->random_state << 17;
	return job->random_state % slots * job->bytes;
}

static void submit(struct request *r)
{
	struct job *job = r->job;

	job->started++;
	r->req.offset = next_offset(job);
	image_submit(job->ch, &r->req);
}

static void done(struct image_req *req, int result)
{
	struct request *r = container_of(req, struct request, req);

	if (result < 0 && r->job->error == 0)
		r->job->error = result;
	r->job->left--;
	if (r->job->started < r->job->count && r->job->error == 0)
		submit(r);
}

static void request_init(struct request *r, struct job *job, uint8_t *buf)
{
	r->job = job;
	r->iov = (struct iovec){buf, job->bytes};
	r->req = (struct image_req){.op = job->write ? IMAGE_WRITE : IMAGE_READ,
				    .bytes = job->bytes,
				    .iov = &r->iov,
				    .n_iov = 1,
				    .done = done};
}

static int run(struct job *job, double *ret_seconds, struct error *err)
{
	size_t bytes = job->depth * job->bytes;
	struct request *requests = calloc(job->depth, sizeof(*requests));
	uint8_t *buf =
		mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint64_t begin;

	if (!requests || buf == MAP_FAILED) {
		free(requests);
		return error_set(err, -ENOMEM, "no memory for %" PRIu64 " requests", job->depth);
	}
	memset(buf, 0x55, bytes);
	begin = clock_monotonic_ns();
	job->left = job->count;
	for (uint64_t i = 0; i < job->depth && job->started < job->count; i++) {
		request_init(&requests[i], job, buf + i * job->bytes);
		submit(&requests[i]);
	}
	image_channel_push(job->ch);
	while (job->left > 0 && (job->error == 0 || image_channel_in_flight(job->ch) > 0))
		image_sync_wait(job->s);
	*ret_seconds = (double)(clock_monotonic_ns() - begin) / (double)NSEC_PER_SEC;
	munmap(buf, bytes);
	free(requests);
	return job->error < 0 ? error_set_errno(err, job->error, "a request failed") : 0;
}

static int take_one(struct job *job, int c, const char *value, struct error *err)
{
	switch (c) {
	case 'c':
		return image_parse_size(value, "-c", &job->count, err);
	case 'd':
		return image_parse_size(value, "-d", &job->depth, err);
	case 's':
		return image_parse_size(value, "-s", &job->bytes, err);
	case 'S':
		return image_parse_size(value, "-S", &job->step, err);
	case 'o':
		return image_parse_size(value, "-o", &job->offset, err);
	case 't':
		return image_parse_cache(value, &job->common.cache, err);
	case 'w':
		job->write = true;
		break;
	case 'R':
		job->random = true;
		break;
	}
	return 0;
}

static int check(struct job *job, struct error *err)
{
	if (job->step == 0)
		job->step = job->bytes;
	if (job->depth < 1 || job->depth > MAX_DEPTH)
		return error_set(err, -EINVAL, "-d %" PRIu64 ": it is 1 to %u", job->depth,
				 MAX_DEPTH);
	if (job->bytes < 512 || job->bytes > MAX_BYTES || job->bytes % 512 || job->step % 512 ||
	    job->offset % 512)
		return error_set(err, -EINVAL, "-s, -S and -o are multiples of 512, -s up to 64M");
	return 0;
}

static int bench(struct job *job, const char *path, double *ret_seconds, struct error *err)
{
	struct image_config config = {0};
	struct image *image = NULL;
	struct image_info info;
	int r = image_tool_open(&job->common, path, job->write, &config, &image, err);

	if (r >= 0) {
		image_get_info(image, &info);
		job->size = info.size_bytes;
		if (job->size < job->bytes || job->offset > job->size - job->bytes)
			r = error_set(err, -EINVAL, "%s: is smaller than the requests", path);
	}
	if (r >= 0)
		r = image_sync_open(image, (unsigned)job->depth, &job->s, err);
	if (r >= 0) {
		job->ch = image_sync_channel(job->s);
		r = run(job, ret_seconds, err);
		image_sync_close(job->s);
	}
	image_close(image);
	return r;
}

int image_verb_bench(int argc, char **argv)
{
	struct job job = {.count = 75000,
			  .depth = 64,
			  .bytes = 4096,
			  .random_state = 88172645463325252ULL};
	struct error err = ERROR_INIT;
	double seconds = 0;
	const char *value;
	int first;
	int c;

	while ((c = image_getopt(argc, argv, "c:d:s:S:o:t:wR", &job.common, &value)) != -1) {
		if (c == -2)
			return image_usage("bench");
		if (c && take_one(&job, c, value, &err) < 0) {
			image_fail(&err);
			return CLI_USAGE;
		}
	}
	if (image_rest(argc, &first) != 1) {
		log_error("bench wants one file");
		return image_usage("bench");
	}
	if (check(&job, &err) < 0) {
		image_fail(&err);
		return CLI_USAGE;
	}
	if (bench(&job, argv[first], &seconds, &err) < 0)
		return image_fail(&err);
	if (job.common.json)
		return image_print_json(json_pack("{s:f, s:I}", "seconds", seconds, "requests",
						  (json_int_t)job.count));
	printf("%" PRIu64 " requests in %.3f seconds: %.0f a second\n", job.count, seconds,
	       seconds > 0 ? (double)job.count / seconds : 0);
	return CLI_OK;
}
