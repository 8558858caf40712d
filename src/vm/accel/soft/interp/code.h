/*
 * Which physical pages hold code that was decoded or translated, and what happens when somebody writes there.
 *
 * A reader of code (interpreter or translator) calls code_watch() before it reads bytes of a page, and remembers the page's generation; what it
 * made of them is valid as long as the generation is the same. A writer of guest memory that is no vCPU's plain store through a write tag
 * calls code_written(): a vCPU's slow path (PAGE_CODE keeps write tags away), and device writes, which arrive by gmem_watch().
 */
#pragma once

#include "vm/accel/soft/soft.h"

int code_init(struct soft *soft, struct error *err);
void code_fini(struct soft *soft);

/* Marks the page; when it was not marked, takes write tags for it from every vCPU's TLB (soft_sync_others). page: 4 KiB aligned RAM.
 * Returns its generation, which changes with each write to the page. cpu: the caller. */
uint32_t code_watch(struct soft_cpu *cpu, gpa_t page);
uint32_t code_generation(struct soft *soft, gpa_t page);
/* Where that number is, for as long as the machine lives. */
const _Atomic uint32_t *code_generation_ref(struct soft *soft, gpa_t page);
/* After (for a vCPU: right after) [gpa, gpa + len) was written; cheap where no code is. cpu: the writer, or NULL for a device. */
void code_written(struct soft *soft, struct soft_cpu *cpu, gpa_t gpa, uint64_t len);
