/* `vireo image map`: what an image holds, where that is, and in which layer of its chain. */
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>

#include "base/bits.h"
#include "base/log.h"
#include "cli/image.h"

static json_t *extent_json(const struct image_extent *e)
{
	json_t *o = json_pack("{s:I, s:I, s:i, s:b, s:b, s:b, s:b}", "start", (json_int_t)e->offset,
			      "length", (json_int_t)e->bytes, "depth", (int)e->depth, "present",
			      e->present, "zero", e->zero || !e->present, "data",
			      e->present && !e->zero, "compressed", e->compressed);

	if (o && e->has_host && e->present && !e->zero)
		json_object_set_new(o, "offset", json_integer((json_int_t)e->host));
	return o;
}

static void print_extent(const struct image_extent *e)
{
	if (!e->present || e->zero)
		return;
	if (e->has_host)
		printf("%#-15" PRIx64 " %#-15" PRIx64 " %#-15" PRIx64 " %s\n", e->offset, e->bytes,
		       e->host, e->file);
	else
		printf("%#-15" PRIx64 " %#-15" PRIx64 " %-15s %s\n", e->offset, e->bytes,
		       "compressed", e->file);
}

static bool goes_on(const struct image_extent *a, const struct image_extent *b)
{
	return a->present == b->present && a->zero == b->zero && a->depth == b->depth &&
	       a->compressed == b->compressed && a->has_host == b->has_host &&
	       (!a->has_host || a->host + a->bytes == b->host);
}

static void give(const struct image_extent *e, json_t *array)
{
	if (array)
		json_array_append_new(array, extent_json(e));
	else
		print_extent(e);
}

static int map(struct image *image, uint64_t offset, uint64_t bytes, json_t *array,
	       struct error *err)
{
	struct image_extent before = {0};
	uint64_t end = offset + bytes;

	while (offset < end) {
		struct image_extent e;
		int r = image_map(image, offset, end - offset, UINT_MAX, &e, err);

		if (r < 0)
			return r;
		offset += e.bytes;
		if (before.bytes && goes_on(&before, &e)) {
			before.bytes += e.bytes;
			continue;
		}
		if (before.bytes)
			give(&before, array);
		before = e;
	}
	if (before.bytes)
		give(&before, array);
	return 0;
}

int image_verb_map(int argc, char **argv)
{
	struct image_config config = {0};
	struct image_common common = {0};
	struct error err = ERROR_INIT;
	struct image *image = NULL;
	struct image_info info;
	json_t *array = NULL;
	uint64_t offset = 0;
	uint64_t bytes = UINT64_MAX;
	const char *value;
	int first;
	int r;
	int c;

	while ((c = image_getopt(argc, argv, "s:l:", &common, &value)) != -1) {
		if (c == -2)
			return image_usage("map");
		if (c && image_parse_size(value, c == 's' ? "-s" : "-l",
					  c == 's' ? &offset : &bytes, &err) < 0) {
			image_fail(&err);
			return CLI_USAGE;
		}
	}
	if (image_rest(argc, &first) != 1) {
		log_error("map wants one file");
		return image_usage("map");
	}
	if (image_tool_open(&common, argv[first], false, &config, &image, &err) < 0)
		return image_fail(&err);
	image_get_info(image, &info);
	offset = MIN(align_down(offset, 512), info.size_bytes);
	bytes = MIN(bytes, info.size_bytes - offset);
	if (common.json)
		array = json_array();
	else
		printf("%-15s %-15s %-15s %s\n", "offset", "length", "at", "file");
	r = map(image, offset, bytes, array, &err);
	image_close(image);
	if (r < 0) {
		json_decref(array);
		return image_fail(&err);
	}
	return common.json ? image_print_json(array) : CLI_OK;
}
