/* virtio devices: each is stopped with a request that it has not answered. */
#include "state/devices.h"

#include <errno.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/endian.h"
#include "vm/devices/virtio_balloon.h"
#include "vm/devices/virtio_blk.h"
#include "vm/devices/virtio_console.h"
#include "vm/devices/virtio_net.h"
#include "vm/devices/virtio_rng.h"
#include "vm/devices/virtio_vsock.h"

static void add(struct rig *rig, unsigned queue, const struct driver_buf *bufs, unsigned n)
{
	driver_add(&rig->driver.queues[queue], bufs, n);
	driver_kick(&rig->driver.queues[queue]); /* the loop does not run: nobody hears it yet */
}

/* --- entropy --- */

static void rng_make(struct rig *rig)
{
	assert_int_equal(virtio_rng_new(&rig->h->env, "rng0", RIG_SLOT, &rig->dev, NULL), 0);
}

static void rng_drive(struct rig *rig)
{
	uint8_t bytes[32];
	struct driver_buf buf = {.len = 64, .writable = true};

	driver_start(&rig->driver, rig->h, RIG_SLOT, DRIVER_ALL);
	driver_request(&rig->driver, 0, NULL, 0, bytes, sizeof(bytes));
	buf.gpa = harness_alloc(rig->h, buf.len);
	add(rig, 0, &buf, 1);
}

static void rng_go_on(struct rig *rig)
{
	uint8_t bytes[32];

	assert_int_equal(driver_wait(&rig->driver.queues[0], NULL), 64);
	assert_true(driver_interrupts(&rig->driver.queues[0]) > 0);
	driver_request(&rig->driver, 0, NULL, 0, bytes, sizeof(bytes));
	driver_stop(&rig->driver);
}

/* --- balloon: a target is set, a page is on its way to the host --- */

#define BALLOON_TARGET (HARNESS_RAM - (1 << 20))

static void balloon_make(struct rig *rig)
{
	const struct virtio_balloon_config config = {.id = "balloon0", .slot = RIG_SLOT};

	assert_int_equal(virtio_balloon_new(&rig->h->env, &config, &rig->dev, NULL), 0);
}

static void balloon_drive(struct rig *rig)
{
	struct driver_buf buf = {.len = 4};
	uint8_t actual[4];

	driver_start(&rig->driver, rig->h, RIG_SLOT, DRIVER_ALL);
	virtio_balloon_set_target(rig->dev, BALLOON_TARGET);
	le_store(actual, 4, 100);
	driver_config_write(&rig->driver, 4, actual, 4);
	rig->gpa = harness_alloc(rig->h, 4096);
	memset(harness_ptr(rig->h, rig->gpa, 4096), 0x77, 4096);
	buf.gpa = harness_alloc(rig->h, 4);
	le_store(harness_ptr(rig->h, buf.gpa, 4), 4, rig->gpa / 4096);
	add(rig, 0, &buf, 1);
}

static void balloon_go_on(struct rig *rig)
{
	struct virtio_balloon_info info;

	driver_wait(&rig->driver.queues[0], NULL);
	assert_int_equal(*(uint8_t *)harness_ptr(rig->h, rig->gpa, 1), 0);
	virtio_balloon_get(rig->dev, &info);
	assert_int_equal(info.target_bytes, BALLOON_TARGET);
	assert_int_equal(info.actual_bytes, HARNESS_RAM - 100 * 4096);
	driver_stop(&rig->driver);
}

/* --- console: a request is sent in part, input waits for a buffer --- */

#define CONSOLE_ROOM    65536 /* of the memory backend */
#define CONSOLE_REQUEST (CONSOLE_ROOM + 10)

static void console_make(struct rig *rig)
{
	struct virtio_console_port_config port = {.name = NULL};
	const struct virtio_console_config config = {.id = "console0",
						     .slot = RIG_SLOT,
						     .ports = &port,
						     .n_ports = 1};

	if (!rig->chr)
		assert_int_equal(chardev_memory_open(&rig->chr), 0);
	port.chr = rig->chr;
	assert_int_equal(virtio_console_new(&rig->h->env, &config, &rig->dev, NULL), 0);
}

static void console_drive(struct rig *rig)
{
	struct driver_buf buf = {.len = CONSOLE_REQUEST};
	uint8_t *text;

	driver_start(&rig->driver, rig->h, RIG_SLOT, DRIVER_ALL);
	chardev_memory_inject(rig->chr, (const uint8_t *)"typed", 5);
	buf.gpa = harness_alloc(rig->h, buf.len);
	text = harness_ptr(rig->h, buf.gpa, buf.len);
	memset(text, '.', CONSOLE_ROOM);
	memcpy(text + CONSOLE_ROOM, "0123456789", 10);
	add(rig, 1, &buf, 1);
	harness_run(rig->h);
}

static void console_go_on(struct rig *rig)
{
	static uint8_t sent[CONSOLE_ROOM];
	struct driver_buf buf = {.len = 16, .writable = true};

	assert_int_equal(chardev_memory_take(rig->chr, sent, sizeof(sent)), CONSOLE_ROOM);
	driver_wait(&rig->driver.queues[1], NULL);
	assert_int_equal(chardev_memory_take(rig->chr, sent, sizeof(sent)), 10);
	assert_memory_equal(sent, "0123456789", 10);
	buf.gpa = harness_alloc(rig->h, buf.len);
	add(rig, 0, &buf, 1);
	assert_int_equal(driver_wait(&rig->driver.queues[0], NULL), 5);
	assert_memory_equal(harness_ptr(rig->h, buf.gpa, 5), "typed", 5);
	driver_stop(&rig->driver);
}

/* --- disk: a write waits, a read follows --- */

#define DISK_BYTES 65536

static void blk_make(struct rig *rig)
{
	struct virtio_blk_config config = {
		.id = "disk0", .serial = "S1", .queues = 2, .queue_size = 64, .slot = RIG_SLOT};

	if (!rig->image) {
		struct image_config image = {.cache = IMAGE_CACHE_WRITEBACK};

		rig->image_fd = memfd_create("disk", MFD_CLOEXEC);
		assert_int_equal(ftruncate(rig->image_fd, DISK_BYTES), 0);
		image.fd = dup(rig->image_fd);
		assert_int_equal(image_open(&image, &rig->image, NULL), 0);
	}
	config.image = rig->image;
	assert_int_equal(virtio_blk_new(&rig->h->env, &config, &rig->dev, NULL), 0);
}

/* Header (type, reserved, sector), data, status: VIRTIO 1.2, section 5.2.6. */
static void blk_add(struct rig *rig, unsigned queue, uint32_t type, gpa_t data)
{
	gpa_t head = harness_alloc(rig->h, 17);
	const struct driver_buf bufs[] = {{head, 16, false},
					  {data, 512, type == 0},
					  {head + 16, 1, true}};
	uint8_t *p = harness_ptr(rig->h, head, 17);

	le_store(p, 4, type);
	le_store(p + 8, 8, 3);
	p[16] = 0xFF;
	add(rig, queue, bufs, 3);
}

static void blk_drive(struct rig *rig)
{
	driver_start(&rig->driver, rig->h, RIG_SLOT, DRIVER_ALL);
	rig->gpa = harness_alloc(rig->h, 512);
	rig->gpa2 = harness_alloc(rig->h, 512);
	memset(harness_ptr(rig->h, rig->gpa, 512), 0x77, 512);
	blk_add(rig, 0, 1, rig->gpa);
	driver_wait(&rig->driver.queues[0], NULL);
	memset(harness_ptr(rig->h, rig->gpa, 512), 0x88, 512);
	blk_add(rig, 1, 1, rig->gpa);
}

static void blk_go_on(struct rig *rig)
{
	driver_wait(&rig->driver.queues[1], NULL);
	blk_add(rig, 0, 0, rig->gpa2);
	driver_wait(&rig->driver.queues[0], NULL);
	assert_memory_equal(harness_ptr(rig->h, rig->gpa2, 512), harness_ptr(rig->h, rig->gpa, 512),
			    512);
	assert_int_equal(*(uint8_t *)harness_ptr(rig->h, rig->gpa2, 1), 0x88);
	driver_stop(&rig->driver);
}

/* --- network: a frame waits to be sent, a buffer waits for one --- */

#define NET_HEADER_BYTES 12
#define NET_FRAME_BYTES  (NET_HEADER_BYTES + 60)
#define NET_BUFFER_BYTES 2048

static void net_make(struct rig *rig)
{
	struct virtio_net_config config = {.id = "net0",
					   .mac = {0x52, 0x54, 0, 0, 0, 1},
					   .queue_pairs = 1,
					   .slot = RIG_SLOT};

	assert_int_equal(net_null_open_with(rig->h->env.loop, 1, 0, 0, &rig->net), 0);
	net_null_record(rig->net, true);
	config.backend = rig->net; /* the device's from now on */
	assert_int_equal(virtio_net_new(&rig->h->env, &config, &rig->dev, NULL), 0);
}

static void net_drive(struct rig *rig)
{
	struct driver_buf rx = {.len = NET_BUFFER_BYTES, .writable = true};
	struct driver_buf tx = {.len = NET_FRAME_BYTES};

	driver_start(&rig->driver, rig->h, RIG_SLOT, DRIVER_ALL);
	rx.gpa = rig->gpa = harness_alloc(rig->h, rx.len);
	tx.gpa = harness_alloc(rig->h, tx.len);
	memset((uint8_t *)harness_ptr(rig->h, tx.gpa, tx.len) + NET_HEADER_BYTES, 0xFF,
	       NET_FRAME_BYTES - NET_HEADER_BYTES);
	add(rig, 0, &rx, 1);
	add(rig, 1, &tx, 1);
}

static void net_go_on(struct rig *rig)
{
	uint8_t frame[NET_BUFFER_BYTES];

	driver_wait(&rig->driver.queues[1], NULL);
	assert_int_equal(net_null_pop(rig->net, 0, frame, sizeof(frame)), NET_FRAME_BYTES);
	assert_int_equal(frame[NET_HEADER_BYTES], 0xFF);
	frame[NET_FRAME_BYTES - 1] = 0x5A; /* comes back as a broadcast */
	assert_int_equal(net_null_push(rig->net, 0, frame, NET_FRAME_BYTES), 0);
	assert_int_equal(driver_wait(&rig->driver.queues[0], NULL), NET_FRAME_BYTES);
	assert_int_equal(*(uint8_t *)harness_ptr(rig->h, rig->gpa + NET_FRAME_BYTES - 1, 1), 0x5A);
	driver_stop(&rig->driver);
}

/* --- sockets: the guest waits for events; connections do not move --- */

static void vsock_make(struct rig *rig)
{
	const struct virtio_vsock_config config = {.id = "vsock0", .cid = 4243, .slot = RIG_SLOT};
	struct error err = ERROR_INIT;
	int r = virtio_vsock_new(&rig->h->env, &config, &rig->dev, &err);

	if (r == -EOPNOTSUPP)
		rig->missing = "this kernel has no vhost-vsock, or not for us";
	else if (r < 0)
		fail_msg("%s", err.text);
}

static void vsock_drive(struct rig *rig)
{
	struct driver_buf event = {.len = 8, .writable = true};

	driver_start(&rig->driver, rig->h, RIG_SLOT, DRIVER_ALL);
	event.gpa = rig->gpa = harness_alloc(rig->h, event.len);
	memset(harness_ptr(rig->h, event.gpa, 8), 0xFF, 8);
	add(rig, 2, &event, 1);
	harness_run(rig->h);
}

static void vsock_go_on(struct rig *rig)
{
	assert_int_equal(driver_wait(&rig->driver.queues[2], NULL), 4);
	assert_int_equal(le_load(harness_ptr(rig->h, rig->gpa, 4), 4), 0); /* TRANSPORT_RESET */
	driver_stop(&rig->driver);
}

const struct device_entry virtio_entries[] = {
	{"virtio-balloon", false, balloon_make, balloon_drive, balloon_go_on},
	{"virtio-blk", false, blk_make, blk_drive, blk_go_on},
	{"virtio-console", false, console_make, console_drive, console_go_on},
	{"virtio-net", false, net_make, net_drive, net_go_on},
	{"virtio-rng", false, rng_make, rng_drive, rng_go_on},
	{"virtio-vsock", false, vsock_make, vsock_drive, vsock_go_on},
};
const size_t n_virtio_entries = ARRAY_SIZE(virtio_entries);
