/*
 * The commands, one constant table. Each checks its arguments, asks the target, and shapes the answer as the QMP reference
 * gives it; members that have no meaning here are left out where the schema says optional.
 */
#include "vm/monitor/qmp_int.h"

#include <errno.h>
#include <stdio.h>

#include "base/bits.h"
#include "base/str.h"

static const char *run_state_name(enum qmp_run_state state)
{
	static const char *const names[] = {
		[QMP_PRELAUNCH] = "prelaunch",
		[QMP_RUNNING] = "running",
		[QMP_PAUSED] = "paused",
		[QMP_SHUTDOWN] = "shutdown",
		[QMP_GUEST_PANICKED] = "guest-panicked",
	};

	return names[state];
}

static int run_query_status(struct qmp *qmp, const json_t *args, json_t **ret, struct error *err)
{
	const struct qmp_target *t = qmp_target_of(qmp);
	enum qmp_run_state state = t->run_state(t->opaque);

	*ret = json_pack("{s:b,s:b,s:s}", "running", state == QMP_RUNNING, "singlestep", 0,
			 "status", run_state_name(state));
	return 0;
}

static int run_stop(struct qmp *qmp, const json_t *args, json_t **ret, struct error *err)
{
	const struct qmp_target *t = qmp_target_of(qmp);

	return t->stop(t->opaque, err);
}

static int run_cont(struct qmp *qmp, const json_t *args, json_t **ret, struct error *err)
{
	const struct qmp_target *t = qmp_target_of(qmp);

	return t->cont(t->opaque, err);
}

static int run_system_reset(struct qmp *qmp, const json_t *args, json_t **ret, struct error *err)
{
	const struct qmp_target *t = qmp_target_of(qmp);

	return t->reset(t->opaque, err);
}

static int run_system_powerdown(struct qmp *qmp, const json_t *args, json_t **ret,
				struct error *err)
{
	const struct qmp_target *t = qmp_target_of(qmp);

	return t->powerdown(t->opaque, err);
}

static int run_inject_nmi(struct qmp *qmp, const json_t *args, json_t **ret, struct error *err)
{
	const struct qmp_target *t = qmp_target_of(qmp);

	return t->nmi(t->opaque, err);
}

static int run_quit(struct qmp *qmp, const json_t *args, json_t **ret, struct error *err)
{
	const struct qmp_target *t = qmp_target_of(qmp);

	t->quit(t->opaque);
	return 0;
}

static int run_query_cpus_fast(struct qmp *qmp, const json_t *args, json_t **ret, struct error *err)
{
	const struct qmp_target *t = qmp_target_of(qmp);

	*ret = json_array();
	for (unsigned i = 0; i < t->n_cpus(t->opaque); i++) {
		struct qmp_cpu cpu = {0};
		char path[64];

		t->cpu(t->opaque, i, &cpu);
		snprintf(path, sizeof(path), "/machine/cpu[%u]", i);
		json_array_append_new(*ret,
				      json_pack("{s:i,s:s,s:i,s:s,s:{s:i,s:i,s:i}}", "cpu-index",
						(int)i, "qom-path", path, "thread-id",
						cpu.thread_id, "target", "x86_64", "props",
						"socket-id", (int)cpu.socket, "core-id",
						(int)cpu.core, "thread-id", (int)cpu.thread));
	}
	return 0;
}

static json_t *block_inserted(const struct qmp_block *block)
{
	json_t *image =
		json_pack("{s:s,s:s,s:I,s:b}", "filename", block->file, "format", block->format,
			  "virtual-size", (json_int_t)block->size_bytes, "dirty-flag", 0);
	json_t *cache = json_pack("{s:b,s:b,s:b}", "writeback", block->writeback, "direct",
				  block->direct, "no-flush", block->no_flush);

	return json_pack("{s:s,s:b,s:s,s:s,s:b,s:i,s:I,s:I,s:I,s:I,s:I,s:I,s:s,s:i,s:o,s:o}",
			 "file", block->file, "ro", block->readonly, "drv", block->format,
			 "node-name", block->device, "encrypted", 0, "backing_file_depth", 0, "bps",
			 (json_int_t)0, "bps_rd", (json_int_t)0, "bps_wr", (json_int_t)0, "iops",
			 (json_int_t)0, "iops_rd", (json_int_t)0, "iops_wr", (json_int_t)0,
			 "detect_zeroes", "off", "write_threshold", 0, "image", image, "cache",
			 cache);
}

static int run_query_block(struct qmp *qmp, const json_t *args, json_t **ret, struct error *err)
{
	const struct qmp_target *t = qmp_target_of(qmp);

	*ret = json_array();
	for (unsigned i = 0; i < t->n_blocks(t->opaque); i++) {
		struct qmp_block block = {0};

		t->block(t->opaque, i, &block);
		json_array_append_new(*ret, json_pack("{s:s,s:s,s:b,s:b,s:s,s:o}", "device",
						      block.device, "type", "unknown", "removable",
						      0, "locked", 0, "qdev", block.device,
						      "inserted", block_inserted(&block)));
	}
	return 0;
}

/* The file name has the backend's type before it, as QEMU's has. */
static int run_query_chardev(struct qmp *qmp, const json_t *args, json_t **ret, struct error *err)
{
	const struct qmp_target *t = qmp_target_of(qmp);

	*ret = json_array();
	for (unsigned i = 0; i < t->n_chars(t->opaque); i++) {
		struct qmp_char chr = {0};
		char file[256];

		t->chr(t->opaque, i, &chr);
		snprintf(file, sizeof(file), "%s%s%s", chr.type, *chr.path ? ":" : "", chr.path);
		json_array_append_new(*ret, json_pack("{s:s,s:s,s:b}", "label", chr.label,
						      "filename", file, "frontend-open", 1));
	}
	return 0;
}

static int run_query_balloon(struct qmp *qmp, const json_t *args, json_t **ret, struct error *err)
{
	const struct qmp_target *t = qmp_target_of(qmp);
	uint64_t bytes;
	int r = t->balloon_get(t->opaque, &bytes, err);

	if (r < 0)
		return r;
	*ret = json_pack("{s:I}", "actual", (json_int_t)bytes);
	return 0;
}

static int run_balloon(struct qmp *qmp, const json_t *args, json_t **ret, struct error *err)
{
	const struct qmp_target *t = qmp_target_of(qmp);
	uint64_t bytes = 0;
	int r = args ? json_get_u64(args, "value", &bytes, err) : 0;

	if (r < 0)
		return r;
	if (r == 0)
		return error_set(err, -EINVAL,
				 "command 'balloon' needs the argument 'value', in bytes");
	return t->balloon_set(t->opaque, bytes, err);
}

static int run_query_version(struct qmp *qmp, const json_t *args, json_t **ret, struct error *err)
{
	*ret = json_pack("{s:{s:i,s:i,s:i},s:s}", "qemu", "micro", 0, "minor", 2, "major", 7,
			 "package", "vireo-" VIREO_VERSION);
	return 0;
}

static int run_query_name(struct qmp *qmp, const json_t *args, json_t **ret, struct error *err)
{
	const struct qmp_target *t = qmp_target_of(qmp);

	*ret = t->name ? json_pack("{s:s}", "name", t->name) : json_object();
	return 0;
}

static int run_query_uuid(struct qmp *qmp, const json_t *args, json_t **ret, struct error *err)
{
	const struct qmp_target *t = qmp_target_of(qmp);
	const uint8_t *u = t->uuid;
	char text[40];

	snprintf(text, sizeof(text),
		 "%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x", u[0], u[1],
		 u[2], u[3], u[4], u[5], u[6], u[7], u[8], u[9], u[10], u[11], u[12], u[13], u[14],
		 u[15]);
	*ret = json_pack("{s:s}", "UUID", text);
	return 0;
}

static int run_query_kvm(struct qmp *qmp, const json_t *args, json_t **ret, struct error *err)
{
	const struct qmp_target *t = qmp_target_of(qmp);

	*ret = json_pack("{s:b,s:b}", "enabled", str_eq(t->accel, "kvm"), "present",
			 str_eq(t->accel, "kvm"));
	return 0;
}

static int run_query_commands(struct qmp *qmp, const json_t *args, json_t **ret, struct error *err);

static const char *const balloon_arguments[] = {"value", NULL};

static const struct qmp_command qmp_commands[] = {
	{"balloon", run_balloon, balloon_arguments},
	{"cont", run_cont, NULL},
	{"inject-nmi", run_inject_nmi, NULL},
	{"query-balloon", run_query_balloon, NULL},
	{"query-block", run_query_block, NULL},
	{"query-chardev", run_query_chardev, NULL},
	{"query-commands", run_query_commands, NULL},
	{"query-cpus-fast", run_query_cpus_fast, NULL},
	{"query-kvm", run_query_kvm, NULL},
	{"query-name", run_query_name, NULL},
	{"query-status", run_query_status, NULL},
	{"query-uuid", run_query_uuid, NULL},
	{"query-version", run_query_version, NULL},
	{"quit", run_quit, NULL},
	{"stop", run_stop, NULL},
	{"system_powerdown", run_system_powerdown, NULL},
	{"system_reset", run_system_reset, NULL},
};

static int run_query_commands(struct qmp *qmp, const json_t *args, json_t **ret, struct error *err)
{
	*ret = json_array();
	json_array_append_new(*ret, json_pack("{s:s}", "name", "qmp_capabilities"));
	for (size_t i = 0; i < ARRAY_SIZE(qmp_commands); i++)
		json_array_append_new(*ret, json_pack("{s:s}", "name", qmp_commands[i].name));
	return 0;
}

const struct qmp_command *qmp_command_find(const char *name)
{
	for (size_t i = 0; i < ARRAY_SIZE(qmp_commands); i++) {
		if (str_eq(qmp_commands[i].name, name))
			return &qmp_commands[i];
	}
	return NULL;
}
