/* The virtio transport, with a toy behind it that keeps requests until the test lets them go. */
#include "device/driver.h"

#include <errno.h>
#include <linux/pci_regs.h>

#include "base/bits.h"
#include "base/cleanup.h"
#include "base/endian.h"
#include "vm/state/state.h"

#define SLOT       3
#define TOY_QUEUES 3
#define TOY_SIZE   16
#define TOY_F_ODD  5 /* refused together with TOY_F_EVEN */
#define TOY_F_EVEN 6

#define QUEUE_SELECT 0x16
#define QUEUE_SIZE   0x18
#define QUEUE_VECTOR 0x1a
#define QUEUE_ENABLE 0x1c
#define QUEUE_DESC   0x20
#define QUEUE_RESET  0x3a

struct toy {
	struct virtio vdev;
	uint8_t config[6];
	unsigned activations, deactivations, kicks[TOY_QUEUES];
	unsigned enabled; /* queues enabled again, one bit each */
	struct iovec iov[4];
	struct vq_req held; /* one request of queue 0 */
	bool holds;
	bool ring_resetting;
};

static struct toy *toy_of(struct virtio *vdev)
{
	return container_of(vdev, struct toy, vdev);
}

static void toy_config_read(struct virtio *vdev, unsigned offset, void *buf, unsigned size)
{
	assert_true(range_inside(offset, size, sizeof(toy_of(vdev)->config)));
	memcpy(buf, toy_of(vdev)->config + offset, size);
}

static void toy_config_write(struct virtio *vdev, unsigned offset, const void *buf, unsigned size)
{
	assert_true(range_inside(offset, size, sizeof(toy_of(vdev)->config)));
	memcpy(toy_of(vdev)->config + offset, buf, size);
}

static bool toy_features_set(struct virtio *vdev)
{
	return !(virtio_has(vdev, TOY_F_ODD) && virtio_has(vdev, TOY_F_EVEN));
}

static void toy_activate(struct virtio *vdev)
{
	toy_of(vdev)->activations++;
}

static void toy_deactivate(struct virtio *vdev)
{
	struct toy *toy = toy_of(vdev);

	toy->deactivations++;
	if (!toy->holds)
		virtio_deactivated(vdev);
}

static void toy_queue_reset(struct virtio *vdev, unsigned index)
{
	struct toy *toy = toy_of(vdev);

	toy->ring_resetting = index == 0 && toy->holds;
	if (!toy->ring_resetting)
		virtio_queue_reset_done(vdev, index);
}

static void toy_queue_enable(struct virtio *vdev, unsigned index)
{
	toy_of(vdev)->enabled |= 1u << index;
}

static void toy_kick(struct virtio *vdev, unsigned index)
{
	struct toy *toy = toy_of(vdev);
	struct vq *vq = &vdev->queues[index].vq;
	int r = 0;

	toy->kicks[index]++;
	pthread_mutex_lock(&vq->lock);
	if (index == 0 && !toy->holds) {
		toy->held = (struct vq_req){.iov = toy->iov, .max_iov = ARRAY_SIZE(toy->iov)};
		r = vq_pop(vq, &toy->held);
		toy->holds = r > 0;
	}
	pthread_mutex_unlock(&vq->lock);
	if (r < 0)
		virtio_break(vdev, vq->broken_why);
}

/* The request in flight ends, and with it whatever waited for that. */
static void toy_complete(struct toy *toy)
{
	struct virtio_queue *queue = &toy->vdev.queues[0];

	assert_true(toy->holds);
	toy->holds = false;
	pthread_mutex_lock(&queue->vq.lock);
	vq_push(&queue->vq, &toy->held, 0);
	virtio_signal(&toy->vdev, queue);
	pthread_mutex_unlock(&queue->vq.lock);
	LOCK_GUARD(&toy->vdev.pci.dev.lock);
	if (toy->ring_resetting)
		virtio_queue_reset_done(&toy->vdev, 0);
	toy->ring_resetting = false;
	if (toy->vdev.resetting)
		virtio_deactivated(&toy->vdev);
}

static const struct virtio_ops toy_ops = {
	.dev = {.type = "toy",
		.reset = virtio_device_reset,
		.pause = virtio_device_pause,
		.resume = virtio_device_resume},
	.device_id = 42,
	.class_code = 0xff0000,
	.config_read = toy_config_read,
	.config_write = toy_config_write,
	.features_set = toy_features_set,
	.activate = toy_activate,
	.deactivate = toy_deactivate,
	.kick = toy_kick,
	.queue_reset = toy_queue_reset,
	.queue_enable = toy_queue_enable,
};

struct fixture {
	struct harness *h;
	struct toy toy;
	struct driver d;
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	assert_non_null(f);
	f->h = harness_new();
	assert_int_equal(virtio_init(&f->toy.vdev, &toy_ops, "toy0", &f->h->env,
				     BIT(TOY_F_ODD) | BIT(TOY_F_EVEN), TOY_QUEUES, TOY_SIZE,
				     sizeof(f->toy.config), NULL),
			 0);
	assert_int_equal(virtio_start(&f->toy.vdev, SLOT, NULL), 0);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	if (f->d.queues) {
		if (f->toy.holds)
			toy_complete(&f->toy);
		driver_stop(&f->d);
	}
	virtio_fini(&f->toy.vdev);
	harness_free(f->h);
	free(f);
	return 0;
}

#define FEATURES (DRIVER_ALL & ~BIT(TOY_F_EVEN))

static void start(struct fixture *f)
{
	driver_start(&f->d, f->h, SLOT, FEATURES);
}

/* One request on queue 0, which the toy keeps. */
static struct driver_queue *send_one(struct fixture *f)
{
	struct driver_buf buf = {.gpa = harness_alloc(f->h, 64), .len = 64};
	struct driver_queue *q = &f->d.queues[0];

	driver_add(q, &buf, 1);
	driver_kick_now(q);
	harness_run(f->h);
	return q;
}

/* --- negotiation --- */

static void identity_and_capabilities(void **state)
{
	struct fixture *f = *state;

	driver_probe(&f->d, f->h, SLOT);
	assert_int_equal(harness_config_in(f->h, SLOT, PCI_DEVICE_ID, 2), 0x1040 + 42);
	assert_int_equal(harness_config_in(f->h, SLOT, PCI_REVISION_ID, 1), 1);
	assert_true(harness_config_in(f->h, SLOT, PCI_SUBSYSTEM_ID, 2) >= 0x40);
	assert_int_equal(f->d.n_queues, TOY_QUEUES);
	assert_int_equal(f->d.config_bytes, sizeof(f->toy.config));
	assert_int_equal(driver_offered(&f->d),
			 BIT(TOY_F_ODD) | BIT(TOY_F_EVEN) | BIT(VIRTIO_F_VERSION_1) |
				 BIT(VIRTIO_F_RING_PACKED) | BIT(VIRTIO_F_INDIRECT_DESC) |
				 BIT(VIRTIO_F_EVENT_IDX) | BIT(VIRTIO_F_RING_RESET));
	driver_common_out(&f->d, 0, 4, 2);
	assert_int_equal(driver_common_in(&f->d, 4, 4), 0);
}

static void write_features(struct fixture *f, uint64_t features)
{
	driver_reset(&f->d);
	driver_set_status(&f->d, 3);
	driver_common_out(&f->d, 8, 4, 0);
	driver_common_out(&f->d, 0xc, 4, (uint32_t)features);
	driver_common_out(&f->d, 8, 4, 1);
	driver_common_out(&f->d, 0xc, 4, features >> 32);
	driver_common_out(&f->d, 8, 4, 2); /* no such word */
	driver_common_out(&f->d, 0xc, 4, UINT32_MAX);
	driver_set_status(&f->d, 3 | VIRTIO_STATUS_FEATURES_OK);
}

static void bad_features_are_refused(void **state)
{
	struct fixture *f = *state;

	driver_probe(&f->d, f->h, SLOT);
	write_features(f, 0); /* legacy */
	assert_int_equal(driver_status(&f->d), 3);
	write_features(f, BIT(VIRTIO_F_VERSION_1) | BIT(9)); /* not offered */
	assert_int_equal(driver_status(&f->d), 3);
	write_features(f, BIT(VIRTIO_F_VERSION_1) | BIT(TOY_F_ODD) |
				  BIT(TOY_F_EVEN)); /* the device's rule */
	assert_int_equal(driver_status(&f->d), 3);
	write_features(f, BIT(VIRTIO_F_VERSION_1) | BIT(TOY_F_ODD));
	assert_int_equal(driver_status(&f->d), 11);
	assert_int_equal(f->toy.vdev.features, BIT(VIRTIO_F_VERSION_1) | BIT(TOY_F_ODD));
	/* They stand now. */
	driver_common_out(&f->d, 8, 4, 0);
	driver_common_out(&f->d, 0xc, 4, 0);
	assert_int_equal(f->toy.vdev.features, BIT(VIRTIO_F_VERSION_1) | BIT(TOY_F_ODD));
}

static void the_order_of_steps_matters(void **state)
{
	struct fixture *f = *state;

	driver_probe(&f->d, f->h, SLOT);
	/* A queue before FEATURES_OK. */
	driver_set_status(&f->d, 3);
	driver_common_out(&f->d, QUEUE_ENABLE, 2, 1);
	assert_int_equal(driver_common_in(&f->d, QUEUE_ENABLE, 2), 0);
	/* DRIVER_OK before FEATURES_OK. */
	driver_set_status(&f->d, 7);
	assert_true(driver_status(&f->d) & VIRTIO_STATUS_NEEDS_RESET);
	assert_int_equal(f->toy.activations, 0);
	driver_reset(&f->d);
	assert_int_equal(driver_status(&f->d), 0);
	/* Bits are never taken back but by a reset, and NEEDS_RESET is not the driver's. */
	driver_set_status(&f->d, 1);
	driver_set_status(&f->d, 2 | VIRTIO_STATUS_NEEDS_RESET);
	assert_int_equal(driver_status(&f->d), 3);
}

/* --- queues --- */

static void queue_registers_are_checked(void **state)
{
	struct fixture *f = *state;
	struct driver *d = &f->d;

	driver_probe(d, f->h, SLOT);
	driver_negotiate(d, FEATURES);
	driver_common_out(d, QUEUE_SELECT, 2, TOY_QUEUES); /* no such queue */
	assert_int_equal(driver_common_in(d, QUEUE_SIZE, 2), 0);
	assert_int_equal(driver_common_in(d, QUEUE_VECTOR, 2), 0xffff);
	driver_common_out(d, QUEUE_ENABLE, 2, 1);
	driver_common_out(d, QUEUE_DESC, 8, 1);
	driver_common_out(d, QUEUE_RESET, 2, 1);
	driver_common_out(d, QUEUE_SELECT, 2, 1);
	assert_int_equal(driver_common_in(d, QUEUE_SIZE, 2), TOY_SIZE);
	driver_common_out(d, QUEUE_SIZE, 2, TOY_SIZE + 1);
	assert_int_equal(driver_common_in(d, QUEUE_SIZE, 2), TOY_SIZE);
	driver_common_out(d, QUEUE_VECTOR, 2, TOY_QUEUES + 1); /* no such vector */
	assert_int_equal(driver_common_in(d, QUEUE_VECTOR, 2), 0xffff);
	/* By halves. */
	driver_common_out(d, QUEUE_DESC, 4, 0x12345670);
	driver_common_out(d, QUEUE_DESC + 4, 4, 0x9);
	assert_int_equal(driver_common_in(d, QUEUE_DESC, 8), 0x912345670);
	/* Odd widths and places do nothing. */
	driver_common_out(d, QUEUE_DESC + 1, 4, 0);
	driver_common_out(d, QUEUE_DESC + 2, 2, 0);
	driver_common_out(d, QUEUE_DESC + 4, 8, 0);
	driver_common_out(d, QUEUE_SIZE, 1, 0);
	assert_int_equal(driver_common_in(d, QUEUE_DESC, 8), 0x912345670);
	assert_int_equal(driver_common_in(d, QUEUE_SIZE, 2), TOY_SIZE);
	/* Past the block. */
	assert_int_equal(driver_common_in(d, 0x3c, 4), 0);
	assert_int_equal(driver_common_in(d, 0x3a, 8), 0);
	assert_int_equal(driver_common_in(d, 0xffc, 4), 0);
	driver_common_out(d, 0x40, 8, UINT64_MAX);
	/* Enabled somewhere outside of memory. */
	driver_common_out(d, QUEUE_ENABLE, 2, 1);
	assert_true(driver_status(d) & VIRTIO_STATUS_NEEDS_RESET);
	assert_int_equal(driver_common_in(d, QUEUE_ENABLE, 2), 0);
}

static void an_enabled_queue_is_frozen(void **state)
{
	struct fixture *f = *state;

	start(f);
	driver_common_out(&f->d, QUEUE_SELECT, 2, 1);
	driver_common_out(&f->d, QUEUE_DESC, 8, 0);
	driver_common_out(&f->d, QUEUE_SIZE, 2, 4);
	driver_common_out(&f->d, QUEUE_ENABLE, 2, 0);
	assert_int_equal(driver_common_in(&f->d, QUEUE_DESC, 8), f->d.queues[1].desc);
	assert_int_equal(driver_common_in(&f->d, QUEUE_SIZE, 2), TOY_SIZE);
	assert_int_equal(driver_common_in(&f->d, QUEUE_ENABLE, 2), 1);
}

static void a_queue_is_reset_alone(void **state)
{
	struct fixture *f = *state;
	struct driver_queue *q;

	start(f);
	q = send_one(f);
	assert_true(f->toy.holds);
	driver_common_out(&f->d, QUEUE_SELECT, 2, 0);
	driver_common_out(&f->d, QUEUE_RESET, 2, 1);
	assert_int_equal(driver_common_in(&f->d, QUEUE_RESET, 2), 1);
	driver_common_out(&f->d, QUEUE_ENABLE, 2, 1); /* not yet */
	toy_complete(&f->toy);
	assert_int_equal(driver_common_in(&f->d, QUEUE_RESET, 2), 0);
	assert_int_equal(driver_common_in(&f->d, QUEUE_ENABLE, 2), 0);
	assert_true(driver_used(q, NULL, NULL));
	q = driver_queue_setup(&f->d, 0, 8);
	assert_int_equal(f->toy.enabled, 1);
	q = send_one(f);
	assert_true(f->toy.holds);
	toy_complete(&f->toy);
	assert_int_equal(driver_wait(q, NULL), 0);
	assert_int_equal(f->toy.deactivations, 1); /* that of driver_start */
}

/* --- reset --- */

static void a_reset_waits_for_what_is_in_flight(void **state)
{
	struct fixture *f = *state;

	start(f);
	assert_int_equal(f->toy.activations, 1);
	send_one(f);
	driver_set_status(&f->d, 0);
	assert_true(driver_status(&f->d) != 0);
	driver_set_status(&f->d, 1); /* goes nowhere */
	driver_common_out(&f->d, QUEUE_SELECT, 2, 2);
	assert_int_equal(driver_common_in(&f->d, QUEUE_SELECT, 2), TOY_QUEUES - 1);
	assert_false(virtio_active(&f->toy.vdev));
	driver_kick_now(&f->d.queues[1]);
	harness_run(f->h);
	assert_int_equal(f->toy.kicks[1], 0);
	toy_complete(&f->toy);
	assert_int_equal(driver_status(&f->d), 0);
	driver_common_out(&f->d, QUEUE_SELECT, 2, 0);
	assert_int_equal(driver_common_in(&f->d, QUEUE_ENABLE, 2), 0);
	assert_int_equal(driver_common_in(&f->d, QUEUE_DESC, 8), 0);
	driver_forget(&f->d);
	driver_negotiate(&f->d, FEATURES);
	driver_queue_setup(&f->d, 0, 0);
	driver_ok(&f->d);
	send_one(f);
	assert_true(f->toy.holds);
}

static void a_machine_reset_ends_everything(void **state)
{
	struct fixture *f = *state;
	struct device *dev = &f->toy.vdev.pci.dev;

	start(f);
	send_one(f);
	toy_complete(&f->toy);
	device_pause(dev);
	device_reset(dev);
	device_resume(dev);
	assert_int_equal(harness_in(f->h, f->d.common, 4), UINT32_MAX); /* BAR gone */
	assert_int_equal(f->toy.vdev.status, 0);
	driver_forget(&f->d);
	free(f->d.queues[0].reqs);
	free(f->d.queues[1].reqs);
	free(f->d.queues[2].reqs);
	free(f->d.queues);
	start(f);
	send_one(f);
	assert_true(f->toy.holds);
}

static void breaking_stops_every_queue(void **state)
{
	struct fixture *f = *state;
	struct driver_buf bad = {.gpa = HARNESS_RAM, .len = 1};

	start(f);
	driver_add(&f->d.queues[0], &bad, 1);
	driver_kick(&f->d.queues[0]);
	harness_run(f->h);
	assert_int_equal(driver_status(&f->d), 15 | VIRTIO_STATUS_NEEDS_RESET);
	assert_int_equal(driver_config_interrupts(&f->d), 1);
	driver_kick_now(&f->d.queues[1]);
	harness_run(f->h);
	assert_int_equal(f->toy.kicks[1], 0);
	assert_int_equal(f->toy.vdev.queues[1].vq.held, VQ_HELD_BROKEN);
	driver_set_status(&f->d, 15);
	assert_true(driver_status(&f->d) & VIRTIO_STATUS_NEEDS_RESET);
	driver_reset(&f->d);
	assert_int_equal(f->toy.vdev.queues[1].vq.held, 0);
}

/* --- interrupts and configuration --- */

static void configuration_changes_are_told(void **state)
{
	struct fixture *f = *state;
	uint8_t buf[6];
	uint8_t before;

	start(f);
	memcpy(f->toy.config, "abcdef", 6);
	driver_config_read(&f->d, 0, buf, 6);
	assert_memory_equal(buf, "abcdef", 6);
	driver_config_write(&f->d, 4, "XY", 2);
	assert_memory_equal(f->toy.config, "abcdXY", 6);
	before = (uint8_t)driver_common_in(&f->d, 0x15, 1);
	assert_int_equal(driver_config_interrupts(&f->d), 0);
	virtio_config_changed(&f->toy.vdev);
	assert_int_equal(driver_config_interrupts(&f->d), 1);
	assert_int_equal(driver_common_in(&f->d, 0x15, 1), (uint8_t)(before + 1));
	/* Beyond its end there are zeroes, and nothing to write. */
	assert_int_equal(harness_in(f->h, f->d.config + 4, 4), 0x5958);
	assert_int_equal(harness_in(f->h, f->d.config + 6, 1), 0);
	harness_out(f->h, f->d.config + 4, 4, 0);
	assert_memory_equal(f->toy.config, "abcdXY", 6);
	/* Nobody is told before DRIVER_OK. */
	driver_reset(&f->d);
	virtio_config_changed(&f->toy.vdev);
	assert_int_equal(driver_config_interrupts(&f->d), 0);
}

static void the_line_follows_isr(void **state)
{
	struct fixture *f = *state;
	unsigned gsi = pci_intx_gsi(SLOT, 0);

	f->h->intx = true;
	start(f);
	send_one(f);
	assert_false(f->h->line[gsi]);
	toy_complete(&f->toy);
	virtio_config_changed(&f->toy.vdev);
	assert_true(f->h->line[gsi]);
	assert_int_equal(harness_in(f->h, f->d.isr, 1), 3);
	assert_false(f->h->line[gsi]);
	assert_int_equal(harness_in(f->h, f->d.isr, 1), 0);
	virtio_config_changed(&f->toy.vdev);
	driver_reset(&f->d);
	assert_false(f->h->line[gsi]);
}

static void a_vector_that_is_none_is_silent(void **state)
{
	struct fixture *f = *state;

	start(f);
	driver_common_out(&f->d, QUEUE_SELECT, 2, 0);
	driver_common_out(&f->d, QUEUE_VECTOR, 2, 0xffff);
	send_one(f);
	toy_complete(&f->toy);
	assert_int_equal(driver_interrupts(&f->d.queues[0]), 0);
	assert_int_equal(f->h->msis_unknown, 0);
	assert_false(f->h->line[pci_intx_gsi(SLOT, 0)]);
}

/* --- doorbells --- */

static unsigned doorbells(struct fixture *f)
{
	unsigned n = 0;

	for (unsigned i = 0; i < HARNESS_DOORBELLS; i++)
		n += f->h->doorbells[i].fd >= 0;
	return n;
}

static void doorbells_follow_the_bar(void **state)
{
	struct fixture *f = *state;
	uint64_t old;

	driver_probe(&f->d, f->h, SLOT);
	assert_int_equal(doorbells(f), 0); /* none for queues that nobody uses */
	driver_negotiate(&f->d, FEATURES);
	driver_queue_setup(&f->d, 0, 0);
	driver_queue_setup(&f->d, 2, 0);
	driver_ok(&f->d);
	assert_int_equal(doorbells(f), 2);
	driver_kick_now(&f->d.queues[2]);
	harness_run(f->h);
	assert_int_equal(f->toy.kicks[2], 1);
	/* Moved. */
	old = f->d.queues[2].doorbell;
	harness_config_out(f->h, SLOT, PCI_BASE_ADDRESS_0, 4, 0xd0000000);
	assert_int_equal(doorbells(f), 2);
	harness_out(f->h, old, 2, 2);
	harness_run(f->h);
	assert_int_equal(f->toy.kicks[2], 1);
	harness_out(f->h, 0xd0000000 | (old & 0x7fff), 4, 2);
	harness_run(f->h);
	assert_int_equal(f->toy.kicks[2], 2);
	/* Off and on. */
	harness_config_out(f->h, SLOT, PCI_COMMAND, 2, PCI_COMMAND_MASTER);
	assert_int_equal(doorbells(f), 0);
	harness_config_out(f->h, SLOT, PCI_COMMAND, 2, PCI_COMMAND_MASTER | PCI_COMMAND_MEMORY);
	assert_int_equal(doorbells(f), 2);
	/* Back, for the end of the test. */
	harness_config_out(f->h, SLOT, PCI_BASE_ADDRESS_0, 4, (uint32_t)f->d.common);
}

static void no_bus_master_no_requests(void **state)
{
	struct fixture *f = *state;

	start(f);
	harness_config_out(f->h, SLOT, PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
	send_one(f);
	assert_false(f->toy.holds);
	harness_config_out(f->h, SLOT, PCI_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
	harness_run(f->h);
	assert_true(f->toy.holds);
}

/* --- state --- */

static void state_brings_a_running_device_back(void **state)
{
	struct fixture *f = *state;
	struct virtio *vdev = &f->toy.vdev;
	struct state_buf buf = {0};
	struct state_reader reader;
	struct driver_queue *q;
	unsigned bells;

	start(f);
	q = send_one(f);
	toy_complete(&f->toy);
	driver_wait(q, NULL);
	bells = doorbells(f);
	device_pause(&vdev->pci.dev);
	send_one(f); /* not taken any more */
	driver_interrupts(q);
	assert_int_equal(state_save(&virtio_state_table, vdev, &buf), 0);
	device_reset(&vdev->pci.dev);
	assert_int_equal(doorbells(f), 0);
	reader = state_reader_of(buf.data, buf.len);
	assert_int_equal(state_load(&virtio_state_table, vdev, &reader, NULL), 0);
	assert_int_equal(doorbells(f), bells);
	assert_int_equal(driver_status(&f->d), 15);
	assert_int_equal(f->toy.activations, 1);
	device_resume(&vdev->pci.dev);
	assert_int_equal(f->toy.activations, 2);
	harness_run(f->h);
	assert_true(f->toy.holds);
	toy_complete(&f->toy);
	driver_wait(q, NULL);
	assert_int_equal(driver_interrupts(q), 1);
	state_buf_fini(&buf);
}

static void contradictory_state_is_refused(void **state)
{
	struct fixture *f = *state;
	struct virtio *vdev = &f->toy.vdev;
	struct virtio_queue *queue = &vdev->queues[1];
	int (*load)(void *obj, struct error *err) = virtio_state_table.post_load;
	struct error err = ERROR_INIT;

#define REFUSED(lvalue, bad, code)                                                                 \
	do {                                                                                       \
		__typeof__(lvalue) was = (lvalue);                                                 \
                                                                                                   \
		(lvalue) = (bad);                                                                  \
		assert_int_equal(load(vdev, &err), code);                                          \
		assert_non_null(strstr(err.text, "toy0"));                                         \
		(lvalue) = was;                                                                    \
	} while (0)

	start(f);
	assert_int_equal(load(vdev, NULL), 0);
	REFUSED(vdev->n_queues, 2, -EINVAL);
	REFUSED(vdev->features, vdev->features | BIT(9), -ENOTSUP);
	REFUSED(vdev->features, vdev->features | BIT(TOY_F_EVEN), -ENOTSUP);
	REFUSED(vdev->features, vdev->features & ~BIT(VIRTIO_F_VERSION_1), -EINVAL);
	REFUSED(vdev->features, vdev->features & ~BIT(VIRTIO_F_RING_PACKED), -EINVAL);
	REFUSED(vdev->status, VIRTIO_STATUS_DRIVER_OK, -EINVAL);
	REFUSED(vdev->config_vector, TOY_QUEUES + 1, -EINVAL);
	REFUSED(queue->vq.msix_vector, TOY_QUEUES + 1, -EINVAL);
	REFUSED(queue->vq.event_idx, false, -EINVAL);
	assert_int_equal(load(vdev, NULL), 0);
}

/* --- registers through configuration space --- */

static unsigned access_cap(struct fixture *f)
{
	unsigned cap = harness_config_in(f->h, SLOT, PCI_CAPABILITY_LIST, 1);

	while (harness_config_in(f->h, SLOT, cap, 1) != PCI_CAP_ID_VNDR ||
	       harness_config_in(f->h, SLOT, cap + 3, 1) != 5) {
		cap = harness_config_in(f->h, SLOT, cap + 1, 1);
		assert_true(cap != 0);
	}
	return cap;
}

static void access_set(struct fixture *f, unsigned cap, uint8_t bar, uint32_t offset, uint32_t len)
{
	harness_config_out(f->h, SLOT, cap + 4, 1, bar);
	harness_config_out(f->h, SLOT, cap + 8, 4, offset);
	harness_config_out(f->h, SLOT, cap + 12, 4, len);
}

static void configuration_access_reaches_registers(void **state)
{
	struct fixture *f = *state;
	unsigned cap;

	driver_probe(&f->d, f->h, SLOT);
	cap = access_cap(f);
	/* As firmware does it: memory decoding need not be on. */
	harness_config_out(f->h, SLOT, PCI_COMMAND, 2, 0);
	access_set(f, cap, 0, 0x14, 1);
	harness_config_out(f->h, SLOT, cap + 16, 4, 1);
	assert_int_equal(f->toy.vdev.status, 1);
	harness_config_out(f->h, SLOT, cap + 16, 1, 3);
	assert_int_equal(harness_config_in(f->h, SLOT, cap + 16, 1), 3);
	access_set(f, cap, 0, 0x12, 2);
	assert_int_equal(harness_config_in(f->h, SLOT, cap + 16, 2), TOY_QUEUES);
	/* Nonsense is harmless. */
	static const struct {
		uint8_t bar;
		uint32_t offset, len;
	} bad[] = {{1, 0, 4},      {0, 1, 4},          {0, 0, 3}, {0, 0, 0},
		   {0, 0x8000, 4}, {0, 0xfffffffc, 4}, {0, 0, 8}};
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		access_set(f, cap, bad[i].bar, bad[i].offset, bad[i].len);
		harness_config_out(f->h, SLOT, cap + 16, 4, UINT32_MAX);
		harness_config_in(f->h, SLOT, cap + 16, 4);
	}
	assert_int_equal(f->toy.vdev.status, 3);
	harness_config_out(f->h, SLOT, PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(identity_and_capabilities),
		TEST(bad_features_are_refused),
		TEST(the_order_of_steps_matters),
		TEST(queue_registers_are_checked),
		TEST(an_enabled_queue_is_frozen),
		TEST(a_queue_is_reset_alone),
		TEST(a_reset_waits_for_what_is_in_flight),
		TEST(a_machine_reset_ends_everything),
		TEST(breaking_stops_every_queue),
		TEST(configuration_changes_are_told),
		TEST(the_line_follows_isr),
		TEST(a_vector_that_is_none_is_silent),
		TEST(doorbells_follow_the_bar),
		TEST(no_bus_master_no_requests),
		TEST(state_brings_a_running_device_back),
		TEST(contradictory_state_is_refused),
		TEST(configuration_access_reaches_registers),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
