/* The life of a rig, shared by the test and the fuzz target. */
#include "state/devices.h"

#include <unistd.h>

void rig_init(struct rig *rig, const struct device_entry *entry)
{
	*rig = (struct rig){.h = harness_new(), .image_fd = -1};
	entry->make(rig);
}

void rig_fini(struct rig *rig)
{
	device_free(rig->dev);
	chardev_free(rig->chr);
	image_close(rig->image);
	if (rig->image_fd >= 0)
		close(rig->image_fd);
	harness_free(rig->h);
}

const struct device_entry *device_entry(size_t i)
{
	if (i < n_port_entries)
		return &port_entries[i];
	i -= n_port_entries;
	return i < n_virtio_entries ? &virtio_entries[i] : NULL;
}
