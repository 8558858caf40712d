/*
 * What this host and Vireo offer, as the capability documents that libvirt's clients read. Loop's thread.
 */
#pragma once

#include <stdbool.h>

#include "base/error.h"

struct caps;

/* emulator: the path of vireo-vmm, borrowed. */
int caps_new(const char *emulator, struct caps **ret, struct error *err);
void caps_free(struct caps *caps);
/* KVM is there and fast: it is offered from now on. Before, and without it, only the software CPU is. */
void caps_set_kvm(struct caps *caps, bool usable);
/* Scripted processors, for tests: domains of type "null". */
void caps_set_null(struct caps *caps, bool offered);

/* Heap text, NULL without memory. */
char *caps_host_xml(struct caps *caps);

struct caps_query {
	const char *emulator, *arch, *machine, *virt; /* NULL: the default */
};
/* -EINVAL: what is asked for is not to be had here, and why. */
int caps_domain_xml(struct caps *caps, const struct caps_query *query, char **ret,
		    struct error *err);
