/*
 * A small machine for tests of an accelerator: memory, vCPUs, and a log of what they accessed.
 */
#pragma once

#include "unit/test.h"

#include <pthread.h>

#include "vm/accel/accel.h"
#include "vm/accel/x86.h"
#include "vm/mem/gmem.h"

#define GUEST_GDT   0x500ULL
#define GUEST_CODE  0x1000ULL
#define GUEST_STACK 0x8000ULL
#define GUEST_PAGES 0x9000ULL /* page tables of long mode: the first 4 GiB, one to one */
#define PORT_DONE   0xF4

#define GUEST_MAX_VCPUS 4
#define GUEST_MAX_LOG   256

struct access {
	bool is_pio, is_write;
	uint64_t addr;
	unsigned size;
	uint64_t value;
	unsigned vcpu;
};

struct guest {
	struct gmem *mem;
	struct accel *accel;
	struct accel_vcpu *vcpus[GUEST_MAX_VCPUS];
	unsigned n_vcpus;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	struct access log[GUEST_MAX_LOG]; /* [lock] */
	size_t n_log;                     /* [lock] */
	uint64_t answer;                  /* low bytes of what a read gives */
	uint16_t kick_at;                 /* an access to this port kicks its vCPU; 0: none */
	bool done[GUEST_MAX_VCPUS];       /* [lock] wrote PORT_DONE */
	unsigned written[256];            /* [lock] how often each low port was written */
	pthread_t threads[GUEST_MAX_VCPUS];
	bool stopping; /* [lock] */
	struct guest_thread {
		struct guest *g;
		unsigned vcpu;
		enum accel_exit exit;
	} ends[GUEST_MAX_VCPUS];
};

/* The accelerator that the program was started for: its argument, "kvm", "soft", or "interpreter" for soft without its translator. */
enum accel_kind guest_kind(void);
int guest_main(int argc, char **argv, const char *group, const struct CMUnitTest *tests, size_t n);
#define GUEST_MAIN(argc, argv, group, tests)                                                       \
	guest_main(argc, argv, group, tests, sizeof(tests) / sizeof((tests)[0]))

/* Opens it with n vCPUs and 4 MiB of memory; leaves the program with status 77 when there is no KVM. */
void guest_init(struct guest *g, unsigned n_vcpus);
/* With any configuration; returns what accel_open() does. */
int guest_try(struct guest *g, const struct accel_config *config, struct error *err);
void guest_fini(struct guest *g);

/* Copies a payload to GUEST_CODE and points vCPU 0 at it. */
void guest_load(struct guest *g, enum x86_boot_mode mode, const void *code, const void *end);
#define GUEST_LOAD(g, mode, name)                                                                  \
	({                                                                                         \
		extern const uint8_t payload_##name[], payload_##name##_end[];                     \
		guest_load(g, mode, payload_##name, payload_##name##_end);                         \
	})

/* Runs vCPUs on threads of their own until guest_stop(); a failure other than a kick fails the test there. */
void guest_start(struct guest *g);
void guest_stop(struct guest *g);
/* Waits until the guest has written a port so often (in all); fails after half a minute. */
void guest_wait(struct guest *g, uint16_t port, unsigned times);

/* Runs vCPU 0 on the calling thread until it writes PORT_DONE. */
void guest_run_done(struct guest *g);
/* The i-th logged access equals this. */
void guest_expect(struct guest *g, size_t i, bool is_pio, bool is_write, uint64_t addr,
		  unsigned size, uint64_t value);

/* Fails with the field's name where two objects differ in what their table describes. */
void assert_states_equal(const struct state_table *table, const void *a, const void *b);
