/* Domain XML in and out: what is assigned, what is kept, what is refused and by which name, and documents that mean harm. */
#include "unit/test.h"

#include <errno.h>
#include <stdio.h>

#include "base/str.h"
#include "spec/xml/xml.h"

#define EMULATOR "/usr/bin/vireo-vmm"
#define MAX_TEXT (2 * SPEC_XML_MAX_BYTES)

static char *read_data(const char *name)
{
	char path[512];
	char *text = malloc(65536);
	FILE *f;
	size_t n;

	snprintf(path, sizeof(path), "%s/%s", XML_DATA, name);
	f = fopen(path, "re");
	assert_non_null(f);
	n = fread(text, 1, 65535, f);
	text[n] = '\0';
	fclose(f);
	return text;
}

static struct spec_xml *parse(const char *text)
{
	struct error err = ERROR_INIT;
	struct spec_xml *xml = NULL;

	if (spec_xml_parse(text, strlen(text), EMULATOR, &xml, &err) < 0)
		fail_msg("%s", err.text);
	return xml;
}

static void check_file(const char *in, const char *out)
{
	char *given = read_data(in), *expected = read_data(out);
	struct spec_xml *xml = parse(given), *again;

	assert_string_equal(xml->text, expected);
	/* What came out is a machine, the same one. */
	again = parse(xml->text);
	assert_string_equal(again->text, expected);
	spec_xml_free(again);
	spec_xml_free(xml);
	free(expected);
	free(given);
}

static void text_is_normalised(void **state)
{
	check_file("full.xml", "full.out.xml");
	check_file("minimal.xml", "minimal.out.xml");
}

static void everything_reaches_the_spec(void **state)
{
	char *given = read_data("full.xml");
	struct spec_xml *xml = parse(given);
	const struct spec *s = &xml->spec;

	assert_string_equal(s->name, "full");
	assert_int_equal(s->uuid[0], 0xc0);
	assert_int_equal(s->accel, SPEC_ACCEL_KVM);
	assert_int_equal(s->memory.size_bytes, 1 << 30);
	assert_true(s->memory.hugepages && s->memory.prealloc);
	assert_int_equal(s->memory.hugepage_bytes, 2 << 20);
	assert_int_equal(s->cpu.count, 4);
	assert_int_equal(s->cpu.sockets, 2);
	assert_string_equal(s->boot.cmdline, "console=ttyS0 root=/dev/vda");
	assert_int_equal(s->n_disks, 2);
	assert_string_equal(s->disks[0].id, "virtio-disk1");
	assert_true(s->disks[0].readonly && !s->disks[0].lock);
	assert_string_equal(s->disks[0].serial, "ABC-1");
	assert_string_equal(s->disks[1].path, "/srv/a&b.img");
	assert_string_equal(s->disks[1].engine, "io_uring");
	assert_int_equal(s->disks[1].cache, SPEC_CACHE_NONE);
	assert_true(s->disks[1].iothread && !s->disks[1].discard);
	assert_int_equal(s->disks[1].queues, 3);
	assert_int_equal(s->disks[0].slot, 1);
	assert_int_equal(s->disks[1].slot, 2);
	assert_int_equal(s->n_nets, 2);
	assert_int_equal(s->nets[0].kind, SPEC_NET_TAP);
	assert_string_equal(s->nets[0].ifname, "tap7");
	assert_true(s->nets[0].vhost);
	assert_int_equal(s->nets[0].mtu, 1400);
	assert_int_equal(s->nets[1].kind, SPEC_NET_USER);
	assert_int_equal(s->nets[1].mac[5], 0x0d);
	assert_int_equal(s->serial.kind, SPEC_CHAR_PTY);
	assert_int_equal(s->console.kind, SPEC_CHAR_PTY);
	assert_true(s->rng && s->pvpanic && !s->balloon && s->no_reboot);
	assert_int_equal(s->vsock.cid, 5);
	assert_int_equal(xml->on_crash, SPEC_XML_RESTART);
	assert_string_equal(xml->title, "full");
	spec_xml_free(xml);
	free(given);
}

static void a_running_machine_shows_what_it_was_given(void **state)
{
	const struct spec_xml_live live = {12, "/dev/pts/3", "/dev/pts/4"};
	char *given = read_data("full.xml");
	struct spec_xml *xml = parse(given), *again;
	char *text = NULL;

	assert_int_equal(spec_xml_live_text(xml, &live, &text, NULL), 0);
	assert_non_null(strstr(text, "<domain type='kvm' id='12'>"));
	assert_non_null(strstr(text, "<console type='pty' tty='/dev/pts/3'>"));
	assert_non_null(strstr(text, "<console type='pty' tty='/dev/pts/4'>"));
	assert_non_null(strstr(text, "<alias name='virtio-disk0'/>"));
	assert_non_null(strstr(text, "<alias name='net1'/>"));
	/* Clients give it back: what was only the run's is gone then. */
	again = parse(text);
	assert_string_equal(again->text, xml->text);
	spec_xml_free(again);
	free(text);
	spec_xml_free(xml);
	free(given);
}

static void disks_are_called_as_defined(void **state)
{
	static const struct {
		const char *id, *name;
	} cases[] = {{"virtio-disk0", "vda"},   {"virtio-disk25", "vdz"},
		     {"virtio-disk26", "vdaa"}, {"virtio-disk51", "vdaz"},
		     {"virtio-disk52", "vdba"}, {"disk0", ""}};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		char id[32], name[16];
		const struct spec_disk disk = {.id = id};

		str_copy(id, sizeof(id), cases[i].id);
		spec_xml_disk_name(&disk, name, sizeof(name));
		assert_string_equal(name, cases[i].name);
	}
}

static void what_is_left_open_is_made(void **state)
{
	static const char text[] =
		"<domain type='qemu'><name>a</name><memory>65536</memory><os><type>hvm</type>"
		"<kernel>/k</kernel></os><devices><interface type='user'/></devices></domain>";
	struct spec_xml *one = parse(text), *two = parse(text), *again;

	assert_memory_not_equal(one->spec.uuid, two->spec.uuid, 16);
	assert_int_equal(one->spec.uuid[6] >> 4, 4);
	assert_non_null(strstr(one->text, "<mac address='52:54:00:"));
	again = parse(one->text);
	assert_memory_equal(one->spec.uuid, again->spec.uuid, 16);
	assert_memory_equal(one->spec.nets[0].mac, again->spec.nets[0].mac, 6);
	spec_xml_free(again);
	spec_xml_free(two);
	spec_xml_free(one);
}

/* --- refusals --- */

#define HEAD "<name>a</name><memory>65536</memory>"
#define OS   "<os><type>hvm</type><kernel>/k</kernel></os>"

static const struct {
	const char *inside;
	int code;
	const char *message; /* part of it */
} refusals[] = {
	{"", -EBADMSG, "element <name> of <domain> is missing"},
	{"<name>a</name>" OS, -EBADMSG, "element <memory> of <domain> is missing"},
	{HEAD, -EBADMSG, "element <os> of <domain> is missing"},
	{HEAD "<os><type>hvm</type></os>", -EOPNOTSUPP, "element <kernel> of <os> is missing"},
	{HEAD "<os><type>xen</type><kernel>/k</kernel></os>", -EOPNOTSUPP,
	 "element <type> of <os>: 'xen'"},
	{HEAD "<os><type machine='pc-q35-7.2'>hvm</type><kernel>/k</kernel></os>", -EOPNOTSUPP,
	 "'pc-q35-7.2'"},
	{HEAD "<os><loader>/f</loader><type>hvm</type></os>", -EOPNOTSUPP,
	 "element <loader> of <os>"},
	{HEAD OS "<frobnicate/>", -EOPNOTSUPP, "element <frobnicate> of <domain>: it is not known"},
	{HEAD OS "<x:y xmlns:x='urn:x'/>", -EOPNOTSUPP, "element <x:y> of <domain>"},
	{HEAD OS "<vcpu>2</vcpu><vcpu>3</vcpu>", -EOPNOTSUPP,
	 "element <vcpu> of <domain>: it may stand here once"},
	{HEAD OS "<vcpu>0</vcpu>", -EBADMSG, "element <vcpu>: '0'"},
	{HEAD OS "<vcpu current='1'>2</vcpu>", -EOPNOTSUPP, "attribute current"},
	{HEAD OS "<vcpu cpuset='1'>2</vcpu>", -EOPNOTSUPP, "attribute cpuset is not known"},
	{HEAD OS "<currentMemory>32768</currentMemory>", -EOPNOTSUPP, "element <currentMemory>"},
	{HEAD OS "<uuid>x</uuid>", -EBADMSG, "element <uuid>: 'x'"},
	{HEAD OS "<sysinfo/>", -EOPNOTSUPP, "element <sysinfo> of <domain>"},
	{HEAD OS "<features><hyperv/></features>", -EOPNOTSUPP, "element <hyperv> of <features>"},
	{HEAD OS "<cpu mode='custom'/>", -EOPNOTSUPP, "attribute mode='custom'"},
	{HEAD OS "<vcpu>3</vcpu><cpu><topology sockets='2' cores='2'/></cpu>", -EINVAL,
	 "element <topology>"},
	{HEAD OS "<clock offset='localtime'/>", -EOPNOTSUPP, "attribute offset='localtime'"},
	{HEAD OS "<clock><timer name='hpet'/></clock>", -EOPNOTSUPP, "HPET"},
	{HEAD OS "<on_crash>coredump-destroy</on_crash>", -EOPNOTSUPP,
	 "element <on_crash> of <domain>"},
	{HEAD OS "<title>a\nb</title>", -EBADMSG, "<title> is one line"},
	{HEAD OS "<devices><graphics type='vnc'/></devices>", -EOPNOTSUPP,
	 "element <graphics> of <devices>"},
	{HEAD OS "<devices><input type='tablet'/></devices>", -EOPNOTSUPP,
	 "element <input> of <devices>"},
	{HEAD OS "<devices><hostdev/></devices>", -EOPNOTSUPP, "element <hostdev> of <devices>"},
	{HEAD OS "<devices><controller type='usb' model='qemu-xhci'/></devices>", -EOPNOTSUPP,
	 "element <controller>"},
	{HEAD OS "<devices><controller type='usb'/></devices>", -EOPNOTSUPP, "no USB"},
	{HEAD OS "<devices><disk type='network'/></devices>", -EOPNOTSUPP,
	 "attribute type='network'"},
	{HEAD OS "<devices><disk type='file'><target dev='vda'/></disk></devices>", -EBADMSG,
	 "element <source> of <disk"},
	{HEAD OS
	 "<devices><disk type='file'><source file='/a'/><target dev='hda'/></disk></devices>",
	 -EOPNOTSUPP, "'hda'"},
	{HEAD OS
	 "<devices><disk type='file'><source file='/a'/><target dev='vda' bus='scsi'/></disk></devices>",
	 -EOPNOTSUPP, "attribute bus='scsi'"},
	{HEAD OS
	 "<devices><disk type='file'><driver type='vmdk'/><source file='/a'/><target dev='vda'/></disk></devices>",
	 -EINVAL, "vmdk"},
	{HEAD OS
	 "<devices><disk type='file'><source file='/a'/><target dev='vda'/><backingStore><x/></backingStore>"
	 "</disk></devices>",
	 -EOPNOTSUPP, "element <x> of <backingStore>"},
	{HEAD OS
	 "<devices><disk type='file'><source file='/a'/><target dev='vda'/><address type='pci' bus='0x04'/>"
	 "</disk></devices>",
	 -EOPNOTSUPP, "attribute bus='0x04'"},
	{HEAD OS
	 "<devices><disk type='file'><source file='/a'/><target dev='vda'/><address type='pci' slot='0x20'/>"
	 "</disk></devices>",
	 -EOPNOTSUPP, "slot 32"},
	{HEAD OS
	 "<devices><disk type='file'><source file='/a'/><target dev='vda'/><address type='pci' slot='0x3'/>"
	 "</disk><interface type='user'><address type='pci' slot='0x03'/></interface></devices>",
	 -EINVAL, "slot 0x03 is taken"},
	{HEAD OS "<devices><interface type='network'/></devices>", -EOPNOTSUPP,
	 "attribute type='network'"},
	{HEAD OS
	 "<devices><interface type='user'><mac address='01:00:00:00:00:00'/></interface></devices>",
	 -EBADMSG, "element <mac> of <interface>"},
	{HEAD OS "<devices><interface type='ethernet'/></devices>", -EBADMSG,
	 "element <target> of <interface"},
	{HEAD OS "<devices><serial type='pty'/><serial type='pty'/></devices>", -EOPNOTSUPP,
	 "one serial port"},
	{HEAD OS "<devices><serial type='unix'/></devices>", -EBADMSG,
	 "element <source> of <serial"},
	{HEAD OS "text", -EOPNOTSUPP, "there is text"},
	{"<name>a/../b</name><memory>65536</memory>" OS, -EINVAL, "is no name"},
	{"<name>a</name><memory unit='parsec'>1</memory>" OS, -EBADMSG, "'parsec' is no unit"},
	{"<name>a</name><memory unit='TiB'>99999999999</memory>" OS, -EBADMSG,
	 "no amount of memory"},
	{"<name>a</name><memory>1024</memory>" OS, -EOPNOTSUPP, "32 MiB at least"},
	{"<name><b/></name><memory>65536</memory>" OS, -EOPNOTSUPP,
	 "element <b> of <name>: only text"},
};

static void expect_refusal(const char *text, size_t len, int code, const char *message)
{
	struct error err = ERROR_INIT;
	struct spec_xml *xml = NULL;
	int r = spec_xml_parse(text, len, EMULATOR, &xml, &err);

	if (r != code || !strstr(err.text, message))
		fail_msg("%.300s\n  gave %d '%s'\n  not %d '%s'", text, r, err.text, code, message);
}

static void what_cannot_be_is_refused_by_name(void **state)
{
	for (size_t i = 0; i < sizeof(refusals) / sizeof(refusals[0]); i++) {
		char text[1024];

		snprintf(text, sizeof(text), "<domain type='qemu'>%s</domain>", refusals[i].inside);
		expect_refusal(text, strlen(text), refusals[i].code, refusals[i].message);
	}
}

static void hostile_documents(void **state)
{
	static const char *const texts[] = {
		"",
		"<",
		"<domain",
		"<domain type='qemu'><name>a</name>",
		"<!DOCTYPE domain [<!ENTITY a 'aaaa'><!ENTITY b '&a;&a;&a;'>]><domain>&b;</domain>",
		"<!DOCTYPE domain SYSTEM 'file:///etc/passwd'><domain/>",
		"<domain type='qemu'><name>&undefined;</name></domain>",
		"<?xml version='1.0' encoding='UTF-16'?><domain/>\xff",
		"<domain type='qemu'><name>\xff\xfe</name></domain>",
		"<domain type='qemu'><name>&#0;</name></domain>",
		"<network/>",
		"<domain xmlns='urn:x'/>",
	};
	char *deep = malloc(MAX_TEXT);
	size_t len;

	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++)
		expect_refusal(texts[i], strlen(texts[i]), -EBADMSG, "");
	/* Nesting that would exhaust a stack, inside what is kept verbatim. */
	len = (size_t)snprintf(deep, MAX_TEXT, "<domain type='qemu'><metadata>");
	for (int i = 0; i < 100000; i++, len += 3)
		memcpy(deep + len, "<a>", 3);
	expect_refusal(deep, len, -EBADMSG, "");
	memset(deep, ' ', MAX_TEXT);
	expect_refusal(deep, MAX_TEXT, -EBADMSG, "bytes at most");
	free(deep);
}

/* --- metadata --- */

static char *changed(const struct spec_xml *xml, enum spec_xml_metadata type, const char *value,
		     const char *key, const char *uri)
{
	struct error err = ERROR_INIT;
	char *text = NULL;

	if (spec_xml_set_metadata(xml, type, value, key, uri, &text, &err) < 0)
		fail_msg("%s", err.text);
	return text;
}

static void metadata_is_set_read_and_removed(void **state)
{
	char *given = read_data("full.xml"), *text, *got = NULL;
	struct spec_xml *xml = parse(given), *next;
	struct error err = ERROR_INIT;

	text = changed(xml, SPEC_XML_ELEMENT, "<note colour='red'>a &amp; b</note>", "n",
		       "urn:note");
	next = parse(text);
	free(text);
	assert_int_equal(spec_xml_get_metadata(next, SPEC_XML_ELEMENT, "urn:note", &got, NULL), 0);
	assert_string_equal(got, "<n:note xmlns:n='urn:note' colour='red'>a &amp; b</n:note>\n");
	free(got);
	/* The others are still there. */
	assert_int_equal(spec_xml_get_metadata(next, SPEC_XML_ELEMENT, "urn:other", &got, NULL), 0);
	free(got);
	text = changed(next, SPEC_XML_ELEMENT, NULL, NULL, "urn:note");
	assert_string_equal(text, xml->text);
	free(text);
	text = changed(next, SPEC_XML_TITLE, NULL, NULL, NULL);
	assert_null(strstr(text, "<title>"));
	free(text);
	assert_int_equal(spec_xml_get_metadata(xml, SPEC_XML_ELEMENT, "urn:none", &got, &err),
			 -ENODATA);
	assert_int_equal(spec_xml_get_metadata(xml, SPEC_XML_DESCRIPTION, NULL, &got, NULL), 0);
	assert_string_equal(got, "A machine\nwith two lines");
	free(got);
	assert_int_equal(spec_xml_set_metadata(xml, SPEC_XML_ELEMENT, "<a", "n", "urn:note", &text,
					       &err),
			 -EBADMSG);
	spec_xml_free(next);
	spec_xml_free(xml);
	free(given);
}

static void a_name_is_changed_and_nothing_else(void **state)
{
	char *given = read_data("full.xml"), *text = NULL;
	struct spec_xml *xml = parse(given), *next;

	assert_int_equal(spec_xml_set_name(xml, "other", &text, NULL), 0);
	next = parse(text);
	assert_string_equal(next->spec.name, "other");
	assert_memory_equal(next->spec.uuid, xml->spec.uuid, 16);
	assert_memory_equal(next->spec.nets[0].mac, xml->spec.nets[0].mac, 6);
	spec_xml_free(next);
	free(text);
	spec_xml_free(xml);
	free(given);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(text_is_normalised),
		cmocka_unit_test(everything_reaches_the_spec),
		cmocka_unit_test(a_running_machine_shows_what_it_was_given),
		cmocka_unit_test(disks_are_called_as_defined),
		cmocka_unit_test(what_is_left_open_is_made),
		cmocka_unit_test(what_cannot_be_is_refused_by_name),
		cmocka_unit_test(hostile_documents),
		cmocka_unit_test(metadata_is_set_read_and_removed),
		cmocka_unit_test(a_name_is_changed_and_nothing_else),
	};

	spec_xml_init();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
