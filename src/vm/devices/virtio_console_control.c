/*
 * The control queues of a virtio console with several ports (VIRTIO 1.2, section 5.3.6.2). What the driver is to be told is
 * kept as bits of each port, not as messages, so that nothing grows when it offers no buffers.
 *
 * On the device's loop.
 */
#include <string.h>

#include "base/bits.h"
#include "base/cleanup.h"
#include "base/endian.h"
#include "vm/devices/virtio_console_int.h"

enum {
	CONTROL_DEVICE_READY = 0,
	CONTROL_DEVICE_ADD = 1,
	CONTROL_PORT_READY = 3,
	CONTROL_CONSOLE_PORT = 4,
	CONTROL_RESIZE = 5,
	CONTROL_PORT_OPEN = 6,
	CONTROL_PORT_NAME = 7,
};

/* struct virtio_console_control, and what may follow it. */
struct control_message {
	le32 id;
	le16 event;
	le16 value;
	union {
		/* In the specification's order. Linux before 6.15 takes them the other way round; it is right about a
		 * console without control queues. */
		struct {
			le16 columns, rows;
		} size;
		char name[CONSOLE_NAME_BYTES];
	} u;
};
#define CONTROL_BYTES 8u
_Static_assert(offsetof(struct control_message, u) == CONTROL_BYTES, "section 5.3.6.2");

void console_control_tell(struct console_port *port, uint8_t what)
{
	struct virtio *vdev = &port->con->vdev;

	if (!virtio_has(vdev, CONSOLE_F_MULTIPORT))
		return;
	port->tell |= what;
	virtio_queue_rekick(vdev, CONSOLE_QUEUE_CONTROL_RX);
}

/* --- to the driver --- */

/* The message for one bit of port->tell; returns its length. */
static size_t control_compose(const struct console_port *port, uint8_t what,
			      struct control_message *ret)
{
	size_t len = CONTROL_BYTES;

	*ret = (struct control_message){.id = le32_of(port->id), .value = le16_of(1)};
	switch (what) {
	case CONSOLE_TELL_ADD:
		ret->event = le16_of(CONTROL_DEVICE_ADD);
		break;
	case CONSOLE_TELL_CONSOLE:
		ret->event = le16_of(CONTROL_CONSOLE_PORT);
		break;
	case CONSOLE_TELL_NAME:
		ret->event = le16_of(CONTROL_PORT_NAME);
		memcpy(ret->u.name, port->name, CONSOLE_NAME_BYTES);
		len += strlen(port->name);
		break;
	case CONSOLE_TELL_RESIZE:
		ret->event = le16_of(CONTROL_RESIZE);
		ret->u.size.columns = le16_of(port->columns);
		ret->u.size.rows = le16_of(port->rows);
		len += sizeof(ret->u.size);
		break;
	default:
		ret->event = le16_of(CONTROL_PORT_OPEN);
		ret->value = le16_of(port->host_open);
		break;
	}
	return len;
}

/* The first port with something to tell, or NULL. */
static struct console_port *control_next(struct virtio_console *con)
{
	for (unsigned i = 0; i < con->max_ports; i++) {
		if (con->ports[i].tell & CONSOLE_TELL_ALL)
			return &con->ports[i];
	}
	return NULL;
}

/* One message. 1: sent; 0: nothing to tell, or no buffer; negative: the driver broke the protocol, *ret_why. */
static int control_send_one(struct virtio_console *con, struct vq *vq, const char **ret_why)
{
	struct console_port *port = control_next(con);
	struct iovec iov[CONSOLE_QUEUE_SIZE];
	struct vq_req req = {.iov = iov, .max_iov = ARRAY_SIZE(iov)};
	struct control_message msg;
	uint8_t what;
	size_t len;
	int r;

	if (!port)
		return 0;
	r = vq_pop(vq, &req);
	if (r <= 0) {
		*ret_why = vq->broken_why;
		return r;
	}
	what = port->tell & (uint8_t)-port->tell;
	len = control_compose(port, what, &msg);
	if (req.in_bytes < len) {
		vq_push(vq, &req, 0);
		*ret_why = "control buffer too small";
		return -1;
	}
	iov_from_buf(iov + req.n_out, req.n_in, 0, &msg, len);
	vq_push(vq, &req, (uint32_t)len);
	port->tell &= (uint8_t)~what;
	return 1;
}

void console_control_send(struct virtio_console *con)
{
	struct virtio_queue *queue = &con->vdev.queues[CONSOLE_QUEUE_CONTROL_RX];
	const char *why = NULL;
	bool sent = false;
	int r;

	pthread_mutex_lock(&con->vdev.pci.dev.lock);
	pthread_mutex_lock(&queue->vq.lock);
	do {
		vq_kicks_off(&queue->vq);
		do {
			r = control_send_one(con, &queue->vq, &why);
			sent |= r > 0;
		} while (r > 0);
	} while (r == 0 && control_next(con) && vq_kicks_on(&queue->vq));
	if (sent)
		virtio_signal(&con->vdev, queue);
	pthread_mutex_unlock(&queue->vq.lock);
	pthread_mutex_unlock(&con->vdev.pci.dev.lock);
	if (r < 0)
		virtio_break(&con->vdev, why);
}

/* --- from the driver --- */

static void control_port_ready(struct console_port *port)
{
	uint8_t what = CONSOLE_TELL_OPEN;

	port->guest_ready = true;
	what |= port->name[0] ? CONSOLE_TELL_NAME : CONSOLE_TELL_CONSOLE;
	if (!port->name[0] && port->columns != 0)
		what |= CONSOLE_TELL_RESIZE;
	console_control_tell(port, what);
}

static void control_port_open(struct console_port *port, bool open)
{
	struct vq *vq = &console_rx_queue(port)->vq;

	port->guest_open = open;
	if (open) {
		chardev_accept_input(port->chr);
		return;
	}
	LOCK_GUARD(&vq->lock);
	port->rx_len = 0; /* nobody will read it */
}

static void control_handle(struct virtio_console *con, const struct control_message *msg)
{
	uint32_t id = le32_get(msg->id);
	uint16_t event = le16_get(msg->event);
	bool value = le16_get(msg->value) == 1;

	LOCK_GUARD(&con->vdev.pci.dev.lock);
	if (!virtio_active(&con->vdev))
		return;
	if (event == CONTROL_DEVICE_READY) {
		for (unsigned i = 0; value && i < con->max_ports; i++)
			console_control_tell(&con->ports[i], CONSOLE_TELL_ADD);
		return;
	}
	if (id >= con->max_ports) {
		log_guest(&con->vdev.pci.dev.log_budget, "%s: its driver speaks of a port %u",
			  con->vdev.pci.dev.id, id);
		return;
	}
	if (event == CONTROL_PORT_READY && value)
		control_port_ready(&con->ports[id]);
	else if (event == CONTROL_PORT_OPEN)
		control_port_open(&con->ports[id], value);
}

/* Takes one message. 1: taken; 0: none; negative: the driver broke the protocol. */
static int control_take(struct virtio_console *con, struct virtio_queue *queue,
			struct control_message *ret, const char **ret_why)
{
	struct iovec iov[CONSOLE_QUEUE_SIZE];
	struct vq_req req = {.iov = iov, .max_iov = ARRAY_SIZE(iov)};
	size_t len;
	int r;

	LOCK_GUARD(&queue->vq.lock);
	r = vq_pop(&queue->vq, &req);
	if (r < 0)
		*ret_why = queue->vq.broken_why;
	if (r == 0 && vq_kicks_on(&queue->vq))
		r = vq_pop(&queue->vq, &req);
	if (r <= 0)
		return r;
	len = iov_to_buf(iov, req.n_out, 0, ret, CONTROL_BYTES);
	vq_push(&queue->vq, &req, 0);
	virtio_signal(&con->vdev, queue);
	if (len == CONTROL_BYTES)
		return 1;
	*ret_why = "short control message";
	return -1;
}

void console_control_receive(struct virtio_console *con)
{
	struct virtio_queue *queue = &con->vdev.queues[CONSOLE_QUEUE_CONTROL_TX];
	struct control_message msg;
	const char *why = NULL;

	for (unsigned i = 0; i < CONSOLE_BATCH; i++) {
		int r = control_take(con, queue, &msg, &why);

		if (r < 0)
			virtio_break(&con->vdev, why);
		if (r <= 0)
			return;
		control_handle(con, &msg);
	}
	virtio_queue_rekick(&con->vdev, CONSOLE_QUEUE_CONTROL_TX);
}
