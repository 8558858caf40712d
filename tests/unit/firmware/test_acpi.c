/*
 * The tables are read as an operating system reads them, from the RSDP down; then ACPICA's own tools, where installed,
 * disassemble all of them and run the methods.
 */
#include "firmware/guest.h"

#include <fcntl.h>
#include <spawn.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/fd.h"
#include "vm/bus/pci.h"
#include "vm/bus/platform.h"
#include "vm/firmware/acpi.h"
#include "vm/firmware/layout.h"

#define MAX_TABLES 8

struct tables {
	struct gmem *mem;
	gpa_t rsdp;
	unsigned n;
	gpa_t at[MAX_TABLES];
	char signature[MAX_TABLES][5];
};

static const struct firmware_acpi_config full = {
	.n_vcpus = 4,
	.pci_window64_base = 0x400000000,
	.pci_window64_end = 0x800000000,
	.vmgenid_gpa = FW_VMGENID_BASE,
	.uart = true,
	.rtc = true,
	.pvpanic = true,
};

static void assert_sum_is_zero(const struct gmem *mem, gpa_t gpa, uint64_t len)
{
	uint8_t sum = 0;

	for (uint64_t i = 0; i < len; i++)
		sum = (uint8_t)(sum + guest_load(mem, gpa + i, 1));
	assert_int_equal(sum, 0);
}

static void add_table(struct tables *t, gpa_t gpa)
{
	assert_true(t->n < MAX_TABLES);
	assert_in_range(gpa, FW_ACPI_BASE, FW_VMGENID_BASE - 36);
	assert_int_equal(gmem_read(t->mem, gpa, t->signature[t->n], 4), 0);
	t->at[t->n++] = gpa;
	if (strcmp(t->signature[t->n - 1], "FACS") != 0)
		assert_sum_is_zero(t->mem, gpa, guest_load(t->mem, gpa + 4, 4));
}

static gpa_t find(const struct tables *t, const char *signature)
{
	for (unsigned i = 0; i < t->n; i++)
		if (strcmp(t->signature[i], signature) == 0)
			return t->at[i];
	fail_msg("no %s", signature);
	return 0;
}

/* Finds the RSDP by search, as the specification has it, and all tables from there. */
static struct tables build(const struct firmware_acpi_config *config)
{
	struct tables t = {.mem = guest_memory(32 * MIB)};
	struct error err = ERROR_INIT;
	gpa_t rsdp = 0, xsdt, fadt;

	assert_int_equal(firmware_build_acpi(t.mem, config, &rsdp, &err), 0);
	for (t.rsdp = 0xE0000; t.rsdp < 0x100000; t.rsdp += 16)
		if (guest_load(t.mem, t.rsdp, 8) == 0x2052545020445352) /* "RSD PTR " */
			break;
	assert_int_equal(t.rsdp, rsdp);
	assert_sum_is_zero(t.mem, rsdp, 20);
	assert_sum_is_zero(t.mem, rsdp, 36);
	assert_int_equal(guest_load(t.mem, rsdp + 15, 1), 2);
	xsdt = guest_load(t.mem, rsdp + 24, 8);
	assert_sum_is_zero(t.mem, xsdt, guest_load(t.mem, xsdt + 4, 4));
	for (gpa_t p = xsdt + 36; p < xsdt + guest_load(t.mem, xsdt + 4, 4); p += 8)
		add_table(&t, guest_load(t.mem, p, 8));
	fadt = find(&t, "FACP");
	assert_int_equal(guest_load(t.mem, fadt + 40, 4), guest_load(t.mem, fadt + 140, 8));
	assert_int_equal(guest_load(t.mem, fadt + 36, 4), guest_load(t.mem, fadt + 132, 8));
	add_table(&t, guest_load(t.mem, fadt + 140, 8));
	add_table(&t, guest_load(t.mem, fadt + 132, 8));
	return t;
}

static void every_table_is_found_and_sums_up(void **state)
{
	struct tables t = build(&full);

	(void)state;
	find(&t, "FACP");
	find(&t, "APIC");
	find(&t, "MCFG");
	find(&t, "SSDT");
	find(&t, "DSDT");
	assert_int_equal(find(&t, "FACS") % 64, 0);
	assert_int_equal(guest_load(t.mem, find(&t, "MCFG") + 44, 8), PCI_ECAM_BASE);
	gmem_free(t.mem);
}

static void fadt_tells_the_fixed_hardware(void **state)
{
	struct tables t = build(&full);
	gpa_t f = find(&t, "FACP");
	uint32_t flags = (uint32_t)guest_load(t.mem, f + 112, 4);

	(void)state;
	assert_int_equal(guest_load(t.mem, f + 4, 4), 276);
	assert_int_equal(guest_load(t.mem, f + 46, 2), PLATFORM_SCI_GSI);
	assert_int_equal(guest_load(t.mem, f + 48, 4), 0); /* no SMI command port */
	assert_int_equal(guest_load(t.mem, f + 56, 4), PLATFORM_PM1A_EVT_PORT);
	assert_int_equal(guest_load(t.mem, f + 64, 4), PLATFORM_PM1A_CNT_PORT);
	assert_int_equal(guest_load(t.mem, f + 76, 4), PLATFORM_PM_TMR_PORT);
	assert_int_equal(guest_load(t.mem, f + 80, 4), PLATFORM_GPE0_PORT);
	assert_int_equal(guest_load(t.mem, f + 108, 1), PLATFORM_RTC_CENTURY_INDEX);
	assert_int_equal(guest_load(t.mem, f + 109, 2) & 2, 0); /* no 8042 */
	assert_true(flags & 1U << 10);                          /* reset register */
	assert_false(flags & 1U << 4);                          /* fixed power button */
	assert_false(flags & 1U << 20);                         /* not hardware-reduced */
	assert_int_equal(guest_load(t.mem, f + 116 + 4, 8), PLATFORM_RESET_PORT);
	assert_int_equal(guest_load(t.mem, f + 128, 1), PLATFORM_RESET_VALUE);
	gmem_free(t.mem);
}

/* How many MADT entries of `type` there are. */
static unsigned madt_count(const struct tables *t, unsigned type)
{
	gpa_t madt = find(t, "APIC"), end = madt + guest_load(t->mem, madt + 4, 4);
	unsigned n = 0;

	for (gpa_t p = madt + 44; p < end;) {
		unsigned len = (unsigned)guest_load(t->mem, p + 1, 1);

		assert_true(len >= 2 && p + len <= end);
		n += guest_load(t->mem, p, 1) == type;
		p += len;
	}
	return n;
}

static void every_vcpu_is_told(void **state)
{
	uint32_t ids[255];
	struct firmware_acpi_config config = full;
	struct tables t;

	(void)state;
	config.n_vcpus = 255;
	t = build(&config);
	assert_int_equal(madt_count(&t, 0), 255);
	assert_int_equal(madt_count(&t, 9), 0);
	assert_int_equal(madt_count(&t, 2), 2);
	assert_int_equal(madt_count(&t, 4), 1);
	gmem_free(t.mem);

	for (uint32_t i = 0; i < 255; i++)
		ids[i] = i * 2; /* cores of one thread in a topology that has room for two */
	config.apic_ids = ids;
	t = build(&config);
	assert_int_equal(madt_count(&t, 0), 128);
	assert_int_equal(madt_count(&t, 9), 127);
	assert_int_equal(madt_count(&t, 10), 1);
	gmem_free(t.mem);
}

static void nonsense_is_refused(void **state)
{
	struct gmem *mem = guest_memory(32 * MIB), *tiny = guest_memory(64 * KIB);
	struct firmware_acpi_config config = full;
	struct error err = ERROR_INIT;
	gpa_t rsdp = 7;

	(void)state;
	config.n_vcpus = 0;
	assert_true(firmware_build_acpi(mem, &config, &rsdp, &err) < 0);
	config.n_vcpus = 256;
	assert_true(firmware_build_acpi(mem, &config, &rsdp, &err) < 0);
	assert_true(firmware_build_acpi(tiny, &full, &rsdp, &err) < 0);
	assert_int_equal(rsdp, 7);
	gmem_free(mem);
	gmem_free(tiny);
}

/* --- with ACPICA's tools --- */

static char dir[] = "/tmp/vireo-test-acpi-XXXXXX";

static void write_tables(const struct tables *t)
{
	assert_non_null(mkdtemp(dir));
	for (unsigned i = 0; i < t->n; i++) {
		uint64_t len = guest_load(t->mem, t->at[i] + 4, 4);
		char path[64];

		snprintf(path, sizeof(path), "%s/%s.aml", dir, t->signature[i]);

		_cleanup_close_ int fd = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);

		assert_int_equal(fd_write_full(fd, gmem_ptr_ro(t->mem, t->at[i], len), len), 0);
	}
}

static void remove_dir(void)
{
	const char *argv[] = {"rm", "-r", dir, NULL};
	union {
		const char **in;
		char *const *out;
	} args = {.in = argv};
	pid_t pid;

	if (posix_spawnp(&pid, "rm", NULL, NULL, args.out, environ) == 0)
		waitpid(pid, NULL, 0);
	memcpy(dir + strlen(dir) - 6, "XXXXXX", 6);
}

/* Runs a program in the tables' folder, its output goes to `out`. Returns its exit status, or -1 when it is not there. */
static int run(char *out, size_t out_size, const char *const *argv, const char *input)
{
	posix_spawn_file_actions_t actions;
	union {
		const char *const *in;
		char *const *out;
	} args = {.in = argv};
	_cleanup_close_ int input_fd = memfd_create("input", MFD_CLOEXEC);
	int pipe_fd[2], status;
	pid_t pid;
	ssize_t n;
	int r;

	assert_int_equal(fd_pwrite_full(input_fd, input, strlen(input), 0), 0);
	assert_int_equal(pipe2(pipe_fd, O_CLOEXEC), 0);
	posix_spawn_file_actions_init(&actions);
	posix_spawn_file_actions_adddup2(&actions, input_fd, 0);
	posix_spawn_file_actions_adddup2(&actions, pipe_fd[1], 1);
	posix_spawn_file_actions_adddup2(&actions, pipe_fd[1], 2);
	posix_spawn_file_actions_addchdir_np(&actions, dir);
	r = posix_spawnp(&pid, argv[0], &actions, NULL, args.out, environ);
	posix_spawn_file_actions_destroy(&actions);
	close(pipe_fd[1]);
	n = fd_read_full(pipe_fd[0], out, out_size - 1);
	close(pipe_fd[0]);
	out[n > 0 ? n : 0] = '\0';
	if (r != 0)
		return -1;
	assert_int_equal(waitpid(pid, &status, 0), pid);
	return WIFEXITED(status) && WEXITSTATUS(status) != 127 ? WEXITSTATUS(status) : -1;
}

static void acpica_disassembles_all(void **state)
{
	struct tables t = build(&full);
	static char out[1 << 16];
	int r = 0;

	(void)state;
	write_tables(&t);
	for (unsigned i = 0; i < t.n && r == 0; i++) {
		char file[16];
		const char *argv[] = {"iasl", "-d", file, NULL};

		snprintf(file, sizeof(file), "%s.aml", t.signature[i]);
		r = run(out, sizeof(out), argv, "");
		if (r > 0 || (r == 0 && (strstr(out, "Error") || strstr(out, "Warning"))))
			fail_msg("iasl -d %s: %s", file, out);
	}
	remove_dir();
	gmem_free(t.mem);
	if (r < 0)
		skip();
}

struct check {
	const char *path;
	const char *want[4];
};

/* In acpiexec's output, a command is repeated and its answer follows, up to the next command. */
static void check_answer(char *out, const struct check *check)
{
	char command[64];
	char *answer, *end;

	snprintf(command, sizeof(command), "- execute %s\n", check->path);
	answer = strstr(out, command);
	if (!answer)
		fail_msg("acpiexec did not execute %s:\n%s", check->path, out);
	answer += strlen(command);
	end = strstr(answer, "\n- ");
	assert_non_null(end);
	*end = '\0';
	for (unsigned i = 0; check->want[i]; i++)
		if (!strstr(answer, check->want[i]))
			fail_msg("%s: no '%s' in\n%s", check->path, check->want[i], answer);
	*end = '\n';
}

static void acpica_runs_the_methods(void **state)
{
	static const char *const argv[] = {"acpiexec", "DSDT.aml", "SSDT.aml", NULL};
	static const struct check checks[] = {
		/* the 64-bit window: tag, first and last address, length */
		{"\\_SB.PCI0._CRS",
		 {"0050: 00 20 8A 2B", "0060: 00 00 00 00 04 00 00 00 FF FF FF FF 07 00 00 00",
		  "0070: 00 00 00 00 00 00 00 00 00 00 00 00 04 00 00 00"}},
		{"\\_SB.VGEN.ADDR", {"[Package]", "00000000000EF000"}},
		{"\\_SB.VGEN._STA", {"= 000000000000000F"}},
		{"\\_SB.COM1._STA", {"= 000000000000000F"}},
		{"\\_SB.PEVT._STA", {"= 000000000000000F"}},
		{"\\_SB.KBD._STA", {"= 0000000000000000"}},
		{"\\_SB.C003._UID", {"= 0000000000000003"}},
		{"\\_S5", {"0000000000000005"}},
	};
	static char out[1 << 16];
	struct tables t = build(&full);
	char commands[1024] = "";
	size_t used = 0;
	int r;

	(void)state;
	write_tables(&t);
	for (size_t i = 0; i < ARRAY_SIZE(checks); i++)
		used += (size_t)snprintf(commands + used, sizeof(commands) - used, "execute %s\n",
					 checks[i].path);
	snprintf(commands + used, sizeof(commands) - used, "quit\n");
	r = run(out, sizeof(out), argv, commands);
	remove_dir();
	gmem_free(t.mem);
	if (r < 0)
		skip();
	for (size_t i = 0; i < ARRAY_SIZE(checks); i++)
		check_answer(out, &checks[i]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_table_is_found_and_sums_up),
		cmocka_unit_test(fadt_tells_the_fixed_hardware),
		cmocka_unit_test(every_vcpu_is_told),
		cmocka_unit_test(nonsense_is_refused),
		cmocka_unit_test(acpica_disassembles_all),
		cmocka_unit_test(acpica_runs_the_methods),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
