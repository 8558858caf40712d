/*
 * The option table: every property of a machine and every option of `vireo run` and `vireo-vmm`, once. Command line, JSON, validation of
 * ranges, --help, the manual pages and shell completion are made from it; an option that is not here does not exist.
 */
#include "spec/spec_int.h"

#include <string.h>

#include "base/bits.h"
#include "base/str.h"

#define KEY(k, t, owner, member)                                                                   \
	.key = (k), .type = &spec_type_##t, .offset = offsetof(owner, member)
#define ONE(...)                                                                                   \
	.base = 0, .n_fields = 1, .fields = (const struct spec_field[])                            \
	{                                                                                          \
		{                                                                                  \
			__VA_ARGS__                                                                \
		}                                                                                  \
	}
#define AT(t, member) .type = &spec_type_##t, .offset = offsetof(struct spec, member)
#define FIELDS(array) .fields = (array), .n_fields = ARRAY_SIZE(array)

#define ID_MAX        63 /* struct device has room for it */
#define MAX_FORWARDS  64
#define QUEUE_ENTRIES .min = 2, .max = 1024

const char *const spec_section_names[SPEC_N_SECTIONS] = {
	[SPEC_SECTION_BOOT] = "What boots",      [SPEC_SECTION_MACHINE] = "The machine",
	[SPEC_SECTION_DEVICES] = "Its devices",  [SPEC_SECTION_RUN] = "How it runs",
	[SPEC_SECTION_PROGRAM] = "This program",
};

static const char *const accel_kinds[] = {"auto", "kvm", "soft", "null", NULL};
static const char *const accel_engines[] = {"auto", "interpreter", NULL};
static const char *const cache_modes[] = {"writeback", "none", "writethrough", "unsafe", NULL};
static const char *const engines[] = {"auto", "io_uring", "threads", NULL};
static const char *const formats[] = {"raw", "qcow2", NULL};
static const char *const net_kinds[] = {"user", "tap", "null", NULL};

static const struct spec_field accel_fields[] = {
	{KEY("kind", enum, struct spec, accel), .initial = "auto", .choices = accel_kinds,
	 .help = "who executes guest instructions: auto takes KVM where it is there and fast, else soft; "
		 "soft is the software CPU; null runs a script, for tests"},
	{KEY("engine", enum, struct spec, engine), .initial = "auto", .choices = accel_engines,
	 .help = "how soft executes: auto translates where the host allows it; interpreter never does"},
	{KEY("script", string, struct spec, null_script), .min = 1, .arg = "FILE",
	 .help = "what null runs"},
};

static const struct spec_field memory_fields[] = {
	{KEY("size", size, struct spec_memory, size_bytes), .initial = "512M", .unit = MIB,
	 .min = SPEC_MIN_MEMORY_BYTES, .max = SPEC_MAX_MEMORY_BYTES, .arg = "SIZE",
	 .help = "how much; a bare number is MiB"},
	{KEY("hugepages", bool, struct spec_memory, hugepages), .initial = "off",
	 .help = "back it with huge pages"},
	{KEY("hugepage-size", size, struct spec_memory, hugepage_bytes), .unit = MIB,
	 .min = 2 * MIB, .max = GIB, .arg = "2M|1G", .help = "of what size; 2M when not given"},
	{KEY("mergeable", bool, struct spec_memory, mergeable), .initial = "off",
	 .help = "let the host's KSM share equal pages"},
	{KEY("prealloc", bool, struct spec_memory, prealloc), .initial = "off",
	 .help = "take all of it from the host before the guest starts"},
	{KEY("path", string, struct spec_memory, path), .min = 1, .arg = "FILE",
	 .help = "a file that backs it instead of anonymous memory"},
};

static const struct spec_field cpu_fields[] = {
	{KEY("count", u32, struct spec_cpu, count), .initial = "1", .min = 1, .max = SPEC_MAX_VCPUS,
	 .help = "how many vCPUs"},
	{KEY("sockets", u32, struct spec_cpu, sockets), .min = 1, .max = SPEC_MAX_VCPUS,
	 .help = "packages that they are spread over; 1 when not given"},
	{KEY("cores", u32, struct spec_cpu, cores), .min = 1, .max = SPEC_MAX_VCPUS,
	 .help = "cores in each; what makes the product the count when not given"},
	{KEY("threads", u32, struct spec_cpu, threads), .min = 1, .max = SPEC_MAX_VCPUS,
	 .help = "threads in each core; 1 when not given"},
};

static const struct spec_field disk_fields[] = {
	{KEY("path", string, struct spec_disk, path), .min = 1, .arg = "FILE",
	 .help = "the image or block device; a comma in it is written as two"},
	{KEY("id", string, struct spec_disk, id), .min = 1, .max = ID_MAX, .arg = "NAME",
	 .help = "its name in messages and QMP; disk0, disk1, ... when not given"},
	{KEY("fd", int, struct spec_disk, fd), .max = INT32_MAX, .arg = "N",
	 .help = "an inherited open descriptor instead of a path"},
	{KEY("format", choice, struct spec_disk, format), .initial = "raw", .choices = formats,
	 .help = "how the image is laid out; never guessed"},
	{KEY("backing-dirs", string, struct spec_disk, backing_dirs), .min = 1, .arg = "DIR:DIR...",
	 .help = "folders where the image's backing and data files may be, beside its own"},
	{KEY("readonly", bool, struct spec_disk, readonly), .initial = "off",
	 .help = "refuse writes, and open the image for reading only"},
	{KEY("serial", string, struct spec_disk, serial), .min = 1, .max = 20, .arg = "TEXT",
	 .help = "the serial number that the guest sees, 20 characters at most"},
	{KEY("cache", enum, struct spec_disk, cache), .initial = "writeback",
	 .choices = cache_modes,
	 .help = "writeback uses the host's page cache and honours flushes; none goes around "
		 "it; writethrough makes each write durable; unsafe ignores flushes"},
	{KEY("engine", choice, struct spec_disk, engine), .initial = "auto", .choices = engines,
	 .help = "how requests reach the host's kernel"},
	{KEY("discard", bool, struct spec_disk, discard), .initial = "on",
	 .help = "the guest's discards free space in the image"},
	{KEY("lock", bool, struct spec_disk, lock), .initial = "on",
	 .help = "refuse an image that another machine writes"},
	{KEY("queues", u32, struct spec_disk, queues), .min = 1, .max = SPEC_MAX_DISK_QUEUES,
	 .help = "request queues; one a vCPU and at most 4 when not given"},
	{KEY("queue-size", u32, struct spec_disk, queue_size), .initial = "256", QUEUE_ENTRIES,
	 .help = "entries in each, a power of two"},
	{KEY("iothread", bool, struct spec_disk, iothread), .initial = "off",
	 .help = "a thread of its own for its requests"},
	{KEY("slot", int, struct spec_disk, slot), .min = 1, .max = 31,
	 .help = "PCI slot; the next free one when not given"},
};

static const struct spec_field net_fields[] = {
	{KEY("type", enum, struct spec_net, kind), .initial = "user", .choices = net_kinds,
	 .help = "user needs no rights and goes through passt; tap is a host interface; null "
		 "goes nowhere"},
	{KEY("id", string, struct spec_net, id), .min = 1, .max = ID_MAX, .arg = "NAME",
	 .help = "its name in messages and QMP; net0, net1, ... when not given"},
	{KEY("mac", mac, struct spec_net, mac), .aux = offsetof(struct spec_net, mac_given),
	 .arg = "MAC", .help = "address; made from the machine's name when not given"},
	{KEY("hostfwd", hostfwd, struct spec_net, hostfwd),
	 .aux = offsetof(struct spec_net, n_hostfwd), .max = MAX_FORWARDS,
	 .arg = "tcp|udp:[ADDR]:[PORT]-[ADDR]:PORT",
	 .help = "user: a port of the host that leads to one of the guest; may be repeated"},
	{KEY("ifname", string, struct spec_net, ifname), .min = 1, .max = 15, .arg = "NAME",
	 .help = "tap: the host's interface"},
	{KEY("fds", fds, struct spec_net, fds), .aux = offsetof(struct spec_net, n_fds),
	 .max = SPEC_MAX_NET_QUEUES, .arg = "N[:N...]",
	 .help = "tap: inherited open descriptors, one a queue pair, instead of ifname"},
	{KEY("vhost", bool, struct spec_net, vhost), .initial = "off",
	 .help = "tap: the host's kernel moves the packets (vhost-net)"},
	{KEY("queues", u32, struct spec_net, queues), .initial = "1", .min = 1,
	 .max = SPEC_MAX_NET_QUEUES, .help = "queue pairs"},
	{KEY("mtu", u32, struct spec_net, mtu), .min = 68, .max = 65535,
	 .help = "the MTU that the guest is told; none when not given"},
	{KEY("queue-size", u32, struct spec_net, queue_size), .initial = "256", QUEUE_ENTRIES,
	 .help = "entries in each queue, a power of two"},
	{KEY("iothread", bool, struct spec_net, iothread), .initial = "off",
	 .help = "a thread of its own for its packets"},
	{KEY("slot", int, struct spec_net, slot), .min = 1, .max = 31,
	 .help = "PCI slot; the next free one when not given"},
};

static const struct spec_field balloon_fields[] = {
	{KEY("present", bool, struct spec, balloon), .initial = "on",
	 .help = "a balloon (virtio-balloon), by which the host can take memory back"},
	{KEY("free-page-reporting", bool, struct spec, balloon_free_page_reporting),
	 .initial = "on", .help = "the guest reports pages that it does not use"},
};

static const struct spec_field vsock_fields[] = {
	{KEY("cid", u32, struct spec_vsock, cid), .min = 3, .max = UINT32_MAX - 1,
	 .help = "the guest's context id"},
};

#define CHAR_ARG "stdio|pty|none|unix:PATH|file:PATH"

const struct spec_option spec_options[] = {
	{.name = "kernel",
	 .json = "kernel",
	 .section = SPEC_SECTION_BOOT,
	 ONE(AT(string, boot.kernel), .min = 1, .arg = "FILE"),
	 .help = "a Linux bzImage, an ELF image with a PVH note, or a multiboot 1 image"},
	{.name = "initrd",
	 .json = "initrd",
	 .section = SPEC_SECTION_BOOT,
	 ONE(AT(string, boot.initrd), .min = 1, .arg = "FILE"),
	 .help = "initial RAM disk"},
	{.name = "append",
	 .json = "append",
	 .section = SPEC_SECTION_BOOT,
	 ONE(AT(string, boot.cmdline), .arg = "TEXT"),
	 .help = "the kernel's command line"},

	{.name = "name",
	 .json = "name",
	 .section = SPEC_SECTION_MACHINE,
	 ONE(AT(string, name), .initial = "vireo", .min = 1, .max = ID_MAX, .arg = "NAME"),
	 .help = "the machine's name in messages, processes and QMP"},
	{.name = "uuid",
	 .json = "uuid",
	 .section = SPEC_SECTION_MACHINE,
	 ONE(AT(uuid, uuid), .aux = offsetof(struct spec, uuid_given), .arg = "UUID"),
	 .help = "the machine's identity, as SMBIOS shows it"},
	{.name = "accel",
	 .json = "accel",
	 .kind = SPEC_OPT_GROUP,
	 .section = SPEC_SECTION_MACHINE,
	 .present = SPEC_NO_OFFSET,
	 FIELDS(accel_fields),
	 .arg = "KIND",
	 .help = "what runs the guest's instructions"},
	{.name = "cpus",
	 .json = "cpus",
	 .kind = SPEC_OPT_GROUP,
	 .section = SPEC_SECTION_MACHINE,
	 .fresh = true,
	 .base = offsetof(struct spec, cpu),
	 .present = SPEC_NO_OFFSET,
	 FIELDS(cpu_fields),
	 .arg = "N",
	 .help = "virtual CPUs and how they are arranged"},
	{.name = "memory",
	 .json = "memory",
	 .kind = SPEC_OPT_GROUP,
	 .section = SPEC_SECTION_MACHINE,
	 .base = offsetof(struct spec, memory),
	 .present = SPEC_NO_OFFSET,
	 FIELDS(memory_fields),
	 .arg = "SIZE",
	 .help = "the guest's memory"},

	{.name = "disk",
	 .json = "disks",
	 .kind = SPEC_OPT_LIST,
	 .section = SPEC_SECTION_DEVICES,
	 .base = offsetof(struct spec, disks),
	 .count = offsetof(struct spec, n_disks),
	 .elem_size = sizeof(struct spec_disk),
	 .max_count = SPEC_MAX_DISKS,
	 FIELDS(disk_fields),
	 .arg = "path=FILE",
	 .help = "a disk (virtio-blk); may be repeated"},
	{.name = "net",
	 .json = "nets",
	 .kind = SPEC_OPT_LIST,
	 .section = SPEC_SECTION_DEVICES,
	 .base = offsetof(struct spec, nets),
	 .count = offsetof(struct spec, n_nets),
	 .elem_size = sizeof(struct spec_net),
	 .max_count = SPEC_MAX_NETS,
	 FIELDS(net_fields),
	 .arg = "user|tap|null",
	 .help = "a network card (virtio-net); may be repeated"},
	{.name = "serial",
	 .json = "serial",
	 .section = SPEC_SECTION_DEVICES,
	 ONE(AT(char, serial), .initial = "stdio", .arg = CHAR_ARG),
	 .help = "where the serial port (16550A, COM1) leads"},
	{.name = "console",
	 .json = "console",
	 .section = SPEC_SECTION_DEVICES,
	 ONE(AT(char, console), .initial = "none", .arg = CHAR_ARG),
	 .help = "where a virtio-console leads; with none there is no such device"},
	{.name = "rng",
	 .json = "rng",
	 .section = SPEC_SECTION_DEVICES,
	 ONE(AT(bool, rng), .initial = "on"),
	 .help = "a source of random numbers (virtio-rng)"},
	{.name = "balloon",
	 .json = "balloon",
	 .kind = SPEC_OPT_GROUP,
	 .section = SPEC_SECTION_DEVICES,
	 .present = SPEC_NO_OFFSET,
	 FIELDS(balloon_fields),
	 .arg = "on|off",
	 .help = "memory balloon"},
	{.name = "vsock",
	 .json = "vsock",
	 .kind = SPEC_OPT_GROUP,
	 .section = SPEC_SECTION_DEVICES,
	 .base = offsetof(struct spec, vsock),
	 .present = offsetof(struct spec_vsock, present),
	 FIELDS(vsock_fields),
	 .arg = "cid=N",
	 .help = "sockets between guest and host (vhost-vsock)"},
	{.name = "pvpanic",
	 .json = "pvpanic",
	 .section = SPEC_SECTION_DEVICES,
	 ONE(AT(bool, pvpanic), .initial = "on"),
	 .help = "a device by which a guest reports its kernel's panic"},
	{.name = "vmgenid",
	 .json = "vmgenid",
	 .section = SPEC_SECTION_DEVICES,
	 ONE(AT(bool, vmgenid), .initial = "on"),
	 .help = "a device that tells a guest that it was restored or forked"},
	{.name = "debug-exit",
	 .json = "debug-exit",
	 .section = SPEC_SECTION_DEVICES,
	 ONE(AT(u32, debug_exit_port), .min = 1, .max = UINT16_MAX, .arg = "PORT"),
	 .help = "for tests: a write of V to this port ends the program with status (V << 1) | 1"},
	{.name = "test-ports",
	 .json = "test-ports",
	 .kind = SPEC_OPT_FLAG,
	 .section = SPEC_SECTION_DEVICES,
	 ONE(AT(bool, test_ports)),
	 .help = "for tests: the ports of QEMU's pc-testdev: a register, and interrupt inputs"},

	{.name = "qmp",
	 .json = "qmp",
	 .section = SPEC_SECTION_RUN,
	 ONE(AT(string, qmp_socket), .min = 1, .max = SPEC_MAX_SOCKET_PATH, .arg = "PATH"),
	 .help = "serve QMP on a Unix socket at this path"},
	{.name = "no-reboot",
	 .json = "no-reboot",
	 .kind = SPEC_OPT_FLAG,
	 .section = SPEC_SECTION_RUN,
	 ONE(AT(bool, no_reboot), .initial = "off"),
	 .help = "end where the guest would restart"},
	{.name = "paused",
	 .json = "paused",
	 .kind = SPEC_OPT_FLAG,
	 .section = SPEC_SECTION_RUN,
	 ONE(AT(bool, start_paused), .initial = "off"),
	 .help = "do not start the guest until QMP says cont"},
	{.name = "escape",
	 .json = "escape",
	 .section = SPEC_SECTION_RUN,
	 ONE(AT(key, escape_key), .initial = "^A", .arg = "^A|none"),
	 .help = "the terminal's escape key; with x after it, the machine is ended"},

	{.name = "config",
	 .kind = SPEC_OPT_ACTION,
	 .section = SPEC_SECTION_PROGRAM,
	 .action = SPEC_ACTION_CONFIG,
	 .arg = "FILE",
	 .help = "read a machine from a JSON file; options after it override what it says"},
	{.name = "print-config",
	 .kind = SPEC_OPT_ACTION,
	 .section = SPEC_SECTION_PROGRAM,
	 .action = SPEC_ACTION_PRINT_CONFIG,
	 .help = "print the whole machine as JSON, as --config reads it, and end"},
	{.name = "help",
	 .kind = SPEC_OPT_ACTION,
	 .section = SPEC_SECTION_PROGRAM,
	 .action = SPEC_ACTION_HELP,
	 .help = "print these options and end"},
	{.name = "version",
	 .kind = SPEC_OPT_ACTION,
	 .section = SPEC_SECTION_PROGRAM,
	 .action = SPEC_ACTION_VERSION,
	 .help = "print the version and end"},
};
const size_t spec_n_options = ARRAY_SIZE(spec_options);

const struct spec_option *spec_option_find(const char *name)
{
	for (size_t i = 0; i < spec_n_options; i++)
		if (str_eq(spec_options[i].name, name))
			return &spec_options[i];
	return NULL;
}

const struct spec_option *spec_option_find_json(const char *key)
{
	for (size_t i = 0; i < spec_n_options; i++)
		if (spec_options[i].json && str_eq(spec_options[i].json, key))
			return &spec_options[i];
	return NULL;
}

const struct spec_field *spec_field_find(const struct spec_option *opt, const char *key)
{
	for (size_t i = 0; i < opt->n_fields; i++)
		if (opt->fields[i].key && str_eq(opt->fields[i].key, key))
			return &opt->fields[i];
	return NULL;
}

const char *spec_option_arg(const struct spec_option *opt)
{
	if (opt->kind == SPEC_OPT_FLAG)
		return NULL;
	if (opt->kind != SPEC_OPT_VALUE)
		return opt->arg;
	if (opt->fields[0].arg)
		return opt->fields[0].arg;
	return opt->fields[0].type == &spec_type_bool ? "on|off" : "N";
}
