/* Taps in a network namespace of the test's own: frames both ways, queues, descriptors handed in, an interface that is
 * deleted, and what is said when one cannot be had. Needs the right to make a namespace. */
#include "unit/test.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_packet.h>
#include <linux/if_tun.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/fd.h"
#include "vm/net/net.h"

#define ETH_P_TEST 0x88b5 /* IEEE 802, for experiments */

static struct loop *loop;
static unsigned readable, writable, downs;

static void on_readable(void *opaque, unsigned queue)
{
	readable++;
}

static void on_writable(void *opaque, unsigned queue)
{
	writable++;
}

static void on_link(void *opaque, bool up)
{
	downs += !up;
}

static struct net_backend *open_ok(const struct net_tap_config *config)
{
	struct error err = ERROR_INIT;
	struct net_backend *net = NULL;

	if (net_tap_open(loop, config, &net, &err) < 0)
		fail_msg("%s", err.text);
	net->events = (struct net_events){on_readable, on_writable, on_link, NULL};
	readable = writable = downs = 0;
	return net;
}

static void expect_failure(const struct net_tap_config *config, int code, const char *part)
{
	struct error err = ERROR_INIT;
	struct net_backend *net;

	assert_int_equal(net_tap_open(loop, config, &net, &err), code);
	if (!strstr(err.text, part))
		fail_msg("\"%s\" does not say \"%s\"", err.text, part);
}

/* Up, and silent: no IPv6 of the host's own. */
static void bring_up(const char *ifname)
{
	struct ifreq ifr = {.ifr_flags = IFF_UP};
	char path[96];
	int fd;

	snprintf(path, sizeof(path), "/proc/sys/net/ipv6/conf/%s/disable_ipv6", ifname);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd >= 0) {
		assert_int_equal(write(fd, "1", 1), 1);
		close(fd);
	}
	snprintf(ifr.ifr_name, sizeof(ifr.ifr_name), "%s", ifname);
	fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	assert_int_equal(ioctl(fd, SIOCSIFFLAGS, &ifr), 0);
	close(fd);
}

/* The host's side of the tap. */
static int host_socket(const char *ifname)
{
	struct sockaddr_ll addr = {
		.sll_family = AF_PACKET,
		.sll_protocol = htons(ETH_P_TEST),
		.sll_ifindex = (int)if_nametoindex(ifname),
	};
	int fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, htons(ETH_P_TEST));

	assert_true(fd >= 0);
	assert_int_equal(bind(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
	return fd;
}

static void make_frame(uint8_t frame[100], unsigned seed)
{
	for (unsigned i = 0; i < 100; i++)
		frame[i] = (uint8_t)(i + seed);
	memset(frame, 0xff, 6);
	memcpy(frame + 6, "\x52\x54\x00\x01\x02\x03\x88\xb5", 8);
}

static void check_send(struct net_backend *net, unsigned queue, int host, unsigned seed)
{
	uint8_t buf[NET_HDR_BYTES + 100] = {0};
	uint8_t got[200];
	struct iovec iov[2] = {{buf, 20}, {buf + 20, sizeof(buf) - 20}};

	make_frame(buf + NET_HDR_BYTES, seed);
	assert_int_equal(net->ops->send(net, queue, iov, 2), 0);
	assert_int_equal(recv(host, got, sizeof(got), 0), 100);
	assert_memory_equal(got, buf + NET_HDR_BYTES, 100);
}

/* From the host; arrives at some queue below n. */
static unsigned check_receive(struct net_backend *net, unsigned n, int host, unsigned seed)
{
	uint8_t frame[100];
	uint8_t got[300];
	struct iovec iov[2] = {{got, 50}, {got + 50, sizeof(got) - 50}};

	make_frame(frame, seed);
	assert_int_equal(send(host, frame, sizeof(frame), 0), sizeof(frame));
	for (unsigned q = 0; q < n; q++)
		net->ops->want_receive(net, q, true);
	readable = 0;
	loop_run_once(loop, 10000);
	assert_true(readable > 0);
	for (unsigned q = 0; q < n; q++) {
		ssize_t r = net->ops->receive(net, q, iov, 2);

		net->ops->want_receive(net, q, false);
		if (r == -EAGAIN)
			continue;
		assert_int_equal(r, NET_HDR_BYTES + 100);
		assert_memory_equal(got + NET_HDR_BYTES, frame, 100);
		return q;
	}
	fail_msg("no queue has the frame");
	return 0;
}

/* Makes the tap "vt0", as an administrator would; with several queues when asked for. */
static int make_vt0(short more)
{
	struct ifreq ifr = {.ifr_name = "vt0", .ifr_flags = (short)(IFF_TAP | IFF_NO_PI | more)};
	int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC);
	int r;

	if (fd < 0)
		return -1;
	r = ioctl(fd, TUNSETIFF, &ifr) < 0 ? -1 : ioctl(fd, TUNSETPERSIST, 1);
	close(fd);
	return r;
}

static int with_tap(void **state)
{
	return make_vt0(0);
}

static int with_queues(void **state)
{
	return make_vt0(IFF_MULTI_QUEUE);
}

static void delete_interface(const char *ifname);

static int without_tap(void **state)
{
	if (if_nametoindex("vt0") != 0)
		delete_interface("vt0");
	return 0;
}

static void test_by_name(void **state)
{
	struct net_tap_config config = {.ifname = "vt0"};
	struct net_backend *net = open_ok(&config);
	int host;

	assert_int_equal(net->mtu, 1500);
	assert_int_equal(net->n_queues, 1);
	assert_int_equal(net->offloads,
			 NET_OFFLOAD_CSUM | NET_OFFLOAD_TSO4 | NET_OFFLOAD_TSO6 | NET_OFFLOAD_ECN);
	assert_int_equal(net->ops->set_offloads(net, net->offloads, NET_HDR_BYTES), 0);
	bring_up("vt0");
	host = host_socket("vt0");
	for (unsigned i = 0; i < 10; i++) {
		check_send(net, 0, host, i);
		check_receive(net, 1, host, i);
	}
	close(host);
	net_backend_free(net);
	assert_int_not_equal(if_nametoindex("vt0"), 0);
}

static void test_frame_without_room(void **state)
{
	struct net_tap_config config = {.ifname = "vt0"};
	struct net_backend *net = open_ok(&config);
	uint8_t small[60];
	struct iovec iov = {small, sizeof(small)};
	uint8_t frame[100];
	int host;

	bring_up("vt0");
	host = host_socket("vt0");
	make_frame(frame, 0);
	assert_int_equal(send(host, frame, sizeof(frame), 0), sizeof(frame));
	assert_int_equal(net->ops->receive(net, 0, &iov, 1), -EMSGSIZE);
	check_receive(net, 1, host, 1);
	close(host);
	net_backend_free(net);
}

static void test_interface_down_or_bad_frames_are_no_end(void **state)
{
	struct net_tap_config config = {.ifname = "vt0"};
	struct net_backend *net = open_ok(&config);
	uint8_t buf[NET_HDR_BYTES + 100] = {0};
	struct iovec iov = {buf, sizeof(buf)};
	int host;

	assert_int_equal(net->ops->send(net, 0, &iov, 1), -EIO);
	bring_up("vt0");
	host = host_socket("vt0");
	/* A header that promises more than there is. */
	memset(buf, 0xff, NET_HDR_BYTES);
	assert_true(net->ops->send(net, 0, &iov, 1) < 0);
	check_send(net, 0, host, 0);
	close(host);
	net_backend_free(net);
}

static void test_several_queues(void **state)
{
	struct net_tap_config config = {.ifname = "vt0", .n_queues = 3};
	struct net_backend *net = open_ok(&config);
	int host;

	bring_up("vt0");
	host = host_socket("vt0");
	for (unsigned n = 3; n > 0; n--) {
		assert_int_equal(net->ops->set_queues(net, n), 0);
		for (unsigned q = 0; q < n; q++)
			check_send(net, q, host, q);
		for (unsigned i = 0; i < 8; i++)
			assert_true(check_receive(net, n, host, i) < n);
	}
	/* A detached queue makes no events. */
	readable = 0;
	loop_run_once(loop, 0);
	loop_run_once(loop, 0);
	assert_int_equal(readable + downs, 0);
	assert_int_equal(net->ops->set_queues(net, 3), 0);
	check_send(net, 2, host, 7);
	close(host);
	net_backend_free(net);
}

static int open_tap_fd(const char *ifname, int flags)
{
	struct ifreq ifr = {.ifr_flags = (short)flags};
	int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC);

	assert_true(fd >= 0);
	snprintf(ifr.ifr_name, sizeof(ifr.ifr_name), "%s", ifname);
	assert_int_equal(ioctl(fd, TUNSETIFF, &ifr), 0);
	return fd;
}

static void test_by_descriptor(void **state)
{
	int fd = open_tap_fd("vt1", IFF_TAP | IFF_NO_PI | IFF_VNET_HDR);
	struct net_tap_config config = {.fds = &fd, .n_queues = 1};
	struct net_backend *net = open_ok(&config);
	int host;

	bring_up("vt1");
	host = host_socket("vt1");
	check_send(net, 0, host, 1);
	check_receive(net, 1, host, 1);
	close(host);
	net_backend_free(net);
}

static void test_wrong_descriptors(void **state)
{
	struct net_tap_config config = {.n_queues = 1};
	int fd = open("/dev/null", O_RDWR | O_CLOEXEC);

	config.fds = &fd;
	expect_failure(&config, -EINVAL, "is no tap");
	/* It stays the caller's. */
	assert_int_equal(close(fd), 0);
	fd = open_tap_fd("vt1", IFF_TAP | IFF_NO_PI);
	expect_failure(&config, -EINVAL, "without IFF_VNET_HDR");
	assert_int_equal(close(fd), 0);
	fd = open_tap_fd("vt1", IFF_TUN | IFF_NO_PI | IFF_VNET_HDR);
	expect_failure(&config, -EINVAL, "tun mode");
	assert_int_equal(close(fd), 0);
}

static void test_busy(void **state)
{
	struct net_tap_config config = {.ifname = "vt0"};
	struct net_backend *net = open_ok(&config);

	expect_failure(&config, -EBUSY, "vt0: it is in use");
	net_backend_free(net);
}

static void test_bad_names(void **state)
{
	expect_failure(&(struct net_tap_config){.ifname = ""}, -EINVAL, "name");
	expect_failure(&(struct net_tap_config){.ifname = "a/b"}, -EINVAL, "a/b");
	expect_failure(&(struct net_tap_config){.ifname = "tap%d"}, -EINVAL, "tap%d");
	expect_failure(&(struct net_tap_config){.ifname = "sixteencharacters"}, -EINVAL, "15");
	expect_failure(&(struct net_tap_config){.ifname = "vt0", .n_queues = 9}, -EINVAL, "8");
	expect_failure(&(struct net_tap_config){.ifname = "lo"}, -EINVAL, "is no tap");
}

/* Never made in passing, although the test may. */
static void test_absent_interface(void **state)
{
	expect_failure(&(struct net_tap_config){.ifname = "absent0"}, -ENODEV, "absent0");
	assert_int_equal(if_nametoindex("absent0"), 0);
}

/* RTM_DELLINK of rtnetlink(7). */
static void delete_interface(const char *ifname)
{
	struct {
		struct nlmsghdr hdr;
		struct ifinfomsg info;
	} msg = {
		.hdr = {.nlmsg_len = sizeof(msg),
			.nlmsg_type = RTM_DELLINK,
			.nlmsg_flags = NLM_F_REQUEST},
		.info.ifi_index = (int)if_nametoindex(ifname),
	};
	int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);

	assert_int_equal(send(fd, &msg, sizeof(msg), 0), sizeof(msg));
	close(fd);
	assert_int_equal(if_nametoindex(ifname), 0);
}

static void test_deleted_interface(void **state)
{
	struct net_tap_config config = {.ifname = "vt0"};
	struct net_backend *net = open_ok(&config);

	bring_up("vt0");
	net->ops->want_receive(net, 0, true);
	delete_interface("vt0");
	for (unsigned i = 0; i < 10 && !downs; i++)
		loop_run_once(loop, 1000);
	assert_int_equal(downs, 1);
	loop_run_once(loop, 0);
	assert_int_equal(downs, 1);
	net_backend_free(net);
}

static void test_vhost_needs_the_kernel(void **state)
{
	struct net_tap_config config = {.ifname = "vt0", .vhost = true};
	struct net_backend *net;

	if (access("/dev/vhost-net", R_OK | W_OK) < 0) {
		expect_failure(&config, -EOPNOTSUPP, "/dev/vhost-net");
		return;
	}
	net = open_ok(&config);
	assert_true(net->has_vhost);
	assert_true(net->ops->vhost_fd(net, 0) >= 0);
	net_backend_free(net);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_by_name, with_tap, without_tap),
		cmocka_unit_test_setup_teardown(test_frame_without_room, with_tap, without_tap),
		cmocka_unit_test_setup_teardown(test_interface_down_or_bad_frames_are_no_end,
						with_tap, without_tap),
		cmocka_unit_test_setup_teardown(test_several_queues, with_queues, without_tap),
		cmocka_unit_test(test_absent_interface),
		cmocka_unit_test(test_by_descriptor),
		cmocka_unit_test(test_wrong_descriptors),
		cmocka_unit_test_setup_teardown(test_busy, with_tap, without_tap),
		cmocka_unit_test(test_bad_names),
		cmocka_unit_test_setup_teardown(test_deleted_interface, with_tap, without_tap),
		cmocka_unit_test_setup_teardown(test_vhost_needs_the_kernel, with_tap, without_tap),
	};
	int r;

	if (unshare(CLONE_NEWNET) < 0 || access("/dev/net/tun", R_OK | W_OK) < 0) {
		printf("skipped: no right to make a network namespace with a tap in it\n");
		return 77;
	}
	if (loop_new(&loop) < 0)
		return 1;
	r = cmocka_run_group_tests(tests, NULL, NULL);
	loop_free(loop);
	return r;
}
