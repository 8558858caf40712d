/*
 * libvirt's XML of storage pools and volumes, in and out, under the same rules as a machine's (xml.h). Folders and the files in them are the only kind so
 * far. Any thread.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#include "base/error.h"

struct spec_xml_pool {
	char *name;
	uint8_t uuid[16]; /* made when it is not given */
	char *path;       /* of the folder, absolute */
	int mode;         /* for a folder that is made; -1: not given */
};

/* -EBADMSG, -EOPNOTSUPP as spec_xml_parse(). */
int spec_xml_parse_pool(const char *text, size_t len, struct spec_xml_pool **ret,
			struct error *err);
void spec_xml_pool_free(struct spec_xml_pool *pool);

/* Of a pool that is active. */
struct spec_xml_pool_state {
	uint64_t capacity, allocation, available; /* bytes */
	unsigned mode, uid, gid;
};
/* Heap text, NULL without memory. state NULL: inactive. */
char *spec_xml_write_pool(const struct spec_xml_pool *pool,
			  const struct spec_xml_pool_state *state);

struct spec_xml_volume {
	char *name;
	char *format; /* "raw" when not given */
	uint64_t capacity;
	uint64_t allocation;
	bool allocation_given;
	int mode; /* -1: not given */
};
int spec_xml_parse_volume(const char *text, size_t len, struct spec_xml_volume **ret,
			  struct error *err);
void spec_xml_volume_free(struct spec_xml_volume *volume);

struct spec_xml_volume_state {
	const char *name, *path, *format;
	const char *backing; /* NULL: none */
	uint64_t capacity, allocation, physical;
	unsigned mode, uid, gid;
	struct timespec atime, mtime, ctime;
};
char *spec_xml_write_volume(const struct spec_xml_volume_state *volume);
