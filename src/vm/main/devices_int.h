/* Private to vm/main: the steps of machine_add_devices(), which call each other's files. */
#pragma once

#include "vm/main/machine.h"

/* Takes over the device that *dev is since its _new() returned r; returns r. By pointer: in devices_add(m, x_new(..., &dev),
 * &dev) the two arguments are evaluated in any order. */
int devices_add(struct machine *m, int r, struct device *const *dev);

int devices_add_disk(struct machine *m, size_t index, struct error *err);
int devices_add_net(struct machine *m, size_t index, struct error *err);
/* rng, balloon, vsock. */
int devices_add_small(struct machine *m, struct error *err);
