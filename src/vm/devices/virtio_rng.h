/*
 * A virtio entropy device: bytes from the host's kernel. (VIRTIO 1.2, section 5.4.)
 */
#pragma once

#include "vm/bus/device.h"

/* On env->pci at slot (< 0: the next free); works on env->loop. */
int virtio_rng_new(const struct device_env *env, const char *id, int slot, struct device **ret,
		   struct error *err);
