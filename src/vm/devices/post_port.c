/*
 * The diagnostic port of a PC (IBM PC/AT technical reference). Kernels write to it thousands of times while they boot, only
 * for the delay: an eventfd that nobody reads takes the writes where the accelerator can do that by itself, so that
 * they do not leave the kernel. Reads give all ones. Has no state. vCPU threads, without a lock.
 */
#include "vm/devices/post_port.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/fd.h"
#include "vm/bus/platform.h"

struct post_port {
	struct device dev;
	struct bus_region region;
	int fd;
	bool doorbell;
};

static uint64_t post_port_read(void *opaque, uint64_t offset, unsigned size)
{
	(void)opaque;
	(void)offset;
	(void)size;
	return UINT64_MAX;
}

static void post_port_write(void *opaque, uint64_t offset, unsigned size, uint64_t value)
{
	(void)opaque;
	(void)offset;
	(void)size;
	(void)value;
}

static const struct bus_ops post_port_bus_ops = {.read = post_port_read, .write = post_port_write};

static void post_port_free(struct device *dev)
{
	struct post_port *post = container_of(dev, struct post_port, dev);
	struct bus_host *host = dev->env.host;

	if (post->doorbell)
		host->ops->doorbell_del(host, BUS_PIO, PLATFORM_POST_PORT, 1, post->fd);
	if (post->fd >= 0)
		close(post->fd);
	bus_unmap(dev->env.bus, &post->region);
	device_fini(dev);
	free(post);
}

static const struct device_ops post_port_ops = {
	.type = "post-port",
	.free = post_port_free,
};

int post_port_new(const struct device_env *env, const struct post_port_config *config,
		  struct device **ret, struct error *err)
{
	struct post_port *post = calloc(1, sizeof(*post));
	struct bus_host *host = env->host;
	int r;

	if (!post)
		return error_set(err, -ENOMEM, "Out of memory for %s", config->id);
	device_init(&post->dev, &post_port_ops, config->id, env);
	post->fd = -1;
	post->region = (struct bus_region){
		.name = post->dev.id,
		.ops = &post_port_bus_ops,
		.opaque = post,
		.space = BUS_PIO,
		.base = PLATFORM_POST_PORT,
		.size = 1,
	};
	r = bus_map(env->bus, &post->region);
	if (r >= 0)
		r = post->fd = eventfd_new();
	if (r < 0) {
		post_port_free(&post->dev);
		return error_set_errno(err, r, "Cannot place %s at port 0x%x", config->id,
				       PLATFORM_POST_PORT);
	}
	/* Where it fails, writes reach the region. */
	post->doorbell =
		host->ops->doorbell_add(host, BUS_PIO, PLATFORM_POST_PORT, 1, post->fd) >= 0;
	*ret = &post->dev;
	return 0;
}
