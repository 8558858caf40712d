/*
 * A document against the grammar: what is unknown or cannot be done is refused by name, what remains is put into the grammar's order. Text between elements and
 * comments go.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/str.h"
#include "spec/xml/xml_int.h"

static void drop(xmlNode *node)
{
	xmlUnlinkNode(node);
	xmlFreeNode(node);
}

static bool value_allowed(const char *values, const char *value)
{
	size_t len = strlen(value);

	while (*values) {
		size_t n = strcspn(values, "|");

		if (n == len && memcmp(values, value, len) == 0)
			return true;
		values += n;
		values += *values == '|';
	}
	return false;
}

static int check_attr(const xmlNode *node, const xmlAttr *attr, const struct xml_attr_rule *rules,
		      struct error *err)
{
	const char *value = xml_attr(node, (const char *)attr->name);

	if (attr->ns)
		return xml_refuse(err, node, "attribute %.60s:%.60s is not known",
				  attr->ns->prefix ? (const char *)attr->ns->prefix : "?",
				  (const char *)attr->name);
	for (; rules && rules->name; rules++) {
		if (!str_eq(rules->name, (const char *)attr->name))
			continue;
		if (rules->values ? value_allowed(rules->values, value) : !rules->why)
			return 0;
		return xml_refuse(err, node, "attribute %s='%.60s': %s", rules->name, value,
				  rules->why ? rules->why : "this value is not supported");
	}
	return xml_refuse(err, node, "attribute %.60s is not known", (const char *)attr->name);
}

static int check_attrs(const xmlNode *node, const struct xml_rule *rule, struct error *err)
{
	for (const xmlAttr *attr = node->properties; attr; attr = attr->next) {
		int r = check_attr(node, attr, rule->attrs, err);

		if (r < 0)
			return r;
	}
	return 0;
}

/* Its text becomes one node, without the white space around it. */
static int check_text(xmlNode *node, struct error *err)
{
	xmlChar *content;
	char *start, *end;
	bool good;

	for (xmlNode *child = node->children; child; child = child->next)
		if (child->type == XML_ELEMENT_NODE)
			return xml_refuse(err, child, "only text belongs here");
	content = xmlNodeGetContent(node);
	if (!content)
		return xml_no_memory(err);
	start = (char *)content + strspn((char *)content, " \t\r\n");
	end = start + strlen(start);
	while (end > start && strchr(" \t\r\n", end[-1]))
		end--;
	*end = '\0';
	good = xml_set_text(node, start);
	xmlFree(content);
	return good ? 0 : xml_no_memory(err);
}

static bool is_blank(const xmlNode *node)
{
	return node->type == XML_COMMENT_NODE || node->type == XML_PI_NODE ||
	       (node->type == XML_TEXT_NODE && xmlIsBlankNode(node));
}

/* The rule of a child, or why there is none. */
static int find_rule(const xmlNode *child, const struct xml_rule *rule, const struct xml_rule **ret,
		     struct error *err)
{
	if (child->type != XML_ELEMENT_NODE)
		return xml_refuse(err, child->parent, "there is text where only elements belong");
	if (child->ns)
		return error_set(err, -EOPNOTSUPP, "element <%.60s:%.60s> of <%.60s> is not known",
				 child->ns->prefix ? (const char *)child->ns->prefix : "",
				 (const char *)child->name, (const char *)child->parent->name);
	*ret = xml_rule_of(rule, (const char *)child->name);
	if (!*ret)
		return xml_refuse(err, child, "it is not known");
	return 0;
}

static int check_required(const xmlNode *node, const struct xml_rule *rule, struct error *err)
{
	for (const struct xml_rule *child = rule->children; child && child->name; child++)
		if ((child->flags & XML_REQUIRED) && !xml_child(node, child->name))
			return error_set(err, -EBADMSG, "element <%s> of <%s> is missing",
					 child->name, rule->name);
	return 0;
}

static void append(xmlNode *node, xmlNode *child)
{
	child->next = NULL;
	child->prev = node->last;
	if (node->last)
		node->last->next = child;
	else
		node->children = child;
	node->last = child;
}

/* Checked children in the order of the rules; those of one name keep theirs. */
static void sort_children(xmlNode *node, const struct xml_rule *rule)
{
	xmlNode *rest = node->children;

	node->children = NULL;
	node->last = NULL;
	for (const struct xml_rule *own = rule->children; own && own->name; own++) {
		xmlNode **at = &rest;

		while (*at) {
			xmlNode *child = *at;

			if (!str_eq((const char *)child->name, own->name)) {
				at = &child->next;
				continue;
			}
			*at = child->next;
			append(node, child);
		}
	}
}

static int check_children(xmlNode *node, const struct xml_rule *rule, struct error *err)
{
	xmlNode *next;

	for (xmlNode *child = node->children; child; child = next) {
		const struct xml_rule *own = NULL;
		int r;

		next = child->next;
		if (is_blank(child)) {
			drop(child);
			continue;
		}
		r = find_rule(child, rule, &own, err);
		if (r < 0 || !own)
			return r;
		if (own->flags & XML_ASSIGNED) {
			drop(child);
			continue;
		}
		if (own->why)
			return xml_refuse(err, child, "%s", own->why);
		if (!(own->flags & XML_MANY) && xml_child(node, own->name) != child)
			return xml_refuse(err, child, "it may stand here once only");
		r = xml_check(child, own, err);
		if (r < 0)
			return r;
	}
	sort_children(node, rule);
	return check_required(node, rule, err);
}

int xml_check(xmlNode *node, const struct xml_rule *rule, struct error *err)
{
	int r;

	if (rule->flags & XML_VERBATIM)
		return 0;
	r = check_attrs(node, rule, err);
	if (r < 0)
		return r;
	if (rule->flags & XML_TEXT)
		return check_text(node, err);
	return check_children(node, rule, err);
}
