/* The snapshot table (section "Snapshots") in memory. */
#pragma once

#include "image/qcow2/qcow2_int.h"

struct qcow2_snapshot {
	uint64_t l1_offset, disk_bytes, vm_state_bytes, vm_clock_nsec;
	uint32_t l1_size, date_sec, date_nsec;
	char *id, *name;
	uint8_t *more; /* extra data behind what we know */
	uint32_t n_more;
};

struct qcow2_snapshots {
	struct qcow2_snapshot *list;
	uint32_t n;
	uint64_t bytes; /* of the table in the file */
};

/* n entries in a buffer; *ret_bytes: how many they take. -ENOSPC: the buffer ends before they do. Messages name the field. */
int qcow2_snapshots_parse(const uint8_t *buf, size_t len, uint32_t n, const struct qcow2_header *h,
			  const char *path, struct qcow2_snapshots *ret, struct error *err);
void qcow2_snapshots_fini(struct qcow2_snapshots *s);
/* Heap; NULL without memory. */
uint8_t *qcow2_snapshots_encode(const struct qcow2_snapshots *s, uint64_t *ret_bytes);
int qcow2_snapshots_read(struct qcow2 *q, struct qcow2_snapshots *ret, struct error *err);
