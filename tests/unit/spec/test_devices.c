#include "spec_test.h"

#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include "base/bits.h"

static void disks_get_names_and_queues(void **state)
{
	struct spec spec;

	(void)state;
	assert_finished(&spec, "--kernel", "k", "--cpus", "2", "--disk", "a", "--disk",
			"b,id=disk0", "--disk", "c,queues=9");
	assert_string_equal(spec.disks[0].id, "disk1");
	assert_string_equal(spec.disks[1].id, "disk0");
	assert_string_equal(spec.disks[2].id, "disk2");
	assert_int_equal(spec.disks[0].queues, 2);
	assert_int_equal(spec.disks[2].queues, 9);
	spec_fini(&spec);
	assert_finished(&spec, "--kernel", "k", "--cpus", "16", "--disk", "a");
	assert_int_equal(spec.disks[0].queues, 4);
	spec_fini(&spec);
}

static void a_disk_has_one_image(void **state)
{
	(void)state;
	assert_refused("disk0 has no image: give path=FILE", "--kernel", "k", "--disk",
		       "readonly=on");
	assert_refused("disk0 has both path=a and fd=4", "--kernel", "k", "--disk", "a,fd=4");
	assert_refused("queue-size 100 is no power of two", "--kernel", "k", "--disk",
		       "a,queue-size=100");
	assert_refused("queue-size: 2048 is out of range", "--kernel", "k", "--disk",
		       "a,queue-size=2048");
	assert_refused("more than plain characters", "--kernel", "k", "--disk",
		       "a,serial=\xC3\xA4");
	assert_refused("is no name", "--kernel", "k", "--disk", "a,id=a/b");
}

static void the_same_disk_is_refused(void **state)
{
	char dir[] = "/tmp/vireo-spec-XXXXXX";
	char file[64], linked[64], again[64];
	int fd;

	(void)state;
	assert_refused("--disk: disk0 and disk1 are both 'same'", "--kernel", "k", "--disk", "same",
		       "--disk", "path=same,readonly=on");
	assert_non_null(mkdtemp(dir));
	snprintf(file, sizeof(file), "%s/a.img", dir);
	snprintf(linked, sizeof(linked), "%s/b.img", dir);
	snprintf(again, sizeof(again), "%s/./a.img", dir);
	fd = open(file, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	assert_int_equal(symlink(file, linked), 0);
	assert_refused("a disk can be in a machine once", "--kernel", "k", "--disk", file, "--disk",
		       again);
	assert_refused("a disk can be in a machine once", "--kernel", "k", "--disk", file, "--disk",
		       linked);
	assert_int_equal(unlink(linked), 0);
	assert_int_equal(link(file, linked), 0);
	assert_refused("a disk can be in a machine once", "--kernel", "k", "--disk", file, "--disk",
		       linked);
	snprintf(again, sizeof(again), "fd=%d", fd);
	assert_refused("a disk can be in a machine once", "--kernel", "k", "--disk", file, "--disk",
		       again);
	close(fd);
	unlink(file);
	unlink(linked);
	rmdir(dir);
}

static void character_devices_are_not_the_same_disk(void **state)
{
	struct spec spec;

	(void)state;
	/* /dev/null is no disk, and opening it says so; it must not be taken for one disk given twice. */
	assert_finished(&spec, "--kernel", "k", "--disk", "/dev/null", "--disk", "/dev/zero");
	spec_fini(&spec);
}

static void addresses_are_made_and_stay(void **state)
{
	static const uint8_t prefix[3] = {0x52, 0x54, 0x00};
	struct spec a, b, c;

	(void)state;
	assert_finished(&a, "--kernel", "k", "--name", "one", "--net", "user", "--net", "user");
	assert_finished(&b, "--kernel", "k", "--name", "one", "--net", "user", "--net", "null");
	assert_finished(&c, "--kernel", "k", "--name", "two", "--net", "user");
	assert_memory_equal(a.nets[0].mac, prefix, 3);
	assert_true(a.nets[0].mac_given);
	assert_memory_equal(a.nets[0].mac, b.nets[0].mac, 6);
	assert_memory_equal(a.nets[1].mac, b.nets[1].mac, 6);
	assert_memory_not_equal(a.nets[0].mac, a.nets[1].mac, 6);
	assert_memory_not_equal(a.nets[0].mac, c.nets[0].mac, 6);
	assert_string_equal(a.nets[0].id, "net0");
	assert_string_equal(a.nets[1].id, "net1");
	spec_fini(&a);
	spec_fini(&b);
	spec_fini(&c);
}

static void a_made_address_avoids_given_ones(void **state)
{
	struct spec first, second;
	char item[64];
	const uint8_t *mac;

	(void)state;
	assert_finished(&first, "--kernel", "k", "--net", "user");
	mac = first.nets[0].mac;
	snprintf(item, sizeof(item), "user,mac=%02x:%02x:%02x:%02x:%02x:%02x", mac[0], mac[1],
		 mac[2], mac[3], mac[4], mac[5]);
	assert_finished(&second, "--kernel", "k", "--net", "user", "--net", item);
	assert_memory_equal(second.nets[1].mac, mac, 6);
	assert_memory_not_equal(second.nets[0].mac, mac, 6);
	spec_fini(&first);
	spec_fini(&second);
}

static void what_two_cards_cannot_share_is_refused(void **state)
{
	(void)state;
	assert_refused("net0 and net1 have the same address, mac=52:54:00:00:00:01", "--kernel",
		       "k", "--net", "user,mac=52:54:00:00:00:01", "--net",
		       "user,mac=52:54:00:00:00:01");
	assert_refused("net0 and net1 are both on 'tap0'", "--kernel", "k", "--net",
		       "tap,ifname=tap0", "--net", "tap,ifname=tap0");
	assert_refused("both have descriptor 5", "--kernel", "k", "--net", "tap,fds=4:5", "--net",
		       "tap,fds=5:6");
	assert_refused("take the same port of the host", "--kernel", "k", "--net",
		       "user,hostfwd=tcp::80-:80,hostfwd=tcp:127.0.0.1:80-:81");
	assert_refused("take the same port of the host", "--kernel", "k", "--net",
		       "user,hostfwd=tcp::80-:80", "--net", "user,hostfwd=tcp::80-:8080");
	assert_refused("two devices are called 'x'", "--kernel", "k", "--disk", "a,id=x", "--net",
		       "user,id=x");
	assert_refused("disk0 and net0 both want slot=5", "--kernel", "k", "--disk", "a,slot=5",
		       "--net", "user,slot=5");
}

static void forwards_of_different_ports_are_taken(void **state)
{
	struct spec spec;

	(void)state;
	assert_finished(&spec, "--kernel", "k", "--net",
			"user,hostfwd=tcp::80-:80,hostfwd=udp::80-:80,hostfwd=tcp::81-:80,"
			"hostfwd=tcp:127.0.0.1:90-:90,hostfwd=tcp:127.0.0.2:90-:90,"
			"hostfwd=tcp:[::1]:90-:90");
	assert_int_equal(spec.nets[0].n_hostfwd, 6);
	spec_fini(&spec);
}

static void keys_belong_to_a_type(void **state)
{
	struct spec spec;

	(void)state;
	assert_refused("ifname= belongs to a tap", "--kernel", "k", "--net", "user,ifname=tap0");
	assert_refused("fds= belongs to a tap", "--kernel", "k", "--net", "user,fds=4");
	assert_refused("vhost= belongs to a tap", "--kernel", "k", "--net", "user,vhost=on");
	assert_refused("only a tap has more than one queue pair", "--kernel", "k", "--net",
		       "user,queues=2");
	assert_refused("hostfwd= belongs to type user", "--kernel", "k", "--net",
		       "tap,ifname=t,hostfwd=tcp::1-:1");
	assert_refused("hostfwd= belongs to type user", "--kernel", "k", "--net",
		       "null,hostfwd=tcp::1-:1");
	assert_refused("which tap? give ifname=NAME", "--kernel", "k", "--net", "tap");
	assert_refused("has both ifname=t and fds=", "--kernel", "k", "--net",
		       "tap,ifname=t,fds=3");
	assert_refused("cannot be the name of an interface", "--kernel", "k", "--net",
		       "tap,ifname=a/b");
	assert_refused("15 bytes at most", "--kernel", "k", "--net", "tap,ifname=0123456789012345");
	assert_refused("3 queue pairs need as many descriptors, fds= has 2", "--kernel", "k",
		       "--net", "tap,fds=3:4,queues=3");
	assert_refused("mtu: 67 is out of range", "--kernel", "k", "--net", "user,mtu=67");
	assert_finished(&spec, "--kernel", "k", "--net", "tap,fds=3:4");
	assert_int_equal(spec.nets[0].queues, 2);
	spec_fini(&spec);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(disks_get_names_and_queues),
		cmocka_unit_test(a_disk_has_one_image),
		cmocka_unit_test(the_same_disk_is_refused),
		cmocka_unit_test(character_devices_are_not_the_same_disk),
		cmocka_unit_test(addresses_are_made_and_stay),
		cmocka_unit_test(a_made_address_avoids_given_ones),
		cmocka_unit_test(what_two_cards_cannot_share_is_refused),
		cmocka_unit_test(forwards_of_different_ports_are_taken),
		cmocka_unit_test(keys_belong_to_a_type),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
