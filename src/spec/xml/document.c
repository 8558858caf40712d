/* Documents by libxml2: reading with every door closed, walking, changing. Any thread. */
#include <errno.h>
#include <libxml/parser.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/str.h"
#include "spec/xml/xml_int.h"

void spec_xml_init(void)
{
	xmlInitParser();
}

void xml_close(xmlDoc **doc)
{
	if (*doc)
		xmlFreeDoc(*doc);
}

int xml_no_memory(struct error *err)
{
	return error_set(err, -ENOMEM, "no memory for a machine's description");
}

int xml_refuse(struct error *err, const xmlNode *node, const char *fmt, ...)
{
	char text[300];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	if (node->parent && node->parent->type == XML_ELEMENT_NODE)
		return error_set(err, -EOPNOTSUPP, "element <%.60s> of <%.60s>: %s",
				 (const char *)node->name, (const char *)node->parent->name, text);
	return error_set(err, -EOPNOTSUPP, "element <%.60s>: %s", (const char *)node->name, text);
}

static int parse_failure(xmlParserCtxt *ctxt, struct error *err)
{
	const xmlError *why = xmlCtxtGetLastError(ctxt);
	char text[200] = "no XML";

	if (why && why->code == XML_ERR_NO_MEMORY)
		return xml_no_memory(err);
	if (why && why->message)
		str_copy(text, sizeof(text), why->message);
	text[strcspn(text, "\n")] = '\0';
	return error_set(err, -EBADMSG, "line %d: %s", why ? why->line : 1, text);
}

int xml_read(const char *text, size_t len, xmlDoc **ret, struct error *err)
{
	xmlParserCtxt *ctxt;
	xmlDoc *doc;
	int r;

	if (len > SPEC_XML_MAX_BYTES)
		return error_set(err, -EBADMSG, "a machine's description has %d bytes at most",
				 SPEC_XML_MAX_BYTES);
	/* Before the parser sees it: what a document type defines could grow without end. */
	if (memmem(text, len, "<!DOCTYPE", 9) || memmem(text, len, "<!ENTITY", 8))
		return error_set(err, -EBADMSG, "a machine's description has no document type");
	ctxt = xmlNewParserCtxt();
	if (!ctxt)
		return xml_no_memory(err);
	doc = xmlCtxtReadMemory(ctxt, text, (int)len, "machine", "UTF-8",
				XML_PARSE_NONET | XML_PARSE_NOERROR | XML_PARSE_NOWARNING |
					XML_PARSE_NOCDATA);
	if (!doc) {
		r = parse_failure(ctxt, err);
	} else if (doc->intSubset || !xmlDocGetRootElement(doc)) {
		xmlFreeDoc(doc);
		r = error_set(err, -EBADMSG, "no machine's description");
	} else {
		*ret = doc;
		r = 0;
	}
	xmlFreeParserCtxt(ctxt);
	return r;
}

/* --- walking --- */

static bool is_element(const xmlNode *node, const char *name)
{
	return node->type == XML_ELEMENT_NODE && !node->ns &&
	       str_eq((const char *)node->name, name);
}

xmlNode *xml_child(const xmlNode *node, const char *name)
{
	if (!node)
		return NULL;
	for (xmlNode *child = node->children; child; child = child->next)
		if (is_element(child, name))
			return child;
	return NULL;
}

xmlNode *xml_next(const xmlNode *node)
{
	for (xmlNode *other = node->next; other; other = other->next)
		if (is_element(other, (const char *)node->name))
			return other;
	return NULL;
}

xmlNode *xml_path(const xmlNode *node, const char *path)
{
	xmlNode *at = NULL;

	while (node && *path) {
		size_t len = strcspn(path, "/");
		char name[64];

		if (len >= sizeof(name))
			return NULL;
		memcpy(name, path, len);
		name[len] = '\0';
		at = xml_child(node, name);
		node = at;
		path += len;
		path += *path == '/';
	}
	return node ? at : NULL;
}

const char *xml_attr(const xmlNode *node, const char *name)
{
	if (!node)
		return NULL;
	for (const xmlAttr *attr = node->properties; attr; attr = attr->next) {
		if (attr->ns || !str_eq((const char *)attr->name, name))
			continue;
		/* Without entities a value is one text node, or none when it is empty. */
		return attr->children && attr->children->content
			       ? (const char *)attr->children->content
			       : "";
	}
	return NULL;
}

const char *xml_text(const xmlNode *node)
{
	if (!node)
		return NULL;
	return node->children && node->children->content ? (const char *)node->children->content
							 : "";
}

bool xml_attr_is(const xmlNode *node, const char *name, const char *value)
{
	const char *is = xml_attr(node, name);

	return is && str_eq(is, value);
}

int xml_attr_u64(const xmlNode *node, const char *name, uint64_t *ret, struct error *err)
{
	const char *text = xml_attr(node, name);

	if (!text)
		return 0;
	if (parse_u64(text, ret) == 0)
		return 1;
	error_set(err, -EBADMSG, "attribute %s='%.60s' of <%.60s> is no number", name, text,
		  (const char *)node->name);
	return -EBADMSG;
}

/* --- changing --- */

bool xml_set_attr(xmlNode *node, const char *name, const char *value)
{
	return xmlSetProp(node, (const xmlChar *)name, (const xmlChar *)value) != NULL;
}

bool xml_set_text(xmlNode *node, const char *text)
{
	xmlNode *content = xmlNewText((const xmlChar *)text);

	if (!content)
		return false;
	while (node->children) {
		xmlNode *child = node->children;

		xmlUnlinkNode(child);
		xmlFreeNode(child);
	}
	xmlAddChild(node, content);
	return true;
}

const struct xml_rule *xml_rule_of(const struct xml_rule *rule, const char *name)
{
	for (const struct xml_rule *child = rule->children; child && child->name; child++)
		if (str_eq(child->name, name))
			return child;
	return NULL;
}

xmlNode *xml_add(xmlNode *node, const struct xml_rule *rule, const char *name)
{
	const struct xml_rule *own = xml_rule_of(rule, name);
	xmlNode *added = xmlNewNode(NULL, (const xmlChar *)name);
	xmlNode *before = NULL;

	if (!added)
		return NULL;
	/* Children are in the order of the rules already. */
	for (xmlNode *child = node->children; child && !before; child = child->next)
		if (child->type == XML_ELEMENT_NODE &&
		    xml_rule_of(rule, (const char *)child->name) > own)
			before = child;
	if (before)
		xmlAddPrevSibling(before, added);
	else
		xmlAddChild(node, added);
	return added;
}

xmlNode *xml_need(xmlNode *node, const struct xml_rule *rule, const char *name)
{
	xmlNode *child = xml_child(node, name);

	return child ? child : xml_add(node, rule, name);
}
