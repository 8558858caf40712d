#include "unit/test.h"

#include <ftw.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/json.h"
#include "cli/cli.h"

/* A host that is a folder of files. */
struct host {
	char root[64];
	struct host_finding found[HOST_MAX_FINDINGS];
	size_t n;
};

static void put(const struct host *host, const char *path, const char *text)
{
	char full[256];
	FILE *f;

	snprintf(full, sizeof(full), "%s%s", host->root, path);
	for (char *slash = strchr(full + strlen(host->root) + 1, '/'); slash;
	     slash = strchr(slash + 1, '/')) {
		*slash = '\0';
		mkdir(full, 0700);
		*slash = '/';
	}
	f = fopen(full, "we");
	assert_non_null(f);
	assert_true(fputs(text, f) >= 0);
	assert_int_equal(fclose(f), 0);
	assert_int_equal(chmod(full, 0700), 0);
}

static int host_new(void **state)
{
	struct host *host = calloc(1, sizeof(*host));

	if (!host)
		return -1;
	snprintf(host->root, sizeof(host->root), "/tmp/vireo-host-XXXXXX");
	*state = host;
	return mkdtemp(host->root) ? 0 : -1;
}

static int remove_one(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
	return remove(path);
}

static int host_free(void **state)
{
	struct host *host = *state;
	int r = nftw(host->root, remove_one, 16, FTW_DEPTH | FTW_PHYS);

	free(host);
	return r;
}

static void inspect(struct host *host, char *vmm)
{
	char path[96];
	struct host_view view = {.root = host->root, .path = path, .user = "me", .vmm = vmm};

	snprintf(path, sizeof(path), "/nonexistent::%s/bin", host->root);
	host->n = cli_host_inspect(&view, host->found);
	assert_true(host->n > 0 && host->n <= HOST_MAX_FINDINGS);
}

static const struct host_finding *find(const struct host *host, const char *name)
{
	for (size_t i = 0; i < host->n; i++)
		if (strcmp(host->found[i].name, name) == 0)
			return &host->found[i];
	fail_msg("no finding '%s'", name);
	return NULL;
}

static void assert_found(const struct host *host, const char *name, enum host_state state,
			 const char *part)
{
	const struct host_finding *f = find(host, name);

	assert_int_equal(f->state, state);
	assert_int_equal(f->advice[0] == '\0', state == HOST_OK);
	if (!strstr(f->detail, part) && !strstr(f->advice, part))
		fail_msg("%s: neither \"%s\" nor \"%s\" has \"%s\"", name, f->detail, f->advice,
			 part);
}

static void an_empty_host_lacks_everything(void **state)
{
	struct host *host = *state;

	inspect(host, NULL);
	assert_found(host, "kvm", HOST_MISSING, "neither VMX nor SVM");
	assert_false(find(host, "kvm")->required);
	assert_found(host, "accel", HOST_MISSING, "install vireo-vmm");
	assert_true(find(host, "accel")->required);
	assert_found(host, "kvm-speed", HOST_MISSING, "see kvm");
	assert_found(host, "passt", HOST_MISSING, "install the package passt");
	assert_found(host, "tap", HOST_MISSING, "modprobe tun");
	assert_found(host, "vhost-net", HOST_MISSING, "modprobe vhost_net");
	assert_found(host, "vhost-vsock", HOST_MISSING, "modprobe vhost_vsock");
	assert_found(host, "huge-pages", HOST_MISSING, "vm.nr_hugepages");
	assert_found(host, "ksm", HOST_MISSING, "no KSM");
	assert_found(host, "cgroup-v2", HOST_MISSING, "unified_cgroup_hierarchy");
}

static void a_host_with_all_is_told_so(void **state)
{
	struct host *host = *state;

	put(host, "/bin/passt", "");
	put(host, "/dev/net/tun", "");
	put(host, "/dev/vhost-net", "");
	put(host, "/dev/vhost-vsock", "");
	put(host, "/sys/kernel/mm/ksm/run", "1\n");
	put(host, "/sys/fs/cgroup/cgroup.controllers", "cpu memory\n");
	put(host, "/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages", "12\n");
	inspect(host, NULL);
	assert_found(host, "passt", HOST_OK, "/bin/passt");
	assert_found(host, "tap", HOST_OK, "");
	assert_found(host, "vhost-net", HOST_OK, "");
	assert_found(host, "vhost-vsock", HOST_OK, "");
	assert_found(host, "ksm", HOST_OK, "running");
	assert_found(host, "cgroup-v2", HOST_OK, "cpu memory");
	assert_found(host, "huge-pages", HOST_OK, "free: 12 of 2 MiB, 0 of 1 GiB");
}

static void kvm_must_answer(void **state)
{
	struct host *host = *state;

	put(host, "/dev/kvm", "");
	put(host, "/proc/cpuinfo", "processor\t: 0\nflags\t\t: fpu svm sse\n");
	inspect(host, NULL);
	assert_found(host, "kvm", HOST_MISSING, "does not answer as KVM");
	assert_found(host, "kvm-speed", HOST_MISSING, "not installed");
}

static void an_able_processor_gets_the_modules_named(void **state)
{
	struct host *host = *state;

	put(host, "/proc/cpuinfo", "processor\t: 0\nflags\t\t: fpu vmx sse\n");
	inspect(host, NULL);
	assert_found(host, "kvm", HOST_MISSING, "modprobe kvm_intel");
}

static void ksm_may_be_off(void **state)
{
	struct host *host = *state;

	put(host, "/sys/kernel/mm/ksm/run", "0\n");
	inspect(host, NULL);
	assert_found(host, "ksm", HOST_MISSING, "there, but off");
}

static void both_forms_say_the_same(void **state)
{
	struct host *host = *state;
	char *text = NULL;
	char *json = NULL;
	size_t size = 0;
	FILE *out = open_memstream(&text, &size);
	json_t *array = NULL;

	inspect(host, NULL);
	cli_host_print(host->found, host->n, out);
	assert_int_equal(fclose(out), 0);
	out = open_memstream(&json, &size);
	assert_int_equal(cli_host_print_json(host->found, host->n, out), 0);
	assert_int_equal(fclose(out), 0);
	assert_int_equal(json_parse(json, strlen(json), "json", &array, NULL), 0);
	assert_int_equal(json_array_size(array), host->n);
	for (size_t i = 0; i < host->n; i++) {
		const json_t *one = json_array_get(array, i);
		const char *advice = NULL;

		assert_int_equal(json_get_string(one, "advice", &advice, NULL), 1);
		assert_string_equal(advice, host->found[i].advice);
		assert_non_null(strstr(text, host->found[i].name));
		assert_non_null(strstr(text, advice));
	}
	json_decref(array);
	free(text);
	free(json);
}

int main(void)
{
#define ON_A_HOST(t) cmocka_unit_test_setup_teardown(t, host_new, host_free)
	const struct CMUnitTest tests[] = {
		ON_A_HOST(an_empty_host_lacks_everything),
		ON_A_HOST(a_host_with_all_is_told_so),
		ON_A_HOST(kvm_must_answer),
		ON_A_HOST(an_able_processor_gets_the_modules_named),
		ON_A_HOST(ksm_may_be_off),
		ON_A_HOST(both_forms_say_the_same),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
