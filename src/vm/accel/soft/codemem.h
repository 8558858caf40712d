/*
 * Memory for machine code that is made at run time. One memfd is mapped twice: code is written through `rw` and executed through `rx`, so
 * that no mapping is ever writable and executable. What is written at rw + n is executed at rx + n.
 *
 * The bytes are zero at first; pages are taken from the host when they are first written. A thread that writes code which another one may be
 * about to execute has to publish it with release semantics (x86 keeps instruction fetch coherent for code that was never executed before).
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

struct codemem {
	uint8_t *rw, *rx; /* NULL: not open */
	size_t size;      /* bytes, whole pages */
};

/* name: for /proc/PID/maps. size is rounded up to whole pages. -EACCES or -EPERM, and an error that says so, where the host does not let a
 * process have executable memory of its own making. */
int codemem_open(struct codemem *mem, const char *name, size_t size, struct error *err);
void codemem_close(struct codemem *mem);
