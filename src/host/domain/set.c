/* The set of machines: found by name and UUID, listed in the order of appearance; who listens; what is on disk at the start. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "base/str.h"
#include "host/domain/domain_int.h"

#define WORKERS 4

/* --- hashes --- */

/* FNV-1a, 32 bits. */
static unsigned hash_of(const void *data, size_t len)
{
	const uint8_t *at = data;
	uint32_t h = 2166136261u;

	while (len--)
		h = (h ^ *at++) * 16777619u;
	return h % DOMAIN_BUCKETS;
}

static struct domain **name_bucket(struct domain_set *set, const char *name)
{
	return &set->names[hash_of(name, strlen(name))];
}

static struct domain *find_name(const struct domain_set *set, const char *name)
{
	struct domain *dom = set->names[hash_of(name, strlen(name))];

	while (dom && !str_eq(dom->name, name))
		dom = dom->by_name;
	return dom;
}

static struct domain *find_uuid(const struct domain_set *set, const uint8_t uuid[16])
{
	struct domain *dom = set->uuids[hash_of(uuid, 16)];

	while (dom && memcmp(dom->uuid, uuid, 16) != 0)
		dom = dom->by_uuid;
	return dom;
}

static void unhash_name(struct domain *dom)
{
	struct domain **at = name_bucket(dom->set, dom->name);

	while (*at && *at != dom)
		at = &(*at)->by_name;
	if (*at)
		*at = dom->by_name;
}

static void unhash_uuid(struct domain *dom)
{
	struct domain **at = &dom->set->uuids[hash_of(dom->uuid, 16)];

	while (*at && *at != dom)
		at = &(*at)->by_uuid;
	if (*at)
		*at = dom->by_uuid;
}

static void hash_name(struct domain *dom)
{
	struct domain **bucket = name_bucket(dom->set, dom->name);

	dom->by_name = *bucket;
	*bucket = dom;
}

/* --- one machine --- */

struct domain *domain_ref(struct domain *dom)
{
	dom->refs++;
	return dom;
}

void domain_unref(struct domain *dom)
{
	if (!dom || --dom->refs > 0)
		return;
	spec_xml_free(dom->live);
	spec_xml_free(dom->def);
	free(dom->live_text);
	free(dom->serial_tty);
	free(dom->console_tty);
	free(dom->name);
	free(dom);
}

int domain_new(struct domain_set *set, const struct spec_xml *xml, struct domain **ret,
	       struct error *err)
{
	struct domain *dom;
	struct domain **bucket;

	if (set->count >= DOMAIN_MAX)
		return error_set(err, -ECANCELED, "this host has %u machines, which is the limit",
				 set->count);
	dom = calloc(1, sizeof(*dom));
	if (dom)
		dom->name = strdup(xml->spec.name);
	if (!dom || !dom->name) {
		free(dom);
		return error_set(err, -ENOMEM, "no memory for a machine");
	}
	dom->set = set;
	dom->refs = 1;
	dom->id = -1;
	dom->state = DOMAIN_SHUTOFF;
	dom->jobs_tail = &dom->jobs;
	memcpy(dom->uuid, xml->spec.uuid, sizeof(dom->uuid));
	hash_name(dom);
	bucket = &set->uuids[hash_of(dom->uuid, 16)];
	dom->by_uuid = *bucket;
	*bucket = dom;
	dom->at = set->last;
	*set->last = dom;
	set->last = &dom->next;
	set->count++;
	*ret = dom;
	return 0;
}

void domain_forget(struct domain *dom)
{
	if (dom->gone)
		return;
	unhash_name(dom);
	unhash_uuid(dom);
	*dom->at = dom->next;
	if (dom->next)
		dom->next->at = dom->at;
	else
		dom->set->last = dom->at;
	dom->set->count--;
	dom->gone = true;
	dom->listed = false;
	domain_unref(dom);
}

int domain_set_name(struct domain *dom, const char *name)
{
	char *copy = strdup(name);

	if (!copy)
		return -ENOMEM;
	unhash_name(dom);
	free(dom->name);
	dom->name = copy;
	hash_name(dom);
	return 0;
}

void domain_set_def(struct domain *dom, struct spec_xml *xml)
{
	spec_xml_free(dom->def);
	dom->def = xml;
}

int domain_find_place(const struct domain_set *set, const struct spec_xml *xml,
		      struct domain **ret_existing, struct error *err)
{
	struct domain *same = find_uuid(set, xml->spec.uuid);
	struct domain *named = find_name(set, xml->spec.name);
	char uuid[UUID_TEXT_BYTES];

	if (!store_name_good(xml->spec.name))
		return error_set(err, -EBADMSG,
				 "element <name>: '%.63s' cannot be a machine's name",
				 xml->spec.name);
	if (same && !str_eq(same->name, xml->spec.name)) {
		uuid_format(same->uuid, uuid);
		return error_set(err, -EEXIST, "domain '%s' is already defined with uuid %s",
				 same->name, uuid);
	}
	if (named && named != same) {
		uuid_format(named->uuid, uuid);
		return error_set(err, -EEXIST, "domain '%s' already exists with uuid %s",
				 named->name, uuid);
	}
	if (same && !same->listed)
		return error_set(err, -EBADFD, "domain '%s' is just being made", same->name);
	*ret_existing = same;
	return 0;
}

/* --- looking up --- */

static struct domain *listed(struct domain *dom)
{
	return dom && dom->listed ? dom : NULL;
}

struct domain *domain_by_name(const struct domain_set *set, const char *name)
{
	return listed(find_name(set, name));
}

struct domain *domain_by_uuid(const struct domain_set *set, const uint8_t uuid[16])
{
	return listed(find_uuid(set, uuid));
}

struct domain *domain_by_id(const struct domain_set *set, int id)
{
	if (id < 0)
		return NULL;
	for (struct domain *dom = set->first; dom; dom = dom->next)
		if (dom->id == id)
			return listed(dom);
	return NULL;
}

struct domain *domain_first(const struct domain_set *set)
{
	struct domain *dom = set->first;

	while (dom && !dom->listed)
		dom = dom->next;
	return dom;
}

struct domain *domain_next(const struct domain *dom)
{
	struct domain *next = dom->next;

	while (next && !next->listed)
		next = next->next;
	return next;
}

char *domain_xml(const struct domain *dom, bool live)
{
	return strdup(live && dom->live_text ? dom->live_text : dom->def->text);
}

/* --- events --- */

static void emit(const struct domain *dom, const struct domain_event *event)
{
	struct domain_listener *next;

	for (struct domain_listener *l = dom->set->listeners; l; l = next) {
		next = l->next;
		l->fn(l, event);
	}
}

void domain_emit(struct domain *dom, int event, int detail)
{
	emit(dom, &(struct domain_event){DOMAIN_EVENT_LIFECYCLE, dom, dom->name, event, detail});
}

void domain_emit_reboot(struct domain *dom)
{
	emit(dom,
	     &(struct domain_event){.kind = DOMAIN_EVENT_REBOOT, .dom = dom, .name = dom->name});
}

void domain_listen(struct domain_set *set, struct domain_listener *listener)
{
	listener->next = set->listeners;
	set->listeners = listener;
}

void domain_unlisten(struct domain_set *set, struct domain_listener *listener)
{
	for (struct domain_listener **at = &set->listeners; *at; at = &(*at)->next) {
		if (*at == listener) {
			*at = listener->next;
			return;
		}
	}
}

/* --- the set --- */

static int load(struct domain_set *set, const char *file, struct error *err)
{
	_cleanup_free_ char *text = NULL;
	struct spec_xml *xml = NULL;
	struct domain *existing = NULL, *dom;
	size_t len;
	int r = store_read(&set->machines, file, &text, &len, err);

	if (r >= 0)
		r = spec_xml_parse(text, len, set->config.emulator, &xml, err);
	if (r < 0)
		return r;
	r = domain_find_place(set, xml, &existing, err);
	if (r >= 0 && existing)
		r = error_set(err, -EEXIST, "domain '%s' is defined twice", existing->name);
	if (r >= 0 && (strlen(file) != strlen(xml->spec.name) + strlen(DOMAIN_XML_SUFFIX) ||
		       !str_starts(file, xml->spec.name)))
		r = error_set(err, -EINVAL, "it describes the machine '%s'", xml->spec.name);
	if (r >= 0)
		r = domain_new(set, xml, &dom, err);
	if (r < 0) {
		spec_xml_free(xml);
		return r;
	}
	dom->def = xml;
	dom->persistent = true;
	dom->listed = true;
	dom->autostart = store_has(&set->autostart, file);
	return 0;
}

static int load_one(void *opaque, const char *file)
{
	struct domain_set *set = opaque;
	struct error err = ERROR_INIT;

	if (file[0] != '.' && load(set, file, &err) < 0)
		log_warning("the definition '%s/%s' is left alone: %s", set->machines.path, file,
			    err.text);
	return 0;
}

static int open_store(struct store *store, const char *folder, const char *name,
		      const struct store_ops *ops, struct error *err)
{
	_cleanup_free_ char *path = NULL;

	if (asprintf(&path, "%s%s%s", folder, *name ? "/" : "", name) < 0) {
		path = NULL;
		return error_set(err, -ENOMEM, "no memory for a path");
	}
	return store_open(store, path, ops, err);
}

/* What is in the runtime folder lives no longer than the machines themselves. */
static int no_sync(int fd)
{
	return 0;
}

int domain_set_new(struct loop *loop, const struct domain_config *config, struct domain_set **ret,
		   struct error *err)
{
	struct domain_set *set = calloc(1, sizeof(*set));
	int r;

	if (!set)
		return error_set(err, -ENOMEM, "no memory for machines");
	set->loop = loop;
	set->config = *config;
	set->last = &set->first;
	set->next_id = 1;
	set->runtime_ops = store_ops_real;
	set->runtime_ops.sync = no_sync;
	r = work_pool_new(loop, WORKERS, &set->pool);
	if (r >= 0)
		r = open_store(&set->machines, config->dirs.config, "machines", NULL, err);
	if (r >= 0)
		r = open_store(&set->autostart, config->dirs.config, "autostart", NULL, err);
	if (r >= 0)
		r = open_store(&set->runtime, config->dirs.runtime, "machines", &set->runtime_ops,
			       err);
	if (r >= 0) {
		r = store_each(&set->machines, DOMAIN_XML_SUFFIX, load_one, set);
		if (r < 0)
			error_set_errno(err, r, "cannot read '%s'", set->machines.path);
	}
	if (r < 0) {
		domain_set_free(set);
		return r;
	}
	domain_status_adopt_all(set);
	*ret = set;
	return 0;
}

void domain_set_free(struct domain_set *set)
{
	if (!set)
		return;
	set->ending = true;
	work_pool_free(set->pool);
	while (set->first) {
		struct domain *dom = domain_ref(set->first);

		domain_vmm_free(dom->vmm);
		dom->vmm = NULL;
		domain_jobs_cancel(dom);
		domain_forget(dom);
		domain_unref(dom);
	}
	store_close(&set->machines);
	store_close(&set->autostart);
	store_close(&set->runtime);
	free(set);
}
