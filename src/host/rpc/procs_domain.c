/* Machines as they are: lists, look-ups, facts. Nothing here waits for a machine. Loop's thread. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/str.h"
#include "host/rpc/procs_int.h"
#include "host/system/node.h"
#include "host/system/uuid.h"

/* Flags, by libvirt's numbers. */
enum { XML_SECURE = 1, XML_INACTIVE = 2, XML_UPDATE_CPU = 4, XML_MIGRATABLE = 8 };
enum { AFFECT_CURRENT = 0, AFFECT_LIVE = 1, AFFECT_CONFIG = 2, VCPU_MAXIMUM = 4, VCPU_GUEST = 8 };
enum {
	LIST_ACTIVE = 1 << 0,
	LIST_INACTIVE = 1 << 1,
	LIST_PERSISTENT = 1 << 2,
	LIST_TRANSIENT = 1 << 3,
	LIST_RUNNING = 1 << 4,
	LIST_PAUSED = 1 << 5,
	LIST_SHUTOFF = 1 << 6,
	LIST_OTHER = 1 << 7,
	LIST_MANAGED_SAVE = 1 << 8,
	LIST_NO_MANAGED_SAVE = 1 << 9,
	LIST_AUTOSTART = 1 << 10,
	LIST_NO_AUTOSTART = 1 << 11,
	LIST_SNAPSHOT = 1 << 12,
	LIST_NO_SNAPSHOT = 1 << 13,
	LIST_CHECKPOINT = 1 << 14,
	LIST_NO_CHECKPOINT = 1 << 15,
	LIST_ALL_KNOWN = (1 << 16) - 1,
};

static struct domain_set *domains_of(const struct rpc_call *call)
{
	return call->client->server->host->domains;
}

/* --- lists --- */

/* Flags stand in groups: of each group that is asked for, one must hold. */
static bool list_match(const struct domain *dom, unsigned flags)
{
	unsigned is = (domain_active(dom) ? LIST_ACTIVE : LIST_INACTIVE) |
		      (dom->persistent ? LIST_PERSISTENT : LIST_TRANSIENT) |
		      (dom->autostart ? LIST_AUTOSTART : LIST_NO_AUTOSTART) | LIST_NO_MANAGED_SAVE |
		      LIST_NO_SNAPSHOT | LIST_NO_CHECKPOINT;
	static const unsigned groups[] = {
		LIST_ACTIVE | LIST_INACTIVE,
		LIST_PERSISTENT | LIST_TRANSIENT,
		LIST_RUNNING | LIST_PAUSED | LIST_SHUTOFF | LIST_OTHER,
		LIST_MANAGED_SAVE | LIST_NO_MANAGED_SAVE,
		LIST_AUTOSTART | LIST_NO_AUTOSTART,
		LIST_SNAPSHOT | LIST_NO_SNAPSHOT,
		LIST_CHECKPOINT | LIST_NO_CHECKPOINT,
	};

	is |= dom->state == DOMAIN_RUNNING   ? LIST_RUNNING
	      : dom->state == DOMAIN_PAUSED  ? LIST_PAUSED
	      : dom->state == DOMAIN_SHUTOFF ? LIST_SHUTOFF
					     : LIST_OTHER;
	for (size_t i = 0; i < ARRAY_SIZE(groups); i++)
		if ((flags & groups[i]) && !(is & flags & groups[i]))
			return false;
	return true;
}

int rpc_domain_list_all(struct rpc_call *call, void *args, void *ret, struct error *err)
{
	const w_list_args *a = args;
	w_doms *list = ret;
	int r = rpc_check_flags(call, a->flags, LIST_ALL_KNOWN, err);

	for (const struct domain *dom = domain_first(domains_of(call)); r >= 0 && dom;
	     dom = domain_next(dom))
		list->count += list_match(dom, a->flags);
	if (r < 0 || !a->need_results || list->count == 0)
		return r;
	list->doms.doms_val = calloc(list->count, sizeof(*list->doms.doms_val));
	if (!list->doms.doms_val)
		return error_set(err, -ENOMEM, "no memory for the answer");
	for (const struct domain *dom = domain_first(domains_of(call)); r >= 0 && dom;
	     dom = domain_next(dom))
		if (list_match(dom, a->flags))
			r = rpc_put_dom(&list->doms.doms_val[list->doms.doms_len++], dom, err);
	return r;
}

int rpc_domain_num_active(struct rpc_call *call, void *args, void *ret, struct error *err)
{
	for (const struct domain *dom = domain_first(domains_of(call)); dom; dom = domain_next(dom))
		((w_int *)ret)->value += domain_active(dom);
	return 0;
}

int rpc_domain_num_defined(struct rpc_call *call, void *args, void *ret, struct error *err)
{
	for (const struct domain *dom = domain_first(domains_of(call)); dom; dom = domain_next(dom))
		((w_int *)ret)->value += !domain_active(dom);
	return 0;
}

/* How many a client asked for: it must not be negative, and never needs more than there are. */
static int check_max(struct rpc_call *call, int max, struct error *err)
{
	if (max >= 0 && max <= W_LIST_MAX)
		return 0;
	return error_set(err, -EINVAL, "%s: %d names are out of range", call->proc->name, max);
}

int rpc_domain_list_ids(struct rpc_call *call, void *args, void *ret, struct error *err)
{
	w_ints *list = ret;
	int max = ((const w_int *)args)->value;
	int r = check_max(call, max, err);

	if (r < 0 || max == 0)
		return r;
	list->values.values_val = calloc((size_t)max, sizeof(int));
	if (!list->values.values_val)
		return error_set(err, -ENOMEM, "no memory for the answer");
	for (const struct domain *dom = domain_first(domains_of(call)); dom; dom = domain_next(dom))
		if (domain_active(dom) && list->values.values_len < (u_int)max)
			list->values.values_val[list->values.values_len++] = dom->id;
	return 0;
}

int rpc_domain_list_defined(struct rpc_call *call, void *args, void *ret, struct error *err)
{
	w_strs *list = ret;
	int max = ((const w_int *)args)->value;
	int r = check_max(call, max, err);

	if (r < 0 || max == 0)
		return r;
	list->texts.texts_val = calloc((size_t)max, sizeof(*list->texts.texts_val));
	if (!list->texts.texts_val)
		return error_set(err, -ENOMEM, "no memory for the answer");
	for (const struct domain *dom = domain_first(domains_of(call)); r >= 0 && dom;
	     dom = domain_next(dom)) {
		if (domain_active(dom) || list->texts.texts_len >= (u_int)max)
			continue;
		r = rpc_put_text(&list->texts.texts_val[list->texts.texts_len++], dom->name, err);
	}
	return r;
}

/* --- looking up --- */

int rpc_domain_lookup_by_name(struct rpc_call *call, void *args, void *ret, struct error *err)
{
	const char *name = ((const w_str *)args)->text;
	const struct domain *dom = domain_by_name(domains_of(call), name);

	call->what = RPC_OBJECT_DOMAIN;
	if (!dom)
		return error_set(err, -ENOENT, "no domain with matching name '%.200s'", name);
	return rpc_put_dom(ret, dom, err);
}

int rpc_domain_lookup_by_uuid(struct rpc_call *call, void *args, void *ret, struct error *err)
{
	const uint8_t *uuid = (const uint8_t *)((const w_uuid_arg *)args)->uuid;
	const struct domain *dom = domain_by_uuid(domains_of(call), uuid);
	char text[UUID_TEXT_BYTES];

	call->what = RPC_OBJECT_DOMAIN;
	uuid_format(uuid, text);
	if (!dom)
		return error_set(err, -ENOENT, "no domain with matching uuid '%s'", text);
	return rpc_put_dom(ret, dom, err);
}

int rpc_domain_lookup_by_id(struct rpc_call *call, void *args, void *ret, struct error *err)
{
	int id = ((const w_int *)args)->value;
	const struct domain *dom = domain_by_id(domains_of(call), id);

	call->what = RPC_OBJECT_DOMAIN;
	if (!dom)
		return error_set(err, -ENOENT, "no domain with matching id %d", id);
	return rpc_put_dom(ret, dom, err);
}

/* --- facts --- */

static const struct spec *spec_of(const struct domain *dom)
{
	return dom->live ? &dom->live->spec : &dom->def->spec;
}

int rpc_domain_get_info(struct rpc_call *call, void *args, void *ret, struct error *err)
{
	const struct domain *dom = rpc_call_domain(call, &((w_dom_arg *)args)->dom, err);
	w_dom_info *info = ret;
	struct domain_usage usage;

	if (!dom)
		return err->code;
	info->state = (int)dom->state;
	info->max_kib = spec_of(dom)->memory.size_bytes / KIB;
	info->memory_kib = info->max_kib;
	info->vcpus = (int)spec_of(dom)->cpu.count;
	if (domain_get_usage(dom, &usage))
		info->cpu_time_ns = usage.user_ns + usage.system_ns;
	return 0;
}

int rpc_domain_get_state(struct rpc_call *call, void *args, void *ret, struct error *err)
{
	const w_dom_flags *a = args;
	const struct domain *dom = rpc_call_domain(call, &a->dom, err);
	w_two_ints *state = ret;

	if (!dom || rpc_check_flags(call, a->flags, 0, err) < 0)
		return err->code;
	state->first = (int)dom->state;
	state->second = dom->reason;
	return 0;
}

int rpc_domain_get_xml(struct rpc_call *call, void *args, void *ret, struct error *err)
{
	const w_dom_flags *a = args;
	const struct domain *dom = rpc_call_domain(call, &a->dom, err);

	if (!dom ||
	    rpc_check_flags(call, a->flags,
			    XML_SECURE | XML_INACTIVE | XML_UPDATE_CPU | XML_MIGRATABLE, err) < 0)
		return err->code;
	if ((a->flags & XML_SECURE) && call->client->readonly)
		return error_set(err, -EACCES, "read only access prevents secure XML");
	return rpc_take_text(&((w_str *)ret)->text, domain_xml(dom, !(a->flags & XML_INACTIVE)),
			     err);
}

int rpc_domain_get_os_type(struct rpc_call *call, void *args, void *ret, struct error *err)
{
	if (!rpc_call_domain(call, &((w_dom_arg *)args)->dom, err))
		return err->code;
	return rpc_put_text(&((w_str *)ret)->text, "hvm", err);
}

int rpc_domain_get_max_memory(struct rpc_call *call, void *args, void *ret, struct error *err)
{
	const struct domain *dom = rpc_call_domain(call, &((w_dom_arg *)args)->dom, err);

	if (!dom)
		return err->code;
	((w_u64 *)ret)->value = spec_of(dom)->memory.size_bytes / KIB;
	return 0;
}

int rpc_domain_get_max_vcpus(struct rpc_call *call, void *args, void *ret, struct error *err)
{
	const struct domain *dom = rpc_call_domain(call, &((w_dom_arg *)args)->dom, err);

	if (!dom)
		return err->code;
	((w_int *)ret)->value = (int)spec_of(dom)->cpu.count;
	return 0;
}

int rpc_domain_get_vcpus_flags(struct rpc_call *call, void *args, void *ret, struct error *err)
{
	const w_dom_flags *a = args;
	const struct domain *dom = rpc_call_domain(call, &a->dom, err);

	if (!dom ||
	    rpc_check_flags(call, a->flags, AFFECT_LIVE | AFFECT_CONFIG | VCPU_MAXIMUM, err) < 0)
		return err->code;
	if ((a->flags & AFFECT_LIVE) && !domain_active(dom))
		return error_set(err, -EBADFD, "domain is not running");
	if ((a->flags & AFFECT_CONFIG) && !dom->persistent)
		return error_set(err, -EBADFD,
				 "transient domains do not have any persistent config");
	((w_int *)ret)->value = (int)((a->flags & AFFECT_CONFIG) ? dom->def->spec.cpu.count
								 : spec_of(dom)->cpu.count);
	return 0;
}

int rpc_domain_get_vcpus(struct rpc_call *call, void *args, void *ret, struct error *err)
{
	const w_dom_vcpus_args *a = args;
	const struct domain *dom = rpc_call_running(call, &a->dom, err);
	w_vcpus *vcpus = ret;
	unsigned n;

	if (!dom)
		return err->code;
	if (a->max < 0 || a->max > W_LIST_MAX || a->map_len < 0 || a->map_len > W_CPUMAP_MAX)
		return error_set(err, -EINVAL, "%s: numbers out of range", call->proc->name);
	n = MIN((unsigned)a->max, spec_of(dom)->cpu.count);
	vcpus->info.info_val = calloc(n ? n : 1, sizeof(*vcpus->info.info_val));
	vcpus->maps.maps_val = malloc((size_t)n * (size_t)a->map_len + 1);
	if (!vcpus->info.info_val || !vcpus->maps.maps_val)
		return error_set(err, -ENOMEM, "no memory for the answer");
	vcpus->info.info_len = n;
	vcpus->maps.maps_len = n * (u_int)a->map_len;
	/* Not pinned: every processor. */
	memset(vcpus->maps.maps_val, 0xff, vcpus->maps.maps_len);
	for (unsigned i = 0; i < n; i++) {
		w_vcpu_info *info = &vcpus->info.info_val[i];
		uint64_t ns = 0;

		*info = (w_vcpu_info){.number = i, .state = 1, .cpu = -1};
		if (domain_get_vcpu(dom, i, &ns, &info->cpu))
			info->cpu_time_ns = ns;
	}
	return 0;
}

int rpc_domain_get_autostart(struct rpc_call *call, void *args, void *ret, struct error *err)
{
	const struct domain *dom = rpc_call_domain(call, &((w_dom_arg *)args)->dom, err);

	if (!dom)
		return err->code;
	((w_int *)ret)->value = dom->autostart;
	return 0;
}

int rpc_domain_is_active(struct rpc_call *call, void *args, void *ret, struct error *err)
{
	const struct domain *dom = rpc_call_domain(call, &((w_dom_arg *)args)->dom, err);

	if (!dom)
		return err->code;
	((w_int *)ret)->value = domain_active(dom);
	return 0;
}

int rpc_domain_is_persistent(struct rpc_call *call, void *args, void *ret, struct error *err)
{
	const struct domain *dom = rpc_call_domain(call, &((w_dom_arg *)args)->dom, err);

	if (!dom)
		return err->code;
	((w_int *)ret)->value = dom->persistent;
	return 0;
}

int rpc_domain_is_updated(struct rpc_call *call, void *args, void *ret, struct error *err)
{
	const struct domain *dom = rpc_call_domain(call, &((w_dom_arg *)args)->dom, err);

	if (!dom)
		return err->code;
	((w_int *)ret)->value = dom->updated;
	return 0;
}

/* Of what there is none yet: saved states, snapshots, messages. The machine must be there, though. */
int rpc_domain_has_none(struct rpc_call *call, void *args, void *ret, struct error *err)
{
	/* Every argument of these begins with the machine. */
	return rpc_call_domain(call, args, err) ? 0 : err->code;
}

int rpc_domain_memory_stats(struct rpc_call *call, void *args, void *ret, struct error *err)
{
	enum { TAG_ACTUAL = 6, TAG_RSS = 7 };
	const w_dom_uint_flags *a = args;
	const struct domain *dom = rpc_call_running(call, &a->dom, err);
	w_mem_stats *stats = ret;
	struct domain_usage usage = {0};
	const w_mem_stat all[] = {
		{TAG_ACTUAL, dom ? spec_of(dom)->memory.size_bytes / KIB : 0},
		{TAG_RSS, dom && domain_get_usage(dom, &usage) ? usage.rss_kib : 0},
	};

	if (!dom)
		return err->code;
	stats->stats.stats_len = MIN(a->value, (u_int)ARRAY_SIZE(all));
	stats->stats.stats_val = malloc(sizeof(all));
	if (!stats->stats.stats_val)
		return error_set(err, -ENOMEM, "no memory for the answer");
	memcpy(stats->stats.stats_val, all, sizeof(all));
	return 0;
}

int rpc_domain_get_job_stats(struct rpc_call *call, void *args, void *ret, struct error *err)
{
	/* There are no jobs of the kind that libvirt means: migration, saving. */
	return rpc_call_running(call, args, err) ? 0 : err->code;
}

int rpc_domain_get_control_info(struct rpc_call *call, void *args, void *ret, struct error *err)
{
	enum { CONTROL_OK = 0, CONTROL_JOB = 1 };
	const struct domain *dom = rpc_call_running(call, args, err);

	if (!dom)
		return err->code;
	((w_control_info *)ret)->state = dom->jobs ? CONTROL_JOB : CONTROL_OK;
	return 0;
}

int rpc_domain_get_metadata(struct rpc_call *call, void *args, void *ret, struct error *err)
{
	const w_metadata_get *a = args;
	const struct domain *dom = rpc_call_domain(call, &a->dom, err);
	const char *uri = a->uri ? *a->uri : NULL;
	char *text = NULL;
	int r;

	if (!dom || rpc_check_flags(call, a->flags, AFFECT_LIVE | AFFECT_CONFIG, err) < 0)
		return err->code;
	if (a->type < SPEC_XML_DESCRIPTION || a->type > SPEC_XML_ELEMENT ||
	    (a->type == SPEC_XML_ELEMENT) != (uri != NULL))
		return error_set(err, -EINVAL,
				 "metadata is title, description, or an element with its uri");
	r = spec_xml_get_metadata(dom->def, (enum spec_xml_metadata)a->type, uri, &text, err);
	if (r == -ENODATA)
		call->code = RPC_ERR_NO_METADATA;
	return r < 0 ? r : rpc_take_text(&((w_str *)ret)->text, text, err);
}

int rpc_domain_get_block_info(struct rpc_call *call, void *args, void *ret, struct error *err)
{
	const w_dom_str_flags *a = args;
	const struct domain *dom = rpc_call_domain(call, &a->dom, err);
	w_block_info *info = ret;
	struct stat st;

	if (!dom || rpc_check_flags(call, a->flags, 0, err) < 0)
		return err->code;
	for (size_t i = 0; i < spec_of(dom)->n_disks; i++) {
		const struct spec_disk *disk = &spec_of(dom)->disks[i];
		char dev[16] = "";

		spec_xml_disk_name(disk, dev, sizeof(dev));
		if (!str_eq(a->text, disk->path) && !str_eq(a->text, dev))
			continue;
		if (stat(disk->path, &st) < 0)
			return error_set_errno(err, -errno, "cannot stat file '%s'", disk->path);
		info->capacity = (uint64_t)st.st_size;
		info->allocation = (uint64_t)st.st_blocks * 512;
		info->physical = (uint64_t)st.st_size;
		return 0;
	}
	return error_set(err, -EINVAL, "invalid path %.200s not assigned to domain", a->text);
}

int rpc_domain_get_scheduler_type(struct rpc_call *call, void *args, void *ret, struct error *err)
{
	if (!rpc_call_domain(call, args, err))
		return err->code;
	return rpc_put_text(ret, "posix", err);
}
