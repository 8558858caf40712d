/*
 * The queues of a virtio balloon (VIRTIO 1.2, sections 5.5.6.1 to 5.5.6.7): pages to take, pages to give back, free pages
 * that are reported, statistics.
 *
 * On the device's loop. Memory is given to the host while the queue's lock is held: only accesses to this queue's own
 * registers wait for it, and a reset cannot come in between.
 */
#include <stdlib.h>

#include "base/bits.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/endian.h"
#include "vm/devices/virtio_balloon_int.h"

/* Page numbers taken from one request. Linux sends 256 at most. */
#define MAX_PFNS 1024u

/* struct virtio_balloon_stat, section 5.5.6.3. */
struct balloon_stat {
	le16 tag;
	le64 value;
} __attribute__((packed));

/* A tag may come twice. */
#define MAX_STATS (2 * VIRTIO_BALLOON_STATS)

/* What a queue does with one request; vq lock held. Returns why the driver broke the protocol, or NULL. */
typedef const char *balloon_handler(struct virtio_balloon *bal, const struct vq_req *req);

static void balloon_serve(struct virtio_balloon *bal, struct virtio_queue *queue,
			  balloon_handler *handle)
{
	struct iovec iov[BALLOON_QUEUE_SIZE];
	struct vq_req req = {.iov = iov, .max_iov = ARRAY_SIZE(iov)};
	struct vq *vq = &queue->vq;
	const char *why = NULL;
	bool more = true;
	bool pushed = false;

	pthread_mutex_lock(&vq->lock);
	vq_kicks_off(vq);
	for (unsigned i = 0; more && i < BALLOON_BATCH; i++) {
		int r = vq_pop(vq, &req);

		if (r > 0) {
			why = handle(bal, &req);
			vq_push(vq, &req, 0);
			pushed = true;
		} else if (r < 0) {
			why = vq->broken_why;
		}
		more = !why && (r > 0 || vq_kicks_on(vq));
	}
	if (pushed)
		virtio_signal(&bal->vdev, queue);
	pthread_mutex_unlock(&vq->lock);
	if (why)
		virtio_break(&bal->vdev, why);
	else if (more)
		virtio_queue_rekick(&bal->vdev, queue->index);
}

/* --- inflate and deflate --- */

static int compare_pfns(const void *a, const void *b)
{
	uint32_t x = le32_get(*(const le32 *)a);
	uint32_t y = le32_get(*(const le32 *)b);

	return (x > y) - (x < y);
}

static void balloon_discard(struct virtio_balloon *bal, gpa_t gpa, uint64_t bytes)
{
	struct device *dev = &bal->vdev.pci.dev;
	int r = gmem_discard(dev->env.mem, gpa, bytes);

	if (r < 0)
		log_guest(&dev->log_budget,
			  "%s: the guest gave 0x%llx bytes at 0x%llx, which "
			  "cannot be taken (error %d)",
			  dev->id, (unsigned long long)bytes, (unsigned long long)gpa, -r);
}

static const char *inflate_one(struct virtio_balloon *bal, const struct vq_req *req)
{
	le32 pfns[MAX_PFNS];
	size_t n = iov_to_buf(req->iov, req->n_out, 0, pfns, sizeof(pfns)) / sizeof(*pfns);
	size_t from = 0;

	if (req->out_bytes > sizeof(pfns))
		log_guest(&bal->vdev.pci.dev.log_budget,
			  "%s: a request of %llu bytes is taken in part", bal->vdev.pci.dev.id,
			  (unsigned long long)req->out_bytes);
	/* Neighbours go together: one call for a run of pages instead of one for each. */
	qsort(pfns, n, sizeof(*pfns), compare_pfns);
	for (size_t i = 1; i <= n; i++) {
		uint32_t first = le32_get(pfns[from]);
		uint32_t last = le32_get(pfns[i - 1]);

		if (i < n && (uint64_t)le32_get(pfns[i]) <= (uint64_t)last + 1)
			continue;
		balloon_discard(bal, (gpa_t)first * BALLOON_PAGE_BYTES,
				((uint64_t)last - first + 1) * BALLOON_PAGE_BYTES);
		from = i;
	}
	return NULL;
}

void balloon_inflate(struct virtio_balloon *bal, struct virtio_queue *queue)
{
	balloon_serve(bal, queue, inflate_one);
}

/* The host fills a page when the guest touches it. */
static const char *deflate_one(struct virtio_balloon *bal, const struct vq_req *req)
{
	return NULL;
}

void balloon_deflate(struct virtio_balloon *bal, struct virtio_queue *queue)
{
	balloon_serve(bal, queue, deflate_one);
}

/* --- free page reporting --- */

static bool gpa_of(const struct gmem *mem, const void *hva, size_t len, gpa_t *ret)
{
	const struct gmem_region *regions;
	size_t n = gmem_regions(mem, &regions);

	for (size_t i = 0; i < n; i++) {
		uint64_t offset = (uintptr_t)hva - (uintptr_t)regions[i].hva;

		if (range_inside(offset, len, regions[i].size)) {
			*ret = regions[i].gpa + offset;
			return true;
		}
	}
	return false;
}

static const char *report_one(struct virtio_balloon *bal, const struct vq_req *req)
{
	const struct iovec *iov = req->iov + req->n_out;

	for (uint32_t i = 0; i < req->n_in; i++) {
		gpa_t gpa;

		if (gpa_of(bal->vdev.pci.dev.env.mem, iov[i].iov_base, iov[i].iov_len, &gpa))
			balloon_discard(bal, gpa, iov[i].iov_len);
	}
	return NULL;
}

static const char *report_nothing(struct virtio_balloon *bal, const struct vq_req *req)
{
	return NULL;
}

void balloon_report(struct virtio_balloon *bal, struct virtio_queue *queue)
{
	struct device *dev = &bal->vdev.pci.dev;
	bool zeroes;

	/* Pages come back as zeroes: nothing for a guest that has promised them another content (section 5.5.6.6). */
	pthread_mutex_lock(&dev->lock);
	zeroes = !virtio_has(&bal->vdev, BALLOON_F_PAGE_POISON) || bal->poison == 0;
	pthread_mutex_unlock(&dev->lock);
	balloon_serve(bal, queue, zeroes ? report_one : report_nothing);
}

/* --- statistics --- */

void balloon_stats_forget(struct virtio_balloon *bal)
{
	for (unsigned i = 0; i < VIRTIO_BALLOON_STATS; i++)
		bal->stats[i] = UINT64_MAX;
	bal->stats_time_ns = 0;
}

/* The buffer stays in the ring until the next ones are wanted, so that nothing is in flight meanwhile. */
void balloon_stats_take(struct virtio_balloon *bal, struct virtio_queue *queue)
{
	struct iovec iov[BALLOON_QUEUE_SIZE];
	struct vq_req req = {.iov = iov, .max_iov = ARRAY_SIZE(iov)};
	struct balloon_stat stats[MAX_STATS];
	struct vq *vq = &queue->vq;
	const char *why = NULL;
	size_t n = 0;
	int r;

	pthread_mutex_lock(&vq->lock);
	r = vq_pop(vq, &req);
	if (r > 0) {
		n = iov_to_buf(iov, req.n_out, 0, stats, sizeof(stats)) / sizeof(*stats);
		vq_unpop(vq, &req);
	} else if (r < 0) {
		why = vq->broken_why;
	}
	vq_kicks_on(vq);
	pthread_mutex_unlock(&vq->lock);
	if (why)
		virtio_break(&bal->vdev, why);
	if (r <= 0)
		return;
	LOCK_GUARD(&bal->vdev.pci.dev.lock);
	balloon_stats_forget(bal);
	for (size_t i = 0; i < n; i++) {
		uint16_t tag = le16_get(stats[i].tag);

		if (tag < VIRTIO_BALLOON_STATS)
			bal->stats[tag] = le64_get(stats[i].value);
	}
	bal->stats_time_ns = clock_realtime_ns();
}

void balloon_stats_ask(struct virtio_balloon *bal, struct virtio_queue *queue)
{
	struct iovec iov[BALLOON_QUEUE_SIZE];
	struct vq_req req = {.iov = iov, .max_iov = ARRAY_SIZE(iov)};
	struct vq *vq = &queue->vq;
	const char *why = NULL;
	bool more;
	int r;

	pthread_mutex_lock(&vq->lock);
	r = vq_pop(vq, &req);
	if (r > 0) {
		vq_push(vq, &req, 0);
		virtio_signal(&bal->vdev, queue);
	} else if (r < 0) {
		why = vq->broken_why;
	}
	more = vq_kicks_on(vq);
	pthread_mutex_unlock(&vq->lock);
	if (why)
		virtio_break(&bal->vdev, why);
	else if (more)
		virtio_queue_rekick(&bal->vdev, queue->index);
}
