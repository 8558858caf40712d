/* The daemon's command line and what follows from it: folders, and where vireo-vmm is. */
#include <errno.h>
#include <getopt.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/str.h"
#include "host/main/main_int.h"

enum {
	OPT_RUNTIME = 256,
	OPT_STATE,
	OPT_CONFIG,
	OPT_VMM,
	OPT_NULL,
	OPT_PROCEDURES,
	OPT_HELP,
	OPT_VERSION,
};

static const struct option long_options[] = {
	{"runtime-dir", required_argument, NULL, OPT_RUNTIME},
	{"state-dir", required_argument, NULL, OPT_STATE},
	{"config-dir", required_argument, NULL, OPT_CONFIG},
	{"vmm", required_argument, NULL, OPT_VMM},
	{"offer-null", no_argument, NULL, OPT_NULL},
	{"print-procedures", no_argument, NULL, OPT_PROCEDURES},
	{"help", no_argument, NULL, OPT_HELP},
	{"version", no_argument, NULL, OPT_VERSION},
	{0},
};

static int take(char **member, const char *value, struct error *err)
{
	free(*member);
	*member = strdup(value);
	return *member ? 0 : error_set(err, -ENOMEM, "no memory for an option");
}

static int take_option(struct options *options, int opt, const char *value, struct error *err)
{
	switch (opt) {
	case OPT_RUNTIME:
		return take(&options->runtime_dir, value, err);
	case OPT_STATE:
		return take(&options->state_dir, value, err);
	case OPT_CONFIG:
		return take(&options->config_dir, value, err);
	case OPT_VMM:
		return take(&options->vmm, value, err);
	case OPT_NULL:
		options->offer_null = true;
		return 0;
	case OPT_PROCEDURES:
		options->print_procedures = true;
		return 0;
	case OPT_HELP:
		options->help = true;
		return 0;
	case OPT_VERSION:
		options->version = true;
		return 0;
	default:
		return error_set(err, -EINVAL, "see vireod --help");
	}
}

int options_parse(struct options *options, int argc, char **argv, struct error *err)
{
	int opt;
	int r = 0;

	*options = (struct options){.session = geteuid() != 0};
	while (r >= 0 && (opt = getopt_long(argc, argv, "", long_options, NULL)) != -1)
		r = take_option(options, opt, optarg, err);
	if (r >= 0 && optind < argc)
		r = error_set(err, -EINVAL, "'%.60s' is no option: see vireod --help",
			      argv[optind]);
	return r;
}

void options_fini(struct options *options)
{
	free(options->runtime_dir);
	free(options->state_dir);
	free(options->config_dir);
	free(options->socket_dir);
	free(options->vmm);
}

/* "<base>/<rest>", base from the environment or below the user's home. */
static int user_dir(char **ret, const char *variable, const char *below_home, const char *rest,
		    struct error *err)
{
	const char *base = getenv(variable);
	const char *home = getenv("HOME");
	int r;

	if (base && *base == '/')
		r = asprintf(ret, "%s/%s", base, rest);
	else if (home && *home == '/' && below_home)
		r = asprintf(ret, "%s/%s/%s", home, below_home, rest);
	else
		return error_set(err, -EINVAL, "%s is not set: give the folders by options",
				 variable);
	if (r >= 0)
		return 0;
	*ret = NULL;
	return error_set(err, -ENOMEM, "no memory for a path");
}

static int session_dirs(struct options *options, struct error *err)
{
	int r = 0;

	if (!options->socket_dir)
		r = user_dir(&options->socket_dir, "XDG_RUNTIME_DIR", NULL, "libvirt", err);
	if (r >= 0 && !options->runtime_dir)
		r = user_dir(&options->runtime_dir, "XDG_RUNTIME_DIR", NULL, "vireo", err);
	if (r >= 0 && !options->state_dir)
		r = user_dir(&options->state_dir, "XDG_STATE_HOME", ".local/state", "vireo", err);
	if (r >= 0 && !options->config_dir)
		r = user_dir(&options->config_dir, "XDG_CONFIG_HOME", ".config", "vireo", err);
	return r;
}

static int system_dirs(struct options *options, struct error *err)
{
	int r = 0;

	if (!options->socket_dir)
		r = take(&options->socket_dir, "/run/libvirt", err);
	if (r >= 0 && !options->runtime_dir)
		r = take(&options->runtime_dir, "/run/vireo", err);
	if (r >= 0 && !options->state_dir)
		r = take(&options->state_dir, "/var/lib/vireo", err);
	if (r >= 0 && !options->config_dir)
		r = take(&options->config_dir, "/etc/vireo", err);
	return r;
}

/* Beside this program, or where it is installed. */
static int find_vmm(struct options *options, struct error *err)
{
	char self[PATH_MAX];
	ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
	_cleanup_free_ char *path = NULL;

	if (options->vmm)
		return 0;
	if (n > 0) {
		self[n] = '\0';
		if (asprintf(&path, "%.*s/vireo-vmm", (int)(strrchr(self, '/') - self), self) < 0)
			path = NULL;
	}
	if (path && access(path, X_OK) == 0)
		return take(&options->vmm, path, err);
	return take(&options->vmm, VIREO_LIBEXECDIR "/vireo-vmm", err);
}

static int check_paths(const struct options *options, struct error *err)
{
	const char *const paths[] = {options->runtime_dir, options->state_dir, options->config_dir,
				     options->vmm};

	for (size_t i = 0; i < sizeof(paths) / sizeof(paths[0]); i++)
		/* They stand in XML and in messages. */
		if (paths[i][0] != '/' || strpbrk(paths[i], "<>&'\"\n"))
			return error_set(
				err, -EINVAL,
				"'%.200s' cannot be used: give an absolute path without quotes or "
				"angle brackets",
				paths[i]);
	if (access(options->vmm, X_OK) < 0)
		return error_set_errno(err, -errno, "the program vireo-vmm cannot be run at '%s'",
				       options->vmm);
	return 0;
}

int options_finish(struct options *options, struct error *err)
{
	int r = 0;

	/* A private instance has its sockets where everything else of it is. */
	if (options->runtime_dir)
		r = take(&options->socket_dir, options->runtime_dir, err);
	if (r >= 0)
		r = options->session ? session_dirs(options, err) : system_dirs(options, err);
	if (r >= 0)
		r = find_vmm(options, err);
	return r < 0 ? r : check_paths(options, err);
}
