/*
 * A saved machine, apart from its memory: a header, then sections. A section is one object (a device, a vCPU) or a blob,
 * under a name and an instance number, with a CRC-32C of its own; an END section closes the stream, so that what follows
 * in the same descriptor stays unread. All integers are little-endian.
 *
 *	header    magic "VIREOST1", version, flags, byte-order mark
 *	section   kind, name length, instance, body length, name, body, CRC-32C of all of these
 *
 * vm/main decides which sections a machine has. Threads: as state.h.
 */
#pragma once

#include "vm/state/state.h"

#define STATE_STREAM_VERSION   1
#define STATE_SECTION_NAME_MAX 63

enum state_section_kind {
	STATE_SECTION_END = 0,
	STATE_SECTION_OBJECT = 1,
	STATE_SECTION_BLOB = 2,
};

/* --- writing: into a buffer, which then goes to a descriptor whole --- */

int state_stream_begin(struct state_buf *buf);
int state_stream_object(struct state_buf *buf, const char *name, uint32_t instance,
			const struct state_table *table, void *obj);
int state_stream_blob(struct state_buf *buf, const char *name, uint32_t instance, const void *data,
		      size_t len);
int state_stream_end(struct state_buf *buf);
/* Writes what the buffer holds; blocking. */
int state_buf_write(const struct state_buf *buf, int fd);

/* --- reading --- */

struct state_section {
	enum state_section_kind kind;
	char name[STATE_SECTION_NAME_MAX + 1];
	uint32_t instance;
	struct state_reader body; /* into the stream's memory */
};

/* Checks the header and moves past it. */
int state_stream_open(struct state_reader *reader, struct error *err);
/* The next section, its CRC checked: 1; 0 at the end section; -EINVAL when damaged or cut off. */
int state_stream_next(struct state_reader *reader, struct state_section *ret, struct error *err);
/* state_load() of the section's body, which must be used up by it. */
int state_section_load(struct state_section *section, const struct state_table *table, void *obj,
		       struct error *err);

/* Reads one stream of at most max_bytes from a descriptor into an empty buffer, up to its end section and no further;
 * blocking. Lengths are checked before memory is taken for them, CRCs are left to state_stream_next(). */
int state_stream_read(int fd, size_t max_bytes, struct state_buf *ret, struct error *err);
