/*
 * A whole image, damaged: the input is a list of places and bytes that replace what a good image has there. Then it is opened, used,
 * checked and repaired; after a repair that says so, the check must find nothing.
 */
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "image/image_admin.h"
#include "unit/image/recorder.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct image *open_image(struct recorder *rec, bool inspect)
{
	struct image_config config = {.path = "memory",
				      .fd = -1,
				      .format = "qcow2",
				      .backend = &rec->backend,
				      .inspect = inspect};
	struct error err = ERROR_INIT;
	struct image *image;

	return image_open(&config, &image, &err) < 0 ? NULL : image;
}

static void use(struct recorder *rec)
{
	struct image *image = open_image(rec, false);
	struct error err = ERROR_INIT;
	uint8_t buf[2048] = {1};
	struct image_sync *s;

	if (!image)
		return;
	if (image_sync_open(image, 4, &s, &err) == 0) {
		for (unsigned i = 0; i < 6; i++) {
			image_sync_rw(s, IMAGE_READ, i * 512, buf, 2048);
			image_sync_rw(s, IMAGE_WRITE, i * 1024, buf, 512);
			image_sync_zero(s, i * 2048, 1024, true);
		}
		image_sync_flush(s);
		image_sync_close(s);
	}
	image_snapshot_create(image, "b", &err);
	image_snapshot_apply(image, "a", &err);
	image_snapshot_delete(image, "a", &err);
	image_close(image);
}

static void check(struct recorder *rec)
{
	struct image_check_config fix = {.fix_all = true, .fix_leaks = true};
	struct image_check_config look = {0};
	struct image_check_result result;
	struct error err = ERROR_INIT;
	struct image *image = open_image(rec, true);

	if (!image)
		return;
	if (image_check(image, &fix, &result, &err) == 0 && result.corruptions == 0 &&
	    image_check(image, &look, &result, &err) == 0 && result.corruptions != 0)
		abort();
	image_close(image);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct image_create_config create = {.path = "memory",
					     .format = "qcow2",
					     .size_bytes = 256 * KIB,
					     .cluster_bytes = 1024};
	struct error err = ERROR_INIT;
	struct recorder rec;

	recorder_init(&rec);
	create.backend = &rec.backend;
	if (image_create(&create, &err) < 0)
		abort();
	use(&rec); /* leaves data, and a snapshot */
	for (size_t i = 0; i + 3 <= size && rec.length > 0; i += 3)
		rec.data[(data[i] << 8 | data[i + 1]) % rec.length] = data[i + 2];
	use(&rec);
	check(&rec);
	recorder_fini(&rec);
	return 0;
}
