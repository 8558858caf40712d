/*
 * Shared by the two files of the virtio console. Private.
 */
#pragma once

#include "vm/char/chardev.h"
#include "vm/devices/virtio_console.h"
#include "vm/virtio/virtio.h"

#define CONSOLE_QUEUE_SIZE 128
#define CONSOLE_RX_BYTES   4096
#define CONSOLE_NAME_BYTES 64
/* Requests taken in one go, before others on the loop get their turn. */
#define CONSOLE_BATCH 64

/* Queue numbers, section 5.3.2. */
#define CONSOLE_QUEUE_CONTROL_RX 2u /* device to driver */
#define CONSOLE_QUEUE_CONTROL_TX 3u

/* Feature bits, section 5.3.3. */
#define CONSOLE_F_SIZE        0
#define CONSOLE_F_MULTIPORT   1
#define CONSOLE_F_EMERG_WRITE 2

/* What the driver has still to be told about a port, in the order in which it is told. */
enum {
	CONSOLE_TELL_ADD = 1,
	CONSOLE_TELL_CONSOLE = 2,
	CONSOLE_TELL_NAME = 4,
	CONSOLE_TELL_RESIZE = 8,
	CONSOLE_TELL_OPEN = 16,
	CONSOLE_TELL_ALL = 31,
};

struct virtio_console;

struct console_port {
	struct virtio_console *con;
	uint32_t id;
	struct chardev *chr;
	char name[CONSOLE_NAME_BYTES]; /* "": a terminal */

	/* [dev.lock] */
	uint8_t tell;           /* CONSOLE_TELL_* */
	bool guest_ready;       /* the driver has set it up */
	bool guest_open;        /* a program in the guest has it open */
	bool host_open;         /* the backend has somebody at its other end */
	uint16_t columns, rows; /* of the backend's terminal; 0: not known */

	uint64_t tx_done; /* [its tx vq's lock] bytes of the next request that are sent */
	uint32_t rx_len;  /* [its rx vq's lock] input that waits for buffers */
	uint8_t rx[CONSOLE_RX_BYTES];
};

struct virtio_console {
	struct virtio vdev;
	unsigned max_ports; /* [const] */
	uint32_t n_ports;   /* the same, for the state table */
	struct console_port ports[VIRTIO_CONSOLE_MAX_PORTS];
};

static inline struct virtio_queue *console_rx_queue(struct console_port *port)
{
	return &port->con->vdev.queues[port->id == 0 ? 0 : 2 + 2 * port->id];
}

static inline struct virtio_queue *console_tx_queue(struct console_port *port)
{
	return &port->con->vdev.queues[port->id == 0 ? 1 : 3 + 2 * port->id];
}

/* Tells what there is to tell, as far as there are buffers. On the loop, no lock held. */
void console_control_send(struct virtio_console *con);
/* Takes the driver's messages. On the loop, no lock held. */
void console_control_receive(struct virtio_console *con);
/* Plans a message about a port; console_control_send() follows on the loop. dev.lock held. */
void console_control_tell(struct console_port *port, uint8_t what);
