/*
 * The file or block device under an image: opening, the checks that a person must hear about, the lock, and what the kernel
 * wants of direct I/O. I/O itself is in file_sync.c and the engines.
 *
 * Main thread. Follows symbolic links; never creates a file.
 */
#include "image/image_impl.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "base/bits.h"
#include "base/cleanup.h"
#include "base/fd.h"
#include "base/str.h"
#include "image/file_int.h"

/* --- opening --- */

static int refuse_type(const char *path, mode_t mode, struct error *err)
{
	if (S_ISREG(mode) || S_ISBLK(mode))
		return 0;
	if (S_ISDIR(mode))
		return error_set(err, -EISDIR,
				 "%s: is a directory; give the path of a disk image in it", path);
	return error_set(err, -EINVAL, "%s: is neither a regular file nor a block device", path);
}

/* access() failed or open() would: says whose file it is. */
static int refuse_permission(const char *path, const struct stat *st, bool readonly, int code,
			     struct error *err)
{
	return error_set(
		err, code,
		"%s: not permitted to %s it: it belongs to uid %u, gid %u with mode %04o, and "
		"this process runs as uid %u; change its owner or mode%s",
		path, readonly ? "read" : "write", st->st_uid, st->st_gid, st->st_mode & 07777u,
		geteuid(), readonly ? "" : ", or attach it with readonly=on");
}

static int refuse_open(const char *path, const struct stat *st, const struct image_config *config,
		       int code, struct error *err)
{
	switch (code) {
	case -EACCES:
	case -EPERM:
		return refuse_permission(path, st, config->readonly, code, err);
	case -EROFS:
		return error_set(err, code,
				 "%s: is on a read-only file system; attach it with readonly=on",
				 path);
	case -EINVAL:
		if (config->cache == IMAGE_CACHE_NONE)
			return error_set(
				err, code,
				"%s: its file system has no direct I/O; use another cache mode "
				"than none, for example cache=writeback",
				path);
		break;
	case -ETXTBSY:
		return error_set(err, code, "%s: is in use as a program or swap file", path);
	}
	return error_set_errno(err, code, "%s: cannot be opened", path);
}

static int open_path(const struct image_config *config, struct error *err)
{
	const char *path = config->path;
	int flags = O_CLOEXEC | O_NONBLOCK | O_NOCTTY | (config->readonly ? O_RDONLY : O_RDWR) |
		    (config->cache == IMAGE_CACHE_NONE ? O_DIRECT : 0);
	struct stat st;
	int fd;
	int r;

	if (!path || !*path)
		return error_set(err, -EINVAL, "a disk needs the path of its image");
	if (stat(path, &st) < 0) {
		r = -errno;
		if (r == -ENOENT)
			return error_set(err, r,
					 "%s: there is no such file; create it, for example with: "
					 "truncate -s 10G '%s'",
					 path, path);
		if (r == -EACCES)
			return error_set(
				err, r,
				"%s: a folder on the way to it may not be searched by uid %u", path,
				geteuid());
		return error_set_errno(err, r, "%s: cannot be opened", path);
	}
	r = refuse_type(path, st.st_mode, err);
	if (r < 0)
		return r;
	fd = open(path, flags);
	if (fd < 0)
		return refuse_open(path, &st, config, -errno, err);
	fd_set_nonblock(fd, false); /* was for what the path may have become meanwhile */
	return fd;
}

/* An inherited descriptor: does it allow what is asked for? */
static int adopt_fd(const struct image_config *config, const char *path, struct error *err)
{
	int flags = fcntl(config->fd, F_GETFL);
	int wanted;

	if (flags < 0)
		return error_set_errno(err, -errno, "%s: descriptor %d is not open", path,
				       config->fd);
	if (!config->readonly && (flags & O_ACCMODE) != O_RDWR)
		return error_set(
			err, -EACCES,
			"%s: descriptor %d is not open for reading and writing; attach it with "
			"readonly=on",
			path, config->fd);
	if ((flags & O_ACCMODE) == O_WRONLY || (flags & O_PATH))
		return error_set(err, -EACCES, "%s: descriptor %d is not open for reading", path,
				 config->fd);
	wanted = flags & ~(O_DIRECT | O_NONBLOCK | O_APPEND);
	if (config->cache == IMAGE_CACHE_NONE)
		wanted |= O_DIRECT;
	if (wanted != flags && fcntl(config->fd, F_SETFL, wanted) < 0)
		return error_set_errno(err, -errno,
				       "%s: cannot use this cache mode on descriptor %d", path,
				       config->fd);
	fd_set_cloexec(config->fd, true);
	return config->fd;
}

/* --- size and alignment --- */

static int check_size(struct image_file *file, const struct stat *st, enum image_file_use use,
		      struct error *err)
{
	if (file->is_block) {
		if (ioctl(file->fd, BLKGETSIZE64, &file->size_bytes) < 0)
			return error_set_errno(err, -errno, "%s: its size cannot be read",
					       file->path);
	} else {
		file->size_bytes = (uint64_t)st->st_size;
	}
	if (use == IMAGE_FILE_FORMAT)
		return 0;
	if (use == IMAGE_FILE_BACKING) {
		file->size_bytes = align_up(file->size_bytes, file->offset_align);
		return 0;
	}
	if (file->size_bytes == 0)
		return error_set(
			err, -EINVAL,
			"%s: is empty; a disk needs a size, for example: truncate -s 10G '%s'",
			file->path, file->path);
	if (file->size_bytes % file->offset_align != 0)
		return error_set(err, -EINVAL,
				 "%s: its size of %llu bytes is no multiple of %u; extend it: "
				 "truncate -s %llu '%s'",
				 file->path, (unsigned long long)file->size_bytes,
				 file->offset_align,
				 (unsigned long long)align_up(file->size_bytes, file->offset_align),
				 file->path);
	return 0;
}

/* A number from the block device's folder in sysfs, or -1. */
static int64_t queue_limit(dev_t dev, const char *name)
{
	char path[96];
	char text[32] = "";
	uint64_t value;
	ssize_t n;

	/* A partition has no queue folder of its own. */
	for (int up = 0; up < 2; up++) {
		snprintf(path, sizeof(path), "/sys/dev/block/%u:%u/%squeue/%s", major(dev),
			 minor(dev), up ? "../" : "", name);
		_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);

		if (fd < 0)
			continue;
		n = fd_read_full(fd, text, sizeof(text) - 1);
		if (n <= 0)
			return -1;
		text[n] = '\0';
		text[strcspn(text, "\n")] = '\0';
		return parse_u64(text, &value) < 0 || value > INT64_MAX ? -1 : (int64_t)value;
	}
	return -1;
}

static void find_blocks(struct image_file *file, const struct stat *st)
{
	unsigned physical = 0;
	int logical = 0;
	int64_t granularity;

	if (!file->is_block) {
		file->physical_block = 4096;
		if (st->st_blksize >= 512 && st->st_blksize <= 65536 &&
		    is_power_of_two((uint64_t)st->st_blksize))
			file->physical_block = (uint32_t)st->st_blksize;
		file->discard_granularity = file->physical_block;
		return;
	}
	if (ioctl(file->fd, BLKSSZGET, &logical) == 0 && logical > 512 && logical <= 65536 &&
	    is_power_of_two((uint64_t)logical))
		file->offset_align = (uint32_t)logical;
	file->physical_block = file->offset_align;
	if (ioctl(file->fd, BLKPBSZGET, &physical) == 0 && physical > file->physical_block &&
	    physical <= 65536 && is_power_of_two(physical))
		file->physical_block = physical;
	granularity = queue_limit(st->st_rdev, "discard_granularity");
	if (granularity > 0 && granularity <= 1 << 30 &&
	    queue_limit(st->st_rdev, "discard_max_bytes") > 0)
		file->discard_granularity = MAX((uint32_t)granularity, file->offset_align);
}

/* What the kernel says that direct I/O on this file needs; false when it says nothing. */
static bool ask_direct_alignment(const struct image_file *file, uint32_t *ret_offset,
				 uint32_t *ret_memory)
{
#ifdef STATX_DIOALIGN
	struct statx stx = {0};

	if (statx(file->fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &stx) == 0 &&
	    (stx.stx_mask & STATX_DIOALIGN) && is_power_of_two(stx.stx_dio_offset_align) &&
	    is_power_of_two(stx.stx_dio_mem_align)) {
		*ret_offset = stx.stx_dio_offset_align;
		*ret_memory = stx.stx_dio_mem_align;
		return true;
	}
#endif
	return false;
}

/* Tries reads, with memory aligned no better than the size, until one is taken. */
static bool probe_direct_alignment(const struct image_file *file, uint32_t *ret_offset,
				   uint32_t *ret_memory)
{
	for (uint32_t align = 512; align <= 65536; align *= 2) {
		if (pread(file->fd, (char *)file->bounce + align, align, 0) < 0)
			continue;
		*ret_offset = align;
		*ret_memory = align;
		return true;
	}
	return false;
}

static int setup_direct(struct image_file *file, struct error *err)
{
	uint32_t offset = 512;
	uint32_t memory = 512;

	file->bounce = mmap(NULL, IMAGE_BOUNCE_BYTES, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (file->bounce == MAP_FAILED) {
		file->bounce = NULL;
		return error_set(err, -ENOMEM, "%s: no memory for a bounce buffer", file->path);
	}
	if (!ask_direct_alignment(file, &offset, &memory) &&
	    !probe_direct_alignment(file, &offset, &memory))
		return error_set(
			err, -EINVAL,
			"%s: direct I/O does not work on it; use another cache mode than none, "
			"for example cache=writeback",
			file->path);
	file->offset_align = MAX(file->offset_align, offset);
	file->memory_align = memory;
	file->physical_block = MAX(file->physical_block, file->offset_align);
	return 0;
}

/* --- all of it --- */

static int file_setup(struct image_file *file, const struct image_config *config,
		      enum image_file_use use, struct error *err)
{
	struct stat st;
	int r;

	if (fstat(file->fd, &st) < 0)
		return error_set_errno(err, -errno, "%s", file->path);
	r = refuse_type(file->path, st.st_mode, err);
	if (r < 0)
		return r;
	file->is_block = S_ISBLK(st.st_mode);
	file->offset_align = IMAGE_SECTOR_BYTES;
	file->memory_align = 1;
	find_blocks(file, &st);
	if (!config->no_lock) {
		r = image_file_lock(file, err);
		if (r < 0)
			return r;
		file->locked = true;
	}
	if (file->direct) {
		r = setup_direct(file, err);
		if (r < 0)
			return r;
	}
	return check_size(file, &st, use, err);
}

/* What stands in the place of a file has no alignment and no lock. */
static int backend_setup(struct image_file *file, const struct image_backend *backend)
{
	file->backend = backend;
	file->fd = -1;
	file->direct = false;
	file->size_bytes = backend->length(backend->opaque);
	file->offset_align = IMAGE_SECTOR_BYTES;
	file->memory_align = 1;
	file->physical_block = 4096;
	file->discard_granularity = 4096;
	return 0;
}

int image_file_open(const struct image_config *config, enum image_file_use use,
		    struct image_file **ret, struct error *err)
{
	struct image_file *file = calloc(1, sizeof(*file));
	int r;

	if (!file)
		return error_set(err, -ENOMEM, "no memory to open an image");
	pthread_mutex_init(&file->bounce_lock, NULL);
	file->fd = -1;
	file->readonly = config->readonly;
	file->direct = config->cache == IMAGE_CACHE_NONE;
	file->dsync = config->cache == IMAGE_CACHE_WRITETHROUGH;
	file->no_flush = config->cache == IMAGE_CACHE_UNSAFE;
	file->ignore_discard = config->discard == IMAGE_DISCARD_IGNORE;
	file->grows = use != IMAGE_FILE_DISK;
	file->path = strdup(config->path ? config->path : "(inherited descriptor)");
	r = file->path ? 0 : error_set(err, -ENOMEM, "no memory to open an image");
	if (r >= 0 && config->backend) {
		r = backend_setup(file, config->backend);
	} else if (r >= 0) {
		r = config->fd >= 0 ? adopt_fd(config, file->path, err) : open_path(config, err);
		file->fd = r;
	}
	if (r >= 0 && !config->backend)
		r = file_setup(file, config, use, err);
	if (r < 0) {
		if (config->fd >= 0)
			file->fd = -1; /* still the caller's */
		image_file_close(file);
		return r;
	}
	*ret = file;
	return 0;
}

void image_file_close(struct image_file *file)
{
	if (!file)
		return;
	if (file->bounce)
		munmap(file->bounce, IMAGE_BOUNCE_BYTES);
	if (file->fd >= 0 && file->locked)
		image_file_unlock(file);
	if (file->fd >= 0)
		close(file->fd);
	pthread_mutex_destroy(&file->bounce_lock);
	free(file->path);
	free(file);
}
