#include "unit/test.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bits.h"
#include "vm/mem/gmem.h"

static struct gmem *small(uint64_t bytes)
{
	struct gmem_config config = {.ram_bytes = bytes};
	struct error err = ERROR_INIT;
	struct gmem *mem = NULL;

	if (gmem_new(&config, &mem, &err) < 0)
		fail_msg("%s", err.text);
	return mem;
}

static void bytes_come_back(void **state)
{
	struct gmem *mem = small(4 * MIB);
	char buf[6] = "";

	(void)state;
	assert_int_equal(gmem_write(mem, 4 * MIB - 5, "hello", 5), 0);
	assert_int_equal(gmem_read(mem, 4 * MIB - 5, buf, 5), 0);
	assert_string_equal(buf, "hello");
	assert_int_equal(((uintptr_t)gmem_ptr(mem, 0, 1)) % (2 * MIB), 0);
	gmem_free(mem);
}

static void nothing_is_reached_outside(void **state)
{
	struct gmem *mem = small(4 * MIB);
	uint8_t buf[16] = {0x55};

	(void)state;
	assert_int_equal(gmem_read(mem, 4 * MIB - 8, buf, 9), -EFAULT);
	assert_int_equal(buf[0], 0x55);
	assert_int_equal(gmem_write(mem, 4 * MIB, buf, 1), -EFAULT);
	assert_int_equal(gmem_read(mem, UINT64_MAX - 3, buf, 8), -EFAULT);
	assert_null(gmem_ptr(mem, 4 * MIB - 1, 2));
	assert_null(gmem_ptr(mem, 8, UINT64_MAX));
	assert_null(gmem_ptr(mem, 8, UINT64_MAX - 8));
	assert_null(gmem_ptr(mem, UINT64_MAX, 2));
	assert_non_null(gmem_ptr(mem, 0, 4 * MIB));
	gmem_free(mem);
}

static void ram_goes_around_the_hole(void **state)
{
	struct gmem *mem = small(5 * GIB);
	const struct gmem_region *r;
	uint32_t v = 0x1234abcd, back = 0;

	(void)state;
	assert_int_equal(gmem_regions(mem, &r), 2);
	assert_int_equal(r[0].size, 3 * GIB);
	assert_int_equal(r[1].gpa, 4 * GIB);
	assert_int_equal(r[1].size, 2 * GIB);
	assert_int_equal(r[1].fd_offset, 3 * GIB);
	assert_int_equal(gmem_end(mem), 6 * GIB);
	assert_int_equal(gmem_ram_bytes(mem), 5 * GIB);
	assert_null(gmem_ptr(mem, 3 * GIB, 1));
	assert_null(gmem_ptr(mem, 3 * GIB - 1, 2));
	assert_null(gmem_ptr(mem, 4 * GIB - 1, 1));
	assert_int_equal(gmem_write(mem, 6 * GIB - 4, &v, 4), 0);
	/* The descriptor shows the same byte at the offset that the region names. */
	assert_int_equal(pread(r[1].fd, &back, 4, (off_t)(5 * GIB - 4)), 4);
	assert_int_equal(back, v);
	assert_int_equal(gmem_write(mem, 3 * GIB - 2, &v, 4), -EFAULT);
	gmem_free(mem);
}

static void a_copy_spans_regions(void **state)
{
	struct gmem *mem = small(2 * MIB);
	struct error err = ERROR_INIT;
	const struct gmem_region *r;
	char text[] = "across the border", back[sizeof(text)] = "";

	(void)state;
	assert_int_equal(gmem_add(mem, 2 * MIB, MIB, false, "more", &err), 0);
	assert_int_equal(gmem_regions(mem, &r), 2);
	assert_null(gmem_ptr(mem, 2 * MIB - 4, sizeof(text)));
	assert_int_equal(gmem_dirty_start(mem), 0);
	assert_int_equal(gmem_write(mem, 2 * MIB - 4, text, sizeof(text)), 0);
	assert_int_equal(gmem_read(mem, 2 * MIB - 4, back, sizeof(text)), 0);
	assert_string_equal(back, text);

	uint64_t low[8] = {0}, high[4] = {0};
	gmem_dirty_fetch(mem, 0, low);
	gmem_dirty_fetch(mem, 1, high);
	assert_int_equal(low[7], BIT(63));
	assert_int_equal(high[0], 1);
	gmem_free(mem);
}

static void rom_is_read_only_for_the_guest(void **state)
{
	struct gmem *mem = small(2 * MIB);
	struct error err = ERROR_INIT;
	uint32_t v = 7;

	(void)state;
	assert_int_equal(gmem_add(mem, 4 * GIB - MIB, MIB, true, "bios", &err), 0);
	assert_null(gmem_ptr(mem, 4 * GIB - 16, 4));
	assert_non_null(gmem_ptr_ro(mem, 4 * GIB - 16, 4));
	assert_int_equal(gmem_write(mem, 4 * GIB - 16, &v, 4), -EFAULT);
	assert_int_equal(gmem_read(mem, 4 * GIB - 16, &v, 4), 0);
	assert_int_equal(v, 0);
	assert_int_equal(gmem_end(mem), 2 * MIB);
	gmem_free(mem);
}

static void overlaps_are_refused(void **state)
{
	struct gmem *mem = small(4 * MIB);
	struct error err = ERROR_INIT;

	(void)state;
	assert_int_equal(gmem_add(mem, 4 * MIB - 4096, 8192, false, "x", &err), -EEXIST);
	assert_int_equal(gmem_add(mem, 0, 4096, true, "x", &err), -EEXIST);
	assert_int_equal(gmem_add(mem, 8 * MIB, 4096, true, "x", &err), 0);
	assert_int_equal(gmem_add(mem, 8 * MIB - 4096, 8192, true, "x", &err), -EEXIST);
	assert_int_equal(gmem_add(mem, 6 * MIB, 4 * MIB, true, "x", &err), -EEXIST);
	assert_int_equal(gmem_add(mem, 6 * MIB, 0, true, "x", &err), -EINVAL);
	assert_int_equal(gmem_add(mem, 6 * MIB + 1, 4096, true, "x", &err), -EINVAL);
	assert_int_equal(gmem_add(mem, UINT64_MAX - 4095, 4096, true, "x", &err), -EINVAL);
	gmem_free(mem);
}

static void regions_stay_sorted(void **state)
{
	struct gmem *mem = small(MIB);
	struct error err = ERROR_INIT;
	const struct gmem_region *r;
	size_t n;

	(void)state;
	for (unsigned i = 12; i > 0; i--)
		assert_int_equal(gmem_add(mem, (uint64_t)((i * 7) % 13 + 1) * 4 * MIB, 4096, i & 1,
					  "r", &err),
				 0);
	n = gmem_regions(mem, &r);
	assert_int_equal(n, 13);
	for (size_t i = 0; i < n; i++) {
		if (i > 0)
			assert_true(r[i - 1].gpa < r[i].gpa);
		assert_ptr_equal(gmem_ptr_ro(mem, r[i].gpa, 4096), r[i].hva);
		assert_null(gmem_ptr_ro(mem, r[i].gpa + r[i].size, 1));
		if (i > 0)
			assert_null(gmem_ptr_ro(mem, r[i].gpa - 1, 1));
	}
	gmem_free(mem);
}

static void bad_sizes_are_refused(void **state)
{
	static const struct gmem_config bad[] = {
		{.ram_bytes = 0},
		{.ram_bytes = MIB + 1},
		{.ram_bytes = 1ULL << 62},
		{.ram_bytes = UINT64_MAX - 4095},
		{.ram_bytes = 3 * MIB, .hugepage_bytes = 2 * MIB},
		{.ram_bytes = 4 * MIB, .hugepage_bytes = 4 * MIB},
		{.ram_bytes = 4 * MIB, .hugepage_bytes = 2 * MIB, .mergeable = true},
		{.ram_bytes = 4 * MIB, .path = "/tmp", .mergeable = true},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		struct error err = ERROR_INIT;
		struct gmem *mem = NULL;

		assert_int_equal(gmem_new(&bad[i], &mem, &err), -EINVAL);
		assert_true(strlen(err.text) > 10);
		assert_null(mem);
	}
}

static void absent_huge_pages_are_named(void **state)
{
	/* 256 GiB of huge pages: no test machine has them. */
	struct gmem_config config = {.ram_bytes = 1ULL << 38, .hugepage_bytes = 2 * MIB};
	struct error err = ERROR_INIT;
	struct gmem *mem = NULL;

	(void)state;
	assert_true(gmem_new(&config, &mem, &err) < 0);
	if (access("/sys/kernel/mm/hugepages/hugepages-2048kB", F_OK) == 0) {
		assert_non_null(strstr(err.text, "131072 huge pages of 2 MiB"));
		assert_non_null(strstr(err.text, "hugepages-2048kB/nr_hugepages"));
	}
}

static bool page_is_resident(void *p)
{
	unsigned char vec = 0;

	assert_int_equal(mincore(p, 4096, &vec), 0);
	return vec & 1;
}

static void discarded_pages_are_zero_and_gone(void **state)
{
	struct gmem_config configs[] = {{.ram_bytes = 4 * MIB},
					{.ram_bytes = 4 * MIB, .mergeable = true}};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(configs); i++) {
		struct error err = ERROR_INIT;
		struct gmem *mem = NULL;
		struct stat st;
		const struct gmem_region *r;
		uint8_t *p;

		if (gmem_new(&configs[i], &mem, &err) < 0) {
			/* A kernel without KSM says so. */
			assert_true(configs[i].mergeable);
			print_message("not mergeable: %s\n", err.text);
			continue;
		}
		p = gmem_ptr(mem, 0, 4 * MIB);
		memset(p, 0xaa, 4 * MIB);
		assert_true(page_is_resident(p + MIB));
		/* Only whole pages go: the first and the last byte's pages stay. */
		assert_int_equal(gmem_discard(mem, 1, 4 * MIB - 2), 0);
		assert_int_equal(p[4095], 0xaa);
		assert_int_equal(p[4 * MIB - 4096], 0xaa);
		gmem_regions(mem, &r);
		if (r->fd >= 0) {
			assert_int_equal(fstat(r->fd, &st), 0);
			assert_int_equal(st.st_blocks * 512, 8192);
		}
		assert_int_equal(p[4096], 0);
		assert_int_equal(p[4 * MIB - 4097], 0);
		assert_int_equal(gmem_discard(mem, 4 * MIB - 4096, 8192), -EFAULT);
		assert_int_equal(gmem_discard(mem, 4096, UINT64_MAX - 100), -EFAULT);
		assert_int_equal(gmem_discard(mem, 4097, 4096), 0);
		gmem_free(mem);
	}
}

static void preallocated_pages_are_there(void **state)
{
	struct gmem_config config = {.ram_bytes = 130 * MIB, .prealloc = true};
	struct error err = ERROR_INIT;
	struct gmem *mem = NULL;
	uint8_t *p;

	(void)state;
	assert_int_equal(gmem_new(&config, &mem, &err), 0);
	p = gmem_ptr(mem, 0, 130 * MIB);
	for (uint64_t off = 0; off < 130 * MIB; off += MIB)
		assert_true(page_is_resident(p + off));
	assert_true(page_is_resident(p + 130 * MIB - 4096));
	gmem_free(mem);
}

/* Whether huge pages come of it is the kernel's affair; what is there stays, and nothing outside is touched. */
static void expected_writes_change_nothing_that_is_seen(void **state)
{
	struct gmem_config config = {.ram_bytes = 16 * MIB};
	struct error err = ERROR_INIT;
	struct gmem *mem = NULL;
	uint8_t *p;

	(void)state;
	assert_int_equal(gmem_new(&config, &mem, &err), 0);
	p = gmem_ptr(mem, 0, 16 * MIB);
	p[5 * MIB] = 0x5a;
	gmem_expect_write(mem, 3 * MIB, 8 * MIB);
	gmem_expect_write(mem, 12 * MIB, MIB);
	gmem_expect_write(mem, 16 * MIB, 4 * MIB);
	gmem_expect_write(mem, 15 * MIB, UINT64_MAX);
	assert_int_equal(p[5 * MIB], 0x5a);
	assert_false(page_is_resident(p + 4 * MIB - 4096));
	assert_true(page_is_resident(p + 4 * MIB));
	assert_true(page_is_resident(p + 8 * MIB));
	for (uint64_t off = 10 * MIB; off < 16 * MIB; off += 4096)
		assert_false(page_is_resident(p + off));
	p[4 * MIB + 1] = 1;
	assert_int_equal(gmem_discard(mem, 4 * MIB, 4096), 0);
	assert_int_equal(p[4 * MIB + 1], 0);
	assert_int_equal(p[5 * MIB], 0x5a);
	gmem_free(mem);
}

static void a_file_backs_memory_and_is_not_clobbered(void **state)
{
	char path[] = "/tmp/test-gmem-XXXXXX";
	int fd = mkstemp(path);
	struct gmem_config config = {.ram_bytes = MIB, .path = path};
	struct error err = ERROR_INIT;
	struct gmem *mem = NULL, *other = NULL;
	struct stat st;

	(void)state;
	assert_true(fd >= 0);
	assert_int_equal(write(fd, "precious", 8), 8);
	assert_int_equal(gmem_new(&config, &mem, &err), -EEXIST);
	assert_non_null(strstr(err.text, path));
	assert_int_equal(fstat(fd, &st), 0);
	assert_int_equal(st.st_size, 8);
	assert_int_equal(ftruncate(fd, 0), 0);
	assert_int_equal(gmem_new(&config, &mem, &err), 0);
	assert_int_equal(gmem_new(&config, &other, &err), -EBUSY);
	assert_int_equal(gmem_write(mem, 0x1000, "ram", 3), 0);
	char back[4] = "";
	assert_int_equal(pread(fd, back, 3, 0x1000), 3);
	assert_string_equal(back, "ram");
	gmem_free(mem);
	close(fd);
	unlink(path);
}

static void huge_pages_want_their_own_file_system(void **state)
{
	struct gmem_config config = {.ram_bytes = 2 * MIB,
				     .path = "/dev/shm",
				     .hugepage_bytes = 2 * MIB};
	struct error err = ERROR_INIT;
	struct gmem *mem = NULL;

	(void)state;
	assert_int_equal(gmem_new(&config, &mem, &err), -EINVAL);
	assert_non_null(strstr(err.text, "hugetlbfs"));
}

static void a_folder_gets_a_nameless_file(void **state)
{
	struct gmem_config config = {.ram_bytes = MIB, .path = "/dev/shm"};
	struct error err = ERROR_INIT;
	struct gmem *mem = NULL;

	(void)state;
	if (gmem_new(&config, &mem, &err) < 0)
		fail_msg("%s", err.text);
	assert_int_equal(gmem_write(mem, 0, "x", 1), 0);
	gmem_free(mem);
}

static void a_peer_cannot_shrink_memory(void **state)
{
	struct gmem *mem = small(MIB);
	const struct gmem_region *r;

	(void)state;
	gmem_regions(mem, &r);
	assert_int_equal(ftruncate(r->fd, 0), -1);
	assert_int_equal(errno, EPERM);
	gmem_free(mem);
}

static void dirty_pages_are_found_once(void **state)
{
	struct gmem *mem = small(MIB);
	uint64_t bitmap[4] = {0};

	(void)state;
	gmem_mark_dirty(mem, 0, 4096); /* not tracking yet */
	assert_int_equal(gmem_dirty_start(mem), 0);
	gmem_write(mem, 5 * 4096 - 1, "ab", 2);
	gmem_mark_dirty(mem, 63 * 4096, 2 * 4096 + 1);
	gmem_mark_dirty(mem, MIB - 1, UINT64_MAX / 2); /* clipped */
	gmem_mark_dirty(mem, 2 * MIB, 4096);           /* nowhere */
	gmem_mark_dirty(mem, 7 * 4096, 0);             /* empty */
	gmem_dirty_fetch(mem, 0, bitmap);
	assert_int_equal(bitmap[0], BIT(4) | BIT(5) | BIT(63));
	assert_int_equal(bitmap[1], BIT(0) | BIT(1));
	assert_int_equal(bitmap[2], 0);
	assert_int_equal(bitmap[3], BIT(63));
	memset(bitmap, 0, sizeof(bitmap));
	gmem_dirty_fetch(mem, 0, bitmap);
	for (size_t i = 0; i < 4; i++)
		assert_int_equal(bitmap[i], 0);
	gmem_discard(mem, 8192, 4096);
	gmem_dirty_fetch(mem, 0, bitmap);
	assert_int_equal(bitmap[0], BIT(2));
	/* What was left over from the last time is not seen after a new start. */
	gmem_write(mem, 0, "x", 1);
	gmem_dirty_stop(mem);
	gmem_write(mem, 4096, "x", 1);
	assert_int_equal(gmem_dirty_start(mem), 0);
	memset(bitmap, 0, sizeof(bitmap));
	gmem_dirty_fetch(mem, 0, bitmap);
	assert_int_equal(bitmap[0], 0);
	gmem_free(mem);
}

#define MARKS 20000

/* Guest memory is shared with whoever writes: each side uses whole words, as a guest would. */
static atomic_uint *word_of(struct gmem *mem, unsigned page)
{
	return gmem_ptr(mem, page * 4096ULL, sizeof(atomic_uint));
}

struct seen {
	gpa_t gpa;
	uint64_t len;
	unsigned times;
};

static void see(void *opaque, gpa_t gpa, uint64_t len)
{
	struct seen *seen = opaque;

	*seen = (struct seen){.gpa = gpa, .len = len, .times = seen->times + 1};
}

static void a_watcher_sees_every_write(void **state)
{
	struct gmem_config config = {.ram_bytes = 4 * MIB};
	struct error err = ERROR_INIT;
	struct seen seen = {0};
	struct gmem *mem;

	(void)state;
	assert_int_equal(gmem_new(&config, &mem, &err), 0);
	gmem_watch(mem, see, &seen);
	assert_int_equal(gmem_write(mem, 0x1ffe, "abcd", 4), 0);
	assert_int_equal(seen.times, 1);
	assert_int_equal(seen.gpa, 0x1ffe);
	assert_int_equal(seen.len, 4);
	gmem_mark_dirty(mem, 0x5000, 100);
	assert_int_equal(seen.times, 2);
	assert_int_equal(seen.len, 100);
	gmem_mark_dirty(mem, 0x5000, 0);
	assert_true(gmem_write(mem, 4 * MIB - 2, "abcd", 4) < 0);
	assert_int_equal(seen.times, 2); /* nothing was written */
	assert_int_equal(gmem_discard(mem, 0x6000, 0x2000), 0);
	assert_int_equal(seen.times, 3);
	assert_int_equal(seen.gpa, 0x6000);
	assert_int_equal(seen.len, 0x2000);
	gmem_watch(mem, NULL, NULL);
	assert_int_equal(gmem_write(mem, 0, "abcd", 4), 0);
	assert_int_equal(seen.times, 3);
	gmem_free(mem);
}

static void *marker(void *opaque)
{
	struct gmem *mem = opaque;

	for (unsigned i = 0; i < MARKS; i++) {
		unsigned page = i * 37 % 256;

		atomic_store_explicit(word_of(mem, page), i, memory_order_relaxed);
		gmem_mark_dirty(mem, page * 4096ULL, 4);
	}
	return NULL;
}

/* Two writers against one fetcher: every page that was written is reported at or after its last write. */
static void no_mark_is_lost(void **state)
{
	struct gmem *mem = small(MIB);
	pthread_t t[2];
	uint64_t bitmap[4] = {0};
	unsigned copy[256] = {0};

	(void)state;
	assert_int_equal(gmem_dirty_start(mem), 0);
	for (size_t i = 0; i < 2; i++)
		assert_int_equal(pthread_create(&t[i], NULL, marker, mem), 0);
	for (unsigned round = 0; round < 200; round++) {
		if (round == 199)
			for (size_t i = 0; i < 2; i++)
				pthread_join(t[i], NULL);
		memset(bitmap, 0, sizeof(bitmap));
		gmem_dirty_fetch(mem, 0, bitmap);
		for (unsigned page = 0; page < 256; page++)
			if (bitmap[page / 64] & BIT(page % 64))
				copy[page] = atomic_load_explicit(word_of(mem, page),
								  memory_order_relaxed);
	}
	for (unsigned page = 0; page < 256; page++)
		assert_int_equal(copy[page], atomic_load(word_of(mem, page)));
	gmem_free(mem);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(bytes_come_back),
		cmocka_unit_test(nothing_is_reached_outside),
		cmocka_unit_test(ram_goes_around_the_hole),
		cmocka_unit_test(a_copy_spans_regions),
		cmocka_unit_test(rom_is_read_only_for_the_guest),
		cmocka_unit_test(overlaps_are_refused),
		cmocka_unit_test(regions_stay_sorted),
		cmocka_unit_test(bad_sizes_are_refused),
		cmocka_unit_test(absent_huge_pages_are_named),
		cmocka_unit_test(discarded_pages_are_zero_and_gone),
		cmocka_unit_test(preallocated_pages_are_there),
		cmocka_unit_test(expected_writes_change_nothing_that_is_seen),
		cmocka_unit_test(a_file_backs_memory_and_is_not_clobbered),
		cmocka_unit_test(huge_pages_want_their_own_file_system),
		cmocka_unit_test(a_folder_gets_a_nameless_file),
		cmocka_unit_test(a_peer_cannot_shrink_memory),
		cmocka_unit_test(dirty_pages_are_found_once),
		cmocka_unit_test(a_watcher_sees_every_write),
		cmocka_unit_test(no_mark_is_lost),
	};

	return cmocka_run_group_tests_name("gmem", tests, NULL, NULL);
}
