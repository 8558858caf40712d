/* `vireo image info`: what an image is, and with --backing-chain what it rests on. It opens nothing but the image otherwise. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "base/str.h"
#include "cli/image.h"

static json_t *snapshots_json(const struct image_snapshot *list, size_t n)
{
	json_t *array = json_array();

	for (size_t i = 0; array && i < n; i++)
		json_array_append_new(array,
				      json_pack("{s:s, s:s, s:I, s:I, s:I, s:I, s:I}", "id",
						list[i].id, "name", list[i].name, "vm-state-size",
						(json_int_t)list[i].vm_state_bytes, "date-sec",
						(json_int_t)list[i].date_sec, "date-nsec",
						(json_int_t)list[i].date_nsec, "vm-clock-sec",
						(json_int_t)(list[i].vm_clock_nsec / 1000000000),
						"vm-clock-nsec",
						(json_int_t)(list[i].vm_clock_nsec % 1000000000)));
	return array;
}

static void set_text(json_t *object, const char *key, const char *text)
{
	if (text)
		json_object_set_new(object, key, json_string(text));
}

static json_t *specific_json(const struct image_details *d)
{
	json_t *data =
		json_pack("{s:s, s:s, s:i, s:b, s:b, s:b}", "compat",
			  d->version == 2 ? "0.10" : "1.1", "compression-type", d->compression,
			  "refcount-bits", (int)d->refcount_bits, "lazy-refcounts",
			  d->lazy_refcounts, "corrupt", d->corrupt, "extended-l2", d->extended_l2);

	if (data)
		set_text(data, "data-file", d->data_file);
	if (data && d->data_file)
		json_object_set_new(data, "data-file-raw", json_boolean(d->data_file_raw));
	return json_pack("{s:s, s:o}", "type", d->format, "data", data);
}

static json_t *layer_json(struct image *image, unsigned layer, const struct image_snapshot *list,
			  size_t n)
{
	struct image_details d;
	json_t *o;

	image_describe(image, layer, &d);
	o = json_pack("{s:s, s:s, s:I, s:I, s:b}", "filename", d.path, "format", d.format,
		      "virtual-size", (json_int_t)d.size_bytes, "actual-size",
		      (json_int_t)d.used_bytes, "dirty-flag", d.dirty);
	if (!o)
		return NULL;
	if (d.cluster_bytes) {
		json_object_set_new(o, "cluster-size", json_integer(d.cluster_bytes));
		json_object_set_new(o, "format-specific", specific_json(&d));
	}
	if (d.encrypted)
		json_object_set_new(o, "encrypted", json_true());
	set_text(o, "backing-filename", d.backing_path);
	set_text(o, "backing-filename-format", d.backing_format);
	set_text(o, "full-backing-filename", d.backing_full);
	if (layer == 0 && n > 0)
		json_object_set_new(o, "snapshots", snapshots_json(list, n));
	return o;
}

static void print_size(const char *what, uint64_t bytes)
{
	char text[32];

	format_size(bytes, text, sizeof(text));
	printf("%s: %s (%" PRIu64 " bytes)\n", what, text, bytes);
}

static void print_text(const char *what, const char *text)
{
	if (text)
		printf("%s: %s\n", what, text);
}

static void print_layer(struct image *image, unsigned layer)
{
	struct image_details d;

	image_describe(image, layer, &d);
	printf("%simage: %s\nformat: %s\n", layer ? "\n" : "", d.path, d.format);
	print_size("virtual size", d.size_bytes);
	print_size("size on disk", d.used_bytes);
	if (!d.cluster_bytes)
		return;
	printf("cluster size: %u\nversion: %u (compat %s)\nrefcount bits: %u\ncompression: %s\n",
	       d.cluster_bytes, d.version, d.version == 2 ? "0.10" : "1.1", d.refcount_bits,
	       d.compression);
	printf("lazy refcounts: %s\nextended L2: %s\n", d.lazy_refcounts ? "yes" : "no",
	       d.extended_l2 ? "yes" : "no");
	print_text("backing file", d.backing_path);
	print_text("backing file format", d.backing_format);
	print_text("data file", d.data_file);
	if (d.encrypted)
		puts("encrypted: yes");
	if (d.n_bitmaps)
		printf("bitmaps: %u\n", d.n_bitmaps);
	if (d.dirty)
		puts("not closed: its refcounts will be counted anew when it is next written");
	if (d.corrupt)
		puts("marked as damaged: see vireo image check");
}

static int open_for_info(const struct image_common *common, const char *path, bool chain,
			 struct image **ret, struct error *err)
{
	/* A running machine has it locked, and looking does no harm. */
	struct image_config config = {.no_lock = true, .no_backing = !chain, .inspect = !chain};

	return image_tool_open(common, path, false, &config, ret, err);
}

static int show(struct image *image, bool json, bool chain, struct error *err)
{
	struct image_snapshot *list = NULL;
	struct image_details d;
	unsigned layers = chain ? image_layers(image) : 1;
	size_t n = 0;
	int status = CLI_OK;

	image_describe(image, 0, &d);
	if (d.n_snapshots && image_snapshot_list(image, &list, &n, err) < 0)
		return image_fail(err);
	if (json && chain) {
		json_t *array = json_array();

		for (unsigned i = 0; i < layers; i++)
			json_array_append_new(array, layer_json(image, i, list, n));
		status = image_print_json(array);
	} else if (json) {
		status = image_print_json(layer_json(image, 0, list, n));
	} else {
		for (unsigned i = 0; i < layers; i++)
			print_layer(image, i);
		if (n)
			printf("snapshots: %zu; vireo image snapshot -l lists them\n", n);
	}
	image_snapshot_list_free(list, n);
	return status;
}

int image_verb_info(int argc, char **argv)
{
	struct image_common common = {0};
	struct error err = ERROR_INIT;
	struct image *image = NULL;
	const char *value;
	bool chain = false;
	int first;
	int status;
	int c;

	while ((c = image_getopt(argc, argv, "C", &common, &value)) != -1) {
		if (c == -2)
			return image_usage("info");
		chain |= c == 'C';
	}
	if (image_rest(argc, &first) != 1) {
		log_error("info wants one file");
		return image_usage("info");
	}
	if (open_for_info(&common, argv[first], chain, &image, &err) < 0)
		return image_fail(&err);
	status = show(image, common.json, chain, &err);
	image_close(image);
	return status;
}
