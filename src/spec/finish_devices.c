/*
 * Validation and derived values of disks and network cards: names, addresses and slots that are not given are made here, and what two devices
 * cannot share is refused.
 */
#include "spec/spec_int.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/bits.h"
#include "base/str.h"

#define DEFAULT_DISK_QUEUES 4

static bool id_taken(const struct spec *spec, const char *id)
{
	for (size_t i = 0; i < spec->n_disks; i++)
		if (spec->disks[i].id && str_eq(spec->disks[i].id, id))
			return true;
	for (size_t i = 0; i < spec->n_nets; i++)
		if (spec->nets[i].id && str_eq(spec->nets[i].id, id))
			return true;
	return false;
}

/* Checks a given id, or makes the first free one of disk0, disk1, ... */
static int finish_id(const struct spec *spec, const char *prefix, char **id, struct error *err)
{
	char text[32];

	for (unsigned n = 0; !*id; n++) {
		snprintf(text, sizeof(text), "%s%u", prefix, n);
		if (id_taken(spec, text))
			continue;
		*id = strdup(text);
		if (!*id)
			return error_set(err, -ENOMEM, "no memory for the name '%s'", text);
		return 0;
	}
	snprintf(text, sizeof(text), "--%s: id", prefix);
	return spec_check_name(text, *id, err);
}

static int check_ids_differ(const struct spec *spec, struct error *err)
{
	const char *ids[SPEC_MAX_DISKS + SPEC_MAX_NETS];
	size_t n = 0;

	for (size_t i = 0; i < spec->n_disks; i++)
		ids[n++] = spec->disks[i].id;
	for (size_t i = 0; i < spec->n_nets; i++)
		ids[n++] = spec->nets[i].id;
	for (size_t i = 0; i < n; i++)
		for (size_t j = 0; j < i; j++)
			if (str_eq(ids[i], ids[j]))
				return error_set(err, -EEXIST,
						 "two devices are called '%s': give one of them "
						 "another id=",
						 ids[i]);
	return 0;
}

static int check_queue_size(const char *option, const char *id, uint32_t size, struct error *err)
{
	return is_power_of_two(size) ? 0
				     : error_set(err, -EINVAL,
						 "--%s: %s: queue-size %" PRIu32
						 " is no power of two: give 128, 256, 512 or 1024",
						 option, id, size);
}

/* --- disks --- */

static int stat_disk(const struct spec_disk *disk, struct stat *ret)
{
	return disk->path ? stat(disk->path, ret) : fstat(disk->fd, ret);
}

/* The same text, or the same file or block device by whatever names. A disk that is not there yet is not found here. */
static bool same_disk(const struct spec_disk *a, const struct spec_disk *b)
{
	struct stat sa, sb;

	if (a->path && b->path && str_eq(a->path, b->path))
		return true;
	if (!a->path && !b->path && a->fd == b->fd)
		return true;
	if (stat_disk(a, &sa) < 0 || stat_disk(b, &sb) < 0)
		return false;
	if (S_ISBLK(sa.st_mode) && S_ISBLK(sb.st_mode))
		return sa.st_rdev == sb.st_rdev;
	return S_ISREG(sa.st_mode) && sa.st_dev == sb.st_dev && sa.st_ino == sb.st_ino;
}

static int check_disks_differ(const struct spec *spec, struct error *err)
{
	for (size_t i = 0; i < spec->n_disks; i++) {
		for (size_t j = 0; j < i; j++) {
			const struct spec_disk *a = &spec->disks[j];
			const struct spec_disk *b = &spec->disks[i];

			if (!same_disk(a, b))
				continue;
			return error_set(err, -EEXIST,
					 "--disk: %s and %s are both '%s': a disk can be in a "
					 "machine once, take one of them out",
					 a->id, b->id,
					 b->path   ? b->path
					 : a->path ? a->path
						   : "the same descriptor");
		}
	}
	return 0;
}

static int finish_disk(struct spec *spec, struct spec_disk *disk, struct error *err)
{
	int r = finish_id(spec, "disk", &disk->id, err);

	if (r < 0)
		return r;
	if (!disk->format || !disk->engine)
		return error_set(err, -ENOMEM, "no memory for %s", disk->id);
	if (!disk->path && disk->fd < 0)
		return error_set(err, -EINVAL, "--disk: %s has no image: give path=FILE (or fd=N)",
				 disk->id);
	if (disk->path && disk->fd >= 0)
		return error_set(err, -EINVAL,
				 "--disk: %s has both path=%s and fd=%" PRId32 ": give one",
				 disk->id, disk->path, disk->fd);
	for (const char *c = disk->serial ? disk->serial : ""; *c; c++)
		if (*c < ' ' || *c > '~')
			return error_set(err, -EINVAL,
					 "--disk: %s: serial '%s' has more than plain characters",
					 disk->id, disk->serial);
	if (disk->queues == 0)
		disk->queues = MIN(spec->cpu.count, (uint32_t)DEFAULT_DISK_QUEUES);
	return check_queue_size("disk", disk->id, disk->queue_size, err);
}

int spec_finish_disks(struct spec *spec, struct error *err)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < spec->n_disks; i++)
		r = finish_disk(spec, &spec->disks[i], err);
	return r < 0 ? r : check_disks_differ(spec, err);
}

/* --- network cards --- */

static bool mac_taken(const struct spec *spec, const uint8_t mac[6])
{
	for (size_t i = 0; i < spec->n_nets; i++)
		if (spec->nets[i].mac_given && memcmp(spec->nets[i].mac, mac, 6) == 0)
			return true;
	return false;
}

/* 52:54:00 and three bytes that follow from the machine's name and the card's place, so that they are the same next time.
 * FNV-1a, 32 bits. */
static void make_mac(const struct spec *spec, size_t index, uint8_t ret[6])
{
	uint32_t hash = 2166136261u;

	for (const char *c = spec->name; *c; c++)
		hash = (hash ^ (uint8_t)*c) * 16777619u;
	hash = (hash ^ (uint8_t)index) * 16777619u;
	do {
		ret[0] = 0x52;
		ret[1] = 0x54;
		ret[2] = 0x00;
		ret[3] = (uint8_t)(hash >> 16);
		ret[4] = (uint8_t)(hash >> 8);
		ret[5] = (uint8_t)hash;
		hash++;
	} while (mac_taken(spec, ret));
}

static int check_user(const struct spec_net *net, struct error *err)
{
	const char *wrong = net->ifname  ? "ifname"
			    : net->n_fds ? "fds"
			    : net->vhost ? "vhost"
					 : NULL;

	if (wrong)
		return error_set(err, -EINVAL,
				 "--net: %s: %s= belongs to a tap: give --net tap,%s=... or leave "
				 "it out",
				 net->id, wrong, wrong);
	if (net->queues > 1)
		return error_set(
			err, -EINVAL,
			"--net: %s: only a tap has more than one queue pair: leave queues= "
			"out",
			net->id);
	if (net->kind == SPEC_NET_NULL && net->n_hostfwd)
		return error_set(err, -EINVAL,
				 "--net: %s: hostfwd= belongs to type user: leave it out", net->id);
	return 0;
}

static int finish_tap(struct spec_net *net, struct error *err)
{
	if (net->n_hostfwd)
		return error_set(
			err, -EINVAL,
			"--net: %s: hostfwd= belongs to type user: a tap needs no forwards",
			net->id);
	if (!net->ifname && !net->n_fds)
		return error_set(err, -EINVAL, "--net: %s: which tap? give ifname=NAME (or fds=N)",
				 net->id);
	if (net->ifname && net->n_fds)
		return error_set(err, -EINVAL, "--net: %s has both ifname=%s and fds=: give one",
				 net->id, net->ifname);
	if (net->ifname && strpbrk(net->ifname, "/ \t\n%:"))
		return error_set(err, -EINVAL, "--net: %s: '%s' cannot be the name of an interface",
				 net->id, net->ifname);
	if (net->n_fds && net->queues == 1)
		net->queues = (uint32_t)net->n_fds;
	if (net->n_fds && net->queues != net->n_fds)
		return error_set(err, -EINVAL,
				 "--net: %s: %" PRIu32
				 " queue pairs need as many descriptors, fds= "
				 "has %zu",
				 net->id, net->queues, net->n_fds);
	return 0;
}

static int finish_net(struct spec *spec, size_t index, struct error *err)
{
	struct spec_net *net = &spec->nets[index];
	int r = finish_id(spec, "net", &net->id, err);

	if (r < 0)
		return r;
	if (!net->mac_given) {
		make_mac(spec, index, net->mac);
		net->mac_given = true;
	}
	r = net->kind == SPEC_NET_TAP ? finish_tap(net, err) : check_user(net, err);
	return r < 0 ? r : check_queue_size("net", net->id, net->queue_size, err);
}

static int check_nets_differ(const struct spec_net *a, const struct spec_net *b, struct error *err)
{
	if (memcmp(a->mac, b->mac, sizeof(a->mac)) == 0)
		return error_set(err, -EEXIST,
				 "--net: %s and %s have the same address, mac=%02x:%02x:%02x:%02x:"
				 "%02x:%02x: change one of them",
				 a->id, b->id, a->mac[0], a->mac[1], a->mac[2], a->mac[3],
				 a->mac[4], a->mac[5]);
	if (a->ifname && b->ifname && str_eq(a->ifname, b->ifname))
		return error_set(err, -EEXIST,
				 "--net: %s and %s are both on '%s': a tap has one card", a->id,
				 b->id, a->ifname);
	for (size_t i = 0; i < a->n_fds; i++)
		for (size_t j = 0; j < b->n_fds; j++)
			if (a->fds[i] == b->fds[j])
				return error_set(err, -EEXIST,
						 "--net: %s and %s both have descriptor %d: each "
						 "queue needs its own",
						 a->id, b->id, a->fds[i]);
	return 0;
}

/* Do two forwards want the same port of the host, so that the second cannot be opened? */
static bool forwards_clash(const char *a, const char *b)
{
	static const uint8_t any[16];
	struct spec_hostfwd fa, fb;

	if (spec_hostfwd_parse(a, &fa, NULL) < 0 || spec_hostfwd_parse(b, &fb, NULL) < 0)
		return false;
	if (fa.udp != fb.udp || fa.host_port != fb.host_port)
		return false;
	if (fa.family == 0 || fb.family == 0)
		return true;
	return fa.family == fb.family &&
	       (memcmp(fa.host_addr, fb.host_addr, 16) == 0 || memcmp(fa.host_addr, any, 16) == 0 ||
		memcmp(fb.host_addr, any, 16) == 0);
}

static int check_forwards_differ(const struct spec_net *a, const struct spec_net *b,
				 struct error *err)
{
	for (size_t i = 0; i < a->n_hostfwd; i++)
		for (size_t j = 0; j < (a == b ? i : b->n_hostfwd); j++)
			if (forwards_clash(a->hostfwd[i], b->hostfwd[j]))
				return error_set(err, -EEXIST,
						 "--net: hostfwd=%s and hostfwd=%s take the same "
						 "port of the host: change one of them",
						 b->hostfwd[j], a->hostfwd[i]);
	return 0;
}

int spec_finish_nets(struct spec *spec, struct error *err)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < spec->n_nets; i++)
		r = finish_net(spec, i, err);
	for (size_t i = 0; r == 0 && i < spec->n_nets; i++) {
		for (size_t j = 0; r == 0 && j < i; j++)
			r = check_nets_differ(&spec->nets[j], &spec->nets[i], err);
		for (size_t j = 0; r == 0 && j <= i; j++)
			r = check_forwards_differ(&spec->nets[i], &spec->nets[j], err);
	}
	return r < 0 ? r : check_ids_differ(spec, err);
}

/* --- PCI slots --- */

int spec_check_slots(const struct spec *spec, struct error *err)
{
	const char *owner[32] = {NULL};

	for (size_t i = 0; i < spec->n_disks + spec->n_nets; i++) {
		bool is_disk = i < spec->n_disks;
		size_t n = is_disk ? i : i - spec->n_disks;
		int32_t slot = is_disk ? spec->disks[n].slot : spec->nets[n].slot;
		const char *id = is_disk ? spec->disks[n].id : spec->nets[n].id;

		if (slot < 0)
			continue;
		if (owner[slot])
			return error_set(err, -EEXIST,
					 "%s and %s both want slot=%" PRId32 ": change one of them",
					 owner[slot], id, slot);
		owner[slot] = id;
	}
	return 0;
}
