/*
 * vireod: one host's machines behind libvirt's protocol. Reads what is defined, finds the machines that run, opens its sockets, and serves them on one loop
 * until it is told to end; the machines go on.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/audit.h"
#include "base/bits.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "host/domain/domain.h"
#include "host/main/main_int.h"
#include "host/storage/storage.h"
#include "host/store/store.h"
#include "host/system/caps.h"
#include "host/system/work.h"

enum { EXIT_GOOD = 0, EXIT_FAILED = 1, EXIT_USAGE = 2 };

struct daemon {
	struct options options;
	struct loop *loop;
	struct loop_fd signals;
	struct domain_set *domains;
	struct storage_set *storage;
	struct caps *caps;
	struct rpc_host host;
	struct audit_log audit;
	struct rpc_server *server;
	struct work_pool *pool;
	struct work probe; /* of KVM */
	bool kvm;
	bool own_sockets; /* opened here, not by the service manager */
	int lock_fd;
};

static void print_help(void)
{
	puts("Usage: vireod [OPTIONS]\n"
	     "\n"
	     "  --runtime-dir DIR    sockets and what belongs to running machines\n"
	     "  --state-dir DIR      logs of machines\n"
	     "  --config-dir DIR     definitions: a file a machine\n"
	     "  --vmm FILE           the program vireo-vmm\n"
	     "  --offer-null         offer scripted processors too, for tests\n"
	     "  --print-procedures   print what is done of libvirt's protocol, and end\n"
	     "  --help, --version");
}

/* --- KVM: asked of vireo-vmm, which knows --- */

static void probe_run(struct work *work)
{
	struct daemon *daemon = container_of(work, struct daemon, probe);
	char program[] = "vireo-vmm", option[] = "--check-accel";
	char *argv[] = {program, option, NULL};
	posix_spawn_file_actions_t actions;
	int status = -1;
	pid_t pid;

	posix_spawn_file_actions_init(&actions);
	posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
	posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, "/dev/null", O_WRONLY, 0);
	if (posix_spawn(&pid, daemon->options.vmm, &actions, NULL, argv, environ) == 0)
		waitpid(pid, &status, 0);
	posix_spawn_file_actions_destroy(&actions);
	daemon->kvm = status != -1 && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

static void probe_done(struct work *work)
{
	struct daemon *daemon = container_of(work, struct daemon, probe);

	caps_set_kvm(daemon->caps, daemon->kvm);
}

/* --- signals --- */

static void signal_ready(struct loop_fd *src, unsigned events)
{
	struct daemon *daemon = container_of(src, struct daemon, signals);
	struct signalfd_siginfo info;

	if (read(src->fd, &info, sizeof(info)) == sizeof(info))
		loop_quit(daemon->loop);
}

static int watch_signals(struct daemon *daemon, struct error *err)
{
	sigset_t set;
	int fd, r;

	signal(SIGPIPE, SIG_IGN);
	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigprocmask(SIG_BLOCK, &set, NULL);
	fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	r = fd < 0 ? -errno
		   : loop_fd_add(daemon->loop, &daemon->signals, fd, LOOP_READ, signal_ready);
	return r < 0 ? error_set_errno(err, r, "cannot watch signals") : 0;
}

/* --- life --- */

/* A descriptor a client: as many as the system allows. */
static void raise_limits(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
		limit.rlim_cur = limit.rlim_max;
		setrlimit(RLIMIT_NOFILE, &limit);
	}
}

/* What was asked of the daemon: STATE/audit.jsonl. */
static int open_audit(struct daemon *daemon, struct error *err)
{
	_cleanup_free_ char *path = NULL;
	int r = store_make_folder(daemon->options.state_dir, 0711, err);

	if (r < 0)
		return r;
	if (asprintf(&path, "%s/audit.jsonl", daemon->options.state_dir) < 0) {
		path = NULL;
		return error_set(err, -ENOMEM, "no memory for a path");
	}
	return audit_open(&daemon->audit, path, err);
}

static int daemon_open(struct daemon *daemon, struct error *err)
{
	const struct options *options = &daemon->options;
	const struct domain_config config = {
		.dirs = {.config = options->config_dir,
			 .state = options->state_dir,
			 .runtime = options->runtime_dir},
		.vmm = options->vmm,
		.emulator = options->vmm,
	};
	const struct rpc_limits limits = RPC_LIMITS_DEFAULT;
	int r;

	daemon->lock_fd = sockets_lock(options, err);
	if (daemon->lock_fd < 0)
		return daemon->lock_fd;
	r = loop_new(&daemon->loop);
	if (r < 0)
		return error_set_errno(err, r, "cannot make an event loop");
	r = watch_signals(daemon, err);
	if (r >= 0)
		r = caps_new(options->vmm, &daemon->caps, err);
	if (r >= 0)
		r = domain_set_new(daemon->loop, &config, &daemon->domains, err);
	if (r >= 0)
		r = storage_set_new(daemon->loop, options->config_dir, &daemon->storage, err);
	if (r < 0)
		return r;
	r = open_audit(daemon, err);
	if (r < 0)
		return r;
	daemon->host = (struct rpc_host){
		.domains = daemon->domains,
		.storage = daemon->storage,
		.caps = daemon->caps,
		.audit = &daemon->audit,
		.uri = options->session ? "qemu:///session" : "qemu:///system",
	};
	caps_set_null(daemon->caps, options->offer_null);
	r = rpc_server_new(daemon->loop, &daemon->host, &limits, &daemon->server, err);
	if (r >= 0)
		r = service_sockets(daemon->server, err);
	daemon->own_sockets = r == 0;
	if (daemon->own_sockets)
		r = sockets_open(options, daemon->server, err);
	if (r >= 0 && work_pool_new(daemon->loop, 1, &daemon->pool) < 0)
		r = error_set(err, -ENOMEM, "no memory for threads");
	return r;
}

static void daemon_close(struct daemon *daemon)
{
	work_pool_free(daemon->pool);
	rpc_server_free(daemon->server);
	if (daemon->server && daemon->own_sockets)
		sockets_remove(&daemon->options);
	storage_set_free(daemon->storage);
	domain_set_free(daemon->domains);
	caps_free(daemon->caps);
	audit_close(&daemon->audit);
	if (daemon->signals.loop) {
		loop_fd_del(&daemon->signals);
		close(daemon->signals.fd);
	}
	loop_free(daemon->loop);
	if (daemon->lock_fd >= 0)
		close(daemon->lock_fd);
}

static int serve(struct daemon *daemon, struct error *err)
{
	int r = options_finish(&daemon->options, err);

	if (r >= 0)
		r = daemon_open(daemon, err);
	if (r >= 0) {
		daemon->probe.run = probe_run;
		daemon->probe.done = probe_done;
		work_submit(daemon->pool, &daemon->probe);
		storage_set_autostart(daemon->storage);
		domain_set_autostart(daemon->domains);
		service_ready();
		log_info("serving at %s", daemon->options.socket_dir);
		loop_run(daemon->loop);
	}
	daemon_close(daemon);
	return r;
}

int main(int argc, char **argv)
{
	struct daemon daemon = {.lock_fd = -1, .audit.fd = -1};
	struct error err = ERROR_INIT;
	int status = EXIT_GOOD;

	log_init("vireod", LOG_INFO);
	if (options_parse(&daemon.options, argc, argv, &err) < 0) {
		log_error("%s", err.text);
		status = EXIT_USAGE;
	} else if (daemon.options.help) {
		print_help();
	} else if (daemon.options.version) {
		puts("vireod " VIREO_VERSION);
	} else if (daemon.options.print_procedures) {
		rpc_print_procedures(stdout);
	} else {
		raise_limits();
		spec_xml_init();
		if (serve(&daemon, &err) < 0) {
			log_error("%s", err.text);
			status = EXIT_FAILED;
		}
	}
	options_fini(&daemon.options);
	return status;
}
