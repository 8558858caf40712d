/* A character backend that appends to a file (or writes to a device node or a FIFO); no input. Written on the loop. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/str.h"
#include "vm/char/stream.h"

struct chardev_file {
	struct stream stream;
	int fd;
};

static void file_hangup(struct stream *s)
{
	(void)s; /* nothing to come back: output is dropped from now on */
}

static const struct stream_hooks file_hooks = {.hangup = file_hangup};

static void file_free(struct chardev *chr)
{
	struct stream *s = container_of(chr, struct stream, chr);
	struct chardev_file *file = container_of(s, struct chardev_file, stream);

	stream_fini(s);
	if (file->fd >= 0)
		close(file->fd);
	free(file);
}

static const struct chardev_ops file_ops = {
	.type = "file",
	.write = stream_write,
	.free = file_free,
};

int chardev_file_open(struct loop *loop, const char *path, struct chardev **ret, struct error *err)
{
	struct chardev_file *file = calloc(1, sizeof(*file));
	int r;

	if (!file)
		return error_set(err, -ENOMEM, "Out of memory for the output file %s", path);
	file->stream.chr.ops = &file_ops;
	str_copy(file->stream.chr.path, sizeof(file->stream.chr.path), path);
	file->fd =
		open(path, O_WRONLY | O_CREAT | O_APPEND | O_NONBLOCK | O_NOCTTY | O_CLOEXEC, 0666);
	r = file->fd < 0 ? -errno : stream_init(&file->stream, loop, &file_hooks);
	if (r < 0) {
		file_free(&file->stream.chr);
		if (r == -ENXIO)
			return error_set(err, r, "Nobody reads the FIFO %s: start its reader first",
					 path);
		return error_set_errno(err, r, "Cannot open the output file %s", path);
	}
	stream_start(&file->stream, -1, file->fd);
	*ret = &file->stream.chr;
	return 0;
}
