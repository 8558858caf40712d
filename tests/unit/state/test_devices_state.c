#include "state/devices.h"

#include <stdio.h>

#include "base/cleanup.h"
#include "vm/accel/x86.h"
#include "vm/state/state.h"

static const struct device_entry *find(const char *type)
{
	const struct device_entry *entry;

	for (size_t i = 0; (entry = device_entry(i)); i++)
		if (strcmp(entry->type, type) == 0)
			return entry;
	return NULL;
}

static const char *const types[] = {
#include "device_types.h"
};

static void every_device_has_an_entry(void **state)
{
	(void)state;
	assert_true(ARRAY_SIZE(types) > 10);
	for (size_t i = 0; i < ARRAY_SIZE(types); i++)
		if (!find(types[i]))
			fail_msg("%s: no entry in tests/unit/state/devices_*.c", types[i]);
	assert_int_equal(n_port_entries + n_virtio_entries, ARRAY_SIZE(types));
}

/* --- differences, by name --- */

static bool json_differs(const char *path, const json_t *a, const json_t *b);

static bool members_differ(const char *path, const json_t *a, const json_t *b)
{
	const char *key;
	json_t *value;

	json_object_foreach ((json_t *)(uintptr_t)a, key, value) {
		char at[256];

		snprintf(at, sizeof(at), "%s.%s", path, key);
		if (json_differs(at, value, json_object_get(b, key)))
			return true;
	}
	return false;
}

static bool json_differs(const char *path, const json_t *a, const json_t *b)
{
	char at[256];

	if (json_equal(a, b))
		return false;
	if (json_is_object(a) && json_is_object(b) && members_differ(path, a, b))
		return true;
	for (size_t i = 0; json_is_array(a) && i < json_array_size(a); i++) {
		snprintf(at, sizeof(at), "%s[%zu]", path, i);
		if (json_differs(at, json_array_get(a, i), json_array_get(b, i)))
			return true;
	}
	print_error("%s differs\n", path);
	return true;
}

/* --- one device --- */

struct saved {
	struct state_buf bytes;
	json_t *json;
};

static struct saved save(const struct rig *rig)
{
	const struct state_table *table = rig->dev->ops->state;
	struct saved s = {.json = state_to_json(table, rig->dev)};

	assert_non_null(s.json);
	assert_int_equal(state_save(table, rig->dev, &s.bytes), 0);
	return s;
}

static void saved_fini(struct saved *s)
{
	state_buf_fini(&s->bytes);
	json_decref(s->json);
}

static bool same(const struct saved *a, const struct saved *b)
{
	return a->bytes.len == b->bytes.len &&
	       memcmp(a->bytes.data, b->bytes.data, a->bytes.len) == 0;
}

static void load(struct rig *rig, const struct saved *s)
{
	struct state_reader in = state_reader_of(s->bytes.data, s->bytes.len);
	struct error err = ERROR_INIT;
	struct saved again;

	if (state_load(rig->dev->ops->state, rig->dev, &in, &err) < 0)
		fail_msg("%s: %s", rig->dev->ops->type, err.text);
	again = save(rig);
	if (!same(s, &again)) {
		json_differs(rig->dev->ops->type, s->json, again.json);
		fail_msg("%s: not what was saved", rig->dev->ops->type);
	}
	saved_fini(&again);
}

/* The same device in another machine, whose memory is a copy of this one's. */
static void move(struct rig *rig, const struct device_entry *entry)
{
	struct harness *old = rig->h, *h = harness_new();

	memcpy(harness_ptr(h, 0, old->next_free), harness_ptr(old, 0, old->next_free),
	       old->next_free);
	h->next_free = old->next_free;
	h->outstanding = old->outstanding;
	device_free(rig->dev);
	harness_free(old);
	rig->h = rig->driver.h = h;
	entry->make(rig);
	device_pause(rig->dev);
}

static void check_device(const struct device_entry *entry, bool elsewhere)
{
	struct rig rig;
	struct saved before, fresh;
	struct error err = ERROR_INIT;

	rig_init(&rig, entry);
	if (rig.missing) {
		print_message("%s: skipped: %s\n", entry->type, rig.missing);
		rig_fini(&rig);
		return;
	}
	assert_string_equal(rig.dev->ops->type, entry->type);
	if (entry->stateless) {
		assert_null(rig.dev->ops->state);
		rig_fini(&rig);
		return;
	}
	assert_non_null(rig.dev->ops->state);
	if (state_table_check(rig.dev->ops->state, &err) < 0)
		fail_msg("%s", err.text);
	entry->drive(&rig);
	device_pause(rig.dev);
	before = save(&rig);
	device_reset(rig.dev);
	fresh = save(&rig);
	if (same(&before, &fresh) != entry->keeps)
		fail_msg("%s: driven and reset, its state should %sdiffer", entry->type,
			 entry->keeps ? "not " : "");
	if (elsewhere)
		move(&rig, entry);
	load(&rig, &before);
	device_resume(rig.dev);
	entry->go_on(&rig);
	rig_fini(&rig);
	saved_fini(&before);
	saved_fini(&fresh);
}

static void every_device_comes_back(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(types); i++) {
		const struct device_entry *entry = find(types[i]);

		if (!entry)
			continue;
		print_message("%s\n", entry->type);
		check_device(entry, false);
		check_device(entry, true);
	}
}

/* --- what is no device but has a table --- */

static void the_pci_bus_comes_back(void **state)
{
	struct harness *h = harness_new();
	_cleanup_(state_buf_fini) struct state_buf one = {0}, two = {0};
	struct state_reader in;
	struct error err = ERROR_INIT;

	(void)state;
	assert_int_equal(state_table_check(pci_bus_state(), NULL), 0);
	harness_pio_out(h, 0xCF8, 4, 0x80000004);
	assert_int_equal(state_save(pci_bus_state(), h->env.pci, &one), 0);
	harness_free(h);
	h = harness_new();
	in = state_reader_of(one.data, one.len);
	if (state_load(pci_bus_state(), h->env.pci, &in, &err) < 0)
		fail_msg("%s", err.text);
	assert_int_equal(harness_pio_in(h, 0xCF8, 4), 0x80000004);
	assert_int_equal(state_save(pci_bus_state(), h->env.pci, &two), 0);
	assert_int_equal(one.len, two.len);
	assert_memory_equal(one.data, two.data, one.len);
	harness_free(h);
}

/* settle: makes random values plausible. */
static void round_trip(const struct state_table *table, size_t size, void (*settle)(void *obj))
{
	_cleanup_free_ void *a = calloc(1, size);
	_cleanup_free_ void *b = calloc(1, size);
	struct error err = ERROR_INIT;
	uint64_t seed = 7;
	char where[128];

	assert_true(a && b);
	if (state_table_check(table, &err) < 0)
		fail_msg("%s", err.text);
	for (int i = 0; i < 20; i++) {
		_cleanup_(state_buf_fini) struct state_buf buf = {0};
		struct state_reader in;

		state_fill(table, a, &seed);
		if (settle)
			settle(a);
		assert_int_equal(state_save(table, a, &buf), 0);
		in = state_reader_of(buf.data, buf.len);
		if (state_load(table, b, &in, &err) < 0)
			fail_msg("%s", err.text);
		if (!state_compare(table, table->name, a, b, where, sizeof(where)))
			fail_msg("%s differs", where);
	}
}

static void settle_vcpu(void *obj)
{
	((struct x86_vcpu_state *)obj)->xsave_bytes = 2696; /* AVX-512 */
}

static void processors_come_back(void **state)
{
	(void)state;
	round_trip(&x86_vcpu_state_table, sizeof(struct x86_vcpu_state), settle_vcpu);
	round_trip(&x86_machine_state_table, sizeof(struct x86_machine_state), NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_device_has_an_entry),
		cmocka_unit_test(every_device_comes_back),
		cmocka_unit_test(the_pci_bus_comes_back),
		cmocka_unit_test(processors_come_back),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
