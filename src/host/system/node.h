/*
 * Facts of this host, read from /proc and /sys when they are asked for. Any thread.
 */
#pragma once

#include <stdint.h>

#include "base/error.h"

#define NODE_MAX_CPUS 4096

struct node_info {
	uint64_t memory_bytes;
	unsigned cpus; /* online */
	unsigned mhz;  /* 0: not known */
	/* nodes x sockets x cores x threads is cpus; where the host's own shape gives no such product it is 1 x 1 x cpus x 1. */
	unsigned nodes, sockets, cores, threads;
};
int node_read_info(struct node_info *ret, struct error *err);

struct node_memory {
	uint64_t total_kib, free_kib, buffers_kib, cached_kib;
};
int node_read_memory(struct node_memory *ret, struct error *err);

struct node_cpu_times {
	uint64_t user_ns, kernel_ns, idle_ns, iowait_ns;
};
/* cpu -1: all together. */
int node_read_cpu_times(int cpu, struct node_cpu_times *ret, struct error *err);

/* bits has NODE_MAX_CPUS / 8 bytes: those that are online. */
int node_read_cpu_map(uint8_t *bits, unsigned *ret_present, unsigned *ret_online,
		      struct error *err);

/* The socket and core of a processor; -1 where /sys does not say. */
struct node_cpu_place {
	int socket, die, core;
};
void node_read_cpu_place(unsigned cpu, struct node_cpu_place *ret);
