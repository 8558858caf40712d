#include "vm/char/chardev.h"

#include <errno.h>
#include <stdlib.h>

void chardev_attach(struct chardev *chr, const struct chardev_events *events)
{
	chr->events = events ? *events : (struct chardev_events){0};
	if (!events)
		return;
	if (chr->ops->attached)
		chr->ops->attached(chr);
	chardev_accept_input(chr);
}

size_t chardev_write(struct chardev *chr, const uint8_t *data, size_t len)
{
	return chr->ops->write(chr, data, len);
}

void chardev_accept_input(struct chardev *chr)
{
	if (chr->ops->accept_input)
		chr->ops->accept_input(chr);
}

void chardev_free(struct chardev *chr)
{
	if (chr)
		chr->ops->free(chr);
}

/* --- null: takes everything, sends nothing --- */

static size_t null_write(struct chardev *chr, const uint8_t *data, size_t len)
{
	(void)chr;
	(void)data;
	return len;
}

static void null_free(struct chardev *chr)
{
	free(chr);
}

static const struct chardev_ops null_ops = {
	.type = "null",
	.write = null_write,
	.free = null_free,
};

int chardev_null_open(struct chardev **ret)
{
	struct chardev *chr = calloc(1, sizeof(*chr));

	if (!chr)
		return -ENOMEM;
	chr->ops = &null_ops;
	*ret = chr;
	return 0;
}
