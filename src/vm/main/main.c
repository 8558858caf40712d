/*
 * vireo-vmm: one virtual machine, one process. Reads its description, builds the machine, runs the main loop, and takes it
 * all down again. Exit statuses are enum machine_exit, 128 + N for signal N, or what debug-exit asked for.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "vm/main/machine.h"

/* What --help, --version and --print-config print; true when one of them was asked for, with *ret_status. */
static bool print_and_done(const struct spec *spec, const struct spec_cli_result *cli,
			   int *ret_status)
{
	_cleanup_free_ char *text = NULL;

	*ret_status = MACHINE_EXIT_OK;
	if (cli->version) {
		puts("vireo-vmm " VIREO_VERSION);
		return true;
	}
	if (cli->help)
		text = spec_help_text();
	else if (cli->print_config)
		text = spec_to_json(spec);
	else
		return false;
	if (text) {
		printf("%s%s", text, cli->print_config ? "\n" : "");
	} else {
		log_error("no memory for what is to be printed");
		*ret_status = MACHINE_EXIT_FAILED;
	}
	return true;
}

/* --check-accel: can KVM run guests at speed here? For scripts; says why not on stderr. */
static int check_accel(void)
{
	struct error err = ERROR_INIT;

	if (accel_probe_kvm(&err) < 0) {
		log_error("%s", err.text);
		return MACHINE_EXIT_FAILED;
	}
	puts("kvm");
	return MACHINE_EXIT_OK;
}

static int run_machine(const struct spec *spec)
{
	struct machine *m = calloc(1, sizeof(*m));
	struct error err = ERROR_INIT;
	struct loop *loop;
	int status;

	if (!m || loop_new(&loop) < 0) {
		log_error("no memory for a machine");
		free(m);
		return MACHINE_EXIT_FAILED;
	}
	m->spec = spec;
	m->loop = loop;
	machine_life_init(m);
	if (machine_watch_signals(m, &err) < 0 || machine_build(m, spec, loop, &err) < 0 ||
	    machine_open_qmp(m, &err) < 0) {
		status = MACHINE_EXIT_USAGE;
	} else {
		if (!spec->start_paused)
			machine_start(m);
		loop_run(loop);
		status = m->exit_status;
	}
	machine_teardown(m);
	/* After the terminal is itself again. */
	if (err.code < 0)
		log_error("%s", err.text);
	loop_free(loop);
	free(m);
	return status;
}

int main(int argc, char **argv)
{
	struct spec_cli_result cli = {0};
	struct error err = ERROR_INIT;
	struct spec spec;
	int status;

	log_init("vireo-vmm", LOG_INFO);
	if (argc == 2 && strcmp(argv[1], "--check-accel") == 0)
		return check_accel();
	spec_init(&spec);
	if (spec_parse_args(&spec, argc - 1, argv + 1, &cli, &err) < 0 ||
	    (!cli.help && !cli.version && spec_finish(&spec, &err) < 0)) {
		log_error("%s", err.text);
		status = MACHINE_EXIT_USAGE;
	} else if (!print_and_done(&spec, &cli, &status)) {
		status = run_machine(&spec);
	}
	spec_fini(&spec);
	return status;
}
