/* The socket device: what is said where the kernel has no vhost-vsock; where it has, a stream's first packets with the
 * host's end, stop and reset. (VIRTIO 1.2, section 5.10.6.) */
#include "device/driver.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <linux/vm_sockets.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/endian.h"
#include "vm/devices/virtio_vsock.h"

#define SLOT 5
#define CID  4242

struct vsock_hdr {
	le64 src_cid, dst_cid;
	le32 src_port, dst_port, len;
	le16 type, op;
	le32 flags, buf_alloc, fwd_cnt;
} __attribute__((packed));

#define OP_REQUEST  1
#define OP_RESPONSE 2
#define OP_RST      3
#define OP_RW       5

static bool no_vhost(void)
{
	return access("/dev/vhost-vsock", R_OK | W_OK) < 0;
}

static void absent_kernel_is_named(void **state)
{
	struct harness *h = harness_new();
	struct virtio_vsock_config config = {.id = "vsock0", .cid = CID, .slot = SLOT};
	struct error err = ERROR_INIT;
	struct device *dev;

	if (!no_vhost())
		skip();
	assert_int_equal(virtio_vsock_new(&h->env, &config, &dev, &err), -EOPNOTSUPP);
	assert_non_null(strstr(err.text, "/dev/vhost-vsock"));
	harness_free(h);
}

static void bad_addresses(void **state)
{
	static const uint32_t bad[] = {0, 2, 0xffffffff};
	struct harness *h = harness_new();

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		struct virtio_vsock_config config = {.id = "vsock0", .cid = bad[i], .slot = SLOT};
		struct error err = ERROR_INIT;
		struct device *dev;

		assert_int_equal(virtio_vsock_new(&h->env, &config, &dev, &err), -EINVAL);
		assert_non_null(strstr(err.text, "address"));
	}
	harness_free(h);
}

static struct device *make(struct harness *h, int want)
{
	struct virtio_vsock_config config = {.id = "vsock0", .cid = CID, .slot = SLOT};
	struct error err = ERROR_INIT;
	struct device *dev = NULL;
	int r = virtio_vsock_new(&h->env, &config, &dev, &err);

	if (r != want)
		fail_msg("%d: %s", r, err.text);
	return dev;
}

/* The host's kernel asks the guest for a connection when a program connects, and is refused. */
static void check_request(struct harness *h, struct driver *d)
{
	struct sockaddr_vm addr = {.svm_family = AF_VSOCK, .svm_cid = CID, .svm_port = 7};
	struct driver_buf buf = {.len = 4096, .writable = true};
	struct driver_queue *q = &d->queues[0];
	struct vsock_hdr *hdr;
	struct vsock_hdr rst;
	int fd = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	int error = 0;
	socklen_t size = sizeof(error);

	assert_true(fd >= 0);
	buf.gpa = harness_alloc(h, buf.len);
	driver_add(q, &buf, 1);
	gmem_mark_dirty(h->env.mem, 0, HARNESS_RAM);
	driver_kick(q);
	assert_int_equal(connect(fd, (struct sockaddr *)&addr, sizeof(addr)), -1);
	assert_int_equal(errno, EINPROGRESS);
	assert_int_equal(driver_wait(q, NULL), sizeof(*hdr));
	hdr = harness_ptr(h, buf.gpa, sizeof(*hdr));
	assert_int_equal(le16_get(hdr->op), OP_REQUEST);
	assert_int_equal(le64_get(hdr->dst_cid), CID);
	assert_int_equal(le32_get(hdr->dst_port), 7);
	rst = (struct vsock_hdr){
		.src_cid = hdr->dst_cid,
		.dst_cid = hdr->src_cid,
		.src_port = hdr->dst_port,
		.dst_port = hdr->src_port,
		.type = hdr->type,
		.op = le16_of(OP_RST),
	};
	driver_request(d, 1, &rst, sizeof(rst), NULL, 0);
	while (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size) == 0 && !error)
		harness_run(h);
	assert_int_equal(error, ECONNRESET);
	close(fd);
}

static void connects(void **state)
{
	struct harness *h;
	struct device *dev;
	struct driver d;
	le64 cid;

	if (no_vhost())
		skip();
	h = harness_new();
	dev = make(h, 0);
	make(h, -EADDRINUSE);
	for (unsigned life = 0; life < 3; life++) {
		h->intx = life == 2;
		driver_start(&d, h, SLOT, DRIVER_ALL);
		driver_config_read(&d, 0, &cid, sizeof(cid));
		assert_int_equal(le64_get(cid), CID);
		check_request(h, &d);
		device_pause(dev);
		device_resume(dev);
		check_request(h, &d);
		driver_stop(&d);
	}
	device_free(dev);
	harness_free(h);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(absent_kernel_is_named),
		cmocka_unit_test(bad_addresses),
		cmocka_unit_test(connects),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
