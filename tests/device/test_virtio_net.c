/* The network device over a backend in memory: what a driver sends arrives, what arrives goes into its buffers whatever
 * their shape, the control queue does what it says, and stopping loses nothing that the guest can see. */
#include "device/driver.h"

#include <errno.h>

#include "base/bits.h"
#include "base/endian.h"
#include "vm/devices/virtio_net.h"
#include "vm/net/null.h"

#define SLOT 5

#define F_CSUM                0
#define F_GUEST_CSUM          1
#define F_CTRL_GUEST_OFFLOADS 2
#define F_MTU                 3
#define F_GUEST_TSO4          7
#define F_HOST_TSO4           11
#define F_MRG_RXBUF           15
#define F_CTRL_VQ             17
#define F_CTRL_VLAN           19
#define F_MQ                  22

#define ALL_OFFLOADS (NET_OFFLOAD_CSUM | NET_OFFLOAD_TSO4 | NET_OFFLOAD_TSO6 | NET_OFFLOAD_ECN)

struct net_test {
	struct harness *h;
	struct device *dev;
	struct net_backend *net;
	struct driver d;
	uint8_t buf[NET_HDR_BYTES + NET_MAX_FRAME_BYTES];
};

static const uint8_t own_mac[6] = {0x52, 0x54, 0, 1, 2, 3};

static struct net_test *net_make(unsigned pairs, unsigned offloads)
{
	struct net_test *t = calloc(1, sizeof(*t));
	struct virtio_net_config config = {.id = "net0", .mtu = 1400, .slot = SLOT};
	struct error err = ERROR_INIT;

	assert_non_null(t);
	t->h = harness_new();
	assert_int_equal(net_null_open_with(t->h->env.loop, pairs, offloads, offloads, &t->net), 0);
	net_null_record(t->net, true);
	config.backend = t->net;
	memcpy(config.mac, own_mac, 6);
	if (virtio_net_new(&t->h->env, &config, &t->dev, &err) < 0)
		fail_msg("%s", err.text);
	return t;
}

static int net_setup(void **state)
{
	*state = net_make(1, ALL_OFFLOADS);
	return 0;
}

static int net_setup_mq(void **state)
{
	*state = net_make(4, ALL_OFFLOADS);
	return 0;
}

static int net_setup_plain(void **state)
{
	*state = net_make(1, 0);
	return 0;
}

static int net_teardown(void **state)
{
	struct net_test *t = *state;

	device_free(t->dev);
	harness_free(t->h);
	free(t);
	return 0;
}

static void start(struct net_test *t, uint64_t wanted)
{
	driver_start(&t->d, t->h, SLOT, wanted);
	harness_run(t->h);
}

/* A frame to `dst` whose bytes follow from seed, behind a header. */
static size_t make_frame(struct net_test *t, const uint8_t *dst, size_t len, unsigned seed)
{
	memset(t->buf, 0, NET_HDR_BYTES);
	for (size_t i = 0; i < len; i++)
		t->buf[NET_HDR_BYTES + i] = (uint8_t)(seed + i * 3 + (i >> 8));
	memcpy(t->buf + NET_HDR_BYTES, dst, 6);
	t->buf[NET_HDR_BYTES + 12] = 0x08;
	t->buf[NET_HDR_BYTES + 13] = 0;
	return NET_HDR_BYTES + len;
}

static void push(struct net_test *t, unsigned queue, const uint8_t *dst, size_t len, unsigned seed)
{
	size_t n = make_frame(t, dst, len, seed);

	assert_int_equal(net_null_push(t->net, queue, t->buf, n), 0);
	harness_run(t->h);
}

/* Receive buffers of these sizes, one descriptor each. */
static gpa_t give(struct net_test *t, unsigned queue, uint32_t len)
{
	struct driver_buf buf = {.gpa = harness_alloc(t->h, len), .len = len, .writable = true};

	driver_add(&t->d.queues[queue], &buf, 1);
	return buf.gpa;
}

static void kick(struct net_test *t, unsigned queue)
{
	driver_kick(&t->d.queues[queue]);
	harness_run(t->h);
}

/* The frame that make_frame() would make stands in these buffers. */
static void check_pieces(struct net_test *t, const uint8_t *dst, size_t len, unsigned seed,
			 const gpa_t *bufs, const uint32_t *lens, unsigned n)
{
	size_t total = make_frame(t, dst, len, seed);
	size_t at = 0;

	for (unsigned i = 0; i < n; i++) {
		uint8_t *p = harness_ptr(t->h, bufs[i], lens[i]);

		if (i == 0) {
			assert_int_equal(p[10] | p[11] << 8, n);
			p[10] = p[11] = 0;
		}
		assert_memory_equal(p, t->buf + at, lens[i]);
		at += lens[i];
	}
	assert_int_equal(at, total);
}

static struct virtio_net_info query(struct net_test *t)
{
	struct virtio_net_info info;

	virtio_net_query(t->dev, &info);
	return info;
}

/* --- transmit --- */

static void send_one(struct net_test *t, unsigned queue, size_t len, unsigned seed)
{
	uint8_t *got = malloc(sizeof(t->buf));
	size_t n = make_frame(t, own_mac, len, seed);

	driver_request(&t->d, queue, t->buf, (uint32_t)n, NULL, 0);
	assert_int_equal(net_null_pop(t->net, queue / 2, got, sizeof(t->buf)), n);
	assert_memory_equal(got, t->buf, n);
	free(got);
}

static void check_sends(struct net_test *t, uint64_t features)
{
	start(t, features);
	for (unsigned i = 0; i < 600; i++)
		send_one(t, 1, 60 + i, i);
	send_one(t, 1, 65549, 1);
	driver_stop(&t->d);
}

static void sends_split(void **state)
{
	check_sends(*state, DRIVER_SPLIT);
}

static void sends_packed(void **state)
{
	check_sends(*state, DRIVER_ALL);
}

static void what_is_no_frame_is_not_sent(void **state)
{
	struct net_test *t = *state;

	start(t, DRIVER_ALL);
	memset(t->buf, 0, sizeof(t->buf));
	driver_request(&t->d, 1, t->buf, 5, NULL, 0);
	driver_request(&t->d, 1, t->buf, NET_HDR_BYTES + 13, NULL, 0);
	assert_int_equal(net_null_pop(t->net, 0, t->buf, sizeof(t->buf)), -EAGAIN);
	assert_int_equal(query(t).stats.tx_dropped, 2);
	send_one(t, 1, 60, 0);
	driver_stop(&t->d);
}

static void a_full_backend_is_waited_for(void **state)
{
	struct net_test *t = *state;
	struct driver_buf buf = {.len = 100};

	start(t, DRIVER_ALL);
	net_null_block(t->net, true);
	for (unsigned i = 0; i < 10; i++) {
		buf.gpa = harness_alloc(t->h, buf.len);
		memset(harness_ptr(t->h, buf.gpa, buf.len), (int)i, buf.len);
		driver_add(&t->d.queues[1], &buf, 1);
		kick(t, 1);
	}
	assert_false(driver_used(&t->d.queues[1], NULL, NULL));
	net_null_block(t->net, false);
	for (unsigned i = 0; i < 10; i++) {
		driver_wait(&t->d.queues[1], NULL);
		assert_int_equal(net_null_pop(t->net, 0, t->buf, sizeof(t->buf)), 100);
		assert_int_equal(t->buf[50], i);
	}
	driver_stop(&t->d);
}

/* --- receive --- */

static void check_receives(struct net_test *t, uint64_t features)
{
	start(t, features);
	for (unsigned i = 0; i < 600; i++) {
		gpa_t gpa = give(t, 0, 2048);
		uint32_t len;

		kick(t, 0);
		push(t, 0, own_mac, 60 + i, i);
		assert_true(driver_used(&t->d.queues[0], NULL, &len));
		assert_int_equal(len, NET_HDR_BYTES + 60 + i);
		assert_int_equal(driver_interrupts(&t->d.queues[0]), 1);
		check_pieces(t, own_mac, 60 + i, i, &gpa, &len, 1);
		if (i % 200 == 0)
			t->h->next_free = gpa; /* the test's memory is small */
	}
	driver_stop(&t->d);
}

static void receives_split(void **state)
{
	check_receives(*state, DRIVER_SPLIT);
}

static void receives_packed(void **state)
{
	check_receives(*state, DRIVER_ALL);
}

static void receives_not_mergeable(void **state)
{
	check_receives(*state, DRIVER_ALL & ~BIT(F_MRG_RXBUF));
}

static void frame_that_waits_for_buffers(void **state)
{
	struct net_test *t = *state;
	gpa_t gpa;
	uint32_t len;

	start(t, DRIVER_ALL);
	push(t, 0, own_mac, 60, 7);
	assert_int_equal(net_null_waiting(t->net, 0), 1);
	gpa = give(t, 0, 2048);
	kick(t, 0);
	assert_true(driver_used(&t->d.queues[0], NULL, &len));
	check_pieces(t, own_mac, 60, 7, &gpa, &len, 1);
	driver_stop(&t->d);
}

/* A large frame over buffers that come late, some of them odd. */
static void merges_buffers_as_they_come(void **state)
{
	static const uint32_t sizes[] = {1500, 7, 5, 4000, 1, 30000, 40000};
	const size_t frame = 65000;
	struct net_test *t = *state;
	gpa_t gpa[ARRAY_SIZE(sizes)];
	uint32_t len[ARRAY_SIZE(sizes)];

	start(t, DRIVER_ALL);
	gpa[0] = give(t, 0, sizes[0]);
	gpa[1] = give(t, 0, sizes[1]);
	kick(t, 0);
	push(t, 0, own_mac, frame, 3);
	for (unsigned i = 2; i < ARRAY_SIZE(sizes); i++) {
		assert_false(driver_used(&t->d.queues[0], NULL, NULL));
		gpa[i] = give(t, 0, sizes[i]);
		kick(t, 0);
	}
	for (unsigned i = 0; i < ARRAY_SIZE(sizes); i++)
		assert_true(driver_used(&t->d.queues[0], NULL, &len[i]));
	assert_int_equal(len[2], 5);
	check_pieces(t, own_mac, frame, 3, gpa, len, ARRAY_SIZE(sizes));
	assert_int_equal(driver_interrupts(&t->d.queues[0]), 1);
	driver_stop(&t->d);
}

static void a_frame_too_large_for_one_buffer_is_dropped(void **state)
{
	struct net_test *t = *state;
	gpa_t gpa;
	uint32_t len;

	start(t, DRIVER_ALL & ~BIT(F_MRG_RXBUF));
	gpa = give(t, 0, 1526);
	kick(t, 0);
	push(t, 0, own_mac, 1515, 1);
	assert_false(driver_used(&t->d.queues[0], NULL, NULL));
	push(t, 0, own_mac, 1514, 2);
	assert_true(driver_used(&t->d.queues[0], NULL, &len));
	check_pieces(t, own_mac, 1514, 2, &gpa, &len, 1);
	assert_int_equal(query(t).stats.rx_dropped, 1);
	driver_stop(&t->d);
}

static void buffers_that_are_too_small_to_hold_do_not_stop_it(void **state)
{
	struct net_test *t = *state;
	uint32_t len;

	start(t, DRIVER_ALL);
	for (unsigned i = 0; i < 250; i++)
		give(t, 0, 16);
	kick(t, 0);
	push(t, 0, own_mac, 60000, 1);
	assert_int_equal(query(t).stats.rx_dropped, 1);
	push(t, 0, own_mac, 60, 2);
	for (unsigned i = 0; i < 5; i++)
		assert_true(driver_used(&t->d.queues[0], NULL, &len));
	assert_int_equal(len, 8);
	assert_false(driver_used(&t->d.queues[0], NULL, NULL));
	driver_stop(&t->d);
}

static void a_readable_receive_buffer_breaks_it(void **state)
{
	struct net_test *t = *state;
	struct driver_buf buf = {.gpa = harness_alloc(t->h, 64), .len = 64};

	start(t, DRIVER_ALL);
	driver_add(&t->d.queues[0], &buf, 1);
	kick(t, 0);
	assert_true(driver_status(&t->d) & VIRTIO_STATUS_NEEDS_RESET);
	driver_stop(&t->d);
	start(t, DRIVER_ALL);
	send_one(t, 1, 60, 0);
	driver_stop(&t->d);
}

/* --- control --- */

static unsigned ctrl_at(struct net_test *t, unsigned queue, unsigned class, unsigned command,
			const void *data, uint32_t len)
{
	uint8_t msg[1024] = {(uint8_t) class, (uint8_t)command};
	uint8_t ack = 0xff;

	assert_true(len + 2 <= sizeof(msg));
	memcpy(msg + 2, data, len);
	assert_int_equal(driver_request(&t->d, queue, msg, len + 2, &ack, 1), 1);
	return ack;
}

static unsigned ctrl(struct net_test *t, unsigned class, unsigned command, const void *data,
		     uint32_t len)
{
	return ctrl_at(t, 2, class, command, data, len);
}

static bool arrives(struct net_test *t, const uint8_t *dst, unsigned vlan)
{
	size_t n = make_frame(t, dst, 60, 0);
	uint8_t *frame = t->buf + NET_HDR_BYTES;

	if (vlan) {
		frame[12] = 0x81;
		frame[14] = (uint8_t)(vlan >> 8);
		frame[15] = (uint8_t)vlan;
	}
	assert_int_equal(net_null_push(t->net, 0, t->buf, n), 0);
	harness_run(t->h);
	assert_int_equal(net_null_waiting(t->net, 0), 0);
	return driver_used(&t->d.queues[0], NULL, NULL);
}

static void check_filters(struct net_test *t, uint64_t features)
{
	static const uint8_t other[6] = {0x52, 0x54, 0, 9, 9, 9};
	static const uint8_t group[6] = {0x33, 0x33, 0, 0, 0, 1};
	static const uint8_t all[6] = {255, 255, 255, 255, 255, 255};
	uint8_t table[4 + 6 + 4 + 6] = {1};
	uint8_t on = 1;
	uint8_t off = 0;
	le16 vlan = le16_of(0x123);

	start(t, features);
	for (unsigned i = 0; i < 30; i++)
		give(t, 0, 256);
	kick(t, 0);
	assert_true(arrives(t, other, 0));
	assert_int_equal(ctrl(t, 0, 0, &off, 1), 0);
	assert_false(arrives(t, other, 0));
	assert_true(arrives(t, own_mac, 0));
	assert_true(arrives(t, all, 0));
	assert_false(arrives(t, group, 0));
	memcpy(table + 4, other, 6);
	table[10] = 1;
	memcpy(table + 14, group, 6);
	assert_int_equal(ctrl(t, 1, 0, table, sizeof(table)), 0);
	assert_true(arrives(t, other, 0));
	assert_true(arrives(t, group, 0));
	assert_int_equal(ctrl(t, 0, 3, &on, 1), 0);
	assert_false(arrives(t, group, 0));
	assert_int_equal(ctrl(t, 0, 4, &on, 1), 0);
	assert_false(arrives(t, own_mac, 0));
	assert_int_equal(ctrl(t, 0, 5, &on, 1), 0);
	assert_false(arrives(t, all, 0));
	assert_int_equal(ctrl(t, 0, 0, &on, 1), 0);
	assert_true(arrives(t, group, 0));
	assert_false(arrives(t, own_mac, 0x123));
	assert_int_equal(ctrl(t, 2, 0, &vlan, 2), 0);
	assert_true(arrives(t, own_mac, 0x123));
	assert_int_equal(ctrl(t, 2, 1, &vlan, 2), 0);
	assert_false(arrives(t, own_mac, 0x123));
	assert_true(query(t).stats.rx_filtered >= 6);
	driver_stop(&t->d);
}

static void filters_split(void **state)
{
	check_filters(*state, DRIVER_SPLIT);
}

static void filters_packed(void **state)
{
	check_filters(*state, DRIVER_ALL);
}

static void the_address_can_be_set(void **state)
{
	static const uint8_t mac[6] = {0x52, 0x54, 0, 7, 7, 7};
	struct net_test *t = *state;
	uint8_t got[6];

	start(t, DRIVER_ALL);
	driver_config_read(&t->d, 0, got, 6);
	assert_memory_equal(got, own_mac, 6);
	assert_int_equal(ctrl(t, 1, 1, mac, 6), 0);
	driver_config_read(&t->d, 0, got, 6);
	assert_memory_equal(got, mac, 6);
	driver_stop(&t->d);
	start(t, DRIVER_ALL);
	driver_config_read(&t->d, 0, got, 6);
	assert_memory_equal(got, own_mac, 6);
	driver_stop(&t->d);
}

static void bad_commands_are_refused(void **state)
{
	static const uint8_t huge[8] = {0xff, 0xff, 0xff, 0xff};
	struct net_test *t = *state;
	uint8_t ack = 0xff;
	le16 v = le16_of(4096);
	le64 offloads = le64_of(BIT(F_CSUM) | BIT(F_GUEST_CSUM));
	uint8_t one = 1;

	start(t, DRIVER_ALL);
	assert_int_equal(ctrl(t, 0, 0, &one, 0), 1);
	assert_int_equal(ctrl(t, 0, 6, &one, 1), 1);
	assert_int_equal(ctrl(t, 0, 255, &one, 1), 1);
	assert_int_equal(ctrl(t, 1, 0, huge, 8), 1);
	assert_int_equal(ctrl(t, 1, 1, huge, 5), 1);
	assert_int_equal(ctrl(t, 1, 2, huge, 6), 1);
	assert_int_equal(ctrl(t, 2, 0, &v, 2), 1);
	assert_int_equal(ctrl(t, 4, 0, &v, 2), 1);
	assert_int_equal(ctrl(t, 5, 0, &offloads, 8), 1);
	assert_int_equal(ctrl(t, 77, 0, &one, 1), 1);
	assert_int_equal(driver_request(&t->d, 2, &one, 1, &ack, 1), 1);
	assert_int_equal(ack, 1);
	/* No place for an answer. */
	assert_int_equal(driver_request(&t->d, 2, huge, 2, NULL, 0), 0);
	assert_int_equal(ctrl(t, 0, 0, &one, 1), 0);
	driver_stop(&t->d);
}

static void too_many_addresses_mean_all(void **state)
{
	static const uint8_t group[6] = {0x33, 0x33, 0, 0, 0, 1};
	struct net_test *t = *state;
	uint8_t table[8 + 6 * 65] = {0};
	uint8_t off = 0;

	start(t, DRIVER_ALL);
	for (unsigned i = 0; i < 4; i++)
		give(t, 0, 256);
	kick(t, 0);
	assert_int_equal(ctrl(t, 0, 0, &off, 1), 0);
	table[4] = 65;
	assert_int_equal(ctrl(t, 1, 0, table, sizeof(table)), 0);
	assert_true(arrives(t, group, 0));
	driver_stop(&t->d);
}

static void offloads_are_told_to_the_backend(void **state)
{
	struct net_test *t = *state;
	le64 none = le64_of(0);

	start(t, DRIVER_ALL);
	assert_int_equal(net_null_offloads(t->net), ALL_OFFLOADS);
	assert_int_equal(ctrl(t, 5, 0, &none, 8), 0);
	assert_int_equal(net_null_offloads(t->net), 0);
	driver_stop(&t->d);
	start(t, DRIVER_ALL & ~BIT(F_GUEST_TSO4));
	assert_int_equal(net_null_offloads(t->net), ALL_OFFLOADS & ~NET_OFFLOAD_TSO4);
	driver_stop(&t->d);
}

static void no_offloads_without_a_backend_for_them(void **state)
{
	struct net_test *t = *state;

	driver_probe(&t->d, t->h, SLOT);
	assert_int_equal(driver_offered(&t->d) &
				 (BIT(F_CSUM) | BIT(F_GUEST_CSUM) | BIT(F_HOST_TSO4) |
				  BIT(F_GUEST_TSO4) | BIT(F_MQ) | BIT(F_CTRL_GUEST_OFFLOADS)),
			 0);
	driver_stop(&t->d);
}

static void features_that_need_others_are_refused_alone(void **state)
{
	static const uint64_t missing[] = {BIT(F_CSUM), BIT(F_GUEST_CSUM), BIT(F_CTRL_VQ)};
	struct net_test *t = *state;

	driver_probe(&t->d, t->h, SLOT);
	for (size_t i = 0; i < ARRAY_SIZE(missing); i++) {
		uint64_t f = driver_offered(&t->d) & ~missing[i];

		driver_reset(&t->d);
		driver_set_status(&t->d, 3);
		for (unsigned w = 0; w < 2; w++) {
			driver_common_out(&t->d, 8, 4, w);
			driver_common_out(&t->d, 12, 4, (uint32_t)(f >> (32 * w)));
		}
		driver_set_status(&t->d, 11);
		assert_int_equal(driver_status(&t->d) & VIRTIO_STATUS_FEATURES_OK, 0);
	}
	driver_stop(&t->d);
}

/* --- queue pairs --- */

static void pairs(void **state)
{
	struct net_test *t = *state;
	le16 n;
	le16 max;

	start(t, DRIVER_ALL);
	driver_config_read(&t->d, 8, &max, 2);
	assert_int_equal(le16_get(max), 4);
	assert_int_equal(net_null_queues(t->net), 1);
	n = le16_of(5);
	assert_int_equal(ctrl_at(t, 8, 4, 0, &n, 2), 1);
	n = le16_of(0);
	assert_int_equal(ctrl_at(t, 8, 4, 0, &n, 2), 1);
	n = le16_of(4);
	assert_int_equal(ctrl_at(t, 8, 4, 0, &n, 2), 0);
	assert_int_equal(net_null_queues(t->net), 4);
	for (unsigned i = 0; i < 4; i++) {
		give(t, 2 * i, 256);
		kick(t, 2 * i);
		push(t, i, own_mac, 60 + i, i);
		assert_true(driver_used(&t->d.queues[2 * i], NULL, NULL));
		send_one(t, 2 * i + 1, 100 + i, i);
	}
	n = le16_of(1);
	give(t, 2, 256);
	kick(t, 2);
	assert_int_equal(ctrl_at(t, 8, 4, 0, &n, 2), 0);
	assert_int_equal(net_null_queues(t->net), 1);
	push(t, 1, own_mac, 60, 0);
	assert_false(driver_used(&t->d.queues[2], NULL, NULL));
	driver_stop(&t->d);
}

static void control_queue_without_pairs(void **state)
{
	struct net_test *t = *state;
	uint8_t off = 0;

	start(t, DRIVER_ALL & ~BIT(F_MQ));
	assert_int_equal(ctrl(t, 0, 0, &off, 1), 0);
	send_one(t, 1, 60, 0);
	driver_stop(&t->d);
}

/* --- link, stop, reset --- */

static unsigned status(struct net_test *t)
{
	le16 v;

	driver_config_read(&t->d, 6, &v, 2);
	return le16_get(v);
}

static void link_state(void **state)
{
	struct net_test *t = *state;
	le16 mtu;

	start(t, DRIVER_ALL);
	driver_config_read(&t->d, 10, &mtu, 2);
	assert_int_equal(le16_get(mtu), 1400);
	give(t, 0, 256);
	kick(t, 0);
	assert_int_equal(status(t), 1);
	virtio_net_set_link(t->dev, false);
	assert_int_equal(driver_config_interrupts(&t->d), 1);
	assert_int_equal(status(t), 0);
	push(t, 0, own_mac, 60, 0);
	assert_false(driver_used(&t->d.queues[0], NULL, NULL));
	driver_request(&t->d, 1, t->buf, 100, NULL, 0);
	assert_int_equal(net_null_pop(t->net, 0, t->buf, sizeof(t->buf)), -EAGAIN);
	virtio_net_set_link(t->dev, true);
	harness_run(t->h);
	assert_true(driver_used(&t->d.queues[0], NULL, NULL));
	net_null_set_link(t->net, false);
	assert_int_equal(status(t), 0);
	virtio_net_set_link(t->dev, true);
	assert_int_equal(status(t), 0);
	net_null_set_link(t->net, true);
	assert_int_equal(status(t), 1);
	driver_stop(&t->d);
}

static void announce(void **state)
{
	struct net_test *t = *state;

	start(t, DRIVER_ALL);
	virtio_net_announce(t->dev);
	assert_int_equal(driver_config_interrupts(&t->d), 1);
	assert_int_equal(status(t), 3);
	assert_int_equal(ctrl(t, 3, 0, "", 0), 0);
	assert_int_equal(status(t), 1);
	driver_stop(&t->d);
}

/* A pause gives buffers back that were taken in advance: the state is exact, and so is what comes after. */
static void check_pause(struct net_test *t, uint64_t features)
{
	struct vq *vq;
	gpa_t gpa[3];
	uint32_t len[3];

	start(t, features);
	vq = &((struct virtio *)t->dev)->queues[0].vq;
	for (unsigned i = 0; i < 3; i++)
		gpa[i] = give(t, 0, 256);
	kick(t, 0);
	assert_int_equal(vq->in_flight, 3);
	/* Half-way through a frame, too. */
	push(t, 0, own_mac, 2000, 1);
	device_pause(t->dev);
	assert_int_equal(vq->in_flight, 0);
	assert_int_equal(net_null_push(t->net, 0, t->buf, 12 + 60), 0);
	harness_run(t->h);
	assert_int_equal(vq->in_flight, 0);
	device_resume(t->dev);
	harness_run(t->h);
	assert_true(driver_used(&t->d.queues[0], NULL, &len[0]));
	push(t, 0, own_mac, 400, 5);
	assert_true(driver_used(&t->d.queues[0], NULL, &len[1]));
	assert_true(driver_used(&t->d.queues[0], NULL, &len[2]));
	check_pieces(t, own_mac, 400, 5, gpa + 1, len + 1, 2);
	driver_stop(&t->d);
}

static void pause_split(void **state)
{
	check_pause(*state, DRIVER_SPLIT);
}

static void pause_packed(void **state)
{
	check_pause(*state, DRIVER_ALL);
}

static void reset_in_flight(void **state)
{
	struct net_test *t = *state;

	for (unsigned i = 0; i < 5; i++) {
		start(t, DRIVER_ALL);
		net_null_block(t->net, true);
		for (unsigned j = 0; j < 20; j++)
			give(t, 0, 2048);
		kick(t, 0);
		make_frame(t, own_mac, 60, 0);
		driver_add(&t->d.queues[1],
			   &(struct driver_buf){.gpa = harness_alloc(t->h, 80), .len = 80}, 1);
		kick(t, 1);
		push(t, 0, own_mac, 65000, 0);
		net_null_block(t->net, false);
		driver_reset(&t->d);
		driver_stop(&t->d);
	}
	/* The machine's reset, of a device that runs. */
	start(t, DRIVER_ALL);
	give(t, 0, 2048);
	kick(t, 0);
	device_pause(t->dev);
	device_reset(t->dev);
	device_resume(t->dev);
	harness_run(t->h);
	assert_false(virtio_active((struct virtio *)t->dev));
	assert_int_equal(pci_bus_assign(t->h->env.pci, NULL), 0);
	harness_config_out(t->h, SLOT, 4, 2, 6); /* decoding, mastering */
	driver_stop(&t->d);
	start(t, DRIVER_ALL);
	send_one(t, 1, 60, 0);
	driver_stop(&t->d);
}

/* --- on a thread of its own --- */

struct far {
	struct net_backend *net;
	struct device *dev;
	struct harness *h;
	struct loop *loop;
	uint8_t frame[NET_HDR_BYTES + 100];
	int result;
};

static void far_open(void *opaque)
{
	struct far *far = opaque;
	struct device_env env = far->h->env;
	struct virtio_net_config config = {.id = "net0", .slot = SLOT};

	env.loop = far->loop;
	assert_int_equal(net_null_open_with(far->loop, 1, 0, 0, &far->net), 0);
	config.backend = far->net;
	far->result = virtio_net_new(&env, &config, &far->dev, NULL);
}

static void far_push(void *opaque)
{
	struct far *far = opaque;

	far->result = net_null_push(far->net, 0, far->frame, sizeof(far->frame));
}

/* Registers here, queues there: nothing is shared that is not locked (run it under the thread sanitizer). */
static void a_loop_of_its_own(void **state)
{
	struct loop_thread *thread;
	struct far far = {.h = harness_new()};
	struct driver d;
	uint8_t msg[NET_HDR_BYTES + 100] = {0};

	assert_int_equal(loop_thread_start("net", &thread), 0);
	far.loop = loop_thread_loop(thread);
	loop_call(far.loop, far_open, &far);
	assert_int_equal(far.result, 0);
	for (unsigned life = 0; life < 5; life++) {
		struct driver_buf buf = {.gpa = harness_alloc(far.h, 256),
					 .len = 256,
					 .writable = true};
		uint8_t mac[6];

		driver_start(&d, far.h, SLOT, life & 1 ? DRIVER_ALL : DRIVER_SPLIT);
		for (unsigned i = 0; i < 20; i++) {
			driver_request(&d, 1, msg, sizeof(msg), NULL, 0);
			driver_add(&d.queues[0], &buf, 1);
			driver_kick(&d.queues[0]);
			loop_call(far.loop, far_push, &far);
			assert_int_equal(far.result, 0);
			assert_int_equal(driver_wait(&d.queues[0], NULL), sizeof(far.frame));
			driver_config_read(&d, 0, mac, sizeof(mac));
			virtio_net_set_link(far.dev, false);
			virtio_net_set_link(far.dev, true);
		}
		device_pause(far.dev);
		device_resume(far.dev);
		driver_add(&d.queues[0], &buf, 1);
		driver_kick(&d.queues[0]);
		driver_stop(&d);
	}
	device_pause(far.dev);
	device_free(far.dev);
	loop_thread_stop(thread);
	harness_free(far.h);
}

/* --- configuration --- */

static void expect_refusal(struct virtio_net_config config, int code, const char *part)
{
	struct harness *h = harness_new();
	struct error err = ERROR_INIT;
	struct device *dev;

	config.id = "net0";
	config.slot = SLOT;
	assert_int_equal(net_null_open(h->env.loop, &config.backend), 0);
	assert_int_equal(virtio_net_new(&h->env, &config, &dev, &err), code);
	if (!strstr(err.text, part))
		fail_msg("\"%s\" does not say \"%s\"", err.text, part);
	net_backend_free(config.backend);
	harness_free(h);
}

static void bad_configurations(void **state)
{
	expect_refusal((struct virtio_net_config){.mac = {1}}, -EINVAL, "MAC");
	expect_refusal((struct virtio_net_config){.mtu = 67}, -EINVAL, "68 to 65535");
	expect_refusal((struct virtio_net_config){.queue_pairs = 2}, -EINVAL, "2 queue pairs");
	expect_refusal((struct virtio_net_config){.queue_size = 100}, -EINVAL, "power of two");
	expect_refusal((struct virtio_net_config){.vhost = true}, -EOPNOTSUPP, "tap");
}

int main(void)
{
#define T(f)    cmocka_unit_test_setup_teardown(f, net_setup, net_teardown)
#define MQ(f)   cmocka_unit_test_setup_teardown(f, net_setup_mq, net_teardown)
#define BARE(f) cmocka_unit_test_setup_teardown(f, net_setup_plain, net_teardown)
	const struct CMUnitTest tests[] = {
		T(sends_split),
		T(sends_packed),
		T(what_is_no_frame_is_not_sent),
		T(a_full_backend_is_waited_for),
		T(receives_split),
		T(receives_packed),
		T(receives_not_mergeable),
		T(frame_that_waits_for_buffers),
		T(merges_buffers_as_they_come),
		T(a_frame_too_large_for_one_buffer_is_dropped),
		T(buffers_that_are_too_small_to_hold_do_not_stop_it),
		T(a_readable_receive_buffer_breaks_it),
		T(filters_split),
		T(filters_packed),
		T(the_address_can_be_set),
		T(bad_commands_are_refused),
		T(too_many_addresses_mean_all),
		T(offloads_are_told_to_the_backend),
		BARE(no_offloads_without_a_backend_for_them),
		T(features_that_need_others_are_refused_alone),
		MQ(pairs),
		MQ(control_queue_without_pairs),
		T(link_state),
		T(announce),
		T(pause_split),
		T(pause_packed),
		T(reset_in_flight),
		cmocka_unit_test(a_loop_of_its_own),
		cmocka_unit_test(bad_configurations),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
