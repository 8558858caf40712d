/* The network device on a real tap, in a network namespace of the test's own: with frames moved by us, and by vhost-net
 * where the kernel has it. Needs the right to make a namespace. */
#include "device/driver.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_packet.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <sched.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/endian.h"
#include "vm/devices/virtio_net.h"

#define SLOT        5
#define IFNAME      "vt0"
#define ETH_P_TEST  0x88b5 /* IEEE 802, for experiments */
#define F_MRG_RXBUF 15
#define FRAME       200

struct tap_test {
	struct harness *h;
	struct device *dev;
	struct driver d;
	bool vhost;
	unsigned pairs;
	int host; /* the interface's other side */
};

static void bring_up(void)
{
	struct ifreq ifr = {.ifr_flags = IFF_UP, .ifr_name = IFNAME};
	int fd = open("/proc/sys/net/ipv6/conf/" IFNAME "/disable_ipv6", O_WRONLY | O_CLOEXEC);

	if (fd >= 0) {
		assert_int_equal(write(fd, "1", 1), 1);
		close(fd);
	}
	fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	assert_int_equal(ioctl(fd, SIOCSIFFLAGS, &ifr), 0);
	close(fd);
}

static int host_socket(void)
{
	struct sockaddr_ll addr = {
		.sll_family = AF_PACKET,
		.sll_protocol = htons(ETH_P_TEST),
		.sll_ifindex = (int)if_nametoindex(IFNAME),
	};
	int fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, htons(ETH_P_TEST));

	assert_true(fd >= 0);
	assert_int_equal(bind(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
	return fd;
}

/* Makes the interface, as an administrator would, or removes it. */
static void keep_tap(unsigned pairs, bool keep)
{
	struct ifreq ifr = {
		.ifr_name = IFNAME,
		.ifr_flags = (short)(IFF_TAP | IFF_NO_PI | (pairs > 1 ? IFF_MULTI_QUEUE : 0)),
	};
	int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC);

	assert_true(fd >= 0);
	assert_int_equal(ioctl(fd, TUNSETIFF, &ifr), 0);
	assert_int_equal(ioctl(fd, TUNSETPERSIST, keep), 0);
	close(fd);
}

static struct tap_test *make(unsigned pairs, bool vhost)
{
	struct tap_test *t = calloc(1, sizeof(*t));
	struct net_tap_config tap = {.ifname = IFNAME, .n_queues = pairs, .vhost = vhost};
	struct virtio_net_config config = {.id = "net0",
					   .mac = {0x52, 0x54, 0, 1, 2, 3},
					   .vhost = vhost,
					   .slot = SLOT};
	struct error err = ERROR_INIT;

	assert_non_null(t);
	t->vhost = vhost;
	t->pairs = pairs;
	keep_tap(pairs, true);
	t->h = harness_new();
	if (net_tap_open(t->h->env.loop, &tap, &config.backend, &err) < 0 ||
	    virtio_net_new(&t->h->env, &config, &t->dev, &err) < 0)
		fail_msg("%s", err.text);
	bring_up();
	t->host = host_socket();
	return t;
}

static void end(struct tap_test *t)
{
	device_free(t->dev);
	harness_free(t->h);
	close(t->host);
	keep_tap(t->pairs, false);
	free(t);
}

static void make_frame(uint8_t frame[FRAME], unsigned seed)
{
	for (unsigned i = 0; i < FRAME; i++)
		frame[i] = (uint8_t)(i * 5 + seed);
	memset(frame, 0xff, 6);
	memcpy(frame + 6, "\x52\x54\x00\x01\x02\x03\x88\xb5", 8);
}

static bool host_has(void *opaque)
{
	uint8_t byte;

	return recv(((struct tap_test *)opaque)->host, &byte, 1, MSG_PEEK) == 1;
}

static void check_send(struct tap_test *t, unsigned queue, unsigned seed)
{
	uint8_t msg[NET_HDR_BYTES + FRAME] = {0};
	uint8_t got[FRAME + 1];

	make_frame(msg + NET_HDR_BYTES, seed);
	driver_request(&t->d, queue, msg, sizeof(msg), NULL, 0);
	harness_wait(t->h, host_has, t);
	assert_int_equal(recv(t->host, got, sizeof(got), 0), FRAME);
	assert_memory_equal(got, msg + NET_HDR_BYTES, FRAME);
}

/* Two pieces, where buffers may be merged. */
static void check_receive(struct tap_test *t, unsigned queue, unsigned seed)
{
	struct driver_queue *q = &t->d.queues[queue];
	struct driver_buf buf[2] = {{.len = 100, .writable = true},
				    {.len = 1000, .writable = true}};
	unsigned n = (t->d.features >> F_MRG_RXBUF & 1) ? 2 : 1;
	uint8_t frame[NET_HDR_BYTES + FRAME];
	uint8_t *got;
	uint32_t len = 0;

	if (n == 1)
		buf[0].len = 1000;
	for (unsigned i = 0; i < n; i++) {
		buf[i].gpa = harness_alloc(t->h, buf[i].len);
		driver_add(q, &buf[i], 1);
	}
	/* The kernel's writes show in no log of ours. */
	gmem_mark_dirty(t->h->env.mem, 0, HARNESS_RAM);
	driver_kick(q);
	make_frame(frame + NET_HDR_BYTES, seed);
	assert_int_equal(send(t->host, frame + NET_HDR_BYTES, FRAME, 0), FRAME);
	for (unsigned i = 0; i < n; i++)
		len += driver_wait(q, NULL);
	assert_int_equal(len, sizeof(frame));
	got = harness_ptr(t->h, buf[0].gpa, buf[0].len);
	/* Linux 6.1's vhost-net leaves the count alone where there can be one buffer only. */
	if (n > 1 || !t->vhost)
		assert_int_equal(got[10], n);
	memcpy(frame, got, NET_HDR_BYTES);
	if (n == 1) {
		assert_memory_equal(got, frame, sizeof(frame));
		return;
	}
	assert_memory_equal(got, frame, 100);
	got = harness_ptr(t->h, buf[1].gpa, buf[1].len);
	assert_memory_equal(got, frame + 100, sizeof(frame) - 100);
}

static void traffic(struct tap_test *t, unsigned pair)
{
	for (unsigned i = 0; i < 20; i++) {
		check_send(t, 2 * pair + 1, i);
		check_receive(t, 2 * pair, i);
	}
}

static void check_life(bool vhost, uint64_t features, bool intx, bool refuse)
{
	struct tap_test *t = make(1, vhost);

	t->h->intx = intx;
	t->h->refuse_doorbells = t->h->refuse_irqfds = refuse;
	for (unsigned life = 0; life < 3; life++) {
		driver_start(&t->d, t->h, SLOT, features);
		traffic(t, 0);
		/* Stopped and continued in the middle: positions are exact. */
		device_pause(t->dev);
		assert_int_equal(((struct virtio *)t->dev)->queues[1].vq.next_avail,
				 ((struct virtio *)t->dev)->queues[1].vq.next_used);
		device_resume(t->dev);
		traffic(t, 0);
		assert_true(driver_interrupts(&t->d.queues[0]) > 0);
		driver_stop(&t->d);
	}
	end(t);
}

static void tap_split(void **state)
{
	check_life(false, DRIVER_SPLIT, false, false);
}

static void tap_packed(void **state)
{
	check_life(false, DRIVER_ALL, false, false);
}

static void tap_not_mergeable(void **state)
{
	check_life(false, DRIVER_ALL & ~BIT(F_MRG_RXBUF), false, false);
}

static void pairs_life(bool vhost)
{
	struct tap_test *t = make(3, vhost);
	uint8_t set[4] = {4, 0, 3, 0};
	uint8_t ack = 0xff;

	driver_start(&t->d, t->h, SLOT, DRIVER_ALL);
	traffic(t, 0);
	driver_request(&t->d, 6, set, sizeof(set), &ack, 1);
	assert_int_equal(ack, 0);
	for (unsigned i = 0; i < 3; i++)
		check_send(t, 2 * i + 1, i);
	set[2] = 1;
	driver_request(&t->d, 6, set, sizeof(set), &ack, 1);
	assert_int_equal(ack, 0);
	traffic(t, 0);
	driver_stop(&t->d);
	end(t);
}

static void tap_pairs(void **state)
{
	pairs_life(false);
}

static bool no_vhost(void)
{
	return access("/dev/vhost-net", R_OK | W_OK) < 0;
}

static void vhost_msix(void **state)
{
	if (no_vhost())
		skip();
	check_life(true, DRIVER_ALL, false, false);
}

static void vhost_not_mergeable(void **state)
{
	if (no_vhost())
		skip();
	check_life(true, DRIVER_ALL & ~BIT(F_MRG_RXBUF), false, false);
}

static void vhost_intx(void **state)
{
	if (no_vhost())
		skip();
	check_life(true, DRIVER_ALL, true, false);
}

static void vhost_on_a_plain_machine(void **state)
{
	if (no_vhost())
		skip();
	check_life(true, DRIVER_ALL, false, true);
}

static void vhost_pairs(void **state)
{
	if (no_vhost())
		skip();
	pairs_life(true);
}

static void vhost_link(void **state)
{
	struct tap_test *t;

	if (no_vhost())
		skip();
	t = make(1, true);
	driver_start(&t->d, t->h, SLOT, DRIVER_ALL);
	traffic(t, 0);
	virtio_net_set_link(t->dev, false);
	virtio_net_set_link(t->dev, true);
	traffic(t, 0);
	driver_stop(&t->d);
	end(t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(tap_split),         cmocka_unit_test(tap_packed),
		cmocka_unit_test(tap_not_mergeable), cmocka_unit_test(tap_pairs),
		cmocka_unit_test(vhost_msix),        cmocka_unit_test(vhost_not_mergeable),
		cmocka_unit_test(vhost_intx),        cmocka_unit_test(vhost_on_a_plain_machine),
		cmocka_unit_test(vhost_pairs),       cmocka_unit_test(vhost_link),
	};

	if (unshare(CLONE_NEWNET) < 0 || access("/dev/net/tun", R_OK | W_OK) < 0) {
		printf("skipped: no right to make a network namespace with a tap in it\n");
		return 77;
	}
	if (no_vhost())
		printf("without vhost: this kernel has no /dev/vhost-net\n");
	return cmocka_run_group_tests(tests, NULL, NULL);
}
