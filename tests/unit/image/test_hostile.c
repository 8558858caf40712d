/*
 * Images that were made to do harm: each is refused with a message that names the field, or fails the request that meets it, and
 * nothing of ours is written over. In the end of each case the image is opened, checked, read and written once more, whatever comes
 * of that.
 */
#include "unit/image/workload.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/endian.h"
#include "image/qcow2/qcow2_int.h"
#include "unit/image/qcow2_options.h"

#define CLUSTER 4096u

static void make(struct recorder *rec, uint64_t bytes)
{
	struct image_create_config create = {.path = "memory",
					     .format = "qcow2",
					     .size_bytes = bytes,
					     .cluster_bytes = CLUSTER,
					     .backend = &rec->backend};
	struct image_config config = qcow2_options_open(&rec->backend);
	struct error err = ERROR_INIT;
	struct image *image;
	struct image_sync *s;
	uint8_t buf[CLUSTER];

	recorder_init(rec);
	assert_int_equal(image_create(&create, &err), 0);
	assert_int_equal(image_open(&config, &image, &err), 0);
	assert_int_equal(image_sync_open(image, 1, &s, &err), 0);
	memset(buf, 0x77, sizeof(buf));
	for (unsigned i = 0; i < 4; i++)
		assert_int_equal(image_sync_rw(s, IMAGE_WRITE, i * 2 * CLUSTER, buf, CLUSTER), 0);
	image_sync_close(s);
	assert_int_equal(image_snapshot_create(image, "one", &err), 0);
	image_close(image);
}

/* Whatever it holds: no crash, no endless work. */
static void use(struct recorder *rec)
{
	struct image_config config = qcow2_options_open(&rec->backend);
	struct image_check_config check = {.fix_all = true, .fix_leaks = true};
	struct image_check_result result;
	struct error err = ERROR_INIT;
	struct image *image;
	struct image_sync *s;
	uint8_t buf[CLUSTER] = {1};

	if (image_open(&config, &image, &err) == 0) {
		assert_int_equal(image_sync_open(image, 4, &s, &err), 0);
		for (unsigned i = 0; i < 8; i++) {
			image_sync_rw(s, IMAGE_READ, i * CLUSTER, buf, CLUSTER);
			image_sync_rw(s, IMAGE_WRITE, i * CLUSTER, buf, 512);
		}
		image_sync_flush(s);
		image_sync_close(s);
		image_snapshot_create(image, "two", &err);
		image_snapshot_apply(image, "one", &err);
		image_snapshot_delete(image, "one", &err);
		image_close(image);
	}
	config.inspect = true;
	if (image_open(&config, &image, &err) == 0) {
		image_check(image, &check, &result, &err);
		image_close(image);
	}
}

static void refused(struct recorder *rec, const char *word)
{
	struct image_config config = qcow2_options_open(&rec->backend);
	struct error err = ERROR_INIT;
	struct image *image = NULL;

	assert_true(image_open(&config, &image, &err) < 0);
	if (!strstr(err.text, word) || !strstr(err.text, "memory"))
		fail_msg("'%s' is not in: %s", word, err.text);
	use(rec);
	recorder_fini(rec);
}

/* --- the header --- */

static const struct field {
	const char *word; /* in the message */
	unsigned at, bytes;
	uint64_t value;
} fields[] = {
	{"no qcow2 image", 0, 4, 0x12345678},
	{"version", 4, 4, 4},
	{"version", 4, 4, 0},
	{"cluster_bits", 20, 4, 8},
	{"cluster_bits", 20, 4, 22},
	{"cluster_bits", 20, 4, UINT32_MAX},
	{"size", 24, 8, UINT64_MAX},
	{"l1_size", 24, 8, INT64_MAX - (4 << 20)},
	{"encrypted", 32, 4, 2},
	{"crypt_method", 32, 4, 3},
	{"l1_size", 36, 4, UINT32_MAX},
	{"l1_size", 36, 4, 0},
	{"l1_table_offset", 40, 8, 1},
	{"l1_table_offset", 40, 8, 0},
	{"l1_table_offset", 40, 8, 1ULL << 60},
	{"l1_table_offset", 40, 8, CLUSTER},
	{"refcount_table_offset", 48, 8, 77},
	{"refcount_table_offset", 48, 8, UINT64_MAX - CLUSTER + 1},
	{"refcount_table_clusters", 56, 4, 0},
	{"refcount_table_clusters", 56, 4, UINT32_MAX},
	{"nb_snapshots", 60, 4, 65537},
	{"snapshots", 60, 4, 65536},
	{"snapshots_offset", 64, 8, CLUSTER + 512},
	{"snapshots_offset", 64, 8, CLUSTER},
	{"snapshots_offset", 64, 8, 1ULL << 56},
	{"feature", 72, 8, 1ULL << 63},
	{"data file", 72, 8, 4},
	{"compression_type", 72, 8, 8},
	{"cluster_bits", 72, 8, 16},
	{"damaged", 72, 8, 2},
	{"autoclear", 88, 8, 2},
	{"autoclear", 88, 8, 1},
	{"refcount_order", 96, 4, 7},
	{"header_length", 100, 4, 96},
	{"header_length", 100, 4, 106},
	{"header_length", 100, 4, UINT32_MAX},
	{"compression_type", 104, 1, 1},
	{"backing_file_offset", 8, 8, 4},
	{"backing_file_offset", 8, 8, 1ULL << 40},
	{"extension length", 116, 4, UINT32_MAX},
};

static void test_header(void **state)
{
	for (size_t i = 0; i < ARRAY_SIZE(fields); i++) {
		const struct field *f = &fields[i];
		struct recorder rec;

		make(&rec, 4 * MIB);
		for (unsigned k = 0; k < f->bytes; k++)
			rec.data[f->at + k] = (uint8_t)(f->value >> 8 * (f->bytes - 1 - k));
		/* Where only the snapshots' number is wrong, it is found when they are read. */
		if (f->at == 60 && f->value == 65536) {
			use(&rec);
			recorder_fini(&rec);
			continue;
		}
		if (f->at == 8)
			qcow2_put32(rec.data + 16, 20);
		refused(&rec, f->word);
	}
}

static void test_backing_name_too_long(void **state)
{
	struct recorder rec;

	make(&rec, 4 * MIB);
	qcow2_put64(rec.data + 8, 1024);
	qcow2_put32(rec.data + 16, 1024);
	refused(&rec, "backing_file_size");
}

static void test_not_even_a_header(void **state)
{
	for (uint64_t bytes = 0; bytes < 112; bytes += 8) {
		struct recorder rec;

		make(&rec, 4 * MIB);
		rec.length = bytes;
		refused(&rec, bytes < 72 ? "no qcow2 image" : bytes < 104 ? "length" : "memory");
	}
}

/* --- tables --- */

/* Where a table entry of the active disk is: level 1 or 2. */
static uint8_t *entry_of(struct recorder *rec, unsigned level)
{
	uint64_t l1 = qcow2_get64(rec->data + 40);
	uint64_t l2 = qcow2_get64(rec->data + l1) & QCOW2_OFFSET_MASK;

	return rec->data + (level == 1 ? l1 : l2);
}

static const uint64_t bad_l1[] = {CLUSTER + 512, 1ULL << 55, QCOW2_ENTRY_MINE | 1,
				  QCOW2_ENTRY_MINE | 1ULL << 60, 0xffffffff000};

static void test_l1(void **state)
{
	for (size_t i = 0; i < ARRAY_SIZE(bad_l1); i++) {
		struct recorder rec;

		make(&rec, 4 * MIB);
		qcow2_put64(entry_of(&rec, 1), bad_l1[i]);
		refused(&rec, "L1 table's entry");
	}
}

/* The request fails, and says nothing of others; nothing outside the image is touched. */
static const uint64_t bad_l2[] = {
	QCOW2_ENTRY_MINE | 512,
	QCOW2_ENTRY_MINE | 1ULL << 55,
	QCOW2_ENTRY_MINE | 3ULL << 58,
	QCOW2_ENTRY_MINE | 2,
	QCOW2_ENTRY_MINE,
	QCOW2_ENTRY_COMPRESSED | 1ULL << 57,
	QCOW2_ENTRY_COMPRESSED | QCOW2_ENTRY_MINE | 8192,
	QCOW2_ENTRY_COMPRESSED,
	QCOW2_ENTRY_COMPRESSED | 0x3fffULL << 48 | 0xfff,
	UINT64_MAX,
};

static void test_l2(void **state)
{
	for (size_t i = 0; i < ARRAY_SIZE(bad_l2); i++) {
		struct image_config config;
		struct error err = ERROR_INIT;
		struct image *image;
		struct image_sync *s;
		struct recorder rec;
		uint8_t buf[CLUSTER];

		make(&rec, 4 * MIB);
		qcow2_put64(entry_of(&rec, 2), bad_l2[i]);
		config = qcow2_options_open(&rec.backend);
		assert_int_equal(image_open(&config, &image, &err), 0);
		assert_int_equal(image_sync_open(image, 1, &s, &err), 0);
		assert_int_equal(image_sync_rw(s, IMAGE_READ, 0, buf, CLUSTER), -EIO);
		assert_int_equal(image_sync_rw(s, IMAGE_WRITE, 0, buf, 512), -EIO);
		assert_int_equal(image_sync_rw(s, IMAGE_READ, 2 * CLUSTER, buf, CLUSTER), 0);
		assert_int_equal(buf[0], 0x77);
		image_sync_close(s);
		image_close(image);
		use(&rec);
		recorder_fini(&rec);
	}
}

/* Entries that point to tables: a guest's write would go there. */
static void test_data_over_tables(void **state)
{
	for (unsigned what = 0; what < 4; what++) {
		struct image_config config;
		struct error err = ERROR_INIT;
		struct image *image;
		struct image_sync *s;
		struct recorder rec;
		uint8_t buf[CLUSTER] = {0};
		uint8_t before[CLUSTER];
		uint64_t at;

		make(&rec, 4 * MIB);
		at = what == 0   ? qcow2_get64(rec.data + 40)
		     : what == 1 ? qcow2_get64(rec.data + 48)
		     : what == 2 ? qcow2_get64(rec.data + 64)
				 : (uint64_t)(entry_of(&rec, 2) - rec.data);
		qcow2_put64(entry_of(&rec, 2), QCOW2_ENTRY_MINE | at);
		/* The table itself is the disk's alone, so that it is not copied first. */
		qcow2_put64(entry_of(&rec, 1), qcow2_get64(entry_of(&rec, 1)) | QCOW2_ENTRY_MINE);
		memcpy(before, rec.data + at, CLUSTER);
		config = qcow2_options_open(&rec.backend);
		assert_int_equal(image_open(&config, &image, &err), 0);
		assert_int_equal(image_sync_open(image, 1, &s, &err), 0);
		assert_int_equal(image_sync_rw(s, IMAGE_WRITE, 0, buf, CLUSTER), -EIO);
		image_sync_close(s);
		image_close(image);
		assert_memory_equal(before, rec.data + at, CLUSTER);
		use(&rec);
		recorder_fini(&rec);
	}
}

/* A compressed cluster that would give more is read as far as a cluster goes; less, or nonsense, is damage. */
static void test_bombs(void **state)
{
	for (unsigned what = 0; what < 3; what++) {
		struct image_config config;
		struct error err = ERROR_INIT;
		struct image *image;
		struct image_sync *s;
		struct recorder rec;
		uint8_t *big = calloc(1, 16 * MIB);
		uint8_t packed[65536] = {0};
		uint8_t buf[CLUSTER];
		int64_t n;

		assert_non_null(big);
		make(&rec, 4 * MIB);
		n = qcow2_pack(0, big, what == 0 ? 16 * MIB : CLUSTER / 2, packed, CLUSTER / 2 - 1);
		if (what == 2)
			memset(packed, 0xff, sizeof(packed));
		assert_true(n >= 0);
		memcpy(rec.data + 16 * CLUSTER, packed, 3 * CLUSTER);
		qcow2_put64(entry_of(&rec, 2),
			    QCOW2_ENTRY_COMPRESSED | 7ULL << (62 - 4) | 16 * CLUSTER);
		config = qcow2_options_open(&rec.backend);
		assert_int_equal(image_open(&config, &image, &err), 0);
		assert_int_equal(image_sync_open(image, 1, &s, &err), 0);
		assert_int_equal(image_sync_rw(s, IMAGE_READ, 0, buf, CLUSTER),
				 what == 0 ? 0 : -EIO);
		image_sync_close(s);
		image_close(image);
		recorder_fini(&rec);
		free(big);
	}
}

/* --- snapshots --- */

static void test_snapshot_table(void **state)
{
	static const struct field bad[] = {
		{"l1_size", 8, 4, UINT32_MAX},
		{"l1_table_offset", 0, 8, 513},
		{"extra data size", 36, 4, UINT32_MAX},
		{"past the end", 12, 4, UINT32_MAX},
	};

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		struct image_snapshot *list;
		struct image_config config;
		struct error err = ERROR_INIT;
		struct image *image;
		struct recorder rec;
		uint8_t *entry;
		size_t n;

		make(&rec, 4 * MIB);
		entry = rec.data + qcow2_get64(rec.data + 64);
		for (unsigned k = 0; k < bad[i].bytes; k++)
			entry[bad[i].at + k] =
				(uint8_t)(bad[i].value >> 8 * (bad[i].bytes - 1 - k));
		config = qcow2_options_open(&rec.backend);
		assert_int_equal(image_open(&config, &image, &err), 0);
		assert_true(image_snapshot_list(image, &list, &n, &err) < 0);
		if (!strstr(err.text, bad[i].word))
			fail_msg("'%s' is not in: %s", bad[i].word, err.text);
		assert_true(image_snapshot_delete(image, "one", &err) < 0);
		image_close(image);
		use(&rec);
		recorder_fini(&rec);
	}
}

/* --- refcounts --- */

/* Refcounts that are all too low: the check says so, and repairs it; no data is lost. */
static void test_refcounts(void **state)
{
	struct image_config config;
	struct image_check_config check = {.fix_all = true, .fix_leaks = true};
	struct image_check_result result;
	struct error err = ERROR_INIT;
	struct image *image;
	struct recorder rec;
	uint64_t block;

	make(&rec, 4 * MIB);
	block = qcow2_get64(rec.data + qcow2_get64(rec.data + 48));
	memset(rec.data + block, 0, CLUSTER);
	config = qcow2_options_open(&rec.backend);
	config.inspect = true;
	assert_int_equal(image_open(&config, &image, &err), 0);
	assert_int_equal(image_check(image, &check, &result, &err), 0);
	assert_true(result.corruptions_fixed > 5);
	assert_int_equal(result.corruptions, 0);
	image_close(image);
	config.inspect = false;
	assert_int_equal(image_open(&config, &image, &err), 0);
	memset(&check, 0, sizeof(check));
	assert_int_equal(image_check(image, &check, &result, &err), 0);
	assert_int_equal(result.corruptions + result.leaks, 0);
	image_close(image);
	use(&rec);
	recorder_fini(&rec);
}

/* Random bytes of a good image replaced, many times over. */
static void test_noise(void **state)
{
	uint32_t seed = 5;

	for (unsigned i = 0; i < 400; i++) {
		struct recorder rec;
		unsigned n = 1 + next_random(&seed) % 6;

		make(&rec, 4 * MIB);
		for (unsigned k = 0; k < n; k++) {
			uint64_t at = next_random(&seed) % (k % 2 ? rec.length : 160);

			rec.data[at] = (uint8_t)next_random(&seed);
		}
		use(&rec);
		recorder_fini(&rec);
	}
}

/* --- files that an image names --- */

static void write_image(const char *path, const char *backing, const char *format)
{
	struct image_create_config create = {.path = path,
					     .format = "qcow2",
					     .size_bytes = MIB,
					     .backing_path = backing,
					     .backing_format = format,
					     .replace = true};
	struct error err = ERROR_INIT;

	if (image_create(&create, &err) < 0)
		fail_msg("%s", err.text);
}

static void open_refused(const char *path, const char *word)
{
	struct image_config config = {.path = path, .fd = -1, .format = "qcow2", .readonly = true};
	struct error err = ERROR_INIT;
	struct image *image;

	assert_true(image_open(&config, &image, &err) < 0);
	if (!strstr(err.text, word))
		fail_msg("'%s' is not in: %s", word, err.text);
}

static void test_names(void **state)
{
	char dir[] = "test-hostile-XXXXXX";
	char path[64];
	const char *const allowed[] = {"/etc", NULL};
	struct image_config config = {.path = path, .fd = -1, .format = "qcow2", .readonly = true};
	struct error err = ERROR_INIT;
	struct image *image;

	assert_non_null(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/a.qcow2", dir);
	write_image(path, "/etc/passwd", "raw");
	open_refused(path, "outside the image's folder");
	config.allowed_dirs = allowed;
	assert_int_equal(image_open(&config, &image, &err), 0);
	image_close(image);
	write_image(path, "../../../../../etc/passwd", "raw");
	open_refused(path, "");
	write_image(path, "json:{}", "raw");
	open_refused(path, "no path of a file");
	write_image(path, "a.qcow2", "qcow2");
	open_refused(path, "loop");
	/* A link inside the folder that leads out of it. */
	char link[64];
	snprintf(link, sizeof(link), "%s/b.raw", dir);
	assert_int_equal(symlink("/etc/passwd", link), 0);
	write_image(path, "b.raw", "raw");
	open_refused(path, "outside the image's folder");
	unlink(link);
	unlink(path);
	rmdir(dir);
}

/* The backing file's format must be in the image. */
static void test_format_is_not_guessed(void **state)
{
	char path[] = "test-hostile-XXXXXX";
	int fd = mkstemp(path);
	uint8_t buf[65536];
	size_t at = 112;

	assert_true(fd >= 0);
	close(fd);
	write_image(path, path, "raw");
	fd = open(path, O_RDWR);
	assert_int_equal(pread(fd, buf, sizeof(buf), 0), sizeof(buf));
	assert_int_equal(qcow2_get32(buf + at), 0xe2792aca);
	qcow2_put32(buf + at, 0x11111111);
	assert_int_equal(pwrite(fd, buf, sizeof(buf), 0), sizeof(buf));
	close(fd);
	open_refused(path, "no stated format");
	unlink(path);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_header),
		cmocka_unit_test(test_backing_name_too_long),
		cmocka_unit_test(test_not_even_a_header),
		cmocka_unit_test(test_l1),
		cmocka_unit_test(test_l2),
		cmocka_unit_test(test_data_over_tables),
		cmocka_unit_test(test_bombs),
		cmocka_unit_test(test_snapshot_table),
		cmocka_unit_test(test_refcounts),
		cmocka_unit_test(test_noise),
		cmocka_unit_test(test_names),
		cmocka_unit_test(test_format_is_not_guessed),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
