/*
 * Making an image file: the file itself, what the format puts into it, preallocation. A file that this made and could not finish
 * is removed again.
 *
 * Main thread.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/str.h"
#include "image/image_admin.h"
#include "image/image_int.h"

static int refuse_exists(const char *path, struct error *err)
{
	return error_set(err, -EEXIST, "%s: is there already; it is not overwritten", path);
}

/* Makes an empty file where there is none. 1: it is new. */
static int touch(const char *path, bool replace, struct error *err)
{
	struct stat st;
	int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0644);

	if (fd >= 0) {
		close(fd);
		return 1;
	}
	if (errno == ENOENT)
		return error_set_errno(err, -ENOENT, "%s: its folder is not there", path);
	if (errno != EEXIST)
		return error_set_errno(err, -errno, "%s: cannot be created", path);
	if (stat(path, &st) == 0 && S_ISBLK(st.st_mode))
		return 0;
	return replace ? 0 : refuse_exists(path, err);
}

/* The data file of a qcow2 image is beside it unless its path says otherwise. */
static int data_file_make(const struct image_create_config *config, struct error *err)
{
	const char *slash = strrchr(config->path, '/');
	_cleanup_free_ char *path = NULL;
	struct stat st;
	int fd;
	int r = 0;

	if (!config->data_file)
		return 0;
	if (asprintf(&path, "%.*s%s",
		     config->data_file[0] == '/' || !slash ? 0 : (int)(slash - config->path) + 1,
		     config->path, config->data_file) < 0) {
		path = NULL;
		return error_set(err, -ENOMEM, "no memory to make %s", config->path);
	}
	fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
	if (fd < 0)
		return error_set_errno(err, -errno, "%s: cannot be created", path);
	if (fstat(fd, &st) < 0 ||
	    (S_ISREG(st.st_mode) && (uint64_t)st.st_size < config->size_bytes &&
	     ftruncate(fd, (off_t)config->size_bytes) < 0))
		r = error_set_errno(err, -errno, "%s: cannot be resized", path);
	close(fd);
	return r;
}

static int preallocate(const struct image_create_config *config, struct error *err)
{
	struct image_config open_config = {.path = config->path,
					   .fd = -1,
					   .format = config->format,
					   .no_backing = true,
					   .allow_any_dir = true,
					   .backend = config->backend};
	struct image *image;
	int r;

	if (config->preallocation == IMAGE_PREALLOC_OFF || config->size_bytes == 0)
		return 0;
	r = image_open(&open_config, &image, err);
	if (r < 0)
		return r;
	r = image_preallocate(image, 0, config->size_bytes, config->preallocation, err);
	image_close(image);
	return r;
}

static int fill(const struct image_create_config *config, const struct image_format *format,
		struct error *err)
{
	struct image_config file_config = {.path = config->path,
					   .fd = -1,
					   .backend = config->backend};
	struct image_file *file;
	int r = image_file_open(&file_config, IMAGE_FILE_FORMAT, &file, err);

	if (r < 0)
		return r;
	r = image_file_truncate(file, 0);
	if (r < 0)
		error_set_errno(err, r, "%s: cannot be emptied", config->path);
	else
		r = format->admin->create(config, file, err);
	image_file_close(file);
	return r;
}

int image_create(const struct image_create_config *config, struct error *err)
{
	const struct image_format *format = image_format_find(config->format, config->path, err);
	int made;
	int r;

	if (!format)
		return -EINVAL;
	if (config->backing_path && config->preallocation != IMAGE_PREALLOC_OFF)
		return error_set(err, -EINVAL,
				 "%s: preallocation would hide what the backing file has",
				 config->path);
	made = config->backend ? 0 : touch(config->path, config->replace, err);
	if (made < 0)
		return made;
	r = fill(config, format, err);
	if (r >= 0)
		r = data_file_make(config, err);
	if (r >= 0)
		r = preallocate(config, err);
	if (r < 0 && made > 0)
		unlink(config->path);
	return r;
}
