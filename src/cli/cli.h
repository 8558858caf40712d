/*
 * Inside of the `vireo` program: a verb is one file and one constant entry in the table of verbs.c. Everything runs on the
 * program's only thread.
 */
#pragma once

#include <stdbool.h>
#include <stdio.h>
#include <sys/types.h>

#include "base/error.h"

/* Exit statuses; `run` otherwise gives what vireo-vmm gave. */
#define CLI_OK     0
#define CLI_FAILED 1
#define CLI_USAGE  2 /* bad input; nothing was started or changed */

struct cli_verb {
	const char *name;
	const char *args; /* in the usage line: "[--json]" */
	const char *summary;
	/* argv[0] is the first argument after the verb. Returns the exit status. */
	int (*run)(int argc, char **argv);
};

extern const struct cli_verb cli_verbs[];
extern const size_t cli_n_verbs;

/* The whole program but for the log's set-up: argv as main() has it. Returns the exit status. */
int cli_main(int argc, char **argv);

int cli_verb_run(int argc, char **argv);
int cli_verb_check_host(int argc, char **argv);
int cli_verb_image(int argc, char **argv);
int cli_verb_audit(int argc, char **argv);
int cli_verb_help(int argc, char **argv);
int cli_verb_version(int argc, char **argv);

/* Where vireo-vmm is: beside this program, else in the directory for helpers, else by PATH. Heap path; NULL when it is nowhere. */
char *cli_find_vmm(void);

/* Runs a program (path, argv with its name first) while keeping this terminal's settings: they are put back when it is gone, whatever
 * ended it. SIGTERM, SIGHUP, SIGINT and SIGQUIT that somebody sends to us go to it. Returns its exit status, 128 + the signal that
 * killed it, or a negative errno when it could not be started. terminal: a descriptor of the terminal. */
int cli_run_guarded(int terminal, const char *path, char *const *argv);

/* --- check-host --- */

enum host_state {
	HOST_OK,
	HOST_MISSING,
	HOST_DENIED, /* there, but not for us */
};

struct host_finding {
	const char *name;
	enum host_state state;
	bool required;    /* no machine runs without it */
	char detail[160]; /* what was found; may be "" */
	char advice[320]; /* what to do; "" when it is ok */
};

/* What the checks look at. Tests hand in a tree of their own. */
struct host_view {
	const char *root; /* before every path: "" on a real host */
	const char *path; /* as in the environment */
	const char *user; /* for advice */
	char *vmm;        /* vireo-vmm, or NULL */
};

#define HOST_MAX_FINDINGS 16

/* Returns how many findings there are. */
size_t cli_host_inspect(const struct host_view *view, struct host_finding ret[HOST_MAX_FINDINGS]);
void cli_host_print(const struct host_finding *found, size_t n, FILE *out);
int cli_host_print_json(const struct host_finding *found, size_t n, FILE *out);
