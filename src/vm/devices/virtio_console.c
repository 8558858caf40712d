/*
 * A virtio console: configuration space, receive and transmit queues, life, state (VIRTIO 1.2, section 5.3). The control
 * queues are in virtio_console_control.c.
 *
 * No request is ever kept: input waits in a small buffer of its port, and a request that the backend took only in part is
 * put back with a note of how far it got. So a pause has nothing to wait for and the state is complete at any time.
 *
 * Queues and backends on the device's loop; the emergency write on vCPU threads.
 */
#include "vm/devices/virtio_console.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "base/cleanup.h"
#include "base/endian.h"
#include "base/str.h"
#include "vm/devices/virtio_console_int.h"

#define CONSOLE_DEVICE_ID  3
#define CONSOLE_CLASS_CODE 0x078000 /* communication controller, other */

/* struct virtio_console_config, section 5.3.4. */
struct console_config_space {
	le16 columns, rows;
	le32 max_ports;
	le32 emergency_write;
};
#define CONFIG_EMERGENCY_WRITE offsetof(struct console_config_space, emergency_write)

static struct virtio_console *console_of(struct virtio *vdev)
{
	return container_of(vdev, struct virtio_console, vdev);
}

static struct virtio_console *console_of_device(struct device *dev)
{
	return container_of(dev, struct virtio_console, vdev.pci.dev);
}

/* --- input: backend to driver --- */

/* Moves waiting input into the driver's buffers. The driver kicks only when it makes a difference. */
static int console_fill(struct console_port *port, struct vq *vq, const char **ret_why)
{
	struct iovec iov[CONSOLE_QUEUE_SIZE];
	struct vq_req req = {.iov = iov, .max_iov = ARRAY_SIZE(iov)};
	int r = 0;

	while (port->rx_len > 0) {
		uint32_t n;

		r = vq_pop(vq, &req);
		if (r < 0)
			*ret_why = vq->broken_why;
		if (r <= 0)
			break;
		n = (uint32_t)MIN(req.in_bytes, (uint64_t)port->rx_len);
		iov_from_buf(iov + req.n_out, req.n_in, 0, port->rx, n);
		vq_push(vq, &req, n);
		if (n == 0) {
			*ret_why = "receive buffer without room";
			return -EINVAL;
		}
		port->rx_len -= n;
		memmove(port->rx, port->rx + n, port->rx_len);
	}
	return r;
}

static void console_rx(struct console_port *port)
{
	struct virtio_queue *queue = console_rx_queue(port);
	struct virtio *vdev = &port->con->vdev;
	const char *why = NULL;
	uint32_t waiting;
	bool drained;
	int r;

	pthread_mutex_lock(&queue->vq.lock);
	waiting = port->rx_len;
	do {
		vq_kicks_off(&queue->vq);
		r = console_fill(port, &queue->vq, &why);
	} while (r == 0 && port->rx_len > 0 && vq_kicks_on(&queue->vq));
	drained = port->rx_len == 0;
	if (port->rx_len != waiting)
		virtio_signal(vdev, queue);
	pthread_mutex_unlock(&queue->vq.lock);
	if (r < 0)
		virtio_break(vdev, why);
	else if (drained)
		chardev_accept_input(port->chr);
}

static bool console_port_open(struct console_port *port)
{
	struct virtio *vdev = &port->con->vdev;

	LOCK_GUARD(&vdev->pci.dev.lock);
	if (!virtio_active(vdev) || atomic_load(&vdev->paused))
		return false;
	return virtio_has(vdev, CONSOLE_F_MULTIPORT) ? port->guest_open : port->id == 0;
}

static size_t console_can_receive(void *opaque)
{
	struct console_port *port = opaque;
	struct vq *vq = &console_rx_queue(port)->vq;

	if (!console_port_open(port))
		return 0;
	LOCK_GUARD(&vq->lock);
	return port->rx_len == 0 ? CONSOLE_RX_BYTES : 0;
}

static void console_receive(void *opaque, const uint8_t *data, size_t len)
{
	struct console_port *port = opaque;
	struct vq *vq = &console_rx_queue(port)->vq;

	pthread_mutex_lock(&vq->lock);
	len = MIN(len, (size_t)(CONSOLE_RX_BYTES - port->rx_len));
	memcpy(port->rx + port->rx_len, data, len);
	port->rx_len += (uint32_t)len;
	pthread_mutex_unlock(&vq->lock);
	console_rx(port);
}

/* --- output: driver to backend --- */

/* Sends what is left of a request; false when the backend has no room for all of it. */
static bool console_send(struct console_port *port, const struct vq_req *req)
{
	uint64_t skip = port->tx_done;

	for (uint32_t i = 0; i < req->n_out; i++) {
		const uint8_t *data = req->iov[i].iov_base;
		size_t len = req->iov[i].iov_len;
		size_t n;

		if (skip >= len) {
			skip -= len;
			continue;
		}
		n = chardev_write(port->chr, data + skip, len - skip);
		port->tx_done += n;
		if (n < len - skip)
			return false;
		skip = 0;
	}
	return true;
}

enum console_tx_end {
	TX_EMPTY,   /* nothing left */
	TX_BLOCKED, /* the backend's `writable` goes on */
	TX_BATCH,   /* enough for now */
	TX_BROKEN,
};

static enum console_tx_end console_drain(struct console_port *port, struct vq *vq, unsigned *ret_n)
{
	struct iovec iov[CONSOLE_QUEUE_SIZE];
	struct vq_req req = {.iov = iov, .max_iov = ARRAY_SIZE(iov)};

	for (*ret_n = 0; *ret_n < CONSOLE_BATCH; ++*ret_n) {
		int r = vq_pop(vq, &req);

		if (r < 0)
			return TX_BROKEN;
		if (r == 0)
			return TX_EMPTY;
		if (!console_send(port, &req)) {
			vq_unpop(vq, &req);
			return TX_BLOCKED;
		}
		port->tx_done = 0;
		vq_push(vq, &req, 0);
	}
	return TX_BATCH;
}

static void console_tx(struct console_port *port)
{
	struct virtio_queue *queue = console_tx_queue(port);
	struct virtio *vdev = &port->con->vdev;
	const char *why = NULL;
	enum console_tx_end end;
	unsigned n;

	pthread_mutex_lock(&queue->vq.lock);
	vq_kicks_off(&queue->vq);
	end = console_drain(port, &queue->vq, &n);
	if (end == TX_EMPTY && vq_kicks_on(&queue->vq))
		end = TX_BATCH;
	if (end == TX_BROKEN)
		why = queue->vq.broken_why;
	if (n > 0)
		virtio_signal(vdev, queue);
	pthread_mutex_unlock(&queue->vq.lock);
	if (end == TX_BATCH)
		virtio_queue_rekick(vdev, queue->index);
	if (end == TX_BROKEN)
		virtio_break(vdev, why);
}

static void console_writable(void *opaque)
{
	console_tx(opaque);
}

/* --- the backend's other events --- */

static void console_opened(void *opaque, bool open)
{
	struct console_port *port = opaque;

	LOCK_GUARD(&port->con->vdev.pci.dev.lock);
	if (port->host_open == open)
		return;
	port->host_open = open;
	if (port->guest_ready)
		console_control_tell(port, CONSOLE_TELL_OPEN);
}

static void console_resized(void *opaque, uint16_t columns, uint16_t rows)
{
	struct console_port *port = opaque;
	struct virtio *vdev = &port->con->vdev;

	LOCK_GUARD(&vdev->pci.dev.lock);
	if (port->columns == columns && port->rows == rows)
		return;
	port->columns = columns;
	port->rows = rows;
	if (port->guest_ready && !port->name[0])
		console_control_tell(port, CONSOLE_TELL_RESIZE);
	if (port->id == 0 && virtio_has(vdev, CONSOLE_F_SIZE))
		virtio_config_changed_locked(vdev);
}

/* --- the virtio side --- */

static void console_kick(struct virtio *vdev, unsigned index)
{
	struct virtio_console *con = console_of(vdev);
	bool multiport = virtio_has(vdev, CONSOLE_F_MULTIPORT);

	if (index < CONSOLE_QUEUE_CONTROL_RX)
		(index == 0 ? console_rx : console_tx)(&con->ports[0]);
	else if (!multiport)
		return; /* a driver that declined them has no business there */
	else if (index == CONSOLE_QUEUE_CONTROL_RX)
		console_control_send(con);
	else if (index == CONSOLE_QUEUE_CONTROL_TX)
		console_control_receive(con);
	else
		(index % 2 == 0 ? console_rx : console_tx)(&con->ports[index / 2 - 1]);
}

static void console_config_read(struct virtio *vdev, unsigned offset, void *buf, unsigned size)
{
	struct virtio_console *con = console_of(vdev);
	struct console_config_space space = {
		.columns = le16_of(con->ports[0].columns),
		.rows = le16_of(con->ports[0].rows),
		.max_ports = le32_of(con->max_ports),
	};

	memcpy(buf, (const uint8_t *)&space + offset, size);
}

/* A character at any time, also before the driver is there: a kernel's last resort. */
static void console_config_write(struct virtio *vdev, unsigned offset, const void *buf,
				 unsigned size)
{
	if (offset == CONFIG_EMERGENCY_WRITE && size > 0)
		chardev_write(console_of(vdev)->ports[0].chr, buf, 1);
}

static void console_activate(struct virtio *vdev)
{
	struct virtio_console *con = console_of(vdev);

	for (unsigned i = 0; i < con->max_ports; i++) {
		struct console_port *port = &con->ports[i];

		chardev_accept_input(port->chr);
		/* After a load: the backend is another one than when the driver was told. */
		if (port->guest_ready)
			console_control_tell(port, CONSOLE_TELL_OPEN);
		if (port->guest_ready && !port->name[0] && port->columns != 0)
			console_control_tell(port, CONSOLE_TELL_RESIZE);
	}
}

static void console_deactivate(struct virtio *vdev)
{
	struct virtio_console *con = console_of(vdev);

	for (unsigned i = 0; i < con->max_ports; i++) {
		struct console_port *port = &con->ports[i];
		struct vq *rx = &console_rx_queue(port)->vq;
		struct vq *tx = &console_tx_queue(port)->vq;

		port->tell = 0;
		port->guest_ready = false;
		port->guest_open = false;
		pthread_mutex_lock(&rx->lock);
		port->rx_len = 0;
		pthread_mutex_unlock(&rx->lock);
		pthread_mutex_lock(&tx->lock);
		port->tx_done = 0;
		pthread_mutex_unlock(&tx->lock);
	}
	virtio_deactivated(vdev);
}

static void console_resume(struct device *dev)
{
	struct virtio_console *con = console_of_device(dev);

	virtio_device_resume(dev);
	for (unsigned i = 0; i < con->max_ports; i++)
		chardev_accept_input(con->ports[i].chr);
}

static void console_detach(void *opaque)
{
	struct virtio_console *con = opaque;

	for (unsigned i = 0; i < con->max_ports; i++)
		chardev_attach(con->ports[i].chr, NULL);
}

static void console_free(struct device *dev)
{
	struct virtio_console *con = console_of_device(dev);

	loop_call(dev->env.loop, console_detach, con);
	virtio_fini(&con->vdev);
	free(con);
}

/* --- state --- */

static int console_post_load(void *obj, struct error *err)
{
	struct virtio_console *con = obj;

	if (con->n_ports == con->max_ports)
		return 0;
	return error_set(err, -EINVAL, "%s: the saved console has %u ports, this one %u",
			 con->vdev.pci.dev.id, con->n_ports, con->max_ports);
}

static const struct state_field console_port_fields[] = {
	STATE_UINT_MAX(struct console_port, tell, CONSOLE_TELL_ALL),
	STATE_UINT(struct console_port, guest_ready),
	STATE_UINT(struct console_port, guest_open),
	STATE_UINT(struct console_port, tx_done),
	STATE_VBYTES(struct console_port, rx, rx_len),
};
static const struct state_table console_port_state = {.name = "console-port",
						      .version = 1,
						      STATE_FIELDS(console_port_fields)};

static const struct state_field console_fields[] = {
	STATE_STRUCT(struct virtio_console, vdev, &virtio_state_table),
	STATE_VSTRUCTS(struct virtio_console, ports, n_ports, &console_port_state),
};
static const struct state_table console_state = {
	.name = "virtio-console",
	.version = 1,
	STATE_FIELDS(console_fields),
	.post_load = console_post_load,
};

static const struct virtio_ops console_ops = {
	.dev =
		{
			.type = "virtio-console",
			.state = &console_state,
			.reset = virtio_device_reset,
			.pause = virtio_device_pause,
			.resume = console_resume,
			.free = console_free,
		},
	.device_id = CONSOLE_DEVICE_ID,
	.class_code = CONSOLE_CLASS_CODE,
	.config_read = console_config_read,
	.config_write = console_config_write,
	.activate = console_activate,
	.deactivate = console_deactivate,
	.kick = console_kick,
};

/* --- creation --- */

static void console_attach(void *opaque)
{
	struct virtio_console *con = opaque;

	for (unsigned i = 0; i < con->max_ports; i++) {
		struct chardev_events events = {
			.receive = console_receive,
			.can_receive = console_can_receive,
			.opened = console_opened,
			.resized = console_resized,
			.writable = console_writable,
			.opaque = &con->ports[i],
		};

		chardev_attach(con->ports[i].chr, &events);
	}
}

static int console_check(const struct virtio_console_config *config, struct error *err)
{
	if (config->n_ports == 0 || config->n_ports > VIRTIO_CONSOLE_MAX_PORTS)
		return error_set(err, -EINVAL, "%s: a console has 1 to %d ports, not %u",
				 config->id, VIRTIO_CONSOLE_MAX_PORTS, config->n_ports);
	for (unsigned i = 0; i < config->n_ports; i++) {
		const char *name = config->ports[i].name;

		if (name && (name[0] == '\0' || strlen(name) >= CONSOLE_NAME_BYTES))
			return error_set(err, -EINVAL,
					 "%s: the name of port %u must have 1 to %d characters",
					 config->id, i, CONSOLE_NAME_BYTES - 1);
	}
	return 0;
}

int virtio_console_new(const struct device_env *env, const struct virtio_console_config *config,
		       struct device **ret, struct error *err)
{
	uint64_t features = BIT(CONSOLE_F_SIZE) | BIT(CONSOLE_F_EMERG_WRITE);
	unsigned n_queues = 2;
	struct virtio_console *con;
	int r = console_check(config, err);

	if (r < 0)
		return r;
	con = calloc(1, sizeof(*con));
	if (!con)
		return error_set(err, -ENOMEM, "Out of memory for %s", config->id);
	if (config->n_ports > 1 || config->ports[0].name) {
		features |= BIT(CONSOLE_F_MULTIPORT);
		n_queues += 2 * config->n_ports;
	}
	con->max_ports = config->n_ports;
	con->n_ports = config->n_ports;
	for (unsigned i = 0; i < config->n_ports; i++) {
		struct console_port *port = &con->ports[i];

		port->con = con;
		port->id = i;
		port->chr = config->ports[i].chr;
		port->host_open = true;
		if (config->ports[i].name)
			str_copy(port->name, sizeof(port->name), config->ports[i].name);
	}
	r = virtio_init(&con->vdev, &console_ops, config->id, env, features, n_queues,
			CONSOLE_QUEUE_SIZE, sizeof(struct console_config_space), err);
	if (r >= 0)
		r = virtio_start(&con->vdev, config->slot, err);
	if (r < 0) {
		virtio_fini(&con->vdev);
		free(con);
		return r;
	}
	loop_call(env->loop, console_attach, con);
	*ret = &con->vdev.pci.dev;
	return 0;
}
