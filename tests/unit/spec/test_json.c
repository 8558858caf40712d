#include "spec_test.h"

#include <errno.h>
#include <stdio.h>
#include <unistd.h>

#include "base/bits.h"

static int from_text(struct spec *spec, const char *text, struct error *err)
{
	spec_init(spec);
	return spec_from_json(spec, text, strlen(text), "vm.json", err);
}

static void assert_text_refused(const char *text, const char *part)
{
	struct error err = ERROR_INIT;
	struct spec spec;

	assert_true(from_text(&spec, text, &err) < 0);
	if (!strstr(err.text, part))
		fail_msg("\"%s\" has no \"%s\"", err.text, part);
	spec_fini(&spec);
}

static void an_object_is_read(void **state)
{
	static const char text[] = "{\"kernel\": \"vmlinuz\", \"append\": \"console=ttyS0\","
				   " \"memory\": {\"size\": \"1G\", \"mergeable\": true},"
				   " \"cpus\": 2, \"balloon\": false, \"vsock\": {\"cid\": 9},"
				   " \"disks\": [\"a.img\", {\"path\": \"b,c\", \"slot\": 3}],"
				   " \"nets\": [{\"type\": \"tap\", \"fds\": [7, 8]},"
				   "  {\"hostfwd\": [\"tcp::1-:1\", \"udp::1-:1\"]}],"
				   " \"serial\": \"pty\", \"paused\": true, \"accel\": \"soft\"}";
	struct error err = ERROR_INIT;
	struct spec spec;

	(void)state;
	if (from_text(&spec, text, &err) < 0)
		fail_msg("%s", err.text);
	assert_string_equal(spec.boot.kernel, "vmlinuz");
	assert_int_equal(spec.memory.size_bytes, GIB);
	assert_true(spec.memory.mergeable);
	assert_int_equal(spec.cpu.count, 2);
	assert_false(spec.balloon);
	assert_int_equal(spec.vsock.cid, 9);
	assert_int_equal(spec.n_disks, 2);
	assert_string_equal(spec.disks[0].path, "a.img");
	assert_string_equal(spec.disks[1].path, "b,c");
	assert_int_equal(spec.disks[1].slot, 3);
	assert_int_equal(spec.nets[0].n_fds, 2);
	assert_int_equal(spec.nets[1].n_hostfwd, 2);
	assert_int_equal(spec.serial.kind, SPEC_CHAR_PTY);
	assert_true(spec.start_paused);
	assert_int_equal(spec.accel, SPEC_ACCEL_SOFT);
	assert_int_equal(spec_finish(&spec, &err), 0);
	spec_fini(&spec);
}

static void bad_objects_are_refused(void **state)
{
	(void)state;
	assert_text_refused("[]", "vm.json: a machine is an object");
	assert_text_refused("{", "vm.json: line 1");
	assert_text_refused("{\"kernel\": 1}", "vm.json: kernel: must be a string");
	assert_text_refused("{\"kernel\": \"a\", \"kernel\": \"b\"}", "duplicate");
	assert_text_refused("{\"kernle\": \"a\"}",
			    "vm.json: key 'kernle' is not known: did you mean 'kernel'?");
	assert_text_refused("{\"help\": true}", "key 'help' is not known");
	assert_text_refused("{\"config\": \"x\"}", "key 'config' is not known");
	assert_text_refused("{\"disks\": {}}", "disks: must be an array");
	assert_text_refused("{\"disks\": [{\"path\": \"a\"}, {\"pth\": \"b\"}]}",
			    "disks: [1]: key 'pth' is not known: did you mean 'path'?");
	assert_text_refused("{\"disks\": [{\"readonly\": \"on\"}]}",
			    "disks: [0]: readonly: must be true or false");
	assert_text_refused("{\"disks\": [[\"a\"]]}", "disks: [0]: must be a string");
	assert_text_refused("{\"memory\": 1.5}", "memory: must be a string, as \"512M\"");
	assert_text_refused("{\"memory\": {\"size\": \"1X\"}}", "memory: size: '1X' is not a size");
	assert_text_refused("{\"cpus\": -1}", "'-1' is not a whole number");
	assert_text_refused("{\"cpus\": \"2\"}", "cpus: must be a whole number");
	assert_text_refused("{\"rng\": null}", "rng: must be true or false");
	assert_text_refused("{\"nets\": [{\"hostfwd\": [[]]}]}", "hostfwd: must be an array");
	assert_text_refused("{\"nets\": [{\"hostfwd\": [1]}]}", "hostfwd: must be an array");
	assert_text_refused("{\"nets\": [{\"hostfwd\": [\"x\"]}]}", "it begins with neither");
	assert_text_refused("{\"kernel\": \"a\\u0000b\"}", "vm.json: line 1");
}

/* Reads what was written and writes it again: the same text, and so the same machine. */
static void assert_round_trip(const struct spec *spec)
{
	struct error err = ERROR_INIT;
	char *text = spec_to_json(spec);
	struct spec again;
	char *second;

	assert_non_null(text);
	if (from_text(&again, text, &err) < 0)
		fail_msg("%s", err.text);
	second = spec_to_json(&again);
	assert_non_null(second);
	assert_string_equal(text, second);
	spec_fini(&again);
	free(text);
	free(second);
}

static void every_machine_survives_a_round_trip(void **state)
{
	struct spec spec;

	(void)state;
	spec_init(&spec);
	assert_round_trip(&spec);
	spec_fini(&spec);
	assert_finished(&spec, "--kernel", "k", "--initrd", "i", "--append", "", "--name", "n",
			"--uuid", "01234567-89ab-cdef-0123-456789abcdef", "--accel", "soft",
			"--memory", "65M,mergeable=on,prealloc=on,path=/m", "--cpus", "4,threads=2",
			"--disk",
			"path=a,,b,id=root,readonly=on,serial=S,cache=unsafe,engine=io_uring,"
			"discard=off,lock=off,queues=2,queue-size=2,iothread=on,slot=31",
			"--disk", "fd=9", "--net",
			"tap,fds=3:4,vhost=on,mtu=1500,iothread=on,slot=1,queue-size=1024");
	assert_round_trip(&spec);
	spec_fini(&spec);
	assert_finished(&spec, "--kernel", "k", "--net", "user,hostfwd=tcp::-:22", "--net",
			"tap,ifname=t", "--net", "null", "--serial", "unix:/a\"b", "--console",
			"file:c", "--rng", "off", "--balloon", "off,free-page-reporting=off",
			"--vsock", "4294967294", "--pvpanic", "off", "--vmgenid", "off", "--qmp",
			"/q", "--no-reboot", "--paused", "--debug-exit", "244", "--test-ports",
			"--escape", "none");
	assert_round_trip(&spec);
	spec_fini(&spec);
	assert_finished(&spec, "--accel", "null,script=s", "--memory",
			"2G,hugepages=on,hugepage-size=1G");
	assert_round_trip(&spec);
	spec_fini(&spec);
}

static void sizes_are_written_exactly(void **state)
{
	static const struct {
		const char *arg, *json;
	} cases[] = {
		{"1024M", "\"size\": \"1G\""},
		{"1025M", "\"size\": \"1025M\""},
		{"67108864B", "\"size\": \"64M\""},
		{"65540K", "\"size\": \"65540K\""},
		{"33554433B", "\"size\": \"33554433B\""},
		{"2T", "\"size\": \"2T\""},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct spec spec;
		char *text;

		assert_parsed(&spec, "--memory", cases[i].arg);
		text = spec_to_json(&spec);
		assert_non_null(text);
		if (!strstr(text, cases[i].json))
			fail_msg("%s has no %s", text, cases[i].json);
		free(text);
		spec_fini(&spec);
	}
}

static void options_after_a_file_override_it(void **state)
{
	static const char text[] =
		"{\"kernel\": \"a\", \"cpus\": {\"count\": 2, \"sockets\": 1, \"cores\": 2,"
		" \"threads\": 1}, \"disks\": [\"a\"], \"memory\": \"1G\"}";
	char path[] = "/tmp/vireo-spec-XXXXXX";
	struct spec spec;
	int fd = mkstemp(path);

	(void)state;
	assert_true(fd >= 0);
	assert_int_equal(write(fd, text, sizeof(text) - 1), sizeof(text) - 1);
	close(fd);
	assert_finished(&spec, "--kernel", "0", "--config", path, "--cpus", "4", "--memory",
			"mergeable=on", "--disk", "b");
	assert_string_equal(spec.boot.kernel, "a");
	assert_int_equal(spec.cpu.count, 4);
	assert_int_equal(spec.cpu.cores, 4);
	assert_int_equal(spec.memory.size_bytes, GIB);
	assert_true(spec.memory.mergeable);
	assert_int_equal(spec.n_disks, 2);
	spec_fini(&spec);
	unlink(path);
}

static void text_that_json_cannot_hold_is_no_crash(void **state)
{
	struct spec spec;

	(void)state;
	assert_parsed(&spec, "--kernel", "\xFF\xFE");
	assert_null(spec_to_json(&spec));
	spec_fini(&spec);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(an_object_is_read),
		cmocka_unit_test(bad_objects_are_refused),
		cmocka_unit_test(every_machine_survives_a_round_trip),
		cmocka_unit_test(sizes_are_written_exactly),
		cmocka_unit_test(options_after_a_file_override_it),
		cmocka_unit_test(text_that_json_cannot_hold_is_no_crash),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
