/* What is not a device: identity, memory, processors, boot, life cycle. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "base/cleanup.h"
#include "base/str.h"
#include "spec/xml/xml_int.h"

static int copy_text(char **ret, const char *text, struct error *err)
{
	free(*ret);
	*ret = strdup(text);
	return *ret ? 0 : xml_no_memory(err);
}

/* --- identity --- */

static int take_uuid(struct xml_work *work, struct error *err)
{
	struct spec *spec = &work->out->spec;
	xmlNode *node = xml_need(work->domain, &xml_domain_rule, "uuid");
	char text[XML_UUID_BYTES];
	int r = node ? xml_take_uuid(xml_text(node), spec->uuid, err) : xml_no_memory(err);

	if (r < 0)
		return r;
	spec->uuid_given = true;
	xml_format_uuid(spec->uuid, text);
	return xml_set_text(node, text) ? 0 : xml_no_memory(err);
}

static int take_identity(struct xml_work *work, struct error *err)
{
	struct spec_xml *out = work->out;
	const xmlNode *title = xml_child(work->domain, "title");
	const xmlNode *description = xml_child(work->domain, "description");
	int r = copy_text(&out->spec.name, xml_text(xml_child(work->domain, "name")), err);

	if (r >= 0)
		r = take_uuid(work, err);
	if (r >= 0 && title)
		r = copy_text(&out->title, xml_text(title), err);
	if (r >= 0 && description)
		r = copy_text(&out->description, xml_text(description), err);
	if (r >= 0 && title && strchr(out->title, '\n'))
		return error_set(err, -EBADMSG, "element <title> is one line");
	return r;
}

static int take_type(struct xml_work *work, struct error *err)
{
	struct spec *spec = &work->out->spec;
	const char *type = xml_attr(work->domain, "type");
	xmlAttr *id = xmlHasProp(work->domain, (const xmlChar *)"id");

	if (!type)
		return error_set(err, -EBADMSG, "attribute type of <domain> is missing");
	/* Of the machine that the text was read from. */
	if (id)
		xmlRemoveProp(id);
	work->out->test = str_eq(type, "null");
	spec->accel = work->out->test       ? SPEC_ACCEL_NULL
		      : str_eq(type, "kvm") ? SPEC_ACCEL_KVM
					    : SPEC_ACCEL_SOFT;
	return 0;
}

/* --- memory --- */

/* In whole KiB, rounded up as libvirt does, and written so. */
static int take_amount(xmlNode *node, uint64_t *ret_bytes, struct error *err)
{
	uint64_t bytes;
	char text[24];
	int r = xml_read_amount(node, xml_text(node), xml_attr(node, "unit"), &bytes, err);

	if (r < 0)
		return r;
	bytes = bytes > UINT64_MAX - KIB ? bytes : align_up(bytes, KIB);
	snprintf(text, sizeof(text), "%llu", bytes / KIB);
	*ret_bytes = bytes;
	return xml_set_attr(node, "unit", "KiB") && xml_set_text(node, text) ? 0
									     : xml_no_memory(err);
}

static int take_hugepages(struct xml_work *work, const xmlNode *node, struct error *err)
{
	struct spec_memory *memory = &work->out->spec.memory;
	const xmlNode *page = xml_child(node, "page");
	int r;

	memory->hugepages = true;
	if (!page || !xml_attr(page, "size"))
		return 0;
	r = xml_read_amount(page, xml_attr(page, "size"), xml_attr(page, "unit"),
			    &memory->hugepage_bytes, err);
	if (r < 0)
		return r;
	if (memory->hugepage_bytes != 2 * MIB && memory->hugepage_bytes != GIB)
		return xml_refuse(err, page, "huge pages have 2 MiB or 1 GiB");
	return 0;
}

static int take_memory(struct xml_work *work, struct error *err)
{
	struct spec_memory *memory = &work->out->spec.memory;
	xmlNode *node = xml_child(work->domain, "memory");
	const xmlNode *backing = xml_child(work->domain, "memoryBacking");
	xmlNode *current = xml_need(work->domain, &xml_domain_rule, "currentMemory");
	uint64_t current_bytes = 0;
	int r = take_amount(node, &memory->size_bytes, err);

	if (r < 0)
		return r;
	if (!current)
		return xml_no_memory(err);
	/* None is all of it. */
	if (!*xml_text(current) && !xml_set_text(current, xml_text(node)))
		return xml_no_memory(err);
	r = take_amount(current, &current_bytes, err);
	if (r < 0)
		return r;
	if (memory->size_bytes < SPEC_MIN_MEMORY_BYTES)
		return xml_refuse(err, node, "a machine has 32 MiB at least");
	if (memory->size_bytes > SPEC_MAX_MEMORY_BYTES)
		return xml_refuse(err, node, "a machine has 32 TiB at most");
	if (memory->size_bytes % (4 * KIB))
		return xml_refuse(err, node, "it is no whole number of 4 KiB pages");
	if (current_bytes != memory->size_bytes)
		return xml_refuse(err, current, "less than <memory> is not supported yet");
	memory->prealloc = xml_attr_is(xml_child(backing, "allocation"), "mode", "immediate");
	return xml_child(backing, "hugepages")
		       ? take_hugepages(work, xml_child(backing, "hugepages"), err)
		       : 0;
}

/* --- processors --- */

static int take_topology(struct spec_cpu *cpu, const xmlNode *node, struct error *err)
{
	uint64_t sockets = 1, cores = 1, threads = 1;

	if (!node)
		return 0;
	if (xml_attr_u64(node, "sockets", &sockets, err) < 0 ||
	    xml_attr_u64(node, "cores", &cores, err) < 0 ||
	    xml_attr_u64(node, "threads", &threads, err) < 0)
		return -EBADMSG;
	if (sockets == 0 || cores == 0 || threads == 0 || sockets > SPEC_MAX_VCPUS ||
	    cores > SPEC_MAX_VCPUS || threads > SPEC_MAX_VCPUS ||
	    sockets * cores * threads != cpu->count)
		return error_set(
			err, -EINVAL,
			"element <topology> of <cpu>: its product is not the number of <vcpu>");
	cpu->sockets = (uint32_t)sockets;
	cpu->cores = (uint32_t)cores;
	cpu->threads = (uint32_t)threads;
	return 0;
}

static int take_cpu(struct xml_work *work, struct error *err)
{
	struct spec_cpu *cpu = &work->out->spec.cpu;
	xmlNode *node = xml_need(work->domain, &xml_domain_rule, "vcpu");
	const char *text = xml_text(node);
	uint64_t current;
	int r;

	if (!node || (!*text && !xml_set_text(node, "1")) ||
	    !xml_set_attr(node, "placement", "static"))
		return xml_no_memory(err);
	if (parse_u32_range(xml_text(node), 1, SPEC_MAX_VCPUS, &cpu->count) < 0)
		return error_set(err, -EBADMSG, "element <vcpu>: '%.20s' is no number from 1 to %d",
				 xml_text(node), SPEC_MAX_VCPUS);
	current = cpu->count;
	r = xml_attr_u64(node, "current", &current, err);
	if (r < 0)
		return r;
	if (current != cpu->count)
		return xml_refuse(err, node, "attribute current: vCPUs cannot be plugged yet");
	xmlUnsetProp(node, (const xmlChar *)"current");
	cpu->sockets = 0;
	cpu->cores = 0;
	cpu->threads = 0;
	return take_topology(cpu, xml_path(work->domain, "cpu/topology"), err);
}

/* --- boot --- */

bool spec_xml_machine_known(const char *machine)
{
	return str_eq(machine, SPEC_XML_MACHINE) || str_eq(machine, "q35") || str_eq(machine, "pc");
}

static int take_type_element(xmlNode *type, struct error *err)
{
	const char *machine = xml_attr(type, "machine");

	if (!str_eq(xml_text(type), "hvm"))
		return xml_refuse(err, type, "'%.20s' is not 'hvm'", xml_text(type));
	if (machine && !spec_xml_machine_known(machine))
		return xml_refuse(err, type,
				  "the machine '%.60s' is not Vireo's: give '%s', or leave it out",
				  machine, SPEC_XML_MACHINE);
	return xml_set_attr(type, "arch", "x86_64") &&
			       (machine || xml_set_attr(type, "machine", SPEC_XML_MACHINE))
		       ? 0
		       : xml_no_memory(err);
}

static int take_boot(struct xml_work *work, struct error *err)
{
	struct spec *spec = &work->out->spec;
	xmlNode *os = xml_child(work->domain, "os");
	const xmlNode *kernel = xml_child(os, "kernel");
	const xmlNode *initrd = xml_child(os, "initrd");
	const xmlNode *cmdline = xml_child(os, "cmdline");
	int r = take_type_element(xml_child(os, "type"), err);

	if (r < 0)
		return r;
	if (!kernel || !*xml_text(kernel))
		return error_set(
			err, -EOPNOTSUPP,
			"element <kernel> of <os> is missing: there is no firmware that would "
			"boot a disk yet");
	if (work->out->test)
		return copy_text(&spec->null_script, xml_text(kernel), err);
	r = copy_text(&spec->boot.kernel, xml_text(kernel), err);
	if (r >= 0 && initrd)
		r = copy_text(&spec->boot.initrd, xml_text(initrd), err);
	if (r >= 0 && cmdline)
		r = copy_text(&spec->boot.cmdline, xml_text(cmdline), err);
	return r;
}

static int check_clock(const struct xml_work *work, struct error *err)
{
	for (const xmlNode *timer = xml_path(work->domain, "clock/timer"); timer;
	     timer = xml_next(timer)) {
		bool on = !xml_attr_is(timer, "present", "no");

		if (xml_attr_is(timer, "name", "hpet") && on)
			return xml_refuse(err, timer,
					  "Vireo's machines have no HPET: give present='no'");
		if (!xml_attr_is(timer, "name", "hpet") && !on)
			return xml_refuse(err, timer, "the timer '%s' cannot be left out",
					  xml_attr(timer, "name"));
	}
	return 0;
}

/* --- life cycle --- */

static int take_action(struct xml_work *work, const char *name, const char *initial,
		       enum spec_xml_action *ret, struct error *err)
{
	xmlNode *node = xml_need(work->domain, &xml_domain_rule, name);

	if (!node || (!*xml_text(node) && !xml_set_text(node, initial)))
		return xml_no_memory(err);
	if (str_eq(xml_text(node), "destroy"))
		*ret = SPEC_XML_DESTROY;
	else if (str_eq(xml_text(node), "restart"))
		*ret = SPEC_XML_RESTART;
	else
		return xml_refuse(err, node, "'%.40s' is not supported: give destroy or restart",
				  xml_text(node));
	return 0;
}

static int take_life(struct xml_work *work, struct error *err)
{
	struct spec_xml *out = work->out;
	xmlNode *clock = xml_need(work->domain, &xml_domain_rule, "clock");
	int r;

	if (!clock || !xml_set_attr(clock, "offset", "utc"))
		return xml_no_memory(err);
	r = check_clock(work, err);
	if (r >= 0)
		r = take_action(work, "on_poweroff", "destroy", &out->on_poweroff, err);
	if (r >= 0)
		r = take_action(work, "on_reboot", "restart", &out->on_reboot, err);
	if (r >= 0)
		r = take_action(work, "on_crash", "destroy", &out->on_crash, err);
	out->spec.no_reboot = out->on_reboot == SPEC_XML_DESTROY;
	return r;
}

int xml_take_machine(struct xml_work *work, struct error *err)
{
	int r = take_type(work, err);

	if (r >= 0)
		r = take_identity(work, err);
	if (r >= 0)
		r = take_memory(work, err);
	if (r >= 0)
		r = take_cpu(work, err);
	if (r >= 0)
		r = take_boot(work, err);
	return r < 0 ? r : take_life(work, err);
}
