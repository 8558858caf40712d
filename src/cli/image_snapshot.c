/* `vireo image snapshot`: snapshots inside an image. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <time.h>

#include "base/log.h"
#include "base/str.h"
#include "cli/image.h"

static void print_one(const struct image_snapshot *s)
{
	time_t when = s->date_sec;
	char date[32] = "";
	struct tm tm;
	char size[32];

	if (localtime_r(&when, &tm))
		strftime(date, sizeof(date), "%Y-%m-%d %H:%M:%S", &tm);
	format_size(s->vm_state_bytes, size, sizeof(size));
	printf("%-10s %-24s %10s  %s\n", s->id, s->name, size, date);
}

static int list(struct image *image, const struct image_common *common, struct error *err)
{
	struct image_snapshot *snapshots = NULL;
	json_t *array = common->json ? json_array() : NULL;
	size_t n = 0;

	if (image_snapshot_list(image, &snapshots, &n, err) < 0) {
		json_decref(array);
		return image_fail(err);
	}
	if (!array)
		printf("%-10s %-24s %10s  %s\n", "id", "name", "VM state", "date");
	for (size_t i = 0; i < n; i++) {
		const struct image_snapshot *s = &snapshots[i];

		if (array)
			json_array_append_new(array,
					      json_pack("{s:s, s:s, s:I, s:I, s:I}", "id", s->id,
							"name", s->name, "vm-state-size",
							(json_int_t)s->vm_state_bytes, "disk-size",
							(json_int_t)s->disk_bytes, "date-sec",
							(json_int_t)s->date_sec));
		else
			print_one(s);
	}
	image_snapshot_list_free(snapshots, n);
	return array ? image_print_json(array) : CLI_OK;
}

static int change(struct image *image, int what, const char *name, struct error *err)
{
	switch (what) {
	case 'c':
		return image_snapshot_create(image, name, err);
	case 'a':
		return image_snapshot_apply(image, name, err);
	default:
		return image_snapshot_delete(image, name, err);
	}
}

static int run(const struct image_common *common, int what, const char *name, const char *path)
{
	struct image_config config = {.no_lock = what == 'l', .inspect = what == 'l'};
	struct error err = ERROR_INIT;
	struct image *image;
	int status = CLI_OK;

	config.no_backing = what == 'l';
	if (image_tool_open(common, path, what != 'l', &config, &image, &err) < 0)
		return image_fail(&err);
	if (what == 'l')
		status = list(image, common, &err);
	else if (change(image, what, name, &err) < 0)
		status = image_fail(&err);
	else if (common->json)
		status = image_print_json(
			json_pack("{s:s, s:s}", "filename", path, "snapshot", name));
	image_close(image);
	return status;
}

int image_verb_snapshot(int argc, char **argv)
{
	struct image_common common = {0};
	const char *name = NULL;
	const char *value;
	int what = 0;
	int first;
	int c;

	while ((c = image_getopt(argc, argv, "lc:a:d:", &common, &value)) != -1) {
		if (c == -2)
			return image_usage("snapshot");
		if (c == 0)
			continue;
		if (what) {
			log_error("snapshot does one of -l, -c, -a and -d at a time");
			return image_usage("snapshot");
		}
		what = c;
		name = value;
	}
	if (image_rest(argc, &first) != 1) {
		log_error("snapshot wants one file");
		return image_usage("snapshot");
	}
	return run(&common, what ? what : 'l', name, argv[first]);
}
