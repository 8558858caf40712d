/*
 * What the targets of virtio devices share: a machine, requests whose contents and shapes the input spells, and what a
 * driver and a host do to any device. Rings stay sound here; fuzz_vq and fuzz_virtio_pci break those.
 *
 * An operation is a byte that says what, and a payload: a byte of length, then so many bytes. The machine and its device
 * serve all inputs, as making them takes longer than most inputs; each input begins with a reset of both.
 */
#pragma once

#include "device/driver.h"

#include "base/bits.h"
#include "base/log.h"

#define FUZZ_SLOT    2
#define FUZZ_OPS     400
#define FUZZ_BUFFER  0x8000 /* all requests share it: what the device reads changes under it */
#define FUZZ_BUFFERS 0x4000

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct fuzz {
	struct harness *h;
	struct device *dev;
	struct driver d;
	const uint8_t *data; /* what is left */
	size_t size;
	unsigned starts; /* of the driver; each takes memory */
};
#define FUZZ_STARTS 20

static inline uint8_t fuzz_byte(struct fuzz *f)
{
	if (f->size == 0)
		return 0;
	f->size--;
	return *f->data++;
}

/* The next payload, shorter at the input's end. */
static inline const uint8_t *fuzz_payload(struct fuzz *f, size_t *ret_len)
{
	size_t len = MIN((size_t)fuzz_byte(f), f->size);
	const uint8_t *p = f->data;

	f->data += len;
	f->size -= len;
	*ret_len = len;
	return p;
}

static inline void fuzz_request(struct fuzz *f, unsigned index)
{
	struct driver_queue *q = &f->d.queues[index % f->d.n_queues];
	uint8_t shape = fuzz_byte(f);
	struct driver_buf bufs[3] = {{.gpa = FUZZ_BUFFER + (shape & 0x40)}};
	unsigned n = 0;
	size_t len;
	const uint8_t *payload = fuzz_payload(f, &len);

	/* Copies of the payload, so that page numbers and the like can be many. */
	for (unsigned i = 0; len > 0 && i < (shape & 4 ? 64u : 1u); i++)
		memcpy(harness_ptr(f->h, FUZZ_BUFFER + i * len, len), payload, len);
	if (shape & 1)
		bufs[n++].len = (uint32_t)(shape & 4 ? 64 * len : len);
	if (shape & 2) {
		bufs[n] = (struct driver_buf){FUZZ_BUFFER + FUZZ_BUFFERS, fuzz_byte(f) * 16u, true};
		n++;
	}
	while (driver_used(q, NULL, NULL))
		;
	q->indirect = shape & 8;
	if (n && driver_has_room(q, n)) {
		driver_add(q, bufs, n);
		driver_kick_now(q);
	}
}

static inline void fuzz_begin(struct fuzz *f, const uint8_t *data, size_t size)
{
	static gpa_t first_free;

	log_init("fuzz", LOG_ERROR);
	if (first_free == 0)
		first_free = f->h->next_free;
	f->h->next_free = first_free;
	f->data = data;
	f->size = size;
	f->starts = 0;
	device_pause(f->dev);
	device_reset(f->dev);
	pci_bus_assign(f->h->env.pci, NULL);
	device_resume(f->dev);
	driver_start(&f->d, f->h, FUZZ_SLOT, DRIVER_ALL);
}

/* Common operations; the caller has its own for the rest. */
static inline void fuzz_step(struct fuzz *f, uint8_t what)
{
	switch (what % 8) {
	case 0:
		loop_run_once(f->h->env.loop, 0);
		break;
	case 1:
		device_pause(f->dev);
		device_resume(f->dev);
		break;
	case 2:
		if (++f->starts >= FUZZ_STARTS)
			break;
		driver_stop(&f->d);
		driver_start(&f->d, f->h, FUZZ_SLOT, fuzz_byte(f) & 1 ? DRIVER_ALL : DRIVER_SPLIT);
		break;
	case 3: {
		uint8_t at = fuzz_byte(f);
		size_t len;
		const uint8_t *payload = fuzz_payload(f, &len);

		if (f->d.config_bytes > 0) {
			at %= (uint8_t)f->d.config_bytes;
			len = MIN(len, (size_t)(f->d.config_bytes - at));
			driver_config_write(&f->d, at, payload, (unsigned)len);
		}
		break;
	}
	default:
		fuzz_request(f, fuzz_byte(f));
		break;
	}
}
