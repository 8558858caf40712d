/*
 * The serial port: accesses of any size at its ports and just outside, input and output of any amount in between.
 */
#include "devices/ports_fuzz.h"

#include "vm/char/chardev.h"
#include "vm/devices/uart16550.h"

#define PORT 0x3F8

static void step(struct ports *ports, struct chardev *chr, struct device *dev, const uint8_t *op)
{
	static uint8_t out[65536];

	switch (op[0] % 16) {
	case 12:
		chardev_memory_inject(chr, op + 2, op[1] % 5);
		break;
	case 13:
		chardev_memory_take(chr, out, le_load(op + 2, 2));
		break;
	case 14: /* nobody reads at the other end */
		chardev_write(chr, out, sizeof(out));
		break;
	case 15:
		fuzz_host(ports, dev, op);
		break;
	default:
		fuzz_port(ports, (uint16_t)(PORT - 2 + op[0] % 16), op);
		break;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct ports *ports = ports_new();
	struct uart16550_config config = {.id = "uart", .port = PORT, .gsi = 4};
	struct chardev *chr;
	struct device *dev;

	log_init("fuzz", LOG_ERROR);
	chardev_memory_open(&chr);
	config.chr = chr;
	if (uart16550_new(&ports->env, &config, &dev, NULL) == 0) {
		for (size_t at = 0; at + OP_BYTES <= size && at < MAX_OPS * OP_BYTES;
		     at += OP_BYTES)
			step(ports, chr, dev, data + at);
		device_free(dev);
	}
	chardev_free(chr);
	ports_free(ports);
	return 0;
}
