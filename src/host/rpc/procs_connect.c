/* The connection and the node: versions, capabilities, features, what the host has. Loop's thread. */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/str.h"
#include "host/rpc/procs_int.h"
#include "host/system/caps.h"
#include "host/system/node.h"

/* What clients ask for at least: Nova's next version wants 10.0.0 of both. */
#define SPOKEN_VERSION 10000000ULL

/* Features of the protocol, by libvirt's numbers. */
enum {
	FEATURE_REMOTE = 2,
	FEATURE_TYPED_STRINGS = 9,
	FEATURE_KEEPALIVE = 10,
	FEATURE_EVENT_CALLBACKS = 14,
	FEATURE_CLOSE_CALLBACK = 15,
	FEATURE_NETWORK_UPDATE_ORDER = 16,
};

int rpc_auth_list(struct rpc_call *call, void *args, void *ret, struct error *err)
{
	w_auth_list *list = ret;

	/* The socket's mode decides who comes this far: a list with "none" as its only entry. */
	list->types.types_val = calloc(1, sizeof(int));
	if (!list->types.types_val)
		return error_set(err, -ENOMEM, "no memory for the answer");
	list->types.types_len = 1;
	return 0;
}

static bool known_uri(const struct rpc_host *host, const char *name)
{
	static const char *const names[] = {"", "qemu:///system", "qemu:///session"};

	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		if (str_eq(name, names[i]))
			return true;
	return str_eq(name, host->uri);
}

int rpc_connect_open(struct rpc_call *call, void *args, void *ret, struct error *err)
{
	const w_opt_str_flags *open = args;
	struct rpc_client *client = call->client;

	if (client->opened)
		return error_set(err, -EPROTO, "connection is already open");
	if (open->text && !known_uri(client->server->host, *open->text)) {
		call->code = RPC_ERR_NO_SUPPORT;
		return error_set(err, -ENOSYS, "no connection driver for '%.200s'", *open->text);
	}
	/* Bit 0 asks for less than the socket gives; it never gives more. */
	if (open->flags & 1)
		client->readonly = true;
	client->opened = true;
	return 0;
}

int rpc_connect_supports_feature(struct rpc_call *call, void *args, void *ret, struct error *err)
{
	const w_int *feature = args;
	w_int *supported = ret;

	switch (feature->value) {
	case FEATURE_KEEPALIVE:
		call->client->keepalive = true;
		supported->value = 1;
		break;
	case FEATURE_TYPED_STRINGS:
	case FEATURE_EVENT_CALLBACKS:
	case FEATURE_CLOSE_CALLBACK:
	case FEATURE_NETWORK_UPDATE_ORDER:
	case FEATURE_REMOTE:
		supported->value = 1;
		break;
	default:
		supported->value = 0;
	}
	return 0;
}

int rpc_connect_get_type(struct rpc_call *call, void *args, void *ret, struct error *err)
{
	return rpc_put_text(&((w_str *)ret)->text, "QEMU", err);
}

int rpc_connect_get_version(struct rpc_call *call, void *args, void *ret, struct error *err)
{
	((w_u64 *)ret)->value = SPOKEN_VERSION;
	return 0;
}

int rpc_connect_get_lib_version(struct rpc_call *call, void *args, void *ret, struct error *err)
{
	((w_u64 *)ret)->value = SPOKEN_VERSION;
	return 0;
}

int rpc_connect_get_hostname(struct rpc_call *call, void *args, void *ret, struct error *err)
{
	char name[256] = "";

	if (gethostname(name, sizeof(name) - 1) < 0)
		return error_set_errno(err, -errno, "the host's name cannot be read");
	return rpc_put_text(&((w_str *)ret)->text, name, err);
}

int rpc_connect_get_uri(struct rpc_call *call, void *args, void *ret, struct error *err)
{
	return rpc_put_text(&((w_str *)ret)->text, call->client->server->host->uri, err);
}

int rpc_connect_is_secure(struct rpc_call *call, void *args, void *ret, struct error *err)
{
	((w_int *)ret)->value = 1; /* a Unix socket */
	return 0;
}

int rpc_connect_get_max_vcpus(struct rpc_call *call, void *args, void *ret, struct error *err)
{
	((w_int *)ret)->value = SPEC_MAX_VCPUS;
	return 0;
}

int rpc_connect_get_capabilities(struct rpc_call *call, void *args, void *ret, struct error *err)
{
	return rpc_take_text(&((w_str *)ret)->text, caps_host_xml(call->client->server->host->caps),
			     err);
}

int rpc_connect_get_domain_capabilities(struct rpc_call *call, void *args, void *ret,
					struct error *err)
{
	const w_domain_caps_args *a = args;
	const struct caps_query query = {
		.emulator = a->emulator ? *a->emulator : NULL,
		.arch = a->arch ? *a->arch : NULL,
		.machine = a->machine ? *a->machine : NULL,
		.virt = a->virt ? *a->virt : NULL,
	};
	char *text = NULL;
	int r = rpc_check_flags(call, a->flags, 0, err);

	if (r >= 0)
		r = caps_domain_xml(call->client->server->host->caps, &query, &text, err);
	return r < 0 ? r : rpc_take_text(&((w_str *)ret)->text, text, err);
}

/* --- the node --- */

int rpc_node_get_info(struct rpc_call *call, void *args, void *ret, struct error *err)
{
	static const char model[] = "x86_64";
	w_node_info *info = ret;
	struct node_info node;
	int r = node_read_info(&node, err);

	if (r < 0)
		return r;
	for (size_t i = 0; i < sizeof(model); i++)
		info->model[i] = (unsigned char)model[i];
	info->memory_kib = node.memory_bytes / KIB;
	info->cpus = (int)node.cpus;
	info->mhz = (int)node.mhz;
	info->nodes = (int)node.nodes;
	info->sockets = (int)node.sockets;
	info->cores = (int)node.cores;
	info->threads = (int)node.threads;
	return 0;
}

/* The count when asked for none, else as many as there are. */
static int put_stats(w_node_stats *ret, const char *const *names, const uint64_t *values, size_t n,
		     int asked, struct error *err)
{
	ret->count = (int)n;
	if (asked == 0)
		return 0;
	ret->stats.stats_val = calloc(n, sizeof(*ret->stats.stats_val));
	if (!ret->stats.stats_val)
		return error_set(err, -ENOMEM, "no memory for the answer");
	for (size_t i = 0; i < n && i < (size_t)asked; i++) {
		ret->stats.stats_len = (u_int)i + 1;
		ret->stats.stats_val[i].value = values[i];
		if (rpc_put_text(&ret->stats.stats_val[i].field, names[i], err) < 0)
			return -ENOMEM;
	}
	return 0;
}

int rpc_node_get_cpu_stats(struct rpc_call *call, void *args, void *ret, struct error *err)
{
	static const char *const names[] = {"kernel", "user", "idle", "iowait"};
	const w_node_stats_args *a = args;
	struct node_cpu_times times;
	int r = a->second < 0 ? error_set(err, -EINVAL, "nparams is negative")
			      : node_read_cpu_times(a->first, &times, err);

	if (r < 0)
		return r;
	return put_stats(ret, names,
			 (const uint64_t[]){times.kernel_ns, times.user_ns, times.idle_ns,
					    times.iowait_ns},
			 ARRAY_SIZE(names), a->second, err);
}

int rpc_node_get_memory_stats(struct rpc_call *call, void *args, void *ret, struct error *err)
{
	static const char *const names[] = {"total", "free", "buffers", "cached"};
	const w_node_stats_args *a = args;
	struct node_memory mem;
	int r = a->first < 0 ? error_set(err, -EINVAL, "nparams is negative")
			     : node_read_memory(&mem, err);

	if (r < 0)
		return r;
	return put_stats(ret, names,
			 (const uint64_t[]){mem.total_kib, mem.free_kib, mem.buffers_kib,
					    mem.cached_kib},
			 ARRAY_SIZE(names), a->first, err);
}

int rpc_node_get_free_memory(struct rpc_call *call, void *args, void *ret, struct error *err)
{
	struct node_memory mem;
	int r = node_read_memory(&mem, err);

	if (r >= 0)
		((w_u64 *)ret)->value = mem.free_kib * KIB;
	return r;
}

int rpc_node_get_cells_free_memory(struct rpc_call *call, void *args, void *ret, struct error *err)
{
	const w_cells_args *a = args;
	w_u64s *cells = ret;
	struct node_memory mem;
	int r;

	if (a->start != 0 || a->max < 1)
		return error_set(err, -EINVAL, "start cell %d is out of range (0-0)", a->start);
	r = node_read_memory(&mem, err);
	if (r < 0)
		return r;
	cells->values.values_val = calloc(1, sizeof(*cells->values.values_val));
	if (!cells->values.values_val)
		return error_set(err, -ENOMEM, "no memory for the answer");
	cells->values.values_len = 1;
	cells->values.values_val[0] = mem.free_kib * KIB;
	return 0;
}

int rpc_node_get_cpu_map(struct rpc_call *call, void *args, void *ret, struct error *err)
{
	const w_cpu_map_args *a = args;
	w_cpu_map *map = ret;
	uint8_t bits[NODE_MAX_CPUS / 8];
	unsigned present, online;
	int r = node_read_cpu_map(bits, &present, &online, err);

	if (r < 0)
		return r;
	map->count = (int)present;
	map->online = a->need_online ? online : 0;
	if (!a->need_map)
		return 0;
	map->map.map_len = (present + 7) / 8;
	map->map.map_val = malloc(map->map.map_len);
	if (!map->map.map_val)
		return error_set(err, -ENOMEM, "no memory for the answer");
	memcpy(map->map.map_val, bits, map->map.map_len);
	return 0;
}

int rpc_node_get_security_model(struct rpc_call *call, void *args, void *ret, struct error *err)
{
	static const char none[] = "none", zero[] = "0";
	w_security_model *model = ret;

	model->model.model_val = calloc(sizeof(none), sizeof(int));
	model->doi.doi_val = calloc(sizeof(zero), sizeof(int));
	if (!model->model.model_val || !model->doi.doi_val)
		return error_set(err, -ENOMEM, "no memory for the answer");
	model->model.model_len = sizeof(none);
	model->doi.doi_len = sizeof(zero);
	for (size_t i = 0; i < sizeof(none); i++)
		model->model.model_val[i] = (unsigned char)none[i];
	for (size_t i = 0; i < sizeof(zero); i++)
		model->doi.doi_val[i] = (unsigned char)zero[i];
	return 0;
}

/* What this host has none of, or does nothing for: the answer is all zeroes. */
int rpc_none(struct rpc_call *call, void *args, void *ret, struct error *err)
{
	return 0;
}
