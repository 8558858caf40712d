/* Disks, network cards and the small devices; and where each stands on the PCI bus. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "base/cleanup.h"
#include "base/str.h"
#include "spec/xml/xml_int.h"

#define PCI_SLOTS 32
#define DISK_ID   "virtio-disk"

static int set_string(char **member, const char *text, struct error *err)
{
	free(*member);
	*member = strdup(text);
	return *member ? 0 : xml_no_memory(err);
}

static int take_u32(const xmlNode *node, const char *name, uint32_t min, uint32_t max,
		    uint32_t *ret, struct error *err)
{
	const char *text = xml_attr(node, name);

	if (!text)
		return 0;
	if (parse_u32_range(text, min, max, ret) < 0)
		return error_set(err, -EBADMSG,
				 "attribute %s='%.40s' of <%s> is no number from %u to %u", name,
				 text, (const char *)node->name, min, max);
	return 1;
}

int xml_take_slot(xmlNode *device, int32_t *ret, struct error *err)
{
	const xmlNode *address = xml_child(device, "address");
	uint64_t slot;
	int r;

	*ret = -1;
	if (!address || !xml_attr(address, "slot"))
		return 0;
	r = xml_attr_u64(address, "slot", &slot, err);
	if (r < 0)
		return r;
	if (slot < 1 || slot >= PCI_SLOTS)
		return xml_refuse(err, address, "slot %llu: a device stands in one of 1 to 31",
				  (unsigned long long)slot);
	*ret = (int32_t)slot;
	return 0;
}

/* --- disks --- */

/* "vda" is the first, "vdz" the 26th, "vdaa" the 27th; -1 when it is no such name. */
static int disk_index(const char *dev)
{
	int index = 0;

	if (!str_starts(dev, "vd") || !dev[2] || strlen(dev) > 4)
		return -1;
	for (const char *at = dev + 2; *at; at++) {
		if (*at < 'a' || *at > 'z')
			return -1;
		index = index * 26 + (*at - 'a' + 1);
	}
	return index - 1;
}

void spec_xml_disk_name(const struct spec_disk *disk, char *buf, size_t size)
{
	uint32_t index;

	buf[0] = '\0';
	if (!disk->id || !str_starts(disk->id, DISK_ID) ||
	    parse_u32_range(disk->id + strlen(DISK_ID), 0, 26 * 27 - 1, &index) < 0)
		return;
	if (index < 26)
		snprintf(buf, size, "vd%c", (char)('a' + index));
	else
		snprintf(buf, size, "vd%c%c", (char)('a' + index / 26 - 1),
			 (char)('a' + index % 26));
}

static int disk_target(struct spec_disk *disk, xmlNode *node, struct error *err)
{
	xmlNode *target = xml_child(node, "target");
	const char *dev = xml_attr(target, "dev");
	int index = dev ? disk_index(dev) : -1;
	char id[32];

	if (!dev)
		return error_set(err, -EBADMSG, "attribute dev of <target> of <disk> is missing");
	if (index < 0)
		return xml_refuse(err, target,
				  "'%.20s': disks are on virtio, and are vda, vdb, ...", dev);
	snprintf(id, sizeof(id), DISK_ID "%d", index);
	if (!xml_set_attr(target, "bus", "virtio"))
		return xml_no_memory(err);
	return set_string(&disk->id, id, err);
}

static int disk_source(struct spec_disk *disk, const xmlNode *node, struct error *err)
{
	const xmlNode *source = xml_child(node, "source");
	const char *wanted = xml_attr_is(node, "type", "block") ? "dev" : "file";
	const char *other = str_eq(wanted, "dev") ? "file" : "dev";
	const char *path = xml_attr(source, wanted);

	if (!path || !*path || xml_attr(source, other))
		return error_set(err, -EBADMSG,
				 "element <source> of <disk type='%s'>: attribute %s names it",
				 xml_attr(node, "type"), wanted);
	return set_string(&disk->path, path, err);
}

static int disk_driver(struct spec_disk *disk, xmlNode *driver, struct error *err)
{
	static const struct {
		const char *name;
		enum spec_cache mode;
	} caches[] = {
		{"none", SPEC_CACHE_NONE},
		{"writethrough", SPEC_CACHE_WRITETHROUGH},
		{"unsafe", SPEC_CACHE_UNSAFE},
	};
	const char *type = xml_attr(driver, "type");
	uint32_t thread = 0;
	int r;

	if (!xml_set_attr(driver, "name", "qemu") ||
	    (!type && !xml_set_attr(driver, "type", "raw")))
		return xml_no_memory(err);
	r = set_string(&disk->format, type ? type : "raw", err);
	for (size_t i = 0; i < ARRAY_SIZE(caches); i++)
		if (xml_attr_is(driver, "cache", caches[i].name))
			disk->cache = caches[i].mode;
	if (r >= 0 && xml_attr(driver, "io"))
		r = set_string(&disk->engine,
			       xml_attr_is(driver, "io", "threads") ? "threads" : "auto", err);
	if (r >= 0 && xml_attr_is(driver, "io", "io_uring"))
		r = set_string(&disk->engine, "io_uring", err);
	if (xml_attr(driver, "discard"))
		disk->discard = xml_attr_is(driver, "discard", "unmap");
	if (r >= 0)
		r = take_u32(driver, "queues", 1, SPEC_MAX_DISK_QUEUES, &disk->queues, err);
	if (r >= 0)
		r = take_u32(driver, "queue_size", 2, 1024, &disk->queue_size, err);
	if (r >= 0)
		r = take_u32(driver, "iothread", 1, SPEC_MAX_DISKS, &thread, err);
	disk->iothread = thread > 0;
	return r;
}

static int take_disk(struct spec_disk *disk, xmlNode *node, const struct xml_rule *rule,
		     struct error *err)
{
	xmlNode *driver;
	int r;

	if (!xml_attr(node, "type"))
		return error_set(err, -EBADMSG, "attribute type of <disk> is missing");
	driver = xml_need(node, rule, "driver");
	if (!driver || !xml_set_attr(node, "device", "disk"))
		return xml_no_memory(err);
	*disk = (struct spec_disk){.fd = -1,
				   .cache = SPEC_CACHE_WRITEBACK,
				   .discard = true,
				   .queue_size = 256,
				   .slot = -1};
	disk->engine = strdup("auto");
	if (!disk->engine)
		return xml_no_memory(err);
	r = disk_target(disk, node, err);
	if (r >= 0)
		r = disk_source(disk, node, err);
	if (r >= 0)
		r = disk_driver(disk, driver, err);
	if (r >= 0 && xml_child(node, "serial"))
		r = set_string(&disk->serial, xml_text(xml_child(node, "serial")), err);
	if (r >= 0)
		r = xml_take_slot(node, &disk->slot, err);
	disk->readonly = xml_child(node, "readonly") != NULL;
	disk->lock = xml_child(node, "shareable") == NULL;
	return r;
}

static size_t count_of(const xmlNode *devices, const char *name)
{
	size_t n = 0;

	for (const xmlNode *node = xml_child(devices, name); node; node = xml_next(node))
		n++;
	return n;
}

int xml_take_disks(struct xml_work *work, struct error *err)
{
	struct spec *spec = &work->out->spec;
	size_t n = count_of(work->devices, "disk");
	const struct xml_rule *rule = xml_rule_of(work->devices_rule, "disk");

	if (n > SPEC_MAX_DISKS)
		return error_set(err, -EOPNOTSUPP,
				 "element <disk> of <devices>: a machine has %d at most",
				 SPEC_MAX_DISKS);
	spec->disks = calloc(n ? n : 1, sizeof(*spec->disks));
	if (!spec->disks)
		return xml_no_memory(err);
	for (xmlNode *node = xml_child(work->devices, "disk"); node; node = xml_next(node)) {
		int r = take_disk(&spec->disks[spec->n_disks++], node, rule, err);

		if (r < 0)
			return r;
	}
	return 0;
}

/* --- network cards --- */

static int parse_mac(const char *text, uint8_t mac[6])
{
	for (int i = 0; i < 6; i++) {
		char pair[5] = "0x";
		uint64_t v;

		if (strlen(text) < 2)
			return -EINVAL;
		memcpy(pair + 2, text, 2);
		if (parse_u64(pair, &v) < 0)
			return -EINVAL;
		mac[i] = (uint8_t)v;
		text += 2;
		if (i < 5 && *text++ != ':')
			return -EINVAL;
	}
	return *text ? -EINVAL : 0;
}

static int net_mac(struct spec_net *net, const xmlNode *node, struct error *err)
{
	const xmlNode *mac = xml_child(node, "mac");
	const char *text = xml_attr(mac, "address");

	if (!text)
		return 0;
	if (parse_mac(text, net->mac) < 0 || (net->mac[0] & 1))
		return error_set(err, -EBADMSG,
				 "element <mac> of <interface>: '%.40s' is no address of a card",
				 text);
	net->mac_given = true;
	return 0;
}

static int take_net(struct spec_net *net, xmlNode *node, unsigned index,
		    const struct xml_rule *rule, struct error *err)
{
	const xmlNode *driver = xml_child(node, "driver");
	const char *dev = xml_attr(xml_child(node, "target"), "dev");
	xmlNode *model = xml_need(node, rule, "model");
	char id[32];
	int r;

	*net = (struct spec_net){.queues = 1, .queue_size = 256, .slot = -1};
	if (!xml_attr(node, "type"))
		return error_set(err, -EBADMSG, "attribute type of <interface> is missing");
	if (!model || !xml_set_attr(model, "type", "virtio"))
		return xml_no_memory(err);
	snprintf(id, sizeof(id), "net%u", index);
	r = set_string(&net->id, id, err);
	net->kind = xml_attr_is(node, "type", "user") ? SPEC_NET_USER : SPEC_NET_TAP;
	if (r >= 0 && net->kind == SPEC_NET_TAP) {
		if (!dev)
			return error_set(
				err, -EBADMSG,
				"element <target> of <interface type='ethernet'>: attribute dev "
				"names the tap");
		r = set_string(&net->ifname, dev, err);
	}
	net->vhost = xml_attr_is(driver, "name", "vhost");
	if (r >= 0)
		r = net_mac(net, node, err);
	if (r >= 0)
		r = take_u32(driver, "queues", 1, SPEC_MAX_NET_QUEUES, &net->queues, err);
	if (r >= 0)
		r = take_u32(driver, "rx_queue_size", 2, 1024, &net->queue_size, err);
	if (r >= 0)
		r = take_u32(xml_child(node, "mtu"), "size", 68, 65535, &net->mtu, err);
	return r < 0 ? r : xml_take_slot(node, &net->slot, err);
}

int xml_take_nets(struct xml_work *work, struct error *err)
{
	struct spec *spec = &work->out->spec;
	size_t n = count_of(work->devices, "interface");
	const struct xml_rule *rule = xml_rule_of(work->devices_rule, "interface");

	if (n > SPEC_MAX_NETS)
		return error_set(err, -EOPNOTSUPP,
				 "element <interface> of <devices>: a machine has %d at most",
				 SPEC_MAX_NETS);
	spec->nets = calloc(n ? n : 1, sizeof(*spec->nets));
	if (!spec->nets)
		return xml_no_memory(err);
	for (xmlNode *node = xml_child(work->devices, "interface"); node; node = xml_next(node)) {
		unsigned index = (unsigned)spec->n_nets++;
		int r = take_net(&spec->nets[index], node, index, rule, err);

		if (r < 0)
			return r;
	}
	return 0;
}

/* --- the small ones --- */

static int take_vsock(struct xml_work *work, const xmlNode *node, struct error *err)
{
	struct spec_vsock *vsock = &work->out->spec.vsock;
	int r = take_u32(xml_child(node, "cid"), "address", 3, UINT32_MAX - 1, &vsock->cid, err);

	if (r == 0)
		return error_set(err, -EBADMSG,
				 "element <cid> of <vsock>: attribute address is missing");
	vsock->present = true;
	return r;
}

static int take_controllers(const struct xml_work *work, struct error *err)
{
	for (const xmlNode *node = xml_child(work->devices, "controller"); node;
	     node = xml_next(node)) {
		bool none = xml_attr_is(node, "model", "none");

		if (xml_attr_is(node, "type", "usb") && !none)
			return xml_refuse(err, node,
					  "Vireo's machines have no USB: give model='none'");
		if (xml_attr_is(node, "type", "pci") && none)
			return xml_refuse(err, node, "a machine has a PCI bus");
	}
	return 0;
}

int xml_take_others(struct xml_work *work, struct error *err)
{
	struct spec *spec = &work->out->spec;
	xmlNode *emulator = xml_need(work->devices, work->devices_rule, "emulator");
	xmlNode *balloon = xml_need(work->devices, work->devices_rule, "memballoon");
	const xmlNode *vsock = xml_child(work->devices, "vsock");
	int r = take_controllers(work, err);

	if (r < 0)
		return r;
	/* The program that will run: another's path would lead astray who looks for the process. */
	if (!emulator || !xml_set_text(emulator, work->emulator) || !balloon ||
	    (!xml_attr(balloon, "model") && !xml_set_attr(balloon, "model", "virtio")))
		return xml_no_memory(err);
	spec->balloon = xml_attr_is(balloon, "model", "virtio");
	spec->balloon_free_page_reporting =
		spec->balloon && !xml_attr_is(balloon, "freePageReporting", "off");
	spec->rng = xml_child(work->devices, "rng") != NULL;
	spec->pvpanic = xml_child(work->devices, "panic") != NULL;
	return vsock ? take_vsock(work, vsock, err) : 0;
}

/* --- PCI slots --- */

static int set_address(xmlNode *device, const struct xml_rule *rule, int32_t slot,
		       struct error *err)
{
	xmlNode *address = xml_need(device, rule, "address");
	char text[16];

	snprintf(text, sizeof(text), "0x%02x", (unsigned)slot);
	return address && xml_set_attr(address, "type", "pci") &&
			       xml_set_attr(address, "domain", "0x0000") &&
			       xml_set_attr(address, "bus", "0x00") &&
			       xml_set_attr(address, "slot", text) &&
			       xml_set_attr(address, "function", "0x0")
		       ? 0
		       : xml_no_memory(err);
}

static int claim_slot(bool *taken, int32_t slot, const char *id, struct error *err)
{
	if (slot < 0)
		return 0;
	if (taken[slot])
		return error_set(err, -EINVAL, "element <address> of %s: PCI slot 0x%02x is taken",
				 id, (unsigned)slot);
	taken[slot] = true;
	return 0;
}

static int give_slot(bool *taken, int32_t *slot, xmlNode *node, const struct xml_rule *rule,
		     struct error *err)
{
	int32_t free_slot = 1;

	if (*slot < 0) {
		while (free_slot < PCI_SLOTS && taken[free_slot])
			free_slot++;
		if (free_slot == PCI_SLOTS)
			return xml_refuse(err, node, "the PCI bus is full: it has 31 slots");
		taken[free_slot] = true;
		*slot = free_slot;
	}
	return set_address(node, rule, *slot, err);
}

int xml_assign_slots(struct xml_work *work, struct error *err)
{
	struct spec *spec = &work->out->spec;
	const struct xml_rule *disk = xml_rule_of(work->devices_rule, "disk");
	const struct xml_rule *net = xml_rule_of(work->devices_rule, "interface");
	bool taken[PCI_SLOTS] = {true};
	size_t i;
	int r = 0;

	for (i = 0; r >= 0 && i < spec->n_disks; i++)
		r = claim_slot(taken, spec->disks[i].slot, spec->disks[i].id, err);
	for (i = 0; r >= 0 && i < spec->n_nets; i++)
		r = claim_slot(taken, spec->nets[i].slot, spec->nets[i].id, err);
	i = 0;
	for (xmlNode *node = xml_child(work->devices, "disk"); r >= 0 && node;
	     node = xml_next(node))
		r = give_slot(taken, &spec->disks[i++].slot, node, disk, err);
	i = 0;
	for (xmlNode *node = xml_child(work->devices, "interface"); r >= 0 && node;
	     node = xml_next(node))
		r = give_slot(taken, &spec->nets[i++].slot, node, net, err);
	return r;
}
