/*
 * `vireo image`: the table of its verbs, and their dispatch.
 */
#include "cli/image.h"

#include <string.h>

#include "base/bits.h"
#include "base/log.h"
#include "base/str.h"

#define COMMON                                                                                     \
	"  --json               print JSON\n"                                                      \
	"  --backing-dir DIR    backing and data files may be there; may be repeated\n"            \
	"  --any-backing        they may be anywhere\n"                                            \
	"  -U                   do not lock the image\n"

const struct image_verb image_verbs[] = {
	{"create", "[-f FMT] [-o OPTIONS] [-b FILE -F FMT] FILE [SIZE]", "make an image",
	 "  -f FMT               raw (default) or qcow2\n"
	 "  -o KEY=VALUE,...     options of the format: cluster_size, refcount_bits, compat, preallocation,\n"
	 "                       lazy_refcounts, extended_l2, compression_type, data_file, data_file_raw\n"
	 "  -b FILE -F FMT       its backing file, and that one's format\n"
	 "  -u                   the backing file need not be there\n"
	 "  -q                   say nothing\n",
	 image_verb_create},
	{"info", "[-f FMT] [--backing-chain] FILE", "say what an image is",
	 "  -f FMT               its format\n"
	 "  --backing-chain      and what its backing files are\n",
	 image_verb_info},
	{"check", "[-f FMT] [-r leaks|all] FILE", "look for damage, and repair it",
	 "  -f FMT               its format\n"
	 "  -r leaks|all         give lost space back; repair all that can be\n"
	 "  -q                   say nothing\n",
	 image_verb_check},
	{"convert", "[-f FMT] [-O FMT] [-c] [-o OPTIONS] FILE TARGET",
	 "copy an image into another format",
	 "  -f FMT, -O FMT       formats of the source and of the target (raw)\n"
	 "  -o KEY=VALUE,...     options of the target, as with create\n"
	 "  -c                   compress\n"
	 "  -p                   show progress, also when this is no terminal\n"
	 "  -m N                 N requests at once (16)\n"
	 "  -W                   in any order (always so)\n"
	 "  -S SIZE              zeroes of this size are left out (4k); 0: write all\n"
	 "  -n                   the target is there: do not make it\n"
	 "  -t MODE, -T MODE     cache modes of the target and of the source\n"
	 "  -q                   no progress\n",
	 image_verb_convert},
	{"resize", "[-f FMT] [--shrink] FILE [+|-]SIZE", "change an image's size",
	 "  -f FMT               its format\n"
	 "  --shrink             what is cut off may be thrown away\n"
	 "  --preallocation MODE off, metadata, falloc or full: of what is new\n"
	 "  -q                   say nothing\n",
	 image_verb_resize},
	{"map", "[-f FMT] FILE", "say what an image holds, and where",
	 "  -f FMT               its format\n"
	 "  -s OFFSET, -l BYTES  only this part\n",
	 image_verb_map},
	{"compare", "[-f FMT] [-F FMT] FILE FILE", "say whether two images hold the same",
	 "  -f FMT, -F FMT       their formats\n"
	 "  -s                   they must have the same size too\n"
	 "  -p                   show progress, also when this is no terminal\n"
	 "  -q                   say nothing\n",
	 image_verb_compare},
	{"snapshot", "[-l | -c NAME | -a NAME | -d NAME] FILE",
	 "list, create, apply or delete snapshots inside an image",
	 "  -f FMT               its format\n"
	 "  -l                   list them (default)\n"
	 "  -c NAME              create one\n"
	 "  -a NAME              the disk becomes what it was then\n"
	 "  -d NAME              delete it\n"
	 "  -q                   say nothing\n",
	 image_verb_snapshot},
	{"commit", "[-f FMT] FILE", "write what an image has into its backing file",
	 "  -f FMT               its format\n"
	 "  -p                   show progress, also when this is no terminal\n"
	 "  -q                   say nothing\n",
	 image_verb_commit},
	{"rebase", "[-f FMT] [-u] -b FILE -F FMT FILE", "give an image another backing file",
	 "  -f FMT               its format\n"
	 "  -b FILE -F FMT       the new backing file and its format; -b '' for none\n"
	 "  -u                   change the name only: its contents are the same\n"
	 "  -p                   show progress, also when this is no terminal\n"
	 "  -q                   say nothing\n",
	 image_verb_rebase},
	{"bench", "[-f FMT] [-w] [-c COUNT] [-d DEPTH] [-s SIZE] FILE", "measure I/O on an image",
	 "  -f FMT               its format\n"
	 "  -c COUNT             requests (75000)\n"
	 "  -d DEPTH             at once (64)\n"
	 "  -s SIZE              of each (4k)\n"
	 "  -S STEP              from one to the next (the size)\n"
	 "  -o OFFSET            of the first\n"
	 "  -w                   write, which destroys what is there\n"
	 "  --random             at random offsets\n"
	 "  -t MODE              cache mode\n",
	 image_verb_bench},
};
const size_t image_n_verbs = ARRAY_SIZE(image_verbs);

static void print_verbs(FILE *out)
{
	fprintf(out, "Usage: vireo image VERB [OPTIONS] FILE...\n\n");
	for (size_t i = 0; i < image_n_verbs; i++)
		fprintf(out, "  %-10s %s\n", image_verbs[i].name, image_verbs[i].summary);
	fprintf(out, "\n`vireo image VERB --help` has the options of a verb.\n");
}

static const struct image_verb *find_verb(const char *name)
{
	const char *names[ARRAY_SIZE(image_verbs)];
	const char *nearest;

	for (size_t i = 0; i < image_n_verbs; i++) {
		if (str_eq(image_verbs[i].name, name))
			return &image_verbs[i];
		names[i] = image_verbs[i].name;
	}
	nearest = str_nearest(name, names, image_n_verbs);
	if (nearest)
		log_error("verb '%s' is not known: did you mean 'vireo image %s'?", name, nearest);
	else
		log_error("verb '%s' is not known: see 'vireo image --help'", name);
	return NULL;
}

static int print_help(const struct image_verb *verb)
{
	printf("Usage: vireo image %s %s\n\n%s.\n\n%s" COMMON, verb->name, verb->args,
	       verb->summary, verb->options);
	return CLI_OK;
}

int image_usage(const char *verb)
{
	log_error("see 'vireo image %s --help'", verb);
	return CLI_USAGE;
}

int cli_verb_image(int argc, char **argv)
{
	const struct image_verb *verb;

	if (argc < 1) {
		print_verbs(stderr);
		return CLI_USAGE;
	}
	if (str_eq(argv[0], "--help") || str_eq(argv[0], "-h")) {
		print_verbs(stdout);
		return CLI_OK;
	}
	verb = find_verb(argv[0]);
	if (!verb)
		return CLI_USAGE;
	for (int i = 1; i < argc && !str_eq(argv[i], "--"); i++) {
		if (str_eq(argv[i], "--help") || str_eq(argv[i], "-h"))
			return print_help(verb);
	}
	return verb->run(argc, argv);
}
