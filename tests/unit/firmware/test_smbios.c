#include "firmware/guest.h"

#include <errno.h>
#include <stdio.h>

#include "vm/firmware/smbios.h"

struct walk {
	struct gmem *mem;
	gpa_t at, end;
};

/* Moves to the next structure of the type; the one before must have been walked past its strings. */
static gpa_t next_of(struct walk *w, unsigned type)
{
	while (w->at < w->end) {
		gpa_t at = w->at, p = at + guest_load(w->mem, at + 1, 1);

		while (guest_load(w->mem, p, 2) != 0)
			p++;
		w->at = p + 2;
		if (guest_load(w->mem, at, 1) == type)
			return at;
	}
	return 0;
}

static gpa_t find(const struct walk *start, unsigned type)
{
	struct walk w = *start;
	gpa_t at = next_of(&w, type);

	if (!at)
		fail_msg("no structure of type %u", type);
	return at;
}

/* String n, from 1, of a structure. */
static const char *string_of(const struct walk *w, gpa_t at, unsigned n)
{
	gpa_t p = at + guest_load(w->mem, at + 1, 1);

	while (--n > 0)
		while (guest_load(w->mem, p++, 1) != 0)
			;
	return gmem_ptr_ro(w->mem, p, 1);
}

static struct walk build(const struct firmware_smbios_config *config, uint64_t ram)
{
	struct walk w = {.mem = guest_memory(ram)};
	struct error err = ERROR_INIT;
	gpa_t entry;
	uint8_t sum = 0;

	if (firmware_build_smbios(w.mem, config, &err) < 0)
		fail_msg("%s", err.text);
	for (entry = 0xF0000; entry < 0x100000; entry += 16)
		if (memcmp(gmem_ptr_ro(w.mem, entry, 5), "_SM3_", 5) == 0)
			break;
	for (unsigned i = 0; i < guest_load(w.mem, entry + 6, 1); i++)
		sum = (uint8_t)(sum + guest_load(w.mem, entry + i, 1));
	assert_int_equal(sum, 0);
	w.at = guest_load(w.mem, entry + 16, 8);
	w.end = w.at + guest_load(w.mem, entry + 12, 4);
	return w;
}

static const struct firmware_smbios_config usual = {
	.name = "demo",
	.uuid = {0x00, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88, 0x99, 0xAA, 0xBB, 0xCC, 0xDD,
		 0xEE, 0xFF},
	.n_sockets = 2,
	.cores_per_socket = 3,
	.threads_per_core = 2,
};

static void machine_is_named(void **state)
{
	static const uint8_t uuid[] = {0x33, 0x22, 0x11, 0x00, 0x55, 0x44, 0x77, 0x66, 0x88, 0x99};
	struct walk w = build(&usual, 5 * GIB), cpus = w, ranges = w;
	gpa_t at = find(&w, 1);

	(void)state;
	assert_string_equal(string_of(&w, at, (unsigned)guest_load(w.mem, at + 4, 1)), "Vireo");
	assert_memory_equal(gmem_ptr_ro(w.mem, at + 8, 10), uuid, 10);
	at = find(&w, 3);
	assert_string_equal(string_of(&w, at, (unsigned)guest_load(w.mem, at + 8, 1)), "demo");
	assert_true(next_of(&cpus, 4) != 0);
	at = next_of(&cpus, 4);
	assert_int_equal(guest_load(w.mem, at + 0x23, 1), 3);
	assert_int_equal(guest_load(w.mem, at + 0x25, 1), 6);
	assert_int_equal(next_of(&cpus, 4), 0);
	assert_int_equal(guest_load(w.mem, find(&w, 16) + 7, 4), 5 * MIB);
	assert_int_equal(guest_load(w.mem, find(&w, 17) + 12, 2), 5 * 1024);
	at = next_of(&ranges, 19);
	assert_int_equal(guest_load(w.mem, at + 8, 4), 3 * MIB - 1);
	at = next_of(&ranges, 19);
	assert_int_equal(guest_load(w.mem, at + 4, 4), 4 * MIB);
	assert_int_equal(guest_load(w.mem, at + 8, 4), 6 * MIB - 1);
	w.at = find(&w, 127);
	assert_int_equal(w.at + 6, w.end);
	gmem_free(w.mem);
}

static void a_machine_without_a_name_will_do(void **state)
{
	static const struct firmware_smbios_config plain = {.n_sockets = 255,
							    .cores_per_socket = 1,
							    .threads_per_core = 1};
	struct walk w = build(&plain, 32 * MIB);

	(void)state;
	assert_int_equal(guest_load(w.mem, find(&w, 3) + 8, 1), 0);
	gmem_free(w.mem);
}

static void nonsense_is_refused(void **state)
{
	struct firmware_smbios_config c = usual;
	struct gmem *mem = guest_memory(32 * MIB);
	char name[70000];

	(void)state;
	c.n_sockets = 0;
	assert_int_equal(firmware_build_smbios(mem, &c, NULL), -EINVAL);
	c.n_sockets = 256;
	assert_int_equal(firmware_build_smbios(mem, &c, NULL), -EINVAL);
	c = usual;
	memset(name, 'x', sizeof(name));
	name[sizeof(name) - 1] = '\0';
	c.name = name;
	assert_int_equal(firmware_build_smbios(mem, &c, NULL), -ENOSPC);
	gmem_free(mem);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(machine_is_named),
		cmocka_unit_test(a_machine_without_a_name_will_do),
		cmocka_unit_test(nonsense_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
