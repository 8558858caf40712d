#include "guest.h"

#include <errno.h>
#include <stdio.h>
#include <time.h>

#include "base/bits.h"
#include "base/endian.h"

static enum accel_kind kind = ACCEL_KVM;
static bool interpret;

enum accel_kind guest_kind(void)
{
	return kind;
}

int guest_main(int argc, char **argv, const char *group, const struct CMUnitTest *tests, size_t n)
{
	interpret = argc > 1 && strcmp(argv[1], "interpreter") == 0;
	kind = interpret || (argc > 1 && strcmp(argv[1], "soft") == 0) ? ACCEL_SOFT : ACCEL_KVM;
	return _cmocka_run_group_tests(group, tests, n, NULL, NULL);
}

static void guest_access(struct guest *g, unsigned vcpu, bool is_pio, uint64_t addr, bool is_write,
			 void *data, unsigned size)
{
	if (!is_write)
		memcpy(data, &g->answer, size);
	pthread_mutex_lock(&g->lock);
	if (g->n_log < GUEST_MAX_LOG)
		g->log[g->n_log++] = (struct access){.is_pio = is_pio,
						     .is_write = is_write,
						     .addr = addr,
						     .size = size,
						     .value = le_load(data, size),
						     .vcpu = vcpu};
	if (is_pio && is_write && addr < ARRAY_SIZE(g->written))
		g->written[addr]++;
	pthread_cond_broadcast(&g->changed);
	if (is_pio && addr != 0 && addr == g->kick_at)
		accel_vcpu_kick(g->vcpus[vcpu]);
	if (is_pio && is_write && addr == PORT_DONE) {
		g->done[vcpu] = true;
		accel_vcpu_kick(g->vcpus[vcpu]);
	}
	pthread_mutex_unlock(&g->lock);
}

static void guest_pio(void *opaque, unsigned vcpu, uint16_t port, bool is_write, void *data,
		      unsigned size)
{
	guest_access(opaque, vcpu, true, port, is_write, data, size);
}

static void guest_mmio(void *opaque, unsigned vcpu, gpa_t addr, bool is_write, void *data,
		       unsigned size)
{
	guest_access(opaque, vcpu, false, addr, is_write, data, size);
}

int guest_try(struct guest *g, const struct accel_config *config, struct error *err)
{
	struct gmem_config mem = {.ram_bytes = 4 * MIB};
	struct accel_config own = *config;
	const struct gmem_region *regions;
	int r;

	memset(g, 0, sizeof(*g));
	pthread_mutex_init(&g->lock, NULL);
	pthread_cond_init(&g->changed, NULL);
	g->answer = 0x8877665544332211ULL;
	own.interpret = interpret;
	own.handlers = (struct accel_handlers){.pio = guest_pio, .mmio = guest_mmio, .opaque = g};
	r = accel_open(&own, &g->accel, err);
	if (r < 0)
		return r;
	assert_int_equal(gmem_new(&mem, &g->mem, err), 0);
	gmem_regions(g->mem, &regions);
	if (accel_map(g->accel, regions, err) < 0)
		fail_msg("%s", err->text);
	g->n_vcpus = own.n_vcpus;
	for (unsigned i = 0; i < own.n_vcpus && i < GUEST_MAX_VCPUS; i++)
		if (accel_vcpu_new(g->accel, i, &g->vcpus[i], err) < 0)
			fail_msg("%s", err->text);
	return 0;
}

void guest_init(struct guest *g, unsigned n_vcpus)
{
	struct accel_config config = {
		.kind = kind,
		.n_vcpus = n_vcpus,
		.sockets = 1,
		.cores = n_vcpus,
		.threads = 1,
	};
	struct error err = ERROR_INIT;
	int r = guest_try(g, &config, &err);

	if (r == -ENOENT || r == -EACCES) {
		print_message("skipped: %s\n", err.text);
		exit(77);
	}
	if (r < 0)
		fail_msg("%s", err.text);
}

void guest_fini(struct guest *g)
{
	for (unsigned i = 0; i < GUEST_MAX_VCPUS; i++)
		accel_vcpu_free(g->vcpus[i]);
	accel_close(g->accel);
	gmem_free(g->mem);
	pthread_cond_destroy(&g->changed);
	pthread_mutex_destroy(&g->lock);
}

static void *guest_thread(void *opaque)
{
	struct guest_thread *t = opaque;
	struct guest *g = t->g;
	bool stop = false;

	while (!stop) {
		t->exit = accel_vcpu_run(g->vcpus[t->vcpu]);
		pthread_mutex_lock(&g->lock);
		stop = g->stopping || t->exit != ACCEL_EXIT_KICKED;
		pthread_mutex_unlock(&g->lock);
	}
	accel_vcpu_settle(g->vcpus[t->vcpu]);
	return NULL;
}

void guest_start(struct guest *g)
{
	g->stopping = false;
	for (unsigned i = 0; i < g->n_vcpus; i++) {
		g->ends[i] = (struct guest_thread){.g = g, .vcpu = i};
		assert_int_equal(pthread_create(&g->threads[i], NULL, guest_thread, &g->ends[i]),
				 0);
	}
}

void guest_stop(struct guest *g)
{
	pthread_mutex_lock(&g->lock);
	g->stopping = true;
	pthread_mutex_unlock(&g->lock);
	for (unsigned i = 0; i < g->n_vcpus; i++) {
		accel_vcpu_kick(g->vcpus[i]);
		pthread_join(g->threads[i], NULL);
		if (g->ends[i].exit != ACCEL_EXIT_KICKED)
			fail_msg("vCPU %u: exit %d: %s", i, (int)g->ends[i].exit,
				 accel_vcpu_error(g->vcpus[i]));
	}
}

void guest_wait(struct guest *g, uint16_t port, unsigned times)
{
	struct timespec limit;
	int r = 0;

	clock_gettime(CLOCK_REALTIME, &limit);
	limit.tv_sec += 30;
	pthread_mutex_lock(&g->lock);
	while (g->written[port] < times && r == 0)
		r = pthread_cond_timedwait(&g->changed, &g->lock, &limit);
	pthread_mutex_unlock(&g->lock);
	if (r)
		fail_msg("port 0x%x was written %u times instead of %u", port, g->written[port],
			 times);
}

/* Page tables that map the first 4 GiB to themselves by 2 MiB pages. */
static void guest_page_tables(struct guest *g)
{
	uint64_t *pml4 = gmem_ptr(g->mem, GUEST_PAGES, 6 * 4096);
	uint64_t *pdpt = pml4 + 512, *pd = pdpt + 512;

	pml4[0] = (GUEST_PAGES + 0x1000) | 3;
	for (uint64_t i = 0; i < 4; i++)
		pdpt[i] = (GUEST_PAGES + 0x2000 + i * 0x1000) | 3;
	for (uint64_t i = 0; i < 2048; i++)
		pd[i] = i << 21 | 0x83;
}

/* 64-bit code, data and a task state segment at 0x10, 0x18, 0x20: iretq loads the first two again. */
static const uint64_t gdt[] = {0, 0, 0x00AF9B000000FFFF, 0x00CF93000000FFFF, 0x00008B0000000067, 0};

void guest_load(struct guest *g, enum x86_boot_mode mode, const void *code, const void *end)
{
	struct x86_boot_regs regs = {
		.mode = mode,
		.rip = GUEST_CODE,
		.rsp = GUEST_STACK,
		.gdt_base = GUEST_GDT,
		.gdt_limit = sizeof(gdt) - 1,
		.cs_selector = 0x10,
		.ds_selector = 0x18,
		.tss_selector = 0x20,
		.cr3 = GUEST_PAGES,
	};
	struct error err = ERROR_INIT;

	assert_int_equal(gmem_write(g->mem, GUEST_GDT, gdt, sizeof(gdt)), 0);
	assert_int_equal(gmem_write(g->mem, GUEST_CODE, code,
				    (size_t)((const char *)end - (const char *)code)),
			 0);
	if (mode == X86_BOOT_LONG64)
		guest_page_tables(g);
	if (accel_vcpu_set_boot(g->vcpus[0], &regs, &err) < 0)
		fail_msg("%s", err.text);
}

void guest_run_done(struct guest *g)
{
	while (!g->done[0]) {
		enum accel_exit exit = accel_vcpu_run(g->vcpus[0]);

		if (exit != ACCEL_EXIT_KICKED)
			fail_msg("exit %d: %s", (int)exit, accel_vcpu_error(g->vcpus[0]));
	}
}

void guest_expect(struct guest *g, size_t i, bool is_pio, bool is_write, uint64_t addr,
		  unsigned size, uint64_t value)
{
	const struct access *a = &g->log[i];

	assert_true(i < g->n_log);
	if (a->is_pio != is_pio || a->is_write != is_write || a->addr != addr || a->size != size ||
	    a->value != value)
		fail_msg("access %zu is %s %s of %u bytes at 0x%llx: 0x%llx", i,
			 a->is_pio ? "port" : "memory", a->is_write ? "write" : "read", a->size,
			 (unsigned long long)a->addr, (unsigned long long)a->value);
}

static uint32_t field_count(const struct state_field *f, const uint8_t *obj)
{
	uint32_t n;

	if (f->count_offset == STATE_NO_COUNT)
		return (uint32_t)f->max_count;
	memcpy(&n, obj + f->count_offset, sizeof(n));
	return n;
}

void assert_states_equal(const struct state_table *table, const void *a, const void *b)
{
	for (size_t i = 0; i < table->n_fields; i++) {
		const struct state_field *f = &table->fields[i];
		const uint8_t *fa = (const uint8_t *)a + f->offset;
		const uint8_t *fb = (const uint8_t *)b + f->offset;
		uint32_t n = field_count(f, a);

		if (n != field_count(f, b) || n > f->max_count)
			fail_msg("%s.%s: %u and %u elements", table->name, f->name, n,
				 field_count(f, b));
		for (uint32_t e = 0; e < n; e++) {
			if (f->kind == STATE_KIND_STRUCT)
				assert_states_equal(f->table, fa + e * f->size, fb + e * f->size);
			else if (memcmp(fa + e * f->size, fb + e * f->size, f->size) != 0)
				fail_msg("%s.%s: element %u differs", table->name, f->name, e);
		}
	}
}
