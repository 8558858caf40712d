/* The text of a machine that runs: what was assigned at its start is added to its definition. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/str.h"
#include "spec/xml/xml_int.h"

/* Checked text of ours is read again; it fails for want of memory only. */
static int reopen(const char *text, xmlDoc **ret, xmlNode **ret_root, struct error *err)
{
	int r = xml_read(text, strlen(text), ret, err);

	if (r >= 0) {
		*ret_root = xmlDocGetRootElement(*ret);
		r = xml_check(*ret_root, &xml_domain_rule, err);
	}
	return r;
}

static int rewrite(const xmlNode *root, char **ret, struct error *err)
{
	*ret = xml_write(root, &xml_domain_rule);
	return *ret ? 0 : xml_no_memory(err);
}

static bool add_alias(xmlNode *device, const struct xml_rule *rule, const char *name)
{
	xmlNode *alias = device ? xml_need(device, rule, "alias") : NULL;

	return !device || (alias && xml_set_attr(alias, "name", name));
}

static bool add_terminal(xmlNode *device, const struct xml_rule *rule, const char *tty)
{
	xmlNode *source;

	if (!device || !tty)
		return true;
	source = xml_need(device, rule, "source");
	if (!source || !xml_set_attr(source, "path", tty))
		return false;
	return !str_eq((const char *)device->name, "console") || xml_set_attr(device, "tty", tty);
}

static bool add_consoles(xmlNode *devices, const struct xml_rule *rules,
			 const struct spec_xml_live *live)
{
	const struct xml_rule *rule = xml_rule_of(rules, "console");
	xmlNode *serial = xml_child(devices, "serial");
	bool good = add_alias(serial, xml_rule_of(rules, "serial"), "serial0") &&
		    add_terminal(serial, xml_rule_of(rules, "serial"), live->serial_tty);

	for (xmlNode *node = xml_child(devices, "console"); good && node; node = xml_next(node)) {
		bool virtio = xml_attr_is(xml_child(node, "target"), "type", "virtio");

		good = add_alias(node, rule, virtio ? "console1" : "serial0") &&
		       add_terminal(node, rule, virtio ? live->console_tty : live->serial_tty);
	}
	return good;
}

static bool add_devices(const struct spec_xml *xml, xmlNode *devices,
			const struct spec_xml_live *live)
{
	static const struct {
		const char *element, *alias;
	} small[] = {{"memballoon", "balloon0"},
		     {"rng", "rng0"},
		     {"panic", "panic0"},
		     {"vsock", "vsock0"}};
	const struct xml_rule *rules = xml_rule_of(&xml_domain_rule, "devices");
	bool good = add_consoles(devices, rules, live);
	size_t i = 0;

	for (xmlNode *node = xml_child(devices, "disk"); good && node; node = xml_next(node))
		good = add_alias(node, xml_rule_of(rules, "disk"), xml->spec.disks[i++].id);
	i = 0;
	for (xmlNode *node = xml_child(devices, "interface"); good && node; node = xml_next(node))
		good = add_alias(node, xml_rule_of(rules, "interface"), xml->spec.nets[i++].id);
	for (i = 0; good && i < sizeof(small) / sizeof(small[0]); i++)
		good = add_alias(xml_child(devices, small[i].element),
				 xml_rule_of(rules, small[i].element), small[i].alias);
	return good;
}

int spec_xml_live_text(const struct spec_xml *xml, const struct spec_xml_live *live, char **ret,
		       struct error *err)
{
	_cleanup_xml_ xmlDoc *doc = NULL;
	xmlNode *root;
	char id[16];
	int r = reopen(xml->text, &doc, &root, err);

	if (r < 0)
		return r;
	snprintf(id, sizeof(id), "%d", live->id);
	if (!xml_set_attr(root, "id", id) || !add_devices(xml, xml_child(root, "devices"), live))
		return xml_no_memory(err);
	return rewrite(root, ret, err);
}

/* --- changes that leave the machine as it is --- */

int spec_xml_set_name(const struct spec_xml *xml, const char *name, char **ret, struct error *err)
{
	_cleanup_xml_ xmlDoc *doc = NULL;
	xmlNode *root;
	int r = reopen(xml->text, &doc, &root, err);

	if (r < 0)
		return r;
	if (!xml_set_text(xml_child(root, "name"), name))
		return xml_no_memory(err);
	return rewrite(root, ret, err);
}

/* The child of <metadata> in that namespace. */
static xmlNode *find_metadata(const xmlNode *root, const char *uri)
{
	const xmlNode *all = xml_child(root, "metadata");

	for (xmlNode *node = all ? all->children : NULL; node; node = node->next)
		if (node->type == XML_ELEMENT_NODE && node->ns && node->ns->href &&
		    str_eq((const char *)node->ns->href, uri))
			return node;
	return NULL;
}

int spec_xml_get_metadata(const struct spec_xml *xml, enum spec_xml_metadata type, const char *uri,
			  char **ret, struct error *err)
{
	static const char *const names[] = {"description", "title"};
	_cleanup_xml_ xmlDoc *doc = NULL;
	xmlNode *root;
	const xmlNode *node;
	int r = reopen(xml->text, &doc, &root, err);

	if (r < 0)
		return r;
	if (type == SPEC_XML_ELEMENT) {
		node = find_metadata(root, uri);
		if (!node)
			return error_set(err, -ENODATA,
					 "Requested metadata element is not present");
		*ret = xml_write(node, NULL);
	} else {
		node = xml_child(root, names[type]);
		if (!node)
			return error_set(err, -ENODATA,
					 "Requested metadata element is not present");
		*ret = strdup(xml_text(node));
	}
	return *ret ? 0 : xml_no_memory(err);
}

static void remove_node(xmlNode *node)
{
	if (!node)
		return;
	xmlUnlinkNode(node);
	xmlFreeNode(node);
}

/* value's root, in namespace `uri` under the prefix `key`. */
static int add_metadata(xmlNode *root, xmlDoc *doc, const char *value, const char *key,
			const char *uri, struct error *err)
{
	_cleanup_xml_ xmlDoc *given = NULL;
	xmlNode *all = xml_need(root, &xml_domain_rule, "metadata");
	xmlNode *node;
	xmlNs *ns;
	int r = xml_read(value, strlen(value), &given, err);

	if (r < 0)
		return r;
	node = all ? xmlDocCopyNode(xmlDocGetRootElement(given), doc, 1) : NULL;
	if (!node)
		return xml_no_memory(err);
	xmlAddChild(all, node);
	if (node->ns && node->ns->href && str_eq((const char *)node->ns->href, uri))
		return 0;
	ns = xmlNewNs(node, (const xmlChar *)uri, (const xmlChar *)key);
	if (!ns)
		return error_set(err, -EINVAL, "'%.60s' cannot be the prefix of <%.60s>", key,
				 (const char *)node->name);
	xmlSetNs(node, ns);
	return 0;
}

int spec_xml_set_metadata(const struct spec_xml *xml, enum spec_xml_metadata type,
			  const char *value, const char *key, const char *uri, char **ret,
			  struct error *err)
{
	static const char *const names[] = {"description", "title"};
	_cleanup_xml_ xmlDoc *doc = NULL;
	xmlNode *root, *node;
	int r = reopen(xml->text, &doc, &root, err);

	if (r < 0)
		return r;
	if (type == SPEC_XML_ELEMENT) {
		remove_node(find_metadata(root, uri));
		r = value ? add_metadata(root, doc, value, key, uri, err) : 0;
		node = xml_child(root, "metadata");
		if (node && !node->children)
			remove_node(node);
	} else if (value && *value) {
		node = xml_need(root, &xml_domain_rule, names[type]);
		r = node && xml_set_text(node, value) ? 0 : xml_no_memory(err);
	} else {
		remove_node(xml_child(root, names[type]));
	}
	return r < 0 ? r : rewrite(root, ret, err);
}
