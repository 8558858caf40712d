/*
 * The 8254: three counters at 1.193182 MHz, and port 0x61, which gates the third and reads its output. (Intel 8254 data sheet.)
 *
 * A count is a moment when it was loaded and arithmetic on machine time; nothing ticks. Counter 0 interrupts at line 0 whenever its
 * output rises. Interrupts that a guest was too slow to take are not made up for.
 *
 * The state is x86.h's, so that KVM can take it over: rw_mode 1, 2, 3 is low byte, high byte, both; read_state and write_state are 1,
 * 2 for these and 3, 4 for the first and second of both; count_latched is 0 or such a state. Any thread; the machine's interrupt lock
 * is held.
 */
#include "base/bits.h"
#include "base/clock.h"
#include "vm/accel/soft/irq/irq_int.h"

#define PIT_HZ 1193182u

#define PORT_FIRST   0x40u
#define PORT_CONTROL 0x43u
#define PORT_B       0x61u /* gate and output of counter 2, the speaker */

enum access { LOW = 1, HIGH, BOTH, BOTH_HIGH };

static uint64_t ticks_of(uint64_t ns)
{
	return (uint64_t)((unsigned __int128)ns * PIT_HZ / NSEC_PER_SEC);
}

/* The first nanosecond at which so many ticks have passed. */
static uint64_t ns_of(uint64_t ticks)
{
	return (uint64_t)(((unsigned __int128)ticks * NSEC_PER_SEC + PIT_HZ - 1) / PIT_HZ);
}

/* Modes 6 and 7 are 2 and 3. */
/* Before anybody has chosen one: no interrupts. */
#define MODE_NONE 0xFF

static unsigned mode_of(const struct pit_channel *c)
{
	if (c->s.mode == MODE_NONE)
		return 3;
	return c->s.mode > 5 ? c->s.mode - 4u : c->s.mode;
}

static bool periodic(const struct pit_channel *c)
{
	return mode_of(c) == 2 || mode_of(c) == 3;
}

/* Does a low gate hold the count? In modes 1 and 5 it only starts it. */
static bool held(const struct pit_channel *c)
{
	return !c->s.gate && mode_of(c) != 1 && mode_of(c) != 5;
}

static uint64_t elapsed_ns(const struct pit_channel *c, uint64_t now)
{
	if (held(c))
		return c->held_ns;
	return now > c->load_ns ? now - c->load_ns : 0;
}

static uint32_t modulus(const struct pit_channel *c)
{
	return c->s.bcd ? 10000 : 65536;
}

static uint16_t to_bcd(uint32_t v)
{
	return (uint16_t)(v / 1000 % 10 << 12 | v / 100 % 10 << 8 | v / 10 % 10 << 4 | v % 10);
}

static uint32_t from_bcd(uint16_t v)
{
	return (v >> 12) * 1000u + (v >> 8 & 15) * 100u + (v >> 4 & 15) * 10u + (v & 15);
}

static uint16_t count_now(const struct pit_channel *c, uint64_t now)
{
	uint64_t t = ticks_of(elapsed_ns(c, now));
	uint32_t m = modulus(c), count = c->s.count, left;

	switch (mode_of(c)) {
	case 2:
		left = count - (uint32_t)(t % count);
		break;
	case 3: /* by two in each half */
		left = count - (uint32_t)(2 * t % count);
		break;
	default: /* goes on past zero */
		left = (uint32_t)((count + (uint64_t)m - t % m) % m);
		break;
	}
	left %= m;
	return c->s.bcd ? to_bcd(left) : (uint16_t)left;
}

static bool output(const struct pit_channel *c, uint64_t now)
{
	uint64_t t = ticks_of(elapsed_ns(c, now));

	switch (mode_of(c)) {
	case 0:
	case 1:
		return t >= c->s.count;
	case 2:
		return !c->s.gate || t % c->s.count != c->s.count - 1;
	case 3:
		return !c->s.gate || t % c->s.count < (c->s.count + 1) / 2;
	default: /* a strobe of one tick */
		return t != c->s.count;
	}
}

/* When the output rises next after `now`, or TIME_NEVER. */
static uint64_t next_rise(const struct pit_channel *c, uint64_t now)
{
	uint64_t t = ticks_of(elapsed_ns(c, now));

	if (held(c) || c->s.mode == MODE_NONE)
		return TIME_NEVER;
	if (periodic(c))
		return c->load_ns + ns_of((t / c->s.count + 1) * c->s.count);
	/* Once: at the end of the count, or of the strobe. */
	t = c->s.count + (mode_of(c) >= 4);
	t = c->load_ns + ns_of(t);
	return t > now ? t : TIME_NEVER;
}

static void plan(struct soft_irq *irq, uint64_t now)
{
	irq->pit.next_ns = irq->pit.disabled ? TIME_NEVER : next_rise(&irq->pit.channel[0], now);
	if (irq->pit.next_ns != TIME_NEVER)
		events_arm(irq, irq->pit.next_ns);
}

uint64_t pit_poll(struct soft_irq *irq, uint64_t now)
{
	if (now < irq->pit.next_ns)
		return irq->pit.next_ns;
	irq_line_locked(irq, 0, true);
	irq_line_locked(irq, 0, false);
	irq->pit.next_ns = next_rise(&irq->pit.channel[0], now);
	return irq->pit.next_ns;
}

static void load(struct soft_irq *irq, unsigned i, uint32_t value)
{
	struct pit_channel *c = &irq->pit.channel[i];
	uint64_t now = clock_now(irq);

	if (c->s.bcd)
		value = from_bcd((uint16_t)value);
	c->s.count = value ? value : modulus(c);
	c->load_ns = now;
	c->held_ns = 0;
	if (i == 0)
		plan(irq, now);
}

static void set_gate(struct soft_irq *irq, unsigned i, bool gate)
{
	struct pit_channel *c = &irq->pit.channel[i];
	uint64_t now = clock_now(irq);
	bool rising = gate && !c->s.gate;

	if (gate == c->s.gate)
		return;
	if (!rising) {
		c->held_ns = elapsed_ns(c, now);
		c->s.gate = 0;
		return;
	}
	switch (mode_of(c)) {
	case 0:
	case 4: /* goes on */
		c->load_ns = now - MIN(now, c->held_ns);
		break;
	default: /* from the start */
		c->load_ns = now;
		break;
	}
	c->s.gate = 1;
}

/* --- ports --- */

bool pit_claims(uint16_t port)
{
	return (port >= PORT_FIRST && port <= PORT_CONTROL) || port == PORT_B;
}

static void latch_count(struct soft_irq *irq, struct pit_channel *c)
{
	if (c->s.count_latched)
		return;
	c->s.latched_count = count_now(c, clock_now(irq));
	c->s.count_latched = c->s.rw_mode;
}

static void latch_status(struct soft_irq *irq, struct pit_channel *c)
{
	if (c->s.status_latched)
		return;
	c->s.status = (uint8_t)(output(c, clock_now(irq)) << 7 | c->s.rw_mode << 4 |
				(c->s.mode & 7) << 1 | c->s.bcd);
	c->s.status_latched = 1;
}

static void write_control(struct soft_irq *irq, uint8_t value)
{
	unsigned i = value >> 6;
	struct pit_channel *c;

	if (i == 3) { /* read-back of what bits 1 to 3 name */
		for (i = 0; i < 3; i++) {
			c = &irq->pit.channel[i];
			if (!(value & 2u << i))
				continue;
			if (!(value & 0x20))
				latch_count(irq, c);
			if (!(value & 0x10))
				latch_status(irq, c);
		}
		return;
	}
	c = &irq->pit.channel[i];
	if ((value >> 4 & 3) == 0) {
		latch_count(irq, c);
		return;
	}
	c->s.rw_mode = value >> 4 & 3;
	c->s.read_state = c->s.write_state = c->s.rw_mode;
	c->s.mode = value >> 1 & 7;
	c->s.bcd = value & 1;
	c->s.count_latched = 0;
	/* Nothing happens until a count is written. */
	if (i == 0)
		irq->pit.next_ns = TIME_NEVER;
}

static void write_count(struct soft_irq *irq, unsigned i, uint8_t value)
{
	struct pit_channel *c = &irq->pit.channel[i];

	switch (c->s.write_state) {
	case HIGH:
		load(irq, i, (uint32_t)value << 8);
		break;
	case BOTH:
		c->s.write_latch = value;
		c->s.write_state = BOTH_HIGH;
		break;
	case BOTH_HIGH:
		load(irq, i, c->s.write_latch | (uint32_t)value << 8);
		c->s.write_state = BOTH;
		break;
	default:
		load(irq, i, value);
		break;
	}
}

/* The byte that a state selects, and what comes after it. */
static uint8_t pick(uint16_t count, uint8_t state, uint8_t *next)
{
	*next = state == BOTH ? BOTH_HIGH : state == BOTH_HIGH ? BOTH : state;
	return (uint8_t)(state == HIGH || state == BOTH_HIGH ? count >> 8 : count);
}

static uint8_t read_count(struct soft_irq *irq, unsigned i)
{
	struct pit_channel *c = &irq->pit.channel[i];
	uint8_t value, next;

	if (c->s.status_latched) {
		c->s.status_latched = 0;
		return c->s.status;
	}
	if (c->s.count_latched) {
		value = pick(c->s.latched_count, c->s.count_latched, &next);
		c->s.count_latched = c->s.count_latched == BOTH ? BOTH_HIGH : 0;
		return value;
	}
	value = pick(count_now(c, clock_now(irq)), c->s.read_state, &next);
	c->s.read_state = next;
	return value;
}

uint8_t pit_read(struct soft_irq *irq, uint16_t port)
{
	const struct pit_channel *c = &irq->pit.channel[2];
	uint64_t now = clock_now(irq);

	if (port == PORT_CONTROL)
		return 0xFF; /* write-only */
	if (port != PORT_B)
		return read_count(irq, port - PORT_FIRST);
	/* Bit 4 is memory refresh, which toggles every 15 us. */
	return (uint8_t)(c->s.gate | irq->pit.speaker_on << 1 | (now / 15000 & 1) << 4 |
			 output(c, now) << 5);
}

void pit_write(struct soft_irq *irq, uint16_t port, uint8_t value)
{
	if (port == PORT_CONTROL) {
		write_control(irq, value);
	} else if (port == PORT_B) {
		irq->pit.speaker_on = value >> 1 & 1;
		set_gate(irq, 2, value & 1);
	} else {
		write_count(irq, port - PORT_FIRST, value);
	}
}

/* --- state --- */

void pit_reset(struct soft_irq *irq)
{
	irq->pit = (struct soft_pit){.next_ns = TIME_NEVER};
	for (unsigned i = 0; i < 3; i++) {
		struct pit_channel *c = &irq->pit.channel[i];

		c->s.mode = MODE_NONE;
		c->s.gate = i != 2;
		c->s.count = 65536;
		c->load_ns = clock_now(irq);
	}
}

void pit_get_state(struct soft_irq *irq, struct x86_machine_state *ret)
{
	uint64_t now = clock_now(irq);

	for (unsigned i = 0; i < 3; i++) {
		ret->pit[i] = irq->pit.channel[i].s;
		ret->pit[i].age_ns = elapsed_ns(&irq->pit.channel[i], now);
	}
	ret->pit_disabled = irq->pit.disabled;
	ret->speaker_on = irq->pit.speaker_on;
}

void pit_set_state(struct soft_irq *irq, const struct x86_machine_state *state)
{
	uint64_t now = clock_now(irq);

	for (unsigned i = 0; i < 3; i++) {
		struct pit_channel *c = &irq->pit.channel[i];

		c->s = state->pit[i];
		c->s.age_ns = 0;
		c->s.gate = c->s.gate != 0;
		c->s.bcd &= 1;
		if (c->s.mode != MODE_NONE)
			c->s.mode &= 7;
		if (c->s.count == 0 || c->s.count > modulus(c))
			c->s.count = modulus(c);
		c->held_ns = state->pit[i].age_ns;
		c->load_ns = now - state->pit[i].age_ns;
	}
	irq->pit.disabled = state->pit_disabled;
	irq->pit.speaker_on = state->speaker_on;
	plan(irq, now);
}
