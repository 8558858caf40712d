/*
 * Requests as scattered bytes: copies in and out of iovecs. The guest may change what they point at meanwhile; each byte
 * is copied once.
 */
#include <string.h>

#include "base/bits.h"
#include "vm/virtio/virtio.h"

/* Walks to `offset` and copies piecewise; returns how many bytes there were. */
static size_t iov_copy(const struct iovec *iov, unsigned n, size_t offset, uint8_t *to,
		       const uint8_t *from, size_t len)
{
	size_t done = 0;

	for (unsigned i = 0; i < n && done < len; i++) {
		uint8_t *base = iov[i].iov_base;
		size_t part;

		if (offset >= iov[i].iov_len) {
			offset -= iov[i].iov_len;
			continue;
		}
		part = MIN(iov[i].iov_len - offset, len - done);
		if (to)
			memcpy(to + done, base + offset, part);
		else
			memcpy(base + offset, from + done, part);
		offset = 0;
		done += part;
	}
	return done;
}

size_t iov_to_buf(const struct iovec *iov, unsigned n, size_t offset, void *buf, size_t len)
{
	return iov_copy(iov, n, offset, buf, NULL, len);
}

size_t iov_from_buf(const struct iovec *iov, unsigned n, size_t offset, const void *buf, size_t len)
{
	return iov_copy(iov, n, offset, NULL, buf, len);
}

size_t iov_skip(struct iovec **iov, unsigned *n, size_t bytes)
{
	size_t done = 0;

	while (*n > 0 && done < bytes) {
		size_t part = MIN((*iov)->iov_len, bytes - done);

		(*iov)->iov_base = (uint8_t *)(*iov)->iov_base + part;
		(*iov)->iov_len -= part;
		done += part;
		if ((*iov)->iov_len == 0) {
			(*iov)++;
			(*n)--;
		}
	}
	return done;
}
