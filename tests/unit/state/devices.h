/*
 * How the one test of all devices' state drives each of them: a table, one entry a device. A device of vm/devices without
 * an entry fails the test.
 *
 * The device is made and driven; paused, saved, reset, loaded and saved again; then the guest goes on, once in the same
 * machine and once in another one that has a copy of the memory.
 */
#pragma once

#include "device/driver.h"
#include "image/image.h"
#include "vm/char/chardev.h"
#include "vm/net/null.h"

#define RIG_SLOT 4

/* A machine with one device. What is behind the device stays when the machine is replaced by another. */
struct rig {
	struct harness *h;
	struct device *dev;
	const char *missing; /* why there is no device: the host lacks something */
	struct driver driver;
	struct chardev *chr;
	struct image *image;
	int image_fd;            /* what the image is on */
	struct net_backend *net; /* the device's */
	gpa_t gpa, gpa2;         /* buffers of the request that is under way */
};

struct device_entry {
	const char *type;
	bool stateless; /* there is nothing that a guest could observe later */
	/* Makes rig->dev, and what is behind it unless that is there already. */
	void (*make)(struct rig *rig);
	/* What a guest did until it was stopped: registers written, something left unfinished where that can be. */
	void (*drive)(struct rig *rig);
	/* What it finds when it goes on. */
	void (*go_on)(struct rig *rig);
	bool keeps; /* a reset changes nothing of it */
};

extern const struct device_entry port_entries[];
extern const size_t n_port_entries;
extern const struct device_entry virtio_entries[];
extern const size_t n_virtio_entries;

/* Entry i of both tables, NULL after the last. */
const struct device_entry *device_entry(size_t i);

void rig_init(struct rig *rig, const struct device_entry *entry);
void rig_fini(struct rig *rig);
