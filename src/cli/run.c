/*
 * `vireo run`: reads and checks the machine's description, so that a mistake is told at once, then becomes vireo-vmm with the same
 * arguments. On a terminal it stays as vireo-vmm's parent instead, to put the terminal right when the machine has gone (guard.c).
 * It knows nothing of what is inside a machine.
 */
#include "cli/cli.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "base/str.h"
#include "spec/spec.h"

#define VMM_NAME "vireo-vmm"

/* "<dir>/vireo-vmm" when that can be executed. */
static char *vmm_in(const char *dir, size_t len)
{
	_cleanup_free_ char *path = NULL;

	if (asprintf(&path, "%.*s/" VMM_NAME, (int)len, dir) < 0) {
		path = NULL;
		return NULL;
	}
	return access(path, X_OK) == 0 ? steal_ptr(&path) : NULL;
}

char *cli_find_vmm(void)
{
	char self[PATH_MAX];
	ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
	const char *dirs = getenv("PATH");
	char *found = NULL;

	if (n > 0) {
		self[n] = '\0';
		found = vmm_in(self, (size_t)(strrchr(self, '/') - self));
	}
	if (!found)
		found = vmm_in(VIREO_LIBEXECDIR, strlen(VIREO_LIBEXECDIR));
	while (!found && dirs && *dirs) {
		size_t len = strcspn(dirs, ":");

		if (len > 0)
			found = vmm_in(dirs, len);
		dirs += len;
		dirs += *dirs == ':';
	}
	return found;
}

static int print_help(void)
{
	_cleanup_free_ char *text = spec_help_text();

	if (!text) {
		log_error("no memory for the help text");
		return CLI_FAILED;
	}
	printf("Usage: vireo run --kernel FILE [OPTIONS]\n\n%s", text);
	return CLI_OK;
}

static int print_config(const struct spec *spec)
{
	_cleanup_free_ char *text = spec_to_json(spec);

	if (!text) {
		log_error(
			"this machine cannot be written as JSON: a name or path in it is no UTF-8");
		return CLI_FAILED;
	}
	puts(text);
	return CLI_OK;
}

static int start(int argc, char **argv)
{
	_cleanup_free_ char *vmm = cli_find_vmm();
	_cleanup_free_ char **args = calloc((size_t)argc + 2, sizeof(*args));
	char name[] = VMM_NAME;
	int r;

	if (!vmm) {
		log_error("the program " VMM_NAME
			  " is missing: it belongs beside this program, in " VIREO_LIBEXECDIR
			  " or in PATH");
		return CLI_FAILED;
	}
	if (!args) {
		log_error("no memory for the arguments");
		return CLI_FAILED;
	}
	args[0] = name;
	memcpy(args + 1, argv, (size_t)argc * sizeof(*argv));
	if (isatty(STDIN_FILENO)) {
		r = cli_run_guarded(STDIN_FILENO, vmm, args);
	} else {
		execv(vmm, args);
		r = -errno;
	}
	if (r < 0) {
		log_error("cannot start '%s': %s", vmm, strerror(-r));
		return CLI_FAILED;
	}
	return r;
}

int cli_verb_run(int argc, char **argv)
{
	struct spec_cli_result asked = {0};
	struct error err = ERROR_INIT;
	struct spec spec;
	bool good;
	int status;

	spec_init(&spec);
	good = spec_parse_args(&spec, argc, argv, &asked, &err) == 0 &&
	       (asked.help || asked.version || spec_finish(&spec, &err) == 0);
	if (!good) {
		log_error("%s", err.text);
		status = CLI_USAGE;
	} else if (asked.help) {
		status = print_help();
	} else if (asked.version) {
		status = cli_verb_version(0, NULL);
	} else if (asked.print_config) {
		status = print_config(&spec);
	} else {
		status = start(argc, argv);
	}
	spec_fini(&spec);
	return status;
}
