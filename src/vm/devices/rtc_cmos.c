/*
 * Real-time clock and CMOS memory (Motorola MC146818A data sheet; the PC's use of the memory as in the Intel 82371
 * manuals and the custom of PC BIOSes). Index port 0x70, data port 0x71, IRQ 8.
 *
 * The time is the host's wall clock plus an offset, and what the guest sets is kept as a new offset; it goes on while the
 * machine is paused or saved, as a battery-backed clock does. Flags of register C are worked out when they are looked at.
 * A timer runs only for an interrupt that is enabled and not pending: a guest that does not acknowledge costs nothing, and
 * no guest gets more ticks than it acknowledges. Square-wave output, daylight saving and the update cycle's own duration
 * are not there; the update-in-progress bit is set during the 244 us before the seconds change.
 *
 * Registers on vCPU threads, the timer on the loop, all under dev.lock.
 */
#include "vm/devices/rtc_cmos.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/endian.h"
#include "vm/bus/platform.h"
#include "vm/devices/line.h"
#include "vm/devices/rtc_time.h"

_Static_assert(RTC_CENTURY == PLATFORM_RTC_CENTURY_INDEX, "the FADT tells guests where it is");

#define A_UIP        0x80u
#define A_DIVIDER    0x70u
#define A_DIVIDER_ON 0x20u /* 32.768 kHz; 11x holds the clock in reset */
#define A_RATE       0x0Fu
#define A_DEFAULT    0x26u /* 1024 Hz */
#define B_SET        0x80u
#define B_PIE        0x40u
#define B_AIE        0x20u
#define B_UIE        0x10u
#define C_IRQF       0x80u
#define C_PF         0x40u
#define C_AF         0x20u
#define C_UF         0x10u
#define D_VALID      0x80u
#define UIP_NS       (244 * NSEC_PER_USEC)
/* The host's clock may be stepped: a far alarm is looked at again this often. */
#define RECHECK_NS (60 * NSEC_PER_SEC)

#define SECOND_MAX 1000000000000LL /* 30000 years, far from the ends of the arithmetic */

/* CMOS memory by BIOS custom: sizes in KiB or 64 KiB, low byte first. */
enum {
	CMOS_BASE_MEMORY = 0x15,     /* KiB below 1 MiB */
	CMOS_EXTENDED_MEMORY = 0x17, /* KiB above 1 MiB, 63 MiB at most */
	CMOS_EXTENDED_MEMORY2 = 0x30,
	CMOS_MEMORY_16M = 0x34, /* 64 KiB units above 16 MiB, to 4 GiB */
	CMOS_MEMORY_4G = 0x5B,  /* 64 KiB units above 4 GiB, three bytes */
};

struct rtc {
	struct device dev;
	struct bus_region region;
	struct line irq; /* [lock] */
	struct loop_timer timer;
	struct loop_msg timer_msg; /* arms it */
	bool paused;               /* [lock] */
	uint64_t ram_low, ram_high;

	/* [lock] */
	uint8_t index;
	uint8_t regs
		[RTC_BYTES]; /* time registers: as last looked at, or as set while the clock stands */
	int64_t offset_sec;   /* guest minus host, while the clock runs */
	uint32_t phase_ns;    /* by how much the guest's seconds change before the host's */
	int64_t seen_sec;     /* up to here UF and AF are worked out */
	uint64_t seen_period; /* up to here PF is */
};

static struct rtc *rtc_of(struct device *dev)
{
	return container_of(dev, struct rtc, dev);
}

/* --- the clock --- */

/* The divider chain: nanoseconds whose whole seconds are the guest's, but for their number. */
static uint64_t rtc_chain_ns(const struct rtc *rtc)
{
	return clock_realtime_ns() + rtc->phase_ns;
}

/* Bounded: the offset may be anything, after a load. */
static int64_t rtc_second_of(const struct rtc *rtc, uint64_t chain_ns)
{
	int64_t sec = (int64_t)(chain_ns / NSEC_PER_SEC + (uint64_t)rtc->offset_sec);

	sec = MIN(sec, SECOND_MAX);
	return MAX(sec, -SECOND_MAX);
}

static int64_t rtc_now_sec(const struct rtc *rtc)
{
	return rtc_second_of(rtc, rtc_chain_ns(rtc));
}

static bool rtc_running(const struct rtc *rtc)
{
	return !(rtc->regs[RTC_B] & B_SET) && (rtc->regs[RTC_A] & A_DIVIDER) == A_DIVIDER_ON;
}

/* The periodic interrupt's period; 0: off. Rates 1 and 2 are those of 8 and 9 at this crystal. */
static uint64_t rtc_period_ns(const struct rtc *rtc)
{
	unsigned rate = rtc->regs[RTC_A] & A_RATE;

	if (rate == 0)
		return 0;
	if (rate <= 2)
		rate += 7;
	return (NSEC_PER_SEC << (rate - 1)) / 32768;
}

/* Periods that have begun; 0: they are off. */
static uint64_t rtc_periods(const struct rtc *rtc)
{
	uint64_t period = rtc_period_ns(rtc);

	return period != 0 ? rtc_chain_ns(rtc) / period : 0;
}

static void rtc_take_time(struct rtc *rtc)
{
	if (rtc_running(rtc))
		rtc_time_encode(rtc->regs, rtc_now_sec(rtc));
}

/* The time registers were written: the clock goes on from there. */
static void rtc_give_time(struct rtc *rtc)
{
	int64_t sec = rtc_time_decode(rtc->regs);

	rtc->offset_sec = sec - (int64_t)(rtc_chain_ns(rtc) / NSEC_PER_SEC);
	rtc->seen_sec = sec;
}

/* The divider leaves its reset: the first update comes half a second later. */
static void rtc_start_divider(struct rtc *rtc)
{
	uint64_t of_second = clock_realtime_ns() % NSEC_PER_SEC;

	rtc->phase_ns = (uint32_t)((NSEC_PER_SEC + NSEC_PER_SEC / 2 - of_second) % NSEC_PER_SEC);
}

/* --- flags and interrupts --- */

static void rtc_catch_up(struct rtc *rtc)
{
	uint64_t periods = rtc_periods(rtc);
	int64_t alarm;
	int64_t sec;

	if (periods != rtc->seen_period && periods != 0)
		rtc->regs[RTC_C] |= C_PF;
	rtc->seen_period = periods;
	sec = rtc_now_sec(rtc);
	if (!rtc_running(rtc) || sec == rtc->seen_sec)
		return;
	rtc->regs[RTC_C] |= C_UF;
	/* A clock that was set back has passed nothing but this second. */
	if (sec < rtc->seen_sec || rtc->seen_sec < -SECOND_MAX)
		rtc->seen_sec = sec - 1;
	if (rtc_alarm_next(rtc->regs, rtc->seen_sec, &alarm) && alarm <= sec)
		rtc->regs[RTC_C] |= C_AF;
	rtc->seen_sec = sec;
}

static void rtc_update_irq(struct rtc *rtc)
{
	/* The enable bits of B stand where the flags of C do. */
	bool level = rtc->regs[RTC_B] & rtc->regs[RTC_C] & (C_PF | C_AF | C_UF);

	rtc->regs[RTC_C] &= (uint8_t)~C_IRQF;
	rtc->regs[RTC_C] |= level ? C_IRQF : 0;
	line_set(&rtc->irq, &rtc->dev, level);
}

/* How long until something happens that would raise the line, which is low. False: nothing will. */
static bool rtc_next_event(const struct rtc *rtc, uint64_t *ret_wait_ns)
{
	uint64_t now = rtc_chain_ns(rtc);
	uint64_t period = rtc_period_ns(rtc);
	uint64_t wait = UINT64_MAX;
	uint64_t to_next_sec = NSEC_PER_SEC - now % NSEC_PER_SEC;
	int64_t sec = rtc_second_of(rtc, now);
	int64_t alarm;

	if ((rtc->regs[RTC_B] & B_PIE) && period != 0)
		wait = MIN(wait, period - now % period);
	if ((rtc->regs[RTC_B] & B_UIE) && rtc_running(rtc))
		wait = MIN(wait, to_next_sec);
	if ((rtc->regs[RTC_B] & B_AIE) && rtc_running(rtc) &&
	    rtc_alarm_next(rtc->regs, sec, &alarm)) {
		uint64_t rest = (uint64_t)(alarm - sec - 1) * NSEC_PER_SEC + to_next_sec;

		rest = MIN(rest, RECHECK_NS);
		wait = MIN(wait, rest);
	}
	*ret_wait_ns = wait;
	return wait != UINT64_MAX;
}

static void rtc_arm_locked(struct rtc *rtc)
{
	uint64_t wait;

	loop_timer_disarm(&rtc->timer);
	if (!rtc->paused && !rtc->irq.level && rtc_next_event(rtc, &wait))
		loop_timer_arm(&rtc->timer, clock_monotonic_ns() + wait);
}

static void rtc_timer_msg(struct loop_msg *msg)
{
	struct rtc *rtc = container_of(msg, struct rtc, timer_msg);

	LOCK_GUARD(&rtc->dev.lock);
	rtc_arm_locked(rtc);
}

static void rtc_timer_fire(struct loop_timer *timer)
{
	struct rtc *rtc = container_of(timer, struct rtc, timer);

	LOCK_GUARD(&rtc->dev.lock);
	if (rtc->paused)
		return;
	rtc_catch_up(rtc);
	rtc_update_irq(rtc);
	rtc_arm_locked(rtc);
}

/* --- registers --- */

static bool is_time_register(unsigned index)
{
	return (index <= RTC_YEAR && index != RTC_SECONDS_ALARM && index != RTC_MINUTES_ALARM &&
		index != RTC_HOURS_ALARM) ||
	       index == RTC_CENTURY;
}

static uint8_t rtc_read_a(struct rtc *rtc)
{
	uint64_t to_next_sec = NSEC_PER_SEC - rtc_chain_ns(rtc) % NSEC_PER_SEC;
	bool uip = rtc_running(rtc) && to_next_sec <= UIP_NS;

	return (rtc->regs[RTC_A] & (uint8_t)~A_UIP) | (uip ? A_UIP : 0);
}

static uint8_t rtc_read_c(struct rtc *rtc)
{
	uint8_t flags;

	rtc_catch_up(rtc);
	rtc_update_irq(rtc);
	flags = rtc->regs[RTC_C];
	rtc->regs[RTC_C] = 0;
	rtc_update_irq(rtc);
	if (rtc->regs[RTC_B] & (B_PIE | B_AIE | B_UIE))
		loop_post(rtc->dev.env.loop, &rtc->timer_msg);
	return flags;
}

static uint8_t rtc_read_reg(struct rtc *rtc)
{
	unsigned index = rtc->index;

	if (is_time_register(index))
		rtc_take_time(rtc);
	if (index == RTC_A)
		return rtc_read_a(rtc);
	if (index == RTC_C)
		return rtc_read_c(rtc);
	return rtc->regs[index];
}

/* Registers A and B: the clock may stop, start, or show itself in another format. */
static void rtc_write_control(struct rtc *rtc, unsigned index, uint8_t value)
{
	bool was_running = rtc_running(rtc);
	bool was_divided = (rtc->regs[RTC_A] & A_DIVIDER) == A_DIVIDER_ON;

	rtc_take_time(rtc);
	if (index == RTC_A)
		rtc->regs[RTC_A] = value & (uint8_t)~A_UIP;
	else
		rtc->regs[RTC_B] = value & B_SET ? value & (uint8_t)~B_UIE : value;
	if (!was_divided && (rtc->regs[RTC_A] & A_DIVIDER) == A_DIVIDER_ON)
		rtc_start_divider(rtc);
	rtc->seen_period = rtc_periods(rtc); /* counted anew: the rate or the phase is another */
	if (!was_running && rtc_running(rtc))
		rtc_give_time(rtc);
}

static void rtc_write_reg(struct rtc *rtc, uint8_t value)
{
	unsigned index = rtc->index;

	rtc_catch_up(rtc);
	if (is_time_register(index)) {
		rtc_take_time(rtc);
		rtc->regs[index] = value;
		if (rtc_running(rtc))
			rtc_give_time(rtc);
	} else if (index == RTC_A || index == RTC_B) {
		rtc_write_control(rtc, index, value);
	} else if (index != RTC_C && index != RTC_D) {
		rtc->regs[index] = value;
	}
	rtc_update_irq(rtc);
	if (index <= RTC_D && (rtc->regs[RTC_B] & (B_PIE | B_AIE | B_UIE)))
		loop_post(rtc->dev.env.loop, &rtc->timer_msg);
}

static uint64_t rtc_read(void *opaque, uint64_t offset, unsigned size)
{
	struct rtc *rtc = opaque;
	uint64_t value = 0;

	for (unsigned i = 0; i < size; i++) {
		/* The index port is write-only. */
		uint8_t byte = offset + i == 0 ? 0xFF : rtc_read_reg(rtc);

		value |= (uint64_t)byte << (8 * i);
	}
	return value;
}

static void rtc_write(void *opaque, uint64_t offset, unsigned size, uint64_t value)
{
	struct rtc *rtc = opaque;

	for (unsigned i = 0; i < size; i++) {
		uint8_t byte = (uint8_t)(value >> (8 * i));

		if (offset + i == 0)
			rtc->index = byte & (RTC_BYTES - 1); /* bit 7 masks NMI; ignored */
		else
			rtc_write_reg(rtc, byte);
	}
}

static const struct bus_ops rtc_bus_ops = {.read = rtc_read, .write = rtc_write};

/* --- the device --- */

static void rtc_store(struct rtc *rtc, unsigned index, unsigned bytes, uint64_t value)
{
	le_store(rtc->regs + index, bytes, value);
}

static void rtc_store_memory_sizes(struct rtc *rtc)
{
	uint64_t extended = rtc->ram_low > MIB ? (rtc->ram_low - MIB) / KIB : 0;
	uint64_t above_16m = rtc->ram_low > 16 * MIB ? (rtc->ram_low - 16 * MIB) / (64 * KIB) : 0;
	uint64_t above_4g = rtc->ram_high / (64 * KIB);

	extended = MIN(extended, (uint64_t)UINT16_MAX);
	above_16m = MIN(above_16m, (uint64_t)UINT16_MAX);
	above_4g = MIN(above_4g, (uint64_t)0xFFFFFF);
	rtc_store(rtc, CMOS_BASE_MEMORY, 2, 640);
	rtc_store(rtc, CMOS_EXTENDED_MEMORY, 2, extended);
	rtc_store(rtc, CMOS_EXTENDED_MEMORY2, 2, extended);
	rtc_store(rtc, CMOS_MEMORY_16M, 2, above_16m);
	rtc_store(rtc, CMOS_MEMORY_4G, 2, above_4g);
	rtc->regs[CMOS_MEMORY_4G + 2] = (uint8_t)(above_4g >> 16);
}

/* The battery keeps the time and the memory. */
static void rtc_reset(struct device *dev)
{
	struct rtc *rtc = rtc_of(dev);

	LOCK_GUARD(&dev->lock);
	if (!rtc_running(rtc))
		rtc_give_time(rtc);
	rtc->index = 0;
	rtc->regs[RTC_A] = A_DEFAULT;
	rtc->regs[RTC_B] = RTC_B_24H;
	rtc->regs[RTC_C] = 0;
	rtc->regs[RTC_D] = D_VALID;
	rtc_store_memory_sizes(rtc);
	rtc->seen_sec = rtc_now_sec(rtc);
	rtc->seen_period = rtc_periods(rtc);
	rtc_update_irq(rtc);
}

static void rtc_pause(struct device *dev)
{
	LOCK_GUARD(&dev->lock);
	rtc_of(dev)->paused = true;
}

static void rtc_resume(struct device *dev)
{
	struct rtc *rtc = rtc_of(dev);

	LOCK_GUARD(&dev->lock);
	rtc->paused = false;
	rtc_catch_up(rtc);
	line_assert(&rtc->irq, dev, rtc->irq.level);
	rtc_update_irq(rtc);
	loop_post(dev->env.loop, &rtc->timer_msg);
}

static void rtc_free(struct device *dev)
{
	struct rtc *rtc = rtc_of(dev);

	bus_unmap(dev->env.bus, &rtc->region);
	loop_unpost(dev->env.loop, &rtc->timer_msg);
	loop_timer_disarm(&rtc->timer);
	device_fini(dev);
	free(rtc);
}

static const struct state_field rtc_fields[] = {
	STATE_UINT_MAX(struct rtc, index, RTC_BYTES - 1),
	STATE_BYTES(struct rtc, regs),
	STATE_UINT(struct rtc, offset_sec),
	STATE_UINT_MAX(struct rtc, phase_ns, NSEC_PER_SEC - 1),
	STATE_UINT(struct rtc, seen_sec),
	STATE_UINT(struct rtc, seen_period),
};
static const struct state_table rtc_state = {.name = "rtc-cmos",
					     .version = 1,
					     STATE_FIELDS(rtc_fields)};

static const struct device_ops rtc_ops = {
	.type = "rtc-cmos",
	.state = &rtc_state,
	.reset = rtc_reset,
	.pause = rtc_pause,
	.resume = rtc_resume,
	.free = rtc_free,
};

int rtc_cmos_new(const struct device_env *env, const struct rtc_cmos_config *config,
		 struct device **ret, struct error *err)
{
	struct rtc *rtc = calloc(1, sizeof(*rtc));
	int r;

	if (!rtc)
		return error_set(err, -ENOMEM, "Out of memory for %s", config->id);
	device_init(&rtc->dev, &rtc_ops, config->id, env);
	rtc->irq.gsi = PLATFORM_RTC_GSI;
	rtc->ram_low = config->ram_below_4g_bytes;
	rtc->ram_high = config->ram_above_4g_bytes;
	rtc->offset_sec = config->offset_sec;
	rtc->timer_msg.fn = rtc_timer_msg;
	loop_timer_init(env->loop, &rtc->timer, rtc_timer_fire);
	rtc->regs[RTC_A] = A_DEFAULT; /* running: reset keeps the offset */
	rtc_reset(&rtc->dev);
	rtc->region = (struct bus_region){
		.name = rtc->dev.id,
		.ops = &rtc_bus_ops,
		.opaque = rtc,
		.lock = &rtc->dev.lock,
		.space = BUS_PIO,
		.base = PLATFORM_RTC_PORT,
		.size = PLATFORM_RTC_PORTS,
	};
	r = bus_map(env->bus, &rtc->region);
	if (r < 0) {
		device_fini(&rtc->dev);
		free(rtc);
		return error_set_errno(err, r, "Cannot place the real-time clock at port 0x%x",
				       PLATFORM_RTC_PORT);
	}
	*ret = &rtc->dev;
	return 0;
}
