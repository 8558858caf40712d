/*
 * The lock on an image: open-file-description locks (fcntl(2)), which belong to the descriptor and end with its last copy.
 * A writer locks all bytes exclusively. A reader locks what lets other readers in and keeps writers out, those of QEMU too:
 * QEMU takes shared locks on single bytes, 100 + n for a permission n that it uses and 200 + n for one that it denies to
 * others (n 1: write), and looks whether others hold any lock there.
 *
 * The lock is on the description that I/O goes through, so that it outlives a killed machine until its last write has ended.
 * A new machine waits a moment for that.
 */
#include "image/file_int.h"

#include <errno.h>
#include <fcntl.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"

#define QEMU_USES_WRITE   101
#define QEMU_DENIES_WRITE 201

#define PATIENCE_MSEC 500u
#define RETRY_MSEC    10u

static struct flock lock_of(short type, off_t start, off_t len)
{
	return (struct flock){.l_type = type, .l_whence = SEEK_SET, .l_start = start, .l_len = len};
}

static int refuse_locked(const struct image_file *file, struct error *err)
{
	if (file->readonly)
		return error_set(
			err, -EBUSY,
			"%s: another machine or program writes to it (it holds the lock; lsof names "
			"it); stop that one first",
			file->path);
	return error_set(
		err, -EBUSY,
		"%s: is in use by another machine or program (it holds the lock; lsof names it); "
		"stop that one, or attach the image to both with readonly=on",
		file->path);
}

static int take(const struct image_file *file, struct flock lock, struct error *err)
{
	if (fcntl(file->fd, F_OFD_SETLK, &lock) == 0)
		return 0;
	if (errno == EAGAIN || errno == EACCES)
		return refuse_locked(file, err);
	return error_set_errno(
		err, -errno,
		"%s: cannot be locked, so nothing would keep a second machine from writing "
		"to it; if you are sure that none does, attach it with lock=off",
		file->path);
}

int image_file_lock(struct image_file *file, struct error *err)
{
	struct flock writer = lock_of(F_WRLCK, QEMU_USES_WRITE, 1);
	int r;

	if (!file->readonly)
		return take(file, lock_of(F_WRLCK, 0, 0), err);
	r = take(file, lock_of(F_RDLCK, 0, 100), err);
	if (r >= 0)
		r = take(file, lock_of(F_RDLCK, QEMU_DENIES_WRITE, 1), err);
	if (r < 0)
		return r;
	if (fcntl(file->fd, F_OFD_GETLK, &writer) == 0 && writer.l_type != F_UNLCK)
		return refuse_locked(file, err);
	return 0;
}

void image_file_unlock(struct image_file *file)
{
	struct flock all = lock_of(F_UNLCK, 0, 0);

	fcntl(file->fd, F_OFD_SETLK, &all);
}
