/*
 * Inside of `vireo image`: a verb is one file and one entry in the table of image.c. Option letters are qemu-img's where it has
 * them. Everything runs on the program's only thread.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "base/json.h"
#include "cli/cli.h"
#include "image/image_admin.h"

struct image_verb {
	const char *name;
	const char *args; /* in the usage line */
	const char *summary;
	const char *options; /* a line each, "-f FMT  text" */
	/* argv[0] is the verb. Returns the exit status. */
	int (*run)(int argc, char **argv);
};

extern const struct image_verb image_verbs[];
extern const size_t image_n_verbs;

int image_verb_bench(int argc, char **argv);
int image_verb_check(int argc, char **argv);
int image_verb_commit(int argc, char **argv);
int image_verb_compare(int argc, char **argv);
int image_verb_convert(int argc, char **argv);
int image_verb_create(int argc, char **argv);
int image_verb_info(int argc, char **argv);
int image_verb_map(int argc, char **argv);
int image_verb_rebase(int argc, char **argv);
int image_verb_resize(int argc, char **argv);
int image_verb_snapshot(int argc, char **argv);

/* --- what verbs share: image_common.c --- */

#define IMAGE_MAX_DIRS 16u

/* Options that all have. */
struct image_common {
	const char *format; /* -f */
	bool json, progress, quiet, any_dir, force_share;
	const char *dirs[IMAGE_MAX_DIRS + 1];
	unsigned n_dirs;
	enum image_cache cache;
};

/* Reads options with getopt(3); letters: of this verb, in its notation. Returns the next letter, -1 at the end, 0 for one that it
 * took itself, -2 after a mistake that it told. The letter's value is in *ret_value. `-h` is `?'. */
int image_getopt(int argc, char **argv, const char *letters, struct image_common *common,
		 const char **ret_value);
/* How many words are left behind the options; the first one is argv[*ret_first]. */
int image_rest(int argc, int *ret_first);
int image_usage(const char *verb);

/* The format that is stated, or told by the end of the file's name; it is never guessed from what is in it. NULL with a message. */
const char *image_format_of(const char *stated, const char *path, struct error *err);
int image_tool_open(const struct image_common *common, const char *path, bool writable,
		    struct image_config *config, struct image **ret, struct error *err);
int image_parse_size(const char *text, const char *what, uint64_t *ret, struct error *err);
int image_parse_cache(const char *text, enum image_cache *ret, struct error *err);
/* `key=value,...` of -o; qemu-img's names. */
int image_parse_options(const char *text, struct image_create_config *config, char **ret_copy,
			struct error *err);

/* Prints the message and returns the exit status. */
int image_fail(const struct error *err);
int image_print_json(json_t *value); /* takes it over */

/* --- progress and interruption: image_progress.c --- */

struct image_progress {
	bool shown;
	uint64_t total, done, started_ns, drawn_ns;
};

void image_progress_begin(struct image_progress *p, const struct image_common *common,
			  uint64_t total);
void image_progress_add(struct image_progress *p, uint64_t bytes);
void image_progress_end(struct image_progress *p);
/* From now on SIGINT and SIGTERM only set a mark, which this tells. */
void image_catch_signals(void);
bool image_interrupted(void);

/* --- copying: image_copy.c --- */

struct image_copy {
	struct image *from, *to;
	bool compress;
	bool target_zero;  /* it reads as zeroes already */
	bool whole;        /* what the layers at and below `depth` have is copied too */
	unsigned depth;    /* else: only what layers up to this one have */
	unsigned parallel; /* requests at once */
	uint64_t sparse;   /* zeroes of this many bytes are not written; 0: all are */
	struct image_progress *progress;
};

/* -EINTR after a signal. Ends with a flush. */
int image_copy_run(const struct image_copy *copy, struct error *err);
bool image_all_zero(const void *buf, size_t bytes);
