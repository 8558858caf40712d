/*
 * The real-time clock: every register, every date a guest can write, its timer run in between.
 */
#include "devices/ports_fuzz.h"

#include "vm/devices/rtc_cmos.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct ports *ports = ports_new();
	struct rtc_cmos_config config = {.id = "rtc"};
	struct device *dev;

	log_init("fuzz", LOG_ERROR);
	if (size >= 8)
		config.offset_sec = (int64_t)le_load(data, 8);
	if (rtc_cmos_new(&ports->env, &config, &dev, NULL) == 0) {
		for (size_t at = 8; at + OP_BYTES <= size && at < MAX_OPS * OP_BYTES;
		     at += OP_BYTES) {
			const uint8_t *op = data + at;

			if (op[0] % 8 == 0) {
				fuzz_host(ports, dev, op);
			} else {
				/* An index, then whatever access. */
				outb(ports, 0x70, op[0] & 0x40 ? op[2] % 16 : op[2]);
				fuzz_port(ports, op[0] & 0x20 ? 0x70 : 0x71, op);
			}
		}
		device_pause(dev);
		device_free(dev);
	}
	ports_free(ports);
	return 0;
}
