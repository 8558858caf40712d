#include "host/store/store.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/fd.h"
#include "base/str.h"

#define NAME_MAX_BYTES 200
#define TEMP_SUFFIX    ".new"

/* --- the real operations --- */

static int real_create(int dir_fd, const char *name)
{
	int fd = openat(dir_fd, name, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);

	return fd < 0 ? -errno : fd;
}

static int real_sync(int fd)
{
	return fsync(fd) < 0 ? -errno : 0;
}

static int real_rename(int dir_fd, const char *from, const char *to)
{
	return renameat(dir_fd, from, dir_fd, to) < 0 ? -errno : 0;
}

static int real_unlink(int dir_fd, const char *name)
{
	return unlinkat(dir_fd, name, 0) < 0 ? -errno : 0;
}

static int real_symlink(int dir_fd, const char *target, const char *name)
{
	return symlinkat(target, dir_fd, name) < 0 ? -errno : 0;
}

const struct store_ops store_ops_real = {
	.create = real_create,
	.write = fd_write_full,
	.sync = real_sync,
	.rename = real_rename,
	.unlink = real_unlink,
	.symlink = real_symlink,
};

/* --- the folder --- */

int store_make_folder(const char *path, mode_t mode, struct error *err)
{
	_cleanup_free_ char *copy = strdup(path);

	if (!copy)
		return error_set(err, -ENOMEM, "no memory for a path");
	for (char *at = copy + 1; *at; at++) {
		if (*at != '/')
			continue;
		*at = '\0';
		if (mkdir(copy, 0755) < 0 && errno != EEXIST)
			return error_set_errno(err, -errno, "cannot make the folder '%s'", copy);
		*at = '/';
	}
	if (mkdir(copy, mode) < 0 && errno != EEXIST)
		return error_set_errno(err, -errno, "cannot make the folder '%s'", copy);
	return 0;
}

static int remove_temp(void *opaque, const char *name)
{
	const struct store *store = opaque;

	if (name[0] == '.')
		store->ops->unlink(store->dir_fd, name);
	return 0;
}

int store_open(struct store *store, const char *path, const struct store_ops *ops,
	       struct error *err)
{
	int r = store_make_folder(path, 0700, err);

	if (r < 0)
		return r;
	*store = (struct store){.dir_fd = -1, .ops = ops ? ops : &store_ops_real};
	store->path = strdup(path);
	if (!store->path)
		return error_set(err, -ENOMEM, "no memory for a path");
	store->dir_fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	r = store->dir_fd < 0 ? -errno : store_each(store, TEMP_SUFFIX, remove_temp, store);
	if (r < 0) {
		store_close(store);
		return error_set_errno(err, r, "cannot open the folder '%s'", path);
	}
	return 0;
}

void store_close(struct store *store)
{
	if (store->path && store->dir_fd >= 0)
		close(store->dir_fd);
	free(store->path);
	*store = (struct store){.dir_fd = -1};
}

bool store_name_good(const char *name)
{
	size_t len = strlen(name);

	if (len == 0 || len > NAME_MAX_BYTES || name[0] == '.')
		return false;
	for (const char *at = name; *at; at++)
		if ((unsigned char)*at < ' ' || *at == '/' || *at == 127)
			return false;
	return true;
}

/* --- files --- */

/*
 * A name that is taken keeps its content until the new one is on the disk: two flushes, of the file and, behind the rename, of the folder. A new name needs one: behind the
 * rename, of the file, which takes its entry along on every file system that Linux keeps definitions on (ext4, XFS, btrfs). What a loss of power leaves of it before that was
 * never reported as done, and is told of and left alone at the next start.
 */
static int write_and_settle(const struct store *store, const char *temp, const char *name,
			    const void *data, size_t len)
{
	_cleanup_close_ int fd = store->ops->create(store->dir_fd, temp);
	bool taken = store_has(store, name);
	int r;

	if (fd < 0)
		return fd;
	r = store->ops->write(fd, data, len);
	if (r >= 0 && taken)
		r = store->ops->sync(fd);
	if (r >= 0)
		r = store->ops->rename(store->dir_fd, temp, name);
	if (r < 0)
		return r;
	r = store->ops->sync(taken ? store->dir_fd : fd);
	if (r < 0 && !taken)
		store->ops->unlink(store->dir_fd, name);
	return r;
}

/* From its temporary name to its own, durably. */
static int settle(const struct store *store, const char *temp, const char *name)
{
	int r = store->ops->rename(store->dir_fd, temp, name);

	return r < 0 ? r : store->ops->sync(store->dir_fd);
}

static bool temp_name(const char *name, char *buf, size_t size)
{
	return store_name_good(name) && (size_t)snprintf(buf, size, ".%s" TEMP_SUFFIX, name) < size;
}

int store_write(const struct store *store, const char *name, const void *data, size_t len,
		struct error *err)
{
	char temp[NAME_MAX_BYTES + 16];
	int r;

	if (!temp_name(name, temp, sizeof(temp)))
		return error_set(err, -EINVAL, "'%.60s' cannot be the name of a file", name);
	r = write_and_settle(store, temp, name, data, len);
	if (r < 0) {
		store->ops->unlink(store->dir_fd, temp);
		return error_set_errno(err, r, "cannot write '%s/%s'", store->path, name);
	}
	return 0;
}

int store_read(const struct store *store, const char *name, char **ret, size_t *ret_len,
	       struct error *err)
{
	_cleanup_close_ int fd = openat(store->dir_fd, name, O_RDONLY | O_CLOEXEC);
	_cleanup_free_ char *text = NULL;
	struct stat st;
	ssize_t n;

	if (fd < 0 || fstat(fd, &st) < 0)
		return error_set_errno(err, -errno, "cannot read '%s/%s'", store->path, name);
	if (!S_ISREG(st.st_mode) || st.st_size > STORE_MAX_FILE)
		return error_set(err, -EFBIG, "'%s/%s' is no file of ours", store->path, name);
	text = malloc((size_t)st.st_size + 1);
	if (!text)
		return error_set(err, -ENOMEM, "no memory for '%s/%s'", store->path, name);
	n = fd_read_full(fd, text, (size_t)st.st_size);
	if (n < 0)
		return error_set_errno(err, (int)n, "cannot read '%s/%s'", store->path, name);
	text[n] = '\0';
	*ret_len = (size_t)n;
	*ret = steal_ptr(&text);
	return 0;
}

int store_remove(const struct store *store, const char *name, struct error *err)
{
	int r = store->ops->unlink(store->dir_fd, name);

	if (r == -ENOENT)
		return 0;
	if (r >= 0)
		r = store->ops->sync(store->dir_fd);
	return r < 0 ? error_set_errno(err, r, "cannot remove '%s/%s'", store->path, name) : 0;
}

int store_link(const struct store *store, const char *name, const char *target, struct error *err)
{
	char temp[NAME_MAX_BYTES + 16];
	int r;

	if (!temp_name(name, temp, sizeof(temp)))
		return error_set(err, -EINVAL, "'%.60s' cannot be the name of a file", name);
	store->ops->unlink(store->dir_fd, temp);
	r = store->ops->symlink(store->dir_fd, target, temp);
	if (r >= 0)
		r = settle(store, temp, name);
	return r < 0 ? error_set_errno(err, r, "cannot make the link '%s/%s'", store->path, name)
		     : 0;
}

bool store_has(const struct store *store, const char *name)
{
	return faccessat(store->dir_fd, name, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
}

int store_each(const struct store *store, const char *suffix,
	       int (*fn)(void *opaque, const char *name), void *opaque)
{
	int fd = openat(store->dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	const struct dirent *entry;
	int r = 0;

	if (!dir) {
		r = -errno;
		if (fd >= 0)
			close(fd);
		return r;
	}
	while (r == 0 && (entry = readdir(dir))) {
		size_t len = strlen(entry->d_name), tail = strlen(suffix);

		if (len > tail && str_eq(entry->d_name + len - tail, suffix))
			r = fn(opaque, entry->d_name);
	}
	closedir(dir);
	return r;
}
