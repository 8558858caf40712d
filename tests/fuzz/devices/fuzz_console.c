/*
 * A console of three ports: control messages of any content, requests on every queue, backends that come, go and fill up.
 */
#include "devices/virtio_fuzz.h"

#include "vm/char/chardev.h"
#include "vm/devices/virtio_console.h"

#define PORTS 3

static void backend_step(struct fuzz *f, struct chardev **chr)
{
	static uint8_t out[65536];
	struct chardev *one = chr[fuzz_byte(f) % PORTS];
	const struct chardev_events *ev = &one->events;
	size_t len;
	const uint8_t *payload;

	switch (fuzz_byte(f) % 5) {
	case 0:
		payload = fuzz_payload(f, &len);
		chardev_memory_inject(one, payload, len);
		break;
	case 1:
		chardev_memory_take(one, out, sizeof(out) >> fuzz_byte(f) % 16);
		break;
	case 2:
		chardev_write(one, out, sizeof(out)); /* full */
		break;
	case 3:
		ev->opened(ev->opaque, fuzz_byte(f) & 1);
		break;
	case 4:
		ev->resized(ev->opaque, fuzz_byte(f), fuzz_byte(f));
		break;
	}
}

static void create(struct fuzz *f, struct chardev **chr)
{
	struct virtio_console_port_config ports[PORTS] = {{.name = NULL}, {.name = "agent"}};
	struct virtio_console_config config = {.id = "console",
					       .slot = FUZZ_SLOT,
					       .ports = ports,
					       .n_ports = PORTS};

	f->h = harness_new();
	for (unsigned i = 0; i < PORTS; i++) {
		chardev_memory_open(&chr[i]);
		ports[i].chr = chr[i];
	}
	if (virtio_console_new(&f->h->env, &config, &f->dev, NULL) < 0)
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct fuzz f;
	static struct chardev *chr[PORTS];
	static uint8_t out[65536];

	if (!f.h)
		create(&f, chr);
	fuzz_begin(&f, data, size);
	for (unsigned i = 0; f.size > 0 && i < FUZZ_OPS; i++) {
		uint8_t what = fuzz_byte(&f);

		if (what & 0x80)
			backend_step(&f, chr);
		else
			fuzz_step(&f, what);
	}
	driver_stop(&f.d);
	for (unsigned i = 0; i < PORTS; i++)
		chardev_memory_take(chr[i], out, sizeof(out));
	return 0;
}
