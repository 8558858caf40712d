/*
 * Memory for machine code: a memfd, mapped for writing and, elsewhere, for execution. (memfd_create(2); the kernel's sysctl vm.memfd_noexec; SELinux's
 * execmem permission.) Any thread; the caller serialises what it does with one object.
 */
#include "vm/accel/soft/codemem.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/cleanup.h"

#ifndef MFD_EXEC
#define MFD_EXEC 0x0010U
#endif

static int open_memfd(const char *name)
{
	int fd = memfd_create(name, MFD_CLOEXEC | MFD_EXEC);

	/* Kernels before 6.3 do not know the flag, and need none. */
	if (fd < 0 && errno == EINVAL)
		fd = memfd_create(name, MFD_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

static int refused(struct error *err, int code, const char *what)
{
	return error_set_errno(
		err, code,
		"the software CPU needs memory for generated code, and the host refuses %s", what);
}

int codemem_open(struct codemem *mem, const char *name, size_t size, struct error *err)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE);
	_cleanup_close_ int fd = open_memfd(name);
	void *rw, *rx;

	memset(mem, 0, sizeof(*mem));
	if (fd < 0)
		return refused(err, fd, "an executable memfd");
	if (!size || size > SIZE_MAX / 2)
		return error_set(err, -EINVAL, "%zu bytes of memory for generated code", size);
	size = (size + page - 1) & ~(page - 1);
	if (ftruncate(fd, (off_t)size) < 0)
		return refused(err, -errno, "a memfd of this size");
	rw = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (rw == MAP_FAILED)
		return refused(err, -errno, "to map it for writing");
	rx = mmap(NULL, size, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0);
	if (rx == MAP_FAILED) {
		int r = -errno;

		munmap(rw, size);
		return refused(err, r, "to map it for execution");
	}
	*mem = (struct codemem){.rw = rw, .rx = rx, .size = size};
	return 0;
}

void codemem_close(struct codemem *mem)
{
	if (mem->rw) {
		munmap(mem->rw, mem->size);
		munmap(mem->rx, mem->size);
	}
	memset(mem, 0, sizeof(*mem));
}
