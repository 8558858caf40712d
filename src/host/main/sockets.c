/*
 * The daemon's sockets. Clients look for libvirtd's name or for virtqemud's, so both are there; the mode of each decides who may connect: owner and group
 * on the one, everybody on the read-only one. A user's own daemon serves that user alone.
 */
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/cleanup.h"
#include "base/fd.h"
#include "base/log.h"
#include "host/main/main_int.h"
#include "host/store/store.h"

#define GROUP "libvirt"

static const struct {
	const char *name;
	bool readonly;
} names[] = {
	{"libvirt-sock", false},
	{"libvirt-sock-ro", true},
	{"virtqemud-sock", false},
	{"virtqemud-sock-ro", true},
};

static char *socket_path(const struct options *options, const char *name)
{
	char *path;

	return asprintf(&path, "%s/%s", options->socket_dir, name) < 0 ? NULL : path;
}

static int set_access(const struct options *options, const char *path, bool readonly,
		      struct error *err)
{
	const struct group *group = options->session ? NULL : getgrnam(GROUP);
	mode_t mode = options->session ? 0600 : readonly ? 0666 : 0660;

	if (group && chown(path, (uid_t)-1, group->gr_gid) < 0)
		return error_set_errno(err, -errno, "cannot give '%s' to the group " GROUP, path);
	return chmod(path, mode) < 0
		       ? error_set_errno(err, -errno, "cannot set the mode of '%s'", path)
		       : 0;
}

static int open_one(const struct options *options, struct rpc_server *server, const char *name,
		    bool readonly, struct error *err)
{
	_cleanup_free_ char *path = socket_path(options, name);
	mode_t old;
	int fd, r;

	if (!path)
		return error_set(err, -ENOMEM, "no memory for a path");
	/* Nobody gets in before its mode is set. */
	old = umask(0177);
	fd = unix_listen(path);
	umask(old);
	if (fd == -EADDRINUSE)
		return error_set(
			err, fd,
			"somebody serves '%s' already: stop libvirtd or virtqemud (systemctl stop "
			"libvirtd.socket virtqemud.socket), or give this daemon folders of its own",
			path);
	if (fd < 0)
		return error_set_errno(err, fd, "cannot listen at '%s'", path);
	r = set_access(options, path, readonly, err);
	if (r >= 0)
		r = rpc_server_listen(server, fd, readonly, err);
	if (r < 0)
		close(fd);
	return r;
}

int sockets_open(const struct options *options, struct rpc_server *server, struct error *err)
{
	int r = store_make_folder(options->socket_dir, 0755, err);

	for (size_t i = 0; r >= 0 && i < ARRAY_SIZE(names); i++)
		r = open_one(options, server, names[i].name, names[i].readonly, err);
	return r;
}

void sockets_remove(const struct options *options)
{
	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		_cleanup_free_ char *path = socket_path(options, names[i].name);

		if (path)
			unlink(path);
	}
}

int sockets_lock(const struct options *options, struct error *err)
{
	_cleanup_free_ char *path = NULL;
	_cleanup_close_ int fd = -1;
	int r = store_make_folder(options->runtime_dir, 0755, err);

	if (r < 0)
		return r;
	if (asprintf(&path, "%s/vireod.lock", options->runtime_dir) < 0) {
		path = NULL;
		return error_set(err, -ENOMEM, "no memory for a path");
	}
	fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0)
		return error_set_errno(err, -errno, "cannot open '%s'", path);
	if (flock(fd, LOCK_EX | LOCK_NB) < 0)
		return error_set_errno(err, -errno, "another vireod uses '%s'",
				       options->runtime_dir);
	return steal_fd(&fd);
}
