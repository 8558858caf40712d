/*
 * The grammar of a machine in libvirt's domain XML: what may stand where, in the order of output. What libvirt knows and Vireo cannot do has its reason
 * here; what is in no rule is refused as unknown.
 */
#include "spec/xml/xml_int.h"

#define ATTRS(...)                                                                                 \
	.attrs = (const struct xml_attr_rule[])                                                    \
	{                                                                                          \
		__VA_ARGS__,                                                                       \
		{                                                                                  \
			NULL                                                                       \
		}                                                                                  \
	}
#define KIDS(...)                                                                                  \
	.children = (const struct xml_rule[])                                                      \
	{                                                                                          \
		__VA_ARGS__,                                                                       \
		{                                                                                  \
			NULL                                                                       \
		}                                                                                  \
	}
#define NO(name, why_not)                                                                          \
	{                                                                                          \
		name, .why = (why_not)                                                             \
	}

#define NO_DISPLAY  "Vireo's machines have no display"
#define NO_USB      "Vireo's machines have no USB"
#define NO_TUNING   "limits of a machine's resources are not supported yet"
#define NO_FIRMWARE "firmware images are not supported yet: a machine boots its <kernel>"
#define NO_PASS     "devices of the host cannot be given to a machine yet"
#define VIRTIO_ONLY "devices are virtio devices"

static const struct xml_attr_rule address_attrs[] = {
	{"type", "pci", "a device's address is of type pci"},
	{"domain", "0x0000|0x0|0|0000", "there is one PCI domain, 0"},
	{"bus", "0x00|0x0|0|00", "there is one PCI bus, 0"},
	{"slot"},
	{"function", "0x0|0x00|0", "a device has one function, 0"},
	{"multifunction", "off", "a device has one function"},
	{NULL},
};

#define ADDRESS                                                                                    \
	{                                                                                          \
		"address", .attrs = address_attrs                                                  \
	}
/* What a client read from a running machine and gives back. */
#define ALIAS                                                                                      \
	{                                                                                          \
		"alias", XML_ASSIGNED, .attrs = (const struct xml_attr_rule[])                     \
		{                                                                                  \
			{"name"},                                                                  \
			{                                                                          \
				NULL                                                               \
			}                                                                          \
		}                                                                                  \
	}
#define BOOT_ORDER                                                                                 \
	{                                                                                          \
		"boot", .attrs = (const struct xml_attr_rule[])                                    \
		{                                                                                  \
			{"order"},                                                                 \
			{                                                                          \
				NULL                                                               \
			}                                                                          \
		}                                                                                  \
	}

static const struct xml_rule memory_backing_rules[] = {
	{"hugepages", KIDS({"page", ATTRS({"size"}, {"unit"})})},
	{"nosharepages"},
	{"source", ATTRS({"type", "memfd|anonymous", "memory is anonymous or a memfd"})},
	{"access", ATTRS({"mode", "shared|private"})},
	{"allocation", ATTRS({"mode", "immediate|ondemand"})},
	NO("locked", "memory cannot be locked yet"),
	NO("discard", "it is not supported yet"),
	{NULL},
};

static const struct xml_rule os_rules[] = {
	{"type", XML_TEXT | XML_REQUIRED,
	 ATTRS({"arch", "x86_64", "machines are x86_64"}, {"machine"})},
	NO("firmware", NO_FIRMWARE),
	NO("loader", NO_FIRMWARE),
	NO("nvram", NO_FIRMWARE),
	{"kernel", XML_TEXT},
	{"initrd", XML_TEXT},
	{"cmdline", XML_TEXT},
	NO("dtb", "x86 machines have no device tree"),
	NO("acpi", "ACPI tables of one's own are not supported"),
	{"boot", XML_MANY, ATTRS({"dev", "hd", "there is no firmware that boots from it"})},
	NO("bootmenu", NO_FIRMWARE),
	NO("bios", NO_FIRMWARE),
	{"smbios", ATTRS({"mode", "emulate", "SMBIOS tables are Vireo's own"})},
	{NULL},
};

static const struct xml_rule features_rules[] = {
	{"acpi"},
	{"apic"},
	{"pae"},
	{"vmport", ATTRS({"state", "off", "there is no VMware port"})},
	NO("hyperv", "Hyper-V enlightenments are not supported yet"),
	NO("kvm", "KVM's features cannot be chosen yet"),
	NO("vmcoreinfo", "it is not supported yet"),
	NO("smm", "there is no system management mode"),
	NO("ioapic", "the interrupt controller cannot be chosen"),
	NO("pmu", "it cannot be chosen yet"),
	{NULL},
};

static const struct xml_rule cpu_rules[] = {
	NO("model", "CPU models cannot be chosen yet: give mode='host-passthrough'"),
	NO("vendor", "it cannot be chosen yet"),
	{"topology",
	 ATTRS({"sockets"}, {"dies", "1", "a socket has one die"}, {"cores"}, {"threads"})},
	NO("feature", "CPU features cannot be chosen yet"),
	NO("cache", "it cannot be chosen yet"),
	NO("numa", "there is one NUMA node"),
	NO("maxphysaddr", "it cannot be chosen yet"),
	{NULL},
};

static const struct xml_rule clock_rules[] = {
	{"timer", XML_MANY,
	 ATTRS({"name", "rtc|pit|hpet|kvmclock|tsc", "this timer is not supported"},
	       {"tickpolicy", "catchup|delay", "missed ticks are caught up or delayed"},
	       {"present", "yes|no"})},
	{NULL},
};

static const struct xml_rule disk_rules[] = {
	{"driver",
	 ATTRS({"name", "qemu", "there is one driver"}, {"type"},
	       {"cache", "default|none|writeback|writethrough|unsafe", "there is no such mode"},
	       {"error_policy", NULL, "what a failed request does cannot be chosen yet"},
	       {"io", "native|threads|io_uring"}, {"discard", "unmap|ignore"}, {"iothread"},
	       {"queues"}, {"queue_size"})},
	{"source", ATTRS({"file"}, {"dev"}, {"startupPolicy", "mandatory", "a disk must be there"},
			 {"index"})},
	{"backingStore", .children = NULL},
	{"target", XML_REQUIRED, ATTRS({"dev"}, {"bus", "virtio", VIRTIO_ONLY})},
	NO("iotune", NO_TUNING),
	NO("blockio", "block sizes cannot be chosen yet"),
	NO("mirror", "block jobs are not supported yet"),
	{"readonly"},
	{"shareable"},
	NO("transient", "it is not supported yet"),
	{"serial", XML_TEXT},
	NO("wwn", "virtio disks have none"),
	NO("encryption", "it is not supported yet"),
	BOOT_ORDER,
	ALIAS,
	ADDRESS,
	{NULL},
};

static const struct xml_rule interface_rules[] = {
	{"mac", ATTRS({"address"}, {"type", "generated|static"}, {"check"})},
	{"source", .attrs = NULL},
	{"target", ATTRS({"dev"}, {"managed", "no", "a tap must exist: it is not made"})},
	{"model", ATTRS({"type", "virtio", VIRTIO_ONLY})},
	{"driver", ATTRS({"name", "qemu|vhost"}, {"queues"}, {"rx_queue_size"}, {"tx_queue_size"})},
	{"backend", ATTRS({"type", "passt", "the user-mode network is passt"})},
	{"mtu", ATTRS({"size"})},
	{"link", ATTRS({"state", "up", "a link is up"})},
	NO("bandwidth", NO_TUNING),
	NO("filterref", "network filters are not supported yet"),
	NO("vlan", "it is not supported yet"),
	NO("virtualport", "it is not supported yet"),
	NO("ip", "a guest's addresses are its own business"),
	NO("portForward", "it is not supported yet"),
	BOOT_ORDER,
	ALIAS,
	ADDRESS,
	{NULL},
};

static const struct xml_rule serial_rules[] = {
	{"source", ATTRS({"path"}, {"mode", "bind", "a socket is listened on"},
			 {"append", "off", "a file is written anew"})},
	NO("log", "it is not supported yet"),
	NO("protocol", "it is not supported"),
	{"target",
	 ATTRS({"type", "isa-serial|serial|virtio", "there are serial ports and virtio"},
	       {"port", "0", "there is one of a kind"}),
	 KIDS({"model", ATTRS({"name", "isa-serial", "serial ports are 16550A"})})},
	ALIAS,
	{"address", XML_ASSIGNED},
	{NULL},
};

#define NO_CONTROLLERS "this controller is not supported: "

static const struct xml_rule device_rules[] = {
	{"emulator", XML_TEXT},
	{"disk", XML_MANY,
	 ATTRS({"type", "file|block", "a disk is a file or a block device"},
	       {"device", "disk", "there are hard disks only"}, {"model", "virtio", VIRTIO_ONLY},
	       {"snapshot", "no|internal|external"}),
	 .children = disk_rules},
	{"controller", XML_MANY,
	 ATTRS({"type", "usb|pci", "there are no such controllers: " VIRTIO_ONLY},
	       {"index", "0", "there is one PCI bus, and no bridges"},
	       {"model", "none|pci-root|pcie-root",
		"there is one PCI bus, without bridges, and no USB"}),
	 KIDS(ALIAS)},
	{"interface", XML_MANY,
	 ATTRS({"type", "user|ethernet",
		"networks are of type user (passt) or ethernet (a tap that exists)"},
	       {"managed", "no", "it is not supported"}),
	 .children = interface_rules},
	{"serial", XML_MANY, ATTRS({"type", "pty|unix|file|null", "it is not supported"}),
	 .children = serial_rules},
	{"console", XML_MANY, ATTRS({"type", "pty|unix|file|null", "it is not supported"}, {"tty"}),
	 .children = serial_rules},
	{"memballoon",
	 ATTRS({"model", "virtio|none", VIRTIO_ONLY},
	       {"autodeflate", "off", "it is not supported yet"}, {"freePageReporting", "on|off"}),
	 KIDS(ALIAS, {"address", XML_ASSIGNED}, NO("stats", "it is not supported yet"))},
	{"rng", ATTRS({"model", "virtio", VIRTIO_ONLY}),
	 KIDS({"backend", XML_TEXT | XML_REQUIRED,
	       ATTRS({"model", "random", "it is the host's random numbers"})},
	      NO("rate", NO_TUNING), ALIAS, {"address", XML_ASSIGNED})},
	{"panic", ATTRS({"model", "isa", "the panic device is pvpanic on ISA"}),
	 KIDS(ALIAS, {"address", XML_ASSIGNED})},
	{"vsock", ATTRS({"model", "virtio", VIRTIO_ONLY}),
	 KIDS({"cid", XML_REQUIRED,
	       ATTRS({"auto", "no", "the address must be given"}, {"address"})},
	      ALIAS, {"address", XML_ASSIGNED})},
	NO("graphics", NO_DISPLAY),
	{"video", KIDS({"model", ATTRS({"type", "none", NO_DISPLAY})})},
	{"audio", ATTRS({"id"}, {"type", "none", "Vireo's machines have no sound"})},
	NO("sound", "Vireo's machines have no sound"),
	NO("input", NO_DISPLAY " and no input devices"),
	NO("channel", "channels are not supported yet"),
	NO("parallel", "there are no parallel ports"),
	NO("hostdev", NO_PASS),
	NO("redirdev", NO_USB),
	NO("hub", NO_USB),
	NO("smartcard", NO_USB),
	NO("filesystem", "shared folders are not supported yet"),
	NO("tpm", "it is not supported yet"),
	NO("watchdog", "it is not supported yet"),
	NO("iommu", "it is not supported yet"),
	NO("memory", "memory devices are not supported yet"),
	NO("shmem", "it is not supported yet"),
	NO("nvram", NO_FIRMWARE),
	NO("lease", "it is not supported"),
	{NULL},
};

#define ACTION "destroy|restart"

static const struct xml_rule domain_rules[] = {
	{"name", XML_TEXT | XML_REQUIRED},
	{"uuid", XML_TEXT},
	NO("genid", "the generation id is Vireo's to choose"),
	{"title", XML_TEXT},
	{"description", XML_TEXT},
	{"metadata", XML_VERBATIM},
	NO("maxMemory", "memory devices are not supported yet"),
	{"memory", XML_TEXT | XML_REQUIRED,
	 ATTRS({"unit"}, {"dumpCore", "on", "it is not supported"})},
	{"currentMemory", XML_TEXT, ATTRS({"unit"})},
	{"memoryBacking", .children = memory_backing_rules},
	NO("blkiotune", NO_TUNING),
	NO("memtune", NO_TUNING),
	{"vcpu", XML_TEXT, ATTRS({"placement", "static", "it is not supported yet"}, {"current"})},
	NO("vcpus", "vCPUs cannot be plugged yet"),
	{"iothreads", XML_TEXT},
	NO("iothreadids", "I/O threads have no ids"),
	NO("cputune", NO_TUNING),
	NO("numatune", NO_TUNING),
	{"resource", KIDS({"partition", XML_TEXT})},
	NO("sysinfo", "SMBIOS tables are Vireo's own"),
	{"os", XML_REQUIRED, ATTRS({"firmware", NULL, NO_FIRMWARE}), .children = os_rules},
	{"features", .children = features_rules},
	{"cpu",
	 ATTRS({"mode", "host-passthrough|host-model|maximum",
		"CPU models cannot be chosen yet: give mode='host-passthrough'"},
	       {"match", "exact|minimum"}, {"check", "none|partial|full"},
	       {"migratable", "on|off"}),
	 .children = cpu_rules},
	{"clock",
	 ATTRS({"offset", "utc", "a machine's clock is in UTC"},
	       {"adjustment", NULL, "it is not supported"}),
	 .children = clock_rules},
	{"on_poweroff", XML_TEXT},
	{"on_reboot", XML_TEXT},
	{"on_crash", XML_TEXT},
	NO("on_lockfailure", "there are no lock managers"),
	{"pm", KIDS({"suspend-to-mem", ATTRS({"enabled", "no", "guests cannot suspend yet"})},
		    {"suspend-to-disk", ATTRS({"enabled", "no", "guests cannot suspend yet"})})},
	NO("perf", "it is not supported"),
	NO("idmap", "it belongs to containers"),
	{"devices", .children = device_rules},
	NO("launchSecurity", "it is not supported"),
	NO("keywrap", "it is not supported"),
	{"seclabel", XML_MANY | XML_ASSIGNED},
	{NULL},
};

const struct xml_rule xml_domain_rule = {
	"domain",
	ATTRS({"type", "kvm|qemu|null", "machines are of type kvm or qemu (the software CPU)"},
	      {"id"}),
	.children = domain_rules,
};
