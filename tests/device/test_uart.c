#include "device/ports.h"

#include "vm/char/chardev.h"
#include "vm/devices/uart16550.h"

#define BASE 0x3F8
#define GSI  4

enum { DATA, IER, IIR, LCR, MCR, LSR, MSR, SCR, FCR = IIR };

struct fixture {
	struct ports *ports;
	struct chardev *chr;
	struct device *uart;
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	struct uart16550_config config = {.id = "uart0", .port = BASE, .gsi = GSI};

	f->ports = ports_new();
	assert_int_equal(chardev_memory_open(&f->chr), 0);
	config.chr = f->chr;
	assert_int_equal(uart16550_new(&f->ports->env, &config, &f->uart, NULL), 0);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	device_pause(f->uart);
	device_free(f->uart);
	chardev_free(f->chr);
	ports_free(f->ports);
	free(f);
	return 0;
}

static void reg_out(struct fixture *f, unsigned reg, uint8_t value)
{
	outb(f->ports, (uint16_t)(BASE + reg), value);
}

static uint8_t reg_in(struct fixture *f, unsigned reg)
{
	return inb(f->ports, (uint16_t)(BASE + reg));
}

static void type(struct fixture *f, const char *text)
{
	chardev_memory_inject(f->chr, (const uint8_t *)text, strlen(text));
}

static void bytes_go_out_in_order(void **state)
{
	struct fixture *f = *state;
	uint8_t out[8] = "";

	assert_int_equal(reg_in(f, LSR), 0x60);
	for (const char *p = "boot"; *p; p++)
		reg_out(f, DATA, (uint8_t)*p);
	assert_int_equal(reg_in(f, LSR), 0x60);
	assert_int_equal(chardev_memory_take(f->chr, out, sizeof(out)), 4);
	assert_memory_equal(out, "boot", 4);
}

static void divisor_latch_hides_data_and_ier(void **state)
{
	struct fixture *f = *state;
	uint8_t out;

	reg_out(f, LCR, 0x83);
	reg_out(f, DATA, 0x34);
	reg_out(f, IER, 0x12);
	assert_int_equal(reg_in(f, DATA), 0x34);
	assert_int_equal(reg_in(f, IER), 0x12);
	reg_out(f, LCR, 0x03);
	assert_int_equal(reg_in(f, IER), 0);
	assert_int_equal(chardev_memory_take(f->chr, &out, 1), 0);
}

static void transmitter_interrupt_is_cleared_by_iir(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(reg_in(f, IIR), 0x01);
	reg_out(f, IER, 0x02);
	assert_true(f->ports->level[GSI]);
	assert_int_equal(reg_in(f, IIR), 0x02);
	assert_false(f->ports->level[GSI]);
	assert_int_equal(reg_in(f, IIR), 0x01);
	reg_out(f, DATA, 'x');
	assert_true(f->ports->level[GSI]);
	/* Off and on again while empty: drivers probe for the latch this way. */
	reg_in(f, IIR);
	reg_out(f, IER, 0x00);
	reg_out(f, IER, 0x02);
	assert_int_equal(reg_in(f, IIR), 0x02);
}

static void each_byte_gives_an_edge_without_fifo(void **state)
{
	struct fixture *f = *state;

	reg_out(f, IER, 0x02);
	assert_int_equal(f->ports->edges[GSI], 1);
	reg_out(f, DATA, 'a');
	assert_int_equal(f->ports->edges[GSI], 2);
	reg_out(f, DATA, 'b');
	assert_int_equal(f->ports->edges[GSI], 3);
}

static void receiver_interrupt_follows_the_trigger(void **state)
{
	struct fixture *f = *state;

	reg_out(f, FCR, 0x81); /* on, 8 bytes */
	reg_out(f, IER, 0x01);
	type(f, "abc");
	assert_true(f->ports->level[GSI]);
	assert_int_equal(reg_in(f, IIR), 0xCC); /* below: time-out */
	type(f, "defgh");
	assert_int_equal(reg_in(f, IIR), 0xC4);
	assert_int_equal(reg_in(f, DATA), 'a');
	assert_int_equal(reg_in(f, IIR), 0xCC);
	for (const char *p = "bcdefgh"; *p; p++) {
		assert_int_equal(reg_in(f, LSR) & 1, 1);
		assert_int_equal(reg_in(f, DATA), *p);
	}
	assert_false(f->ports->level[GSI]);
	assert_int_equal(reg_in(f, LSR) & 1, 0);
	assert_int_equal(reg_in(f, IIR), 0xC1);
}

static void input_waits_for_room(void **state)
{
	struct fixture *f = *state;

	type(f, "xyz");
	assert_int_equal(reg_in(f, DATA), 'x');
	assert_int_equal(reg_in(f, LSR) & 1, 0);
	type(f, "");
	assert_int_equal(reg_in(f, DATA), 'y');
	reg_out(f, FCR, 0x01);
	type(f, "0123456789abcdefghij");
	for (const char *p = "z0123456789abcde"; *p; p++)
		assert_int_equal(reg_in(f, DATA), *p);
	type(f, "");
	assert_int_equal(reg_in(f, DATA), 'f');
	assert_int_equal(reg_in(f, LSR) & 2, 0); /* no overrun anywhere */
}

static void a_full_backend_holds_the_transmitter(void **state)
{
	struct fixture *f = *state;
	static uint8_t drain[65536];

	reg_out(f, FCR, 0x01);
	for (unsigned i = 0; i < 65536; i++)
		reg_out(f, DATA, (uint8_t)i);
	assert_int_equal(reg_in(f, LSR), 0x60);
	reg_out(f, IER, 0x02);
	reg_in(f, IIR);
	reg_out(f, DATA, 'p');
	reg_out(f, DATA, 'q');
	assert_int_equal(reg_in(f, LSR), 0);
	assert_false(f->ports->level[GSI]);
	assert_int_equal(chardev_memory_take(f->chr, drain, sizeof(drain)), 65536);
	assert_int_equal(reg_in(f, LSR), 0x60);
	assert_true(f->ports->level[GSI]);
	assert_int_equal(chardev_memory_take(f->chr, drain, sizeof(drain)), 2);
	assert_memory_equal(drain, "pq", 2);
}

static void loopback_stays_inside(void **state)
{
	struct fixture *f = *state;
	uint8_t out;

	assert_int_equal(reg_in(f, MSR) & 0xF0, 0xB0);
	reg_out(f, MCR, 0x1A); /* loop, RTS, OUT2 */
	assert_int_equal(reg_in(f, MSR) & 0xF0, 0x90);
	reg_out(f, DATA, 0x5A);
	assert_int_equal(reg_in(f, DATA), 0x5A);
	assert_int_equal(chardev_memory_take(f->chr, &out, 1), 0);
	/* Two bytes without a FIFO: the second replaces the first, and that is reported once. */
	reg_out(f, DATA, 1);
	reg_out(f, DATA, 2);
	reg_out(f, IER, 0x04);
	assert_int_equal(reg_in(f, IIR), 0x06);
	assert_int_equal(reg_in(f, LSR), 0x63);
	assert_int_equal(reg_in(f, LSR), 0x61);
	assert_int_equal(reg_in(f, DATA), 2);
	/* Modem status interrupt and its acknowledgement. */
	reg_in(f, MSR);
	reg_out(f, IER, 0x08);
	reg_out(f, MCR, 0x18);
	assert_int_equal(reg_in(f, IIR), 0x00);
	assert_int_equal(reg_in(f, MSR), 0x81);
	assert_int_equal(reg_in(f, IIR), 0x01);
}

static void reset_clears_and_lowers(void **state)
{
	struct fixture *f = *state;

	reg_out(f, SCR, 0x77);
	reg_out(f, FCR, 0xC1);
	reg_out(f, IER, 0x03);
	type(f, "abc");
	assert_true(f->ports->level[GSI]);
	device_pause(f->uart);
	device_reset(f->uart);
	assert_false(f->ports->level[GSI]);
	device_resume(f->uart);
	assert_int_equal(reg_in(f, SCR), 0);
	assert_int_equal(reg_in(f, IIR), 0x01);
	assert_int_equal(reg_in(f, LSR), 0x60);
}

static void a_paused_port_takes_nothing(void **state)
{
	struct fixture *f = *state;

	device_pause(f->uart);
	type(f, "a");
	assert_int_equal(reg_in(f, LSR), 0x60);
	device_resume(f->uart);
	type(f, "");
	assert_int_equal(reg_in(f, DATA), 'a');
}

static void wide_accesses_are_bytes(void **state)
{
	struct fixture *f = *state;

	port_out(f->ports, BASE + LCR, 2, 0x1283); /* LCR, then MCR */
	assert_int_equal(reg_in(f, LCR), 0x83);
	assert_int_equal(reg_in(f, MCR), 0x12);
	assert_int_equal(port_in(f->ports, BASE + SCR, 2) >> 8, 0xFF);
}

static void a_taken_port_is_refused(void **state)
{
	struct fixture *f = *state;
	struct uart16550_config config = {.id = "uart1", .port = BASE + 4, .chr = f->chr};
	struct device *dev;
	struct error err = ERROR_INIT;

	assert_true(uart16550_new(&f->ports->env, &config, &dev, &err) < 0);
	assert_non_null(strstr(err.text, "uart1"));
}

int main(void)
{
#define CASE(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
	const struct CMUnitTest tests[] = {
		CASE(bytes_go_out_in_order),
		CASE(divisor_latch_hides_data_and_ier),
		CASE(transmitter_interrupt_is_cleared_by_iir),
		CASE(each_byte_gives_an_edge_without_fifo),
		CASE(receiver_interrupt_follows_the_trigger),
		CASE(input_waits_for_room),
		CASE(a_full_backend_holds_the_transmitter),
		CASE(loopback_stays_inside),
		CASE(reset_clears_and_lowers),
		CASE(a_paused_port_takes_nothing),
		CASE(wide_accesses_are_bytes),
		CASE(a_taken_port_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
