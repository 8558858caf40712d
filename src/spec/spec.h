/*
 * What a machine IS: plain data, with defaults and validation. Command line, JSON and (later) libvirt XML are codecs of it.
 * All strings are owned by the spec (heap), NULL when not given. Lists are arrays with a count.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

#define SPEC_MAX_VCPUS 255
#define SPEC_MAX_DISKS 64
#define SPEC_MAX_NETS  32

#define SPEC_MIN_MEMORY_BYTES (32ULL << 20)
#define SPEC_MAX_MEMORY_BYTES                                                                      \
	(32ULL << 40) /* what a process can map, with room for devices above it */
#define SPEC_MAX_DISK_QUEUES 64
#define SPEC_MAX_NET_QUEUES  8   /* pairs */
#define SPEC_MAX_SOCKET_PATH 107 /* bytes; sun_path of unix(7) without its end */

enum spec_accel {
	SPEC_ACCEL_AUTO,
	SPEC_ACCEL_KVM,
	SPEC_ACCEL_SOFT,
	SPEC_ACCEL_NULL,
};

enum spec_engine {
	SPEC_ENGINE_AUTO, /* translates where the host allows it */
	SPEC_ENGINE_INTERPRETER,
};

struct spec_cpu {
	uint32_t count;                   /* vCPUs, 1 to 255; default 1 */
	uint32_t sockets, cores, threads; /* product is count; default count x 1 x 1 as cores */
};

struct spec_memory {
	uint64_t size_bytes; /* 32 MiB at least, a multiple of 4 KiB; default 512 MiB */
	bool hugepages;
	uint64_t hugepage_bytes; /* 2 MiB or 1 GiB; default 2 MiB when hugepages */
	bool mergeable;
	bool prealloc;
	char *path; /* file that backs RAM instead of a memfd */
};

struct spec_boot {
	char *kernel; /* bzImage, ELF with a PVH note, or multiboot 1 */
	char *initrd;
	char *cmdline; /* --append */
};

enum spec_cache {
	SPEC_CACHE_WRITEBACK,
	SPEC_CACHE_NONE,
	SPEC_CACHE_WRITETHROUGH,
	SPEC_CACHE_UNSAFE,
};

struct spec_disk {
	char *id; /* default disk0, disk1, ... */
	char *path;
	int fd;             /* -1: none; an inherited descriptor instead of path */
	char *format;       /* "raw", "qcow2" */
	char *backing_dirs; /* apart by colons; where files that the image names may be */
	bool readonly;
	char *serial; /* at most 20 characters */
	enum spec_cache cache;
	char *engine;        /* "auto", "io_uring", "threads" */
	bool discard;        /* pass discards on; default true */
	bool lock;           /* default true */
	uint32_t queues;     /* default: min(vCPUs, 4) */
	uint32_t queue_size; /* default 256 */
	bool iothread;       /* its own I/O loop; default false */
	int32_t slot;        /* PCI slot; -1: next free */
};

enum spec_net_kind {
	SPEC_NET_USER,
	SPEC_NET_TAP,
	SPEC_NET_NULL, /* for tests */
};

struct spec_net {
	char *id; /* default net0, ... */
	enum spec_net_kind kind;
	uint8_t mac[6];
	bool mac_given; /* otherwise validation makes one from name and index, 52:54:00:xx:xx:xx */
	char **hostfwd; /* user: "tcp:127.0.0.1:2222-:22"; NULL when there is none, and NULL after the last */
	size_t n_hostfwd;
	char *ifname;                 /* tap */
	int fds[SPEC_MAX_NET_QUEUES]; /* tap: inherited descriptors */
	size_t n_fds;
	bool vhost;          /* tap: default off */
	uint32_t queues;     /* pairs; default 1 */
	uint32_t mtu;        /* 0: not announced */
	uint32_t queue_size; /* default 256 */
	bool iothread;
	int32_t slot;
};

enum spec_char_kind {
	SPEC_CHAR_NONE, /* the port exists, bytes vanish */
	SPEC_CHAR_STDIO,
	SPEC_CHAR_PTY,
	SPEC_CHAR_UNIX,
	SPEC_CHAR_FILE,
};

struct spec_char {
	enum spec_char_kind kind;
	char *path;
};

struct spec_vsock {
	bool present;
	uint32_t cid; /* 3 to 2^32 - 2 */
};

struct spec {
	char *name; /* default "vireo" */
	uint8_t uuid[16];
	bool uuid_given;
	enum spec_accel accel;
	char *null_script;       /* accel null: its script file */
	enum spec_engine engine; /* accel soft */
	struct spec_cpu cpu;
	struct spec_memory memory;
	struct spec_boot boot;
	struct spec_disk *disks;
	size_t n_disks;
	struct spec_net *nets;
	size_t n_nets;
	struct spec_char serial;          /* COM1; default stdio */
	struct spec_char console;         /* virtio-console; default NONE and then absent */
	bool rng;                         /* virtio-rng; default true */
	bool balloon;                     /* virtio-balloon; default true */
	bool balloon_free_page_reporting; /* default true */
	struct spec_vsock vsock;
	bool pvpanic;     /* default true */
	bool vmgenid;     /* default true */
	char *qmp_socket; /* --qmp PATH; NULL: none */
	bool no_reboot;
	bool start_paused;        /* --paused: wait for QMP cont */
	uint32_t debug_exit_port; /* 0: off */
	bool test_ports;
	uint8_t escape_key; /* terminal escape, default Ctrl-A */
};

/* Defaults; never fails to be a spec that spec_fini() can take. */
void spec_init(struct spec *spec);
void spec_fini(struct spec *spec);

/* Fills what was left open (ids, MACs, topology) and refuses what cannot be: the message names the key or option and what to do. */
int spec_finish(struct spec *spec, struct error *err);

/* --- codecs --- */

/* The options of `vireo run` and `vireo-vmm` (argv[0] is the first option). Unknown options and keys are refused with the
 * nearest known one named. --config FILE is read where it stands; later options override. Sets *ret_print_config when
 * --print-config was given, *ret_help for --help, *ret_version for --version. Returns 0 or -EINVAL etc. */
struct spec_cli_result {
	bool print_config, help, version;
};
int spec_parse_args(struct spec *spec, int argc, char **argv, struct spec_cli_result *ret,
		    struct error *err);
/* The help text of these options, from the same table as the parser and the manual page. Constant string or heap, see .c. */
char *spec_help_text(void);

/* text: one JSON object. */
int spec_from_json(struct spec *spec, const char *text, size_t len, const char *what,
		   struct error *err);
/* Heap string, pretty-printed, that spec_from_json() reads back to an equal spec; NULL without memory. */
char *spec_to_json(const struct spec *spec);
