/*
 * Virtual machine generation identifier ("Virtual Machine Generation ID", Microsoft, 2012). The device has no registers: the
 * identifier is guest memory that the firmware reserves, its address is in the ACPI tables, the event is a GPE.
 *
 * A saved state carries the identifier as it was; whoever restores or forks a machine sets a new one.
 */
#include "vm/devices/vmgenid.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "base/cleanup.h"

struct vmgenid {
	struct device dev;
	gpa_t gpa;
	void (*notify)(void *opaque);
	void *opaque;
	uint8_t guid[VMGENID_BYTES]; /* [lock] */
};

/* The guest may have written over it; after a reset it stands there again. */
static void vmgenid_reset(struct device *dev)
{
	struct vmgenid *gen = container_of(dev, struct vmgenid, dev);

	LOCK_GUARD(&dev->lock);
	gmem_write(dev->env.mem, gen->gpa, gen->guid, VMGENID_BYTES);
}

static void vmgenid_free(struct device *dev)
{
	struct vmgenid *gen = container_of(dev, struct vmgenid, dev);

	device_fini(dev);
	free(gen);
}

int vmgenid_set(struct device *dev, const uint8_t guid[VMGENID_BYTES])
{
	struct vmgenid *gen = container_of(dev, struct vmgenid, dev);
	int r;

	pthread_mutex_lock(&dev->lock);
	r = gmem_write(dev->env.mem, gen->gpa, guid, VMGENID_BYTES);
	if (r >= 0)
		memcpy(gen->guid, guid, VMGENID_BYTES);
	pthread_mutex_unlock(&dev->lock);
	if (r >= 0 && gen->notify)
		gen->notify(gen->opaque);
	return r;
}

void vmgenid_get(struct device *dev, uint8_t ret[VMGENID_BYTES])
{
	LOCK_GUARD(&dev->lock);
	memcpy(ret, container_of(dev, struct vmgenid, dev)->guid, VMGENID_BYTES);
}

static const struct state_field vmgenid_fields[] = {
	STATE_BYTES(struct vmgenid, guid),
};
static const struct state_table vmgenid_state = {.name = "vmgenid",
						 .version = 1,
						 STATE_FIELDS(vmgenid_fields)};

static const struct device_ops vmgenid_ops = {
	.type = "vmgenid",
	.state = &vmgenid_state,
	.reset = vmgenid_reset,
	.free = vmgenid_free,
};

int vmgenid_new(const struct device_env *env, const struct vmgenid_config *config,
		struct device **ret, struct error *err)
{
	struct vmgenid *gen = calloc(1, sizeof(*gen));
	int r;

	if (!gen)
		return error_set(err, -ENOMEM, "Out of memory for %s", config->id);
	device_init(&gen->dev, &vmgenid_ops, config->id, env);
	gen->gpa = config->gpa;
	gen->notify = config->notify;
	gen->opaque = config->opaque;
	memcpy(gen->guid, config->guid, VMGENID_BYTES);
	r = gmem_write(env->mem, gen->gpa, gen->guid, VMGENID_BYTES);
	if (r < 0) {
		vmgenid_free(&gen->dev);
		return error_set(err, r, "%s: there is no guest memory at 0x%llx", config->id,
				 (unsigned long long)config->gpa);
	}
	*ret = &gen->dev;
	return 0;
}
