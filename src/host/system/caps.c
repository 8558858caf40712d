#include "host/system/caps.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "base/cleanup.h"
#include "base/fd.h"
#include "base/str.h"
#include "host/system/node.h"
#include "host/system/uuid.h"
#include "spec/spec.h"
#include "spec/xml/xml.h"

struct caps {
	const char *emulator;
	bool kvm, null;
	uint8_t uuid[16]; /* the host's */
	char *text;       /* made when first asked for; NULL: to be made */
};

/* The host's own identity: its machine-id, which is 32 hexadecimal digits (machine-id(5)). */
static void read_host_uuid(uint8_t uuid[16])
{
	char text[33] = "";
	_cleanup_close_ int fd = open("/etc/machine-id", O_RDONLY | O_CLOEXEC);

	if (fd >= 0 && fd_read_full(fd, text, 32) == 32)
		for (int i = 0; i < 16; i++) {
			char pair[3] = {text[2 * i], text[2 * i + 1], '\0'};

			uuid[i] = (uint8_t)strtoull(pair, NULL, 16);
		}
}

int caps_new(const char *emulator, struct caps **ret, struct error *err)
{
	struct caps *caps = calloc(1, sizeof(*caps));

	if (!caps)
		return error_set(err, -ENOMEM, "no memory for capabilities");
	caps->emulator = emulator;
	read_host_uuid(caps->uuid);
	*ret = caps;
	return 0;
}

void caps_free(struct caps *caps)
{
	if (!caps)
		return;
	free(caps->text);
	free(caps);
}

static void caps_forget(struct caps *caps)
{
	free(caps->text);
	caps->text = NULL;
}

void caps_set_kvm(struct caps *caps, bool usable)
{
	caps->kvm = usable;
	caps_forget(caps);
}

void caps_set_null(struct caps *caps, bool offered)
{
	caps->null = offered;
	caps_forget(caps);
}

static void put_topology(FILE *out, const struct node_info *node)
{
	uint8_t bits[NODE_MAX_CPUS / 8];
	unsigned present, online;

	if (node_read_cpu_map(bits, &present, &online, NULL) < 0)
		return;
	fprintf(out,
		"    <topology>\n"
		"      <cells num='1'>\n"
		"        <cell id='0'>\n"
		"          <memory unit='KiB'>%llu</memory>\n"
		"          <pages unit='KiB' size='4'>%llu</pages>\n"
		"          <distances>\n"
		"            <sibling id='0' value='10'/>\n"
		"          </distances>\n"
		"          <cpus num='%u'>\n",
		(unsigned long long)(node->memory_bytes / KIB),
		(unsigned long long)(node->memory_bytes / (4 * KIB)), online);
	for (unsigned cpu = 0; cpu < present && cpu < NODE_MAX_CPUS; cpu++) {
		struct node_cpu_place place;

		if (!(bits[cpu / 8] & 1u << (cpu % 8)))
			continue;
		node_read_cpu_place(cpu, &place);
		fprintf(out,
			"            <cpu id='%u' socket_id='%d' die_id='%d' core_id='%d' "
			"siblings='%u'/>\n",
			cpu, MAX(place.socket, 0), MAX(place.die, 0), MAX(place.core, 0), cpu);
	}
	fputs("          </cpus>\n        </cell>\n      </cells>\n    </topology>\n", out);
}

static void put_host(FILE *out, const struct caps *caps, const struct node_info *node)
{
	char uuid[UUID_TEXT_BYTES];

	uuid_format(caps->uuid, uuid);
	fprintf(out,
		"  <host>\n"
		"    <uuid>%s</uuid>\n"
		"    <cpu>\n"
		"      <arch>x86_64</arch>\n"
		"      <topology sockets='%u' dies='1' cores='%u' threads='%u'/>\n"
		"      <pages unit='KiB' size='4'/>\n"
		"      <pages unit='KiB' size='2048'/>\n"
		"      <pages unit='KiB' size='1048576'/>\n"
		"    </cpu>\n"
		"    <power_management/>\n"
		"    <iommu support='no'/>\n",
		uuid, node->sockets, node->cores, node->threads);
	put_topology(out, node);
	fputs("    <secmodel>\n"
	      "      <model>none</model>\n"
	      "      <doi>0</doi>\n"
	      "    </secmodel>\n"
	      "  </host>\n\n",
	      out);
}

static void put_guest(FILE *out, const struct caps *caps)
{
	fprintf(out,
		"  <guest>\n"
		"    <os_type>hvm</os_type>\n"
		"    <arch name='x86_64'>\n"
		"      <wordsize>64</wordsize>\n"
		"      <emulator>%s</emulator>\n"
		"      <machine maxCpus='%d'>%s</machine>\n"
		"      <domain type='qemu'/>\n"
		"%s%s"
		"    </arch>\n"
		"    <features>\n"
		"      <acpi default='on' toggle='no'/>\n"
		"      <apic default='on' toggle='no'/>\n"
		"      <cpuselection/>\n"
		"      <deviceboot/>\n"
		"    </features>\n"
		"  </guest>\n\n",
		caps->emulator, SPEC_MAX_VCPUS, SPEC_XML_MACHINE,
		caps->kvm ? "      <domain type='kvm'/>\n" : "",
		caps->null ? "      <domain type='null'/>\n" : "");
}

/* Text in a document of ours: the emulator's path is the only part that is not constant or a number, and is checked once. */
static char *make_host_xml(const struct caps *caps)
{
	struct node_info node = {.sockets = 1, .cores = 1, .threads = 1};
	char *text = NULL;
	size_t len;
	FILE *out = open_memstream(&text, &len);

	if (!out)
		return NULL;
	node_read_info(&node, NULL);
	fputs("<capabilities>\n\n", out);
	put_host(out, caps, &node);
	put_guest(out, caps);
	fputs("</capabilities>\n", out);
	if (fclose(out) == 0)
		return text;
	free(text);
	return NULL;
}

char *caps_host_xml(struct caps *caps)
{
	if (!caps->text)
		caps->text = make_host_xml(caps);
	return caps->text ? strdup(caps->text) : NULL;
}

static int check_query(const struct caps *caps, const struct caps_query *query, struct error *err)
{
	const char *virt = query->virt ? query->virt : "qemu";

	if (query->arch && !str_eq(query->arch, "x86_64"))
		return error_set(err, -EINVAL, "this host runs x86_64 machines, not '%.60s'",
				 query->arch);
	if (query->machine && !spec_xml_machine_known(query->machine))
		return error_set(err, -EINVAL,
				 "the machine type '%.60s' is not supported; there is '%s'",
				 query->machine, SPEC_XML_MACHINE);
	if (query->emulator && !str_eq(query->emulator, caps->emulator))
		return error_set(err, -EINVAL,
				 "the emulator '%.200s' is not Vireo's, which is '%s'",
				 query->emulator, caps->emulator);
	if (str_eq(virt, "kvm") && !caps->kvm)
		return error_set(
			err, -EINVAL,
			"KVM is not there or too slow to use; domains of type 'qemu' run on "
			"the software CPU");
	if (!str_eq(virt, "kvm") && !str_eq(virt, "qemu") && !(caps->null && str_eq(virt, "null")))
		return error_set(err, -EINVAL, "domains of type '%.60s' are not supported", virt);
	return 0;
}

/* What does not depend on what was asked. */
static const char domain_caps[] = "  <iothreads supported='yes'/>\n"
				  "  <os supported='yes'>\n"
				  "    <enum name='firmware'/>\n"
				  "    <loader supported='no'/>\n"
				  "  </os>\n"
				  "  <cpu>\n"
				  "    <mode name='host-passthrough' supported='yes'>\n"
				  "      <enum name='hostPassthroughMigratable'>\n"
				  "        <value>on</value>\n"
				  "        <value>off</value>\n"
				  "      </enum>\n"
				  "    </mode>\n"
				  "    <mode name='maximum' supported='yes'/>\n"
				  "    <mode name='host-model' supported='yes'/>\n"
				  "    <mode name='custom' supported='no'/>\n"
				  "  </cpu>\n"
				  "  <memoryBacking supported='yes'>\n"
				  "    <enum name='sourceType'>\n"
				  "      <value>anonymous</value>\n"
				  "      <value>memfd</value>\n"
				  "    </enum>\n"
				  "  </memoryBacking>\n"
				  "  <devices>\n"
				  "    <disk supported='yes'>\n"
				  "      <enum name='diskDevice'>\n"
				  "        <value>disk</value>\n"
				  "      </enum>\n"
				  "      <enum name='bus'>\n"
				  "        <value>virtio</value>\n"
				  "      </enum>\n"
				  "      <enum name='model'>\n"
				  "        <value>virtio</value>\n"
				  "      </enum>\n"
				  "    </disk>\n"
				  "    <graphics supported='no'/>\n"
				  "    <video supported='no'/>\n"
				  "    <hostdev supported='no'/>\n"
				  "    <rng supported='yes'>\n"
				  "      <enum name='model'>\n"
				  "        <value>virtio</value>\n"
				  "      </enum>\n"
				  "      <enum name='backendModel'>\n"
				  "        <value>random</value>\n"
				  "      </enum>\n"
				  "    </rng>\n"
				  "    <filesystem supported='no'/>\n"
				  "    <tpm supported='no'/>\n"
				  "    <redirdev supported='no'/>\n"
				  "    <channel supported='no'/>\n"
				  "  </devices>\n"
				  "  <features>\n"
				  "    <gic supported='no'/>\n"
				  "    <vmcoreinfo supported='no'/>\n"
				  "    <genid supported='no'/>\n"
				  "    <backingStoreInput supported='no'/>\n"
				  "    <backup supported='no'/>\n"
				  "    <sev supported='no'/>\n"
				  "  </features>\n";

int caps_domain_xml(struct caps *caps, const struct caps_query *query, char **ret,
		    struct error *err)
{
	char *text = NULL;
	int r = check_query(caps, query, err);

	if (r < 0)
		return r;
	r = asprintf(&text,
		     "<domainCapabilities>\n"
		     "  <path>%s</path>\n"
		     "  <domain>%s</domain>\n"
		     "  <machine>%s</machine>\n"
		     "  <arch>x86_64</arch>\n"
		     "  <vcpu max='%d'/>\n"
		     "%s"
		     "</domainCapabilities>\n",
		     caps->emulator, query->virt ? query->virt : "qemu",
		     query->machine ? query->machine : SPEC_XML_MACHINE, SPEC_MAX_VCPUS,
		     domain_caps);
	if (r < 0)
		return error_set(err, -ENOMEM, "no memory for capabilities");
	*ret = text;
	return 0;
}
