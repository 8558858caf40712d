/*
 * `vireo image check`. Exit status as qemu-img's: 0 nothing found (any more), 1 the check could not be made, 2 corruptions are left,
 * 3 lost space is left, 63 the format has nothing to check.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>

#include "base/log.h"
#include "base/str.h"
#include "cli/image.h"

#define STATUS_CORRUPT  2
#define STATUS_LEAKS    3
#define STATUS_NO_CHECK 63

static void report(void *opaque, bool corruption, const char *text)
{
	(void)opaque;
	fprintf(stderr, "%s: %s\n", corruption ? "corruption" : "lost space", text);
}

static int print_json(const char *path, const char *format, const struct image_check_result *r)
{
	return image_print_json(json_pack(
		"{s:s, s:s, s:i, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "filename", path,
		"format", format, "check-errors", 0, "corruptions", (json_int_t)r->corruptions,
		"leaks", (json_int_t)r->leaks, "corruptions-fixed",
		(json_int_t)r->corruptions_fixed, "leaks-fixed", (json_int_t)r->leaks_fixed,
		"total-clusters", (json_int_t)r->total_clusters, "allocated-clusters",
		(json_int_t)r->allocated_clusters, "fragmented-clusters",
		(json_int_t)r->fragmented_clusters, "compressed-clusters",
		(json_int_t)r->compressed_clusters, "image-end-offset", (json_int_t)r->end_offset));
}

static void print_text(const struct image_check_result *r)
{
	double all = r->total_clusters ? (double)r->total_clusters : 1;

	if (r->corruptions_fixed || r->leaks_fixed)
		printf("repaired: %" PRIu64 " corruptions, %" PRIu64 " lost clusters\n",
		       r->corruptions_fixed, r->leaks_fixed);
	if (r->corruptions)
		printf("%" PRIu64 " corruptions: data may be lost; make a copy before anything "
		       "else\n",
		       r->corruptions);
	if (r->leaks)
		printf("%" PRIu64 " lost clusters: space that -r leaks gives back, no harm\n",
		       r->leaks);
	if (!r->corruptions && !r->leaks)
		puts("no errors");
	printf("%" PRIu64 "/%" PRIu64 " clusters in use (%.2f%%), %.2f%% fragmented, %.2f%% "
	       "compressed\nend of the image: %" PRIu64 "\n",
	       r->allocated_clusters, r->total_clusters, (double)r->allocated_clusters / all * 100,
	       r->allocated_clusters
		       ? (double)r->fragmented_clusters / (double)r->allocated_clusters * 100
		       : 0.0,
	       r->allocated_clusters
		       ? (double)r->compressed_clusters / (double)r->allocated_clusters * 100
		       : 0.0,
	       r->end_offset);
}

static int check(const struct image_common *common, const char *path,
		 struct image_check_config *config)
{
	struct image_config open_config = {.no_backing = true, .inspect = true};
	struct image_check_result result = {0};
	struct error err = ERROR_INIT;
	struct image *image;
	int r = image_tool_open(common, path, config->fix_leaks, &open_config, &image, &err);

	if (r < 0)
		return image_fail(&err);
	if (!common->quiet && !common->json)
		config->report = report;
	r = image_check(image, config, &result, &err);
	image_close(image);
	if (r < 0) {
		image_fail(&err);
		return r == -EOPNOTSUPP ? STATUS_NO_CHECK : CLI_FAILED;
	}
	if (common->json && print_json(path, open_config.format, &result) != CLI_OK)
		return CLI_FAILED;
	if (!common->json && !common->quiet)
		print_text(&result);
	return result.corruptions ? STATUS_CORRUPT : result.leaks ? STATUS_LEAKS : CLI_OK;
}

int image_verb_check(int argc, char **argv)
{
	struct image_common common = {0};
	struct image_check_config config = {0};
	const char *value;
	int first;
	int c;

	while ((c = image_getopt(argc, argv, "r:", &common, &value)) != -1) {
		if (c == -2)
			return image_usage("check");
		if (c != 'r')
			continue;
		config.fix_leaks = true;
		config.fix_all = str_eq(value, "all");
		if (!config.fix_all && !str_eq(value, "leaks")) {
			log_error("-r %s: it is leaks or all", value);
			return CLI_USAGE;
		}
	}
	if (image_rest(argc, &first) != 1) {
		log_error("check wants one file");
		return image_usage("check");
	}
	return check(&common, argv[first], &config);
}
