/* The way in: document, grammar, parts, the finished spec, and the text that it is remembered by. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/str.h"
#include "spec/xml/xml_int.h"

void spec_xml_free(struct spec_xml *xml)
{
	if (!xml)
		return;
	spec_fini(&xml->spec);
	free(xml->text);
	free(xml->title);
	free(xml->description);
	free(xml);
}

static void cleanup_spec_xml(struct spec_xml **xml)
{
	spec_xml_free(*xml);
}

/* MACs that were made are part of the machine from now on. */
static int write_macs(const struct xml_work *work, struct error *err)
{
	const struct spec *spec = &work->out->spec;
	const struct xml_rule *rule = xml_rule_of(work->devices_rule, "interface");
	size_t i = 0;

	for (xmlNode *node = xml_child(work->devices, "interface"); node; node = xml_next(node)) {
		const uint8_t *m = spec->nets[i++].mac;
		xmlNode *mac = xml_need(node, rule, "mac");
		char text[18];

		snprintf(text, sizeof(text), "%02x:%02x:%02x:%02x:%02x:%02x", m[0], m[1], m[2],
			 m[3], m[4], m[5]);
		if (!mac || !xml_set_attr(mac, "address", text))
			return xml_no_memory(err);
	}
	return 0;
}

static int take_devices(struct xml_work *work, struct error *err)
{
	int r;

	work->devices = xml_need(work->domain, &xml_domain_rule, "devices");
	work->devices_rule = xml_rule_of(&xml_domain_rule, "devices");
	if (!work->devices)
		return xml_no_memory(err);
	r = xml_take_disks(work, err);
	if (r >= 0)
		r = xml_take_nets(work, err);
	if (r >= 0)
		r = xml_take_chars(work, err);
	if (r >= 0)
		r = xml_take_others(work, err);
	return r < 0 ? r : xml_assign_slots(work, err);
}

static int take_all(struct xml_work *work, struct error *err)
{
	int r = xml_take_machine(work, err);

	if (r >= 0)
		r = take_devices(work, err);
	if (r >= 0)
		r = spec_finish(&work->out->spec, err);
	if (r >= 0)
		r = write_macs(work, err);
	if (r < 0)
		return r;
	work->out->text = xml_write(work->domain, &xml_domain_rule);
	return work->out->text ? 0 : xml_no_memory(err);
}

int spec_xml_parse(const char *text, size_t len, const char *emulator, struct spec_xml **ret,
		   struct error *err)
{
	_cleanup_xml_ xmlDoc *doc = NULL;
	_cleanup_(cleanup_spec_xml) struct spec_xml *out = NULL;
	xmlNode *root;
	int r = xml_read(text, len, &doc, err);

	if (r < 0)
		return r;
	root = xmlDocGetRootElement(doc);
	if (root->ns || !str_eq((const char *)root->name, "domain"))
		return error_set(err, -EBADMSG,
				 "unexpected root element <%.60s>, expecting <domain>",
				 (const char *)root->name);
	r = xml_check(root, &xml_domain_rule, err);
	if (r < 0)
		return r;
	out = calloc(1, sizeof(*out));
	if (!out)
		return xml_no_memory(err);
	spec_init(&out->spec);

	struct xml_work work = {.domain = root, .out = out, .emulator = emulator};

	r = take_all(&work, err);
	if (r < 0)
		return r;
	*ret = steal_ptr(&out);
	return 0;
}
