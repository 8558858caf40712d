/*
 * A character backend without a descriptor, for tests: what the device writes is kept until it is taken, input is
 * injected. Output beyond the capacity is refused, so that back-pressure can be tested as well. Everything may be called
 * from one thread, without a loop.
 */
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "base/cleanup.h"
#include "vm/char/chardev.h"

#define MEMORY_CAPACITY 65536u

struct chardev_memory {
	struct chardev chr;
	pthread_mutex_t lock;
	size_t out_len;               /* [lock] */
	bool refused;                 /* [lock] a write was cut short */
	uint8_t out[MEMORY_CAPACITY]; /* [lock] */
	size_t in_len;                /* [loop] injected, not yet taken by the device */
	uint8_t in[MEMORY_CAPACITY];
};

static size_t memory_write(struct chardev *chr, const uint8_t *data, size_t len)
{
	struct chardev_memory *mem = container_of(chr, struct chardev_memory, chr);
	size_t n;

	LOCK_GUARD(&mem->lock);
	n = MIN(len, sizeof(mem->out) - mem->out_len);
	memcpy(mem->out + mem->out_len, data, n);
	mem->out_len += n;
	mem->refused |= n < len;
	return n;
}

static void memory_deliver(struct chardev_memory *mem)
{
	const struct chardev_events *ev = &mem->chr.events;
	uint8_t chunk[256];

	while (mem->in_len > 0 && ev->receive) {
		size_t n = MIN(ev->can_receive(ev->opaque), sizeof(chunk));

		n = MIN(n, mem->in_len);
		if (n == 0)
			return;
		memcpy(chunk, mem->in, n);
		mem->in_len -= n;
		memmove(mem->in, mem->in + n, mem->in_len);
		ev->receive(ev->opaque, chunk, n);
	}
}

static void memory_free(struct chardev *chr)
{
	struct chardev_memory *mem = container_of(chr, struct chardev_memory, chr);

	pthread_mutex_destroy(&mem->lock);
	free(mem);
}

/* No accept_input: it may be called with the device's lock held, which receive takes. Input waits for the next inject. */
static const struct chardev_ops memory_ops = {
	.type = "memory",
	.write = memory_write,
	.free = memory_free,
};

int chardev_memory_open(struct chardev **ret)
{
	struct chardev_memory *mem = calloc(1, sizeof(*mem));

	if (!mem)
		return -ENOMEM;
	mem->chr.ops = &memory_ops;
	pthread_mutex_init(&mem->lock, NULL);
	*ret = &mem->chr;
	return 0;
}

size_t chardev_memory_take(struct chardev *chr, uint8_t *buf, size_t len)
{
	struct chardev_memory *mem = container_of(chr, struct chardev_memory, chr);
	const struct chardev_events *ev = &chr->events;
	bool tell;
	size_t n;

	pthread_mutex_lock(&mem->lock);
	n = MIN(len, mem->out_len);
	memcpy(buf, mem->out, n);
	mem->out_len -= n;
	memmove(mem->out, mem->out + n, mem->out_len);
	tell = n > 0 && mem->refused;
	if (tell)
		mem->refused = false;
	pthread_mutex_unlock(&mem->lock);
	if (tell && ev->writable)
		ev->writable(ev->opaque);
	return n;
}

void chardev_memory_inject(struct chardev *chr, const uint8_t *data, size_t len)
{
	struct chardev_memory *mem = container_of(chr, struct chardev_memory, chr);
	size_t n = MIN(len, sizeof(mem->in) - mem->in_len);

	memcpy(mem->in + mem->in_len, data, n);
	mem->in_len += n;
	memory_deliver(mem);
}
