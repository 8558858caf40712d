/*
 * Pages before the guest asks for them.
 *
 * Preallocation: every page is touched for writing before the machine starts, by as many threads as there are CPUs and
 * work. Page zeroing is what takes the time; one thread does about 4 GiB a second.
 *
 * Huge pages without hugetlb: a memfd gets small pages on most hosts (shmem_enabled is "never" by default), each of which
 * costs the guest an exit when it is first touched, and its processor more TLB misses ever after. MADV_COLLAPSE makes huge
 * ones all the same, but only now and here: so it is used where all of the memory is going to be written anyway.
 */
#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <sys/mman.h>

#include "base/bits.h"
#include "vm/mem/gmem_int.h"

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23 /* Linux 5.14 */
#endif

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25 /* Linux 6.1 */
#endif

#define HUGE_BYTES           (2 * MIB)
#define POPULATE_CHUNK       (64 * MIB)
#define POPULATE_MAX_THREADS 16

struct populate {
	uint8_t *hva;
	uint64_t len;
	uint64_t page_bytes;
	atomic_uint_fast64_t next; /* offset of the first chunk that nobody has taken */
	atomic_int failed;         /* negative errno of any failure */
};

/* For kernels without MADV_POPULATE_WRITE. The guest does not run yet: reading and writing back races with nothing. */
static void touch(uint8_t *p, uint64_t len, uint64_t page_bytes)
{
	for (uint64_t off = 0; off < len; off += page_bytes) {
		volatile uint8_t *byte = p + off;
		uint8_t value = *byte;

		*byte = value;
	}
}

void gmem_back_collapse(uint8_t *hva, uint64_t len)
{
	uint64_t skip = align_up((uintptr_t)hva, HUGE_BYTES) - (uintptr_t)hva;

	if (len < skip || len - skip < HUGE_BYTES)
		return;
	hva += skip;
	len = align_down(len - skip, HUGE_BYTES);
	/* The kernel wants to see one small page where it is to put a huge one. */
	for (uint64_t off = 0; off < len; off += HUGE_BYTES)
		if (madvise(hva + off, 4096, MADV_POPULATE_WRITE) < 0)
			return;
	madvise(hva, len, MADV_COLLAPSE);
}

static int populate_chunk(struct populate *job, uint64_t off, uint64_t len)
{
	uint64_t step = MAX(POPULATE_CHUNK, job->page_bytes);

	len = MIN(len, step);
	if (job->page_bytes < HUGE_BYTES)
		gmem_back_collapse(job->hva + off, len);
	while (madvise(job->hva + off, len, MADV_POPULATE_WRITE) < 0) {
		if (errno == EINVAL) {
			touch(job->hva + off, len, job->page_bytes);
			return 0;
		}
		if (errno != EAGAIN && errno != EINTR)
			return -errno;
	}
	return 0;
}

static void *populate_thread(void *opaque)
{
	struct populate *job = opaque;
	uint64_t step = MAX(POPULATE_CHUNK, job->page_bytes);

	while (atomic_load(&job->failed) == 0) {
		uint64_t off = atomic_fetch_add(&job->next, step);
		int r;

		if (off >= job->len)
			break;
		r = populate_chunk(job, off, job->len - off);
		if (r < 0)
			atomic_store(&job->failed, r);
	}
	return NULL;
}

static unsigned populate_threads(const struct populate *job)
{
	uint64_t chunks = job->len / MAX(POPULATE_CHUNK, job->page_bytes);
	cpu_set_t set;
	uint64_t n = 1;

	if (sched_getaffinity(0, sizeof(set), &set) == 0)
		n = (uint64_t)CPU_COUNT(&set);
	n = MIN(n, chunks);
	n = MIN(n, (uint64_t)POPULATE_MAX_THREADS);
	return n ? (unsigned)n : 1;
}

int gmem_back_populate(uint8_t *hva, uint64_t len, uint64_t page_bytes, struct error *err)
{
	struct populate job = {.hva = hva, .len = len, .page_bytes = page_bytes};
	pthread_t threads[POPULATE_MAX_THREADS];
	unsigned started = 0, want = populate_threads(&job);
	int r;

	/* This thread works too; a thread that cannot be started is merely missing. */
	while (started + 1 < want &&
	       pthread_create(&threads[started], NULL, populate_thread, &job) == 0)
		started++;
	populate_thread(&job);
	for (unsigned i = 0; i < started; i++)
		pthread_join(threads[i], NULL);
	r = atomic_load(&job.failed);
	if (r < 0)
		return error_set_errno(err, r,
				       "cannot preallocate %" PRIu64
				       " MiB of guest memory (run with "
				       "less memory, or without preallocation)",
				       len >> 20);
	return 0;
}
