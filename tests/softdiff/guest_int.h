/* Shared by guest.c, which makes the machine, and engine.c, which runs cases on it. */
#pragma once

#include "softdiff/diff.h"
#include "vm/accel/soft/soft.h"

struct soft_cpu *guest_cpu(void);
/* Where a linear address of the window, the code or the kernel's pages is in this process. */
uint8_t *guest_host(uint64_t linear);
/* Puts the case's code into the guest, and its state into the vCPU. */
void guest_put_state(const struct diff_case *c, enum engine engine);
/* All but the fault; the code is gone afterwards. */
void guest_take_state(const struct diff_case *c, struct diff_outcome *ret);
