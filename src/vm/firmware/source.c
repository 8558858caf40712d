#include "vm/firmware/source.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/fd.h"

int fw_source_open(struct fw_source *src, const char *what, const char *path, int fd,
		   struct error *err)
{
	struct stat st;

	*src = (struct fw_source){.what = what, .name = path ? path : "(descriptor)", .fd = fd};
	if (fd < 0) {
		if (!path)
			return error_set(err, -EINVAL, "no %s is given", what);
		/* O_NONBLOCK: a FIFO must not hold us; it has no effect on files. */
		src->fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
		if (src->fd < 0)
			return error_set_errno(err, -errno, "cannot open the %s '%s'", what, path);
		src->owns_fd = true;
	}
	if (fstat(src->fd, &st) < 0)
		return error_set_errno(err, -errno, "cannot examine the %s '%s'", what, src->name);
	if (S_ISDIR(st.st_mode))
		return error_set(err, -EISDIR, "the %s '%s' is a directory; give a file", what,
				 src->name);
	if (!S_ISREG(st.st_mode))
		return error_set(err, -EINVAL, "the %s '%s' is not a regular file", what,
				 src->name);
	if (st.st_size == 0)
		return error_set(err, -EINVAL, "the %s '%s' is empty", what, src->name);
	src->size = (uint64_t)st.st_size;
	return 0;
}

void fw_source_close(struct fw_source *src)
{
	if (src->owns_fd)
		close(src->fd);
	src->owns_fd = false;
}

static int truncated(const struct fw_source *src, uint64_t want, struct error *err)
{
	return error_set(err, -EINVAL,
			 "the %s '%s' is truncated: it has %llu bytes, and its headers promise at "
			 "least %llu; copy it again",
			 src->what, src->name, (unsigned long long)src->size,
			 (unsigned long long)want);
}

int fw_source_read(const struct fw_source *src, uint64_t off, void *buf, size_t len,
		   struct error *err)
{
	ssize_t n;

	if (!range_inside(off, len, src->size))
		return truncated(src, off > UINT64_MAX - len ? UINT64_MAX : off + len, err);
	if (src->fd < 0) {
		memcpy(buf, src->data + off, len);
		return 0;
	}
	n = fd_pread_full(src->fd, buf, len, (off_t)off);
	if (n < 0)
		return error_set_errno(err, (int)n, "cannot read the %s '%s'", src->what,
				       src->name);
	if ((size_t)n < len) /* it shrank since it was opened */
		return truncated(src, off + len, err);
	return 0;
}

int fw_source_load(const struct fw_source *src, uint64_t off, struct gmem *mem, gpa_t gpa,
		   uint64_t len, struct error *err)
{
	void *to;
	int r;

	if (len == 0)
		return 0;
	to = gmem_ptr(mem, gpa, len);
	if (!to)
		return error_set(err, -ENOSPC,
				 "the %s '%s' does not fit in memory at 0x%llx (%llu bytes)",
				 src->what, src->name, (unsigned long long)gpa,
				 (unsigned long long)len);
	gmem_expect_write(mem, gpa, len);
	r = fw_source_read(src, off, to, len, err);
	if (r == 0)
		gmem_mark_dirty(mem, gpa, len);
	return r;
}

const char *fw_guess(const uint8_t *head, size_t len)
{
	static const struct {
		uint16_t offset;
		uint8_t len;
		const char *magic;
		const char *what;
	} known[] = {
		{0, 2, "\x1f\x8b", "gzip-compressed; unpack it first (gunzip)"},
		{0, 6,
		 "\xfd"
		 "7zXZ",
		 "xz-compressed; unpack it first (unxz)"},
		{0, 3, "BZh", "bzip2-compressed; unpack it first (bunzip2)"},
		{0, 4, "\x28\xb5\x2f\xfd", "zstd-compressed; unpack it first (unzstd)"},
		{0, 4, "\x02\x21\x4c\x18", "lz4-compressed; unpack it first (unlz4)"},
		{0, 4, "\x04\x22\x4d\x18", "lz4-compressed; unpack it first (unlz4)"},
		{0, 6, "070701", "a cpio archive; is it the initrd?"},
		{56, 4, "ARM\x64", "a kernel for 64-bit ARM; this machine is x86-64"},
		{56, 4, "RSC\x05", "a kernel for RISC-V; this machine is x86-64"},
		{0x24, 4, "\x18\x28\x6f\x01", "a kernel for 32-bit ARM; this machine is x86-64"},
		{4, 4, "zimg", "a compressed EFI image for another processor"},
		{0, 4, "\x27\x05\x19\x56", "a U-Boot image; give the kernel inside it"},
		{0, 8, "ANDROID!", "an Android boot image; give the kernel inside it"},
		{0, 4, "QFI\xfb", "a qcow2 disk image; give it as a disk (--disk)"},
		{0, 2, "#!", "a script"},
		{0, 2, "MZ",
		 "an EFI program without a Linux boot header (a unified kernel image?); give the "
		 "bzImage inside it"},
		{510, 2, "\x55\xaa", "a disk image or boot sector; give it as a disk (--disk)"},
	};

	for (size_t i = 0; i < ARRAY_SIZE(known); i++)
		if (range_inside(known[i].offset, known[i].len, len) &&
		    memcmp(head + known[i].offset, known[i].magic, known[i].len) == 0)
			return known[i].what;
	return NULL;
}
