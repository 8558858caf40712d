/*
 * An interrupt line as a device drives it: remembers the level, so that the machine is told of changes only. Not part of
 * the state tables: it follows from the registers, and each device says it again when it resumes. dev.lock held.
 */
#pragma once

#include "vm/bus/device.h"

struct line {
	unsigned gsi;
	bool level;
};

static inline void line_assert(struct line *line, const struct device *dev, bool level)
{
	line->level = level;
	dev->env.host->ops->irq_line(dev->env.host, line->gsi, level);
}

static inline void line_set(struct line *line, const struct device *dev, bool level)
{
	if (line->level != level)
		line_assert(line, dev, level);
}

/* An edge for those who wait for one although the level was high already. */
static inline void line_pulse(struct line *line, const struct device *dev)
{
	line_set(line, dev, false);
	line_set(line, dev, true);
}
