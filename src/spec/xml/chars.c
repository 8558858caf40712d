/*
 * Serial ports and consoles. libvirt's rule: the first <console> is the serial port seen again, unless its target is virtio; a console without a serial
 * port makes one.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/str.h"
#include "spec/xml/xml_int.h"

static int take_char(struct spec_char *chr, const xmlNode *node, struct error *err)
{
	const char *type = xml_attr(node, "type");
	const char *path = xml_attr(xml_child(node, "source"), "path");

	chr->kind = !type || str_eq(type, "pty") ? SPEC_CHAR_PTY
		    : str_eq(type, "unix")       ? SPEC_CHAR_UNIX
		    : str_eq(type, "file")       ? SPEC_CHAR_FILE
						 : SPEC_CHAR_NONE;
	if (chr->kind == SPEC_CHAR_PTY || chr->kind == SPEC_CHAR_NONE)
		return 0;
	if (!path)
		return error_set(err, -EBADMSG,
				 "element <source> of <%s type='%s'>: attribute path is missing",
				 (const char *)node->name, type);
	chr->path = strdup(path);
	return chr->path ? 0 : xml_no_memory(err);
}

/* A terminal's path is the running machine's: what a client gives back is dropped. */
static void forget_terminal(xmlNode *node)
{
	xmlNode *source = xml_child(node, "source");

	xmlUnsetProp(node, (const xmlChar *)"tty");
	if (!source || xml_attr_is(node, "type", "unix") || xml_attr_is(node, "type", "file"))
		return;
	xmlUnlinkNode(source);
	xmlFreeNode(source);
}

static int set_target(xmlNode *node, const struct xml_rule *rule, const char *type,
		      struct error *err)
{
	xmlNode *target = xml_need(node, rule, "target");
	const struct xml_rule *own = xml_rule_of(rule, "target");
	xmlNode *model = NULL;

	if (!target || !xml_set_attr(target, "type", type) || !xml_set_attr(target, "port", "0"))
		return xml_no_memory(err);
	if (!str_eq(type, "isa-serial"))
		return 0;
	model = xml_need(target, own, "model");
	return model && xml_set_attr(model, "name", "isa-serial") ? 0 : xml_no_memory(err);
}

static int need_type(xmlNode *node, struct error *err)
{
	if (xml_attr(node, "type"))
		return 0;
	return error_set(err, -EBADMSG, "attribute type of <%s> is missing",
			 (const char *)node->name);
}

/* A serial port as the console describes it. */
static int make_serial(struct xml_work *work, const xmlNode *console, struct error *err)
{
	xmlNode *serial = xml_add(work->devices, work->devices_rule, "serial");
	const char *path = xml_attr(xml_child(console, "source"), "path");
	const struct xml_rule *rule = xml_rule_of(work->devices_rule, "serial");
	xmlNode *source;

	if (!serial || !xml_set_attr(serial, "type", xml_attr(console, "type")))
		return xml_no_memory(err);
	if (!path)
		return 0;
	source = xml_add(serial, rule, "source");
	return source && xml_set_attr(source, "path", path) ? 0 : xml_no_memory(err);
}

/* The console that shows a serial port again. */
static int make_console(struct xml_work *work, const xmlNode *serial, struct error *err)
{
	const struct xml_rule *rule = xml_rule_of(work->devices_rule, "console");
	xmlNode *console = xml_add(work->devices, work->devices_rule, "console");
	const char *path = xml_attr(xml_child(serial, "source"), "path");
	xmlNode *source;

	if (!console || !xml_set_attr(console, "type", xml_attr(serial, "type")))
		return xml_no_memory(err);
	if (path) {
		source = xml_add(console, rule, "source");
		if (!source || !xml_set_attr(source, "path", path))
			return xml_no_memory(err);
	}
	return set_target(console, rule, "serial", err);
}

static int take_consoles(struct xml_work *work, bool *ret_serial_again, struct error *err)
{
	const struct xml_rule *rule = xml_rule_of(work->devices_rule, "console");
	bool virtio_seen = false;

	*ret_serial_again = false;
	for (xmlNode *node = xml_child(work->devices, "console"); node; node = xml_next(node)) {
		bool virtio = xml_attr_is(xml_child(node, "target"), "type", "virtio");
		int r = need_type(node, err);

		if (r < 0)
			return r;
		if (virtio ? virtio_seen : *ret_serial_again)
			return xml_refuse(err, node, "there is one console of a kind");
		forget_terminal(node);
		if (virtio) {
			virtio_seen = true;
			r = take_char(&work->out->spec.console, node, err);
		} else {
			*ret_serial_again = true;
			r = xml_child(work->devices, "serial") ? 0 : make_serial(work, node, err);
		}
		if (r >= 0)
			r = set_target(node, rule, virtio ? "virtio" : "serial", err);
		if (r < 0)
			return r;
	}
	return 0;
}

int xml_take_chars(struct xml_work *work, struct error *err)
{
	struct spec *spec = &work->out->spec;
	const struct xml_rule *rule = xml_rule_of(work->devices_rule, "serial");
	xmlNode *serial;
	bool again;
	int r;

	spec->serial.kind = SPEC_CHAR_NONE;
	spec->console.kind = SPEC_CHAR_NONE;
	r = take_consoles(work, &again, err);
	serial = xml_child(work->devices, "serial");
	if (r < 0 || !serial)
		return r;
	if (xml_next(serial))
		return xml_refuse(err, xml_next(serial), "there is one serial port");
	r = need_type(serial, err);
	forget_terminal(serial);
	if (r >= 0)
		r = take_char(&spec->serial, serial, err);
	if (r >= 0)
		r = set_target(serial, rule, "isa-serial", err);
	if (r >= 0 && !again)
		r = make_console(work, serial, err);
	return r;
}
