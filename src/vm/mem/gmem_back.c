/*
 * How guest memory is obtained from the host: a sealed memfd, a memfd of huge pages, a file, or, for mergeable memory
 * alone, anonymous pages; mapped at an address aligned like the guest's, between guard pages.
 *
 * Mergeable memory. KSM merges anonymous pages and nothing else: it skips every shared mapping (a memfd or a file mapped
 * MAP_SHARED) and hugetlb. A memfd mapped MAP_PRIVATE does not help: each written page would exist twice, once in the
 * memfd (the fault fills the hole first) and once as the private copy, and its descriptor would show peers stale bytes.
 * So `mergeable` means anonymous private memory here, and its regions have fd -1. What follows from it:
 *   - kernel backends (vhost-net, vhost-vsock) work: they go through this process's page tables;
 *   - a peer process that wants the descriptor (vhost-user, virtiofsd) cannot attach, and says so;
 *   - a snapshot or a fork reads the pages through this process instead of sharing the descriptor;
 *   - huge pages and a backing file are refused together with it.
 *
 * memfd pages are allocated when touched, so overcommitment works; huge pages are reserved at once, so that a machine that
 * lacks some fails here with a message and not later with SIGBUS.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/magic.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/cleanup.h"
#include "base/str.h"
#include "vm/mem/gmem_int.h"

#ifndef MFD_HUGE_SHIFT
#define MFD_HUGE_SHIFT 26 /* memfd_create(2): log2 of the page size in the top bits */
#endif

/* The sysfs folder of a huge page size holds nr_hugepages and free_hugepages. -ENOENT: the host has no such pages. */
static int64_t hugepages_free(uint64_t page_bytes)
{
	char path[96], text[32];
	ssize_t n;
	uint64_t v;

	snprintf(path, sizeof(path),
		 "/sys/kernel/mm/hugepages/hugepages-%" PRIu64 "kB/free_hugepages",
		 page_bytes >> 10);
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	n = read(fd, text, sizeof(text) - 1);
	if (n <= 0)
		return -EIO;
	text[n] = '\0';
	text[strcspn(text, "\n")] = '\0';
	return parse_u64(text, &v) < 0 ? -EIO : (int64_t)v;
}

static int hugepages_short(const struct gmem_config *config, uint64_t page_bytes, int code,
			   struct error *err)
{
	uint64_t need = config->ram_bytes / page_bytes;
	int64_t free_pages = hugepages_free(page_bytes);
	char page[32];

	format_size(page_bytes, page, sizeof(page));
	if (free_pages == -ENOENT)
		return error_set(err, code, "this host has no huge pages of %s", page);
	return error_set(err, code,
			 "memory needs %" PRIu64 " huge pages of %s and %" PRId64
			 " are free: raise "
			 "/sys/kernel/mm/hugepages/hugepages-%" PRIu64 "kB/nr_hugepages by %" PRIu64
			 " as root, or run without huge pages",
			 need, page, free_pages < 0 ? 0 : free_pages, page_bytes >> 10,
			 need - MIN(need, (uint64_t)(free_pages < 0 ? 0 : free_pages)));
}

static int open_memfd(const struct gmem_config *config, const char *name, struct error *err)
{
	unsigned flags = MFD_CLOEXEC | MFD_ALLOW_SEALING;

	if (config->hugepage_bytes)
		flags |= MFD_HUGETLB |
			 ((unsigned)__builtin_ctzll(config->hugepage_bytes) << MFD_HUGE_SHIFT);
	_cleanup_close_ int fd = memfd_create(name, flags);
	if (fd < 0) {
		int code = -errno;

		if (config->hugepage_bytes)
			return hugepages_short(config, config->hugepage_bytes, code, err);
		return error_set_errno(err, code, "cannot create a memfd for guest memory");
	}
	if (ftruncate(fd, (off_t)config->ram_bytes) < 0)
		return error_set_errno(err, -errno, "cannot size guest memory");
	/* A peer that is handed the descriptor must not be able to make our accesses fault. */
	if (fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0)
		return error_set_errno(err, -errno, "cannot seal guest memory");
	return steal_fd(&fd);
}

/* Is the file on a file system that lives in memory? Nothing durable is lost there when it is taken over. */
static bool file_is_volatile(int fd)
{
	struct statfs fs;

	return fstatfs(fd, &fs) == 0 && ((unsigned long)fs.f_type == TMPFS_MAGIC ||
					 (unsigned long)fs.f_type == HUGETLBFS_MAGIC);
}

/* A new file, or one that holds nothing to lose; a folder gets a nameless file. */
static int open_file(const struct gmem_config *config, uint64_t *ret_page, struct error *err)
{
	struct stat st;
	struct statfs fs;

	_cleanup_close_ int fd =
		open(config->path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0 && errno == EISDIR)
		fd = open(config->path, O_RDWR | O_TMPFILE | O_CLOEXEC, 0600);
	if (fd < 0 || fstat(fd, &st) < 0)
		return error_set_errno(err, -errno, "memory file '%s'", config->path);
	if (!S_ISREG(st.st_mode))
		return error_set(err, -EINVAL, "memory file '%s' is not a regular file",
				 config->path);
	if (flock(fd, LOCK_EX | LOCK_NB) < 0)
		return error_set(err, -EBUSY, "memory file '%s' is in use by another machine",
				 config->path);
	if (st.st_size != 0) {
		if ((uint64_t)st.st_size != config->ram_bytes || !file_is_volatile(fd))
			return error_set(err, -EEXIST,
					 "memory file '%s' exists and is not empty: remove it, or "
					 "name another file",
					 config->path);
		/* RAM starts as zeroes, and never with another guest's bytes. */
		if (ftruncate(fd, 0) < 0)
			return error_set_errno(err, -errno, "memory file '%s'", config->path);
	}
	if (fstatfs(fd, &fs) == 0 && (unsigned long)fs.f_type == HUGETLBFS_MAGIC)
		*ret_page = (uint64_t)fs.f_bsize;
	else if (config->hugepage_bytes)
		*ret_page = GMEM_PAGE;
	if (config->hugepage_bytes && *ret_page != config->hugepage_bytes)
		return error_set(err, -EINVAL,
				 "memory file '%s' has pages of %" PRIu64
				 " bytes: for huge pages, name a folder where a hugetlbfs of that "
				 "page size is mounted",
				 config->path, *ret_page);
	if ((config->ram_bytes & (*ret_page - 1)) != 0)
		return error_set(
			err, -EINVAL,
			"memory file '%s': memory size is not a multiple of its page size, "
			"%" PRIu64,
			config->path, *ret_page);
	if (ftruncate(fd, (off_t)config->ram_bytes) < 0)
		return error_set_errno(err, -errno, "memory file '%s'", config->path);
	return steal_fd(&fd);
}

/* Maps fd (or anonymous memory) inside a larger reservation: aligned so that host and guest huge pages coincide, and with
 * unmapped pages on both sides, so that an overrun faults instead of reaching something else. */
static int back_map(struct gmem_backing *b, uint64_t size, struct error *err)
{
	uint64_t align = MAX(b->page_bytes, 2 * MIB);
	int flags = b->fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE : MAP_SHARED;
	uint64_t total = size + 2 * align;
	void *base, *p;

	base = mmap(NULL, total, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (base == MAP_FAILED)
		return error_set_errno(err, -errno,
				       "cannot reserve address space for guest memory");
	b->reserved = base;
	b->reserved_bytes = total;
	b->hva = (uint8_t *)base + (align_up((uintptr_t)base + GMEM_PAGE, align) - (uintptr_t)base);
	p = mmap(b->hva, size, PROT_READ | PROT_WRITE, flags | MAP_FIXED, b->fd, 0);
	if (p == MAP_FAILED)
		return -errno;
	return 0;
}

/* Advice that is merely advice: a kernel that lacks one is no reason to fail. */
static void back_advise(const struct gmem_backing *b, const struct gmem_config *config)
{
	uint64_t size = config->ram_bytes;

	/* A child (passt) has no business with guest memory. */
	madvise(b->hva, size, MADV_DONTFORK);
	if (!config->dump)
		madvise(b->hva, size, MADV_DONTDUMP);
	if (b->page_bytes == GMEM_PAGE && !config->mergeable && size >= 2 * MIB)
		madvise(b->hva, size, MADV_HUGEPAGE);
}

int gmem_back_open(const struct gmem_config *config, const char *name, struct gmem_backing *ret,
		   struct error *err)
{
	struct gmem_backing b = {
		.fd = -1,
		.page_bytes = config->hugepage_bytes ? config->hugepage_bytes : GMEM_PAGE,
		.owned = true,
	};
	int r = 0;

	if (config->path)
		b.fd = open_file(config, &b.page_bytes, err);
	else if (!config->mergeable)
		b.fd = open_memfd(config, name, err);
	if (b.fd < 0 && !config->mergeable)
		return b.fd;
	r = back_map(&b, config->ram_bytes, err);
	if (r < 0 && b.hva) {
		if (b.page_bytes != GMEM_PAGE)
			r = hugepages_short(config, b.page_bytes, r, err);
		else
			error_set_errno(err, r, "cannot map %" PRIu64 " MiB of guest memory",
					config->ram_bytes >> 20);
	}
	if (r == 0)
		back_advise(&b, config);
	if (r == 0 && config->mergeable && madvise(b.hva, config->ram_bytes, MADV_MERGEABLE) < 0)
		r = error_set_errno(err, -errno, "this kernel cannot merge pages (CONFIG_KSM)");
	if (r == 0 && config->prealloc)
		r = gmem_back_populate(b.hva, config->ram_bytes, b.page_bytes, err);
	if (r < 0) {
		gmem_back_close(&b);
		return r;
	}
	*ret = b;
	return 0;
}

void gmem_back_close(struct gmem_backing *b)
{
	if (!b->owned)
		return;
	if (b->reserved)
		munmap(b->reserved, b->reserved_bytes);
	if (b->fd >= 0)
		close(b->fd);
	*b = (struct gmem_backing){.fd = -1};
}

int gmem_back_discard(const struct gmem_region *region, const struct gmem_backing *backing,
		      uint64_t off, uint64_t len)
{
	int r;

	if (backing->fd < 0)
		return madvise(region->hva + off, len, MADV_DONTNEED) < 0 ? -errno : 0;
	do
		r = fallocate(backing->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
			      (off_t)(region->fd_offset + off), (off_t)len);
	while (r < 0 && errno == EINTR);
	return r < 0 ? -errno : 0;
}
