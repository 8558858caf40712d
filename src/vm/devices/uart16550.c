/*
 * 16550A UART (National Semiconductor PC16550D data sheet, sections 6 to 8).
 *
 * The line is infinitely fast: a byte written is sent before the access ends, unless the backend has no room; then it
 * waits in the transmit FIFO and THRE stays clear until the backend drains. Bytes that arrive come as a burst followed by
 * silence, so the receive FIFO's time-out is due as soon as it holds something below its trigger level.
 *
 * Registers on vCPU threads, the backend's events on the device's loop; all under dev.lock. Baud rate, parity and stop bits
 * are stored and have no effect; the modem lines are those of a cable that is plugged in; OUT2 does not gate the interrupt.
 */
#include "vm/devices/uart16550.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "vm/devices/line.h"

#define UART_FIFO_BYTES 16u

enum uart_reg {
	UART_REG_DATA = 0,    /* RBR, THR; DLL */
	UART_REG_IER = 1,     /* DLM */
	UART_REG_IIR_FCR = 2, /* read: IIR, write: FCR */
	UART_REG_LCR = 3,
	UART_REG_MCR = 4,
	UART_REG_LSR = 5,
	UART_REG_MSR = 6,
	UART_REG_SCR = 7,
	UART_REGS = 8,
};

#define IER_RX    0x01u
#define IER_TX    0x02u
#define IER_LINE  0x04u
#define IER_MODEM 0x08u
#define IER_MASK  0x0Fu

#define IIR_NONE    0x01u
#define IIR_MODEM   0x00u
#define IIR_TX      0x02u
#define IIR_RX      0x04u
#define IIR_LINE    0x06u
#define IIR_TIMEOUT 0x0Cu
#define IIR_FIFO    0xC0u

#define FCR_ENABLE   0x01u
#define FCR_CLEAR_RX 0x02u
#define FCR_CLEAR_TX 0x04u
#define FCR_KEPT     0xC9u /* enable, DMA mode, trigger level */

#define LCR_DLAB 0x80u

#define MCR_LOOP 0x10u
#define MCR_MASK 0x1Fu

#define LSR_DR   0x01u
#define LSR_OE   0x02u
#define LSR_THRE 0x20u
#define LSR_TEMT 0x40u

#define MSR_DELTA_MASK 0x0Fu
#define MSR_TERI       0x04u
#define MSR_CTS        0x10u
#define MSR_DSR        0x20u
#define MSR_RI         0x40u
#define MSR_DCD        0x80u
#define MSR_PLUGGED    (MSR_CTS | MSR_DSR | MSR_DCD)

struct uart_fifo {
	uint8_t data[UART_FIFO_BYTES];
	uint32_t len;
};

struct uart {
	struct device dev;
	struct bus_region region;
	struct chardev *chr;
	struct line irq; /* [lock] */
	bool paused;     /* [lock] */

	/* [lock] */
	uint8_t ier, fcr, lcr, mcr, msr, scr, dll, dlm;
	bool overrun;      /* LSR.OE */
	bool thre_pending; /* the transmitter-empty interrupt is latched */
	struct uart_fifo rx, tx;
};

/* --- interrupts --- */

static uint32_t uart_depth(const struct uart *uart)
{
	return uart->fcr & FCR_ENABLE ? UART_FIFO_BYTES : 1;
}

static uint32_t uart_trigger(const struct uart *uart)
{
	static const uint8_t levels[] = {1, 4, 8, 14};

	return uart->fcr & FCR_ENABLE ? levels[uart->fcr >> 6] : 1;
}

/* Section 8.5.1, table II: the pending interrupt of the highest priority. */
static uint8_t uart_iir(const struct uart *uart)
{
	if ((uart->ier & IER_LINE) && uart->overrun)
		return IIR_LINE;
	if ((uart->ier & IER_RX) && uart->rx.len >= uart_trigger(uart))
		return IIR_RX;
	if ((uart->ier & IER_RX) && uart->rx.len > 0)
		return IIR_TIMEOUT;
	if ((uart->ier & IER_TX) && uart->thre_pending)
		return IIR_TX;
	if ((uart->ier & IER_MODEM) && (uart->msr & MSR_DELTA_MASK))
		return IIR_MODEM;
	return IIR_NONE;
}

static void uart_update_irq(struct uart *uart)
{
	line_set(&uart->irq, &uart->dev, uart_iir(uart) != IIR_NONE);
}

/* --- data --- */

static void uart_rx_push(struct uart *uart, uint8_t byte)
{
	if (uart->rx.len < uart_depth(uart)) {
		uart->rx.data[uart->rx.len++] = byte;
		return;
	}
	uart->overrun = true;
	if (!(uart->fcr & FCR_ENABLE))
		uart->rx.data[0] = byte; /* without a FIFO the old byte is the one that is lost */
}

static uint8_t uart_rx_pop(struct uart *uart)
{
	uint8_t byte = uart->rx.data[0];

	if (uart->rx.len == 0)
		return 0;
	uart->rx.len--;
	memmove(uart->rx.data, uart->rx.data + 1, uart->rx.len);
	if (uart->rx.len == 0)
		chardev_accept_input(uart->chr);
	return byte;
}

static void uart_tx_drain(struct uart *uart)
{
	size_t n;

	if (uart->tx.len == 0 || uart->paused)
		return;
	n = chardev_write(uart->chr, uart->tx.data, uart->tx.len);
	uart->tx.len -= (uint32_t)n;
	memmove(uart->tx.data, uart->tx.data + n, uart->tx.len);
	if (uart->tx.len == 0)
		uart->thre_pending = true;
}

static void uart_write_thr(struct uart *uart, uint8_t byte)
{
	bool was_pending = uart->thre_pending;

	uart->thre_pending = false;
	if (uart->mcr & MCR_LOOP) {
		uart_rx_push(uart, byte);
		uart->thre_pending = uart->tx.len == 0;
	} else if (uart->tx.len == 0 && chardev_write(uart->chr, &byte, 1) == 1) {
		uart->thre_pending = true;
	} else if (uart->tx.len < uart_depth(uart)) {
		uart->tx.data[uart->tx.len++] = byte;
	}
	/* A driver without FIFOs may wait for the edge of each byte without ever reading IIR. */
	if (was_pending && uart->thre_pending && !(uart->fcr & FCR_ENABLE) && uart->irq.level)
		line_set(&uart->irq, &uart->dev, false);
}

/* --- modem lines --- */

static void uart_set_msr(struct uart *uart)
{
	uint8_t old = uart->msr & (uint8_t)~MSR_DELTA_MASK;
	uint8_t lines = MSR_PLUGGED;
	uint8_t changed;

	if (uart->mcr & MCR_LOOP) {
		/* Section 8.6.3: DTR to DSR, RTS to CTS, OUT1 to RI, OUT2 to DCD. */
		lines = (uint8_t)((uart->mcr & 0x01u ? MSR_DSR : 0) |
				  (uart->mcr & 0x02u ? MSR_CTS : 0) |
				  (uart->mcr & 0x04u ? MSR_RI : 0) |
				  (uart->mcr & 0x08u ? MSR_DCD : 0));
	}
	changed = (uint8_t)((old ^ lines) >> 4);
	if (lines & MSR_RI)
		changed &= (uint8_t)~MSR_TERI; /* the trailing edge only */
	uart->msr = (uint8_t)(lines | (uart->msr & MSR_DELTA_MASK) | changed);
}

/* --- registers --- */

static void uart_write_fcr(struct uart *uart, uint8_t value)
{
	bool toggled = (uart->fcr ^ value) & FCR_ENABLE;

	/* The other bits are taken only while the FIFOs are on. */
	uart->fcr = value & FCR_ENABLE ? value & FCR_KEPT : 0;
	if (toggled || (value & FCR_CLEAR_RX)) {
		uart->rx.len = 0;
		chardev_accept_input(uart->chr);
	}
	if ((toggled || (value & FCR_CLEAR_TX)) && uart->tx.len > 0) {
		uart->tx.len = 0;
		uart->thre_pending = true;
	}
}

static void uart_write_mcr(struct uart *uart, uint8_t value)
{
	uart->mcr = value & MCR_MASK;
	uart_set_msr(uart);
	chardev_accept_input(uart->chr);
}

static void uart_write_ier(struct uart *uart, uint8_t value)
{
	bool tx_enabled = (value & IER_TX) && !(uart->ier & IER_TX);

	uart->ier = value & IER_MASK;
	if (tx_enabled && uart->tx.len == 0)
		uart->thre_pending = true;
}

static uint8_t uart_read_iir(struct uart *uart)
{
	uint8_t iir = uart_iir(uart);

	if (iir == IIR_TX)
		uart->thre_pending = false;
	return iir | (uart->fcr & FCR_ENABLE ? IIR_FIFO : 0);
}

static uint8_t uart_read_lsr(struct uart *uart)
{
	uint8_t lsr = (uint8_t)((uart->rx.len > 0 ? LSR_DR : 0) | (uart->overrun ? LSR_OE : 0) |
				(uart->tx.len == 0 ? LSR_THRE | LSR_TEMT : 0));

	uart->overrun = false;
	return lsr;
}

static uint8_t uart_read_msr(struct uart *uart)
{
	uint8_t msr = uart->msr;

	uart->msr &= (uint8_t)~MSR_DELTA_MASK;
	return msr;
}

static uint8_t uart_read_reg(struct uart *uart, enum uart_reg reg)
{
	switch (reg) {
	case UART_REG_DATA:
		return uart->lcr & LCR_DLAB ? uart->dll : uart_rx_pop(uart);
	case UART_REG_IER:
		return uart->lcr & LCR_DLAB ? uart->dlm : uart->ier;
	case UART_REG_IIR_FCR:
		return uart_read_iir(uart);
	case UART_REG_LCR:
		return uart->lcr;
	case UART_REG_MCR:
		return uart->mcr;
	case UART_REG_LSR:
		return uart_read_lsr(uart);
	case UART_REG_MSR:
		return uart_read_msr(uart);
	case UART_REG_SCR:
	default:
		return uart->scr;
	}
}

static void uart_write_reg(struct uart *uart, enum uart_reg reg, uint8_t value)
{
	switch (reg) {
	case UART_REG_DATA:
		if (uart->lcr & LCR_DLAB)
			uart->dll = value;
		else
			uart_write_thr(uart, value);
		break;
	case UART_REG_IER:
		if (uart->lcr & LCR_DLAB)
			uart->dlm = value;
		else
			uart_write_ier(uart, value);
		break;
	case UART_REG_IIR_FCR:
		uart_write_fcr(uart, value);
		break;
	case UART_REG_LCR:
		uart->lcr = value;
		break;
	case UART_REG_MCR:
		uart_write_mcr(uart, value);
		break;
	case UART_REG_SCR:
		uart->scr = value;
		break;
	case UART_REG_LSR: /* read-only; for the factory */
	case UART_REG_MSR:
	default:
		break;
	}
}

static uint64_t uart_read(void *opaque, uint64_t offset, unsigned size)
{
	struct uart *uart = opaque;
	uint64_t value = 0;

	for (unsigned i = 0; i < size; i++)
		value |= (uint64_t)uart_read_reg(uart, (enum uart_reg)(offset + i)) << (8 * i);
	uart_update_irq(uart);
	return value;
}

static void uart_write(void *opaque, uint64_t offset, unsigned size, uint64_t value)
{
	struct uart *uart = opaque;

	for (unsigned i = 0; i < size; i++)
		uart_write_reg(uart, (enum uart_reg)(offset + i), (uint8_t)(value >> (8 * i)));
	uart_update_irq(uart);
}

static const struct bus_ops uart_bus_ops = {.read = uart_read, .write = uart_write};

/* --- the backend's events, on the loop --- */

static size_t uart_can_receive(void *opaque)
{
	struct uart *uart = opaque;

	LOCK_GUARD(&uart->dev.lock);
	if (uart->paused || (uart->mcr & MCR_LOOP) || uart->rx.len >= uart_depth(uart))
		return 0;
	return uart_depth(uart) - uart->rx.len;
}

static void uart_receive(void *opaque, const uint8_t *data, size_t len)
{
	struct uart *uart = opaque;

	LOCK_GUARD(&uart->dev.lock);
	for (size_t i = 0; i < len; i++)
		uart_rx_push(uart, data[i]);
	uart_update_irq(uart);
}

static void uart_writable(void *opaque)
{
	struct uart *uart = opaque;

	LOCK_GUARD(&uart->dev.lock);
	uart_tx_drain(uart);
	if (!uart->paused)
		uart_update_irq(uart);
}

/* --- the device --- */

static void uart_reset(struct device *dev)
{
	struct uart *uart = container_of(dev, struct uart, dev);

	LOCK_GUARD(&dev->lock);
	uart->ier = uart->fcr = uart->lcr = uart->mcr = uart->scr = 0;
	uart->dll = 12; /* 9600 baud; the data sheet leaves it undefined */
	uart->dlm = 0;
	uart->msr = MSR_PLUGGED;
	uart->overrun = false;
	uart->thre_pending = false;
	uart->rx = (struct uart_fifo){0};
	uart->tx = (struct uart_fifo){0};
	uart_update_irq(uart);
}

static void uart_pause(struct device *dev)
{
	LOCK_GUARD(&dev->lock);
	container_of(dev, struct uart, dev)->paused = true;
}

static void uart_resume(struct device *dev)
{
	struct uart *uart = container_of(dev, struct uart, dev);

	LOCK_GUARD(&dev->lock);
	uart->paused = false;
	uart_tx_drain(uart);
	line_assert(&uart->irq, dev, uart_iir(uart) != IIR_NONE);
	chardev_accept_input(uart->chr);
}

static void uart_free(struct device *dev)
{
	struct uart *uart = container_of(dev, struct uart, dev);

	chardev_attach(uart->chr, NULL);
	bus_unmap(dev->env.bus, &uart->region);
	device_fini(dev);
	free(uart);
}

static const struct state_field uart_fifo_fields[] = {
	STATE_VBYTES(struct uart_fifo, data, len),
};
static const struct state_table uart_fifo_state = {.name = "fifo",
						   .version = 1,
						   STATE_FIELDS(uart_fifo_fields)};

static const struct state_field uart_fields[] = {
	STATE_UINT_MAX(struct uart, ier, IER_MASK),
	STATE_UINT(struct uart, fcr),
	STATE_UINT(struct uart, lcr),
	STATE_UINT_MAX(struct uart, mcr, MCR_MASK),
	STATE_UINT(struct uart, msr),
	STATE_UINT(struct uart, scr),
	STATE_UINT(struct uart, dll),
	STATE_UINT(struct uart, dlm),
	STATE_UINT(struct uart, overrun),
	STATE_UINT(struct uart, thre_pending),
	STATE_STRUCT(struct uart, rx, &uart_fifo_state),
	STATE_STRUCT(struct uart, tx, &uart_fifo_state),
};
static const struct state_table uart_state = {.name = "uart16550",
					      .version = 1,
					      STATE_FIELDS(uart_fields)};

static const struct device_ops uart_ops = {
	.type = "uart16550",
	.state = &uart_state,
	.reset = uart_reset,
	.pause = uart_pause,
	.resume = uart_resume,
	.free = uart_free,
};

int uart16550_new(const struct device_env *env, const struct uart16550_config *config,
		  struct device **ret, struct error *err)
{
	struct uart *uart = calloc(1, sizeof(*uart));
	struct chardev_events events = {
		.receive = uart_receive,
		.can_receive = uart_can_receive,
		.writable = uart_writable,
		.opaque = uart,
	};
	int r;

	if (!uart)
		return error_set(err, -ENOMEM, "Out of memory for %s", config->id);
	device_init(&uart->dev, &uart_ops, config->id, env);
	uart->chr = config->chr;
	uart->irq.gsi = config->gsi;
	uart->region = (struct bus_region){
		.name = uart->dev.id,
		.ops = &uart_bus_ops,
		.opaque = uart,
		.lock = &uart->dev.lock,
		.space = BUS_PIO,
		.base = config->port,
		.size = UART_REGS,
	};
	uart_reset(&uart->dev);
	r = bus_map(env->bus, &uart->region);
	if (r < 0) {
		device_fini(&uart->dev);
		free(uart);
		return error_set_errno(err, r, "Cannot place the serial port %s at port 0x%x",
				       config->id, config->port);
	}
	chardev_attach(uart->chr, &events);
	*ret = &uart->dev;
	return 0;
}
