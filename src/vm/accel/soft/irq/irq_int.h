/*
 * Private to vm/accel/soft/irq: what a machine and a vCPU have besides the processor itself.
 *
 * Machine time is nanoseconds since power-on, less the time that the machine was stopped; it is the host's time stamp counter scaled as
 * the paravirtual clock scales it, so that the guest and every timer here count alike.
 *
 * Locks, outermost first: exclusive_lock; lock; timer_lock. bell_lock is a leaf of its own. See docs/locking.md.
 */
#pragma once

#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "vm/accel/soft/soft.h"

#define TIME_NEVER UINT64_MAX

/* --- the local APIC (irq/lapic*.c). Registers are 32 bits at multiples of 16 bytes; reg[offset >> 4]. --- */

#define LAPIC_ID      0x020u
#define LAPIC_VERSION 0x030u
#define LAPIC_TPR     0x080u
#define LAPIC_APR     0x090u
#define LAPIC_PPR     0x0A0u
#define LAPIC_EOI     0x0B0u
#define LAPIC_RRD     0x0C0u
#define LAPIC_LDR     0x0D0u
#define LAPIC_DFR     0x0E0u
#define LAPIC_SVR     0x0F0u
#define LAPIC_ISR     0x100u
#define LAPIC_TMR     0x180u
#define LAPIC_IRR     0x200u
#define LAPIC_ESR     0x280u
#define LAPIC_ICR     0x300u
#define LAPIC_ICR2    0x310u
#define LAPIC_LVTT    0x320u
#define LAPIC_LVTTHM  0x330u
#define LAPIC_LVTPC   0x340u
#define LAPIC_LVT0    0x350u
#define LAPIC_LVT1    0x360u
#define LAPIC_LVTERR  0x370u
#define LAPIC_TMICT   0x380u
#define LAPIC_TMCCT   0x390u
#define LAPIC_TDCR    0x3E0u
#define LAPIC_SELF    0x3F0u

#define LVT_MASKED  (1u << 16)
#define SVR_ENABLED (1u << 8)
#define SVR_NO_EOI  (1u << 12) /* an EOI is not broadcast */

#define APIC_BASE_BSP    (1ull << 8)
#define APIC_BASE_X2     (1ull << 10)
#define APIC_BASE_ENABLE (1ull << 11)

enum apic_mode { /* delivery mode */
		 APIC_FIXED,
		 APIC_LOWEST,
		 APIC_SMI,
		 APIC_REMOTE_READ,
		 APIC_NMI,
		 APIC_INIT,
		 APIC_SIPI,
		 APIC_EXTINT,
};

enum apic_shorthand { APIC_DEST, APIC_SELF, APIC_ALL, APIC_OTHERS };

/* An interrupt on its way to local APICs. */
struct apic_message {
	uint32_t dest;
	bool logical;
	bool level; /* trigger mode */
	uint8_t vector;
	uint8_t mode;      /* enum apic_mode */
	uint8_t shorthand; /* enum apic_shorthand */
};

struct soft_lapic {
	_Atomic uint32_t
		reg[X86_LAPIC_BYTES / 16]; /* written by the vCPU; IRR and TMR by anybody */
	_Atomic uint64_t base;             /* IA32_APIC_BASE */
	uint32_t id;                       /* [const] */
	_Atomic uint32_t errors;           /* what the next write of ESR shows */

	/* The timer. [vCPU's thread] Deadlines are of the guest's counter, the other modes count machine time. */
	uint64_t deadline; /* 0: not armed */
	uint64_t due_ns;   /* 0: not armed */
	uint64_t period_ns;
	_Atomic uint64_t
		wake_ns; /* when the timer thread is to post REQ_INTERRUPT, or TIME_NEVER */

	/* Rest. */
	atomic_bool resting; /* sleeps on cpu->request */
	uint64_t spin_ns;    /* [vCPU's thread] how long to look before sleeping */
	bool thread_ready;   /* [vCPU's thread] */
	bool exclusive;      /* [vCPU's thread] between soft_exclusive_begin() and _end() */

	uint64_t tsc_adjust;
	uint64_t clock_msr; /* the paravirtual clock's page and enable bit */
	uint64_t wall_msr;
	uint32_t clock_version;
	uint64_t frozen_tsc; /* while the machine is stopped */
};

/* --- the machine --- */

struct soft_route { /* an eventfd that sends an MSI */
	uint64_t addr;
	uint32_t data;
	int fd; /* -1: free */
};

struct pit_channel {
	struct x86_pit_channel s; /* age_ns is not used here */
	uint64_t load_ns;         /* machine time when the count was loaded */
	uint64_t held_ns;         /* a count that its gate holds: how long it had run */
};

struct soft_pit {
	struct pit_channel channel[3];
	uint64_t next_ns; /* the next interrupt of channel 0, or TIME_NEVER */
	bool disabled;
	bool speaker_on;
};

struct soft_irq {
	struct soft *soft;

	/* Stopping the others: request.c. */
	pthread_mutex_t exclusive_lock;
	_Atomic uint32_t exclusive; /* [atomic] somebody wants to be, or is, alone */
	_Atomic uint32_t sync_seq; /* [atomic] changes when a vCPU leaves or has served a request */
	_Atomic uint32_t sync_waiters;

	pthread_mutex_t lock;
	struct x86_pic pic[2];        /* [lock] */
	atomic_bool pic_intr;         /* [atomic] the first 8259A asks for the processor */
	struct x86_ioapic ioapic;     /* [lock] */
	struct soft_pit pit;          /* [lock] */
	struct soft_route *routes;    /* [lock] */
	unsigned n_routes;            /* [lock] */
	_Atomic uint32_t last_lowest; /* where the last lowest-priority interrupt went */

	/* The timer and eventfd thread: events.c. */
	pthread_t thread;
	bool thread_started;
	int epoll, timerfd, quitfd;
	pthread_mutex_t timer_lock;
	_Atomic uint64_t armed_ns; /* [timer_lock] machine time of the timerfd */

	/* Doorbells, sorted: io.c. */
	pthread_mutex_t bell_lock;
	struct accel_doorbell *bells; /* [bell_lock] */
	unsigned n_bells, bell_room;  /* [bell_lock] */
	atomic_uint n_pio_bells, n_mmio_bells;

	/* Time: clock.c. [const while vCPUs run; changed under `lock`] */
	uint32_t clock_mul;
	int8_t clock_shift;
	bool frozen;
	uint64_t base_tsc,
		base_ns; /* machine time was base_ns when the host's counter was base_tsc */
	uint64_t frozen_ns;
	uint64_t calibrate_tsc,
		calibrate_ns; /* the first reading, where the rate must be measured */
};

/* --- futexes --- */

static inline void futex_wake(_Atomic uint32_t *word, int n)
{
	syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, n, NULL, NULL, 0);
}

/* Until it is woken, the word is not `value`, or CLOCK_MONOTONIC reaches deadline (NULL: never). */
static inline void futex_wait_until(_Atomic uint32_t *word, uint32_t value,
				    const struct timespec *deadline)
{
	syscall(SYS_futex, word, FUTEX_WAIT_BITSET_PRIVATE, value, deadline, NULL,
		FUTEX_BITSET_MATCH_ANY);
}

static inline void spin_pause(void)
{
	__builtin_ia32_pause();
}

/* --- request.c --- */
/* Between these two the vCPU may touch guest memory and executes guest code. Entering waits while somebody is alone, and drops the
 * TLB where that was asked for. */
void soft_enter(struct soft_cpu *cpu);
void soft_leave(struct soft_cpu *cpu);

/* --- run.c --- */
enum accel_exit soft_vcpu_run(struct accel_vcpu *vcpu);
void soft_vcpu_kick(struct accel_vcpu *vcpu);
int soft_vcpu_settle(struct accel_vcpu *vcpu);
int soft_vcpu_nmi(struct accel_vcpu *vcpu);
void soft_post_nmi(struct soft_cpu *cpu);

/* --- boot.c --- */
int soft_vcpu_set_boot(struct accel_vcpu *vcpu, const struct x86_boot_regs *regs,
		       struct error *err);
/* As firmware leaves a processor: what the machine starts and is reset with. */
void soft_power_on(struct soft_cpu *cpu);

/* --- lapic.c --- */
static inline uint32_t lapic_get(const struct soft_lapic *l, uint32_t offset)
{
	return atomic_load_explicit(&l->reg[offset >> 4], memory_order_relaxed);
}
static inline void lapic_set(struct soft_lapic *l, uint32_t offset, uint32_t value)
{
	atomic_store_explicit(&l->reg[offset >> 4], value, memory_order_relaxed);
}
static inline bool lapic_on(const struct soft_lapic *l)
{
	return atomic_load_explicit(&l->base, memory_order_relaxed) & APIC_BASE_ENABLE;
}
static inline bool lapic_x2(const struct soft_lapic *l)
{
	return atomic_load_explicit(&l->base, memory_order_relaxed) & APIC_BASE_X2;
}
/* Power-on, or INIT, which keeps the identity and whether it is on. */
void lapic_reset(struct soft_cpu *cpu, bool power_on);
void lapic_read(struct soft_cpu *cpu, uint32_t offset, void *data, unsigned size);
void lapic_write(struct soft_cpu *cpu, uint32_t offset, const void *data, unsigned size);
bool lapic_rdmsr(struct soft_cpu *cpu, uint32_t index, uint64_t *ret);
bool lapic_wrmsr(struct soft_cpu *cpu, uint32_t index, uint64_t value);
bool lapic_set_base(struct soft_cpu *cpu, uint64_t value);

/* --- lapic_irq.c --- */
/* An interrupt is there that the processor takes when RFLAGS.IF lets it. */
bool lapic_pending(struct soft_cpu *cpu);
/* Takes it: its vector, or -1 when there is none after all. */
int lapic_take(struct soft_cpu *cpu);
void lapic_eoi(struct soft_cpu *cpu);
void lapic_update_ppr(struct soft_cpu *cpu);
/* Puts a vector into the request register; any thread. */
void lapic_post(struct soft_cpu *cpu, uint8_t vector, bool level);
/* Raises a local interrupt by its entry of the local vector table; false when that is masked. */
bool lapic_local(struct soft_cpu *cpu, uint32_t lvt);
void lapic_error(struct soft_cpu *cpu, uint32_t bits);
/* To every APIC that it names; any thread. sender: for shorthands, else NULL. Returns whether anybody took it. */
bool apic_send(struct soft *soft, struct soft_cpu *sender, const struct apic_message *message);
void lapic_command(struct soft_cpu *cpu, uint32_t command, uint32_t dest);
/* Does this vCPU take the 8259As' interrupts? Any thread. */
bool lapic_takes_pic(const struct soft_lapic *l);

/* --- lapic_timer.c; vCPU's thread --- */
/* Fires what is due, and tells the timer thread when to come again. */
void lapic_timer_poll(struct soft_cpu *cpu);
/* Machine time of the next expiry, or TIME_NEVER. */
uint64_t lapic_timer_next(const struct soft_cpu *cpu);
uint32_t lapic_timer_count(const struct soft_cpu *cpu);
/* After TMICT, TDCR, or the timer's LVT were written. */
void lapic_timer_start(struct soft_cpu *cpu, uint32_t count);
void lapic_timer_divide(struct soft_cpu *cpu, uint32_t value);
void lapic_timer_mode(struct soft_cpu *cpu, uint32_t lvt);
void lapic_timer_deadline(struct soft_cpu *cpu, uint64_t value);
uint64_t lapic_timer_get_deadline(const struct soft_cpu *cpu);
void lapic_timer_stop(struct soft_cpu *cpu);
/* Goes on with what is left of a saved count. */
void lapic_timer_resume(struct soft_cpu *cpu, uint32_t left);

/* --- irq.c: lines and messages --- */
int soft_irq_open(struct soft *soft, struct error *err);
void soft_irq_close(struct soft *soft);
void soft_irq_reset(struct soft *soft); /* the controllers as at power-on */
int soft_irq_line(struct accel *accel, unsigned gsi, bool level);
void irq_line_locked(struct soft_irq *irq, unsigned gsi, bool level);
int soft_msi(struct accel *accel, uint64_t addr, uint32_t data);

/* --- ioapic.c; lock held --- */
#define IOAPIC_BASE  0xFEC00000u
#define IOAPIC_BYTES 0x100u
void ioapic_reset(struct soft_irq *irq);
void ioapic_line(struct soft_irq *irq, unsigned pin, bool level);
void ioapic_eoi(struct soft_irq *irq, uint8_t vector);
uint32_t ioapic_read(struct soft_irq *irq, uint32_t offset);
void ioapic_write(struct soft_irq *irq, uint32_t offset, uint32_t value);

/* --- pic.c; lock held --- */
void pic_reset(struct soft_irq *irq);
void pic_line(struct soft_irq *irq, unsigned input, bool level);
uint8_t pic_take(struct soft_irq *irq);
/* Recomputes the output, and tells the vCPUs that take it. */
void pic_update(struct soft_irq *irq);
bool pic_claims(uint16_t port);
uint8_t pic_read(struct soft_irq *irq, uint16_t port);
void pic_write(struct soft_irq *irq, uint16_t port, uint8_t value);

/* --- pit.c; lock held --- */
void pit_reset(struct soft_irq *irq);
bool pit_claims(uint16_t port);
uint8_t pit_read(struct soft_irq *irq, uint16_t port);
void pit_write(struct soft_irq *irq, uint16_t port, uint8_t value);
/* Raises the interrupt when it is due; when to come again, or TIME_NEVER. */
uint64_t pit_poll(struct soft_irq *irq, uint64_t now_ns);
void pit_get_state(struct soft_irq *irq, struct x86_machine_state *ret);
void pit_set_state(struct soft_irq *irq, const struct x86_machine_state *state);

/* --- events.c: the thread --- */
int events_start(struct soft_irq *irq, struct error *err);
void events_stop(struct soft_irq *irq);
/* Somebody waits for this moment of machine time; any thread. */
void events_arm(struct soft_irq *irq, uint64_t ns);
/* Time has jumped, or goes on: look at every timer again. */
void events_rearm(struct soft_irq *irq);
int soft_irqfd_attach(struct accel *accel, int fd, uint64_t addr, uint32_t data);
int soft_irqfd_update(struct accel *accel, int route, uint64_t addr, uint32_t data);
int soft_irqfd_detach(struct accel *accel, int route);

/* --- io.c --- */
int soft_doorbell_add(struct accel *accel, const struct accel_doorbell *bell);
int soft_doorbell_del(struct accel *accel, const struct accel_doorbell *bell);

/* --- clock.c --- */
/* The first reading for the rate, where the processor does not tell it; clock_finish() waits for the second. */
void clock_begin(struct soft *soft);
void clock_finish(struct soft *soft);
/* What a restored guest has been told; machine time counts by it. While frozen. */
void clock_set_rate(struct soft *soft, uint64_t khz);
uint64_t clock_now(const struct soft_irq *irq); /* machine time; vCPU threads, or lock held */
uint64_t clock_of_tsc(const struct soft_irq *irq, uint64_t host_tsc);
uint64_t host_tsc(void);
int soft_paused(struct accel *accel);
int soft_resume(struct accel *accel);
void clock_freeze(struct soft *soft);
/* The guest's counter, also while it stands still. */
uint64_t clock_guest_tsc(const struct soft_cpu *cpu);

/* --- pvclock.c --- */
bool pvclock_rdmsr(struct soft_cpu *cpu, uint32_t index, uint64_t *ret);
bool pvclock_wrmsr(struct soft_cpu *cpu, uint32_t index, uint64_t value);
/* Writes the vCPU's clock into guest memory. stopped: the guest's watchdog is to forgive a gap. */
void pvclock_update(struct soft_cpu *cpu, bool stopped);

/* --- dirty.c --- */
int soft_map(struct accel *accel, const struct gmem_region *region, struct error *err);
int soft_unmap(struct accel *accel, const struct gmem_region *region);
int soft_dirty_start(struct accel *accel);
int soft_dirty_stop(struct accel *accel);
int soft_dirty_fetch(struct accel *accel, const struct gmem_region *region, uint64_t *bitmap);
void soft_mem_free(struct soft *soft);
/* Writes guest memory as a device would, but knows of code and of tracking. Nothing happens where there is no RAM. */
void soft_write_phys(struct soft_cpu *cpu, gpa_t gpa, const void *buf, size_t len);
void soft_written(struct accel *accel, gpa_t gpa, uint64_t len);

/* --- state.c, state_regs.c --- */
int soft_vcpu_get_state(struct accel_vcpu *vcpu, struct x86_vcpu_state *ret, struct error *err);
int soft_vcpu_set_state(struct accel_vcpu *vcpu, const struct x86_vcpu_state *state,
			struct error *err);
int soft_machine_get_state(struct accel *accel, struct x86_machine_state *ret, struct error *err);
int soft_machine_set_state(struct accel *accel, const struct x86_machine_state *state,
			   struct error *err);
int soft_reset(struct accel *accel, struct error *err);
void soft_regs_get(struct soft_cpu *cpu, struct x86_vcpu_state *ret);
int soft_regs_set(struct soft_cpu *cpu, const struct x86_vcpu_state *state, struct error *err);

/* --- machine.c --- */
static inline struct soft *soft_of(struct accel *accel)
{
	return (struct soft *)accel;
}
