/*
 * 8042 keyboard controller (IBM PC/AT technical reference, "keyboard controller"; the PS/2 auxiliary commands as far as
 * they say that there is no auxiliary port). What is sent to the absent keyboard is answered as a real controller does
 * when nothing answers in time: a resend code with the time-out bit of the status register.
 *
 * The output buffer holds one byte, as in the original. The A20 gate is remembered and has no effect.
 * vCPU threads, under dev.lock.
 */
#include "vm/devices/i8042.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "vm/bus/platform.h"
#include "vm/devices/line.h"

#define STATUS_OBF     0x01u /* output buffer full */
#define STATUS_SYS     0x04u /* self test passed */
#define STATUS_COMMAND 0x08u /* the last write went to the command port */
#define STATUS_UNLOCK  0x10u /* keyboard not locked */
#define STATUS_TIMEOUT 0x40u

#define CTR_KBD_INT 0x01u
#define CTR_SYS     0x04u
#define CTR_KBD_OFF 0x10u
#define CTR_AUX_OFF 0x20u

#define OUT_NOT_RESET 0x01u
#define OUT_A20       0x02u
#define OUT_OBF       0x10u

#define KBD_RESEND 0xFEu

enum {
	CMD_READ_RAM = 0x20,  /* to 0x3F */
	CMD_WRITE_RAM = 0x60, /* to 0x7F, a data byte follows */
	CMD_AUX_OFF = 0xA7,
	CMD_AUX_ON = 0xA8,
	CMD_AUX_TEST = 0xA9,
	CMD_SELF_TEST = 0xAA,
	CMD_KBD_TEST = 0xAB,
	CMD_KBD_OFF = 0xAD,
	CMD_KBD_ON = 0xAE,
	CMD_READ_INPUT = 0xC0,
	CMD_READ_OUTPUT = 0xD0,
	CMD_WRITE_OUTPUT = 0xD1, /* data */
	CMD_WRITE_KBD = 0xD2,    /* data */
	CMD_WRITE_AUX = 0xD3,    /* data */
	CMD_TO_AUX = 0xD4,       /* data */
	CMD_A20_OFF = 0xDD,
	CMD_A20_ON = 0xDF,
	CMD_READ_TEST = 0xE0,
	CMD_PULSE = 0xF0, /* to 0xFF: bits 3:0 that are zero pulse that output line */
};

#define RAM_BYTES 32u

struct i8042 {
	struct device dev;
	struct bus_region data_port, command_port;
	struct line irq; /* [lock] keyboard */

	/* [lock] */
	uint8_t ram[RAM_BYTES]; /* byte 0: the command byte, CTR */
	uint8_t status;
	uint8_t out;    /* the output buffer, valid with STATUS_OBF */
	uint8_t output; /* the output port */
	uint8_t awaits; /* the command whose data byte comes next, 0: none */
};

static void i8042_update_irq(struct i8042 *kbc)
{
	line_set(&kbc->irq, &kbc->dev, (kbc->status & STATUS_OBF) && (kbc->ram[0] & CTR_KBD_INT));
}

static void i8042_answer(struct i8042 *kbc, uint8_t byte, uint8_t flags)
{
	kbc->out = byte;
	kbc->status &= (uint8_t)~STATUS_TIMEOUT;
	kbc->status |= (uint8_t)(STATUS_OBF | flags);
}

static void i8042_set_output(struct i8042 *kbc, uint8_t value)
{
	kbc->output = value | OUT_NOT_RESET;
	if (!(value & OUT_NOT_RESET))
		kbc->dev.env.host->ops->request(kbc->dev.env.host, MACHINE_RESET);
}

static void i8042_set_ctr(struct i8042 *kbc, uint8_t value)
{
	kbc->ram[0] = value;
	kbc->status &= (uint8_t)~STATUS_SYS;
	kbc->status |= value & CTR_SYS ? STATUS_SYS : 0;
}

static void i8042_data_write(struct i8042 *kbc, uint8_t value)
{
	uint8_t command = kbc->awaits;

	kbc->awaits = 0;
	kbc->status &= (uint8_t)~STATUS_COMMAND;
	switch (command) {
	case CMD_WRITE_OUTPUT:
		i8042_set_output(kbc, value);
		break;
	case CMD_WRITE_KBD:
	case CMD_WRITE_AUX: /* without the bit that says "auxiliary": there is no such port */
		i8042_answer(kbc, value, 0);
		break;
	case 0:
		kbc->ram[0] &= (uint8_t)~CTR_KBD_OFF; /* sending to the keyboard enables it */
		i8042_answer(kbc, KBD_RESEND, STATUS_TIMEOUT);
		break;
	case CMD_TO_AUX:
		i8042_answer(kbc, KBD_RESEND, STATUS_TIMEOUT);
		break;
	case CMD_WRITE_RAM:
		i8042_set_ctr(kbc, value);
		break;
	default: /* CMD_WRITE_RAM + 1 and up */
		kbc->ram[command % RAM_BYTES] = value;
		break;
	}
}

static void i8042_self_test(struct i8042 *kbc)
{
	i8042_set_ctr(kbc, CTR_SYS | CTR_KBD_OFF | CTR_AUX_OFF);
	i8042_answer(kbc, 0x55, 0);
}

static void i8042_command_write(struct i8042 *kbc, uint8_t value)
{
	kbc->awaits = 0;
	kbc->status |= STATUS_COMMAND;
	switch (value) {
	case CMD_READ_RAM ... CMD_READ_RAM + RAM_BYTES - 1:
		i8042_answer(kbc, kbc->ram[value % RAM_BYTES], 0);
		break;
	case CMD_WRITE_RAM ... CMD_WRITE_RAM + RAM_BYTES - 1:
	case CMD_WRITE_OUTPUT ... CMD_TO_AUX:
		kbc->awaits = value;
		break;
	case CMD_AUX_OFF:
		kbc->ram[0] |= CTR_AUX_OFF;
		break;
	case CMD_AUX_ON:
		kbc->ram[0] &= (uint8_t)~CTR_AUX_OFF;
		break;
	case CMD_AUX_TEST:
		i8042_answer(kbc, 0x01, 0); /* clock line stuck low: nothing is connected */
		break;
	case CMD_SELF_TEST:
		i8042_self_test(kbc);
		break;
	case CMD_KBD_TEST:
	case CMD_READ_TEST:
		i8042_answer(kbc, 0x00, 0);
		break;
	case CMD_KBD_OFF:
		kbc->ram[0] |= CTR_KBD_OFF;
		break;
	case CMD_KBD_ON:
		kbc->ram[0] &= (uint8_t)~CTR_KBD_OFF;
		break;
	case CMD_READ_INPUT:
		i8042_answer(kbc, 0x80, 0); /* keyboard not locked */
		break;
	case CMD_READ_OUTPUT:
		i8042_answer(kbc, kbc->output | (kbc->status & STATUS_OBF ? OUT_OBF : 0), 0);
		break;
	case CMD_A20_OFF:
		kbc->output &= (uint8_t)~OUT_A20;
		break;
	case CMD_A20_ON:
		kbc->output |= OUT_A20;
		break;
	case CMD_PULSE ... 0xFF:
		if (!(value & OUT_NOT_RESET))
			i8042_set_output(kbc, kbc->output & (uint8_t)~OUT_NOT_RESET);
		break;
	default:
		break;
	}
}

/* --- ports --- */

static uint64_t data_port_read(void *opaque, uint64_t offset, unsigned size)
{
	struct i8042 *kbc = opaque;

	(void)offset;
	(void)size;
	kbc->status &= (uint8_t) ~(STATUS_OBF | STATUS_TIMEOUT);
	i8042_update_irq(kbc);
	return kbc->out;
}

static void data_port_write(void *opaque, uint64_t offset, unsigned size, uint64_t value)
{
	(void)offset;
	(void)size;
	i8042_data_write(opaque, (uint8_t)value);
	i8042_update_irq(opaque);
}

static uint64_t command_port_read(void *opaque, uint64_t offset, unsigned size)
{
	(void)offset;
	(void)size;
	return ((struct i8042 *)opaque)->status;
}

static void command_port_write(void *opaque, uint64_t offset, unsigned size, uint64_t value)
{
	(void)offset;
	(void)size;
	i8042_command_write(opaque, (uint8_t)value);
	i8042_update_irq(opaque);
}

static const struct bus_ops data_port_ops = {.read = data_port_read, .write = data_port_write};
static const struct bus_ops command_port_ops = {.read = command_port_read,
						.write = command_port_write};

/* --- the device --- */

static void i8042_reset(struct device *dev)
{
	struct i8042 *kbc = container_of(dev, struct i8042, dev);

	LOCK_GUARD(&dev->lock);
	memset(kbc->ram, 0, sizeof(kbc->ram));
	kbc->ram[0] = CTR_SYS | CTR_KBD_OFF | CTR_AUX_OFF;
	kbc->status = STATUS_SYS | STATUS_UNLOCK;
	kbc->out = 0;
	kbc->output = OUT_NOT_RESET | OUT_A20;
	kbc->awaits = 0;
	i8042_update_irq(kbc);
}

static void i8042_resume(struct device *dev)
{
	struct i8042 *kbc = container_of(dev, struct i8042, dev);

	LOCK_GUARD(&dev->lock);
	line_assert(&kbc->irq, dev, (kbc->status & STATUS_OBF) && (kbc->ram[0] & CTR_KBD_INT));
}

static void i8042_free(struct device *dev)
{
	struct i8042 *kbc = container_of(dev, struct i8042, dev);

	bus_unmap(dev->env.bus, &kbc->data_port);
	bus_unmap(dev->env.bus, &kbc->command_port);
	device_fini(dev);
	free(kbc);
}

static const struct state_field i8042_fields[] = {
	STATE_BYTES(struct i8042, ram),   STATE_UINT(struct i8042, status),
	STATE_UINT(struct i8042, out),    STATE_UINT(struct i8042, output),
	STATE_UINT(struct i8042, awaits),
};
static const struct state_table i8042_state = {.name = "i8042",
					       .version = 1,
					       STATE_FIELDS(i8042_fields)};

static const struct device_ops i8042_ops = {
	.type = "i8042",
	.state = &i8042_state,
	.reset = i8042_reset,
	.resume = i8042_resume,
	.free = i8042_free,
};

int i8042_new(const struct device_env *env, const struct i8042_config *config, struct device **ret,
	      struct error *err)
{
	struct i8042 *kbc = calloc(1, sizeof(*kbc));
	int r;

	if (!kbc)
		return error_set(err, -ENOMEM, "Out of memory for %s", config->id);
	device_init(&kbc->dev, &i8042_ops, config->id, env);
	kbc->irq.gsi = PLATFORM_I8042_KEYBOARD_GSI;
	kbc->data_port = (struct bus_region){
		.name = "i8042-data",
		.ops = &data_port_ops,
		.opaque = kbc,
		.lock = &kbc->dev.lock,
		.space = BUS_PIO,
		.base = PLATFORM_I8042_DATA_PORT,
		.size = 1,
	};
	kbc->command_port = (struct bus_region){
		.name = "i8042-command",
		.ops = &command_port_ops,
		.opaque = kbc,
		.lock = &kbc->dev.lock,
		.space = BUS_PIO,
		.base = PLATFORM_I8042_COMMAND_PORT,
		.size = 1,
	};
	i8042_reset(&kbc->dev);
	r = bus_map(env->bus, &kbc->data_port);
	if (r >= 0)
		r = bus_map(env->bus, &kbc->command_port);
	if (r < 0) {
		i8042_free(&kbc->dev);
		return error_set_errno(err, r, "Cannot place the keyboard controller %s",
				       config->id);
	}
	*ret = &kbc->dev;
	return 0;
}
