/*
 * A balloon: page numbers, reports and statistics of any content, targets and polls in between.
 */
#include "devices/virtio_fuzz.h"

#include "base/endian.h"
#include "vm/devices/virtio_balloon.h"

static void host_step(struct fuzz *f)
{
	struct virtio_balloon_info info;
	size_t len;
	const uint8_t *payload = fuzz_payload(f, &len);

	virtio_balloon_set_target(f->dev, le_load(payload, len >= 8 ? 8 : len >= 4 ? 4 : 0));
	virtio_balloon_set_polling(f->dev, fuzz_byte(f));
	virtio_balloon_get(f->dev, &info);
}

static void create(struct fuzz *f)
{
	struct virtio_balloon_config config = {.id = "balloon",
					       .slot = FUZZ_SLOT,
					       .free_page_reporting = true};

	f->h = harness_new();
	if (virtio_balloon_new(&f->h->env, &config, &f->dev, NULL) < 0)
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct fuzz f;

	if (!f.h)
		create(&f);
	fuzz_begin(&f, data, size);
	for (unsigned i = 0; f.size > 0 && i < FUZZ_OPS; i++) {
		uint8_t what = fuzz_byte(&f);

		if (what & 0x80)
			host_step(&f);
		else
			fuzz_step(&f, what);
	}
	driver_stop(&f.d);
	return 0;
}
