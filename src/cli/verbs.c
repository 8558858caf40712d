/*
 * The table of verbs, their dispatch, and the two that only print: help and version.
 */
#include "cli/cli.h"

#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "base/log.h"
#include "base/str.h"

const struct cli_verb cli_verbs[] = {
	{"run", "OPTIONS", "run a virtual machine in this terminal", cli_verb_run},
	{"image", "VERB [OPTIONS]", "make, look at and change disk images", cli_verb_image},
	{"check-host", "[--json]", "say what this host can do, and what to do about the rest",
	 cli_verb_check_host},
	{"audit", "verify [FILE]", "check the record of what was asked of the daemon",
	 cli_verb_audit},
	{"help", "[VERB]", "say what there is", cli_verb_help},
	{"version", "", "print the version", cli_verb_version},
};
const size_t cli_n_verbs = ARRAY_SIZE(cli_verbs);

static void print_verbs(FILE *out)
{
	char left[64];

	fprintf(out, "Usage: vireo VERB [ARGUMENTS]\n\n");
	for (size_t i = 0; i < cli_n_verbs; i++) {
		snprintf(left, sizeof(left), "%s %s", cli_verbs[i].name, cli_verbs[i].args);
		fprintf(out, "  vireo %-22s %s\n", left, cli_verbs[i].summary);
	}
	fprintf(out, "\n`vireo run --help` has the options of a machine; `man vireo` has more.\n");
}

static const struct cli_verb *find_verb(const char *name)
{
	const char *names[ARRAY_SIZE(cli_verbs)];
	const char *nearest;

	for (size_t i = 0; i < cli_n_verbs; i++) {
		if (str_eq(cli_verbs[i].name, name))
			return &cli_verbs[i];
		names[i] = cli_verbs[i].name;
	}
	nearest = str_nearest(name, names, cli_n_verbs);
	if (nearest)
		log_error("verb '%s' is not known: did you mean 'vireo %s'?", name, nearest);
	else
		log_error("verb '%s' is not known: see 'vireo help'", name);
	return NULL;
}

int cli_verb_help(int argc, char **argv)
{
	char help_option[] = "--help";
	char *help[] = {help_option, NULL};
	const struct cli_verb *verb;

	if (argc == 0) {
		print_verbs(stdout);
		return CLI_OK;
	}
	verb = find_verb(argv[0]);
	if (!verb)
		return CLI_USAGE;
	if (verb->run == cli_verb_run)
		return verb->run(1, help);
	printf("Usage: vireo %s %s\n\n%s\n", verb->name, verb->args, verb->summary);
	return CLI_OK;
}

int cli_verb_version(int argc, char **argv)
{
	if (argc > 0) {
		log_error("'vireo version' takes no arguments, '%s' was given", argv[0]);
		return CLI_USAGE;
	}
	puts("vireo " VIREO_VERSION);
	return CLI_OK;
}

int cli_main(int argc, char **argv)
{
	const struct cli_verb *verb;

	if (argc < 2) {
		print_verbs(stderr);
		return CLI_USAGE;
	}
	if (str_eq(argv[1], "--help") || str_eq(argv[1], "-h"))
		return cli_verb_help(0, NULL);
	if (str_eq(argv[1], "--version"))
		return cli_verb_version(0, NULL);
	verb = find_verb(argv[1]);
	return verb ? verb->run(argc - 2, argv + 2) : CLI_USAGE;
}
