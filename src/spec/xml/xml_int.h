/* Inside of src/spec/xml: the grammar's types, and a document as this folder walks it. */
#pragma once

#include <libxml/tree.h>
#include <stdio.h>

#include "spec/xml/xml.h"

/* --- the grammar (rules.c) --- */

struct xml_attr_rule {
	const char *name;
	const char *values; /* "a|b": what it may be; NULL: anything */
	const char *why;    /* it, or any other value, is refused because */
};

#define XML_MANY     1u  /* may be repeated */
#define XML_TEXT     2u  /* has text and no elements */
#define XML_VERBATIM 4u  /* anything inside; kept as it is */
#define XML_ASSIGNED 8u  /* ours to say: taken out of what comes in */
#define XML_REQUIRED 16u /* must be there */

struct xml_rule {
	const char *name; /* NULL ends a list */
	unsigned flags;
	const struct xml_attr_rule *attrs; /* to a NULL name; NULL: none are known */
	const struct xml_rule *children;   /* likewise, in the order of output */
	const char *why;                   /* refused because */
};

extern const struct xml_rule xml_domain_rule;

/* --- documents (document.c) --- */

/* Parses; -EBADMSG with the parser's own words. */
int xml_read(const char *text, size_t len, xmlDoc **ret, struct error *err);
void xml_close(xmlDoc **doc);
#define _cleanup_xml_ __attribute__((cleanup(xml_close)))

/* Holds a tree against its rule: refuses, orders, takes out comments and what is assigned. */
int xml_check(xmlNode *node, const struct xml_rule *rule, struct error *err);

/* Nodes and values, borrowed. NULL when absent. */
xmlNode *xml_child(const xmlNode *node, const char *name);
xmlNode *xml_next(const xmlNode *node); /* the next sibling of the same name */
const char *xml_attr(const xmlNode *node, const char *name);
const char *xml_text(const xmlNode *node); /* "" when empty */
/* Down a path of children, "os/type". */
xmlNode *xml_path(const xmlNode *node, const char *path);
bool xml_attr_is(const xmlNode *node, const char *name, const char *value);
/* An attribute or text as a number: 1, 0 when absent, -EINVAL. */
int xml_attr_u64(const xmlNode *node, const char *name, uint64_t *ret, struct error *err);

/* Changes; false without memory. */
bool xml_set_attr(xmlNode *node, const char *name, const char *value);
bool xml_set_text(xmlNode *node, const char *text);
/* The child of that name, made where rule says it stands. */
xmlNode *xml_need(xmlNode *node, const struct xml_rule *rule, const char *name);
/* A new child, behind those of its name. */
xmlNode *xml_add(xmlNode *node, const struct xml_rule *rule, const char *name);
const struct xml_rule *xml_rule_of(const struct xml_rule *rule, const char *name);

#define XML_UUID_BYTES 37
/* From text, or made at random when that is NULL or empty. */
int xml_take_uuid(const char *text, uint8_t uuid[16], struct error *err);
void xml_format_uuid(const uint8_t uuid[16], char text[XML_UUID_BYTES]);
/* An amount of memory or storage in libvirt's units; unit NULL: KiB. node: for the message. */
int xml_read_amount(const xmlNode *node, const char *text, const char *unit, uint64_t *ret_bytes,
		    struct error *err);
/* As text of an element. */
void xml_put_escaped(FILE *out, const char *text);

/* Heap text in libvirt's style, attributes in the order of the rules; NULL without memory. */
char *xml_write(const xmlNode *node, const struct xml_rule *rule);

/* --- what the parts read and assign (machine.c, devices.c, chars.c) --- */

struct xml_work {
	xmlNode *domain;
	xmlNode *devices; /* with its rule */
	const struct xml_rule *devices_rule;
	struct spec_xml *out;
	const char *emulator;
};

int xml_no_memory(struct error *err);
/* "element <source> of <disk>" and the like begin every refusal. */
int xml_refuse(struct error *err, const xmlNode *node, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

int xml_take_machine(struct xml_work *work, struct error *err);
int xml_take_disks(struct xml_work *work, struct error *err);
int xml_take_nets(struct xml_work *work, struct error *err);
int xml_take_chars(struct xml_work *work, struct error *err);
int xml_take_others(struct xml_work *work, struct error *err);
/* Addresses, when all devices are known; into the spec and the document. */
int xml_assign_slots(struct xml_work *work, struct error *err);
/* An <address> as a PCI slot: -1 when there is none. */
int xml_take_slot(xmlNode *device, int32_t *ret, struct error *err);
