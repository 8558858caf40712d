/* CONNECT_GET_ALL_DOMAIN_STATS: what monitoring asks for, of all machines in one call. Memory and /proc only. Loop's thread. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "host/rpc/procs_int.h"

/* Groups and filters, by libvirt's numbers. */
enum {
	STATS_STATE = 1,
	STATS_CPU = 2,
	STATS_BALLOON = 4,
	STATS_VCPU = 8,
	STATS_INTERFACE = 16,
	STATS_BLOCK = 32,
	STATS_OURS = 63
};
enum {
	ONLY_ACTIVE = 1 << 0,
	ONLY_INACTIVE = 1 << 1,
	ONLY_PERSISTENT = 1 << 2,
	ONLY_TRANSIENT = 1 << 3,
	ONLY_RUNNING = 1 << 4,
	ONLY_PAUSED = 1 << 5,
	ONLY_SHUTOFF = 1 << 6,
	ONLY_OTHER = 1 << 7,
	STATS_NOWAIT = 1 << 29,
	STATS_BACKING = 1 << 30,
};
#define STATS_ENFORCE (1u << 31)

static void put_cpu(struct rpc_params *params, const struct domain_usage *usage)
{
	rpc_params_int(params, W_PARAM_ULLONG, usage->user_ns + usage->system_ns, "cpu.time");
	rpc_params_int(params, W_PARAM_ULLONG, usage->user_ns, "cpu.user");
	rpc_params_int(params, W_PARAM_ULLONG, usage->system_ns, "cpu.system");
}

static void put_balloon(struct rpc_params *params, const struct spec *spec,
			const struct domain_usage *usage)
{
	uint64_t kib = spec->memory.size_bytes / KIB;

	rpc_params_int(params, W_PARAM_ULLONG, kib, "balloon.current");
	rpc_params_int(params, W_PARAM_ULLONG, kib, "balloon.maximum");
	if (usage)
		rpc_params_int(params, W_PARAM_ULLONG, usage->rss_kib, "balloon.rss");
}

static void put_vcpus(struct rpc_params *params, const struct domain *dom, const struct spec *spec)
{
	rpc_params_int(params, W_PARAM_UINT, spec->cpu.count, "vcpu.current");
	rpc_params_int(params, W_PARAM_UINT, spec->cpu.count, "vcpu.maximum");
	if (!domain_active(dom))
		return;
	for (unsigned i = 0; i < spec->cpu.count; i++) {
		uint64_t ns;
		int cpu;

		rpc_params_int(params, W_PARAM_INT, 1, "vcpu.%u.state", i);
		if (domain_get_vcpu(dom, i, &ns, &cpu))
			rpc_params_int(params, W_PARAM_ULLONG, ns, "vcpu.%u.time", i);
	}
}

static void put_nets(struct rpc_params *params, const struct spec *spec)
{
	rpc_params_int(params, W_PARAM_UINT, spec->n_nets, "net.count");
	for (size_t i = 0; i < spec->n_nets; i++)
		rpc_params_text(params,
				spec->nets[i].ifname ? spec->nets[i].ifname : spec->nets[i].id,
				"net.%zu.name", i);
}

static void put_blocks(struct rpc_params *params, const struct spec *spec)
{
	rpc_params_int(params, W_PARAM_UINT, spec->n_disks, "block.count");
	for (size_t i = 0; i < spec->n_disks; i++) {
		char dev[16] = "";

		spec_xml_disk_name(&spec->disks[i], dev, sizeof(dev));
		rpc_params_text(params, dev, "block.%zu.name", i);
		rpc_params_text(params, spec->disks[i].path, "block.%zu.path", i);
	}
}

static int put_record(w_stats_record *record, const struct domain *dom, unsigned stats,
		      struct error *err)
{
	const struct spec *spec = dom->live ? &dom->live->spec : &dom->def->spec;
	struct rpc_params params = {0};
	struct domain_usage usage;
	bool used = domain_get_usage(dom, &usage);

	if (stats & STATS_STATE) {
		rpc_params_int(&params, W_PARAM_INT, dom->state, "state.state");
		rpc_params_int(&params, W_PARAM_INT, (unsigned)dom->reason, "state.reason");
	}
	if ((stats & STATS_CPU) && used)
		put_cpu(&params, &usage);
	if (stats & STATS_BALLOON)
		put_balloon(&params, spec, used ? &usage : NULL);
	if (stats & STATS_VCPU)
		put_vcpus(&params, dom, spec);
	if (stats & STATS_INTERFACE)
		put_nets(&params, spec);
	if (stats & STATS_BLOCK)
		put_blocks(&params, spec);
	if (params.failed) {
		rpc_params_free(&params);
		return error_set(err, -ENOMEM, "no memory for the answer");
	}
	record->params.params_val = params.array;
	record->params.params_len = params.count;
	return rpc_put_dom(&record->dom, dom, err);
}

static bool wanted(const struct domain *dom, unsigned flags)
{
	static const unsigned groups[] = {ONLY_ACTIVE | ONLY_INACTIVE,
					  ONLY_PERSISTENT | ONLY_TRANSIENT,
					  ONLY_RUNNING | ONLY_PAUSED | ONLY_SHUTOFF | ONLY_OTHER};
	unsigned is = (domain_active(dom) ? ONLY_ACTIVE : ONLY_INACTIVE) |
		      (dom->persistent ? ONLY_PERSISTENT : ONLY_TRANSIENT) |
		      (dom->state == DOMAIN_RUNNING   ? ONLY_RUNNING
		       : dom->state == DOMAIN_PAUSED  ? ONLY_PAUSED
		       : dom->state == DOMAIN_SHUTOFF ? ONLY_SHUTOFF
						      : ONLY_OTHER);

	for (size_t i = 0; i < ARRAY_SIZE(groups); i++)
		if ((flags & groups[i]) && !(is & flags & groups[i]))
			return false;
	return true;
}

static int put_listed(struct domain_set *set, const w_stats_args *a, w_stats *ret, unsigned stats,
		      struct error *err)
{
	int r = 0;

	for (u_int i = 0; r >= 0 && i < a->doms.doms_len; i++) {
		const struct domain *dom =
			domain_by_uuid(set, (const uint8_t *)a->doms.doms_val[i].uuid);

		/* One that has gone meanwhile is left out. */
		if (dom)
			r = put_record(&ret->records.records_val[ret->records.records_len++], dom,
				       stats, err);
	}
	return r;
}

int rpc_domain_stats(struct rpc_call *call, void *args, void *ret, struct error *err)
{
	const w_stats_args *a = args;
	struct domain_set *set = call->client->server->host->domains;
	unsigned stats = a->stats ? a->stats : STATS_OURS;
	w_stats *list = ret;
	size_t n = a->doms.doms_len;
	int r = rpc_check_flags(call, a->flags, 0xff | STATS_NOWAIT | STATS_BACKING | STATS_ENFORCE,
				err);

	if (r >= 0 && (a->flags & STATS_ENFORCE) && (stats & ~(unsigned)STATS_OURS))
		r = error_set(err, -EINVAL, "statistics of the groups 0x%x are not there",
			      stats & ~(unsigned)STATS_OURS);
	if (r < 0)
		return r;
	for (const struct domain *dom = domain_first(set); n == 0 && dom; dom = domain_next(dom))
		list->records.records_len += wanted(dom, a->flags);
	n += list->records.records_len;
	list->records.records_len = 0;
	list->records.records_val = calloc(n ? n : 1, sizeof(*list->records.records_val));
	if (!list->records.records_val)
		return error_set(err, -ENOMEM, "no memory for the answer");
	if (a->doms.doms_len > 0)
		return put_listed(set, a, list, stats, err);
	for (const struct domain *dom = domain_first(set); r >= 0 && dom; dom = domain_next(dom))
		if (wanted(dom, a->flags))
			r = put_record(&list->records.records_val[list->records.records_len++], dom,
				       stats, err);
	return r;
}
