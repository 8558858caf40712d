/* Private to vm/accel/null. */
#pragma once

#include <pthread.h>
#include <stdatomic.h>

#include "vm/accel/accel_impl.h"
#include "vm/accel/null/null.h"

enum null_op {
	NULL_OUT,
	NULL_IN,
	NULL_WRITE,
	NULL_READ,
	NULL_MSI,
	NULL_WAIT_IRQ,
	NULL_WAIT_MSI,
	NULL_WAIT_KICK,
	NULL_IDLE,
	NULL_AGAIN,
	NULL_RESET,
	NULL_HALT,
	NULL_FAIL,
};

struct null_line {
	enum null_op op;
	int vcpu;        /* -1: every one */
	unsigned number; /* in the text, from 1 */
	unsigned n_args;
	uint64_t args[3];
};

struct null_script {
	struct null_line *lines;
	size_t n_lines;
};

#define NULL_MAX_REGIONS   32
#define NULL_MAX_ROUTES    256
#define NULL_MAX_DOORBELLS 256

struct null_route {
	uint64_t addr;
	uint32_t data;
	int fd; /* -1: free */
};

struct null_region {
	struct gmem_region region; /* size 0: free */
	uint64_t *dirty;           /* [lock] one bit a page, while tracking */
};

struct null_vcpu;

struct null {
	struct accel accel;
	struct null_script script;
	struct null_vcpu *vcpus[ACCEL_MAX_VCPUS];
	struct null_region regions[NULL_MAX_REGIONS];

	pthread_mutex_t lock;
	bool tracking;                                     /* [lock] */
	bool lines[X86_N_GSIS];                            /* [lock] */
	struct null_route routes[NULL_MAX_ROUTES];         /* [lock] */
	struct accel_doorbell bells[NULL_MAX_DOORBELLS];   /* [lock] fd -1: free */
	struct null_interrupt recorded[NULL_MAX_RECORDED]; /* [lock] */
	bool taken[NULL_MAX_RECORDED];                     /* [lock] by a wait-msi */
	size_t n_recorded;                                 /* [lock] */
	struct x86_machine_state state;
};

struct null_vcpu {
	struct accel_vcpu base;
	struct null *null;
	size_t at; /* [vCPU's thread] the next line */
	atomic_bool kicked;
	int wake; /* eventfd: kicked, or an interrupt was recorded */
	bool booted;
	struct x86_boot_regs boot;
	struct x86_vcpu_state *state; /* what was set last, or NULL */
};

static inline struct null *null_of(struct accel *accel)
{
	return (struct null *)accel;
}

/* null_script.c */
int null_script_parse(const char *text, struct null_script *ret, struct error *err);

/* null_irq.c */
void null_record(struct null *null, const struct null_interrupt *interrupt);
/* Takes what the attached eventfds have to say. */
void null_drain(struct null *null);
void null_wake_all(struct null *null);
int null_irq_line(struct accel *accel, unsigned gsi, bool level);
int null_msi(struct accel *accel, uint64_t addr, uint32_t data);
int null_irqfd_attach(struct accel *accel, int fd, uint64_t addr, uint32_t data);
int null_irqfd_update(struct accel *accel, int route, uint64_t addr, uint32_t data);
int null_irqfd_detach(struct accel *accel, int route);
int null_doorbell_add(struct accel *accel, const struct accel_doorbell *bell);
int null_doorbell_del(struct accel *accel, const struct accel_doorbell *bell);
/* Signals the doorbells that the write matches; false when there is none. */
bool null_ring(struct null *null, bool is_pio, uint64_t addr, unsigned size, uint64_t value);

/* null_run.c */
enum accel_exit null_vcpu_run(struct accel_vcpu *vcpu);
void null_vcpu_kick(struct accel_vcpu *vcpu);
