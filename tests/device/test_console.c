#include "device/driver.h"

#include <errno.h>

#include "base/endian.h"
#include "vm/char/chardev.h"
#include "vm/devices/virtio_console.h"

#define SLOT    4
#define N_PORTS 3

/* Section 5.3: queues, features, control messages. */
enum { RX0, TX0, CONTROL_RX, CONTROL_TX, RX1, TX1, RX2, TX2 };
#define F_SIZE      (1ULL << 0)
#define F_MULTIPORT (1ULL << 1)
enum {
	READY = 0,
	ADD = 1,
	PORT_READY = 3,
	CONSOLE_PORT = 4,
	RESIZE = 5,
	PORT_OPEN = 6,
	PORT_NAME = 7,
};

struct fixture {
	struct harness *h;
	struct chardev *chr[N_PORTS];
	struct device *dev;
	struct driver d;
};

static struct fixture *fixture_new(unsigned n_ports)
{
	struct fixture *f = calloc(1, sizeof(*f));
	struct virtio_console_port_config ports[N_PORTS] = {{.name = NULL},
							    {.name = "agent"},
							    {.name = NULL}};
	struct virtio_console_config config = {.id = "console0",
					       .slot = SLOT,
					       .ports = ports,
					       .n_ports = n_ports};

	f->h = harness_new();
	for (unsigned i = 0; i < N_PORTS; i++) {
		assert_int_equal(chardev_memory_open(&f->chr[i]), 0);
		ports[i].chr = f->chr[i];
	}
	assert_int_equal(virtio_console_new(&f->h->env, &config, &f->dev, NULL), 0);
	return f;
}

static int setup_one(void **state)
{
	*state = fixture_new(1);
	return 0;
}

static int setup_many(void **state)
{
	*state = fixture_new(N_PORTS);
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	device_pause(f->dev);
	device_free(f->dev);
	for (unsigned i = 0; i < N_PORTS; i++)
		chardev_free(f->chr[i]);
	harness_free(f->h);
	free(f);
	return 0;
}

static void expect_output(struct fixture *f, unsigned port, const char *text)
{
	uint8_t buf[256];
	size_t len = strlen(text);

	assert_int_equal(chardev_memory_take(f->chr[port], buf, sizeof(buf)), len);
	assert_memory_equal(buf, text, len);
}

static void type(struct fixture *f, unsigned port, const char *text)
{
	chardev_memory_inject(f->chr[port], (const uint8_t *)text, strlen(text));
}

/* An empty buffer for the device to fill; returns where it is. */
static gpa_t offer(struct fixture *f, unsigned queue, uint32_t len)
{
	struct driver_buf buf = {.gpa = harness_alloc(f->h, len), .len = len, .writable = true};

	driver_add(&f->d.queues[queue], &buf, 1);
	driver_kick(&f->d.queues[queue]);
	return buf.gpa;
}

static void expect_input(struct fixture *f, unsigned queue, gpa_t gpa, const char *text)
{
	assert_int_equal(driver_wait(&f->d.queues[queue], NULL), strlen(text));
	assert_memory_equal(harness_ptr(f->h, gpa, strlen(text)), text, strlen(text));
}

static void send(struct fixture *f, unsigned queue, const char *text)
{
	driver_request(&f->d, queue, text, (uint32_t)strlen(text), NULL, 0);
}

static void a_single_console_has_no_control_queues(void **state)
{
	struct fixture *f = *state;
	gpa_t gpa;

	driver_start(&f->d, f->h, SLOT, DRIVER_ALL);
	assert_int_equal(f->d.n_queues, 2);
	assert_false(f->d.features & F_MULTIPORT);
	send(f, TX0, "Linux version\n");
	expect_output(f, 0, "Linux version\n");
	gpa = offer(f, RX0, 64);
	harness_run(f->h);
	type(f, 0, "root\n");
	expect_input(f, RX0, gpa, "root\n");
	assert_int_equal(driver_interrupts(&f->d.queues[RX0]), 1);
	driver_stop(&f->d);
}

static void input_waits_for_the_driver_and_its_buffers(void **state)
{
	struct fixture *f = *state;
	gpa_t a;
	gpa_t b;

	type(f, 0, "early");
	driver_start(&f->d, f->h, SLOT, DRIVER_ALL);
	type(f, 0, "");
	type(f, 0, " bird");
	a = offer(f, RX0, 3);
	b = offer(f, RX0, 64);
	expect_input(f, RX0, a, "ear");
	expect_input(f, RX0, b, "ly");
	type(f, 0, "");
	a = offer(f, RX0, 64);
	expect_input(f, RX0, a, " bird");
	driver_stop(&f->d);
}

static void output_waits_for_the_backend(void **state)
{
	struct fixture *f = *state;
	static char big[70000];
	static uint8_t out[70000];
	size_t got;
	struct driver_buf bufs[2] = {{.len = 40000}, {.len = 30000}};
	struct driver_buf more = {.len = 4};

	for (size_t i = 0; i < sizeof(big); i++)
		big[i] = (char)('a' + i % 23);
	driver_start(&f->d, f->h, SLOT, DRIVER_ALL);
	bufs[0].gpa = harness_alloc(f->h, 40000);
	bufs[1].gpa = harness_alloc(f->h, 30000);
	more.gpa = harness_alloc(f->h, 4);
	memcpy(harness_ptr(f->h, bufs[0].gpa, 40000), big, 40000);
	memcpy(harness_ptr(f->h, bufs[1].gpa, 30000), big + 40000, 30000);
	memcpy(harness_ptr(f->h, more.gpa, 4), "tail", 4);
	driver_add(&f->d.queues[TX0], bufs, 2);
	driver_add(&f->d.queues[TX0], &more, 1);
	driver_kick(&f->d.queues[TX0]);
	harness_run(f->h);
	assert_false(driver_used(&f->d.queues[TX0], NULL, NULL));
	/* A pause in mid-request changes nothing. */
	device_pause(f->dev);
	device_resume(f->dev);
	harness_run(f->h);
	got = chardev_memory_take(f->chr[0], out, sizeof(out));
	assert_int_equal(got, 65536);
	driver_wait(&f->d.queues[TX0], NULL);
	driver_wait(&f->d.queues[TX0], NULL);
	got += chardev_memory_take(f->chr[0], out + got, sizeof(big) - got);
	assert_int_equal(got, sizeof(big));
	assert_memory_equal(out, big, sizeof(big));
	expect_output(f, 0, "tail");
	driver_stop(&f->d);
}

static void the_size_is_in_configuration(void **state)
{
	struct fixture *f = *state;
	uint8_t size[4];

	driver_start(&f->d, f->h, SLOT, DRIVER_ALL);
	f->chr[0]->events.resized(f->chr[0]->events.opaque, 132, 50);
	assert_int_equal(driver_config_interrupts(&f->d), 1);
	driver_config_read(&f->d, 0, size, sizeof(size));
	assert_int_equal(le_load(size, 2), 132);
	assert_int_equal(le_load(size + 2, 2), 50);
	f->chr[0]->events.resized(f->chr[0]->events.opaque, 132, 50);
	assert_int_equal(driver_config_interrupts(&f->d), 0);
	driver_stop(&f->d);
}

static void emergency_write_needs_no_driver(void **state)
{
	struct fixture *f = *state;

	driver_probe(&f->d, f->h, SLOT);
	harness_out(f->h, f->d.config + 8, 4, '!');
	harness_out(f->h, f->d.config + 4, 4, '?'); /* max_nr_ports: read-only */
	expect_output(f, 0, "!");
	driver_stop(&f->d);
}

static void a_useless_receive_buffer_breaks_it(void **state)
{
	struct fixture *f = *state;
	struct driver_buf buf = {.len = 16}; /* readable only */

	driver_start(&f->d, f->h, SLOT, DRIVER_ALL);
	buf.gpa = harness_alloc(f->h, 16);
	driver_add(&f->d.queues[RX0], &buf, 1);
	driver_kick(&f->d.queues[RX0]);
	type(f, 0, "x");
	harness_run(f->h);
	assert_true(driver_status(&f->d) & VIRTIO_STATUS_NEEDS_RESET);
	driver_reset(&f->d);
	driver_stop(&f->d);
}

/* --- several ports --- */

static void control_send(struct fixture *f, uint32_t id, uint16_t event, uint16_t value)
{
	uint8_t msg[8];

	le_store(msg, 4, id);
	le_store(msg + 4, 2, event);
	le_store(msg + 6, 2, value);
	driver_request(&f->d, CONTROL_TX, msg, sizeof(msg), NULL, 0);
}

/* The next message must be this one; its extra bytes go to `extra`. */
static uint32_t control_expect(struct fixture *f, uint32_t id, uint16_t event, uint16_t value,
			       void *extra)
{
	gpa_t gpa = offer(f, CONTROL_RX, 80);
	uint32_t len = driver_wait(&f->d.queues[CONTROL_RX], NULL);
	const uint8_t *msg = harness_ptr(f->h, gpa, 80);

	assert_true(len >= 8);
	assert_int_equal(le_load(msg, 4), id);
	assert_int_equal(le_load(msg + 4, 2), event);
	assert_int_equal(le_load(msg + 6, 2), value);
	if (extra)
		memcpy(extra, msg + 8, len - 8);
	return len - 8;
}

static void ports_are_introduced(void **state)
{
	struct fixture *f = *state;
	uint8_t max[4];
	char extra[72] = "";

	driver_start(&f->d, f->h, SLOT, DRIVER_ALL);
	assert_int_equal(f->d.n_queues, 8);
	driver_config_read(&f->d, 4, max, 4);
	assert_int_equal(le_load(max, 4), N_PORTS);
	f->chr[0]->events.resized(f->chr[0]->events.opaque, 80, 25);

	control_send(f, 0, READY, 1);
	for (uint32_t i = 0; i < N_PORTS; i++)
		control_expect(f, i, ADD, 1, NULL);
	control_send(f, 1, PORT_READY, 1);
	assert_int_equal(control_expect(f, 1, PORT_NAME, 1, extra), 5);
	assert_string_equal(extra, "agent");
	control_expect(f, 1, PORT_OPEN, 1, NULL);
	control_send(f, 0, PORT_READY, 1);
	control_expect(f, 0, CONSOLE_PORT, 1, NULL);
	assert_int_equal(control_expect(f, 0, RESIZE, 1, extra), 4);
	assert_int_equal(le_load(extra, 2), 80);
	assert_int_equal(le_load(extra + 2, 2), 25);
	control_expect(f, 0, PORT_OPEN, 1, NULL);

	/* The other end goes and comes while no buffer is there: only the last counts. */
	f->chr[1]->events.opened(f->chr[1]->events.opaque, false);
	harness_run(f->h);
	control_expect(f, 1, PORT_OPEN, 0, NULL);
	f->chr[1]->events.opened(f->chr[1]->events.opaque, true);
	f->chr[1]->events.opened(f->chr[1]->events.opaque, false);
	f->chr[1]->events.opened(f->chr[1]->events.opaque, true);
	control_expect(f, 1, PORT_OPEN, 1, NULL);
	harness_run(f->h);
	offer(f, CONTROL_RX, 80);
	harness_run(f->h);
	assert_false(driver_used(&f->d.queues[CONTROL_RX], NULL, NULL));
	driver_stop(&f->d);
}

static void each_port_has_its_own_bytes(void **state)
{
	struct fixture *f = *state;
	gpa_t a;
	gpa_t b;

	driver_start(&f->d, f->h, SLOT, DRIVER_ALL);
	send(f, TX0, "zero");
	send(f, TX1, "one");
	send(f, TX2, "two");
	expect_output(f, 0, "zero");
	expect_output(f, 1, "one");
	expect_output(f, 2, "two");
	/* A port that nothing in the guest has open takes no input. */
	a = offer(f, RX1, 16);
	b = offer(f, RX2, 16);
	type(f, 1, "to one");
	type(f, 2, "to two");
	harness_run(f->h);
	assert_false(driver_used(&f->d.queues[RX1], NULL, NULL));
	control_send(f, 1, PORT_OPEN, 1);
	type(f, 1, "");
	expect_input(f, RX1, a, "to one");
	control_send(f, 2, PORT_OPEN, 1);
	type(f, 2, "");
	expect_input(f, RX2, b, "to two");
	/* What waits for a program that left is not for the next one. */
	type(f, 1, "stale");
	control_send(f, 1, PORT_OPEN, 0);
	control_send(f, 1, PORT_OPEN, 1);
	type(f, 1, "fresh");
	a = offer(f, RX1, 16);
	expect_input(f, RX1, a, "fresh");
	driver_stop(&f->d);
}

static void odd_control_messages(void **state)
{
	struct fixture *f = *state;

	driver_start(&f->d, f->h, SLOT, DRIVER_ALL);
	control_send(f, 77, PORT_READY, 1);
	control_send(f, 0, 0x1234, 1);
	control_send(f, UINT32_MAX, PORT_OPEN, 1);
	assert_false(driver_status(&f->d) & VIRTIO_STATUS_NEEDS_RESET);
	driver_request(&f->d, CONTROL_TX, "shrt", 4, NULL, 0);
	harness_run(f->h);
	assert_true(driver_status(&f->d) & VIRTIO_STATUS_NEEDS_RESET);

	driver_stop(&f->d);
	driver_start(&f->d, f->h, SLOT, DRIVER_ALL);
	offer(f, CONTROL_RX, 4);
	control_send(f, 0, READY, 1);
	harness_run(f->h);
	assert_true(driver_status(&f->d) & VIRTIO_STATUS_NEEDS_RESET);
	driver_stop(&f->d);
}

static void a_driver_may_decline_multiport(void **state)
{
	struct fixture *f = *state;
	gpa_t gpa;

	driver_start(&f->d, f->h, SLOT, DRIVER_ALL & ~F_MULTIPORT);
	send(f, TX0, "plain");
	expect_output(f, 0, "plain");
	gpa = offer(f, RX0, 16);
	type(f, 0, "in");
	expect_input(f, RX0, gpa, "in");
	driver_stop(&f->d);
}

static void reset_forgets_the_driver(void **state)
{
	struct fixture *f = *state;

	driver_start(&f->d, f->h, SLOT, DRIVER_ALL);
	control_send(f, 1, PORT_OPEN, 1);
	type(f, 1, "waits for a buffer");
	driver_reset(&f->d);
	driver_stop(&f->d);
	driver_start(&f->d, f->h, SLOT, DRIVER_ALL);
	offer(f, RX1, 64);
	harness_run(f->h);
	assert_false(driver_used(&f->d.queues[RX1], NULL, NULL));
	driver_stop(&f->d);
}

static void bad_configurations_are_named(void **state)
{
	struct fixture *f = *state;
	struct virtio_console_port_config port = {.chr = f->chr[0], .name = ""};
	struct virtio_console_config config = {.id = "con9", .slot = -1, .ports = &port};
	struct device *dev;
	struct error err = ERROR_INIT;

	assert_int_equal(virtio_console_new(&f->h->env, &config, &dev, &err), -EINVAL);
	assert_non_null(strstr(err.text, "con9"));
	config.n_ports = 1;
	assert_int_equal(virtio_console_new(&f->h->env, &config, &dev, &err), -EINVAL);
	config.slot = SLOT;
	port.name = "ok";
	assert_int_equal(virtio_console_new(&f->h->env, &config, &dev, &err), -EEXIST);
}

int main(void)
{
#define ONE(fn)  cmocka_unit_test_setup_teardown(fn, setup_one, teardown)
#define MANY(fn) cmocka_unit_test_setup_teardown(fn, setup_many, teardown)
	const struct CMUnitTest tests[] = {
		ONE(a_single_console_has_no_control_queues),
		ONE(input_waits_for_the_driver_and_its_buffers),
		ONE(output_waits_for_the_backend),
		ONE(the_size_is_in_configuration),
		ONE(emergency_write_needs_no_driver),
		ONE(a_useless_receive_buffer_breaks_it),
		MANY(ports_are_introduced),
		MANY(each_port_has_its_own_bytes),
		MANY(odd_control_messages),
		MANY(a_driver_may_decline_multiport),
		MANY(reset_forgets_the_driver),
		ONE(bad_configurations_are_named),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
