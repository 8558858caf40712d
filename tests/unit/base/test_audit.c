/* The chain of records: every change of its text is found, and it goes on after a restart and a torn end. */
#include "unit/test.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include "base/audit.h"
#include "base/fd.h"

#define RECORDS  5
#define MAX_TEXT 8192

struct rig {
	char dir[64], path[96];
	char text[MAX_TEXT];
	size_t len;
};

/* FIPS 180-4's examples, and lengths around the block's end. */
static void hashes_are_those_of_the_standard(void **state)
{
	static const struct {
		size_t len;
		const char *text, *hash;
	} cases[] = {
		{3, "abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"},
		{0, "", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
		{56, "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
		 "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		uint8_t hash[SHA256_BYTES];
		char text[SHA256_TEXT_BYTES];

		sha256(cases[i].text, cases[i].len, hash);
		sha256_text(hash, text);
		assert_string_equal(text, cases[i].hash);
	}
}

static int setup(void **state)
{
	struct rig *rig = calloc(1, sizeof(*rig));
	struct audit_log log;
	int fd;

	snprintf(rig->dir, sizeof(rig->dir), "/tmp/vireo-audit-XXXXXX");
	assert_non_null(mkdtemp(rig->dir));
	snprintf(rig->path, sizeof(rig->path), "%s/a", rig->dir);
	assert_int_equal(audit_open(&log, rig->path, NULL), 0);
	for (int i = 0; i < RECORDS; i++)
		assert_int_equal(audit_add(&log,
					   json_pack("{s:s,s:i}", "call", "DOMAIN_CREATE", "n", i),
					   NULL),
				 0);
	audit_close(&log);
	fd = open(rig->path, O_RDONLY);
	rig->len = (size_t)fd_read_full(fd, rig->text, sizeof(rig->text));
	close(fd);
	*state = rig;
	return 0;
}

static int teardown(void **state)
{
	struct rig *rig = *state;

	unlink(rig->path);
	rmdir(rig->dir);
	free(rig);
	return 0;
}

static void put(const struct rig *rig, const char *text, size_t len)
{
	int fd = open(rig->path, O_WRONLY | O_TRUNC);

	assert_int_equal(fd_write_full(fd, text, len), 0);
	close(fd);
}

static int verify(const struct rig *rig, struct error *err)
{
	char last[SHA256_TEXT_BYTES];
	uint64_t records = 0;
	int r = audit_verify(rig->path, &records, last, err);

	if (r == 0)
		assert_true(records >= RECORDS);
	return r;
}

static void a_whole_chain_holds_and_goes_on(void **state)
{
	struct rig *rig = *state;
	struct audit_log log;

	assert_int_equal(verify(rig, NULL), 0);
	assert_int_equal(audit_open(&log, rig->path, NULL), 0);
	assert_int_equal(log.next, RECORDS + 1);
	assert_int_equal(audit_add(&log, json_pack("{s:s}", "call", "x"), NULL), 0);
	audit_close(&log);
	assert_int_equal(verify(rig, NULL), 0);
}

static void every_altered_byte_is_found(void **state)
{
	struct rig *rig = *state;
	char changed[MAX_TEXT];

	for (size_t i = 0; i < rig->len; i++) {
		memcpy(changed, rig->text, rig->len);
		changed[i] ^= 1;
		put(rig, changed, rig->len);
		assert_int_equal(verify(rig, NULL), -EBADMSG);
	}
}

static void removed_and_exchanged_lines_are_found(void **state)
{
	struct rig *rig = *state;
	struct error err = ERROR_INIT;
	const char *first = strchr(rig->text, '\n') + 1;
	const char *second = strchr(first, '\n') + 1;
	size_t one = (size_t)(first - rig->text), two = (size_t)(second - first);
	char changed[MAX_TEXT];

	/* The second. */
	memcpy(changed, rig->text, one);
	memcpy(changed + one, second, rig->len - one - two);
	put(rig, changed, rig->len - two);
	assert_int_equal(verify(rig, &err), -EBADMSG);
	assert_non_null(strstr(err.text, "line 2 does not follow"));
	/* The first. */
	put(rig, first, rig->len - one);
	assert_int_equal(verify(rig, NULL), -EBADMSG);
	/* The first two the other way round. */
	memcpy(changed, first, two);
	memcpy(changed + two, rig->text, one);
	memcpy(changed + one + two, second, rig->len - one - two);
	put(rig, changed, rig->len);
	assert_int_equal(verify(rig, NULL), -EBADMSG);
	/* One twice. */
	memcpy(changed, rig->text, one);
	memcpy(changed + one, rig->text, rig->len);
	put(rig, changed, one + rig->len);
	assert_int_equal(verify(rig, NULL), -EBADMSG);
}

static void a_torn_end_is_cut_off_and_an_altered_file_is_left_alone(void **state)
{
	struct rig *rig = *state;
	struct audit_log log;
	struct error err = ERROR_INIT;

	put(rig, rig->text, rig->len - 10);
	assert_int_equal(verify(rig, &err), -EBADMSG);
	assert_int_equal(audit_open(&log, rig->path, NULL), 0);
	assert_int_equal(log.next, RECORDS);
	assert_int_equal(audit_add(&log, json_pack("{s:s}", "call", "x"), NULL), 0);
	audit_close(&log);
	assert_int_equal(verify(rig, NULL), 0);
	/* Only its end is looked at; `verify` reads everything. */
	rig->text[rig->len - 100] ^= 1;
	put(rig, rig->text, rig->len);
	assert_int_equal(audit_open(&log, rig->path, &err), -EBADMSG);
	assert_non_null(strstr(err.text, "move the file away"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(hashes_are_those_of_the_standard),
		cmocka_unit_test_setup_teardown(a_whole_chain_holds_and_goes_on, setup, teardown),
		cmocka_unit_test_setup_teardown(every_altered_byte_is_found, setup, teardown),
		cmocka_unit_test_setup_teardown(removed_and_exchanged_lines_are_found, setup,
						teardown),
		cmocka_unit_test_setup_teardown(
			a_torn_end_is_cut_off_and_an_altered_file_is_left_alone, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
