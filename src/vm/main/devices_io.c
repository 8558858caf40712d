/*
 * From the spec to disks, networks and the small virtio devices: opens each backend and makes its device. Part of devices.c's
 * work; in a file of its own because backends bring their own loops.
 */
#include "vm/main/devices_int.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/str.h"
#include "vm/devices/virtio_balloon.h"
#include "vm/devices/virtio_blk.h"
#include "vm/devices/virtio_net.h"
#include "vm/devices/virtio_rng.h"
#include "vm/devices/virtio_vsock.h"

/* --- disks --- */

static int start_io(struct loop_thread **ret, const char *id, struct error *err)
{
	char name[16];
	int r;

	snprintf(name, sizeof(name), "io-%.11s", id);
	r = loop_thread_start(name, ret);
	return r < 0 ? error_set_errno(err, r, "cannot start the I/O thread of '%s'", id) : 0;
}

#define MAX_BACKING_DIRS 16u

/* Cuts text at its colons. */
static int split_dirs(char *text, const char **dirs)
{
	unsigned n = 0;
	char *dir;

	while ((dir = strsep(&text, ":"))) {
		if (n == MAX_BACKING_DIRS)
			return -E2BIG;
		if (*dir)
			dirs[n++] = dir;
	}
	return 0;
}

static int open_disk(const struct spec_disk *spec, struct image **ret, struct error *err)
{
	static const enum image_cache caches[] = {
		[SPEC_CACHE_WRITEBACK] = IMAGE_CACHE_WRITEBACK,
		[SPEC_CACHE_NONE] = IMAGE_CACHE_NONE,
		[SPEC_CACHE_WRITETHROUGH] = IMAGE_CACHE_WRITETHROUGH,
		[SPEC_CACHE_UNSAFE] = IMAGE_CACHE_UNSAFE,
	};
	const char *dirs[MAX_BACKING_DIRS + 1] = {NULL};
	_cleanup_free_ char *text = spec->backing_dirs ? strdup(spec->backing_dirs) : NULL;
	struct image_config config = {
		.path = spec->path,
		.fd = spec->fd,
		.format = spec->format,
		.readonly = spec->readonly,
		.no_lock = !spec->lock,
		.cache = caches[spec->cache],
		.discard = spec->discard ? IMAGE_DISCARD_UNMAP : IMAGE_DISCARD_IGNORE,
		.allowed_dirs = dirs,
	};

	if (split_dirs(text, dirs) < 0)
		return error_set(err, -EINVAL, "disk '%s': backing-dirs has more than %u folders",
				 spec->id, MAX_BACKING_DIRS);

	if (str_eq(spec->engine, "io_uring"))
		config.engine = IMAGE_ENGINE_IO_URING;
	else if (str_eq(spec->engine, "threads"))
		config.engine = IMAGE_ENGINE_THREADS;
	return image_open(&config, ret, err) < 0 ? error_prefix(err, "disk '%s'", spec->id) : 0;
}

int devices_add_disk(struct machine *m, size_t index, struct error *err)
{
	const struct spec_disk *spec = &m->spec->disks[index];
	struct machine_disk *disk = &m->disks[index];
	struct virtio_blk_config config = {
		.id = spec->id,
		.serial = spec->serial,
		.queues = spec->queues,
		.queue_size = (uint16_t)spec->queue_size,
		.slot = spec->slot,
	};
	struct loop *loop;
	int r;

	disk->spec = spec;
	r = open_disk(spec, &disk->image, err);
	if (r >= 0 && spec->iothread)
		r = start_io(&disk->io, spec->id, err);
	if (r < 0)
		return r;
	config.image = disk->image;
	if (disk->io) {
		loop = loop_thread_loop(disk->io);
		config.loops = &loop;
		config.n_loops = 1;
	}
	return devices_add(m, virtio_blk_new(&m->env, &config, &disk->dev, err), &disk->dev);
}

/* --- networks --- */

static int open_net(const struct spec_net *spec, struct loop *loop, struct net_backend **ret,
		    struct error *err)
{
	/* passt starts while the rest of the machine is built; machine_wait_nets() hears how that went. */
	const struct net_user_config user = {.hostfwd = (const char *const *)spec->hostfwd,
					     .defer = true};
	const struct net_tap_config tap = {
		.ifname = spec->ifname,
		.fds = spec->n_fds > 0 ? spec->fds : NULL,
		.n_queues = spec->queues,
		.vhost = spec->vhost,
	};

	switch (spec->kind) {
	case SPEC_NET_USER:
		return net_user_open(loop, &user, ret, err);
	case SPEC_NET_TAP:
		return net_tap_open(loop, &tap, ret, err);
	case SPEC_NET_NULL:
		break;
	}
	return net_null_open(loop, ret);
}

/* A backend and its device belong to one loop: both are made on its thread. */
struct net_build {
	const struct device_env *env;
	const struct spec_net *spec;
	struct machine_net *net;
	struct error *err;
	int result;
};

static void build_net(void *opaque)
{
	struct net_build *build = opaque;
	const struct spec_net *spec = build->spec;
	struct virtio_net_config config = {
		.id = spec->id,
		.queue_pairs = spec->queues,
		.queue_size = (uint16_t)spec->queue_size,
		.mtu = (uint16_t)spec->mtu,
		.vhost = spec->vhost,
		.slot = spec->slot,
	};

	memcpy(config.mac, spec->mac, sizeof(config.mac));
	build->result = open_net(spec, build->env->loop, &config.backend, build->err);
	if (build->result < 0)
		return;
	build->result = virtio_net_new(build->env, &config, &build->net->dev, build->err);
	if (build->result < 0)
		net_backend_free(config.backend);
	else
		build->net->backend = config.backend;
}

/* vhost writes guest memory inside the kernel; an accelerator that must see each write cannot have that. */
static int check_vhost(const struct machine *m, const char *what, struct error *err)
{
	if (accel_sees_writes(m->accel))
		return 0;
	return error_set(
		err, -EOPNOTSUPP,
		"%s: vhost writes guest memory where accelerator '%s' cannot see it: leave it "
		"out, or use --accel kvm",
		what, accel_name(m->accel));
}

int devices_add_net(struct machine *m, size_t index, struct error *err)
{
	const struct spec_net *spec = &m->spec->nets[index];
	struct machine_net *net = &m->nets[index];
	struct device_env env = m->env;
	struct net_build build = {.env = &env, .spec = spec, .net = net, .err = err};

	if (spec->vhost && check_vhost(m, "vhost=on", err) < 0)
		return error_prefix(err, "network '%s'", spec->id);
	if (spec->iothread) {
		int r = start_io(&net->io, spec->id, err);

		if (r < 0)
			return r;
		env.loop = loop_thread_loop(net->io);
	}
	loop_call(env.loop, build_net, &build);
	if (build.result < 0)
		return error_prefix(err, "network '%s'", spec->id);
	return devices_add(m, 0, &net->dev);
}

int machine_wait_nets(struct machine *m, struct error *err)
{
	for (size_t i = 0; i < m->spec->n_nets; i++) {
		if (m->nets[i].backend && net_backend_wait(m->nets[i].backend, err) < 0)
			return error_prefix(err, "network '%s'", m->spec->nets[i].id);
	}
	return 0;
}

/* --- the small virtio devices --- */

int devices_add_small(struct machine *m, struct error *err)
{
	const struct spec *spec = m->spec;
	const struct virtio_balloon_config balloon = {
		.id = "balloon0",
		.deflate_on_oom = true,
		.free_page_reporting = spec->balloon_free_page_reporting,
		.slot = -1,
	};
	const struct virtio_vsock_config vsock = {.id = "vsock0",
						  .cid = spec->vsock.cid,
						  .slot = -1};
	struct device *dev = NULL;
	int r = 0;

	if (spec->rng)
		r = devices_add(m, virtio_rng_new(&m->env, "rng0", -1, &dev, err), &dev);
	if (r >= 0 && spec->balloon) {
		r = devices_add(m, virtio_balloon_new(&m->env, &balloon, &dev, err), &dev);
		m->balloon = r >= 0 ? dev : NULL;
	}
	if (r >= 0 && spec->vsock.present)
		r = check_vhost(m, "--vsock", err);
	if (r >= 0 && spec->vsock.present)
		r = devices_add(m, virtio_vsock_new(&m->env, &vsock, &dev, err), &dev);
	return r;
}
