/*
 * libvirt's domain XML as a codec of struct spec, the only one in the tree. What a machine cannot do is refused with the element named; what is left open is
 * assigned, and written back: the text that comes out is in libvirt's order, with units, addresses and names filled in, and metadata as it came.
 *
 * The document is hostile: at most 1 MiB, UTF-8, no document type, no entities, depth bounded by the grammar in rules.c. Any thread.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "spec/spec.h"

/* The one machine type that is ours; a definition may also say pc or q35, which libvirt's clients ask for. */
#define SPEC_XML_MACHINE "vireo"

#define SPEC_XML_MAX_BYTES (1024 * 1024)

/* What the daemon does when the guest powers off, restarts, or panics. */
enum spec_xml_action {
	SPEC_XML_DESTROY,
	SPEC_XML_RESTART,
};

struct spec_xml {
	struct spec spec;          /* finished, but for what the daemon adds: qmp_socket */
	char *text;                /* normalised */
	char *title, *description; /* NULL: none */
	enum spec_xml_action on_poweroff, on_reboot, on_crash;
	bool test; /* type 'null': the kernel is a script (vm/accel/null) */
};

/* Once, before threads. */
void spec_xml_init(void);

/* emulator: what <emulator> is set to. -EBADMSG: no well-formed document of a machine; -EOPNOTSUPP: an element, attribute or value that Vireo cannot
 * do; -EINVAL: values that do not go together. The caller owns *ret. */
int spec_xml_parse(const char *text, size_t len, const char *emulator, struct spec_xml **ret,
		   struct error *err);
void spec_xml_free(struct spec_xml *xml);

/* Is the machine type one that a definition may name? */
bool spec_xml_machine_known(const char *machine);

/* "vda" for the disk that a definition calls so; "" for one that is of no definition. */
void spec_xml_disk_name(const struct spec_disk *disk, char *buf, size_t size);

/* What only a running machine has. */
struct spec_xml_live {
	int id;
	const char *serial_tty, *console_tty; /* NULL: none */
};
/* Heap text of the machine as it runs: identity, terminals, device aliases. -ENOMEM. */
int spec_xml_live_text(const struct spec_xml *xml, const struct spec_xml_live *live, char **ret,
		       struct error *err);

enum spec_xml_metadata {
	SPEC_XML_DESCRIPTION,
	SPEC_XML_TITLE,
	SPEC_XML_ELEMENT, /* of <metadata>, by its namespace */
};
/* -ENODATA when there is none. uri: of ELEMENT. */
int spec_xml_get_metadata(const struct spec_xml *xml, enum spec_xml_metadata type, const char *uri,
			  char **ret, struct error *err);
/* The machine's text with one changed (value NULL: removed), to be parsed again. key: the prefix of ELEMENT's namespace. */
int spec_xml_set_metadata(const struct spec_xml *xml, enum spec_xml_metadata type,
			  const char *value, const char *key, const char *uri, char **ret,
			  struct error *err);
/* The same for the machine's name. */
int spec_xml_set_name(const struct spec_xml *xml, const char *name, char **ret, struct error *err);
