/* A look into a folder: which files are volumes, how large, in what format. Any thread. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/cleanup.h"
#include "base/endian.h"
#include "base/fd.h"
#include "host/storage/storage_int.h"

/* The head of a qcow2 image (qcow2 specification, "Header"). */
#define QCOW2_MAGIC   0x514649fbu
#define QCOW2_SIZE_AT 24
#define QCOW2_HEAD    32

static void volume_fini(struct storage_volume *volume)
{
	free(volume->name);
	free(volume->path);
}

void storage_scan_free(struct storage_scan *scan)
{
	for (size_t i = 0; i < scan->n_volumes; i++)
		volume_fini(&scan->volumes[i]);
	free(scan->volumes);
	*scan = (struct storage_scan){0};
}

/* Never followed, and never a device that would wait: regular files are volumes, what else there is is not. */
static void read_head(int dir_fd, struct storage_volume *volume)
{
	_cleanup_close_ int fd =
		openat(dir_fd, volume->name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	uint8_t head[QCOW2_HEAD];
	be32 magic;
	be64 size;

	volume->format = "raw";
	volume->capacity = (uint64_t)volume->st.st_size;
	if (fd < 0 || fd_pread_full(fd, head, sizeof(head), 0) != sizeof(head))
		return;
	memcpy(&magic, head, sizeof(magic));
	if (be32_get(magic) != QCOW2_MAGIC)
		return;
	memcpy(&size, head + QCOW2_SIZE_AT, sizeof(size));
	volume->format = "qcow2";
	volume->capacity = be64_get(size);
}

static int add_volume(struct storage_scan *scan, size_t *room, int dir_fd, const char *folder,
		      const char *name)
{
	struct storage_volume volume = {0};

	if (fstatat(dir_fd, name, &volume.st, AT_SYMLINK_NOFOLLOW) < 0 ||
	    !S_ISREG(volume.st.st_mode))
		return 0;
	if (scan->n_volumes == *room) {
		size_t more = *room ? *room * 2 : 32;
		struct storage_volume *all = realloc(scan->volumes, more * sizeof(*all));

		if (!all)
			return -ENOMEM;
		scan->volumes = all;
		*room = more;
	}
	volume.name = strdup(name);
	if (!volume.name || asprintf(&volume.path, "%s/%s", folder, name) < 0) {
		free(volume.name);
		return -ENOMEM;
	}
	read_head(dir_fd, &volume);
	scan->volumes[scan->n_volumes++] = volume;
	return 0;
}

static int by_name(const void *a, const void *b)
{
	return strcmp(((const struct storage_volume *)a)->name,
		      ((const struct storage_volume *)b)->name);
}

static int read_state(int dir_fd, struct spec_xml_pool_state *ret)
{
	struct statvfs fs;
	struct stat st;

	if (fstatvfs(dir_fd, &fs) < 0 || fstat(dir_fd, &st) < 0)
		return -errno;
	*ret = (struct spec_xml_pool_state){
		.capacity = (uint64_t)fs.f_blocks * fs.f_frsize,
		.available = (uint64_t)fs.f_bavail * fs.f_frsize,
		.mode = st.st_mode & 07777,
		.uid = st.st_uid,
		.gid = st.st_gid,
	};
	ret->allocation = ret->capacity - (uint64_t)fs.f_bfree * fs.f_frsize;
	return 0;
}

int storage_scan_folder(const char *folder, struct storage_scan *ret, struct error *err)
{
	int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	struct storage_scan scan = {0};
	const struct dirent *entry;
	size_t room = 0;
	int r;

	if (!dir) {
		r = -errno;
		if (fd >= 0)
			close(fd);
		return error_set_errno(err, r, "cannot open directory '%s'", folder);
	}
	r = read_state(fd, &scan.state);
	while (r >= 0 && scan.n_volumes < STORAGE_MAX_VOLUMES && (entry = readdir(dir)))
		if (store_name_good(entry->d_name))
			r = add_volume(&scan, &room, fd, folder, entry->d_name);
	closedir(dir);
	if (r < 0) {
		storage_scan_free(&scan);
		return error_set_errno(err, r, "cannot read the directory '%s'", folder);
	}
	if (scan.n_volumes > 0)
		qsort(scan.volumes, scan.n_volumes, sizeof(*scan.volumes), by_name);
	*ret = scan;
	return 0;
}

void storage_take_scan(struct storage_pool *pool, struct storage_scan *scan)
{
	struct storage_scan old = {pool->volumes, pool->n_volumes, pool->state};

	pool->volumes = scan->volumes;
	pool->n_volumes = scan->n_volumes;
	pool->state = scan->state;
	*scan = (struct storage_scan){0};
	storage_scan_free(&old);
}
