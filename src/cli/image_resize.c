/* `vireo image resize`: an absolute size, or one relative to what it is now. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>

#include "base/bits.h"
#include "base/log.h"
#include "base/str.h"
#include "cli/image.h"

static int new_size(const char *text, uint64_t now, const char *path, uint64_t *ret,
		    struct error *err)
{
	bool more = text[0] == '+';
	bool less = text[0] == '-';
	uint64_t v;
	int r = image_parse_size(text + (more || less), "size", &v, err);

	if (r < 0)
		return r;
	v = align_up(v, 512);
	if ((less && v > now) || (more && v > INT64_MAX - now))
		return error_set(err, -ERANGE,
				 "%s: has %" PRIu64 " bytes, and %s would leave no size", path, now,
				 text);
	*ret = more ? now + v : less ? now - v : v;
	return 0;
}

static int resize(struct image *image, const char *path, const char *text, bool shrink,
		  enum image_prealloc how, uint64_t *ret_size, struct error *err)
{
	struct image_info info;
	int r;

	image_get_info(image, &info);
	r = new_size(text, info.size_bytes, path, ret_size, err);
	if (r < 0)
		return r;
	if (*ret_size < info.size_bytes && !shrink)
		return error_set(
			err, -EINVAL,
			"%s: would become smaller, and lose what is at its end; say --shrink "
			"if that is meant",
			path);
	return image_resize(image, *ret_size, how, err);
}

static int take_mode(const char *value, enum image_prealloc *ret)
{
	static const char *const modes[] = {"off", "metadata", "falloc", "full"};

	for (size_t i = 0; i < ARRAY_SIZE(modes); i++) {
		if (str_eq(value, modes[i])) {
			*ret = (enum image_prealloc)i;
			return 0;
		}
	}
	log_error("--preallocation %s: it is off, metadata, falloc or full", value);
	return -EINVAL;
}

/* "-1G" would be read as options. */
static int find_size(int argc, char **argv)
{
	for (int i = 1; i < argc; i++) {
		if (argv[i][0] == '-' && argv[i][1] >= '0' && argv[i][1] <= '9')
			return i;
	}
	return 0;
}

int image_verb_resize(int argc, char **argv)
{
	struct image_config config = {0};
	struct image_common common = {0};
	enum image_prealloc how = IMAGE_PREALLOC_OFF;
	struct error err = ERROR_INIT;
	struct image *image = NULL;
	const char *text = NULL;
	bool shrink = false;
	const char *value;
	uint64_t size = 0;
	int at = find_size(argc, argv);
	int first;
	int r;
	int c;

	if (at) {
		text = argv[at];
		for (int i = at; i < argc; i++)
			argv[i] = argv[i + 1];
		argc--;
	}
	while ((c = image_getopt(argc, argv, "KP:", &common, &value)) != -1) {
		if (c == -2 || (c == 'P' && take_mode(value, &how) < 0))
			return image_usage("resize");
		shrink |= c == 'K';
	}
	if (image_rest(argc, &first) != (text ? 1 : 2)) {
		log_error("resize wants a file and a size");
		return image_usage("resize");
	}
	if (!text)
		text = argv[first + 1];
	r = image_tool_open(&common, argv[first], true, &config, &image, &err);
	if (r >= 0)
		r = resize(image, argv[first], text, shrink, how, &size, &err);
	image_close(image);
	if (r < 0)
		return image_fail(&err);
	if (common.json)
		return image_print_json(json_pack("{s:s, s:I}", "filename", argv[first],
						  "virtual-size", (json_int_t)size));
	if (!common.quiet)
		printf("%s: %" PRIu64 " bytes\n", argv[first], size);
	return CLI_OK;
}
