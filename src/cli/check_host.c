/*
 * `vireo check-host`: what this host has for virtual machines, one line a thing, and what to do about what is missing. It only looks: nothing is
 * loaded, created or changed. Whether KVM runs a machine at speed is vireo-vmm's to say; it is asked. Without KVM the software CPU runs machines.
 */
#include "cli/cli.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <inttypes.h>
#include <pwd.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/cleanup.h"
#include "base/fd.h"
#include "base/json.h"
#include "base/log.h"
#include "base/str.h"

/* Of the kernel's KVM interface (Documentation/virt/kvm/api.rst), KVM_GET_API_VERSION: the one call that needs no more of it. */
#define KVM_GET_API_VERSION_NUMBER 0xAE00
#define KVM_STABLE_VERSION         12

static const char *const state_names[] = {
	[HOST_OK] = "ok",
	[HOST_MISSING] = "missing",
	[HOST_DENIED] = "denied",
};

struct check {
	const struct host_view *view;
	struct host_finding *found;
};

static void set(struct check *c, enum host_state state, const char *detail)
{
	c->found->state = state;
	str_copy(c->found->detail, sizeof(c->found->detail), detail);
}

static void advise(struct check *c, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void advise(struct check *c, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(c->found->advice, sizeof(c->found->advice), fmt, ap);
	va_end(ap);
}

static char *path_in(const struct host_view *view, const char *path)
{
	char *full = NULL;

	return asprintf(&full, "%s%s", view->root, path) < 0 ? NULL : full;
}

/* The first `size - 1` bytes of a file, without its last line end; false when it cannot be read. */
static bool read_text(const struct host_view *view, const char *path, char *ret, size_t size)
{
	_cleanup_free_ char *full = path_in(view, path);
	_cleanup_close_ int fd = full ? open(full, O_RDONLY | O_CLOEXEC) : -1;
	ssize_t n = fd < 0 ? -1 : fd_read_full(fd, ret, size - 1);

	if (n < 0)
		return false;
	ret[n] = '\0';
	if (n > 0 && ret[n - 1] == '\n')
		ret[n - 1] = '\0';
	return true;
}

static uint64_t read_number(const struct host_view *view, const char *path)
{
	char text[32];
	uint64_t v = 0;

	if (!read_text(view, path, text, sizeof(text)) || parse_u64(text, &v) < 0)
		return 0;
	return v;
}

/* "group kvm may" for a node that we may not open. */
static void advise_group(struct check *c, const char *node, const char *full)
{
	const struct group *group;
	struct stat st;

	if (stat(full, &st) < 0)
		return;
	group = getgrgid(st.st_gid);
	if ((st.st_mode & 0060) != 0060 || !group || st.st_gid == 0)
		advise(c,
		       "only root may use %s: run as root, or give a group the right (chgrp kvm %s; chmod 660 %s)",
		       node, node, node);
	else
		advise(c, "group '%s' may use %s: sudo usermod -aG %s %s, then log in again",
		       group->gr_name, node, group->gr_name, c->view->user);
}

/* Opens a device node; fills the finding when that fails. Returns the descriptor or a negative errno. */
static int open_node(struct check *c, const char *node, const char *advice)
{
	_cleanup_free_ char *full = path_in(c->view, node);
	int fd = full ? open(full, O_RDWR | O_CLOEXEC | O_NONBLOCK) : -1;
	int code = errno;

	if (fd >= 0)
		return fd;
	if (code == EACCES || code == EPERM) {
		set(c, HOST_DENIED, "no right to open it");
		advise_group(c, node, full ? full : node);
		return -code;
	}
	set(c, HOST_MISSING, code == ENOENT ? "" : strerror(code));
	advise(c, "%s", advice);
	return -code;
}

static bool cpu_can_virtualize(const struct host_view *view)
{
	_cleanup_free_ char *full = path_in(view, "/proc/cpuinfo");
	_cleanup_fclose_ FILE *f = full ? fopen(full, "re") : NULL;
	_cleanup_free_ char *line = NULL;
	size_t size = 0;

	while (f && getline(&line, &size, f) >= 0)
		if (str_starts(line, "flags") && (strstr(line, " vmx") || strstr(line, " svm")))
			return true;
	return false;
}

static void check_kvm(struct check *c)
{
	bool able = cpu_can_virtualize(c->view);
	_cleanup_close_ int fd = open_node(
		c, "/dev/kvm",
		able ? "load KVM: sudo modprobe kvm_intel (or kvm_amd); if it refuses, switch "
		       "virtualization on in the firmware's set-up"
		     : "this processor shows neither VMX nor SVM: switch virtualization on in the "
		       "firmware's set-up, or on a virtual host allow nesting");
	int version;

	if (fd < 0)
		return;
	version = ioctl(fd, KVM_GET_API_VERSION_NUMBER, 0);
	if (version == KVM_STABLE_VERSION) {
		set(c, HOST_OK, "interface version 12");
		return;
	}
	set(c, HOST_MISSING, "it does not answer as KVM");
	advise(c, "load the KVM modules that belong to the running kernel");
}

/* Reads what a program says on stderr, at most size - 1 bytes; its exit status, or -1. */
static int run_quietly(const char *path, const char *arg, char *ret, size_t size)
{
	int out[2];
	int status;
	ssize_t n;
	pid_t child;

	if (pipe2(out, O_CLOEXEC) < 0)
		return -1;
	child = fork();
	if (child == 0) {
		int null = open("/dev/null", O_RDWR);

		if (null < 0 || dup2(null, 0) < 0 || dup2(null, 1) < 0 || dup2(out[1], 2) < 0)
			_exit(127);
		execl(path, path, arg, (char *)NULL);
		_exit(127);
	}
	close(out[1]);
	n = child < 0 ? -1 : fd_read_full(out[0], ret, size - 1);
	ret[n < 0 ? 0 : n] = '\0';
	close(out[0]);
	if (child < 0 || waitpid(child, &status, 0) != child || !WIFEXITED(status))
		return -1;
	return WEXITSTATUS(status);
}

static void check_speed(struct check *c)
{
	static const char prefix[] = "vireo-vmm: error: ";
	_cleanup_free_ char *node = path_in(c->view, "/dev/kvm");
	char said[sizeof(c->found->detail)] = "";
	const char *text = said;

	if (!node || access(node, R_OK | W_OK) < 0) {
		set(c, HOST_MISSING, "there is no KVM to ask");
		advise(c, "see kvm");
		return;
	}
	if (!c->view->vmm) {
		set(c, HOST_MISSING, "vireo-vmm is not installed, so nobody can tell");
		advise(c, "install vireo-vmm beside this program");
		return;
	}
	if (run_quietly(c->view->vmm, "--check-accel", said, sizeof(said)) == 0) {
		set(c, HOST_OK, "KVM runs guests at speed");
		return;
	}
	said[strcspn(said, "\n")] = '\0';
	if (str_starts(text, prefix))
		text += strlen(prefix);
	set(c, HOST_MISSING, text);
	advise(c, "use a host with hardware virtualization of its own");
}

/* What --accel auto takes, and why. There always is something: the software CPU needs nothing of the host. */
static void check_accel(struct check *c)
{
	struct host_finding speed = {0};
	struct check inner = {.view = c->view, .found = &speed};
	char text[sizeof(c->found->detail)];

	c->found->required = true;
	if (!c->view->vmm) {
		set(c, HOST_MISSING, "vireo-vmm is not installed, so nothing runs a machine");
		advise(c, "install vireo-vmm beside this program");
		return;
	}
	check_speed(&inner);
	if (speed.state == HOST_OK) {
		set(c, HOST_OK, "auto takes kvm");
		return;
	}
	snprintf(text, sizeof(text), "auto takes soft, the software CPU: %.*s",
		 (int)sizeof(text) - 48, speed.detail);
	set(c, HOST_OK, text);
}

static void check_io_uring(struct check *c)
{
	/* Without a place for its parameters it fails with EFAULT, but only where it is allowed at all. */
	long r = syscall(SYS_io_uring_setup, 1, NULL);
	int code = r < 0 ? errno : 0;

	if (code == EFAULT || code == EINVAL) {
		set(c, HOST_OK, "");
		return;
	}
	set(c, code == EPERM ? HOST_DENIED : HOST_MISSING, strerror(code));
	advise(c, code == EPERM ? "disks use threads instead; to allow it: sudo sysctl "
				  "kernel.io_uring_disabled=0"
				: "disks use threads instead; it needs Linux 5.10 or newer");
}

static void check_passt(struct check *c)
{
	const char *dirs = c->view->path;

	while (dirs && *dirs) {
		size_t len = strcspn(dirs, ":");
		char file[256];

		snprintf(file, sizeof(file), "%.*s/passt", (int)len, dirs);
		if (len > 0 && access(file, X_OK) == 0) {
			set(c, HOST_OK, file);
			return;
		}
		dirs += len;
		dirs += *dirs == ':';
	}
	set(c, HOST_MISSING, "");
	advise(c, "--net user needs it: install the package passt");
}

static void check_node(struct check *c, const char *node, const char *advice)
{
	_cleanup_close_ int fd = open_node(c, node, advice);

	if (fd >= 0)
		set(c, HOST_OK, node);
}

static void check_tap(struct check *c)
{
	check_node(c, "/dev/net/tun", "--net tap needs it: sudo modprobe tun");
}

static void check_vhost_net(struct check *c)
{
	check_node(c, "/dev/vhost-net", "--net tap,vhost=on needs it: sudo modprobe vhost_net");
}

static void check_vhost_vsock(struct check *c)
{
	check_node(c, "/dev/vhost-vsock", "--vsock needs it: sudo modprobe vhost_vsock");
}

static void check_huge_pages(struct check *c)
{
#define HUGE "/sys/kernel/mm/hugepages/hugepages-"
	uint64_t small = read_number(c->view, HUGE "2048kB/free_hugepages");
	uint64_t large = read_number(c->view, HUGE "1048576kB/free_hugepages");
	char text[96];

	snprintf(text, sizeof(text), "free: %" PRIu64 " of 2 MiB, %" PRIu64 " of 1 GiB", small,
		 large);
	if (small || large) {
		set(c, HOST_OK, text);
		return;
	}
	set(c, HOST_MISSING, "none is free");
	advise(c,
	       "--memory SIZE,hugepages=on needs them: sudo sysctl vm.nr_hugepages=512 is 1 GiB");
}

static void check_ksm(struct check *c)
{
	char run[16];

	if (!read_text(c->view, "/sys/kernel/mm/ksm/run", run, sizeof(run))) {
		set(c, HOST_MISSING, "this kernel has no KSM");
		advise(c, "--memory SIZE,mergeable=on has no effect here");
	} else if (run[0] == '1') {
		set(c, HOST_OK, "running");
	} else {
		set(c, HOST_MISSING, "there, but off");
		advise(c,
		       "for --memory SIZE,mergeable=on: echo 1 | sudo tee /sys/kernel/mm/ksm/run");
	}
}

static void check_cgroup(struct check *c)
{
	char controllers[128];

	if (read_text(c->view, "/sys/fs/cgroup/cgroup.controllers", controllers,
		      sizeof(controllers))) {
		set(c, HOST_OK, controllers);
		return;
	}
	set(c, HOST_MISSING, "");
	advise(c, "limits on machines need the unified hierarchy: boot with "
		  "systemd.unified_cgroup_hierarchy=1");
}

static const struct {
	const char *name;
	void (*run)(struct check *c);
} checks[] = {
	{"kvm", check_kvm},
	{"kvm-speed", check_speed},
	{"accel", check_accel},
	{"io_uring", check_io_uring},
	{"passt", check_passt},
	{"tap", check_tap},
	{"vhost-net", check_vhost_net},
	{"vhost-vsock", check_vhost_vsock},
	{"huge-pages", check_huge_pages},
	{"ksm", check_ksm},
	{"cgroup-v2", check_cgroup},
};
_Static_assert(ARRAY_SIZE(checks) <= HOST_MAX_FINDINGS, "room for all findings");

size_t cli_host_inspect(const struct host_view *view, struct host_finding ret[HOST_MAX_FINDINGS])
{
	for (size_t i = 0; i < ARRAY_SIZE(checks); i++) {
		struct check c = {.view = view, .found = &ret[i]};

		ret[i] = (struct host_finding){.name = checks[i].name};
		checks[i].run(&c);
	}
	return ARRAY_SIZE(checks);
}

void cli_host_print(const struct host_finding *found, size_t n, FILE *out)
{
	for (size_t i = 0; i < n; i++) {
		const char *state = found[i].state == HOST_OK ? "OK" : state_names[found[i].state];

		fprintf(out, "%-12s %-8s %s", found[i].name, state, found[i].detail);
		if (found[i].advice[0])
			fprintf(out, "%s%s", found[i].detail[0] ? "; " : "", found[i].advice);
		fputc('\n', out);
	}
}

int cli_host_print_json(const struct host_finding *found, size_t n, FILE *out)
{
	_cleanup_json_ json_t *array = json_array();

	for (size_t i = 0; i < n; i++) {
		json_t *one = json_pack("{ss ss sb ss ss}", "name", found[i].name, "state",
					state_names[found[i].state], "required", found[i].required,
					"detail", found[i].detail, "advice", found[i].advice);

		if (json_array_append_new(array, one) < 0)
			return -ENOMEM;
	}
	if (json_dumpf(array, out, JSON_INDENT(2)) < 0)
		return -EIO;
	fputc('\n', out);
	return 0;
}

int cli_verb_check_host(int argc, char **argv)
{
	struct host_finding found[HOST_MAX_FINDINGS];
	_cleanup_free_ char *vmm = cli_find_vmm();
	const struct passwd *user = getpwuid(geteuid());
	struct host_view view = {
		.root = "",
		.path = getenv("PATH"),
		.user = user ? user->pw_name : "$USER",
		.vmm = vmm,
	};
	bool json = argc == 1 && str_eq(argv[0], "--json");
	size_t n;

	if (argc > 0 && !json) {
		log_error("'vireo check-host' takes --json or nothing, '%s' was given", argv[0]);
		return CLI_USAGE;
	}
	n = cli_host_inspect(&view, found);
	if (!json) {
		cli_host_print(found, n, stdout);
	} else if (cli_host_print_json(found, n, stdout) < 0) {
		log_error("no memory for the findings");
		return CLI_FAILED;
	}
	for (size_t i = 0; i < n; i++)
		if (found[i].required && found[i].state != HOST_OK)
			return CLI_FAILED;
	return CLI_OK;
}
