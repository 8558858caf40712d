/*
 * What every device has in common: its name, surroundings and lock; dispatch to its operations.
 */
#include "vm/bus/device.h"

#include "base/str.h"

void device_init(struct device *dev, const struct device_ops *ops, const char *id,
		 const struct device_env *env)
{
	dev->ops = ops;
	str_copy(dev->id, sizeof(dev->id), id);
	dev->env = *env;
	pthread_mutex_init(&dev->lock, NULL);
}

void device_fini(struct device *dev)
{
	pthread_mutex_destroy(&dev->lock);
}

void device_reset(struct device *dev)
{
	if (dev->ops->reset)
		dev->ops->reset(dev);
}

void device_pause(struct device *dev)
{
	if (dev->ops->pause)
		dev->ops->pause(dev);
}

void device_resume(struct device *dev)
{
	if (dev->ops->resume)
		dev->ops->resume(dev);
}

void device_free(struct device *dev)
{
	if (dev && dev->ops->free)
		dev->ops->free(dev);
}
