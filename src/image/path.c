/*
 * Where a file is that an image names: a hostile image could name any file that its opener may read, and show it to the guest. So
 * it must be in the image's own folder (or below), or in one that the opener allows, symbolic links followed.
 *
 * Main thread.
 */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/str.h"
#include "image/image_impl.h"

/* Is the canonical path in the folder or below it? */
static bool inside(const char *path, const char *dir)
{
	char real[PATH_MAX];
	size_t len;

	if (!realpath(dir, real))
		return false;
	len = strlen(real);
	if (len == 1)
		return true;
	return strncmp(path, real, len) == 0 && path[len] == '/';
}

static bool allowed(const struct image_config *config, const char *real, const char *own_dir)
{
	if (config->allow_any_dir || inside(real, own_dir))
		return true;
	for (const char *const *dir = config->allowed_dirs; dir && *dir; dir++) {
		if (inside(real, *dir))
			return true;
	}
	return false;
}

/* The folder of a path, with its slash; "./" where there is none. Heap. */
static char *folder_of(const char *path)
{
	const char *slash = path ? strrchr(path, '/') : NULL;

	return slash ? strndup(path, (size_t)(slash - path) + 1) : strdup("./");
}

int image_path_resolve(const struct image_config *config, const char *image_path, const char *name,
		       const char *what, char **ret, struct error *err)
{
	_cleanup_free_ char *dir = folder_of(image_path);
	_cleanup_free_ char *path = NULL;
	char real[PATH_MAX];

	if (str_starts(name, "json:"))
		return error_set(err, -EINVAL, "%s: its %s '%s' is no path of a file", image_path,
				 what, name);
	if (!dir || asprintf(&path, "%s%s", name[0] == '/' ? "" : dir, name) < 0) {
		path = NULL;
		return error_set(err, -ENOMEM, "no memory for a path");
	}
	if (!realpath(path, real))
		return error_set_errno(err, -errno, "%s: its %s '%s' cannot be found", image_path,
				       what, path);
	if (!allowed(config, real, dir))
		return error_set(err, -EPERM,
				 "%s: its %s is '%s', outside the image's folder; allow that "
				 "folder by name if it is meant",
				 image_path, what, real);
	*ret = steal_ptr(&path);
	return 0;
}
