/*
 * Text from a tree, as libvirt writes it: two spaces a level, single quotes, empty elements closed in one tag. What is verbatim keeps its namespaces.
 */
#include <stdlib.h>
#include <string.h>

#include "base/str.h"
#include "spec/xml/xml_int.h"

#define MAX_DEPTH 256 /* libxml2's own bound for what it reads */

static void put_escaped(FILE *out, const char *text, bool in_attr)
{
	for (; *text; text++) {
		switch (*text) {
		case '&':
			fputs("&amp;", out);
			break;
		case '<':
			fputs("&lt;", out);
			break;
		case '>':
			fputs("&gt;", out);
			break;
		case '\r':
			fputs("&#13;", out);
			break;
		case '\'':
			fputs(in_attr ? "&apos;" : "'", out);
			break;
		case '\n':
			fputs(in_attr ? "&#10;" : "\n", out);
			break;
		case '\t':
			fputs(in_attr ? "&#9;" : "\t", out);
			break;
		default:
			fputc(*text, out);
		}
	}
}

void xml_put_escaped(FILE *out, const char *text)
{
	put_escaped(out, text, false);
}

static void indent(FILE *out, unsigned depth)
{
	fprintf(out, "%*s", (int)(2 * depth), "");
}

static void put_attr(FILE *out, const char *prefix, const char *name, const char *value)
{
	fprintf(out, " %s%s%s='", prefix ? prefix : "", prefix ? ":" : "", name);
	put_escaped(out, value, true);
	fputc('\'', out);
}

/* A verbatim element's declarations and attributes, in their order. */
static void put_foreign_attrs(FILE *out, const xmlNode *node)
{
	for (const xmlNs *ns = node->nsDef; ns; ns = ns->next)
		put_attr(out, ns->prefix ? "xmlns" : NULL,
			 ns->prefix ? (const char *)ns->prefix : "xmlns",
			 ns->href ? (const char *)ns->href : "");
	for (const xmlAttr *attr = node->properties; attr; attr = attr->next)
		put_attr(out, attr->ns ? (const char *)attr->ns->prefix : NULL,
			 (const char *)attr->name,
			 attr->children && attr->children->content
				 ? (const char *)attr->children->content
				 : "");
}

static bool has_text(const xmlNode *node)
{
	for (const xmlNode *child = node->children; child; child = child->next)
		if (child->type == XML_TEXT_NODE && !xmlIsBlankNode(child))
			return true;
	return false;
}

static bool has_elements(const xmlNode *node)
{
	for (const xmlNode *child = node->children; child; child = child->next)
		if (child->type == XML_ELEMENT_NODE)
			return true;
	return false;
}

static void put_tag(FILE *out, const char *open, const xmlNode *node)
{
	fprintf(out, "%s%s%s%s", open,
		node->ns && node->ns->prefix ? (const char *)node->ns->prefix : "",
		node->ns && node->ns->prefix ? ":" : "", (const char *)node->name);
}

/* mixed: inside text, where white space counts and nothing is added. */
static void put_foreign(FILE *out, const xmlNode *node, unsigned depth, bool mixed)
{
	bool text = has_text(node), elements = has_elements(node);
	bool keep = mixed || text;

	if (depth > MAX_DEPTH)
		return;
	if (!mixed)
		indent(out, depth);
	put_tag(out, "<", node);
	put_foreign_attrs(out, node);
	if (!text && !elements) {
		fputs(mixed ? "/>" : "/>\n", out);
		return;
	}
	fputs(keep ? ">" : ">\n", out);
	for (const xmlNode *child = node->children; child; child = child->next) {
		if (child->type == XML_ELEMENT_NODE)
			put_foreign(out, child, depth + 1, keep);
		else if (child->type == XML_TEXT_NODE && keep && child->content)
			put_escaped(out, (const char *)child->content, false);
	}
	if (!keep)
		indent(out, depth);
	put_tag(out, "</", node);
	fputs(mixed ? ">" : ">\n", out);
}

static void put_element(FILE *out, const xmlNode *node, const struct xml_rule *rule, unsigned depth)
{
	const xmlNode *child = node->children;

	indent(out, depth);
	fprintf(out, "<%s", rule->name);
	for (const struct xml_attr_rule *attr = rule->attrs; attr && attr->name; attr++) {
		const char *value = xml_attr(node, attr->name);

		if (value)
			put_attr(out, NULL, attr->name, value);
	}
	if (rule->flags & XML_TEXT) {
		if (*xml_text(node) == '\0') {
			fputs("/>\n", out);
			return;
		}
		fputc('>', out);
		put_escaped(out, xml_text(node), false);
	} else if (!child) {
		fputs("/>\n", out);
		return;
	} else {
		fputs(">\n", out);
		for (; child; child = child->next) {
			const struct xml_rule *own = xml_rule_of(rule, (const char *)child->name);

			if (child->type != XML_ELEMENT_NODE)
				continue;
			if ((rule->flags & XML_VERBATIM) || !own)
				put_foreign(out, child, depth + 1, false);
			else
				put_element(out, child, own, depth + 1);
		}
		indent(out, depth);
	}
	fprintf(out, "</%s>\n", rule->name);
}

char *xml_write(const xmlNode *node, const struct xml_rule *rule)
{
	char *text = NULL;
	size_t len;
	FILE *out = open_memstream(&text, &len);

	if (!out)
		return NULL;
	if (rule)
		put_element(out, node, rule, 0);
	else
		put_foreign(out, node, 0, false);
	if (fclose(out) == 0)
		return text;
	free(text);
	return NULL;
}
