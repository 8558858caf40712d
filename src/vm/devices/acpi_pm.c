/*
 * ACPI fixed hardware register blocks (ACPI 6.5, sections 4.8.3 and 4.8.4): PM1a event and control, PM timer, GPE0. There
 * is no SMI command port, so SCI_EN reads as one always; sleep states other than S5 do not exist; a power button held down
 * is not reported.
 *
 * Registers on vCPU threads under dev.lock, but for the PM timer: it is read without a lock, as guests may use it as their
 * clock. It stands still while the machine is paused.
 */
#include "vm/devices/acpi_pm.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/endian.h"
#include "vm/bus/platform.h"
#include "vm/devices/line.h"

#define PM_TIMER_HZ       3579545u
#define PM_TIMER_HALF_LOG 31 /* TMR_STS: bit 31 of the timer changed */

#define PM1_TMR     0x0001u
#define PM1_GBL     0x0020u
#define PM1_PWRBTN  0x0100u
#define PM1_SLPBTN  0x0200u
#define PM1_RTC     0x0400u
#define PM1_EN_MASK (PM1_TMR | PM1_GBL | PM1_PWRBTN | PM1_SLPBTN | PM1_RTC)

#define PM1_CNT_SCI_EN  0x0001u
#define PM1_CNT_BM_RLD  0x0002u
#define PM1_CNT_SLP_TYP 0x1C00u
#define PM1_CNT_SLP_EN  0x2000u
#define PM1_CNT_KEPT    (PM1_CNT_BM_RLD | PM1_CNT_SLP_TYP)

#define GPE_BYTES (PLATFORM_GPE0_BYTES / 2)

enum acpi_pm_block {
	BLOCK_EVT,
	BLOCK_CNT,
	BLOCK_TMR,
	BLOCK_GPE,
	BLOCKS,
};

struct acpi_pm {
	struct device dev;
	struct bus_region regions[BLOCKS];
	struct line sci;           /* [lock] */
	struct loop_timer timer;   /* [loop] next change of the timer's bit 31, while TMR_EN */
	struct loop_msg timer_msg; /* arms it */
	bool paused;               /* [lock] */

	/* Monotonic time at which the timer was 0; changes with vCPUs stopped only. */
	uint64_t base_ns;
	uint64_t elapsed_ns; /* the timer while paused and in a saved state */

	/* [lock] */
	uint16_t pm1_sts, pm1_en, pm1_cnt;
	uint8_t gpe_sts[GPE_BYTES], gpe_en[GPE_BYTES];
	uint32_t half_seen; /* halves of the timer's range that TMR_STS has been set for */
};

static struct acpi_pm *acpi_pm_of(struct device *dev)
{
	return container_of(dev, struct acpi_pm, dev);
}

/* --- the timer --- */

static uint64_t pm_ticks(const struct acpi_pm *pm)
{
	uint64_t ns = clock_monotonic_ns() - pm->base_ns;

	return (uint64_t)((unsigned __int128)ns * PM_TIMER_HZ / NSEC_PER_SEC);
}

static void pm_timer_catch_up(struct acpi_pm *pm)
{
	uint32_t half = (uint32_t)(pm_ticks(pm) >> PM_TIMER_HALF_LOG);

	if (half == pm->half_seen)
		return;
	pm->half_seen = half;
	pm->pm1_sts |= PM1_TMR;
}

static void pm_update_sci(struct acpi_pm *pm)
{
	bool level = pm->pm1_sts & pm->pm1_en;

	for (unsigned i = 0; i < GPE_BYTES; i++)
		level |= (pm->gpe_sts[i] & pm->gpe_en[i]) != 0;
	line_set(&pm->sci, &pm->dev, level);
}

static void pm_timer_arm(struct loop_msg *msg)
{
	struct acpi_pm *pm = container_of(msg, struct acpi_pm, timer_msg);
	uint64_t ticks;

	LOCK_GUARD(&pm->dev.lock);
	loop_timer_disarm(&pm->timer);
	if (pm->paused || !(pm->pm1_en & PM1_TMR) || (pm->pm1_sts & PM1_TMR))
		return;
	ticks = ((uint64_t)pm->half_seen + 1) << PM_TIMER_HALF_LOG;
	/* Rounded up: at the deadline the half is over. */
	loop_timer_arm(&pm->timer,
		       pm->base_ns + 1 +
			       (uint64_t)((unsigned __int128)ticks * NSEC_PER_SEC / PM_TIMER_HZ));
}

static void pm_timer_fire(struct loop_timer *timer)
{
	struct acpi_pm *pm = container_of(timer, struct acpi_pm, timer);

	LOCK_GUARD(&pm->dev.lock);
	if (pm->paused)
		return;
	pm_timer_catch_up(pm);
	pm_update_sci(pm);
}

static uint64_t pm_tmr_read(void *opaque, uint64_t offset, unsigned size)
{
	const struct acpi_pm *pm = opaque;

	(void)size;
	return (pm_ticks(pm) & UINT32_MAX) >> (8 * offset);
}

static void pm_ignore_write(void *opaque, uint64_t offset, unsigned size, uint64_t value)
{
	(void)opaque;
	(void)offset;
	(void)size;
	(void)value;
}

static const struct bus_ops pm_tmr_ops = {.read = pm_tmr_read, .write = pm_ignore_write};

/* --- PM1a event block --- */

static uint64_t pm_evt_read(void *opaque, uint64_t offset, unsigned size)
{
	struct acpi_pm *pm = opaque;

	(void)size;
	pm_timer_catch_up(pm);
	return ((uint32_t)pm->pm1_sts | (uint32_t)pm->pm1_en << 16) >> (8 * offset);
}

static void pm_evt_write(void *opaque, uint64_t offset, unsigned size, uint64_t value)
{
	struct acpi_pm *pm = opaque;
	uint8_t en[2];

	pm_timer_catch_up(pm);
	le_store(en, 2, pm->pm1_en);
	for (unsigned i = 0; i < size; i++) {
		uint8_t byte = (uint8_t)(value >> (8 * i));
		unsigned at = (unsigned)offset + i;

		if (at < 2)
			pm->pm1_sts &= (uint16_t) ~(byte << (8 * at)); /* a one clears */
		else
			en[at - 2] = byte;
	}
	pm->pm1_en = (uint16_t)le_load(en, 2) & PM1_EN_MASK;
	pm_update_sci(pm);
	loop_post(pm->dev.env.loop, &pm->timer_msg);
}

static const struct bus_ops pm_evt_ops = {.read = pm_evt_read, .write = pm_evt_write};

/* --- PM1a control block --- */

static uint64_t pm_cnt_read(void *opaque, uint64_t offset, unsigned size)
{
	struct acpi_pm *pm = opaque;

	(void)size;
	return (uint32_t)(pm->pm1_cnt | PM1_CNT_SCI_EN) >> (8 * offset);
}

static void pm_cnt_write(void *opaque, uint64_t offset, unsigned size, uint64_t value)
{
	struct acpi_pm *pm = opaque;
	uint8_t bytes[2];
	uint16_t cnt;

	le_store(bytes, 2, pm->pm1_cnt);
	for (unsigned i = 0; i < size; i++)
		bytes[offset + i] = (uint8_t)(value >> (8 * i));
	cnt = (uint16_t)le_load(bytes, 2);
	pm->pm1_cnt = cnt & PM1_CNT_KEPT; /* SLP_EN and GBL_RLS read as zero */
	if ((cnt & PM1_CNT_SLP_EN) && (cnt & PM1_CNT_SLP_TYP) >> 10 == PLATFORM_SLP_TYP_S5)
		pm->dev.env.host->ops->request(pm->dev.env.host, MACHINE_POWEROFF);
}

static const struct bus_ops pm_cnt_ops = {.read = pm_cnt_read, .write = pm_cnt_write};

/* --- GPE0 block --- */

static uint64_t pm_gpe_read(void *opaque, uint64_t offset, unsigned size)
{
	struct acpi_pm *pm = opaque;
	uint8_t bytes[PLATFORM_GPE0_BYTES];

	memcpy(bytes, pm->gpe_sts, GPE_BYTES);
	memcpy(bytes + GPE_BYTES, pm->gpe_en, GPE_BYTES);
	return le_load(bytes + offset, size);
}

static void pm_gpe_write(void *opaque, uint64_t offset, unsigned size, uint64_t value)
{
	struct acpi_pm *pm = opaque;

	for (unsigned i = 0; i < size; i++) {
		uint8_t byte = (uint8_t)(value >> (8 * i));
		unsigned at = (unsigned)offset + i;

		if (at < GPE_BYTES)
			pm->gpe_sts[at] &= (uint8_t)~byte;
		else
			pm->gpe_en[at - GPE_BYTES] = byte;
	}
	pm_update_sci(pm);
}

static const struct bus_ops pm_gpe_ops = {.read = pm_gpe_read, .write = pm_gpe_write};

/* --- events from the host --- */

void acpi_pm_power_button(struct device *dev)
{
	struct acpi_pm *pm = acpi_pm_of(dev);

	LOCK_GUARD(&dev->lock);
	pm->pm1_sts |= PM1_PWRBTN;
	if (!pm->paused) /* otherwise resume does it */
		pm_update_sci(pm);
}

void acpi_pm_raise_gpe(struct device *dev, unsigned bit)
{
	struct acpi_pm *pm = acpi_pm_of(dev);

	LOCK_GUARD(&dev->lock);
	pm->gpe_sts[bit / 8 % GPE_BYTES] |= (uint8_t)BIT(bit % 8);
	if (!pm->paused)
		pm_update_sci(pm);
}

/* --- the device --- */

static void acpi_pm_reset(struct device *dev)
{
	struct acpi_pm *pm = acpi_pm_of(dev);

	LOCK_GUARD(&dev->lock);
	pm->base_ns = clock_monotonic_ns();
	pm->elapsed_ns = 0;
	pm->half_seen = 0;
	pm->pm1_sts = pm->pm1_en = pm->pm1_cnt = 0;
	memset(pm->gpe_sts, 0, sizeof(pm->gpe_sts));
	memset(pm->gpe_en, 0, sizeof(pm->gpe_en));
	pm_update_sci(pm);
}

static void acpi_pm_pause(struct device *dev)
{
	struct acpi_pm *pm = acpi_pm_of(dev);

	LOCK_GUARD(&dev->lock);
	if (pm->paused)
		return;
	pm->paused = true;
	pm->elapsed_ns = clock_monotonic_ns() - pm->base_ns;
}

static void acpi_pm_resume(struct device *dev)
{
	struct acpi_pm *pm = acpi_pm_of(dev);

	LOCK_GUARD(&dev->lock);
	if (pm->paused)
		pm->base_ns = clock_monotonic_ns() - pm->elapsed_ns;
	pm->paused = false;
	line_assert(&pm->sci, dev, pm->sci.level);
	pm_update_sci(pm);
	loop_post(dev->env.loop, &pm->timer_msg);
}

static void acpi_pm_free(struct device *dev)
{
	struct acpi_pm *pm = acpi_pm_of(dev);

	for (unsigned i = 0; i < BLOCKS; i++)
		bus_unmap(dev->env.bus, &pm->regions[i]);
	loop_unpost(dev->env.loop, &pm->timer_msg);
	loop_timer_disarm(&pm->timer);
	device_fini(dev);
	free(pm);
}

static void acpi_pm_pre_save(void *obj)
{
	struct acpi_pm *pm = obj;

	if (!pm->paused)
		pm->elapsed_ns = clock_monotonic_ns() - pm->base_ns;
}

static int acpi_pm_post_load(void *obj, struct error *err)
{
	struct acpi_pm *pm = obj;

	(void)err;
	pm->base_ns = clock_monotonic_ns() - pm->elapsed_ns;
	return 0;
}

static const struct state_field acpi_pm_fields[] = {
	STATE_UINT(struct acpi_pm, elapsed_ns), STATE_UINT(struct acpi_pm, pm1_sts),
	STATE_UINT(struct acpi_pm, pm1_en),     STATE_UINT(struct acpi_pm, pm1_cnt),
	STATE_BYTES(struct acpi_pm, gpe_sts),   STATE_BYTES(struct acpi_pm, gpe_en),
	STATE_UINT(struct acpi_pm, half_seen),
};
static const struct state_table acpi_pm_state = {
	.name = "acpi-pm",
	.version = 1,
	STATE_FIELDS(acpi_pm_fields),
	.pre_save = acpi_pm_pre_save,
	.post_load = acpi_pm_post_load,
};

static const struct device_ops acpi_pm_ops = {
	.type = "acpi-pm",
	.state = &acpi_pm_state,
	.reset = acpi_pm_reset,
	.pause = acpi_pm_pause,
	.resume = acpi_pm_resume,
	.free = acpi_pm_free,
};

static const struct {
	const struct bus_ops *ops;
	uint16_t port, bytes;
	bool locked;
} blocks[BLOCKS] = {
	[BLOCK_EVT] = {&pm_evt_ops, PLATFORM_PM1A_EVT_PORT, PLATFORM_PM1A_EVT_BYTES, true},
	[BLOCK_CNT] = {&pm_cnt_ops, PLATFORM_PM1A_CNT_PORT, PLATFORM_PM1A_CNT_BYTES, true},
	[BLOCK_TMR] = {&pm_tmr_ops, PLATFORM_PM_TMR_PORT, PLATFORM_PM_TMR_BYTES, false},
	[BLOCK_GPE] = {&pm_gpe_ops, PLATFORM_GPE0_PORT, PLATFORM_GPE0_BYTES, true},
};

int acpi_pm_new(const struct device_env *env, const struct acpi_pm_config *config,
		struct device **ret, struct error *err)
{
	struct acpi_pm *pm = calloc(1, sizeof(*pm));

	if (!pm)
		return error_set(err, -ENOMEM, "Out of memory for %s", config->id);
	device_init(&pm->dev, &acpi_pm_ops, config->id, env);
	pm->sci.gsi = PLATFORM_SCI_GSI;
	pm->timer_msg.fn = pm_timer_arm;
	loop_timer_init(env->loop, &pm->timer, pm_timer_fire);
	acpi_pm_reset(&pm->dev);
	for (unsigned i = 0; i < BLOCKS; i++) {
		int r;

		pm->regions[i] = (struct bus_region){
			.name = pm->dev.id,
			.ops = blocks[i].ops,
			.opaque = pm,
			.lock = blocks[i].locked ? &pm->dev.lock : NULL,
			.space = BUS_PIO,
			.base = blocks[i].port,
			.size = blocks[i].bytes,
		};
		r = bus_map(env->bus, &pm->regions[i]);
		if (r < 0) {
			acpi_pm_free(&pm->dev);
			return error_set_errno(err, r, "Cannot place %s at port 0x%x", config->id,
					       blocks[i].port);
		}
	}
	*ret = &pm->dev;
	return 0;
}
