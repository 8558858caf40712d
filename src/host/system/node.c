#include "host/system/node.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/fd.h"
#include "base/str.h"

#define CPUS "/sys/devices/system/cpu/"

/* A whole small file, as a string; -errno. */
static int read_text(const char *path, char *buf, size_t size)
{
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -errno : fd_read_full(fd, buf, size - 1);

	if (n < 0)
		return (int)n;
	buf[n] = '\0';
	return 0;
}

static int read_int(const char *path, int missing)
{
	char text[32];
	char *end;
	unsigned long long v;

	if (read_text(path, text, sizeof(text)) < 0)
		return missing;
	v = strtoull(text, &end, 10);
	return end == text || v > INT_MAX ? missing : (int)v;
}

/* "0-3,7" into bits; returns the highest number or -1. */
static int parse_cpu_list(const char *text, uint8_t *bits)
{
	int highest = -1;

	while (*text) {
		char *end;
		unsigned long long first = strtoull(text, &end, 10);
		unsigned long long last = first;

		if (end == text)
			break;
		if (*end == '-')
			last = strtoull(end + 1, &end, 10);
		for (unsigned long long i = first; i <= last && i < NODE_MAX_CPUS; i++) {
			if (bits)
				bits[i / 8] |= (uint8_t)(1u << (i % 8));
			highest = MAX(highest, (int)i);
		}
		text = *end == ',' ? end + 1 : end + strcspn(end, ",");
		text += *text == ',';
	}
	return highest;
}

int node_read_cpu_map(uint8_t *bits, unsigned *ret_present, unsigned *ret_online, struct error *err)
{
	char text[4096];
	unsigned online = 0;
	int r;

	memset(bits, 0, NODE_MAX_CPUS / 8);
	r = read_text(CPUS "online", text, sizeof(text));
	if (r < 0)
		return error_set_errno(err, r, "cannot read " CPUS "online");
	parse_cpu_list(text, bits);
	for (size_t i = 0; i < NODE_MAX_CPUS / 8; i++)
		online += (unsigned)__builtin_popcount(bits[i]);
	r = read_text(CPUS "present", text, sizeof(text));
	if (r < 0)
		return error_set_errno(err, r, "cannot read " CPUS "present");
	*ret_present = (unsigned)(parse_cpu_list(text, NULL) + 1);
	*ret_online = online;
	return 0;
}

void node_read_cpu_place(unsigned cpu, struct node_cpu_place *ret)
{
	char path[96];

	snprintf(path, sizeof(path), CPUS "cpu%u/topology/physical_package_id", cpu);
	ret->socket = read_int(path, -1);
	snprintf(path, sizeof(path), CPUS "cpu%u/topology/die_id", cpu);
	ret->die = read_int(path, 0);
	snprintf(path, sizeof(path), CPUS "cpu%u/topology/core_id", cpu);
	ret->core = read_int(path, -1);
}

struct shape {
	int sockets[NODE_MAX_CPUS]; /* distinct */
	unsigned n_sockets;
	struct node_cpu_place cores[NODE_MAX_CPUS]; /* distinct */
	unsigned n_cores;
};

static void shape_add(struct shape *shape, const struct node_cpu_place *place)
{
	unsigned i;

	for (i = 0; i < shape->n_sockets && shape->sockets[i] != place->socket; i++)
		;
	if (i == shape->n_sockets)
		shape->sockets[shape->n_sockets++] = place->socket;
	for (i = 0; i < shape->n_cores; i++)
		if (shape->cores[i].socket == place->socket && shape->cores[i].die == place->die &&
		    shape->cores[i].core == place->core)
			return;
	shape->cores[shape->n_cores++] = *place;
}

static unsigned count_nodes(void)
{
	char text[256];

	if (read_text("/sys/devices/system/node/online", text, sizeof(text)) < 0)
		return 1;
	return (unsigned)MAX(parse_cpu_list(text, NULL) + 1, 1);
}

static void read_shape(const uint8_t *bits, struct node_info *info)
{
	_cleanup_free_ struct shape *shape = calloc(1, sizeof(*shape));
	struct node_cpu_place place;

	*info = (struct node_info){
		.memory_bytes = info->memory_bytes,
		.cpus = info->cpus,
		.mhz = info->mhz,
		.nodes = 1,
		.sockets = 1,
		.cores = info->cpus,
		.threads = 1,
	};
	if (!shape)
		return;
	for (unsigned cpu = 0; cpu < NODE_MAX_CPUS; cpu++) {
		if (!(bits[cpu / 8] & 1u << (cpu % 8)))
			continue;
		node_read_cpu_place(cpu, &place);
		if (place.socket < 0 || place.core < 0)
			return;
		shape_add(shape, &place);
	}
	unsigned nodes = count_nodes();

	if (shape->n_sockets % nodes != 0 || shape->n_cores % shape->n_sockets != 0 ||
	    info->cpus % shape->n_cores != 0)
		return;
	info->nodes = nodes;
	info->sockets = shape->n_sockets / nodes;
	info->cores = shape->n_cores / shape->n_sockets;
	info->threads = info->cpus / shape->n_cores;
}

/* From /proc/cpuinfo, the first processor's. */
static unsigned read_mhz(void)
{
	_cleanup_fclose_ FILE *f = fopen("/proc/cpuinfo", "re");
	char line[512];

	while (f && fgets(line, sizeof(line), f))
		if (str_starts(line, "cpu MHz")) {
			const char *colon = strchr(line, ':');

			return colon ? (unsigned)strtoull(colon + 1, NULL, 10) : 0;
		}
	return 0;
}

int node_read_info(struct node_info *ret, struct error *err)
{
	uint8_t bits[NODE_MAX_CPUS / 8];
	struct node_memory mem;
	unsigned present;
	int r = node_read_memory(&mem, err);

	*ret = (struct node_info){.mhz = read_mhz()};
	if (r >= 0)
		r = node_read_cpu_map(bits, &present, &ret->cpus, err);
	if (r < 0)
		return r;
	ret->memory_bytes = mem.total_kib * KIB;
	read_shape(bits, ret);
	return 0;
}

int node_read_memory(struct node_memory *ret, struct error *err)
{
	static const struct {
		const char *name;
		size_t offset;
	} wanted[] = {
		{"MemTotal:", offsetof(struct node_memory, total_kib)},
		{"MemFree:", offsetof(struct node_memory, free_kib)},
		{"Buffers:", offsetof(struct node_memory, buffers_kib)},
		{"Cached:", offsetof(struct node_memory, cached_kib)},
	};
	char text[8192];
	int r = read_text("/proc/meminfo", text, sizeof(text));

	if (r < 0)
		return error_set_errno(err, r, "cannot read /proc/meminfo");
	*ret = (struct node_memory){0};
	for (char *rest = text, *line; (line = strsep(&rest, "\n"));) {
		for (size_t i = 0; i < ARRAY_SIZE(wanted); i++) {
			if (str_starts(line, wanted[i].name))
				*(uint64_t *)(void *)((char *)ret + wanted[i].offset) =
					strtoull(line + strlen(wanted[i].name), NULL, 10);
		}
	}
	return 0;
}

int node_read_cpu_times(int cpu, struct node_cpu_times *ret, struct error *err)
{
	_cleanup_fclose_ FILE *f = fopen("/proc/stat", "re");
	uint64_t tick_ns = NSEC_PER_SEC / (uint64_t)sysconf(_SC_CLK_TCK);
	char line[512], name[24];

	if (!f)
		return error_set_errno(err, -errno, "cannot read /proc/stat");
	snprintf(name, sizeof(name), cpu < 0 ? "cpu " : "cpu%d ", cpu);
	while (fgets(line, sizeof(line), f)) {
		uint64_t t[7] = {0};
		char *at = line + strlen(name);

		if (!str_starts(line, name))
			continue;
		/* user, nice, system, idle, iowait, irq, softirq: proc(5) */
		for (size_t i = 0; i < ARRAY_SIZE(t); i++)
			t[i] = strtoull(at, &at, 10) * tick_ns;
		*ret = (struct node_cpu_times){
			.user_ns = t[0] + t[1],
			.kernel_ns = t[2] + t[5] + t[6],
			.idle_ns = t[3],
			.iowait_ns = t[4],
		};
		return 0;
	}
	return error_set(err, -EINVAL, "this host has no processor %d", cpu);
}
