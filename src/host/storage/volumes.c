/* What can be done to a volume: raw images in a pool's folder. Loop's thread, but the run functions, which are a worker's. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/cleanup.h"
#include "base/fd.h"
#include "base/str.h"
#include "host/storage/storage_int.h"

#define CHUNK     (1 * MIB)
#define SECTOR    512          /* a disk has whole ones */
#define MAX_BYTES (8ULL << 50) /* below what off_t holds, with room */

static void no_finish(struct storage_job *job)
{
}

static int open_volume(const struct storage_job *job, int flags, struct error *err)
{
	int fd = open(job->path, flags | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);

	return fd < 0 ? error_set_errno(err, -errno, "cannot open the volume '%s'", job->path) : fd;
}

/* --- create --- */

/* What of [at, end) one call copies; 0 at the end of the source. */
static ssize_t copy_some(int from, int to, uint64_t at, uint64_t end, uint8_t **buf)
{
	off_t in = (off_t)at, out = (off_t)at;
	ssize_t n = *buf ? -1 : copy_file_range(from, &in, to, &out, end - at, 0);

	if (n > 0)
		return n;
	/* Not between these file systems: through memory from now on. */
	if (!*buf)
		*buf = malloc(CHUNK);
	if (!*buf)
		return -ENOMEM;
	n = fd_pread_full(from, *buf, MIN(end - at, (uint64_t)CHUNK), (off_t)at);
	if (n > 0 && fd_pwrite_full(to, *buf, (size_t)n, (off_t)at) < 0)
		return -EIO;
	return n;
}

/* By reference where the file system can; holes stay holes. */
static int copy_data(int from, int to, uint64_t bytes)
{
	_cleanup_free_ uint8_t *buf = NULL;
	uint64_t at = 0;

	while (at < bytes) {
		off_t data = lseek(from, (off_t)at, SEEK_DATA);
		off_t hole = data < 0 ? -1 : lseek(from, data, SEEK_HOLE);
		uint64_t end;

		if (data < 0)
			return errno == ENXIO ? 0 : -errno;
		at = (uint64_t)data;
		end = hole > data ? (uint64_t)hole : bytes;
		end = MIN(end, bytes);
		while (at < end) {
			ssize_t n = copy_some(from, to, at, end, &buf);

			if (n <= 0)
				return (int)n;
			at += (uint64_t)n;
		}
	}
	return 0;
}

static int fill(const struct storage_job *job, int fd, struct error *err)
{
	const struct spec_xml_volume *volume = job->volume;
	uint64_t capacity = volume->capacity, allocation = MIN(volume->allocation, capacity);
	_cleanup_close_ int from = -1;
	struct stat st;
	int r = 0;

	if (job->from) {
		from = open(job->from, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
		if (from < 0 || fstat(from, &st) < 0)
			return error_set_errno(err, -errno, "cannot open the volume '%s'",
					       job->from);
		capacity = MAX(capacity, (uint64_t)st.st_size);
	}
	capacity = align_up(capacity, SECTOR);
	if (ftruncate(fd, (off_t)capacity) < 0)
		return error_set_errno(err, -errno, "cannot make '%s' of %llu bytes", job->path,
				       (unsigned long long)capacity);
	if (volume->allocation_given && allocation > 0)
		r = -posix_fallocate(fd, 0, (off_t)allocation);
	if (r >= 0 && from >= 0)
		r = copy_data(from, fd, (uint64_t)st.st_size);
	if (r >= 0 && fsync(fd) < 0)
		r = -errno;
	return r < 0 ? error_set_errno(err, r, "cannot fill '%s'", job->path) : 0;
}

static int create_run(struct storage_job *job, struct error *err)
{
	mode_t mode = job->volume->mode >= 0 ? (mode_t)job->volume->mode : 0600;
	_cleanup_close_ int fd =
		open(job->path, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, mode);
	int r;

	if (fd < 0 && errno == EEXIST)
		return error_set(err, -EEXIST, "storage volume name '%s' already in use.",
				 job->name);
	if (fd < 0)
		return error_set_errno(err, -errno, "cannot make the volume '%s'", job->path);
	r = fill(job, fd, err);
	if (r < 0)
		unlink(job->path);
	return r;
}

static int create_check(struct storage_job *job, struct error *err)
{
	const struct spec_xml_volume *volume = job->volume;
	int r = storage_need_active(job, err);

	if (r < 0)
		return r;
	if (!store_name_good(volume->name))
		return error_set(err, -EBADMSG,
				 "element <name> of <volume>: '%.60s' cannot be a file's name",
				 volume->name);
	if (!str_eq(volume->format, "raw"))
		return error_set(
			err, -EOPNOTSUPP,
			"element <format> of <target>: '%.40s' volumes cannot be made yet: give raw",
			volume->format);
	if (volume->capacity > MAX_BYTES)
		return error_set(err, -EINVAL, "element <capacity> of <volume>: it is too large");
	return 0;
}

/* The volume's name and path, heap; false without memory. */
static bool name_volume(struct storage_job *job, const char *name)
{
	job->name = strdup(name);
	if (asprintf(&job->path, "%s/%s", job->folder, name) < 0)
		job->path = NULL;
	return job->name && job->path;
}

static int no_memory_check(struct storage_job *job, struct error *err)
{
	return error_set(err, -ENOMEM, "no memory for a volume");
}

void storage_volume_create(struct storage_pool *pool, const char *xml, const char *from_path,
			   struct storage_done *done)
{
	struct error err = ERROR_INIT;
	struct spec_xml_volume *volume = NULL;
	struct storage_job *job;
	int r = spec_xml_parse_volume(xml, strlen(xml), &volume, &err);

	if (r < 0) {
		done->fn(done, pool, NULL, r, &err);
		return;
	}
	job = storage_job_new(pool, create_run, no_finish, done);
	if (!job) {
		spec_xml_volume_free(volume);
		return;
	}
	job->volume = volume;
	job->scanned = true;
	job->check = create_check;
	job->from = from_path ? strdup(from_path) : NULL;
	if (!name_volume(job, volume->name) || (from_path && !job->from))
		job->check = no_memory_check;
	storage_job_submit(job);
}

/* --- those on a volume that is there --- */

static int volume_check(struct storage_job *job, struct error *err)
{
	int r = storage_need_active(job, err);

	if (r >= 0 && !storage_volume(job->pool, job->name))
		r = error_set(err, -ENOENT, "no storage vol with matching name '%.200s'",
			      job->name);
	return r;
}

static struct storage_job *volume_job(struct storage_pool *pool, const char *name,
				      int (*run)(struct storage_job *job, struct error *err),
				      struct storage_done *done)
{
	struct storage_job *job = storage_job_new(pool, run, no_finish, done);

	if (!job)
		return NULL;
	job->scanned = true;
	job->check = name_volume(job, name) ? volume_check : no_memory_check;
	return job;
}

static int delete_run(struct storage_job *job, struct error *err)
{
	if (unlink(job->path) < 0)
		return error_set_errno(err, -errno, "cannot remove the volume '%s'", job->path);
	return 0;
}

void storage_volume_delete(struct storage_pool *pool, const char *name, struct storage_done *done)
{
	struct storage_job *job = volume_job(pool, name, delete_run, done);

	if (job)
		storage_job_submit(job);
}

static int resize_run(struct storage_job *job, struct error *err)
{
	_cleanup_close_ int fd = open_volume(job, O_RDWR, err);
	uint64_t bytes = job->bytes;
	struct stat st;
	int r = 0;

	if (fd < 0)
		return fd;
	if (fstat(fd, &st) < 0)
		return error_set_errno(err, -errno, "cannot stat '%s'", job->path);
	if (job->delta && job->shrink)
		bytes = (uint64_t)st.st_size - MIN(bytes, (uint64_t)st.st_size);
	else if (job->delta)
		bytes += (uint64_t)st.st_size;
	if (bytes > MAX_BYTES)
		return error_set(err, -EINVAL, "'%s' cannot be so large", job->path);
	bytes = align_up(bytes, SECTOR);
	if (bytes < (uint64_t)st.st_size && !job->shrink)
		return error_set(
			err, -EINVAL,
			"Can't shrink capacity below current capacity unless shrink flag explicitly specified");
	if (ftruncate(fd, (off_t)bytes) < 0)
		r = -errno;
	if (r >= 0 && job->allocate && bytes > 0)
		r = -posix_fallocate(fd, 0, (off_t)bytes);
	return r < 0 ? error_set_errno(err, r, "cannot resize '%s'", job->path) : 0;
}

static int raw_check(struct storage_job *job, struct error *err)
{
	const struct storage_volume *volume = storage_volume(job->pool, job->name ? job->name : "");
	int r = volume_check(job, err);

	if (r >= 0 && volume && !str_eq(volume->format, "raw"))
		r = error_set(err, -EOPNOTSUPP,
			      "'%s' is a %s image, which cannot be resized here yet", volume->path,
			      volume->format);
	return r;
}

void storage_volume_resize(struct storage_pool *pool, const char *name, uint64_t bytes, bool shrink,
			   bool delta, bool allocate, struct storage_done *done)
{
	struct storage_job *job = volume_job(pool, name, resize_run, done);

	if (!job)
		return;
	if (job->check == volume_check)
		job->check = raw_check;
	job->bytes = bytes;
	job->shrink = shrink;
	job->delta = delta;
	job->allocate = allocate;
	storage_job_submit(job);
}

/* Zeroes over everything, and down to the disk. */
static int wipe_run(struct storage_job *job, struct error *err)
{
	_cleanup_close_ int fd = open_volume(job, O_RDWR, err);
	_cleanup_free_ uint8_t *zeroes = calloc(1, CHUNK);
	struct stat st;
	int r = 0;

	if (fd < 0)
		return fd;
	if (!zeroes || fstat(fd, &st) < 0)
		return error_set(err, -ENOMEM, "cannot wipe '%s'", job->path);
	for (off_t at = 0; r >= 0 && at < st.st_size; at += (off_t)CHUNK)
		r = fd_pwrite_full(fd, zeroes, MIN((size_t)CHUNK, (size_t)(st.st_size - at)), at);
	if (r >= 0 && fsync(fd) < 0)
		r = -errno;
	return r < 0 ? error_set_errno(err, r, "cannot wipe '%s'", job->path) : 0;
}

void storage_volume_wipe(struct storage_pool *pool, const char *name, struct storage_done *done)
{
	struct storage_job *job = volume_job(pool, name, wipe_run, done);

	if (job)
		storage_job_submit(job);
}
