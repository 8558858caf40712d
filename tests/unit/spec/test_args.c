#include "spec_test.h"

#include <errno.h>
#include <stdio.h>

#include "base/bits.h"

static void defaults_are_documented_ones(void **state)
{
	struct spec spec;

	(void)state;
	spec_init(&spec);
	assert_string_equal(spec.name, "vireo");
	assert_int_equal(spec.accel, SPEC_ACCEL_AUTO);
	assert_int_equal(spec.cpu.count, 1);
	assert_int_equal(spec.memory.size_bytes, 512 * MIB);
	assert_int_equal(spec.serial.kind, SPEC_CHAR_STDIO);
	assert_int_equal(spec.console.kind, SPEC_CHAR_NONE);
	assert_true(spec.rng && spec.balloon && spec.balloon_free_page_reporting);
	assert_true(spec.pvpanic && spec.vmgenid);
	assert_false(spec.vsock.present || spec.no_reboot || spec.start_paused);
	assert_int_equal(spec.debug_exit_port, 0);
	assert_false(spec.test_ports);
	assert_int_equal(spec.escape_key, 1);
	assert_null(spec.boot.kernel);
	assert_null(spec.qmp_socket);
	assert_int_equal(spec.n_disks + spec.n_nets, 0);
	spec_fini(&spec);
}

static void the_issue_command_line_is_taken(void **state)
{
	struct spec spec;

	(void)state;
	assert_finished(&spec, "--kernel", "vmlinuz", "--initrd", "initrd.img", "--append",
			"console=ttyS0", "--memory", "512M", "--cpus", "2", "--disk",
			"path=root.img", "--net", "user,hostfwd=tcp:127.0.0.1:2222-:22", "--name",
			"demo");
	assert_string_equal(spec.boot.kernel, "vmlinuz");
	assert_string_equal(spec.boot.initrd, "initrd.img");
	assert_string_equal(spec.boot.cmdline, "console=ttyS0");
	assert_int_equal(spec.memory.size_bytes, 512 * MIB);
	assert_int_equal(spec.cpu.count, 2);
	assert_int_equal(spec.n_disks, 1);
	assert_string_equal(spec.disks[0].path, "root.img");
	assert_int_equal(spec.n_nets, 1);
	assert_int_equal(spec.nets[0].kind, SPEC_NET_USER);
	assert_int_equal(spec.nets[0].n_hostfwd, 1);
	assert_string_equal(spec.nets[0].hostfwd[0], "tcp:127.0.0.1:2222-:22");
	assert_string_equal(spec.name, "demo");
	spec_fini(&spec);
}

static void values_stand_behind_equals_too(void **state)
{
	struct spec spec;

	(void)state;
	assert_parsed(&spec, "--kernel=a=b", "--append=root=/dev/vda ro", "--memory=1G",
		      "--no-reboot", "--paused=off", "--rng=off", "--pvpanic", "off");
	assert_string_equal(spec.boot.kernel, "a=b");
	assert_string_equal(spec.boot.cmdline, "root=/dev/vda ro");
	assert_int_equal(spec.memory.size_bytes, GIB);
	assert_true(spec.no_reboot);
	assert_false(spec.start_paused || spec.rng || spec.pvpanic);
	spec_fini(&spec);
}

static void groups_are_read(void **state)
{
	struct spec spec;

	(void)state;
	assert_parsed(&spec, "--memory", "64,hugepages,hugepage-size=1G,prealloc=yes", "--cpus",
		      "8,sockets=2,cores=2,threads=2", "--balloon", "on,free-page-reporting=off",
		      "--vsock", "cid=7", "--accel", "null,script=steps", "--memory",
		      "mergeable=on");
	assert_int_equal(spec.memory.size_bytes, 64 * MIB);
	assert_int_equal(spec.memory.hugepage_bytes, GIB);
	assert_true(spec.memory.hugepages && spec.memory.prealloc && spec.memory.mergeable);
	assert_int_equal(spec.cpu.threads, 2);
	assert_true(spec.balloon);
	assert_false(spec.balloon_free_page_reporting);
	assert_true(spec.vsock.present);
	assert_int_equal(spec.vsock.cid, 7);
	assert_int_equal(spec.accel, SPEC_ACCEL_NULL);
	assert_string_equal(spec.null_script, "steps");
	spec_fini(&spec);
}

static void every_disk_key_is_read(void **state)
{
	struct spec spec;
	const struct spec_disk *d;

	(void)state;
	assert_parsed(&spec, "--disk",
		      "path=a,id=root,format=raw,readonly=on,serial=S1,cache=none,engine=threads,"
		      "discard=off,lock=off,queues=3,queue-size=64,iothread,slot=9",
		      "--disk", "b.img", "--disk", "fd=5");
	assert_int_equal(spec.n_disks, 3);
	d = &spec.disks[0];
	assert_string_equal(d->path, "a");
	assert_string_equal(d->id, "root");
	assert_string_equal(d->format, "raw");
	assert_string_equal(d->serial, "S1");
	assert_string_equal(d->engine, "threads");
	assert_int_equal(d->cache, SPEC_CACHE_NONE);
	assert_true(d->readonly && d->iothread);
	assert_false(d->discard || d->lock);
	assert_int_equal(d->queues, 3);
	assert_int_equal(d->queue_size, 64);
	assert_int_equal(d->slot, 9);
	assert_int_equal(d->fd, -1);
	d = &spec.disks[1];
	assert_string_equal(d->path, "b.img");
	assert_string_equal(d->engine, "auto");
	assert_true(d->discard && d->lock);
	assert_int_equal(d->queue_size, 256);
	assert_int_equal(d->slot, -1);
	assert_null(spec.disks[2].path);
	assert_int_equal(spec.disks[2].fd, 5);
	spec_fini(&spec);
}

static void every_net_key_is_read(void **state)
{
	static const uint8_t mac[6] = {0x52, 0x54, 0, 0xAB, 0xCD, 0xEF};
	struct spec spec;
	const struct spec_net *n;

	(void)state;
	assert_parsed(&spec, "--net",
		      "tap,id=wan,mac=52:54:00:ab:CD:ef,fds=3:4,vhost=on,queues=2,mtu=9000,"
		      "queue-size=512,iothread=on,slot=4",
		      "--net", "tap,ifname=tap0", "--net", "type=null", "--net",
		      "user,hostfwd=tcp::80-:80,hostfwd=udp:[::1]:-:53");
	assert_int_equal(spec.n_nets, 4);
	n = &spec.nets[0];
	assert_int_equal(n->kind, SPEC_NET_TAP);
	assert_string_equal(n->id, "wan");
	assert_true(n->mac_given && n->vhost && n->iothread);
	assert_memory_equal(n->mac, mac, sizeof(mac));
	assert_int_equal(n->n_fds, 2);
	assert_int_equal(n->fds[0], 3);
	assert_int_equal(n->fds[1], 4);
	assert_int_equal(n->mtu, 9000);
	assert_int_equal(n->queue_size, 512);
	assert_int_equal(n->slot, 4);
	assert_string_equal(spec.nets[1].ifname, "tap0");
	assert_int_equal(spec.nets[2].kind, SPEC_NET_NULL);
	assert_int_equal(spec.nets[3].n_hostfwd, 2);
	assert_null(spec.nets[3].hostfwd[2]);
	/* A port of the host that is left out is the guest's. */
	assert_string_equal(spec.nets[3].hostfwd[1], "udp:[::1]:53-:53");
	spec_fini(&spec);
}

static void a_doubled_comma_is_one_in_a_value(void **state)
{
	struct spec spec;

	(void)state;
	assert_parsed(&spec, "--disk", "path=a,,b,readonly=on", "--disk", "x,,,readonly", "--disk",
		      "path=,,", "--kernel", "k,,l");
	assert_string_equal(spec.disks[0].path, "a,b");
	assert_true(spec.disks[0].readonly);
	assert_string_equal(spec.disks[1].path, "x,");
	assert_true(spec.disks[1].readonly);
	assert_string_equal(spec.disks[2].path, ",");
	/* An option that is one value has no list, hence nothing to double. */
	assert_string_equal(spec.boot.kernel, "k,,l");
	spec_fini(&spec);
}

static void characters_and_keys_are_read(void **state)
{
	struct spec spec;

	(void)state;
	assert_parsed(&spec, "--serial", "unix:/run/a:b", "--console", "file:log", "--escape", "^]",
		      "--uuid", "01234567-89ab-cdef-0123-456789ABCDEF", "--debug-exit", "0xf4");
	assert_int_equal(spec.serial.kind, SPEC_CHAR_UNIX);
	assert_string_equal(spec.serial.path, "/run/a:b");
	assert_int_equal(spec.console.kind, SPEC_CHAR_FILE);
	assert_string_equal(spec.console.path, "log");
	assert_int_equal(spec.escape_key, 0x1D);
	assert_true(spec.uuid_given);
	assert_int_equal(spec.uuid[15], 0xEF);
	assert_int_equal(spec.debug_exit_port, 0xF4);
	spec_fini(&spec);
	assert_parsed(&spec, "--serial", "unix:a", "--serial", "pty", "--escape=none");
	assert_int_equal(spec.serial.kind, SPEC_CHAR_PTY);
	assert_null(spec.serial.path);
	assert_int_equal(spec.escape_key, 0);
	spec_fini(&spec);
}

static void the_last_of_equal_options_counts(void **state)
{
	struct spec spec;

	(void)state;
	assert_finished(&spec, "--kernel", "a", "--kernel", "b", "--cpus", "4,sockets=2", "--cpus",
			"3");
	assert_string_equal(spec.boot.kernel, "b");
	assert_int_equal(spec.cpu.count, 3);
	assert_int_equal(spec.cpu.sockets, 1);
	spec_fini(&spec);
}

static void unknown_words_name_the_nearest(void **state)
{
	(void)state;
	assert_refused("did you mean '--kernel'?", "--kernal", "x");
	assert_refused("did you mean '--memory'?", "--memroy=1G");
	assert_refused("did you mean '--cpus'?", "-cpus", "2");
	assert_refused("--zzzzzzzzzzz' is not known: see --help", "--zzzzzzzzzzz");
	assert_refused("--disk: key 'raedonly' is not known: did you mean 'readonly'?", "--disk",
		       "path=x,raedonly=on");
	assert_refused("--net: key 'hostfw' is not known: did you mean 'hostfwd'?", "--net",
		       "user,hostfw=tcp::1-:1");
	assert_refused("'vmlinuz' is no option", "vmlinuz");
	assert_refused("'' is no option", "");
	assert_refused("--' is not known", "--");
}

static void missing_and_unwanted_values_are_refused(void **state)
{
	(void)state;
	assert_refused("--kernel needs a value: give --kernel FILE", "--kernel");
	assert_refused("--print-config takes no value", "--print-config=yes");
	assert_refused("--disk: key 'path' needs a value: give path=VALUE", "--disk", "path");
	assert_refused("has an empty item", "--disk", "path=a,");
	assert_refused("has an empty item", "--memory", "");
	assert_refused("--kernel: is empty", "--kernel=");
	assert_refused("--no-reboot: 'maybe' is neither on nor off", "--no-reboot=maybe");
}

static void bad_values_are_refused(void **state)
{
	(void)state;
	assert_refused("--memory: size: 'big' is not a size", "--memory", "big");
	assert_refused("--cpus: count: 'two' is not a whole number", "--cpus", "two");
	assert_refused("--cpus: count: '-1' is not a whole number", "--cpus", "-1");
	assert_refused("--accel: kind: 'hvf' is not known: give auto, kvm, soft or null", "--accel",
		       "hvf");
	assert_refused("--disk: cache: 'fast' is not known", "--disk", "x,cache=fast");
	assert_refused("--disk: format: 'qcow3' is not known", "--disk", "x,format=qcow3");
	assert_refused("--net: mac: '52:54' is no MAC address", "--net", "user,mac=52:54");
	assert_refused("group address", "--net", "user,mac=01:00:5e:00:00:01");
	assert_refused("all zeros", "--net", "user,mac=00:00:00:00:00:00");
	assert_refused("--uuid: '123' is no UUID", "--uuid", "123");
	assert_refused("--serial: 'com1' is not known", "--serial", "com1");
	assert_refused("--serial: 'stdio:x' takes no path", "--serial", "stdio:x");
	assert_refused("--serial: needs a path", "--serial", "unix:");
	assert_refused("--console: needs a path", "--console", "file");
	assert_refused("no control key", "--escape", "A");
	assert_refused("'x' is no descriptor", "--net", "tap,fds=3:x");
	assert_refused("more than 8 descriptors", "--net", "tap,fds=1:2:3:4:5:6:7:8:9");
	assert_refused("--vsock: cid: 2 is out of range", "--vsock", "cid=2");
	assert_refused("--vsock: cid: 4294967295 is out of range", "--vsock", "4294967295");
	assert_refused("--vsock: cid: 4294967296 is too large", "--vsock", "4294967296");
	assert_refused("--debug-exit: 65536 is out of range", "--debug-exit", "65536");
	assert_refused("20 bytes at most", "--disk", "x,serial=123456789012345678901");
	assert_refused("cannot open '/nonexistent/x'", "--config", "/nonexistent/x");
}

static void forwards_are_checked(void **state)
{
	static const char *const bad[] = {
		"x",
		"tcp",
		"tcp:80",
		"tcp::80",
		"tcp::80-80",
		"tcp::-:",
		"tcp::0-:1",
		"tcp::1-:0",
		"tcp::65536-:1",
		"sctp::1-:1",
		"tcp:h:1-:1",
		"tcp::1-g:1",
		"tcp:1.2.3:1-:1",
		"tcp::1-:1x",
		"tcp:::1-:1",
		"tcp::1-:1:1",
		"tcp::-1-:1",
		"tcp:[::1:1-:1",
		"tcp:::1]:1-:1",
		"tcp:[1.2.3.4]:1-:1",
	};
	static const char *const good[] = {"tcp::1-:1", "udp:0.0.0.0:1-10.0.2.15:65535",
					   "tcp::-:22", "tcp:[::1]:80-:80"};
	char item[128];

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		snprintf(item, sizeof(item), "user,hostfwd=%s", bad[i]);
		assert_refused("write tcp|udp:", "--net", item);
	}
	for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
		struct spec spec;

		snprintf(item, sizeof(item), "user,hostfwd=%s", good[i]);
		assert_parsed(&spec, "--net", item);
		spec_fini(&spec);
	}
}

static void actions_are_reported(void **state)
{
	struct spec_cli_result result = {0};
	struct error err = ERROR_INIT;
	struct spec spec;

	(void)state;
	assert_int_equal(parse_words(&spec, WORDS("--kernel", "k", "--print-config"), &result,
				     &err),
			 0);
	assert_true(result.print_config);
	assert_false(result.help || result.version);
	spec_fini(&spec);
	/* Help is given even where the rest makes no sense. */
	assert_int_equal(parse_words(&spec, WORDS("--help", "--nonsense"), &result, &err), 0);
	assert_true(result.help);
	spec_fini(&spec);
	assert_int_equal(parse_words(&spec, WORDS("-h"), &result, &err), 0);
	assert_true(result.help);
	spec_fini(&spec);
	assert_int_equal(parse_words(&spec, WORDS("--version"), &result, &err), 0);
	assert_true(result.version);
	spec_fini(&spec);
}

static void lists_are_bounded(void **state)
{
	char *argv[2 * (SPEC_MAX_DISKS + 1)];
	struct spec_cli_result result = {0};
	struct error err = ERROR_INIT;
	char option[] = "--disk";
	char value[] = "x";
	struct spec spec;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(argv); i++)
		argv[i] = i % 2 ? value : option;
	spec_init(&spec);
	assert_int_equal(spec_parse_args(&spec, ARRAY_SIZE(argv), argv, &result, &err), -ENOSPC);
	assert_non_null(strstr(err.text, "--disk: a machine has at most 64 of them"));
	assert_int_equal(spec.n_disks, SPEC_MAX_DISKS);
	spec_fini(&spec);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(defaults_are_documented_ones),
		cmocka_unit_test(the_issue_command_line_is_taken),
		cmocka_unit_test(values_stand_behind_equals_too),
		cmocka_unit_test(groups_are_read),
		cmocka_unit_test(every_disk_key_is_read),
		cmocka_unit_test(every_net_key_is_read),
		cmocka_unit_test(a_doubled_comma_is_one_in_a_value),
		cmocka_unit_test(characters_and_keys_are_read),
		cmocka_unit_test(the_last_of_equal_options_counts),
		cmocka_unit_test(unknown_words_name_the_nearest),
		cmocka_unit_test(missing_and_unwanted_values_are_refused),
		cmocka_unit_test(bad_values_are_refused),
		cmocka_unit_test(forwards_are_checked),
		cmocka_unit_test(actions_are_reported),
		cmocka_unit_test(lists_are_bounded),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
