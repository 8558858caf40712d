#include "spec/xml/storage.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "base/cleanup.h"
#include "base/str.h"
#include "spec/xml/xml_int.h"

#define ATTRS(...)                                                                                 \
	.attrs = (const struct xml_attr_rule[])                                                    \
	{                                                                                          \
		__VA_ARGS__,                                                                       \
		{                                                                                  \
			NULL                                                                       \
		}                                                                                  \
	}

static const struct xml_rule permission_rules[] = {
	{"mode", XML_TEXT}, {"owner", XML_TEXT}, {"group", XML_TEXT}, {"label", XML_TEXT}, {NULL}};

/* --- pools --- */

static const struct xml_rule pool_target_rules[] = {
	{"path", XML_TEXT | XML_REQUIRED},
	{"permissions", .children = permission_rules},
	{NULL},
};

static const struct xml_rule pool_rule = {
	"pool",
	ATTRS({"type", "dir", "pools are folders (type='dir') so far"}),
	.children =
		(const struct xml_rule[]){
			{"name", XML_TEXT | XML_REQUIRED},
			{"uuid", XML_TEXT},
			{"capacity", XML_ASSIGNED},
			{"allocation", XML_ASSIGNED},
			{"available", XML_ASSIGNED},
			{"features", .why = "pools have no features"},
			{"source", .children = NULL},
			{"target", XML_REQUIRED, .children = pool_target_rules},
			{NULL},
		},
};

void spec_xml_pool_free(struct spec_xml_pool *pool)
{
	if (!pool)
		return;
	free(pool->name);
	free(pool->path);
	free(pool);
}

static void cleanup_pool(struct spec_xml_pool **pool)
{
	spec_xml_pool_free(*pool);
}

/* An octal <mode>; -1 when there is none. */
static int take_mode(const xmlNode *permissions, int *ret, struct error *err)
{
	const char *text = xml_text(xml_child(permissions, "mode"));
	unsigned mode = 0;

	*ret = -1;
	if (!text || !*text)
		return 0;
	for (const char *at = text; *at; at++) {
		if (*at < '0' || *at > '7' || at - text > 5)
			return error_set(err, -EBADMSG, "element <mode>: '%.20s' is no octal mode",
					 text);
		mode = mode * 8 + (unsigned)(*at - '0');
	}
	*ret = (int)(mode & 07777);
	return 0;
}

static int open_checked(const char *text, size_t len, const struct xml_rule *rule, xmlDoc **ret,
			struct error *err)
{
	const xmlNode *root;
	int r = xml_read(text, len, ret, err);

	if (r < 0)
		return r;
	root = xmlDocGetRootElement(*ret);
	if (root->ns || !str_eq((const char *)root->name, rule->name))
		return error_set(err, -EBADMSG, "unexpected root element <%.60s>, expecting <%s>",
				 (const char *)root->name, rule->name);
	return xml_check(xmlDocGetRootElement(*ret), rule, err);
}

int spec_xml_parse_pool(const char *text, size_t len, struct spec_xml_pool **ret, struct error *err)
{
	_cleanup_xml_ xmlDoc *doc = NULL;
	_cleanup_(cleanup_pool) struct spec_xml_pool *pool = calloc(1, sizeof(*pool));
	const xmlNode *root, *target;
	int r;

	if (!pool)
		return xml_no_memory(err);
	r = open_checked(text, len, &pool_rule, &doc, err);
	if (r < 0)
		return r;
	root = xmlDocGetRootElement(doc);
	if (!xml_attr(root, "type"))
		return error_set(err, -EBADMSG, "attribute type of <pool> is missing");
	target = xml_child(root, "target");
	pool->name = strdup(xml_text(xml_child(root, "name")));
	pool->path = strdup(xml_text(xml_child(target, "path")));
	if (!pool->name || !pool->path)
		return xml_no_memory(err);
	if (pool->path[0] != '/')
		return error_set(err, -EBADMSG,
				 "element <path> of <target>: '%.200s' is not absolute",
				 pool->path);
	r = xml_take_uuid(xml_text(xml_child(root, "uuid")), pool->uuid, err);
	if (r >= 0)
		r = take_mode(xml_child(target, "permissions"), &pool->mode, err);
	if (r < 0)
		return r;
	*ret = steal_ptr(&pool);
	return 0;
}

static void put_text(FILE *out, const char *before, const char *text, const char *after)
{
	fputs(before, out);
	xml_put_escaped(out, text);
	fputs(after, out);
}

static void put_bytes(FILE *out, const char *name, uint64_t bytes)
{
	fprintf(out, "  <%s unit='bytes'>%llu</%s>\n", name, (unsigned long long)bytes, name);
}

static void put_permissions(FILE *out, unsigned mode, unsigned uid, unsigned gid)
{
	fprintf(out,
		"    <permissions>\n      <mode>0%o</mode>\n      <owner>%u</owner>\n      "
		"<group>%u</group>\n    </permissions>\n",
		mode, uid, gid);
}

static char *finish(FILE *out, char **text)
{
	if (fclose(out) == 0)
		return *text;
	free(*text);
	return NULL;
}

char *spec_xml_write_pool(const struct spec_xml_pool *pool, const struct spec_xml_pool_state *state)
{
	char uuid[XML_UUID_BYTES];
	char *text = NULL;
	size_t len;
	FILE *out = open_memstream(&text, &len);

	if (!out)
		return NULL;
	xml_format_uuid(pool->uuid, uuid);
	put_text(out, "<pool type='dir'>\n  <name>", pool->name, "</name>\n");
	fprintf(out, "  <uuid>%s</uuid>\n", uuid);
	put_bytes(out, "capacity", state ? state->capacity : 0);
	put_bytes(out, "allocation", state ? state->allocation : 0);
	put_bytes(out, "available", state ? state->available : 0);
	put_text(out, "  <source>\n  </source>\n  <target>\n    <path>", pool->path, "</path>\n");
	if (state)
		put_permissions(out, state->mode, state->uid, state->gid);
	else if (pool->mode >= 0)
		fprintf(out, "    <permissions>\n      <mode>0%o</mode>\n    </permissions>\n",
			(unsigned)pool->mode);
	fputs("  </target>\n</pool>\n", out);
	return finish(out, &text);
}

/* --- volumes --- */

static const struct xml_rule volume_target_rules[] = {
	{"path", XML_ASSIGNED},
	{"format", ATTRS({"type"})},
	{"permissions", .children = permission_rules},
	{"timestamps", XML_ASSIGNED},
	{"compat", XML_TEXT},
	{"nocow"},
	{"features", .children = (const struct xml_rule[]){{"lazy_refcounts"}, {NULL}}},
	{"encryption", .why = "it is not supported yet"},
	{NULL},
};

static const struct xml_rule volume_rule = {
	"volume",
	ATTRS({"type", "file", "volumes are files"}),
	.children =
		(const struct xml_rule[]){
			{"name", XML_TEXT | XML_REQUIRED},
			{"key", XML_ASSIGNED},
			{"capacity", XML_TEXT, ATTRS({"unit"})},
			{"allocation", XML_TEXT, ATTRS({"unit"})},
			{"physical", XML_ASSIGNED},
			{"source", .children = NULL},
			{"target", .children = volume_target_rules},
			{"backingStore", .why = "volumes over others are not supported yet"},
			{NULL},
		},
};

void spec_xml_volume_free(struct spec_xml_volume *volume)
{
	if (!volume)
		return;
	free(volume->name);
	free(volume->format);
	free(volume);
}

static void cleanup_volume(struct spec_xml_volume **volume)
{
	spec_xml_volume_free(*volume);
}

/* In bytes, where there is no unit. */
static int take_bytes(const xmlNode *node, uint64_t *ret, struct error *err)
{
	const char *unit = xml_attr(node, "unit");

	if (!*xml_text(node)) {
		*ret = 0;
		return 0;
	}
	return xml_read_amount(node, xml_text(node), unit && *unit ? unit : "bytes", ret, err);
}

int spec_xml_parse_volume(const char *text, size_t len, struct spec_xml_volume **ret,
			  struct error *err)
{
	_cleanup_xml_ xmlDoc *doc = NULL;
	_cleanup_(cleanup_volume) struct spec_xml_volume *volume = calloc(1, sizeof(*volume));
	const xmlNode *root, *allocation;
	const char *format;
	int r;

	if (!volume)
		return xml_no_memory(err);
	r = open_checked(text, len, &volume_rule, &doc, err);
	if (r < 0)
		return r;
	root = xmlDocGetRootElement(doc);
	allocation = xml_child(root, "allocation");
	format = xml_attr(xml_path(root, "target/format"), "type");
	volume->name = strdup(xml_text(xml_child(root, "name")));
	volume->format = strdup(format ? format : "raw");
	if (!volume->name || !volume->format)
		return xml_no_memory(err);
	if (xml_child(root, "capacity"))
		r = take_bytes(xml_child(root, "capacity"), &volume->capacity, err);
	if (r >= 0 && allocation)
		r = take_bytes(allocation, &volume->allocation, err);
	volume->allocation_given = allocation != NULL;
	if (r >= 0)
		r = take_mode(xml_path(root, "target/permissions"), &volume->mode, err);
	if (r < 0)
		return r;
	*ret = steal_ptr(&volume);
	return 0;
}

static void put_time(FILE *out, const char *name, const struct timespec *when)
{
	fprintf(out, "      <%s>%lld.%09ld</%s>\n", name, (long long)when->tv_sec, when->tv_nsec,
		name);
}

char *spec_xml_write_volume(const struct spec_xml_volume_state *volume)
{
	char *text = NULL;
	size_t len;
	FILE *out = open_memstream(&text, &len);

	if (!out)
		return NULL;
	put_text(out, "<volume type='file'>\n  <name>", volume->name, "</name>\n");
	put_text(out, "  <key>", volume->path, "</key>\n");
	put_bytes(out, "capacity", volume->capacity);
	put_bytes(out, "allocation", volume->allocation);
	put_bytes(out, "physical", volume->physical);
	put_text(out, "  <target>\n    <path>", volume->path, "</path>\n");
	fprintf(out, "    <format type='%s'/>\n", volume->format);
	put_permissions(out, volume->mode, volume->uid, volume->gid);
	fputs("    <timestamps>\n", out);
	put_time(out, "atime", &volume->atime);
	put_time(out, "mtime", &volume->mtime);
	put_time(out, "ctime", &volume->ctime);
	fputs("    </timestamps>\n  </target>\n", out);
	if (volume->backing)
		put_text(out, "  <backingStore>\n    <path>", volume->backing,
			 "</path>\n  </backingStore>\n");
	fputs("</volume>\n", out);
	return finish(out, &text);
}
