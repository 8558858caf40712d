/* Between the halves of the check: counting and comparing (qcow2_check.c), repairing (qcow2_repair.c). Offline, main thread. */
#pragma once

#include "image/qcow2/qcow2_int.h"

struct qcow2_check {
	struct qcow2 *q;
	const struct image_check_config *config;
	struct image_check_result *result;
	uint32_t *refs; /* what each cluster's refcount should be; stops at its maximum */
	uint64_t n_clusters;
	unsigned n_reported;
	uint64_t
		ref_errors; /* refcounts that are too low: nothing may be written before they are right */
	uint64_t flag_errors; /* "mine alone" where it is not so */
	uint64_t lost;        /* what no counting puts right */
};

void qcow2_check_report(struct qcow2_check *c, bool corruption, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));
/* Adds delta to what the refcount table and its blocks themselves count for. */
void qcow2_check_mark_reft(struct qcow2_check *c, int delta);

/* Lowers refcounts that are too high, in place. */
int qcow2_repair_leaks(struct qcow2_check *c);
/* New refcount blocks and a new table from what was counted, behind everything; then flags. */
int qcow2_repair_refcounts(struct qcow2_check *c);
int qcow2_repair_flags(struct qcow2_check *c);
