/*
 * What a running machine leaves in the runtime folder, so that a daemon that was killed, restarted or upgraded finds it again: UUID.json.
 * A process is known by its id together with the time of its start, so that another with the same id is not taken for it.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "base/str.h"
#include "host/domain/domain_int.h"

static void status_name(const struct domain *dom, const char *suffix,
			char buf[UUID_TEXT_BYTES + 16])
{
	uuid_format(dom->uuid, buf);
	snprintf(buf + strlen(buf), 16, "%s", suffix);
}

int domain_status_write(struct domain *dom, struct error *err)
{
	_cleanup_json_ json_t *status =
		json_pack("{s:i,s:I,s:i,s:s}", "pid", (int)dom->pid, "start",
			  (json_int_t)dom->vmm->start_ticks, "id", dom->id, "xml", dom->live->text);
	_cleanup_free_ char *text = status ? json_dumps(status, JSON_COMPACT) : NULL;
	char name[UUID_TEXT_BYTES + 16];

	if (!text)
		return error_set(err, -ENOMEM, "no memory for its status");
	status_name(dom, DOMAIN_STATUS_SUFFIX, name);
	return store_write(&dom->set->runtime, name, text, strlen(text), err);
}

void domain_status_remove(struct domain *dom)
{
	static const char *const suffixes[] = {DOMAIN_STATUS_SUFFIX, ".config", ".qmp"};
	char name[UUID_TEXT_BYTES + 16];

	for (size_t i = 0; i < ARRAY_SIZE(suffixes); i++) {
		status_name(dom, suffixes[i], name);
		store_remove(&dom->set->runtime, name, NULL);
	}
}

struct status {
	pid_t pid;
	uint64_t start;
	int id;
	const char *xml; /* borrowed */
};

static int parse_status(const json_t *json, struct status *ret, struct error *err)
{
	uint64_t pid = 0, id = 0;
	int r = json_get_u64(json, "pid", &pid, err);

	if (r > 0)
		r = json_get_u64(json, "start", &ret->start, err);
	if (r > 0)
		r = json_get_u64(json, "id", &id, err);
	if (r > 0)
		r = json_get_string(json, "xml", &ret->xml, err);
	if (r <= 0 || pid == 0 || pid > INT32_MAX || id > INT32_MAX)
		return r < 0 ? r : error_set(err, -EINVAL, "it is incomplete");
	ret->pid = (pid_t)pid;
	ret->id = (int)id;
	return 0;
}

/* The machine of the status: its definition, or a transient one. */
static int find_or_make(struct domain_set *set, struct spec_xml *xml, struct domain **ret,
			struct error *err)
{
	int r = domain_find_place(set, xml, ret, err);

	if (r < 0 || *ret)
		return r;
	r = domain_new(set, xml, ret, err);
	if (r < 0)
		return r;
	r = spec_xml_parse(xml->text, strlen(xml->text), set->config.emulator, &(*ret)->def, err);
	if (r < 0)
		domain_forget(*ret);
	return r;
}

static int adopt(struct domain_set *set, const struct status *status, struct error *err)
{
	struct spec_xml *xml = NULL;
	struct domain *dom = NULL;
	int r;

	if (domain_process_start(status->pid) != status->start)
		return error_set(err, -ESRCH, "its process has ended");
	r = spec_xml_parse(status->xml, strlen(status->xml), set->config.emulator, &xml, err);
	if (r >= 0)
		r = find_or_make(set, xml, &dom, err);
	if (r < 0) {
		spec_xml_free(xml);
		return r;
	}
	dom->live = xml;
	dom->id = status->id;
	/* Until it has answered. */
	dom->state = DOMAIN_RUNNING;
	dom->reason = 0;
	dom->listed = true;
	set->next_id = MAX(set->next_id, status->id + 1);
	r = domain_vmm_adopt(dom, status->pid, status->start, err);
	if (r >= 0)
		return 0;
	dom->live = NULL;
	spec_xml_free(xml);
	dom->id = -1;
	dom->state = DOMAIN_SHUTOFF;
	if (!dom->persistent)
		domain_forget(dom);
	return r;
}

static int adopt_one(void *opaque, const char *file)
{
	struct domain_set *set = opaque;
	_cleanup_free_ char *text = NULL;
	_cleanup_json_ json_t *json = NULL;
	struct status status = {0};
	struct error err = ERROR_INIT;
	size_t len;
	int r = store_read(&set->runtime, file, &text, &len, &err);

	if (r >= 0)
		r = json_parse(text, len, file, &json, &err);
	if (r >= 0)
		r = parse_status(json, &status, &err);
	if (r >= 0)
		r = adopt(set, &status, &err);
	if (r < 0) {
		log_info("a machine that ran before is not there any more (%s): %s", file,
			 err.text);
		store_remove(&set->runtime, file, NULL);
	}
	return 0;
}

void domain_status_adopt_all(struct domain_set *set)
{
	store_each(&set->runtime, DOMAIN_STATUS_SUFFIX, adopt_one, set);
}
