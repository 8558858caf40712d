/*
 * The kernel's vhost interface behind vhost.h: one descriptor a queue pair (net) or a device (vsock).
 *
 * It holds no state of rings but what is needed to turn the dirty log on and off while they run.
 */
#include "vm/net/vhost.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/vhost.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/cleanup.h"

#define VHOST_MAX_RINGS 2
#define VHOST_MAX_MEM   64 /* regions, the kernel's default bound */

struct vhost {
	int fd;
	uint64_t available; /* features of the kernel */
	uint64_t features;  /* set, without the log's */
	bool logging;
	bool started[VHOST_MAX_RINGS];
	struct vhost_ring rings[VHOST_MAX_RINGS];
};

static int vhost_ioctl(const struct vhost *vhost, unsigned long request, void *arg)
{
	return ioctl(vhost->fd, request, arg) < 0 ? -errno : 0;
}

static int vhost_open(const char *node, const char *module, const char *who, struct vhost **ret,
		      struct error *err)
{
	struct vhost *vhost;
	int r;

	_cleanup_close_ int fd = open(node, O_RDWR | O_CLOEXEC);

	if (fd < 0 && (errno == ENOENT || errno == ENODEV || errno == ENXIO))
		return error_set(err, -EOPNOTSUPP,
				 "%s: this host has no %s; \"modprobe %s\" as root makes it where "
				 "the kernel has the module",
				 who, node, module);
	if (fd < 0)
		return error_set_errno(err, -errno, "%s: %s cannot be opened", who, node);
	vhost = calloc(1, sizeof(*vhost));
	if (!vhost)
		return error_set(err, -ENOMEM, "%s: out of memory", who);
	vhost->fd = steal_fd(&fd);
	r = vhost_ioctl(vhost, VHOST_SET_OWNER, NULL);
	if (r >= 0)
		r = vhost_ioctl(vhost, VHOST_GET_FEATURES, &vhost->available);
	if (r < 0) {
		vhost_close(vhost);
		return error_set_errno(err, r, "%s: %s refuses to serve", who, node);
	}
	*ret = vhost;
	return 0;
}

int vhost_net_open(const char *who, struct vhost **ret, struct error *err)
{
	return vhost_open("/dev/vhost-net", "vhost_net", who, ret, err);
}

int vhost_vsock_open(const char *who, struct vhost **ret, struct error *err)
{
	return vhost_open("/dev/vhost-vsock", "vhost_vsock", who, ret, err);
}

void vhost_close(struct vhost *vhost)
{
	if (!vhost)
		return;
	close(vhost->fd);
	free(vhost);
}

/* --- settings --- */

uint64_t vhost_features(const struct vhost *vhost)
{
	return vhost->available & ~(BIT(VHOST_F_LOG_ALL) | BIT(VHOST_NET_F_VIRTIO_NET_HDR));
}

static int vhost_apply_features(struct vhost *vhost)
{
	uint64_t features = vhost->features | (vhost->logging ? BIT(VHOST_F_LOG_ALL) : 0);

	return vhost_ioctl(vhost, VHOST_SET_FEATURES, &features);
}

int vhost_set_features(struct vhost *vhost, uint64_t features)
{
	vhost->features = features & vhost_features(vhost);
	return vhost_apply_features(vhost);
}

int vhost_set_mem(struct vhost *vhost, const struct vhost_mem *mem, size_t n)
{
	struct vhost_memory *table;
	int r;

	if (n > VHOST_MAX_MEM)
		return -E2BIG;
	table = calloc(1, sizeof(*table) + n * sizeof(table->regions[0]));
	if (!table)
		return -ENOMEM;
	table->nregions = (unsigned)n;
	for (size_t i = 0; i < n; i++) {
		table->regions[i] = (struct vhost_memory_region){
			.guest_phys_addr = mem[i].gpa,
			.memory_size = mem[i].size,
			.userspace_addr = (uintptr_t)mem[i].hva,
		};
	}
	r = vhost_ioctl(vhost, VHOST_SET_MEM_TABLE, table);
	free(table);
	return r;
}

/* --- rings --- */

static int vhost_set_addr(struct vhost *vhost, unsigned index)
{
	const struct vhost_ring *ring = &vhost->rings[index];
	struct vhost_vring_addr addr = {
		.index = index,
		.flags = vhost->logging ? BIT(VHOST_VRING_F_LOG) : 0,
		.desc_user_addr = (uintptr_t)ring->desc,
		.avail_user_addr = (uintptr_t)ring->avail,
		.used_user_addr = (uintptr_t)ring->used,
		.log_guest_addr = ring->used_gpa,
	};

	return vhost_ioctl(vhost, VHOST_SET_VRING_ADDR, &addr);
}

static int vhost_set_fd(struct vhost *vhost, unsigned long request, unsigned index, int fd)
{
	struct vhost_vring_file file = {.index = index, .fd = fd};

	return vhost_ioctl(vhost, request, &file);
}

int vhost_ring_start(struct vhost *vhost, unsigned index, const struct vhost_ring *ring)
{
	struct vhost_vring_state num = {.index = index, .num = ring->size};
	struct vhost_vring_state base = {.index = index, .num = ring->base};
	int r;

	if (index >= VHOST_MAX_RINGS)
		return -EINVAL;
	vhost->rings[index] = *ring;
	r = vhost_ioctl(vhost, VHOST_SET_VRING_NUM, &num);
	if (r >= 0)
		r = vhost_ioctl(vhost, VHOST_SET_VRING_BASE, &base);
	if (r >= 0)
		r = vhost_set_addr(vhost, index);
	if (r >= 0)
		r = vhost_set_fd(vhost, VHOST_SET_VRING_CALL, index, ring->call_fd);
	if (r >= 0)
		r = vhost_set_fd(vhost, VHOST_SET_VRING_KICK, index, ring->kick_fd);
	vhost->started[index] = r >= 0;
	return r;
}

int vhost_ring_stop(struct vhost *vhost, unsigned index, uint16_t *ret_base)
{
	struct vhost_vring_state base = {.index = index};
	int r;

	if (index >= VHOST_MAX_RINGS)
		return -EINVAL;
	r = vhost_ioctl(vhost, VHOST_GET_VRING_BASE, &base);
	if (r < 0)
		return r;
	/* The caller's eventfds are its own again. */
	vhost_set_fd(vhost, VHOST_SET_VRING_KICK, index, -1);
	vhost_set_fd(vhost, VHOST_SET_VRING_CALL, index, -1);
	vhost->started[index] = false;
	*ret_base = (uint16_t)base.num;
	return 0;
}

/* --- net and vsock --- */

int vhost_net_attach(struct vhost *vhost, unsigned index, int tap_fd)
{
	return vhost_set_fd(vhost, VHOST_NET_SET_BACKEND, index, tap_fd);
}

int vhost_vsock_set_cid(struct vhost *vhost, uint64_t cid)
{
	return vhost_ioctl(vhost, VHOST_VSOCK_SET_GUEST_CID, &cid);
}

int vhost_vsock_run(struct vhost *vhost, bool on)
{
	int value = on;

	return vhost_ioctl(vhost, VHOST_VSOCK_SET_RUNNING, &value);
}

/* --- dirty log --- */

int vhost_set_log(struct vhost *vhost, uint64_t *bitmap, size_t bytes)
{
	uint64_t base = (uintptr_t)bitmap;
	int r;

	(void)bytes; /* the kernel checks the mapping as it writes */
	if (!(vhost->available & BIT(VHOST_F_LOG_ALL)))
		return -EOPNOTSUPP;
	/* On: the log stands before anything is logged. Off: nothing is logged before the log goes. */
	if (bitmap) {
		r = vhost_ioctl(vhost, VHOST_SET_LOG_BASE, &base);
		if (r < 0)
			return r;
	}
	vhost->logging = bitmap != NULL;
	r = vhost_apply_features(vhost);
	for (unsigned i = 0; i < VHOST_MAX_RINGS && r >= 0; i++) {
		if (vhost->started[i])
			r = vhost_set_addr(vhost, i);
	}
	return r;
}
