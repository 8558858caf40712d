/*
 * A virtio console: one terminal, or several ports of which some are terminals and some named byte channels for agents.
 * It belongs to the loop of its character backends. (VIRTIO 1.2, section 5.3.)
 */
#pragma once

#include "vm/bus/device.h"
#include "vm/char/chardev.h"

#define VIRTIO_CONSOLE_MAX_PORTS 16

struct virtio_console_port_config {
	struct chardev *chr; /* outlives the device, which attaches itself to it */
	const char *name;    /* NULL: a terminal (hvc0 ...); otherwise a channel of this name */
};

struct virtio_console_config {
	const char *id;
	int slot; /* on the PCI bus; < 0: the next free */
	/* The first is a terminal. One alone is served without control queues: guests start faster, and they agree
	 * on how its size is told. */
	const struct virtio_console_port_config *ports;
	unsigned n_ports;
};

int virtio_console_new(const struct device_env *env, const struct virtio_console_config *config,
		       struct device **ret, struct error *err);
